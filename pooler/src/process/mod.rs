//! The pooler as a process: command line, user, pid file, signals, background, online restart.
//!
//! [`run`] has the order in which PgBouncer starts, because scripts rely on which of two mistakes is reported.

mod daemon;
mod descriptors;
mod pid_file;
mod privileges;
mod signals;
mod takeover;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use self::pid_file::PidFile;
use self::takeover::Takeover;
use crate::app::{self, App};
use crate::config::Config;
use crate::listener::{self, Inherited, Listeners};
use crate::net::tls::TlsSetup;
use crate::{logging, serve, service};

/// The command line of the pooler: PgBouncer's.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration file, in pgbouncer.ini's format
    config: Option<PathBuf>,
    /// Go to the background, when clients can connect; needs the setting pidfile
    #[arg(short, long)]
    daemon: bool,
    /// Take over from the process that runs with the same configuration, if there is one; no connection is refused
    #[arg(short = 'R', long)]
    reboot: bool,
    /// Become this Unix user; beats the setting user
    #[arg(short, long)]
    user: Option<String>,
    /// Log nothing to stderr
    #[arg(short, long)]
    quiet: bool,
    /// Log more; may be repeated
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Print the version
    #[arg(short = 'V', long)]
    pub version: bool,
}

/// Starts the pooler, and returns when it has ended in an orderly way.
pub fn run(args: &RunArgs) -> Result<(), String> {
    let Some(path) = &args.config else {
        return Err("need a configuration file\nHINT: sluice [options] FILE; see sluice --help".to_owned());
    };
    let config = app::load(path).map_err(|error| error.to_string())?;
    if args.daemon && !daemon::is_launched() {
        if config.settings.pidfile.as_os_str().is_empty() {
            return Err("daemon needs pidfile configured".to_owned());
        }
        // With all its rights: the process in the background starts from the beginning.
        return daemon::launch();
    }
    // The private keys may be root's alone.
    let tls = TlsSetup::load(&config).map_err(|error| error.to_string())?;
    if let Some(user) = args.user.as_ref().or(config.settings.user.as_ref()) {
        privileges::become_user(user)?;
    }
    if args.daemon {
        daemon::detach()?;
    }
    let log = logging::start(&config.settings, !args.quiet && !args.daemon, args.verbose.into())
        .map_err(|error| format!("cannot open logfile \"{}\": {error}", config.settings.logfile.display()))?;
    if privileges::is_root() {
        tracing::warn!("running as root, which nothing here needs: set user, or start as another user");
    }
    descriptors::make_room(&config);
    let start = Start::prepare(args, &config)?;
    runtime(workers(&config)).block_on(async {
        let app = app::build_with(config, tls).await.map_err(|error| error.to_string())?;
        app.follow_log_settings(log);
        start.serve(app, args.daemon).await
    })
}

/// Where the listening sockets come from, and whose place this process takes.
enum Start {
    Fresh(PidFile, Inherited),
    Replacing(Takeover, Inherited),
}

impl Start {
    fn prepare(args: &RunArgs, config: &Config) -> Result<Self, String> {
        let passed = service::sockets().map_err(|error| format!("sockets passed from service manager: {error}"))?;
        if args.reboot && !passed.is_empty() {
            return Err("cannot reboot under service manager".to_owned());
        }
        if args.reboot {
            if let Some((takeover, sockets)) = Takeover::begin(config).map_err(|error| error.to_string())? {
                return Ok(Self::Replacing(takeover, Inherited::FromPredecessor(sockets)));
            }
            tracing::info!("old process not found, try to continue normally");
        }
        if passed.is_empty() {
            listener::check_unix_socket(&config.settings).map_err(|error| error.to_string())?;
        }
        let inherited = if passed.is_empty() { Inherited::None } else { Inherited::FromManager(passed) };
        Ok(Self::Fresh(PidFile::create(&config.settings.pidfile)?, inherited))
    }

    async fn serve(self, app: Arc<App>, in_background: bool) -> Result<(), String> {
        let config = app.config();
        let bind = |inherited| Listeners::bind(&config, inherited).map_err(|error| error.to_string());
        let (listeners, pid) = match self {
            Self::Fresh(pid, inherited) => (bind(inherited)?, pid),
            Self::Replacing(mut takeover, inherited) => {
                let listeners = bind(inherited)?;
                takeover.finish().map_err(|error| error.to_string())?;
                (listeners, PidFile::take_over(&config.settings.pidfile)?)
            }
        };
        tokio::spawn(signals::obey(app.clone()));
        service::ready();
        if in_background {
            daemon::serving().map_err(|error| format!("cannot let go of the terminal: {error}"))?;
        }
        serve::serve(app.clone(), listeners, Box::pin(std::future::pending()))
            .await
            .map_err(|error| error.to_string())?;
        if app.is_handed_over() {
            pid.leave();
        }
        Ok(())
    }
}

/// The runtime that everything runs on.
pub fn runtime(workers: u32) -> tokio::runtime::Runtime {
    let mut builder = match workers {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder
        .worker_threads(workers as usize)
        .enable_all()
        .build()
        .expect("the system has a thread and a file descriptor to spare")
}

/// One worker up to two cores: more of them raise the CPU that a transaction costs, until there are cores to spare.
fn workers(config: &Config) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    match config.settings.worker_threads {
        0 if cores <= 2 => 1,
        0 => cores / 2,
        workers => workers,
    }
}
