// inner_products: a tile of inner products between two sets of rows, in double precision.
//   product[l, r] = <left[l], right[r]>
// The product of two f32 is exact in double precision, so only the summation rounds. A fused multiply-add therefore
// gives the same bits as two instructions. One thread computes each product, in the order of the inner dimension: equal
// rows give equal products wherever they lie, and ties stay ties.
//
// 256 threads compute 64 x 64 products. They walk the inner dimension in steps of 16 through shared memory, where both
// sides are stored inner dimension first. A thread computes 4 adjacent rows by 4 columns that are 16 apart, so a warp
// reads 16 adjacent columns at once and each row as one broadcast. Double precision runs at half the single-precision
// rate on data centre GPUs and at 1/64 of it on others.
#pragma once

#include "common.cuh"

struct InnerTile {
    static constexpr int SIDE = 64, THREADS = 256, STEP = 16, EACH = 4, APART = SIDE / EACH;
    // Padded so that a warp's stores of two rows by 16 steps hit different banks.
    static constexpr int LINE = SIDE + 2;
    // Number of doubles in shared memory: one step of both sides.
    static constexpr int MEMORY = 2 * STEP * LINE;

    // Rows and columns of the tile that this thread computes: row() + i, column() + APART * j.
    static __device__ __forceinline__ int row() { return threadIdx.x / APART * EACH; }
    static __device__ __forceinline__ int column() { return threadIdx.x % APART; }

    // Loads one step of SIDE rows; `row_at` returns the row for each position, or -1 for zeros.
    template <class RowAt>
    static __device__ __forceinline__ void load(double *to, const float *values, RowAt row_at, int width,
                                                int first) {
        for (int i = threadIdx.x; i < SIDE * STEP; i += THREADS) {
            int at = i / STEP, step = i % STEP, row = row_at(at); // adjacent threads read adjacent values
            bool inside = row >= 0 && first + step < width;
            to[step * LINE + at] = inside ? double(values[size_t(row) * width + first + step]) : 0.0;
        }
    }

    // Computes this thread's products of the rows selected by `left_row` and `right_row`.
    template <class LeftRow, class RightRow>
    static __device__ __forceinline__ void multiply(double (&product)[EACH][EACH], double *memory,
                                                    const float *left, LeftRow left_row,
                                                    const float *right, RightRow right_row, int width) {
        double *tile_left = memory, *tile_right = memory + STEP * LINE;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                product[i][j] = 0.0;
            }
        }
        for (int first = 0; first < width; first += STEP) {
            load(tile_left, left, left_row, width, first);
            load(tile_right, right, right_row, width, first);
            __syncthreads();
#pragma unroll
            for (int step = 0; step < STEP; step++) {
                double l[EACH], r[EACH];
#pragma unroll
                for (int i = 0; i < EACH; i++) {
                    l[i] = tile_left[step * LINE + row() + i];
                    r[i] = tile_right[step * LINE + column() + APART * i];
                }
#pragma unroll
                for (int i = 0; i < EACH; i++) {
#pragma unroll
                    for (int j = 0; j < EACH; j++) {
                        product[i][j] += l[i] * r[j];
                    }
                }
            }
            __syncthreads(); // the next step overwrites the tiles
        }
    }

    // Products of SIDE pairs of rows, with the same bits as from `multiply`; thread t < SIDE returns the t-th.
    template <class LeftRow, class RightRow>
    static __device__ __forceinline__ double multiply_pairs(double *memory, const float *left,
                                                            LeftRow left_row, const float *right,
                                                            RightRow right_row, int width) {
        double *tile_left = memory, *tile_right = memory + STEP * LINE;
        double product = 0.0;
        for (int first = 0; first < width; first += STEP) {
            load(tile_left, left, left_row, width, first);
            load(tile_right, right, right_row, width, first);
            __syncthreads();
            if (threadIdx.x < SIDE) {
#pragma unroll
                for (int step = 0; step < STEP; step++) {
                    product += tile_left[step * LINE + threadIdx.x] * tile_right[step * LINE + threadIdx.x];
                }
            }
            __syncthreads();
        }
        return product;
    }
};
