//! Dynamic shared memory of the product kernels, in addition to their static shared memory.
//!
//! The build script also includes this file, to compute occupancy, so it uses nothing of the crate.

/// The same as in `kernels/matmul.cuh`: the tile of 128 x 128 does not fit in static memory, which is limited
/// to 48 KiB.
pub const LARGE_TILE_BYTES: u32 = 82_944;

/// Columns of a warpgroup's tiles, which have 128 rows.
pub const WARPGROUP_COLUMNS: [usize; 3] = [152, 224, 256];

/// Bytes of a tile of so many columns in `kernels/matmul_warpgroup.cuh`: four stages, each with panels of 64 x 64 values in
/// bf16 of both operands, a norm of 64 columns and two barriers.
const fn warpgroup_bytes(columns: usize) -> u32 {
    4 * (64 * 128 * (2 + columns.div_ceil(64) as u32) + 64 * 2 * 4 + 2 * 8)
}

/// Bytes of dynamic shared memory per block of `kernel`; names of products end in the size of their tile.
pub const fn dynamic_shared_bytes(kernel: &str) -> u32 {
    let name = kernel.as_bytes();
    match begins(name, b"linear_") {
        true if ends(name, b"_128") => LARGE_TILE_BYTES,
        true if ends(name, b"_128x152") => warpgroup_bytes(WARPGROUP_COLUMNS[0]),
        true if ends(name, b"_128x224") => warpgroup_bytes(WARPGROUP_COLUMNS[1]),
        true if ends(name, b"_128x256") => warpgroup_bytes(WARPGROUP_COLUMNS[2]),
        _ => 0,
    }
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
