//! The C++ compiler that tests call.

use std::process::Command;

/// Begins a call of the C++ compiler. `CXX` may name a wrapper too, as in `ccache g++`. Without a compiler that runs,
/// reports a skip and returns `None`.
pub fn compiler() -> Option<Command> {
    let named = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
    let command = || {
        let mut words = named.split_whitespace();
        let mut command = Command::new(words.next()?);
        command.args(words);
        Some(command)
    };
    if command()?.arg("--version").output().is_ok_and(|output| output.status.success()) {
        return command();
    }
    println!("skipped: no C++ compiler {named}");
    None
}
