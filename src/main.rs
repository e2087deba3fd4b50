//! The `scenerank` command. Exit codes: 0 success, 1 `bench` found a wrong kernel, 2 bad input (one line on
//! standard error says what and where), 130 stopped by Ctrl-C.

mod cli;

use std::io::Write;
use std::process::exit;

use clap::Parser;
use scenerank::Error;

/// Exit code of every error.
const FAILED: i32 = 2;

fn main() {
    if let Err(error) = cli::Cli::parse().run() {
        exit(fail(&error));
    }
}

/// Reports an error and returns the exit code. Standard error may be closed.
fn fail(error: &Error) -> i32 {
    let _ = writeln!(std::io::stderr(), "error: {error}");
    FAILED
}
