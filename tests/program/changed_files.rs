//! Mapped files that another process cuts short or writes to while the program runs: one line, exit code 2.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{SMALL_NETWORK, Workplace};
use scenerank::files::mapped_file::{MappedFile, report_lost_pages};

/// Starts a training that would take hours, and waits until it has taken steps.
fn train(work: &Workplace, run: &str, more: &[&str]) -> Child {
    let mut program = Command::new(assert_cmd::cargo::cargo_bin("scenerank"))
        .arg("train")
        .arg(&work.data)
        .args(["--out", &work.text(run), "--device", "cpu", "--epochs", "100000"])
        .args(SMALL_NETWORK)
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let metrics = work.path(run).join("metrics.jsonl");
    let began = Instant::now();
    while std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 3 {
        assert!(program.try_wait().unwrap().is_none(), "the training ended");
        assert!(began.elapsed() < Duration::from_secs(60), "the training does not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    program
}

/// Error line of a program that must end with exit code 2.
fn error_of(mut program: Child) -> String {
    let mut text = String::new();
    program.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    let status = program.wait().unwrap();
    assert_eq!(status.code(), Some(2), "{status}: {text}");
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    errors[0].to_string()
}

fn set_length(path: &Path, length: u64) {
    File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// Without the checks between batches: a process maps a file, cuts it short and reads it.
#[test]
fn a_missing_page_ends_the_program_with_one_line() {
    const FILE: &str = "SCENERANK_TEST_MISSING_PAGE";
    const NAME: &str = "changed_files::a_missing_page_ends_the_program_with_one_line";
    if let Some(path) = std::env::var_os(FILE) {
        report_lost_pages();
        let path = Path::new(&path);
        // Another map must not be blamed, and neither must one that is gone.
        drop(MappedFile::open(path).unwrap());
        let other = MappedFile::open(&std::env::current_exe().unwrap()).unwrap();
        let map = MappedFile::open(path).unwrap();
        set_length(path, 4096);
        println!("{}", u32::from(map[0]) + u32::from(other[0]));
        println!("{}", map[10_000]);
        unreachable!("the page is missing");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pages");
    std::fs::write(&path, [1; 20_000]).unwrap();
    let program = Command::new(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(FILE, &path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let want = format!("error: {}: content: was cut short while it was in use; ", path.display());
    let error = error_of(program);
    assert!(error.starts_with(&want), "{error}");
}

/// Whether the signal or the check at the next batch notices it first is chance.
#[test]
fn a_data_file_that_is_cut_short_ends_a_training_with_one_line() {
    for length in [0, 5000] {
        let work = Workplace::new();
        let program = train(&work, "run", &[]);
        set_length(&work.data, length);
        let error = error_of(program);
        assert!(
            error.contains("data1: content: ") && error.contains("; restore the file and run"),
            "{error}"
        );
        assert!(
            error.contains("was cut short while it was in use")
                || error.contains(" bytes when it was opened")
        );
    }
}

#[test]
fn a_data_file_that_is_written_to_ends_a_training_with_one_line() {
    let work = Workplace::new();
    let program = train(&work, "run", &[]);
    let content = std::fs::read(&work.data).unwrap();
    std::thread::sleep(Duration::from_millis(20)); // the resolution of modification times
    use std::os::unix::fs::FileExt;
    let file = File::options().write(true).open(&work.data).unwrap();
    file.write_at(&[!content[5000]], 5000).unwrap();
    let error = error_of(program);
    assert!(error.contains("data1: content: was written to while it was in use"), "{error}");
}

#[test]
fn a_similarity_matrix_that_is_cut_short_ends_a_training_with_one_line() {
    let work = Workplace::new();
    let images = scenerank::data::Dataset::open(&work.data).unwrap().image_count();
    let values: Vec<f32> = (0..images * images).map(|at| (at * 31 % 97) as f32 / 97.0).collect();
    scenerank::files::npy::write_npy(&work.path("similarity.npy"), &values, images).unwrap();
    let similarity = work.text("similarity.npy");
    let program = train(&work, "run", &["--similarity", &similarity]);
    set_length(Path::new(&similarity), 100);
    let error = error_of(program);
    assert!(error.contains("similarity.npy: content: "), "{error}");
}
