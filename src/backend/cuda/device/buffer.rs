//! Arrays in a device's memory, and parts of them as kernels take them.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use cudarc::driver::CudaSlice;
use half::bf16;

/// What arrays hold: plain data that kernels know by a C++ type.
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

/// An array in a device's memory.
pub struct Buffer<T> {
    pub(crate) memory: Memory<T>,
    address: u64,
    len: usize,
}

/// What keeps a buffer's memory alive.
pub(crate) enum Memory<T> {
    /// On a GPU; the slice frees it.
    Gpu(#[allow(dead_code)] CudaSlice<u8>),
    /// The emulator's device memory.
    Host(#[allow(dead_code)] HostMemory<T>),
}

/// A boxed slice behind a raw pointer, since kernels write through its address.
pub(crate) struct HostMemory<T>(NonNull<[T]>);

// SAFETY: it owns its memory, as a box does.
unsafe impl<T: Send> Send for HostMemory<T> {}
// SAFETY: likewise.
unsafe impl<T: Sync> Sync for HostMemory<T> {}

impl<T: Element> HostMemory<T> {
    /// All bits set: NaN in a float, -1 in an index.
    pub(crate) fn unwritten(len: usize) -> Self {
        let mut values: Box<[T]> = bytemuck::zeroed_slice_box(len);
        bytemuck::cast_slice_mut::<T, u8>(&mut values).fill(0xff);
        HostMemory(NonNull::from(Box::leak(values)))
    }

    pub(crate) fn address(&self) -> NonNull<T> {
        self.0.cast()
    }
}

impl<T> Drop for HostMemory<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a box, and is dropped once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl<T: Element> Buffer<T> {
    pub(crate) fn on_gpu(slice: CudaSlice<u8>, address: u64, len: usize) -> Self {
        Buffer { memory: Memory::Gpu(slice), address, len }
    }

    pub(crate) fn on_host(len: usize) -> Self {
        let memory = HostMemory::unwritten(len);
        let address = memory.address().as_ptr() as u64;
        Buffer { memory: Memory::Host(memory), address, len }
    }
}

impl<T> Buffer<T> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part to read.
    #[track_caller]
    pub fn slice(&self, range: Range<usize>) -> Slice<'_, T> {
        Slice { address: self.address, len: self.len, lifetime: PhantomData }.slice(range)
    }

    /// A part to write.
    #[track_caller]
    pub fn slice_mut(&mut self, range: Range<usize>) -> SliceMut<'_, T> {
        let slice = self.slice(range);
        SliceMut { address: slice.address, len: slice.len, lifetime: PhantomData }
    }

    /// Parts to write, one after another.
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

/// A part of a buffer, to read.
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
    /// A part of the part.
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

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// The values, where the buffer lies in the emulator's memory.
    pub(crate) fn on_host(&self) -> &'a [T] {
        // SAFETY: the address and length are those of a live buffer's part, for 'a; no launch runs meanwhile.
        unsafe { std::slice::from_raw_parts(self.address as *const T, self.len) }
    }
}

impl<'a> Slice<'a, i32> {
    /// The same memory, where it holds the bits of floats.
    pub(crate) fn bits_as_floats(self) -> Slice<'a, f32> {
        Slice { address: self.address, len: self.len, lifetime: PhantomData }
    }
}

/// A part of a buffer, to write.
#[derive(Debug)]
pub struct SliceMut<'a, T> {
    address: u64,
    len: usize,
    lifetime: PhantomData<&'a mut T>,
}

impl<'a, T> SliceMut<'a, T> {
    /// A part of the part.
    #[track_caller]
    pub fn slice_mut(&mut self, range: Range<usize>) -> SliceMut<'_, T> {
        let part = self.as_slice().slice(range);
        SliceMut { address: part.address, len: part.len, lifetime: PhantomData }
    }

    /// Two parts.
    #[track_caller]
    pub fn split_at(self, at: usize) -> (SliceMut<'a, T>, SliceMut<'a, T>) {
        let (first, second) = (self.as_slice().slice(0..at), self.as_slice().slice(at..self.len));
        (
            SliceMut { address: first.address, len: first.len, lifetime: PhantomData },
            SliceMut { address: second.address, len: second.len, lifetime: PhantomData },
        )
    }

    /// The same part twice, for columns of it that have no value in common.
    pub(crate) fn shared(&mut self) -> [SliceMut<'_, T>; 2] {
        [(); 2].map(|()| SliceMut { address: self.address, len: self.len, lifetime: PhantomData })
    }

    /// The same part, to read from now on.
    pub fn into_slice(self) -> Slice<'a, T> {
        Slice { address: self.address, len: self.len, lifetime: PhantomData }
    }

    /// The same part, to read.
    pub fn as_slice(&self) -> Slice<'_, T> {
        Slice { address: self.address, len: self.len, lifetime: PhantomData }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn on_host(&mut self) -> &mut [T] {
        // SAFETY: as for `Slice::on_host`, and this part is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.address as *mut T, self.len) }
    }
}
