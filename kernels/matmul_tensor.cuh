// matmul_tensor: a block's tile of a product on the tensor cores.
//
//   copies      values as they are stored, global -> shared memory, some stages ahead (cp.async); zeros beyond the ends
//   fragments   shared memory -> registers, 16 x 16 values of an operand for a warp
//   operands    in registers: batch norm and ReLU where there is one, then rounded to the tensor cores' format
//   sums        f32, in the order of the inner dimension, so bit-reproducible
//
// Every warp makes a part of the block's tile. An operand lies in memory with its inner dimension last (x and W of a
// forward product) or first (both of a weight's gradient).
#pragma once

#include "matmul.cuh"
#include "tensor_core.cuh"

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
    static constexpr int threads = 384;
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
template <int bytes, class Stage, Order order, int threads, class Norm>
__device__ __forceinline__ void begin_copies(float *to, const Operand<Norm> &from, int outer_end, int first_outer,
                                             int inner_end, int first_inner) {
    constexpr int width = bytes / int(sizeof(float));
    constexpr int per_line = Stage::line / width;
    int first_line = order == INNER_LAST ? first_outer : first_inner;
    int first = order == INNER_LAST ? first_inner : first_outer;
    int remaining = order == INNER_LAST ? outer_end - first_outer : inner_end - first_inner;
    int end = order == INNER_LAST ? inner_end : outer_end;
#pragma unroll
    for (int i = threadIdx.x; i < Stage::lines * per_line; i += threads) {
        int line = i / per_line, at = i % per_line * width;
        int valid = line < remaining ? min(max(end - first - at, 0), width) : 0;
        const float *address = valid > 0 ? from.line(first_line + line) + first + at : from.values;
        copy_async<bytes>(&to[line * Stage::stride + at], address, valid * int(sizeof(float)));
    }
}

// 16 bytes at a time where every line begins at a multiple of 16 bytes.
template <class Norm> __device__ __forceinline__ bool takes_wide_copies(const Operand<Norm> &from) {
    return reinterpret_cast<size_t>(from.values) % 16 == 0 && from.stride % 4 == 0 && from.jump % 4 == 0;
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

// relu(norm(.)) of a fragment's values where the operand has a norm: column [j] of the stored matrix lies at inner step
// t + 4 j (inner dimension last) or at row g + 8 i. Beyond the inner end, where values are zero, they stay zero; beyond
// the rows they become what they like, as nobody asks for those products, and beyond the inner end of an operand with
// it first the other operand's zeros cancel them.
template <Order order>
__device__ __forceinline__ void activate(Fragment &, const NoNorm &, int, int, int, int) {}

template <Order order>
__device__ __forceinline__ void activate(Fragment &values, const NormArrays &norm, int outer, int outer_end, int inner,
                                         int inner_end) {
    int lane = threadIdx.x % WARP_LANES;
    constexpr int count = order == INNER_LAST ? 4 : 2;
    NormColumn columns[count];
#pragma unroll
    for (int k = 0; k < count; k++) {
        int column = order == INNER_LAST ? inner + lane % 4 + 4 * k : outer + lane / 4 + 8 * k;
        bool inside = column < (order == INNER_LAST ? inner_end : outer_end);
        columns[k] = inside ? norm.column(column) : NormColumn{0.0f, 0.0f, 0.0f};
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            values[i][j] = relu_norm(columns[order == INNER_LAST ? j : i], values[i][j]);
        }
    }
}

// ---- the product ------------------------------------------------------------------------------------------------

// The shape Shape_ of a tile and the number format make a core.
template <class Shape_, class Format> struct TensorCore {
    using Shape = Shape_;
    static constexpr int blocks = Format::threads / Shape::threads; // on a multiprocessor
    // With batch norm's columns in registers too: the larger tile needs more than 128 of them.
    static constexpr int norm_blocks = Shape::threads > 128 ? 1 : blocks;
    // Of the tile's chunks in shared memory: two values at once from lanes 4 g + t meet all banks.
    static constexpr int tile_stride = Shape::columns + 8;

    // The block's tile; finish(chunk) is called for each 64 rows of it, when they lie in `memory`.
    template <Order order_a, Order order_b, class NormA, class NormB, class Finish>
    static __device__ __forceinline__ void multiply(float *memory, Operand<NormA> a, Operand<NormB> b, Place place,
                                                    Finish finish) {
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
            constexpr int threads = Shape::threads;
            if (wide_a) {
                begin_copies<16, StageA, order_a, threads>(to_a, a, place.rows, place.first_row, place.inner_end, inner);
            } else {
                begin_copies<4, StageA, order_a, threads>(to_a, a, place.rows, place.first_row, place.inner_end, inner);
            }
            if (wide_b) {
                begin_copies<16, StageB, order_b, threads>(to_b, b, place.columns, place.first_column, place.inner_end,
                                                           inner);
            } else {
                begin_copies<4, StageB, order_b, threads>(to_b, b, place.columns, place.first_column, place.inner_end,
                                                          inner);
            }
        };
        // One group for each stage, an empty one beyond the end, so that the same count of groups is waited for.
#pragma unroll
        for (int stage = 0; stage < Shape::stages - 1; stage++) {
            if (place.first_inner + stage * Shape::inner < place.inner_end) {
                begin_stage(stage, place.first_inner + stage * Shape::inner);
            }
            commit_copies();
        }

        float sums[products_down][2 * pairs_across][4] = {};
        int stage = 0;
        for (int inner = place.first_inner; inner < place.inner_end; inner += Shape::inner) {
            wait_copies<Shape::stages - 2>();
            __syncthreads(); // all threads' copies are there, and nobody reads the stage before: the next to fill
            int ahead = inner + (Shape::stages - 1) * Shape::inner;
            if (ahead < place.inner_end) {
                begin_stage((stage + Shape::stages - 1) % Shape::stages, ahead);
            }
            commit_copies();
            const float *stage_a = stages_a + stage * StageA::values, *stage_b = stages_b + stage * StageB::values;
#pragma unroll
            for (int step = 0; step < Shape::inner; step += 16) {
                typename Format::Factor left[products_down];
#pragma unroll
                for (int i = 0; i < products_down; i++) {
                    Fragment fragment;
                    load_fragment<StageA, order_a>(fragment, stage_a, warp_row + i * 16, step);
                    activate<order_a>(fragment, a.norm, place.first_row + warp_row + i * 16, place.rows, inner + step,
                                      place.inner_end);
                    left[i] = Format::factor(fragment);
                }
#pragma unroll
                for (int j = 0; j < pairs_across; j++) {
                    Fragment fragment;
                    load_fragment<StageB, order_b>(fragment, stage_b, warp_column + j * 16, step);
                    activate<order_b>(fragment, b.norm, place.first_column + warp_column + j * 16, place.columns,
                                      inner + step, place.inner_end);
                    typename Format::Factor right = Format::factor(fragment);
#pragma unroll
                    for (int i = 0; i < products_down; i++) {
                        Format::multiply_add(sums[i][2 * j], left[i], right, 0);
                        Format::multiply_add(sums[i][2 * j + 1], left[i], right, 1);
                    }
                }
            }
            stage = (stage + 1) % Shape::stages;
        }

#pragma unroll
        for (int chunk = 0; chunk < Shape::rows; chunk += CHUNK_ROWS) {
            __syncthreads(); // nobody reads the stages, or the chunk before, any more
            if (warp_row >= chunk && warp_row < chunk + CHUNK_ROWS) {
#pragma unroll
                for (int i = 0; i < products_down; i++) {
#pragma unroll
                    for (int j = 0; j < 2 * pairs_across; j++) {
                        int row = warp_row - chunk + i * 16 + lane / 4, column = warp_column + j * 8 + lane % 4 * 2;
#pragma unroll
                        for (int k = 0; k < 4; k += 2) {
                            *reinterpret_cast<float2 *>(&memory[(row + k * 4) * tile_stride + column]) =
                                make_float2(sums[i][j][k], sums[i][j][k + 1]);
                        }
                    }
                }
            }
            __syncthreads();
            finish(chunk);
        }
    }
};
