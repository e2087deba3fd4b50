//! Errors for unusable GPUs, and the order of driver calls during a step, using a stub driver
//! (`tests/program/stub_driver/libcuda.c`). Without a C compiler these tests report a skip.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::c_library::compile;
use crate::program::{SMALL_NETWORK, scenerank, small_data};
use tempfile::TempDir;

/// Folder of the stub driver, built once; reports a skip and returns `None` without a C compiler.
fn stub() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stub_driver");
        std::fs::create_dir_all(&folder).unwrap();
        compile("stub_driver/libcuda.c", folder.join("libcuda.so")).map(|_| folder)
    });
    folder.as_deref()
}

/// Data file for the runs.
struct Fixture {
    folder: TempDir,
    data: String,
}

impl Fixture {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let data = small_data(folder.path(), 1).display().to_string();
        Fixture { folder, data }
    }

    /// Runs `train` on a device with this driver instead of the system's.
    fn train(&self, device: &str, driver: &Path, settings: &[(&str, &str)]) -> assert_cmd::Command {
        let mut command = scenerank();
        let run = self.folder.path().join("run");
        let _ = std::fs::remove_dir_all(&run);
        let epochs = EPOCHS.to_string();
        command.args(["train", &self.data, "--epochs", &epochs, "--device", device, "--out"]).arg(run);
        command.args(SMALL_NETWORK).env("LD_LIBRARY_PATH", driver).envs(settings.iter().copied());
        command
    }

    /// The single error line for an unusable device.
    fn refusal(&self, device: &str, driver: &Path, settings: &[(&str, &str)]) -> String {
        let assert = self.train(device, driver, settings).assert().code(2);
        let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(!text.contains("panicked"), "{text}");
        let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{text}");
        errors[0].to_string()
    }
}

const NO_KERNELS: &str = "this build found no nvcc";

#[test]
fn a_driver_that_cannot_be_used_is_named_with_a_remedy() {
    let Some(stub) = stub() else { return };
    let fixture = Fixture::new();
    for (device, settings, parts) in [
        (
            "cuda",
            &[("STUB_INIT", "100")][..],
            &["device cuda:0: the driver sees no GPU", "CUDA_VISIBLE_DEVICES"][..],
        ),
        ("cuda", &[("STUB_COUNT", "0")], &["device cuda:0: the driver sees no GPU", "--device cpu"]),
        ("cuda", &[("STUB_INIT", "803")], &["start the driver: ", "update the driver"]),
        ("cuda", &[("STUB_INIT", "34")], &["start the driver: ", "lib/stubs"]),
        ("cuda", &[("STUB_INIT", "999")], &["start the driver: ", "nvidia-smi"]),
        (
            "cuda",
            &[("STUB_VERSION", "12030")],
            &["the driver knows CUDA 12.3, and compressed kernels need 12.4", "update the driver"],
        ),
        ("cuda", &[("STUB_VERSION", "11080")], &["CUDA 11.8, and compressed kernels need 12.4"]),
        ("cuda:1", &[], &["device cuda:1: the driver sees 1 GPU, cuda:0", "use another GPU"]),
        ("cuda:7", &[("STUB_COUNT", "4")], &["device cuda:7: the driver sees 4 GPUs, cuda:0 to cuda:3"]),
    ] {
        let error = fixture.refusal(device, stub, settings);
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} in {error}");
    }
    // The checks that follow need kernels to load.
    for (settings, parts) in [
        (("STUB_RETAIN", "2"), &["open: CUDA_ERROR_OUT_OF_MEMORY", "which processes use its memory"][..]),
        (("STUB_CAPABILITY", "7"), &["has compute capability 7.0, and 8.0 is needed", "--device cpu"]),
        (
            ("STUB_SHARED_BYTES", "49152"),
            &["_128 takes 82944 bytes of shared memory, and a block has 49152", "--device cpu"],
        ),
        (
            ("STUB_LOAD", "209"),
            &["load the kernels: ", "CUDA 13.0", "compiled by CUDA ", "SCENERANK_CUDA_ARCHS"],
        ),
        (("STUB_MEMORY_MIB", "0"), &["1 MiB more do not fit, 3 MiB are free", "--batch-size"]),
        (("STUB_HOST_ALLOC", "2"), &["MiB of page-locked memory: CUDA_ERROR_OUT_OF_MEMORY", "--batch-size"]),
    ] {
        let error = fixture.refusal("cuda", stub, &[settings]);
        if error.contains(NO_KERNELS) {
            println!("skipped: {NO_KERNELS} for its kernels");
            assert!(error.contains("install the CUDA toolkit"), "{error}");
            return;
        }
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} in {error}");
    }
}

/// Only on machines without a driver; otherwise the system's driver would be found.
#[test]
fn a_missing_driver_is_named_with_a_remedy() {
    let fixture = Fixture::new();
    let error = fixture.refusal("cuda:99", fixture.folder.path(), &[]);
    match error.contains("no NVIDIA driver is installed") {
        true => assert!(error.contains("install the driver, or use --device cpu"), "{error}"),
        false => println!("skipped: this machine has a driver: {error}"),
    }
}

#[test]
fn auto_takes_the_cpu_and_says_why() {
    let Some(stub) = stub() else { return };
    let fixture = Fixture::new();
    let assert = fixture.train("auto", stub, &[("STUB_INIT", "100")]).assert().success();
    let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    let said: Vec<&str> = text.lines().filter(|line| line.contains("device auto")).collect();
    assert_eq!(said.len(), 1, "{text}");
    assert!(said[0].contains("computing on the CPU") && said[0].contains("the driver sees no GPU"), "{text}");
}

/// A driver call: its name, its stream or event, and the other stream or event.
type Call = (String, i32, i32);

/// Calls of a run on the stub; reports a skip and returns `None` if there are no kernels to launch.
fn calls(fixture: &Fixture, stub: &Path) -> Option<Calls> {
    calls_with(fixture, stub, &[])
}

/// Like [`calls`], with these settings.
fn calls_with(fixture: &Fixture, stub: &Path, settings: &[(&str, &str)]) -> Option<Calls> {
    let log = fixture.folder.path().join("calls");
    let _ = std::fs::remove_file(&log);
    let settings: Vec<_> = settings.iter().copied().chain([("STUB_LOG", log.to_str().unwrap())]).collect();
    let output = fixture.train("cuda", stub, &settings).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains(NO_KERNELS) {
        println!("skipped: {NO_KERNELS} for its kernels");
        return None;
    }
    assert!(output.status.success(), "{text}");
    Some(Calls::read(&log))
}

/// Capture mode of the driver that forbids no calls.
const RELAXED: i32 = 2;

/// Flag of an instantiation: kernels of a graph keep the priorities of the streams in which they were captured.
const USE_NODE_PRIORITY: i32 = 8;

/// All calls of a run, in order.
struct Calls(Vec<Call>);

impl Calls {
    /// Reads the log of a stub.
    fn read(log: &Path) -> Self {
        let call = |line: &str| {
            let mut words = line.split(' ');
            let (name, mut number) =
                (words.next().unwrap().to_string(), || words.next().unwrap().parse().unwrap());
            (name, number(), number())
        };
        Calls(std::fs::read_to_string(log).unwrap().lines().map(call).collect())
    }

    fn positions(&self, wanted: impl Fn(&Call) -> bool) -> Vec<usize> {
        (0..self.0.len()).filter(|&at| wanted(&self.0[at])).collect()
    }

    fn named(&self, name: &str) -> Vec<usize> {
        self.positions(|call| call.0 == name)
    }
}

/// Launches that assemble a batch.
const ASSEMBLY: [&str; 5] = [
    "graph_batch_places",
    "graph_batch_graphs",
    "graph_batch_count",
    "graph_batch_number",
    "graph_batch_fill",
];
const EPOCHS: usize = 2;
/// Number of steps per epoch: 101 anchors, 8 per step.
const STEPS_OF_EPOCH: usize = 13;
/// Number of layers of the small network.
const LAYERS: usize = 2;

/// Calls of the host during training: one graph launch per step, and nothing else.
#[test]
fn a_step_is_one_launch() {
    let Some(stub) = stub() else { return };
    let fixture = Fixture::new();
    let Some(calls) = calls(&fixture, stub) else { return };
    let steps = calls.named("launch_graph");
    assert_eq!(steps.len(), EPOCHS * STEPS_OF_EPOCH);
    let compute = calls.0[steps[0]].1;

    // An epoch starts with uploads of the anchors' order and of the position, and the launch that draws; then
    // the positives and the negatives are downloaded, and the first batch is assembled.
    let draws = calls.named("draw_probability");
    assert_eq!(draws.len(), EPOCHS);
    for (epoch, &draw) in draws.iter().enumerate() {
        let around: Vec<_> = calls.0[draw - 2..draw + 5].iter().map(|call| (&*call.0, call.1)).collect();
        let read = ["download", "stream_synchronize"];
        let wanted = [["upload", "upload", "draw_probability"].as_slice(), &read, &read].concat();
        let wanted: Vec<_> = wanted.into_iter().map(|name| (name, compute)).collect();
        assert_eq!(around, wanted, "epoch {epoch}");
        let assembly: Vec<_> = calls.0[draw + 5..draw + 10].iter().map(|call| (&*call.0, call.1)).collect();
        assert_eq!(assembly, ASSEMBLY.map(|name| (name, compute)), "epoch {epoch}");
        let next = &*calls.0[draw + 10].0;
        assert!(
            ["begin_capture", "launch_graph"].contains(&next),
            "epoch {epoch}: {next} before the first step"
        );
    }

    // Two steps are captured, one for each slot of the batch, before they first run; and again if an epoch has a larger batch.
    let (captures, updates) = (calls.named("begin_capture"), calls.named("adam_step"));
    assert!((2..=2 * EPOCHS).contains(&captures.len()), "{captures:?}");
    let late = captures[2..].iter().filter(|&&at| at < steps[STEPS_OF_EPOCH - 1]).count();
    assert!(captures[1] < steps[1] && late == 0, "{captures:?}");
    assert_eq!(updates.len(), captures.len() * (1 + LAYERS));
    let (begin, end) = (captures[0], updates[LAYERS] + 1);
    assert_eq!(calls.0[begin], ("begin_capture".to_string(), compute, RELAXED));
    let captured = &calls.0[begin + 1..end];
    let (ordering, launches): (Vec<&Call>, Vec<&Call>) =
        captured.iter().partition(|call| ["record", "stream_waits"].contains(&&*call.0));
    let (update, chain): (Vec<&Call>, Vec<&Call>) =
        launches.into_iter().partition(|call| call.0 == "adam_step");
    let (assembly, chain): (Vec<&Call>, Vec<&Call>) =
        chain.into_iter().partition(|call| call.0.starts_with("graph_batch"));
    // For two layers: 7 and 7 are forward, 1 is the loss, 11 and 12 are backward.
    assert_eq!(chain.len(), (7 + 7) + 1 + (11 + 12), "{chain:?}");
    assert!(chain[0].0.starts_with("embedding_forward"), "{}", chain[0].0);
    let forbidden = ["allocate", "upload", "download", "host_waits", "launch_graph"];
    assert!(chain.iter().all(|call| !forbidden.contains(&&*call.0)), "{chain:?}");
    // Each launch but the root of the graph begins before its predecessor ends.
    assert_eq!((chain[0].1, chain[0].2), (compute, 0), "the root carries no programmatic dependency");
    assert!(chain[1..].iter().all(|call| (call.1, call.2) == (compute, 1)), "{chain:?}");

    // The next batch is assembled beside the chain, after the forward. Each layer's update runs there too, after its gradients
    // are computed; the last update follows everything else.
    let beside = update[0].1;
    assert_ne!(beside, compute);
    let assembly: Vec<_> = assembly.into_iter().map(|call| (&*call.0, call.1, call.2)).collect();
    assert_eq!(assembly, ASSEMBLY.map(|name| (name, beside, 0)));
    assert_eq!(
        update.iter().map(|call| (call.1, call.2)).collect::<Vec<_>>(),
        [(beside, 0), (beside, 0), (compute, 0)]
    );
    assert_eq!(ordering.len(), 2 * (1 + update.len()));
    let assembled = calls.positions(|call| call.0 == ASSEMBLY[0]).into_iter().find(|&at| at > begin).unwrap();
    assert!(calls.0[assembled + ASSEMBLY.len()].0.starts_with("readout_loss"));
    for (at, pair) in [assembled].iter().chain(&updates).zip(ordering.chunks(2)) {
        let last = *at == updates[LAYERS];
        let (from, to) = if last { (beside, compute) } else { (compute, beside) };
        assert_eq!((&*pair[0].0, pair[0].2), ("record", from));
        assert_eq!((&*pair[1].0, pair[1].1, pair[1].2), ("stream_waits", to, pair[0].1));
        assert_eq!([&calls.0[at - 2], &calls.0[at - 1]], pair, "right before");
    }
    for (layer, at) in updates[..LAYERS].iter().enumerate() {
        let before = &calls.0[at - 3].0;
        assert!(before.starts_with("linear_backward_norm"), "the heads of the {layer}. layer back: {before}");
    }
    // Blocks of the chain have priority.
    let priority =
        |stream: i32| calls.0.iter().find(|call| call.0 == "stream" && call.1 == stream).unwrap().2;
    assert!(priority(compute) < priority(beside));

    let [ended, instantiated, flags, launched] = [0, 1, 2, 3].map(|after| calls.0[end + after].clone());
    assert_eq!(ended, ("end_capture".to_string(), compute, ended.2));
    assert_eq!(instantiated, ("instantiate".to_string(), instantiated.1, ended.2));
    // Without the flag, the updates would have the priority of the stream in which the graph is launched.
    assert_eq!((&*flags.0, flags.1), ("instantiate_flags", USE_NODE_PRIORITY));
    assert_eq!(launched, ("launch_graph".to_string(), compute, instantiated.1));
    assert_eq!(end + 3, steps[0]);
    assert_eq!(calls.0[steps[0]], launched);
    let graphs: Vec<&Call> = steps[..STEPS_OF_EPOCH].iter().map(|&at| &calls.0[at]).collect();
    assert!(graphs[0] != graphs[1] && graphs.windows(3).all(|of| of[0] == of[2]), "two graphs alternate");

    // The host makes no calls between two steps; after every tenth it reads the losses, and the norm of the gradient.
    for (step, pair) in (1..).zip(steps.windows(2)).filter(|(step, _)| step % STEPS_OF_EPOCH != 0) {
        let between = calls.0[pair[0] + 1..pair[1]].iter().map(|call| &*call.0);
        let between: Vec<&str> = between.take_while(|&name| name != "begin_capture").collect();
        let read = ["download", "stream_synchronize"];
        let wanted =
            if step % 10 == 0 { [&read[..], &["gradient_norm"], &read].concat() } else { Vec::new() };
        assert_eq!(between, wanted, "after step {step}");
    }
}

/// Whether a call launches a product of warpgroups.
fn of_warpgroups(call: &Call) -> bool {
    ["_bf16_64x", "_bf16_128x", "_bf16x3_64x", "_bf16x3_128x"].iter().any(|part| call.0.contains(part))
}

/// A kernel gets more than 48 KiB of shared memory only on request: the products of the larger tile.
#[test]
fn large_tiles_ask_for_their_shared_memory() {
    let Some(stub) = stub() else { return };
    let fixture = Fixture::new();
    let Some(Calls(calls)) = calls(&fixture, stub) else { return };
    let asked: Vec<i32> = calls.iter().filter(|call| call.0 == "most_shared").map(|call| call.1).collect();
    // Ten products in each of two formats; by warpgroups, in each format, ten in each tile of 64 x 128, and 128 x 152, 224 and 256.
    let of_warpgroups = [[100_416; 10], [165_952; 10], [198_720; 10], [198_720; 10]];
    let want = [&[[82_944; 10]; 2][..], &of_warpgroups, &of_warpgroups].concat();
    assert_eq!(asked, want.as_flattened());
}

/// A launch waits for its predecessor to end in three cases. The GPU has no overlapping launches, the kernels were
/// compiled for GPUs without them, or the user requests it.
#[test]
fn launches_overlap_only_where_kernels_wait() {
    let Some(stub) = stub() else { return };
    let fixture = Fixture::new();
    for (settings, overlap) in [
        (("STUB_PTX", "90"), true),
        (("STUB_PTX", "80"), false),
        (("STUB_CAPABILITY", "8"), false),
        (("SCENERANK_SERIAL_LAUNCHES", "1"), false),
    ] {
        let Some(calls) = calls_with(&fixture, stub, &[settings]) else { return };
        let products = calls.positions(|call| call.0.starts_with("linear_"));
        let overlapping = products.iter().filter(|&&at| calls.0[at].2 == 1).count();
        assert!(!products.is_empty());
        assert_eq!(overlapping > 0, overlap, "{settings:?}: {overlapping} of {}", products.len());
    }
}

/// The chain of a step without a branch: all launches are in one stream, and no event orders them.
#[test]
fn the_branch_can_be_turned_off() {
    let Some(stub) = stub() else { return };
    let fixture = Fixture::new();
    let Some(calls) = calls_with(&fixture, stub, &[("SCENERANK_NO_BRANCH", "1")]) else { return };
    let [begin, end] = ["begin_capture", "end_capture"].map(|name| calls.named(name)[0]);
    let captured = &calls.0[begin + 1..end];
    assert_eq!(captured.iter().filter(|call| call.0 == "adam_step").count(), 1 + LAYERS);
    assert!(captured.iter().all(|call| call.1 == calls.0[begin].1), "{captured:?}");
    assert!(captured.iter().all(|call| !["record", "stream_waits"].contains(&&*call.0)), "{captured:?}");
    // Launches still overlap, those of the updates too.
    assert!(captured[1..].iter().all(|call| call.2 == 1), "{captured:?}");
}

/// A driver that refuses a graph with overlapping launches gets one without, and the user gets a warning.
#[test]
fn a_step_that_cannot_overlap_is_launched_in_series() {
    let Some(stub) = stub() else { return };
    let fixture = Fixture::new();
    if calls(&fixture, stub).is_none() {
        return;
    }
    for refused in ["launch", "end_capture", "instantiate", "launch_graph"] {
        let log = fixture.folder.path().join("calls");
        std::fs::remove_file(&log).unwrap();
        let settings = [("STUB_REFUSES", refused), ("STUB_LOG", log.to_str().unwrap())];
        let output = fixture.train("cuda", stub, &settings).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{refused}: {text}");
        let warnings: Vec<&str> = text.lines().filter(|line| line.contains("launched in series")).collect();
        assert_eq!(warnings.len(), 1, "{refused}: {text}");
        assert!(warnings[0].contains("CUDA_ERROR_OF_THE_STUB"), "{refused}: {}", warnings[0]);
        let calls = Calls::read(&log);
        let captures = calls.named("begin_capture");
        let second_epoch = calls.named("draw_probability")[1];
        let in_first = captures.iter().filter(|&&at| at < second_epoch).count();
        assert_eq!(in_first, 3, "{refused}: one retry, and one capture for each slot");
        let second = calls.positions(|call| call.0 == "end_capture")[1];
        let retried = &calls.0[captures[1] + 1..second];
        let compute = calls.0[captures[1]].1;
        assert!(retried.iter().all(|call| (call.1, call.2) == (compute, 0)), "{refused}: {retried:?}");
        assert_eq!(retried.iter().filter(|call| call.0 == "adam_step").count(), 1 + LAYERS, "{refused}");
    }
}

/// What fails in series too is an error, after one retry.
#[test]
fn a_step_that_fails_in_series_is_an_error() {
    let Some(stub) = stub() else { return };
    let fixture = Fixture::new();
    if calls(&fixture, stub).is_none() {
        return;
    }
    let log = fixture.folder.path().join("calls");
    let [serial, no_branch] = ["SCENERANK_SERIAL_LAUNCHES", "SCENERANK_NO_BRANCH"].map(|name| (name, "1"));
    for (given, captures) in [(&[][..], 2), (&[serial], 2), (&[no_branch], 2), (&[serial, no_branch], 1)] {
        std::fs::remove_file(&log).unwrap();
        let stubs = [("STUB_INSTANTIATE", "801"), ("STUB_LOG", log.to_str().unwrap())];
        let settings: Vec<_> = given.iter().copied().chain(stubs).collect();
        let error = fixture.refusal("cuda", stub, &settings);
        assert!(error.contains("capture a graph: CUDA_ERROR_OF_THE_STUB"), "{error}");
        assert_eq!(Calls::read(&log).named("begin_capture").len(), captures, "{given:?}");
    }
}

/// Set for the process that [`memory_may_be_freed_on_any_thread`] starts.
const WITH_STUB: &str = "SCENERANK_TEST_WITH_STUB";

/// A new thread has no current context. What it frees must be freed, and the next call must not fail.
#[test]
fn memory_may_be_freed_on_any_thread() {
    let Some(stub) = stub() else { return };
    if std::env::var_os(WITH_STUB).is_some() {
        let device = scenerank::backend::cuda::launchers::gpu(0).unwrap();
        let buffer = device.allocate::<f32>(3).unwrap();
        std::thread::spawn(move || drop(buffer)).join().unwrap();
        device.allocate::<f32>(3).unwrap();
        return;
    }
    let fixture = Fixture::new();
    if calls(&fixture, stub).is_none() {
        return;
    }
    // The driver is loaded from the folders that were named when the process started.
    let log = fixture.folder.path().join("frees");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "devices::memory_may_be_freed_on_any_thread", "--nocapture"])
        .envs([(WITH_STUB, "1"), ("STUB_LOG", log.to_str().unwrap())])
        .env("LD_LIBRARY_PATH", stub)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls = Calls::read(&log);
    assert_eq!((calls.named("allocate").len(), calls.named("free").len()), (2, 2));
}

/// Loaded batches, here those of validation, are copied on a separate stream, and the host only waits for the
/// batch before the last.
#[test]
fn batches_are_copied_ahead_of_the_gpu() {
    let Some(stub) = stub() else { return };
    let fixture = Fixture::new();
    let Some(calls) = calls(&fixture, stub) else { return };
    let compute = calls.0[calls.named("launch_graph")[0]].1;
    let uploads = calls.positions(|call| call.0 == "upload" && call.1 != compute);
    assert_eq!(uploads.len(), EPOCHS * 2, "31 images, 24 at once");
    let calls = calls.0;
    let mut slots = Vec::new();
    for (batch, &at) in uploads.iter().enumerate() {
        // The compute stream waits for the copy.
        let [ready, waits] = [1, 2].map(|after| calls[at + after].clone());
        assert_eq!(ready, ("record".to_string(), ready.1, calls[at].1), "batch {batch}");
        assert_eq!(waits, ("stream_waits".to_string(), compute, ready.1), "batch {batch}");
        // The host has waited for the previous readers of the slot: for an event after all its launches and
        // before those of the last batch.
        let slot = &calls[at - 1];
        assert_eq!(slot.0, "host_waits", "batch {batch}");
        if batch >= 2 {
            let recorded = (0..at).rfind(|&at| calls[at] == ("record".to_string(), slot.1, compute)).unwrap();
            let last_launch = (0..uploads[batch - 1])
                .rfind(|&at| calls[at].1 == compute && !["record", "stream_waits"].contains(&&*calls[at].0))
                .unwrap();
            assert!((last_launch..uploads[batch - 1]).contains(&recorded), "batch {batch}");
        }
        slots.push(slot.1);
    }
    assert!(slots[0] != slots[1] && slots.windows(3).all(|three| three[0] == three[2]), "{slots:?}");
}

#[test]
fn a_training_set_that_does_not_fit_is_named_with_a_remedy() {
    let Some(stub) = stub() else { return };
    let fixture = Fixture::new();
    let Some(calls) = calls(&fixture, stub) else { return };
    let before = calls.named("begin_capture")[0];
    // The training set is allocated last.
    let allocations = calls.named("allocate").into_iter().filter(|&at| at < before).count();
    let error = fixture.refusal("cuda", stub, &[("STUB_ALLOCATIONS", &(allocations - 1).to_string())]);
    let parts =
        ["keep the graphs and captions of 101 training images: ", "MiB more do not fit", "--batch-size"];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}

/// Validation copies each batch's embeddings into those of the split, downloads these once, and uploads
/// nothing but caption vectors.
#[test]
fn validation_leaves_embeddings_on_the_gpu() {
    let Some(stub) = stub() else { return };
    let fixture = Fixture::new();
    let Some(Calls(calls)) = calls(&fixture, stub) else { return };
    let last_step = calls.iter().rposition(|call| call.0 == "launch_graph").unwrap();
    let copies: Vec<usize> = (last_step..calls.len()).filter(|&at| calls[at].0 == "copy").collect();
    assert!(copies.len() > 1, "several batches of the validation split: {copies:?}");
    let compute = calls[last_step].1;
    let between = &calls[copies[0]..=copies[copies.len() - 1]];
    assert!(!between.iter().any(|call| call.0 == "download"), "{between:?}");
    // The correlations end with their memory; a checkpoint follows.
    let after = &calls[copies[copies.len() - 1]..];
    let after = &after[..after.iter().position(|call| call.0 == "free").unwrap()];
    let count = |name: &str| after.iter().filter(|call| call.0 == name && call.1 == compute).count();
    // The split, then counts and moments of the only strip of rows.
    assert_eq!((count("upload"), count("download")), (1, 3), "{after:?}");
}

/// The device's kernels correlate rows; the CPU correlates all pairs.
#[test]
fn rows_are_correlated_by_kernels_and_all_pairs_by_the_cpu() {
    let Some(stub) = stub() else { return };
    let fixture = Fixture::new();
    if calls(&fixture, stub).is_none() {
        return;
    }
    let run = fixture.folder.path().join("run");
    let evaluate = |device: &str| -> serde_json::Value {
        let mut command = scenerank();
        command.arg("evaluate").arg(&run).args(["--device", device, "--json"]);
        command.env("LD_LIBRARY_PATH", stub);
        let evaluation: serde_json::Value =
            serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap();
        // Embeddings of this baseline are drawn, so kernels that do nothing do not change them.
        let rows = evaluation["rows"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == "normal features").unwrap().clone()
    };
    let (cpu, cuda) = (evaluate("cpu"), evaluate("cuda"));
    assert_eq!(cuda["all_pairs"], cpu["all_pairs"]);
    // The stub's kernels count nothing.
    assert_ne!(cuda["per_image"], cpu["per_image"]);
}

/// No kernel of the stub writes anything, so both families are wrong.
#[test]
fn a_gpu_whose_products_by_wgmma_are_wrong_says_so_and_takes_mma() {
    let Some(stub) = stub() else { return };
    let fixture = Fixture::new();
    let cache = fixture.folder.path().join("cache");
    let kept = cache.join("scenerank").join(format!("kernels-{}.json", "ab".repeat(16)));
    let log = fixture.folder.path().join("calls");
    // Lines about the choice, products by wgmma that were launched, and the family in the run's record.
    let train = |words: &[&str], settings: &[(&str, &str)]| {
        let _ = std::fs::remove_file(&log);
        let place = [("XDG_CACHE_HOME", cache.to_str().unwrap()), ("STUB_LOG", log.to_str().unwrap())];
        let settings: Vec<_> = place.into_iter().chain(settings.iter().copied()).collect();
        let output = fixture.train("cuda", stub, &settings).args(words).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        if text.contains(NO_KERNELS) {
            println!("skipped: {NO_KERNELS} for its kernels");
            return None;
        }
        assert!(output.status.success(), "{text}");
        let said: Vec<String> =
            text.lines().filter(|line| line.contains("wgmma")).map(str::to_string).collect();
        let by_wgmma = Calls::read(&log).positions(of_warpgroups).len();
        let record = std::fs::read_to_string(fixture.folder.path().join("run/run.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        Some((said, by_wgmma, record["commands"][0]["kernels"].clone()))
    };
    let Some((said, checked, family)) = train(&["--precision", "bf16"], &[]) else { return };
    let [line] = &said[..] else { panic!("{said:?}") };
    let parts = [
        "kernels auto: mma.sync, since wgmma is wrong on this GPU: ",
        " of linear_",
        "differs by NaN from mma.sync's",
    ];
    assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    assert_eq!(family, "mma");
    // Ten products with four tiles.
    assert_eq!(checked, 40);
    assert!(std::fs::read_to_string(&kept).unwrap().contains("stub 0"));
    // The next command finds the choice.
    assert_eq!(train(&["--precision", "bf16"], &[]), Some((said, 0, family)));
    // Another driver asks for another check.
    assert_eq!(train(&["--precision", "bf16"], &[("STUB_VERSION", "13010")]).unwrap().1, 40);
    std::fs::remove_file(&kept).unwrap();
    // No choice, and nothing said: a named family, other formats, another GPU.
    let silent = [
        (&["--precision", "bf16", "--kernels", "mma"][..], "9"),
        (&["--precision", "bf16x3", "--kernels", "mma"], "9"),
        (&["--precision", "fp32"], "9"),
        (&["--precision", "bf16"], "10"),
        (&["--precision", "bf16x3"], "10"),
    ];
    for (words, capability) in silent {
        let (said, by_wgmma, _) = train(words, &[("STUB_CAPABILITY", capability)]).unwrap();
        assert_eq!((said, by_wgmma), (Vec::new(), 0), "{words:?}");
    }
    assert!(!kept.exists());
    // Nor does the bench check what is named.
    let bench = |kernels, batch_size| {
        let _ = std::fs::remove_file(&log);
        let mut command = scenerank();
        command.args([
            "bench",
            "--device",
            "cuda",
            "--size",
            "small",
            "--batch-size",
            batch_size,
            "--precision",
            "bf16",
        ]);
        command.args(["--kernel", "adam_step", "--kernels", kernels]).env("LD_LIBRARY_PATH", stub);
        command.env("XDG_CACHE_HOME", &cache).env("STUB_LOG", &log).output().unwrap();
        (Calls::read(&log).positions(of_warpgroups).len(), kept.exists())
    };
    assert_eq!(bench("mma", "2"), (0, false));
    assert_eq!(bench("auto", "2"), (40, true));
    // Batches of another size ask for another check.
    assert_eq!(bench("auto", "64"), (40, true));
    assert_eq!(["2", "64"].map(|batch_size| bench("auto", batch_size)), [(0, true); 2]);
    // The other format has its own check.
    let (said, by_wgmma, family) = train(&["--precision", "bf16x3"], &[]).unwrap();
    assert!(said.len() == 1 && by_wgmma == 40 && family == "mma", "{said:?} {by_wgmma} {family}");
    // A named family is not checked.
    for precision in ["bf16", "bf16x3"] {
        let (said, by_wgmma, family) = train(&["--precision", precision, "--kernels", "wgmma"], &[]).unwrap();
        assert!(said.is_empty() && by_wgmma > 0 && family == "wgmma", "{said:?} {by_wgmma} {family}");
    }
}
