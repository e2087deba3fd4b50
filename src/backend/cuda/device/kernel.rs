//! Typed kernels: a kernel's name, its arguments and its block size in one constant.
//!
//! A kernel takes one plain struct, the same in CUDA and in Rust. To add a kernel:
//! 1. `kernels/<file>.cu`: `struct Scale { float *values; int count; float factor; };`, and
//!    `extern "C" __global__ void __launch_bounds__(THREADS) scale(const __grid_constant__ Scale args)`.
//! 2. At the end of that file: `EMULATED_KERNELS(<file>, EMULATED_KERNEL(scale, THREADS))`.
//! 3. `launchers/<file>.rs`: `kernel_arguments! { struct Scale { values: PointerMut<f32>, count: i32, factor: f32 } }`.
//! 4. `const SCALE: Kernel<Scale> = Kernel::new("scale", [THREADS, 1, 1]);`, and `SCALE.info()` in the file's [`KernelFile`].
//! 5. A safe function that checks lengths and calls `device.launch(&SCALE, Blocks::cover(count, &SCALE), &Scale { .. })`.
//!
//! A kernel for several element types is generic on both sides: `struct Pool<T> { z: Pointer<T>, .. }` in Rust,
//! `template <class T> struct Pool { const T *z; .. };` and `STORED_KERNEL(pool, Pool, THREADS)` in CUDA, and
//! `impl<T: StoredElement> Pool<T> { const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("pool", T), ..); }`.

use std::fmt;
use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};

use super::buffer::{Element, Slice, SliceMut};

/// A kernel with argument struct `A`.
pub struct Kernel<A> {
    name: &'static str,
    threads: [u32; 3],
    dynamic_shared_bytes: u32,
    arguments: PhantomData<fn(&A)>,
}

impl<A> Clone for Kernel<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Kernel<A> {}

impl<A: KernelArguments> Kernel<A> {
    /// Kernel `name`, launched with blocks of `threads` threads.
    pub const fn new(name: &'static str, threads: [u32; 3]) -> Self {
        Kernel { name, threads, dynamic_shared_bytes: 0, arguments: PhantomData }
    }

    /// The same kernel with `bytes` bytes of dynamic shared memory per block.
    pub const fn with_dynamic_shared(mut self, bytes: u32) -> Self {
        self.dynamic_shared_bytes = bytes;
        self
    }

    /// Untyped description of the kernel.
    pub const fn info(&self) -> KernelInfo {
        KernelInfo {
            name: self.name,
            threads: self.threads,
            dynamic_shared_bytes: self.dynamic_shared_bytes,
            arguments: A::LAYOUT,
        }
    }
}

impl<A> Kernel<A> {
    /// Number of threads per block.
    pub const fn block_threads(&self) -> usize {
        self.threads[0] as usize * self.threads[1] as usize * self.threads[2] as usize
    }
}

/// Description of a kernel for a device.
#[derive(Clone, Copy, Debug)]
pub struct KernelInfo {
    /// Name of the kernel in the kernel file.
    pub name: &'static str,
    /// Threads per block, by dimension.
    pub threads: [u32; 3],
    /// Bytes of dynamic shared memory per block.
    pub dynamic_shared_bytes: u32,
    /// Layout of the argument struct.
    pub arguments: ArgumentsLayout,
}

/// A kernel file and the kernels in it.
#[derive(Clone, Copy, Debug)]
pub struct KernelFile {
    /// `kernels/<name>.cu`.
    pub name: &'static str,
    /// All launched kernels of the file.
    pub kernels: &'static [KernelInfo],
}

impl KernelFile {
    /// Whether its kernels use instructions of sm_90a alone. They are absent from code for other architectures, and a device
    /// may lack them.
    pub fn is_for_warpgroups(&self) -> bool {
        self.name.contains("_warpgroup_")
    }
}

/// Largest number of threads that a launch may need: with those of its last block they are below 2^32.
pub const MOST_THREADS: usize = u32::MAX as usize - 1024;

/// Number of blocks by dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks(pub [u32; 3]);

impl Blocks {
    /// Largest number of blocks by dimension, of every GPU.
    pub const MOST: [usize; 3] = [i32::MAX as usize, 65_535, 65_535];

    /// `x * y * z` blocks.
    #[track_caller]
    pub fn new(x: usize, y: usize, z: usize) -> Self {
        let [most_x, most_y, most_z] = Self::MOST;
        assert!(x <= most_x && y <= most_y && z <= most_z, "a grid of ({x}, {y}, {z}) blocks");
        Blocks([x, y, z].map(dimension))
    }

    /// `count` blocks in one dimension.
    pub fn rows(count: usize) -> Self {
        Blocks::new(count, 1, 1)
    }

    /// Enough blocks of `kernel` for at least `threads` threads in total. Kernels number them by an `unsigned`.
    #[track_caller]
    pub fn cover<A>(threads: usize, kernel: &Kernel<A>) -> Self {
        assert!(threads <= MOST_THREADS, "{threads} threads");
        Blocks::rows(threads.div_ceil(kernel.block_threads()))
    }
}

/// Converts a number of blocks to the driver's type.
pub(crate) fn dimension(blocks: usize) -> u32 {
    u32::try_from(blocks).expect("a grid of fewer than 2^32 blocks")
}

/// Largest size that kernels take. They round sizes up to whole blocks in `int`: at most 1,024 threads of four values each.
pub const MOST: usize = i32::MAX as usize - 4 * 1024;

/// Converts a size or an index to the kernels' `int`.
#[track_caller]
pub(crate) fn int(value: usize) -> i32 {
    assert!(value <= MOST, "{value}: kernels take sizes up to {MOST}");
    value as i32
}

// ---- arguments -----------------------------------------------------------------------------------------------------

/// Argument struct of a kernel, or a part of one. Defined with the macro `kernel_arguments!`.
///
/// # Safety
/// `LAYOUT` must describe the struct: it is `repr(C)`, has these fields at these offsets, and has no padding.
pub unsafe trait KernelArguments: Pod {
    /// Name, size and fields.
    const LAYOUT: ArgumentsLayout;
}

/// Type of a field in an argument struct.
pub trait Argument: Pod {
    /// C type of the field.
    const KIND: FieldKind;
}

/// Name, size and fields of an argument struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgumentsLayout {
    /// Name of the struct, or of the struct template.
    pub name: &'static str,
    /// C types with which a struct template is instantiated; empty for a plain struct.
    pub elements: &'static [&'static str],
    /// Size of the struct in bytes.
    pub size: usize,
    /// Fields, in order.
    pub fields: &'static [Field],
}

impl ArgumentsLayout {
    /// C++ type, such as `AdamStep` or `EdgePoolForward<float>`.
    pub fn type_name(&self) -> String {
        match self.elements {
            [] => self.name.to_string(),
            elements => format!("{}<{}>", self.name, elements.join(", ")),
        }
    }
}

/// A field of an argument struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name, the same in both languages.
    pub name: &'static str,
    /// Offset in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// Type of the field.
    pub kind: FieldKind,
}

/// Type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// `const T *`, with the name of T.
    Pointer(&'static str),
    /// `T *`, with the name of T.
    PointerMut(&'static str),
    /// A number, with the name of its type.
    Scalar(&'static str),
    /// A nested struct of arguments.
    Arguments(&'static ArgumentsLayout),
    /// An array.
    Array {
        /// Type of an element.
        of: &'static FieldKind,
        /// Size of an element in bytes.
        size: usize,
        /// Number of elements.
        count: usize,
    },
}

impl fmt::Display for FieldKind {
    /// Writes the C++ type, such as `const float *`; an array as `float [4]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldKind::Pointer(element) => write!(f, "const {element} *"),
            FieldKind::PointerMut(element) => write!(f, "{element} *"),
            FieldKind::Scalar(name) => f.write_str(name),
            FieldKind::Arguments(layout) => f.write_str(&layout.type_name()),
            FieldKind::Array { of, count, .. } => write!(f, "{of} [{count}]"),
        }
    }
}

/// Device address of values that a kernel reads.
#[repr(transparent)]
pub struct Pointer<T> {
    address: u64,
    element: PhantomData<fn() -> T>,
}

/// Device address of values that a kernel writes.
#[repr(transparent)]
pub struct PointerMut<T> {
    address: u64,
    element: PhantomData<fn() -> T>,
}

macro_rules! device_pointer {
    ($name:ident) => {
        impl<T> $name<T> {
            /// Null pointer.
            pub const fn null() -> Self {
                $name { address: 0, element: PhantomData }
            }
        }

        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T> Copy for $name<T> {}

        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.address)
            }
        }

        // SAFETY: a transparent u64, for which all zeros is a valid value.
        unsafe impl<T> Zeroable for $name<T> {}
        // SAFETY: a transparent u64, which has no padding and no invalid bits.
        unsafe impl<T: 'static> Pod for $name<T> {}

        impl<T: Element> Argument for $name<T> {
            const KIND: FieldKind = FieldKind::$name(T::C_TYPE);
        }
    };
}
device_pointer!(Pointer);
device_pointer!(PointerMut);

impl<T> From<Slice<'_, T>> for Pointer<T> {
    fn from(slice: Slice<'_, T>) -> Self {
        Pointer { address: slice.address(), element: PhantomData }
    }
}

impl<T> From<Option<Slice<'_, T>>> for Pointer<T> {
    /// Null for `None`.
    fn from(slice: Option<Slice<'_, T>>) -> Self {
        slice.map_or(Pointer::null(), Pointer::from)
    }
}

impl<T> From<&mut SliceMut<'_, T>> for PointerMut<T> {
    fn from(slice: &mut SliceMut<'_, T>) -> Self {
        PointerMut { address: slice.address(), element: PhantomData }
    }
}

impl<T> From<Option<&mut SliceMut<'_, T>>> for PointerMut<T> {
    /// Null for `None`.
    fn from(slice: Option<&mut SliceMut<'_, T>>) -> Self {
        slice.map_or(PointerMut::null(), PointerMut::from)
    }
}

macro_rules! scalar_arguments {
    ($($type:ty),*) => {
        $(impl Argument for $type {
            const KIND: FieldKind = FieldKind::Scalar(<$type as Element>::C_TYPE);
        })*
    };
}
scalar_arguments!(f32, f64, i32, u32, i64, u64);

impl<A: Argument, const N: usize> Argument for [A; N] {
    const KIND: FieldKind = FieldKind::Array { of: &A::KIND, size: size_of::<A>(), count: N };
}

/// Sum of the field sizes. It equals the size of the struct if there is no padding.
pub(crate) const fn bytes_of_fields(fields: &[Field]) -> usize {
    let (mut bytes, mut i) = (0, 0);
    while i < fields.len() {
        bytes += fields[i].size;
        i += 1;
    }
    bytes
}

/// Defines the argument structs of kernels: `repr(C)`, plain data, all fields `pub(crate)`.
///
/// A struct with padding does not compile: put pointers and 8-byte fields first, and fill the rest with
/// `reserved: i32`. A type parameter must be an [`Element`], and satisfy its bound if it has one.
macro_rules! kernel_arguments {
    (@float_for $element:ident) => { f32 };
    ($(
        $(#[$meta:meta])*
        $visibility:vis struct $name:ident $(<$($element:ident $(: $bound:path)?),+>)? {
            $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)?
        }
    )+) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy)]
        $visibility struct $name $(<$($element: $crate::backend::cuda::device::buffer::Element $(+ $bound)?),+>)? {
            $($(#[$field_meta])* pub(crate) $field: $type),*
        }

        // SAFETY: all fields are plain data, for which all zeros is a valid value.
        unsafe impl $(<$($element: $crate::backend::cuda::device::buffer::Element $(+ $bound)?),+>)?
            bytemuck::Zeroable for $name $(<$($element),+>)? {}
        // SAFETY: all fields are plain data, and LAYOUT asserts that there is no padding between them.
        unsafe impl $(<$($element: $crate::backend::cuda::device::buffer::Element $(+ $bound)?),+>)?
            bytemuck::Pod for $name $(<$($element),+>)? {}
        // SAFETY: the compiler computes sizes and offsets of the fields.
        unsafe impl $(<$($element: $crate::backend::cuda::device::buffer::Element $(+ $bound)?),+>)?
            $crate::backend::cuda::device::kernel::KernelArguments for $name $(<$($element),+>)?
        {
            const LAYOUT: $crate::backend::cuda::device::kernel::ArgumentsLayout = {
                use $crate::backend::cuda::device::kernel as kernel;
                let layout = kernel::ArgumentsLayout {
                    name: stringify!($name),
                    elements: &[$($(<$element as $crate::backend::cuda::device::buffer::Element>::C_TYPE),+)?],
                    size: size_of::<Self>(),
                    fields: &[$(kernel::Field {
                        name: stringify!($field),
                        offset: std::mem::offset_of!(Self, $field),
                        size: size_of::<$type>(),
                        kind: <$type as kernel::Argument>::KIND,
                    }),*],
                };
                assert!(
                    kernel::bytes_of_fields(layout.fields) == layout.size,
                    concat!(stringify!($name), " has padding: fill it with `reserved: i32`")
                );
                layout
            };
        }

        impl $(<$($element: $crate::backend::cuda::device::buffer::Element $(+ $bound)?),+>)?
            $crate::backend::cuda::device::kernel::Argument for $name $(<$($element),+>)?
        {
            const KIND: $crate::backend::cuda::device::kernel::FieldKind =
                $crate::backend::cuda::device::kernel::FieldKind::Arguments(
                    &<Self as $crate::backend::cuda::device::kernel::KernelArguments>::LAYOUT,
                );
        }

        // Evaluated here so that unused structs are checked too; the size of a template's fields is the same
        // for all elements.
        const _: $crate::backend::cuda::device::kernel::ArgumentsLayout =
            <$name $(<$($crate::backend::cuda::device::kernel::kernel_arguments!(@float_for $element)),+>)?
                as $crate::backend::cuda::device::kernel::KernelArguments>::LAYOUT;
    )+};
}

pub(crate) use kernel_arguments;

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    kernel_arguments! {
        /// Part of the struct below.
        struct Part {
            mean: Pointer<f32>,
            count: i64,
        }

        struct Whole<T> {
            out: PointerMut<T>,
            of: [Part; 2],
            width: i32,
            rate: f32,
        }

        struct Two<T: Element, U> {
            x: Pointer<T>,
            y: Pointer<U>,
        }
    }

    #[test]
    fn a_layout_names_c_types_and_tells_offsets() {
        let layout = Whole::<bf16>::LAYOUT;
        assert_eq!((layout.type_name(), layout.size), ("Whole<bf16>".to_string(), 48));
        let fields: Vec<_> =
            layout.fields.iter().map(|f| (f.name, f.offset, f.size, f.kind.to_string())).collect();
        let expected = [
            ("out", 0, 8, "bf16 *".to_string()),
            ("of", 8, 32, "Part [2]".to_string()),
            ("width", 40, 4, "int".to_string()),
            ("rate", 44, 4, "float".to_string()),
        ];
        assert_eq!(fields, expected);
        assert_eq!(Part::LAYOUT.fields[0].kind.to_string(), "const float *");
        assert_eq!(Part::LAYOUT.fields[1].kind.to_string(), "long long");
        assert_eq!(Two::<f32, bf16>::LAYOUT.type_name(), "Two<float, bf16>");
    }

    #[test]
    fn blocks_cover_all_threads() {
        let kernel: Kernel<Part> = Kernel::new("part", [32, 4, 1]).with_dynamic_shared(64);
        assert_eq!(Blocks::cover(129, &kernel), Blocks([2, 1, 1]));
        assert_eq!(Blocks::cover(128, &kernel), Blocks::rows(1));
        assert_eq!(kernel.info().dynamic_shared_bytes, 64);
    }
}
