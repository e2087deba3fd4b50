//! Temporary files beside their targets. They are removed when they are dropped, and by [`remove_all`] when a signal ends the
//! process.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tempfile::NamedTempFile;

/// Beginning of the names of temporary files.
const PREFIX: &str = ".scenerank-";
/// Age from which an unlocked temporary file is that of a dead process.
const OLD: Duration = Duration::from_secs(60);

/// Temporary files of this process.
static OPEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A temporary file that will be renamed to its target.
#[derive(Debug)]
pub struct Temporary {
    /// `None` once the file was renamed.
    file: Option<NamedTempFile>,
}

impl Temporary {
    /// Creates a file in the folder of `target`, because a rename cannot cross file systems. Removes what dead processes left
    /// there.
    pub fn beside(target: &Path) -> io::Result<Self> {
        let folder = match target.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        remove_what_dead_processes_left(folder);
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX);
        // Temporary files are private by default; this one gets the permissions of an ordinary file, subject to the umask.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        // The lock is held until the file is in the list, so that a signal misses no file.
        let mut open = OPEN.lock().expect("no panic with the list");
        let file = builder.tempfile_in(folder)?;
        open.insert(file.path().to_path_buf());
        drop(open);
        // Tells other processes that this one is alive. Without locks in the file system nothing is removed there.
        let _ = file.as_file().try_lock();
        Ok(Temporary { file: Some(file) })
    }

    /// The open file.
    pub fn file(&mut self) -> &mut File {
        self.file.as_mut().expect("not renamed yet").as_file_mut()
    }

    /// Renames the file to `target`, replacing an older file. The content must have reached the disk.
    pub fn persist(mut self, target: &Path) -> io::Result<()> {
        let file = self.file.take().expect("not renamed yet");
        let mut open = OPEN.lock().expect("no panic with the list");
        open.remove(file.path());
        file.persist(target).map(drop).map_err(|error| error.error)
    }
}

impl io::Write for Temporary {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            let mut open = OPEN.lock().expect("no panic with the list");
            open.remove(file.path());
        }
    }
}

/// Removes all temporary files of this process, which is about to end. No other thread can create or rename one afterwards.
pub fn remove_all() {
    let open = OPEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    open.iter().for_each(|path| {
        let _ = fs::remove_file(path);
    });
    std::mem::forget(open);
}

/// Removes temporary files of processes that were killed while they wrote: old ones that no process has locked. Errors are
/// ignored, since nothing depends on it.
fn remove_what_dead_processes_left(folder: &Path) {
    let Ok(entries) = folder.read_dir() else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            continue;
        }
        // A new file is not locked yet.
        let old = entry
            .metadata()
            .ok()
            .filter(fs::Metadata::is_file)
            .and_then(|data| data.modified().ok()?.elapsed().ok());
        if old.is_some_and(|age| age > OLD)
            && let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_dead_processes_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let leave = |name: &str, age: Duration| {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - age).unwrap();
            file
        };
        drop(leave(".scenerank-dead", 2 * OLD));
        drop(leave(".scenerank-new", OLD / 2));
        drop(leave("scenerank-other", 2 * OLD));
        let alive = leave(".scenerank-alive", 2 * OLD);
        alive.lock().unwrap();
        let target = folder.path().join("x");
        Temporary::beside(&target).unwrap().persist(&target).unwrap();
        let mut names: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, [".scenerank-alive", ".scenerank-new", "scenerank-other", "x"]);
        drop(alive);
        Temporary::beside(&target).unwrap().persist(&target).unwrap();
        assert!(!folder.path().join(".scenerank-alive").exists());
    }

    #[test]
    fn the_list_has_the_open_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x");
        let listed = || OPEN.lock().unwrap().iter().filter(|path| path.starts_with(folder.path())).count();
        let dropped = Temporary::beside(&target).unwrap();
        let renamed = Temporary::beside(&target).unwrap();
        assert_eq!(listed(), 2);
        drop(dropped);
        renamed.persist(&target).unwrap();
        assert_eq!((listed(), fs::read_dir(folder.path()).unwrap().count()), (0, 1));
    }
}
