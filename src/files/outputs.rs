//! Checks before a command writes: no output is one of the inputs or another output, and an existing file is only replaced by one
//! of its own kind.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use same_file::Handle;

use crate::{Error, Result};

/// Number of bytes that tell the kind of a file.
const FIRST_BYTES: u64 = 64;

/// Kind of a file that a command writes, known by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A format whose files begin with these bytes.
    Beginning {
        /// Name of the format with its article, as in "a .npy file".
        name: &'static str,
        /// First bytes.
        bytes: &'static [u8],
    },
    /// One whole number per line.
    Ids,
    /// A safetensors file.
    Safetensors,
}

/// A file that a command will write.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// Option as typed, such as `--out`.
    pub option: &'a str,
    /// Path of the file.
    pub path: &'a Path,
    /// Kind of the file.
    pub kind: Kind,
}

impl Kind {
    /// A NumPy array.
    pub const NPY: Kind = Kind::Beginning { name: "a .npy file", bytes: b"\x93NUMPY" };
    /// An Arrow IPC file.
    pub const ARROW: Kind = Kind::Beginning { name: "an Arrow file", bytes: b"ARROW1" };
    /// An Arrow IPC stream.
    pub const ARROW_STREAM: Kind = Kind::Beginning { name: "an Arrow stream", bytes: b"\xff\xff\xff\xff" };
    /// JSON: an object, or an object per line.
    pub const JSON: Kind = Kind::Beginning { name: "a JSON file", bytes: b"{" };

    /// Whether a file that begins with `bytes` is of this kind. An empty file is of every kind.
    fn matches(self, bytes: &[u8]) -> bool {
        bytes.is_empty()
            || match self {
                Kind::Beginning { bytes: first, .. } => bytes.starts_with(first),
                Kind::Ids => bytes.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_whitespace()),
                // The header follows its length.
                Kind::Safetensors => bytes.get(8) == Some(&b'{'),
            }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Beginning { name, .. } => name,
            Kind::Ids => "a list of ids",
            Kind::Safetensors => "a safetensors file",
        }
    }
}

/// Identity of a file, whatever its name: the file itself if it exists, otherwise its name in its folder.
#[derive(PartialEq)]
enum Identity {
    Existing(Handle),
    New(PathBuf),
}

impl Identity {
    /// `None` if neither the file nor its folder exists.
    fn of(path: &Path) -> Option<Identity> {
        // A handle opens the file; a pipe would lose its writer when that is closed.
        let is_kept = path.metadata().is_ok_and(|data| data.is_file() || data.is_dir());
        if is_kept && let Ok(handle) = Handle::from_path(path) {
            return Some(Identity::Existing(handle));
        }
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        Some(Identity::New(folder.canonicalize().ok()?.join(path.file_name()?)))
    }
}

/// Checks that a command with these `inputs` can write `outputs`.
pub fn check_outputs(outputs: &[Output<'_>], inputs: &[&Path]) -> Result<()> {
    let identities: Vec<Option<Identity>> = outputs.iter().map(|output| Identity::of(output.path)).collect();
    for (index, output) in outputs.iter().enumerate() {
        let Some(identity) = &identities[index] else { continue };
        let refuse = |problem: String, remedy: &str| Err(Error::argument(output.option, problem, remedy));
        let path = output.path.display();
        if let Some(input) = inputs.iter().find(|input| Identity::of(input).as_ref() == Some(identity)) {
            return refuse(
                format!("{path} is the same file as the input {}", input.display()),
                "choose another file: the input would be lost",
            );
        }
        if let Some(other) = (0..index).find(|&other| identities[other].as_ref() == Some(identity)) {
            return refuse(
                format!("{path} is the same file as that of {}", outputs[other].option),
                "choose another file for one of them",
            );
        }
        if !path_is_of_kind(output)? {
            return refuse(
                format!("{path} exists and is not {}", output.kind.name()),
                "choose another file, or remove this one",
            );
        }
    }
    Ok(())
}

/// Whether the file is missing, not an ordinary file, or of the output's kind.
fn path_is_of_kind(output: &Output<'_>) -> Result<bool> {
    let path = output.path;
    if !path.is_file() {
        return Ok(true);
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::file("read", path))?;
    file.take(FIRST_BYTES).read_to_end(&mut bytes).map_err(Error::file("read", path))?;
    Ok(output.kind.matches(&bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DATA: Kind = Kind::Beginning { name: "a data file", bytes: b"scenerk\0" };

    #[test]
    fn a_file_is_known_by_its_identity_and_its_first_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let files: [(&str, &[u8], Kind); 7] = [
            ("data", b"scenerk\0rest", DATA),
            ("npy", b"\x93NUMPY\x01", Kind::NPY),
            ("arrow", b"ARROW1\0\0", Kind::ARROW),
            ("arrows", b"\xff\xff\xff\xff\x60\0", Kind::ARROW_STREAM),
            ("json", b"{\"a\": 1}\n", Kind::JSON),
            ("ids", b"12\r\n7\n", Kind::Ids),
            ("safetensors", b"\x10\0\0\0\0\0\0\0{}", Kind::Safetensors),
        ];
        files.iter().for_each(|(name, bytes, _)| fs::write(path(name), bytes).unwrap());
        fs::write(path("words"), "the 0.1 0.2\n").unwrap();
        fs::write(path("empty"), "").unwrap();
        let check = |name: &str, kind: Kind, inputs: &[&Path]| {
            check_outputs(&[Output { option: "--out", path: &path(name), kind }], inputs)
        };
        for (name, _, kind) in files {
            for (other, _, _) in files {
                assert_eq!(check(other, kind, &[]).is_ok(), name == other, "{other} as {}", kind.name());
            }
            check("empty", kind, &[]).unwrap();
            check("new", kind, &[&path("words")]).unwrap();
            let error = check("words", kind, &[]).unwrap_err().to_string();
            assert!(error.contains("words exists and is not a") && error.starts_with("--out: "), "{error}");
            let error = check(name, kind, &[&path(name)]).unwrap_err().to_string();
            assert!(error.contains("is the same file as the input"), "{error}");
        }
        // The same file by another name.
        fs::create_dir(path("inner")).unwrap();
        let inner = path("inner").join("../npy");
        check("npy", Kind::NPY, &[&inner]).unwrap_err();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(path("npy"), path("link")).unwrap();
            fs::hard_link(path("npy"), path("hard")).unwrap();
            check("npy", Kind::NPY, &[&path("link")]).unwrap_err();
            check("hard", Kind::NPY, &[&path("npy")]).unwrap_err();
        }
        // Two outputs, of which neither exists.
        let outputs = [("--out", "x"), ("--ids", "inner/../x")]
            .map(|(option, name)| (option, folder.path().join(name)));
        let outputs = outputs.each_ref().map(|(option, path)| Output { option, path, kind: Kind::Ids });
        let error = check_outputs(&outputs, &[]).unwrap_err().to_string();
        assert!(error.contains("--ids: ") && error.contains("is the same file as that of --out"), "{error}");
    }
}
