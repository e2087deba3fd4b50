//! The `scenerank` command. Exit codes: 0 success, 1 `bench` found a wrong kernel, 2 bad input (one line on
//! standard error says what and where), 3 a kernel of `bench` is slower than its baseline or the run of `reproduce --only` diverged,
//! 130 stopped by Ctrl-C.

mod cli;

use std::env;
use std::io::Write;
use std::process::exit;

use anstream::ColorChoice;
use clap::Parser;
use scenerank::Error;
use scenerank::files::mapped_file::{claim_last_line, report_lost_pages};
use scenerank::ranks;
use scenerank::terminal::{cut, visible};

/// Exit code of every error.
const FAILED: i32 = 2;

fn main() {
    no_colours_on_a_dumb_terminal();
    report_lost_pages();
    let cli = cli::Cli::try_parse().unwrap_or_else(|error| refuse(&error));
    if let Err(error) = cli.run() {
        ranks::exit(fail(&error), true);
    }
}

/// Longest argument that is shown in a message.
const MOST_ARGUMENT: usize = 100;

/// Ends the program after an error of the argument parser, or after help and version. Arguments in the message are cut, and their
/// control characters are made visible.
fn refuse(error: &clap::Error) -> ! {
    if !error.use_stderr() {
        error.exit();
    }
    let mut text = error.render().ansi().to_string();
    for argument in env::args_os().skip(1) {
        let argument = argument.to_string_lossy();
        let value = argument.split_once('=').map_or("", |(_, value)| value);
        for part in [&argument, value] {
            let shown = cut(&visible(part), MOST_ARGUMENT);
            if shown != part {
                text = text.replace(part, &shown);
            }
        }
    }
    let _ = write!(anstream::stderr(), "{text}");
    exit(FAILED);
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
    while !claim_last_line() {
        std::thread::park(); // another thread reports a lost page, and ends the program
    }
    let _ = writeln!(std::io::stderr(), "error: {error}");
    FAILED
}
