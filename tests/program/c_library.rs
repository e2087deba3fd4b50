//! Shared libraries in C that tests load into the program.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles a source of this folder to `library`; reports a skip and returns `None` without a C compiler. The library appears
/// whole, by renaming, because a test that runs in a process of its own builds it again while others load it.
pub fn compile(source: &str, library: PathBuf) -> Option<PathBuf> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_string());
    let unfinished = library.with_extension(format!("{}.so", std::process::id()));
    let output = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&unfinished)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program").join(source))
        .arg("-ldl")
        .output();
    match output {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            std::fs::rename(unfinished, &library).unwrap();
            Some(library)
        }
        Err(error) => {
            println!("skipped: no C compiler {compiler}: {error}");
            None
        }
    }
}
