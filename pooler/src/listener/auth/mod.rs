//! Who is this client? The checks between the start-up message and AuthenticationOk.

use sluice_wire::auth::{AuthMethod, AuthStep, ClientAuth, Entropy, LoginContext, ScramKeys, Secret};
use sluice_wire::frame::Frame;
use sluice_wire::message::Report;
use sluice_wire::startup::StartupMessage;

use super::handshake::{Handshake, Refusal, is_own_uid, refuse};
use crate::config::{AuthType, CONSOLE};

impl Handshake {
    pub(super) async fn authenticate(
        &mut self,
        message: &StartupMessage,
        console: bool,
    ) -> Result<Option<ScramKeys>, Refusal> {
        if console && message.user == CONSOLE && is_own_uid(self.peer) {
            return Ok(None);
        }
        let method = match self.config.settings.auth_type {
            AuthType::Trust => AuthMethod::Trust,
            AuthType::Plain => AuthMethod::Plain,
            AuthType::Md5 => AuthMethod::Md5,
            AuthType::ScramSha256 => AuthMethod::ScramSha256,
            _ => return Err(refuse("0A000", "this auth_type is not supported in this version")),
        };
        let stored = self.config.secrets.get(&message.user).cloned();
        let secret = match (&stored, method) {
            (Some(Secret::Plain(password)), AuthMethod::ScramSha256) => {
                Some(self.app.derived_verifier(&message.user, password, self.config.settings.scram_iterations))
            }
            _ => stored,
        };
        let entropy = Entropy::random();
        let start = ClientAuth::start(
            method,
            &message.user,
            secret.as_ref(),
            LoginContext {
                mock_key: &self.app.mock_key,
                entropy: &entropy,
                iterations: self.config.settings.scram_iterations,
            },
        );
        let mut step = start.map_err(auth_failed)?;
        loop {
            match step {
                AuthStep::Done { send, scram_keys } => {
                    self.send(&send).await?;
                    return Ok(scram_keys);
                }
                AuthStep::Continue(send, state) => {
                    self.send(&send).await?;
                    let body = self.password_message().await?;
                    step = state.on_message(&body).map_err(auth_failed)?;
                }
            }
        }
    }

    async fn password_message(&mut self) -> Result<Vec<u8>, Refusal> {
        /// Longest password message, PgBouncer's limit for passwords with room for SASL around it.
        const LONGEST: usize = 70_000;
        loop {
            match Frame::first(&self.input) {
                Ok(Some(frame)) if frame.tag == b'p' => {
                    let body = frame.body.to_vec();
                    let used = frame.raw.len();
                    self.input.drain(..used);
                    return Ok(body);
                }
                Ok(Some(_)) | Err(_) => return Err(refuse("08P01", "expected password response")),
                Ok(None) if self.input.len() > LONGEST => return Err(refuse("08P01", "password message too long")),
                Ok(None) => self.read().await?,
            }
        }
    }
}

fn auth_failed(failure: sluice_wire::auth::AuthFailure) -> Refusal {
    Some(Report::fatal(failure.sqlstate(), failure.to_string()))
}
