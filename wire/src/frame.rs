//! Message headers, and the cut of a byte stream into messages.
//!
//! Hot path: runs for every message in both directions. Views only: nothing here copies or allocates.
//!
//! A message is one tag byte, a big-endian 32-bit length that counts itself but not the tag, and the body
//! (PostgreSQL documentation, "Message Formats").

/// Tag and length word.
pub const HEADER: usize = 5;

/// A message of a known tag whose length can't be right, or a tag that the protocol doesn't have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("unknown message type {tag:#04x}")]
    UnknownTag { tag: u8 },
    #[error("invalid length {len} of a message of type {}", char::from(*tag).escape_default())]
    Length { tag: u8, len: u32 },
}

/// A message's header. `total` counts tag, length word and body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    pub total: u64,
}

impl Header {
    /// Reads a header without judging it; `None` when fewer than [`HEADER`] bytes are there.
    /// A length below 4 is reported as `Err`.
    #[inline]
    pub fn read(bytes: &[u8]) -> Option<Result<Self, FrameError>> {
        let header = bytes.first_chunk::<HEADER>()?;
        let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        if len < 4 || len > i32::MAX as u32 {
            return Some(Err(FrameError::Length { tag: header[0], len }));
        }
        Some(Ok(Self { tag: header[0], total: u64::from(len) + 1 }))
    }
}

/// One complete message, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub tag: u8,
    pub body: &'a [u8],
    /// Header and body.
    pub raw: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first message of `bytes` if it is complete.
    #[inline]
    pub fn first(bytes: &'a [u8]) -> Result<Option<Self>, FrameError> {
        let Some(header) = Header::read(bytes) else { return Ok(None) };
        let header = header?;
        if (bytes.len() as u64) < header.total {
            return Ok(None);
        }
        let raw = &bytes[..header.total as usize];
        Ok(Some(Self { tag: header.tag, body: &raw[HEADER..], raw }))
    }
}

/// The complete messages at the head of a buffer.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What is not yet handed out, an incomplete message included.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match Frame::first(self.rest) {
            Ok(Some(frame)) => {
                self.rest = &self.rest[frame.raw.len()..];
                Some(Ok(frame))
            }
            Ok(None) => None,
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

/// Longest body of a message that only ever holds a name or nothing.
const SMALL: u64 = 30_000;

/// Judges a header that came from a client, after login: tag known, length possible for it and at most `max_packet`.
#[inline]
pub fn check_client_header(header: Header, max_packet: u32) -> Result<(), FrameError> {
    let limit = match header.tag {
        b'Q' | b'P' | b'B' | b'F' | b'd' => u64::from(max_packet) + 1,
        b'D' | b'E' | b'C' | b'f' | b'p' => SMALL,
        b'S' | b'H' | b'X' | b'c' => HEADER as u64,
        tag => return Err(FrameError::UnknownTag { tag }),
    };
    if header.total > limit {
        return Err(FrameError::Length { tag: header.tag, len: (header.total - 1) as u32 });
    }
    Ok(())
}

/// A zero-terminated string at the head of `bytes`, and what follows it.
#[inline]
pub fn cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[inline]
fn u16_at(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*head), rest))
}

/// Body of Query: the text without its terminator.
pub fn query_text(body: &[u8]) -> Option<&[u8]> {
    match cstr(body) {
        Some((text, [])) => Some(text),
        _ => None,
    }
}

/// Body of Parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    pub name: &'a [u8],
    pub sql: &'a [u8],
    /// Big-endian OIDs, four bytes each.
    pub types: &'a [u8],
    /// From the text on, types included: what identifies a statement whatever its name.
    pub tail: &'a [u8],
}

impl<'a> Parse<'a> {
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (name, tail) = cstr(body)?;
        let (sql, rest) = cstr(tail)?;
        let (count, types) = u16_at(rest)?;
        (types.len() == usize::from(count) * 4).then_some(Self { name, sql, types, tail })
    }

    /// The declared type of `$number` (from 1); 0 = undeclared.
    pub fn declared_type(types: &[u8], number: u16) -> u32 {
        let start = (usize::from(number).wrapping_sub(1)).saturating_mul(4);
        types.get(start..).and_then(|rest| rest.first_chunk::<4>()).map_or(0, |oid| u32::from_be_bytes(*oid))
    }
}

/// Body of Bind, read only as far as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    /// Format codes, two bytes each; none = all text, one = for all.
    formats: &'a [u8],
    count: u16,
    values: &'a [u8],
    /// From the parameter formats on: what follows the two names.
    pub tail: &'a [u8],
}

impl<'a> Bind<'a> {
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (portal, rest) = cstr(body)?;
        let (statement, tail) = cstr(rest)?;
        let (format_count, rest) = u16_at(tail)?;
        let formats = rest.get(..usize::from(format_count) * 2)?;
        let (count, values) = u16_at(&rest[formats.len()..])?;
        Some(Self { portal, statement, formats, count, values, tail })
    }

    /// Value and binary-ness of `$number` (from 1): outer `None` = no such parameter or a broken message, inner = NULL.
    pub fn value(&self, number: u16) -> Option<(bool, Option<&'a [u8]>)> {
        if number == 0 || number > self.count {
            return None;
        }
        let mut rest = self.values;
        for _ in 1..number {
            rest = Self::split_value(rest)?.1;
        }
        let (value, _) = Self::split_value(rest)?;
        Some((self.is_binary(number)?, value))
    }

    fn is_binary(&self, number: u16) -> Option<bool> {
        let code = match self.formats.len() {
            0 => return Some(false),
            2 => self.formats,
            _ => self.formats.get((usize::from(number) - 1) * 2..)?,
        };
        match code.first_chunk::<2>()? {
            [0, 0] => Some(false),
            [0, 1] => Some(true),
            _ => None,
        }
    }

    fn split_value(bytes: &'a [u8]) -> Option<(Option<&'a [u8]>, &'a [u8])> {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        match i32::from_be_bytes(*len) {
            -1 => Some((None, rest)),
            len => {
                let len = usize::try_from(len).ok()?;
                Some((Some(rest.get(..len)?), &rest[len..]))
            }
        }
    }
}

/// Body of Describe or Close: what it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    Statement(&'a [u8]),
    Portal(&'a [u8]),
}

impl<'a> Named<'a> {
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (&kind, rest) = body.split_first()?;
        let (name, after) = cstr(rest)?;
        match (kind, after) {
            (b'S', []) => Some(Self::Statement(name)),
            (b'P', []) => Some(Self::Portal(name)),
            _ => None,
        }
    }
}

/// Body of Execute: the portal and its row limit (0 = none).
pub fn execute(body: &[u8]) -> Option<(&[u8], u32)> {
    let (portal, rest) = cstr(body)?;
    let limit = rest.first_chunk::<4>()?;
    (rest.len() == 4).then_some((portal, u32::from_be_bytes(*limit)))
}

/// A field of an ErrorResponse or NoticeResponse body: `C` the SQLSTATE, `M` the message, `S` the severity.
pub fn error_field(body: &[u8], code: u8) -> Option<&[u8]> {
    let mut rest = body;
    while let Some((&kind, tail)) = rest.split_first() {
        if kind == 0 {
            return None;
        }
        let (value, after) = cstr(tail)?;
        if kind == code {
            return Some(value);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_cut_out_when_complete() {
        let bytes = b"Q\0\0\0\x0dselect 1\0S\0\0\0";
        let mut frames = Frames::new(bytes);
        let query = frames.next().expect("complete").expect("valid");
        assert_eq!((query.tag, query_text(query.body)), (b'Q', Some(&b"select 1"[..])));
        assert_eq!(frames.next(), None);
        assert_eq!(frames.rest(), b"S\0\0\0");
    }

    #[test]
    fn lengths_below_four_and_above_31_bits_are_refused() {
        for len in [0_u32, 3, 0x8000_0000, u32::MAX] {
            let mut bytes = vec![b'Q'];
            bytes.extend(len.to_be_bytes());
            assert_eq!(Frame::first(&bytes), Err(FrameError::Length { tag: b'Q', len }));
        }
    }

    #[test]
    fn client_headers_have_limits_by_type() {
        let max = 1 << 20;
        let check = |tag, total| check_client_header(Header { tag, total }, max);
        assert!(check(b'Q', 1 << 20).is_ok());
        assert!(check(b'Q', (1 << 20) + 2).is_err());
        assert!(check(b'S', 5).is_ok());
        assert!(check(b'S', 6).is_err());
        assert!(check(b'D', 40_000).is_err());
        assert_eq!(check(b'!', 5), Err(FrameError::UnknownTag { tag: b'!' }));
    }

    #[test]
    fn bind_values_are_found_by_number() {
        let mut body = b"portal\0stmt\0".to_vec();
        body.extend([0, 2, 0, 0, 0, 1]); // formats: text, binary
        body.extend([0, 2]);
        body.extend([0, 0, 0, 2, b'4', b'2']);
        body.extend([0xff, 0xff, 0xff, 0xff]);
        body.extend([0, 0]);
        let bind = Bind::read(&body).expect("valid");
        assert_eq!((bind.portal, bind.statement), (&b"portal"[..], &b"stmt"[..]));
        assert_eq!(bind.value(1), Some((false, Some(&b"42"[..]))));
        assert_eq!(bind.value(2), Some((true, None)));
        assert_eq!(bind.value(3), None);
        assert_eq!(bind.value(0), None);
    }

    #[test]
    fn parse_keeps_its_declared_types() {
        let body = b"s\0select $1\0\0\x02\0\0\0\x14\0\0\0\0";
        let parse = Parse::read(body).expect("valid");
        assert_eq!(Parse::declared_type(parse.types, 1), 20);
        assert_eq!(Parse::declared_type(parse.types, 2), 0);
        assert_eq!(Parse::declared_type(parse.types, 3), 0);
        assert_eq!(Parse::declared_type(parse.types, 0), 0);
        assert_eq!(Parse::read(b"s\0select $1\0\0\x02\0\0\0\x14"), None);
    }

    #[test]
    fn error_fields_are_found() {
        let body = b"SERROR\0C42601\0Msyntax error\0\0";
        assert_eq!(error_field(body, b'C'), Some(&b"42601"[..]));
        assert_eq!(error_field(body, b'H'), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), number in any::<u16>()) {
            for frame in Frames::new(&bytes) {
                let Ok(frame) = frame else { break };
                prop_assert!(frame.raw.len() == frame.body.len() + HEADER);
            }
            let _ = Parse::read(&bytes).map(|parse| Parse::declared_type(parse.types, number));
            let _ = Bind::read(&bytes).map(|bind| bind.value(number));
            let _ = Named::read(&bytes);
            let _ = execute(&bytes);
            let _ = error_field(&bytes, b'C');
            let _ = query_text(&bytes);
        }

        #[test]
        fn a_stream_is_cut_the_same_wherever_it_is_split(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..10),
            at in any::<proptest::sample::Index>(),
        ) {
            let mut stream = Vec::new();
            for body in &bodies {
                stream.push(b'd');
                stream.extend((body.len() as u32 + 4).to_be_bytes());
                stream.extend(body);
            }
            let cut = if stream.is_empty() { 0 } else { at.index(stream.len()) };
            let mut head = Frames::new(&stream[..cut]);
            let first = head.by_ref().count();
            let resumed = stream.len() - (stream.len() - cut) - head.rest().len();
            prop_assert_eq!(first + Frames::new(&stream[resumed..]).count(), bodies.len());
        }
    }
}
