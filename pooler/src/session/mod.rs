//! One client's session, from its first request to its end. The login before it is the listener's.
//!
//! Read in this order: [`request`] (what a request holds and where it may run; [`batch`] for several messages), [`run`] (the
//! loop: read, decide, send, relay), [`steps`] (the head of the input), [`send`] (to the right server), [`wait`] (if none is
//! free), [`settle`] (after the answer) and [`effects`] (what it has done to the session). Then what is off the ordinary way:
//! [`transaction`] (what has to be remembered), [`control`] (BEGIN and its kin), [`checkout`] and [`ready`] (a server, and its
//! settings), [`refuse`] (errors),
//! [`everywhere`] (all shards), [`copy`] (rows to their shards), [`extended`], [`prepared`] and [`sql_prepared`] (named
//! statements), [`replan`] (those that are out of date), [`listen`], [`straight`] (session pooling), [`path`] and [`encoding`].
//!
//! A session owns its servers inside [`Link`]'s variants: none while it is idle, one while a request or a transaction on
//! one server runs, several in a transaction over several shards.

mod batch;
mod checkout;
mod control;
mod copy;
mod effects;
pub mod encoding;
mod everywhere;
mod extended;
mod listen;
mod path;
pub mod prepared;
mod ready;
mod refuse;
mod replan;
mod request;
pub mod run;
mod send;
mod settle;
mod sql_prepared;
mod steps;
mod straight;
mod transaction;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use sluice_router::{Router, SearchPath};

use self::prepared::{ClientStatements, StatementTable};
pub(crate) use self::ready::make_ready;
use self::transaction::{Effect, TransactionLog};
use self::wait::Waiting;
use crate::catalogs::Catalogs;
use crate::executor::relay::Flow;
use crate::executor::two_phase::Participant;
use crate::net::Io;
use crate::pool::Lease;
use crate::registry::ClientHandle;
use crate::upstream::Upstream;
use crate::vars::{Vars, VarsTable};

/// What all sessions share.
pub struct Shared {
    pub router: Router,
    pub vars: Arc<VarsTable>,
    pub statements: StatementTable,
    pub catalogs: Catalogs,
}

/// Settings of one session, fixed at its login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `None` = wait for ever.
    pub query_wait_timeout: Option<Duration>,
    /// A queued client is told so after this long; zero = never.
    pub query_wait_notify: Duration,
    pub max_packet_size: u32,
    pub max_prepared_statements: u32,
    /// `disable_pqexec`: a simple query ends the session.
    pub refuses_simple: bool,
    /// `log_pooler_errors`.
    pub log_errors: bool,
    pub log_disconnections: bool,
}

/// The servers that a session holds.
enum Link {
    None,
    /// One server, for a request, for an open pipeline, or because the session is pinned to it.
    One(Lease),
    Transaction(Box<Transaction>),
}

impl Link {
    /// The server that runs the request.
    #[inline]
    fn server_mut(&mut self) -> Option<&mut Lease> {
        match self {
            Self::None => None,
            Self::One(lease) => Some(lease),
            Self::Transaction(transaction) => {
                transaction.participants.get_mut(transaction.active).map(|participant| &mut participant.lease)
            }
        }
    }
}

/// A transaction block. Its servers are enlisted when a statement first needs them.
struct Transaction {
    log: TransactionLog,
    participants: Vec<Participant>,
    /// The participant that the last statement ran on.
    active: usize,
    /// Failed by an error of ours or on one of several servers: only a rollback goes on.
    failed: bool,
    /// Began in a way that can't be repeated on another server (inside a pipeline or a function).
    opaque: bool,
    /// Where cursors were declared.
    cursors: Vec<(Box<str>, sluice_router::ShardId)>,
}

/// A logged-in client.
pub struct Session {
    io: Io,
    client: ClientHandle,
    upstream: Arc<Upstream>,
    shared: Arc<Shared>,
    limits: Arc<Limits>,
    link: Link,
    flow: Flow,
    /// What was read and not yet dealt with. Empty for an idle client.
    input: Vec<u8>,
    /// The client's settings, outside a transaction, and those that it came with.
    vars: Arc<Vars>,
    base_vars: Arc<Vars>,
    statements: Option<Box<ClientStatements>>,
    /// What the request on its way will have done to the session.
    pending: Option<Box<Pending>>,
    path: SearchPath,
    /// The search_path was set in a way that we don't understand: statements that need it are refused.
    path_unknown: bool,
    /// The server can't be shared until what keeps it is gone.
    pinned: bool,
    /// A request is decided and waits for a server.
    waiting: Option<Box<Waiting>>,
    /// A request is on its way to a server; its responses are being relayed.
    relaying: bool,
    /// The request was decided anew, because its server reads string constants otherwise than was thought.
    reread: bool,
    /// A pipeline's end (Sync) is still to come: its server stays.
    open: bool,
    /// After an error of ours in a batch: messages are ignored up to Sync.
    skip_to_sync: bool,
    /// `request_at` and `transaction_at` count. An `Option` of either would take its space twice, for every idle client.
    is_timed: bool,
    is_transaction_timed: bool,
    request_at: quanta::Instant,
    transaction_at: quanta::Instant,
}

/// Consequences of a request, drawn when its responses have arrived.
#[derive(Default)]
struct Pending {
    effects: Vec<Effect>,
    pins: bool,
    may_unpin: bool,
    opaque: bool,
}

/// How a session ended.
#[derive(Debug)]
pub enum End {
    /// Terminate, or the socket closed.
    Client(String),
    /// We ended it; the client was told why.
    Us(String),
}

impl Session {
    fn age(&self) -> Duration {
        self.client.connected_at().elapsed().unwrap_or_default()
    }
}
