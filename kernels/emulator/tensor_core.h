// What tensor_core.cuh stands on without nvcc: the instructions of a warp's tensor cores and asynchronous copies.
//
// A product or a matrix load is a meeting of the warp's 32 lanes, like a shuffle; the same one, at the same line.
// A copy is only noted when it is issued, its target filled with NaN; it is performed when its thread waits for its
// group. So a missing wait, or a wait for one group too few, is read as NaN. Addresses that an instruction would not
// take (not aligned, not in shared memory) are errors.
#pragma once

#include <stdint.h>

namespace emulator {

// d += a b in f32, in the order of the inner dimension; fragments as tensor_core.cuh has them.
void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line);
void load_matrices(uint32_t *to, int count, bool transposed, const void *row, int line);
void copy_async(void *to, const void *from, int bytes, int valid_bytes, int line);
void commit_copies();
void wait_copies(int groups_under_way);

} // namespace emulator
