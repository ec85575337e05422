//! The pooler as a process: command line, pid file, signals, online restart.
//!
//! [`run`] has the order in which PgBouncer starts, because scripts rely on which of two mistakes is reported.

mod pid_file;
mod signals;
mod takeover;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use self::pid_file::PidFile;
use self::takeover::Takeover;
use crate::app::{self, App};
use crate::config::Config;
use crate::listener::{Inherited, Listeners};
use crate::{logging, serve};

/// The command line of the pooler: PgBouncer's.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration file, in pgbouncer.ini's format
    config: Option<PathBuf>,
    /// Take over from the process that runs with the same configuration, if there is one; its clients notice nothing
    #[arg(short = 'R', long)]
    reboot: bool,
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
    let log = start_log(args, &config)?;
    let start = Start::prepare(args.reboot, &config)?;
    runtime(workers(&config)).block_on(async {
        let app = app::build(config).await.map_err(|error| error.to_string())?;
        app.follow_log_settings(log);
        start.serve(app).await
    })
}

fn start_log(args: &RunArgs, config: &Config) -> Result<logging::Log, String> {
    let file = Some(config.settings.logfile.as_path()).filter(|path| !path.as_os_str().is_empty());
    let destination = logging::Destination { stderr: !args.quiet, file };
    logging::start(&destination, config.settings.verbose, args.verbose.into())
        .map_err(|error| format!("cannot open logfile: {error}"))
}

/// Whether there is a process before this one.
enum Start {
    Fresh(PidFile),
    Replacing(Takeover, Inherited),
}

impl Start {
    fn prepare(reboot: bool, config: &Config) -> Result<Self, String> {
        if reboot {
            if let Some((takeover, sockets)) = Takeover::begin(config).map_err(|error| error.to_string())? {
                return Ok(Self::Replacing(takeover, Inherited::FromPredecessor(sockets)));
            }
            tracing::info!("old process not found, try to continue normally");
        }
        PidFile::create(&config.settings.pidfile).map(Self::Fresh)
    }

    async fn serve(self, app: Arc<App>) -> Result<(), String> {
        let config = app.config();
        let bind = |inherited| Listeners::bind(&config, inherited).map_err(|error| error.to_string());
        let (listeners, pid) = match self {
            Self::Fresh(pid) => (bind(Inherited::None)?, pid),
            Self::Replacing(mut takeover, inherited) => {
                let listeners = bind(inherited)?;
                takeover.finish().map_err(|error| error.to_string())?;
                (listeners, PidFile::take_over(&config.settings.pidfile)?)
            }
        };
        tokio::spawn(signals::obey(app.clone()));
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
