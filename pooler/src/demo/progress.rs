//! What the demo says while it prepares: one line for each finished step, and one that moves in between.
//!
//! On a terminal the moving line is rewritten in place; elsewhere (a log, CI) it becomes a line a second.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Start of line, erase the line: only sent to terminals.
const REWRITE: &str = "\r\x1b[K";

#[derive(Debug)]
pub struct Progress {
    started: Instant,
    terminal: bool,
    last_update: Mutex<Instant>,
}

impl Progress {
    pub fn start() -> Self {
        let now = Instant::now();
        Self { started: now, terminal: stderr().is_terminal(), last_update: Mutex::new(now) }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// A step is done, or something has to be known: this line stays.
    pub fn note(&self, text: &str) {
        self.write(&format!("{}{text}\n", self.prefix()));
    }

    /// How far the current step is: this line is replaced by the next.
    pub fn update(&self, text: &str) {
        if self.terminal {
            self.write(&format!("{}{text}", self.prefix()));
        } else if self.a_second_has_passed() {
            self.note(text);
        }
    }

    /// The line that moves while the demo runs: without a time, and not every second in a log.
    pub fn status(&self, text: &str) {
        if self.terminal {
            self.write(&format!("{REWRITE}{text}"));
        } else {
            self.write(&format!("{text}\n"));
        }
    }

    /// How often [`Self::status`] should be called.
    pub fn status_interval(&self) -> Duration {
        Duration::from_secs(if self.terminal { 2 } else { 30 })
    }

    /// Removes a moving line that was left standing.
    pub fn clear(&self) {
        if self.terminal {
            self.write(REWRITE);
        }
    }

    fn prefix(&self) -> String {
        let rewrite = if self.terminal { REWRITE } else { "" };
        format!("{rewrite}{:6.1} s  ", self.started.elapsed().as_secs_f64())
    }

    fn a_second_has_passed(&self) -> bool {
        let mut last = self.last_update.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let passed = last.elapsed() >= Duration::from_secs(1);
        if passed {
            *last = Instant::now();
        }
        passed
    }

    fn write(&self, text: &str) {
        // Nobody reads: no reason to stop the demo.
        let mut out = stderr().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// `200000` as `200,000`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_grouped() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (200_000, "200,000"), (1_234_567, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }
}
