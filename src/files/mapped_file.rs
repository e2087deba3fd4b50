//! Files mapped into memory, and what happens when another process changes one meanwhile.
//!
//! Programs that write files whole, as this one does, replace a file by renaming, and a map keeps the old content. A file that
//! is written in place changes under the map. Two things are done about it:
//!
//! - [`MappedFile::check_unchanged`] compares length and modification time with those at the opening. Callers do so between
//!   batches, and before they give out results.
//! - A page beyond the end of a file that was cut short cannot be read: the system sends SIGBUS. After
//!   [`report_lost_pages`], the program then writes one line and ends with exit code 2.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;

use crate::{Error, Result};

/// A file, mapped for reading. Dereferences to its bytes.
#[derive(Debug)]
pub struct MappedFile {
    // Dropped before `map`: a place in the list never outlives its map.
    #[cfg(unix)]
    _listed: lost_pages::Listed,
    map: Mmap,
    file: File,
    path: PathBuf,
    opened: Stamp,
}

/// What changes when a file is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    /// `None` where the file system has no modification times.
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Stamp { length: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl MappedFile {
    /// Maps the file at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::file("read", path))?;
        Self::of_file(file, path)
    }

    /// Maps `file`, which was opened at `path`.
    pub fn of_file(file: File, path: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(Error::file("read", path))?;
        if metadata.is_dir() {
            return Err(Error::file("map", path)(io::ErrorKind::IsADirectory.into()));
        }
        // SAFETY: no safe promise covers a file that another process writes to. The values that are read are plain numbers, of
        // which every bit pattern is valid. A change is noticed as the module's comment says.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::file("map", path))?;
        Ok(MappedFile {
            #[cfg(unix)]
            _listed: lost_pages::list(&map, path),
            map,
            opened: Stamp::of(&metadata),
            file,
            path: path.to_path_buf(),
        })
    }

    /// An error if the file was written to since it was opened. Costs a system call.
    pub fn check_unchanged(&self) -> Result<()> {
        const REMEDY: &str =
            "restore the file and run the command again; replace a file by renaming, not in place";
        let now = Stamp::of(&self.file.metadata().map_err(Error::file("read", &self.path))?);
        if now == self.opened {
            return Ok(());
        }
        let problem = match now.length == self.opened.length {
            true => "was written to while it was in use".to_string(),
            false => format!("had {} bytes when it was opened, has {} now", self.opened.length, now.length),
        };
        Err(Error::invalid(&self.path, "content", problem, REMEDY))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// Makes the program end with one line and exit code 2 when a mapped file was cut short. For `main`: it replaces the handler of
/// SIGBUS, which is still called for all other addresses.
pub fn report_lost_pages() {
    #[cfg(unix)]
    lost_pages::install_handler();
}

/// Whether the calling thread may print the program's last line. Only the first one may: several threads may meet the same lost
/// page, while another one ends the program with an error.
pub fn claim_last_line() -> bool {
    #[cfg(unix)]
    return lost_pages::claim_last_line();
    #[cfg(not(unix))]
    true
}

/// The list of maps that the handler of SIGBUS searches. A handler may neither allocate nor lock, so the list is an array of
/// atomics and each message is made when a file is mapped.
#[cfg(unix)]
mod lost_pages {
    use std::path::Path;
    use std::ptr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

    use crate::terminal::visible;

    /// Number of maps that are listed at once. Signals for further ones are treated as if there were no handler.
    const MOST: usize = 64;

    /// Exit code of every error.
    const FAILED: i32 = 2;

    struct Place {
        /// Address of the first byte; 0 if the place is free, 1 while it is being filled.
        start: AtomicUsize,
        end: AtomicUsize,
        message: AtomicPtr<u8>,
        message_length: AtomicUsize,
    }

    const FREE: usize = 0;
    const FILLING: usize = 1;

    static PLACES: [Place; MOST] = [const {
        Place {
            start: AtomicUsize::new(FREE),
            end: AtomicUsize::new(0),
            message: AtomicPtr::new(ptr::null_mut()),
            message_length: AtomicUsize::new(0),
        }
    }; MOST];

    /// Whether a thread has begun to end the program.
    static ENDING: AtomicBool = AtomicBool::new(false);

    pub(super) fn claim_last_line() -> bool {
        !ENDING.swap(true, Ordering::AcqRel)
    }

    /// Action for SIGBUS before [`install_handler`].
    static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

    /// Place of a map in the list, and its message; freed when dropped.
    #[derive(Debug)]
    pub(super) struct Listed(Option<(usize, Box<[u8]>)>);

    /// Lists a map of the file at `path`.
    pub(super) fn list(bytes: &[u8], path: &Path) -> Listed {
        let take = |place: &Place| {
            place.start.compare_exchange(FREE, FILLING, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if bytes.is_empty() {
            return Listed(None); // no pages
        }
        let Some(index) = PLACES.iter().position(take) else { return Listed(None) };
        let message = format!(
            "error: {}: content: was cut short while it was in use; restore the file and run the command again\n",
            visible(&path.display().to_string())
        );
        let message = message.into_bytes().into_boxed_slice();
        let place = &PLACES[index];
        place.message.store(message.as_ptr().cast_mut(), Ordering::Relaxed);
        place.message_length.store(message.len(), Ordering::Relaxed);
        place
            .end
            .store(bytes.as_ptr() as usize + bytes.len().next_multiple_of(page_size()), Ordering::Relaxed);
        // Publishes what was stored above.
        place.start.store(bytes.as_ptr() as usize, Ordering::Release);
        Listed(Some((index, message)))
    }

    impl Drop for Listed {
        fn drop(&mut self) {
            if let Some((index, _)) = &self.0 {
                PLACES[*index].start.store(FREE, Ordering::Release);
            }
        }
    }

    fn page_size() -> usize {
        // SAFETY: a query without arguments in memory.
        unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as usize
    }

    pub(super) fn install_handler() {
        // SAFETY: `sigaction` is plain data for which zeros are valid; the handler has the signature that SA_SIGINFO asks for and
        // calls only functions that are safe in a handler. SA_ONSTACK keeps the alternate stacks of the standard library in use.
        unsafe {
            let mut previous: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, ptr::null(), &mut previous) != 0
                || PREVIOUS.set(previous).is_err()
            {
                return;
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_bus_error as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &action, ptr::null_mut());
        }
    }

    extern "C" fn on_bus_error(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the system passes a valid `info`, and SIGBUS has an address.
        let address = unsafe { (*info).si_addr() } as usize;
        for place in &PLACES {
            let start = place.start.load(Ordering::Acquire);
            if start > FILLING && (start..place.end.load(Ordering::Relaxed)).contains(&address) {
                while !claim_last_line() {
                    // SAFETY: `pause` is safe in a handler. The thread that has claimed the line ends the program.
                    unsafe { libc::pause() };
                }
                let message = place.message.load(Ordering::Relaxed);
                let length = place.message_length.load(Ordering::Relaxed);
                // SAFETY: the message lives as long as its place is taken, and the place's map is in use by the thread that was
                // interrupted here. `write` and `_exit` are safe in a handler.
                unsafe {
                    libc::write(libc::STDERR_FILENO, message.cast(), length);
                    libc::_exit(FAILED);
                }
            }
        }
        // SAFETY: called with the arguments of this handler, as the previous action would have been.
        unsafe { previous(signal, info, context) }
    }

    /// Does what would have happened without this handler.
    unsafe fn previous(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        type WithInfo = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
        match PREVIOUS.get() {
            Some(action)
                if action.sa_flags & libc::SA_SIGINFO != 0
                    && ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction) =>
            {
                // SAFETY: with SA_SIGINFO the action is a function of this type.
                let handler: WithInfo = unsafe { std::mem::transmute(action.sa_sigaction) };
                handler(signal, info, context);
            }
            // The access is repeated when the handler returns, and then has its usual end.
            // SAFETY: the default action is always valid.
            _ => unsafe {
                libc::signal(signal, libc::SIG_DFL);
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_written_to_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        fs::write(&path, [1; 1000]).unwrap();
        let map = MappedFile::open(&path).unwrap();
        assert_eq!(map[..], [1; 1000]);
        map.check_unchanged().unwrap();

        // Replaced by renaming: the map keeps the old file.
        fs::write(folder.path().join("new"), [2; 1000]).unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        map.check_unchanged().unwrap();
        assert_eq!(map[999], 1);

        let map = MappedFile::open(&path).unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        let error = map.check_unchanged().unwrap_err().to_string();
        assert!(error.contains("numbers: content: was written to while it was in use; restore"), "{error}");

        let map = MappedFile::open(&path).unwrap();
        File::options().append(true).open(&path).unwrap().set_len(1001).unwrap();
        let error = map.check_unchanged().unwrap_err().to_string();
        assert!(error.contains("had 1000 bytes when it was opened, has 1001 now"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn more_maps_than_places_still_work() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        fs::write(&path, [1; 10]).unwrap();
        for _ in 0..3 {
            let maps: Vec<_> = (0..100).map(|_| MappedFile::open(&path).unwrap()).collect();
            assert!(maps.iter().all(|map| map[9] == 1));
        }
    }
}
