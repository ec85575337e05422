//! A client that sees every message.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use sluice_wire::auth::{Entropy, LoginReply, Secret, ServerLogin, ServerSecret};
use sluice_wire::frame::{Frame, error_field};
use sluice_wire::startup::{CancelKey, cancel_request, ssl_request, startup_message};

use super::Batch;

/// Nothing in a test takes longer than this.
pub const DEADLINE: Duration = Duration::from_secs(20);

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// Who logs in, and how.
#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub database: String,
    pub password: Option<String>,
    /// Further start-up parameters.
    pub params: Vec<(String, String)>,
    /// The minor protocol version.
    pub minor: u16,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            user: "postgres".to_owned(),
            database: "postgres".to_owned(),
            password: None,
            params: Vec::new(),
            minor: 0,
        }
    }
}

impl Login {
    pub fn user(user: &str) -> Self {
        Self { user: user.to_owned(), ..Self::default() }
    }

    pub fn to(database: &str) -> Self {
        Self { database: database.to_owned(), ..Self::default() }
    }

    pub fn with_password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.params.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// One message from the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            char::from(self.tag),
            self.body.get(..self.body.len().min(200)).unwrap_or_default().escape_ascii()
        )
    }
}

/// An ErrorResponse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    pub severity: String,
    pub code: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

impl ServerError {
    fn read(body: &[u8]) -> Self {
        let field =
            |code| error_field(body, code).map_or(String::new(), |text| String::from_utf8_lossy(text).into_owned());
        Self { severity: field(b'S'), code: field(b'C'), message: field(b'M'), detail: field(b'D'), hint: field(b'H') }
    }

    fn of_io(error: &io::Error) -> Self {
        Self {
            severity: String::new(),
            code: String::new(),
            message: format!("connection closed: {:?}", error.kind()),
            detail: String::new(),
            hint: String::new(),
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.message)
    }
}

/// Everything up to a ReadyForQuery, or up to the end of the connection.
#[derive(Debug, Default)]
pub struct Answer {
    pub messages: Vec<Message>,
}

impl Answer {
    /// Rows of text, NULL as `None`.
    pub fn rows(&self) -> Vec<Vec<Option<String>>> {
        self.messages.iter().filter(|message| message.tag == b'D').map(|message| row(&message.body)).collect()
    }

    /// The first column of each row.
    pub fn column(&self) -> Vec<String> {
        self.rows().into_iter().map(|row| row.into_iter().next().flatten().unwrap_or_default()).collect()
    }

    /// Command tags, in order.
    pub fn completed(&self) -> Vec<String> {
        let completed = self.messages.iter().filter(|message| message.tag == b'C');
        completed
            .map(|message| String::from_utf8_lossy(message.body.trim_ascii_end()).trim_end_matches('\0').to_owned())
            .collect()
    }

    pub fn error(&self) -> Option<ServerError> {
        self.messages.iter().find(|message| message.tag == b'E').map(|message| ServerError::read(&message.body))
    }

    /// The messages' types, without notices and ParameterStatus, which may come at any time.
    pub fn tags(&self) -> String {
        self.messages.iter().map(|message| char::from(message.tag)).filter(|tag| !matches!(tag, 'N' | 'S')).collect()
    }

    /// The transaction status of ReadyForQuery; `None` if the connection ended instead.
    pub fn status(&self) -> Option<char> {
        let last = self.messages.iter().rev().find(|message| message.tag == b'Z')?;
        last.body.first().map(|&status| char::from(status))
    }

    pub fn notices(&self) -> Vec<ServerError> {
        self.messages
            .iter()
            .filter(|message| message.tag == b'N')
            .map(|message| ServerError::read(&message.body))
            .collect()
    }
}

fn row(body: &[u8]) -> Vec<Option<String>> {
    let count = u16::from_be_bytes([body[0], body[1]]);
    let mut rest = &body[2..];
    (0..count)
        .map(|_| {
            let length = i32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]);
            rest = &rest[4..];
            let length = usize::try_from(length).ok()?;
            let (value, after) = rest.split_at(length);
            rest = after;
            Some(String::from_utf8_lossy(value).into_owned())
        })
        .collect()
}

/// A connection. Dropping it closes the socket without a word, as a client that dies does.
pub struct Client {
    stream: Stream,
    received: Vec<u8>,
    used: usize,
    pub key: Option<CancelKey>,
    /// ParameterStatus messages of the login.
    pub parameters: Vec<(String, String)>,
}

impl Client {
    /// Connects, without saying anything. An address with a slash is a unix socket's.
    pub fn open(address: &str) -> Self {
        let stream = if address.contains('/') {
            let stream = UnixStream::connect(address).expect("the unix socket answers");
            stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
            Stream::Unix(stream)
        } else {
            let stream = TcpStream::connect(address).expect("the port answers");
            stream.set_nodelay(true).expect("no delay");
            stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
            Stream::Tcp(stream)
        };
        Self { stream, received: Vec::new(), used: 0, key: None, parameters: Vec::new() }
    }

    /// Connects, asks for TLS, and goes on over it.
    pub fn open_tls(address: &str, config: Arc<ClientConfig>) -> io::Result<Self> {
        let mut client = Self::open(address);
        client.send(&ssl_request());
        match client.read_byte() {
            b'S' => client.shake_hands(config),
            answer => Err(io::Error::other(format!("{:?} instead of S", char::from(answer)))),
        }
    }

    /// Begins TLS, and waits until the handshake is over.
    pub fn shake_hands(self, config: Arc<ClientConfig>) -> io::Result<Self> {
        let Stream::Tcp(stream) = self.stream else { panic!("TLS is for TCP") };
        let name = "localhost".try_into().expect("a name");
        let mut stream = StreamOwned::new(ClientConnection::new(config, name).map_err(io::Error::other)?, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { stream: Stream::Tls(Box::new(stream)), ..self })
    }

    /// Connects over TLS and logs in; a refusal is the error, a failed handshake one without a code.
    pub fn log_in_by_tls(address: &str, config: Arc<ClientConfig>, login: &Login) -> Result<Self, ServerError> {
        let mut client = Self::open_tls(address, config).map_err(|error| ServerError::of_io(&error))?;
        client.start(login);
        client.finish_login(login)?;
        Ok(client)
    }

    /// Connects and logs in; a refusal is the error.
    pub fn log_in(address: &str, login: &Login) -> Result<Self, ServerError> {
        let mut client = Self::open(address);
        client.start(login);
        client.finish_login(login)?;
        Ok(client)
    }

    /// Ends the connection as a TLS client should: with a goodbye.
    pub fn close(mut self) {
        if let Stream::Tls(stream) = &mut self.stream {
            stream.conn.send_close_notify();
            stream.flush().expect("the goodbye goes out");
        }
    }

    /// Sends the start-up packet.
    pub fn start(&mut self, login: &Login) {
        let params = [("user", login.user.as_str()), ("database", login.database.as_str())];
        let more = login.params.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let packet = startup_message(login.minor, params.into_iter().chain(more));
        self.send(&packet);
    }

    /// Authenticates, and reads up to the first ReadyForQuery.
    pub fn finish_login(&mut self, login: &Login) -> Result<(), ServerError> {
        let password = login.password.clone().map(Secret::Plain);
        let mut auth = ServerLogin::new(&login.user, ServerSecret::new(password.as_ref(), None), &Entropy::random());
        loop {
            let message = self.try_read().map_err(|error| ServerError::of_io(&error))?;
            match message.tag {
                b'R' => {
                    if let LoginReply::Send(bytes) =
                        auth.on_authentication(&message.body).expect("a method that is known")
                    {
                        self.send(&bytes);
                    }
                }
                b'S' => {
                    let mut parts =
                        message.body.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
                    let name = parts.next().unwrap_or_default();
                    self.parameters.push((name, parts.next().unwrap_or_default()));
                }
                b'K' => {
                    let (pid, secret) = message.body.split_first_chunk::<4>().expect("a key");
                    self.key = Some(CancelKey { pid: i32::from_be_bytes(*pid), secret: secret.to_vec() });
                }
                b'E' => return Err(ServerError::read(&message.body)),
                b'Z' => return Ok(()),
                b'N' | b'v' => {}
                tag => panic!("unexpected {:?} during login", char::from(tag)),
            }
        }
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// # Panics
    /// If the socket does not take it all.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the connection takes it");
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes),
        }
    }

    pub fn send_query(&mut self, sql: &str) {
        self.send(&Batch::new().query(sql).0);
    }

    /// Waits for one message.
    ///
    /// # Panics
    /// If the connection ends or nothing comes.
    pub fn read(&mut self) -> Message {
        self.try_read().expect("a message")
    }

    pub fn try_read(&mut self) -> io::Result<Message> {
        loop {
            match Frame::first(&self.received[self.used..]) {
                Ok(Some(frame)) => {
                    let message = Message { tag: frame.tag, body: frame.body.to_vec() };
                    self.used += frame.raw.len();
                    return Ok(message);
                }
                Ok(None) => {}
                Err(error) => return Err(io::Error::other(error.to_string())),
            }
            self.received.drain(..self.used);
            self.used = 0;
            self.fill()?;
        }
    }

    /// The one byte that answers an encryption request.
    pub fn read_byte(&mut self) -> u8 {
        while self.used == self.received.len() {
            self.fill().expect("a byte");
        }
        self.used += 1;
        self.received[self.used - 1]
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let count = match &mut self.stream {
            Stream::Tcp(stream) => stream.read(&mut buffer)?,
            Stream::Unix(stream) => stream.read(&mut buffer)?,
            Stream::Tls(stream) => stream.read(&mut buffer)?,
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.received.extend_from_slice(&buffer[..count]);
        Ok(())
    }

    /// Nothing more may come for so long.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.set_read_timeout(time);
        let result = self.try_read();
        self.set_read_timeout(DEADLINE);
        matches!(result, Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }

    pub fn set_read_timeout(&mut self, time: Duration) {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(time)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(time)),
            Stream::Tls(stream) => stream.sock.set_read_timeout(Some(time)),
        }
        .expect("a timeout");
    }

    /// Everything up to ReadyForQuery, or to the end of the connection.
    pub fn answer(&mut self) -> Answer {
        let mut answer = Answer::default();
        loop {
            match self.try_read() {
                Ok(message) => {
                    let last = message.tag == b'Z';
                    answer.messages.push(message);
                    if last {
                        return answer;
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                    return answer;
                }
                Err(error) => panic!("{error} after {:?}", answer.messages),
            }
        }
    }

    /// Reads until a message of this type came.
    pub fn until(&mut self, tag: u8) -> Answer {
        let mut answer = Answer::default();
        loop {
            let message = self.read();
            let last = message.tag == tag;
            answer.messages.push(message);
            if last {
                return answer;
            }
        }
    }

    /// Reads until the connection ends.
    pub fn until_closed(&mut self) -> Answer {
        let began = Instant::now();
        let mut answer = Answer::default();
        while let Ok(message) = self.try_read() {
            answer.messages.push(message);
        }
        assert!(began.elapsed() < DEADLINE, "the connection was not closed after {:?}", answer.messages);
        answer
    }

    /// Sends a simple query and reads its answer.
    pub fn query(&mut self, sql: &str) -> Answer {
        self.send_query(sql);
        self.answer()
    }

    /// Sends a batch that ends with Sync and reads its answer.
    pub fn run(&mut self, batch: Batch) -> Answer {
        self.send(&batch.0);
        self.answer()
    }

    /// A query that succeeds.
    pub fn ok(&mut self, sql: &str) -> Answer {
        let answer = self.query(sql);
        match answer.error() {
            Some(error) => panic!("{sql}: {error} ({}; {})", error.detail, error.hint),
            None if answer.status().is_none() => panic!("{sql}: the connection ended"),
            None => answer,
        }
    }

    /// The first value that a query returns.
    pub fn value(&mut self, sql: &str) -> String {
        let answer = self.ok(sql);
        answer.column().first().unwrap_or_else(|| panic!("{sql}: no row")).clone()
    }

    /// The error of a query that fails.
    pub fn error(&mut self, sql: &str) -> ServerError {
        let answer = self.query(sql);
        answer.error().unwrap_or_else(|| panic!("{sql}: no error, but {:?}", answer.messages))
    }

    /// The process id of the PostgreSQL server that runs this client's statement.
    pub fn backend(&mut self) -> String {
        self.value("SELECT pg_backend_pid()")
    }

    /// Closes this direction only.
    pub fn shut_down_writing(&mut self) {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tls(stream) => stream.sock.shutdown(Shutdown::Write),
        }
        .expect("a shutdown");
    }

    /// Says goodbye.
    pub fn terminate(mut self) {
        let _ = self.try_send(&sluice_wire::message::TERMINATE);
    }

    /// The packet that cancels what this client runs.
    pub fn cancel_packet(&self) -> Vec<u8> {
        cancel_request(self.key.as_ref().expect("a key"))
    }
}

/// Sends a cancel request and waits until its connection is closed.
pub fn cancel(address: &str, packet: &[u8]) {
    let mut client = Client::open(address);
    client.send(packet);
    let answer = client.until_closed();
    assert!(answer.messages.is_empty(), "a cancel request has no answer, but there was {:?}", answer.messages);
}
