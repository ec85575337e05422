//! A non-blocking socket of either family. What is sent here is small and waits for its answer, so a write that the kernel
//! does not take whole is an error.

use std::io::{self, Read, Write};
use std::os::unix::net as unix;
use std::{net, path::Path};

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use crate::fleet::{Address, Transport};

#[derive(Debug)]
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Waits while the listener's queue is full.
    pub fn connect(address: &Address, transport: Transport) -> io::Result<Self> {
        match transport {
            Transport::Unix => {
                let path = Path::new(&address.socket_dir).join(format!(".s.PGSQL.{}", address.port));
                let stream = unix::UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Ok(Self::Unix(UnixStream::from_std(stream)))
            }
            Transport::Tcp => {
                let stream = net::TcpStream::connect((address.host(transport), address.port))?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(TcpStream::from_std(stream)))
            }
        }
    }

    /// From now on, events carry `token` when there is something to read.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let source: &mut dyn Source = match self {
            Self::Unix(stream) => stream,
            Self::Tcp(stream) => stream,
        };
        registry.register(&mut SourceRef(source), token, Interest::READABLE)
    }

    /// Reads what is there. `None`: nothing now. The end of the stream is an error.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let read = match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        };
        match read {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }?;
        if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// [`Source`] is not implemented for `&mut dyn Source`.
struct SourceRef<'a>(&'a mut dyn Source);

impl Source for SourceRef<'_> {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.0.register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.0.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.0.deregister(registry)
    }
}
