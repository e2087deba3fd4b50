// linear: the three products of a linear layer y = x W^T without bias, in single precision.
//   linear_forward          y   [R, O] = x [R, I] W [O, I]^T
//   linear_backward_input   d_x [R, I] = d_y [R, O] W [O, I]
//   linear_backward_weight  d_W [O, I] = d_y [R, O]^T x [R, I]
// in   matrices with row strides (a part of the columns of a wider matrix is a matrix)
// out  written, or with `accumulate` != 0 added to what is there (the sum of two products)
// grid x tiles of columns, y tiles of rows; linear_backward_weight: z parts of the sum over R, each into its own
//      [O, I] of `partials`, added in the order of the parts by linear_sum_parts: bit-reproducible
// cost 2 R I O flops each; a 64 x 64 tile reads 2 * 64 values per 64 * 64 multiply-adds
//
// A block of 256 threads makes a tile of 64 x 64; it walks the inner dimension in steps of 16, through shared memory,
// where both operands lie inner dimension first; a thread makes 4 x 4 values.

#include "common.cuh"

constexpr int TILE = 64;
constexpr int STEP = 16;
constexpr int THREADS = 256;
constexpr int PER_THREAD = 4;
constexpr int BLOCKS = 4; // on one multiprocessor: lets a thread have 64 registers, which hold its values without spills
// Rows of an operand in shared memory: padded, so that storing a column meets different banks, and a multiple of 4,
// so that four values load at once.
constexpr int STRIDE = TILE + 4;

// How an operand lies in memory: its rows (of the product) by the inner dimension, or the inner dimension by its rows.
enum Order { INNER_LAST, INNER_FIRST };

// Loads rows first_row.. and inner steps first_step.. of an operand into `to`, zeros beyond its end.
template <Order order>
__device__ __forceinline__ void load_tile(float (*to)[STRIDE], const float *__restrict__ from, int stride, int rows,
                                          int first_row, int end_step, int first_step) {
    for (int i = threadIdx.x; i < TILE * STEP; i += THREADS) {
        // Neighbouring threads read neighbouring values.
        int row = order == INNER_LAST ? i / STEP : i % TILE;
        int step = order == INNER_LAST ? i % STEP : i / TILE;
        bool inside = first_row + row < rows && first_step + step < end_step;
        size_t at = order == INNER_LAST ? size_t(first_row + row) * stride + first_step + step
                                        : size_t(first_step + step) * stride + first_row + row;
        to[step][row] = inside ? from[at] : 0.0f;
    }
}

// out [rows, columns] = a b over the inner steps first_step..end_step.
template <Order order_a, Order order_b>
__device__ __forceinline__ void product_tile(float (*tile_a)[STRIDE], float (*tile_b)[STRIDE],
                                             float *__restrict__ out, const float *__restrict__ a,
                                             const float *__restrict__ b, int out_stride, int a_stride, int b_stride,
                                             int rows, int columns, int first_step, int end_step, int accumulate) {
    int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    int row = threadIdx.x / (TILE / PER_THREAD) * PER_THREAD;
    int column = threadIdx.x % (TILE / PER_THREAD) * PER_THREAD;
    float sum[PER_THREAD][PER_THREAD] = {};
    for (int at = first_step; at < end_step; at += STEP) {
        load_tile<order_a>(tile_a, a, a_stride, rows, first_row, end_step, at);
        load_tile<order_b>(tile_b, b, b_stride, columns, first_column, end_step, at);
        __syncthreads();
#pragma unroll
        for (int step = 0; step < STEP; step++) {
            float4 left = *reinterpret_cast<const float4 *>(&tile_a[step][row]);
            float4 right = *reinterpret_cast<const float4 *>(&tile_b[step][column]);
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
#pragma unroll
        for (int j = 0; j < PER_THREAD; j++) {
            int r = first_row + row + i, c = first_column + column + j;
            if (r < rows && c < columns) {
                float *value = &out[size_t(r) * out_stride + c];
                *value = accumulate ? *value + sum[i][j] : sum[i][j];
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
linear_forward(float *__restrict__ y, const float *__restrict__ x, const float *__restrict__ weight, int y_stride,
               int x_stride, int weight_stride, int rows, int outputs, int inputs, int accumulate) {
    __shared__ __align__(16) float tile_x[STEP][STRIDE];
    __shared__ __align__(16) float tile_weight[STEP][STRIDE];
    product_tile<INNER_LAST, INNER_LAST>(tile_x, tile_weight, y, x, weight, y_stride, x_stride, weight_stride, rows,
                                         outputs, 0, inputs, accumulate);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
linear_backward_input(float *__restrict__ d_x, const float *__restrict__ d_y, const float *__restrict__ weight,
                      int d_x_stride, int d_y_stride, int weight_stride, int rows, int inputs, int outputs,
                      int accumulate) {
    __shared__ __align__(16) float tile_d_y[STEP][STRIDE];
    __shared__ __align__(16) float tile_weight[STEP][STRIDE];
    product_tile<INNER_LAST, INNER_FIRST>(tile_d_y, tile_weight, d_x, d_y, weight, d_x_stride, d_y_stride,
                                          weight_stride, rows, inputs, 0, outputs, accumulate);
}

// Part z takes the rows z * rows_per_part.. and writes its [O, I] at partials + z * part_stride.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
linear_backward_weight(float *__restrict__ partials, const float *__restrict__ d_y, const float *__restrict__ x,
                       int partial_stride, int d_y_stride, int x_stride, int outputs, int inputs, int rows,
                       int rows_per_part, long long part_stride) {
    __shared__ __align__(16) float tile_d_y[STEP][STRIDE];
    __shared__ __align__(16) float tile_x[STEP][STRIDE];
    int first = blockIdx.z * rows_per_part;
    product_tile<INNER_FIRST, INNER_FIRST>(tile_d_y, tile_x, partials + blockIdx.z * part_stride, d_y, x,
                                           partial_stride, d_y_stride, x_stride, outputs, inputs, first,
                                           min(first + rows_per_part, rows), 0);
}

// d_weight [O, I], with a row stride, = the sum of `parts` dense matrices [O, I].
extern "C" __global__ void __launch_bounds__(THREADS)
linear_sum_parts(float *__restrict__ d_weight, const float *__restrict__ partials, int d_weight_stride, int outputs,
                 int inputs, int parts) {
    size_t count = size_t(outputs) * inputs, i = size_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= count) {
        return;
    }
    float sum = 0.0f;
    for (int part = 0; part < parts; part++) {
        sum += partials[part * count + i];
    }
    d_weight[i / inputs * d_weight_stride + i % inputs] = sum;
}

EMULATED_KERNELS(linear, EMULATED_KERNEL(linear_forward), EMULATED_KERNEL(linear_backward_input),
                 EMULATED_KERNEL(linear_backward_weight), EMULATED_KERNEL(linear_sum_parts))
