//! What the fuzzers have found to be different, played once more: every file of `tests/fuzz/corpus`, on whatever compiler.

#[path = "../../tests/fuzz/decoders.rs"]
mod decoders;

use std::fs;
use std::path::Path;

#[test]
fn every_file_of_the_corpus_is_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    for (name, decode) in decoders::ALL {
        let files = fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("corpus of {name}: {error}"));
        let mut count = 0;
        for file in files {
            let path = file.expect("an entry").path();
            println!("{}", path.display());
            decode(&fs::read(path).expect("a file"));
            count += 1;
        }
        assert!(count > 0, "the corpus of {name} is empty");
    }
}
