//! The `scenerank` command. Exit codes: 0 done, 1 `bench` found a kernel that is wrong, 2 bad input (one line on
//! standard error says what and where), 130 stopped by Ctrl-C.

mod cli;

use std::io::Write;
use std::process::exit;

use clap::Parser;
use scenerank::Error;

/// The exit code of every error.
const FAILED: i32 = 2;

fn main() {
    if let Err(error) = cli::Cli::parse().run() {
        exit(fail(&error));
    }
}

/// Says what went wrong; the exit code. Nobody may be listening.
fn fail(error: &Error) -> i32 {
    let _ = writeln!(std::io::stderr(), "error: {error}");
    FAILED
}
