//! Compiles the kernels: as C++ against the emulator if there is a C++ compiler, and as fat binaries for GPUs
//! if there is nvcc. The PTX among them is also kept for the interpreter. The crate also builds without either compiler; a
//! warning then says what is missing. A program for installation has neither emulator nor PTX.
//!
//! Read from the environment: `SCENERANK_SANITIZE=1` (the emulated kernels with AddressSanitizer and UBSan; see
//! `scripts/sanitize.sh`), `SCENERANK_CUDA_ARCHS` (such as `80,90a`: machine code for these, PTX for the first; `none`:
//! nvcc is not used),
//! `SCENERANK_DENY_SPILLS=1` (a kernel that spills registers ends the build), `SCENERANK_CHECK_ONLY=1` (no kernel is
//! compiled: enough for lints, which link nothing), and where nvcc may be: `NVCC`, `CUDA_HOME`, `CUDA_PATH`, `PATH`,
//! `VIRTUAL_ENV`.
//!
//! Set for `scenerank --version` and the bench: `SCENERANK_COMMIT`, `SCENERANK_CUDA` and `SCENERANK_RUSTC`. Set for errors
//! of the device: `SCENERANK_CUDA_TOOLKIT`, the toolkit's release.

#[path = "src/backend/cuda/launchers/linear/dynamic_shared.rs"]
mod dynamic_shared;
#[path = "src/bench/occupancy.rs"]
mod occupancy;

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use dynamic_shared::dynamic_shared_bytes;
use occupancy::Multiprocessor;

/// Default compute capabilities: A100, H100 and H200, B200, RTX 50. Other GPUs run the code of an older one,
/// or the PTX of the first.
const DEFAULT_ARCHS: &str = "80,90a,100,120";

/// Remarks of ptxas on products of warpgroups that do not run beside their threads, and on changes of registers that it
/// ignores. They end the build.
const SERIAL_PRODUCTS: [&str; 3] = ["(C7508)", "(C7510)", "(C7512)"];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let kernels = kernel_files();
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/bench/occupancy.rs");
    println!("cargo:rerun-if-changed=src/backend/cuda/launchers/linear/dynamic_shared.rs");
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-env-changed=SCENERANK_CHECK_ONLY");
    println!("cargo:rustc-check-cfg=cfg(emulator)");
    println!("cargo:rustc-check-cfg=cfg(installed)");
    println!("cargo:rustc-env=SCENERANK_COMMIT={}", commit());
    println!("cargo:rustc-env=SCENERANK_RUSTC={}", rustc());
    if asked("SCENERANK_CHECK_ONLY") {
        println!("cargo:rustc-cfg=emulator");
        record_cuda("none", "not compiled in: the build was for checks alone");
        write_no_binaries(&out);
        return;
    }
    if for_installation() {
        println!("cargo:rustc-cfg=installed");
    } else {
        build_emulator(&kernels, &out);
    }
    build_fat_binaries(&kernels, &out);
}

/// Whether the profile is `release`, or inherits it.
fn release_build() -> bool {
    env::var("PROFILE").is_ok_and(|profile| profile == "release")
}

/// Whether the program is for installation: a release build without line tables. The kernels' line tables, their PTX and the
/// emulator are for engineers. They would be almost half of such a program, and a fifth of the time to build it.
fn for_installation() -> bool {
    release_build() && env::var("DEBUG").is_ok_and(|debug| debug == "false")
}

/// `kernels/*.cu`, sorted.
fn kernel_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir("kernels")
        .expect("the folder kernels")
        .map(|entry| entry.expect("an entry of kernels").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    files.sort();
    files
}

fn stem(file: &Path) -> &str {
    file.file_stem().and_then(|stem| stem.to_str()).expect("a kernel file's name in ASCII")
}

// ---- emulator ------------------------------------------------------------------------------------------------------

/// Builds the runtime and kernels as one static library; sets `cfg(emulator)`.
fn build_emulator(kernels: &[PathBuf], out: &Path) {
    println!("cargo:rerun-if-env-changed=CXX");
    println!("cargo:rerun-if-env-changed=SCENERANK_SANITIZE");
    let mut build = cc::Build::new();
    // The speed of the kernels determines the duration of the tests, which use the dev profile. In the profile
    // `profiling` the emulator is only for trials, and compiling is faster. Contraction into fused multiply-adds
    // would make results depend on the machine. The runtime does not use the C++ standard library.
    let opt_level = if release_build() { "g" } else { "2" };
    build.cpp(true).std("c++17").opt_level_str(opt_level).include("kernels").cpp_link_stdlib(None);
    for flag in [
        "-fno-exceptions",
        "-fno-rtti",
        "-ffp-contract=off",
        // Kernels read four adjacent values as one word.
        "-fno-strict-aliasing",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-Wno-unknown-pragmas",
    ] {
        build.flag(flag);
    }
    if asked("SCENERANK_SANITIZE") {
        build.flag("-fsanitize=address,undefined").flag("-fno-sanitize-recover=undefined").flag("-g");
        // Adds redzones between the static shared arrays, which lie in a section of their own, if the
        // compiler supports it.
        build.flag_if_supported("-fsanitize-sections=emulator_shared");
        for library in ["asan", "ubsan"] {
            println!("cargo:rustc-link-lib=dylib={library}");
        }
    }
    let compiles = build.try_get_compiler().is_ok_and(|compiler| {
        Command::new(compiler.path()).arg("--version").output().is_ok_and(|output| output.status.success())
    });
    if !compiles {
        println!(
            "cargo:warning=the emulated device is off: no C++ compiler was found; install g++ or clang++ (or set \
             CXX) and build again"
        );
        return;
    }
    let tables = out.join("emulator_tables.cpp");
    let mut text = String::from("#include \"emulator/emulator.h\"\n");
    for file in kernels {
        let _ = writeln!(text, "extern \"C\" const emulator::Kernel emulator_kernels_{}[];", stem(file));
    }
    text.push_str("const emulator::Kernel *const emulator_tables[] = {");
    for file in kernels {
        let _ = write!(text, "emulator_kernels_{}, ", stem(file));
    }
    text.push_str("nullptr};\n");
    write_if_changed(&tables, &text);
    build.file(&tables);
    for file in ["emulator", "fiber", "tensor_core", "warpgroup"] {
        build.file(format!("kernels/emulator/{file}.cpp"));
    }
    // The compiler is told the language, because it may treat the extension .cu as CUDA or not know it.
    build.flag("-x").flag("c++").files(kernels);
    build.compile("scenerank_emulator");
    println!("cargo:rustc-cfg=emulator");
}

// ---- fat binaries --------------------------------------------------------------------------------------------------

/// Builds one fat binary per kernel file, embedded by `fat_binaries.rs`: `[(file, bytes)]`, empty without
/// nvcc.
fn build_fat_binaries(kernels: &[PathBuf], out: &Path) {
    for name in [
        "NVCC",
        "CUDA_HOME",
        "CUDA_PATH",
        "PATH",
        "VIRTUAL_ENV",
        "SCENERANK_CUDA_ARCHS",
        "SCENERANK_DENY_SPILLS",
    ] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let archs = env::var("SCENERANK_CUDA_ARCHS").unwrap_or_else(|_| DEFAULT_ARCHS.to_string());
    if asked("SCENERANK_SANITIZE") || archs == "none" {
        // Such a build is only for the emulator.
        write_no_binaries(out);
        record_cuda("none", "not compiled in: the build was for the emulator alone");
        return;
    }
    let Some(nvcc) = find_nvcc() else {
        write_no_binaries(out);
        record_cuda("none", "not compiled in: the build found no nvcc");
        println!(
            "cargo:warning=CUDA is off: no nvcc in NVCC, CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda or the active \
             venv; install the CUDA toolkit (12.8 or later) and build again"
        );
        return;
    };
    let release = toolkit(&nvcc);
    record_cuda(&release, &format!("toolkit {release}; architectures {archs}, and PTX of the first"));
    let inputs = shared_inputs(&nvcc);
    let compiler = Nvcc { flags: nvcc_flags(&archs), ptx: interpreted(&archs), inputs, path: nvcc, out };

    // Compiles several files at a time: each nvcc runs its processes sequentially.
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1usize).clamp(1, 8);
    let (next, logs) = (AtomicUsize::new(0), Mutex::new(vec![String::new(); kernels.len()]));
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(kernels.len()) {
            scope.spawn(|| {
                while let Some((i, file)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    kernels.get(i).map(|file| (i, file))
                } {
                    let log = compiler.compile(file);
                    logs.lock().expect("no thread panics with it")[i] = log;
                }
            });
        }
    });
    let logs = logs.into_inner().expect("no thread panics with it").concat();

    let mut text = String::from("[\n");
    for file in kernels {
        let binary = out.join(format!("{}.fatbin", stem(file)));
        let _ = writeln!(text, "    ({:?}, include_bytes!({:?}).as_slice()),", stem(file), binary);
    }
    text.push(']');
    write_if_changed(&out.join("fat_binaries.rs"), &text);
    write_if_changed(&out.join("ptx.rs"), &ptx_list(kernels, &archs, out));
    report_resources(&logs, out);
}

/// Writes the files that the crate includes, for a build without nvcc.
fn write_no_binaries(out: &Path) {
    for (name, text) in [("fat_binaries.rs", "[]"), ("ptx.rs", "[]"), ("kernel_resources.csv", "")] {
        write_if_changed(&out.join(name), text);
    }
}

struct Nvcc<'a> {
    path: PathBuf,
    flags: Vec<String>,
    /// Architectures whose PTX is kept for the interpreter.
    ptx: Vec<String>,
    /// Hash of the inputs shared by all files: headers and nvcc's version.
    inputs: u64,
    out: &'a Path,
}

impl Nvcc<'_> {
    /// Compiles one file unless it and its dependencies are unchanged; returns ptxas's log, and the threads
    /// of each kernel.
    fn compile(&self, file: &Path) -> String {
        let mut hasher = DefaultHasher::new();
        (self.inputs, &self.flags, &self.ptx, read(file)).hash(&mut hasher);
        let stamp = format!("{:016x}\n", hasher.finish());
        let binary = self.out.join(format!("{}.fatbin", stem(file)));
        let log = self.out.join(format!("{}.ptxas", stem(file)));
        if binary.exists() && fs::read_to_string(&log).is_ok_and(|log| log.starts_with(&stamp)) {
            return read(&log);
        }
        let intermediate = self.out.join(format!("{}.nvcc", stem(file)));
        fs::create_dir_all(&intermediate)
            .unwrap_or_else(|error| panic!("{}: {error}", intermediate.display()));
        let output = Command::new(&self.path)
            .args(&self.flags)
            .arg("--keep-dir")
            .arg(&intermediate)
            .arg("-o")
            .arg(&binary)
            .arg(file)
            .output()
            .unwrap_or_else(|error| panic!("{}: cannot run: {error}", self.path.display()));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            panic!("{}: {}\n{said}", file.display(), String::from_utf8_lossy(&output.stdout));
        }
        let text = stamp + &said + &block_threads(&intermediate);
        self.keep_ptx(&intermediate, stem(file));
        // Removes megabytes of intermediate files that are no longer needed.
        let _ = fs::remove_dir_all(&intermediate);
        fs::write(&log, &text).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        text
    }

    /// Keeps the PTX among nvcc's intermediate files that the interpreter runs. The compression is gzip's, which leaves an
    /// eighth; without gzip the text stays as it is.
    fn keep_ptx(&self, intermediate: &Path, stem: &str) {
        for file in ptx_files(intermediate) {
            let text = read(&file);
            let target =
                text.lines().find_map(|line| line.strip_prefix(".target sm_")).unwrap_or_default().trim();
            if self.ptx.iter().any(|arch| arch == target) {
                let kept = self.out.join(format!("{stem}.{target}.ptx"));
                let output = Command::new("gzip").args(["-9", "-n", "-c"]).arg(&file).output();
                let compressed = output.ok().filter(|output| output.status.success());
                fs::write(&kept, compressed.map_or(text.clone().into_bytes(), |output| output.stdout))
                    .unwrap_or_else(|error| panic!("{}: {error}", kept.display()));
            }
        }
    }
}

/// Architectures whose PTX the interpreter runs: with and without overlapping launches, or the first one. A program for
/// installation has none.
fn interpreted(archs: &str) -> Vec<String> {
    if for_installation() {
        return Vec::new();
    }
    let archs: Vec<&str> = archs.split(',').map(str::trim).filter(|arch| !arch.is_empty()).collect();
    let known: Vec<String> =
        ["80", "90", "90a"].iter().filter(|arch| archs.contains(arch)).map(|arch| arch.to_string()).collect();
    if known.is_empty() { archs.first().map(|arch| arch.to_string()).into_iter().collect() } else { known }
}

/// The list that `src/backend/cuda/device/interpreter/sources.rs` includes.
fn ptx_list(kernels: &[PathBuf], archs: &str, out: &Path) -> String {
    let mut text = String::from("[\n");
    for arch in interpreted(archs) {
        let _ = writeln!(text, "    Embedded {{ architecture: {arch:?}, files: &[");
        for file in kernels {
            let ptx = out.join(format!("{}.{arch}.ptx", stem(file)));
            let _ = writeln!(text, "        ({:?}, include_bytes!({ptx:?}).as_slice()),", stem(file));
        }
        text.push_str("    ] },\n");
    }
    text.push(']');
    text
}

/// PTX files in a folder of nvcc's intermediate files.
fn ptx_files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files
        .map(|entry| entry.expect("an entry of nvcc's folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ptx"))
        .collect()
}

/// Lists `threads of 'KERNEL' for 'ARCHITECTURE': COUNT` for each kernel in the PTX: its `__launch_bounds__`,
/// which its launcher uses as the block size.
fn block_threads(folder: &Path) -> String {
    let mut lines = String::new();
    for file in ptx_files(folder) {
        let (text, mut arch, mut kernel) = (read(&file), String::new(), String::new());
        for line in text.lines() {
            if let Some(name) = line.strip_prefix(".target ") {
                arch = name.trim().to_string();
            } else if let Some((_, name)) = line.split_once(".entry ") {
                kernel = name.trim_end_matches('(').to_string();
            } else if let Some(sides) = line.strip_prefix(".maxntid ") {
                let threads =
                    sides.split(',').filter_map(|side| side.trim().parse::<u64>().ok()).product::<u64>();
                let _ = writeln!(lines, "threads of '{kernel}' for '{arch}': {threads}");
            }
        }
    }
    lines
}

fn nvcc_flags(archs: &str) -> Vec<String> {
    let mut flags: Vec<String> =
        ["-fatbin", "-std=c++17", "-O3", "-Xptxas=-v", "--keep", "-Ikernels"].map(String::from).to_vec();
    if !for_installation() {
        flags.push("-lineinfo".to_string());
    }
    // The smallest code takes a quarter of nvcc's time and is a fifth in size, so it is for programs that are installed.
    // Drivers before CUDA 12.4 cannot unpack it (src/backend/cuda/device/requirements.rs).
    let mode = if release_build() { "size" } else { "balance" };
    flags.push(format!("--compress-mode={mode}"));
    let archs: Vec<&str> = archs.split(',').map(str::trim).filter(|arch| !arch.is_empty()).collect();
    if archs.is_empty() {
        panic!("SCENERANK_CUDA_ARCHS names no architecture; give some such as {DEFAULT_ARCHS}");
    }
    for arch in &archs {
        flags.push(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    let first = archs[0];
    flags.push(format!("-gencode=arch=compute_{first},code=compute_{first}"));
    flags
}

fn shared_inputs(nvcc: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let version =
        Command::new(nvcc).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    version.hash(&mut hasher);
    let mut headers: Vec<PathBuf> = fs::read_dir("kernels")
        .expect("the folder kernels")
        .map(|entry| entry.expect("an entry of kernels").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cuh"))
        .collect();
    headers.sort();
    for header in headers {
        read(&header).hash(&mut hasher);
    }
    hasher.finish()
}

/// The release that nvcc names, such as `13.0`.
fn toolkit(nvcc: &Path) -> String {
    let output = Command::new(nvcc).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let release = text.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    release.unwrap_or("of unknown release").trim().to_string()
}

fn find_nvcc() -> Option<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut places: Vec<PathBuf> = variable("NVCC").into_iter().collect();
    places
        .extend(["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|name| Some(variable(name)?.join("bin/nvcc"))));
    places
        .extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join("nvcc")));
    places.push("/usr/local/cuda/bin/nvcc".into());
    let libraries = variable("VIRTUAL_ENV").and_then(|venv| fs::read_dir(venv.join("lib")).ok());
    for python in libraries.into_iter().flatten().flatten() {
        places.push(python.path().join("site-packages/nvidia/cu13/bin/nvcc"));
    }
    places.into_iter().find(|place| place.is_file())
}

/// Writes registers, shared memory, stack and spills of every kernel and architecture from ptxas's logs, with
/// its threads and its occupancy, to `kernel_resources.csv`, here and in the profile's folder.
fn report_resources(logs: &str, out: &Path) {
    let quoted = |line: &str, at: usize| line.split('\'').nth(at).unwrap_or_default().to_string();
    let threads: HashMap<(String, String), u64> = logs
        .lines()
        .filter(|line| line.starts_with("threads of '"))
        .filter_map(|line| Some(((quoted(line, 1), quoted(line, 3)), line.rsplit(' ').next()?.parse().ok()?)))
        .collect();
    let mut table = String::from(
        "kernel,architecture,registers,shared_bytes,stack_bytes,spill_bytes,threads,blocks,warps,limit\n",
    );
    let (mut kernel, mut arch, mut stack, mut spilt) = (String::new(), String::new(), 0u64, 0u64);
    let mut spilling = Vec::new();
    for line in logs.lines() {
        let number_before = |what: &str| {
            let before = line.find(what).map(|at| line[..at].trim_end())?;
            before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
        };
        if line.contains("Compiling entry function '") {
            (kernel, arch) = (quoted(line, 1), quoted(line, 3));
        } else if line.contains("bytes stack frame") {
            stack = number_before("bytes stack frame").unwrap_or(0);
            spilt = number_before("bytes spill stores").unwrap_or(0)
                + number_before("bytes spill loads").unwrap_or(0);
        } else if let Some(registers) = number_before("registers") {
            // The compiler only reports the static part.
            let shared = number_before("bytes smem").unwrap_or(0) + u64::from(dynamic_shared_bytes(&kernel));
            let threads = threads.get(&(kernel.clone(), arch.clone())).copied().unwrap_or_else(|| {
                panic!("{kernel}: give it __launch_bounds__, by which its occupancy is told")
            });
            let occupancy = match Multiprocessor::of(&arch) {
                Some(of) => {
                    let held = of.occupancy(threads, registers, shared);
                    format!("{},{},{}", held.blocks, held.warps, held.limit)
                }
                None => ",,".to_string(),
            };
            let _ =
                writeln!(table, "{kernel},{arch},{registers},{shared},{stack},{spilt},{threads},{occupancy}");
            if spilt > 0 {
                spilling.push(format!("{kernel} on {arch}: {spilt} bytes"));
            }
        }
    }
    write_if_changed(&out.join("kernel_resources.csv"), &table);
    // target/<profile>/build/<package>/out
    let copy = out.ancestors().nth(3).expect("a folder of cargo's").join("kernel_resources.csv");
    write_if_changed(&copy, &table);
    println!("registers and spills of every kernel: {}", copy.display());
    let waiting: Vec<&str> =
        logs.lines().filter(|line| SERIAL_PRODUCTS.iter().any(|code| line.contains(code))).collect();
    if !waiting.is_empty() {
        panic!("products of warpgroups wait for each other:\n{}", waiting.join("\n"));
    }
    if !spilling.is_empty() && asked("SCENERANK_DENY_SPILLS") {
        panic!("kernels spill registers:\n{}", spilling.join("\n"));
    }
}

/// Whether a variable is set to 1.
fn asked(name: &str) -> bool {
    env::var(name).is_ok_and(|value| value == "1")
}

// ---- version -------------------------------------------------------------------------------------------------------

/// Version of the Rust compiler, such as `rustc 1.90.0 (1159e78c4 2025-09-14)`.
fn rustc() -> String {
    let program = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(program).arg("--version").output().ok();
    let words = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string());
    words.filter(|words| !words.is_empty()).unwrap_or_else(|| "unknown".to_string())
}

/// The commit of the sources, or why there is none. Git and a repository are not required.
///
/// A release build follows commits: after a new one, cargo runs this script again. A development build does not, because
/// the emulator, the library and every test would then be built again after each commit.
fn commit() -> String {
    // An unpacked source archive may lie in another project's repository, which does not track this file.
    let Some(commit) = git(&["ls-files", "--error-unmatch", "build.rs"])
        .and_then(|_| git(&["rev-parse", "--short=12", "HEAD"]))
    else {
        return "unknown: the build found no repository".to_string();
    };
    if env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        return format!("{commit} or later (development build)");
    }
    for name in ["HEAD", "logs/HEAD"] {
        // Cargo would run this script every time for a file that does not exist.
        if let Some(file) = git(&["rev-parse", "--git-path", name]).filter(|file| Path::new(file).exists()) {
            println!("cargo:rerun-if-changed={file}");
        }
    }
    commit
}

/// The first line that git prints; `None` if it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(String::from)
}

/// Sets the release of the toolkit, and what `--version` tells of the compiled kernels.
fn record_cuda(release: &str, text: &str) {
    println!("cargo:rustc-env=SCENERANK_CUDA_TOOLKIT={release}");
    println!("cargo:rustc-env=SCENERANK_CUDA={text}");
}

// ---- files ---------------------------------------------------------------------------------------------------------

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Leaves an equal file unchanged, so that nothing that depends on it is rebuilt.
fn write_if_changed(path: &Path, text: &str) {
    if !fs::read_to_string(path).is_ok_and(|old| old == text) {
        fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
