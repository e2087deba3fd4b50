//! Runs of a reproduction one by one, as schedulers start them: `--plan`, `--only`, `--collect`, and `train --resume-if-any`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use crate::program::{SMALL_NETWORK, Workplace, refuse, run, run_json, scenerank};
use crate::run_folder::processes::start;
use scenerank::report::run_log::METRICS;
use scenerank::train::checkpoint::{BEST, LAST};
use serde_json::Value;

impl Workplace {
    /// Runs of `--plan --json`.
    fn plan(&self, out: &str, more: &[&str]) -> Vec<Value> {
        let plan = run_json(self.reproduce_arguments(out, &[more, &["--plan", "--json"]].concat()));
        plan.as_array().unwrap().clone()
    }

    /// Exit code, standard output and standard error of `--only`.
    fn only(&self, out: &str, which: &str, more: &[&str]) -> (i32, String, String) {
        let arguments = self.reproduce_arguments(out, &[more, &["--only", which]].concat());
        let output = scenerank().args(arguments).output().unwrap();
        let [words, errors] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code().unwrap(), words, errors)
    }
}

fn states(plan: &[Value]) -> Vec<&str> {
    plan.iter().map(|run| run["status"].as_str().unwrap()).collect()
}

fn written(file: &Path) -> SystemTime {
    fs::metadata(file).unwrap().modified().unwrap()
}

/// The script of the Slurm array starts half of the runs, with `srun` replaced by a script that only runs the program.
#[test]
fn runs_one_by_one_give_the_report_of_all_at_once() {
    let work = Workplace::new();
    let settings = ["--epochs", "1", "--subset", "140", "--ablations", "l2-norm"];
    work.reproduce("whole", &settings);

    let plan = work.plan("parts", &settings);
    assert_eq!(states(&plan), ["missing"; 13]);
    assert!(!work.path("parts/runs").exists());
    for (index, run) in plan.iter().enumerate() {
        assert_eq!(run["index"], index);
        assert_eq!(run["settings"]["layers"], 2);
        assert_eq!(run["settings"]["epochs"], 1);
    }
    assert_eq!(plan[12]["name"], "l2-norm-off-seed1");
    assert_eq!(plan[12]["settings"]["l2-norm"], false);

    let bin = work.path("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(assert_cmd::cargo::cargo_bin("scenerank"), bin.join("scenerank")).unwrap();
    fs::write(bin.join("srun"), "while [ \"${1#--}\" != \"$1\" ]; do shift; done\nexec \"$@\"\n").unwrap();
    Command::new("chmod").arg("+x").arg(bin.join("srun")).status().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let task = |index: usize| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cluster/reproduce.sbatch");
        let arguments = work.reproduce_arguments("parts", &settings);
        let [data, out, options] = [&arguments[1..2], &arguments[3..4], &arguments[4..]];
        let variables = [("PATH", path.as_str()), ("SLURM_CPUS_PER_TASK", "1"), ("SLURM_ARRAY_JOB_ID", "1")];
        let output = Command::new("bash")
            .arg(script)
            .args(data.iter().chain(out).chain(options))
            .envs(variables)
            .env("SLURM_ARRAY_TASK_ID", index.to_string())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let by_name = |index: usize| {
        let (code, words, errors) = work.only("parts", plan[index]["name"].as_str().unwrap(), &settings);
        assert_eq!(code, 0, "{errors}");
        assert!(words.contains(": done; "), "{words}");
    };
    // Two processes at a time.
    std::thread::scope(|scope| {
        scope.spawn(|| (0..6).for_each(task));
        scope.spawn(|| (6..13).for_each(by_name));
    });
    assert_eq!(states(&work.plan("parts", &settings)), ["done"; 13]);
    let table = run(work.reproduce_arguments("parts", &[&settings[..], &["--plan"]].concat()));
    assert!(table.contains("ranking-reject-seed1") && table.contains(" done ") && table.contains("layers 2"));

    // Another attempt leaves a finished run as it is.
    let kept =
        ["result.json", LAST, "run.json"].map(|name| work.path("parts/runs/infonce-reject-seed1").join(name));
    let before = kept.each_ref().map(|file| written(file));
    assert_eq!(work.only("parts", "infonce-reject-seed1", &settings).0, 0);
    assert_eq!(kept.each_ref().map(|file| written(file)), before);

    run(work.reproduce_arguments("parts", &[&settings[..], &["--collect"]].concat()));
    let [whole, parts] = ["whole", "parts"].map(|out| {
        let mut report = work.report(out);
        let about = report["about"].as_object_mut().unwrap();
        ["command", "date", "seconds"]
            .iter()
            .for_each(|&name| assert!(about.remove(name).is_some(), "{name}"));
        report
    });
    assert_eq!(parts, whole);
}

#[test]
fn one_process_at_a_time_works_on_a_run() {
    let work = Workplace::new();
    let name = "triplet-random-seed1";
    let settings = ["--epochs", "100000"];
    let arguments = work.reproduce_arguments("report", &[&settings[..], &["--only", name]].concat());
    let folder = work.path("report/runs").join(name);
    let mut first = start(&arguments, &folder.join(BEST));
    refuse(&arguments, &[name, "folder: is in use by another process", "wait until"]);
    let state = |plan: Vec<Value>| plan.into_iter().find(|run| run["name"] == name).unwrap();
    assert_eq!(state(work.plan("report", &settings))["status"], "locked");

    Command::new("kill").args(["-TERM", &first.0.id().to_string()]).status().unwrap();
    assert_eq!(first.0.wait().unwrap().code(), Some(130));
    let found = state(work.plan("report", &settings));
    assert_eq!(found["status"], "resumable");
    assert!(found["epoch"].as_u64().unwrap() >= 1, "{found}");
    // A budget that is used up stops a run in the same way.
    let (code, _, errors) = work.only("report", name, &["--epochs", "100000", "--budget", "0s"]);
    assert_eq!(code, 130, "{errors}");
    assert!(errors.contains("run the same command again"), "{errors}");

    // The report of what is there trains nothing.
    let before = written(&folder.join(LAST));
    let (tables, _) = work.reproduce("report", &["--epochs", "100000", "--collect"]);
    let missing = tables["missing"].as_array().unwrap();
    assert_eq!(missing.len(), 12);
    assert!(missing.iter().any(|run| run["name"] == name && run["epochs"] == found["epoch"]));
    assert_eq!(
        (written(&folder.join(LAST)), fs::read_dir(work.path("report/runs")).unwrap().count()),
        (before, 1)
    );
}

/// A comparison of runs without the results that are times.
fn without_times(mut printed: Value) -> Value {
    let results = printed["comparison"]["results"].as_array_mut().unwrap();
    results.retain(|column| column["name"] != "seconds" && column["name"] != "graphs/s");
    printed
}

#[test]
fn a_run_that_diverged_is_not_trained_again() {
    let work = Workplace::new();
    let grid = work.text("grid.toml");
    fs::write(&grid, "learning-rate = [1e38, 1e-3]\n").unwrap();
    let settings = ["--epochs", "1", "--grid", &grid];
    let plan = work.plan("grid", &settings);
    let [wild, tame] = [0, 1].map(|index| plan[index]["name"].as_str().unwrap());
    let (code, words, errors) = work.only("grid", "0", &settings);
    assert_eq!((code, words.as_str()), (3, ""), "{errors}");
    assert!(errors.contains(&format!("{wild}: diverged: ")) && errors.contains(" became "), "{errors}");
    let (code, words, errors) = work.only("grid", tame, &[&settings[..], &["--json"]].concat());
    assert_eq!(code, 0, "{errors}");
    assert_eq!(serde_json::from_str::<Value>(&words).unwrap()["status"], "done");
    assert_eq!(states(&work.plan("grid", &settings)), ["diverged", "done"]);

    let record = work.path("grid/runs").join(wild).join("run.json");
    let before = written(&record);
    assert_eq!(work.only("grid", "0", &settings).0, 3);
    let collected =
        run_json(work.reproduce_arguments("grid", &[&settings[..], &["--collect", "--json"]].concat()));
    assert!(collected["missing"][0]["reason"].as_str().unwrap().contains(" became "), "{collected}");
    let again = run_json(work.reproduce_arguments("grid", &[&settings[..], &["--json"]].concat()));
    assert_eq!((again, written(&record)), (collected.clone(), before));
    // All at once gives the same.
    let mut whole = run_json(work.reproduce_arguments("whole", &[&settings[..], &["--json"]].concat()));
    let reason = whole["missing"][0]["reason"].as_str().unwrap().replace("whole/runs", "grid/runs");
    whole["missing"][0]["reason"] = reason.into();
    assert_eq!(without_times(whole), without_times(collected));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let work = Workplace::new();
    let refuse = |more: &[&str], parts: &[&str]| refuse(work.reproduce_arguments("none", more), parts);
    refuse(&["--only", "ranking"], &["--only: is ranking", "--plan lists", "from 0 to 11"]);
    refuse(&["--only", "12"], &["--only: is 12"]);
    refuse(&["--collect"], &["--collect: ", "none holds no runs", "train them first"]);
    assert!(!work.path("none").exists());
    for (options, named) in [
        (&["--plan", "--collect"][..], "--collect"),
        (&["--plan", "--only", "0"], "--only"),
        (&["--only", "0", "--collect"], "--collect"),
        (&["--only", "0", "--jobs", "2"], "--jobs"),
        (&["--collect", "--budget", "1h"], "--budget"),
        (&["--plan", "--jobs", "2"], "--jobs"),
    ] {
        let assert = scenerank().args(work.reproduce_arguments("none", options)).assert().code(2);
        let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(text.contains("cannot be used with") && text.contains(named), "{text}");
    }
}

#[test]
fn a_training_resumes_if_there_is_something_to_resume() {
    let work = Workplace::new();
    let arguments = |name: &str, more: &[&str]| {
        let words = ["train", &work.data.display().to_string(), "--out", &work.text(name)].map(String::from);
        let options = SMALL_NETWORK.iter().chain(&["--resume-if-any", "--device", "cpu"]).chain(more);
        words.into_iter().chain(options.map(ToString::to_string)).collect::<Vec<_>>()
    };
    run(arguments("whole", &["--epochs", "2"]));
    let mut first = start(&arguments("parts", &["--epochs", "100000"]), &work.path("parts").join(METRICS));
    Command::new("kill").args(["-TERM", &first.0.id().to_string()]).status().unwrap();
    assert_eq!(first.0.wait().unwrap().code(), Some(130));
    let epochs = (work.last("parts").progress.epoch + 1).max(2).to_string();
    run(arguments("parts", &["--epochs", &epochs]));
    run(arguments("whole", &["--epochs", &epochs]));
    assert_eq!(work.last("parts").tensors, work.last("whole").tensors);

    // A finished run stays as it is; other options are refused, as with --resume.
    let before = fs::read(work.path("whole").join(LAST)).unwrap();
    run(arguments("whole", &["--epochs", &epochs]));
    refuse(arguments("whole", &["--seed", "2"]), &["--seed is 1 in the run, now 2"]);
    assert!(before == fs::read(work.path("whole").join(LAST)).unwrap());
    scenerank().args(arguments("whole", &["--resume"])).assert().code(2);
}
