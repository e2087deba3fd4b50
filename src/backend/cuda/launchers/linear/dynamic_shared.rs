//! Dynamic shared memory of the product kernels, in addition to their static shared memory.
//!
//! The build script also includes this file, to compute occupancy, so it uses nothing of the crate.

/// The same as in `kernels/matmul.cuh`: the tile of 128 x 128 does not fit in static memory, which is limited
/// to 48 KiB.
pub const LARGE_TILE_BYTES: u32 = 82_944;

/// Bytes of dynamic shared memory per block of `kernel`; names of products end in the size of their tile.
pub const fn dynamic_shared_bytes(kernel: &str) -> u32 {
    let is_large = begins(kernel.as_bytes(), b"linear_") && ends(kernel.as_bytes(), b"_128");
    if is_large { LARGE_TILE_BYTES } else { 0 }
}

const fn begins(text: &[u8], beginning: &[u8]) -> bool {
    text.len() >= beginning.len() && equal(text.split_at(beginning.len()).0, beginning)
}

const fn ends(text: &[u8], end: &[u8]) -> bool {
    text.len() >= end.len() && equal(text.split_at(text.len() - end.len()).1, end)
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}
