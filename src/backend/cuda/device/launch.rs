//! Description of a launch for drivers.

use super::kernel::{ArgumentsLayout, FieldKind, KernelInfo};

/// A kernel, its grid, and its argument struct.
#[derive(Clone, Copy)]
pub(crate) struct Launch<'a> {
    pub kernel: KernelInfo,
    /// Blocks by dimension.
    pub blocks: [u32; 3],
    /// Bytes of the argument struct, suitably aligned.
    pub arguments: &'a [u8],
}

impl Launch<'_> {
    /// Calls `each` with every device address among the arguments.
    pub(crate) fn for_each_address(&self, mut each: impl FnMut(u64)) {
        addresses(&self.kernel.arguments, self.arguments, &mut each);
    }
}

fn addresses(layout: &ArgumentsLayout, bytes: &[u8], each: &mut impl FnMut(u64)) {
    for field in layout.fields {
        addresses_of_field(&field.kind, &bytes[field.offset..][..field.size], each);
    }
}

fn addresses_of_field(kind: &FieldKind, bytes: &[u8], each: &mut impl FnMut(u64)) {
    match kind {
        FieldKind::Pointer(_) | FieldKind::PointerMut(_) => each(word(bytes)),
        FieldKind::Scalar(_) => {}
        FieldKind::Arguments(layout) => addresses(layout, bytes, each),
        FieldKind::Array { of, size, .. } => {
            bytes.chunks_exact(*size).for_each(|element| addresses_of_field(of, element, each));
        }
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytemuck::pod_read_unaligned(bytes)
}

/// A launch that owns its arguments.
pub(crate) struct OwnedLaunch {
    kernel: KernelInfo,
    blocks: [u32; 3],
    /// Argument struct in words of 8 bytes, an alignment that suits every field.
    words: Box<[u64]>,
}

impl OwnedLaunch {
    /// Calls `launch` with the launch.
    pub(crate) fn with<R>(&self, launch: impl FnOnce(Launch<'_>) -> R) -> R {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words);
        let arguments = &bytes[..self.kernel.arguments.size];
        launch(Launch { kernel: self.kernel, blocks: self.blocks, arguments })
    }
}

impl From<Launch<'_>> for OwnedLaunch {
    fn from(Launch { kernel, blocks, arguments }: Launch<'_>) -> Self {
        let mut words = vec![0u64; arguments.len().div_ceil(8)].into_boxed_slice();
        bytemuck::cast_slice_mut(&mut words)[..arguments.len()].copy_from_slice(arguments);
        OwnedLaunch { kernel, blocks, words }
    }
}
