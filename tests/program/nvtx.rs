//! NVTX ranges as a profiler sees them: the test's own tool is loaded like Nsight Systems.

use std::fs;
use std::path::PathBuf;

use crate::compiler::compiler;
use crate::program::scenerank;

/// Library of the tool; reports a skip and returns `None` without a C++ compiler or the emulator.
fn tool() -> Option<PathBuf> {
    if let Err(error) = scenerank::backend::cuda::launchers::emulated(None) {
        println!("skipped: {error}");
        return None;
    }
    let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("nvtx_tool.so");
    let output = compiler()?
        .args(["-std=c++17", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/program/nvtx/tool.cpp"))
        .output()
        .expect("the compiler that has just run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(library)
}

const STEP: [&str; 9] =
    ["bench", "--device", "emulated", "--kernel", "step", "--batch-size", "1", "--budget", "1"];

#[test]
fn phases_and_layers_are_ranges_that_nest() {
    let Some(library) = tool() else { return };
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("ranges");
    scenerank()
        .args(STEP)
        .env("NVTX_INJECTION64_PATH", &library)
        .env("NVTX_TEST_LOG", &log)
        .assert()
        .success();
    let text = fs::read_to_string(&log).unwrap();
    let mut open = Vec::new();
    let mut seen = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("push ") {
            Some(name) => {
                open.push(name);
                seen.push(open.join(" / "));
            }
            None => {
                assert_eq!(line, "pop");
                assert!(open.pop().is_some(), "a range ends that did not begin");
            }
        }
    }
    assert!(open.is_empty(), "ranges that did not end: {open:?}");
    // Three layers; the batch is loaded once, before the first step.
    let step = [
        "forward",
        "forward / forward, layer 0",
        "forward / forward, layer 1",
        "forward / forward, layer 2",
        "loss",
        "backward",
        "backward / backward, layer 2",
        "backward / backward, layer 1",
        "backward / backward, layer 0",
        "update",
    ];
    // The first step is captured; later steps are one call each. The ranges of the phases are those of the
    // capture, where the backward of each layer contains the update of the finished parameters.
    let mut first = vec!["load_batch".to_string(), "capture".to_string()];
    for name in step {
        first.push(format!("capture / {name}"));
        if name.contains("backward, layer") {
            first.push(format!("capture / {name} / update"));
        }
    }
    first.extend(["step", "step"].map(String::from));
    assert_eq!(seen[..first.len()], first);
    // Steps that are timed phase by phase are not captured.
    let at = seen.iter().rposition(|name| name == "load_batch").expect("phases");
    assert!(at > 0);
    assert_eq!(seen[at + 1..], step);
}

#[test]
fn a_tool_that_cannot_be_used_is_said_and_left_out() {
    if tool().is_none() {
        return;
    }
    let assert = scenerank().args(STEP).env("NVTX_INJECTION64_PATH", "/no/tool.so").assert().success();
    let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(text.contains("/no/tool.so") && text.contains("no NVTX ranges"), "{text}");
    // Without NVTX_TEST_LOG the tool's initialisation fails.
    let assert = scenerank().args(STEP).env("NVTX_INJECTION64_PATH", tool().unwrap()).assert().success();
    let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(text.contains("does not accept NVTX ranges"), "{text}");
}
