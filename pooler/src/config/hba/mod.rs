//! Host-based authentication: the rules of `auth_hba_file`, which say how a client is authenticated by where it comes from,
//! whom it says it is and which database it wants; and the user name maps of `auth_ident_file`.
//!
//! The first rule that matches decides. PgBouncer skips a line that it can't read and an unreadable file leaves it without
//! rules; here both are errors with file and line, because a skipped `reject` lets somebody in. As with every mistake in a
//! configuration, the rules in force stay.
//!
//! - `tokens`: a line into fields, with quotes, comma lists and `@file`;
//! - `parse`: fields into a [`Rule`];
//! - `ident`: user name maps.

mod ident;
mod parse;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use crate::config::network::Network;
pub use ident::IdentMaps;

use super::error::{ConfigError, Place};
use super::ini::read_text;
use super::ldap::LdapOptions;

/// What a rule is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Applicant<'a> {
    /// The database that the client asks for.
    pub database: &'a str,
    /// The user that it says it is.
    pub user: &'a str,
    /// It wants physical replication, which is no database.
    pub physical_replication: bool,
    /// Its address; `None` on a unix socket.
    pub address: Option<IpAddr>,
    /// The connection is encrypted.
    pub tls: bool,
}

/// How a rule wants clients to be authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HbaMethod {
    /// Known users without a proof.
    Trust,
    /// Nobody.
    Reject,
    /// Clear-text password.
    Password,
    /// MD5 hash, or SCRAM where the secret is a verifier.
    Md5,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// The operating system's user at the other end of a unix socket, translated by the map.
    Peer { map: Option<String> },
    /// The names in the client's TLS certificate, translated by the map.
    Cert { map: Option<String> },
    /// An LDAP server.
    Ldap(Arc<LdapOptions>),
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands.
    pub place: Place,
    /// What it asks for.
    pub method: HbaMethod,
    source: Source,
    databases: Names,
    users: Names,
}

/// Which connections a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// Unix sockets.
    Local,
    Tcp {
        /// `None`: encrypted or not.
        tls: Option<bool>,
        /// `None`: all addresses.
        network: Option<Network>,
    },
}

/// A list of databases or users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    /// Databases only: the one that is called as the user.
    same_user: bool,
    /// Databases only: physical replication.
    replication: bool,
    listed: HashSet<String>,
}

/// The rules of a file, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hba {
    rules: Vec<Rule>,
}

impl Hba {
    /// Reads a file of rules.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read_text(path)?, path)
    }

    /// Reads rules; `path` is for mistakes.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        parse::rules(text, path).map(|rules| Self { rules })
    }

    /// The rule for a client. `None`: there is none, and it has to go.
    pub fn find(&self, applicant: &Applicant<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.is_for(applicant))
    }
}

impl Rule {
    fn is_for(&self, applicant: &Applicant<'_>) -> bool {
        self.source.covers(applicant) && self.databases.has_database(applicant) && self.users.has(applicant.user)
    }
}

impl Source {
    fn covers(&self, applicant: &Applicant<'_>) -> bool {
        match (self, applicant.address) {
            (Self::Local, None) => true,
            (Self::Tcp { tls, network }, Some(address)) => {
                tls.is_none_or(|tls| tls == applicant.tls) && network.is_none_or(|network| network.contains(address))
            }
            _ => false,
        }
    }
}

impl Names {
    fn has(&self, name: &str) -> bool {
        self.all || self.listed.contains(name)
    }

    /// `all` doesn't cover physical replication, as in PostgreSQL.
    fn has_database(&self, applicant: &Applicant<'_>) -> bool {
        if applicant.physical_replication {
            return self.replication;
        }
        self.has(applicant.database) || (self.same_user && applicant.database == applicant.user)
    }
}
