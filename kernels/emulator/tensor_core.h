// Implementation of tensor_core.cuh without nvcc: warp-level tensor-core instructions and asynchronous copies.
//
// A product or a matrix load synchronises the 32 lanes of a warp, like a shuffle; all lanes must run the same one, at
// the same line. A copy is only recorded when it is issued, and its target is filled with NaN. It is performed when its
// thread waits for its group. A missing wait, or a wait for one group too few, is therefore read as NaN. Addresses that
// the instruction would reject (not aligned, not in shared memory) are errors.
#pragma once

#include <stdint.h>

namespace emulator {

// d += a b in f32, in the order of the inner dimension; fragments as in tensor_core.cuh.
void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line);
void load_matrices(uint32_t *to, int count, bool transposed, const void *row, int line);
void copy_async(void *to, const void *from, int bytes, int valid_bytes, int line);
void commit_copies();
void wait_copies(int groups_under_way);

} // namespace emulator
