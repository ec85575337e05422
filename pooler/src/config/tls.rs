//! The values of `client_tls_*` and `server_tls_*`: versions and algorithms, as PgBouncer's users write them for OpenSSL.
//!
//! rustls has TLS 1.2 and 1.3 with forward secrecy and authenticated encryption, and nothing older. A list that names more is
//! taken for what is left of it, and refused if that is nothing.

use rustls::{CipherSuite, NamedGroup, SupportedProtocolVersion, version};

use super::values::Value;

/// `*_tls_protocols`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsVersions {
    text: String,
    chosen: u8,
}

const TLS10: u8 = 1;
const TLS11: u8 = 2;
const TLS12: u8 = 4;
const TLS13: u8 = 8;
const ALL: u8 = TLS10 | TLS11 | TLS12 | TLS13;

impl TlsVersions {
    /// Those that rustls has; at least one.
    pub fn supported(&self) -> Vec<&'static SupportedProtocolVersion> {
        let known = [(TLS13, &version::TLS13), (TLS12, &version::TLS12)];
        known.into_iter().filter(|(bit, _)| self.chosen & bit != 0).map(|(_, version)| version).collect()
    }

    /// Whether it also names versions that rustls doesn't have.
    pub fn asks_for_old(&self) -> bool {
        self.chosen & (TLS10 | TLS11) != 0
    }
}

impl Value for TlsVersions {
    fn parse(text: &str) -> Result<Self, String> {
        let mut chosen = 0;
        for word in text.split([',', ':']).map(str::trim) {
            let (negated, name) = word.strip_prefix('!').map_or((false, word), |name| (true, name));
            let bits = match name.to_ascii_lowercase().as_str() {
                "tlsv1.0" => TLS10,
                "tlsv1.1" => TLS11,
                "tlsv1.2" => TLS12,
                "tlsv1.3" => TLS13,
                "tlsv1" | "all" | "legacy" => ALL,
                "secure" | "default" => TLS12 | TLS13,
                _ => return Err(format!("\"{name}\" is no version: use secure, tlsv1.2 or tlsv1.3")),
            };
            if negated {
                // A list that begins with what it excludes means all others.
                chosen = if chosen == 0 { ALL } else { chosen } & !bits;
            } else {
                chosen |= bits;
            }
        }
        if chosen & (TLS12 | TLS13) == 0 {
            return Err("TLS 1.0 and 1.1 are not supported: use secure, tlsv1.2 or tlsv1.3".to_owned());
        }
        Ok(Self { text: text.to_owned(), chosen })
    }

    fn show(&self) -> Option<String> {
        Some(self.text.clone())
    }
}

/// What tells the suites of TLS 1.2 apart in OpenSSL's cipher lists.
struct Suite {
    name: &'static str,
    suite: CipherSuite,
    signature: &'static str,
    cipher: &'static str,
    bits: &'static str,
}

const fn suite(
    name: &'static str,
    suite: CipherSuite,
    signature: &'static str,
    cipher: &'static str,
    bits: &'static str,
) -> Suite {
    Suite { name, suite, signature, cipher, bits }
}

/// The suites of TLS 1.2, strongest first.
const SUITES: [Suite; 6] = [
    suite(
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "ECDSA",
        "AESGCM",
        "AES256",
    ),
    suite(
        "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "aRSA",
        "AESGCM",
        "AES256",
    ),
    suite(
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "ECDSA",
        "CHACHA20",
        "CHACHA20",
    ),
    suite(
        "ECDHE-RSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        "aRSA",
        "CHACHA20",
        "CHACHA20",
    ),
    suite(
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "ECDSA",
        "AESGCM",
        "AES128",
    ),
    suite(
        "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "aRSA",
        "AESGCM",
        "AES128",
    ),
];

/// The suites of TLS 1.3 in their usual order; `None` is one that rustls doesn't have.
const SUITES13: [(&str, Option<CipherSuite>); 5] = [
    ("TLS_AES_256_GCM_SHA384", Some(CipherSuite::TLS13_AES_256_GCM_SHA384)),
    ("TLS_CHACHA20_POLY1305_SHA256", Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256)),
    ("TLS_AES_128_GCM_SHA256", Some(CipherSuite::TLS13_AES_128_GCM_SHA256)),
    ("TLS_AES_128_CCM_SHA256", None),
    ("TLS_AES_128_CCM_8_SHA256", None),
];

/// A suite's name in OpenSSL, which is the one that PgBouncer shows.
pub fn openssl_name(suite: CipherSuite) -> &'static str {
    let tls12 = SUITES.iter().map(|known| (known.name, Some(known.suite)));
    tls12.chain(SUITES13).find(|(_, known)| *known == Some(suite)).map_or("unknown", |(name, _)| name)
}

impl Suite {
    /// Whether one word of a cipher list, such as `ECDHE+AESGCM`, means this suite.
    fn is_meant_by(&self, word: &str) -> bool {
        word == self.name || word.split('+').all(|part| self.has(part))
    }

    fn has(&self, part: &str) -> bool {
        match part {
            "ALL" | "DEFAULT" | "HIGH" | "ECDHE" | "EECDH" | "kECDHE" | "kEECDH" | "TLSv1.2" => true,
            "FIPS" | "AES" => self.cipher == "AESGCM",
            "aECDSA" => self.signature == "ECDSA",
            part => part == self.signature || part == self.cipher || part == self.bits,
        }
    }
}

/// A choice of algorithms, in the order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Preference<T> {
    text: String,
    /// `None`: all, in the library's order.
    chosen: Option<Vec<T>>,
}

impl<T: PartialEq> Preference<T> {
    fn choose<S: Copy>(&self, all: impl IntoIterator<Item = S>, id: impl Fn(S) -> T) -> Vec<S> {
        let all: Vec<S> = all.into_iter().collect();
        match &self.chosen {
            None => all,
            Some(chosen) => {
                chosen.iter().filter_map(|wanted| all.iter().find(|known| id(**known) == *wanted)).copied().collect()
            }
        }
    }
}

/// `*_tls_ciphers`: suites of TLS 1.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CipherList(Preference<CipherSuite>);

/// `*_tls13_ciphers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suites13(Preference<CipherSuite>);

/// `client_tls_ecdhcurve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Curves(Preference<NamedGroup>);

macro_rules! chooses {
    ($type:ident: $item:ident) => {
        impl $type {
            /// Those of `all` that are wanted, in the order in which they are.
            pub fn choose<S: Copy>(&self, all: impl IntoIterator<Item = S>, id: impl Fn(S) -> $item) -> Vec<S> {
                self.0.choose(all, id)
            }
        }
    };
}

chooses!(CipherList: CipherSuite);
chooses!(Suites13: CipherSuite);
chooses!(Curves: NamedGroup);

impl Value for CipherList {
    fn parse(text: &str) -> Result<Self, String> {
        const WHOLE: [&str; 9] = ["", "default", "secure", "normal", "fast", "compat", "legacy", "all", "insecure"];
        if WHOLE.iter().any(|name| name.eq_ignore_ascii_case(text)) {
            return Ok(Self(Preference { text: text.to_owned(), chosen: None }));
        }
        let chosen = cipher_list(text);
        if chosen.is_empty() {
            let names = SUITES.map(|suite| suite.name).join(":");
            return Err(format!("none of these ciphers is supported: use default, or some of {names}"));
        }
        Ok(Self(Preference { text: text.to_owned(), chosen: Some(chosen) }))
    }

    fn show(&self) -> Option<String> {
        Some(self.0.text.clone())
    }
}

/// OpenSSL's list: `X` adds, `!X` forbids, `-X` removes, `+X` moves to the end. Words that mean nothing here are passed over,
/// as OpenSSL does with ciphers that it has been built without.
fn cipher_list(text: &str) -> Vec<CipherSuite> {
    let mut chosen: Vec<&Suite> = Vec::new();
    let mut forbidden: Vec<&str> = Vec::new();
    for word in text.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
        let (operator, name) = match word.split_at_checked(1) {
            Some((operator @ ("!" | "-" | "+"), name)) => (operator, name),
            _ => ("", word),
        };
        let meant = SUITES.iter().filter(|suite| suite.is_meant_by(name));
        match operator {
            "!" => forbidden.extend(meant.map(|suite| suite.name)),
            "-" => chosen.retain(|suite| !suite.is_meant_by(name)),
            "+" => chosen.sort_by_key(|suite| suite.is_meant_by(name)),
            _ => {
                for suite in meant {
                    if !chosen.iter().any(|known| known.name == suite.name) {
                        chosen.push(suite);
                    }
                }
            }
        }
    }
    chosen.retain(|suite| !forbidden.contains(&suite.name));
    chosen.into_iter().map(|suite| suite.suite).collect()
}

impl Value for Suites13 {
    fn parse(text: &str) -> Result<Self, String> {
        let mut chosen = Vec::new();
        for word in text.split(':') {
            match SUITES13.iter().find(|(name, _)| *name == word) {
                Some((_, suite)) => chosen.extend(*suite),
                None => return Err(format!("failed to set the TLSv1.3 cipher suites: \"{word}\" is none")),
            }
        }
        if chosen.is_empty() {
            return Err("failed to set the TLSv1.3 cipher suites: none of them is supported".to_owned());
        }
        Ok(Self(Preference { text: text.to_owned(), chosen: Some(chosen) }))
    }

    fn show(&self) -> Option<String> {
        Some(self.0.text.clone())
    }
}

impl Value for Curves {
    fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("auto") || text.is_empty() {
            return Ok(Self(Preference { text: text.to_owned(), chosen: None }));
        }
        let group = |name: &str| match name.to_ascii_lowercase().as_str() {
            "x25519" => Ok(NamedGroup::X25519),
            "prime256v1" | "secp256r1" | "p-256" => Ok(NamedGroup::secp256r1),
            "secp384r1" | "p-384" => Ok(NamedGroup::secp384r1),
            _ => Err(format!("\"{name}\" is not supported: use auto, X25519, prime256v1 or secp384r1")),
        };
        let chosen: Result<Vec<_>, _> = text.split(':').map(group).collect();
        Ok(Self(Preference { text: text.to_owned(), chosen: Some(chosen?) }))
    }

    fn show(&self) -> Option<String> {
        Some(self.0.text.clone())
    }
}

/// `client_tls_dheparams`: read for its mistakes only, since all key exchange is over elliptic curves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhParams(String);

impl Value for DhParams {
    fn parse(text: &str) -> Result<Self, String> {
        let known = ["none", "auto", "legacy"].iter().any(|name| name.eq_ignore_ascii_case(text));
        if known { Ok(Self(text.to_owned())) } else { Err("must be one of: none, auto, legacy".to_owned()) }
    }

    fn show(&self) -> Option<String> {
        Some(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(text: &str) -> Result<(Vec<u16>, bool), String> {
        let versions = TlsVersions::parse(text)?;
        let numbers = versions.supported().iter().map(|version| u16::from(version.version)).collect();
        Ok((numbers, versions.asks_for_old()))
    }

    #[test]
    fn versions_are_lists_of_what_is_wanted_or_not() {
        const BOTH: [u16; 2] = [0x0304, 0x0303];
        for (text, numbers, old) in [
            ("secure", &BOTH[..], false),
            ("default", &BOTH, false),
            ("all", &BOTH, true),
            ("tlsv1", &BOTH, true),
            ("TLSv1.2", &BOTH[1..], false),
            ("tlsv1.2, tlsv1.3", &BOTH, false),
            ("tlsv1.1:tlsv1.2", &BOTH[1..], true),
            ("!tlsv1.0,!tlsv1.1,!tlsv1.2", &BOTH[..1], false),
            ("secure,!tlsv1.3", &BOTH[1..], false),
        ] {
            assert_eq!(versions(text), Ok((numbers.to_vec(), old)), "{text}");
        }
        assert!(versions("tlsv1.0").unwrap_err().contains("not supported"));
        assert!(versions("sslv3").unwrap_err().contains("no version"));
        assert!(versions("").is_err());
    }

    fn ciphers(text: &str) -> Vec<&'static str> {
        let all = SUITES.map(|suite| suite.suite);
        CipherList::parse(text).unwrap().choose(all, |suite| suite).into_iter().map(openssl_name).collect()
    }

    #[test]
    fn cipher_lists_are_openssls() {
        for whole in
            ["default", "SECURE", "normal", "fast", "HIGH", "HIGH:MEDIUM:+3DES:!aNULL", "ECDHE+AESGCM:CHACHA20"]
        {
            assert_eq!(ciphers(whole).len(), 6, "{whole}");
        }
        assert_eq!(ciphers("ECDHE-RSA-AES128-GCM-SHA256"), ["ECDHE-RSA-AES128-GCM-SHA256"]);
        assert_eq!(ciphers("ECDHE+aRSA+AES256:AES256-SHA"), ["ECDHE-RSA-AES256-GCM-SHA384"]);
        assert_eq!(ciphers("AES128:AES256:!ECDSA"), ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"]);
        assert_eq!(ciphers("ALL:!ECDSA:-CHACHA20:+AES256").last(), Some(&"ECDHE-RSA-AES256-GCM-SHA384"));
        assert!(CipherList::parse("AES128-SHA:3DES").unwrap_err().contains("none of these ciphers"));
    }

    #[test]
    fn suites_of_tls_1_3_are_named_in_full() {
        let chosen = |text| Suites13::parse(text).map(|suites| suites.0.chosen.unwrap_or_default());
        let chacha = CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
        assert_eq!(chosen("TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_CCM_SHA256"), Ok(vec![chacha]));
        for bad in ["HIGH", "TLS_AES_128_CCM_SHA256"] {
            assert!(chosen(bad).unwrap_err().starts_with("failed to set the TLSv1.3 cipher suites"), "{bad}");
        }
    }

    #[test]
    fn curves_and_dh_parameters() {
        let curves = |text| Curves::parse(text).map(|curves| curves.0.chosen);
        assert_eq!(curves("auto"), Ok(None));
        assert_eq!(curves("prime256v1"), Ok(Some(vec![NamedGroup::secp256r1])));
        assert!(curves("none").unwrap_err().contains("not supported"));
        assert!(curves("secp521r1").is_err());
        assert!(DhParams::parse("legacy").is_ok() && DhParams::parse("2048").is_err());
    }
}
