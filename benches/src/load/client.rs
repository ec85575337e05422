//! One client of the load.

use std::io;
use std::time::Instant;

use super::stream::Stream;
use sluice_wire::message::READY_IDLE;

#[derive(Debug)]
pub struct Client {
    pub stream: Stream,
    /// When the request under way was sent.
    pub sent: Instant,
    /// Number of the next request.
    pub next: usize,
    /// The start of an answer that is not complete; empty for an idle client.
    answer: Vec<u8>,
}

impl Client {
    /// `number` spreads clients over the requests, so that they don't all ask for the same key at once.
    pub fn new(stream: Stream, number: usize) -> Self {
        Self { stream, sent: Instant::now(), next: number.wrapping_mul(61), answer: Vec::new() }
    }

    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.sent = Instant::now();
        self.stream.write(message)
    }

    /// Reads what has arrived. True once the answer is complete.
    pub fn receive(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        while let Some(count) = self.stream.read(scratch)? {
            let chunk = &scratch[..count];
            if self.answer.is_empty() && is_complete(chunk) {
                return checked(chunk).map(|()| true);
            }
            self.answer.extend_from_slice(chunk);
            if is_complete(&self.answer) {
                let answer = std::mem::take(&mut self.answer);
                return checked(&answer).map(|()| true);
            }
            if count < scratch.len() {
                break;
            }
        }
        Ok(false)
    }
}

/// No other message of the canned backend ends like ReadyForQuery.
fn is_complete(answer: &[u8]) -> bool {
    answer.ends_with(&READY_IDLE)
}

/// An error at the start of an answer stops the benchmark.
fn checked(answer: &[u8]) -> io::Result<()> {
    if answer.first() == Some(&b'E') {
        return Err(io::Error::other(format!("the pooler says {:?}", String::from_utf8_lossy(answer))));
    }
    Ok(())
}
