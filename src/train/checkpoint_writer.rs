//! Checks and writes checkpoints concurrently with training. At the paper's size an epoch writes a hundred
//! megabytes, which takes as long as many steps on a GPU.

use std::panic::resume_unwind;
use std::thread::{self, JoinHandle};

use crate::error::Result;

/// Runs one write at a time, in the given order.
#[derive(Debug, Default)]
pub(crate) struct CheckpointWriter {
    writing: Option<JoinHandle<Result<()>>>,
}

impl CheckpointWriter {
    /// Starts a write after the previous one has finished. If that one failed, returns its error and does not
    /// start.
    pub(crate) fn start(&mut self, write: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        self.finish()?;
        self.writing = Some(thread::spawn(write));
        Ok(())
    }

    /// Waits for the current write.
    pub(crate) fn finish(&mut self) -> Result<()> {
        match self.writing.take() {
            Some(writing) => writing.join().unwrap_or_else(|panic| resume_unwind(panic)),
            None => Ok(()),
        }
    }
}

/// Completes a checkpoint that was begun, however training ends.
impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        if let Some(writing) = self.writing.take() {
            let _ = writing.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::error::Error;

    #[test]
    fn writes_are_done_one_after_another_beside_the_caller() {
        let (go, wait) = mpsc::channel();
        let (done, order) = mpsc::channel();
        let mut writer = CheckpointWriter::default();
        let first = done.clone();
        writer
            .start(move || {
                wait.recv().unwrap();
                first.send(1).unwrap();
                Ok(())
            })
            .unwrap();
        // The first write waits for a message that is sent after `start` has returned.
        go.send(()).unwrap();
        writer
            .start(move || {
                done.send(2).unwrap();
                Ok(())
            })
            .unwrap();
        drop(writer);
        assert_eq!(order.iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn an_error_comes_back_once_at_the_next_call() {
        let mut writer = CheckpointWriter::default();
        let refused = || Err(Error::argument("a checkpoint", "refused", "none"));
        writer.start(refused).unwrap();
        assert!(writer.start(|| panic!("left out")).is_err());
        writer.finish().unwrap();
        writer.start(refused).unwrap();
        assert!(writer.finish().is_err());
    }
}
