//! `--kernels`: the family of products stands in a run's record, and a continued run keeps it.

use std::fs;

use crate::emulated_commands::{assert_steps_agree, emulator_is_there, write_step};
use crate::program::{Workplace, refuse, run, run_json};
use crate::support::SMALL;
use scenerank::backend::kernels::Kernels;
use scenerank::files::tensor_file::TensorFile;
use scenerank::train::run_record::RunRecord;
use serde_json::Value;
use tempfile::TempDir;

/// A network of one layer, in few large batches: the emulated tiles of wgmma have 128 rows.
const NETWORK: [&str; 8] =
    ["--layers", "1", "--state-width", "12", "--hidden-width", "16", "--batch-size", "32"];

impl Workplace {
    /// Arguments that train `name` in bf16, or continue it.
    fn in_bf16<'a>(&'a self, name: &str, more: &[&'a str]) -> Vec<String> {
        let place = ["train", self.data.to_str().unwrap(), "--out", &self.text(name)].map(String::from);
        let begins = ["--precision", "bf16", "--learning-rate", "1e-3"];
        let begins = NETWORK.iter().chain(&begins).filter(|_| !more.contains(&"--resume"));
        place.into_iter().chain(begins.chain(more).map(|word| word.to_string())).collect()
    }

    /// Families in the record of a run: in its checkpoint and its options, and of each command.
    fn families(&self, name: &str) -> (Kernels, String, Vec<Option<Kernels>>) {
        let settings = fs::read_to_string(self.path(name).join("config.toml")).unwrap();
        let line = settings.lines().find(|line| line.starts_with("kernels")).unwrap().to_string();
        let record = RunRecord::read(&self.path(name)).unwrap().unwrap();
        let of_commands = record.commands.iter().map(|command| command.kernels).collect();
        (self.last(name).config.train.kernels, line, of_commands)
    }
}

#[test]
fn a_continued_run_keeps_its_family() {
    if !emulator_is_there() {
        return;
    }
    let place = Workplace::new();
    let on_emulator = |name, more: &[&str]| {
        let words = [&["--device", "emulated"], more].concat();
        run(place.in_bf16(name, &words));
    };
    on_emulator("two", &["--epochs", "1", "--kernels", "wgmma"]);
    let wgmma = || (Kernels::Wgmma, "kernels = \"wgmma\"".to_string());
    let (checkpoint, settings, commands) = place.families("two");
    assert_eq!(((checkpoint, settings), commands), (wgmma(), vec![Some(Kernels::Wgmma)]));

    let refused = |more: &[&str], parts: &[&str]| {
        refuse(place.in_bf16("two", &[&["--resume", "--epochs", "2"], more].concat()), parts);
    };
    let parts = ["--resume: --kernels is \"wgmma\" in the run, now \"mma\"", "train a new run"];
    refused(&["--device", "emulated", "--kernels", "mma"], &parts);
    refused(&["--device", "cpu"], &["device cpu", "not by wgmma", "--device cuda or emulated"]);
    on_emulator("two", &["--resume", "--epochs", "2"]);
    // `auto` names no family.
    on_emulator("two", &["--resume", "--epochs", "3", "--kernels", "auto"]);
    let (checkpoint, settings, commands) = place.families("two");
    assert_eq!(((checkpoint, settings), commands), (wgmma(), vec![Some(Kernels::Wgmma); 3]));

    on_emulator("whole", &["--epochs", "3", "--kernels", "wgmma"]);
    let [two, whole] = ["two", "whole"].map(|name| place.last(name));
    assert_eq!(two.tensors, whole.tensors);
    assert_eq!(two.moments, whole.moments);
}

#[test]
fn a_run_that_recorded_no_family_continues_by_mma() {
    if !emulator_is_there() {
        return;
    }
    let place = Workplace::new();
    run(place.in_bf16("run", &["--device", "cpu", "--epochs", "1"]));
    assert_eq!(place.families("run"), (Kernels::Auto, "kernels = \"auto\"".into(), vec![None]));
    let resume = ["--resume", "--epochs", "2", "--device", "emulated"];
    let parts = ["--resume: --kernels is \"auto\" in the run, now \"wgmma\""];
    refuse(place.in_bf16("run", &[&resume[..], &["--kernels", "wgmma"]].concat()), &parts);
    run(place.in_bf16("run", &[&resume[..], &["--kernels", "mma"]].concat()));
    let record = (Kernels::Mma, "kernels = \"mma\"".into(), vec![None, Some(Kernels::Mma)]);
    assert_eq!(place.families("run"), record);
    // On the emulator `auto` is mma.
    run(place.in_bf16("new", &["--device", "emulated", "--epochs", "1"]));
    assert_eq!(place.families("new"), (Kernels::Mma, "kernels = \"mma\"".into(), vec![Some(Kernels::Mma)]));
}

#[test]
fn a_family_that_cannot_run_is_refused() {
    let place = Workplace::new();
    let refused = |words: &[&str], parts: &[&str]| {
        refuse(place.in_bf16("run", words), parts);
        let bench = ["bench", "--kernel", "step", "--size", "small", "--precision", "bf16"];
        refuse([&bench, words].concat(), parts);
    };
    let parts = ["device cpu", "without tensor cores", "mma", "--kernels auto"];
    refused(&["--device", "cpu", "--kernels", "mma"], &parts);
    refused(&["--device", "cpu", "--kernels", "wgmma"], &parts);
    let words = ["--device", "emulated", "--kernels", "wgmma"];
    let parts =
        ["--kernels: wgmma multiplies in bf16 and bf16x3, and the precision is fp32", "--precision bf16"];
    refuse([&["bench", "--kernel", "step"], &words[..]].concat(), &parts);
    refuse(["bench", "--roofline", "--kernels", "wgmma"], &parts);
}

#[test]
fn a_step_by_wgmma_agrees_with_mma() {
    if !emulator_is_there() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_step(&path("in"), SMALL);
    let step = |precision: &str, kernels: &str| {
        let [input, output] = ["in", kernels].map(|name| path(name).display().to_string());
        let place = ["--device", "emulated", "--precision", precision, "--kernels", kernels];
        run([&["step", &input, &output], &place[..]].concat());
        TensorFile::read(path(kernels)).unwrap()
    };
    // A sum in another order may round to the neighbour in bf16, a relative distance of at most 2^-7. In bf16x3 it may change the
    // low half of an operand, and a ReLU's decision: the limit is that of gradients in this format (docs/determinism.md). The oracle
    // compares at equal decisions.
    for (precision, tolerance) in [("bf16", 2f64.powi(-7)), ("bf16x3", 1e-3)] {
        assert_steps_agree(&step(precision, "wgmma"), &step(precision, "mma"), tolerance);
    }
}

/// The launches of a step that `bench` times are those of the family; with `auto`, it times both.
#[test]
fn bench_times_a_step_of_each_family() {
    if !emulator_is_there() {
        return;
    }
    for (kernels, wanted) in [("auto", &["mma", "wgmma"][..]), ("mma", &["mma"]), ("wgmma", &["wgmma"])] {
        let words =
            ["bench", "--kernel", "step", "--timeline", "--budget", "1", "--batch-size", "1", "--json"];
        let family = ["--device", "emulated", "--precision", "bf16", "--kernels", kernels];
        let report = run_json([&words[..], &family].concat());
        assert_eq!(report["families"], Value::from(wanted));
        let steps = report["kernels"].as_array().unwrap();
        let families: Vec<&Value> = steps.iter().map(|step| &step["family"]).collect();
        assert_eq!(families, wanted);
        for step in steps {
            let launches = step["timeline"]["kernels"].as_array().unwrap();
            let products: Vec<&str> = launches
                .iter()
                .map(|launch| launch["kernel"].as_str().unwrap())
                .filter(|kernel| kernel.starts_with("linear_"))
                .collect();
            assert!(!products.is_empty());
            let has_warpgroups = step["family"] == "wgmma";
            let of_warpgroups = |kernel: &&str| kernel.contains("_64x") || kernel.contains("_128x");
            assert!(products.iter().all(|kernel| of_warpgroups(kernel) == has_warpgroups), "{products:?}");
        }
        // The choice of a GPU; the emulator makes none.
        assert!(report.get("choice").is_none(), "{report}");
    }
}

#[test]
fn bench_times_every_product_of_each_family_and_other_kernels_once() {
    if !emulator_is_there() {
        return;
    }
    let bench = |more: &[&'static str]| {
        let words =
            ["bench", "--device", "emulated", "--precision", "bf16", "--budget", "1", "--batch-size", "1"];
        let kernels = ["--kernel", "linear", "--kernel", "embedding"];
        [&words[..], &kernels, more].concat()
    };
    let entries = |kernels: &'static str| -> Vec<[String; 3]> {
        let report = run_json(bench(&["--json", "--kernels", kernels]));
        let entries = report["kernels"].as_array().unwrap().iter();
        let fields = ["name", "shape", "family"];
        entries.map(|entry| fields.map(|field| entry[field].as_str().unwrap().to_string())).collect()
    };
    let (both, mma, wgmma) = (entries("auto"), entries("mma"), entries("wgmma"));
    let of = |family: &str| -> Vec<[String; 3]> {
        both.iter().filter(|[_, _, of]| of == "auto" || of == family).cloned().collect()
    };
    assert_eq!(of("mma"), mma);
    assert_eq!(of("wgmma"), wgmma);
    let products: Vec<&[String; 3]> = both.iter().filter(|[name, ..]| name.starts_with("linear_")).collect();
    assert!(!products.is_empty() && products.len() < both.len());
    for pair in products.chunks(2) {
        let [[name, shape, family], [name_of_other, shape_of_other, other]] = pair else {
            panic!("{pair:?}")
        };
        assert_eq!((name, shape, &**family), (name_of_other, shape_of_other, "mma"));
        assert_eq!(other, "wgmma");
    }
    // The family stands in the row.
    let text = run(bench(&[]));
    for begin in ["linear_forward by mma.sync [", "linear_forward by wgmma [", "embedding_forward "] {
        assert!(text.lines().any(|line| line.starts_with(begin)), "{begin} in {text}");
    }
}
