//! The arithmetic of SCRAM-SHA-256 (RFC 5802 section 3) and the verifier that PostgreSQL keeps in `pg_authid`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::SCRAM_MECHANISM;

/// A SHA-256 digest, the size of every key in SCRAM-SHA-256.
pub(super) type Key = [u8; 32];

/// Why a SCRAM exchange failed. For the log: the peer is told no more than that it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message does not follow the grammar of RFC 5802; names the part.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The client binds the exchange to another channel than ours, in a way that we don't have, or not where it said so.
    #[error("SCRAM channel binding check failed")]
    ChannelBinding,
    /// The client could bind, and has seen no offer, though we made one: somebody took it out on the way.
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    /// The client wants to act as somebody else.
    #[error("SCRAM authorization identity is not supported")]
    AuthorizationIdentity,
    /// The peer's nonce is not the one of this exchange.
    #[error("SCRAM nonce mismatch")]
    Nonce,
    /// The client does not know the password.
    #[error("SCRAM proof is wrong")]
    Proof,
    /// The server does not know the password: it is not the server it claims to be.
    #[error("SCRAM server signature is wrong")]
    ServerSignature,
    /// The server's salt or iteration count is not that of the keys at hand.
    #[error("SCRAM keys belong to another verifier")]
    OtherVerifier,
    /// The server asks for more work than any sane configuration would.
    #[error("SCRAM iteration count is too high")]
    Iterations,
}

/// What a server stores instead of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

/// Keys that a client's login revealed. They open the same user's account on every server with the same verifier.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) client_key: Key,
    pub(super) server_key: Key,
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramVerifier(..)")
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(..)")
    }
}

impl ScramVerifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`; `None` if the text is not of that form.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(SCRAM_MECHANISM)?.strip_prefix('$')?;
        let (cost, keys) = rest.split_once('$')?;
        let (iterations, salt) = cost.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        Some(Self {
            iterations: parse_iterations(iterations)?,
            salt: BASE64.decode(salt).ok().filter(|salt| !salt.is_empty())?,
            stored_key: decode_key(stored_key)?,
            server_key: decode_key(server_key)?,
        })
    }

    /// Makes the verifier of a password. Costs `iterations` HMACs (milliseconds), so callers keep the result.
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        ScramKeys::derive(password, salt, iterations).verifier()
    }

    /// How many rounds a password is hashed for.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// A verifier that no password fits, for a user that does not exist. It is always the same for one user and key,
    /// so that asking twice does not tell a made-up user from a real one.
    pub fn mock(mock_key: &[u8], user: &str, iterations: u32) -> Self {
        let seed = hmac(mock_key, &[user.as_bytes()]);
        Self {
            iterations: iterations.max(1),
            salt: hmac(&seed, &[b"salt"])[..16].to_vec(),
            stored_key: hmac(&seed, &[b"stored key"]),
            server_key: hmac(&seed, &[b"server key"]),
        }
    }

    /// The keys behind this verifier, if `password` is the right one.
    pub(super) fn unlock(&self, password: &[u8]) -> Option<ScramKeys> {
        let keys = ScramKeys::derive(password, &self.salt, self.iterations);
        let right: bool = sha256(&keys.client_key).ct_eq(&self.stored_key).into();
        right.then_some(keys)
    }
}

impl ScramKeys {
    pub(super) fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let iterations = iterations.max(1);
        let prepared = normalize(password);
        let mut salted = Key::default();
        pbkdf2::pbkdf2_hmac::<Sha256>(&prepared, salt, iterations, &mut salted);
        Self {
            iterations,
            salt: salt.to_vec(),
            client_key: hmac(&salted, &[b"Client Key"]),
            server_key: hmac(&salted, &[b"Server Key"]),
        }
    }

    fn verifier(self) -> ScramVerifier {
        ScramVerifier {
            iterations: self.iterations,
            salt: self.salt,
            stored_key: sha256(&self.client_key),
            server_key: self.server_key,
        }
    }
}

/// SASLprep, or the bytes as they are where it does not apply: PostgreSQL does the same.
fn normalize(password: &[u8]) -> Vec<u8> {
    std::str::from_utf8(password)
        .ok()
        .and_then(|text| stringprep::saslprep(text).ok())
        .map_or_else(|| password.to_vec(), |text| text.into_owned().into_bytes())
}

pub(super) fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length (RFC 2104)");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(super) fn xor(left: &Key, right: &Key) -> Key {
    std::array::from_fn(|i| left[i] ^ right[i])
}

pub(super) fn encode(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

pub(super) fn decode_key(text: &str) -> Option<Key> {
    decode(text)?.try_into().ok()
}

/// An iteration count: plain digits, at least 1.
pub(super) fn parse_iterations(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|&count| count > 0)
}

/// Takes the value of attribute `name` (as in `r=...`) off the front of a comma-separated message.
pub(super) fn take_attribute<'a>(rest: &mut &'a str, name: char) -> Option<&'a str> {
    let value = rest.strip_prefix(name)?.strip_prefix('=')?;
    let (value, tail) = value.split_once(',').unwrap_or((value, ""));
    *rest = tail;
    Some(value)
}

/// A nonce part as the grammar has it: printable ASCII without comma, at least one character.
pub(super) fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures of RFC 7677 section 3. (Verifiers that PostgreSQL made are in the tests of the two ends of a login.)
    const RFC_SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";

    #[test]
    fn rfc_7677_keys() {
        let keys = ScramKeys::derive(b"pencil", &decode(RFC_SALT).unwrap(), 4096);
        let auth_message = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
             r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
             c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = hmac(&sha256(&keys.client_key), &[auth_message.as_bytes()]);
        assert_eq!(encode(&xor(&keys.client_key, &signature)), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        assert_eq!(
            encode(&hmac(&keys.server_key, &[auth_message.as_bytes()])),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn only_whole_verifiers_parse() {
        let key = encode(&[1; 32]);
        let good = format!("SCRAM-SHA-256$4096:{RFC_SALT}${key}:{key}");
        assert!(ScramVerifier::parse(&good).is_some());
        for bad in [
            good.replace("4096", "0"),
            good.replace("4096", "+4096"),
            good.replace("4096", ""),
            good.replace("4096", "99999999999"),
            good.replace("SHA-256", "SHA-1"),
            good.replace(RFC_SALT, ""),
            good.replace(RFC_SALT, "%"),
            good.replace(&key, "AAAA"),
            good[..good.len() - 4].to_owned(),
            good.replace("$4096", ""),
            format!("{good}:x"),
        ] {
            assert!(ScramVerifier::parse(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn passwords_are_prepared_before_use() {
        // SASLprep maps a non-breaking space to a space and drops the soft hyphen (RFC 4013 section 3).
        let of = |password: &str| ScramVerifier::derive(password.as_bytes(), b"salt", 1);
        assert_eq!(of("I\u{ad}X"), of("IX"));
        assert_eq!(of("a\u{a0}b"), of("a b"));
        assert_ne!(of("a"), of("b"));
    }

    #[test]
    fn passwords_that_cannot_be_prepared_are_used_as_they_are() {
        let raw = ScramVerifier::derive(b"\xff\xfe", b"salt", 1);
        assert_eq!(raw, ScramVerifier::derive(b"\xff\xfe", b"salt", 1));
        assert_ne!(raw, ScramVerifier::derive(b"\xff", b"salt", 1));
    }

    #[test]
    fn mock_verifiers_are_stable_and_differ_by_user_and_key() {
        let ann = ScramVerifier::mock(&[1; 32], "ann", 4096);
        assert_eq!(ann, ScramVerifier::mock(&[1; 32], "ann", 4096));
        assert_ne!(ann.salt, ScramVerifier::mock(&[1; 32], "bob", 4096).salt);
        assert_ne!(ann.salt, ScramVerifier::mock(&[2; 32], "ann", 4096).salt);
        assert_eq!(ann.salt.len(), 16);
    }

    #[test]
    fn only_the_right_password_unlocks() {
        let verifier = ScramVerifier::derive(b"right", b"salt", 2);
        assert!(verifier.unlock(b"right").is_some());
        assert!(verifier.unlock(b"wrong").is_none());
    }

    #[test]
    fn debug_output_shows_no_key() {
        let keys = ScramKeys::derive(b"p", b"salt", 1);
        assert_eq!(format!("{keys:?}"), "ScramKeys(..)");
        assert_eq!(format!("{:?}", keys.verifier()), "ScramVerifier(..)");
    }
}
