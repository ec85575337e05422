//! COPY … FROM STDIN into tables that live on several shards.
//!
//! The rows of a sharded table say where they belong: each goes to its key's shard. Those of a reference table go to all
//! shards. Either way it is one statement: all rows are there afterwards, or none (a two-phase commit where more than one
//! shard got rows).
//!
//! The client is told to send before any shard has seen the statement, because the first row decides which shard that is.
//! What a shard has to say against the statement itself (a missing right, say) the client therefore hears at the end.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};

use sluice_router::copy::{CopyFormat, Destination, RowCutter};
use sluice_router::{ShardId, ShardMap};
use sluice_wire::frame::{Frame, check_client_header, cstr};
use sluice_wire::message::{self, Report};

use super::refuse::lost;
use super::request::MESSAGE_BUDGET;
use super::settle::eviction_report;
use super::{Link, Session};
use crate::net::with_scratch;

/// Rows for one shard are sent on in messages of about this size.
const BATCH: usize = 32 * 1024;
/// What a shard's socket has not taken yet may grow to this; then the client waits.
const BACKLOG: usize = 256 * 1024;

/// Which rows go where.
pub(super) enum Rows {
    /// By the sharding key in this column (from 0) of the statement's.
    ByKey(u16),
    /// All rows to all shards.
    Everywhere,
}

/// How the client ended its data.
enum Ended {
    Done,
    /// CopyFail, and what the client said.
    Failed(String),
}

/// One COPY under way.
struct Copying {
    sql: String,
    map: Arc<ShardMap>,
    /// `None`: all rows to all shards.
    cutter: Option<RowCutter>,
    /// The header line, for shards that join later.
    header: Vec<u8>,
    /// By shard number: rows that are not sent yet; `None` where the COPY has not begun.
    batches: Vec<Option<Vec<u8>>>,
}

impl Session {
    /// Runs the COPY at the head of the input (which is taken off it) and returns its answer.
    pub(super) async fn copy_rows(&mut self, sql: &str, rows: Rows, map: &Arc<ShardMap>) -> Result<Vec<u8>, Report> {
        if self.input.first() != Some(&b'Q') {
            return Err(Report::error(
                "0A000",
                "COPY FROM STDIN over several shards is not supported in the extended protocol",
            )
            .hint("send it as a simple query, as psql and the drivers' COPY functions do"));
        }
        let format = CopyFormat::parse(sql).map_err(|refusal| super::refuse::refusal_report(*refusal, &self.input))?;
        let columns = self.copy_columns(&format, map)?;
        let cutter = match rows {
            Rows::ByKey(column) => {
                let schema = self.schema(map);
                let name = schema.sharding.as_ref().map_or("", |sharding| &sharding.key_column).to_owned();
                Some(RowCutter::new(format, column.into(), &name))
            }
            Rows::Everywhere => None,
        };
        let batches = map.shards().iter().map(|_| None).collect();
        let copying = Copying { sql: sql.to_owned(), map: map.clone(), cutter, header: Vec::new(), batches };
        let own = !matches!(self.link, Link::Transaction(_));
        if own {
            self.begin("BEGIN").await?;
        }
        let result = self.run_copy(copying, columns).await;
        match (result, own) {
            (Ok(count), true) => self.commit(false).await.map(|_| count),
            (Err(report), true) => {
                self.roll_back(false).await;
                Err(report)
            }
            (result, false) => result,
        }
        .map(|count| {
            let mut out = Vec::new();
            message::command_complete(&mut out, &format!("COPY {count}"));
            out
        })
    }

    /// How many columns the data has.
    fn copy_columns(&self, format: &CopyFormat, map: &Arc<ShardMap>) -> Result<usize, Report> {
        if let Some(columns) = format.columns {
            return Ok(columns);
        }
        let schema = self.schema(map);
        let table = schema.sharding.as_ref().and_then(|sharding| {
            let mut named = sharding.tables.iter().filter(|((in_schema, name), _)| {
                **name == *format.table && format.schema.as_deref().is_none_or(|wanted| wanted == in_schema)
            });
            named.next().map(|(_, table)| table.columns.len())
        });
        table.ok_or_else(|| Report::error("42P01", format!("relation \"{}\" does not exist", format.table)))
    }

    async fn run_copy(&mut self, mut copying: Copying, columns: usize) -> Result<u64, Report> {
        // What follows the Query are the rows. It comes back to the head of the input for whoever answers it.
        let length = Frame::first(&self.input).ok().flatten().map_or(0, |frame| frame.raw.len());
        let query: Vec<u8> = self.input.drain(..length).collect();
        let result = self.copy_from_client(&mut copying, columns).await;
        self.input.splice(0..0, query);
        result
    }

    async fn copy_from_client(&mut self, copying: &mut Copying, columns: usize) -> Result<u64, Report> {
        let mut out = Vec::new();
        message::copy_in_response(&mut out, columns);
        self.io.write_all(&out).await.map_err(|error| lost(&error))?;
        let fed = self.feed(copying).await;
        match fed {
            Ok(Ended::Done) => {
                if copying.batches.iter().all(Option::is_none) {
                    // No rows: one shard runs the statement all the same, and says what is wrong with it.
                    let shard = copying.map.any(self.client.id);
                    let first = self.start_copy(shard, &copying.sql, &copying.header).await?;
                    copying.batches[shard.index()] = Some(first);
                }
                self.end_copy(copying, None).await
            }
            Ok(Ended::Failed(reason)) => {
                self.end_copy(copying, Some(&reason)).await?;
                // No shard had begun, so none has complained.
                Err(Report::error("57014", format!("COPY from stdin failed: {reason}")))
            }
            Err(report) => {
                let _ = self.end_copy(copying, Some("the data could not be routed")).await;
                self.skip_copy_data().await?;
                Err(report)
            }
        }
    }

    /// Reads rows and sends them on until the client says that there are no more.
    async fn feed(&mut self, copying: &mut Copying) -> Result<Ended, Report> {
        loop {
            let (tag, body) = self.copy_message().await?;
            match tag {
                b'd' => self.take_rows(copying, &body, false).await?,
                b'c' => {
                    self.take_rows(copying, &[], true).await?;
                    return Ok(Ended::Done);
                }
                b'f' => {
                    let reason = cstr(&body).map_or(&body[..], |(reason, _)| reason);
                    return Ok(Ended::Failed(reason.escape_ascii().to_string()));
                }
                // Flush and Sync mean nothing in here.
                b'H' | b'S' => {}
                _ => return Err(Report::fatal("08P01", "only COPY data may be sent during COPY FROM STDIN")),
            }
        }
    }

    async fn take_rows(&mut self, copying: &mut Copying, data: &[u8], last: bool) -> Result<(), Report> {
        let Some(mut cutter) = copying.cutter.take() else { return self.send_everywhere(copying, data).await };
        cutter.push(data);
        let result = self.take_cut_rows(copying, &mut cutter, last).await;
        copying.cutter = Some(cutter);
        result
    }

    async fn take_cut_rows(&mut self, copying: &mut Copying, cutter: &mut RowCutter, last: bool) -> Result<(), Report> {
        loop {
            let row = if last { cutter.finish() } else { cutter.next_row() };
            let Some(row) = row.map_err(|error| super::refuse::refusal_report(*error.refusal(), &[]))? else {
                return Ok(());
            };
            match row.destination(&copying.map).map_err(|error| super::refuse::refusal_report(*error.refusal(), &[]))? {
                Destination::EveryShard => copying.header = row.raw.to_vec(),
                Destination::Shard(shard) => {
                    let batch = match &mut copying.batches[shard.index()] {
                        Some(batch) => batch,
                        none => none.insert(self.start_copy(shard, &copying.sql, &copying.header).await?),
                    };
                    batch.extend_from_slice(row.raw);
                    if batch.len() >= BATCH {
                        let rows = std::mem::take(batch);
                        self.send_rows(shard, &rows).await?;
                    }
                }
            }
        }
    }

    async fn send_everywhere(&mut self, copying: &mut Copying, data: &[u8]) -> Result<(), Report> {
        for shard in copying.map.clone().shard_ids() {
            if copying.batches[shard.index()].is_none() {
                copying.batches[shard.index()] = Some(self.start_copy(shard, &copying.sql, &[]).await?);
            }
            self.send_rows(shard, data).await?;
        }
        Ok(())
    }

    /// Begins the COPY on a shard; the rows may follow at once. Returns what they begin with.
    async fn start_copy(&mut self, shard: ShardId, sql: &str, header: &[u8]) -> Result<Vec<u8>, Report> {
        let enlisted = matches!(&self.link, Link::Transaction(t) if t.participants.iter().any(|p| p.shard == shard));
        if !enlisted {
            self.enlist(shard).await?;
        }
        if let Link::Transaction(transaction) = &mut self.link
            && let Some(participant) = transaction.participants.iter_mut().find(|p| p.shard == shard)
        {
            participant.wrote = true;
            participant.lease.start(sql).map_err(|error| lost(&error))?;
        }
        Ok(header.to_vec())
    }

    /// Sends rows, and waits if the shard is slower than the client.
    async fn send_rows(&mut self, shard: ShardId, rows: &[u8]) -> Result<(), Report> {
        if rows.is_empty() {
            return Ok(());
        }
        let Link::Transaction(transaction) = &mut self.link else { return Ok(()) };
        let Some(participant) = transaction.participants.iter_mut().find(|p| p.shard == shard) else { return Ok(()) };
        let server = &mut *participant.lease;
        let mut bytes = Vec::with_capacity(rows.len() + 5);
        message::frame(&mut bytes, b'd', |out| out.extend_from_slice(rows));
        server.send(&bytes).map_err(|error| lost(&error))?;
        if server.unsent.len() > BACKLOG {
            let flushed = poll_fn(|cx| server.io.poll_flush(cx, &mut server.unsent)).await;
            flushed.map_err(|error| lost(&error))?;
        }
        Ok(())
    }

    /// Ends the COPY on all shards that have begun it: the number of rows, or the first error. `reason`: it failed.
    async fn end_copy(&mut self, copying: &mut Copying, reason: Option<&str>) -> Result<u64, Report> {
        let mut begun = Vec::new();
        for shard in copying.map.clone().shard_ids() {
            let Some(rows) = copying.batches[shard.index()].take() else { continue };
            if reason.is_none() {
                self.send_rows(shard, &rows).await?;
            }
            begun.push(shard);
        }
        let Link::Transaction(transaction) = &mut self.link else { return Ok(0) };
        let mut end = Vec::new();
        match reason {
            None => message::frame(&mut end, b'c', |_| ()),
            Some(reason) => message::frame(&mut end, b'f', |out| {
                out.extend_from_slice(reason.as_bytes());
                out.push(0);
            }),
        }
        let (mut count, mut copies, mut failed) = (0, 0, None);
        let copiers = |p: &&mut crate::executor::two_phase::Participant| begun.contains(&p.shard);
        for participant in transaction.participants.iter_mut().filter(copiers) {
            participant.lease.send(&end).map_err(|error| lost(&error))?;
        }
        for participant in transaction.participants.iter_mut().filter(copiers) {
            let done = participant.lease.finish(false).await.map_err(|error| lost(&error))?;
            failed = failed.or_else(|| done.failure());
            count += done.tag.strip_prefix("COPY ").and_then(|rows| rows.parse::<u64>().ok()).unwrap_or(0);
            copies += 1;
        }
        match failed {
            Some(report) => Err(report),
            // Each shard counted the same rows.
            None if copying.cutter.is_none() && copies > 0 => Ok(count / copies),
            None => Ok(count),
        }
    }

    /// After an error of ours the client goes on until it has read it.
    async fn skip_copy_data(&mut self) -> Result<(), Report> {
        while !matches!(self.copy_message().await?.0, b'c' | b'f') {}
        Ok(())
    }

    /// The client's next message, taken off the input.
    async fn copy_message(&mut self) -> Result<(u8, Vec<u8>), Report> {
        loop {
            if let Some(header) = sluice_wire::frame::Header::read(&self.input) {
                let header = header.map_err(|error| Report::fatal("08P01", error.to_string()))?;
                check_client_header(header, self.limits.max_packet_size)
                    .map_err(|error| Report::fatal("08P01", error.to_string()))?;
                if header.total > MESSAGE_BUDGET {
                    return Err(Report::fatal("08P01", "message too long"));
                }
                if let Ok(Some(frame)) = Frame::first(&self.input) {
                    let (used, message) = (frame.raw.len(), (frame.tag, frame.body.to_vec()));
                    self.input.drain(..used);
                    return Ok(message);
                }
            }
            self.read_input().await?;
        }
    }

    async fn read_input(&mut self) -> Result<(), Report> {
        poll_fn(|cx| {
            if let Some(eviction) = self.client.poll_eviction(cx.waker()) {
                return Poll::Ready(Err(eviction_report(eviction)));
            }
            let gone = || Report::fatal("08006", "client unexpected eof");
            with_scratch(|scratch| match ready!(self.io.poll_read(cx, scratch)) {
                Ok(0) | Err(_) => Poll::Ready(Err(gone())),
                Ok(count) => {
                    self.input.extend_from_slice(&scratch[..count]);
                    Poll::Ready(Ok(()))
                }
            })
        })
        .await
    }
}
