//! Texts that this thread has seen before, recognised without lexing: most clients send the same few statements again and
//! again with other constants.
//!
//! Hot path. A familiar text is kept as its pieces between the constants. A new text that has the same pieces, with a constant
//! of the same kind wherever one stood, is what the lexer would read the same way: reading goes from left to right, the lexer
//! comes to each constant by the same bytes, and where a constant ends is asked of the lexer's own functions. So the template
//! is the same one, and only the constants' places are new. (The property test below compares with the lexer.)

use std::sync::Arc;

use super::SearchPath;
use super::schemas::SchemaId;
use crate::lexer::{Literal, LiteralKind, Normalized, plain_constant};
use crate::template::Template;

/// Sets of texts that begin alike.
const SETS: usize = 128;
/// Texts in a set.
const WAYS: usize = 8;
/// So many leading bytes choose the set: short enough to end before most statements' first constant.
const HEAD: usize = 16;
/// Longer texts, or texts with more constants, are lexed each time.
const LONGEST: usize = 4 * 1024;
const MOST_CONSTANTS: usize = 256;
/// A newcomer to a full set gets in so seldom: one text out of so many that are not found.
const PATIENCE: u32 = 16;

/// What besides the text decides which template it has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) schema: SchemaId,
    pub(super) path: SearchPath,
}

/// The familiar texts of one thread; standard_conforming_strings is on for all of them.
pub(super) struct Familiar {
    sets: Box<[[Option<Box<Text>>; WAYS]]>,
    /// Newcomers that found their set full.
    refused: u32,
}

struct Text {
    scope: Scope,
    /// Everything but the constants.
    pieces: Box<[u8]>,
    cuts: Box<[Cut]>,
    separators: Box<[Separator]>,
    template: Arc<Template>,
}

/// A constant's place.
struct Cut {
    /// In `pieces`.
    at: u32,
    kind: LiteralKind,
}

/// A semicolon between statements.
struct Separator {
    /// In `pieces`.
    at: u32,
    constants_before: u32,
}

impl Default for Familiar {
    fn default() -> Self {
        Self { sets: (0..SETS).map(|_| Default::default()).collect(), refused: 0 }
    }
}

impl Familiar {
    /// The template of `sql`, if such a text was kept. Writes the constants and separators to `found`, and leaves
    /// the rest of it undefined.
    #[inline]
    pub(super) fn find(&mut self, scope: Scope, sql: &[u8], found: &mut Normalized) -> Option<&Arc<Template>> {
        let set = &mut self.sets[set_of(sql)];
        let way = set.iter().position(|text| {
            text.as_ref().is_some_and(|text| text.scope == scope && text.matches(sql, &mut found.literals))
        })?;
        // What is asked for often moves to the front.
        let way = match way.checked_sub(1) {
            Some(before) => {
                set.swap(way, before);
                before
            }
            None => way,
        };
        let text = set[way].as_ref()?;
        text.separate(found);
        Some(&text.template)
    }

    /// Keeps a text that was lexed, if it can be recognised and there is room for it.
    pub(super) fn keep(&mut self, scope: Scope, sql: &[u8], lexed: &Normalized, template: &Arc<Template>) {
        let set = &mut self.sets[set_of(sql)];
        let free = set.iter().position(Option::is_none);
        let way = free.unwrap_or_else(|| {
            self.refused += 1;
            WAYS - 1
        });
        if (free.is_some() || self.refused.is_multiple_of(PATIENCE))
            && let Some(text) = Text::new(scope, sql, lexed, template)
        {
            set[way] = Some(Box::new(text));
        }
    }
}

/// The set of the texts that begin as `sql` does.
#[inline]
fn set_of(sql: &[u8]) -> usize {
    let head = match sql.first_chunk::<HEAD>() {
        Some(head) => u128::from_le_bytes(*head),
        None => {
            let mut head = [0; HEAD];
            head[..sql.len()].copy_from_slice(sql);
            u128::from_le_bytes(head)
        }
    };
    let mixed = ((head as u64) ^ ((head >> 64) as u64).rotate_left(29)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 57) as usize % SETS
}

impl Text {
    /// None: it could not be told by its pieces, or is too long.
    fn new(scope: Scope, sql: &[u8], lexed: &Normalized, template: &Arc<Template>) -> Option<Self> {
        let fits = sql.len() <= LONGEST && lexed.literals.len() <= MOST_CONSTANTS;
        // Where the values of constants are part of the template's key, the pieces are not enough.
        if !fits || lexed.keeps_constants || !template.fixed_literals.is_empty() {
            return None;
        }
        let mut pieces = Vec::with_capacity(sql.len());
        let mut cuts = Vec::with_capacity(lexed.literals.len());
        let mut copied = 0;
        for literal in &lexed.literals {
            let (start, end) = (literal.start as usize, literal.end as usize);
            if plain_constant(sql, start) != Some((literal.kind, end)) {
                return None;
            }
            pieces.extend_from_slice(&sql[copied..start]);
            cuts.push(Cut { at: pieces.len() as u32, kind: literal.kind });
            copied = end;
        }
        pieces.extend_from_slice(&sql[copied..]);
        let separator = |&at: &u32| {
            let before = lexed.literals.iter().take_while(|literal| literal.start < at);
            let (constants_before, length) =
                before.fold((0, 0), |(count, length), literal| (count + 1, length + literal.end - literal.start));
            Separator { at: at - length, constants_before }
        };
        Some(Self {
            scope,
            pieces: pieces.into(),
            cuts: cuts.into(),
            separators: lexed.separators.iter().map(separator).collect(),
            template: template.clone(),
        })
    }

    #[inline]
    fn matches(&self, sql: &[u8], literals: &mut Vec<Literal>) -> bool {
        literals.clear();
        let (mut rest, mut done) = (sql, 0);
        for cut in &self.cuts {
            let Some(after) = rest.strip_prefix(&self.pieces[done..cut.at as usize]) else { return false };
            done = cut.at as usize;
            let start = sql.len() - after.len();
            let Some((kind, end)) = plain_constant(sql, start) else { return false };
            if kind != cut.kind {
                return false;
            }
            literals.push(Literal { kind, start: start as u32, end: end as u32 });
            rest = &sql[end..];
        }
        rest == &self.pieces[done..]
    }

    #[inline]
    fn separate(&self, found: &mut Normalized) {
        found.separators.clear();
        for separator in &self.separators {
            let at = match separator.constants_before.checked_sub(1) {
                None => separator.at,
                Some(last) => {
                    let last = last as usize;
                    found.literals[last].end + (separator.at - self.cuts[last].at)
                }
            };
            found.separators.push(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCOPE: Scope = Scope { schema: 0, path: SearchPath::EMPTY };

    fn lexed(sql: &str) -> Normalized {
        let mut normalized = Normalized::default();
        normalized.run(sql.as_bytes(), true);
        normalized
    }

    /// Keeps `known`; whether `sql` is then recognised. If it is, the lexer must agree.
    fn recognises(known: &str, sql: &str) -> Result<bool, TestCaseError> {
        let template = Arc::new(Template { statements: [].into(), spans_agree: true, fixed_literals: [].into() });
        let (first, second) = (lexed(known), lexed(sql));
        let Some(text) = Text::new(SCOPE, known.as_bytes(), &first, &template) else { return Ok(false) };
        let mut found = Normalized::default();
        if !text.matches(sql.as_bytes(), &mut found.literals) {
            return Ok(false);
        }
        text.separate(&mut found);
        prop_assert_eq!(&first.text, &second.text, "{} and {} have different templates", known, sql);
        prop_assert!(!second.keeps_constants);
        prop_assert_eq!(&found.literals, &second.literals);
        prop_assert_eq!(&found.separators, &second.separators);
        Ok(true)
    }

    #[test]
    fn other_constants_of_the_same_kinds_are_recognised() {
        let is_told = |known, sql| recognises(known, sql).expect("the lexer agrees");
        let known = "select a from t where b = 12 and c = 'it''s'; select 5.0;";
        assert!(is_told(known, "select a from t where b = 7 and c = ''; select 12345.678;"));
        assert!(!is_told(known, "select a from t where b = 7.0 and c = ''; select 12345.678;"));
        assert!(!is_told(known, "select a from t where b = 99999999999 and c = ''; select 1.5;"));
        assert!(!is_told(known, "select a from t where b = 7 and c = '"));
        assert!(!is_told("select 'a'\n, 1", "select 'a'\n'b', 1"));
        assert!(!is_told("select 1", "select 1a"));
        assert!(!is_told("set a = 1", "set a = 2"));
        assert!(!is_told("select e'1'", "select e'2'"));
    }

    #[test]
    fn a_full_set_lets_newcomers_in_seldom_and_keeps_what_is_used() {
        let template = Arc::new(Template { statements: [].into(), spans_agree: true, fixed_literals: [].into() });
        let (mut familiar, mut found) = (Familiar::default(), Normalized::default());
        let often = "select 'often' and more of it";
        familiar.keep(SCOPE, often.as_bytes(), &lexed(often), &template);
        for number in 0..1000 {
            let sql = format!("select 'often' and column_{number}");
            familiar.keep(SCOPE, sql.as_bytes(), &lexed(&sql), &template);
            assert!(familiar.find(SCOPE, often.as_bytes(), &mut found).is_some());
        }
        let elsewhere = Scope { schema: 1, ..SCOPE };
        assert!(familiar.find(elsewhere, often.as_bytes(), &mut found).is_none());
    }

    /// Pieces of texts that lexers trip over, and constants of all kinds.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "select ",
            "a",
            "n",
            "e",
            "x",
            "u&",
            " ",
            "\n",
            "--",
            "-- c\n",
            "/*",
            "*/",
            ".",
            "..",
            "(",
            ")",
            ";",
            "=",
            "-",
            "+",
            "$",
            "$1",
            "$a$",
            "$$",
            "\"",
            "\\",
            "_",
            ",",
            "1",
            "12",
            "0x1f",
            "1_0",
            "2147483648",
            "1.5",
            "1e5",
            ".5",
            "'a'",
            "''",
            "'",
            "'it''s'",
            "e'\\''",
            "set ",
            "uescape",
            "\u{1}",
            "é",
        ]);
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    /// The same text with other digits and letters in it.
    fn altered(text: &str, seed: u64) -> String {
        let mut state = seed;
        let mut out = String::new();
        for character in text.chars() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match (character, state >> 61) {
                ('0'..='9', 0..4) => out.push_str(["7", "31", "400000000", "3."][(state >> 40) as usize % 4]),
                ('\'', 0) => out.push_str("''"),
                ('\'', 1) => out.push_str("x'"),
                _ => out.push(character),
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn what_is_recognised_is_what_the_lexer_reads(known in text(), other in text(), seed: u64) {
            recognises(&known, &other)?;
            recognises(&known, &altered(&known, seed))?;
            // Whatever can be kept is recognised in itself.
            let kept = Text::new(SCOPE, known.as_bytes(), &lexed(&known), &Arc::new(Template {
                statements: [].into(), spans_agree: true, fixed_literals: [].into(),
            })).is_some();
            prop_assert_eq!(recognises(&known, &known)?, kept);
        }
    }
}
