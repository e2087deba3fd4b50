// matmul: what the cores of a product share. A block makes a tile of out [rows, columns] = a [rows, inner] b [columns,
// inner]^T, on the tensor cores (matmul_tensor.cuh) or by fused multiply-adds (matmul_fma.cuh). A core gives the tile
// away in chunks of 64 rows, through shared memory, to whom it was told: there rows are whole, so that they are stored
// in one piece and a column's sums over the chunk are made beside (linear_epilogue.cuh).
#pragma once

#include "column_sums.cuh"
#include "stored.cuh"

// How an operand lies in memory: its rows (of the product) by the inner dimension, or the inner dimension by its rows.
enum Order { INNER_LAST, INNER_FIRST };

// What an operand is of the values in memory, by columns; it is never written.
// The values themselves.
struct NoNorm {};
// relu(norm(values)): NormRows (stored.cuh).
// Batch norm's backward: d_z of the values d, where z lies as d does.
template <class T> struct NormBackward : NormBackwardRows {
    const T *__restrict__ z;
};
template <class Norm> constexpr bool reads_z = false;
template <class T> constexpr bool reads_z<NormBackward<T>> = true;

template <class T>
__device__ __forceinline__ NormBackward<T> norm_backward(const NormRows &norm, const float *terms, int columns,
                                                         const T *z) {
    return {norm_backward_rows(norm, terms, columns), z};
}

// An operand in memory: lines of values of type T that are `stride` apart, those from `split` on `jump` values further
// (two parts of a wider matrix one above the other).
template <class T, class Norm> struct Operand {
    const T *__restrict__ values;
    int stride, split;
    long long jump;
    Norm norm;

    __device__ __forceinline__ const T *line(int index) const {
        return values + size_t(index) * stride + (index >= split ? jump : 0);
    }
};

// Without a split.
template <class T, class Norm>
__device__ __forceinline__ Operand<T, Norm> operand(const T *values, int stride, Norm norm) {
    return {values, stride, 0x7fffffff, 0, norm};
}

// The matrix z of an operand that is d_z of d.
template <class T> __device__ __forceinline__ Operand<T, NoNorm> z_of(const Operand<T, NormBackward<T>> &from) {
    return {from.norm.z, from.stride, from.split, from.jump, NoNorm{}};
}

// Shared memory of a block's tile: of the smaller one four blocks find room beside each other on every GPU but the
// smallest, of the larger one two. Static memory would have no room for it: it is dynamic, and the launcher gives as much.
constexpr int SMALL_TILE_BYTES = 40960, LARGE_TILE_BYTES = 81920;
constexpr int LARGE_TILE = 128; // rows and columns; the launcher knows these numbers too

// Where a core computes: the product's sizes, the block's first row and column, the inner steps that it adds up.
struct Place {
    int rows, columns, first_row, first_column, first_inner, inner_end;
};

// The lengths of a's rows, which a core finds while it goes over the inner dimension: none,
struct NoLengths {
    static constexpr bool wanted = false;
};

// or those by which an l2 normalisation divides (1 where `to` is null: then there is none). Threads side by side share a
// row, each the same columns of any 16: the order of sums follows from the core's threads for each row, of which both
// tiles of a format have as many.
template <class Shape> struct RowLengths {
    static constexpr bool wanted = true;
    static constexpr int STEPS = 16, lanes = Shape::threads / Shape::rows, steps_each = STEPS / lanes;
    static_assert(steps_each % COLUMNS_EACH == 0 && WARP_LANES % lanes == 0, "whole fours, a row within a warp");
    float *__restrict__ to;
    float squares = 0.0f;

    // Of 16 inner steps: `load(row, step)` gives four of them, in the tile.
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
    // Into `of_tile`, by row, which is shared; and where they were asked for, by the blocks of the first columns.
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
