//! The sources follow `docs/architecture.md`: every file belongs to a room, no room imports from a room above
//! it, there are no import cycles, and the floors of the CUDA backend import downwards only.
//!
//! An import is a path in a `use`, or a path that begins with `crate`, `self` or `super`. Code that is only
//! compiled for tests does not count. A re-exported name belongs to the file that defines it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

/// Folders of the CUDA backend, each with the folders that it must not import.
const FLOORS: [(&str, &[&str]); 2] = [
    (
        "src/backend/cuda/device/",
        &[
            "src/backend/cuda/launchers/",
            "src/backend/cuda/step/",
            "src/data/",
            "src/batch/",
            "src/model/",
            "src/network/",
        ],
    ),
    ("src/backend/cuda/launchers/", &["src/backend/cuda/step/"]),
];

#[test]
fn sources_keep_to_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = BTreeMap::new();
    read_sources(root, "src", &mut sources);
    let document = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let problems = problems(&sources, &document);
    assert!(problems.is_empty(), "{} problems\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn the_crates_map_lists_the_rooms_in_their_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let map = library.split("//! ```text\n").nth(1).unwrap().split("//! ```").next().unwrap();
    let names = map.lines().map(|line| line.trim_start_matches("//! ").split("  ").next().unwrap());
    let listed: Vec<&str> = names.flat_map(|names| names.split(", ")).collect();
    let document = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let rooms = rooms(&document);
    assert_eq!(listed, rooms.iter().map(|room| room.name.as_str()).collect::<Vec<&str>>());
}

/// The last cell of each line names tests of the target in the cell before it, a file of tests, or the line above.
#[test]
fn every_line_on_determinism_names_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/determinism.md")).unwrap();
    let mut sources = BTreeMap::new();
    ["src", "tests", "matmul"].iter().for_each(|folder| read_sources(root, folder, &mut sources));
    let lines = document.lines().filter(|line| line.starts_with("| ") && !line.contains("---"));
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with("| what ")).collect();
    assert!(lines.len() > 20, "{}", lines.len());
    for line in lines {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [.., targets, tests] = cells[..] else { panic!("{line}") };
        let of_target = |path: &str| {
            let start = |target: &str| match target.trim_matches('`') {
                "unit test" => "src/".to_string(),
                "unit test of `matmul" => "matmul/src/".to_string(),
                target => format!("tests/{target}"),
            };
            targets.split(", ").any(|target| path.starts_with(&start(target)))
        };
        for test in tests.split(", ").filter(|test| !["the same", "the module of the kernel"].contains(test))
        {
            let test = test.trim_matches('`');
            let function = format!("#[test]\nfn {test}()");
            let found = sources.iter().any(|(path, text)| {
                let text = text.lines().map(|line| line.trim_start()).collect::<Vec<_>>().join("\n");
                of_target(path) && (text.contains(&function) || path == test)
            });
            assert!(found, "{test} of {line}");
        }
    }
}

/// Small trees with one error each, and the expected report.
#[test]
fn each_kind_of_error_is_found() {
    let document = "## Rooms\n| room | files | |\n| --- | --- | --- |\n| `low` | `src/low.rs` | |\n\
        | `kernels` | `src/backend/` | |\n| `high` | `src/high/`, `src/lib.rs` | |\n## Other\n";
    let tree = |files: &[(&str, &str)]| {
        let empty = ["src/low.rs", "src/backend/mod.rs", "src/high/mod.rs", "src/lib.rs"];
        let mut sources: BTreeMap<String, String> =
            empty.iter().map(|path| ((*path).to_owned(), String::new())).collect();
        sources.extend(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())));
        problems(&sources, document)
    };
    let device = ("src/backend/cuda/device/mod.rs", "use crate::backend::{\n cuda::{launchers::{X}},\n};");
    let launchers = ("src/backend/cuda/launchers/mod.rs", "\nfn f() { super::step::g() }");
    let step = ("src/backend/cuda/step/mod.rs", "");
    type Files = [(&'static str, &'static str)];
    let planted: [(&Files, &[&str]); 6] = [
        (
            &[
                ("src/high/a.rs", "// use\nuse super::b::B;"),
                ("src/high/b.rs", "pub(crate) use super::{c, a::A};"),
            ],
            &[
                "import circle:\n  src/high/a.rs:2 imports src/high/b.rs\n  src/high/b.rs:1 imports src/high/a.rs",
            ],
        ),
        // Through a name that the parent re-exports.
        (
            &[
                ("src/high/mod.rs", "pub use a::A as Renamed;"),
                ("src/high/a.rs", "use super::b;"),
                ("src/high/b.rs", "use crate::high::Renamed;"),
            ],
            &[
                "import circle:\n  src/high/a.rs:1 imports src/high/b.rs\n  src/high/b.rs:1 imports src/high/a.rs",
            ],
        ),
        (
            &[(
                "src/low.rs",
                "mod inner { fn f() -> super::super::high::H { '\"' } }\nconst S: &str = \"// \";",
            )],
            &["src/low.rs:1 (room low) imports src/high/mod.rs (room high), which is above it"],
        ),
        (&[("src/lost.rs", "")], &["src/lost.rs belongs to no room of docs/architecture.md"]),
        (
            &[device, launchers, step],
            &[
                "src/backend/cuda/device/mod.rs:2 imports src/backend/cuda/launchers/mod.rs, which is no business of its floor",
                "src/backend/cuda/launchers/mod.rs:2 imports src/backend/cuda/step/mod.rs, which is no business of its floor",
            ],
        ),
        // Comments, strings and code that is only compiled for tests do not count.
        (
            &[(
                "src/low.rs",
                "/// crate::high\n/* use crate::high; */ const S: &str = r#\"crate::high\"#;\n#[cfg(test)]\nuse \
                 crate::{high};\n#[cfg(test)]\nmod tests { use crate::high; }\nfn f<'a>(_: &'a str) {}",
            )],
            &[],
        ),
    ];
    for (files, expected) in planted {
        assert_eq!(tree(files), expected);
    }
}

/// Every source file below `folder`, by its path from the root.
fn read_sources(root: &Path, folder: &str, sources: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            read_sources(root, &path, sources);
        } else if path.ends_with(".rs") {
            sources.insert(path, fs::read_to_string(entry.path()).unwrap());
        }
    }
}

/// A row of the table in the document.
struct Room {
    name: String,
    /// Files, and folders with a trailing slash.
    files: Vec<String>,
}

impl Room {
    fn holds(&self, path: &str) -> bool {
        self.files.iter().any(|file| path == file || file.ends_with('/') && path.starts_with(file))
    }
}

/// The rooms, starting with the lowest: the table below the heading `Rooms`, with names and files in
/// backticks.
fn rooms(document: &str) -> Vec<Room> {
    let section = document.split("## Rooms\n").nth(1).expect("a heading `Rooms`");
    let rows = section.lines().take_while(|line| !line.starts_with("##"));
    rows.filter(|line| line.starts_with("| `"))
        .map(|line| {
            let columns: Vec<&str> = line.split('|').collect();
            let ticked = |column: &str| column.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            let names: Vec<String> = ticked(columns[1]);
            Room { name: names[0].clone(), files: ticked(columns[2]) }
        })
        .collect()
}

/// All violations of the architecture, one line per violation or cycle.
fn problems(sources: &BTreeMap<String, String>, document: &str) -> Vec<String> {
    let rooms = rooms(document);
    let room_of = |path: &str| rooms.iter().position(|room| room.holds(path));
    let mut problems = Vec::new();
    for path in sources.keys().filter(|path| room_of(path).is_none()) {
        problems.push(format!("{path} belongs to no room of docs/architecture.md"));
    }
    for file in rooms.iter().flat_map(|room| &room.files) {
        if !sources.keys().any(|path| path.starts_with(file)) {
            problems.push(format!("{file} stands in docs/architecture.md and is not there"));
        }
    }
    let imports = imports(sources);
    for Import { from, line, to } in &imports {
        if let (Some(lower), Some(upper)) = (room_of(from), room_of(to))
            && lower < upper
        {
            let [lower, upper] = [lower, upper].map(|room| &rooms[room].name);
            problems
                .push(format!("{from}:{line} (room {lower}) imports {to} (room {upper}), which is above it"));
        }
        for (floor, forbidden) in FLOORS {
            if from.starts_with(floor) && forbidden.iter().any(|folder| to.starts_with(folder)) {
                problems.push(format!("{from}:{line} imports {to}, which is no business of its floor"));
            }
        }
    }
    problems.extend(circles(&imports));
    problems
}

/// The shortest cycle through every import that closes one; each cycle is reported once.
fn circles(imports: &[Import]) -> BTreeSet<String> {
    let is_family = |a: &[String], b: &[String]| a.starts_with(b) || b.starts_with(a);
    let mut by_file: BTreeMap<&str, Vec<&Import>> = BTreeMap::new();
    for import in imports.iter().filter(|import| !is_family(&module(&import.from), &module(&import.to))) {
        by_file.entry(&import.from).or_default().push(import);
    }
    let from = |file: &str| by_file.get(file).into_iter().flatten().copied();
    let mut circles = BTreeSet::new();
    for &first in by_file.values().flatten() {
        // Import through which each file is reached, starting from the import's target.
        let mut reached: BTreeMap<&str, &Import> = BTreeMap::from([(first.to.as_str(), first)]);
        let mut queue = VecDeque::from([first.to.as_str()]);
        while let Some(file) = queue.pop_front() {
            for import in from(file).filter(|import| import.to != first.to) {
                if !reached.contains_key(import.to.as_str()) {
                    reached.insert(&import.to, import);
                    queue.push_back(&import.to);
                }
            }
        }
        if !reached.contains_key(first.from.as_str()) {
            continue;
        }
        let mut circle = vec![first];
        while circle[circle.len() - 1].from != first.to {
            circle.push(reached[circle[circle.len() - 1].from.as_str()]);
        }
        circle.reverse();
        let least = (0..circle.len()).min_by_key(|&at| &circle[at].from).unwrap();
        circle.rotate_left(least);
        let lines = circle.iter().map(|Import { from, line, to }| format!("\n  {from}:{line} imports {to}"));
        circles.insert(format!("import circle:{}", lines.collect::<String>()));
    }
    circles
}

/// A file that imports from another.
struct Import {
    from: String,
    line: usize,
    to: String,
}

/// Module path of a file; both roots of the package are the crate.
fn module(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    match inner {
        "lib" | "main" => Vec::new(),
        _ => inner.split('/').map(str::to_owned).collect(),
    }
}

/// First import of every file by every other file. The root of the crate is not a target: it only declares
/// the rooms.
fn imports(sources: &BTreeMap<String, String>) -> Vec<Import> {
    let files: BTreeMap<Vec<String>, &str> = sources
        .keys()
        .filter(|path| *path != "src/main.rs")
        .map(|path| (module(path), path.as_str()))
        .collect();
    let parsed: Vec<(&str, Vec<Used>)> = sources
        .iter()
        .map(|(path, text)| (path.as_str(), used_paths(&tokens(text), &module(path))))
        .collect();
    // (module, name that it re-exports) -> path.
    let mut re_exports: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for used in parsed.iter().flat_map(|(_, used)| used) {
        if let (Some(name), Some(path)) = (&used.re_export, used.whole(&files)) {
            let exported = [&used.module[..], std::slice::from_ref(name)].concat();
            // A function with the name of its module is defined in the file of that module.
            if !path.starts_with(&exported) {
                re_exports.insert(exported, path);
            }
        }
    }
    let mut imports = Vec::new();
    for (from, used) in parsed {
        let mut seen = BTreeSet::from([from]);
        for used in used {
            let Some(mut path) = used.whole(&files) else { continue };
            while let Some(defined) = (1..=path.len()).find_map(|len| {
                re_exports.get(&path[..len]).map(|target| [&target[..], &path[len..]].concat())
            }) {
                path = defined;
            }
            let file = (1..=path.len()).rev().find_map(|len| files.get(&path[..len]));
            if let Some(&to) = file
                && seen.insert(to)
            {
                imports.push(Import { from: from.to_owned(), line: used.line, to: to.to_owned() });
            }
        }
    }
    imports
}

/// A path in a source file.
struct Used {
    line: usize,
    /// Module that contains the path.
    module: Vec<String>,
    /// Path as written.
    path: Vec<String>,
    /// Name under which it is re-exported.
    re_export: Option<String>,
}

impl Used {
    /// Path from the root of the crate; `None` if it leads out of the crate.
    fn whole(&self, files: &BTreeMap<Vec<String>, &str>) -> Option<Vec<String>> {
        let mut base = self.module.clone();
        let mut rest = &self.path[..];
        match rest.first()?.as_str() {
            "crate" | "scenerank" => (base, rest) = (Vec::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|word| word == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            child if files.contains_key(&[&base[..], &[child.to_owned()]].concat()) => {}
            _ => return None,
        }
        Some([&base[..], rest].concat())
    }
}

/// A token with its line.
type Token = (usize, String);

/// Every path that a file with the module path `module` imports, or that begins with `crate`, `self` or
/// `super`.
fn used_paths(tokens: &[Token], module: &[String]) -> Vec<Used> {
    let word = |at: usize| tokens.get(at).map_or("", |(_, word)| word.as_str());
    let (mut module, mut depth, mut inner) = (module.to_vec(), 0, Vec::new());
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match word(at) {
            "{" => {
                depth += 1;
                if at >= 2 && word(at - 2) == "mod" {
                    module.push(word(at - 1).to_owned());
                    inner.push(depth);
                }
            }
            "}" => {
                if inner.last() == Some(&depth) {
                    inner.pop();
                    module.pop();
                }
                depth -= 1;
            }
            "use" if word(at + 1) != "<" => {
                let is_public = at > 0 && matches!(word(at - 1), "pub" | ")");
                let mut paths = Vec::new();
                at += 1;
                use_tree(tokens, &mut at, &[], &mut paths);
                found.extend(paths.into_iter().map(|(line, path, name)| Used {
                    line,
                    module: module.clone(),
                    path,
                    re_export: is_public.then_some(name),
                }));
                continue;
            }
            "crate" | "self" | "super" | "scenerank"
                if word(at + 1) == "::" && (at == 0 || word(at - 1) != "::") =>
            {
                let line = tokens[at].0;
                let mut path = vec![word(at).to_owned()];
                while word(at + 1) == "::" && is_word(word(at + 2)) {
                    path.push(word(at + 2).to_owned());
                    at += 2;
                }
                found.push(Used { line, module: module.clone(), path, re_export: None });
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Adds the paths of the `use` tree that begins at `at`, each with its line and its local name, and advances
/// `at` past the tree.
fn use_tree(
    tokens: &[Token],
    at: &mut usize,
    prefix: &[String],
    paths: &mut Vec<(usize, Vec<String>, String)>,
) {
    let (mut path, mut name) = (prefix.to_vec(), None);
    let mut line = tokens[*at].0;
    loop {
        let (of_token, word) = &tokens[*at];
        match word.as_str() {
            "::" | "*" => {}
            "self" if path.len() == prefix.len() && !path.is_empty() => {}
            "as" => {
                *at += 1;
                name = Some(tokens[*at].1.clone());
            }
            "{" => {
                *at += 1;
                while tokens[*at].1 != "}" {
                    use_tree(tokens, at, &path, paths);
                    if tokens[*at].1 == "," {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            word if is_word(word) => {
                path.push(word.to_owned());
                line = *of_token;
            }
            _ => break,
        }
        *at += 1;
    }
    let name = name.unwrap_or_else(|| path.last().cloned().unwrap_or_default());
    paths.push((line, path, name));
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Tokens of a source file, without comments, strings, and items under `#[cfg(test)]`.
fn tokens(text: &str) -> Vec<Token> {
    let letters: Vec<char> = text.chars().collect();
    let is = |at: usize, sign: &str| sign.chars().enumerate().all(|(i, c)| letters.get(at + i) == Some(&c));
    let end_of =
        |at: usize, sign: &str| (at..letters.len()).find(|&at| is(at, sign)).map(|at| at + sign.len());
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < letters.len() {
        let begin = at;
        let quoted = |mut at: usize| {
            while at < letters.len() && letters[at] != letters[begin] {
                at += if letters[at] == '\\' { 2 } else { 1 };
            }
            at + 1
        };
        at = match letters[at] {
            '/' if is(at, "//") => end_of(at, "\n").map_or(letters.len(), |end| end - 1),
            '/' if is(at, "/*") => end_of(at, "*/").unwrap_or(letters.len()),
            '"' => quoted(at + 1),
            '\'' if is(at + 1, "\\") || is(at + 2, "'") => quoted(at + 1),
            'r' if is(at, "r\"") || is(at, "r#\"") => {
                let end = if is(at, "r\"") { "\"" } else { "\"#" };
                end_of(at + 1 + end.len(), end).unwrap_or(letters.len())
            }
            ':' if is(at, "::") => at + 2,
            c if c.is_alphanumeric() || c == '_' => {
                let rest = letters[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_');
                at + rest.count()
            }
            _ => at + 1,
        };
        let end = at.min(letters.len());
        let token: String = letters[begin..end].iter().collect();
        let is_text =
            token.starts_with(['"', '/', '\'']) || token.starts_with("r\"") || token.starts_with("r#");
        if !is_text && !token.trim().is_empty() {
            tokens.push((line, token.clone()));
        }
        line += token.matches('\n').count();
    }
    without_tests(tokens)
}

/// Removes the items that are only compiled for tests.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let test = ["#", "[", "cfg", "(", "test", ")", "]"];
    let is_test = |at: usize| tokens[at..].iter().map(|(_, word)| word).take(test.len()).eq(test);
    let mut left = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !is_test(at) {
            left.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0;
        let is_use = tokens[at + test.len()].1 == "use";
        for (_, word) in &tokens[at..] {
            at += 1;
            match word.as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            if depth == 0 && (word == ";" || word == "}" && !is_use) {
                break;
            }
        }
    }
    left
}
