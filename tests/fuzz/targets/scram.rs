//! Password messages of a client that has not logged in: whatever they hold, they must not get it in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_wire::auth::{AuthMethod, AuthStep, ClientAuth, Entropy, LoginContext, Secret, parse_client_first};

/// Fixed, so that a crash can be repeated.
const ENTROPY: Entropy = Entropy { md5_salt: [1; 4], scram_salt: [2; 16], nonce: [3; 18] };

fuzz_target!(|messages: Vec<Vec<u8>>| {
    let secret = Secret::Plain("no input of a fuzzer is likely to hold this".to_owned());
    let end_point = Some(&[5; 32][..]);
    let methods = [AuthMethod::Plain, AuthMethod::Md5, AuthMethod::ScramSha256].map(|method| (method, None));
    for (method, end_point) in methods.into_iter().chain([(AuthMethod::ScramSha256, end_point)]) {
        let context = LoginContext { mock_key: &[4; 32], entropy: &ENTROPY, iterations: 1, end_point };
        let mut step = ClientAuth::start(method, "ann", Some(&secret), context);
        for message in &messages {
            let _ = parse_client_first(message);
            step = match step {
                Ok(AuthStep::Continue(_, state)) => state.on_message(message),
                over => over,
            };
            assert!(!matches!(step, Ok(AuthStep::Done { .. })));
        }
    }
});
