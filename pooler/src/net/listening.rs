//! A socket that listens, whether this process bound it, systemd did, or the process before this one.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix;
use std::path::{Path, PathBuf};

use socket2::Socket;

/// What a listening socket is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    Tcp(SocketAddr),
    /// A path, or (behind a zero byte) a name in the abstract namespace.
    Unix(PathBuf),
}

/// As PgBouncer's log names it: `127.0.0.1:6432`, `unix:/tmp/.s.PGSQL.6432`, `unix:@name/.s.PGSQL.6432`.
impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.to_string_lossy().replace('\0', "@")),
        }
    }
}

/// A listening socket. The kernel's queue of connections belongs to it, not to the process: whoever else has it may go on.
#[derive(Debug)]
pub struct Listening {
    pub bound: Bound,
    socket: Socket,
}

impl Listening {
    /// Takes over a socket from elsewhere.
    pub fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(socket);
        if !socket.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is not a listening stream socket"));
        }
        let address = socket.local_addr()?;
        let path = || address.as_pathname().map(PathBuf::from).or_else(|| abstract_path(&address));
        let bound = address.as_socket().map(Bound::Tcp).or_else(|| path().map(Bound::Unix));
        let bound = bound.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "this socket has no address"))?;
        Ok(Self { bound, socket })
    }

    /// For `setsockopt`.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// A handle to accept by; it has to be dropped, too, before the socket is closed.
    pub fn to_tcp(&self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.non_blocking()?.into())
    }

    /// As [`Self::to_tcp`].
    pub fn to_unix(&self) -> io::Result<tokio::net::UnixListener> {
        tokio::net::UnixListener::from_std(self.non_blocking()?.into())
    }

    fn non_blocking(&self) -> io::Result<Socket> {
        let socket = self.socket.try_clone()?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// The address of a path, or (behind a zero byte) of a name in the abstract namespace.
pub fn unix_address(path: &Path) -> io::Result<unix::net::SocketAddr> {
    match path.as_os_str().as_encoded_bytes().strip_prefix(b"\0") {
        Some(name) => unix::net::SocketAddr::from_abstract_name(name),
        None => unix::net::SocketAddr::from_pathname(path),
    }
}

fn abstract_path(address: &socket2::SockAddr) -> Option<PathBuf> {
    let name = address.as_abstract_namespace()?;
    Some(PathBuf::from(format!("\0{}", String::from_utf8_lossy(name))))
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_socket_knows_where_it_listens() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        assert_eq!(Listening::adopt(tcp.into()).unwrap().bound, Bound::Tcp(address));

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".s.PGSQL.6432");
        let unix = Listening::adopt(UnixListener::bind(&path).unwrap().into()).unwrap();
        assert_eq!(unix.bound, Bound::Unix(path.clone()));
        assert_eq!(unix.bound.to_string(), format!("unix:{}", path.display()));
        assert_eq!(Bound::Unix("\0x/.s.PGSQL.1".into()).to_string(), "unix:@x/.s.PGSQL.1");
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let (connected, _other) = UnixStream::pair().unwrap();
        assert!(Listening::adopt(connected.into()).is_err());
    }
}
