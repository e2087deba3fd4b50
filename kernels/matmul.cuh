// matmul: what the cores of a product share. A block computes a tile of out [rows, columns] = a [rows, inner] b
// [columns, inner]^T, on the tensor cores (matmul_tensor.cuh) or by fused multiply-adds (matmul_fma.cuh). A core leaves
// the tile in shared memory in chunks of 64 rows and calls its `finish` for each: there whole rows are stored at once,
// and a column's sums over the chunk are made on the way (linear_epilogue.cuh).
#pragma once

#include "column_sums.cuh"
#include "stored.cuh"

// How an operand lies in memory: line by line of its rows (of the product), or of the inner dimension.
enum Order { INNER_LAST, INNER_FIRST };

// What an operand makes of the values in memory, column by column. The result is never stored.
// The values themselves.
struct NoNorm {};
// relu(norm(values)): NormRows (stored.cuh).
// d_z, which batch norm's backward makes of the values d and of z, whose lines lie as those of d.
template <class T> struct NormBackward : NormBackwardRows {
    const T *z;
};
template <class Norm> constexpr bool reads_z = false;
template <class T> constexpr bool reads_z<NormBackward<T>> = true;

// The split of a matrix in one part: beyond every line.
constexpr int NO_SPLIT = 0x7fffffff;

// An operand in memory: lines of values that are `stride` apart. Lines from `split` on lie `jump` values further, so
// that two parts of a wider matrix are one matrix, one part above the other.
template <class T, class Norm> struct Operand {
    const T *values;
    int stride, split;
    long long jump;
    Norm norm;

    __device__ __forceinline__ const T *line(int index) const {
        return values + size_t(index) * stride + (index >= split ? jump : 0);
    }
};

// The matrix z of an operand that is d_z.
template <class T> __device__ __forceinline__ Operand<T, NoNorm> z_of(const Operand<T, NormBackward<T>> &from) {
    return {from.norm.z, from.stride, from.split, from.jump, NoNorm{}};
}

// Shared memory of a block's tile. Four blocks of the smaller tile fit beside each other on every GPU but the smallest,
// two of the larger one. The larger one exceeds what static shared memory allows: it is dynamic, and the launcher
// passes its size.
constexpr int SMALL_TILE_BYTES = 40960, LARGE_TILE_BYTES = 81920;
constexpr int LARGE_TILE = 128; // rows and columns; the launcher has this number too

// Where a block computes: the product's sizes, the tile's first row and column, and the inner steps that are added up.
struct Place {
    int rows, columns, first_row, first_column, first_inner, inner_end;
};

// The lengths of a's rows, which a core finds while it passes over the inner dimension: none,
struct NoLengths {
    static constexpr bool wanted = false;
};

// or the divisors of an l2 normalisation, written to `to`. If `to` is null, all divisors are 1. Neighbouring threads
// share a row: each takes the same columns of every 16. So the order of the sums follows from the number of threads per
// row, which is the same for both tiles of a format.
template <class Shape> struct RowLengths {
    static constexpr bool wanted = true;
    static constexpr int STEPS = 16, lanes = Shape::threads / Shape::rows, steps_each = STEPS / lanes;
    static_assert(steps_each % COLUMNS_EACH == 0 && WARP_LANES % lanes == 0, "whole fours, a row within a warp");
    float *to;
    float squares = 0.0f;

    // Adds 16 inner steps; `load(row, step)` gives four of them, both counted within the tile.
    template <class Load> __device__ __forceinline__ void add(Load load) {
        int row = int(threadIdx.x) / lanes, first = int(threadIdx.x) % lanes * steps_each;
#pragma unroll
        for (int step = 0; step < steps_each; step += COLUMNS_EACH) {
            Four values = load(row, first + step);
#pragma unroll
            for (int i = 0; i < COLUMNS_EACH; i++) {
                squares = fmaf(values[i], values[i], squares);
            }
        }
    }
    // Writes the tile's divisors by row to `of_tile`, in shared memory. The blocks of the first columns also write them
    // to `to`.
    __device__ __forceinline__ void finish(float *of_tile, const Place &place) {
#pragma unroll
        for (int bit = lanes / 2; bit > 0; bit /= 2) {
            squares += __shfl_xor_sync(FULL_WARP, squares, bit);
        }
        if (threadIdx.x % lanes > 0) {
            return;
        }
        int in_tile = int(threadIdx.x) / lanes, row = place.first_row + in_tile;
        float length = sqrtf(squares), divisor = length < L2_EPSILON ? L2_EPSILON : length; // keeps NaN
        of_tile[in_tile] = to == nullptr ? 1.0f : divisor;
        if (to != nullptr && place.first_column == 0 && row < place.rows) {
            to[row] = divisor;
        }
    }
};
