//! What a person sees: commands run in a pseudo-terminal, and their output is read as a terminal would show it.
#![cfg(unix)]

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::process::Command;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tempfile::TempDir;

use crate::program::run;

/// Enough rows for all output, so that nothing scrolls away.
const ROWS: u16 = 400;
/// More columns than any line may have, so that a longer one shows as such and is not broken by the terminal.
const COLUMNS: u16 = 250;
/// Columns that a table may have.
const WIDTH: usize = 100;
/// Characters of a bar, drawn or not.
const BAR: [char; 2] = ['█', '░'];

/// Lines on the screen after the command has ended, and the raw output. `CI` is set, for which colours could be assumed.
fn screen(arguments: &[&str], settings: &[(&str, &str)]) -> (Vec<String>, String) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
    grantpt(&controller).expect("a pseudo-terminal");
    unlockpt(&controller).expect("a pseudo-terminal");
    let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&controller, size).expect("a window of this size");
    let name = ptsname(&controller, Vec::new()).expect("a name");
    let terminal =
        OpenOptions::new().read(true).write(true).open(name.to_str().expect("a path")).expect("a terminal");
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("scenerank"));
    for setting in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "RUST_LOG"] {
        command.env_remove(setting);
    }
    command.env("CI", "true").env("TERM", "xterm-256color").envs(settings.iter().copied()).args(arguments);
    let copy = || terminal.try_clone().expect("a terminal");
    let mut child = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().expect("the program");
    // The read below ends when the last copy of the terminal is closed.
    drop((command, terminal));
    let (mut output, mut controller) = (Vec::new(), File::from(controller));
    let mut part = [0; 4096];
    while let Ok(count) = controller.read(&mut part) {
        if count == 0 {
            break;
        }
        output.extend_from_slice(&part[..count]);
    }
    assert!(child.wait().expect("the program").success(), "{}", String::from_utf8_lossy(&output));
    let mut parser = vt100::Parser::new(ROWS, COLUMNS, 0);
    parser.process(&output);
    let lines = parser.screen().rows(0, COLUMNS).map(|line| line.trim_end().to_string()).collect();
    (lines, String::from_utf8_lossy(&output).into_owned())
}

#[test]
fn no_bar_is_left_on_the_screen() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("demo").display().to_string();
    let (lines, output) = screen(&["demo", "--out", &out, "--images", "300", "--epochs", "2"], &[]);
    assert!(output.contains(BAR), "bars are drawn: {output}");
    assert!(output.contains("\u{1b}[32m"), "log levels are coloured: {output}");
    let text = lines.join("\n");
    let left: Vec<&String> = lines.iter().filter(|line| line.contains(BAR) || line.contains(" 0/")).collect();
    assert!(left.is_empty(), "{left:#?} of\n{text}");
    // A log line that was torn by a bar does not begin with its level.
    for line in lines.iter().filter(|line| line.contains("INFO") || line.contains("WARN")) {
        assert!(line.trim_start().starts_with("INFO") || line.trim_start().starts_with("WARN"), "{line}");
    }
    assert_eq!(too_wide(&text), [""; 0]);
    assert!(text.matches("device auto").count() <= 1, "{text}");
    assert!(!text.contains(", 0 s") && !text.contains(" 0.0 s"), "{text}");
    // Each level of noise has one row.
    let levels = lines.iter().skip_while(|line| !line.starts_with("M ("));
    let levels: Vec<&str> = levels.skip(2).map_while(|line| line.split_whitespace().next()).collect();
    assert_eq!(levels, (1..=20).map(|removed| removed.to_string()).collect::<Vec<String>>(), "{text}");
}

/// Lines of `text` that do not fit.
fn too_wide(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.chars().count() > WIDTH).collect()
}

#[test]
fn tables_fit() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    run(["demo", "--out", &path("demo"), "--images", "300", "--epochs", "1", "--quiet"]);
    let [raw, data, trained] = ["raw", "data", "run"].map(|part| format!("{}/{part}", path("demo")));
    let [graphs, images, captions, glove] =
        ["scene_graphs.json", "image_data.json", "captions.json", "glove.txt"]
            .map(|file| format!("{raw}/{file}"));
    // A long path stands for the name of a row.
    let features = path(&"features".repeat(12));
    run(["embed", &trained, "--split", "test", "--out", &features]);
    let sources =
        ["--scene-graphs", &graphs, "--image-data", &images, "--captions", &captions, "--glove", &glove];
    let other = path("other");
    let prepare = [&["prepare", "--out", &other][..], &sources].concat();
    for arguments in [
        &prepare[..],
        &["inspect", &data],
        &["evaluate", &trained, "--embeddings", &features],
        &["retrieve", &trained, "--sweep", "3", "--edges", "relationships"],
        &["bench", "--roofline", "--batch-size", "256"],
        &["bench", "--device", "cpu", "--size", "small", "--kernel", "step", "--budget", "1"],
    ] {
        let text = run(arguments);
        assert!(text.lines().count() > 3, "{text}");
        assert_eq!(too_wide(&text), [""; 0], "{arguments:?}");
    }
}

#[test]
fn a_plain_terminal_gets_plain_lines() {
    let folder = TempDir::new().unwrap();
    for (at, (settings, bars)) in
        [([("NO_COLOR", "1")], true), ([("CLICOLOR", "0")], true), ([("TERM", "dumb")], false)]
            .into_iter()
            .enumerate()
    {
        let out = folder.path().join(at.to_string()).display().to_string();
        let (_, output) = screen(&["demo", "--out", &out, "--images", "300", "--epochs", "1"], &settings);
        assert!(output.contains("INFO"), "{settings:?}: {output}");
        assert!(!output.contains("\u{1b}[32m"), "{settings:?}: {output}");
        assert_eq!(output.contains(BAR), bars, "{settings:?}: {output}");
        assert!(bars || !output.contains('\u{1b}'), "{settings:?}: {output}");
    }
    let (_, help) = screen(&["train", "--help"], &[("TERM", "dumb")]);
    assert!(!help.contains('\u{1b}'), "{help}");
}
