// matmul: a block's tile of a product on the tensor cores: out [rows, columns] = a [rows, inner] b [columns, inner]^T.
//
//   copies      values as they are stored, global -> shared memory, some stages ahead (cp.async); zeros beyond the ends
//   fragments   shared memory -> registers, 16 x 16 values of an operand for a warp
//   operands    rounded to the format of the tensor cores in registers
//   sums        f32, in the order of the inner dimension, so bit-reproducible
//
// Every warp makes a part of the block's tile. An operand lies in memory with its inner dimension last (x and W of a
// forward product) or first (both of a weight's gradient).
#pragma once

#include "common.cuh"
#include "tensor_core.cuh"

enum Order { INNER_LAST, INNER_FIRST };

// An operand in memory: `values` of rows that are `stride` apart.
struct Operand {
    const float *__restrict__ values;
    int stride;
};

// A block's tile: its size, inner values per stage, stages, and how many warps share it.
template <int rows_, int columns_, int inner_, int stages_, int warps_down_, int warps_across_> struct Shape {
    static constexpr int rows = rows_, columns = columns_, inner = inner_, stages = stages_;
    static constexpr int warps_down = warps_down_, warps_across = warps_across_;
    static constexpr int threads = warps_down * warps_across * WARP_LANES;
    // Of a warp: pairs of 16 x 8 products, as a fragment of b serves two.
    static constexpr int warp_rows = rows / warps_down, warp_columns = columns / warps_across;
    static_assert(warp_rows % 16 == 0 && warp_columns % 16 == 0 && inner % 16 == 0, "whole fragments");
};

// An operand's stage in shared memory, its padding such that 8 rows of 16 bytes (ldmatrix), or the 4 x 8 values that
// a warp reads at once, lie in different banks.
template <Order order, int outer, int inner> struct Stage {
    static constexpr int lines = order == INNER_LAST ? outer : inner;
    static constexpr int line = order == INNER_LAST ? inner : outer; // values side by side
    static constexpr int stride = order == INNER_LAST ? line + 4 : line + 8;
    static constexpr int values = lines * stride;
};

// What a lane 4 g + t holds of 16 x 16 values of an operand: [i][j] is row g + 8 i, inner step t + 4 j. The inner
// steps of a fragment may come in any order as long as both operands' are alike; this one suits values of 32 bits.
typedef float Fragment[2][4];

// ---- number formats ---------------------------------------------------------------------------------------------

// A fragment as operand, and d [16, 8] += a b, for b's columns 8 i..8 i + 8. `threads`: as many share a multiprocessor's
// 65,536 registers.

struct Bf16 {
    static constexpr int threads = 512;
    struct Factor {
        unsigned pair[2][2];
    };
    static __device__ __forceinline__ Factor factor(const Fragment &from) {
        Factor to;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            to.pair[i][0] = pack_bf16(from[i][0], from[i][1]);
            to.pair[i][1] = pack_bf16(from[i][2], from[i][3]);
        }
        return to;
    }
    static __device__ __forceinline__ void multiply_add(float (&d)[4], const Factor &a, const Factor &b, int i) {
        const unsigned left[4] = {a.pair[0][0], a.pair[1][0], a.pair[0][1], a.pair[1][1]};
        const unsigned right[2] = {b.pair[i][0], b.pair[i][1]};
        mma_bf16(d, left, right);
    }
};

// x = high + low + rest, both bf16, |rest| <= 2^-17 |x|; the product of the two lows is left out.
struct Bf16x3 {
    static constexpr int threads = 256;
    struct Factor {
        Bf16::Factor high, low;
    };
    static __device__ __forceinline__ Factor factor(const Fragment &from) {
        Factor to;
        to.high = Bf16::factor(from);
        Fragment rest;
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                unsigned pair = to.high.pair[i][j / 2];
                rest[i][j] = from[i][j] - (j % 2 == 0 ? low_bf16(pair) : high_bf16(pair));
            }
        }
        to.low = Bf16::factor(rest);
        return to;
    }
    // Small terms first.
    static __device__ __forceinline__ void multiply_add(float (&d)[4], const Factor &a, const Factor &b, int i) {
        Bf16::multiply_add(d, a.low, b.high, i);
        Bf16::multiply_add(d, a.high, b.low, i);
        Bf16::multiply_add(d, a.high, b.high, i);
    }
};

struct Tf32 {
    static constexpr int threads = 512;
    struct Factor {
        unsigned value[2][4];
    };
    static __device__ __forceinline__ Factor factor(const Fragment &from) {
        Factor to;
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                to.value[i][j] = to_tf32(from[i][j]);
            }
        }
        return to;
    }
    static __device__ __forceinline__ void multiply_add(float (&d)[4], const Factor &a, const Factor &b, int i) {
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
            const unsigned left[4] = {a.value[0][j], a.value[1][j], a.value[0][j + 1], a.value[1][j + 1]};
            const unsigned right[2] = {b.value[i][j], b.value[i][j + 1]};
            mma_tf32(d, left, right);
        }
    }
};

// ---- copies -----------------------------------------------------------------------------------------------------

// Begins the copies of rows first_outer.. and inner steps first_inner.. of an operand, `bytes` each.
template <int bytes, class Stage, Order order, int threads>
__device__ __forceinline__ void begin_copies(float *to, Operand from, int outer_end, int first_outer, int inner_end,
                                             int first_inner) {
    constexpr int width = bytes / int(sizeof(float));
    constexpr int per_line = Stage::line / width;
    int first_line = order == INNER_LAST ? first_outer : first_inner;
    int first = order == INNER_LAST ? first_inner : first_outer;
    int line_end = order == INNER_LAST ? outer_end : inner_end;
    int end = order == INNER_LAST ? inner_end : outer_end;
#pragma unroll
    for (int i = threadIdx.x; i < Stage::lines * per_line; i += threads) {
        int line = i / per_line, at = i % per_line * width;
        int valid = first_line + line < line_end ? min(max(end - first - at, 0), width) : 0;
        const float *address = &from.values[size_t(first_line + line) * from.stride + first + at];
        copy_async<bytes>(&to[line * Stage::stride + at], valid > 0 ? address : from.values, valid * int(sizeof(float)));
    }
}

// 16 bytes at a time where every row begins at a multiple of 16 bytes.
__device__ __forceinline__ bool takes_wide_copies(Operand from) {
    return reinterpret_cast<size_t>(from.values) % 16 == 0 && from.stride % 4 == 0;
}

// ---- fragments --------------------------------------------------------------------------------------------------

// Rows outer.. outer + 16 and inner steps inner.. inner + 16 of a stage.
template <class Stage, Order order>
__device__ __forceinline__ void load_fragment(Fragment &to, const float *stage, int outer, int inner) {
    int lane = threadIdx.x % WARP_LANES;
    if (order == INNER_LAST) {
        // Four matrices of 8 rows x 4 steps: rows 0 and 8, then steps 4 later.
        const float *row = &stage[(outer + lane % 16) * Stage::stride + inner + lane / 16 * 4];
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
            unsigned bits[4];
            load_matrix_x4(bits, row + j * 4);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                to[k % 2][j + k / 2] = __uint_as_float(bits[k]);
            }
        }
    } else {
        const float *value = &stage[(inner + lane % 4) * Stage::stride + outer + lane / 4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                to[i][j] = value[j * 4 * Stage::stride + i * 8];
            }
        }
    }
}

// ---- the product ------------------------------------------------------------------------------------------------

// The block's tile from first_row, first_column over the inner steps first_inner..inner_end; every value of it inside
// of rows x columns goes to store(row, column, value). `memory` is shared: Shape::stages stages of both operands.
template <class Shape, class Precision, Order order_a, Order order_b, class Store>
__device__ __forceinline__ void matmul(float *memory, Operand a, Operand b, int rows, int columns, int first_row,
                                       int first_column, int first_inner, int inner_end, Store store) {
    using StageA = Stage<order_a, Shape::rows, Shape::inner>;
    using StageB = Stage<order_b, Shape::columns, Shape::inner>;
    constexpr int products_down = Shape::warp_rows / 16, pairs_across = Shape::warp_columns / 16;
    float *stages_a = memory, *stages_b = memory + Shape::stages * StageA::values;
    int warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    int warp_row = warp / Shape::warps_across * Shape::warp_rows;
    int warp_column = warp % Shape::warps_across * Shape::warp_columns;
    bool wide_a = takes_wide_copies(a), wide_b = takes_wide_copies(b);

    auto begin_stage = [&](int stage, int inner) {
        float *to_a = stages_a + stage * StageA::values, *to_b = stages_b + stage * StageB::values;
        if (wide_a) {
            begin_copies<16, StageA, order_a, Shape::threads>(to_a, a, rows, first_row, inner_end, inner);
        } else {
            begin_copies<4, StageA, order_a, Shape::threads>(to_a, a, rows, first_row, inner_end, inner);
        }
        if (wide_b) {
            begin_copies<16, StageB, order_b, Shape::threads>(to_b, b, columns, first_column, inner_end, inner);
        } else {
            begin_copies<4, StageB, order_b, Shape::threads>(to_b, b, columns, first_column, inner_end, inner);
        }
    };
    // One group for each stage, an empty one beyond the end, so that the same count of groups is waited for.
#pragma unroll
    for (int stage = 0; stage < Shape::stages - 1; stage++) {
        if (first_inner + stage * Shape::inner < inner_end) {
            begin_stage(stage, first_inner + stage * Shape::inner);
        }
        commit_copies();
    }

    float sums[products_down][2 * pairs_across][4] = {};
    int stage = 0;
    for (int inner = first_inner; inner < inner_end; inner += Shape::inner) {
        wait_copies<Shape::stages - 2>();
        __syncthreads(); // all threads' copies are there, and nobody reads the stage before any more: the next to fill
        int ahead = inner + (Shape::stages - 1) * Shape::inner;
        if (ahead < inner_end) {
            begin_stage((stage + Shape::stages - 1) % Shape::stages, ahead);
        }
        commit_copies();
        const float *stage_a = stages_a + stage * StageA::values, *stage_b = stages_b + stage * StageB::values;
#pragma unroll
        for (int step = 0; step < Shape::inner; step += 16) {
            typename Precision::Factor left[products_down];
#pragma unroll
            for (int i = 0; i < products_down; i++) {
                Fragment fragment;
                load_fragment<StageA, order_a>(fragment, stage_a, warp_row + i * 16, step);
                left[i] = Precision::factor(fragment);
            }
#pragma unroll
            for (int j = 0; j < pairs_across; j++) {
                Fragment fragment;
                load_fragment<StageB, order_b>(fragment, stage_b, warp_column + j * 16, step);
                typename Precision::Factor right = Precision::factor(fragment);
#pragma unroll
                for (int i = 0; i < products_down; i++) {
                    Precision::multiply_add(sums[i][2 * j], left[i], right, 0);
                    Precision::multiply_add(sums[i][2 * j + 1], left[i], right, 1);
                }
            }
        }
        stage = (stage + 1) % Shape::stages;
    }

#pragma unroll
    for (int i = 0; i < products_down; i++) {
#pragma unroll
        for (int j = 0; j < 2 * pairs_across; j++) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                int row = first_row + warp_row + i * 16 + lane / 4 + k / 2 * 8;
                int column = first_column + warp_column + j * 8 + lane % 4 * 2 + k % 2;
                if (row < rows && column < columns) {
                    store(row, column, sums[i][j][k]);
                }
            }
        }
    }
}
