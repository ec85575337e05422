//! What the tests are made of: a [`fleet`] of shards beside one PostgreSQL that holds all rows, a running [`sluice`], and a
//! [`client`] that sends exactly the bytes that a test is about.

pub mod client;
pub mod fleet;
pub mod sluice;

use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until `done` agrees.
///
/// # Panics
/// If it does not within half a minute.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
