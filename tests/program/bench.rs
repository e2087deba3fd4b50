//! The bench: every launcher has its cases, correct ones are timed and wrong ones are not, and the JSON
//! reports both.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::program::{refuse, run_json};
use scenerank::backend::cuda::launchers;
use scenerank::backend::cuda::launchers::linear::Format;
use scenerank::backend::device::{Device, Precision};
use scenerank::backend::kernels::Kernels;
use scenerank::bench::baseline::{Baseline, Verdict};
use scenerank::bench::case::{Case, Cost};
use scenerank::bench::entry::{Entry, EntryTimes};
use scenerank::bench::report::Grids;
use scenerank::bench::sizes::{SMALL, Sizes};
use scenerank::bench::{BenchOptions, cases, run, run_cases, run_with};
use scenerank::network::config::ModelConfig;
use scenerank_matmul::Amx;
use serde_json::Value;

/// Whether the emulator is built; reports a skip if not.
fn emulator() -> bool {
    let device = launchers::emulated(None);
    if let Err(error) = &device {
        println!("skipped: {error}");
    }
    device.is_ok()
}

fn options(device: Device, kernels: &[&str]) -> BenchOptions {
    BenchOptions {
        device,
        precision: Precision::Fp32,
        family: Kernels::Auto,
        model: SMALL,
        batch_sizes: vec![1],
        kernels: kernels.iter().map(|name| name.to_string()).collect(),
        budget: Duration::from_millis(1),
        grids: Grids::Training,
        timeline: false,
        threads: Vec::new(),
    }
}

/// Functions in `src/backend/cuda` that begin with `pub fn NAME(device: &Device` or `pub fn
/// NAME<TYPES>(device: &Device`, except those that measure peak rates.
fn launchers(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).expect("the launchers' folder") {
        let path = entry.expect("a file").path();
        if path.is_dir() {
            found.extend(launchers(&path));
            continue;
        }
        if path.file_name().is_some_and(|name| name == "ceilings.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source file");
        for part in text.split("\npub fn ").skip(1) {
            let (name, rest) = part.split_once('(').expect("arguments");
            if rest.trim_start().starts_with("device: &Device") {
                let name = name.split('<').next().expect("a name before its types");
                found.insert(name.to_string());
            }
        }
    }
    found
}

#[test]
fn every_launcher_has_a_case() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/cuda");
    if !folder.exists() {
        println!("skipped: the sources are not here");
        return;
    }
    let launchers = launchers(&folder);
    assert!(launchers.len() >= 20, "{launchers:?}");
    let with_case: BTreeSet<String> =
        cases::all(&Sizes::new(SMALL, 1), Format::Fp32).iter().map(|case| case.kernel.to_string()).collect();
    assert_eq!(launchers, with_case, "launchers, and those with a case");
}

/// The formulas need no device. The minimum time is the longer of the times for bytes and operations at peak
/// rates.
#[test]
fn a_roofline_runs_nothing() {
    let report =
        run_json(["bench", "--roofline", "--precision", "bf16", "--batch-size", "1", "16", "--json"]);
    assert_eq!((&report["device"], &report["timing"]), (&"none".into(), &"nothing ran".into()));
    let entries = report["kernels"].as_array().unwrap();
    let cases = cases::all(&Sizes::new(ModelConfig::PAPER, 16), Format::Bf16);
    assert_eq!(entries.len(), 2 * cases.len());
    for (entry, case) in entries[cases.len()..].iter().zip(&cases) {
        assert_eq!((&entry["name"], &entry["batch_size"]), (&case.kernel.into(), &16.into()));
        let bytes_ms = case.cost.bytes as f64 / 4.3e9;
        let rate = if case.format == Format::Fp32 { 67e9 } else { 490e9 };
        let floor = bytes_ms.max(case.cost.flops as f64 / rate);
        assert!((entry["floor_ms"].as_f64().unwrap() - floor).abs() <= 1e-9 * floor, "{entry}");
        assert!(entry["ms"].is_null() && entry["error"].is_null() && entry["ok"] == true, "{entry}");
        // What is likely is more than the minimum and the chain, and grids are planned.
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("a number in {entry}"));
        assert_eq!(entry["chain"]["steps"], case.chain.steps);
        assert!(number(&entry["blocks"]) >= 1.0 && number(&entry["waves"]) > 0.0, "{entry}");
        let likely = number(&entry["likely_ms"]);
        assert!(likely > floor && likely > case.chain.micros() / 1e3, "{entry}");
    }
    // Chains that grow with the batch would show here: no block walks a list that grows with it.
    let chains = |half: &[Value]| -> Vec<u64> {
        half.iter().map(|entry| entry["chain"]["steps"].as_u64().unwrap()).collect()
    };
    let (few, many) = entries.split_at(cases.len());
    let grown = chains(few).into_iter().zip(chains(many)).filter(|(few, many)| *many > 3 * few + 20);
    assert_eq!(grown.count(), 0, "steps of chains at 1 and at 16 triples");
    refuse(["bench", "--roofline", "--precision", "fp64"], &["--precision"]);
}

#[test]
fn the_emulator_runs_every_case_once_and_all_are_right() {
    if !emulator() {
        return;
    }
    every_case_once_and_right(["fp32", "auto"], Format::Fp32);
    every_case_once_and_right(["bf16", "mma"], Format::Bf16);
}

fn every_case_once_and_right([precision, kernels]: [&str; 2], format: Format) {
    let device = ["--device", "emulated", "--precision", precision, "--kernels", kernels];
    let report =
        run_json(["bench", "--batch-size", "1", "--budget", "1", "--json"].into_iter().chain(device));
    assert_eq!((&report["device"], &report["timing"]), (&"emulated".into(), &"wall clock".into()));
    assert_eq!(report["precision"], precision);
    assert!(report["ceilings"].is_null(), "an emulator has none");
    assert_eq!(report["grids"], "training");
    for field in ["commit", "kernels", "rustc"] {
        assert!(!report["build"][field].as_str().unwrap().is_empty(), "{field}");
    }
    for field in ["single_us", "in_graph_us", "overlapped_us"] {
        assert!(report["empty_launches"][field].as_f64().unwrap() > 0.0, "{field}");
    }
    let entries = report["kernels"].as_array().unwrap();
    let mut seen = BTreeSet::new();
    for entry in entries {
        let text = |field: &str| entry[field].as_str().unwrap().to_string();
        let number = |field: &str| entry[field].as_f64().unwrap_or_else(|| panic!("{field} of {entry}"));
        assert!(seen.insert((text("name"), text("shape"))), "twice: {entry}");
        assert_eq!(entry["ok"], true, "{entry}");
        assert!(number("ms_low") <= number("ms") && number("ms") <= number("ms_high"), "{entry}");
        assert!(number("ms_low") > 0.0 && number("samples") >= 3.0, "{entry}");
        assert!(entry["share"].is_null() && entry["floor_ms"].is_null(), "{entry}");
        if entry["name"] == "step" {
            assert!(number("flops") > 0.0 && entry["phases"]["backward"].as_f64().unwrap() > 0.0, "{entry}");
        } else {
            assert!(number("error") <= number("tolerance"), "{entry}");
            assert!(number("warm_ms") > 0.0, "{entry}");
            let per_second = number("bytes") / number("ms") / 1e6;
            assert!((number("gb_per_s") - per_second).abs() <= 1e-9 * per_second, "{entry}");
        }
    }
    let wanted: BTreeSet<(String, String)> = cases::all(&Sizes::new(SMALL, 1), format)
        .into_iter()
        .map(|case| (case.kernel.to_string(), case.shape))
        .collect();
    let steps: BTreeSet<_> = seen.difference(&wanted).collect();
    assert_eq!(steps.len(), 1, "{steps:?}");
    assert_eq!((steps.first().unwrap().0.as_str(), seen.len()), ("step", wanted.len() + 1));
}

#[test]
fn the_cpu_has_the_step() {
    let arguments =
        ["bench", "--device", "cpu", "--batch-size", "4", "--size", "small", "--budget", "1", "--json"];
    let report = run_json(arguments);
    let entries = report["kernels"].as_array().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["name"], "step");
    assert_eq!(entries[0]["batch_size"], 4);
    assert!(entries[0]["ms"].as_f64().unwrap() > 0.0);
    assert_eq!(report["model"]["state-width"], SMALL.state_width);
    // The products make up the step's operations.
    let products = entries[0]["processor"]["products"].as_array().unwrap();
    let flops: u64 = products.iter().map(|product| product["flops"].as_u64().unwrap()).sum();
    assert_eq!(flops, entries[0]["flops"].as_u64().unwrap());
    assert!(entries[0]["floor_ms"].as_f64().unwrap() > 0.0);

    let on_threads = run_json(arguments.into_iter().chain(["--threads", "1", "2"]));
    let threads: Vec<_> = on_threads["kernels"].as_array().unwrap().iter().collect();
    let numbers: Vec<_> =
        threads.iter().map(|entry| entry["processor"]["threads"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2]);
}

/// A processor that multiplies in bf16 is timed. One that only rounds is not.
#[test]
fn the_cpu_is_timed_in_bf16_if_it_multiplies_in_it() {
    let arguments = ["bench", "--device", "cpu", "--size", "small", "--budget", "1", "--precision", "bf16"];
    if Amx::new().is_none() {
        return refuse(arguments, &["cpu", "bf16", "AMX", "--precision"]);
    }
    let report = run_json(arguments.into_iter().chain(["--json"]));
    assert_eq!(report["precision"], "bf16");
    let entry = &report["kernels"][0];
    let products = entry["processor"]["products"].as_array().unwrap();
    let flops: u64 = products.iter().map(|product| product["flops"].as_u64().unwrap()).sum();
    assert_eq!(flops, entry["flops"].as_u64().unwrap());
}

#[test]
fn products_are_right_in_every_format_within_their_tolerance() {
    if !emulator() {
        return;
    }
    let mut of_fp32 = 0.0;
    for (precision, operands) in
        [(Precision::Fp32, 0.0), (Precision::Bf16x3, 2f64.powi(-17)), (Precision::Bf16, 2f64.powi(-8))]
    {
        let report = run(&BenchOptions { precision, ..options(Device::Emulated, &["linear"]) }).unwrap();
        assert_eq!(report.exit_code(), 0, "{precision}: {}", report.text());
        let errors = report.kernels.iter().filter_map(|entry| entry.error);
        let largest = errors.fold(0.0, f64::max);
        if precision == Precision::Fp32 {
            of_fp32 = largest;
        } else {
            // Only the kernels of this format ran.
            assert!(largest > 2.0 * of_fp32 && largest > 0.1 * operands, "{precision}: {largest:.1e}");
        }
    }
}

#[test]
fn a_kernel_a_file_and_the_step_can_be_chosen() {
    if !emulator() {
        return;
    }
    let names = |kernels: &[&str]| -> BTreeSet<String> {
        let report = run(&options(Device::Emulated, kernels)).unwrap();
        report.kernels.into_iter().map(|entry| entry.name).collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>();
    assert_eq!(names(&["readout"]), set(&["readout", "readout_loss"]));
    let two = BenchOptions { batch_sizes: vec![1, 2], ..options(Device::Emulated, &["readout_loss"]) };
    let sizes: Vec<usize> = run(&two).unwrap().kernels.iter().map(|entry| entry.batch_size).collect();
    assert_eq!(sizes, [1, 2]);
    assert_eq!(names(&["adam_step", "step"]), set(&["adam_step", "step"]));
    assert_eq!(
        names(&["linear_forward", "edge_pool_forward"]),
        set(&[
            "linear_forward",
            "linear_forward_gather",
            "linear_forward_two",
            "linear_forward_unit",
            "edge_pool_forward"
        ])
    );
}

/// The file holds the entries that were finished so far; a comparison with itself is undecided.
#[test]
fn a_report_is_written_after_each_kernel_and_compared() {
    if !emulator() {
        return;
    }
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("bench.json");
    let chosen = BenchOptions { batch_sizes: vec![1, 2], ..options(Device::Emulated, &["readout"]) };
    let mut counts = Vec::new();
    let report = run_with(&chosen, cases::all, &mut |report| {
        report.write(&path)?;
        let read: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        counts.push(read["kernels"].as_array().unwrap().len());
        Ok(())
    });
    assert_eq!(counts, [1, 2, 3, 4]);

    let baseline = Baseline::read(&path).unwrap();
    let mut report = report.unwrap();
    report.check_baseline(&baseline).unwrap();
    let same = baseline.compare(&report.kernels);
    assert!(same.changes.iter().all(|change| change.verdict == Verdict::Undecided), "{same:?}");
    assert_eq!((same.changes.len(), same.unmatched), (4, 0));
    assert_eq!((report.exit_code(), same.is_slower()), (0, false));

    // Half as fast and twice as fast, beyond the spread; one kernel is new.
    let times = |entry: &mut Entry, factor: f64| {
        let EntryTimes { ms, ms_low, ms_high, .. } = &mut entry.times;
        (*ms_low, *ms_high) = (ms_low.map(|ms| factor * ms), ms_high.map(|ms| factor * ms));
        *ms = ms.map(|ms| factor * ms);
    };
    times(&mut report.kernels[0], 1e3);
    times(&mut report.kernels[1], 1e-3);
    report.kernels[2].shape.push_str(", another");
    report.baseline = Some(baseline.compare(&report.kernels));
    let changed = report.baseline.as_ref().unwrap();
    let verdicts: Vec<Verdict> = changed.changes.iter().map(|change| change.verdict).collect();
    assert_eq!(verdicts, [Verdict::Slower, Verdict::Faster, Verdict::Undecided]);
    assert_eq!((changed.unmatched, report.exit_code()), (2, 3));
    let text = report.caption();
    let words = text.split_whitespace().collect::<Vec<&str>>().join(" ");
    let counts = "1 faster, 1 slower, 1 undecided by the spread, 2 without a counterpart";
    assert!(words.contains(counts), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");

    report.precision = Precision::Bf16;
    let error = report.check_baseline(&baseline).unwrap_err().to_string();
    assert!(error.contains("--baseline") && error.contains("fp32 before, bf16 now"), "{error}");
}

#[test]
fn the_command_writes_lists_and_compares() {
    if !emulator() {
        return;
    }
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("bench.json").display().to_string();
    let bench =
        ["bench", "--device", "emulated", "--kernel", "readout", "--batch-size", "1", "--budget", "1"];
    let first = run_json(bench.into_iter().chain(["--json", "--out", &path]));
    let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(written, first);
    let output = crate::program::scenerank()
        .args(bench.into_iter().chain(["--json", "--baseline", &path]))
        .output()
        .unwrap();
    let second: Value = serde_json::from_slice(&output.stdout).unwrap();
    let slower = second["baseline"]["changes"].as_array().unwrap().iter();
    let slower = slower.filter(|change| change["verdict"] == "slower").count();
    assert_eq!(output.status.code(), Some(if slower > 0 { 3 } else { 0 }), "{second}");

    let other = bench.into_iter().chain(["--precision", "bf16", "--baseline", &path]);
    refuse(other, &["--baseline", "fp32 before, bf16 now"]);
    fs::write(&path, "{}").unwrap();
    refuse(bench.into_iter().chain(["--baseline", &path]), &["--baseline", "bench --out"]);

    let names = run_json(["bench", "--list", "--json", "--precision", "bf16"]);
    let listed: BTreeSet<&str> =
        names.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    let all = cases::all(&Sizes::new(SMALL, 1), Format::Bf16);
    let wanted = all.iter().map(|case| case.kernel).chain(["step"]).collect::<BTreeSet<_>>();
    assert_eq!(listed, wanted);
}

/// A timeline costs nothing when it is off: the step has the same launches, none of which is measured.
#[test]
fn a_step_has_a_timeline_if_it_is_asked_for() {
    if !emulator() {
        return;
    }
    let of = |timeline| {
        let options =
            BenchOptions { timeline, precision: Precision::Bf16, ..options(Device::Emulated, &["step"]) };
        run(&options).unwrap()
    };
    assert!(of(false).kernels[0].timeline.is_none());
    let report = of(true);
    let timeline = report.kernels[0].timeline.as_ref().unwrap();
    let main = timeline.kernels.iter().filter(|span| !span.on_branch).map(|span| span.sum_us).sum::<f64>();
    let difference = main + timeline.between_us - timeline.step_us;
    assert!(difference.abs() <= 1e-6 * timeline.step_us, "{difference} us are missing");
    assert!(report.caption().contains("step, launches in series"), "{}", report.caption());
}

#[test]
fn bad_input_is_named_with_what_there_is() {
    refuse(
        ["bench", "--device", "cpu", "--kernel", "linear_foward"],
        &["--kernel", "\"linear_foward\"", "did you mean linear_forward?", "bench --list"],
    );
    refuse(["bench", "--device", "cpu", "--kernel", "linear"], &["--kernel", "--device emulated"]);
    refuse(["bench", "--device", "emulated", "--precision", "fp64"], &["emulated", "fp64", "--precision"]);
    refuse(["bench", "--device", "reference", "--threads", "2"], &["--threads", "reference", "--device cpu"]);
}

#[test]
fn a_wrong_kernel_is_not_timed_and_the_exit_code_says_so() {
    if !emulator() {
        return;
    }
    // Three times the limit, one value among thousands.
    let perturbed = |sizes: &Sizes, format: Format| -> Vec<Case> {
        let mut cases = cases::all(sizes, format);
        for case in cases.iter_mut().filter(|case| case.kernel == "l2_normalise_forward") {
            let prepare = std::mem::replace(&mut case.prepare, Box::new(|_| panic!()));
            case.prepare = Box::new(move |spare| {
                let mut prepared = prepare(spare);
                let expected = prepared.expected;
                prepared.expected = Box::new(move |host, written| {
                    let mut outputs = expected(host, written);
                    outputs[0].values[77] += 3.0 * outputs[0].limits[77];
                    outputs
                });
                prepared
            });
        }
        cases
    };
    for precision in [Precision::Fp32, Precision::Bf16] {
        let options = BenchOptions { precision, ..options(Device::Emulated, &["l2_normalise"]) };
        let report = run_cases(&options, perturbed).unwrap();
        assert_eq!(report.exit_code(), 1);
        let json = serde_json::to_value(&report).unwrap();
        let entries = json["kernels"].as_array().unwrap();
        let of = |name: &str| entries.iter().find(|entry| entry["name"] == name).unwrap();
        let wrong = of("l2_normalise_forward");
        assert_eq!(wrong["ok"], false);
        assert!(wrong["error"].as_f64().unwrap() > wrong["tolerance"].as_f64().unwrap());
        assert_eq!((&wrong["ms"], &wrong["samples"]), (&Value::Null, &0.into()));
        assert_eq!(of("l2_normalise_backward")["ok"], true);
        assert!(report.text().contains("\nWRONG: l2_normalise_forward "), "{}", report.text());
    }

    let unwritten = |sizes: &Sizes, format: Format| -> Vec<Case> {
        let mut cases = cases::all(sizes, format);
        for case in cases.iter_mut().filter(|case| case.kernel == "adam_step") {
            let prepare = std::mem::replace(&mut case.prepare, Box::new(|_| panic!()));
            case.prepare = Box::new(move |spare| {
                let mut prepared = prepare(spare);
                prepared.host.outputs[0] = vec![f32::NAN; prepared.host.outputs[0].len()];
                prepared.launch = Box::new(|_, _| Ok(()));
                prepared
            });
        }
        cases
    };
    let report = run_cases(&options(Device::Emulated, &["adam_step"]), unwritten).unwrap();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["kernels"][0]["ok"], &json["kernels"][0]["error"]), (&false.into(), &Value::Null));
    assert_eq!(report.exit_code(), 1);

    assert_eq!(run(&options(Device::Emulated, &["readout"])).unwrap().exit_code(), 0);
}

#[test]
fn costs_are_what_the_formulas_say() {
    let sizes = Sizes::new(ModelConfig::PAPER, 16);
    let [in_fp32, in_bf16] = [Format::Fp32, Format::Bf16].map(|format| cases::all(&sizes, format));
    let find = |cases: &[Case], kernel: &str, shape: &str| {
        let mut found = cases.iter().filter(|case| case.kernel == kernel && case.shape.starts_with(shape));
        let case = found.next().unwrap_or_else(|| panic!("{kernel} {shape}"));
        assert!(found.next().is_none(), "{kernel} {shape} twice");
        case.cost
    };
    let of = |kernel: &str, shape: &str| find(&in_fp32, kernel, shape);
    let of_bf16 = |kernel: &str, shape: &str| find(&in_bf16, kernel, shape);
    // 1,728 edges; 512 to 512 + 300 + 512 = 1,324 columns. Values: 1,728 * 512 = 884,736 of x, 512 * 1,324 =
    // 677,888 of the weight, 1,728 * 1,324 = 2,287,872 of y; 4 bytes each. Flops: 2 * 1,728 * 512 * 1,324.
    let heads = Cost { bytes: 15_401_984, flops: 2_342_780_928 };
    assert_eq!(of("linear_forward", "[1728, 512] -> 1324"), heads);
    assert_eq!(of_bf16("linear_forward", "[1728, 512] -> 1324"), Cost { bytes: heads.bytes / 2, ..heads });
    // The same again for d_x and d_W, without reading d_y twice.
    let gradients = Cost { bytes: 2 * 15_401_984 - 4 * 2_287_872, flops: 2 * 2_342_780_928 };
    assert_eq!(of("linear_backward", "[1728, 512] -> 1324"), gradients);
    // In bf16 everything except d_W is half as large.
    let gradients = Cost { bytes: gradients.bytes / 2 + 2 * 677_888, ..gradients };
    assert_eq!(of_bf16("linear_backward", "[1728, 512] -> 1324"), gradients);
    // 8,513,240 parameters (performance.md): 28 bytes each.
    assert_eq!(of("adam_step", "[8513240]"), Cost { bytes: 238_370_720, flops: 110_672_120 });
    // Twice d_pooled [1,056, 512], d_edge_state [1,728, 300], z [1,728, 1,324], 2 * 1,728 ends, 1,057 offsets and 4 * 1,324
    // values of batch norm: 3,356,753 values; 4 * 1,324 of sums, d_z [1,728, 1,324] written. Quotients: twice 2 * 1,728 * 512; 18
    // operations for each of 1,728 * 1,324.
    let pooled = Cost { bytes: 36_026_696, flops: 44_720_640 };
    assert_eq!(of("edge_pool_backward", "[1728, 1324]"), pooled);
    // Ends, offsets, batch norm and sums still have four bytes: 8,981,760 values of two bytes, and 24,914 of
    // four.
    assert_eq!(of_bf16("edge_pool_backward", "[1728, 1324]"), Cost { bytes: 18_063_176, ..pooled });
}
