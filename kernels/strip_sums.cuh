// strip_sums: columns' sums in a pass over what they are of, where no product makes it. A block takes a strip of 32 columns
// of a chunk of 64 rows, 8 rows at a time; the strip's last block merges the chunks (column_sums.cuh).
#pragma once

#include "column_sums.cuh"
#include "stored.cuh"

constexpr int STRIP = 32;     // the launchers know these numbers too
constexpr int ROW_LANES = 8;
constexpr int SUM_BLOCKS = 4; // on a multiprocessor, at least: registers for double precision without spills

// Shared memory of the sums.
union SumMemory {
    float2 chunk[ROW_LANES][STRIP];
    Pair merged[ROW_LANES * STRIP];
};

// A chunk's two sums, over its rows in a fixed order; in the threads of the first row lane.
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

// The block's chunk is written.
template <class Merge>
__device__ __forceinline__ void finish_strip(const ColumnMemory &of, const Merge &merge, int rows, int columns,
                                             SumMemory &memory) {
    __syncthreads(); // the chunk's sums were read
    StripThread thread = {int(blockIdx.x), int(gridDim.x), int(blockIdx.x * STRIP + threadIdx.x), int(threadIdx.x),
                          int(threadIdx.y)};
    finish_columns<ROW_LANES, STRIP>(of, merge, thread, rows, columns, blockIdx.y, 1, memory.merged);
}

// The first part of the backward of relu(norm(z)): of each chunk the sums of d and of d (z - mean), where `gradient(row,
// column)` is that by the output, and d the same where the ReLU passed and 0 elsewhere.
template <class T, class Gradient>
__device__ __forceinline__ void backward_strip(ColumnMemory of, BackwardMerge merge, Gradient gradient,
                                               const T *z, NormRows norm, int stride, int rows,
                                               int columns) {
    __shared__ SumMemory memory;
    int column = blockIdx.x * STRIP + threadIdx.x, first = blockIdx.y * CHUNK_ROWS;
    if (first >= rows && first > 0) {
        return; // the whole block; without rows the first ones stay
    }
    int count = min(CHUNK_ROWS, rows - first);
    float2 own = make_float2(0.0f, 0.0f);
    if (column < columns) {
        NormColumn of_column = norm_column(norm.mean, norm.rstd, norm.weight, norm.bias, column);
        for (int row = first + threadIdx.y; row < first + count; row += ROW_LANES) {
            float value = widen(z[size_t(row) * stride + column]);
            float d = norm_value(of_column, value) > 0.0f ? gradient(row, column) : 0.0f;
            own.x += d;
            own.y += d * (value - of_column.mean);
        }
    }
    float2 sum = chunk_sum(own, memory.chunk);
    if (threadIdx.y == 0 && column < columns && count > 0) {
        float *to = of.chunk(blockIdx.y, columns);
        to[column] = sum.x;
        to[columns + column] = sum.y;
    }
    finish_strip(of, merge, rows, columns, memory);
}
