//! `sluice demo`: a throw-away fleet with sample data, and the pooler in front of it, by one command.
//!
//! Read in this order: [`programs`] (PostgreSQL's programs, and who runs them), [`directory`] and [`guard`] (what the demo
//! leaves behind: nothing), [`fleet`] (the servers), [`sample`] (the data, computed), [`sharding`] and [`load`] (migrations,
//! the shard map, the rows), [`settings`] (sluice.ini), [`banner`] and [`status`] (what is shown).
//!
//! The pooler itself is handed in by the caller: to the demo it is a function of a settings file and a shutdown signal.

mod banner;
mod directory;
mod error;
mod fleet;
mod guard;
mod load;
mod programs;
mod progress;
mod sample;
mod settings;
mod sharding;
mod status;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

pub use error::DemoError;

use banner::Banner;
use directory::DemoDirectory;
use fleet::Fleet;
use load::Summary;
use programs::Programs;
use progress::Progress;
use settings::Endpoints;

/// How long the pooler's clients may take to finish after Ctrl-C. A second Ctrl-C cuts it short.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of `sluice demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Keep servers' data and passwords in this directory, and start from it the next time
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,

    /// Port of the pooler; if it is taken, the next free one is used
    #[arg(long, default_value_t = 6432)]
    pub port: u16,

    /// Size of the data set: 1 is 400 organizations with 20,000 members
    #[arg(long, default_value_t = 1.0)]
    pub scale: f64,

    /// Start no streaming replica
    #[arg(long)]
    pub no_replica: bool,
}

/// Resolves when the pooler is to shut down.
pub type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;
/// What the pooler may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Runs the demo until Ctrl-C, SIGTERM or SIGHUP. `serve` runs the pooler with a settings file until its shutdown
/// resolves. Servers are stopped, and a temporary directory is removed, however this ends.
pub async fn run<F>(args: DemoArgs, serve: impl FnOnce(PathBuf, Shutdown) -> F) -> Result<(), DemoError>
where
    F: Future<Output = Result<(), BoxError>>,
{
    let progress = Progress::start();
    let mut signals = Signals::listen()?;
    let demo = tokio::select! {
        ready = prepare(&args, &progress) => ready.inspect_err(|_| progress.clear())?,
        () = signals.next() => {
            progress.note("interrupted; the servers are stopped");
            return Ok(());
        }
    };
    let ended = demo.serve(serve, &mut signals, &progress).await;
    demo.end(&progress);
    ended
}

/// Everything but the pooler.
#[derive(Debug)]
struct Demo {
    directory: DemoDirectory,
    fleet: Fleet,
    postgresql: String,
    replica_port: Option<u16>,
    endpoints: Endpoints,
    summary: Summary,
    ini: PathBuf,
}

async fn prepare(args: &DemoArgs, progress: &Progress) -> Result<Demo, DemoError> {
    if !(0.01..=100.0).contains(&args.scale) {
        return Err(DemoError::Scale(args.scale));
    }
    let programs = Programs::find()?;
    progress.note(&describe(&programs));
    let mut directory = DemoDirectory::open(&programs, args.keep.as_deref(), args.scale)?;
    progress.update("starting the cluster");
    let fleet = Fleet::start(&programs, &directory).await?;
    progress.note(&format!("started the cluster in {} on port {}", directory.path().display(), fleet.port()));
    let replica_port = fill_and_copy(args, &fleet, &mut directory, progress).await?;
    let port = settings::choose_port(args.port)?;
    if port != args.port {
        progress.note(&format!("port {} is taken: the pooler listens on {port}", args.port));
    }
    let endpoints = Endpoints::new(port, &directory);
    let ini = settings::write(&directory, &fleet, &endpoints)?;
    let summary = Summary::of_scale(directory.state().scale);
    Ok(Demo { directory, fleet, postgresql: programs.version().to_owned(), replica_port, endpoints, summary, ini })
}

/// Loads the data if it isn't there yet; the replica is made meanwhile.
async fn fill_and_copy(
    args: &DemoArgs,
    fleet: &Fleet,
    directory: &mut DemoDirectory,
    progress: &Progress,
) -> Result<Option<u16>, DemoError> {
    let state = directory.state().clone();
    let filled = async {
        if state.loaded {
            if state.scale != args.scale {
                progress.note(&format!(
                    "the kept data is of scale {}: --scale changes it only in a new directory",
                    state.scale
                ));
            }
            sharding::move_node(fleet).await
        } else {
            load::fill(fleet, &state, progress).await
        }
    };
    let copied = async {
        if args.no_replica {
            return Ok(None);
        }
        let port = fleet.start_replica(directory).await?;
        progress.note(&format!("started a streaming replica on port {port}"));
        Ok(Some(port))
    };
    let ((), replica_port) = tokio::try_join!(filled, copied)?;
    if directory.is_kept() && !state.loaded {
        fleet.make_durable(directory).await?;
        progress.note(&format!("wrote everything to disk in {}", directory.path().display()));
    }
    directory.mark_loaded()?;
    Ok(replica_port)
}

impl Demo {
    /// Runs the pooler, and shows what it does, until a signal comes or it fails.
    async fn serve<F>(
        &self,
        serve: impl FnOnce(PathBuf, Shutdown) -> F,
        signals: &mut Signals,
        progress: &Progress,
    ) -> Result<(), DemoError>
    where
        F: Future<Output = Result<(), BoxError>>,
    {
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = Box::pin(async {
            // An error is the sender's end, which means the same.
            let _ = stopped.await;
        });
        let mut pooler = pin!(serve(self.ini.clone(), shutdown));
        tokio::select! {
            ended = &mut pooler => return ended.map_err(DemoError::Pooler),
            shown = self.show(progress) => shown?,
            () = signals.next() => {}
        }
        progress.clear();
        drop(stop);
        tokio::select! {
            ended = tokio::time::timeout(SHUTDOWN_TIMEOUT, pooler) => ended.unwrap_or(Ok(())).map_err(DemoError::Pooler),
            () = signals.next() => Ok(()),
        }
    }

    /// Prints the banner once the pooler answers, then keeps the status line moving. Only an error ends it.
    async fn show(&self, progress: &Progress) -> Result<(), DemoError> {
        let console = status::connect(&self.endpoints.console_url).await?;
        let banner = Banner {
            took: progress.elapsed(),
            postgresql: &self.postgresql,
            primary_port: self.fleet.port(),
            replica_port: self.replica_port,
            directory: self.directory.path(),
            endpoints: &self.endpoints,
            summary: &self.summary,
        };
        progress.clear();
        print!("{banner}");
        status::show(&console, progress).await;
        // The console was closed (KILL, SHUTDOWN): the pooler's own end, or a signal, ends the demo.
        std::future::pending().await
    }

    /// Stops the servers, and says what is left.
    fn end(self, progress: &Progress) {
        progress.update("stopping the servers");
        let (path, kept) = (self.directory.path().to_owned(), self.directory.is_kept());
        drop(self);
        progress.note(&farewell(&path, kept));
    }
}

fn describe(programs: &Programs) -> String {
    let user = programs.user().map(|user| format!(", run as user \"{user}\"")).unwrap_or_default();
    format!("found PostgreSQL {} in {}{user}", programs.version(), programs.bindir().display())
}

fn farewell(directory: &Path, kept: bool) -> String {
    if kept {
        format!("stopped; `sluice demo --keep {}` goes on with this data", directory.display())
    } else {
        format!("stopped, and removed {}", directory.display())
    }
}

/// The signals that end the demo.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, DemoError> {
        let listen = |kind| signal(kind).map_err(DemoError::io("cannot listen for signals"));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
