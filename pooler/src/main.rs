//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sluice::demo::{self, DemoArgs};
use sluice::listener::{Inherited, Listeners};
use sluice::process::{self, RunArgs, runtime};
use sluice::{app, console, logging, migrate, serve};

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
        None => process::run(&cli.run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FATAL {error}");
            ExitCode::from(1)
        }
    }
}

fn run_demo(args: DemoArgs) -> Result<(), String> {
    let pooler = |ini: PathBuf, shutdown: demo::Shutdown| async move {
        let config = app::load(&ini)?;
        logging::start(&config.settings, false, 0)?;
        let app = app::build(config).await?;
        let listeners = Listeners::bind(&app.config(), Inherited::None)?;
        serve::serve(app, listeners, shutdown).await?;
        Ok(())
    };
    runtime(1).block_on(demo::run(args, pooler)).map_err(|error| error.to_string())
}
