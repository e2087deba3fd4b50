//! What `scenerank --version` prints: the commit, and what of the CPU, CUDA and the emulator this program uses.

use std::env::consts::ARCH;
use std::sync::LazyLock;

use scenerank_matmul::Amx;

/// The long version, after the program's name.
pub fn long_version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "{}\ncommit:   {}\nCPU:      {ARCH}, {}\nCUDA:     {}\nemulator: {}{}",
            env!("CARGO_PKG_VERSION"),
            env!("SCENERANK_COMMIT"),
            [vector_features(), matrix_features()].concat(),
            env!("SCENERANK_CUDA"),
            emulator(),
            if cfg!(feature = "mpi") { "\nMPI:      compiled in" } else { "" },
        )
    });
    &TEXT
}

/// Whether this program emulates kernels, or why not.
fn emulator() -> &'static str {
    match (cfg!(emulator), cfg!(installed)) {
        (true, _) => "compiled in",
        (false, true) => "not compiled in: the program is for installation",
        (false, false) => "not compiled in: the build found no C++ compiler",
    }
}

/// What multiplies in bf16 on this machine, if anything does.
fn matrix_features() -> &'static str {
    if Amx::new().is_some() { "; AMX for bf16" } else { "" }
}

/// The instruction set that the loops of the CPU backend are dispatched to on this machine.
fn vector_features() -> &'static str {
    match pulp::Arch::new() {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        pulp::Arch::V4(_) => "AVX-512 (x86-64-v4), detected at run time",
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        pulp::Arch::V3(_) => "AVX2 and FMA (x86-64-v3), detected at run time",
        #[cfg(target_arch = "aarch64")]
        pulp::Arch::Neon(_) => "NEON, detected at run time",
        _ => "no vector features beyond the target's",
    }
}
