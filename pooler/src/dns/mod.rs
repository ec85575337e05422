//! Names of servers: looked up when a connection needs them, kept for `dns_max_ttl`, several addresses taken in turn.
//!
//! - [`resolver`]: who is asked;
//! - `zones`: `dns_zone_check_period`, for changes that shall not wait for that long.
//!
//! An answer's own time to live is not used, as in PgBouncer. Servers on an address that a later answer lacks are closed when
//! they are next free.

mod resolver;
mod zones;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::config::Settings;
use crate::lock::lock;
use crate::net::{Address, Io, Peer, TcpOptions};
use crate::registry::Registry;
use crate::stats::Counted;

pub use self::resolver::LookupError;
use self::resolver::Resolver;
pub use self::zones::ZoneView;
use self::zones::Zones;

/// A name that nobody has asked for since its answer ended is forgotten after this long.
const KEEP_UNUSED: Duration = Duration::from_secs(3600);

/// All names that are known, and who is asked for others.
#[derive(Debug)]
pub struct Dns {
    resolver: Resolver,
    registry: Arc<Registry>,
    times: Mutex<Times>,
    names: Mutex<BTreeMap<String, Arc<Name>>>,
    zones: Zones,
    queries: AtomicU32,
    waiting: AtomicU32,
}

/// The settings that RELOAD may change.
#[derive(Debug, Clone, Copy)]
struct Times {
    max_ttl: Duration,
    failure_ttl: Duration,
    zone_check_period: Duration,
}

/// One name.
#[derive(Debug, Default)]
struct Name {
    answer: Mutex<Option<Answer>>,
    /// Held while it is looked up: others wait for that answer.
    lookup: tokio::sync::Mutex<()>,
    /// Whose turn it is among the addresses.
    turn: AtomicUsize,
}

#[derive(Debug, Clone)]
struct Answer {
    result: Result<Arc<[IpAddr]>, LookupError>,
    until: Instant,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    #[error("server DNS lookup failed")]
    Lookup(#[source] LookupError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A row of SHOW DNS_HOSTS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView {
    pub name: String,
    /// How long the answer still holds.
    pub ttl: Duration,
    /// None if the lookup failed.
    pub addresses: Vec<IpAddr>,
}

/// For SHOW LISTS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub names: usize,
    pub zones: usize,
    /// Under way.
    pub queries: u32,
    /// Connections that wait for an answer.
    pub pending: u32,
}

impl Dns {
    /// Reads `resolv_conf`, if the settings name one.
    pub fn new(settings: &Settings, registry: Arc<Registry>) -> io::Result<Self> {
        let file = Some(settings.resolv_conf.as_path()).filter(|path| *path != Path::new(""));
        Ok(Self {
            resolver: Resolver::new(file)?,
            registry,
            times: Mutex::new(Times::of(settings)),
            names: Mutex::default(),
            zones: Zones::default(),
            queries: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
        })
    }

    /// RELOAD. Answers that are known keep the time that they were given.
    pub fn follow(&self, settings: &Settings) {
        *lock(&self.times) = Times::of(settings);
    }

    /// Opens a connection: to the address whose turn it is, or if that fails to the next ones. The caller sets the deadline.
    pub async fn connect(&self, address: &Address, options: &TcpOptions) -> Result<(Io, Peer), ConnectFailure> {
        let (host, port) = match address {
            Address::Tcp { host, port } => (host, *port),
            Address::Unix(path) => return Ok(Io::connect_unix(path).await?),
        };
        let mut failure = io::ErrorKind::AddrNotAvailable.into();
        for ip in self.addresses(host).await.map_err(ConnectFailure::Lookup)? {
            match Io::connect_tcp(SocketAddr::new(ip, port), options).await {
                Ok(connected) => return Ok(connected),
                Err(error) => failure = error,
            }
        }
        Err(failure.into())
    }

    /// All addresses of a host, the one whose turn it is first. At least one.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let name = lock(&self.names).entry(host.to_owned()).or_default().clone();
        let answer = match name.fresh() {
            Some(answer) => answer,
            None => self.look_up(host, &name).await,
        };
        let mut addresses = answer.result?.to_vec();
        let turn = name.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
        addresses.rotate_left(turn);
        Ok(addresses)
    }

    /// Asks for a name, unless somebody else has just done so.
    async fn look_up(&self, host: &str, name: &Name) -> Answer {
        let _waiting = Counted::new(&self.waiting);
        let _lookup = name.lookup.lock().await;
        if let Some(answer) = name.fresh() {
            return answer;
        }
        let result = {
            let _query = Counted::new(&self.queries);
            self.resolver.addresses(host).await
        };
        let times = *lock(&self.times);
        let ttl = match &result {
            Ok(addresses) => {
                self.leave_all_but(host, addresses);
                times.max_ttl
            }
            Err(error) => {
                tracing::warn!("DNS lookup failed: {host}: result={}", error.code);
                tracing::debug!("DNS lookup failed: {host}: {error}");
                times.failure_ttl
            }
        };
        let answer = Answer { result, until: Instant::now() + ttl };
        *lock(&name.answer) = Some(answer.clone());
        answer
    }

    /// Servers of this name that are elsewhere are closed when they are next free.
    fn leave_all_but(&self, host: &str, addresses: &[IpAddr]) {
        for server in self.registry.servers() {
            let named = matches!(&server.address, Address::Tcp { host: name, .. } if name == host);
            let elsewhere = matches!(server.peer, Peer::Tcp(peer) if !addresses.contains(&peer.ip()));
            if named && elsewhere && !server.close_needed.swap(true, Ordering::Relaxed) {
                tracing::info!("{host} is no longer at {}: its server is closed when it is free", server.peer);
            }
        }
    }

    /// Upkeep, now and then: forgets what nobody uses, and sees to the zones.
    pub fn tend(self: &Arc<Self>) {
        let now = Instant::now();
        lock(&self.names).retain(|_, name| {
            let answer = lock(&name.answer);
            Arc::strong_count(name) > 1 || answer.as_ref().is_none_or(|answer| answer.until + KEEP_UNUSED > now)
        });
        self.tend_zones(now);
    }

    pub fn hosts(&self) -> Vec<HostView> {
        let now = Instant::now();
        let names = lock(&self.names);
        let views = names.iter().filter_map(|(host, name)| {
            let answer = lock(&name.answer).clone()?;
            let addresses = answer.result.map_or_else(|_| Vec::new(), |addresses| addresses.to_vec());
            Some(HostView { name: host.clone(), ttl: answer.until.saturating_duration_since(now), addresses })
        });
        views.collect()
    }

    pub fn counts(&self) -> Counts {
        // Each lock is given back before the next is taken.
        let names = lock(&self.names).len();
        let zones = self.zones().len();
        Counts {
            names,
            zones,
            queries: self.queries.load(Ordering::SeqCst),
            pending: self.waiting.load(Ordering::SeqCst),
        }
    }
}

impl Times {
    fn of(settings: &Settings) -> Self {
        Self {
            max_ttl: settings.dns_max_ttl,
            failure_ttl: settings.dns_nxdomain_ttl,
            zone_check_period: settings.dns_zone_check_period,
        }
    }
}

impl Name {
    fn fresh(&self) -> Option<Answer> {
        lock(&self.answer).clone().filter(|answer| answer.until > Instant::now())
    }
}
