//! A password that an LDAP server judges: whoever can bind with it is the user.

use std::time::Duration;

use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, dn_escape, ldap_escape};

use super::super::handshake::{Handshake, Refusal, refuse};
use crate::config::{LdapBind, LdapOptions};

/// Longest that each answer of a server may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Handshake {
    /// Asks for the password in clear text, and the servers one after the other. Returns the password, with which we log
    /// in to PostgreSQL.
    pub(super) async fn prove_ldap(&mut self, user: &str, options: &LdapOptions) -> Result<String, Refusal> {
        let password = self.clear_text_password().await?;
        for server in &options.servers {
            match self.app.credentials.one_of_few(is_right(server, options, user, &password)).await {
                Ok(true) => return Ok(password),
                Ok(false) => break,
                Err(error) => tracing::warn!("{} LDAP server {server}: {error}", self.log_prefix()),
            }
        }
        Err(refuse("28P01", "LDAP authentication failed"))
    }
}

/// Whether a server takes the password. It is never empty: that would be an anonymous bind, which always succeeds.
async fn is_right(server: &str, options: &LdapOptions, user: &str, password: &str) -> Result<bool, LdapError> {
    let dn = match &options.bind {
        LdapBind::Simple { prefix, suffix } => format!("{prefix}{}{suffix}", dn_escape(user)),
        LdapBind::Search { base, filter, searcher: (searcher, secret) } => {
            let mut ldap = connect(server, options.starttls).await?;
            ldap.with_timeout(PATIENCE).simple_bind(searcher, secret).await?.success()?;
            let filter = filter.replace("$username", &ldap_escape(user));
            match find(&mut ldap, base, &filter).await? {
                Some(dn) => dn,
                None => return Ok(false),
            }
        }
    };
    let mut ldap = connect(server, options.starttls).await?;
    let answer = ldap.with_timeout(PATIENCE).simple_bind(&dn, password).await?;
    Ok(answer.rc == 0)
}

async fn connect(server: &str, starttls: bool) -> Result<Ldap, LdapError> {
    let settings = LdapConnSettings::new().set_conn_timeout(PATIENCE).set_starttls(starttls);
    let (connection, ldap) = LdapConnAsync::with_settings(settings, server).await?;
    ldap3::drive!(connection);
    Ok(ldap)
}

/// The DN of the only entry that is found. Several are nobody: which one is meant?
async fn find(ldap: &mut Ldap, base: &str, filter: &str) -> Result<Option<String>, LdapError> {
    let found = ldap.with_timeout(PATIENCE).search(base, Scope::Subtree, filter, ["1.1"]).await?;
    let (mut entries, _) = found.success()?;
    entries.retain(|entry| !entry.is_ref() && !entry.is_intermediate());
    match (entries.pop(), entries.is_empty()) {
        (Some(entry), true) => Ok(Some(SearchEntry::construct(entry).dn)),
        _ => Ok(None),
    }
}
