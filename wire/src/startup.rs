//! What a client sends before the first regular message, and what we send in its place to a server.
//!
//! A start-up packet has no type byte: a length word, a version word, then name/value pairs of C strings. Three
//! other requests (TLS, GSSAPI encryption, cancel) share that shape under version numbers of their own.
//! Source of the rules: PostgreSQL's documentation, "Message Flow / Start-up", "Protocol Versions" and
//! "Message Formats".
//!
//! Names and values are UTF-8 here or refused: a name that is altered on the way could be somebody else's.

use std::str;

/// Shortest start-up packet: the length word and the version word.
pub const MIN_PACKET: usize = 8;
/// Longest start-up packet that PostgreSQL, and so we, accept.
pub const MAX_PACKET: usize = 10_000;
/// The one major protocol version in use.
pub const PROTOCOL_MAJOR: u16 = 3;
/// The newest minor protocol version that we speak. 3.2 brought cancel keys longer than 4 bytes.
pub const NEWEST_MINOR: u16 = 2;
/// Answer to an SSLRequest or GSSENCRequest that is declined.
pub const ENCRYPTION_REFUSED: u8 = b'N';
/// Answer to an SSLRequest that is granted: the TLS handshake follows.
pub const ENCRYPTION_GRANTED: u8 = b'S';

const CODE_CANCEL: u32 = request_code(5678);
const CODE_SSL: u32 = request_code(5679);
const CODE_GSS: u32 = request_code(5680);
const MAX_USER_NAME: usize = 127;
const CANCEL_SECRET_LENGTHS: std::ops::RangeInclusive<usize> = 4..=256;
const PROTOCOL_OPTION_PREFIX: &str = "_pq_.";

/// Requests that are no start-up message carry 1234 where the major version would be.
const fn request_code(minor: u32) -> u32 {
    (1234 << 16) | minor
}

const fn version_word(minor: u16) -> u32 {
    ((PROTOCOL_MAJOR as u32) << 16) | minor as u32
}

/// One start-up packet, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Startup {
    /// The client asks for TLS.
    Ssl,
    /// The client asks for GSSAPI encryption.
    Gss,
    /// The client asks to cancel what another connection runs.
    Cancel(CancelKey),
    /// The client wants to log in.
    Start(StartupMessage),
}

/// The pair that a cancel request has to present: process id and secret (4 bytes in protocol 3.0, 4 to 256 in 3.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// Process id as announced in BackendKeyData.
    pub pid: i32,
    /// The secret bytes that follow it.
    pub secret: Vec<u8>,
}

/// A client's StartupMessage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartupMessage {
    /// Minor protocol version asked for; the major one is 3.
    pub minor: u16,
    /// User name; never empty.
    pub user: String,
    /// Database name; the user name if the client named none.
    pub database: String,
    /// All other parameters in the client's order, `application_name`, `options` and `replication` among them.
    pub params: Vec<(String, String)>,
    /// Names of protocol extensions asked for, with their `_pq_.` prefix.
    pub pq_options: Vec<String>,
}

impl StartupMessage {
    /// Value of a parameter by its exact name; the last one wins where a client repeats it.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The kind of connection that the parameter `replication` asks for.
    pub fn replication(&self) -> Result<Replication, StartupError> {
        self.param("replication").map_or(Ok(Replication::None), Replication::parse)
    }
}

/// The kinds of connections that PostgreSQL tells apart by the start-up parameter `replication`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Replication {
    /// An ordinary connection.
    #[default]
    None,
    /// To one database: logical replication, and SQL.
    Logical,
    /// To the whole cluster.
    Physical,
}

impl Replication {
    /// `database`, or what PostgreSQL takes for a boolean value.
    fn parse(value: &str) -> Result<Self, StartupError> {
        let is_short_for = |word: &str, shortest: usize| {
            value.len() >= shortest && word.get(..value.len()).is_some_and(|start| start.eq_ignore_ascii_case(value))
        };
        if value == "database" {
            Ok(Self::Logical)
        } else if is_short_for("true", 1) || is_short_for("yes", 1) || is_short_for("on", 2) || value == "1" {
            Ok(Self::Physical)
        } else if is_short_for("false", 1) || is_short_for("no", 1) || is_short_for("off", 2) || value == "0" {
            Ok(Self::None)
        } else {
            Err(StartupError::BadReplication(value.to_owned()))
        }
    }

    /// The parameter's value for our own start-up message. `None`: it isn't sent.
    pub fn parameter(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Logical => Some("database"),
            Self::Physical => Some("true"),
        }
    }
}

/// Why a start-up packet was refused. The text is what the client is shown, as a FATAL error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// The length word or the request code makes no sense; holds the first bytes.
    #[error("bad packet header: '{0}'")]
    BadHeader(String),
    /// Protocol 2, dead since PostgreSQL 14.
    #[error("old V2 protocol not supported")]
    OldProtocol,
    /// A major version from the future.
    #[error("unsupported protocol version {0}.{1}: this server speaks 3.0 to 3.{NEWEST_MINOR}")]
    UnsupportedVersion(u16, u16),
    /// The list of parameters does not end where the packet ends.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    BadLayout,
    /// A name or value is not UTF-8.
    #[error("startup parameter is not valid UTF-8: {0}")]
    NotUtf8(&'static str),
    /// No `user`, or an empty one.
    #[error("no username supplied")]
    NoUser,
    /// PostgreSQL would cut the name; a cut name is another user.
    #[error("username too long")]
    UserTooLong,
    /// The `options` parameter holds something other than settings.
    #[error("unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed")]
    BadOptions,
    /// The `replication` parameter is neither `database` nor a boolean value.
    #[error("invalid value for parameter \"replication\": \"{0}\"")]
    BadReplication(String),
}

impl StartupError {
    /// SQLSTATE to report: protocol violation for all of them, as PgBouncer does.
    pub fn sqlstate(&self) -> &'static str {
        "08P01"
    }
}

/// Reads a packet's length word. The length counts the word itself.
pub fn packet_length(header: [u8; 4]) -> Result<usize, StartupError> {
    let length = u32::from_be_bytes(header) as usize;
    if (MIN_PACKET..=MAX_PACKET).contains(&length) { Ok(length) } else { Err(bad_header(&header)) }
}

/// Parses one complete start-up packet, length word included.
pub fn parse(packet: &[u8]) -> Result<Startup, StartupError> {
    let Some((length, rest)) = packet.split_first_chunk::<4>() else {
        return Err(bad_header(packet));
    };
    if packet_length(*length)? != packet.len() {
        return Err(bad_header(packet));
    }
    let Some((code, body)) = rest.split_first_chunk::<4>() else {
        return Err(bad_header(packet));
    };
    match u32::from_be_bytes(*code) {
        CODE_SSL if body.is_empty() => Ok(Startup::Ssl),
        CODE_GSS if body.is_empty() => Ok(Startup::Gss),
        CODE_CANCEL => parse_cancel(body).map(Startup::Cancel).ok_or_else(|| bad_header(packet)),
        version => parse_versioned(version, body, packet),
    }
}

fn parse_versioned(version: u32, body: &[u8], packet: &[u8]) -> Result<Startup, StartupError> {
    let (major, minor) = ((version >> 16) as u16, version as u16);
    match major {
        PROTOCOL_MAJOR => parse_message(minor, body).map(Startup::Start),
        2 => Err(StartupError::OldProtocol),
        4..100 => Err(StartupError::UnsupportedVersion(major, minor)),
        _ => Err(bad_header(packet)),
    }
}

fn parse_cancel(body: &[u8]) -> Option<CancelKey> {
    let (pid, secret) = body.split_first_chunk::<4>()?;
    CANCEL_SECRET_LENGTHS
        .contains(&secret.len())
        .then(|| CancelKey { pid: i32::from_be_bytes(*pid), secret: secret.to_vec() })
}

fn parse_message(minor: u16, mut body: &[u8]) -> Result<StartupMessage, StartupError> {
    let (mut user, mut database) = (None, None);
    let (mut params, mut pq_options) = (Vec::new(), Vec::new());
    loop {
        let name = take_string(&mut body, "name")?;
        if name.is_empty() {
            break;
        }
        let value = take_string(&mut body, "value")?;
        match name {
            "user" => user = Some(value.to_owned()),
            "database" => database = Some(value.to_owned()),
            _ if name.starts_with(PROTOCOL_OPTION_PREFIX) => pq_options.push(name.to_owned()),
            _ => params.push((name.to_owned(), value.to_owned())),
        }
    }
    if !body.is_empty() {
        return Err(StartupError::BadLayout);
    }
    let user = user.filter(|name| !name.is_empty()).ok_or(StartupError::NoUser)?;
    if user.len() > MAX_USER_NAME {
        return Err(StartupError::UserTooLong);
    }
    let database = database.filter(|name| !name.is_empty()).unwrap_or_else(|| user.clone());
    Ok(StartupMessage { minor, user, database, params, pq_options })
}

/// Takes a C string off the front of `body`.
fn take_string<'a>(body: &mut &'a [u8], what: &'static str) -> Result<&'a str, StartupError> {
    let end = body.iter().position(|&byte| byte == 0).ok_or(StartupError::BadLayout)?;
    let text = str::from_utf8(&body[..end]).map_err(|_| StartupError::NotUtf8(what))?;
    *body = &body[end + 1..];
    Ok(text)
}

fn bad_header(packet: &[u8]) -> StartupError {
    let shown = packet.iter().take(MIN_PACKET);
    StartupError::BadHeader(shown.map(|byte| format!("{byte:02x}")).collect())
}

/// Splits the `options` parameter into settings: `-c name=value`, `-cname=value` or `--name=value`, separated by
/// blanks, with a backslash taking the next character literally. Dashes in a name become underscores, as PostgreSQL
/// has it.
pub fn parse_options(options: &str) -> Result<Vec<(String, String)>, StartupError> {
    let mut words = split_words(options).into_iter();
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next().ok_or(StartupError::BadOptions)?
        } else if let Some(rest) = word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            rest.to_owned()
        } else {
            return Err(StartupError::BadOptions);
        };
        let (name, value) = setting.split_once('=').ok_or(StartupError::BadOptions)?;
        if name.is_empty() {
            return Err(StartupError::BadOptions);
        }
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(next) = chars.next() {
        match next {
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(chars.next()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

/// What both sides speak after the start-up message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The minor version in force.
    pub minor: u16,
    /// NegotiateProtocolVersion to send before the authentication request, where the client asked for more than
    /// we have.
    pub reply: Option<Vec<u8>>,
}

impl Negotiated {
    /// Whether BackendKeyData may carry a secret longer than 4 bytes.
    pub fn long_cancel_keys(&self) -> bool {
        self.minor >= 2
    }
}

/// Settles the minor version: 3.0 and 3.2 are taken as asked, 3.1 (which was never used) falls back to 3.0, anything
/// newer to 3.2. Protocol extensions are all declined by name.
///
/// PgBouncer offers 3.0 only; 3.2 is a deliberate difference.
pub fn negotiate_protocol(minor: u16, pq_options: &[String]) -> Negotiated {
    let settled = match minor {
        0 | 1 => 0,
        _ => NEWEST_MINOR,
    };
    let reply = (settled != minor || !pq_options.is_empty()).then(|| negotiate_reply(settled, pq_options));
    Negotiated { minor: settled, reply }
}

fn negotiate_reply(minor: u16, pq_options: &[String]) -> Vec<u8> {
    let mut body = Vec::new();
    // The manual speaks of the minor version; on the wire it is the whole version word.
    body.extend_from_slice(&version_word(minor).to_be_bytes());
    body.extend_from_slice(&(pq_options.len() as u32).to_be_bytes());
    for name in pq_options {
        push_string(&mut body, name);
    }
    let mut message = vec![b'v'];
    message.extend_from_slice(&with_length(&body));
    message
}

/// Builds our own start-up message to a server. Names and values must be free of NUL bytes.
pub fn startup_message<'a>(minor: u16, params: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut body = version_word(minor).to_be_bytes().to_vec();
    for (name, value) in params {
        push_string(&mut body, name);
        push_string(&mut body, value);
    }
    body.push(0);
    with_length(&body)
}

/// Builds an SSLRequest.
pub fn ssl_request() -> Vec<u8> {
    with_length(&CODE_SSL.to_be_bytes())
}

/// Builds a CancelRequest, to be sent alone on a connection of its own.
pub fn cancel_request(key: &CancelKey) -> Vec<u8> {
    let mut body = CODE_CANCEL.to_be_bytes().to_vec();
    body.extend_from_slice(&key.pid.to_be_bytes());
    body.extend_from_slice(&key.secret);
    with_length(&body)
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    debug_assert!(!text.contains('\0'), "a C string cannot hold a NUL byte");
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn with_length(body: &[u8]) -> Vec<u8> {
    let mut packet = ((body.len() + 4) as u32).to_be_bytes().to_vec();
    packet.extend_from_slice(body);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(version: u32, body: &[u8]) -> Vec<u8> {
        let mut words = version.to_be_bytes().to_vec();
        words.extend_from_slice(body);
        with_length(&words)
    }

    fn start(body: &[u8]) -> Result<StartupMessage, StartupError> {
        match parse(&packet(version_word(0), body))? {
            Startup::Start(message) => Ok(message),
            other => panic!("not a start-up message: {other:?}"),
        }
    }

    fn text(error: StartupError) -> String {
        assert_eq!(error.sqlstate(), "08P01");
        error.to_string()
    }

    #[test]
    fn special_requests_are_recognised() {
        assert_eq!(parse(&packet(80_877_103, b"")), Ok(Startup::Ssl));
        assert_eq!(parse(&packet(80_877_104, b"")), Ok(Startup::Gss));
        let key = CancelKey { pid: 7, secret: vec![1, 2, 3, 4] };
        assert_eq!(parse(&packet(80_877_102, &[0, 0, 0, 7, 1, 2, 3, 4])), Ok(Startup::Cancel(key)));
        assert!(parse(&packet(80_877_103, b"x")).is_err());
    }

    #[test]
    fn cancel_secrets_have_4_to_256_bytes() {
        for (length, good) in [(0, false), (3, false), (4, true), (256, true), (257, false)] {
            let key = CancelKey { pid: -1, secret: vec![9; length] };
            let parsed = parse(&cancel_request(&key));
            assert_eq!(parsed.is_ok(), good, "secret of {length} bytes");
            if good {
                assert_eq!(parsed, Ok(Startup::Cancel(key)));
            }
        }
    }

    #[test]
    fn parameters_keep_their_order_and_the_extensions_are_apart() {
        let message =
            start(b"user\0ann\0application_name\0psql\0_pq_.x\0on\0database\0epfo\0options\0-c a=b\0\0").unwrap();
        assert_eq!((&*message.user, &*message.database), ("ann", "epfo"));
        assert_eq!(message.params, [("application_name".into(), "psql".into()), ("options".into(), "-c a=b".into())]);
        assert_eq!(message.pq_options, ["_pq_.x"]);
        assert_eq!(message.param("options"), Some("-c a=b"));
        assert_eq!(message.param("replication"), None);
    }

    #[test]
    fn replication_is_read_as_postgresql_reads_it() {
        let of = |value: &str| start(format!("user\0ann\0replication\0{value}\0\0").as_bytes()).unwrap().replication();
        assert_eq!(start(b"user\0ann\0\0").unwrap().replication(), Ok(Replication::None));
        assert_eq!(of("database"), Ok(Replication::Logical));
        for value in ["true", "TRUE", "t", "yes", "on", "1"] {
            assert_eq!(of(value), Ok(Replication::Physical), "{value}");
        }
        for value in ["false", "f", "No", "off", "0"] {
            assert_eq!(of(value), Ok(Replication::None), "{value}");
        }
        for value in ["", "o", "DATABASE", "truer", "2"] {
            assert_eq!(of(value), Err(StartupError::BadReplication(value.to_owned())), "{value}");
        }
    }

    #[test]
    fn database_defaults_to_the_user() {
        assert_eq!(start(b"user\0ann\0\0").unwrap().database, "ann");
        assert_eq!(start(b"user\0ann\0database\0\0\0").unwrap().database, "ann");
    }

    #[test]
    fn a_repeated_parameter_counts_once_the_last_time() {
        let message = start(b"user\0ann\0TimeZone\0UTC\0TimeZone\0GMT\0\0").unwrap();
        assert_eq!(message.param("TimeZone"), Some("GMT"));
    }

    #[test]
    fn broken_layouts_are_refused() {
        let layout = "invalid startup packet layout: expected terminator as last byte";
        for body in [&b""[..], b"user", b"user\0ann\0", b"user\0ann\0\0x", b"user\0"] {
            assert_eq!(text(start(body).unwrap_err()), layout, "{body:?}");
        }
        assert_eq!(text(start(b"\0").unwrap_err()), "no username supplied");
        assert_eq!(text(start(b"user\0\0\0").unwrap_err()), "no username supplied");
    }

    #[test]
    fn names_are_utf8_and_of_bounded_length() {
        let error = start(b"user\0\xff\xfe\0\0").unwrap_err();
        assert_eq!(error, StartupError::NotUtf8("value"));
        let long = [b"user\0", "u".repeat(128).as_bytes(), b"\0\0"].concat();
        assert_eq!(text(start(&long).unwrap_err()), "username too long");
        let fits = [b"user\0", "u".repeat(127).as_bytes(), b"\0\0"].concat();
        assert!(start(&fits).is_ok());
    }

    #[test]
    fn versions_other_than_3_are_refused() {
        let of = |version| text(parse(&packet(version, b"\0")).unwrap_err());
        assert_eq!(of(2 << 16), "old V2 protocol not supported");
        assert_eq!(of(4 << 16), "unsupported protocol version 4.0: this server speaks 3.0 to 3.2");
        assert_eq!(of(0x4745_5420), "bad packet header: '0000000947455420'");
    }

    #[test]
    fn lengths_are_checked() {
        assert_eq!(packet_length([0, 0, 0, 8]), Ok(8));
        assert_eq!(packet_length(10_000u32.to_be_bytes()), Ok(10_000));
        for bad in [0u32, 7, 10_001, u32::MAX] {
            assert!(packet_length(bad.to_be_bytes()).is_err(), "{bad}");
        }
        assert!(parse(&[0, 0, 0, 9, 0, 3, 0, 0]).is_err());
        assert_eq!(text(parse(b"ab").unwrap_err()), "bad packet header: '6162'");
    }

    #[test]
    fn options_take_all_three_forms() {
        let parsed = parse_options(r"-c a=1  -cb=two\ words --search-path=x\\y").unwrap();
        let expected = [("a", "1"), ("b", "two words"), ("search_path", r"x\y")];
        assert_eq!(parsed.len(), expected.len());
        for ((name, value), (want_name, want_value)) in parsed.iter().zip(expected) {
            assert_eq!((name.as_str(), value.as_str()), (want_name, want_value));
        }
        assert_eq!(parse_options("  ").unwrap(), []);
    }

    #[test]
    fn options_that_are_no_settings_are_refused() {
        for bad in ["-c", "-c a", "-d 5", "a=b", "--a", "--=b", "-", "-c =x"] {
            let error = parse_options(bad).unwrap_err();
            assert_eq!(
                text(error),
                "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed",
                "{bad}"
            );
        }
    }

    #[test]
    fn minor_versions_are_settled() {
        for (asked, settled, replies) in [(0, 0, false), (1, 0, true), (2, 2, false), (3, 2, true)] {
            let negotiated = negotiate_protocol(asked, &[]);
            assert_eq!(negotiated.minor, settled, "3.{asked}");
            assert_eq!(negotiated.reply.is_some(), replies, "3.{asked}");
            assert_eq!(negotiated.long_cancel_keys(), settled == 2);
        }
    }

    #[test]
    fn negotiation_lists_every_extension() {
        let negotiated = negotiate_protocol(9999, &["_pq_.a".into(), "_pq_.b".into()]);
        let expected = b"v\0\0\0\x1a\0\x03\0\x02\0\0\0\x02_pq_.a\0_pq_.b\0";
        assert_eq!(negotiated.reply.as_deref(), Some(&expected[..]));
        assert!(negotiate_protocol(0, &["_pq_.a".into()]).reply.is_some());
    }

    #[test]
    fn our_own_start_up_message_is_read_back() {
        let packet = startup_message(2, [("user", "ann"), ("database", "d"), ("a", "")]);
        let expected = StartupMessage {
            minor: 2,
            user: "ann".into(),
            database: "d".into(),
            params: vec![("a".into(), String::new())],
            pq_options: vec![],
        };
        assert_eq!(parse(&packet), Ok(Startup::Start(expected)));
    }

    proptest! {
        #[test]
        fn arbitrary_packets_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn arbitrary_bodies_never_panic(version in 0u32..0x0005_0000, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&packet(version, &body));
        }

        #[test]
        fn arbitrary_options_never_panic(options in ".{0,80}") {
            let _ = parse_options(&options);
        }

        #[test]
        fn parameters_survive_the_round_trip(params in proptest::collection::vec(("[a-z]{5,8}_x", "[^\0]{0,20}"), 0..8)) {
            let ours = [("user", "u")].into_iter().chain(params.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            let Ok(Startup::Start(message)) = parse(&startup_message(0, ours)) else { panic!("not parsed") };
            prop_assert_eq!(message.params, params);
        }
    }
}
