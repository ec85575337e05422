//! The start-up packet and its `options`: the first bytes of anybody who can reach the port.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_wire::startup::{Startup, negotiate_protocol, parse, parse_options};

fuzz_target!(|packet: &[u8]| {
    if let Ok(Startup::Start(message)) = parse(packet) {
        assert!(!message.user.is_empty() && !message.database.is_empty());
        let _ = negotiate_protocol(message.minor, &message.pq_options);
        let _ = message.param("options").map(parse_options);
    }
});
