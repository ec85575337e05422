//! The loop that drives clients and backend.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use super::backend::{Backend, Readable};
use super::client::Client;
use super::messages::{Protocol, Requests};
use super::stream::Stream;
use crate::fleet::{Address, Transport};

/// A pooler that says nothing for so long is broken.
const SILENCE: Duration = Duration::from_secs(20);
const SCRATCH: usize = 64 * 1024;

/// Clients of one pooler, logged in.
#[derive(Debug)]
pub struct Crew {
    clients: Range<usize>,
    requests: Requests,
}

/// What a crew has done.
#[derive(Debug)]
pub struct Work {
    pub transactions: u64,
    pub elapsed: Duration,
    /// Latencies in ns.
    pub latency: Histogram<u64>,
}

#[derive(Debug)]
pub struct Generator {
    poll: Poll,
    backend: Backend,
    clients: Vec<Client>,
    scratch: Box<[u8]>,
}

impl Generator {
    /// The canned backend listens at `address` from now on, and answers whenever a crew works.
    pub fn new(address: &Address) -> io::Result<Self> {
        let poll = Poll::new()?;
        let backend = Backend::listen(address, poll.registry(), backend_token)?;
        Ok(Self { poll, backend, clients: Vec::new(), scratch: vec![0; SCRATCH].into() })
    }

    /// Connects and logs in `count` clients, and prepares their statement if the protocol has one.
    pub fn connect(
        &mut self,
        (pooler, transport): (&Address, Transport),
        database: &str,
        protocol: Protocol,
        count: usize,
    ) -> io::Result<Crew> {
        let requests = Requests::new(protocol, database);
        let first = self.clients.len();
        // In groups, so that no queue of new connections overflows.
        for group in 0..count.div_ceil(100) {
            let start = self.clients.len();
            for number in group * 100..count.min((group + 1) * 100) {
                let mut stream = Stream::connect(pooler, transport)?;
                stream.register(self.poll.registry(), client_token(self.clients.len()))?;
                self.clients.push(Client::new(stream, number));
            }
            let group = start..self.clients.len();
            self.exchange(group.clone(), &requests.startup)?;
            if let Some(prepare) = &requests.prepare {
                self.exchange(group, prepare)?;
            }
        }
        Ok(Crew { clients: first..self.clients.len(), requests })
    }

    /// Ends all clients of all crews.
    pub fn disconnect_all(&mut self) {
        self.clients.clear();
    }

    /// Lets the canned backend answer for a while, for poolers that start.
    pub fn serve_for(&mut self, duration: Duration) -> io::Result<()> {
        let deadline = Instant::now() + duration;
        let mut events = Events::with_capacity(64);
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            self.poll.poll(&mut events, Some(left))?;
            for event in &events {
                self.dispatch(event.token())?;
            }
        }
        Ok(())
    }

    /// Every client sends its next request as soon as it has its answer.
    pub fn saturate(&mut self, crew: &Crew, duration: Duration) -> io::Result<Work> {
        let mut latency = new_histogram();
        let start = Instant::now();
        for number in crew.clients.clone() {
            self.send_next(crew, number)?;
        }
        let mut busy = crew.clients.len();
        self.until_done(|generator, number| {
            latency.saturating_record(generator.clients[number].sent.elapsed().as_nanos() as u64);
            if start.elapsed() < duration {
                generator.send_next(crew, number)?;
            } else {
                busy -= 1;
            }
            Ok(busy > 0)
        })?;
        Ok(Work { transactions: latency.len(), elapsed: start.elapsed(), latency })
    }

    /// One request after another, `rate` a second, each by the client that has been idle longest.
    pub fn pace(&mut self, crew: &Crew, rate: u32, duration: Duration) -> io::Result<Work> {
        let mut latency = new_histogram();
        let mut idle: VecDeque<usize> = crew.clients.clone().collect();
        let mut events = Events::with_capacity(1024);
        let interval = Duration::from_secs(1) / rate;
        let start = Instant::now();
        let mut due = start;
        while start.elapsed() < duration || idle.len() < crew.clients.len() {
            while due <= Instant::now() && due < start + duration {
                let Some(number) = idle.pop_front() else { break };
                self.send_next(crew, number)?;
                due += interval;
            }
            // Not waiting in the kernel: its timers are coarser than the interval.
            self.poll.poll(&mut events, Some(Duration::ZERO))?;
            for event in &events {
                if let Some(number) = self.dispatch(event.token())? {
                    latency.saturating_record(self.clients[number].sent.elapsed().as_nanos() as u64);
                    idle.push_back(number);
                }
            }
            if start.elapsed() > duration + SILENCE {
                return Err(silent());
            }
        }
        Ok(Work { transactions: latency.len(), elapsed: start.elapsed(), latency })
    }

    /// Each client of the crew sends one request, and has its answer.
    pub fn once(&mut self, crew: &Crew) -> io::Result<()> {
        for number in crew.clients.clone() {
            self.send_next(crew, number)?;
        }
        self.wait_for(crew.clients.len())
    }

    fn exchange(&mut self, clients: Range<usize>, message: &[u8]) -> io::Result<()> {
        for client in &mut self.clients[clients.clone()] {
            client.send(message)?;
        }
        self.wait_for(clients.len())
    }

    fn wait_for(&mut self, mut answers: usize) -> io::Result<()> {
        self.until_done(|_, _| {
            answers -= 1;
            Ok(answers > 0)
        })
    }

    /// Serves events; `on_answer` gets the number of each client whose answer is complete, and says whether to go on.
    fn until_done(&mut self, mut on_answer: impl FnMut(&mut Self, usize) -> io::Result<bool>) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            self.poll.poll(&mut events, Some(SILENCE))?;
            if events.is_empty() {
                return Err(silent());
            }
            let mut goes_on = true;
            for event in &events {
                if let Some(number) = self.dispatch(event.token())? {
                    goes_on &= on_answer(self, number)?;
                }
            }
            if !goes_on {
                return Ok(());
            }
        }
    }

    fn send_next(&mut self, crew: &Crew, number: usize) -> io::Result<()> {
        let client = &mut self.clients[number];
        client.next += 1;
        client.send(crew.requests.request(client.next))
    }

    /// The number of a client whose answer is complete.
    fn dispatch(&mut self, token: Token) -> io::Result<Option<usize>> {
        match Owner::of(token) {
            Owner::Client(number) => {
                // An event of a crew that is gone.
                let Some(client) = self.clients.get_mut(number) else { return Ok(None) };
                Ok(client.receive(&mut self.scratch)?.then_some(number))
            }
            Owner::Backend(what) => {
                self.backend.on_readable(what, &mut self.scratch, self.poll.registry(), backend_token)?;
                Ok(None)
            }
        }
    }
}

/// Whom an event is about, as a token carries it.
enum Owner {
    Client(usize),
    Backend(Readable),
}

impl Owner {
    fn of(token: Token) -> Self {
        match (token.0 & 3, token.0 >> 2) {
            (0, number) => Self::Client(number),
            (1, number) => Self::Backend(Readable::Connection(number)),
            (2, _) => Self::Backend(Readable::Unix),
            _ => Self::Backend(Readable::Tcp),
        }
    }
}

fn client_token(number: usize) -> Token {
    Token(number << 2)
}

fn backend_token(what: Readable) -> Token {
    Token(match what {
        Readable::Connection(number) => (number << 2) | 1,
        Readable::Unix => 2,
        Readable::Tcp => 3,
    })
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 60_000_000_000, 3).expect("the bounds are in order")
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer for {} s", SILENCE.as_secs()))
}
