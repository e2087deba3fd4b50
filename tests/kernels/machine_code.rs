//! Properties of the machine code of the kernels, on every architecture that they were compiled for:
//! - no access to global memory precedes the wait for the launch ahead, but loads past the first-level cache
//!   (`load_early` in `kernels/launch.cuh`);
//! - from sm_90 on, where launches overlap, nothing is loaded as constant data: such loads may return what the launch ahead
//!   has since overwritten;
//! - products run on the tensor cores, with asynchronous copies and matrix loads;
//! - products of warpgroups run beside their threads (HGMMA), with few other instructions, and many copies in flight;
//! - no kernel uses a stack.
//!
//! The machine code is complete: every kernel that the build lists in `kernel_resources.csv` is found in the fat binaries,
//! on every architecture of the list. PTX from sm_90 on, which a driver compiles for later GPUs, has no such loads either.
//!
//! The tests need kernels that nvcc has compiled, and the toolkit's disassemblers `cuobjdump` and `nvdisasm` in one folder
//! (`CUDA_HOME`, `PATH` or `/usr/local/cuda`).

use std::collections::{BTreeMap, BTreeSet};
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

/// Kernels by architecture and name.
type Kernels = BTreeMap<(String, String), Code>;

/// Text that cuobjdump prints of a file.
fn dump(cuobjdump: &Path, option: &str, file: &Path) -> String {
    let folder = cuobjdump.parent().expect("a folder");
    let path = env::join_paths(
        [folder.to_path_buf()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    );
    let output = Command::new(cuobjdump).arg(option).arg(file).env("PATH", path.expect("a path")).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", cuobjdump.display()));
    assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Kernels in a disassembly.
fn parse(disassembly: &str) -> Kernels {
    let (mut kernels, mut arch, mut kernel) = (Kernels::new(), String::new(), String::new());
    for line in disassembly.lines() {
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

/// Number of a target such as `sm_90a`.
fn generation(arch: &str) -> u32 {
    arch.trim_start_matches("sm_").trim_end_matches(['a', 'f']).parse().expect("sm_NUMBER")
}

/// Loads of constant data in PTX from sm_90 on, each with its target.
fn constant_loads(ptx: &str) -> Vec<String> {
    let (mut target, mut found) = ("", Vec::new());
    for line in ptx.lines().map(str::trim) {
        target = line.strip_prefix(".target ").unwrap_or(target).trim();
        if line.contains("ld.global.nc") && generation(target) >= 90 {
            found.push(format!("PTX for {target}: {line}"));
        }
    }
    found
}

/// Machine code of all kernels on all architectures, and loads of constant data in their PTX. `None`, with a message, if
/// there are none, or if there is no disassembler.
fn all_kernels() -> Option<(Kernels, Vec<String>)> {
    let files = fat_binaries();
    if files.is_empty() {
        println!("skipped: this build found no nvcc");
        return None;
    }
    let Some(cuobjdump) = cuobjdump() else {
        println!("skipped: no cuobjdump");
        return None;
    };
    let (next, all) = (AtomicUsize::new(0), Mutex::new((Kernels::new(), Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let kernels = parse(&dump(&cuobjdump, "-sass", file));
                    // Only code for sm_90a has kernels for warpgroups.
                    let may_be_empty = file.to_string_lossy().contains("_warpgroup_");
                    assert!(!kernels.is_empty() || may_be_empty, "{}: no kernels", file.display());
                    let loads = constant_loads(&dump(&cuobjdump, "-ptx", file));
                    let mut all = all.lock().expect("no thread panics with it");
                    all.0.extend(kernels);
                    all.1.extend(loads.iter().map(|load| format!("{}: {load}", file.display())));
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

/// Whether it is `load_early` of `kernels/launch.cuh`. The interpreter knows whether its value may be read so early.
fn is_early_load(name: &str) -> bool {
    operation(name) == "LDG" && name.ends_with(".STRONG.GPU")
}

/// What is wrong with a kernel's machine code.
fn problems(arch: &str, kernel: &str, code: &Code) -> Vec<String> {
    let mut problems = Vec::new();
    let mut problem = |text: String| problems.push(format!("{kernel} on {arch}: {text}"));
    let position = |wanted: &str| code.iter().position(|name| operation(name) == wanted);
    let overlaps = generation(arch) >= 90;
    // ACQBULK waits for the previous launch, and PREEXIT lets the next one start.
    match (overlaps, position("ACQBULK"), position("PREEXIT")) {
        (true, Some(wait), Some(let_go)) => {
            let is_refused = |name: &String| touches_memory(name) && !is_early_load(name);
            if let Some(at) = code[..wait].iter().position(is_refused) {
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
    if let Some(name) = code.iter().find(is_constant_load).filter(|_| overlaps) {
        problem(format!("{name}: constant data, by __ldg or a pointer that is const and __restrict__"));
    }
    if let Some(name) = code.iter().find(|name| ["LDL", "STL"].contains(&operation(name))) {
        problem(format!("{name}: a stack"));
    }
    let tile = warpgroup_tile(kernel);
    let is_of_warpgroup = tile.is_some();
    if kernel.starts_with("linear_") && !kernel.contains("fp32") {
        let wanted = match (is_of_warpgroup, kernel.contains("bf16x3")) {
            (true, false) => &["HGMMA", "LDSM", "LDGSTS", "FENCE"][..],
            // Pieces of 16 bytes are loaded as they are.
            (true, true) => &["HGMMA", "LDS", "LDGSTS", "FENCE"],
            (false, _) => &["HMMA", "LDSM", "LDGSTS"],
        };
        for wanted in wanted {
            if position(wanted).is_none() {
                problem(format!("no {wanted}"));
            }
        }
    }
    if let Some([rows, columns]) = tile {
        if position("HMMA").is_some() {
            problem("HMMA where a warpgroup multiplies".to_string());
        }
        for (slots, products) in loops_of_products(code) {
            if slots > MOST_SLOTS * products {
                problem(format!("{slots} instructions for {products} HGMMA"));
            }
        }
        // A thread of the producer copies every 16th row of both operands before it waits for them.
        let copies = copies_in_flight(code);
        if copies < rows / 16 + columns / 16 {
            problem(format!("{copies} copies before a wait"));
        }
    }
    problems
}

/// Instructions of a consumer's loop for each product. The tensor cores take 64 cycles for one of 128 columns, and a scheduler
/// issues for two consumers in twice that time.
const MOST_SLOTS: usize = 48;

/// Rows and columns of a warpgroup's tile, with which the kernel's name ends.
pub fn warpgroup_tile(kernel: &str) -> Option<[usize; 2]> {
    let (rows, columns) = kernel.rsplit_once('_')?.1.split_once('x')?;
    Some([rows.parse().ok()?, columns.parse().ok()?])
}

/// For each loop of products, the instructions from the wait for a full stage to the wait for the products, and the number of
/// these products.
fn loops_of_products(code: &Code) -> Vec<(usize, usize)> {
    let is_product = |name: &String| operation(name) == "HGMMA";
    let (mut loops, mut rest) = (Vec::new(), 0);
    while let Some(first) = code[rest..].iter().position(is_product).map(|at| rest + at) {
        let begin = code[..first].iter().rposition(|name| name.starts_with("SYNCS.PHASECHK")).unwrap_or(0);
        let end = code[first..].iter().position(|name| name.starts_with("WARPGROUP.DEPBAR"));
        rest = end.map_or(code.len(), |end| first + end);
        loops.push((rest - begin, code[begin..rest].iter().filter(|name| is_product(name)).count()));
    }
    loops
}

/// Largest number of copies that no wait separates.
fn copies_in_flight(code: &Code) -> usize {
    let parts = code.split(|name| ["DEPBAR", "SYNCS", "BAR"].contains(&operation(name)));
    parts.map(|part| part.iter().filter(|name| operation(name) == "LDGSTS").count()).max().unwrap_or(0)
}

/// Architecture and name of every kernel that the build compiled, from ptxas's log.
fn compiled() -> BTreeSet<(String, String)> {
    let table = Path::new(env!("OUT_DIR")).join("kernel_resources.csv");
    let text = fs::read_to_string(table).expect("the build's table");
    let row = |line: &str| {
        let mut cells = line.split(',').map(String::from);
        let kernel = cells.next().expect("a kernel");
        (cells.next().expect("an architecture"), kernel)
    };
    text.lines().skip(1).map(row).collect()
}

#[test]
fn kernels_are_compiled_as_they_are_meant() {
    let Some((kernels, mut found)) = all_kernels() else { return };
    let disassembled: BTreeSet<_> = kernels.keys().cloned().collect();
    let differing: Vec<_> = compiled().symmetric_difference(&disassembled).cloned().collect();
    assert!(differing.is_empty(), "compiled or disassembled, but not both: {differing:?}");
    found.extend(kernels.iter().flat_map(|((arch, kernel), code)| problems(arch, kernel, code)));
    let mut counts = BTreeMap::new();
    kernels.keys().for_each(|(arch, _)| *counts.entry(arch).or_insert(0) += 1);
    println!("kernels by architecture: {counts:?}");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Each planted defect is found, on the architectures where it is one.
#[test]
fn defects_of_machine_code_are_found() {
    let wanted = |arch: &str, instructions: &str| {
        let listing: String =
            instructions.split(' ').map(|name| format!("/*0010*/  @!P0 {name} R2, [R4.64] ;\n")).collect();
        let kernels = parse(&format!("\t.target\t{arch}\n\tFunction : planted\n{listing}"));
        kernels.iter().flat_map(|((arch, kernel), code)| problems(arch, kernel, code)).collect::<Vec<_>>()
    };
    for arch in ["sm_90", "sm_90a", "sm_100", "sm_103f", "sm_120"] {
        assert_eq!(wanted(arch, "LDC ACQBULK PREEXIT LDG.E.128 STG.E"), [""; 0]);
        assert_eq!(wanted(arch, "LDC LDG.E.STRONG.GPU ACQBULK PREEXIT STG.E"), [""; 0]);
        for (instructions, part) in [
            ("ACQBULK PREEXIT LDG.E.64.CONSTANT", "LDG.E.64.CONSTANT: constant data"),
            ("ACQBULK PREEXIT LDG.E.128.CONSTANT STG.E", "LDG.E.128.CONSTANT: constant data"),
            ("LDG.E ACQBULK PREEXIT", "LDG.E at 0, before the wait at 1"),
            ("LDG.E.STRONG.GPU STG.E ACQBULK PREEXIT", "STG.E at 1, before the wait at 2"),
            ("ATOMG.E.ADD.STRONG.GPU ACQBULK PREEXIT", "ATOMG.E.ADD.STRONG.GPU at 0, before the wait at 1"),
            ("LDGSTS.E.BYPASS.128 ACQBULK PREEXIT", "LDGSTS.E.BYPASS.128 at 0, before the wait at 1"),
            ("PREEXIT ACQBULK", "before it has waited"),
            ("LDG.E STG.E", "waits at None"),
            ("ACQBULK PREEXIT STL", "STL: a stack"),
        ] {
            let found = wanted(arch, instructions);
            assert!(found.len() == 1 && found[0].contains(part), "{part:?} in {found:?} on {arch}");
        }
    }
    let product = |instructions: &str| {
        let listing: String = instructions.split(' ').map(|name| format!("/*0010*/ {name} R2 ;\n")).collect();
        let kernels = parse(&format!("\t.target\tsm_90a\n\tFunction : linear_planted_128x256\n{listing}"));
        kernels.iter().flat_map(|((arch, kernel), code)| problems(arch, kernel, code)).collect::<Vec<_>>()
    };
    let copies = ["LDGSTS"; 24].join(" ");
    let head = format!("ACQBULK PREEXIT {copies} FENCE SYNCS.PHASECHK LDSM");
    assert_eq!(product(&format!("{head} HGMMA HGMMA WARPGROUP.DEPBAR")), [""; 0]);
    let many = ["FFMA"; 2 * MOST_SLOTS].join(" ");
    for (instructions, part) in [
        (format!("{head} HGMMA HMMA WARPGROUP.DEPBAR"), "HMMA where a warpgroup multiplies"),
        (format!("{head} {many} HGMMA HGMMA WARPGROUP.DEPBAR"), "instructions for 2 HGMMA"),
        (format!("{head} WARPGROUP.DEPBAR"), "no HGMMA"),
        (
            format!("{} HGMMA WARPGROUP.DEPBAR", head.replacen("LDGSTS", "LDGSTS DEPBAR", 1)),
            "copies before a wait",
        ),
    ] {
        let found = product(&instructions);
        assert!(found.len() == 1 && found[0].contains(part), "{part:?} in {found:?}");
    }
    assert_eq!(wanted("sm_80", "LDG.E.64.CONSTANT STG.E"), [""; 0], "launches do not overlap");
    let ptx = |target: &str| format!(".version 8.8\n.target {target}\n ld.global.nc.u32 %r1, [%rd1];\n");
    assert_eq!(constant_loads(&(ptx("sm_80") + &ptx("sm_90a"))).len(), 1);
}
