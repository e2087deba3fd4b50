//! Ctrl-C and the signals that end the program (SIGINT, SIGTERM, SIGHUP).

use scenerank::files::temporary::remove_all;
use scenerank::{Error, Result};

/// Exit code after Ctrl-C, as is usual for shells.
pub const INTERRUPTED: i32 = 130;

/// Runs `handler` at each signal. May be called once. A signal that the program was started to ignore, as by nohup, stays ignored.
pub fn on_interrupt(handler: impl FnMut() + Send + 'static) -> Result<()> {
    #[cfg(unix)]
    let ignored = ignored_signals();
    ctrlc::set_handler(handler)
        .map_err(|error| Error::argument("Ctrl-C", error.to_string(), "run one command per process"))?;
    #[cfg(unix)]
    for signal in ignored {
        // SAFETY: SIG_IGN is a valid disposition of these signals, and no memory is passed.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    Ok(())
}

/// Removes temporary files and ends the program.
pub fn quit() -> ! {
    remove_all();
    std::process::exit(INTERRUPTED)
}

#[cfg(unix)]
fn ignored_signals() -> Vec<libc::c_int> {
    let is_ignored = |&signal: &libc::c_int| {
        let mut found = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: without a new disposition, sigaction only writes the present one to `found`, which is of its type. All zeros
        // are a valid value, so it is initialised even after an error.
        let found = unsafe {
            libc::sigaction(signal, std::ptr::null(), found.as_mut_ptr());
            found.assume_init()
        };
        found.sa_sigaction == libc::SIG_IGN
    };
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP].into_iter().filter(is_ignored).collect()
}
