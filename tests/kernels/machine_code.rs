//! Properties of the machine code of the kernels, on every architecture that they were compiled for:
//! - no access to global memory precedes the wait for the launch ahead (`kernels/launch.cuh`);
//! - from sm_90 on, where launches overlap, nothing is loaded as constant data: such loads may return what the launch ahead
//!   has since overwritten;
//! - products run on the tensor cores, with asynchronous copies and matrix loads;
//! - no kernel uses a stack.
//!
//! The tests need kernels that nvcc has compiled, and the toolkit's disassemblers `cuobjdump` and `nvdisasm` in one folder
//! (`CUDA_HOME`, `PATH` or `/usr/local/cuda`).

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Names of a kernel's instructions, with all suffixes, on one architecture.
type Code = Vec<String>;

fn search_path() -> OsString {
    env::var_os("PATH").unwrap_or_default()
}

fn cuobjdump() -> Option<PathBuf> {
    let home = env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin"));
    let path = search_path();
    let folders =
        home.into_iter().chain(env::split_paths(&path)).chain([PathBuf::from("/usr/local/cuda/bin")]);
    folders.map(|folder| folder.join("cuobjdump")).find(|program| program.is_file())
}

/// Fat binaries in the build folder.
fn fat_binaries() -> Vec<PathBuf> {
    let files = fs::read_dir(env!("OUT_DIR"))
        .expect("the build's folder")
        .map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> =
        files.filter(|file| file.extension().is_some_and(|extension| extension == "fatbin")).collect();
    files.sort();
    files
}

/// Code of the kernels in a file, by architecture and name.
fn disassemble(cuobjdump: &Path, file: &Path) -> BTreeMap<(String, String), Code> {
    let folder = cuobjdump.parent().expect("a folder");
    let path = env::join_paths(
        [folder.to_path_buf()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    );
    let output = Command::new(cuobjdump).arg("-sass").arg(file).env("PATH", path.expect("a path")).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", cuobjdump.display()));
    assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    let (mut kernels, mut arch, mut kernel) = (BTreeMap::new(), String::new(), String::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix(".target") {
            arch = name.trim().to_string();
        } else if let Some(name) = line.strip_prefix("Function :") {
            kernel = name.trim().to_string();
        } else if let Some((_, text)) = line.strip_prefix("/*").and_then(|rest| rest.split_once("*/")) {
            // Lines are `@!P0 NAME operands ;`, or contain only the second half of the encoding.
            let mut words = text.split_whitespace().filter(|word| !word.starts_with('@'));
            if let Some(name) = words.next().filter(|name| !name.starts_with("/*")) {
                let code: &mut Code = kernels.entry((arch.clone(), kernel.clone())).or_default();
                code.push(name.trim_end_matches(';').to_string());
            }
        }
    }
    kernels
}

/// All kernels of all architectures. `None`, with a message, if there are none, or if there is no disassembler.
fn all_kernels() -> Option<BTreeMap<(String, String), Code>> {
    let files = fat_binaries();
    if files.is_empty() {
        println!("skipped: this build found no nvcc");
        return None;
    }
    let Some(cuobjdump) = cuobjdump() else {
        println!("skipped: no cuobjdump");
        return None;
    };
    let (next, all) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let kernels = disassemble(&cuobjdump, file);
                    assert!(!kernels.is_empty(), "{}: no kernels", file.display());
                    all.lock().expect("no thread panics with it").extend(kernels);
                }
            });
        }
    });
    Some(all.into_inner().expect("no thread panicked"))
}

/// Name of an instruction without its suffixes.
fn operation(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Whether an instruction accesses memory that other launches may access.
fn touches_memory(name: &str) -> bool {
    let names =
        ["LD", "LDG", "LDGSTS", "ST", "STG", "ATOM", "ATOMG", "RED", "REDG", "CCTL", "UBLKCP", "UTMALDG"];
    names.contains(&operation(name))
}

#[test]
fn kernels_are_compiled_as_they_are_meant() {
    let Some(kernels) = all_kernels() else { return };
    let (mut problems, mut waiting) = (Vec::new(), 0);
    for ((arch, kernel), code) in &kernels {
        let mut problem = |text: String| problems.push(format!("{kernel} on {arch}: {text}"));
        let position = |wanted: &str| code.iter().position(|name| operation(name) == wanted);
        let generation: u32 =
            arch.trim_start_matches("sm_").trim_end_matches('a').parse().expect("sm_NUMBER");
        // ACQBULK waits for the previous launch, and PREEXIT lets the next one start.
        match (generation >= 90, position("ACQBULK"), position("PREEXIT")) {
            (true, Some(wait), Some(let_go)) => {
                waiting += 1;
                if let Some(at) = code[..wait].iter().position(|name| touches_memory(name)) {
                    problem(format!("{} at {at}, before the wait at {wait}", code[at]));
                }
                if let_go < wait {
                    problem("lets the next launch come before it has waited".to_string());
                }
            }
            (true, wait, let_go) => problem(format!("waits at {wait:?} and lets go at {let_go:?}")),
            (false, None, None) => {}
            (false, ..) => problem("waits on a GPU that knows no such launches".to_string()),
        }
        let is_constant_load = |name: &&String| operation(name) == "LDG" && name.contains(".CONSTANT");
        if let Some(name) = code.iter().find(is_constant_load).filter(|_| generation >= 90) {
            problem(format!("{name}: constant data, by __ldg or a pointer that is const and __restrict__"));
        }
        if let Some(name) = code.iter().find(|name| ["LDL", "STL"].contains(&operation(name))) {
            problem(format!("{name}: a stack"));
        }
        if kernel.starts_with("linear_") && !kernel.contains("fp32") {
            for wanted in ["HMMA", "LDSM", "LDGSTS"] {
                if position(wanted).is_none() {
                    problem(format!("no {wanted}"));
                }
            }
        }
    }
    println!("{} kernels, of which {waiting} wait", kernels.len());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
