// matmul: definitions shared by the product cores. A block computes a tile of out [rows, columns] = a [rows, inner] b
// [columns, inner]^T, on the tensor cores (matmul_tensor.cuh) or by fused multiply-adds (matmul_fma.cuh). A core leaves
// the tile in shared memory in chunks of 64 rows and calls `finish` for each. `finish` stores whole rows at once and
// accumulates the column sums of the chunk (linear_epilogue.cuh).
#pragma once

#include "column_sums.cuh"
#include "stored.cuh"

// Memory order of an operand: each line is a row of the product, or a step of the inner dimension.
enum Order { INNER_LAST, INNER_FIRST };

// The prologues of an operand, applied per column to the loaded values; the result is never stored. None, the values
// themselves, is NoNorm; batch norm and ReLU, relu(norm(values)), is NormRows (stored.cuh).
struct NoNorm {};

// Value of `split` for a matrix in one part: beyond every line.
constexpr int NO_SPLIT = 0x7fffffff;

// Operand in memory: lines of values, `stride` apart. Lines from `split` on lie `jump` values further, so two parts of
// a wider matrix form one matrix, one part above the other.
template <class T, class Norm> struct Operand {
    const T *values;
    int stride, split;
    long long jump;
    Norm norm;

    __device__ __forceinline__ const T *line(int index) const {
        return values + size_t(index) * stride + (index >= split ? jump : 0);
    }
};

// Shared memory of a block's tile. Four blocks of the smaller tile, or two of the larger one, fit on a multiprocessor
// of every GPU but the smallest. The larger tile exceeds the limit of static shared memory. Its memory is dynamic, and
// the launcher passes the size.
constexpr int SMALL_TILE_BYTES = 41984, LARGE_TILE_BYTES = 82944;
// Rows and columns; the launcher has the same numbers. The larger tile of bf16's forward has WIDE_TILE columns.
constexpr int LARGE_TILE = 128, WIDE_TILE = 192;

// Work of a block: sizes of the product, first row and column of the tile, and the range of inner steps to add up.
struct Place {
    int rows, columns, first_row, first_column, first_inner, inner_end;
};

// Lengths of the rows of a, accumulated by a core while it walks the inner dimension. No lengths:
struct NoLengths {
    static constexpr bool wanted = false;
};

// Divisors of an l2 normalisation, written to `to`. If `to` is null, all divisors are 1. Adjacent threads share a row:
// each lane takes the same columns of every 16. The order of the sums depends only on the number of lanes per row,
// which is the same for both tiles of a format.
template <class Shape> struct RowLengths {
    static constexpr bool wanted = true;
    static constexpr int STEPS = 16, lanes = Shape::threads / Shape::rows, lanes_each = lanes == 1 ? 2 : 1;
    static constexpr int steps_each = STEPS / (lanes * lanes_each);
    static_assert(steps_each % COLUMNS_EACH == 0 && WARP_LANES % lanes == 0, "whole fours, a row within a warp");
    float *to;
    float squares[lanes_each] = {};

    // Adds 16 inner steps. `load(row, step)` returns four of them; both indices are relative to the tile.
    template <class Load> __device__ __forceinline__ void add(Load load) {
        int row = int(threadIdx.x) / lanes, first = int(threadIdx.x) % lanes * (lanes_each * steps_each);
#pragma unroll
        for (int step = 0; step < lanes_each * steps_each; step += COLUMNS_EACH) {
            Four values = load(row, first + step);
            float &sum = squares[step / steps_each];
#pragma unroll
            for (int i = 0; i < COLUMNS_EACH; i++) {
                sum = fmaf(values[i], values[i], sum);
            }
        }
    }
    // Writes the tile's divisors by row to `of_tile`, in shared memory. The blocks of the first columns also write them
    // to `to`.
    __device__ __forceinline__ void finish(float *of_tile, const Place &place) {
        float sum = squares[0];
#pragma unroll
        for (int lane = 1; lane < lanes_each; lane++) {
            sum += squares[lane];
        }
#pragma unroll
        for (int bit = lanes / 2; bit > 0; bit /= 2) {
            sum += __shfl_xor_sync(FULL_WARP, sum, bit);
        }
        if (threadIdx.x % lanes > 0) {
            return;
        }
        int in_tile = int(threadIdx.x) / lanes, row = place.first_row + in_tile;
        float length = sqrtf(sum), divisor = length < L2_EPSILON ? L2_EPSILON : length; // keeps NaN
        of_tile[in_tile] = to == nullptr ? 1.0f : divisor;
        if (to != nullptr && place.first_column == 0 && row < place.rows) {
            to[row] = divisor;
        }
    }
};
