//! The PROXY protocol: a load balancer says in front of a connection whom it speaks for.
//!
//! Only the addresses of `proxy_protocol_networks` are believed, and those have to send a header: one without would let
//! whoever can reach the proxy pass for it. From then on the connection's peer is the client that the header names, for the
//! log, SHOW CLIENTS, HBA rules and everything else that looks at it.
//! Source of the rules: HAProxy's "The PROXY protocol", versions 1 and 2.

use std::net::SocketAddr;

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use sluice_wire::message::Report;

use super::handshake::{Handshake, Refusal, refuse};
use crate::net::Peer;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header of version 1, the end of its line included.
const V1_LONGEST: usize = 107;
/// What stands before the addresses in version 2: the start, command and version, address family, and a length.
const V2_FIXED: usize = 16;
/// Longest header of version 2 that is accepted. Proxies add some hundred bytes to the addresses at most.
const V2_LONGEST: usize = 4096;
/// Version 2, and the proxy speaks for itself: a health check.
const V2_LOCAL: u8 = 0x20;

/// A header that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Malformed {
    #[error("the connection does not begin with a PROXY protocol header")]
    Missing,
    #[error("the PROXY protocol header is too long")]
    TooLong,
    #[error("the PROXY protocol header is malformed")]
    Content,
}

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    length: usize,
    /// `None`: the proxy speaks for itself, or for somebody who has no IP address.
    client: Option<SocketAddr>,
}

impl Handshake {
    /// Reads the header that a trusted proxy has to send first.
    pub(super) async fn take_proxy_header(&mut self) -> Result<(), Refusal> {
        let Peer::Tcp(proxy) = self.peer else { return Ok(()) };
        if !self.config.settings.proxy_protocol_networks.contains(proxy.ip()) {
            return Ok(());
        }
        loop {
            match parse(&self.input) {
                Ok(Some(header)) => {
                    self.input.drain(..header.length);
                    self.peer = Peer::Tcp(header.client.unwrap_or(proxy));
                    return Ok(());
                }
                Ok(None) => self.read().await?,
                Err(error) => {
                    let report = Report::fatal("08P01", error.to_string());
                    return Err(Some(report.hint("its address is one of proxy_protocol_networks")));
                }
            }
        }
    }

    /// A header where none may be. It would be refused in any case, as no start-up packet begins like that; this says why.
    pub(super) fn refuse_proxy_header(&self) -> Result<(), Refusal> {
        if [V1_START, V2_START].iter().any(|start| self.input.starts_with(&start[..4])) {
            return Err(refuse(
                "08P01",
                "PROXY protocol header from an address that is not in proxy_protocol_networks",
            ));
        }
        Ok(())
    }
}

/// The header at the front of `bytes`; `None` if it isn't all there.
fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some(length) = length(bytes)? else { return Ok(None) };
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    if header.starts_with(V2_START) && header[V2_START.len()] == V2_LOCAL {
        // Whatever else it holds has no meaning.
        return Ok(Some(Header { length, client: None }));
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (parsed, used) = ProxyHeader::parse(header, config).map_err(|_| Malformed::Content)?;
    let client = match parsed.proxied_address() {
        Some(address) if address.protocol == Protocol::Stream => Some(address.source),
        None => None,
        // Nobody reaches a TCP port by datagrams.
        Some(_) => return Err(Malformed::Content),
    };
    if used == length { Ok(Some(Header { length, client })) } else { Err(Malformed::Content) }
}

/// How long the header is, once that can be told.
fn length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(byte, expected)| byte == expected);
    if begins(V2_START) {
        let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else { return Ok(None) };
        let length = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        return if length > V2_LONGEST { Err(Malformed::TooLong) } else { Ok(Some(length)) };
    }
    if !begins(V1_START) {
        return Err(Malformed::Missing);
    }
    match bytes.iter().take(V1_LONGEST).position(|&byte| byte == b'\n') {
        Some(end) => Ok(Some(end + 1)),
        None if bytes.len() < V1_LONGEST => Ok(None),
        None => Err(Malformed::TooLong),
    }
}

#[cfg(test)]
mod tests {
    use proxy_header::ProxiedAddress;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [V2_START, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    /// Parses `header` with something behind it, and all its beginnings.
    fn client_of(header: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
        for length in 0..header.len() {
            assert_eq!(parse(&header[..length]), Ok(None), "{length} of {}", header.escape_ascii());
        }
        let parsed = parse(&[header, b"\0\0\0\x08more"].concat())?.expect("it is complete");
        assert_eq!(parsed.length, header.len());
        Ok(parsed.client)
    }

    #[test]
    fn both_versions_name_clients_of_both_families() {
        for client in ["192.0.2.7:50123", "[2001:db8::7]:50123"] {
            let client: SocketAddr = client.parse().unwrap();
            let header = ProxyHeader::with_address(ProxiedAddress::stream(client, client));
            let mut bytes = [0; 128];
            let length = header.encode_to_slice_v1(&mut bytes).unwrap();
            assert_eq!(client_of(&bytes[..length]), Ok(Some(client)));
            let length = header.encode_to_slice_v2(&mut bytes).unwrap();
            assert_eq!(client_of(&bytes[..length]), Ok(Some(client)));
        }
        assert_eq!(
            client_of(b"PROXY TCP4 192.0.2.7 10.0.0.1 50123 6432\r\n"),
            Ok(Some("192.0.2.7:50123".parse().unwrap()))
        );
    }

    #[test]
    fn a_proxy_may_speak_for_itself_or_for_nobody_in_particular() {
        for header in [
            &b"PROXY UNKNOWN\r\n"[..],
            b"PROXY UNKNOWN 2001:db8::1 2001:db8::2 1 2\r\n",
            &v2(0x20, 0x00, b""),
            &v2(0x20, 0x11, &[1; 12]),
            &v2(0x20, 0x11, b"short"),
            &v2(0x21, 0x00, b"anything"),
            &v2(0x21, 0x31, &[b'/'; 216]),
        ] {
            assert_eq!(client_of(header), Ok(None), "{}", header.escape_ascii());
        }
    }

    #[test]
    fn extensions_are_passed_over() {
        let addresses = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
        let body = [&addresses[..], &[0x02, 0, 4], b"name", &[0x04, 0, 0]].concat();
        assert_eq!(client_of(&v2(0x21, 0x11, &body)), Ok(Some("192.0.2.7:4660".parse().unwrap())));
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_that_shows() {
        assert_eq!(parse(b"\0"), Err(Malformed::Missing));
        assert_eq!(parse(b"PROXZ"), Err(Malformed::Missing));
        assert_eq!(parse(b"\r\n\r\n\x01"), Err(Malformed::Missing));
        assert_eq!(parse(&[b"PROXY ", &[b'x'; 101][..]].concat()), Err(Malformed::TooLong));
        assert_eq!(parse(&v2(0x21, 0x11, &[0; V2_LONGEST])[..V2_FIXED]), Err(Malformed::TooLong));
        for header in [
            &b"PROXY TCP4 192.0.2.7 10.0.0.1 50123\r\n"[..],
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 50123 70000\r\n",
            b"PROXY UNKNOWN\n",
            b"PROXY \n",
            b"PROXY TCP4\r\n",
            &v2(0x21, 0x11, &[1; 11]),
            &v2(0x21, 0x12, &[1; 12]),
            &v2(0x21, 0x41, &[1; 12]),
            &v2(0x22, 0x11, &[1; 12]),
            &v2(0x11, 0x11, &[1; 12]),
        ] {
            assert_eq!(client_of(header), Err(Malformed::Content), "{}", header.escape_ascii());
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64), v2 in proptest::bool::ANY) {
            let _ = parse(&bytes);
            let _ = parse(&[if v2 { V2_START } else { V1_START }, &bytes].concat());
        }
    }
}
