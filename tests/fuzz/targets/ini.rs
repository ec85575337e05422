//! A configuration file. It is its owner's, not a stranger's; still, an error with a line number beats a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice::config::Config;

fuzz_target!(|text: &str| {
    // The fuzzer has no business reading files of this machine.
    if text.contains("%include") || text.contains("auth_file") {
        return;
    }
    if let Ok(config) = Config::parse_str(text) {
        let _ = config.show();
    }
});
