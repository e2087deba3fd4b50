//! Calls of NCCL during a training of two ranks, by a stub of the driver and one of NCCL (`tests/program/stub_driver/`). Without a
//! C compiler, or without kernels, these tests report a skip.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::c_library::compile;
use crate::program::{SMALL_NETWORK, Workplace};
use crate::{mpirun, scenerank, texts};

/// Folder with the stub driver, and with the stub of NCCL if `nccl`.
fn stubs(nccl: bool) -> Option<PathBuf> {
    let name = if nccl { "stub_nccl" } else { "stub_without_nccl" };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    compile("stub_driver/libcuda.c", folder.join("libcuda.so"))?;
    if nccl {
        compile("stub_driver/libnccl.c", folder.join("libnccl.so"))?;
    }
    Some(folder)
}

const EPOCHS: usize = 2;
/// Number of steps: 101 anchors per epoch, 8 per step.
const STEPS: usize = EPOCHS * 13;
const LAYERS: usize = 2;

/// Two ranks on a GPU each; the calls of each go to a log.
fn train(work: &Workplace, stubs: &Path, settings: &[(&str, &str)]) -> Option<Output> {
    let mut command = mpirun()?;
    for rank in 0..2 {
        if rank > 0 {
            command.arg(":");
        }
        let library_path = format!("LD_LIBRARY_PATH={}", stubs.display());
        let log = format!("STUB_LOG={}", work.text(&format!("calls {rank}")));
        command.args(["-n", "1", "-x", &library_path, "-x", &log, "-x", "STUB_COUNT=2"]).arg(scenerank());
        command.args(["train", &work.text("data1"), "--out", &work.text("run"), "--device", "cuda"]);
        command.args(["--epochs", &EPOCHS.to_string()]).args(SMALL_NETWORK);
    }
    command.envs(settings.iter().copied());
    let output = command.output().unwrap();
    if texts(&output)[1].contains("this build found no nvcc") {
        println!("skipped: this build has no kernels");
        return None;
    }
    Some(output)
}

/// Calls of a rank: name and two numbers each.
fn calls(work: &Workplace, rank: usize) -> Vec<(String, i32, i32)> {
    let call = |line: &str| {
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap();
        (next().to_string(), next().parse().unwrap(), next().parse().unwrap())
    };
    fs::read_to_string(work.path(&format!("calls {rank}"))).unwrap().lines().map(call).collect()
}

#[test]
fn ranks_exchange_on_the_compute_stream() {
    let work = Workplace::new();
    let Some(stubs) = stubs(true) else { return };
    let Some(output) = train(&work, &stubs, &[]) else { return };
    assert!(output.status.success(), "{}", texts(&output)[1]);
    for rank in 0..2 {
        let calls = calls(&work, rank);
        let named = |name: &str| calls.iter().filter(|call| call.0 == name).collect::<Vec<_>>();
        // Both ranks join with the id that rank 0 has made.
        assert_eq!(named("nccl_id").len(), usize::from(rank == 0));
        assert_eq!(named("nccl_join"), [&("nccl_join".to_string(), rank as i32, 7)]);
        // Sizes of the batches once a step, four blocks of each layer forward and back, and the gradients by layer.
        let (gathers, sums) = (named("nccl_gather"), named("nccl_sum"));
        assert_eq!(gathers.len(), STEPS * (1 + 2 * 4 * LAYERS));
        assert_eq!(sums.len(), STEPS * (1 + LAYERS));
        assert_eq!(named("nccl_wrong").len(), 0);
        // In the stream of the kernels.
        let compute = named("readout_loss_f32")[0].1;
        assert!(gathers.iter().chain(&sums).all(|call| call.1 == compute));
        // Nothing of a step with several ranks is captured.
        assert!(named("begin_capture").is_empty() && named("launch_graph").is_empty());
        // Values of a step's first gather: the sizes. Each merge follows its gather at once.
        assert_eq!(gathers[0].2, 6 * 4);
        let merges = |name: &str| {
            let at = (0..calls.len()).filter(|&at| calls[at].0 == name);
            at.map(|at| &*calls[at - 1].0).collect::<Vec<_>>()
        };
        for kernel in ["rank_merge_statistics", "rank_merge_sums"] {
            assert_eq!(merges(kernel), vec!["nccl_gather"; STEPS * 4 * LAYERS], "{kernel}");
        }
    }
}

#[test]
fn without_nccl_there_is_one_clear_line() {
    let work = Workplace::new();
    let Some(without) = stubs(false) else { return };
    let Some(output) = train(&work, &without, &[]) else { return };
    let text = &texts(&output)[1];
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("no NCCL is installed") && !text.contains("panicked"), "{text}");

    let Some(stubs) = stubs(true) else { return };
    let output = train(&work, &stubs, &[("STUB_NCCL_JOIN", "5")]).expect("as before");
    let text = &texts(&output)[1];
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("NCCL: join the ranks: ncclInvalidUsage"), "{text}");
}
