//! The command line: one file per command, each holding its arguments and what it prints.

mod inspect;
mod prepare;

use clap::{Parser, Subcommand};
use scenerank::Result;

#[derive(Parser)]
#[command(name = "scenerank", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// More log messages: -v for debug, -vv for trace; RUST_LOG overrides.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    Prepare(prepare::PrepareArguments),
    Inspect(inspect::InspectArguments),
}

impl Cli {
    pub fn run(self) -> Result<()> {
        start_log(self.verbose);
        match self.command {
            Command::Prepare(arguments) => arguments.run(),
            Command::Inspect(arguments) => arguments.run(),
        }
    }
}

/// Log lines go to standard error, so that `--json` on standard output stays clean.
fn start_log(verbose: u8) {
    let default = ["scenerank=info", "scenerank=debug", "scenerank=trace"][usize::from(verbose.min(2))];
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .without_time()
        .with_writer(std::io::stderr)
        .init();
}
