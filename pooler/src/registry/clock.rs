//! What time it is, roughly and cheaply.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A coarse clock, moved on by the janitor: a time stamp costs one load. Good for timeouts, which are checked three times a
/// second, and for nothing finer.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    millis: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), millis: AtomicU64::new(1) }
    }

    /// Moves it on.
    pub fn tick(&self) {
        self.millis.store(self.start.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
    }

    #[inline]
    pub fn millis(&self) -> u64 {
        self.millis.load(Ordering::Relaxed)
    }

    /// How long ago `since` was.
    pub fn since(&self, since: u64) -> Duration {
        Duration::from_millis(self.millis().saturating_sub(since))
    }

    pub(super) fn age(&self, since: u64) -> Option<Duration> {
        (since != 0).then(|| Duration::from_millis(self.millis().saturating_sub(since)))
    }
}
