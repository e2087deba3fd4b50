//! The PTX that nvcc made of the kernels, interpreted. In a build without nvcc these tests report a skip;
//! `SCENERANK_PTX_DIR` then names a folder of PTX to test.
//!
//! These are the short tests. All tests of kernels run on the interpreter with `SCENERANK_TEST_DEVICE=ptx` (`docs/kernels.md`).

mod agreement;
mod planted;
mod time;

use scenerank::backend::cuda::device::interpreter::{self, Interpretation};

/// Architectures whose PTX there is, or reports a skip. `None` is the PTX of a folder.
fn architectures() -> Vec<Option<&'static str>> {
    if std::env::var_os(interpreter::FOLDER).is_some() {
        return vec![None];
    }
    let embedded = interpreter::architectures();
    if embedded.is_empty() {
        println!("skipped: this build found no nvcc, which makes the PTX");
    }
    embedded.into_iter().map(Some).collect()
}

/// Interpretation of the kernels of an architecture, compared with the emulator.
fn compared(architecture: Option<&str>) -> Interpretation {
    Interpretation {
        kernels: interpreter::kernels(architecture).expect("PTX, which was there before"),
        compare: true,
        seed: None,
        races: true,
        timing: None,
    }
}
