//! Values that are written to a temporary file one after the other and then read as a slice, so that memory does not grow with
//! their number.
//!
//! The file has no name: nothing is left when the process ends, however it ends. Few values stay in memory.

use std::fs::File;
use std::io::Write;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use memmap2::MmapMut;

use crate::{Error, Result};

/// Bytes that wait in memory before they are written.
const WAITING_BYTES: usize = 1 << 18;

/// Values that are written.
#[derive(Debug)]
pub struct Spill<T> {
    /// File in whose folder the temporary file lies; named in errors.
    target: PathBuf,
    /// `None` while all values fit in `waiting`.
    file: Option<File>,
    waiting: Vec<T>,
    len: usize,
}

impl<T: Pod> Spill<T> {
    /// No values. Their file will lie in the folder of `target`.
    pub fn beside(target: &Path) -> Self {
        Spill { target: target.to_path_buf(), file: None, waiting: Vec::new(), len: 0 }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a value.
    pub fn push(&mut self, value: T) -> Result<()> {
        self.extend(&[value])
    }

    /// Appends values.
    pub fn extend(&mut self, values: &[T]) -> Result<()> {
        self.waiting.extend_from_slice(values);
        self.len += values.len();
        match size_of_val(&self.waiting[..]) < WAITING_BYTES {
            true => Ok(()),
            false => self.flush(),
        }
    }

    fn flush(&mut self) -> Result<()> {
        let folder = match self.target.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let error = |error| Error::file("write", &self.target)(error);
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile_in(folder).map_err(error)?),
        };
        file.write_all(bytemuck::cast_slice(&self.waiting)).map_err(error)?;
        self.waiting.clear();
        Ok(())
    }

    /// All values, for reading.
    pub fn finish(mut self) -> Result<Spilled<T>> {
        if self.file.is_some() {
            self.flush()?;
        }
        let Some(file) = &self.file else { return Ok(Spilled(Storage::Memory(self.waiting))) };
        // SAFETY: the file has no name, so no other process can change it or cut it short, and this one keeps no handle to it.
        let map = unsafe { MmapMut::map_mut(file) }.map_err(Error::file("map", &self.target))?;
        Ok(Spilled(Storage::File(map, PhantomData)))
    }
}

/// Values that were written. Dereferences to them.
#[derive(Debug)]
pub struct Spilled<T>(Storage<T>);

#[derive(Debug)]
enum Storage<T> {
    Memory(Vec<T>),
    File(MmapMut, PhantomData<T>),
}

impl<T: Pod> Deref for Spilled<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Storage::Memory(values) => values,
            Storage::File(map, _) => bytemuck::cast_slice(map),
        }
    }
}

impl<T: Pod> DerefMut for Spilled<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Storage::Memory(values) => values,
            Storage::File(map, _) => bytemuck::cast_slice_mut(map),
        }
    }
}
