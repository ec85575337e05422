//! PostgreSQL's own grammar (once per template) to a [`Template`].
//!
//! Read in this order:
//! 1. [`mod@effects`] (with [`setting`] and [`prepare`]): what a statement does to the session; the same in every database;
//! 2. [`utility`] (with [`copy`] and [`ddl`]): where each kind of statement belongs in a sharded database;
//! 3. [`decide`]: where a query belongs, from what it touches;
//! 4. [`query`], [`from`], [`condition`], [`dml`]: the walk that finds every table and every equality of the key;
//! 5. [`pins`]: the rule by which equalities restrict tables to keys (why an answer from one shard is right);
//! 6. [`census`]: the generic walk that proves that 4 missed nothing;
//! 7. [`text`]: what the statements of one text do to those after them;
//! 8. [`names`], [`scope`], [`constants`], [`functions`], [`nodes`], [`refuse`]: what the others look things up in.

mod census;
mod condition;
mod constants;
mod copy;
mod ddl;
mod decide;
mod dml;
mod effects;
mod from;
mod functions;
mod names;
mod nodes;
mod pins;
mod prepare;
mod query;
mod refuse;
mod scope;
mod setting;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod utility;

use std::borrow::Cow;

use pg_query::NodeEnum;
use pg_query::protobuf::RawStmt;

use self::census::Census;
use self::constants::Constants;
use self::effects::{Effects, effects};
use self::names::Names;
use self::nodes::inner_of;
use self::text::Text;
use self::utility::Placed;
use crate::cache::SearchPath;
use crate::key::KeyType;
use crate::lexer::{LiteralKind, Normalized};
use crate::map::Schema;
use crate::template::{Access, Action, Refusal, Residue, Route, Statement, Template};

/// Analyses `sql` (the first text seen of a template; `normalized` is the lexer's output for it) against `schema`.
/// Never fails: what can't be parsed or proven becomes a template whose statement is refused (or, in an unsharded
/// database, one that is sent as it is).
pub fn analyze(
    schema: &Schema,
    search_path: &[String],
    _path: SearchPath,
    sql: &str,
    normalized: &Normalized,
) -> Template {
    let parsed = match pg_query::parse(&standard(sql, normalized), 0) {
        Ok(parsed) => parsed.protobuf,
        Err(error) => return unparsed(schema.sharding.is_some(), &error, normalized),
    };
    let key_type = schema.sharding.as_ref().map_or(KeyType::Int, |sharding| sharding.key_type);
    let constants = Constants { sql, literals: &normalized.literals, key_type };
    let mut fixed = Vec::new();
    let mut text = Text::new(schema.sharding.as_ref(), search_path);
    let mut statements = Vec::new();
    for raw in &parsed.stmts {
        let statement = statement(raw, text.names(), constants, &mut fixed);
        statements.extend(statement.map(|statement| text.follow(statement)));
    }
    let spans_agree = statements.len() == pieces(sql, normalized);
    fixed.sort_unstable();
    fixed.dedup();
    Template { statements: statements.into(), spans_agree, fixed_literals: fixed.into() }
}

/// The text as the grammar (which takes backslashes literally) reads it right: under standard_conforming_strings = off,
/// the inside of a string that holds backslashes is blanked out. Positions stay.
fn standard<'a>(sql: &'a str, normalized: &Normalized) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(sql.as_bytes());
    for literal in normalized.literals.iter().filter(|literal| literal.kind == LiteralKind::EscapeString) {
        let span = literal.start as usize..literal.end as usize;
        let raw = &sql.as_bytes()[span.clone()];
        if raw.first() == Some(&b'\'') && raw.contains(&b'\\') {
            text.to_mut()[span.start + 1..span.end - 1].fill(b'x');
        }
    }
    match text {
        Cow::Borrowed(_) => Cow::Borrowed(sql),
        Cow::Owned(bytes) => String::from_utf8(bytes).map_or(Cow::Borrowed(sql), Cow::Owned),
    }
}

/// One statement of the text. Constants that the decision depends on are added to `fixed`.
fn statement(
    raw: &RawStmt,
    names: Option<Names<'_>>,
    constants: Constants<'_>,
    fixed: &mut Vec<u16>,
) -> Option<Statement> {
    let node = inner_of(&raw.stmt)?;
    let census = Census::of(raw);
    let Effects { access, action, residue, outside_transaction, fixed_literal } = effects(node, &census, &constants);
    fixed.extend(fixed_literal);
    let Some(names) = names else {
        return Some(Statement { route: Route::Home, access, action, residue, outside_transaction });
    };
    let placed = place(node, names, constants, &census, &action);
    if placed.fixes_literals {
        fixed.extend((0..constants.literals.len()).filter_map(|index| u16::try_from(index).ok()));
    }
    let action = placed.action.unwrap_or(action);
    Some(Statement { route: placed.route, access, action, residue, outside_transaction })
}

fn place(node: &NodeEnum, names: Names<'_>, constants: Constants<'_>, census: &Census, action: &Action) -> Placed {
    // Settings are the session's business: it carries them to whichever shard comes next.
    if let (Action::Set(_), NodeEnum::SelectStmt(_)) = (action, node) {
        return Placed::at(Route::Any);
    }
    utility::place(node, names, constants, census).unwrap_or_else(|refusal| {
        // It may have been refused for this constant, and the same text with another one must not be.
        let fixes_literals = constants.clock().is_some();
        Placed { fixes_literals, ..Placed::at(Route::Refused(refusal)) }
    })
}

/// The number of non-empty pieces between the separators: as many as the grammar should see statements.
fn pieces(sql: &str, normalized: &Normalized) -> usize {
    let ends = normalized.separators.iter().map(|&at| at as usize).chain([sql.len()]);
    let mut start = 0;
    let mut count = 0;
    for end in ends {
        let mut piece = Normalized::default();
        piece.run(sql.as_bytes().get(start..end).unwrap_or_default(), true);
        count += usize::from(!piece.text.is_empty());
        start = end + 1;
    }
    count
}

/// A text that the grammar doesn't take: a sharded database refuses it; an unsharded one lets the server decide.
fn unparsed(sharded: bool, error: &pg_query::Error, normalized: &Normalized) -> Template {
    let route = if sharded { Route::Refused(Box::new(syntax_error(error))) } else { Route::Home };
    let residue = Residue { opaque: true, ..Residue::default() };
    let statement =
        Statement { route, access: Access::Write, action: Action::None, residue, outside_transaction: false };
    let all = (0..normalized.literals.len()).filter_map(|index| u16::try_from(index).ok());
    Template { statements: [statement].into(), spans_agree: false, fixed_literals: all.collect() }
}

fn syntax_error(error: &pg_query::Error) -> Refusal {
    let (sqlstate, message) = match error {
        pg_query::Error::Parse(message) => ("42601", message.clone()),
        _ => ("54001", "statement is nested too deeply to be analysed".to_owned()),
    };
    Refusal {
        sqlstate: Cow::Borrowed(sqlstate),
        message,
        detail: "The statement was read with PostgreSQL's own grammar.".into(),
        hint: "Correct the statement.".into(),
        position: 0,
    }
}
