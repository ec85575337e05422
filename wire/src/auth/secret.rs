//! What is stored about a user's password: the password, its MD5 hash or its SCRAM verifier.

use std::fmt;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::scram::{ScramKeys, ScramVerifier};

/// A user's secret as found in `auth_file` or `pg_authid`.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The password itself. An empty one never matches anything.
    Plain(String),
    /// The lower-case hexadecimal digits of `md5(password + user)`.
    Md5([u8; 32]),
    /// A SCRAM-SHA-256 verifier.
    Scram(ScramVerifier),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Secret::Plain(..)",
            Self::Md5(_) => "Secret::Md5(..)",
            Self::Scram(_) => "Secret::Scram(..)",
        })
    }
}

/// Result of comparing a password with a secret.
pub(super) enum Comparison {
    Wrong,
    /// The password is right, and, where the secret is a verifier, here are the keys behind it.
    Right(Option<ScramKeys>),
}

impl Secret {
    /// Tells the three forms apart by their prefix. What only looks like a hash or a verifier is a password.
    pub fn parse(text: &str) -> Self {
        if let Some(verifier) = ScramVerifier::parse(text) {
            return Self::Scram(verifier);
        }
        match text.strip_prefix("md5").map(parse_hex) {
            Some(Some(hex)) => Self::Md5(hex),
            _ => Self::Plain(text.to_owned()),
        }
    }

    /// An MD5 hash that no password is known for.
    pub fn random() -> Self {
        Self::Md5(md5_hex(&[&rand::random::<[u8; 32]>()]))
    }

    /// Compares a password that came in clear text. With a SCRAM secret this costs a key derivation.
    pub(super) fn compare(&self, user: &str, password: &[u8]) -> Comparison {
        let right = match self {
            Self::Plain(secret) if secret.is_empty() => false,
            Self::Plain(secret) => secret.as_bytes().ct_eq(password).into(),
            Self::Md5(hex) => md5_hex(&[password, user.as_bytes()]).ct_eq(hex).into(),
            Self::Scram(verifier) => {
                return match verifier.unlock(password) {
                    Some(keys) => Comparison::Right(Some(keys)),
                    None => Comparison::Wrong,
                };
            }
        };
        match right {
            true => Comparison::Right(None),
            false => Comparison::Wrong,
        }
    }

    /// The hash that md5 authentication builds upon; `None` where it cannot be had.
    pub(super) fn md5_of(&self, user: &str) -> Option<[u8; 32]> {
        match self {
            Self::Plain(secret) if secret.is_empty() => None,
            Self::Plain(secret) => Some(md5_hex(&[secret.as_bytes(), user.as_bytes()])),
            Self::Md5(hex) => Some(*hex),
            Self::Scram(_) => None,
        }
    }
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits: [u8; 32] = text.as_bytes().try_into().ok()?;
    digits.iter().all(u8::is_ascii_hexdigit).then(|| digits.map(|digit| digit.to_ascii_lowercase()))
}

/// The hexadecimal digits of an MD5 hash.
pub(super) fn md5_hex(parts: &[&[u8]]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    let hash = hash.finalize();
    std::array::from_fn(|i| {
        let byte = hash[i / 2];
        DIGITS[usize::from(if i % 2 == 0 { byte >> 4 } else { byte & 15 })]
    })
}

/// The answer to an md5 challenge: `md5` and the digits of `md5(hex + salt)`.
pub(super) fn md5_response(hex: &[u8; 32], salt: [u8; 4]) -> Vec<u8> {
    [b"md5".as_slice(), &md5_hex(&[hex, &salt])].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_right(secret: &Secret, password: &str) -> bool {
        matches!(secret.compare("ann", password.as_bytes()), Comparison::Right(_))
    }

    #[test]
    fn the_three_forms_are_told_apart() {
        // As PostgreSQL stores password 'secret' of user ann.
        let md5 = Secret::parse("md59d792a3a8853c2411afb9163d088c036");
        assert_eq!(md5, Secret::Md5(md5_hex(&[b"secretann"])));
        let upper = Secret::parse("md59D792A3A8853C2411AFB9163D088C036");
        assert_eq!(md5, upper);
        for plain in ["", "md5", "md5zz", "SCRAM-SHA-256$x", "pass word"] {
            assert_eq!(Secret::parse(plain), Secret::Plain(plain.into()));
        }
        let not_hex = format!("md5{}", "g".repeat(32));
        assert_eq!(Secret::parse(&not_hex), Secret::Plain(not_hex));
    }

    #[test]
    fn each_form_knows_its_password() {
        for secret in [
            Secret::Plain("secret".into()),
            Secret::Md5(md5_hex(&[b"secretann"])),
            Secret::Scram(ScramVerifier::derive(b"secret", b"salt", 3)),
        ] {
            assert!(is_right(&secret, "secret"), "{secret:?}");
            for wrong in ["", "secre", "secret2", "Secret"] {
                assert!(!is_right(&secret, wrong), "{secret:?} {wrong}");
            }
        }
    }

    #[test]
    fn an_empty_secret_matches_nothing() {
        let empty = Secret::Plain(String::new());
        assert!(!is_right(&empty, ""));
        assert_eq!(empty.md5_of("ann"), None);
    }

    #[test]
    fn md5_response_hashes_twice() {
        // printf secretann | md5sum, then the digits and the salt again.
        let response = md5_response(&md5_hex(&[b"secretann"]), *b"abcd");
        assert_eq!(response, b"md5b74835331d7e1d325026d95f00dd69c5");
    }

    #[test]
    fn debug_output_shows_no_password() {
        let shown = format!("{:?}", Secret::Plain("hush".into()));
        assert_eq!(shown, "Secret::Plain(..)");
    }
}
