// matmul_fma: a block's tile of a product in single precision, without tensor cores.
//
// 256 threads compute 64 x 64 values, 4 x 4 each. They walk the inner dimension in steps of 16 through shared memory,
// where both operands are stored inner dimension first. Sums run in the order of the inner dimension: bit-reproducible.
#pragma once

#include "matmul.cuh"

struct FmaCore {
    using Value = float;
    struct Shape {
        static constexpr int rows = 64, columns = 64, threads = 256, lanes_each = 1;
    };
    static constexpr int blocks = 3; // on a multiprocessor: 80 registers hold a thread's values without spills
    static constexpr int states_blocks = 2; // of linear_backward_states, which also keeps the work of two layers
    static constexpr int STEP = 16, PER_THREAD = 4;
    // Padded so that the stores of a column hit different banks; a multiple of 4 so that four values are loaded at
    // once.
    static constexpr int stride = Shape::rows + 4;
    static constexpr int tile_stride = Shape::columns + 8;
    static constexpr int first_length = Shape::rows * tile_stride; // start of the row lengths in shared memory
    static_assert((first_length + Shape::rows) * int(sizeof(float)) <= SMALL_TILE_BYTES,
                  "room for the tile, which is larger than the operands' steps");

    // Value of an operand after its prologue.
    static __device__ __forceinline__ float value(const Operand<float, NoNorm> &from, int line, int column) {
        return from.line(line)[column];
    }
    static __device__ __forceinline__ float value(const Operand<float, NormRows> &from, int line, int column) {
        return relu_norm(from.norm.column(column), from.line(line)[column]);
    }
    // Loads rows first_row.. and inner steps first_inner.. of an operand, and zeros beyond its end.
    template <Order order, class Norm>
    static __device__ __forceinline__ void load(float *to, const Operand<float, Norm> &from, int rows, int first_row,
                                                int inner_end, int first_inner) {
        for (int i = threadIdx.x; i < Shape::rows * STEP; i += Shape::threads) {
            // Adjacent threads read adjacent values.
            int row = order == INNER_LAST ? i / STEP : i % Shape::rows;
            int step = order == INNER_LAST ? i % STEP : i / Shape::rows;
            bool inside = first_row + row < rows && first_inner + step < inner_end;
            int line = order == INNER_LAST ? first_row + row : first_inner + step;
            int column = order == INNER_LAST ? first_inner + step : first_row + row;
            to[step * stride + row] = inside ? value(from, line, column) : 0.0f;
        }
    }

    // Like TensorCore::multiply.
    template <Order order_a, Order order_b, class NormA, class NormB, class Lengths, class Finish>
    static __device__ __forceinline__ void multiply(float *memory, Operand<float, NormA> a, Operand<float, NormB> b,
                                                    Place place, Lengths lengths, Finish finish) {
        float *tile_a = memory, *tile_b = memory + STEP * stride;
        int row = threadIdx.x / (Shape::columns / PER_THREAD) * PER_THREAD;
        int column = threadIdx.x % (Shape::columns / PER_THREAD) * PER_THREAD;
        float sum[PER_THREAD][PER_THREAD] = {};
        commit_copies(); // those that the epilogue has begun
        wait_copies<0>();
        for (int at = place.first_inner; at < place.inner_end; at += STEP) {
            load<order_a>(tile_a, a, place.rows, place.first_row, place.inner_end, at);
            load<order_b>(tile_b, b, place.columns, place.first_column, place.inner_end, at);
            __syncthreads();
            if constexpr (Lengths::wanted) {
                lengths.add([&](int of_row, int step) {
                    const float *from = &tile_a[step * stride + of_row];
                    return Four{{from[0], from[stride], from[2 * stride], from[3 * stride]}};
                });
            }
#pragma unroll
            for (int step = 0; step < STEP; step++) {
                float4 left = *reinterpret_cast<const float4 *>(&tile_a[step * stride + row]);
                float4 right = *reinterpret_cast<const float4 *>(&tile_b[step * stride + column]);
                float l[PER_THREAD] = {left.x, left.y, left.z, left.w};
                float r[PER_THREAD] = {right.x, right.y, right.z, right.w};
#pragma unroll
                for (int i = 0; i < PER_THREAD; i++) {
#pragma unroll
                    for (int j = 0; j < PER_THREAD; j++) {
                        sum[i][j] += l[i] * r[j];
                    }
                }
            }
            __syncthreads(); // the next step overwrites the tiles
        }
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) {
            *reinterpret_cast<float4 *>(&memory[(row + i) * tile_stride + column]) =
                make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
        }
        if constexpr (Lengths::wanted) {
            lengths.finish(memory + first_length, place);
        }
        __syncthreads();
        finish(0);
    }
};
