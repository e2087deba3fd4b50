// batch_norm: columns normalised by their statistics, scaled, shifted; ReLU (model.md, "Forward").
//   norm(z) = (z - mean) rstd weight + bias,  rstd = 1 / sqrt(variance + eps)
// backward, with d = d_y where the ReLU passed and 0 elsewhere:
//   d_bias = sum d,  d_weight = sum d xhat,  d_z = weight rstd (d - d_bias / R - xhat d_weight / R)
// without batch norm the statistics are the constants 0 and 1, and d_z = weight d
// The batch's statistics are made by whoever makes z (edge_hidden.cu, linear.cuh).
// in   z [R, C]; relu reads a part of the columns of a wider z
// out  mean, rstd [C]; y [R, C]; d_z in the place of d_y; d_weight, d_bias [C] written
// z, y and d are of T, rows at the strides that are given (stored.cuh); R lies in device memory (common.cuh)
// grid sums: x strips of 32 columns, y chunks of 64 rows, 8 rows at a time; the strip's last block merges the chunks
//      (strip_sums.cuh): bit-reproducible
// cost each pass over z or d_y reads or writes T R C bytes: bandwidth

#include "strip_sums.cuh"

constexpr int COLUMN_THREADS = 128;
constexpr int THREADS = 256; // of kernels that work value by value

// Evaluation: the running statistics in the batch's place.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
batch_norm_running_statistics(float *mean, float *rstd,
                              const float *running_mean, const float *running_var,
                              int columns) {
    begin_kernel();
    int column = blockIdx.x * COLUMN_THREADS + threadIdx.x;
    if (column < columns) {
        mean[column] = running_mean[column];
        rstd[column] = float(1.0 / sqrt(running_var[column] + NORM_EPSILON));
    }
}

// Without batch norm: the statistics that change nothing.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
batch_norm_no_statistics(float *mean, float *rstd, int columns) {
    begin_kernel();
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
__device__ __forceinline__ void batch_norm_relu(T *y, const T *z, NormRows norm,
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
__device__ __forceinline__ void batch_norm_mask(unsigned char *mask, const T *z,
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
__device__ __forceinline__ void batch_norm_backward_sums(ColumnMemory of, BackwardMerge merge,
                                                         const T *d_y, const T *z,
                                                         NormRows norm, int stride, int rows, int columns) {
    auto gradient = [=](int row, int column) { return widen(d_y[size_t(row) * stride + column]); };
    backward_strip(of, merge, gradient, z, norm, stride, rows, columns);
}

// d [R, C]: d_y becomes d_z.
template <class T>
__device__ __forceinline__ void batch_norm_backward(T *d, const T *z, NormRows norm,
                                                    const float *terms, int stride, int rows,
                                                    int columns) {
    Place at = four_place(columns);
    if (at.row >= unsigned(rows)) {
        return;
    }
    NormBackwardFour backward = load_norm_backward(norm_backward_rows(norm, terms, columns), at.column, columns);
    T *row = d + size_t(at.row) * stride;
    Four values = load_four(z + size_t(at.row) * stride, at.column, columns);
    store_four(row, at.column, columns, backward(load_four(row, at.column, columns), values));
}

#define BATCH_NORM_KERNELS(T, suffix)                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) batch_norm_relu_##suffix(                                   \
        T *y, const T *z, const float *mean, const float *rstd,   \
        const float *weight, const float *bias, int y_stride, int z_stride,                 \
        const int *row_count, int columns) {                                                             \
        begin_kernel();                                                                                               \
        batch_norm_relu(y, z, {mean, rstd, weight, bias}, y_stride, z_stride, *row_count, columns);                   \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) batch_norm_mask_##suffix(                                   \
        unsigned char *mask, const T *z, const float *mean,                    \
        const float *rstd, const float *weight, const float *bias, int stride, \
        int rows, int columns) {                                                                                      \
        begin_kernel();                                                                                               \
        batch_norm_mask(mask, z, {mean, rstd, weight, bias}, stride, rows, columns);                                  \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(STRIP *ROW_LANES, SUM_BLOCKS) batch_norm_backward_sums_##suffix(     \
        float *partials, double *groups, int *tickets,                         \
        float *d_weight, float *d_bias, float *terms, int batch_statistics,    \
        const T *d_y, const T *z, const float *mean,                           \
        const float *rstd, const float *weight, const float *bias,             \
        int stride, const int *row_count, int columns) {                                                 \
        begin_kernel();                                                                                               \
        batch_norm_backward_sums({partials, groups, tickets},                                                         \
                                 {d_weight, d_bias, terms, rstd, weight, batch_statistics}, d_y, z,                   \
                                 {mean, rstd, weight, bias}, stride, *row_count, columns);                            \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) batch_norm_backward_##suffix(                               \
        T *d, const T *z, const float *mean, const float *rstd,   \
        const float *weight, const float *bias, const float *terms,            \
        int stride, const int *row_count, int columns) {                                                 \
        begin_kernel();                                                                                               \
        batch_norm_backward(d, z, {mean, rstd, weight, bias}, terms, stride, *row_count, columns);                    \
    }

STORED_KERNELS(BATCH_NORM_KERNELS)
EMULATED_KERNELS(batch_norm, EMULATED_KERNEL(batch_norm_running_statistics), EMULATED_KERNEL(batch_norm_no_statistics),
                 EMULATED_STORED_KERNEL(batch_norm_relu), EMULATED_STORED_KERNEL(batch_norm_mask),
                 EMULATED_STORED_KERNEL(batch_norm_backward_sums), EMULATED_STORED_KERNEL(batch_norm_backward))
