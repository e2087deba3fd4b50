//! The crate's error type. It states what is wrong, where, and what to do about it.
//!
//! Every variant is caused by the caller or the environment and ends the program with exit code 2. Violated
//! internal invariants are panics.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Result of every fallible function in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error, with the file or option that it concerns and a remedy.
#[derive(Debug)]
pub enum Error {
    /// The operating system refused an operation on a file.
    File {
        /// The operation, as a verb: `read`, `write`, `create`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A file was read, but its content is invalid.
    Invalid {
        /// The file.
        path: PathBuf,
        /// Position in the file: a line, a record, a section, a tensor's name.
        place: String,
        /// What is wrong there.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// An option or argument cannot be used.
    Argument {
        /// The option as typed, such as `--batch-size`.
        name: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A compute device cannot be used.
    Device {
        /// The device as typed, such as `cuda:0`.
        device: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A value became infinite or NaN during training.
    Diverged {
        /// The quantity that diverged: the loss, or a tensor.
        quantity: String,
        /// Its value.
        value: f32,
        /// Epoch, counted from 1.
        epoch: usize,
        /// Optimizer step since the start of the run, counted from 1.
        step: u64,
        /// Last checkpoint saved before that.
        checkpoint: PathBuf,
    },
}

impl Error {
    /// Creates an [`Error::File`], for use as `map_err(Error::file("read", path))`.
    pub fn file(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Error::File { action, path, source }
    }

    /// Creates an [`Error::Invalid`].
    pub fn invalid(
        path: impl AsRef<Path>,
        place: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Error::Invalid {
            path: path.as_ref().to_path_buf(),
            place: place.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// Creates an [`Error::Argument`].
    pub fn argument(name: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Argument { name: name.into(), problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::File { action, path, source } => {
                write!(f, "{}: cannot {action}: {source}", path.display())?;
                match source.kind() {
                    io::ErrorKind::NotFound => write!(f, "; check the path"),
                    io::ErrorKind::PermissionDenied => write!(f, "; check its permissions"),
                    io::ErrorKind::StorageFull => write!(f, "; free some disk space and run again"),
                    io::ErrorKind::AlreadyExists => write!(f, "; choose another path"),
                    _ => Ok(()),
                }
            }
            Error::Invalid { path, place, problem, remedy } => {
                write!(f, "{}: {place}: {problem}; {remedy}", path.display())
            }
            Error::Argument { name, problem, remedy } => write!(f, "{name}: {problem}; {remedy}"),
            Error::Device { device, problem, remedy } => {
                write!(f, "device {device}: {problem}; {remedy}")
            }
            Error::Diverged { quantity, value, epoch, step, checkpoint } => write!(
                f,
                "{quantity} became {value} in epoch {epoch}, step {step}; the last good checkpoint is {}: \
                 continue from it with --resume and a lower --learning-rate",
                checkpoint.display()
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::File { source, .. } => Some(source),
            _ => None,
        }
    }
}
