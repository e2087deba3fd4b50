//! Shared memory that a launch gives its kernel, beside the static memory that the kernel has anyway.
//!
//! Free of everything else: the build script, which tells occupancy by it, contains this file too.

/// As in `kernels/matmul.cuh`: the tile of 128 x 128, for which static memory, 48 KiB at most, has no room.
const LARGE_TILE_BYTES: u32 = 81_920;

/// Bytes of dynamic shared memory of a kernel's block: products end in the size of their tile.
pub fn dynamic_shared_bytes(kernel: &str) -> u32 {
    if kernel.starts_with("linear_") && kernel.ends_with("_128") { LARGE_TILE_BYTES } else { 0 }
}
