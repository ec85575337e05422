//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use sluice::app::{self, App, ShutdownMode};
use sluice::config::Config;
use sluice::demo::{self, DemoArgs};
use sluice::{console, logging, migrate, serve};
use tokio::signal::unix::{SignalKind, signal};

/// One PostgreSQL URL in front of a sharded fleet: `sluice sluice.ini` starts the pooler as `pgbouncer pgbouncer.ini` does.
#[derive(Parser)]
#[command(name = "sluice", disable_version_flag = true, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Start a throw-away fleet with sample data, and the pooler in front of it
    Demo(DemoArgs),
    /// Bring the catalog and all shards of the sharded databases in a configuration file up to date
    Migrate(migrate::MigrateArgs),
}

#[derive(Args)]
struct RunArgs {
    /// The configuration file, in pgbouncer.ini's format
    config: Option<PathBuf>,
    /// Log nothing to stderr
    #[arg(short, long)]
    quiet: bool,
    /// Log more; may be repeated
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Print the version
    #[arg(short = 'V', long)]
    version: bool,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // PgBouncer's exit status for a wrong command line.
            return if error.use_stderr() { ExitCode::from(1) } else { ExitCode::SUCCESS };
        }
    };
    if cli.run.version {
        println!("{}", console::VERSION);
        return ExitCode::SUCCESS;
    }
    let result = match cli.command {
        Some(Command::Demo(args)) => run_demo(args),
        Some(Command::Migrate(args)) => runtime(1).block_on(migrate::run(args)).map_err(|error| error.to_string()),
        None => run_pooler(&cli.run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FATAL {error}");
            ExitCode::from(1)
        }
    }
}

fn runtime(workers: u32) -> tokio::runtime::Runtime {
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

fn run_pooler(args: &RunArgs) -> Result<(), String> {
    let Some(path) = &args.config else {
        return Err("need a configuration file\nHINT: sluice [options] FILE; see sluice --help".to_owned());
    };
    let config = app::load(path).map_err(|error| error.to_string())?;
    let file = Some(config.settings.logfile.as_path()).filter(|path| !path.as_os_str().is_empty());
    let destination = logging::Destination { stderr: !args.quiet, file };
    let log = logging::start(&destination, config.settings.verbose, args.verbose.into())
        .map_err(|error| format!("cannot open logfile: {error}"))?;
    let pid = PidFile::create(&config.settings.pidfile)?;
    let workers = workers(&config);
    let result = runtime(workers).block_on(async {
        let app = app::build(config).await.map_err(|error| error.to_string())?;
        app.follow_log_settings(log);
        tokio::spawn(signals(app.clone()));
        serve::serve(app, Box::pin(std::future::pending())).await.map_err(|error| error.to_string())
    });
    drop(pid);
    result
}

fn run_demo(args: DemoArgs) -> Result<(), String> {
    let pooler = |ini: PathBuf, shutdown: demo::Shutdown| async move {
        let config = app::load(&ini)?;
        let logfile = config.settings.logfile.clone();
        let file = Some(logfile.as_path()).filter(|path| !path.as_os_str().is_empty());
        logging::start(&logging::Destination { stderr: false, file }, 0, 0)?;
        let app = app::build(config).await?;
        serve::serve(app, shutdown).await?;
        Ok(())
    };
    runtime(1).block_on(demo::run(args, pooler)).map_err(|error| error.to_string())
}

/// PgBouncer's signals.
async fn signals(app: Arc<App>) {
    let listen = |kind| signal(kind).expect("signal handlers can be installed");
    let mut hup = listen(SignalKind::hangup());
    let mut term = listen(SignalKind::terminate());
    let mut int = listen(SignalKind::interrupt());
    let mut quit = listen(SignalKind::quit());
    let mut usr1 = listen(SignalKind::user_defined1());
    let mut usr2 = listen(SignalKind::user_defined2());
    loop {
        tokio::select! {
            _ = hup.recv() => {
                tracing::info!("got SIGHUP, re-reading config");
                if let Err(error) = app.reload().await {
                    tracing::error!("{error}; the old configuration stays in force");
                }
            }
            _ = term.recv() => {
                tracing::info!("got SIGTERM, shutting down, waiting for all clients disconnect");
                app.shut_down(ShutdownMode::WaitForClients);
            }
            _ = int.recv() => {
                tracing::info!("got SIGINT, shutting down, waiting for all servers connections to be released");
                app.shut_down(ShutdownMode::WaitForServers);
            }
            _ = quit.recv() => {
                tracing::info!("got SIGQUIT, fast exit");
                app.shut_down(ShutdownMode::Immediate);
                app.shut_down(ShutdownMode::Immediate);
            }
            _ = usr1.recv() => {
                tracing::info!("got SIGUSR1, pausing all activity");
                app.pools.pause(None);
            }
            _ = usr2.recv() => {
                if app.is_shutting_down() {
                    tracing::info!("got SIGUSR2 while shutting down, ignoring");
                } else {
                    tracing::info!("got SIGUSR2, continuing from PAUSE");
                    app.pools.resume(None);
                }
            }
        }
    }
}

/// The pid file; removed at exit.
struct PidFile(Option<PathBuf>);

impl PidFile {
    fn create(path: &Path) -> Result<Self, String> {
        if path.as_os_str().is_empty() {
            return Ok(Self(None));
        }
        let shown = path.display();
        if path.exists() {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let stale = text.trim().parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
            if !stale {
                return Err(format!("pidfile '{shown}' exists, another instance running?"));
            }
            std::fs::remove_file(path).map_err(|error| format!("cannot remove stale pidfile '{shown}': {error}"))?;
        }
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create_new(path)?;
            std::io::Write::write_all(&mut file, format!("{}\n", std::process::id()).as_bytes())
        };
        write().map_err(|error| format!("cannot write pidfile '{shown}': {error}"))?;
        Ok(Self(Some(path.to_owned())))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}
