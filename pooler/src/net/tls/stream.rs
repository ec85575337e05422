//! TLS over one socket: what the peer sends is decrypted, what we send is encrypted.
//!
//! rustls' unbuffered interface is used, so that the buffers are ours: an idle connection has none. Bytes that came in are
//! decrypted where they were read to, in a buffer of the thread; only the beginning of a record that has not come in whole
//! stays with the connection.
//!
//! A record, once encrypted, has to go out as it is. [`Tls::write`] therefore reports a chunk as written only when the kernel
//! has taken all of its record; until then the caller keeps the chunk, offers it again, and so comes back to send the rest.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};
use rustls::{CipherSuite, ClientConfig, CommonState, NamedGroup, ProtocolVersion, ServerConfig};

/// Bytes that are read at once: a little more than the longest record.
const READ: usize = 17 * 1024;
/// Plaintext of one record that we send.
const CHUNK: usize = 16 * 1024;
/// What a record adds to its plaintext, at most.
const OVERHEAD: usize = 64;

thread_local! {
    static CIPHERTEXT: RefCell<Vec<u8>> = RefCell::new(vec![0; 2 * READ]);
}

/// What was agreed on, as `TLSv1.3/TLS_AES_256_GCM_SHA384/ECDH=x25519`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TlsInfo {
    /// These are the numbers that TLS has for them.
    version: u16,
    suite: u16,
    group: Option<u16>,
}

impl fmt::Display for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.version == u16::from(ProtocolVersion::TLSv1_3) { "TLSv1.3" } else { "TLSv1.2" };
        write!(f, "{version}/{}", crate::config::openssl_name(CipherSuite::from(self.suite)))?;
        match self.group {
            Some(group) => write!(f, "/ECDH={:?}", NamedGroup::from(group)),
            None => Ok(()),
        }
    }
}

enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl Deref for Connection {
    type Target = CommonState;

    fn deref(&self) -> &CommonState {
        match self {
            Self::Client(connection) => connection,
            Self::Server(connection) => connection,
        }
    }
}

/// One end of a TLS connection, without its socket.
pub struct Tls {
    connection: Connection,
    /// What came in and is not a whole record yet.
    received: Vec<u8>,
    /// Decrypted and not yet asked for.
    plain: Vec<u8>,
    /// Encrypted and not yet taken by the kernel.
    unsent: Vec<u8>,
    /// Bytes of plaintext in `unsent`: the caller still takes them for unwritten.
    unreported: usize,
    /// The peer has said goodbye, or closed the socket.
    ended: bool,
}

impl Tls {
    /// Our end is the TLS server. `received` was read from the socket before it was known that TLS begins there.
    pub fn accept(config: Arc<ServerConfig>, received: Vec<u8>) -> io::Result<Self> {
        let connection = UnbufferedServerConnection::new(config).map_err(failed)?;
        Ok(Self::new(Connection::Server(connection), received))
    }

    /// Our end is the TLS client.
    pub fn connect(config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let connection = UnbufferedClientConnection::new(config, name).map_err(failed)?;
        Ok(Self::new(Connection::Client(connection), Vec::new()))
    }

    fn new(connection: Connection, received: Vec<u8>) -> Self {
        Self { connection, received, plain: Vec::new(), unsent: Vec::new(), unreported: 0, ended: false }
    }

    /// The handshake is over.
    pub fn is_established(&self) -> bool {
        !self.connection.is_handshaking()
    }

    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Decrypted bytes wait, or the end of the stream does.
    pub fn is_readable(&self) -> bool {
        self.ended || !self.plain.is_empty()
    }

    pub fn has_plain(&self) -> bool {
        !self.plain.is_empty()
    }

    pub fn info(&self) -> Option<TlsInfo> {
        Some(TlsInfo {
            version: self.connection.protocol_version()?.into(),
            suite: self.connection.negotiated_cipher_suite()?.suite().into(),
            group: self.connection.negotiated_key_exchange_group().map(|group| group.name().into()),
        })
    }

    pub fn alpn(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.connection.peer_certificates()?.first()
    }

    /// What was decrypted before; `None` if more has to be read first.
    pub fn take_plain(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if self.plain.is_empty() {
            return self.ended.then_some(0);
        }
        let count = self.plain.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.plain[..count]);
        self.plain.drain(..count);
        if self.plain.is_empty() {
            self.plain = Vec::new();
        }
        Some(count)
    }

    /// Reads once, by `read`, and decrypts into `buffer`; returns how much that gave. What does not fit is kept.
    pub fn fill<R>(
        &mut self,
        buffer: &mut [u8],
        read: impl FnOnce(&mut [u8]) -> Result<io::Result<usize>, R>,
    ) -> Result<io::Result<usize>, R> {
        CIPHERTEXT.with_borrow_mut(|ciphertext| {
            let kept = self.received.len();
            if ciphertext.len() < kept + READ {
                ciphertext.resize(kept + READ, 0);
            }
            let count = match read(&mut ciphertext[kept..kept + READ])? {
                Ok(count) => count,
                Err(error) => return Ok(Err(error)),
            };
            if count == 0 {
                // Without a close_notify, perhaps: PostgreSQL's messages show by themselves whether they are whole.
                self.ended = true;
                return Ok(Ok(0));
            }
            ciphertext[..kept].copy_from_slice(&self.received);
            Ok(self.absorb(&mut ciphertext[..kept + count], buffer))
        })
    }

    /// Goes on with what is there; needed once, before the first [`Self::fill`].
    pub fn begin(&mut self) -> io::Result<()> {
        let mut received = std::mem::take(&mut self.received);
        self.absorb(&mut received, &mut []).map(drop)
    }

    /// Takes ciphertext in. What it brings goes to `buffer` and [`Self::plain`], what it makes us say to [`Self::unsent`].
    fn absorb(&mut self, ciphertext: &mut [u8], buffer: &mut [u8]) -> io::Result<usize> {
        let Self { connection, plain, unsent, ended, .. } = self;
        let mut sink = Sink { buffer, filled: 0, plain, unsent };
        let mut used = 0;
        let result = loop {
            let rest = &mut ciphertext[used..];
            let (discard, next) = match connection {
                Connection::Client(connection) => sink.take(connection.process_tls_records(rest)),
                Connection::Server(connection) => sink.take(connection.process_tls_records(rest)),
            };
            used += discard;
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Ended) => *ended = true,
                Ok(Next::Wait) => break Ok(sink.filled),
                Err(error) => break Err(error),
            }
        };
        if result.is_err() {
            // The alert that tells the peer why.
            let rest = &mut ciphertext[used..];
            let _ = match connection {
                Connection::Client(connection) => sink.take(connection.process_tls_records(rest)),
                Connection::Server(connection) => sink.take(connection.process_tls_records(rest)),
            };
        }
        self.received = ciphertext[used..].to_vec();
        result.map_err(failed)
    }

    /// Encrypts and sends as much of `bytes` as `send` takes, and returns how much is through.
    pub fn write(&mut self, bytes: &[u8], mut send: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<usize> {
        let mut written = 0;
        loop {
            if !self.flush(&mut send)? {
                return Ok(written);
            }
            written = bytes.len().min(written + std::mem::take(&mut self.unreported));
            if written == bytes.len() {
                return Ok(written);
            }
            let chunk = &bytes[written..bytes.len().min(written + CHUNK)];
            self.seal(chunk)?;
            self.unreported = chunk.len();
        }
    }

    /// Sends what is encrypted; `false` if the kernel didn't take it all.
    pub fn flush(&mut self, mut send: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            let count = send(&self.unsent)?;
            if count == 0 {
                return Ok(false);
            }
            self.unsent.drain(..count);
        }
        self.unsent = Vec::new();
        Ok(true)
    }

    /// Says goodbye, as far as the kernel takes it at once.
    pub fn close(&mut self, send: impl FnMut(&[u8]) -> io::Result<usize>) {
        if self.is_established() && self.unsent.is_empty() && self.encrypt(None).is_ok() {
            let _ = self.flush(send);
        }
    }

    fn seal(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.encrypt(Some(chunk))
    }

    /// Appends the records for `chunk`, or (`None`) the goodbye, to [`Self::unsent`].
    fn encrypt(&mut self, chunk: Option<&[u8]>) -> io::Result<()> {
        let Self { connection, received, plain, unsent, .. } = self;
        loop {
            // Not an empty slice: rustls may have taken note of a part of a handshake message in it.
            let mut sink = Sink { buffer: &mut [], filled: 0, plain, unsent };
            let next = match connection {
                Connection::Client(connection) => sink.put(connection.process_tls_records(received), chunk),
                Connection::Server(connection) => sink.put(connection.process_tls_records(received), chunk),
            };
            match next? {
                Next::Again | Next::Ended => {}
                Next::Wait => return Ok(()),
            }
        }
    }
}

/// What to do after a state of rustls was dealt with.
enum Next {
    Again,
    /// The peer has said goodbye.
    Ended,
    /// Nothing more to do with what is there.
    Wait,
}

/// Where the two kinds of output go.
struct Sink<'a> {
    buffer: &'a mut [u8],
    filled: usize,
    plain: &'a mut Vec<u8>,
    unsent: &'a mut Vec<u8>,
}

impl Sink<'_> {
    fn take<D>(&mut self, status: UnbufferedStatus<'_, '_, D>) -> (usize, Result<Next, rustls::Error>) {
        let UnbufferedStatus { mut discard, state } = status;
        let next = state.and_then(|state| {
            Ok(match state {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        self.keep(record.payload);
                    }
                    Next::Again
                }
                state => self.reply(state).1,
            })
        });
        (discard, next)
    }

    /// As [`Self::take`], up to the state in which `chunk` can be encrypted. Nothing new has come in, so nothing is discarded.
    fn put<D>(&mut self, status: UnbufferedStatus<'_, '_, D>, chunk: Option<&[u8]>) -> io::Result<Next> {
        match self.reply(status.state.map_err(failed)?) {
            (Some(ConnectionState::WriteTraffic(mut traffic)), _) => {
                let start = self.unsent.len();
                let mut room = chunk.map_or(0, <[u8]>::len) + OVERHEAD;
                loop {
                    self.unsent.resize(start + room, 0);
                    let out = &mut self.unsent[start..];
                    let result = match chunk {
                        Some(chunk) => traffic.encrypt(chunk, out),
                        None => traffic.queue_close_notify(out),
                    };
                    match result {
                        Ok(count) => {
                            self.unsent.truncate(start + count);
                            return Ok(Next::Wait);
                        }
                        Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size }))
                            if required_size > room =>
                        {
                            room = required_size;
                        }
                        Err(error) => {
                            self.unsent.truncate(start);
                            return Err(io::Error::other(error));
                        }
                    }
                }
            }
            (Some(_), _) => Err(io::ErrorKind::BrokenPipe.into()),
            (None, next) => Ok(next),
        }
    }

    /// Deals with what is the same whether we read or write; other states are handed back.
    fn reply<'c, 'i, D>(&mut self, state: ConnectionState<'c, 'i, D>) -> (Option<ConnectionState<'c, 'i, D>>, Next) {
        match state {
            ConnectionState::EncodeTlsData(mut data) => {
                let start = self.unsent.len();
                let mut room = 0;
                while let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
                    data.encode(&mut self.unsent[start..start + room])
                {
                    room = required_size;
                    self.unsent.resize(start + room, 0);
                }
                (None, Next::Again)
            }
            ConnectionState::TransmitTlsData(data) => {
                // It is in `unsent`, and goes out before anything that is encrypted later.
                data.done();
                (None, Next::Again)
            }
            ConnectionState::PeerClosed => (None, Next::Ended),
            state => (Some(state), Next::Wait),
        }
    }

    fn keep(&mut self, payload: &[u8]) {
        let fits = if self.plain.is_empty() { payload.len().min(self.buffer.len() - self.filled) } else { 0 };
        self.buffer[self.filled..self.filled + fits].copy_from_slice(&payload[..fits]);
        self.filled += fits;
        self.plain.extend_from_slice(&payload[fits..]);
    }
}

/// rustls' reason, in the words that OpenSSL's users search their logs for.
fn failed(error: rustls::Error) -> io::Error {
    match error {
        rustls::Error::InvalidCertificate(reason) => {
            io::Error::new(io::ErrorKind::InvalidData, format!("certificate verify failed: {reason}"))
        }
        error => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    }
}
