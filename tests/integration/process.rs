//! The pooler as a process: command line, files, signals, users, and what a service manager gives it and hears from it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::support::{Certificates, Client, DEADLINE, Login, Sluice, Stand, binary, eventually};

const CONSOLE: &str = "pgbouncer";
/// An entry without PostgreSQL behind it: these tests use the console.
const NOWHERE: &str = "* = host=/nonexistent";

fn console() -> Login {
    Login { user: CONSOLE.to_owned(), ..Login::to(CONSOLE) }
}

/// A directory with settings that listen on a unix socket only.
struct Home(TempDir);

impl Home {
    fn new(settings: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("sluice-it-").tempdir_in("/tmp").expect("a directory");
        let path = directory.path().display();
        let ini = format!(
            "[databases]\n{NOWHERE}\n[pgbouncer]\nunix_socket_dir = {path}\nlogfile = {path}/log\nauth_type = trust\n{settings}\n"
        );
        fs::write(directory.path().join("sluice.ini"), ini).expect("settings");
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn socket(&self) -> String {
        self.path(".s.PGSQL.6432").display().to_string()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Runs it to its end.
    fn run(&self, flags: &[&str]) -> Output {
        Command::new(binary()).args(flags).arg(self.path("sluice.ini")).output().expect("sluice runs")
    }

    /// Starts it by a shell, whose script has `$SLUICE` and `$INI`, and waits until it serves.
    fn start(&self, script: &str, input: Stdio) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("SLUICE", binary()).env("INI", self.path("sluice.ini")).stdin(input);
        let mut process = Process(command.spawn().expect("a shell"));
        eventually("sluice serves", || {
            assert!(process.is_alive(), "it ended: {}", self.log());
            self.log().contains("process up")
        });
        process
    }
}

/// Killed when dropped.
struct Process(Child);

impl Process {
    fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("its state").is_none()
    }

    fn await_end(&mut self) {
        eventually("it ends", || !self.is_alive());
        assert!(self.0.wait().expect("its state").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().expect("kill");
    assert!(sent.success());
}

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("/proc").uid() == 0
}

#[test]
fn the_command_line_is_pgbouncers() {
    let run = |arguments: &[&str]| Command::new(binary()).args(arguments).output().expect("sluice runs");
    let version = run(&["-V"]);
    assert!(version.status.success() && version.stdout.starts_with(b"Sluice "), "{version:?}");
    let help = run(&["-h"]);
    let text = String::from_utf8_lossy(&help.stdout);
    for flag in ["-d, --daemon", "-R, --reboot", "-u, --user", "-q, --quiet", "-v, --verbose", "-V, --version"] {
        assert!(help.status.success() && text.contains(flag), "{flag} in {text}");
    }
    for wrong in [&["--no-such-option", "x.ini"][..], &[], &["a.ini", "b.ini"], &["/no/such/file.ini"]] {
        let refused = run(wrong);
        assert_eq!(refused.status.code(), Some(1), "{wrong:?}");
        assert!(!refused.stderr.is_empty(), "{wrong:?}");
    }
}

#[test]
fn sigterm_waits_for_clients_and_a_second_one_does_not() {
    let mut stand = Stand::start(&[]);
    let pid = stand.sluice.pid();
    let mut client = stand.client();
    signal("TERM", pid);
    eventually("the port is closed", || TcpStream::connect(stand.sluice.address()).is_err());
    assert_eq!(client.value("SELECT 41 + 1"), "42");
    let refused = Client::log_in(&stand.sluice.unix_address(), &Login::default()).err().expect("a refusal");
    assert_eq!((&*refused.severity, &*refused.message), ("FATAL", "pooler is shutting down"));
    let mut admin = stand.sluice.log_in_by_unix_socket(&console());
    assert_eq!(admin.error("RESUME").message, "pooler is shutting down");
    signal("USR2", pid);
    eventually("SIGUSR2 is ignored", || stand.sluice.log().contains("got SIGUSR2 while shutting down, ignoring"));
    signal("INT", pid);
    eventually("it ends", || !stand.sluice.is_alive());
    assert!(stand.sluice.log().contains("got SIGINT while shutting down, fast exit"));
    assert!(!Path::new(&stand.sluice.unix_address()).exists());
}

/// SIGQUIT and SHUTDOWN say nothing; the others tell when they are through. All end with status 0, and take the socket along.
#[test]
fn orders_to_end_are_obeyed_at_once_and_without_fuss() {
    for order in ["QUIT", "TERM", "INT", "SHUTDOWN", "SHUTDOWN WAIT_FOR_SERVERS", "SHUTDOWN WAIT_FOR_CLIENTS"] {
        let home = Home::new("");
        let mut process = home.start("exec \"$SLUICE\" --quiet \"$INI\"", Stdio::null());
        match order.strip_prefix("SHUTDOWN") {
            None => signal(order, process.0.id()),
            Some(_) => {
                let mut admin = Client::log_in(&home.socket(), &console()).expect("a login");
                admin.send_query(order);
                if order != "SHUTDOWN" {
                    assert_eq!(admin.until(b'Z').completed(), ["SHUTDOWN"], "{order}");
                }
            }
        }
        process.await_end();
        assert!(!Path::new(&home.socket()).exists(), "{order}");
        let said = match order {
            "QUIT" => "got SIGQUIT, fast exit",
            "TERM" => "got SIGTERM, shutting down, waiting for all clients disconnect",
            "INT" => "got SIGINT, shutting down, waiting for all servers connections to be released",
            "SHUTDOWN" => "SHUTDOWN command issued",
            "SHUTDOWN WAIT_FOR_SERVERS" => "server connections dropped, exiting",
            _ => "client connections dropped, exiting",
        };
        assert!(home.log().contains(said), "{order}: {}", home.log());
    }
}

#[test]
fn sigint_waits_for_running_transactions() {
    let mut stand = Stand::start(&[]);
    let (mut busy, mut idle) = (stand.client(), stand.client());
    busy.ok("BEGIN");
    busy.ok("SELECT 1");
    signal("INT", stand.sluice.pid());
    let told = idle.until_closed().error().expect("the reason");
    assert_eq!((&*told.severity, &*told.message), ("FATAL", "server shutting down"));
    busy.ok("SELECT 2");
    assert!(stand.sluice.is_alive());
    busy.ok("COMMIT");
    eventually("it ends", || !stand.sluice.is_alive());
}

#[test]
fn sigusr1_pauses_and_sigusr2_resumes() {
    let stand = Stand::start(&[]);
    let state = |stand: &Stand| stand.sluice.log_in_by_unix_socket(&console()).ok("SHOW STATE").rows()[1][1].clone();
    signal("USR1", stand.sluice.pid());
    eventually("it is paused", || state(&stand).as_deref() == Some("yes"));
    signal("USR2", stand.sluice.pid());
    eventually("it goes on", || state(&stand).as_deref() == Some("no"));
}

#[test]
fn the_background_has_a_session_of_its_own_and_reports_back() {
    let home = Home::new("");
    let pid_file = home.path("pid");
    fs::write(home.path("sluice.ini"), {
        let settings = fs::read_to_string(home.path("sluice.ini")).expect("settings");
        format!("{settings}pidfile = {}\n", pid_file.display())
    })
    .expect("settings");
    let launched = home.run(&["-d"]);
    assert!(launched.status.success(), "{launched:?}");
    // It serves already.
    let mut admin = Client::log_in(&home.socket(), &console()).expect("a login");
    let pid = fs::read_to_string(&pid_file).expect("the pid file").trim().to_owned();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
    let session = stat.rsplit(") ").next().and_then(|fields| fields.split(' ').nth(3).map(str::to_owned));
    assert_eq!(session.as_deref(), Some(&*pid), "{stat}");
    // A second one finds it, and says so on the terminal.
    let second = home.run(&["-d"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("is in use, cannot continue"), "{second:?}");
    admin.send_query("SHUTDOWN");
    admin.until_closed();
    eventually("it removes its pid file", || !pid_file.exists());
}

/// Of several mistakes at once the first one is reported, in PgBouncer's order, which scripts may rely on.
#[test]
fn a_start_refuses_in_pgbouncers_order() {
    let log = "logfile = /no/such/folder/log\n";
    let tls = "client_tls_sslmode = require\n";
    let user = "user = no_such_user_at_all\n";
    let home = Home::new("");
    fs::write(home.path("empty.pid"), "").expect("a pid file");
    let pid = format!("pidfile = {}\n", home.path("empty.pid").display());
    let lock = home.path(".s.PGSQL.6432.lock");
    fs::write(&lock, "1\n").expect("a lock file");
    let plain = fs::read_to_string(home.path("sluice.ini")).expect("settings");
    let refusal = |settings: &str| {
        fs::write(home.path("sluice.ini"), format!("{plain}{settings}")).expect("settings");
        let output = home.run(&["--quiet"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let everything = format!("{pid}{log}{user}{tls}");
    assert!(refusal(&format!("{everything}pool_mode = none\n")).starts_with("FATAL cannot load config file: "));
    assert!(refusal(&everything).starts_with("FATAL TLS setup failed: "));
    assert!(refusal(&format!("{pid}{log}{user}")).contains("\"no_such_user_at_all\" does not exist"));
    assert!(refusal(&format!("{pid}{log}")).contains("cannot open logfile \"/no/such/folder/log\""));
    let answering = UnixListener::bind(home.socket()).expect("a socket");
    assert!(refusal(&pid).contains("is in use, cannot continue"));
    drop(answering);
    for (content, why) in [("", "empty"), ("nonsense", "no number"), (&*std::process::id().to_string(), "it lives")] {
        fs::write(home.path("empty.pid"), content).expect("a pid file");
        assert!(refusal(&pid).contains("exists, another instance running?"), "{why}");
    }
    assert!(refusal("").contains("unix port 6432 is in use"));
    fs::remove_file(&lock).expect("removed");
    assert!(refusal("unix_socket_dir =\n").contains("nowhere to listen on"));
}

/// A private key may be its owner's alone: it is read before the process becomes another user.
#[test]
fn roots_private_key_is_read_before_root_is_left() {
    if !is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let certificates = Certificates::new();
    let home = Home::new(&format!(
        "user = nobody\nclient_tls_sslmode = allow\nclient_tls_cert_file = {}\nclient_tls_key_file = {}",
        certificates.file("server.crt"),
        certificates.file("server.key")
    ));
    fs::set_permissions(home.0.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("permissions");
    let _process = home.start("exec \"$SLUICE\" --quiet \"$INI\"", Stdio::null());
    assert_ne!(fs::metadata(home.socket()).expect("the socket").uid(), 0);
}

#[test]
fn the_background_needs_a_pid_file() {
    let refused = Home::new("").run(&["-d"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&refused.stderr), "FATAL daemon needs pidfile configured\n");
}

#[test]
fn a_lock_file_beside_the_unix_socket_is_respected() {
    let home = Home::new("");
    fs::write(format!("{}.lock", home.socket()), "1\n").expect("a lock file");
    let refused = home.run(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("unix port 6432 is in use"), "{refused:?}");
}

#[test]
fn root_becomes_the_user_of_the_settings() {
    let home = Home::new("user = nobody");
    if !is_root() {
        let refused = home.run(&[]);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot become user \"nobody\""), "{refused:?}");
        return;
    }
    fs::set_permissions(home.0.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("permissions");
    let process = home.start("exec \"$SLUICE\" --quiet \"$INI\"", Stdio::null());
    let status = fs::read_to_string(format!("/proc/{}/status", process.0.id())).expect("its state");
    let ids = |name: &str| -> Vec<String> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.split_whitespace().map(str::to_owned).collect()
    };
    let nobody = fs::metadata(home.socket()).expect("the socket");
    assert_ne!(nobody.uid(), 0);
    assert_eq!(ids("Uid:"), vec![nobody.uid().to_string(); 4]);
    assert_eq!(ids("Gid:"), vec![nobody.gid().to_string(); 4]);
    assert_eq!(ids("Groups:"), [nobody.gid().to_string()], "root's groups are gone");
    // The command line beats the setting.
    let refused = home.run(&["-u", "no-such-user"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("user \"no-such-user\" does not exist"), "{refused:?}");
}

#[test]
fn the_unix_socket_goes_to_a_group() {
    // Without being root, one's own group is the only one.
    let group = if is_root() { 12 } else { fs::metadata("/proc/self").expect("/proc").gid() };
    let home = Home::new(&format!("unix_socket_group = {group}\nunix_socket_mode = 0770"));
    let _process = home.start("exec \"$SLUICE\" --quiet \"$INI\"", Stdio::null());
    let socket = fs::metadata(home.socket()).expect("the socket");
    assert_eq!((socket.gid(), socket.mode() & 0o777), (group, 0o770));
    let unknown = Home::new("unix_socket_group = no-such-group").run(&[]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("\"no-such-group\" does not exist"), "{unknown:?}");
}

#[test]
fn the_service_manager_passes_sockets() {
    for by_tcp in [true, false] {
        let home = Home::new("");
        let (socket, address): (OwnedFd, _) = if by_tcp {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("its address").to_string();
            (listener.into(), address)
        } else {
            let path = home.path("passed");
            (UnixListener::bind(&path).expect("a socket").into(), path.display().to_string())
        };
        let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$SLUICE\" --quiet \"$INI\" 3<&0 0</dev/null";
        let _process = home.start(script, socket.into());
        let login = if by_tcp { Login::default() } else { console() };
        let answer = Client::log_in(&address, &login);
        if by_tcp {
            // Refused by the pooler, which therefore listens there.
            assert_eq!(answer.err().expect("a refusal").severity, "FATAL");
        } else {
            answer.expect("a login").ok("SHOW VERSION");
        }
        assert!(!Path::new(&home.socket()).exists(), "only the passed socket is used");
        assert!(home.log().contains("sockets passed from service manager, unix_socket_dir ignored"), "{}", home.log());
    }
}

#[test]
fn the_service_manager_is_kept_informed() {
    let home = Home::new("stats_period = 1");
    let manager = UnixDatagram::bind(home.path("notify")).expect("a socket");
    manager.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let hear = |beginning: &str| loop {
        let mut buffer = [0; 1000];
        let length = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("{error} instead of {beginning}"));
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        // The status comes when it comes.
        if text.starts_with(beginning) {
            return text;
        }
        assert!(text.starts_with("STATUS="), "{text} instead of {beginning}");
    };
    let script = format!("NOTIFY_SOCKET={} exec \"$SLUICE\" --quiet \"$INI\"", home.path("notify").display());
    let mut process = home.start(&script, Stdio::null());
    let pid = process.0.id();
    assert_eq!(hear("READY=1"), format!("READY=1\nMAINPID={pid}"));
    assert!(hear("STATUS=").starts_with("STATUS=stats: 0 xacts/s"));
    signal("HUP", pid);
    let reloading = hear("RELOADING=1\nMONOTONIC_USEC=");
    let micros: u64 = reloading.rsplit('=').next().expect("a value").parse().expect("a number");
    let uptime = fs::read_to_string("/proc/uptime").expect("/proc");
    let uptime: f64 = uptime.split(' ').next().expect("seconds").parse().expect("a number");
    assert!((micros as f64 / 1e6 - uptime).abs() < 60.0, "{micros} at {uptime}");
    hear("READY=1");
    signal("TERM", pid);
    hear("STOPPING=1");
    process.await_end();
}

#[test]
fn processes_share_a_port() {
    let first = Sluice::start(NOWHERE, &["so_reuseport = 1"]);
    let port = format!("listen_port = {}", first.port());
    let second = Sluice::start(NOWHERE, &["so_reuseport = 1", &port]);
    let served = |sluice: &Sluice| sluice.log().contains("pooler error: ");
    eventually("both get connections", || {
        let _ = Client::log_in(&first.address(), &Login::user("nobody"));
        served(&first) && served(&second)
    });
}
