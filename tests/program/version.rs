//! `scenerank --version`: the commit, and what this program was built with.

use crate::program::run;

/// The value of a line such as `commit:   67d67957a62c`.
fn line<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no line {name}: in\n{text}")).trim()
}

#[test]
fn version_tells_what_the_program_was_built_with() {
    let text = run(["--version"]);
    assert_eq!(text.lines().next(), Some(concat!("scenerank ", env!("CARGO_PKG_VERSION"))));
    assert!(line(&text, "CPU").starts_with(&format!("{}, ", std::env::consts::ARCH)), "{text}");
    let cuda = line(&text, "CUDA");
    assert!(cuda.starts_with("toolkit ") || cuda.starts_with("not compiled in: "), "{text}");
    assert_eq!(line(&text, "emulator") == "compiled in", cfg!(emulator), "{text}");
    // The short form stays one line, for scripts.
    assert_eq!(run(["-V"]), concat!("scenerank ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn version_tells_the_commit_or_why_there_is_none() {
    let text = run(["--version"]);
    let commit = line(&text, "commit");
    if commit != "unknown: the build found no repository" {
        let hash = commit.strip_suffix(" or later (development build)").unwrap_or(commit);
        assert!(hash.len() >= 12 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
    }
}
