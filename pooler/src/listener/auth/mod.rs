//! Who is this client? Everything between its start-up message and AuthenticationOk.
//!
//! - this file: the order of the steps, and the exchange of password messages;
//! - `account`: what is known of the user, from `auth_file` or by `auth_query`;
//! - `method`: which proof is asked for, by `auth_type` or a rule of `auth_hba_file`; and proofs without a password;
//! - `ldap`: a password that an LDAP server judges;
//! - `query`: how `auth_query` is run.
//!
//! Somebody who doesn't get in learns nothing from it: a user who doesn't exist goes through the same exchange as one who
//! does, with a secret that nothing fits, and every refusal comes at the same time after the client's last word.

mod account;
mod ldap;
mod method;
mod query;

use std::time::Duration;

use sluice_wire::auth::{AuthFailure, AuthMethod, AuthStep, ClientAuth, Entropy, LoginContext, ScramKeys, Secret};
use sluice_wire::frame::Frame;
use sluice_wire::message::{self, Report};
use sluice_wire::startup::{Replication, StartupMessage};
use tokio::time::Instant;

use self::account::Account;
use self::method::Method;
use super::handshake::{Handshake, Refusal, is_own_uid, refuse};
use crate::config::{AuthType, CONSOLE, Database};

/// A refusal comes this long after what it refuses, however long it took to find out. Guessing gets slow by it, and only
/// for the one who guesses: nobody else waits.
const REFUSAL_DELAY: Duration = Duration::from_millis(300);
/// Longest password message: PgBouncer's limit for passwords, with room for SASL around it.
const LONGEST_PASSWORD: usize = 70_000;

impl Handshake {
    /// Finds out who the client is; returns the user that it is from now on. `database` is the entry that it asks for, if
    /// there is one and it isn't the console.
    pub(super) async fn authenticate(
        &mut self,
        message: &StartupMessage,
        database: Option<&Database>,
    ) -> Result<String, Refusal> {
        if message.database == CONSOLE && message.user == CONSOLE && is_own_uid(self.peer) {
            tracing::info!("{} pgbouncer access from unix socket", self.log_prefix());
            return Ok(message.user.clone());
        }
        self.last_word = Instant::now();
        let result = self.identify(message, database).await;
        if let Err(Some(_)) = &result {
            self.log_failed_login(message);
            tokio::time::sleep_until(self.last_word + REFUSAL_DELAY).await;
        }
        result
    }

    async fn identify(&mut self, message: &StartupMessage, database: Option<&Database>) -> Result<String, Refusal> {
        if self.config.settings.auth_type == AuthType::Any {
            return self.any(message, database);
        }
        let mut account = self.account(message, database).await?;
        if !account.known {
            tracing::info!("{} no such user: {}", self.log_prefix(), message.user);
        }
        self.log_attempt(message);
        let keys = match self.method(message)? {
            Method::Password(method) => self.prove_password(method, &account).await?,
            Method::Peer { map } => self.prove_peer(&account, map.as_deref()).await.map(|()| None)?,
            Method::Cert { map } => self.prove_certificate(&account, map.as_deref()).map(|()| None)?,
            Method::Ldap(options) => {
                let password = self.prove_ldap(&account.user, &options).await?;
                account = Account { secret: Secret::Plain(password), known: true, queried: true, user: account.user };
                None
            }
        };
        if let Some(database) = database {
            let credentials = &self.app.credentials;
            credentials.remember(&database.name, &account.user, account.queried.then_some(account.secret), keys);
        }
        Ok(account.user)
    }

    /// `auth_type = any`: everybody is the entry's forced user. The console has none.
    fn any(&self, message: &StartupMessage, database: Option<&Database>) -> Result<String, Refusal> {
        self.log_attempt(message);
        match database {
            Some(Database { user: Some(forced), .. }) => Ok(forced.clone()),
            Some(database) => {
                tracing::error!(
                    "{} auth_type is any, but database \"{}\" has no user",
                    self.log_prefix(),
                    database.name
                );
                Err(misconfigured())
            }
            None => Ok(message.user.clone()),
        }
    }

    pub(super) fn log_failed_login(&self, message: &StartupMessage) {
        if self.config.settings.log_connections {
            tracing::info!("{} login failed: db={} user={}", self.log_prefix(), message.database, message.user);
        }
    }

    fn log_attempt(&self, message: &StartupMessage) {
        if self.config.settings.log_connections {
            tracing::info!(
                "{} login attempt: db={} user={} tls={} replication={}",
                self.log_prefix(),
                message.database,
                message.user,
                self.tls_text(),
                replication_text(message)
            );
        }
    }

    /// The exchange of a method that asks for a password, in whatever form.
    async fn prove_password(&mut self, method: AuthMethod, account: &Account) -> Result<Option<ScramKeys>, Refusal> {
        let iterations = self.config.settings.scram_iterations;
        let secret = match (&account.secret, method) {
            (Secret::Plain(password), AuthMethod::ScramSha256) if !password.is_empty() => {
                self.app.credentials.derived_verifier(&account.user, password, iterations).await
            }
            (secret, _) => secret.clone(),
        };
        let secret = (account.known || method != AuthMethod::Trust).then_some(secret);
        let entropy = Entropy::random();
        let context = LoginContext {
            mock_key: &self.app.credentials.mock_key,
            entropy: &entropy,
            iterations,
            end_point: self.tls.end_point.as_deref().filter(|_| self.is_tls()),
        };
        let mut step = ClientAuth::start(method, &account.user, secret.as_ref(), context).map_err(failed)?;
        // Only a clear-text password has to be hashed here; in the other methods that is the client's work.
        let is_costly = method == AuthMethod::Plain;
        loop {
            match step {
                AuthStep::Done { send, scram_keys } => {
                    self.send(&send).await?;
                    return Ok(scram_keys);
                }
                AuthStep::Continue(send, state) => {
                    self.send(&send).await?;
                    let body = self.password_message().await?;
                    step = self.advance(state, body, is_costly).await.map_err(failed)?;
                }
            }
        }
    }

    async fn advance(&self, state: ClientAuth, body: Vec<u8>, is_costly: bool) -> Result<AuthStep, AuthFailure> {
        if is_costly {
            return self.app.credentials.hash(move || state.on_message(&body)).await;
        }
        state.on_message(&body)
    }

    /// Asks for a password in clear text, for methods that are not ours to judge.
    async fn clear_text_password(&mut self) -> Result<String, Refusal> {
        const CLEARTEXT: [u8; 4] = 3_u32.to_be_bytes();
        let mut request = Vec::new();
        message::frame(&mut request, b'R', |out| out.extend_from_slice(&CLEARTEXT));
        self.send(&request).await?;
        let body = self.password_message().await?;
        let password = body.strip_suffix(&[0]).and_then(|password| str::from_utf8(password).ok());
        match password.filter(|password| !password.contains('\0')) {
            Some("") => Err(failed(AuthFailure::EmptyPassword)),
            Some(password) => Ok(password.to_owned()),
            None => Err(failed(AuthFailure::BadMessage)),
        }
    }

    async fn password_message(&mut self) -> Result<Vec<u8>, Refusal> {
        loop {
            match Frame::first(&self.input) {
                Ok(Some(frame)) if frame.tag == b'p' => {
                    let body = frame.body.to_vec();
                    let used = frame.raw.len();
                    self.input.drain(..used);
                    self.last_word = Instant::now();
                    return Ok(body);
                }
                Ok(Some(_)) | Err(_) => return Err(refuse("08P01", "expected password response")),
                Ok(None) if self.input.len() > LONGEST_PASSWORD => {
                    return Err(refuse("08P01", "password message too long"));
                }
                Ok(None) => self.read().await?,
            }
        }
    }
}

/// How log lines show it.
fn replication_text(message: &StartupMessage) -> &'static str {
    match message.replication() {
        Ok(Replication::Logical) => "database",
        Ok(Replication::Physical) => "yes",
        Ok(Replication::None) | Err(_) => "no",
    }
}

fn failed(failure: AuthFailure) -> Refusal {
    Some(Report::fatal(failure.sqlstate(), failure.to_string()))
}

/// The configuration, not the client, is to blame. What it is stands in the log: strangers have no business with it.
fn misconfigured() -> Refusal {
    Some(Report::fatal("F0000", "bouncer config error").hint("the pooler's log says what is wrong"))
}
