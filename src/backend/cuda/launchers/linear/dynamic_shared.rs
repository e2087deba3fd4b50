//! Dynamic shared memory of the product kernels, in addition to their static shared memory.
//!
//! The build script also includes this file, to compute occupancy, so it uses nothing of the crate.

/// The same as in `kernels/matmul.cuh`: the tile of 128 x 128 does not fit in static memory, which is limited
/// to 48 KiB.
pub const LARGE_TILE_BYTES: u32 = 82_944;

/// Rows and columns of the tiles of warpgroups, and how the names of their kernels end. The first one is for few tiles.
pub const WARPGROUP_TILES: [([usize; 2], &str); 4] =
    [([64, 128], "_64x128"), ([128, 152], "_128x152"), ([128, 224], "_128x224"), ([128, 256], "_128x256")];

/// Bytes of such a tile in `kernels/matmul_warpgroup.cuh`: four stages, each with panels of 64 lines of 128 bytes of both
/// operands, a norm of 64 columns and two barriers.
const fn warpgroup_bytes([rows, columns]: [usize; 2]) -> u32 {
    let panels = rows / 64 + columns.div_ceil(64);
    4 * (64 * 128 * panels as u32 + 64 * 2 * 4 + 2 * 8)
}

/// Bytes of dynamic shared memory per block of `kernel`; names of products end in the size of their tile.
pub const fn dynamic_shared_bytes(kernel: &str) -> u32 {
    let name = kernel.as_bytes();
    if !begins(name, b"linear_") {
        return 0;
    }
    let mut at = 0;
    while at < WARPGROUP_TILES.len() {
        let (sides, end) = WARPGROUP_TILES[at];
        if ends(name, end.as_bytes()) {
            return warpgroup_bytes(sides);
        }
        at += 1;
    }
    if ends(name, b"_128") { LARGE_TILE_BYTES } else { 0 }
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
