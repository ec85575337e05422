//! Whole configurations.

use std::path::PathBuf;
use std::time::Duration;

use super::*;

/// A folder of files that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sluice-config-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn parse(text: &str) -> Config {
    Config::parse_str(text).unwrap()
}

fn error(text: &str) -> String {
    Config::parse_str(text).unwrap_err().to_string()
}

#[test]
fn all_sections_together() {
    let config = parse(
        "[databases]\na = host=x\n* = host=y\n'my db' = \na = host=z\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1, ::1\n\
         [users]\nann = pool_size=3\n[peers]\n2 = host=h\n1 = host=g\n",
    );
    assert_eq!(*config.settings.listen_addr, ["127.0.0.1", "::1"]);
    let names: Vec<_> = config.databases.keys().collect();
    assert_eq!(names, ["a", "my db"]);
    assert_eq!(config.databases["a"].host.as_deref(), Some("z"));
    assert_eq!(config.users["ann"].pool_size, Some(3));
    assert_eq!(config.peers.keys().copied().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn databases_are_listed_or_made() {
    let config = parse("[pgbouncer]\n[databases]\na = host=x\n* = host=y");
    let host = |name| config.database(name).unwrap().host.unwrap();
    assert_eq!((host("a").as_str(), host("b").as_str()), ("x", "y"));
    assert_eq!(config.database("b").unwrap().dbname, "b");
    let config = parse("[pgbouncer]\n[databases]\na = host=x");
    assert_eq!(config.database("b"), None);
}

#[test]
fn a_second_main_section_starts_over() {
    let config = parse("[pgbouncer]\nmax_client_conn=5\nuser=\nlogin_notify_message=hello\n[pgbouncer]\npkt_buf=75");
    assert_eq!(config.settings.max_client_conn, 100);
    assert_eq!(config.settings.login_notify_message, "");
    assert_eq!(config.settings.pkt_buf, 75);
}

#[test]
fn mistakes_name_file_and_line() {
    for (text, expected) in [
        ("[users]", "main section missing from config file (begin the file with [pgbouncer])"),
        ("", "main section missing from config file (begin the file with [pgbouncer])"),
        (
            "[pgbouncer]\n\nserver_lifetim = 1",
            "sluice.ini:3: unknown setting \"server_lifetim\" (did you mean \"server_lifetime\"?)",
        ),
        ("[pgbouncer]\nlog_stats = yes", "sluice.ini:2: bad value \"yes\" for \"log_stats\": must be 0 or 1"),
        (
            "[pgbouncer]\nauth_dbname = pgbouncer",
            "sluice.ini:2: cannot use the reserved \"pgbouncer\" database as an auth_dbname",
        ),
        (
            "[pgbouncer]\nauth_type = pam",
            "sluice.ini:2: \"auth_type\" = \"pam\" is not supported in this version (use one of: any, trust, plain, md5, cert, hba, ldap, scram-sha-256)",
        ),
        (
            "[pgbouncer]\n[databases]\npgbouncer = host=x",
            "sluice.ini:3: database name \"pgbouncer\" is reserved (it is the console's)",
        ),
        ("[pgbouncer]\n[users]\nann = pool=1", "sluice.ini:3: unknown user parameter \"pool\""),
        ("[pgbouncer]\n[peers]\nx = host=h", "sluice.ini:3: bad peer id \"x\" (use a number from 1 to 65535)"),
    ] {
        assert_eq!(error(text), expected);
    }
}

#[test]
fn a_file_that_is_not_there_or_not_text_is_named() {
    let missing = Config::load(Path::new("/does/not/exist.ini")).unwrap_err();
    assert!(missing.to_string().starts_with("cannot read file \"/does/not/exist.ini\": No such file"));
    let folder = Folder::new("text");
    for (bytes, problem) in [(&b"\xff"[..], "is not UTF-8"), (b"a\0", "contains a NUL byte")] {
        let path = folder.0.join("odd.ini");
        std::fs::write(&path, bytes).unwrap();
        let error = Config::load(&path).unwrap_err().to_string();
        assert_eq!(error, format!("file \"{}\" {problem}", path.display()));
    }
}

#[test]
fn users_come_from_the_auth_file() {
    let folder = Folder::new("auth");
    let users = folder.write("users.txt", "\"ann\" \"secret\"\n");
    let config = parse(&format!("[pgbouncer]\nauth_file = {}", users.display()));
    assert_eq!(config.secrets["ann"], Secret::Plain("secret".into()));

    folder.write("users.txt", "\"ann\" \"secret\"\nbob x\n");
    let broken = error(&format!("[pgbouncer]\nauth_file = {}", users.display()));
    assert_eq!(broken, format!("{}:2: broken auth file (a line is \"user\" \"secret\")", users.display()));
    assert!(error("[pgbouncer]\nauth_file = /does/not/exist").starts_with("cannot read file"));
}

#[test]
fn reload_reads_again_but_keeps_what_counts_at_start() {
    let folder = Folder::new("reload");
    let path = folder.write("s.ini", "[pgbouncer]\nlisten_port=7000\nquery_timeout=5\nauth_dbname=a\n");
    let before = Config::load(&path).unwrap();
    assert_eq!(before.settings.conffile, path);
    folder.write("s.ini", "[pgbouncer]\nlisten_port=7001\nmax_client_conn=9\n");
    let after = before.reload().unwrap();
    assert_eq!(after.settings.listen_port, 7000);
    assert_eq!(after.settings.max_client_conn, 9);
    assert_eq!(after.settings.query_timeout, Duration::ZERO);
    assert_eq!(after.settings.conffile, path);
    folder.write("s.ini", "[pgbouncer]\nnonsense=1\n");
    let error = before.reload().unwrap_err().to_string();
    assert_eq!(error, format!("{}:2: unknown setting \"nonsense\"", path.display()));
}

#[test]
fn set_changes_one_setting() {
    let config = parse("[pgbouncer]\nmax_client_conn=7");
    let set = |key, value| config.with_setting(key, value);
    assert_eq!(set("pool_mode", "statement").unwrap().settings.pool_mode, PoolMode::Statement);
    assert_eq!(set("pool_mode", "statement").unwrap().settings.max_client_conn, 7);
    // Accepted without effect, as in PgBouncer.
    assert_eq!(set("listen_port", "1").unwrap().settings, config.settings);
    for (key, value, expected) in [
        ("nonsense", "1", "unknown setting \"nonsense\""),
        ("verbose", "x", "bad value \"x\" for \"verbose\": must be a whole number from 0 to 4294967295"),
        (
            "client_tls_protocols",
            "tlsv1.1",
            "bad value \"tlsv1.1\" for \"client_tls_protocols\": TLS 1.0 and 1.1 are not supported: use secure, tlsv1.2 or tlsv1.3",
        ),
        ("auth_dbname", "pgbouncer", "cannot use the reserved \"pgbouncer\" database as an auth_dbname"),
    ] {
        assert_eq!(set(key, value).unwrap_err().to_string(), expected);
    }
    assert!(set("auth_file", "/does/not/exist").is_err());
}

#[test]
fn show_config_prints_as_pgbouncer_does() {
    let config = parse("[pgbouncer]\nunix_socket_mode=0770\nquery_timeout=1.50\nadmin_users=a, b\n");
    let rows = config.show();
    let row = |key| rows.iter().find(|row| row.key == key).unwrap();
    let value = |key| row(key).value.as_deref();
    assert_eq!(value("unix_socket_mode"), Some("504"));
    assert_eq!(row("unix_socket_mode").default, Some("0777"));
    assert_eq!(value("query_timeout"), Some("1.5"));
    assert_eq!(value("admin_users"), Some("a, b"));
    assert_eq!((value("auth_file"), value("auth_hba_file")), (None, Some("")));
    assert_eq!((value("log_stats"), value("pool_mode")), (Some("1"), Some("session")));
    assert!(row("pool_mode").changeable && !row("listen_addr").changeable);
    assert_eq!(rows[0].key, "admin_users");
}

#[test]
fn the_sample_file_is_valid_and_holds_the_platforms_figures() {
    let sample = include_str!("../../../deploy/sluice.ini.sample");
    // The user list that it names is not on this machine.
    let text = sample.replace("auth_file =", ";auth_file =");
    assert_ne!(text, sample);
    let config = parse(&text);
    let settings = &config.settings;
    assert_eq!(settings.pool_mode, PoolMode::Transaction);
    assert_eq!(settings.max_client_conn, 1000);
    assert_eq!((settings.default_pool_size, settings.reserve_pool_size), (100, 20));
    assert!(config.databases["epfo"].is_sharded());
    // What is commented out is valid as well.
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix(';') {
            Some(example)
                if example.starts_with(|c: char| c.is_ascii_lowercase() || c == '*')
                    && !example.starts_with("auth_file") =>
            {
                format!("{example}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let config = parse(&uncommented);
    assert_eq!(config.databases["reports"].pool_size, Some(10));
    assert!(config.autodb.is_some() && config.users.contains_key("nightly"));
}

#[test]
fn a_sharded_database_is_not_pooled_by_session() {
    // Nothing says otherwise, and session is PgBouncer's default.
    let entry = "[databases]\nfund = catalog='host=h'";
    let expected =
        "database \"fund\" is sharded and cannot be pooled by session (add pool_mode=transaction to its entry)";
    assert_eq!(error(&format!("[pgbouncer]\n{entry}")), expected);
    assert_eq!(error(&format!("[pgbouncer]\npool_mode=transaction\n{entry} pool_mode=session")), expected);
    let config = parse(&format!("{entry}\n[pgbouncer]\npool_mode=transaction"));
    assert_eq!(config.with_setting("pool_mode", "session").unwrap_err().to_string(), expected);
    assert!(config.with_setting("pool_mode", "statement").is_ok());
    assert!(parse(&format!("[pgbouncer]\n{entry} pool_mode=transaction")).databases["fund"].is_sharded());
}
