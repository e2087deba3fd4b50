//! Lock of a folder that one process at a time may change, such as the folder of a run.
//!
//! The lock is an advisory lock of the operating system on a file in the folder. The system releases it when the process ends,
//! however it ends, so a killed process leaves no stale lock. The file stays; it is empty and can be removed while no process
//! uses the folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Error, Result};

/// File name of the lock.
pub const LOCK: &str = ".lock";

/// Attempts to lock a folder, and the time between two. [`is_held`] holds a lock for a moment, which must not refuse a training.
const ATTEMPTS: usize = 25;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// A locked folder. Dropping it releases the lock.
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    _file: File,
}

impl FolderLock {
    /// Locks `folder`, which exists. Fails after half a second if another process, or another part of this one, holds the lock.
    pub fn take(folder: &Path) -> Result<FolderLock> {
        let path = folder.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::file("create", &path))?;
        let mut answer = file.try_lock();
        for _ in 1..ATTEMPTS {
            if !matches!(answer, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(BETWEEN_ATTEMPTS);
            answer = file.try_lock();
        }
        accept(folder, answer)?;
        Ok(FolderLock { folder: folder.to_path_buf(), _file: file })
    }

    /// The locked folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Whether a process holds the lock of `folder`. False where there is no lock file, or no lock can be taken.
pub fn is_held(folder: &Path) -> bool {
    let Ok(file) = File::open(folder.join(LOCK)) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Turns the system's answer into a result. A file system without locks, as some network file systems are, is no error: the
/// work is done with a warning.
fn accept(folder: &Path, answer: std::result::Result<(), TryLockError>) -> Result<()> {
    match answer {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::invalid(
            folder,
            "folder",
            "is in use by another process that writes to it",
            "wait until that process has finished, or choose another folder",
        )),
        Err(TryLockError::Error(error)) => {
            tracing::warn!(
                "{}: cannot be locked ({error}), as on some network file systems; start no second process that writes \
                 to this folder",
                folder.display()
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = FolderLock::take(folder.path()).unwrap();
        let error = FolderLock::take(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: folder: is in use", folder.path().display())), "{error}");
        assert!(is_held(folder.path()));
        drop(held);
        assert!(!is_held(folder.path()));
        FolderLock::take(folder.path()).unwrap();
    }

    /// A process that only looks does not refuse another one the folder.
    #[test]
    fn a_look_at_the_lock_delays_nobody_for_long() {
        let folder = tempfile::tempdir().unwrap();
        drop(FolderLock::take(folder.path()).unwrap());
        let look = File::open(folder.path().join(LOCK)).unwrap();
        look.try_lock_shared().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(BETWEEN_ATTEMPTS);
                drop(look);
            });
            FolderLock::take(folder.path()).unwrap();
        });
    }

    #[test]
    fn a_file_system_without_locks_is_no_error() {
        let unsupported = TryLockError::Error(ErrorKind::Unsupported.into());
        accept(Path::new("runs"), Err(unsupported)).unwrap();
    }
}
