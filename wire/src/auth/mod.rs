//! Login, from both sides, as values: a message in, the next message and the next state out. No I/O and no source of
//! chance: nonces and salts come in as [`Entropy`].
//!
//! - `secret`: what is stored about a user's password, and how a password is compared with it;
//! - `scram`: the arithmetic of SCRAM-SHA-256 and the verifier that PostgreSQL stores;
//! - `scram_server`, `scram_client`: the two ends of a SCRAM exchange (RFC 5802, RFC 7677);
//! - `client`: we authenticate a client;
//! - `server`: we log in to PostgreSQL.
//!
//! A SCRAM login leaves a [`ScramKeys`] behind. It is what lets us log in to PostgreSQL as the same user without ever
//! having known the password, as long as PostgreSQL holds the same verifier.

mod client;
mod scram;
mod scram_client;
mod scram_server;
mod secret;
mod server;

pub use client::{AuthFailure, AuthMethod, AuthStep, ClientAuth, Entropy, LoginContext, MockKey};
pub use scram::{ScramError, ScramKeys, ScramVerifier};
pub use scram_client::{AwaitServerFinal, AwaitServerFirst, ChannelBinding, Credentials};
pub use scram_server::{AwaitClientFinal, AwaitClientFirst, BindingFlag, ClientFirst, parse_client_first};
pub use secret::Secret;
pub use server::{LoginError, LoginReply, ServerLogin, ServerSecret};

/// The SASL mechanism that we speak.
const SCRAM_MECHANISM: &str = "SCRAM-SHA-256";
/// The same, bound to the TLS connection around it: nobody in between can pass the exchange on. The binding is the hash of the
/// TLS server's certificate (`tls-server-end-point`, RFC 5929), the only kind that PostgreSQL has.
const SCRAM_PLUS_MECHANISM: &str = "SCRAM-SHA-256-PLUS";
/// How a client announces that binding (RFC 5802, section 7: the beginning of the GS2 header).
const END_POINT_FLAG: &str = "p=tls-server-end-point";

/// Numbers of the Authentication messages ('R').
mod request {
    pub const OK: u32 = 0;
    pub const CLEARTEXT: u32 = 3;
    pub const MD5: u32 = 5;
    pub const SASL: u32 = 10;
    pub const SASL_CONTINUE: u32 = 11;
    pub const SASL_FINAL: u32 = 12;
}

/// A whole message: type byte, length word, body.
fn message(kind: u8, body: &[&[u8]]) -> Vec<u8> {
    let length: usize = body.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 5);
    out.push(kind);
    out.extend_from_slice(&((length + 4) as u32).to_be_bytes());
    for part in body {
        out.extend_from_slice(part);
    }
    out
}

/// The bytes of a C string that fills `body` to its end.
fn c_string(body: &[u8]) -> Option<&[u8]> {
    let (last, text) = body.split_last()?;
    (*last == 0 && !text.contains(&0)).then_some(text)
}
