//! What is done with arbitrary bytes, for each decoder: by the fuzz targets beside this file, and by a test of the pooler's
//! (`pooler/tests/corpus.rs`) that plays what they have found.

use std::path::Path;

use sluice::config::{Config, Hba, IdentMaps, LdapOptions, parse_users};
use sluice_router::copy::{CopyFormat, RowCutter};
use sluice_wire::auth::{AuthMethod, AuthStep, ClientAuth, Entropy, LoginContext, Secret, parse_client_first};
use sluice_wire::frame::{Bind, Frame, Frames, Header, Named, Parse, execute, query_text};
use sluice_wire::replies::{Replies, Reply};
use sluice_wire::scan::{Class, Scanner, Sink, Verdict, plain_response};
use sluice_wire::startup::{Startup, negotiate_protocol, parse, parse_options};

/// A decoder's name, which is that of its target, and what is done with it.
type Decoder = (&'static str, fn(&[u8]));

/// All of them.
#[allow(dead_code, reason = "each target uses one")]
pub const ALL: [Decoder; 10] = [
    ("auth_file", auth_file),
    ("copy", copy),
    ("frames", frames),
    ("hba", hba),
    ("ini", ini),
    ("ldap", ldap),
    ("replies", replies),
    ("scan", scan),
    ("scram", scram),
    ("startup", startup),
];

/// The user list.
pub fn auth_file(bytes: &[u8]) {
    let _ = parse_users(&String::from_utf8_lossy(bytes), "users.txt");
}

/// Rows of COPY FROM STDIN. The first byte says which format; the data come in pieces, which must not matter.
pub fn copy(bytes: &[u8]) {
    const FORMATS: [&str; 4] = [
        "COPY t FROM STDIN",
        "COPY t FROM STDIN (FORMAT csv)",
        "COPY t FROM STDIN (FORMAT csv, HEADER, DELIMITER ';', QUOTE '''', ESCAPE '\\', NULL 'x')",
        "COPY t FROM STDIN (DELIMITER ',', NULL '')",
    ];
    let Some((&choice, data)) = bytes.split_first() else { return };
    let Ok(format) = CopyFormat::parse(FORMATS[usize::from(choice) % FORMATS.len()]) else { return };
    let cut = |size: usize| {
        let mut cutter = RowCutter::new(format.clone(), usize::from(choice >> 6), "key");
        let mut rows = Vec::new();
        for piece in data.chunks(size) {
            cutter.push(piece);
            while let Some(row) = cutter.next_row().map_err(|error| error.to_string())? {
                rows.push(format!("{row:?}"));
            }
        }
        while let Some(row) = cutter.finish().map_err(|error| error.to_string())? {
            rows.push(format!("{row:?}"));
        }
        Ok::<_, String>(rows)
    };
    assert_eq!(cut(data.len().max(1)), cut(3));
}

/// The cut of a byte stream into messages, and the bodies that are read on the hot path.
pub fn frames(bytes: &[u8]) {
    let mut frames = Frames::new(bytes);
    let mut taken = 0;
    while let Some(Ok(frame)) = frames.next() {
        taken += frame.raw.len();
        assert_eq!(frames.rest().len(), bytes.len() - taken);
        let _ = query_text(frame.body);
        let _ = Parse::read(frame.body);
        let _ = Named::read(frame.body);
        let _ = execute(frame.body);
        if let Some(bind) = Bind::read(frame.body) {
            let _ = bind.value(0);
            let _ = bind.value(u16::MAX);
        }
    }
}

/// Rules and user name maps.
pub fn hba(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    // The fuzzer has no business reading files of this machine.
    if !text.contains('@') {
        let _ = Hba::parse(&text, Path::new("hba.conf"));
    }
    if let Ok(maps) = IdentMaps::parse(&text, "ident.conf") {
        let _ = maps.allows(Some("map"), "ann@example.com", "ann");
    }
}

/// A configuration file. It is its owner's, not a stranger's; still, an error with a line number beats a panic.
pub fn ini(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    // As above.
    if text.contains("%include") || text.contains("_file") {
        return;
    }
    if let Ok(config) = Config::parse_str(&text) {
        let _ = config.show();
    }
}

/// `auth_ldap_options`.
pub fn ldap(bytes: &[u8]) {
    let _ = LdapOptions::parse(&String::from_utf8_lossy(bytes));
}

/// The queue of expected responses. Bytes below 128 are expected, the others arrive.
pub fn replies(bytes: &[u8]) {
    const REPLIES: [Reply; 11] = [
        Reply::Parse { statement: Some(1) },
        Reply::OurParse { statement: Some(2) },
        Reply::Bind,
        Reply::Close,
        Reply::OurClose { statement: 3 },
        Reply::DescribeStatement,
        Reply::DescribePortal,
        Reply::Execute,
        Reply::Sync,
        Reply::LocalParse,
        Reply::LocalClose,
    ];
    let (mut replies, mut due, mut expected) = (Replies::default(), Vec::new(), 0);
    for &byte in bytes {
        if byte < 128 {
            replies.push(REPLIES[usize::from(byte) % REPLIES.len()]);
            expected += 1;
        } else {
            replies.make_due(&mut due);
            let _ = replies.on_response(b"123TntCIsEZDNSA"[usize::from(byte) % 15]);
        }
        assert!(replies.len() <= expected);
    }
}

/// Notes what passes.
#[derive(Default)]
struct Passed(Vec<u8>);

impl Sink for Passed {
    fn classify(&mut self, header: Header) -> Class {
        match header.tag {
            b'N' => Class::Drop,
            b'Z' | b'E' | b'S' if header.total < 1 << 16 => Class::Hold,
            _ => Class::Pass,
        }
    }

    fn message(&mut self, frame: Frame<'_>) -> Verdict {
        if frame.tag == b'S' { Verdict::Drop } else { Verdict::Pass }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

/// A server's responses. Where the stream is split must not matter.
pub fn scan(bytes: &[u8]) {
    let _ = plain_response(bytes);
    let run = |size: usize| {
        let (mut scanner, mut passed) = (Scanner::default(), Passed::default());
        let whole = bytes.chunks(size).try_for_each(|chunk| scanner.scan(chunk, &mut passed)).is_ok();
        (whole, scanner.is_at_boundary(), passed.0)
    };
    let (whole, split) = (run(bytes.len().max(1)), run(1));
    assert_eq!(whole.0, split.0);
    if whole.0 {
        assert_eq!((whole.1, whole.2), (split.1, split.2));
    }
}

/// Password messages of a client that has not logged in, each behind its length: whatever they hold, they must not get it in.
pub fn scram(bytes: &[u8]) {
    // Fixed, so that a crash can be repeated.
    const ENTROPY: Entropy = Entropy { md5_salt: [1; 4], scram_salt: [2; 16], nonce: [3; 18] };
    let mut messages = Vec::new();
    let mut rest = bytes;
    while let Some((&length, behind)) = rest.split_first() {
        let (message, behind) = behind.split_at(usize::from(length).min(behind.len()));
        messages.push(message);
        rest = behind;
    }
    let secret = Secret::Plain("no input of a fuzzer is likely to hold this".to_owned());
    let end_point = Some(&[5; 32][..]);
    let methods = [AuthMethod::Plain, AuthMethod::Md5, AuthMethod::ScramSha256].map(|method| (method, None));
    for (method, end_point) in methods.into_iter().chain([(AuthMethod::ScramSha256, end_point)]) {
        let context = LoginContext { mock_key: &[4; 32], entropy: &ENTROPY, iterations: 1, end_point };
        let mut step = ClientAuth::start(method, "ann", Some(&secret), context);
        for message in &messages {
            let _ = parse_client_first(message);
            step = match step {
                Ok(AuthStep::Continue(_, state)) => state.on_message(message),
                over => over,
            };
            assert!(!matches!(step, Ok(AuthStep::Done { .. })));
        }
    }
}

/// The start-up packet and its `options`: the first bytes of anybody who can reach the port.
pub fn startup(bytes: &[u8]) {
    if let Ok(Startup::Start(message)) = parse(bytes) {
        assert!(!message.user.is_empty() && !message.database.is_empty());
        let _ = negotiate_protocol(message.minor, &message.pq_options);
        let _ = message.param("options").map(parse_options);
    }
}
