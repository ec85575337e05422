//! One non-blocking socket, registered for reading only.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::tls::{Tls, TlsInfo};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Address {
    /// PostgreSQL's rule: a host that starts with `/` (or `@`, abstract) is a socket directory.
    pub fn new(host: &str, port: u16) -> Self {
        match host.strip_prefix('@') {
            Some(name) => Self::Unix(PathBuf::from(format!("\0{name}/.s.PGSQL.{port}"))),
            None if host.starts_with('/') => Self::Unix(PathBuf::from(format!("{host}/.s.PGSQL.{port}"))),
            None => Self::Tcp { host: host.to_owned(), port },
        }
    }

    /// A unix socket's is in its name.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp { port, .. } => *port,
            Self::Unix(path) => path.extension().and_then(|port| port.to_str()?.parse().ok()).unwrap_or(0),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The number at the end of a unix socket's name (`.s.PGSQL.6432`), which one of the two ends is bound to; 0 without one.
fn port_in_name(stream: &UnixStream) -> u16 {
    let port = |address: io::Result<std::os::unix::net::SocketAddr>| {
        let address = address.ok()?;
        let name = address.as_pathname().map(|path| path.as_os_str().as_bytes()).or(address.as_abstract_name())?;
        str::from_utf8(name).ok()?.rsplit('.').next()?.parse().ok()
    };
    port(stream.local_addr()).or_else(|| port(stream.peer_addr())).unwrap_or(0)
}

/// The other end of an accepted or opened socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// Process and user of the other end, as the kernel says, and the port in the socket's name.
    Unix {
        pid: i32,
        uid: u32,
        port: u16,
    },
}

/// `ADDRESS:PORT`, or `unix(PID):PORT`, as PgBouncer's log has it.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix { pid, port, .. } => write!(f, "unix({pid}):{port}"),
        }
    }
}

/// The `tcp_*` settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpOptions {
    pub keepalive: bool,
    pub keepcnt: u32,
    pub keepidle: u32,
    pub keepintvl: u32,
    pub socket_buffer: usize,
    pub user_timeout_ms: u32,
}

impl TcpOptions {
    fn apply(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        if self.keepalive {
            let mut keepalive = TcpKeepalive::new();
            if self.keepidle > 0 {
                keepalive = keepalive.with_time(Duration::from_secs(self.keepidle.into()));
            }
            if self.keepintvl > 0 {
                keepalive = keepalive.with_interval(Duration::from_secs(self.keepintvl.into()));
            }
            if self.keepcnt > 0 {
                keepalive = keepalive.with_retries(self.keepcnt);
            }
            socket.set_tcp_keepalive(&keepalive)?;
        }
        if self.socket_buffer > 0 {
            socket.set_recv_buffer_size(self.socket_buffer)?;
            socket.set_send_buffer_size(self.socket_buffer)?;
        }
        if self.user_timeout_ms > 0 {
            socket.set_tcp_user_timeout(Some(Duration::from_millis(self.user_timeout_ms.into())))?;
        }
        Ok(())
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

impl AsFd for Socket {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// System calls without the C library's cancellation points around them, which cost more than the rest of its wrappers.
impl Socket {
    #[inline]
    fn read(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        rustix::net::recv(self, buffer, RecvFlags::empty()).map(|(count, _)| count)
    }

    #[inline]
    fn write(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        rustix::net::send(self, bytes, SendFlags::NOSIGNAL)
    }

    fn peek(&self) -> rustix::io::Result<usize> {
        rustix::net::recv(self, &mut [0], RecvFlags::PEEK).map(|(count, _)| count)
    }
}

/// A socket of a client or a server.
pub struct Io {
    socket: AsyncFd<Socket>,
    /// `None` for an idle connection without TLS, of which there may be many thousands.
    aside: Option<Box<Aside>>,
}

/// What only some connections have, or only for a while.
#[derive(Default)]
struct Aside {
    /// A duplicate registered for WRITABLE; exists only while a write is short.
    writable: Option<AsyncFd<OwnedFd>>,
    /// Only one task has it; the mutex lets that task share it, and is never waited for.
    tls: Option<Mutex<Tls>>,
}

impl Io {
    /// Takes over an accepted TCP socket.
    pub fn tcp(stream: tokio::net::TcpStream, options: &TcpOptions) -> io::Result<(Self, Peer)> {
        let peer = Peer::Tcp(stream.peer_addr()?);
        let stream = stream.into_std()?;
        options.apply(&stream)?;
        Ok((Self::register(Socket::Tcp(stream))?, peer))
    }

    /// Takes over a unix socket, accepted or connected.
    pub fn unix(stream: tokio::net::UnixStream) -> io::Result<(Self, Peer)> {
        let credentials = stream.peer_cred()?;
        let stream = stream.into_std()?;
        let peer =
            Peer::Unix { pid: credentials.pid().unwrap_or(0), uid: credentials.uid(), port: port_in_name(&stream) };
        Ok((Self::register(Socket::Unix(stream))?, peer))
    }

    /// Opens a connection. The caller sets the deadline.
    pub async fn connect_tcp(address: SocketAddr, options: &TcpOptions) -> io::Result<(Self, Peer)> {
        Self::tcp(tokio::net::TcpStream::connect(address).await?, options)
    }

    /// As [`Self::connect_tcp`].
    pub async fn connect_unix(path: &Path) -> io::Result<(Self, Peer)> {
        Self::unix(tokio::net::UnixStream::connect(path).await?)
    }

    #[expect(deprecated, reason = "its replacement is an unsafe fn; an owned socket needs no such promise")]
    fn register(socket: Socket) -> io::Result<Self> {
        Ok(Self { socket: AsyncFd::with_interest(socket, Interest::READABLE)?, aside: None })
    }

    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self.socket.get_ref() {
            Socket::Tcp(stream) => stream.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Reads once.
    #[inline]
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.secured() {
            None => poll_receive(&self.socket, cx, buffer),
            Some(tls) => self.poll_decrypt(&mut lock(tls), cx, buffer),
        }
    }

    /// Ready when the other end is gone. Bytes that wait to be read don't make it ready, and are left there.
    #[inline]
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Poll::Ready(guard) = self.socket.poll_read_ready(cx) else { return Poll::Pending };
        match guard {
            // Half-closed with unread bytes: the other end still waits for answers.
            Ok(guard) if guard.ready().is_read_closed() => match self.secured() {
                Some(tls) => self.poll_end(&mut lock(tls), cx),
                None => match self.socket.get_ref().peek() {
                    Ok(0) | Err(_) => Poll::Ready(()),
                    Ok(_) => Poll::Pending,
                },
            },
            Ok(_) => Poll::Pending,
            Err(_) => Poll::Ready(()),
        }
    }

    /// Something waits to be read, or the other end is gone. Costs a system call only if that seems so (the last read may
    /// have filled its buffer just so, or have overtaken its event), and leaves whoever waits for it alone.
    #[inline]
    pub fn is_readable(&self) -> bool {
        let peeked = self.socket.try_io(Interest::READABLE, |socket| Ok(socket.peek()?));
        !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            || self.secured().is_some_and(|tls| lock(tls).is_readable())
    }

    /// Something waits to be read, as the kernel says at this moment. For rare questions: it costs a system call.
    pub fn has_unread(&self) -> bool {
        matches!(self.socket.get_ref().peek(), Ok(1..)) || self.secured().is_some_and(|tls| lock(tls).has_plain())
    }

    /// Writes what the kernel takes now.
    #[inline]
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.secured() {
            None => send(self.socket.get_ref(), bytes),
            Some(tls) => lock(tls).write(bytes, |records| send(self.socket.get_ref(), records)),
        }
    }

    /// Writes `pending` as far as possible; ready when all is written.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, pending: &mut Vec<u8>) -> Poll<io::Result<()>> {
        while !pending.is_empty() {
            let written = self.try_write(pending)?;
            pending.drain(..written);
            if !pending.is_empty() && written == 0 {
                ready!(self.poll_writable(cx))?;
            }
        }
        self.forget_writable();
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn forget_writable(&mut self) {
        match &mut self.aside {
            Some(aside) if aside.tls.is_some() => aside.writable = None,
            aside => *aside = None,
        }
    }

    #[expect(deprecated, reason = "see register")]
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let aside = self.aside.get_or_insert_default();
        let writable = match &mut aside.writable {
            Some(writable) => writable,
            None => {
                let duplicate = self.socket.get_ref().as_fd().try_clone_to_owned()?;
                aside.writable.insert(AsyncFd::with_interest(duplicate, Interest::WRITABLE)?)
            }
        };
        // Cleared before the write is tried again: a new edge arrives if that is short too.
        ready!(writable.poll_write_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.try_write(bytes)?;
        if written == bytes.len() {
            return Ok(());
        }
        let mut rest = bytes[written..].to_vec();
        poll_fn(|cx| self.poll_flush(cx, &mut rest)).await
    }

    /// Appends at least one byte to `buffer`, or returns 0 at the end of the stream.
    pub async fn read_some(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        poll_fn(|cx| {
            super::with_scratch(|scratch| {
                let count = ready!(self.poll_read(cx, scratch))?;
                buffer.extend_from_slice(&scratch[..count]);
                Poll::Ready(Ok(count))
            })
        })
        .await
    }
}

impl AsFd for Io {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

/// TLS.
impl Io {
    /// Makes this the server's end of a TLS connection. `received` was read already, and belongs to the handshake.
    pub async fn accept_tls(&mut self, config: Arc<ServerConfig>, received: Vec<u8>) -> io::Result<()> {
        self.shake_hands(Tls::accept(config, received)?).await
    }

    /// Makes this the client's end of a TLS connection.
    pub async fn connect_tls(&mut self, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<()> {
        self.shake_hands(Tls::connect(config, name)?).await
    }

    /// What was agreed on; `None` without TLS.
    pub fn tls(&self) -> Option<TlsInfo> {
        lock(self.secured()?).info()
    }

    /// Whether the other end has asked for PostgreSQL's protocol by ALPN.
    pub fn has_alpn(&self) -> bool {
        self.secured().is_some_and(|tls| lock(tls).alpn().is_some())
    }

    /// The certificate that the other end has shown.
    pub fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        lock(self.secured()?).peer_certificate().cloned()
    }

    #[inline]
    fn secured(&self) -> Option<&Mutex<Tls>> {
        self.aside.as_ref()?.tls.as_ref()
    }

    async fn shake_hands(&mut self, mut tls: Tls) -> io::Result<()> {
        let begun = tls.begin();
        let result = match begun {
            Ok(()) => poll_fn(|cx| self.poll_handshake(&mut tls, cx)).await,
            Err(error) => Err(error),
        };
        self.forget_writable();
        if result.is_err() {
            // The alert that says why, as far as the kernel takes it at once.
            let _ = tls.flush(|records| send(self.socket.get_ref(), records));
        }
        result.map(|()| self.aside.get_or_insert_default().tls = Some(Mutex::new(tls)))
    }

    fn poll_handshake(&mut self, tls: &mut Tls, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !tls.flush(|records| send(self.socket.get_ref(), records))? {
                ready!(self.poll_writable(cx))?;
            }
            if tls.is_established() {
                return Poll::Ready(Ok(()));
            }
            if tls.has_ended() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            ready!(self.poll_fill(tls, cx, &mut []))?;
        }
    }

    fn poll_decrypt(&self, tls: &mut Tls, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if let Some(count) = tls.take_plain(buffer) {
                return Poll::Ready(Ok(count));
            }
            let count = ready!(self.poll_fill(tls, cx, buffer))?;
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
        }
    }

    /// The other end has closed its side: gone, unless there is something to read before that.
    fn poll_end(&self, tls: &mut Tls, cx: &mut Context<'_>) -> Poll<()> {
        while !tls.is_readable() {
            match self.poll_fill(tls, cx, &mut []) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        if tls.has_plain() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Reads once and decrypts. 0: nothing has come of it yet, or the stream has ended.
    fn poll_fill(&self, tls: &mut Tls, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let filled = tls.fill(buffer, |space| match poll_receive(&self.socket, cx, space) {
            Poll::Ready(result) => Ok(result),
            Poll::Pending => Err(Pending),
        });
        match filled {
            Err(Pending) => Poll::Pending,
            Ok(result) => {
                // Alerts and key updates; what the kernel doesn't take now goes out with the next write.
                let _ = tls.flush(|records| send(self.socket.get_ref(), records));
                Poll::Ready(result)
            }
        }
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        if let Some(tls) = self.secured() {
            lock(tls).close(|records| send(self.socket.get_ref(), records));
        }
    }
}

/// Nothing to read now.
struct Pending;

fn lock(tls: &Mutex<Tls>) -> MutexGuard<'_, Tls> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A short read clears the readiness, so that the next call waits instead of asking the kernel in vain.
#[inline]
fn poll_receive(socket: &AsyncFd<Socket>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    loop {
        let mut guard = ready!(socket.poll_read_ready(cx))?;
        match socket.get_ref().read(buffer) {
            Ok(count) => {
                if count > 0 && count < buffer.len() {
                    guard.clear_ready();
                }
                return Poll::Ready(Ok(count));
            }
            Err(Errno::WOULDBLOCK) => guard.clear_ready(),
            Err(Errno::INTR) => {}
            Err(error) => return Poll::Ready(Err(error.into())),
        }
    }
}

/// 0: the kernel takes nothing now.
#[inline]
fn send(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match socket.write(bytes) {
            Err(Errno::WOULDBLOCK) => return Ok(0),
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;

    fn pair() -> (Io, Io) {
        let (left, right) = UnixStream::pair().expect("a pair of sockets");
        (Io::unix(left).expect("registered").0, Io::unix(right).expect("registered").0)
    }

    #[tokio::test]
    async fn tcp_options_reach_the_socket() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream =
            tokio::net::TcpStream::connect(listener.local_addr().expect("its address")).await.expect("connected");
        let options = TcpOptions {
            keepalive: true,
            keepcnt: 3,
            keepidle: 44,
            keepintvl: 5,
            socket_buffer: 50_000,
            user_timeout_ms: 6000,
        };
        let (io, _) = Io::tcp(stream, &options).expect("an io");
        let Socket::Tcp(stream) = io.socket.get_ref() else { panic!("TCP") };
        let socket = SockRef::from(stream);
        assert!(socket.keepalive().expect("keepalive"));
        assert_eq!(socket.tcp_keepalive_retries().expect("count"), 3);
        assert_eq!(socket.tcp_keepalive_time().expect("time"), Duration::from_secs(44));
        assert_eq!(socket.tcp_keepalive_interval().expect("interval"), Duration::from_secs(5));
        assert_eq!(socket.tcp_user_timeout().expect("timeout"), Some(Duration::from_secs(6)));
        // The kernel doubles it for its own bookkeeping.
        assert_eq!(socket.recv_buffer_size().expect("size"), 100_000);
        assert_eq!(socket.send_buffer_size().expect("size"), 100_000);
    }

    #[tokio::test]
    async fn a_short_write_is_finished_when_the_peer_reads() {
        let (mut left, right) = pair();
        let sent: Vec<u8> = (0..4_000_000_u32).map(|i| i as u8).collect();
        let expected = sent.clone();
        let reader = tokio::spawn(async move {
            let mut received = Vec::new();
            while received.len() < expected.len() {
                assert!(right.read_some(&mut received).await.expect("read") > 0);
            }
            assert!(received == expected);
        });
        left.write_all(&sent).await.expect("written");
        assert!(left.aside.is_none());
        reader.await.expect("all received");
    }

    #[tokio::test]
    async fn gone_is_seen_only_after_what_was_sent_is_read() {
        let (left, right) = pair();
        left.try_write(b"x").expect("written");
        drop(left);
        tokio::task::yield_now().await;
        let mut buffer = Vec::new();
        assert_eq!(right.read_some(&mut buffer).await.expect("read"), 1);
        poll_fn(|cx| right.poll_gone(cx)).await;
        assert_eq!(right.read_some(&mut buffer).await.expect("end"), 0);
    }

    #[tokio::test]
    async fn what_was_read_to_the_last_byte_is_readable_no_more() {
        let (left, right) = pair();
        assert!(!right.is_readable());
        left.try_write(b"12345678").expect("written");
        let mut buffer = [0; 8];
        assert_eq!(poll_fn(|cx| right.poll_read(cx, &mut buffer)).await.expect("read"), 8);
        assert!(!right.is_readable(), "nothing waits: the last read took all");
        left.try_write(b"9").expect("written");
        poll_fn(|cx| right.socket.poll_read_ready(cx).map(|_| ())).await;
        assert!(right.is_readable());
        assert_eq!(poll_fn(|cx| right.poll_read(cx, &mut buffer)).await.expect("read"), 1);
        drop(left);
        poll_fn(|cx| right.poll_gone(cx)).await;
        assert!(right.is_readable(), "the end is something to read");
    }

    #[test]
    fn a_host_with_a_slash_is_a_socket_directory() {
        assert_eq!(Address::new("/tmp", 5432).to_string(), "unix:/tmp/.s.PGSQL.5432");
        assert_eq!(Address::new("::1", 5432).to_string(), "[::1]:5432");
        assert_eq!(Address::new("db", 5432).to_string(), "db:5432");
    }
}
