//! We log in to PostgreSQL: answers to its Authentication messages.
//!
//! A secret answers only the requests for which it really holds the answer. PgBouncer also sends an md5 hash or a SCRAM
//! verifier in place of a clear-text password; PostgreSQL refuses either, and the hash is worth as much as a password to
//! whoever reads it on the way, so we don't.

use std::fmt;

use super::scram::{ScramError, ScramKeys, encode};
use super::scram_client::{AwaitServerFinal, AwaitServerFirst, ChannelBinding, Credentials};
use super::secret::{Secret, md5_hex, md5_response};
use super::{Entropy, SCRAM_MECHANISM, SCRAM_PLUS_MECHANISM, message, request};

/// What we have for logging in as one user.
#[derive(Clone, PartialEq, Eq)]
pub enum ServerSecret {
    /// Nothing: only trust, peer or certificate authentication can work.
    None,
    /// The password.
    Plain(String),
    /// The hexadecimal digits of `md5(password + user)`.
    Md5([u8; 32]),
    /// Keys that a client's SCRAM login left with us.
    ScramKeys(ScramKeys),
    /// A SCRAM verifier that no client has unlocked yet.
    LockedScram,
}

impl fmt::Debug for ServerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "ServerSecret::None",
            Self::Plain(_) => "ServerSecret::Plain(..)",
            Self::Md5(_) => "ServerSecret::Md5(..)",
            Self::ScramKeys(_) => "ServerSecret::ScramKeys(..)",
            Self::LockedScram => "ServerSecret::LockedScram",
        })
    }
}

impl ServerSecret {
    /// The secret for a user whose stored secret is `secret`; `keys` are those of the user's last SCRAM login.
    pub fn new(secret: Option<&Secret>, keys: Option<&ScramKeys>) -> Self {
        match (secret, keys) {
            (Some(Secret::Plain(password)), _) if !password.is_empty() => Self::Plain(password.clone()),
            (Some(Secret::Md5(hex)), _) => Self::Md5(*hex),
            (Some(Secret::Scram(_)), Some(keys)) => Self::ScramKeys(keys.clone()),
            (Some(Secret::Scram(_)), None) => Self::LockedScram,
            (Some(Secret::Plain(_)) | None, _) => Self::None,
        }
    }
}

/// Why we could not log in. Displays as waiting clients may see it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The server asks for a password, and we have none.
    #[error("server login failed: no password for user \"{0}\"")]
    NoPassword(String),
    /// We have a secret, but not the kind that answers this request.
    #[error("server login failed: wrong password type")]
    WrongPasswordType,
    /// The server asks for a method that we do not speak (GSSAPI, SSPI, ...).
    #[error("server login failed: unsupported authentication method {0}")]
    UnsupportedMethod(u32),
    /// The server offers SASL without SCRAM-SHA-256.
    #[error("server login failed: no supported SASL mechanism offered")]
    UnsupportedMechanism,
    /// The SCRAM exchange failed on our side.
    #[error("server login failed: {0}")]
    Scram(ScramError),
    /// A message is malformed or comes out of turn.
    #[error("server login failed: unexpected authentication message")]
    Unexpected,
}

/// What to do after an Authentication message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginReply {
    /// Wait for the server's next message.
    Nothing,
    /// Send these bytes: one whole message.
    Send(Vec<u8>),
    /// AuthenticationOk came, rightly: parameters and ReadyForQuery follow.
    Authenticated,
}

/// One login to a server, from the first Authentication message to AuthenticationOk.
#[derive(Debug)]
pub struct ServerLogin {
    user: String,
    secret: ServerSecret,
    nonce: [u8; 18],
    end_point: Option<Vec<u8>>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The server has not asked for anything.
    Initial,
    /// A password was sent; AuthenticationOk or an error comes next.
    Answered,
    ScramFirst(AwaitServerFirst),
    ScramFinal(AwaitServerFinal),
    /// Authenticated or failed; every further Authentication message is out of turn.
    Over,
}

impl ServerLogin {
    /// Prepares to log in as `user`.
    pub fn new(user: &str, secret: ServerSecret, entropy: &Entropy) -> Self {
        Self { user: user.to_owned(), secret, nonce: entropy.nonce, end_point: None, state: State::Initial }
    }

    /// Binds a SCRAM exchange to the server's certificate, by its hash (`tls-server-end-point`), if the server offers that.
    pub fn bound_to(mut self, end_point: Option<Vec<u8>>) -> Self {
        self.end_point = end_point;
        self
    }

    /// Takes the body of an Authentication message ('R').
    pub fn on_authentication(&mut self, body: &[u8]) -> Result<LoginReply, LoginError> {
        let (code, payload) = body.split_first_chunk::<4>().ok_or(LoginError::Unexpected)?;
        let code = u32::from_be_bytes(*code);
        // Whatever goes wrong below leaves the login over.
        match (std::mem::replace(&mut self.state, State::Over), code) {
            (State::Initial | State::Answered, request::OK) => Ok(LoginReply::Authenticated),
            (State::Initial, request::CLEARTEXT) => self.answer_cleartext(),
            (State::Initial, request::MD5) => self.answer_md5(payload),
            (State::Initial, request::SASL) => self.begin_scram(payload),
            (State::ScramFirst(exchange), request::SASL_CONTINUE) => {
                let (reply, next) = exchange.on_message(payload).map_err(scram_error)?;
                self.state = State::ScramFinal(next);
                Ok(LoginReply::Send(password_message(&[reply.as_bytes()])))
            }
            (State::ScramFinal(exchange), request::SASL_FINAL) => {
                exchange.on_message(payload).map_err(scram_error)?;
                self.state = State::Answered;
                Ok(LoginReply::Nothing)
            }
            (State::Initial, method) if method < request::SASL_CONTINUE => Err(LoginError::UnsupportedMethod(method)),
            _ => Err(LoginError::Unexpected),
        }
    }

    fn answer_cleartext(&mut self) -> Result<LoginReply, LoginError> {
        match &self.secret {
            ServerSecret::Plain(password) => {
                let reply = password_message(&[password.as_bytes(), b"\0"]);
                self.state = State::Answered;
                Ok(LoginReply::Send(reply))
            }
            other => Err(self.unusable(other)),
        }
    }

    fn answer_md5(&mut self, payload: &[u8]) -> Result<LoginReply, LoginError> {
        let salt: [u8; 4] = payload.try_into().map_err(|_| LoginError::Unexpected)?;
        let hash = match &self.secret {
            ServerSecret::Plain(password) => md5_hex(&[password.as_bytes(), self.user.as_bytes()]),
            ServerSecret::Md5(hex) => *hex,
            other => return Err(self.unusable(other)),
        };
        self.state = State::Answered;
        let response = md5_response(&hash, salt);
        Ok(LoginReply::Send(password_message(&[&response, b"\0"])))
    }

    fn begin_scram(&mut self, payload: &[u8]) -> Result<LoginReply, LoginError> {
        let offers = |mechanism: &str| payload.split(|&byte| byte == 0).any(|name| name == mechanism.as_bytes());
        let (mechanism, binding) = match self.end_point.take() {
            Some(hash) if offers(SCRAM_PLUS_MECHANISM) => (SCRAM_PLUS_MECHANISM, ChannelBinding::EndPoint(hash)),
            Some(_) => (SCRAM_MECHANISM, ChannelBinding::NotOffered),
            None => (SCRAM_MECHANISM, ChannelBinding::Impossible),
        };
        if !offers(mechanism) {
            return Err(LoginError::UnsupportedMechanism);
        }
        let credentials = match &self.secret {
            ServerSecret::Plain(password) => Credentials::Password(password.clone()),
            ServerSecret::ScramKeys(keys) => Credentials::Keys(keys.clone()),
            other => return Err(self.unusable(other)),
        };
        let (first, exchange) = AwaitServerFirst::start(credentials, encode(&self.nonce), binding);
        self.state = State::ScramFirst(exchange);
        let length = (first.len() as u32).to_be_bytes();
        Ok(LoginReply::Send(password_message(&[mechanism.as_bytes(), b"\0", &length, first.as_bytes()])))
    }

    fn unusable(&self, secret: &ServerSecret) -> LoginError {
        match secret {
            ServerSecret::None => LoginError::NoPassword(self.user.clone()),
            _ => LoginError::WrongPasswordType,
        }
    }
}

fn scram_error(error: ScramError) -> LoginError {
    match error {
        ScramError::OtherVerifier => LoginError::WrongPasswordType,
        other => LoginError::Scram(other),
    }
}

fn password_message(parts: &[&[u8]]) -> Vec<u8> {
    message(b'p', parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{AuthMethod, AuthStep, ClientAuth, LoginContext, ScramVerifier};
    use proptest::prelude::*;

    /// What PostgreSQL 15 stored for password 'pencil'.
    const POSTGRESQL_VERIFIER: &str = "SCRAM-SHA-256$4096:OlDV53e2PHcNE+CpP2h4bQ==$Z7fz+xoXgTt6MYQXUE60RSWhGuUANGEBbuyQM+wb/60=:HT+e4tSl/qkGJckCppTUvmaRMfZPyWBbBsIzpyUZMj8=";

    fn entropy() -> Entropy {
        Entropy { md5_salt: *b"abcd", scram_salt: [1; 16], nonce: [2; 18] }
    }

    fn login(secret: ServerSecret) -> ServerLogin {
        ServerLogin::new("ann", secret, &entropy())
    }

    fn request(code: u32, payload: &[u8]) -> Vec<u8> {
        [&code.to_be_bytes(), payload].concat()
    }

    fn plain(password: &str) -> ServerSecret {
        ServerSecret::Plain(password.into())
    }

    fn keys() -> ServerSecret {
        let verifier = ScramVerifier::parse(POSTGRESQL_VERIFIER).unwrap();
        ServerSecret::ScramKeys(verifier.unlock(b"pencil").unwrap())
    }

    /// A whole login, our two ends against each other; keys of the client's end if it succeeds.
    fn both_ends(method: AuthMethod, stored: &Secret, ours: ServerSecret) -> Result<Option<ScramKeys>, String> {
        both_bound_ends(method, stored, login(ours), None)
    }

    /// As [`both_ends`]; `offered` is the channel binding of the end that asks.
    fn both_bound_ends(
        method: AuthMethod,
        stored: &Secret,
        mut login: ServerLogin,
        offered: Option<&[u8]>,
    ) -> Result<Option<ScramKeys>, String> {
        let key = [3; 32];
        let mut step = ClientAuth::start(
            method,
            "ann",
            Some(stored),
            LoginContext { mock_key: &key, entropy: &entropy(), iterations: 4, end_point: offered },
        );
        loop {
            match step.map_err(|failure| failure.to_string())? {
                AuthStep::Continue(bytes, state) => {
                    let reply = login.on_authentication(&bytes[5..]);
                    let LoginReply::Send(reply) = reply.map_err(|error| error.to_string())? else {
                        panic!("nothing sent");
                    };
                    assert_eq!(reply[0], b'p');
                    step = state.on_message(&reply[5..]);
                }
                AuthStep::Done { send, scram_keys } => {
                    if !send.is_empty() {
                        assert_eq!(login.on_authentication(&send[5..]), Ok(LoginReply::Nothing));
                    }
                    let end = login.on_authentication(&request(0, b""));
                    assert_eq!(end, Ok(LoginReply::Authenticated));
                    return Ok(scram_keys);
                }
            }
        }
    }

    #[test]
    fn every_secret_answers_what_it_can() {
        const WRONG_TYPE: &str = "server login failed: wrong password type";
        let stored = Secret::Plain("pencil".into());
        let md5 = || ServerSecret::Md5(md5_hex(&[b"pencilann"]));
        let verifier = Secret::parse(POSTGRESQL_VERIFIER);
        let (cleartext, md5_method, scram) = (AuthMethod::Plain, AuthMethod::Md5, AuthMethod::ScramSha256);
        for (method, stored, ours, expected) in [
            (cleartext, &stored, plain("pencil"), Ok(())),
            (cleartext, &stored, md5(), Err(WRONG_TYPE)),
            (cleartext, &stored, keys(), Err(WRONG_TYPE)),
            (md5_method, &stored, plain("pencil"), Ok(())),
            (md5_method, &stored, md5(), Ok(())),
            (md5_method, &stored, keys(), Err(WRONG_TYPE)),
            (scram, &stored, plain("pencil"), Ok(())),
            (scram, &stored, md5(), Err(WRONG_TYPE)),
            (scram, &stored, ServerSecret::LockedScram, Err(WRONG_TYPE)),
            // Keys fit the verifier that they come from, not one of another salt.
            (scram, &stored, keys(), Err(WRONG_TYPE)),
            (scram, &verifier, keys(), Ok(())),
            (scram, &verifier, plain("pencil"), Ok(())),
            (scram, &verifier, plain("Pencil"), Err("SASL authentication failed")),
            (cleartext, &stored, plain("x"), Err("password authentication failed")),
            (md5_method, &stored, plain("x"), Err("password authentication failed")),
            (cleartext, &stored, ServerSecret::None, Err("server login failed: no password for user \"ann\"")),
        ] {
            let shown = format!("{method:?} {ours:?}");
            let result = both_ends(method, stored, ours).map(|_| ());
            assert_eq!(result, expected.map_err(str::to_owned), "{shown}");
        }
    }

    #[test]
    fn a_login_is_bound_where_both_ends_can() {
        let stored = Secret::Plain("pencil".into());
        let run = |ours: Option<&[u8]>, offered: Option<&[u8]>| {
            let login = login(plain("pencil")).bound_to(ours.map(<[u8]>::to_vec));
            both_bound_ends(AuthMethod::ScramSha256, &stored, login, offered).map(drop)
        };
        for (ours, offered) in [(None, None), (Some("a"), None), (None, Some("a")), (Some("a"), Some("a"))] {
            assert_eq!(run(ours.map(str::as_bytes), offered.map(str::as_bytes)), Ok(()), "{ours:?} {offered:?}");
        }
        // Somebody in between, with a certificate of his own.
        assert_eq!(run(Some(b"a"), Some(b"b")), Err("SASL authentication failed".to_owned()));
    }

    #[test]
    fn keys_pass_from_a_client_through_us_to_a_server() {
        let verifier = Secret::parse(POSTGRESQL_VERIFIER);
        for method in [AuthMethod::ScramSha256, AuthMethod::Md5, AuthMethod::Plain] {
            let keys = both_ends(method, &verifier, plain("pencil")).unwrap();
            assert!(keys.is_some(), "{method:?}");
            let ours = ServerSecret::new(Some(&verifier), keys.as_ref());
            assert!(both_ends(AuthMethod::ScramSha256, &verifier, ours).is_ok());
        }
    }

    #[test]
    fn a_plain_secret_reveals_no_keys() {
        let stored = Secret::Plain("pencil".into());
        assert_eq!(both_ends(AuthMethod::ScramSha256, &stored, plain("pencil")), Ok(None));
    }

    #[test]
    fn stored_secrets_become_server_secrets() {
        let verifier = Secret::parse(POSTGRESQL_VERIFIER);
        assert_eq!(ServerSecret::new(None, None), ServerSecret::None);
        let empty = Secret::Plain(String::new());
        assert_eq!(ServerSecret::new(Some(&empty), None), ServerSecret::None);
        assert_eq!(ServerSecret::new(Some(&verifier), None), ServerSecret::LockedScram);
    }

    #[test]
    fn a_server_that_trusts_us_is_taken_at_its_word() {
        let mut login = login(ServerSecret::None);
        assert_eq!(login.on_authentication(&request(0, b"")), Ok(LoginReply::Authenticated));
        assert_eq!(login.on_authentication(&request(0, b"")), Err(LoginError::Unexpected));
    }

    #[test]
    fn scram_cannot_be_cut_short() {
        let mut login = login(plain("pencil"));
        let sasl = request(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
        assert!(matches!(login.on_authentication(&sasl), Ok(LoginReply::Send(_))));
        // AuthenticationOk before the server has shown that it knows the password.
        assert_eq!(login.on_authentication(&request(0, b"")), Err(LoginError::Unexpected));
    }

    #[test]
    fn requests_that_we_cannot_answer_are_named() {
        let error = |body: &[u8]| login(plain("x")).on_authentication(body).unwrap_err();
        for method in [2, 6, 7, 9] {
            assert_eq!(error(&request(method, b"")), LoginError::UnsupportedMethod(method));
        }
        assert_eq!(error(&request(10, b"SCRAM-SHA-256-PLUS\0\0")), LoginError::UnsupportedMechanism);
        for broken in [&b""[..], b"\0\0\0", &request(5, b"abc"), &request(11, b""), &request(12, b"")] {
            assert_eq!(error(broken), LoginError::Unexpected, "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_messages_never_panic(codes in proptest::collection::vec((0u32..14, proptest::collection::vec(any::<u8>(), 0..40)), 0..5)) {
            let mut login = login(plain("p"));
            for (code, payload) in codes {
                let _ = login.on_authentication(&request(code, &payload));
            }
        }
    }
}
