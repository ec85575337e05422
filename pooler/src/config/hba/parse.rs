//! Fields into rules: `TYPE DATABASE USER [ADDRESS [MASK]] METHOD [OPTIONS]`.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::super::error::{ConfigError, Place};
use super::super::ldap::LdapOptions;
use super::tokens::{Field, Token, expand, fields};
use super::{HbaMethod, Names, Rule, Source};
use crate::config::network::Network;

/// PostgreSQL's methods that a rule cannot have here.
const OTHER_METHODS: &[&str] = &["bsd", "gss", "ident", "oauth", "pam", "radius", "sspi"];

/// All rules of a text.
pub(super) fn rules(text: &str, path: &Path) -> Result<Vec<Rule>, ConfigError> {
    let mut rules = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = Place { file: path.display().to_string(), line: index + 1 };
        rules.extend(rule(line, &place, path).map_err(|error| error.at(&place))?);
    }
    Ok(rules)
}

/// The fields of a line that are still to be read.
struct Rest<'a> {
    line: &'a str,
    fields: std::vec::IntoIter<Field>,
    end: usize,
}

impl Rest<'_> {
    fn next(&mut self, what: &str) -> Result<Field, ConfigError> {
        let field = self.fields.next();
        let field = field.ok_or_else(|| {
            ConfigError::new(format!("rule ends before its {what}"))
                .hint("a rule is TYPE DATABASE USER [ADDRESS [MASK]] METHOD, without ADDRESS for type local")
        })?;
        self.end = field.end;
        Ok(field)
    }

    fn word(&mut self, what: &str) -> Result<Token, ConfigError> {
        self.next(what)?.single(what).cloned()
    }
}

fn rule(line: &str, place: &Place, path: &Path) -> Result<Option<Rule>, ConfigError> {
    let fields = fields(line)?;
    if fields.is_empty() {
        return Ok(None);
    }
    let mut rest = Rest { line, fields: fields.into_iter(), end: 0 };
    let kind = rest.word("type")?;
    let databases = names(rest.next("databases")?, "database", path)?;
    let users = names(rest.next("users")?, "user", path)?;
    let source = match kind.text.as_str() {
        "local" => Source::Local,
        "host" => Source::Tcp { tls: None, network: network(&mut rest, place)? },
        "hostssl" => Source::Tcp { tls: Some(true), network: network(&mut rest, place)? },
        "hostnossl" => Source::Tcp { tls: Some(false), network: network(&mut rest, place)? },
        other => {
            let known = ["local", "host", "hostssl", "hostnossl"].into_iter();
            return Err(ConfigError::unknown("connection type", other, known));
        }
    };
    let method = method(&mut rest)?;
    Ok(Some(Rule { place: place.clone(), method, source, databases, users }))
}

fn names(field: Field, what: &str, path: &Path) -> Result<Names, ConfigError> {
    let mut names = Names::default();
    let of_databases = what == "database";
    for token in expand(field.items, path)? {
        if token.is("all") {
            names.all = true;
        } else if of_databases && token.is("sameuser") {
            names.same_user = true;
        } else if of_databases && token.is("replication") {
            names.replication = true;
        } else if is_role_based(&token, of_databases) {
            let text = format!("\"{}\" is not supported", token.text);
            return Err(ConfigError::new(text).hint(
                "who is a member of which role only the server knows; list the users, or put them into an @file",
            ));
        } else if !token.quoted && token.text.starts_with('/') {
            let text = format!("regular expression \"{}\" is not supported for a {what}", token.text);
            return Err(ConfigError::new(text).hint("quote it if it is a name"));
        } else {
            names.listed.insert(token.text);
        }
    }
    Ok(names)
}

fn is_role_based(token: &Token, of_databases: bool) -> bool {
    if of_databases {
        return token.is("samerole") || token.is("samegroup");
    }
    !token.quoted && token.text.starts_with('+')
}

/// The address and, if it has none of its own, the mask behind it. `None`: all addresses.
fn network(rest: &mut Rest<'_>, place: &Place) -> Result<Option<Network>, ConfigError> {
    let address = rest.word("address")?;
    if address.is("all") {
        return Ok(None);
    }
    let text = address.text.as_str();
    let bad = |text: &str| {
        ConfigError::new(format!("bad address \"{text}\""))
            .hint("use all, ADDRESS/BITS, or an address and a mask; host names, samehost and samenet are not supported")
    };
    let (network, has_stray_bits) = if text.parse::<IpAddr>().is_ok() {
        let mask = rest.word("mask")?.text;
        Network::parse_masked(text, &mask).ok_or_else(|| bad(&format!("{text} {mask}")))?
    } else {
        Network::parse_cidr(text).ok_or_else(|| bad(text))?
    };
    if has_stray_bits {
        tracing::warn!("{place}: address \"{text}\" has bits outside its mask, which are ignored");
    }
    Ok(Some(network))
}

fn method(rest: &mut Rest<'_>) -> Result<HbaMethod, ConfigError> {
    let name = rest.word("method")?;
    let method = match name.text.as_str() {
        // What stands behind it has a grammar of its own.
        "ldap" => return Ok(HbaMethod::Ldap(Arc::new(LdapOptions::parse(&rest.line[rest.end..])?))),
        "peer" => return Ok(HbaMethod::Peer { map: map(rest)? }),
        "cert" => return Ok(HbaMethod::Cert { map: map(rest)? }),
        "trust" => HbaMethod::Trust,
        "reject" => HbaMethod::Reject,
        "password" => HbaMethod::Password,
        "md5" => HbaMethod::Md5,
        "scram-sha-256" => HbaMethod::ScramSha256,
        other if OTHER_METHODS.contains(&other) => {
            return Err(ConfigError::new(format!("method \"{other}\" is not supported in a rule")));
        }
        other => {
            let known = ["trust", "reject", "password", "md5", "scram-sha-256", "peer", "cert", "ldap"];
            return Err(ConfigError::unknown("method", other, known.into_iter()));
        }
    };
    match rest.fields.next() {
        None => Ok(method),
        Some(_) => Err(ConfigError::new(format!("method \"{}\" has no options", name.text))),
    }
}

/// The only option of methods that know the client by another name than its own.
fn map(rest: &mut Rest<'_>) -> Result<Option<String>, ConfigError> {
    let mut map = None;
    for field in rest.fields.by_ref() {
        let option = field.single("option")?;
        let name = option.text.strip_prefix("map=").filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| {
            ConfigError::new(format!("unknown option \"{}\"", option.text)).hint("the only one is map=NAME")
        })?;
        map = Some(name.to_owned());
    }
    Ok(map)
}
