// strip_sums: column sums in a separate pass over a matrix, for matrices whose product does not compute them. A block
// handles a strip of 128 columns, four per thread, and a chunk of 64 rows, one warp per row. The strip's last block
// merges the chunks (column_sums.cuh).
#pragma once

#include "norm_arguments.cuh"

constexpr int ROW_LANES = 8; // the same in batch_norm.rs
constexpr int STRIP = WARP_LANES * COLUMNS_EACH;
constexpr int STRIP_THREADS = WARP_LANES * ROW_LANES; // of a block

// Shared memory for the sums.
union SumMemory {
    float2 chunk[ROW_LANES][STRIP];
    Pair merged[STRIP_THREADS];
};

// Two sums of each of a thread's four columns.
struct SumsOfFour {
    Four first, second;

    // Adds a row in the backward of relu(norm(z)): d and d (z - mean), where d is the gradient with respect to the
    // output if the ReLU passed, and 0 otherwise.
    __device__ __forceinline__ void add(const NormFour &norm, const Four &mean, const Four &gradient, const Four &z) {
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            float d = norm_value(norm[i], z[i]) > 0.0f ? gradient[i] : 0.0f;
            first[i] += d;
            second[i] += d * (z[i] - mean[i]);
        }
    }
};

// Adds up the sums of a chunk's rows in a fixed order, and merges the chunks if this block is the strip's last. All
// threads of the block call it. `column_of(i)` is the i-th column of the strip, or at least `columns` if there is none.
template <class Merge, class ColumnOf>
__device__ __forceinline__ void finish_strip(const ColumnMemory &of, const Merge &merge, const SumsOfFour &own,
                                             int rows, int columns, const ColumnOf &column_of, SumMemory &memory) {
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
#pragma unroll
    for (int i = 0; i < COLUMNS_EACH; i++) {
        memory.chunk[warp][lane * COLUMNS_EACH + i] = make_float2(own.first[i], own.second[i]);
    }
    __syncthreads();
    int in_strip = threadIdx.x % STRIP;
    StripThread thread = {int(blockIdx.x), int(gridDim.x), column_of(in_strip), in_strip, int(threadIdx.x / STRIP)};
    if (thread.lane == 0 && thread.column < columns && rows > 0) {
        float2 sum = make_float2(0.0f, 0.0f);
        for (int other = 0; other < ROW_LANES; other++) {
            sum.x += memory.chunk[other][in_strip].x;
            sum.y += memory.chunk[other][in_strip].y;
        }
        float *to = of.chunk(blockIdx.y, columns);
        to[thread.column] = sum.x;
        to[columns + thread.column] = sum.y;
    }
    __syncthreads(); // the chunk's sums have been read
    finish_columns<STRIP_THREADS / STRIP, STRIP>(of, merge, thread, rows, columns, blockIdx.y, 1, memory.merged);
}
