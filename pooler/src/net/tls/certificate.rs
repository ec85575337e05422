//! What is read out of an X.509 certificate: names, validity, and the hash that binds a login to it.

use std::net::IpAddr;

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// The names in a certificate.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PeerNames {
    /// The subject's CN; `None` if there is none, or more than one, or it is not text.
    pub common_name: Option<String>,
    /// dNSName entries of subjectAltName.
    pub dns: Vec<String>,
    /// iPAddress entries.
    pub ip: Vec<IpAddr>,
}

impl PeerNames {
    /// Reads them. A certificate that can't be read has no names.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        parse(certificate).map_or_else(Self::default, |certificate| Self::read(&certificate))
    }

    fn read(certificate: &X509Certificate<'_>) -> Self {
        let mut common_names = certificate.subject().iter_common_name();
        let common_name = match (common_names.next(), common_names.next()) {
            (Some(name), None) => name.as_str().ok().map(str::to_owned),
            _ => None,
        };
        let mut names = Self { common_name, ..Self::default() };
        let extension = certificate.subject_alternative_name().ok().flatten();
        for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => names.ip.extend(ip_address(bytes)),
                _ => {}
            }
        }
        names
    }

    /// Whether the certificate is that of this host (RFC 6125). As in libpq, the CN counts if there is no subjectAltName.
    pub fn is_host(&self, host: &ServerName<'_>) -> bool {
        let by_common_name = self.dns.is_empty() && self.ip.is_empty();
        let common_name = self.common_name.as_deref().filter(|_| by_common_name);
        match host {
            ServerName::DnsName(host) => {
                let host = host.as_ref().trim_end_matches('.');
                self.dns.iter().map(String::as_str).chain(common_name).any(|name| is_same_host(name, host))
            }
            ServerName::IpAddress(host) => {
                let host = IpAddr::from(*host);
                self.ip.contains(&host) || common_name.and_then(|name| name.parse().ok()) == Some(host)
            }
            _ => false,
        }
    }
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// `*` stands for exactly the first label, of a name that has at least two more.
fn is_same_host(pattern: &str, host: &str) -> bool {
    let pattern = pattern.trim_end_matches('.');
    match pattern.strip_prefix("*.") {
        Some(parent) => {
            let rest = host.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, rest)| rest);
            parent.contains('.') && rest.is_some_and(|rest| rest.eq_ignore_ascii_case(parent))
        }
        None => !pattern.is_empty() && pattern.eq_ignore_ascii_case(host),
    }
}

/// Neither expired nor in the future.
pub(super) fn is_in_time(certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
    let now = i64::try_from(now.as_secs()).ok();
    let Some((certificate, now)) = parse(certificate).zip(now) else { return false };
    let validity = certificate.validity();
    (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
}

/// The channel binding `tls-server-end-point` (RFC 5929, section 4): the certificate's hash, by the hash of its signature, or
/// SHA-256 where that is MD5 or SHA-1. `None` where the signature has no hash of its own (Ed25519): nothing is defined then.
pub fn end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = parse(certificate)?;
    let algorithm = match SignatureAlgorithm::try_from(&parsed.signature_algorithm).ok()? {
        SignatureAlgorithm::RSASSA_PSS(params) => params.hash_algorithm_oid().to_id_string(),
        _ => parsed.signature_algorithm.algorithm.to_id_string(),
    };
    let bytes: &[u8] = certificate;
    match algorithm.as_str() {
        // MD5, SHA-1 and SHA-256 with RSA; SHA-1 and SHA-256 with ECDSA; SHA-1 and SHA-256 in PSS.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2"
        | "1.3.14.3.2.26"
        | "2.16.840.1.101.3.4.2.1" => Some(Sha256::digest(bytes).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => {
            Some(Sha384::digest(bytes).to_vec())
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => {
            Some(Sha512::digest(bytes).to_vec())
        }
        _ => None,
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(certificate).ok().map(|(_, certificate)| certificate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(common_name: &str, dns: &[&str], ip: &[&str]) -> PeerNames {
        PeerNames {
            common_name: Some(common_name.to_owned()),
            dns: dns.iter().map(|&name| name.to_owned()).collect(),
            ip: ip.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }

    fn is_host(names: &PeerNames, host: &str) -> bool {
        names.is_host(&ServerName::try_from(host).unwrap())
    }

    #[test]
    fn a_host_is_named_by_alternative_names_or_else_the_common_name() {
        let alternative = names("old.example.com", &["db.example.com", "*.pool.example.com"], &["10.0.0.1"]);
        for host in ["db.example.com", "DB.example.COM", "a.pool.example.com", "10.0.0.1", "db.example.com."] {
            assert!(is_host(&alternative, host), "{host}");
        }
        for host in ["old.example.com", "pool.example.com", "a.b.pool.example.com", "10.0.0.2", "example.com"] {
            assert!(!is_host(&alternative, host), "{host}");
        }
        assert!(is_host(&names("db", &[], &[]), "db"));
        assert!(is_host(&names("10.0.0.1", &[], &[]), "10.0.0.1"));
        assert!(!is_host(&names("db", &[], &["10.0.0.1"]), "db"));
        assert!(!is_host(&PeerNames::default(), "db"));
    }

    #[test]
    fn a_wildcard_is_one_whole_label_below_a_domain() {
        for (pattern, host) in
            [("*", "db"), ("*.com", "example.com"), ("d*.example.com", "db.example.com"), ("*.", "a.")]
        {
            assert!(!is_same_host(pattern, host), "{pattern} {host}");
        }
    }

    #[test]
    fn rubbish_has_no_names_and_is_never_in_time() {
        let rubbish = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
        assert_eq!(PeerNames::of(&rubbish), PeerNames::default());
        assert!(!is_in_time(&rubbish, UnixTime::now()));
        assert_eq!(end_point(&rubbish), None);
    }
}
