//! Who is asked for names: the system (`getaddrinfo`, with all that nsswitch.conf says), or the name servers of `resolv_conf`
//! after `/etc/hosts`.
//!
//! Zones are asked of name servers either way, as the system has no question for them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;

const SYSTEM_FILE: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;

/// A name that could not be looked up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct LookupError {
    /// By the numbers of c-ares, as PgBouncer's log has them.
    pub code: u8,
    text: String,
}

/// The numbers of c-ares.
mod code {
    pub const NO_DATA: u8 = 1;
    pub const SERVER_FAILED: u8 = 3;
    pub const NOT_FOUND: u8 = 4;
    pub const REFUSED: u8 = 6;
    pub const CONNECTION_REFUSED: u8 = 11;
    pub const TIMEOUT: u8 = 12;
}

pub struct Resolver {
    /// Of `resolv_conf`.
    own: Option<TokioResolver>,
    /// Of the system's file, once a zone is asked for; `None` if that file is of no use.
    system: OnceLock<Option<TokioResolver>>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("own", &self.own.is_some()).finish_non_exhaustive()
    }
}

impl Resolver {
    pub fn new(resolv_conf: Option<&Path>) -> io::Result<Self> {
        Ok(Self { own: resolv_conf.map(read).transpose()?, system: OnceLock::new() })
    }

    /// At least one address, each only once.
    pub async fn addresses(&self, host: &str) -> Result<Arc<[IpAddr]>, LookupError> {
        let mut addresses = Vec::new();
        match &self.own {
            None => {
                let found = tokio::net::lookup_host((host, 0)).await;
                let found = found.map_err(|error| LookupError { code: code::NOT_FOUND, text: error.to_string() })?;
                addresses.extend(found.map(|address| address.ip()));
            }
            Some(resolver) => addresses.extend(resolver.lookup_ip(host).await?.iter()),
        }
        let mut known = std::collections::HashSet::new();
        addresses.retain(|address| known.insert(*address));
        if addresses.is_empty() {
            return Err(LookupError { code: code::NO_DATA, text: "the name has no address".to_owned() });
        }
        Ok(addresses.into())
    }

    /// The serial number of the zone that a name is in; `None` if nobody tells.
    pub async fn serial(&self, name: &str) -> Option<u32> {
        let resolver = match &self.own {
            Some(resolver) => resolver,
            None => self.system.get_or_init(system).as_ref()?,
        };
        match resolver.lookup(format!("{name}."), RecordType::SOA).await {
            Ok(lookup) => lookup.answers().iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(soa.serial),
                _ => None,
            }),
            // No zone begins here; the answer names the one around it.
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => none.soa.map(|record| record.data.serial),
            Err(error) => {
                tracing::debug!("zone {name}: {error}");
                None
            }
        }
    }
}

fn system() -> Option<TokioResolver> {
    let read = read(Path::new(SYSTEM_FILE));
    read.inspect_err(|error| tracing::warn!("dns_zone_check_period: {SYSTEM_FILE}: {error}")).ok()
}

/// Name servers may have ports (`127.0.0.1:5353`), as c-ares has it.
fn read(path: &Path) -> io::Result<TokioResolver> {
    let text = std::fs::read_to_string(path)?;
    let mut servers = Vec::new();
    let mut others = String::new();
    for line in text.lines() {
        match line.trim().strip_prefix("nameserver").filter(|rest| rest.starts_with([' ', '\t'])) {
            Some(address) => servers.push(name_server(address.trim())?),
            None => others.extend([line, "\n"]),
        }
    }
    if servers.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it names no name server"));
    }
    // The parser wants one.
    others.push_str("nameserver 127.0.0.1\n");
    let (config, mut options) = parse_resolv_conf(others).map_err(io::Error::other)?;
    // How long answers are kept, `Dns` decides.
    options.cache_size = 0;
    options.positive_max_ttl = Some(Duration::ZERO);
    options.negative_max_ttl = Some(Duration::ZERO);
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    let config = ResolverConfig::from_parts(config.domain().cloned(), config.search().to_vec(), servers);
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
    builder.build().map_err(io::Error::other)
}

fn name_server(text: &str) -> io::Result<NameServerConfig> {
    let single = text.parse().map(|ip| SocketAddr::new(ip, DNS_PORT));
    let address = single.or_else(|_| text.parse::<SocketAddr>()).map_err(|_| {
        let text = format!("name server \"{text}\" is neither ADDRESS nor ADDRESS:PORT");
        io::Error::new(io::ErrorKind::InvalidData, text)
    })?;
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    server.connections.iter_mut().for_each(|connection| connection.port = address.port());
    Ok(server)
}

impl From<NetError> for LookupError {
    fn from(error: NetError) -> Self {
        let code = match &error {
            NetError::Timeout => code::TIMEOUT,
            NetError::NoConnections | NetError::Io(_) => code::CONNECTION_REFUSED,
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NoError => code::NO_DATA,
                ResponseCode::Refused => code::REFUSED,
                ResponseCode::ServFail => code::SERVER_FAILED,
                _ => code::NOT_FOUND,
            },
            NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => code::REFUSED,
            NetError::Dns(DnsError::ResponseCode(ResponseCode::NXDomain)) => code::NOT_FOUND,
            _ => code::SERVER_FAILED,
        };
        Self { code, text: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> io::Result<TokioResolver> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path())
    }

    #[test]
    fn name_servers_may_have_ports() {
        for (text, port) in [("127.0.0.1", 53), ("::1", 53), ("127.0.0.1:5353", 5353), ("[::1]:5353", 5353)] {
            let server = name_server(text).unwrap();
            assert!(server.connections.iter().all(|connection| connection.port == port), "{text}");
            assert_eq!(server.connections.len(), 2, "{text}");
        }
        assert!(name_server("dns.example.com").is_err());
    }

    #[test]
    fn a_file_needs_a_name_server_and_may_have_more() {
        let resolver =
            read_text("# ours\nnameserver 192.0.2.53\nsearch example.com\noptions timeout:1 attempts:1\n").unwrap();
        assert_eq!(resolver.options().timeout, Duration::from_secs(1));
        assert!(read_text("search example.com\n").unwrap_err().to_string().contains("no name server"));
        assert!(read_text("nameserver nowhere\n").is_err());
    }

    #[tokio::test]
    async fn the_system_knows_this_computer() {
        let addresses = Resolver::new(None).unwrap().addresses("localhost").await.unwrap();
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    }
}
