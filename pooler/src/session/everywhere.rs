//! Statements that run on every shard as one: DDL on sharded and reference tables, and writes to reference tables. DDL on
//! home tables goes this way, too, on the home shard alone: the catalog has to know what it has changed.

use std::sync::Arc;

use sluice_router::template::{Action, SchemaChange};
use sluice_router::{Schema, SearchPath, ShardId, ShardMap, Template};
use sluice_wire::frame::{Bind, Frame, Frames, Named, Parse};
use sluice_wire::message::{self, Report};

use super::refuse::{lost, not_together};
use super::request::{Request, Where};
use super::{Link, Session, Transaction};
use crate::executor::two_phase::Participant;
use crate::pool::{Done, Lease};
use crate::registry::ClientHandle;

/// Describe of the unnamed portal, and Execute of it without a row limit.
const DESCRIBE_AND_EXECUTE: &[u8] = b"D\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\0";

/// One statement that several servers run.
pub(super) struct Command {
    pub sql: String,
    /// In the extended protocol: the batch that runs it with its parameters, whatever names the client has given.
    pub messages: Option<Vec<u8>>,
}

impl Command {
    fn start(&self, lease: &mut Lease) -> Result<(), Report> {
        let started = match &self.messages {
            Some(messages) => lease.start_batch(messages),
            None => lease.start(&self.sql),
        };
        started.map_err(|error| lost(&error))
    }
}

impl Session {
    /// Runs a statement on its shards; outside a transaction block, in one of its own.
    pub(super) async fn on_shards(
        &mut self,
        request: &Request,
        command: &Command,
        map: &Arc<ShardMap>,
    ) -> Result<Vec<u8>, Report> {
        if request.controls {
            return Err(not_together());
        }
        let shards: Vec<ShardId> =
            if request.place == Where::Everywhere { map.shard_ids().collect() } else { vec![map.home()] };
        if matches!(self.link, Link::Transaction(_)) {
            return self.in_transaction(&shards, command, map).await;
        }
        self.begin("BEGIN").await?;
        match self.in_transaction(&shards, command, map).await {
            Ok(answer) => self.commit(false).await.map(|_| answer),
            Err(report) => {
                self.roll_back(false).await;
                Err(report)
            }
        }
    }

    async fn in_transaction(
        &mut self,
        shards: &[ShardId],
        command: &Command,
        map: &Arc<ShardMap>,
    ) -> Result<Vec<u8>, Report> {
        let schema = self.schema(map).clone();
        let changes = self.schema_changes(&command.sql, &schema);
        self.check_schemas(&changes)?;
        for &shard in shards {
            let enlisted =
                matches!(&self.link, Link::Transaction(t) if t.participants.iter().any(|p| p.shard == shard));
            if !enlisted {
                self.enlist(shard).await?;
            }
        }
        let Link::Transaction(transaction) = &mut self.link else { return Err(not_together()) };
        let answer = run_on(transaction, &self.client, shards, command).await?;
        if !changes.is_empty() {
            transaction.log.schema = Some(Arc::new(crate::catalogs::with_changes(&schema, &changes)));
            transaction.log.changes.extend(changes);
        }
        Ok(answer)
    }

    fn schema_changes(&self, sql: &str, schema: &Arc<Schema>) -> Vec<SchemaChange> {
        let collect = |template: &Arc<Template>, _: &[_], _: &[u32]| {
            let ddl = template.statements.iter().filter_map(|statement| match &statement.action {
                Action::Ddl(changes) => Some(changes.to_vec()),
                _ => None,
            });
            ddl.flatten().collect()
        };
        self.shared.router.template(schema, self.path, !self.flow.escape_strings, sql.as_bytes(), collect)
    }

    /// A table without a schema's name goes into the first schema of the search_path that exists, which only PostgreSQL
    /// knows: with a path of the session's own it has to be said.
    fn check_schemas(&self, changes: &[SchemaChange]) -> Result<(), Report> {
        let unnamed = changes.iter().find_map(|change| match change {
            SchemaChange::Create { schema: None, name, .. }
            | SchemaChange::Drop { schema: None, name }
            | SchemaChange::Alter { schema: None, name }
            | SchemaChange::Rename { schema: None, name, .. } => Some(name),
            _ => None,
        });
        match unnamed {
            Some(name) if self.path != SearchPath::default() => {
                Err(Report::error("0A000", format!("cannot tell which schema \"{name}\" belongs to"))
                    .detail("The session has a search_path of its own.")
                    .hint("write the schema's name in front of the table's, or RESET search_path"))
            }
            _ => Ok(()),
        }
    }

    /// The tables are changed on the shards; now the catalog, and with it all instances, has to know.
    pub(super) async fn publish(&mut self, changes: Vec<SchemaChange>) -> Result<(), Report> {
        if changes.is_empty() {
            return Ok(());
        }
        Box::pin(self.shared.catalogs.apply(&self.upstream.database, &changes)).await.map_err(|error| {
            Report::error("58000", format!("the shards are changed, but the catalog of database \"{}\" is not: {error}", self.upstream.database))
                .detail("Until the catalog knows the tables, statements that name them are refused.")
                .hint("when the catalog is back, classify the tables in the console: CREATE SHARDED TABLE, CREATE REFERENCE TABLE or CREATE HOME TABLE")
        })
    }

    /// The batch of messages that runs the one statement that `head` binds, under no name.
    pub(super) fn unnamed_batch(&self, head: &[u8]) -> Option<Vec<u8>> {
        let frames = || Frames::new(head).map_while(Result::ok);
        let bind = frames().find(|frame| frame.tag == b'B').and_then(|frame| Bind::read(frame.body))?;
        let parsed = frames().filter(|frame| frame.tag == b'P').filter_map(|frame| Parse::read(frame.body));
        let parsed = parsed.filter(|parse| parse.name == bind.statement).last().map(|parse| parse.tail);
        let tail = parsed.or_else(|| self.statements.as_ref()?.tail(bind.statement))?;
        let mut out = Vec::new();
        message::parse(&mut out, b"", tail);
        message::bind(&mut out, b"", b"", bind.tail);
        out.extend_from_slice(DESCRIBE_AND_EXECUTE);
        out.extend_from_slice(&message::SYNC);
        Some(out)
    }

    /// The answers to an extended-protocol batch whose one statement has run: `answer` holds what describes its rows, and
    /// what belongs to its Execute. Statements that the batch prepares or closes are remembered, although no server has
    /// seen them.
    pub(super) fn extended_answer(&mut self, head: &[u8], answer: &[u8]) -> Vec<u8> {
        let frames = || Frames::new(answer).map_while(Result::ok);
        let description = frames().find(|frame| frame.tag == b'T').map_or(&message::NO_DATA[..], |frame| frame.raw);
        let mut out = Vec::new();
        for frame in Frames::new(head).map_while(Result::ok) {
            match frame.tag {
                b'P' => {
                    if let Some(parse) = Parse::read(frame.body) {
                        self.remember_parse(&parse);
                    }
                    out.extend_from_slice(&message::PARSE_COMPLETE);
                }
                b'B' => out.extend_from_slice(&message::BIND_COMPLETE),
                b'C' => {
                    if let (Some(Named::Statement(name)), Some(statements)) =
                        (Named::read(frame.body), &mut self.statements)
                    {
                        statements.named.remove(name);
                    }
                    out.extend_from_slice(&message::CLOSE_COMPLETE);
                }
                b'D' => {
                    if frame.body.first() == Some(&b'S') {
                        out.extend_from_slice(&message::NO_PARAMETERS);
                    }
                    out.extend_from_slice(description);
                }
                b'E' => frames().filter(is_executed).for_each(|frame| out.extend_from_slice(frame.raw)),
                _ => {}
            }
        }
        out
    }
}

/// Belongs to the answer of Execute.
fn is_executed(frame: &Frame<'_>) -> bool {
    matches!(frame.tag, b'D' | b'C' | b'I' | b'N' | b'S')
}

/// The home shard first: statements that would deadlock across shards then queue up there.
async fn run_on(
    transaction: &mut Transaction,
    client: &ClientHandle,
    shards: &[ShardId],
    command: &Command,
) -> Result<Vec<u8>, Report> {
    transaction.participants.sort_by_key(|participant| participant.shard);
    let mut chosen: Vec<&mut Participant> =
        transaction.participants.iter_mut().filter(|participant| shards.contains(&participant.shard)).collect();
    let (home, others) = chosen.split_first_mut().expect("a database has a shard");
    transaction.active = 0;
    home.wrote = true;
    // A cancel request is for the server that is waited for.
    client.link(home.lease.entry.id);
    command.start(&mut home.lease)?;
    let first = home.lease.finish(true).await.map_err(|error| lost(&error))?;
    if let Some(report) = first.failure() {
        return Err(report);
    }
    for other in others.iter_mut() {
        other.wrote = true;
        command.start(&mut other.lease)?;
    }
    let mut failed = None;
    for other in others.iter_mut() {
        client.link(other.lease.entry.id);
        let done = other.lease.finish(false).await.map_err(|error| lost(&error))?;
        failed = failed.or_else(|| done.failure()).or_else(|| differs(&first, &done, other.shard));
    }
    if let Some(report) = failed {
        return Err(report);
    }
    if first.kept_too_long {
        return Err(Report::error("54000", "the statement's result is too long to be compared between shards")
            .hint("leave out RETURNING"));
    }
    Ok(first.kept.unwrap_or_default())
}

/// A statement that ran on all shards must have done the same everywhere.
fn differs(first: &Done, other: &Done, shard: ShardId) -> Option<Report> {
    (first.tag != other.tag).then(|| {
        Report::error("55000", "the shards gave different answers; nothing was changed")
            .detail(format!("Home shard: {}; shard {shard}: {}.", first.tag, other.tag))
            .hint("the table's rows differ between shards: compare them before you write to it again")
    })
}
