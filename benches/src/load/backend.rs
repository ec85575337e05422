//! The canned backend: as much of PostgreSQL as poolers ask of a server. Every query has the same answer.
//!
//! Sluice's control plane looks at the shards, too (prepared transactions, settings). It logs in as a user of its own, and is
//! told that there are no rows: a shard on which nothing is left to do.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;

use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use sluice_wire::frame::{Frame, Frames, Parse, query_text};
use sluice_wire::message;
use sluice_wire::startup::{self, ENCRYPTION_REFUSED, Startup};

use super::messages::Answers;
use super::stream::Stream;
use crate::fleet::{Address, CONTROL_USER};

/// Something to read for the backend: a listener, or the connection of that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    Unix,
    Tcp,
    Connection(usize),
}

#[derive(Debug)]
pub struct Backend {
    unix: UnixListener,
    tcp: TcpListener,
    connections: Vec<Option<Connection>>,
    answers: Answers,
    out: Vec<u8>,
}

impl Backend {
    /// Listens on both transports; `token` names what events are about.
    pub fn listen(address: &Address, registry: &Registry, token: fn(Readable) -> Token) -> io::Result<Self> {
        let socket = format!("{}/.s.PGSQL.{}", address.socket_dir, address.port);
        let mut unix = UnixListener::bind(&socket)?;
        // PgBouncer may run as another user.
        fs::set_permissions(&socket, Permissions::from_mode(0o777))?;
        let mut tcp = TcpListener::bind(([127, 0, 0, 1], address.port).into())?;
        registry.register(&mut unix, token(Readable::Unix), Interest::READABLE)?;
        registry.register(&mut tcp, token(Readable::Tcp), Interest::READABLE)?;
        Ok(Self { unix, tcp, connections: Vec::new(), answers: Answers::default(), out: Vec::new() })
    }

    pub fn on_readable(
        &mut self,
        what: Readable,
        scratch: &mut [u8],
        registry: &Registry,
        token: fn(Readable) -> Token,
    ) -> io::Result<()> {
        match what {
            Readable::Connection(number) => self.serve(number, scratch),
            Readable::Unix | Readable::Tcp => self.accept(what, registry, token),
        }
    }

    fn accept(&mut self, listener: Readable, registry: &Registry, token: fn(Readable) -> Token) -> io::Result<()> {
        loop {
            let accepted = match listener {
                Readable::Unix => self.unix.accept().map(|(stream, _)| Stream::Unix(stream)),
                _ => self.tcp.accept().and_then(|(stream, _)| {
                    stream.set_nodelay(true)?;
                    Ok(Stream::Tcp(stream))
                }),
            };
            let mut stream = match accepted {
                Ok(stream) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.register(registry, token(Readable::Connection(self.connections.len())))?;
            self.connections.push(Some(Connection { stream, input: Vec::new(), phase: Phase::Startup }));
        }
    }

    /// A connection that ends or breaks is forgotten: poolers close servers at will.
    fn serve(&mut self, number: usize, scratch: &mut [u8]) -> io::Result<()> {
        let Some(Some(connection)) = self.connections.get_mut(number) else { return Ok(()) };
        loop {
            let count = match connection.stream.read(scratch) {
                Ok(Some(count)) => count,
                Ok(None) => return Ok(()),
                Err(_) => {
                    self.connections[number] = None;
                    return Ok(());
                }
            };
            self.out.clear();
            let goes_on = connection.receive(&scratch[..count], &self.answers, &mut self.out)?;
            if !self.out.is_empty() && connection.stream.write(&self.out).is_err() || !goes_on {
                self.connections[number] = None;
                return Ok(());
            }
            // The next arrival is a new event.
            if count < scratch.len() {
                return Ok(());
            }
        }
    }
}

#[derive(Debug)]
struct Connection {
    stream: Stream,
    /// An incomplete message.
    input: Vec<u8>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Startup,
    /// Answers with the row.
    Client,
    /// Answers with no rows; the statement prepared last has that many parameters.
    Control {
        parameters: u16,
    },
}

impl Connection {
    /// Appends the answers to what has arrived. False: the connection is over.
    fn receive(&mut self, bytes: &[u8], answers: &Answers, out: &mut Vec<u8>) -> io::Result<bool> {
        let held = std::mem::take(&mut self.input);
        let joined = if held.is_empty() { None } else { Some([&held, bytes].concat()) };
        let bytes = joined.as_deref().unwrap_or(bytes);
        if let Phase::Startup = self.phase {
            return self.start(bytes, answers, out);
        }
        let mut frames = Frames::new(bytes);
        for frame in &mut frames {
            let frame = frame.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            if frame.tag == b'X' {
                return Ok(false);
            }
            self.phase.answer(frame, answers, out);
        }
        self.input = frames.rest().to_vec();
        Ok(true)
    }

    fn start(&mut self, packet: &[u8], answers: &Answers, out: &mut Vec<u8>) -> io::Result<bool> {
        let invalid = |error| io::Error::new(ErrorKind::InvalidData, error);
        let complete = packet
            .first_chunk()
            .is_some_and(|header| startup::packet_length(*header).is_ok_and(|length| length <= packet.len()));
        if !complete {
            self.input = packet.to_vec();
            return Ok(true);
        }
        match startup::parse(packet).map_err(invalid)? {
            Startup::Start(message) => {
                let is_control = message.user == CONTROL_USER;
                self.phase = if is_control { Phase::Control { parameters: 0 } } else { Phase::Client };
                out.extend_from_slice(&answers.welcome);
                Ok(true)
            }
            Startup::Cancel(_) => Ok(false),
            Startup::Ssl | Startup::Gss => {
                out.push(ENCRYPTION_REFUSED);
                Ok(true)
            }
        }
    }
}

impl Phase {
    fn answer(&mut self, frame: Frame<'_>, answers: &Answers, out: &mut Vec<u8>) {
        match frame.tag {
            b'Q' => {
                let is_select = query_text(frame.body).is_some_and(|text| text.starts_with(b"SELECT"));
                if is_select && matches!(self, Self::Client) {
                    out.extend_from_slice(&answers.row_description);
                    out.extend_from_slice(&answers.rows);
                } else {
                    out.extend_from_slice(&answers.done);
                }
                out.extend_from_slice(&message::READY_IDLE);
            }
            b'P' => {
                if let (Self::Control { parameters }, Some(parse)) = (self, Parse::read(frame.body)) {
                    *parameters = highest_parameter(parse.sql);
                }
                out.extend_from_slice(&message::PARSE_COMPLETE);
            }
            b'B' => out.extend_from_slice(&message::BIND_COMPLETE),
            b'D' => self.describe(frame.body.first() == Some(&b'S'), answers, out),
            b'E' => out.extend_from_slice(if matches!(self, Self::Client) { &answers.rows } else { &answers.no_rows }),
            b'C' => out.extend_from_slice(&message::CLOSE_COMPLETE),
            b'S' => out.extend_from_slice(&message::READY_IDLE),
            _ => {}
        }
    }

    fn describe(&self, is_statement: bool, answers: &Answers, out: &mut Vec<u8>) {
        const TEXT: u32 = 25;
        let parameters = match self {
            Self::Control { parameters } => *parameters,
            _ => 1,
        };
        if is_statement {
            message::frame(out, b't', |out| {
                out.extend_from_slice(&parameters.to_be_bytes());
                (0..parameters).for_each(|_| out.extend_from_slice(&TEXT.to_be_bytes()));
            });
        }
        if matches!(self, Self::Client) {
            out.extend_from_slice(&answers.row_description);
        } else {
            out.extend_from_slice(&message::NO_DATA);
        }
    }
}

/// The n of the last `$n`, by number, in a statement of the control plane: none has a dollar sign elsewhere.
fn highest_parameter(sql: &[u8]) -> u16 {
    let number = |rest: &[u8]| {
        rest.iter()
            .take_while(|byte| byte.is_ascii_digit())
            .fold(0_u16, |number, digit| number.saturating_mul(10).saturating_add(u16::from(digit - b'0')))
    };
    sql.split(|&byte| byte == b'$').skip(1).map(number).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(bytes: &[u8]) -> Vec<u8> {
        Frames::new(bytes).map(|frame| frame.unwrap().tag).collect()
    }

    #[test]
    fn clients_get_a_row_and_the_control_plane_none() {
        let answers = Answers::default();
        let mut query = Vec::new();
        message::query(&mut query, b"SELECT 1");
        let frame = Frame::first(&query).unwrap().unwrap();
        let mut out = Vec::new();
        Phase::Client.answer(frame, &answers, &mut out);
        assert_eq!(tags(&out), b"TDCZ");
        out.clear();
        Phase::Control { parameters: 0 }.answer(frame, &answers, &mut out);
        assert_eq!(tags(&out), b"CZ");
    }

    #[test]
    fn parameters_are_counted() {
        assert_eq!(highest_parameter(b"SELECT $2, $1 + $10"), 10);
        assert_eq!(highest_parameter(b"SELECT 1"), 0);
    }
}
