//! A disk that is full from the nth write on, for every n: a command ends with one line and exit code 2, leaves old files as they
//! were and no temporary file, and works when there is room again. `write_errors/shim.c` refuses the writes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::c_library::compile;
use crate::program::{SMALL_NETWORK, Workplace, run};

/// Builds the shim; reports a skip and returns `None` without a C compiler.
fn shim(folder: &Path) -> Option<PathBuf> {
    compile("write_errors/shim.c", folder.join("shim.so"))
}

/// Files of a folder and their content.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let file = |path: PathBuf| (path.display().to_string(), fs::read(&path).unwrap());
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).map(file).collect()
}

/// A command, and the folder with nothing but its outputs.
struct Case {
    name: &'static str,
    arguments: Vec<String>,
    folder: PathBuf,
    /// Whether what it has written so far may stay, as the log and the checkpoints of a training.
    in_parts: bool,
}

impl Case {
    fn run(&self, shim: &Path, variable: &str, value: &str) -> Output {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("scenerank"));
        command.args(&self.arguments).env("LD_PRELOAD", shim).env(variable, value).output().unwrap()
    }

    /// Refuses writes from each of at most `most` numbers on, spread over all writes. Returns the numbers of writes and of tries.
    fn refuse_writes(&self, shim: &Path, most: usize) -> (usize, usize) {
        let reset = |content: &BTreeMap<String, Vec<u8>>| {
            let _ = fs::remove_dir_all(&self.folder);
            fs::create_dir_all(&self.folder).unwrap();
            content.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        };
        let before = files(&self.folder);
        let count = self.folder.parent().unwrap().join("count");
        let whole = self.run(shim, "COUNT_TO", &count.display().to_string());
        assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
        let written = files(&self.folder);
        let calls: usize = fs::read_to_string(&count).unwrap().parse().unwrap();
        assert!(calls > 1, "{}: {calls} writes", self.name);
        let step = calls.div_ceil(most).max(1);
        let mut numbers: Vec<usize> = (1..=calls).step_by(step).chain([calls]).collect();
        numbers.dedup();
        let mut tries = 0;
        for number in numbers {
            reset(&before);
            let output = self.run(shim, "FAIL_FROM", &number.to_string());
            let text = String::from_utf8_lossy(&output.stderr);
            let place = format!("{}, write {number} of {calls}: {text}", self.name);
            assert_eq!(output.status.code(), Some(2), "{place}");
            assert!(!text.contains("panicked"), "{place}");
            let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
            assert!(
                errors.len() == 1 && errors[0].ends_with("free some disk space and run again"),
                "{place}"
            );
            let after = files(&self.folder);
            assert!(after.keys().all(|path| !path.contains("/.scenerank-")), "{place}: {:?}", after.keys());
            if !self.in_parts {
                // Files that were finished before the disk was full, and the old ones.
                for (path, bytes) in &after {
                    assert!(
                        before.get(path) == Some(bytes) || written.get(path) == Some(bytes),
                        "{place}: {path}"
                    );
                }
                assert!(before.keys().all(|path| after.contains_key(path)), "{place}");
            }
            tries += 1;
        }
        reset(&before);
        let again = self.run(shim, "FAIL_FROM", "0");
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        (calls, tries)
    }
}

/// At most `most` numbers for each command.
fn full_disk(most: usize) {
    let work = Workplace::new();
    let Some(shim) = shim(work.folder.path()) else { return };
    let data = work.data.display().to_string();
    let trained = work.text("trained");
    run([
        &["train", &data, "--out", &trained, "--epochs", "1", "--device", "cpu", "-q"][..],
        &SMALL_NETWORK[..],
    ]
    .concat());
    let raw = |name: &str| work.text(&format!("raw1/{name}"));
    let case = |name: &'static str, arguments: &[&str]| {
        let folder = work.path(&format!("out-{name}"));
        fs::create_dir_all(&folder).unwrap();
        let out = folder.join("file").display().to_string();
        let arguments = arguments.iter().map(|argument| argument.replace("OUT", &out)).collect();
        Case { name, arguments, folder, in_parts: false }
    };
    let (scenes, images, captions, glove) =
        (raw("scene_graphs.json"), raw("image_data.json"), raw("captions.json"), raw("glove.txt"));
    let mut prepare = vec!["prepare", "--min-occurrences", "15", "--out", "OUT", "-q"];
    prepare.extend(["--scene-graphs", &scenes, "--image-data", &images]);
    prepare.extend(["--captions", &captions, "--glove", &glove]);
    let cases = [
        case("prepare", &prepare),
        case("embed-npy", &["embed", &trained, "--out", "OUT.npy", "--format", "npy", "-q"]),
        case("embed-arrow", &["embed", &trained, "--out", "OUT.arrow", "--format", "arrow", "-q"]),
        Case {
            in_parts: true,
            ..case(
                "train",
                &[
                    &["train", &data, "--out", "OUT", "--epochs", "2", "--device", "cpu", "-q"][..],
                    &SMALL_NETWORK[..],
                ]
                .concat(),
            )
        },
    ];
    for case in &cases {
        let (calls, tries) = case.refuse_writes(&shim, most);
        println!("{}: {calls} writes, {tries} refused", case.name);
    }
}

#[test]
fn a_full_disk_ends_a_command_with_one_line() {
    full_disk(8);
}

#[test]
#[ignore = "the long form, for .ci/full"]
fn a_full_disk_at_every_write_ends_a_command_with_one_line() {
    full_disk(usize::MAX);
}
