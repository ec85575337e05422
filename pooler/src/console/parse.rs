//! The console's grammar.
//!
//! PgBouncer's is three shapes, which are kept exactly:
//! ```text
//! WORD [WORD] [;]
//! SET WORD (= | TO) WORD [;]
//! SET WORD (= | TO) 'text with '' for a quote' [;]
//! ```
//! WORD is letters, digits and underscores, or a double-quoted name. So `SET query_timeout=1.5` is an error, and `='1.5'`
//! is right. Sluice's own commands are longer; they begin with EXPLAIN, CREATE or DROP, which PgBouncer doesn't have.

use sluice_catalog::TableName;
use sluice_router::map::{FunctionClass, TableClass};
use sluice_wire::message::{Column, Report};

use super::classify::{Classify, Subject};
use super::control::Control;
use super::fds;
use super::route;
use super::show::{Faked, Show};
use crate::app::ShutdownMode;

/// PgBouncer's limits, in bytes.
const MAX_COMMAND: usize = 15;
const MAX_ARGUMENT: usize = 63;
const MAX_VALUE: usize = 255;
/// Longest error text of the console, in bytes.
const MAX_ERROR: usize = 1023;

/// A command that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Help,
    Show(&'static Show),
    /// Settings that drivers ask for at login; the console has them in name only.
    ShowFaked(&'static Faked),
    SetFaked,
    /// The listening sockets themselves, for another process.
    ShowFds,
    ExplainRoute {
        database: Option<String>,
        sql: String,
    },
    Control(Control),
    Classify(Classify),
}

impl Command {
    /// The columns of the rows that it answers; `None` if it answers none.
    pub fn columns(&self) -> Option<&'static [Column]> {
        match self {
            Self::Show(show) => Some(show.columns),
            Self::ShowFaked(faked) => Some(&faked.columns),
            Self::ShowFds => Some(fds::COLUMNS),
            Self::ExplainRoute { .. } => Some(route::COLUMNS),
            Self::Help | Self::SetFaked | Self::Control(_) | Self::Classify(_) => None,
        }
    }
}

/// Understands one statement.
pub fn parse(statement: &str) -> Result<Command, Report> {
    let unknown = || invalid(statement);
    let tokens = tokens(statement).ok_or_else(unknown)?;
    let words = match tokens.strip_suffix(&[Token::Semicolon]) {
        Some(words) => words,
        None => &tokens,
    };
    match words {
        [Token::Word(explain), Token::Word(route), Token::Rest(rest)]
            if is(explain, "explain") && is(route, "route") =>
        {
            explain_route(rest).ok_or_else(unknown)
        }
        [Token::Word(set), Token::Word(key), Token::Equals, value] if is(set, "set") => {
            set_command(key, value).unwrap_or_else(|| Err(unknown()))
        }
        [Token::Word(set), Token::Word(key), Token::Word(to), value] if is(set, "set") && is(to, "to") => {
            set_command(key, value).unwrap_or_else(|| Err(unknown()))
        }
        [Token::Word(command)] => normal(command, None, unknown),
        [Token::Word(command), Token::Word(argument)] => normal(command, Some(argument), unknown),
        [Token::Word(verb), rest @ ..] if is(verb, "create") => create(rest).map(Command::Classify).ok_or_else(unknown),
        [Token::Word(verb), rest @ ..] if is(verb, "drop") => {
            drop_class(rest).map(Command::Classify).ok_or_else(unknown)
        }
        _ => Err(unknown()),
    }
}

/// The answer to whatever is no command. The text is cut where PgBouncer's buffer ends.
pub fn invalid(statement: &str) -> Report {
    const TAIL: &str = "', use SHOW HELP;";
    let room = MAX_ERROR - "invalid command '".len() - TAIL.len();
    let end = statement.floor_char_boundary(room.min(statement.len()));
    error(format!("invalid command '{}{TAIL}", &statement[..end]))
}

/// An error of the console, with PgBouncer's SQLSTATE.
pub fn error(text: impl Into<String>) -> Report {
    Report::error("08P01", text)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(Word),
    Text(String),
    Equals,
    Dot,
    Semicolon,
    /// Everything behind EXPLAIN ROUTE, which has a grammar of its own.
    Rest(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    text: String,
    quoted: bool,
}

impl Word {
    /// As PostgreSQL reads a name. PgBouncer takes the names of databases as they are.
    fn folded(&self) -> String {
        if self.quoted { self.text.clone() } else { self.text.to_ascii_lowercase() }
    }
}

fn is(word: &Word, keyword: &str) -> bool {
    word.text.eq_ignore_ascii_case(keyword)
}

fn tokens(statement: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = skip_space(statement);
    while let Some(first) = rest.chars().next() {
        if let [Token::Word(explain), Token::Word(route)] = &tokens[..]
            && is(explain, "explain")
            && is(route, "route")
        {
            tokens.push(Token::Rest(rest.to_owned()));
            break;
        }
        let (token, after) = match first {
            '=' => (Token::Equals, &rest[1..]),
            '.' => (Token::Dot, &rest[1..]),
            ';' => (Token::Semicolon, &rest[1..]),
            '\'' => quoted(rest, '\'').map(|(text, after)| (Token::Text(text), after))?,
            _ => word(rest).map(|(word, after)| (Token::Word(word), after))?,
        };
        tokens.push(token);
        rest = skip_space(after);
    }
    Some(tokens)
}

fn skip_space(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\r', '\n'])
}

/// A name at the head of `text`, and what follows it.
fn word(text: &str) -> Option<(Word, &str)> {
    if text.starts_with('"') {
        let (name, after) = quoted(text, '"')?;
        return (!name.is_empty()).then_some((Word { text: name, quoted: true }, after));
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    // A word and a name in quotes need white space between them, as two words do.
    let glued = text[end..].starts_with('"');
    (end > 0 && !glued).then(|| (Word { text: text[..end].to_owned(), quoted: false }, &text[end..]))
}

/// A quoted text at the head of `text`, its doubled quotes made single, and what follows it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            value.push(c);
        } else if chars.next_if(|&(_, next)| next == quote).is_some() {
            value.push(quote);
        } else {
            return Some((value, &text[at + 1..]));
        }
    }
    None
}

fn within(text: &str, limit: usize) -> Result<(), Report> {
    if text.len() <= limit { Ok(()) } else { Err(error("bad arguments")) }
}

/// `None`: `value` is no value.
fn set_command(key: &Word, value: &Token) -> Option<Result<Command, Report>> {
    let (Token::Word(Word { text: value, .. }) | Token::Text(value)) = value else { return None };
    let key = &key.text;
    Some(within(key, MAX_ARGUMENT).and_then(|()| within(value, MAX_VALUE)).map(|()| match Faked::find(key) {
        Some(_) => Command::SetFaked,
        None => Command::Control(Control::Set { key: key.clone(), value: value.clone() }),
    }))
}

fn normal(command: &Word, argument: Option<&Word>, unknown: impl Fn() -> Report) -> Result<Command, Report> {
    let argument = argument.map(|word| word.text.as_str());
    within(&command.text, MAX_COMMAND)?;
    within(argument.unwrap_or_default(), MAX_ARGUMENT)?;
    let command = command.text.to_ascii_lowercase();
    if matches!(&*command, "show" | "select") {
        return show(argument.unwrap_or_default()).unwrap_or_else(|| Err(unknown()));
    }
    control(&command, argument).map(Command::Control).ok_or_else(unknown)
}

fn show(what: &str) -> Option<Result<Command, Report>> {
    if what.eq_ignore_ascii_case("help") {
        return Some(Ok(Command::Help));
    }
    if what.eq_ignore_ascii_case("fds") {
        return Some(Ok(Command::ShowFds));
    }
    Faked::find(what).map(Command::ShowFaked).or_else(|| Show::find(what).map(Command::Show)).map(Ok)
}

fn control(command: &str, argument: Option<&str>) -> Option<Control> {
    let database = argument.map(str::to_owned);
    Some(match (command, argument) {
        ("pause", _) => Control::Pause(database),
        ("resume", _) => Control::Resume(database),
        ("disable", _) => Control::Disable(database),
        ("enable", _) => Control::Enable(database),
        ("reconnect", _) => Control::Reconnect(database),
        ("wait_close", _) => Control::WaitClose(database),
        ("kill", _) => Control::Kill(database),
        ("kill_client", _) => Control::KillClient(argument.unwrap_or_default().to_owned()),
        ("reload", None) => Control::Reload,
        ("suspend", None) => Control::Suspend,
        ("shutdown", None) => Control::Shutdown(ShutdownMode::Immediate),
        ("shutdown", Some(mode)) if mode.eq_ignore_ascii_case("wait_for_servers") => {
            Control::Shutdown(ShutdownMode::WaitForServers)
        }
        ("shutdown", Some(mode)) if mode.eq_ignore_ascii_case("wait_for_clients") => {
            Control::Shutdown(ShutdownMode::WaitForClients)
        }
        ("shutdown", Some(mode)) if mode.eq_ignore_ascii_case("wait_for_transactions") => {
            Control::Shutdown(ShutdownMode::WaitForTransactions)
        }
        _ => return None,
    })
}

/// `[FOR database] sql`
fn explain_route(rest: &str) -> Option<Command> {
    let (database, sql) = match word(rest) {
        Some((first, after)) if is(&first, "for") => {
            let (database, sql) = word(skip_space(after))?;
            (Some(database.text), skip_space(sql))
        }
        _ => (None, rest),
    };
    (!sql.is_empty()).then(|| Command::ExplainRoute { database, sql: sql.to_owned() })
}

/// `REFERENCE TABLE name …`, `PURE FUNCTION name …` and so on: what stands behind CREATE.
fn create(words: &[Token]) -> Option<Classify> {
    let (subject, rest) = match keywords(words, 3).as_slice() {
        ["sharded", "table", ..] => (Subject::Table(Some(TableClass::Sharded)), &words[2..]),
        ["reference", "table", ..] => (Subject::Table(Some(TableClass::Reference)), &words[2..]),
        ["home", "table", ..] => (Subject::Table(Some(TableClass::Home)), &words[2..]),
        ["pure", "function", ..] => (Subject::Function(Some(FunctionClass::Pure)), &words[2..]),
        ["shard", "local", "function"] => (Subject::Function(Some(FunctionClass::ShardLocal)), &words[3..]),
        _ => return None,
    };
    classify(subject, rest)
}

/// `TABLE CLASS name …` or `FUNCTION CLASS name …`: what stands behind DROP.
fn drop_class(words: &[Token]) -> Option<Classify> {
    let subject = match keywords(words, 2).as_slice() {
        ["table", "class"] => Subject::Table(None),
        ["function", "class"] => Subject::Function(None),
        _ => return None,
    };
    classify(subject, &words[2..])
}

/// The first `count` tokens as the keywords that they may be.
fn keywords(tokens: &[Token], count: usize) -> Vec<&'static str> {
    const KEYWORDS: &[&str] = &["table", "function", "class", "sharded", "reference", "home", "pure", "shard", "local"];
    let keyword = |token: &Token| match token {
        Token::Word(word) => KEYWORDS.iter().copied().find(|keyword| is(word, keyword)),
        _ => None,
    };
    tokens.iter().take(count).map_while(keyword).collect()
}

/// `[schema.]name [IN database]`
fn classify(subject: Subject, words: &[Token]) -> Option<Classify> {
    let (schema, name, rest) = match words {
        [Token::Word(schema), Token::Dot, Token::Word(name), rest @ ..] => (schema.folded(), name, rest),
        [Token::Word(name), rest @ ..] => ("public".to_owned(), name, rest),
        _ => return None,
    };
    let database = match rest {
        [] => None,
        [Token::Word(keyword), Token::Word(database)] if is(keyword, "in") => Some(database.text.clone()),
        _ => return None,
    };
    Some(Classify { subject, table: TableName::new(schema, name.folded()), database })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
