//! The choices of a family, kept in the user's cache for the next process: one small file for each GPU.
//!
//! A file that is damaged, of another GPU, driver or program, or cannot be read counts as absent; one that cannot be written is
//! not kept. Neither is an error: a check takes a fraction of a second.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use serde::{Deserialize, Serialize};

use super::{Choice, Purpose};
use crate::backend::cuda::device::identity::Identity;
use crate::backend::kernels::Kernels;
use crate::files::atomic_file::write_atomically;

/// Environment variable; if it is 1, nothing is kept and nothing that is kept is used.
const NO_CACHE: &str = "SCENERANK_NO_CACHE";
/// Folder of the program in a cache.
const FOLDER: &str = "scenerank";
/// Largest size in bytes of a file that is read.
const MOST_BYTES: u64 = 1 << 16;

/// What is kept of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// A check decided.
    Choice(Choice),
    /// A check has begun, for any purpose, and the process that made it ended before it did.
    Unfinished,
}

/// Content of a file.
#[derive(Serialize, Deserialize)]
struct Record {
    gpu: Identity,
    /// Process that checks.
    checking: Option<u32>,
    /// The choices by the name of their purpose.
    choices: BTreeMap<String, Choice>,
}

/// The file of a GPU, for the choice of one purpose.
pub(super) struct Keeper<'a> {
    path: Option<PathBuf>,
    identity: &'a Identity,
    purpose: Purpose,
}

/// Folder of the program in the user's cache; `None` if there is none, or if it must not be used.
pub(super) fn folder() -> Option<PathBuf> {
    folder_of(|name| env::var_os(name))
}

/// The folder by these environment variables: that of the XDG base directories, which are absolute.
fn folder_of(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if variable(NO_CACHE).is_some_and(|value| value == "1") {
        return None;
    }
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join(FOLDER))
}

impl<'a> Keeper<'a> {
    /// File of this GPU in `folder`.
    pub(super) fn new(folder: Option<&Path>, identity: &'a Identity, purpose: Purpose) -> Self {
        // The id is from the driver.
        let id: String = identity.id.chars().filter(char::is_ascii_alphanumeric).collect();
        Keeper { path: folder.map(|folder| folder.join(format!("kernels-{id}.json"))), identity, purpose }
    }

    /// What the file says of this GPU, this driver and this program.
    fn record(&self) -> Option<Record> {
        let path = self.path.as_ref()?;
        let size = fs::metadata(path).ok().filter(fs::Metadata::is_file)?.len();
        let text = if size <= MOST_BYTES { fs::read(path).ok()? } else { return None };
        let record: Record = serde_json::from_slice(&text).ok()?;
        // `auto` is no choice.
        let is_choice = record.choices.values().all(|choice| choice.kernels != Kernels::Auto);
        (record.gpu == *self.identity && is_choice).then_some(record)
    }

    /// What is kept for this purpose.
    pub(super) fn kept(&self) -> Option<Kept> {
        let Record { checking, mut choices, .. } = self.record()?;
        match (choices.remove(&self.purpose.to_string()), checking) {
            (Some(choice), _) => Some(Kept::Choice(choice)),
            // Another process is checking now.
            (None, Some(process)) if process != process::id() && is_running(process) => None,
            (None, Some(_)) => Some(Kept::Unfinished),
            (None, None) => None,
        }
    }

    /// Keeps this for later processes, where that is possible.
    pub(super) fn keep(&self, kept: &Kept) {
        let Some(path) = &self.path else { return };
        let mut choices = self.record().map_or_else(BTreeMap::new, |record| record.choices);
        let checking = match kept {
            Kept::Choice(choice) => {
                choices.insert(self.purpose.to_string(), choice.clone());
                None
            }
            Kept::Unfinished => Some(process::id()),
        };
        let record = Record { gpu: self.identity.clone(), checking, choices };
        let text = serde_json::to_string_pretty(&record).expect("plain fields");
        let folder = path.parent().expect("a file in a folder");
        let written = fs::create_dir_all(folder)
            .map_err(crate::Error::file("create", folder))
            .and_then(|()| write_atomically(path, |file| writeln!(file, "{text}")));
        if let Err(error) = written {
            tracing::debug!("the choice of kernels is not kept: {error}");
        }
    }

    /// How to forget what is kept.
    pub(super) fn remedy(&self) -> String {
        self.path.as_ref().map_or_else(String::new, |path| format!("remove {}", path.display()))
    }
}

/// Whether a process with this id runs on this machine.
fn is_running(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_that_of_the_users_cache() {
        let folder = |variables: &[(&str, &str)]| {
            folder_of(|name| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| value.into()))
        };
        let home = ("HOME", "/home/me");
        assert_eq!(folder(&[home]), Some("/home/me/.cache/scenerank".into()));
        assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "/cache")]), Some("/cache/scenerank".into()));
        // Relative folders are to be ignored.
        assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "cache")]), Some("/home/me/.cache/scenerank".into()));
        assert_eq!(folder(&[("HOME", "")]), None);
        assert_eq!(folder(&[]), None);
        assert_eq!(folder(&[home, (NO_CACHE, "1")]), None);
        assert_eq!(folder(&[home, (NO_CACHE, "0")]), Some("/home/me/.cache/scenerank".into()));
    }
}
