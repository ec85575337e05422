//! What is known of a user who wants to log in: from `auth_file`, or else by `auth_query`.

use sluice_wire::auth::Secret;
use sluice_wire::startup::StartupMessage;

use super::super::handshake::{Handshake, Refusal};
use super::misconfigured;
use crate::config::{AuthType, CONSOLE, Database};

/// A user, as far as the exchange needs to know.
pub(super) struct Account {
    /// The user that the client becomes: `auth_query` may answer with another name than it was asked for.
    pub user: String,
    /// Nothing fits the secret of somebody who isn't there, or has none.
    pub secret: Secret,
    /// There is such a user.
    pub known: bool,
    /// The secret isn't in `auth_file`, and is kept for logging in to servers.
    pub queried: bool,
}

impl Handshake {
    pub(super) async fn account(
        &self,
        message: &StartupMessage,
        database: Option<&Database>,
    ) -> Result<Account, Refusal> {
        let user = &message.user;
        if let Some(secret) = self.config.secrets.get(user) {
            return Ok(self.known(user.clone(), secret.clone(), false));
        }
        if self.config.settings.auth_type == AuthType::Ldap {
            return self.of_ldap(user, database);
        }
        let Some(auth_user) = self.config.auth_user(database) else {
            return Ok(self.unknown(user, false));
        };
        let console = message.database == CONSOLE;
        let Some(entry) = self.auth_database(database, console)? else {
            return Ok(self.unknown(user, true));
        };
        match self.query_secret(&entry, auth_user, self.config.auth_query(database), user).await? {
            Some((user, secret)) => {
                let secret = secret.unwrap_or(Secret::Plain(String::new()));
                Ok(self.known(user, secret, true))
            }
            None => Ok(self.unknown(user, true)),
        }
    }

    /// Whether there is such a user, the LDAP server says.
    fn of_ldap(&self, user: &str, database: Option<&Database>) -> Result<Account, Refusal> {
        if database.is_some_and(|database| database.auth_user.is_some()) {
            tracing::error!("{} LDAP cannot be used together with auth_user", self.log_prefix());
            return Err(misconfigured());
        }
        Ok(Account { known: true, ..self.unknown(user, false) })
    }

    fn known(&self, user: String, secret: Secret, queried: bool) -> Account {
        let is_empty = matches!(&secret, Secret::Plain(password) if password.is_empty());
        if queried && !is_empty {
            self.app.credentials.note_queried(&secret);
        }
        let secret = if is_empty { self.app.credentials.mock(&self.config, &user, queried) } else { secret };
        Account { user, secret, known: true, queried: queried && !is_empty }
    }

    fn unknown(&self, user: &str, queried: bool) -> Account {
        let secret = self.app.credentials.mock(&self.config, user, queried);
        Account { user: user.to_owned(), secret, known: false, queried: false }
    }
}
