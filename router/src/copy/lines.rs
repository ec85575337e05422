//! Where a row of COPY data ends, and where the data ends: PostgreSQL's rules (`CopyReadLineText` of version 15).
//!
//! - The first line's end (newline, carriage return, or both) sets the style of all others.
//! - Text: a backslash takes the next byte with it, whatever it is; `\.` ends the data, wherever it stands.
//! - CSV: line ends inside quotes are data; `\.` ends the data if it is a line of its own.
//!
//! The bytes may come in pieces: a byte that means something else with what follows is looked at again when that is there.

use memchr::memchr3;

use super::error::CopyFault;
use super::options::Layout;

/// Finds the ends of rows, one after the other.
#[derive(Debug)]
pub(super) struct Lines {
    layout: Layout,
    /// None until the first line has ended.
    style: Option<LineEnd>,
    /// How far the current line is scanned.
    position: usize,
    quotes: Quotes,
    /// The number of the current line, from 1.
    number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    Newline,
    CarriageReturn,
    Both,
}

/// The state of quoting in a CSV line.
#[derive(Debug, Default)]
struct Quotes {
    inside: bool,
    /// Right after an escape byte (one that isn't the quote itself).
    escaped: bool,
}

/// What a look at the data found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The line's end is not there yet.
    More,
    /// `content` bytes of a line, then its end; `length` bytes together.
    Line { content: usize, length: usize },
    /// The data ends after `content` bytes; they are a line without an end, unless there are none.
    End { content: usize },
}

enum Marker {
    More,
    /// The backslash begins something else.
    No,
    Yes,
}

impl Lines {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, style: None, position: 0, quotes: Quotes::default(), number: 1 }
    }

    /// The number of the line that [`Self::cut`] works on.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The next call of [`Self::cut`] begins a new line.
    pub(super) fn advance(&mut self) {
        self.position = 0;
        self.quotes = Quotes::default();
        self.number += 1;
    }

    /// Looks for the end of the line that `data` begins with. `data` begins at the same place, and only grows, until
    /// [`Self::advance`]; `last`: it doesn't grow any more.
    pub(super) fn cut(&mut self, data: &[u8], last: bool) -> Result<Cut, CopyFault> {
        match self.layout {
            Layout::Text { .. } => self.text(data, last),
            Layout::Csv { quote, escape, .. } => self.csv(data, last, quote, escape),
        }
    }

    fn text(&mut self, data: &[u8], last: bool) -> Result<Cut, CopyFault> {
        while let Some(offset) = memchr3(b'\n', b'\r', b'\\', &data[self.position..]) {
            self.position += offset;
            let at = self.position;
            match data[at] {
                b'\n' => return self.newline(at),
                b'\r' => return self.carriage_return(data, at, last),
                _ => match self.marker(&data[at + 1..], last)? {
                    Marker::More => return Ok(Cut::More),
                    Marker::Yes => return Ok(Cut::End { content: at }),
                    Marker::No => self.position = data.len().min(at + 2),
                },
            }
        }
        Ok(self.exhausted(data, last))
    }

    fn csv(&mut self, data: &[u8], last: bool, quote: u8, escape: u8) -> Result<Cut, CopyFault> {
        while let Some(at) = self.next_in_csv(data, quote, escape) {
            self.position = at;
            let byte = data[at];
            // Before the state changes: this byte is looked at again if more is needed to understand it.
            if byte == b'\r' && at + 1 == data.len() && !last {
                return Ok(Cut::More);
            }
            if byte == b'\\' && at == 0 {
                match self.marker(&data[1..], last)? {
                    Marker::More => return Ok(Cut::More),
                    Marker::Yes => return Ok(Cut::End { content: 0 }),
                    Marker::No => {}
                }
            }
            self.quotes.follow(byte, quote, escape);
            match byte {
                _ if self.quotes.inside => self.number += u64::from(byte == self.counted()),
                b'\n' => return self.newline(at),
                b'\r' => return self.carriage_return(data, at, last),
                _ => {}
            }
            self.position = at + 1;
        }
        Ok(self.exhausted(data, last))
    }

    /// The next byte that may mean something.
    fn next_in_csv(&mut self, data: &[u8], quote: u8, escape: u8) -> Option<usize> {
        if self.position == 0 && data.first() == Some(&b'\\') {
            return Some(0);
        }
        let rest = &data[self.position..];
        let offset = if self.quotes.inside {
            memchr3(quote, escape, self.counted(), rest)
        } else {
            memchr3(quote, b'\n', b'\r', rest)
        };
        // An escape byte holds for the very next byte only.
        self.quotes.escaped &= offset.unwrap_or(rest.len()) == 0;
        Some(self.position + offset?)
    }

    /// Of line ends inside quotes, this byte is counted.
    fn counted(&self) -> u8 {
        if self.style == Some(LineEnd::Newline) { b'\n' } else { b'\r' }
    }

    /// No line end in all of `data`.
    fn exhausted(&mut self, data: &[u8], last: bool) -> Cut {
        self.position = data.len();
        if last { Cut::End { content: data.len() } } else { Cut::More }
    }

    fn newline(&mut self, at: usize) -> Result<Cut, CopyFault> {
        match self.style {
            None | Some(LineEnd::Newline) => self.style = Some(LineEnd::Newline),
            Some(_) => return Err(self.fault(CopyFault::LiteralNewline, CopyFault::UnquotedNewline)),
        }
        Ok(Cut::Line { content: at, length: at + 1 })
    }

    fn carriage_return(&mut self, data: &[u8], at: usize, last: bool) -> Result<Cut, CopyFault> {
        let style = match (self.style, data.get(at + 1)) {
            (Some(LineEnd::CarriageReturn), _) => LineEnd::CarriageReturn,
            (None | Some(LineEnd::Both), None) if !last => return Ok(Cut::More),
            (None | Some(LineEnd::Both), Some(b'\n')) => LineEnd::Both,
            (None, _) => LineEnd::CarriageReturn,
            (Some(_), _) => return Err(self.fault(CopyFault::LiteralCarriageReturn, CopyFault::UnquotedCarriageReturn)),
        };
        self.style = Some(style);
        Ok(Cut::Line { content: at, length: at + if style == LineEnd::Both { 2 } else { 1 } })
    }

    /// Whether a backslash, which `after` follows, begins the end-of-data marker.
    fn marker(&self, after: &[u8], last: bool) -> Result<Marker, CopyFault> {
        let tail = match after {
            [b'.', tail @ ..] => tail,
            [] if !last => return Ok(Marker::More),
            _ => return Ok(Marker::No),
        };
        let tail = match (self.style, tail) {
            (Some(LineEnd::Both), [b'\r', tail @ ..]) => tail,
            (Some(LineEnd::Both), [b'\n', ..]) if !self.is_csv() => return Err(CopyFault::MarkerNewline),
            (Some(LineEnd::Both), [_, ..]) => return self.no_marker(),
            _ => tail,
        };
        match (tail, self.style) {
            ([], _) if !last => Ok(Marker::More),
            ([b'\r', ..], None | Some(LineEnd::CarriageReturn)) => Ok(Marker::Yes),
            ([b'\n', ..], None | Some(LineEnd::Newline | LineEnd::Both)) => Ok(Marker::Yes),
            ([b'\r' | b'\n', ..], _) => Err(CopyFault::MarkerNewline),
            _ => self.no_marker(),
        }
    }

    /// `\.` with something else after it: data to CSV only.
    fn no_marker(&self) -> Result<Marker, CopyFault> {
        if self.is_csv() { Ok(Marker::No) } else { Err(CopyFault::MarkerCorrupt) }
    }

    fn is_csv(&self) -> bool {
        matches!(self.layout, Layout::Csv { .. })
    }

    fn fault(&self, text: CopyFault, csv: CopyFault) -> CopyFault {
        if self.is_csv() { csv } else { text }
    }
}

impl Quotes {
    /// A quote toggles, unless the byte before it escapes it. If quote and escape are the same byte, a doubled one toggles
    /// twice, which comes to the same.
    fn follow(&mut self, byte: u8, quote: u8, escape: u8) {
        let is_escape = byte == escape && quote != escape;
        if self.inside && is_escape {
            self.escaped = !self.escaped;
        }
        if byte == quote && !self.escaped {
            self.inside = !self.inside;
        }
        self.escaped &= is_escape;
    }
}
