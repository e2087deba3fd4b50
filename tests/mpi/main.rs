//! Trainings by `mpirun`, with the feature `mpi`: `cargo test --features mpi --test mpi`. What ranks exchange is tested with
//! threads too (`tests/backends/ranks.rs`), without MPI.
//!
//! Without `mpirun`, these tests report a skip.

#[path = "../program/c_library.rs"]
mod c_library;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/mod.rs"]
mod support;

mod nccl;
mod trainings;

use std::path::PathBuf;
use std::process::{Command, Output};

/// The program.
fn scenerank() -> PathBuf {
    assert_cmd::cargo::cargo_bin("scenerank")
}

/// Begins an `mpirun`; `None`, with a report, if there is none. More ranks than processors, and ranks of the user root, are
/// allowed.
fn mpirun() -> Option<Command> {
    if Command::new("mpirun").arg("--version").output().is_err() {
        println!("skipped: no mpirun");
        return None;
    }
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--allow-run-as-root"]);
    // One thread for each rank: tests share few processors.
    command.env("RAYON_NUM_THREADS", "1").env("OMPI_MCA_mpi_yield_when_idle", "1");
    Some(command)
}

/// Standard output and standard error.
fn texts(output: &Output) -> [String; 2] {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}
