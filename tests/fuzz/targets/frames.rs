//! The cut of a byte stream into messages, and the bodies that are read on the hot path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_wire::frame::{Bind, Frames, Named, Parse, execute, query_text};

fuzz_target!(|bytes: &[u8]| {
    let mut frames = Frames::new(bytes);
    let mut taken = 0;
    while let Some(Ok(frame)) = frames.next() {
        taken += frame.raw.len();
        assert_eq!(frames.rest().len(), bytes.len() - taken);
        let _ = query_text(frame.body);
        let _ = Parse::read(frame.body);
        let _ = Named::read(frame.body);
        let _ = execute(frame.body);
        if let Some(bind) = Bind::read(frame.body) {
            let _ = bind.value(0);
            let _ = bind.value(u16::MAX);
        }
    }
});
