//! Arrays in device memory, and the slices of them that are passed to kernels.

use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;

use super::memory::Memory;

/// Element type of device arrays: plain data with a C++ counterpart.
pub trait Element: bytemuck::Pod {
    /// Name of the type in the kernels.
    const C_TYPE: &'static str;
}

macro_rules! elements {
    ($($type:ty: $name:literal),* $(,)?) => {
        $(impl Element for $type {
            const C_TYPE: &'static str = $name;
        })*
    };
}
elements! {
    f32: "float",
    f64: "double",
    bf16: "bf16",
    i32: "int",
    u32: "unsigned",
    i64: "long long",
    u64: "unsigned long long",
    u8: "unsigned char",
}

/// An array in device memory.
pub struct Buffer<T> {
    /// Frees the memory when the buffer is dropped.
    _memory: Box<dyn Memory>,
    address: u64,
    len: usize,
    element: PhantomData<fn() -> T>,
}

impl<T: Element> Buffer<T> {
    /// A buffer of `len` values in `memory`.
    pub(crate) fn new(memory: Box<dyn Memory>, len: usize) -> Self {
        Buffer { address: memory.address(), _memory: memory, len, element: PhantomData }
    }
}

impl<T> Buffer<T> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Slice of all values, for reading.
    pub fn all(&self) -> Slice<'_, T> {
        self.slice(0..self.len)
    }

    /// Slice of all values, for writing.
    pub fn all_mut(&mut self) -> SliceMut<'_, T> {
        self.slice_mut(0..self.len)
    }

    /// Slice of the values in `range`, for reading.
    #[track_caller]
    pub fn slice(&self, range: Range<usize>) -> Slice<'_, T> {
        Slice { address: self.address, len: self.len, lifetime: PhantomData }.slice(range)
    }

    /// Slice of the values in `range`, for writing.
    #[track_caller]
    pub fn slice_mut(&mut self, range: Range<usize>) -> SliceMut<'_, T> {
        let slice = self.slice(range);
        SliceMut { address: slice.address, len: slice.len, lifetime: PhantomData }
    }

    /// Several slices for writing; `ranges` are ascending and do not overlap.
    #[track_caller]
    pub fn slices_mut<const N: usize>(&mut self, ranges: [Range<usize>; N]) -> [SliceMut<'_, T>; N] {
        let apart = ranges.windows(2).all(|pair| pair[0].end <= pair[1].start);
        assert!(apart, "parts {ranges:?} in order and apart");
        ranges.map(|range| {
            let slice = self.slice(range);
            SliceMut { address: slice.address, len: slice.len, lifetime: PhantomData }
        })
    }
}

/// Slice of a buffer, borrowed for reading.
#[derive(Debug)]
pub struct Slice<'a, T> {
    address: u64,
    len: usize,
    lifetime: PhantomData<&'a T>,
}

impl<T> Clone for Slice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<'_, T> {}

impl<'a, T> Slice<'a, T> {
    /// Subslice of the values in `range`.
    #[track_caller]
    pub fn slice(self, range: Range<usize>) -> Slice<'a, T> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} values", self.len);
        let address = self.address + (range.start * size_of::<T>()) as u64;
        Slice { address, len: range.len(), lifetime: PhantomData }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl<'a> Slice<'a, i32> {
    /// The same memory, seen as floats; it holds their bits.
    pub(crate) fn bits_as_floats(self) -> Slice<'a, f32> {
        Slice { address: self.address, len: self.len, lifetime: PhantomData }
    }
}

/// Slice of a buffer, borrowed for writing.
#[derive(Debug)]
pub struct SliceMut<'a, T> {
    address: u64,
    len: usize,
    lifetime: PhantomData<&'a mut T>,
}

impl<'a, T> SliceMut<'a, T> {
    /// Subslice of the values in `range`.
    #[track_caller]
    pub fn slice_mut(&mut self, range: Range<usize>) -> SliceMut<'_, T> {
        let part = self.as_slice().slice(range);
        SliceMut { address: part.address, len: part.len, lifetime: PhantomData }
    }

    /// Splits into the values before `at` and those from `at` on.
    #[track_caller]
    pub fn split_at(self, at: usize) -> (SliceMut<'a, T>, SliceMut<'a, T>) {
        let (first, second) = (self.as_slice().slice(0..at), self.as_slice().slice(at..self.len));
        (
            SliceMut { address: first.address, len: first.len, lifetime: PhantomData },
            SliceMut { address: second.address, len: second.len, lifetime: PhantomData },
        )
    }

    /// The same slice twice, for two arguments of one kernel that write different columns.
    pub(crate) fn shared(&mut self) -> [SliceMut<'_, T>; 2] {
        [(); 2].map(|()| SliceMut { address: self.address, len: self.len, lifetime: PhantomData })
    }

    /// Converts to a slice for reading with the same lifetime.
    pub fn into_slice(self) -> Slice<'a, T> {
        Slice { address: self.address, len: self.len, lifetime: PhantomData }
    }

    /// The same slice for reading.
    pub fn as_slice(&self) -> Slice<'_, T> {
        Slice { address: self.address, len: self.len, lifetime: PhantomData }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}
