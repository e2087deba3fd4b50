//! Tests of the emulator, with errors planted in `tests/emulator/planted.cu`.

#[path = "support/compiler.rs"]
mod compiler;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use compiler::compiler;

const SANITIZERS: [&str; 5] = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
    "-g",
    "-O1",
];

/// Builds `planted_main` with these flags; otherwise returns what is missing.
fn build(name: &str, flags: &[&str]) -> Result<PathBuf, String> {
    let mut compiler = compiler().ok_or("no C++ compiler")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let output = compiler
        .args(["-std=c++17", "-O2", "-fno-exceptions", "-fno-rtti", "-x", "c++", "-I"])
        .arg(root.join("kernels"))
        .args(flags)
        .args(
            ["planted.cu", "warpgroup_planted.cu", "planted_main.cpp"]
                .map(|file| root.join("tests/emulator").join(file)),
        )
        .args(
            ["emulator.cpp", "fiber.cpp", "tensor_core.cpp", "warpgroup.cpp"]
                .map(|file| root.join("kernels/emulator").join(file)),
        )
        .arg("-o")
        .arg(&program)
        .output()
        .map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(program),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn run(program: &Path, kernel: &str, seed: u64) -> Output {
    Command::new(program).args([kernel, &seed.to_string()]).output().expect("the program that was built")
}

/// Lines printed by `kernel`; without a C++ compiler, reports a skip once and returns `None`.
fn planted(kernel: &str, seed: u64) -> Option<Vec<String>> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        compiler()?;
        Some(build("planted", &[]).unwrap_or_else(|error| panic!("{error}")))
    });
    let output = run(program.as_ref()?, kernel, seed);
    assert!(output.status.success(), "{kernel}: {output:?}");
    Some(String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect())
}

#[test]
fn a_block_reduction_is_right_in_any_order() {
    for seed in 0..20 {
        let Some(lines) = planted("block_sum", seed) else { return };
        assert_eq!(lines[..3], ["32640", "32640", "32640"], "seed {seed}");
        assert!(
            lines[3..].iter().all(|line| line == "nan"),
            "values that no thread writes stay as they were"
        );
    }
}

#[test]
fn warp_functions_are_right_in_any_order() {
    for seed in 0..20 {
        let Some(lines) = planted("warp_functions", seed) else { return };
        assert_eq!(lines[..3], ["1", "1", "1"], "seed {seed}");
    }
}

#[test]
fn a_race_changes_the_answer() {
    let Some(in_order) = planted("planted_race", 0) else { return };
    let shuffled: Vec<_> = (1..6).filter_map(|seed| planted("planted_race", seed)).collect();
    assert!(shuffled.iter().all(|lines| lines[..3] != in_order[..3]), "{in_order:?}");
}

#[test]
fn a_race_between_blocks_changes_the_answer() {
    let Some(in_order) = planted("planted_block_race", 0) else { return };
    assert_eq!(in_order[0], "2", "the last of three blocks");
    let shuffled: Vec<_> = (1..10).filter_map(|seed| planted("planted_block_race", seed)).collect();
    assert!(shuffled.iter().any(|lines| lines[0] != "2"));
}

#[test]
fn a_thread_that_does_not_wait_for_the_launch_before_is_an_error() {
    for seed in [0, 3] {
        let Some(lines) = planted("planted_early_kernel", seed) else { return };
        let error =
            "error: planted_early_kernel: block (1, 0, 0), thread (77, 0, 0) returns without begin_kernel";
        assert_eq!(lines, [error]);
    }
}

#[test]
fn a_launch_with_other_threads_than_the_kernel_is_for_is_an_error() {
    let Some(lines) = planted("planted_block_size", 0) else { return };
    let error = "error: planted_block_size: a block of (256, 1, 1) threads where the kernel is for 128";
    assert_eq!(lines, [error]);
}

#[test]
fn shared_memory_starts_as_nan() {
    let Some(lines) = planted("planted_unwritten_shared", 0) else { return };
    assert_eq!((lines[254].as_str(), lines[255].as_str()), ("255", "nan"));
    let Some(lines) = planted("planted_unwritten_dynamic", 0) else { return };
    assert_eq!((lines[254].as_str(), lines[255].as_str()), ("254", "nan"));
}

#[test]
fn a_barrier_that_a_thread_never_reaches_is_an_error() {
    for seed in [0, 3] {
        let Some(lines) = planted("planted_divergent_barrier", seed) else { return };
        for part in
            ["error: planted_divergent_barrier: ", "waits at __syncthreads", "thread (255, 0, 0) never"]
        {
            assert!(lines[0].contains(part), "{part:?} in {}", lines[0]);
        }
        assert!(lines[0].ends_with("it has returned"), "{}", lines[0]);
    }
}

#[test]
fn two_barriers_instead_of_one_are_an_error() {
    let Some(lines) = planted("planted_two_barriers", 0) else { return };
    assert!(lines[0].contains("thread (32, 0, 0) never reaches: it waits at __syncthreads"), "{}", lines[0]);
}

#[test]
fn a_shuffle_that_a_lane_never_reaches_is_an_error() {
    let Some(lines) = planted("planted_divergent_shuffle", 0) else { return };
    assert!(lines[0].contains("waits at a shuffle"), "{}", lines[0]);
    assert!(lines[0].contains("thread (16, 0, 0) never reaches"), "{}", lines[0]);
}

#[test]
fn tensor_core_fragments_copies_and_roundings_are_right_in_any_order() {
    for (kernel, seed) in ["fragments", "loaded_fragments", "roundings", "copies"]
        .into_iter()
        .flat_map(|kernel| (0..5).map(move |seed| (kernel, seed)))
    {
        let Some(lines) = planted(kernel, seed) else { return };
        assert_eq!(lines[..3], ["1", "1", "1"], "{kernel}, seed {seed}");
    }
}

#[test]
fn a_copy_that_is_not_waited_for_is_read_as_nan() {
    for seed in 0..5 {
        let Some(lines) = planted("planted_missing_wait", seed) else { return };
        assert!(lines[..256].iter().all(|line| line == "nan" || line == "-nan"), "seed {seed}: {lines:?}");
    }
}

#[test]
fn a_copy_without_a_barrier_changes_the_answer() {
    let Some(in_order) = planted("planted_missing_barrier", 0) else { return };
    assert!(in_order[..256].iter().any(|line| line.ends_with("nan")), "{in_order:?}");
    assert!(
        (1..6).all(|seed| planted("planted_missing_barrier", seed).is_some_and(|lines| lines != in_order))
    );
}

#[test]
fn addresses_that_copies_and_loads_do_not_take_are_errors() {
    for (kernel, parts) in [
        ("planted_misaligned_copy", ["cp.async of 16 bytes", "thread (77, 0, 0)", "not aligned"]),
        ("planted_copy_elsewhere", ["cp.async of 4 bytes", "thread (0, 0, 0)", "not in shared memory"]),
        ("planted_misaligned_load", ["ldmatrix: ", "thread (1, 0, 0)", "not aligned"]),
    ] {
        let Some(lines) = planted(kernel, 0) else { return };
        assert!(lines[0].starts_with(&format!("error: {kernel}: line ")), "{}", lines[0]);
        for part in parts {
            assert!(lines[0].contains(part), "{part:?} in {}", lines[0]);
        }
    }
}

#[test]
fn a_product_that_a_lane_takes_elsewhere_is_an_error() {
    let Some(lines) = planted("planted_divergent_mma", 0) else { return };
    assert!(lines[0].contains("waits at an mma"), "{}", lines[0]);
    assert!(lines[0].contains("thread (16, 0, 0) never reaches"), "{}", lines[0]);
}

#[test]
fn a_ring_of_stages_between_warpgroups_is_right_in_any_order() {
    for seed in 0..8 {
        let Some(lines) = planted("warpgroup_ring", seed) else { return };
        assert!(lines.iter().all(|line| line == "1"), "seed {seed}: {lines:?}");
    }
}

/// A wrong result, of which each line of a consumer's threads is 0 or NaN.
const WRONG: &str = "wrong";

#[test]
fn defects_in_a_ring_of_stages_are_found() {
    for (kernel, found) in [
        ("swizzle", WRONG),
        ("stride", WRONG),
        ("phase", "which never ends"),
        ("no_proxy_fence", "copied without fence_proxy"),
        ("early_fence", "copied without fence_proxy"),
        ("copies", WRONG),
        ("no_fence", "a product without begin_products"),
        ("wait", WRONG),
        ("release", "a factor of a product changed before it was waited for"),
        ("arrivals", "which never ends"),
        ("direction", "registers"),
        ("matrix", "names no swizzled lines"),
    ] {
        let name = format!("planted_warpgroup_{kernel}");
        let Some(lines) = planted(&name, 0) else { return };
        let is_wrong = || (0..3).all(|block| lines[256 * block..][..128].iter().all(|line| line != "1"));
        let is_found = if found == WRONG { lines.len() > 1 && is_wrong() } else { lines[0].contains(found) };
        assert!(is_found, "{name}: {lines:?}");
    }
}

#[test]
fn sanitizers_see_what_lies_out_of_bounds_or_askew() {
    let program = match build("planted_sanitized", &SANITIZERS) {
        Ok(program) => program,
        // A sanitized run exists to detect this.
        Err(error) if std::env::var_os("SCENERANK_SANITIZE").is_some() => panic!("{error}"),
        Err(error) => return println!("skipped: no sanitizer runtime: {error}"),
    };
    let right = run(&program, "block_sum", 5);
    assert!(right.status.success() && right.stdout.starts_with(b"32640\n"), "{right:?}");
    let error_of = |kernel: &str| {
        let output = run(&program, kernel, 0);
        assert!(!output.status.success(), "{kernel}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = error_of("planted_out_of_bounds");
    assert!(error.contains("heap-buffer-overflow") && error.contains("planted_out_of_bounds"), "{error}");
    let error = error_of("planted_shared_out_of_bounds");
    assert!(error.contains("index 255 out of bounds"), "{error}");
    let error = error_of("planted_dynamic_out_of_bounds");
    assert!(error.contains("heap-buffer-overflow") && error.contains("planted_dynamic"), "{error}");
    let error = error_of("planted_misaligned");
    assert!(error.contains("planted.cu") && error.contains("misaligned address"), "{error}");
}
