// strip_sums: column sums in a separate pass over a matrix, for matrices whose product does not compute them. A block
// handles a strip of columns and a chunk of 64 rows, 8 rows at a time. A strip has 32 columns, one per thread of a row, or
// 128, four per thread. The strip's last block merges the chunks (column_sums.cuh).
#pragma once

#include "norm_arguments.cuh"

constexpr int STRIP = 32;     // the same in batch_norm.rs, as is ROW_LANES
constexpr int ROW_LANES = 8;
constexpr int SUM_BLOCKS = 6; // least number per multiprocessor; with more the compiler would spill registers

// Shared memory for the sums.
union SumMemory {
    float2 chunk[ROW_LANES][STRIP];
    Pair merged[ROW_LANES * STRIP];
};

// The two sums over the rows of a chunk, in a fixed order; valid in the threads of the first row lane.
__device__ __forceinline__ float2 chunk_sum(float2 own, float2 (*partial)[STRIP]) {
    partial[threadIdx.y][threadIdx.x] = own;
    __syncthreads();
    float2 sum = make_float2(0.0f, 0.0f);
    if (threadIdx.y == 0) {
        for (int lane = 0; lane < ROW_LANES; lane++) {
            sum.x += partial[lane][threadIdx.x].x;
            sum.y += partial[lane][threadIdx.x].y;
        }
    }
    return sum;
}

// Merges the chunks, after the block has written its own chunk.
template <class Merge>
__device__ __forceinline__ void finish_strip(const ColumnMemory &of, const Merge &merge, int rows, int columns,
                                             SumMemory &memory) {
    __syncthreads(); // the chunk's sums have been read
    StripThread thread = {int(blockIdx.x), int(gridDim.x), int(blockIdx.x * STRIP + threadIdx.x), int(threadIdx.x),
                          int(threadIdx.y)};
    finish_columns<ROW_LANES, STRIP>(of, merge, thread, rows, columns, blockIdx.y, 1, memory.merged);
}

// Input z [rows, columns] of a norm.
template <class T> struct NormInput {
    const T *z;
    const NormArguments &norm;
    int rows, columns, stride;
};

// First part of the backward of relu(norm(z)): sums of d and of d (z - mean) over each chunk. `gradient(row, column)`
// returns the gradient with respect to relu(norm(z)). d equals it where the ReLU passed, and is 0 elsewhere.
template <class T, class Gradient>
__device__ __forceinline__ void backward_strip(const NormGradientArguments &to, const NormInput<T> &of,
                                               const Gradient &gradient) {
    __shared__ SumMemory memory;
    int rows = of.rows, columns = of.columns;
    int column = blockIdx.x * STRIP + threadIdx.x, first = blockIdx.y * CHUNK_ROWS;
    if (first >= rows && first > 0) {
        return; // the whole block; without rows the first blocks continue
    }
    int count = min(CHUNK_ROWS, rows - first);
    float2 own = make_float2(0.0f, 0.0f);
    if (column < columns) {
        NormColumn norm = of.norm.rows().column(column);
        for (int row = first + threadIdx.y; row < first + count; row += ROW_LANES) {
            float value = widen(of.z[size_t(row) * of.stride + column]);
            float d = norm_value(norm, value) > 0.0f ? gradient(row, column) : 0.0f;
            own.x += d;
            own.y += d * (value - norm.mean);
        }
    }
    float2 sum = chunk_sum(own, memory.chunk);
    ColumnMemory sums = to.memory();
    if (threadIdx.y == 0 && column < columns && count > 0) {
        float *chunk = sums.chunk(blockIdx.y, columns);
        chunk[column] = sum.x;
        chunk[columns + column] = sum.y;
    }
    finish_strip(sums, to.merge(of.norm), rows, columns, memory);
}

// ---- strips of 128 columns ------------------------------------------------------------------------------------------

constexpr int WIDE_STRIP = WARP_LANES * COLUMNS_EACH;
constexpr int WIDE_THREADS = WARP_LANES * ROW_LANES; // of a block: one warp per row

// Shared memory for the sums.
union WideSumMemory {
    float2 chunk[ROW_LANES][WIDE_STRIP];
    Pair merged[WIDE_THREADS];
};

// Two sums of each of a thread's four columns.
struct SumsOfFour {
    Four first, second;
};

// Adds up the sums of a chunk's rows in a fixed order, and merges the chunks if this block is the strip's last. All
// threads of the block call it. `column_of(i)` is the i-th column of the strip, or at least `columns` if there is none.
template <class Merge, class ColumnOf>
__device__ __forceinline__ void finish_wide_strip(const ColumnMemory &of, const Merge &merge, const SumsOfFour &own,
                                                  int rows, int columns, const ColumnOf &column_of,
                                                  WideSumMemory &memory) {
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
#pragma unroll
    for (int i = 0; i < COLUMNS_EACH; i++) {
        memory.chunk[warp][lane * COLUMNS_EACH + i] = make_float2(own.first[i], own.second[i]);
    }
    __syncthreads();
    int in_strip = threadIdx.x % WIDE_STRIP;
    StripThread thread = {int(blockIdx.x), int(gridDim.x), column_of(in_strip), in_strip, int(threadIdx.x / WIDE_STRIP)};
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
    finish_columns<WIDE_THREADS / WIDE_STRIP, WIDE_STRIP>(of, merge, thread, rows, columns, blockIdx.y, 1,
                                                          memory.merged);
}
