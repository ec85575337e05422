//! Servers that do what PostgreSQL never would.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// These servers know nothing of TLS, not even how to decline it.
pub const NO_TLS: &str = "server_tls_sslmode = disable";

/// A server's side of a login that asks for nothing.
pub const LOGIN: &[u8] = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I";

/// A server that does `serve` with each connection; its port.
pub fn fake(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    port
}

/// Hangs up only after the other side has.
pub fn outlast(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    while matches!(stream.read(&mut buffer), Ok(count) if count > 0) {}
}

/// A server that answers every connection with the same bytes.
pub fn fake_server(answer: impl AsRef<[u8]> + Clone + Send + 'static) -> u16 {
    fake(move |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(answer.as_ref());
        outlast(stream);
    })
}

/// Lets a client in; its first request.
pub fn first_request(stream: &mut TcpStream) -> String {
    let mut buffer = [0; 1024];
    let _ = stream.read(&mut buffer);
    let _ = stream.write_all(LOGIN);
    let count = stream.read(&mut buffer).unwrap_or(0);
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

/// A server that lets everybody in, and answers the first request with these bytes.
pub fn server_that_answers(answer: impl AsRef<[u8]> + Clone + Send + 'static) -> u16 {
    fake(move |mut stream| {
        first_request(&mut stream);
        let _ = stream.write_all(answer.as_ref());
        outlast(stream);
    })
}
