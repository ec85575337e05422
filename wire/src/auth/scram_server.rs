//! The server's end of a SCRAM-SHA-256 exchange: a client proves to us that it knows the password.
//!
//! client-first → server-first → client-final → server-final, with the channel binding `tls-server-end-point` where there
//! is TLS, and without authorization identity. The user name inside the messages is ignored, as in PostgreSQL: the start-up message has named the user.

use std::str;

use subtle::ConstantTimeEq;

use super::END_POINT_FLAG;
use super::scram::{
    ScramError, ScramKeys, ScramVerifier, decode_key, encode, hmac, is_nonce, sha256, take_attribute, xor,
};

/// What a client says of channel binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindingFlag {
    /// It can't, or won't.
    No,
    /// It could, and believes that we can't.
    NotOffered,
    /// It binds to the certificate of our end.
    EndPoint,
}

/// The parts of a client-first message that the exchange needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFirst<'a> {
    /// The flag at the header's beginning.
    pub binding: BindingFlag,
    /// The header before the bare message; the client repeats it in its final message.
    pub gs2_header: &'a str,
    /// The message without that header; part of what is signed.
    pub bare: &'a str,
    /// The client's nonce.
    pub nonce: &'a str,
}

/// Parses a client-first message. Never panics, whatever the bytes.
pub fn parse_client_first(data: &[u8]) -> Result<ClientFirst<'_>, ScramError> {
    let text = str::from_utf8(data).map_err(|_| ScramError::Malformed("not UTF-8"))?;
    let malformed = ScramError::Malformed("client-first-message");
    let (flag, rest) = text.split_once(',').ok_or(malformed)?;
    let (identity, bare) = rest.split_once(',').ok_or(malformed)?;
    let binding = match flag {
        "n" => BindingFlag::No,
        "y" => BindingFlag::NotOffered,
        END_POINT_FLAG => BindingFlag::EndPoint,
        _ if flag.starts_with("p=") => return Err(ScramError::ChannelBinding),
        _ => return Err(malformed),
    };
    if !identity.is_empty() {
        return Err(ScramError::AuthorizationIdentity);
    }
    let mut attributes = bare;
    take_attribute(&mut attributes, 'n').ok_or(malformed)?;
    let nonce = take_attribute(&mut attributes, 'r').ok_or(malformed)?;
    if !is_nonce(nonce) {
        return Err(malformed);
    }
    let gs2_header = &text[..text.len() - bare.len()];
    Ok(ClientFirst { binding, gs2_header, bare, nonce })
}

/// Waits for the client-first message.
#[derive(Debug)]
pub struct AwaitClientFirst {
    verifier: ScramVerifier,
    nonce: String,
    end_point: Option<Vec<u8>>,
}

/// Waits for the client-final message.
#[derive(Debug)]
pub struct AwaitClientFinal {
    verifier: ScramVerifier,
    nonce: String,
    channel_binding: String,
    /// client-first-bare and server-first with the comma behind each: the beginning of what both sides sign.
    signed: String,
}

impl AwaitClientFirst {
    /// Begins an exchange. `nonce` is our half of it: printable ASCII without commas. `end_point`: the channel binding, if
    /// one was offered.
    pub fn new(verifier: ScramVerifier, nonce: String, end_point: Option<Vec<u8>>) -> Self {
        Self { verifier, nonce, end_point }
    }

    /// Whether the client may choose the mechanism with channel binding.
    pub fn offers_binding(&self) -> bool {
        self.end_point.is_some()
    }

    /// Takes the client-first message; returns the server-first message and the next state. `bound`: the client has chosen
    /// the mechanism with channel binding.
    pub fn on_message(self, data: &[u8], bound: bool) -> Result<(String, AwaitClientFinal), ScramError> {
        let first = parse_client_first(data)?;
        let mut channel_binding = first.gs2_header.as_bytes().to_vec();
        match (first.binding, bound, &self.end_point) {
            (BindingFlag::EndPoint, true, Some(hash)) => channel_binding.extend_from_slice(hash),
            (BindingFlag::NotOffered, false, Some(_)) => return Err(ScramError::Downgrade),
            (BindingFlag::No | BindingFlag::NotOffered, false, _) => {}
            _ => return Err(ScramError::ChannelBinding),
        }
        let nonce = format!("{}{}", first.nonce, self.nonce);
        let salt = encode(&self.verifier.salt);
        let reply = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        let next = AwaitClientFinal {
            channel_binding: encode(&channel_binding),
            signed: format!("{},{reply},", first.bare),
            verifier: self.verifier,
            nonce,
        };
        Ok((reply, next))
    }
}

impl AwaitClientFinal {
    /// Takes the client-final message. If the proof holds, returns the server-final message and the client's keys.
    pub fn on_message(self, data: &[u8]) -> Result<(String, ScramKeys), ScramError> {
        let text = str::from_utf8(data).map_err(|_| ScramError::Malformed("not UTF-8"))?;
        let malformed = ScramError::Malformed("client-final-message");
        // The proof is the last attribute and base64, so the last ",p=" begins it.
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(malformed)?;
        let proof = decode_key(proof).ok_or(malformed)?;
        let mut attributes = without_proof;
        let binding = take_attribute(&mut attributes, 'c').ok_or(malformed)?;
        let nonce = take_attribute(&mut attributes, 'r').ok_or(malformed)?;
        if binding != self.channel_binding {
            return Err(ScramError::ChannelBinding);
        }
        if nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        self.finish(without_proof, &proof)
    }

    fn finish(self, without_proof: &str, proof: &[u8; 32]) -> Result<(String, ScramKeys), ScramError> {
        let verifier = self.verifier;
        let signed = [self.signed.as_bytes(), without_proof.as_bytes()];
        let client_key = xor(proof, &hmac(&verifier.stored_key, &signed));
        if !bool::from(sha256(&client_key).ct_eq(&verifier.stored_key)) {
            return Err(ScramError::Proof);
        }
        let reply = format!("v={}", encode(&hmac(&verifier.server_key, &signed)));
        let keys = ScramKeys {
            iterations: verifier.iterations,
            salt: verifier.salt,
            client_key,
            server_key: verifier.server_key,
        };
        Ok((reply, keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::decode;
    use proptest::prelude::*;

    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn exchange() -> AwaitClientFinal {
        let salt = decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = ScramVerifier::derive(b"pencil", &salt, 4096);
        let (reply, next) =
            AwaitClientFirst::new(verifier, SERVER_NONCE.into(), None).on_message(CLIENT_FIRST, false).unwrap();
        assert_eq!(reply, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        next
    }

    #[test]
    fn rfc_7677_exchange() {
        let (reply, keys) = exchange().on_message(CLIENT_FINAL.as_bytes()).unwrap();
        assert_eq!(reply, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(keys, ScramKeys::derive(b"pencil", &keys.salt.clone(), 4096));
    }

    #[test]
    fn every_change_to_the_final_message_is_noticed() {
        let refused = |message: String| exchange().on_message(message.as_bytes()).unwrap_err();
        assert_eq!(refused(CLIENT_FINAL.replace("dHzb", "dHzc")), ScramError::Proof);
        assert_eq!(refused(CLIENT_FINAL.replace("rOpr", "rOps")), ScramError::Nonce);
        assert_eq!(refused(CLIENT_FINAL.replace("biws", "eSws")), ScramError::ChannelBinding);
        assert_eq!(refused(CLIENT_FINAL.replace(",p=", ",x=1,p=")), ScramError::Proof);
        let malformed = ScramError::Malformed("client-final-message");
        for broken in ["", "c=biws", "c=biws,r=x,p=AAAA", "r=x,c=biws,p=%"] {
            assert_eq!(refused(broken.into()), malformed, "{broken}");
        }
    }

    #[test]
    fn a_client_that_could_bind_but_saw_no_offer_is_served() {
        let first = parse_client_first(b"y,,n=,r=abc").unwrap();
        assert_eq!((first.gs2_header, first.bare, first.nonce), ("y,,", "n=,r=abc", "abc"));
    }

    #[test]
    fn the_flag_has_to_fit_the_mechanism() {
        let begin = |message: &[u8], bound, end_point: Option<&[u8]>| {
            let verifier = ScramVerifier::derive(b"pencil", b"salt", 1);
            let first = AwaitClientFirst::new(verifier, "b".into(), end_point.map(<[u8]>::to_vec));
            first.on_message(message, bound).map(drop)
        };
        let hash = Some(&b"hash"[..]);
        assert_eq!(begin(b"p=tls-server-end-point,,n=,r=a", true, hash), Ok(()));
        for (message, bound, end_point) in [
            (&b"n,,n=,r=a"[..], true, hash),
            (b"y,,n=,r=a", true, hash),
            (b"p=tls-server-end-point,,n=,r=a", false, hash),
            (b"p=tls-server-end-point,,n=,r=a", true, None),
        ] {
            assert_eq!(begin(message, bound, end_point), Err(ScramError::ChannelBinding), "{message:?}");
        }
        assert_eq!(begin(b"y,,n=,r=a", false, hash), Err(ScramError::Downgrade));
    }

    #[test]
    fn unsupported_and_broken_first_messages_are_refused() {
        let malformed = ScramError::Malformed("client-first-message");
        for (message, error) in [
            (&b"p=tls-unique,,n=,r=a"[..], ScramError::ChannelBinding),
            (b"n,a=root,n=,r=a", ScramError::AuthorizationIdentity),
            (b"x,,n=,r=a", malformed),
            (b"n,,m=x,n=,r=a", malformed),
            (b"n,,n=", malformed),
            (b"n,,n=,r=", malformed),
            (b"n,,n=,r=a b", malformed),
            (b"n,,r=a,n=", malformed),
            (b"n", malformed),
            (b"", malformed),
            (b"n,,n=\xff,r=a", ScramError::Malformed("not UTF-8")),
        ] {
            assert_eq!(parse_client_first(message), Err(error), "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_messages_never_panic(first in proptest::collection::vec(any::<u8>(), 0..80), text in "[nyp],[a=]{0,2},n=[a-z]{0,3},r=.{0,8}") {
            let _ = parse_client_first(&first);
            let _ = parse_client_first(text.as_bytes());
        }

        #[test]
        fn arbitrary_final_messages_are_refused(text in "(c=biws,)?(r=[a-z]{0,9},)?.{0,40}(p=[A-Za-z0-9+/]{43}=)?") {
            let verifier = ScramVerifier::mock(&[0; 32], "u", 1);
            let (_, next) = AwaitClientFirst::new(verifier, "b".into(), None).on_message(b"n,,n=,r=a", false).unwrap();
            prop_assert!(next.on_message(text.as_bytes()).is_err());
        }
    }
}
