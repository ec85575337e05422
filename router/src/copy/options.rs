//! The options of COPY … FROM, in both syntaxes (the grammar makes one of them), to a [`CopyFormat`].
//!
//! What the server refuses by itself when the statement starts (options that contradict each other, a delimiter that may
//! not be one) isn't checked again here.

use pg_query::NodeEnum;
use pg_query::protobuf::{CopyStmt, DefElem, List, Node};

use crate::template::Refusal;

/// How the rows of one COPY … FROM are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFormat {
    /// The table's name, and its schema if the statement names one.
    pub schema: Option<Box<str>>,
    pub table: Box<str>,
    /// How many columns the statement's own list names; None without a list (all columns of the table).
    pub columns: Option<usize>,
    pub(super) layout: Layout,
    /// The first line names the columns.
    pub(super) header: bool,
    /// What stands for NULL.
    pub(super) null: Box<[u8]>,
    /// What stands for the column's default (PostgreSQL 16).
    pub(super) default: Option<Box<[u8]>>,
    /// In these columns, the NULL string means NULL even if quoted.
    pub(super) force_null: ColumnSet,
    /// In these columns, the NULL string is that string.
    pub(super) force_not_null: ColumnSet,
}

/// The bytes with a meaning of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    Text { delimiter: u8 },
    Csv { delimiter: u8, quote: u8, escape: u8 },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum ColumnSet {
    #[default]
    None,
    Named(Box<[Box<str>]>),
    All,
}

impl ColumnSet {
    pub(super) fn contains(&self, column: &str) -> bool {
        match self {
            Self::None => false,
            Self::Named(names) => names.iter().any(|name| &**name == column),
            Self::All => true,
        }
    }
}

impl CopyFormat {
    /// Reads the options of `sql`, one COPY … FROM statement. Constants with backslashes are read under
    /// `standard_conforming_strings = on`.
    pub fn parse(sql: &str) -> Result<Self, Box<Refusal>> {
        let unreadable =
            |detail: String| refusal("cannot read this COPY statement", detail, "Send COPY … FROM STDIN by itself.");
        let parsed = pg_query::parse(sql, 0).map_err(|error| unreadable(error.to_string()))?.protobuf;
        let [statement] = parsed.stmts.as_slice() else {
            return Err(unreadable(format!("The text holds {} statements.", parsed.stmts.len())));
        };
        match statement.stmt.as_deref().and_then(inner) {
            Some(NodeEnum::CopyStmt(copy)) if copy.is_from => Self::of(copy),
            _ => Err(unreadable("It is not COPY … FROM.".into())),
        }
    }

    fn of(copy: &CopyStmt) -> Result<Self, Box<Refusal>> {
        let mut options = Options::default();
        for option in copy.options.iter().filter_map(inner) {
            let NodeEnum::DefElem(option) = option else { return Err(unsupported("of this kind")) };
            options.set(option)?;
        }
        let mut format = options.format((!copy.attlist.is_empty()).then_some(copy.attlist.len()));
        if let Some(relation) = &copy.relation {
            format.table = relation.relname.as_str().into();
            format.schema = Some(relation.schemaname.as_str()).filter(|schema| !schema.is_empty()).map(Into::into);
        }
        Ok(format)
    }
}

/// The options as given: what the others default to depends on the format, which may come last.
#[derive(Default)]
struct Options {
    csv: bool,
    delimiter: Option<u8>,
    quote: Option<u8>,
    escape: Option<u8>,
    header: bool,
    null: Option<Box<[u8]>>,
    default: Option<Box<[u8]>>,
    force_null: ColumnSet,
    force_not_null: ColumnSet,
}

impl Options {
    fn set(&mut self, option: &DefElem) -> Result<(), Box<Refusal>> {
        let value = option.arg.as_deref().and_then(inner);
        match option.defname.as_str() {
            "format" => self.csv = is_csv(value)?,
            "delimiter" => self.delimiter = Some(single_byte("delimiter", value)?),
            "quote" => self.quote = Some(single_byte("quote", value)?),
            "escape" => self.escape = Some(single_byte("escape", value)?),
            "header" => self.header = has_header(value)?,
            "null" => self.null = Some(string("null", value)?.into_bytes().into()),
            "default" => self.default = Some(string("default", value)?.into_bytes().into()),
            "force_null" => self.force_null = column_set("force_null", value)?,
            "force_not_null" => self.force_not_null = column_set("force_not_null", value)?,
            // For COPY TO only: the server refuses it.
            "force_quote" => {}
            other => return Err(unsupported(&other.to_uppercase())),
        }
        Ok(())
    }

    fn format(self, columns: Option<usize>) -> CopyFormat {
        let (layout, null) = if self.csv {
            let quote = self.quote.unwrap_or(b'"');
            let escape = self.escape.unwrap_or(quote);
            (Layout::Csv { delimiter: self.delimiter.unwrap_or(b','), quote, escape }, b"".as_slice())
        } else {
            (Layout::Text { delimiter: self.delimiter.unwrap_or(b'\t') }, br"\N".as_slice())
        };
        CopyFormat {
            schema: None,
            table: Box::default(),
            columns,
            layout,
            header: self.header,
            null: self.null.unwrap_or_else(|| null.into()),
            default: self.default,
            force_null: self.force_null,
            force_not_null: self.force_not_null,
        }
    }
}

fn is_csv(value: Option<&NodeEnum>) -> Result<bool, Box<Refusal>> {
    match string("format", value)?.as_str() {
        "csv" => Ok(true),
        "text" => Ok(false),
        other => Err(unsupported(&format!("FORMAT {other}"))),
    }
}

/// `HEADER match` is checked by the shards, each of which gets the header.
fn has_header(value: Option<&NodeEnum>) -> Result<bool, Box<Refusal>> {
    if value.is_none() {
        return Ok(true);
    }
    let value = string("header", value)?;
    match value.to_ascii_lowercase().as_str() {
        "true" | "on" | "1" | "match" => Ok(true),
        "false" | "off" | "0" => Ok(false),
        _ => Err(unsupported(&format!("HEADER {value}"))),
    }
}

fn single_byte(option: &str, value: Option<&NodeEnum>) -> Result<u8, Box<Refusal>> {
    match string(option, value)?.as_bytes() {
        [byte] => Ok(*byte),
        _ => Err(refusal(
            format!("COPY {option} must be a single one-byte character"),
            format!("The value of {} has another length.", option.to_uppercase()),
            "Write a tab as E'\\t', and other control characters likewise.",
        )),
    }
}

fn column_set(option: &str, value: Option<&NodeEnum>) -> Result<ColumnSet, Box<Refusal>> {
    match value {
        Some(NodeEnum::AStar(_)) => Ok(ColumnSet::All),
        Some(NodeEnum::List(List { items })) => {
            let name = |item: &Node| Ok(string(option, inner(item))?.into_boxed_str());
            items.iter().map(name).collect::<Result<_, _>>().map(ColumnSet::Named)
        }
        _ => Err(unsupported(&format!("{} without a list of columns", option.to_uppercase()))),
    }
}

/// An option's value as a string: numbers are as good as strings to COPY.
fn string(option: &str, value: Option<&NodeEnum>) -> Result<String, Box<Refusal>> {
    match value {
        Some(NodeEnum::String(string)) => Ok(string.sval.clone()),
        Some(NodeEnum::Integer(integer)) => Ok(integer.ival.to_string()),
        Some(NodeEnum::Float(float)) => Ok(float.fval.clone()),
        Some(NodeEnum::Boolean(boolean)) => Ok(boolean.boolval.to_string()),
        _ => Err(unsupported(&format!("{} without a value", option.to_uppercase()))),
    }
}

fn inner(node: &Node) -> Option<&NodeEnum> {
    node.node.as_ref()
}

fn unsupported(option: &str) -> Box<Refusal> {
    refusal(
        format!("COPY option {option} is not supported in a sharded database"),
        "Sluice has to tell the rows apart, and reads them as text or CSV in the client's encoding.",
        "Use FORMAT text or csv, with DELIMITER, NULL, DEFAULT, HEADER, QUOTE, ESCAPE, FORCE_NULL and FORCE_NOT_NULL only.",
    )
}

fn refusal(message: impl Into<String>, detail: impl Into<String>, hint: &str) -> Box<Refusal> {
    Box::new(Refusal {
        sqlstate: "0A000".into(),
        message: message.into(),
        detail: detail.into(),
        hint: hint.into(),
        position: 0,
    })
}
