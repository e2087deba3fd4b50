//! The `scenerank` command. Exit codes: 0 success, 1 `bench` found a wrong kernel, 2 bad input (one line on
//! standard error says what and where), 130 stopped by Ctrl-C.

mod cli;

use std::env;
use std::io::Write;
use std::process::exit;

use anstream::ColorChoice;
use clap::Parser;
use scenerank::Error;
use scenerank::files::mapped_file::report_lost_pages;

/// Exit code of every error.
const FAILED: i32 = 2;

fn main() {
    no_colours_on_a_dumb_terminal();
    report_lost_pages();
    if let Err(error) = cli::Cli::parse().run() {
        exit(fail(&error));
    }
}

/// Turns colours off if `TERM` is `dumb`. By its own rules `anstream` would colour there if `CI` is set, since the logs of
/// hosted CI show colours.
fn no_colours_on_a_dumb_terminal() {
    let forced = env::var_os("CLICOLOR_FORCE").is_some_and(|value| value != "0");
    if !forced && env::var_os("TERM").is_some_and(|term| term == "dumb") {
        ColorChoice::Never.write_global();
    }
}

/// Reports an error and returns the exit code. Standard error may be closed.
fn fail(error: &Error) -> i32 {
    let _ = writeln!(std::io::stderr(), "error: {error}");
    FAILED
}
