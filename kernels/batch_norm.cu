// batch_norm: columns normalised by their statistics, scaled, shifted; ReLU (model.md, "Forward").
//   norm(z) = (z - mean) rstd weight + bias,  rstd = 1 / sqrt(variance + eps)
// backward, with d = d_y where the ReLU passed and 0 elsewhere:
//   d_bias = sum d,  d_weight = sum d xhat,  d_z = weight rstd (d - d_bias / R - xhat d_weight / R)
// without batch norm the statistics are the constants 0 and 1, and d_z = weight d
// in   z [R, C]; relu reads a part of the columns of a wider z
// out  mean, rstd, running statistics [C]; y [R, C]; d_z in the place of d_y; d_weight, d_bias [C] written
// z, y and d are of T, rows at the strides that are given (stored.cuh); R lies in device memory (common.cuh)
// grid sums: x strips of 32 columns, y chunks of 64 rows, 8 rows at a time; the strip's last block merges the chunks
//      (column_sums.cuh): bit-reproducible
// cost each pass over z or d_y reads or writes T R C bytes: bandwidth

#include "column_sums.cuh"
#include "stored.cuh"

constexpr int STRIP = 32;     // columns of a block
constexpr int ROW_LANES = 8;  // rows that a block reads at once
constexpr int SUM_BLOCKS = 4; // on a multiprocessor, at least: registers for double precision without spills
constexpr int COLUMN_THREADS = 128;
constexpr int THREADS = 256; // of kernels that work value by value

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

// Of each chunk its mean and the sum of squared deviations from it, taken around the chunk's first row, which keeps them
// free of cancellation.
template <class T>
__device__ __forceinline__ void batch_norm_statistics(SumMemory &memory, const ColumnMemory &of,
                                                      const StatisticsMerge &merge, const T *__restrict__ z,
                                                      int stride, int rows, int columns) {
    int column = blockIdx.x * STRIP + threadIdx.x, first = blockIdx.y * CHUNK_ROWS;
    if (first >= rows && first > 0) {
        return; // the whole block; without rows the first ones stay
    }
    int count = min(CHUNK_ROWS, rows - first);
    float2 own = make_float2(0.0f, 0.0f);
    float around = column < columns && count > 0 ? widen(z[size_t(first) * stride + column]) : 0.0f;
    if (column < columns) {
        for (int row = threadIdx.y; row < count; row += ROW_LANES) {
            float offset = widen(z[size_t(first + row) * stride + column]) - around;
            own.x += offset;
            own.y += offset * offset;
        }
    }
    float2 sum = chunk_sum(own, memory.chunk);
    if (threadIdx.y == 0 && column < columns && count > 0) {
        float offset = sum.x / count;
        float deviation = sum.y - sum.x * offset;
        float *to = of.chunk(blockIdx.y, columns);
        to[column] = around + offset;
        to[columns + column] = deviation < 0.0f ? 0.0f : deviation; // keeps NaN
    }
    finish_strip(of, merge, rows, columns, memory);
}

// Evaluation: the running statistics in the batch's place.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
batch_norm_running_statistics(float *__restrict__ mean, float *__restrict__ rstd,
                              const float *__restrict__ running_mean, const float *__restrict__ running_var,
                              int columns) {
    int column = blockIdx.x * COLUMN_THREADS + threadIdx.x;
    if (column < columns) {
        mean[column] = running_mean[column];
        rstd[column] = float(1.0 / sqrt(running_var[column] + NORM_EPSILON));
    }
}

// Without batch norm: the statistics that change nothing.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
batch_norm_no_statistics(float *__restrict__ mean, float *__restrict__ rstd, int columns) {
    int column = blockIdx.x * COLUMN_THREADS + threadIdx.x;
    if (column < columns) {
        mean[column] = 0.0f;
        rstd[column] = 1.0f;
    }
}

// A thread's place in [R, C], four columns to a thread.
struct Place {
    unsigned row;
    int column;
};

__device__ __forceinline__ Place four_place(int columns) {
    unsigned i = blockIdx.x * THREADS + threadIdx.x, in_row = (columns + COLUMNS_EACH - 1) / COLUMNS_EACH;
    return {i / in_row, int(i % in_row) * COLUMNS_EACH};
}

// y [R, C] = relu(norm(z)).
template <class T>
__device__ __forceinline__ void batch_norm_relu(T *__restrict__ y, const T *__restrict__ z, NormRows norm,
                                                int y_stride, int z_stride, int rows, int columns) {
    Place at = four_place(columns);
    if (at.row >= unsigned(rows)) {
        return;
    }
    NormFour norms = load_norm(norm, at.column, columns);
    Four values = load_four(z + size_t(at.row) * z_stride, at.column, columns);
#pragma unroll
    for (int i = 0; i < COLUMNS_EACH; i++) {
        values[i] = relu_norm(norms[i], values[i]);
    }
    store_four(y + size_t(at.row) * y_stride, at.column, columns, values);
}

// mask [R, C] dense: 1 where the ReLU passes, 0 elsewhere; a thread per value.
template <class T>
__device__ __forceinline__ void batch_norm_mask(unsigned char *__restrict__ mask, const T *__restrict__ z,
                                                NormRows norm, int stride, int rows, int columns) {
    size_t i = size_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i < size_t(rows) * columns) {
        int column = i % columns;
        NormColumn of = norm_column(norm.mean, norm.rstd, norm.weight, norm.bias, column);
        mask[i] = norm_value(of, widen(z[i / columns * stride + column])) > 0.0f;
    }
}

// Of each chunk its sums of d and of d (z - mean).
template <class T>
__device__ __forceinline__ void batch_norm_backward_sums(SumMemory &memory, const ColumnMemory &of,
                                                         const BackwardMerge &merge, const T *__restrict__ d_y,
                                                         const T *__restrict__ z, NormRows norm, int stride, int rows,
                                                         int columns) {
    int column = blockIdx.x * STRIP + threadIdx.x, first = blockIdx.y * CHUNK_ROWS;
    if (first >= rows && first > 0) {
        return; // the whole block; without rows the first ones stay
    }
    int count = min(CHUNK_ROWS, rows - first);
    float2 own = make_float2(0.0f, 0.0f);
    if (column < columns) {
        NormColumn norms = norm_column(norm.mean, norm.rstd, norm.weight, norm.bias, column);
        for (int row = threadIdx.y; row < count; row += ROW_LANES) {
            size_t at = size_t(first + row) * stride + column;
            float value = widen(z[at]);
            float d = norm_value(norms, value) > 0.0f ? widen(d_y[at]) : 0.0f;
            own.x += d;
            own.y += d * (value - norms.mean);
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

// d [R, C]: d_y becomes d_z.
template <class T>
__device__ __forceinline__ void batch_norm_backward(T *__restrict__ d, const T *__restrict__ z, NormRows norm,
                                                    const float *__restrict__ terms, int stride, int rows,
                                                    int columns) {
    Place at = four_place(columns);
    if (at.row >= unsigned(rows)) {
        return;
    }
    NormFour norms = load_norm(norm, at.column, columns);
    Four constant = load_four(terms, at.column, columns), slope = load_four(terms + columns, at.column, columns);
    T *row = d + size_t(at.row) * stride;
    Four values = load_four(z + size_t(at.row) * stride, at.column, columns);
    Four gradient = load_four(row, at.column, columns);
#pragma unroll
    for (int i = 0; i < COLUMNS_EACH; i++) {
        float passed = norm_value(norms[i], values[i]) > 0.0f ? gradient[i] : 0.0f;
        gradient[i] = norms.scale[i] * passed - constant[i] - (values[i] - norms.mean[i]) * slope[i];
    }
    store_four(row, at.column, columns, gradient);
}

#define BATCH_NORM_KERNELS(T, suffix)                                                                                 \
    extern "C" __global__ void __launch_bounds__(STRIP *ROW_LANES, SUM_BLOCKS) batch_norm_statistics_##suffix(         \
        float *__restrict__ partials, double *__restrict__ groups, int *__restrict__ tickets,                          \
        float *__restrict__ mean, float *__restrict__ rstd, float *__restrict__ running_mean,                          \
        float *__restrict__ running_var, const T *__restrict__ z, int stride, const int *__restrict__ row_count,       \
        int columns) {                                                                                                 \
        __shared__ SumMemory memory;                                                                                   \
        batch_norm_statistics(memory, {partials, groups, tickets}, {mean, rstd, running_mean, running_var}, z,         \
                              stride, *row_count, columns);                                                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) batch_norm_relu_##suffix(                                   \
        T *__restrict__ y, const T *__restrict__ z, const float *__restrict__ mean, const float *__restrict__ rstd,   \
        const float *__restrict__ weight, const float *__restrict__ bias, int y_stride, int z_stride,                 \
        const int *__restrict__ row_count, int columns) {                                                             \
        batch_norm_relu(y, z, {mean, rstd, weight, bias}, y_stride, z_stride, *row_count, columns);                   \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) batch_norm_mask_##suffix(                                   \
        unsigned char *__restrict__ mask, const T *__restrict__ z, const float *__restrict__ mean,                    \
        const float *__restrict__ rstd, const float *__restrict__ weight, const float *__restrict__ bias, int stride, \
        int rows, int columns) {                                                                                      \
        batch_norm_mask(mask, z, {mean, rstd, weight, bias}, stride, rows, columns);                                  \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(STRIP *ROW_LANES, SUM_BLOCKS) batch_norm_backward_sums_##suffix(      \
        float *__restrict__ partials, double *__restrict__ groups, int *__restrict__ tickets,                          \
        float *__restrict__ d_weight, float *__restrict__ d_bias, float *__restrict__ terms, int batch_statistics,     \
        const T *__restrict__ d_y, const T *__restrict__ z, const float *__restrict__ mean,                            \
        const float *__restrict__ rstd, const float *__restrict__ weight, const float *__restrict__ bias,              \
        int stride, const int *__restrict__ row_count, int columns) {                                                  \
        __shared__ SumMemory memory;                                                                                   \
        batch_norm_backward_sums(memory, {partials, groups, tickets},                                                  \
                                 {d_weight, d_bias, terms, rstd, weight, batch_statistics}, d_y, z,                    \
                                 {mean, rstd, weight, bias}, stride, *row_count, columns);                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) batch_norm_backward_##suffix(                               \
        T *__restrict__ d, const T *__restrict__ z, const float *__restrict__ mean, const float *__restrict__ rstd,   \
        const float *__restrict__ weight, const float *__restrict__ bias, const float *__restrict__ terms,            \
        int stride, const int *__restrict__ row_count, int columns) {                                                 \
        batch_norm_backward(d, z, {mean, rstd, weight, bias}, terms, stride, *row_count, columns);                    \
    }

STORED_KERNELS(BATCH_NORM_KERNELS)
EMULATED_KERNELS(batch_norm, EMULATED_STORED_KERNEL(batch_norm_statistics),
                 EMULATED_KERNEL(batch_norm_running_statistics), EMULATED_KERNEL(batch_norm_no_statistics),
                 EMULATED_STORED_KERNEL(batch_norm_relu), EMULATED_STORED_KERNEL(batch_norm_mask),
                 EMULATED_STORED_KERNEL(batch_norm_backward_sums), EMULATED_STORED_KERNEL(batch_norm_backward))
