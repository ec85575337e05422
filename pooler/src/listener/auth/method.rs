//! Which proof a client is asked for, and the proofs that need no password.

use std::sync::Arc;

use nix::unistd::{Uid, User};
use sluice_wire::auth::AuthMethod;
use sluice_wire::message::Report;
use sluice_wire::startup::{Replication, StartupMessage};

use super::super::handshake::{Handshake, Refusal, refuse};
use super::account::Account;
use crate::config::{Applicant, AuthType, HbaMethod, LdapOptions};
use crate::net::Peer;

/// What is asked for.
pub(super) enum Method {
    Password(AuthMethod),
    Peer { map: Option<String> },
    Cert { map: Option<String> },
    Ldap(Arc<LdapOptions>),
}

impl Handshake {
    pub(super) fn method(&self, message: &StartupMessage) -> Result<Method, Refusal> {
        match self.config.settings.auth_type {
            AuthType::Hba => self.method_by_rule(message),
            AuthType::Trust => Ok(Method::Password(AuthMethod::Trust)),
            AuthType::Plain => Ok(Method::Password(AuthMethod::Plain)),
            AuthType::Md5 => Ok(Method::Password(AuthMethod::Md5)),
            AuthType::ScramSha256 => Ok(Method::Password(AuthMethod::ScramSha256)),
            AuthType::Cert => Ok(Method::Cert { map: None }),
            AuthType::Ldap => self.config.ldap.clone().map(Method::Ldap).ok_or_else(super::misconfigured),
            AuthType::Any | AuthType::Pam => Err(refuse("0A000", "this auth_type is not supported in this version")),
        }
    }

    fn method_by_rule(&self, message: &StartupMessage) -> Result<Method, Refusal> {
        let applicant = Applicant {
            database: &message.database,
            user: &message.user,
            physical_replication: wants_physical_replication(message),
            address: if let Peer::Tcp(address) = self.peer { Some(address.ip()) } else { None },
            tls: self.is_tls(),
        };
        let Some(rule) = self.config.hba.find(&applicant) else {
            return Err(Some(
                Report::fatal("28000", "no authentication method is found")
                    .detail(format!("no entry of auth_hba_file for {}", self.describe(message))),
            ));
        };
        tracing::debug!("{} rule at {}", self.log_prefix(), rule.place);
        match &rule.method {
            HbaMethod::Trust => Ok(Method::Password(AuthMethod::Trust)),
            HbaMethod::Password => Ok(Method::Password(AuthMethod::Plain)),
            HbaMethod::Md5 => Ok(Method::Password(AuthMethod::Md5)),
            HbaMethod::ScramSha256 => Ok(Method::Password(AuthMethod::ScramSha256)),
            HbaMethod::Peer { map } => Ok(Method::Peer { map: map.clone() }),
            HbaMethod::Cert { map } => Ok(Method::Cert { map: map.clone() }),
            HbaMethod::Reject => Err(Some(
                Report::fatal("28000", "login rejected")
                    .detail(format!("auth_hba_file rejects {}", self.describe(message))),
            )),
            HbaMethod::Ldap(options) => Ok(Method::Ldap(options.clone())),
        }
    }

    /// As PostgreSQL describes a connection that no rule lets in.
    fn describe(&self, message: &StartupMessage) -> String {
        let host = match self.peer {
            Peer::Tcp(address) => address.ip().to_canonical().to_string(),
            Peer::Unix { .. } => "[local]".to_owned(),
        };
        let encryption = if self.is_tls() { "SSL encryption" } else { "no encryption" };
        if wants_physical_replication(message) {
            return format!("replication connection from host \"{host}\", user \"{}\", {encryption}", message.user);
        }
        format!("host \"{host}\", user \"{}\", database \"{}\", {encryption}", message.user, message.database)
    }

    /// The operating system says who is at the other end of a unix socket.
    pub(super) async fn prove_peer(&self, account: &Account, map: Option<&str>) -> Result<(), Refusal> {
        let refused = || refuse("28000", "unix socket login rejected");
        let Peer::Unix { uid, .. } = self.peer else { return Err(refused()) };
        // The system may ask a directory over the network.
        let system_user = tokio::task::spawn_blocking(move || User::from_uid(Uid::from_raw(uid))).await;
        let Ok(Ok(Some(system_user))) = system_user else {
            tracing::warn!("{} the system has no name for user id {uid}", self.log_prefix());
            return Err(refused());
        };
        if account.known && self.config.ident_maps.allows(map, &system_user.name, &account.user) {
            return Ok(());
        }
        if let Some(map) = map {
            tracing::error!("{} ident map {map} cannot be matched", self.log_prefix());
        }
        Err(refused())
    }

    /// One of the names in the client's TLS certificate is the user's, or the map says so.
    pub(super) fn prove_certificate(&self, account: &Account, map: Option<&str>) -> Result<(), Refusal> {
        let names = self.certificate_names();
        let allows = |name: &String| self.config.ident_maps.allows(map, name, &account.user);
        if account.known && names.iter().any(allows) {
            return Ok(());
        }
        if let Some(map) = map {
            tracing::error!("{} ident map: {map} does not have a match", self.log_prefix());
        }
        Err(refuse("28000", "certificate authentication failed"))
    }
}

/// A client of logical replication names a database, and is judged by it.
fn wants_physical_replication(message: &StartupMessage) -> bool {
    message.replication() == Ok(Replication::Physical)
}
