//! Options of LDAP authentication: `auth_ldap_options`, and what stands behind method `ldap` in a rule. `key=value` pairs
//! with PostgreSQL's names; values may stand in double quotes.
//!
//! Two ways: with `ldapprefix` or `ldapsuffix`, the user's DN is put together from its name (simple bind); with
//! `ldapbasedn`, the user's entry is searched for first (search + bind).

use super::auth_file::take_quoted;
use super::error::ConfigError;

const KEYS: &[&str] = &[
    "ldapbasedn",
    "ldapbinddn",
    "ldapbindpasswd",
    "ldapport",
    "ldapprefix",
    "ldapscheme",
    "ldapsearchattribute",
    "ldapsearchfilter",
    "ldapserver",
    "ldapsuffix",
    "ldaptls",
    "ldapurl",
];

/// Where the LDAP servers are, and how a user is found there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapOptions {
    /// Servers in the order in which they are tried, as URLs without a path.
    pub servers: Vec<String>,
    /// Begin TLS on the plain connection.
    pub starttls: bool,
    /// How to find the user's entry.
    pub bind: LdapBind,
}

/// How a user becomes a DN.
#[derive(Clone, PartialEq, Eq)]
pub enum LdapBind {
    /// The name between two pieces of text.
    Simple { prefix: String, suffix: String },
    /// The one entry below `base` that `filter` finds; `$username` in it is the user's name.
    Search {
        base: String,
        filter: String,
        /// Who searches: DN and password, both empty for anybody.
        searcher: (String, String),
    },
}

/// Without the searcher's password.
impl std::fmt::Debug for LdapBind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Simple { prefix, suffix } => write!(f, "Simple({prefix}$username{suffix})"),
            Self::Search { base, filter, .. } => write!(f, "Search({base}, {filter})"),
        }
    }
}

/// The options as they are written.
#[derive(Default)]
struct Raw {
    servers: String,
    port: Option<u16>,
    scheme: Option<String>,
    starttls: bool,
    prefix: Option<String>,
    suffix: Option<String>,
    base: Option<String>,
    searcher: (String, String),
    attribute: Option<String>,
    filter: Option<String>,
}

impl LdapOptions {
    /// Reads the options, or says what is wrong with them.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut raw = Raw::default();
        for (key, value) in pairs(text)? {
            raw.set(&key, value)?;
        }
        raw.check()
    }
}

impl Raw {
    fn set(&mut self, key: &str, value: String) -> Result<(), ConfigError> {
        let bad = |hint: &str| ConfigError::new(format!("bad value \"{value}\" for \"{key}\"")).hint(hint);
        match key {
            "ldapserver" => self.servers = value,
            "ldapport" => self.port = Some(value.parse().map_err(|_| bad("use a port"))?),
            "ldapscheme" if matches!(value.as_str(), "ldap" | "ldaps") => self.scheme = Some(value),
            "ldapscheme" => return Err(bad("use ldap or ldaps")),
            "ldaptls" if matches!(value.as_str(), "0" | "1") => self.starttls = value == "1",
            "ldaptls" => return Err(bad("use 0 or 1")),
            "ldapprefix" => self.prefix = Some(value),
            "ldapsuffix" => self.suffix = Some(value),
            "ldapbasedn" => self.base = Some(value),
            "ldapbinddn" => self.searcher.0 = value,
            "ldapbindpasswd" => self.searcher.1 = value,
            "ldapsearchattribute" => self.attribute = Some(value),
            "ldapsearchfilter" => self.filter = Some(value),
            "ldapurl" => self.url(&value).ok_or_else(|| {
                bad("use ldap://HOST[:PORT]/BASEDN[?ATTRIBUTE[?sub[?FILTER]]]; no other scope is supported")
            })?,
            unknown => return Err(ConfigError::unknown("LDAP option", unknown, KEYS.iter().copied())),
        }
        Ok(())
    }

    fn url(&mut self, url: &str) -> Option<()> {
        let (scheme, rest) = url.split_once("://")?;
        if !matches!(scheme, "ldap" | "ldaps") {
            return None;
        }
        self.scheme = Some(scheme.to_owned());
        let (host, rest) = rest.split_once('/').unwrap_or((rest, ""));
        host.clone_into(&mut self.servers);
        let mut parts = rest.splitn(4, '?');
        let mut part = || parts.next().filter(|part| !part.is_empty()).map(str::to_owned);
        self.base = part();
        self.attribute = part();
        part().is_none_or(|scope| scope == "sub").then_some(())?;
        self.filter = part();
        Some(())
    }

    fn check(self) -> Result<LdapOptions, ConfigError> {
        let servers = self.servers();
        if servers.is_empty() {
            return Err(ConfigError::new("LDAP options without a server").hint("add ldapserver or ldapurl"));
        }
        let is_encrypted = self.scheme.as_deref() == Some("ldaps");
        if is_encrypted && self.starttls {
            return Err(ConfigError::new("ldaptls=1 on an ldaps connection").hint("remove one of them"));
        }
        let starttls = self.starttls;
        Ok(LdapOptions { servers, starttls, bind: self.bind()? })
    }

    fn servers(&self) -> Vec<String> {
        let scheme = self.scheme.as_deref().unwrap_or("ldap");
        let url = |server: &str| match self.port {
            Some(port) => format!("{scheme}://{server}:{port}"),
            None => format!("{scheme}://{server}"),
        };
        self.servers.split_whitespace().map(url).collect()
    }

    fn bind(self) -> Result<LdapBind, ConfigError> {
        let by_name = self.prefix.is_some() || self.suffix.is_some();
        match self.base {
            Some(_) if by_name => Err(ConfigError::new("ldapbasedn together with ldapprefix or ldapsuffix")
                .hint("either a DN is put together from the name, or it is searched for")),
            None if !by_name => Err(ConfigError::new("LDAP options say no way to find a user")
                .hint("add ldapbasedn, or ldapprefix or ldapsuffix")),
            None => Ok(LdapBind::Simple {
                prefix: self.prefix.unwrap_or_default(),
                suffix: self.suffix.unwrap_or_default(),
            }),
            Some(base) => {
                if self.attribute.is_some() && self.filter.is_some() {
                    return Err(ConfigError::new("ldapsearchattribute together with ldapsearchfilter")
                        .hint("the filter can name the attribute: (attribute=$username)"));
                }
                let attribute = self.attribute.as_deref().unwrap_or("uid");
                let filter = self.filter.unwrap_or_else(|| format!("({attribute}=$username)"));
                Ok(LdapBind::Search { base, filter, searcher: self.searcher })
            }
        }
    }
}

/// `key=value` and `key="value"`, separated by blanks; `""` inside quotes is one.
fn pairs(text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, behind) = rest
            .split_once('=')
            .ok_or_else(|| ConfigError::new(format!("LDAP option \"{rest}\" has no value")).hint("write key=value"))?;
        let (value, behind) = value(behind)?;
        pairs.push((key.trim().to_owned(), value));
        rest = behind.trim_start();
    }
    Ok(pairs)
}

fn value(text: &str) -> Result<(String, &str), ConfigError> {
    if text.starts_with('"') {
        return take_quoted(text).ok_or_else(|| ConfigError::new("LDAP option's quotes have no end"));
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    Ok((text[..end].to_owned(), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<LdapOptions, String> {
        LdapOptions::parse(text).map_err(|error| error.to_string())
    }

    fn search(base: &str, filter: &str) -> LdapBind {
        LdapBind::Search { base: base.into(), filter: filter.into(), searcher: Default::default() }
    }

    #[test]
    fn a_name_can_be_put_between_two_texts() {
        let options = parse("ldapserver=\"a b\"  ldapport=1389 ldapprefix=\"cn=\" ldapsuffix=\", dc=net\"").unwrap();
        assert_eq!(options.servers, ["ldap://a:1389", "ldap://b:1389"]);
        assert_eq!(options.bind, LdapBind::Simple { prefix: "cn=".into(), suffix: ", dc=net".into() });
        let secure = parse("ldapserver=a ldapscheme=ldaps ldapsuffix=@x").unwrap();
        assert_eq!((secure.servers, secure.starttls), (vec!["ldaps://a".to_owned()], false));
    }

    #[test]
    fn an_entry_can_be_searched_for() {
        for (options, expected) in [
            ("ldapserver=a ldapbasedn=\"dc=net\"", search("dc=net", "(uid=$username)")),
            ("ldapserver=a ldapbasedn=\"dc=net\" ldapsearchattribute=cn", search("dc=net", "(cn=$username)")),
            ("ldapurl=ldap://a/dc=net?mail?sub", search("dc=net", "(mail=$username)")),
            ("ldapurl=\"ldap://a/dc=net??sub?(|(a=$username)(b=1))\"", search("dc=net", "(|(a=$username)(b=1))")),
        ] {
            assert_eq!(parse(options).unwrap().bind, expected, "{options}");
        }
        let options = parse("ldapserver=a ldaptls=1 ldapbasedn=x ldapbinddn=me ldapbindpasswd=hush").unwrap();
        assert!(options.starttls);
        assert!(!format!("{options:?}").contains("hush"));
    }

    #[test]
    fn what_makes_no_sense_is_explained() {
        for (options, expected) in [
            ("", "LDAP options without a server (add ldapserver or ldapurl)"),
            ("ldapserver=a", "LDAP options say no way to find a user (add ldapbasedn, or ldapprefix or ldapsuffix)"),
            ("ldapserver=a ldapprefix", "LDAP option \"ldapprefix\" has no value (write key=value)"),
            ("ldapserv=a", "unknown LDAP option \"ldapserv\" (did you mean \"ldapserver\"?)"),
            ("ldapport=x", "bad value \"x\" for \"ldapport\" (use a port)"),
            ("ldapprefix=\"a", "LDAP option's quotes have no end"),
            (
                "ldapserver=a ldapscheme=ldaps ldaptls=1 ldapprefix=x",
                "ldaptls=1 on an ldaps connection (remove one of them)",
            ),
            (
                "ldapurl=ldap://a/x?y?base",
                "bad value \"ldap://a/x?y?base\" for \"ldapurl\" (use ldap://HOST[:PORT]/BASEDN[?ATTRIBUTE[?sub[?FILTER]]]; no other scope is supported)",
            ),
        ] {
            assert_eq!(parse(options), Err(expected.to_owned()), "{options}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_options_never_panic(text in "(.{0,20}|(ldap(server|url|prefix|basedn)=[\"a:/? ]{0,6} ?){0,4})") {
            let _ = LdapOptions::parse(&text);
        }
    }
}
