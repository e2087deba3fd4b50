//! Atomic file replacement: files are written beside the target, then renamed over it.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::files::temporary::Temporary;
use crate::{Error, Result};

/// Replaces `path` with the data that `write` writes (buffered here). After an error, such as a full disk,
/// the old file is unchanged and nothing else remains. After a power failure either the old or the new file
/// exists, complete.
///
/// A symbolic link is replaced, not followed.
pub fn write_atomically(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    replace(path, write).map_err(Error::file("write", path))
}

fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut file = Temporary::beside(path)?;
    let mut buffered = BufWriter::new(file.file());
    write(&mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    // Without this, the rename could reach the disk before the content.
    file.file().sync_all()?;
    file.persist(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names_in(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_new_file_and_its_replacement() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        for content in ["first", "second, longer"] {
            write_atomically(&path, |writer| writer.write_all(content.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(names_in(folder.path()), ["checkpoint"]);
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let plain = folder.path().join("plain");
            fs::write(&plain, "").unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&path), mode(&plain));
        }
    }

    #[test]
    fn a_failure_half_way_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        fs::write(&path, "old").unwrap();
        let error = write_atomically(&path, |writer| {
            writer.write_all(&[0; 100_000])?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names_in(folder.path()), ["checkpoint"]);
        let message = error.to_string();
        assert!(message.starts_with(&format!("{}: cannot write", path.display())), "{message}");
        assert!(message.ends_with("free some disk space and run again"), "{message}");
    }

    #[test]
    fn a_missing_folder_names_the_target() {
        let error = write_atomically("no/such/folder/checkpoint", |_| Ok(())).unwrap_err();
        assert!(error.to_string().starts_with("no/such/folder/checkpoint: cannot write"), "{error}");
    }

    /// Tests a write that the operating system refuses: runs this test again in a process whose files are
    /// limited to one block.
    #[cfg(unix)]
    #[test]
    fn a_refused_write_keeps_the_old_file() {
        const TARGET: &str = "SCENERANK_TEST_ATOMIC_FILE";
        if let Some(path) = std::env::var_os(TARGET) {
            // Small enough to stay in the buffer, so that the error occurs in the flush.
            let error = write_atomically(path, |writer| writer.write_all(&[0; 4000])).unwrap_err();
            assert!(error.to_string().contains("cannot write"), "{error}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        fs::write(&path, "old").unwrap();
        // Ignoring the signal makes the write fail instead of ending the process.
        let limited = "trap '' XFSZ; ulimit -f 1; exec \"$0\" a_refused_write_keeps_the_old_file";
        let status = std::process::Command::new("sh")
            .args(["-c", limited])
            .arg(std::env::current_exe().unwrap())
            .env(TARGET, &path)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "the write was not refused");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names_in(folder.path()), ["checkpoint"]);
    }
}
