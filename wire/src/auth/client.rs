//! We authenticate a client: one state machine over the password messages of all methods.
//!
//! Unknown users go through the same exchange as known ones and fail at its end, so that a wrong user and a wrong
//! password look alike (but for the time that it takes to compare a clear-text password with a SCRAM verifier).
//!
//! The failure texts are PgBouncer's. Its SQLSTATE for all of them is 08P01 (protocol violation); ours are PostgreSQL's:
//! 28P01 for a wrong password, 28000 for a refused user. That is a deliberate difference, since drivers decide by
//! SQLSTATE whether to ask for the password again.

use std::fmt;

use subtle::ConstantTimeEq;

use super::scram::{ScramError, ScramKeys, ScramVerifier, encode};
use super::scram_server::{AwaitClientFinal, AwaitClientFirst};
use super::secret::{Comparison, Secret, md5_response};
use super::{SCRAM_MECHANISM, SCRAM_PLUS_MECHANISM, c_string, message, request};

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// No proof; the user only has to be known.
    Trust,
    /// The password in clear text.
    Plain,
    /// A salted MD5 hash; SCRAM where the stored secret is a SCRAM verifier.
    Md5,
    /// SCRAM-SHA-256.
    ScramSha256,
}

/// The key that salts of users who do not exist are derived from: random, the same for a process's lifetime.
pub type MockKey = [u8; 32];

/// The chance that one login needs.
#[derive(Clone)]
pub struct Entropy {
    /// Salt of an md5 challenge.
    pub md5_salt: [u8; 4],
    /// Salt of a verifier that is derived for this login.
    pub scram_salt: [u8; 16],
    /// Our half of the SCRAM nonce, before base64.
    pub nonce: [u8; 18],
}

impl Entropy {
    /// Draws from the thread's cryptographic generator.
    pub fn random() -> Self {
        Self { md5_salt: rand::random(), scram_salt: rand::random(), nonce: rand::random() }
    }
}

/// What an exchange needs beside the user's secret.
#[derive(Clone, Copy)]
pub struct LoginContext<'a> {
    /// The process's key for users who do not exist.
    pub mock_key: &'a MockKey,
    /// Fresh for each login.
    pub entropy: &'a Entropy,
    /// Iterations of a verifier that is derived or made up for this login (`scram_iterations`).
    pub iterations: u32,
    /// The channel binding `tls-server-end-point`, where the client has come over TLS: SCRAM is offered with it, too.
    pub end_point: Option<&'a [u8]>,
}

/// Why a login failed. Displays as the client may see it; the reason in [`AuthFailure::Sasl`] is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthFailure {
    /// The user is unknown, and no proof was asked for.
    #[error("\"trust\" authentication failed")]
    Trust,
    /// Wrong user or password.
    #[error("password authentication failed")]
    Password,
    /// The client sent no password at all.
    #[error("empty password returned by client")]
    EmptyPassword,
    /// Wrong user or password, or a SCRAM exchange that makes no sense.
    #[error("SASL authentication failed")]
    Sasl(ScramError),
    /// The client chose a mechanism that was not offered.
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    /// The message is not what this state of the login expects.
    #[error("failed to parse packet")]
    BadMessage,
}

impl AuthFailure {
    /// SQLSTATE to report.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Trust => "28000",
            Self::Password | Self::EmptyPassword | Self::Sasl(ScramError::Proof) => "28P01",
            Self::Sasl(_) | Self::Mechanism | Self::BadMessage => "08P01",
        }
    }
}

/// What to do next.
#[derive(Debug)]
pub enum AuthStep {
    /// Send the bytes, then hand the body of the client's next password message ('p') to the state.
    Continue(Vec<u8>, ClientAuth),
    /// The client is who it says.
    Done {
        /// Bytes to send before AuthenticationOk, which is not among them. Empty but for SCRAM.
        send: Vec<u8>,
        /// Keys for logging in to servers as this user, where the secret is a SCRAM verifier.
        scram_keys: Option<ScramKeys>,
    },
}

/// A login that waits for the client's next password message.
pub struct ClientAuth(State);

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Plain { .. } => "ClientAuth(Plain)",
            State::Md5 { .. } => "ClientAuth(Md5)",
            State::ScramFirst { .. } => "ClientAuth(ScramFirst)",
            State::ScramFinal { .. } => "ClientAuth(ScramFinal)",
        })
    }
}

enum State {
    Plain {
        user: String,
        secret: Option<Secret>,
    },
    Md5 {
        /// `None` for a login that cannot succeed.
        expected: Option<Vec<u8>>,
    },
    ScramFirst {
        exchange: AwaitClientFirst,
        reveals_keys: bool,
    },
    ScramFinal {
        exchange: AwaitClientFinal,
        reveals_keys: bool,
    },
}

impl ClientAuth {
    /// Begins a login. `secret` is `None` for a user that is not known.
    ///
    /// Where SCRAM meets a plain secret, a verifier is derived here, which costs `context.iterations` HMACs; a caller that
    /// keeps a derived verifier (see [`ScramVerifier::derive`]) passes it in as [`Secret::Scram`] instead.
    pub fn start(
        method: AuthMethod,
        user: &str,
        secret: Option<&Secret>,
        context: LoginContext<'_>,
    ) -> Result<AuthStep, AuthFailure> {
        match (method, secret) {
            (AuthMethod::Trust, None) => Err(AuthFailure::Trust),
            (AuthMethod::Trust, Some(_)) => Ok(AuthStep::Done { send: Vec::new(), scram_keys: None }),
            (AuthMethod::Plain, _) => Ok(start_plain(user, secret)),
            (AuthMethod::ScramSha256, _) | (AuthMethod::Md5, Some(Secret::Scram(_))) => {
                let verifier = verifier_for(user, secret, context);
                let reveals_keys = matches!(secret, Some(Secret::Scram(_)));
                Ok(start_scram(verifier, reveals_keys, context))
            }
            (AuthMethod::Md5, _) => Ok(start_md5(user, secret, context.entropy)),
        }
    }

    /// Takes the body of a password message ('p').
    pub fn on_message(self, body: &[u8]) -> Result<AuthStep, AuthFailure> {
        match self.0 {
            State::Plain { user, secret } => finish_plain(&user, secret.as_ref(), body),
            State::Md5 { expected } => finish_md5(expected.as_deref(), body),
            State::ScramFirst { exchange, reveals_keys } => {
                let (bound, data) = initial_response(body, exchange.offers_binding())?;
                let (reply, exchange) = exchange.on_message(data, bound).map_err(AuthFailure::Sasl)?;
                let next = State::ScramFinal { exchange, reveals_keys };
                let send = authentication(request::SASL_CONTINUE, reply.as_bytes());
                Ok(AuthStep::Continue(send, Self(next)))
            }
            State::ScramFinal { exchange, reveals_keys } => {
                let (reply, keys) = exchange.on_message(body).map_err(AuthFailure::Sasl)?;
                Ok(AuthStep::Done {
                    send: authentication(request::SASL_FINAL, reply.as_bytes()),
                    scram_keys: reveals_keys.then_some(keys),
                })
            }
        }
    }
}

fn start_plain(user: &str, secret: Option<&Secret>) -> AuthStep {
    let state = State::Plain { user: user.to_owned(), secret: secret.cloned() };
    AuthStep::Continue(authentication(request::CLEARTEXT, &[]), ClientAuth(state))
}

fn start_md5(user: &str, secret: Option<&Secret>, entropy: &Entropy) -> AuthStep {
    let hash = secret.and_then(|secret| secret.md5_of(user));
    let state = State::Md5 { expected: hash.map(|hash| md5_response(&hash, entropy.md5_salt)) };
    AuthStep::Continue(authentication(request::MD5, &entropy.md5_salt), ClientAuth(state))
}

fn start_scram(verifier: ScramVerifier, reveals_keys: bool, context: LoginContext<'_>) -> AuthStep {
    let end_point = context.end_point.map(<[u8]>::to_vec);
    // A list of C strings, the preferred one first, closed by an empty one.
    let mechanisms = match end_point {
        Some(_) => format!("{SCRAM_PLUS_MECHANISM}\0{SCRAM_MECHANISM}\0\0"),
        None => format!("{SCRAM_MECHANISM}\0\0"),
    };
    let exchange = AwaitClientFirst::new(verifier, encode(&context.entropy.nonce), end_point);
    let state = State::ScramFirst { exchange, reveals_keys };
    AuthStep::Continue(authentication(request::SASL, mechanisms.as_bytes()), ClientAuth(state))
}

/// The verifier to run SCRAM against. Secrets that SCRAM cannot use (none, empty, md5) get one that never matches.
fn verifier_for(user: &str, secret: Option<&Secret>, context: LoginContext<'_>) -> ScramVerifier {
    match secret {
        Some(Secret::Scram(verifier)) => verifier.clone(),
        Some(Secret::Plain(password)) if !password.is_empty() => {
            ScramVerifier::derive(password.as_bytes(), &context.entropy.scram_salt, context.iterations)
        }
        _ => ScramVerifier::mock(context.mock_key, user, context.iterations),
    }
}

fn finish_plain(user: &str, secret: Option<&Secret>, body: &[u8]) -> Result<AuthStep, AuthFailure> {
    let password = password_of(body)?;
    match secret.map(|secret| secret.compare(user, password)) {
        Some(Comparison::Right(scram_keys)) => Ok(AuthStep::Done { send: Vec::new(), scram_keys }),
        Some(Comparison::Wrong) | None => Err(AuthFailure::Password),
    }
}

fn finish_md5(expected: Option<&[u8]>, body: &[u8]) -> Result<AuthStep, AuthFailure> {
    let response = password_of(body)?;
    match expected {
        Some(expected) if bool::from(expected.ct_eq(response)) => {
            Ok(AuthStep::Done { send: Vec::new(), scram_keys: None })
        }
        _ => Err(AuthFailure::Password),
    }
}

fn password_of(body: &[u8]) -> Result<&[u8], AuthFailure> {
    match c_string(body) {
        Some([]) => Err(AuthFailure::EmptyPassword),
        Some(password) => Ok(password),
        None => Err(AuthFailure::BadMessage),
    }
}

/// The client's first SCRAM message inside a SASLInitialResponse: mechanism, length, data. Also says whether the mechanism is
/// the one with channel binding.
fn initial_response(body: &[u8], offers_binding: bool) -> Result<(bool, &[u8]), AuthFailure> {
    let end = body.iter().position(|&byte| byte == 0);
    let (mechanism, rest) = body.split_at(end.ok_or(AuthFailure::BadMessage)?);
    let bound = offers_binding && mechanism == SCRAM_PLUS_MECHANISM.as_bytes();
    if !bound && mechanism != SCRAM_MECHANISM.as_bytes() {
        return Err(AuthFailure::Mechanism);
    }
    let (length, data) = rest[1..].split_first_chunk::<4>().ok_or(AuthFailure::BadMessage)?;
    if usize::try_from(i32::from_be_bytes(*length)) != Ok(data.len()) {
        return Err(AuthFailure::BadMessage);
    }
    Ok((bound, data))
}

fn authentication(code: u32, payload: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), payload])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOCK_KEY: MockKey = [7; 32];
    const METHODS: [AuthMethod; 3] = [AuthMethod::Plain, AuthMethod::Md5, AuthMethod::ScramSha256];

    fn begin(method: AuthMethod, secret: Option<&Secret>) -> Result<AuthStep, AuthFailure> {
        let entropy = Entropy { md5_salt: *b"abcd", scram_salt: [5; 16], nonce: [9; 18] };
        let context = LoginContext { mock_key: &MOCK_KEY, entropy: &entropy, iterations: 4, end_point: None };
        ClientAuth::start(method, "ann", secret, context)
    }

    fn challenge(method: AuthMethod, secret: Option<&Secret>) -> (Vec<u8>, ClientAuth) {
        match begin(method, secret).unwrap() {
            AuthStep::Continue(bytes, state) => (bytes, state),
            AuthStep::Done { .. } => panic!("no challenge"),
        }
    }

    fn failure(result: Result<AuthStep, AuthFailure>) -> (String, &'static str) {
        let failure = result.unwrap_err();
        (failure.to_string(), failure.sqlstate())
    }

    fn plain(password: &str) -> Secret {
        Secret::Plain(password.into())
    }

    #[test]
    fn trust_needs_a_known_user_and_nothing_else() {
        let step = begin(AuthMethod::Trust, Some(&plain(""))).unwrap();
        assert!(matches!(step, AuthStep::Done { send, scram_keys: None } if send.is_empty()));
        assert_eq!(failure(begin(AuthMethod::Trust, None)), ("\"trust\" authentication failed".into(), "28000"));
    }

    #[test]
    fn challenges_are_postgresqls() {
        let secret = plain("x");
        let of = |method| challenge(method, Some(&secret)).0;
        assert_eq!(of(AuthMethod::Plain), b"R\0\0\0\x08\0\0\0\x03");
        assert_eq!(of(AuthMethod::Md5), b"R\0\0\0\x0c\0\0\0\x05abcd");
        let sasl = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
        assert_eq!(of(AuthMethod::ScramSha256), sasl);
        let verifier = Secret::Scram(ScramVerifier::derive(b"x", b"salt", 4));
        assert_eq!(challenge(AuthMethod::Md5, Some(&verifier)).0, sasl);
    }

    #[test]
    fn a_clear_text_password_opens_every_kind_of_secret() {
        for (secret, has_keys) in [
            (plain("secret"), false),
            (Secret::parse("md59d792a3a8853c2411afb9163d088c036"), false),
            (Secret::Scram(ScramVerifier::derive(b"secret", b"s", 4)), true),
        ] {
            let answer = |body: &[u8]| challenge(AuthMethod::Plain, Some(&secret)).1.on_message(body);
            let AuthStep::Done { send, scram_keys } = answer(b"secret\0").unwrap() else {
                panic!("not done: {secret:?}");
            };
            assert!(send.is_empty());
            assert_eq!(scram_keys.is_some(), has_keys, "{secret:?}");
            let wrong = ("password authentication failed".into(), "28P01");
            assert_eq!(failure(answer(b"Secret\0")), wrong);
            let empty = ("empty password returned by client".into(), "28P01");
            assert_eq!(failure(answer(b"\0")), empty);
            for broken in [&b""[..], b"secret", b"sec\0ret\0"] {
                assert_eq!(failure(answer(broken)), ("failed to parse packet".into(), "08P01"));
            }
        }
    }

    #[test]
    fn md5_accepts_exactly_the_right_response() {
        for secret in [plain("secret"), Secret::parse("md59d792a3a8853c2411afb9163d088c036")] {
            let answer = |body: &[u8]| challenge(AuthMethod::Md5, Some(&secret)).1.on_message(body);
            assert!(matches!(
                answer(b"md5b74835331d7e1d325026d95f00dd69c5\0"),
                Ok(AuthStep::Done { scram_keys: None, .. })
            ));
            let wrong = ("password authentication failed".into(), "28P01");
            assert_eq!(failure(answer(b"md5b74835331d7e1d325026d95f00dd69c6\0")), wrong);
            assert_eq!(failure(answer(b"secret\0")), wrong);
        }
    }

    #[test]
    fn unknown_users_and_empty_secrets_fail_only_at_the_end() {
        for secret in [None, Some(plain(""))] {
            for method in METHODS {
                let (_, state) = challenge(method, secret.as_ref());
                if method != AuthMethod::ScramSha256 {
                    let wrong = ("password authentication failed".into(), "28P01");
                    assert_eq!(failure(state.on_message(b"x\0")), wrong);
                    continue;
                }
                let step = state.on_message(&sasl_initial("SCRAM-SHA-256", b"n,,n=,r=abc"));
                assert!(matches!(step, Ok(AuthStep::Continue(..))));
            }
        }
    }

    #[test]
    fn the_mock_salt_of_a_user_is_stable() {
        let first = || {
            let (_, state) = challenge(AuthMethod::ScramSha256, None);
            match state.on_message(&sasl_initial("SCRAM-SHA-256", b"n,,n=,r=abc")) {
                Ok(AuthStep::Continue(bytes, _)) => bytes,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(first(), first());
    }

    fn sasl_initial(mechanism: &str, data: &[u8]) -> Vec<u8> {
        let length = (data.len() as i32).to_be_bytes();
        [mechanism.as_bytes(), b"\0", &length, data].concat()
    }

    #[test]
    fn broken_sasl_messages_are_refused() {
        let secret = plain("secret");
        let answer = |body: &[u8]| failure(challenge(AuthMethod::ScramSha256, Some(&secret)).1.on_message(body));
        assert_eq!(
            answer(&sasl_initial("SCRAM-SHA-256-PLUS", b"p=x,,n=,r=a")),
            ("client selected an invalid SASL authentication mechanism".into(), "08P01")
        );
        assert_eq!(
            answer(&sasl_initial("SCRAM-SHA-256", b"p=x,,n=,r=a")),
            ("SASL authentication failed".into(), "08P01")
        );
        for broken in [
            &b""[..],
            b"SCRAM-SHA-256",
            b"SCRAM-SHA-256\0",
            b"SCRAM-SHA-256\0\xff\xff\xff\xff",
            b"SCRAM-SHA-256\0\0\0\0\x02x",
        ] {
            assert_eq!(answer(broken), ("failed to parse packet".into(), "08P01"), "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic_and_never_pass(body in proptest::collection::vec(any::<u8>(), 0..120)) {
            let secret = plain("a password longer than what a random body would hit");
            for method in METHODS {
                let (_, state) = challenge(method, Some(&secret));
                let passed = matches!(state.on_message(&body), Ok(AuthStep::Done { .. }));
                prop_assert!(!passed);
            }
        }

        #[test]
        fn arbitrary_initial_responses_never_panic(data in proptest::collection::vec(any::<u8>(), 0..60)) {
            let (_, state) = challenge(AuthMethod::ScramSha256, Some(&plain("p")));
            let _ = state.on_message(&sasl_initial("SCRAM-SHA-256", &data));
        }
    }
}
