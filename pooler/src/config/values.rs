//! The types of settings: how each is read from text and shown again.

use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

/// A type that a setting can have. `parse` gets the value as it stands in the file, trimmed; errors say what a good
/// value looks like. `show` is `None` for a value that is unset (SHOW CONFIG's NULL).
pub(super) trait Value: Sized {
    fn parse(text: &str) -> Result<Self, String>;
    fn show(&self) -> Option<String>;
}

/// When a server is given back: PgBouncer's pool modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// When the client disconnects.
    Session,
    /// When the transaction ends.
    Transaction,
    /// After each statement; transaction blocks are refused.
    Statement,
}

/// How clients are authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthType {
    /// Not at all; the entry's forced user is used.
    Any,
    /// Known users without a proof.
    Trust,
    /// Clear-text password.
    Plain,
    /// MD5 hash, or SCRAM where the secret is a SCRAM verifier.
    Md5,
    /// TLS client certificate.
    Cert,
    /// By the rules of `auth_hba_file`.
    Hba,
    /// By an LDAP server.
    Ldap,
    /// By PAM.
    Pam,
    /// SCRAM-SHA-256.
    ScramSha256,
}

/// libpq's TLS modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS if the other side wants it.
    Allow,
    /// TLS if the other side can.
    Prefer,
    /// TLS or nothing.
    Require,
    /// And the certificate's chain is verified.
    VerifyCa,
    /// And its name.
    VerifyFull,
}

impl SslMode {
    /// Without TLS there is no connection.
    pub fn is_required(self) -> bool {
        self.is_verified() || self == Self::Require
    }

    /// The other side has to show a certificate of a known authority.
    pub fn is_verified(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

/// How libpq, and so we, get into TLS with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SslNegotiation {
    /// The server is asked first, by an SSLRequest.
    Postgres,
    /// At once; PostgreSQL understands that since version 17.
    Direct,
}

/// What a list of hosts in a `[databases]` entry means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadBalanceHosts {
    /// Each new server connection takes the next host.
    RoundRobin,
    /// Stay with one host until a connection fails.
    Disable,
}

/// Facilities of syslog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyslogFacility {
    User = 1,
    Daemon = 3,
    Auth = 4,
    AuthPriv = 10,
    Local0 = 16,
    Local1,
    Local2,
    Local3,
    Local4,
    Local5,
    Local6,
    Local7,
}

/// Gives an enum its names; they compare without regard to case.
macro_rules! names {
    ($type:ident: $($variant:ident = $name:literal),*) => {
        impl $type {
            /// The value's name in the configuration file.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl Value for $type {
            fn parse(text: &str) -> Result<Self, String> {
                [$(($name, Self::$variant)),*]
                    .into_iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case(text))
                    .map(|(_, value)| value)
                    .ok_or_else(|| format!("must be one of: {}", [$($name),*].join(", ")))
            }

            fn show(&self) -> Option<String> {
                Some(self.name().to_owned())
            }
        }
    };
}

names!(PoolMode: Session = "session", Transaction = "transaction", Statement = "statement");
names!(AuthType: Any = "any", Trust = "trust", Plain = "plain", Md5 = "md5", Cert = "cert", Hba = "hba",
    Ldap = "ldap", Pam = "pam", ScramSha256 = "scram-sha-256");
names!(SslMode: Disable = "disable", Allow = "allow", Prefer = "prefer", Require = "require",
    VerifyCa = "verify-ca", VerifyFull = "verify-full");
names!(SslNegotiation: Postgres = "postgres", Direct = "direct");
names!(SyslogFacility: Auth = "auth", AuthPriv = "authpriv", Daemon = "daemon", User = "user", Local0 = "local0",
    Local1 = "local1", Local2 = "local2", Local3 = "local3", Local4 = "local4", Local5 = "local5", Local6 = "local6",
    Local7 = "local7");
names!(LoadBalanceHosts: RoundRobin = "round-robin", Disable = "disable");

/// A comma-separated list. Reads as a slice of its trimmed, non-empty items; shows as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List {
    text: String,
    items: Vec<String>,
}

impl Deref for List {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.items
    }
}

impl List {
    /// Whether `item` is in the list, by exact comparison.
    pub fn has(&self, item: &str) -> bool {
        self.items.iter().any(|known| known == item)
    }
}

impl Value for List {
    fn parse(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        Ok(Self { text: text.to_owned(), items: items.map(str::to_owned).collect() })
    }

    fn show(&self) -> Option<String> {
        Some(self.text.clone())
    }
}

/// Permission bits, written in octal and shown in decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Value for FileMode {
    fn parse(text: &str) -> Result<Self, String> {
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|&mode| mode <= 0o7777)
            .map(Self)
            .ok_or_else(|| "must be an octal number up to 07777".to_owned())
    }

    fn show(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

impl Value for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match number(text) {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            _ => Err("must be 0 or 1".to_owned()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(u8::from(*self).to_string())
    }
}

macro_rules! unsigned {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn parse(text: &str) -> Result<Self, String> {
                number(text)
                    .and_then(|value| value.try_into().ok())
                    .ok_or_else(|| format!("must be a whole number from 0 to {}", Self::MAX))
            }

            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}

unsigned!(u16, u32);

impl Value for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        let decimal = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let seconds = if decimal { text.parse::<f64>().ok() } else { None };
        // Beyond that, microseconds no longer fit the numbers of the statistics.
        let microseconds = seconds.map(|seconds| (seconds * 1e6).round()).filter(|&us| us < 1e18);
        microseconds
            .map(|us| Duration::from_micros(us as u64))
            .ok_or_else(|| "must be a number of seconds without a unit, such as 10 or 0.5".to_owned())
    }

    fn show(&self) -> Option<String> {
        Some(self.as_secs_f64().to_string())
    }
}

impl Value for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn show(&self) -> Option<String> {
        Some(self.clone())
    }
}

impl Value for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::from(text))
    }

    fn show(&self) -> Option<String> {
        Some(self.display().to_string())
    }
}

impl<T: Value> Value for Option<T> {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(None),
            text => T::parse(text).map(Some),
        }
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(T::show)
    }
}

/// A number as C's `strtol` with base 0 reads it: decimal, `0x` hexadecimal or `0` octal. The whole text has to be one.
fn number(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hex) => (16, hex),
        None if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        None => (10, digits),
    };
    // from_str_radix takes a sign of its own, which would be a second one here.
    let unsigned = digits.bytes().all(|b| b.is_ascii_alphanumeric());
    let value = if unsigned { i64::from_str_radix(digits, radix).ok()? } else { return None };
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_c_numbers() {
        for (text, expected) in [
            ("10", Some(10)),
            ("0", Some(0)),
            ("+7", Some(7)),
            ("-7", Some(-7)),
            ("0x10", Some(16)),
            ("0777", Some(511)),
            ("089", None),
            ("10k", None),
            ("1 0", None),
            ("", None),
            ("--1", None),
            ("+-1", None),
            ("0x", None),
            ("0x-1", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(number(text), expected, "{text:?}");
        }
    }

    #[test]
    fn booleans_are_0_and_1() {
        assert_eq!((bool::parse("0"), bool::parse("1")), (Ok(false), Ok(true)));
        for bad in ["true", "on", "yes", "2", "-1", ""] {
            assert_eq!(bool::parse(bad), Err("must be 0 or 1".to_owned()), "{bad}");
        }
    }

    #[test]
    fn unsigned_numbers_have_a_range() {
        assert_eq!(u32::parse("2147483647"), Ok(2_147_483_647));
        assert_eq!(u16::parse("65535"), Ok(65535));
        assert_eq!(u16::parse("65536"), Err("must be a whole number from 0 to 65535".into()));
        assert!(u32::parse("-1").is_err());
    }

    #[test]
    fn times_are_decimal_seconds() {
        assert_eq!(Duration::parse("15"), Ok(Duration::from_secs(15)));
        assert_eq!(Duration::parse("0.333"), Ok(Duration::from_millis(333)));
        assert_eq!(Duration::parse("1.0000004"), Ok(Duration::from_secs(1)));
        for bad in ["-1", "1s", "1e3", "inf", "nan", "", ".", "1.2.3", "99999999999999999999"] {
            assert!(Duration::parse(bad).is_err(), "{bad}");
        }
        let shown = |text| Duration::parse(text).unwrap().show().unwrap();
        assert_eq!((shown("3600"), shown("0.50"), shown("0")), ("3600".into(), "0.5".into(), "0".into()));
    }

    #[test]
    fn names_compare_without_case() {
        assert_eq!(PoolMode::parse("Transaction"), Ok(PoolMode::Transaction));
        assert_eq!(AuthType::parse("SCRAM-SHA-256"), Ok(AuthType::ScramSha256));
        assert_eq!(PoolMode::parse("query"), Err("must be one of: session, transaction, statement".into()));
    }

    #[test]
    fn lists_are_trimmed_and_shown_as_written() {
        let list = List::parse("a , b,,c").unwrap();
        assert_eq!(*list, ["a", "b", "c"]);
        assert_eq!(list.show().unwrap(), "a , b,,c");
        assert!(list.has("b") && !list.has("B"));
        assert!(List::parse("").unwrap().is_empty());
    }

    #[test]
    fn file_modes_are_octal_in_and_decimal_out() {
        assert_eq!(FileMode::parse("0777").unwrap().show().unwrap(), "511");
        assert_eq!(FileMode::parse("770"), Ok(FileMode(0o770)));
        assert!(FileMode::parse("0888").is_err());
        assert!(FileMode::parse("10000").is_err());
    }
}
