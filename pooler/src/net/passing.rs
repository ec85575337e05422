//! Passing sockets between processes over a unix socket (SCM_RIGHTS): how a new process gets the listening sockets of the
//! one that it replaces.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// Most sockets that come with one read.
const MOST: usize = 16;

/// Sends `bytes` with a copy of `socket` on them. All or nothing: `bytes` is one short message.
pub fn send_with_socket(to: impl AsFd, bytes: &[u8], socket: impl AsFd) -> io::Result<()> {
    let sockets = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&sockets));
    let sent = rustix::net::sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Reads once: appends bytes to `buffer` and the sockets that came with them to `sockets`. Returns the number of bytes.
pub fn receive_with_sockets(from: impl AsFd, buffer: &mut Vec<u8>, sockets: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            sockets.extend(descriptors);
        }
    }
    buffer.extend_from_slice(&bytes[..received.bytes]);
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;

    use crate::net::{Bound, Listening};

    #[test]
    fn sockets_arrive_in_order_with_their_bytes() {
        let (left, right) = UnixStream::pair().unwrap();
        let sent: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        for listener in &sent {
            send_with_socket(&left, b"row", listener).unwrap();
        }
        let (mut bytes, mut sockets) = (Vec::new(), Vec::new());
        while bytes.len() < 9 {
            assert!(receive_with_sockets(&right, &mut bytes, &mut sockets).unwrap() > 0);
        }
        assert_eq!(bytes, b"rowrowrow");
        let bound: Vec<_> = sockets.into_iter().map(|socket| Listening::adopt(socket).unwrap().bound).collect();
        let expected: Vec<_> = sent.iter().map(|listener| Bound::Tcp(listener.local_addr().unwrap())).collect();
        assert_eq!(bound, expected);
    }
}
