//! One pass over a statement's text, exact for PostgreSQL's lexical rules, that takes its constants out.
//! Hot path: runs once per query. No allocation once the buffers have grown.

/// A constant that was taken out, in text order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Literal {
    pub kind: LiteralKind,
    /// Byte span in the original text, quotes included.
    pub start: u32,
    pub end: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiteralKind {
    /// An integer that fits int4 (the grammar's ICONST).
    Integer,
    /// Any other number (the grammar's FCONST).
    Number,
    /// '…' without escapes to process (doubled quotes only).
    String,
    /// E'…', or '…' under standard_conforming_strings = off.
    EscapeString,
    /// U&'…'
    UnicodeString,
    /// $tag$…$tag$
    DollarString,
    /// B'…' or X'…'
    BitString,
}

/// The lexer's output; reused from statement to statement.
#[derive(Debug, Default)]
pub struct Normalized {
    /// The template's key: the text without comments, with runs of white space folded and each constant replaced by a mark
    /// of its kind.
    pub text: Vec<u8>,
    pub literals: Vec<Literal>,
    /// Byte offsets, in the original text, of the semicolons that separate statements (those outside parentheses).
    pub separators: Vec<u32>,
}
