//! The login of a replication client: its server is opened before it is welcomed, so that a refusal of PostgreSQL's answers
//! the login.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sluice_wire::message::Report;
use sluice_wire::startup::Replication;

use super::handshake::{Destination, Handshake, Login, Refusal, refuse};
use super::parameters::Parameters;
use crate::config::Database;
use crate::pool::{CheckoutError, Pool, ReplicationServer, Welcome};
use crate::registry::{ClientHandle, NewClient};
use crate::upstream::Upstream;

impl Handshake {
    /// `options` is the start-up parameter of this name, which the server gets as it is.
    pub(super) async fn log_in_for_replication(
        &mut self,
        database: &Database,
        new: NewClient,
        mut parameters: Parameters,
        options: Option<&str>,
    ) -> Result<Login, Refusal> {
        let user = new.names.user.clone();
        let replication = new.names.replication;
        let upstream = self.app.upstream(&self.config, database, &user).map_err(Some)?;
        let pool = only_pool(&upstream)?.clone();
        parameters.extend(options.map(|options| ("options".to_owned(), options.to_owned())));
        let app = self.app.clone();
        let client = app.registry.add_client(self.id, new);
        let timeout = self.config.query_wait_timeout(database, &user);
        let (server, welcome) = self.own_server(&client, &pool, replication, &parameters, timeout).await?;
        self.welcome(&client, &welcome, &Parameters::new()).await?;
        upstream.count_login();
        Ok(Login { client, to: Destination::Replication { upstream, server } })
    }

    /// Opens the server, unless the client leaves or is told to before.
    async fn own_server(
        &self,
        client: &ClientHandle,
        pool: &Arc<Pool>,
        replication: Replication,
        parameters: &Parameters,
        timeout: Option<Duration>,
    ) -> Result<(ReplicationServer, Welcome), Refusal> {
        let opening = pool.open_for_replication(replication, parameters);
        let opened = async {
            match timeout {
                Some(timeout) => tokio::time::timeout(timeout, opening).await.map_err(|_| waited_in_vain(pool))?,
                None => opening.await,
            }
            .map_err(|error| login_failed(&error))
        };
        tokio::select! {
            opened = opened => opened.map_err(Some),
            refusal = self.interrupted(client) => Err(refusal),
        }
    }

    async fn interrupted(&self, client: &ClientHandle) -> Refusal {
        poll_fn(|cx| {
            if let Some(eviction) = client.poll_eviction(cx.waker()) {
                let (text, sqlstate) = eviction.report();
                return Poll::Ready(refuse(sqlstate, text));
            }
            self.io.poll_gone(cx).map(|()| None)
        })
        .await
    }
}

/// One stream can't come from several servers.
fn only_pool(upstream: &Upstream) -> Result<&Arc<Pool>, Refusal> {
    match upstream.pools() {
        [pool] if !upstream.is_sharded() => Ok(pool),
        _ => Err(Some(
            Report::fatal(
                "0A000",
                format!("database \"{}\" is sharded and cannot be replicated from", upstream.database),
            )
            .hint("replicate from each shard: by an entry of [databases] for it, or directly"),
        )),
    }
}

fn waited_in_vain(pool: &Pool) -> Report {
    Report::fatal("57014", "query_wait_timeout")
        .detail(format!("No server of database \"{}\" became free in time.", pool.key.database))
        .hint("raise default_pool_size or query_wait_timeout, or see SHOW POOLS for what keeps the servers busy")
}

/// PgBouncer's text, with PostgreSQL's SQLSTATE and words.
fn login_failed(error: &CheckoutError) -> Report {
    match error {
        CheckoutError::Removed => Report::fatal("57P01", error.to_string()),
        CheckoutError::Refused(reason) | CheckoutError::Failing(reason) => {
            Report::fatal(reason.sqlstate(), "login failed").detail(reason.to_string())
        }
    }
}
