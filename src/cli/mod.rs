//! Command line: one file per command, with its arguments and its output.

/// Shadows the standard `print!`: see [`output`].
macro_rules! print {
    ($($words:tt)*) => { crate::cli::output(format_args!($($words)*)) };
}

/// Shadows the standard `println!`: see [`output`].
macro_rules! println {
    ($($words:tt)*) => { crate::cli::output(format_args!("{}\n", format_args!($($words)*))) };
}

/// Shadows the standard `eprintln!`: see [`note`].
macro_rules! eprintln {
    ($($words:tt)*) => { crate::cli::note(format_args!($($words)*)) };
}

mod bench;
mod compare;
mod completions;
mod demo;
mod embed;
mod evaluate;
mod explore;
mod graph_file;
mod inspect;
mod interrupt;
mod prepare;
mod reproduce;
mod retrieve;
mod run_arguments;
mod search;
mod step;
mod synth;
mod train;
mod version;

use std::fmt;
use std::io::{self, Write};

use anstream::{AutoStream, ColorChoice};
use clap::{Args, Parser, Subcommand};
use scenerank::backend::device::{Arithmetic, Device, Precision};
use scenerank::backend::kernels::Kernels;
use scenerank::progress::log_writer;
use scenerank::terminal::visible_lines;
use scenerank::{Error, Result};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

#[derive(Parser)]
#[command(name = "scenerank", version, long_version = version::long_version(), about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print more log messages: -v for debug, -vv for trace. RUST_LOG overrides this.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Print no progress, and only warnings and errors. RUST_LOG overrides the latter.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::DemoArguments),
    Synth(synth::SynthArguments),
    Prepare(prepare::PrepareArguments),
    Inspect(inspect::InspectArguments),
    Train(Box<train::TrainArguments>),
    Evaluate(evaluate::EvaluateArguments),
    Retrieve(retrieve::RetrieveArguments),
    Compare(compare::CompareArguments),
    Reproduce(Box<reproduce::ReproduceArguments>),
    Embed(embed::EmbedArguments),
    Search(search::SearchArguments),
    Explore(explore::ExploreArguments),
    Step(step::StepArguments),
    Bench(bench::BenchArguments),
    Completions(completions::CompletionsArguments),
}

/// Device, number format and family of products.
#[derive(Args, Clone, Copy)]
pub struct DeviceArguments {
    /// Device to compute on: auto, cpu, reference, emulated, ptx, cuda or cuda:INDEX.
    #[arg(long, default_value_t)]
    device: Device,
    /// Number format of the computation.
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// Instructions of the products in bf16.
    #[arg(long, value_enum, default_value_t)]
    kernels: Kernels,
}

impl DeviceArguments {
    fn arithmetic(&self) -> Arithmetic {
        Arithmetic::new(self.precision, self.kernels)
    }
}

impl Cli {
    pub fn run(self) -> Result<()> {
        if self.quiet {
            scenerank::progress::hide();
        }
        start_log(self.verbose, self.quiet);
        // These three finish what they do first.
        let finishes =
            matches!(self.command, Command::Train(_) | Command::Reproduce(_) | Command::Explore(_));
        if !finishes {
            interrupt::on_interrupt(|| interrupt::quit())?;
        }
        match self.command {
            Command::Demo(arguments) => arguments.run(),
            Command::Synth(arguments) => arguments.run(),
            Command::Prepare(arguments) => arguments.run(),
            Command::Inspect(arguments) => arguments.run(),
            Command::Train(arguments) => arguments.run(),
            Command::Evaluate(arguments) => arguments.run(),
            Command::Retrieve(arguments) => arguments.run(),
            Command::Compare(arguments) => arguments.run(),
            Command::Reproduce(arguments) => arguments.run(),
            Command::Embed(arguments) => arguments.run(),
            Command::Search(arguments) => arguments.run(),
            Command::Explore(arguments) => arguments.run(),
            Command::Step(arguments) => arguments.run(),
            Command::Bench(arguments) => arguments.run(),
            Command::Completions(arguments) => arguments.run(),
        }
    }
}

/// Writes to standard output. If the reader closes it, as `head` does, the program ends quietly. Any other
/// failure, such as a full disk, is an error. The standard library's `print!` panics in both cases. Control characters, which
/// names and captions may have, are made visible.
fn output(words: fmt::Arguments<'_>) {
    let words = words.to_string();
    let mut output = io::stdout();
    match output.write_all(visible_lines(&words).as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => std::process::exit(crate::fail(&Error::file("write", "standard output")(error))),
    }
}

/// Writes a line to standard error, which may be closed. Control characters are made visible.
fn note(words: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{}", visible_lines(&words.to_string()));
}

/// Starts logging to standard error, so that standard output contains only results such as `--json`.
fn start_log(verbose: u8, quiet: bool) {
    let default = match (quiet, verbose) {
        (true, _) => "scenerank=warn",
        (false, 0) => "scenerank=info",
        (false, 1) => "scenerank=debug",
        (false, _) => "scenerank=trace",
    };
    let wanted = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
    let filter: Targets = wanted.unwrap_or_else(|| default.parse().expect("a level"));
    let lines = tracing_subscriber::fmt::layer()
        // Honours NO_COLOR, CLICOLOR, CLICOLOR_FORCE and TERM=dumb.
        .with_ansi(AutoStream::choice(&std::io::stderr()) != ColorChoice::Never)
        .with_target(false)
        .without_time()
        .with_writer(log_writer)
        // Reporting that standard error cannot be written would write to standard error, and panic.
        .log_internal_errors(false);
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}
