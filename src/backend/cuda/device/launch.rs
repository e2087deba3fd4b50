//! A launch as drivers take it.

use super::kernel::{ArgumentsLayout, FieldKind, KernelInfo};

/// The most parameters of a kernel, as in the emulator.
pub(crate) const MOST_PARAMETERS: usize = 64;

/// A kernel, its grid, and the values of its parameters.
#[derive(Clone, Copy)]
pub(crate) struct Launch<'a> {
    pub kernel: KernelInfo,
    /// Blocks by dimension.
    pub blocks: [u32; 3],
    /// Bytes of each parameter: one argument struct, or the parameters of a positional launch.
    pub parameters: &'a [&'a [u8]],
}

impl Launch<'_> {
    /// Calls `each` with every device address among the parameters.
    pub(crate) fn for_each_address(&self, mut each: impl FnMut(u64)) {
        match (self.kernel.arguments, self.parameters) {
            (Some(layout), [bytes]) => addresses(&layout, bytes, &mut each),
            // Without a layout any 8 bytes may be an address.
            _ => self.parameters.iter().filter(|bytes| bytes.len() == 8).for_each(|bytes| each(word(bytes))),
        }
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

/// A launch that outlives its caller's arguments.
pub(crate) struct OwnedLaunch {
    kernel: KernelInfo,
    blocks: [u32; 3],
    parameters: Vec<OwnedParameter>,
}

/// Bytes at an address that suits every type, and how many of them count.
struct OwnedParameter {
    words: Box<[u64]>,
    len: usize,
}

impl OwnedParameter {
    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

impl OwnedLaunch {
    /// Calls `launch` with the same launch.
    pub(crate) fn with<R>(&self, launch: impl FnOnce(Launch<'_>) -> R) -> R {
        let parameters: Vec<&[u8]> = self.parameters.iter().map(OwnedParameter::bytes).collect();
        launch(Launch { kernel: self.kernel, blocks: self.blocks, parameters: &parameters })
    }
}

impl From<Launch<'_>> for OwnedLaunch {
    fn from(launch: Launch<'_>) -> Self {
        let Launch { kernel, blocks, parameters } = launch;
        let owned = |bytes: &&[u8]| {
            let mut words = vec![0u64; bytes.len().div_ceil(8)].into_boxed_slice();
            bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
            OwnedParameter { words, len: bytes.len() }
        };
        OwnedLaunch { kernel, blocks, parameters: parameters.iter().map(owned).collect() }
    }
}
