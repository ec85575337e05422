//! The kinds of holes that PgBouncer has had, by their CVE numbers: a test for each, wider than the report was. What is beside
//! them in `auth_query.rs` and `faults.rs` is about the same doors.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use sluice_test_harness::Cluster;
use sluice_wire::auth::{AwaitClientFirst, ScramVerifier};
use sluice_wire::message::frame;

use crate::auth::{METHODS, refusal, scram_only, verifier, who};
use crate::support::{
    Batch, Client, LOGIN, Login, NO_TLS, Sluice, databases, fake, fake_server, first_request, outlast,
};

const POOLER: &str = "\"postgres\" \"\"\n";

fn alice(password: &str) -> Login {
    Login::user("alice").with_password(password)
}

/// A cluster where whoever decides on a search_path decides what pg_authid says of alice: that her password is `mine`.
fn trapped() -> Cluster {
    let cluster = scram_only();
    verifier(&cluster, "alice", "secret", "scram-sha-256");
    let mine = verifier(&cluster, "bob", "mine", "scram-sha-256");
    cluster.psql("postgres", "CREATE ROLE \"é\" LOGIN PASSWORD 'secret'");
    cluster.psql(
        "postgres",
        &format!(
            "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO public;
             CREATE TABLE evil.pg_authid AS SELECT 'alice'::name AS rolname, '{mine}'::text AS rolpassword,
                 NULL::timestamptz AS rolvaliduntil, true AS rolcanlogin;
             GRANT SELECT ON evil.pg_authid TO public;
             CREATE FUNCTION public.lookup(INOUT name text, OUT secret text) SECURITY DEFINER LANGUAGE sql AS
                 'SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1';
             CREATE FUNCTION evil.lookup(INOUT name text, OUT secret text) LANGUAGE sql AS
                 $$ SELECT $1, '{mine}'::text $$"
        ),
    );
    cluster
}

/// Everything that a start-up packet can bring along, if the configuration lets it.
const TRACKED: &str = "track_extra_parameters = search_path, role, session_authorization, default_transaction_read_only, \
     statement_timeout, row_security, default_transaction_isolation";

fn injections() -> Vec<(&'static str, &'static str)> {
    vec![
        ("search_path", "evil, pg_catalog"),
        ("options", "-c search_path=evil,pg_catalog"),
        ("options", "-csearch_path=evil,pg_catalog -crole=bob --statement-timeout=1"),
        ("role", "bob"),
        ("session_authorization", "bob"),
        ("statement_timeout", "1"),
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
        ("row_security", "off"),
        ("client_encoding", "LATIN1"),
        ("application_name", "'; SET search_path = evil; --"),
        ("TimeZone", "GMT'; SET search_path = evil; --"),
    ]
}

/// Refusals are slow on purpose; those that have nothing to do with each other needn't wait for each other.
fn at_once<T: Send>(cases: Vec<T>, check: impl Fn(&T) + Sync) {
    let check = &check;
    thread::scope(|scope| cases.into_iter().for_each(|case| drop(scope.spawn(move || check(&case)))));
}

/// CVE-2025-12819: a start-up parameter (there: search_path, where it is tracked) decides whose pg_authid `auth_query` reads.
#[test]
fn cve_2025_12819_no_start_up_parameter_reaches_auth_query() {
    let cluster = trapped();
    let hba = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(hba.path(), "host all postgres all trust\nhost all all all scram-sha-256\n").expect("rules");
    let hba_file = format!("auth_hba_file = {}", hba.path().display());
    // PgBouncer's own query, and what its documentation advises; one server, so that everybody meets everybody's traces.
    for query in ["", "auth_query = SELECT * FROM lookup($1)"] {
        let settings = ["auth_user = postgres", "auth_type = hba", &hba_file, TRACKED, "default_pool_size = 1", query];
        let sluice = Sluice::start_with_users(&databases(&cluster, ""), &settings, POOLER);
        // From who wants to log in ...
        at_once(injections(), |&(name, value)| {
            assert_eq!(refusal(&sluice, &alice("mine").with(name, value)).code, "28P01", "{name}={value}");
        });
        // ... and from a session of auth_user's on the server that auth_query runs on.
        for (name, value) in injections() {
            let mut own = Client::log_in(&sluice.address(), &Login::default().with(name, value)).expect("a login");
            own.query("SELECT 1");
            assert_eq!(refusal(&sluice, &alice("mine")).code, "28P01", "{name}={value}");
            let mut client = sluice.log_in(&alice("secret"));
            assert_eq!(who(&mut client), "alice", "{name}={value}");
            let accented = Login::user("é").with_password("secret");
            assert_eq!(who(&mut sluice.log_in(&accented)), "é", "{name}={value}");
        }
    }
}

/// CVE-2025-2291: a password whose time is over still opens the pooler.
#[test]
fn cve_2025_2291_an_expired_password_is_none() {
    let cluster = scram_only();
    // PgBouncer's own query, which answers NULL, and one that finds nobody.
    let query = "auth_query = SELECT rolname, rolpassword FROM pg_authid \
                 WHERE rolname = $1 AND (rolvaliduntil IS NULL OR rolvaliduntil > now())";
    for query in ["", query] {
        for method in METHODS {
            let kind = if method == "md5" { "md5" } else { "scram-sha-256" };
            cluster.psql("postgres", "ALTER ROLE alice VALID UNTIL 'infinity'");
            verifier(&cluster, "alice", "secret", kind);
            let auth_type = format!("auth_type = {method}");
            let settings = ["auth_user = postgres", &auth_type, query];
            let sluice = Sluice::start_with_users(&databases(&cluster, ""), &settings, POOLER);
            // A first login leaves a server of alice's, and keys for more of them. None of that may open the door again.
            if kind == "scram-sha-256" {
                assert_eq!(who(&mut sluice.log_in(&alice("secret"))), "alice", "{method}");
            }
            cluster.psql("postgres", "ALTER ROLE alice VALID UNTIL '2001-01-01'");
            for password in ["secret", "NULL"] {
                let error = refusal(&sluice, &alice(password));
                assert_eq!((&*error.severity, &*error.code), ("FATAL", "28P01"), "{method}, {password:?}: {error}");
            }
        }
    }
}

/// One line of SHOW HELP as the commands that it stands for.
fn spelled_out(line: &str, client: &str) -> Vec<String> {
    let filled = line
        .replace("[<schema>.]<name>", "t")
        .replace(" [IN <db>]", "")
        .replace("[FOR <db>] <statement>", "SELECT 1")
        .replace("key = arg", "max_client_conn = 1")
        .replace("<client_id>", client);
    let lines = if filled.contains("[<db>]") {
        vec![filled.replace(" [<db>]", ""), filled.replace("[<db>]", "postgres")]
    } else {
        vec![filled.replace("<db>", "postgres")]
    };
    let alternatives = |commands: Vec<String>, word: &str| -> Vec<String> {
        let extend = |command: &String| word.split('|').map(|one| format!("{command} {one}")).collect::<Vec<_>>();
        commands.iter().flat_map(extend).collect()
    };
    let expand = |line: String| line.split(' ').fold(vec![String::new()], alternatives);
    lines.into_iter().flat_map(expand).map(|command| command.trim().to_owned()).collect()
}

/// Whoever may look, and no more, may say this.
fn is_harmless(command: &str) -> bool {
    command != "SHOW FDS" && (command.starts_with("SHOW ") || command.starts_with("EXPLAIN "))
}

/// CVE-2026-6667: a command (there: KILL_CLIENT) that doesn't ask who gives it. The commands are those of SHOW HELP, which a
/// unit test holds complete; so a new one is looked at here without being named here.
#[test]
fn cve_2026_6667_no_control_command_obeys_somebody_who_may_only_look() {
    let cluster = Cluster::start();
    let entry = format!("* = host={} port={} user=postgres", cluster.socket_dir().display(), cluster.port());
    for settings in [["auth_type = trust", "stats_users = reader"], ["auth_type = any", ""]] {
        let settings = [settings[0], settings[1], "admin_users = boss"];
        let users = "\"reader\" \"\"\n\"boss\" \"\"\n\"postgres\" \"\"\n";
        let mut sluice = Sluice::start_with_users(&entry, &settings, users);
        let console = |user: &str| sluice.log_in_by_unix_socket(&Login { user: user.into(), ..Login::to("pgbouncer") });
        let (mut reader, mut boss) = (console("reader"), console("boss"));
        let mut victim = sluice.client();
        victim.ok("BEGIN; SELECT 1");
        let state =
            |boss: &mut Client| ["SHOW CONFIG", "SHOW STATE", "SHOW DATABASES"].map(|show| boss.ok(show).rows());
        let before = state(&mut boss);
        let clients = boss.ok("SHOW CLIENTS").rows();
        let of_victim = clients.iter().find(|row| row[2].as_deref() == Some("postgres")).expect("the victim");
        // `id` stands behind PgBouncer's other columns.
        let id = of_victim[20].clone().expect("an id");
        let help = reader.ok("SHOW HELP").notices().remove(0).detail;
        let commands = help.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut refused = BTreeSet::new();
        for command in commands.flat_map(|line| spelled_out(line, &id)) {
            let run = Batch::new().run(&command, &[]).sync();
            let answers = [reader.query(&command), reader.run(run)];
            if is_harmless(&command) {
                continue;
            }
            for answer in answers {
                let error = answer.error().unwrap_or_else(|| panic!("{command} was obeyed: {:?}", answer.messages));
                assert_eq!((&*error.severity, &*error.message), ("ERROR", "admin access needed"), "{command}");
                assert_eq!(answer.completed(), Vec::<String>::new(), "{command}");
            }
            refused.insert(command);
        }
        for command in ["SHUTDOWN", "SET max_client_conn = 1", "PAUSE postgres", "SHOW FDS", "DROP TABLE CLASS t"] {
            assert!(refused.contains(command), "{command} is missing among {refused:?}");
        }
        assert!(refused.contains(&format!("KILL_CLIENT {id}")) && refused.len() >= 24, "{refused:?}");
        assert_eq!(state(&mut boss), before);
        victim.ok("COMMIT");
        drop((reader, boss, victim));
        assert!(sluice.is_alive());
    }
}

/// A body of a password message: the mechanism, the length of the first SCRAM message as it is said, and that message.
fn initial(mechanism: &[u8], said: i32, data: &[u8]) -> Vec<u8> {
    [mechanism, b"\0", &said.to_be_bytes(), data].concat()
}

const FIRST: &[u8] = b"n,,n=,r=abcdefgh";

/// First messages that no client of good will sends.
fn malformed_first() -> Vec<Vec<u8>> {
    const SCRAM: &[u8] = b"SCRAM-SHA-256";
    let length = FIRST.len() as i32;
    let mut bodies = vec![
        b"".to_vec(),
        b"\0".to_vec(),
        SCRAM.to_vec(),
        [SCRAM, b"\0"].concat(),
        [SCRAM, b"\0\0\0"].concat(),
        initial(SCRAM, -1, b""),
        initial(SCRAM, 0, b""),
        initial(SCRAM, 0, FIRST),
        initial(SCRAM, length + 1, FIRST),
        initial(SCRAM, length - 1, FIRST),
        initial(SCRAM, i32::MAX, FIRST),
        initial(SCRAM, i32::MIN, FIRST),
        initial(SCRAM, -2, FIRST),
        initial(b"", length, FIRST),
        initial(b"SCRAM-SHA-256-PLUS", length, FIRST),
        initial(b"SCRAM-SHA-1", length, FIRST),
        initial(&[b'x'; 900], length, FIRST),
        [SCRAM, b" "].concat(),
    ];
    let messages: [&[u8]; 14] = [
        b"n",
        b"n,",
        b"n,,",
        b"n,,n=",
        b"n,,n=,r=",
        b"n,,n=,r=\0",
        b"n,,n=,r=\xff\xfe",
        b",,,,,,,,",
        b"p=,,n=,r=a",
        b"p=tls-server-end-point,,n=,r=a",
        b"y,a=root,n=,r=a",
        b"n,,m=must,n=,r=a",
        b"n,,r=a,n=",
        b"=",
    ];
    bodies.extend(messages.map(|message| initial(SCRAM, message.len() as i32, message)));
    bodies
}

/// Last messages, to be sent behind a good first one; NONCE is that of the exchange.
const MALFORMED_FINAL: [&str; 14] = [
    "",
    "\0",
    "c=biws",
    "c=biws,r=NONCE",
    "c=biws,r=NONCE,p=",
    "c=biws,r=NONCE,p=AAAA",
    "c=biws,r=NONCE,p=!!!!",
    "c=biws,r=NONCE,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "c=biws,r=NONCE,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=,p=",
    "c=biws,r=,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "c=,r=NONCE,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "r=NONCE,c=biws,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    ",p=",
    "p=",
];

/// Asks for a login and waits for the request of a password.
fn asked(sluice: &Sluice) -> Client {
    let mut client = Client::open(&sluice.address());
    client.start(&Login::user("alice"));
    assert_eq!(client.read().tag, b'R');
    client
}

fn assert_refused(client: &mut Client, what: &str) {
    let answer = client.until_closed();
    let error = answer.error().unwrap_or_else(|| panic!("{what}: {:?}", answer.messages));
    assert_eq!(error.severity, "FATAL", "{what}: {error}");
    assert!(["28P01", "08P01", "28000"].contains(&&*error.code), "{what}: {error}");
    assert_eq!(answer.tags(), "E", "{what}");
}

/// CVE-2026-6664: a SCRAM message that isn't one ends the process.
#[test]
fn cve_2026_6664_malformed_scram_messages_are_refused() {
    let cluster = scram_only();
    verifier(&cluster, "alice", "secret", "scram-sha-256");
    for settings in [&["auth_type = scram-sha-256"][..], &["auth_type = scram-sha-256", "auth_user = postgres"]] {
        let users = if settings.len() == 1 { "\"alice\" \"secret\"\n" } else { POOLER };
        let mut sluice = Sluice::start_with_users(&databases(&cluster, ""), settings, users);
        at_once(malformed_first(), |body| {
            let mut client = asked(&sluice);
            client.send(&Batch::new().raw(b'p', body).0);
            assert_refused(&mut client, &body.escape_ascii().to_string());
        });
        at_once(MALFORMED_FINAL.to_vec(), |last| {
            let mut client = asked(&sluice);
            client.send(&Batch::new().raw(b'p', &initial(b"SCRAM-SHA-256", FIRST.len() as i32, FIRST)).0);
            let challenge = String::from_utf8(client.read().body.split_off(4)).expect("text");
            let nonce = challenge.split(',').next().expect("a nonce").trim_start_matches("r=");
            client.send(&Batch::new().raw(b'p', last.replace("NONCE", nonce).as_bytes()).0);
            assert_refused(&mut client, last);
        });
        for header in [&b"p\0\0\0\x03"[..], b"p\xff\xff\xff\xff", b"p\x7f\xff\xff\xff", b"p\0\0\0\0", b"R\0\0\0\x04"] {
            let mut client = asked(&sluice);
            client.send(header);
            client.shut_down_writing();
            client.until_closed();
        }
        assert_eq!(who(&mut sluice.log_in(&alice("secret"))), "alice");
        assert!(sluice.is_alive());
    }
}

/// The next message that we send to a fake server.
fn next_message(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    stream.read_exact(&mut header).ok()?;
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
    let mut body = vec![0; length.checked_sub(4)?];
    stream.read_exact(&mut body).ok()?;
    Some((header[0], body))
}

fn authentication(code: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, b'R', |body| {
        body.extend_from_slice(&code.to_be_bytes());
        body.extend_from_slice(payload);
    });
    out
}

/// Begins SCRAM; the client's first message.
fn begin_scram(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let _ = stream.read(&mut [0; 1024]);
    stream.write_all(&authentication(10, b"SCRAM-SHA-256\0\0")).ok()?;
    let (_, mut body) = next_message(stream)?;
    // Behind the mechanism and the length.
    Some(body.split_off(b"SCRAM-SHA-256\0".len() + 4))
}

/// A server's whole part of SCRAM for password `secret`, its nonce of this length; then it answers every query.
fn scram_with_nonce(mut stream: TcpStream, length: usize) -> Option<()> {
    let first = begin_scram(&mut stream)?;
    let verifier = ScramVerifier::derive(b"secret", b"salt", 4096);
    let exchange = AwaitClientFirst::new(verifier, "x".repeat(length), None);
    let (reply, exchange) = exchange.on_message(&first, false).ok()?;
    stream.write_all(&authentication(11, reply.as_bytes())).ok()?;
    let (_, last) = next_message(&mut stream)?;
    let (reply, _) = exchange.on_message(&last).ok()?;
    stream.write_all(&authentication(12, reply.as_bytes())).ok()?;
    stream.write_all(LOGIN).ok()?;
    while next_message(&mut stream).is_some() {
        stream.write_all(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I").ok()?;
    }
    Some(())
}

fn in_front_of(port: u16) -> Sluice {
    let entry = format!("* = host=127.0.0.1 port={port} user=alice password=secret");
    Sluice::start(&entry, &[NO_TLS, "client_login_timeout = 5", "server_connect_timeout = 2"])
}

/// CVE-2026-6665: a server's nonce that is longer than PostgreSQL's ends the process, or worse.
#[test]
fn cve_2026_6665_a_servers_nonce_may_be_long() {
    for length in [1, 18, 1_000, 20_000, 1_000_000] {
        let mut sluice = in_front_of(fake(move |stream| {
            let _ = scram_with_nonce(stream, length);
        }));
        let mut client = sluice.client();
        assert_eq!(client.ok("SELECT 1").completed(), ["SELECT 1"], "{length}");
        assert!(sluice.is_alive());
    }
    let mut sluice = in_front_of(fake(|stream| {
        let _ = scram_with_nonce(stream, 2_000_000);
    }));
    let error = Client::log_in(&sluice.address(), &Login::default()).err().expect("everything has a bound");
    assert_eq!(error.severity, "FATAL", "{error}");
    assert!(sluice.is_alive());
}

/// The same door, with everything else that a server can say there; ours is the client's nonce.
#[test]
fn a_servers_malformed_scram_messages_are_a_failed_login() {
    let messages = [
        "",
        "r=",
        "r=OURS",
        "r=OURSx",
        "r=OURSx,s=",
        "r=OURSx,s=AAAA",
        "r=OURSx,s=AAAA,i=",
        "r=OURSx,s=AAAA,i=0",
        "r=OURSx,s=AAAA,i=-1",
        "r=OURSx,s=AAAA,i=4294967296",
        "r=OURSx,s=AAAA,i=2000000000",
        "r=OURSx,s=!,i=4096",
        "s=AAAA,r=OURSx,i=4096",
        "r=x,s=AAAA,i=4096",
        "e=other-error",
        ",,,",
        "\0",
    ];
    for message in messages {
        let mut sluice = in_front_of(fake(move |mut stream| {
            let Some(first) = begin_scram(&mut stream) else { return };
            let first = String::from_utf8_lossy(&first).into_owned();
            let ours = first.rsplit_once("r=").map_or("", |(_, nonce)| nonce);
            let _ = stream.write_all(&authentication(11, message.replace("OURS", ours).as_bytes()));
            outlast(stream);
        }));
        let error = Client::log_in(&sluice.address(), &Login::default()).err().expect("that is no server");
        assert_eq!(error.severity, "FATAL", "{message:?}: {error}");
        assert!(sluice.is_alive());
    }
}

/// Bodies of an ErrorResponse in which something is missing that PostgreSQL always says.
const INCOMPLETE: [&[u8]; 9] = [
    b"",
    b"\0",
    b"SFATAL\0\0",
    b"SERROR\0Mno code\0\0",
    b"SERROR\0C\0Man empty code\0\0",
    b"SERROR\0C1\0Ma short code\0\0",
    b"SERROR\0C42P01",
    b"Mcut",
    b"\xff\xfe\0\0",
];

fn error_response(body: &[u8]) -> Vec<u8> {
    Batch::new().raw(b'E', body).0
}

/// CVE-2026-6666: an error of a server's without SQLSTATE ends the process.
#[test]
fn cve_2026_6666_errors_without_sqlstate_are_errors() {
    for body in INCOMPLETE {
        // Instead of a login.
        let mut sluice = in_front_of(fake_server(error_response(body)));
        let error = Client::log_in(&sluice.address(), &Login::default()).err().expect("no login");
        assert_eq!(error.severity, "FATAL", "{body:?}: {error}");
        assert!(sluice.is_alive());
    }
}

/// A server that lets everybody in, and answers every message with this error.
fn server_of_errors(body: &'static [u8]) -> u16 {
    fake(move |mut stream| {
        let answer = [error_response(body), Batch::new().raw(b'Z', b"I").0].concat();
        first_request(&mut stream);
        let mut request = [0; 4096];
        while stream.write_all(&answer).is_ok() && matches!(stream.read(&mut request), Ok(count) if count > 0) {}
    })
}

/// As above, wherever we read a server's answers ourselves, and where we pass them on.
#[test]
fn cve_2026_6666_errors_without_sqlstate_are_errors_after_the_login_too() {
    let (encoding, plain) = (Login::default().with("client_encoding", "LATIN1"), Login::default());
    let unlisted = alice("secret");
    for body in INCOMPLETE {
        for (what, entry, setting, login) in [
            ("the answer to a query", "", "", &plain),
            ("settings of a client", "", "", &encoding),
            ("connect_query", "connect_query='SELECT 1'", "", &plain),
            ("auth_query", "auth_user=postgres", "auth_type = scram-sha-256", &unlisted),
            ("session pooling", "", "pool_mode = session", &plain),
            ("server_check_query", "", "server_check_delay = 0", &plain),
        ] {
            let entry = format!("* = host=127.0.0.1 port={} {entry}", server_of_errors(body));
            let settings = [NO_TLS, "client_login_timeout = 2", "server_connect_timeout = 1", setting];
            let mut sluice = Sluice::start(&entry, &settings);
            for _ in 0..2 {
                let Ok(mut client) = Client::log_in(&sluice.address(), login) else { continue };
                let answer = client.query("SELECT 1");
                assert!(answer.tags().contains('E'), "{what}, {body:?}: {:?}", answer.messages);
            }
            assert!(sluice.is_alive(), "{what}, {body:?}:\n{}", sluice.log());
        }
    }
}
