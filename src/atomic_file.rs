//! Files that appear whole or not at all: written beside their place, then renamed into it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::{Error, Result};

/// Creates or replaces the file at `path` with what `write` writes. A reader, or a run after a crash, sees the old
/// file or the complete new one.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What any new file gets, less the umask; temporary files are private otherwise.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let result = builder.tempfile_in(folder).and_then(|temporary| {
        let (file, place) = temporary.into_parts();
        let mut writer = BufWriter::new(file);
        write(&mut writer)?;
        writer.flush()?;
        writer.get_ref().sync_all()?;
        place.persist(path).map_err(io::Error::from)
    });
    result.map_err(Error::file("write", path))
}
