//! The extended protocol's prepared statements and portals of one console connection. PgBouncer refuses that protocol;
//! drivers such as asyncpg and tokio-postgres have no other.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use sluice_wire::frame::{Bind, Named, Parse};
use sluice_wire::message::{self, Report};

use super::answer::{Row, data_row};
use super::parse::{self, Command};

/// Statements of one connection: more are a leak of the client's.
const MAX_STATEMENTS: usize = 1000;
/// Portals between two Syncs.
const MAX_PORTALS: usize = 100;
const PORTAL_SUSPENDED: [u8; 5] = [b's', 0, 0, 0, 4];

/// A command that was bound.
pub struct Portal {
    pub command: Arc<Command>,
    /// One code for each column.
    formats: Vec<i16>,
    /// Rows that are still to be sent, and the tag behind them; `None` before the first Execute.
    pub rows: Option<(VecDeque<Row>, &'static str)>,
}

impl Portal {
    /// Notes what the command answered. Without a tag, its end has been sent already.
    pub fn start(&mut self, tag: &'static str, rows: Vec<Row>) {
        self.rows = Some((rows.into(), tag));
    }

    /// Sends up to `limit` rows (0 = all) and how that ended.
    pub fn send(&mut self, limit: u32, out: &mut Vec<u8>) {
        let Some((rows, tag)) = &mut self.rows else { return };
        let count = if limit == 0 { rows.len() } else { rows.len().min(limit as usize) };
        let columns = self.command.columns().unwrap_or_default();
        for row in rows.drain(..count) {
            data_row(out, columns, &self.formats, &row);
        }
        if limit > 0 && count == limit as usize && !rows.is_empty() {
            out.extend_from_slice(&PORTAL_SUSPENDED);
        } else if !tag.is_empty() {
            message::command_complete(out, tag);
        }
    }
}

#[derive(Default)]
pub struct Extended {
    statements: HashMap<Vec<u8>, Arc<Command>>,
    portals: HashMap<Vec<u8>, Portal>,
}

impl Extended {
    /// Parse, Bind, Describe or Close.
    pub fn on_message(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Result<(), Report> {
        match tag {
            b'P' => self.parse(Parse::read(body).ok_or_else(malformed)?, out),
            b'B' => self.bind(&Bind::read(body).ok_or_else(malformed)?, out),
            b'D' => self.describe(Named::read(body).ok_or_else(malformed)?, out),
            _ => {
                match Named::read(body).ok_or_else(malformed)? {
                    Named::Statement(name) => drop(self.statements.remove(name)),
                    Named::Portal(name) => drop(self.portals.remove(name)),
                }
                out.extend_from_slice(&message::CLOSE_COMPLETE);
                Ok(())
            }
        }
    }

    /// Portals end with the transaction, and on the console that is the Sync.
    pub fn sync(&mut self) {
        self.portals.clear();
    }

    pub fn take_portal(&mut self, name: &[u8]) -> Result<Portal, Report> {
        self.portals.remove(name).ok_or_else(|| no_portal(name))
    }

    pub fn put_portal(&mut self, name: &[u8], portal: Portal) {
        self.portals.insert(name.to_vec(), portal);
    }

    fn parse(&mut self, parse: Parse<'_>, out: &mut Vec<u8>) -> Result<(), Report> {
        if !parse.name.is_empty() && self.statements.contains_key(parse.name) {
            return Err(Report::error("42P05", format!("prepared statement \"{}\" already exists", lossy(parse.name))));
        }
        if self.statements.len() >= MAX_STATEMENTS {
            return Err(Report::error(
                "53400",
                format!("more than {MAX_STATEMENTS} prepared statements on one console connection"),
            )
            .hint("close those that are no longer used"));
        }
        let command = parse::parse(&lossy(parse.sql))?;
        self.statements.insert(parse.name.to_vec(), Arc::new(command));
        out.extend_from_slice(&message::PARSE_COMPLETE);
        Ok(())
    }

    fn bind(&mut self, bind: &Bind<'_>, out: &mut Vec<u8>) -> Result<(), Report> {
        let command = self.statement(bind.statement)?.clone();
        if bind.value(1).is_some() {
            return Err(
                Report::error("08P01", "console commands take no parameters").hint("write the value into the command")
            );
        }
        if self.portals.len() >= MAX_PORTALS {
            return Err(Report::error("53400", format!("more than {MAX_PORTALS} portals on one console connection"))
                .hint("send a Sync"));
        }
        let columns = command.columns().map_or(0, <[_]>::len);
        let formats = result_formats(bind.tail).ok_or_else(malformed)?;
        let formats = match formats[..] {
            [] => vec![0; columns],
            [one] => vec![one; columns],
            _ if formats.len() == columns => formats,
            _ => {
                let text = format!("bind message has {} result formats but query has {columns} columns", formats.len());
                return Err(Report::error("08P01", text));
            }
        };
        if let Some(code) = formats.iter().find(|code| !matches!(code, 0 | 1)) {
            return Err(Report::error("22023", format!("unsupported format code: {code}")));
        }
        self.portals.insert(bind.portal.to_vec(), Portal { command, formats, rows: None });
        out.extend_from_slice(&message::BIND_COMPLETE);
        Ok(())
    }

    fn describe(&self, named: Named<'_>, out: &mut Vec<u8>) -> Result<(), Report> {
        let (columns, formats) = match named {
            Named::Statement(name) => {
                let columns = self.statement(name)?.columns();
                out.extend_from_slice(&message::NO_PARAMETERS);
                (columns, vec![0; columns.map_or(0, <[_]>::len)])
            }
            Named::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (portal.command.columns(), portal.formats.clone())
            }
        };
        match columns {
            Some(columns) => message::row_description(out, columns.iter().copied().zip(formats)),
            None => out.extend_from_slice(&message::NO_DATA),
        }
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Arc<Command>, Report> {
        let missing = || Report::error("26000", format!("prepared statement \"{}\" does not exist", lossy(name)));
        self.statements.get(name).ok_or_else(missing)
    }
}

fn no_portal(name: &[u8]) -> Report {
    Report::error("34000", format!("portal \"{}\" does not exist", lossy(name)))
}

fn malformed() -> Report {
    Report::fatal("08P01", "failed to parse packet")
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// The result formats at the end of a Bind without parameters: counts of parameter formats, of parameters (0), of result
/// formats.
fn result_formats(tail: &[u8]) -> Option<Vec<i16>> {
    let (parameter_formats, rest) = tail.split_first_chunk::<2>()?;
    let rest = rest.get(usize::from(u16::from_be_bytes(*parameter_formats)) * 2..)?;
    let (_, rest) = rest.split_first_chunk::<2>()?;
    let (count, codes) = rest.split_first_chunk::<2>()?;
    let (codes, []) = codes.as_chunks::<2>() else { return None };
    (codes.len() == usize::from(u16::from_be_bytes(*count)))
        .then(|| codes.iter().map(|code| i16::from_be_bytes(*code)).collect())
}

#[cfg(test)]
#[path = "extended_tests.rs"]
mod tests;
