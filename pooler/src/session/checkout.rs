//! Waiting for a server with nothing decided yet, and what a client hears that waits in vain.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use sluice_router::ShardId;
use sluice_wire::message::Report;

use super::send::unknown_shard;
use super::settle::eviction_report;
use super::wait::queued_notice;
use super::{Link, Session};
use crate::pool::{CheckoutError, Lease};
use crate::registry::ClientState;

/// No deadline: a wait that nothing but its event ends.
const FOREVER: std::time::Duration = std::time::Duration::from_secs(86_400 * 365);

impl Session {
    pub(super) async fn checkout(&mut self, shard: ShardId) -> Result<(), Report> {
        let lease = self.wait_for(shard).await?;
        self.take_one(lease);
        Ok(())
    }

    /// A server of `shard`, waiting in the pool's queue if need be.
    pub(super) async fn wait_for(&mut self, shard: ShardId) -> Result<Lease, Report> {
        let Some(pool) = self.upstream.pool(shard).cloned() else {
            return Err(unknown_shard(shard));
        };
        let began = Instant::now();
        let urgent = matches!(&self.link, Link::Transaction(transaction) if !transaction.participants.is_empty());
        let mut ticket = match pool.checkout(urgent) {
            Ok(Ok(lease)) => return Ok(lease),
            Ok(Err(ticket)) => ticket,
            Err(error) => return Err(self.no_server(shard, &error)),
        };
        self.begin_wait();
        let deadline = self.limits.query_wait_timeout.map(|timeout| began + timeout);
        let mut notify = (!self.limits.query_wait_notify.is_zero()).then(|| began + self.limits.query_wait_notify);
        loop {
            let wake = [deadline, notify].into_iter().flatten().min().unwrap_or_else(|| began + FOREVER);
            tokio::select! {
                biased;
                grant = &mut ticket => {
                    self.client.set_state(ClientState::Active);
                    let mut lease = grant.map_err(|_| Report::fatal("57P01", "database removed"))?
                        .map_err(|error| self.no_server(shard, &error))?;
                    lease.counters.wait_time += began.elapsed().as_micros() as u64;
                    return Ok(lease);
                }
                report = self.interrupted() => return Err(report),
                () = tokio::time::sleep_until(wake.into()) => {
                    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        return Err(self.waited_in_vain(shard));
                    }
                    notify = None;
                    let _ = self.io.write_all(&queued_notice()).await;
                }
            }
        }
    }

    /// The client has gone, or is told to go.
    pub(super) async fn interrupted(&self) -> Report {
        poll_fn(|cx| {
            if let Some(eviction) = self.client.poll_eviction(cx.waker()) {
                return Poll::Ready(eviction_report(eviction));
            }
            self.io.poll_gone(cx).map(|()| Report::fatal("08006", "client unexpected eof"))
        })
        .await
    }

    pub(super) fn waited_in_vain(&self, shard: ShardId) -> Report {
        Report::fatal("57014", "query_wait_timeout")
            .detail(format!("No server of {} became free in time.", self.pool_name(shard)))
            .hint("raise default_pool_size or query_wait_timeout, or see SHOW POOLS for what keeps the servers busy")
    }

    fn pool_name(&self, shard: ShardId) -> String {
        if self.upstream.is_sharded() {
            format!("database \"{}\", shard {shard}", self.upstream.database)
        } else {
            format!("database \"{}\"", self.upstream.database)
        }
    }

    /// In a sharded database the other shards go on, so the session does too.
    pub(super) fn no_server(&self, shard: ShardId, error: &CheckoutError) -> Report {
        let sqlstate = match error {
            CheckoutError::Refused(error) | CheckoutError::Failing(error) => error.sqlstate().to_owned(),
            CheckoutError::Removed => "57P01".to_owned(),
        };
        if !self.upstream.is_sharded() {
            return Report::fatal(&sqlstate, error.to_string());
        }
        let placement = self.upstream.map().placement(shard).clone();
        Report::error(&sqlstate, format!("shard {shard} of database \"{}\" is not available", self.upstream.database))
            .detail(format!(
                "{error} (host {}, port {}, database {})",
                placement.host, placement.port, placement.dbname
            ))
            .hint("Nothing was run. Statements for organizations on other shards go on.")
    }
}
