//! Prepared statements on their way to a server: names translated, a Parse put in where the server lacks the statement,
//! left out where it has it.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluice_wire::frame::{Bind, Frames, Named, Parse};
use sluice_wire::message;
use sluice_wire::replies::{Replies, Reply, Undone};

use super::prepared::{ClientStatements, Prepared, StatementTable};
use super::{Link, Session};
use crate::net::with_output;
use crate::pool::{Lease, Unnamed, statement_name, statement_number};

impl Session {
    /// Sends a batch that names prepared statements. `reading`: the settings by which those that it makes are read.
    pub(super) fn send_edited(&mut self, batch: &[u8], syncs: u32, reading: &str) -> io::Result<()> {
        let client = self.client.id;
        let limit = self.limits.max_prepared_statements;
        let statements = self.statements.get_or_insert_default();
        let autocommit = matches!(self.link, Link::One(_));
        let Some(lease) = self.link.server_mut() else { return Ok(()) };
        // The rest of a pipeline joins the queue that its beginning made.
        let mut queue = self.flow.replies.take();
        let mut replies = queue.as_mut().map_or_else(|| SPARE.take(), |queue| std::mem::take(&mut **queue));
        // A whole batch, and no other under way.
        let alone = queue.is_none() && syncs == 1 && !self.open;
        // In a pipeline that isn't at its end, the answers to what comes later have to find their place.
        let mut edited = queue.is_some() || syncs == 0;
        let sent = with_output(|out| {
            let table = &self.shared.statements;
            let mut edit = Edit {
                out,
                replies: &mut replies,
                statements,
                lease,
                table,
                reading,
                client,
                limit,
                edited: &mut edited,
                adds_parse: false,
                is_described: false,
                describes_all: true,
            };
            for frame in Frames::new(batch).map_while(Result::ok) {
                edit.message(frame);
            }
            edit.lease.pending += syncs;
            let Edit { out, lease, adds_parse, describes_all, .. } = edit;
            if alone && !adds_parse {
                lease.replay.arm(out, autocommit && describes_all);
            }
            lease.send(out)
        });
        self.client.prepared.store(statements.named.len() as u32, Ordering::Relaxed);
        if !edited {
            // Names were translated, but the responses are the client's as they come: no queue is needed.
            replies.clear();
            SPARE.set(replies);
            return sent;
        }
        // Everything was left out: its answers are due at once.
        let mut due = Vec::new();
        replies.make_due(&mut due);
        let mut queue = queue.unwrap_or_default();
        *queue = replies;
        self.flow.replies = Some(queue);
        crate::executor::relay::send(&self.io, &mut self.flow, &due)?;
        sent
    }

    /// Remembers an unnamed Parse that was sent as it is: it may be bound later, on another server.
    pub(super) fn remember_unnamed(&mut self, batch: &[u8]) {
        let client = self.client.id;
        let parses = Frames::new(batch).map_while(Result::ok).filter(|frame| frame.tag == b'P');
        let Some(parse) =
            parses.filter_map(|frame| Parse::read(frame.body)).filter(|parse| parse.name.is_empty()).last()
        else {
            return;
        };
        let statements = self.statements.get_or_insert_default();
        statements.set_unnamed(parse.tail);
        let number = statements.unnamed_number;
        if let Some(server) = self.server_mut() {
            server.unnamed = Unnamed { client, number };
        }
    }

    /// The edited stream is answered: what the server lacks after an error is forgotten.
    pub(super) fn end_edits(&mut self) {
        let Some(mut replies) = self.flow.replies.take() else { return };
        if let Some(statements) = &mut self.statements {
            statements.settle(if replies.failed { replies.named } else { usize::MAX });
        }
        let limit = self.limits.max_prepared_statements;
        let Some(server) = self.server_mut() else { return };
        for undone in replies.undone.drain(..).rev() {
            match undone {
                Undone::Parse(statement) => server.forget_statement(statement),
                Undone::Close(statement) => drop(server.add_statement(statement, limit)),
            }
        }
    }
}

thread_local! {
    /// A queue whose memory is used again: most batches turn out to need none.
    static SPARE: Cell<Replies> = Cell::default();
}

/// No statement has this name.
const NOBODYS: &[u8] = b"SLUICE_";

/// One batch being translated for one server.
struct Edit<'a> {
    out: &'a mut Vec<u8>,
    replies: &'a mut Replies,
    statements: &'a mut ClientStatements,
    lease: &'a mut Lease,
    table: &'a StatementTable,
    /// The settings by which statements are read now.
    reading: &'a str,
    client: u64,
    limit: u32,
    /// A response has to be left out or made: the queue is needed.
    edited: &'a mut bool,
    /// A statement is prepared on the way.
    adds_parse: bool,
    /// The portal that was bound last has been described.
    is_described: bool,
    /// So was every portal that is executed: the client learns what columns it gets.
    describes_all: bool,
}

impl Edit<'_> {
    fn message(&mut self, frame: sluice_wire::frame::Frame<'_>) {
        match frame.tag {
            b'P' => {
                if let Some(parse) = Parse::read(frame.body) {
                    self.parse(&parse, frame.raw);
                }
            }
            b'B' => {
                if let Some(bind) = Bind::read(frame.body) {
                    self.bind(&bind, frame.raw);
                }
            }
            b'D' => self.describe(frame),
            b'C' => self.close(frame),
            b'E' => {
                self.describes_all &= self.is_described;
                self.pass(frame.raw, Reply::Execute);
            }
            b'S' => self.pass(frame.raw, Reply::Sync),
            _ => self.out.extend_from_slice(frame.raw),
        }
    }

    fn pass(&mut self, raw: &[u8], reply: Reply) {
        self.out.extend_from_slice(raw);
        self.replies.push(reply);
    }

    /// A response that is not simply passed on.
    fn special(&mut self, reply: Reply) {
        *self.edited = true;
        self.replies.push(reply);
    }

    fn parse(&mut self, parse: &Parse<'_>, raw: &[u8]) {
        self.lease.counters.client_parse_count += u64::from(self.limit > 0);
        if parse.name.is_empty() {
            self.statements.set_unnamed(parse.tail);
            self.lease.unnamed = self.unnamed();
        }
        if parse.name.is_empty() || self.limit == 0 {
            return self.pass(raw, Reply::Parse { statement: None });
        }
        if self.statements.has(parse.name) {
            return self.parse_taken(parse, raw);
        }
        let prepared = self.table.intern(parse.tail, self.reading);
        self.statements.insert(parse.name, prepared.clone());
        if self.lease.has_statement(prepared.id) {
            return self.special(Reply::LocalParse);
        }
        self.prepare(&prepared);
        // If it fails, the server does not have it.
        self.special(Reply::Parse { statement: Some(prepared.id) });
    }

    /// The name is taken: the server is asked for what it can't do, so that it says so in its turn.
    fn parse_taken(&mut self, parse: &Parse<'_>, raw: &[u8]) {
        match self.ensure(parse.name) {
            Some(name) => {
                message::parse(self.out, &name, parse.tail);
                self.replies.push(Reply::Parse { statement: None });
            }
            None => self.pass(raw, Reply::Parse { statement: None }),
        }
    }

    /// Sends the Parse of a statement under its own name, and a Close of what has to go for it.
    fn prepare(&mut self, prepared: &Prepared) {
        self.adds_parse = true;
        if let Some(evicted) = self.lease.add_statement(prepared.id, self.limit) {
            message::close_statement(self.out, &statement_name(evicted));
            self.special(Reply::OurClose { statement: evicted });
        }
        message::parse(self.out, &statement_name(prepared.id), &prepared.tail);
        self.lease.counters.server_parse_count += 1;
    }

    /// Makes sure that the server has a statement of the client's; its name there.
    fn ensure(&mut self, name: &[u8]) -> Option<[u8; 15]> {
        let prepared: Arc<Prepared> = self.statements.named.get(name)?.clone();
        if !self.lease.has_statement(prepared.id) {
            self.prepare(&prepared);
            self.special(Reply::OurParse { statement: Some(prepared.id) });
        }
        Some(statement_name(prepared.id))
    }

    /// The unnamed statement, should another client's (or none) be on this server. Its name there.
    fn ensure_unnamed(&mut self) -> &'static [u8] {
        let Some(tail) = &self.statements.unnamed else { return NOBODYS };
        let unnamed = self.unnamed();
        if self.lease.unnamed != unnamed {
            self.adds_parse = true;
            message::parse(self.out, b"", tail);
            self.special(Reply::OurParse { statement: None });
            self.lease.unnamed = unnamed;
        }
        b""
    }

    fn unnamed(&self) -> Unnamed {
        Unnamed { client: self.client, number: self.statements.unnamed_number }
    }

    /// A name that the client's protocol-level statements don't have: one that it prepared with SQL, or nothing.
    fn other<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        if statement_number(name).is_some() { NOBODYS } else { name }
    }

    fn bind(&mut self, bind: &Bind<'_>, raw: &[u8]) {
        self.is_described = false;
        if bind.statement.is_empty() {
            let name = self.ensure_unnamed();
            message::bind(self.out, bind.portal, name, bind.tail);
            return self.replies.push(Reply::Bind);
        }
        if self.limit == 0 {
            return self.pass(raw, Reply::Bind);
        }
        self.lease.counters.bind_count += 1;
        match self.ensure(bind.statement) {
            Some(name) => message::bind(self.out, bind.portal, &name, bind.tail),
            None => message::bind(self.out, bind.portal, self.other(bind.statement), bind.tail),
        }
        self.replies.push(Reply::Bind);
    }

    fn describe(&mut self, frame: sluice_wire::frame::Frame<'_>) {
        match Named::read(frame.body) {
            Some(Named::Statement(b"")) => {
                let name = self.ensure_unnamed();
                message::describe_statement(self.out, name);
                self.replies.push(Reply::DescribeStatement);
            }
            Some(Named::Statement(name)) if self.limit > 0 => {
                match self.ensure(name) {
                    Some(name) => message::describe_statement(self.out, &name),
                    None => message::describe_statement(self.out, self.other(name)),
                }
                self.replies.push(Reply::DescribeStatement);
            }
            Some(Named::Statement(_)) => self.pass(frame.raw, Reply::DescribeStatement),
            _ => {
                self.is_described = true;
                self.pass(frame.raw, Reply::DescribePortal);
            }
        }
    }

    fn close(&mut self, frame: sluice_wire::frame::Frame<'_>) {
        match Named::read(frame.body) {
            Some(Named::Statement(name)) if self.limit > 0 => {
                if name.is_empty() {
                    self.statements.unnamed = None;
                    self.lease.unnamed = Unnamed::default();
                }
                let of_sql = str::from_utf8(name).ok().and_then(|name| self.statements.sql.remove(name));
                if of_sql.is_some_and(|prepared| prepared.text.is_none()) {
                    // It is on this server only.
                    return self.pass(frame.raw, Reply::Close);
                }
                self.statements.remove(name);
                self.special(Reply::LocalClose);
            }
            _ => self.pass(frame.raw, Reply::Close),
        }
    }
}
