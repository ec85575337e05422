//! The client's end of a SCRAM-SHA-256 exchange: we prove to PostgreSQL that we know a user's password (or hold the
//! keys that one of the user's own logins left with us), and PostgreSQL proves the same to us.

use std::str;

use subtle::ConstantTimeEq;

use super::END_POINT_FLAG;
use super::scram::{
    ScramError, ScramKeys, decode, decode_key, encode, hmac, is_nonce, parse_iterations, sha256, take_attribute, xor,
};

/// Most iterations that a server may ask of us: about a second of work. PostgreSQL's default is 4096.
const MAX_ITERATIONS: u32 = 1_000_000;

/// What we know of the channel between us and the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelBinding {
    /// No TLS, or a certificate that has no hash of its own.
    Impossible,
    /// We could bind, and the server has not offered it. If it has, this lets it notice that somebody is in between.
    NotOffered,
    /// Bound to the server's certificate, whose hash this is.
    EndPoint(Vec<u8>),
}

impl ChannelBinding {
    /// The GS2 header, without an authorization identity.
    fn header(&self) -> String {
        match self {
            Self::Impossible => "n,,".to_owned(),
            Self::NotOffered => "y,,".to_owned(),
            Self::EndPoint(_) => format!("{END_POINT_FLAG},,"),
        }
    }

    /// What the final message repeats of it: the header, and the binding itself.
    fn proof(&self) -> String {
        let mut bytes = self.header().into_bytes();
        if let Self::EndPoint(hash) = self {
            bytes.extend_from_slice(hash);
        }
        encode(&bytes)
    }
}

/// What we log in with.
#[derive(Clone)]
pub enum Credentials {
    /// The password itself.
    Password(String),
    /// Keys that a client's login revealed.
    Keys(ScramKeys),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    fn keys(self, salt: &[u8], iterations: u32) -> Result<ScramKeys, ScramError> {
        match self {
            Self::Password(password) => Ok(ScramKeys::derive(password.as_bytes(), salt, iterations)),
            Self::Keys(keys) if keys.salt == salt && keys.iterations == iterations => Ok(keys),
            Self::Keys(_) => Err(ScramError::OtherVerifier),
        }
    }
}

/// Waits for the server-first message.
#[derive(Debug)]
pub struct AwaitServerFirst {
    credentials: Credentials,
    nonce: String,
    bare: String,
    binding: ChannelBinding,
}

/// Waits for the server-final message.
#[derive(Debug)]
pub struct AwaitServerFinal {
    server_signature: [u8; 32],
}

impl AwaitServerFirst {
    /// Begins an exchange; returns the client-first message. `nonce` is printable ASCII without commas.
    ///
    /// The user name in the message stays empty: PostgreSQL takes the one of the start-up message.
    pub fn start(credentials: Credentials, nonce: String, binding: ChannelBinding) -> (String, Self) {
        Self::start_as("", credentials, nonce, binding)
    }

    fn start_as(user: &str, credentials: Credentials, nonce: String, binding: ChannelBinding) -> (String, Self) {
        let bare = format!("n={user},r={nonce}");
        let first = format!("{}{bare}", binding.header());
        (first, Self { credentials, nonce, bare, binding })
    }

    /// Takes the server-first message; returns the client-final message and the next state.
    pub fn on_message(self, data: &[u8]) -> Result<(String, AwaitServerFinal), ScramError> {
        let malformed = ScramError::Malformed("server-first-message");
        let text = str::from_utf8(data).map_err(|_| malformed)?;
        let mut attributes = text;
        let nonce = take_attribute(&mut attributes, 'r').ok_or(malformed)?;
        let salt = take_attribute(&mut attributes, 's').and_then(decode);
        let salt = salt.filter(|salt| !salt.is_empty()).ok_or(malformed)?;
        let iterations = take_attribute(&mut attributes, 'i').and_then(parse_iterations).ok_or(malformed)?;
        if iterations > MAX_ITERATIONS {
            return Err(ScramError::Iterations);
        }
        match nonce.strip_prefix(&self.nonce) {
            Some(theirs) if is_nonce(theirs) => {}
            _ => return Err(ScramError::Nonce),
        }
        let keys = self.credentials.keys(&salt, iterations)?;
        let without_proof = format!("c={},r={nonce}", self.binding.proof());
        let signed = format!("{},{text},{without_proof}", self.bare);
        let signature = hmac(&sha256(&keys.client_key), &[signed.as_bytes()]);
        let proof = encode(&xor(&keys.client_key, &signature));
        let next = AwaitServerFinal { server_signature: hmac(&keys.server_key, &[signed.as_bytes()]) };
        Ok((format!("{without_proof},p={proof}"), next))
    }
}

impl AwaitServerFinal {
    /// Takes the server-final message and checks that the server knows the password, too.
    pub fn on_message(self, data: &[u8]) -> Result<(), ScramError> {
        let malformed = ScramError::Malformed("server-final-message");
        let mut attributes = str::from_utf8(data).map_err(|_| malformed)?;
        let signature = take_attribute(&mut attributes, 'v').and_then(decode_key).ok_or(malformed)?;
        if signature.ct_eq(&self.server_signature).into() { Ok(()) } else { Err(ScramError::ServerSignature) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::ScramVerifier;
    use crate::auth::scram_server::AwaitClientFirst;
    use proptest::prelude::*;

    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn begin() -> AwaitServerFirst {
        let (first, state) = AwaitServerFirst::start_as(
            "user",
            Credentials::Password("pencil".into()),
            "rOprNGfwEbeRWgbNEkqO".into(),
            ChannelBinding::Impossible,
        );
        assert_eq!(first, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        state
    }

    #[test]
    fn rfc_7677_exchange() {
        let (reply, last) = begin().on_message(SERVER_FIRST.as_bytes()).unwrap();
        assert_eq!(
            reply,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(last.on_message(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_noticed() {
        let refused = |message: &[u8]| {
            let (_, last) = begin().on_message(SERVER_FIRST.as_bytes()).unwrap();
            last.on_message(message).unwrap_err()
        };
        assert_eq!(refused(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), ScramError::ServerSignature);
        let malformed = ScramError::Malformed("server-final-message");
        for broken in [&b""[..], b"e=other-error", b"v=", b"\xff"] {
            assert_eq!(refused(broken), malformed, "{broken:?}");
        }
    }

    #[test]
    fn broken_first_messages_are_refused() {
        let malformed = ScramError::Malformed("server-first-message");
        let nonce = "r=rOprNGfwEbeRWgbNEkqOx";
        for (message, error) in [
            (String::new(), malformed),
            (format!("{nonce},s=AAAA"), malformed),
            (format!("{nonce},s=,i=1"), malformed),
            (format!("{nonce},s=AAAA,i=0"), malformed),
            (format!("{nonce},s=AAAA,i=-1"), malformed),
            (format!("{nonce},s=AAAA,i=1000001"), ScramError::Iterations),
            ("r=other,s=AAAA,i=1".into(), ScramError::Nonce),
            // The server has to add something of its own.
            ("r=rOprNGfwEbeRWgbNEkqO,s=AAAA,i=1".into(), ScramError::Nonce),
        ] {
            let result = begin().on_message(message.as_bytes());
            assert_eq!(result.unwrap_err(), error, "{message}");
        }
    }

    /// Runs an exchange between our two ends; the keys that the server's end learned.
    fn both_ends(credentials: Credentials, verifier: ScramVerifier) -> Result<ScramKeys, ScramError> {
        both_bound_ends(credentials, verifier, ChannelBinding::Impossible, None)
    }

    /// As [`both_ends`]; `offered` is the binding of the server's end.
    fn both_bound_ends(
        credentials: Credentials,
        verifier: ScramVerifier,
        binding: ChannelBinding,
        offered: Option<&[u8]>,
    ) -> Result<ScramKeys, ScramError> {
        let bound = matches!(binding, ChannelBinding::EndPoint(_));
        let (first, client) = AwaitServerFirst::start(credentials, "client".into(), binding);
        let server = AwaitClientFirst::new(verifier, "server".into(), offered.map(<[u8]>::to_vec));
        let (reply, server) = server.on_message(first.as_bytes(), bound)?;
        let (last, client) = client.on_message(reply.as_bytes())?;
        let (reply, keys) = server.on_message(last.as_bytes())?;
        client.on_message(reply.as_bytes())?;
        Ok(keys)
    }

    #[test]
    fn keys_of_one_login_open_the_next() {
        let verifier = ScramVerifier::derive(b"secret", b"salt", 10);
        let keys = both_ends(Credentials::Password("secret".into()), verifier.clone()).unwrap();
        assert_eq!(both_ends(Credentials::Keys(keys.clone()), verifier), Ok(keys.clone()));
        for other in [ScramVerifier::derive(b"secret", b"pepper", 10), ScramVerifier::derive(b"secret", b"salt", 11)] {
            assert_eq!(both_ends(Credentials::Keys(keys.clone()), other), Err(ScramError::OtherVerifier));
        }
    }

    #[test]
    fn both_ends_have_to_see_the_same_channel() {
        let verifier = ScramVerifier::derive(b"secret", b"salt", 10);
        let run = |binding, offered| {
            let password = Credentials::Password("secret".into());
            both_bound_ends(password, verifier.clone(), binding, offered).map(drop)
        };
        let end_point = || ChannelBinding::EndPoint(b"hash".to_vec());
        assert_eq!(run(end_point(), Some(b"hash")), Ok(()));
        assert_eq!(run(end_point(), Some(b"hush")), Err(ScramError::ChannelBinding));
        assert_eq!(run(end_point(), None), Err(ScramError::ChannelBinding));
        assert_eq!(run(ChannelBinding::NotOffered, None), Ok(()));
        assert_eq!(run(ChannelBinding::NotOffered, Some(b"hash")), Err(ScramError::Downgrade));
        assert_eq!(run(ChannelBinding::Impossible, Some(b"hash")), Ok(()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_two_ends_agree_exactly_on_equal_passwords(ours in "\\PC{1,12}", theirs in "\\PC{1,12}", salt in proptest::collection::vec(any::<u8>(), 1..20), iterations in 1u32..20) {
            let verifier = ScramVerifier::derive(theirs.as_bytes(), &salt, iterations);
            prop_assert!(both_ends(Credentials::Password(theirs.clone()), verifier.clone()).is_ok());
            let same = ScramVerifier::derive(ours.as_bytes(), &salt, iterations) == verifier;
            prop_assert_eq!(both_ends(Credentials::Password(ours), verifier).is_ok(), same);
        }

        #[test]
        fn arbitrary_messages_never_panic(text in "r=a[a-z]{0,3}(,s=[A-Z=]{0,8})?(,i=[0-9]{0,3})?.{0,8}") {
            let (_, state) = AwaitServerFirst::start(Credentials::Password("p".into()), "a".into(), ChannelBinding::Impossible);
            let _ = state.on_message(text.as_bytes());
        }
    }
}
