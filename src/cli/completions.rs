//! `scenerank completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use scenerank::Result;

/// Print the completion script of a shell.
#[derive(Args)]
#[command(after_help = "Example:
  scenerank completions bash \\
      > ~/.local/share/bash-completion/completions/scenerank")]
pub struct CompletionsArguments {
    /// Shell to complete for.
    shell: Shell,
}

impl CompletionsArguments {
    pub fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Cli::command(), "scenerank", &mut script);
        print!("{}", String::from_utf8_lossy(&script));
        Ok(())
    }
}
