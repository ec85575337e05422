//! The scan of a byte stream into messages as it arrives, wherever it is split.
//!
//! Hot path: every byte of a relayed result goes through here. What a [`Sink`] does not ask to see is passed on in runs as
//! long as the chunk allows, without waiting for the message to be complete and without a copy.

use crate::frame::{Frame, FrameError, HEADER, Header};

/// What to do with a message, decided from its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Passed on as it arrives.
    Pass,
    /// Thrown away as it arrives.
    Drop,
    /// Held until it is complete, then shown to [`Sink::message`].
    Hold,
}

/// What to do with a message that was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Drop,
}

/// Receives a scanned stream.
///
/// A held message that is incomplete at a chunk's end is classified again when more of it has arrived: `classify` must not
/// count such a message.
pub trait Sink {
    /// True while the sink may add messages of its own: it is then handed what precedes a message before it is asked about
    /// that message. Otherwise runs are as long as the chunk.
    fn stepwise(&self) -> bool {
        false
    }
    fn classify(&mut self, header: Header) -> Class;
    fn message(&mut self, frame: Frame<'_>) -> Verdict;
    /// Bytes of messages that are passed on, in order; runs of several messages are one call.
    fn pass(&mut self, bytes: &[u8]);
}

/// Where the scan of one stream stands between two chunks.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Bytes of the current message's body that are still to come, and whether they are thrown away.
    remaining: u64,
    dropping: bool,
    /// The head of a message that is incomplete: less than a header, or a message that is held.
    partial: Vec<u8>,
}

impl Scanner {
    /// Between two messages, nothing half-read.
    pub fn is_at_boundary(&self) -> bool {
        self.remaining == 0 && self.partial.is_empty()
    }

    /// Scans the next chunk.
    pub fn scan(&mut self, mut chunk: &[u8], sink: &mut impl Sink) -> Result<(), FrameError> {
        if !self.partial.is_empty() {
            chunk = self.complete_partial(chunk, sink)?;
        }
        // `chunk[start..at]` is to be passed on.
        let (mut start, mut at) = (0, 0);
        if self.remaining > 0 {
            at = self.remaining.min(chunk.len() as u64) as usize;
            self.remaining -= at as u64;
            if self.dropping {
                start = at;
            }
        }
        while at < chunk.len() {
            let rest = &chunk[at..];
            let Some(header) = Header::read(rest) else { break };
            let header = header?;
            let complete = header.total <= rest.len() as u64;
            let end = at + header.total.min(rest.len() as u64) as usize;
            if sink.stepwise() {
                flush(sink, &chunk[start..at]);
                start = at;
            }
            let dropped = match sink.classify(header) {
                Class::Pass => false,
                Class::Drop => true,
                Class::Hold if !complete => break,
                Class::Hold => {
                    let raw = &chunk[at..end];
                    sink.message(Frame { tag: header.tag, body: &raw[HEADER..], raw }) == Verdict::Drop
                }
            };
            if dropped {
                flush(sink, &chunk[start..at]);
                start = end;
            }
            self.remaining = header.total - (end - at) as u64;
            self.dropping = dropped;
            at = end;
        }
        flush(sink, &chunk[start..at]);
        self.partial.extend_from_slice(&chunk[at..]);
        Ok(())
    }

    /// Adds to the held head what it lacks; returns the rest of the chunk.
    fn complete_partial<'a>(&mut self, chunk: &'a [u8], sink: &mut impl Sink) -> Result<&'a [u8], FrameError> {
        let missing = HEADER.saturating_sub(self.partial.len()).min(chunk.len());
        let (head, chunk) = chunk.split_at(missing);
        self.partial.extend_from_slice(head);
        let Some(header) = Header::read(&self.partial) else { return Ok(chunk) };
        let header = header?;
        let class = sink.classify(header);
        if class == Class::Hold {
            let missing = (header.total - self.partial.len() as u64).min(chunk.len() as u64) as usize;
            let (body, chunk) = chunk.split_at(missing);
            self.partial.extend_from_slice(body);
            if self.partial.len() as u64 == header.total {
                let raw = std::mem::take(&mut self.partial);
                if sink.message(Frame { tag: header.tag, body: &raw[HEADER..], raw: &raw }) == Verdict::Pass {
                    sink.pass(&raw);
                }
            }
            return Ok(chunk);
        }
        let head = std::mem::take(&mut self.partial);
        self.remaining = header.total - head.len() as u64;
        self.dropping = class == Class::Drop;
        if !self.dropping {
            sink.pass(&head);
        }
        Ok(chunk)
    }
}

/// The transaction status that ends `chunk`, if it holds whole messages, of which the last one, and no other, is a
/// ReadyForQuery, and none that changes what the pooler knows (errors, parameters, the begin of COPY FROM STDIN).
#[inline]
pub fn plain_response(chunk: &[u8]) -> Option<u8> {
    const READY: usize = HEADER + 1;
    let (rest, ready) = chunk.split_at(chunk.len().checked_sub(READY)?);
    let &[b'Z', 0, 0, 0, 5, status] = ready else { return None };
    let mut rest = rest;
    while !rest.is_empty() {
        let header = Header::read(rest)?.ok()?;
        if matches!(header.tag, b'Z' | b'E' | b'S' | b'G' | b'W') {
            return None;
        }
        rest = rest.get(usize::try_from(header.total).ok()?..)?;
    }
    Some(status)
}

#[inline]
fn flush(sink: &mut impl Sink, bytes: &[u8]) {
    if !bytes.is_empty() {
        sink.pass(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Passes rows, drops notices, holds the rest and writes down what it saw.
    #[derive(Default)]
    struct Record {
        passed: Vec<u8>,
        held: Vec<Vec<u8>>,
    }

    impl Sink for Record {
        fn classify(&mut self, header: Header) -> Class {
            match header.tag {
                b'D' => Class::Pass,
                b'N' => Class::Drop,
                _ => Class::Hold,
            }
        }

        fn message(&mut self, frame: Frame<'_>) -> Verdict {
            self.held.push(frame.raw.to_vec());
            if frame.tag == b'1' { Verdict::Drop } else { Verdict::Pass }
        }

        fn pass(&mut self, bytes: &[u8]) {
            self.passed.extend_from_slice(bytes);
        }
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        crate::message::frame(&mut out, tag, |out| out.extend_from_slice(body));
        out
    }

    #[test]
    fn a_plain_response_ends_with_its_only_ready_for_query() {
        let plain =
            [message(b'T', b"columns"), message(b'D', b""), message(b'C', b"SELECT 1\0"), message(b'Z', b"T")].concat();
        assert_eq!(plain_response(&plain), Some(b'T'));
        assert_eq!(plain_response(&plain[1..]), None);
        assert_eq!(plain_response(&plain[..plain.len() - 1]), None);
        assert_eq!(plain_response(&[&plain[..], b"x"].concat()), None);
        assert_eq!(plain_response(&[&plain[..], &plain].concat()), None);
        assert_eq!(plain_response(&message(b'Z', b"I")), Some(b'I'));
        for tag in *b"ESGWZ" {
            assert_eq!(plain_response(&[message(tag, b"I"), plain.clone()].concat()), None);
        }
        // A row that only looks as if a ReadyForQuery ended it.
        let row = message(b'D', &message(b'Z', b"I"));
        assert_eq!(plain_response(&row), None);
        assert_eq!(plain_response(b"Z\0\0"), None);
    }

    proptest! {
        #[test]
        fn the_same_wherever_the_stream_is_split(
            messages in proptest::collection::vec(
                (prop::sample::select(b"DN1ZC".to_vec()), proptest::collection::vec(any::<u8>(), 0..30)), 0..12),
            sizes in proptest::collection::vec(1_usize..40, 1..40),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|(tag, body)| message(*tag, body)).collect();
            let expected: Vec<u8> = messages.iter().filter(|(tag, _)| !b"N1".contains(tag))
                .flat_map(|(tag, body)| message(*tag, body)).collect();
            let held = messages.iter().filter(|(tag, _)| b"1ZC".contains(tag)).count();

            let (mut scanner, mut record, mut rest) = (Scanner::default(), Record::default(), &stream[..]);
            for size in sizes.iter().cycle() {
                let (chunk, tail) = rest.split_at((*size).min(rest.len()));
                scanner.scan(chunk, &mut record).expect("valid");
                rest = tail;
                if rest.is_empty() { break }
            }
            prop_assert_eq!(record.passed, expected);
            prop_assert_eq!(record.held.len(), held);
            prop_assert!(scanner.is_at_boundary());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..300) {
            let (mut scanner, mut record) = (Scanner::default(), Record::default());
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let _ = scanner.scan(head, &mut record).and_then(|()| scanner.scan(tail, &mut record));
        }
    }
}
