//! A blocking PostgreSQL client of a few lines. Drivers hide what these tests are about: which protocol and which format a
//! parameter travels in, where Sync stands, and what ReadyForQuery says.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No test waits longer for one answer.
const DEADLINE: Duration = Duration::from_secs(60);

/// An ErrorResponse.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Error {
    pub severity: String,
    pub code: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

/// What came up to one ReadyForQuery.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// Values as text; NULL is `∅`. Columns are joined by `|`.
    pub rows: Vec<String>,
    pub tags: Vec<String>,
    pub errors: Vec<Error>,
    /// `I`, `T`, `E`; a space if the connection ended instead.
    pub status: char,
    pub suspended: bool,
}

impl Answer {
    /// # Panics
    /// If there was an error.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.errors.is_empty() && self.status != ' ', "{self:?}");
        self
    }

    /// The only error's SQLSTATE.
    ///
    /// # Panics
    /// If there is no error.
    #[track_caller]
    pub fn code(&self) -> &str {
        match &self.errors[..] {
            [error] => &error.code,
            _ => panic!("expected one error: {self:?}"),
        }
    }

    /// The connection was closed instead of an answer.
    pub fn is_end(&self) -> bool {
        self.status == ' '
    }

    /// # Panics
    /// If there was an error.
    #[track_caller]
    pub fn value(self) -> String {
        self.ok().rows.first().cloned().unwrap_or_default()
    }
}

/// A parameter of an extended query.
#[derive(Debug, Clone)]
pub enum Value {
    Text(Option<String>),
    Binary(Vec<u8>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

/// bigint in binary.
impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Binary(number.to_be_bytes().to_vec())
    }
}

pub const INT8: u32 = 20;

pub struct Client {
    socket: UnixStream,
    path: PathBuf,
    /// Process and secret of BackendKeyData.
    key: Vec<u8>,
}

impl Client {
    /// # Panics
    /// If the login fails.
    pub fn connect(socket: &Path, database: &str) -> Self {
        Self::try_connect(socket, database, &[]).unwrap_or_else(|answer| panic!("login: {answer:?}"))
    }

    /// Logs in with further start-up parameters; the answer is what came instead of success.
    pub fn try_connect(socket: &Path, database: &str, parameters: &[(&str, &str)]) -> Result<Self, Answer> {
        let Ok(stream) = UnixStream::connect(socket) else {
            return Err(Answer { status: ' ', ..Answer::default() });
        };
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut client = Self { socket: stream, path: socket.to_owned(), key: Vec::new() };
        let mut body = 196_608u32.to_be_bytes().to_vec();
        for (name, value) in [("user", "postgres"), ("database", database)].iter().chain(parameters) {
            body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        }
        body.push(0);
        client.write(&[&(body.len() as u32 + 4).to_be_bytes(), &body[..]].concat());
        let answer = client.read_answer();
        if answer.status == 'I' { Ok(client) } else { Err(answer) }
    }

    /// The simple protocol.
    pub fn query(&mut self, sql: &str) -> Answer {
        self.send_query(sql);
        self.read_answer()
    }

    pub fn send_query(&mut self, sql: &str) {
        self.write(&message(b'Q', format!("{sql}\0").as_bytes()));
    }

    /// The extended protocol: an unnamed statement, all rows, Sync. `types` may be shorter than `values`.
    pub fn extended(&mut self, sql: &str, types: &[u32], values: &[Value]) -> Answer {
        self.write(&[statement(sql, types, values, 0), message(b'S', &[])].concat());
        self.read_answer()
    }

    /// Asks for the running statement to be cancelled, on a connection of its own.
    pub fn cancel(&self) {
        let mut stream = UnixStream::connect(&self.path).expect("a connection for the cancel request");
        let packet = [&16u32.to_be_bytes()[..], &80_877_102u32.to_be_bytes(), &self.key].concat();
        stream.write_all(&packet).expect("the request is sent");
        // It is delivered when the other end has closed.
        let _ = stream.read(&mut [0]);
    }

    pub fn send(&mut self, messages: &[Vec<u8>]) {
        self.write(&messages.concat());
    }

    fn write(&mut self, bytes: &[u8]) {
        // A peer that has closed shows in the answer that does not come.
        let _ = self.socket.write_all(bytes);
    }

    /// Everything up to ReadyForQuery, or to the end of the connection.
    pub fn read_answer(&mut self) -> Answer {
        let mut answer = Answer { status: ' ', ..Answer::default() };
        while let Some((tag, body)) = self.read_message() {
            match tag {
                b'D' => answer.rows.push(row(&body)),
                b'C' => answer.tags.push(text(&body[..body.len() - 1])),
                b'E' => answer.errors.push(error(&body)),
                b's' => answer.suspended = true,
                b'R' => assert_eq!(body, [0; 4], "the tests' server trusts everybody"),
                b'K' => self.key = body,
                b'Z' => {
                    answer.status = char::from(body[0]);
                    break;
                }
                _ => {}
            }
        }
        answer
    }

    fn read_message(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 5];
        match self.socket.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer within {DEADLINE:?}"),
            Err(_) => return None,
        }
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let mut body = vec![0; length - 4];
        self.socket.read_exact(&mut body).ok()?;
        Some((header[0], body))
    }
}

/// Where the socket of a server on `port` is.
pub fn socket_path(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

/// Parse, Bind, Describe and Execute of an unnamed statement. `limit`: rows; 0 = all.
pub fn statement(sql: &str, types: &[u32], values: &[Value], limit: u32) -> Vec<u8> {
    let describe = message(b'D', b"P\0");
    let execute = message(b'E', &[&[0][..], &limit.to_be_bytes()].concat());
    [parse("", sql, types), bind("", values), describe, execute].concat()
}

pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = format!("{name}\0{sql}\0").into_bytes();
    body.extend_from_slice(&(types.len() as u16).to_be_bytes());
    types.iter().for_each(|oid| body.extend_from_slice(&oid.to_be_bytes()));
    message(b'P', &body)
}

pub fn bind(statement: &str, values: &[Value]) -> Vec<u8> {
    let mut body = format!("\0{statement}\0").into_bytes();
    let count = (values.len() as u16).to_be_bytes();
    body.extend_from_slice(&count);
    for value in values {
        body.extend_from_slice(&u16::from(matches!(value, Value::Binary(_))).to_be_bytes());
    }
    body.extend_from_slice(&count);
    for value in values {
        let bytes = match value {
            Value::Text(None) => {
                body.extend_from_slice(&(-1i32).to_be_bytes());
                continue;
            }
            Value::Text(Some(text)) => text.as_bytes(),
            Value::Binary(bytes) => bytes,
        };
        body.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        body.extend_from_slice(bytes);
    }
    body.extend_from_slice(&[0, 0]);
    message(b'B', &body)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn row(body: &[u8]) -> String {
    let mut rest = &body[2..];
    let mut columns = Vec::new();
    while let Some((length, after)) = rest.split_at_checked(4) {
        let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
        let (value, after) = after.split_at(length.max(0) as usize);
        columns.push(if length < 0 { "∅".to_owned() } else { text(value) });
        rest = after;
    }
    columns.join("|")
}

fn error(body: &[u8]) -> Error {
    let mut error = Error::default();
    for field in body.split(|&byte| byte == 0).filter(|field| !field.is_empty()) {
        let value = text(&field[1..]);
        match field[0] {
            b'V' => error.severity = value,
            b'C' => error.code = value,
            b'M' => error.message = value,
            b'D' => error.detail = value,
            b'H' => error.hint = value,
            _ => {}
        }
    }
    error
}
