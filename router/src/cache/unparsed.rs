//! What the grammar can't be asked about as it stands: text that is not UTF-8, and strings without
//! standard_conforming_strings.

use std::borrow::Cow;

use crate::lexer::{Literal, LiteralKind};
use crate::map::Schema;
use crate::template::{Access, Action, Refusal, Residue, Route, Statement, Template};

/// The template of a text that is not UTF-8: sent as it is where nothing needs to be known, refused elsewhere as PostgreSQL
/// itself does in a UTF-8 database.
pub(super) fn not_utf8(schema: &Schema) -> Template {
    let refusal = || Refusal {
        sqlstate: Cow::Borrowed("22021"),
        message: "the statement is not valid UTF-8".into(),
        detail: "A statement of a sharded database must be encoded in UTF-8.".into(),
        hint: "Set client_encoding to UTF8.".into(),
        position: 0,
    };
    let route = if schema.sharding.is_some() { Route::Refused(Box::new(refusal())) } else { Route::Home };
    let residue = Residue { opaque: true, ..Residue::default() };
    let statement =
        Statement { route, access: Access::Write, action: Action::None, residue, outside_transaction: false };
    Template { statements: Box::new([statement]), spans_agree: false, fixed_literals: Box::default() }
}

/// The text as a grammar reads it that knows only standard strings: without standard_conforming_strings, plain strings with
/// backslashes are filled with underscores (the constants keep their places, so that keys are still read from the text).
pub(super) fn with_standard_strings<'a>(text: &'a str, literals: &[Literal], standard_strings: bool) -> Cow<'a, str> {
    if standard_strings || !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut masked = text.as_bytes().to_vec();
    for literal in literals.iter().filter(|literal| literal.kind == LiteralKind::EscapeString) {
        let string = &mut masked[literal.start as usize..literal.end as usize];
        if let [b'\'', body @ .., b'\''] = string
            && body.contains(&b'\\')
        {
            body.fill(b'_');
        }
    }
    // Whole strings were replaced by ASCII: what is left is as valid as before.
    String::from_utf8(masked).map_or(Cow::Borrowed(text), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::key::KeyType;
    use crate::lexer::Normalized;
    use crate::map::Sharding;

    #[test]
    fn strings_with_backslashes_are_masked_in_place() {
        let text = r"select 'a\' b''é', E'\'', 'plain', $$\$$";
        let mut normalized = Normalized::default();
        normalized.run(text.as_bytes(), false);
        let masked = with_standard_strings(text, &normalized.literals, false);
        assert_eq!(masked, r"select '_________', E'\'', 'plain', $$\$$");
        assert_eq!(masked.len(), text.len());
        assert_eq!(with_standard_strings(text, &normalized.literals, true), text);
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_only_where_keys_matter() {
        assert_eq!(not_utf8(&Schema::default()).statements[0].route, Route::Home);
        let sharding = Sharding {
            key_column: "organization_id".into(),
            key_type: KeyType::Int,
            tables: HashMap::new(),
            functions: HashMap::new(),
        };
        let sharded = Schema { version: 1, sharding: Some(sharding) };
        assert!(
            matches!(&not_utf8(&sharded).statements[0].route, Route::Refused(refusal) if refusal.sqlstate == "22021")
        );
    }
}
