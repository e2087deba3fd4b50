//! The crate's error type. It states what is wrong, where, and what to do about it.
//!
//! Every variant is caused by the caller or the environment and ends the program with exit code 2. Violated
//! internal invariants are panics.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::terminal::{cut, cut_middle, shorten, visible};

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

/// Most characters of a message. Longer parts are cut, so that a message fits a few lines of a terminal whatever was read.
const MOST: usize = 300;

/// Parts of a message. Strings from inputs may be in any of them.
struct Message {
    /// The file or option.
    subject: String,
    /// Position and problem, each after a colon.
    details: Vec<String>,
    /// What to do; may be empty.
    remedy: String,
}

impl Message {
    /// One line of at most [`MOST`] characters, without control characters. First the problem is cut in its middle, then the
    /// beginning of the path, then the rest.
    fn fit(self) -> String {
        let [subject, remedy] = [&self.subject, &self.remedy].map(|part| visible(part).into_owned());
        let mut details: Vec<String> = self.details.iter().map(|part| visible(part).into_owned()).collect();
        let length = |text: &str| text.chars().count();
        let excess = |subject: &str, details: &[String], remedy: &str| {
            let joints = 2 * (details.len() + 1);
            (length(subject)
                + details.iter().map(|part| length(part)).sum::<usize>()
                + length(remedy)
                + joints)
                .saturating_sub(MOST)
        };
        let less = |text: &str, by: usize, least: usize| length(text).saturating_sub(by).max(least);
        if let Some(problem) = details.len().checked_sub(1) {
            let by = excess(&subject, &details, &remedy);
            details[problem] = cut_middle(&details[problem], less(&details[problem], by, 110));
        }
        let subject = shorten(&subject, less(&subject, excess(&subject, &details, &remedy), 60));
        if details.len() > 1 {
            let by = excess(&subject, &details, &remedy);
            details[0] = cut_middle(&details[0], less(&details[0], by, 40));
        }
        let by = excess(&subject, &details, &remedy);
        let remedy = cut(&remedy, less(&remedy, by, 40));
        let mut message = std::iter::once(subject).chain(details).collect::<Vec<_>>().join(": ");
        if !remedy.is_empty() {
            message.push_str("; ");
            message.push_str(&remedy);
        }
        message
    }
}

/// What to do about an error of the operating system.
fn file_remedy(kind: io::ErrorKind) -> &'static str {
    use io::ErrorKind::*;
    match kind {
        NotFound | NotADirectory | InvalidInput | InvalidFilename => "check the path",
        PermissionDenied => "check its permissions",
        AlreadyExists => "choose another path",
        IsADirectory => "give a file, such as one within it",
        StorageFull | QuotaExceeded => "free some disk space and run again",
        FileTooLarge => "choose another disk, or raise the limit for files (ulimit -f)",
        ReadOnlyFilesystem => "choose a folder that can be written",
        OutOfMemory => "close other programs, or choose a smaller input",
        _ => "check the disk and the path, then run again",
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = match self {
            Error::File { action, path, source } => Message {
                subject: path.display().to_string(),
                details: vec![format!("cannot {action}: {source}")],
                remedy: file_remedy(source.kind()).into(),
            },
            Error::Invalid { path, place, problem, remedy } => Message {
                subject: path.display().to_string(),
                details: vec![place.clone(), problem.clone()],
                remedy: remedy.clone(),
            },
            Error::Argument { name, problem, remedy } => {
                Message { subject: name.clone(), details: vec![problem.clone()], remedy: remedy.clone() }
            }
            Error::Device { device, problem, remedy } => Message {
                subject: format!("device {device}"),
                details: vec![problem.clone()],
                remedy: remedy.clone(),
            },
            Error::Diverged { quantity, value, epoch, step, checkpoint } => Message {
                subject: format!("{quantity} became {value} in epoch {epoch}, step {step}"),
                details: vec![],
                remedy: format!(
                    "the last good checkpoint is {}: continue from it with --resume and a lower --learning-rate",
                    shorten(&checkpoint.display().to_string(), 120)
                ),
            },
        };
        f.write_str(&message.fit())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_short_line_whatever_was_read() {
        let long = "\u{1b}[31mx\n".repeat(10_000);
        let path = format!("/folder/{long}/end.json");
        let errors = [
            Error::invalid(&path, &long, format!("a{long}b"), &long),
            Error::invalid("end.json", "line 1", format!("begin {long} end"), "do something"),
            Error::argument(&long, &long, &long),
            Error::file("read", &path)(io::Error::other(long.clone())),
            Error::Device { device: long.clone(), problem: long.clone(), remedy: long.clone() },
            Error::Diverged {
                quantity: "loss".into(),
                value: f32::NAN,
                epoch: 1,
                step: 1,
                checkpoint: path.clone().into(),
            },
        ];
        for error in errors {
            let message = error.to_string();
            assert!(message.chars().count() <= MOST, "{} characters: {message}", message.chars().count());
            assert!(!message.contains(char::is_control), "{message:?}");
        }
        let message = Error::invalid("end.json", "line 1", format!("begin {long} end"), "do so").to_string();
        assert!(
            message.starts_with("end.json: line 1: begin ") && message.ends_with(" end; do so"),
            "{message}"
        );
        let message = Error::invalid(&path, "line 1", "wrong", "do so").to_string();
        assert!(message.ends_with("/end.json: line 1: wrong; do so"), "{message}");
    }

    #[test]
    fn every_error_of_the_system_has_a_remedy() {
        for code in 1..40 {
            let message = Error::file("write", "a/b")(io::Error::from_raw_os_error(code)).to_string();
            assert!(message.starts_with("a/b: cannot write: ") && message.contains("; "), "{message}");
        }
    }
}
