// batch_norm: columns normalised by their statistics, scaled, shifted; ReLU (model.md, "Forward").
//   norm(z) = (z - mean) rstd weight + bias,  rstd = 1 / sqrt(variance + eps)
// backward, with d = d_y where the ReLU passed and 0 elsewhere:
//   d_bias = sum d,  d_weight = sum d xhat,  d_z = weight rstd (d - d_bias / R - xhat d_weight / R)
// without batch norm the statistics are the constants 0 and 1, and d_z = weight d
// in   z [R, C] dense; relu reads a part of the columns of a wider z
// out  mean, rstd, running statistics [C]; y [R, C]; d_z in the place of d_y; d_weight, d_bias [C] written
// rows R lie in device memory (common.cuh)
// grid sums: x strips of 32 columns, y chunks of CHUNK_ROWS rows, 8 rows at a time; each chunk gives two values per
//      column, and one thread per column merges the chunks in their order in double precision: bit-reproducible
// cost each pass over z or d_y reads or writes 4 R C bytes: bandwidth

#include "common.cuh"

constexpr int STRIP = 32;      // columns of a block: a warp reads 128 bytes
constexpr int ROW_LANES = 8;   // rows that a block reads at once
constexpr int CHUNK_ROWS = 64; // rows of a chunk: the launcher knows this number too
constexpr int MERGE_THREADS = 128;

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

// partials [chunks, 2, C]: each chunk's mean and sum of squared deviations from it. The sums are taken around the
// chunk's first row, which keeps them free of cancellation.
extern "C" __global__ void __launch_bounds__(STRIP *ROW_LANES)
batch_norm_partial_statistics(float *__restrict__ partials, const float *__restrict__ z,
                              const int *__restrict__ row_count, int columns) {
    __shared__ float2 partial[ROW_LANES][STRIP];
    int column = blockIdx.x * STRIP + threadIdx.x, first = blockIdx.y * CHUNK_ROWS, rows = *row_count;
    if (first >= rows) {
        return;
    }
    int count = min(CHUNK_ROWS, rows - first);
    float2 own = make_float2(0.0f, 0.0f);
    float around = column < columns ? z[size_t(first) * columns + column] : 0.0f;
    if (column < columns) {
        for (int row = threadIdx.y; row < count; row += ROW_LANES) {
            float offset = z[size_t(first + row) * columns + column] - around;
            own.x += offset;
            own.y += offset * offset;
        }
    }
    float2 sum = chunk_sum(own, partial);
    if (threadIdx.y == 0 && column < columns) {
        float offset = sum.x / count;
        float deviation = sum.y - sum.x * offset;
        float *to = partials + size_t(blockIdx.y) * 2 * columns;
        to[column] = around + offset;
        to[columns + column] = deviation < 0.0f ? 0.0f : deviation; // keeps NaN
    }
}

// The statistics of all rows (Chan et al.): M2 = sum M2_i + sum n_i (mean_i - mean)^2; moves the running ones. Without
// a row nothing moves; with a single one the running variance takes the biased variance, 0.
extern "C" __global__ void __launch_bounds__(MERGE_THREADS)
batch_norm_merge_statistics(float *__restrict__ mean, float *__restrict__ rstd, float *__restrict__ running_mean,
                            float *__restrict__ running_var, const float *__restrict__ partials,
                            const int *__restrict__ row_count, int columns) {
    int column = blockIdx.x * MERGE_THREADS + threadIdx.x, rows = *row_count;
    if (column >= columns) {
        return;
    }
    int chunks = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    double count = max(rows, 1), average = 0.0, deviation = 0.0;
    for (int chunk = 0; chunk < chunks; chunk++) {
        average += min(CHUNK_ROWS, rows - chunk * CHUNK_ROWS) * double(partials[size_t(chunk) * 2 * columns + column]);
    }
    average /= count;
    for (int chunk = 0; chunk < chunks; chunk++) {
        const float *from = partials + size_t(chunk) * 2 * columns + column;
        double offset = from[0] - average;
        deviation += from[columns] + min(CHUNK_ROWS, rows - chunk * CHUNK_ROWS) * offset * offset;
    }
    double variance = deviation / count;
    mean[column] = float(average);
    rstd[column] = float(1.0 / sqrt(variance + NORM_EPSILON));
    if (rows > 0) {
        double unbiased = deviation / max(rows - 1, 1);
        running_mean[column] += float(NORM_MOMENTUM * (average - running_mean[column]));
        running_var[column] += float(NORM_MOMENTUM * (unbiased - running_var[column]));
    }
}

// Evaluation: the running statistics in the batch's place.
extern "C" __global__ void __launch_bounds__(MERGE_THREADS)
batch_norm_running_statistics(float *__restrict__ mean, float *__restrict__ rstd,
                              const float *__restrict__ running_mean, const float *__restrict__ running_var,
                              int columns) {
    int column = blockIdx.x * MERGE_THREADS + threadIdx.x;
    if (column < columns) {
        mean[column] = running_mean[column];
        rstd[column] = float(1.0 / sqrt(running_var[column] + NORM_EPSILON));
    }
}

// Without batch norm: the statistics that change nothing.
extern "C" __global__ void __launch_bounds__(MERGE_THREADS)
batch_norm_no_statistics(float *__restrict__ mean, float *__restrict__ rstd, int columns) {
    int column = blockIdx.x * MERGE_THREADS + threadIdx.x;
    if (column < columns) {
        mean[column] = 0.0f;
        rstd[column] = 1.0f;
    }
}

// y [R, C] = relu(norm(z)), z with a row stride; a thread per value.
extern "C" __global__ void __launch_bounds__(256)
batch_norm_relu(float *__restrict__ y, const float *__restrict__ z, const float *__restrict__ mean,
                const float *__restrict__ rstd, const float *__restrict__ weight, const float *__restrict__ bias,
                int z_stride, const int *__restrict__ row_count, int columns) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < size_t(*row_count) * columns) {
        int column = i % columns;
        NormColumn norm = norm_column(mean, rstd, weight, bias, column);
        y[i] = relu_norm(norm, z[i / columns * z_stride + column]);
    }
}

// mask [R, C]: 1 where the ReLU passes, 0 elsewhere; a thread per value.
extern "C" __global__ void __launch_bounds__(256)
batch_norm_mask(unsigned char *__restrict__ mask, const float *__restrict__ z, const float *__restrict__ mean,
                const float *__restrict__ rstd, const float *__restrict__ weight, const float *__restrict__ bias,
                int rows, int columns) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < size_t(rows) * columns) {
        mask[i] = norm_value(norm_column(mean, rstd, weight, bias, i % columns), z[i]) > 0.0f;
    }
}

// partials [chunks, 2, C]: each chunk's sums of d and of d (z - mean).
extern "C" __global__ void __launch_bounds__(STRIP *ROW_LANES)
batch_norm_backward_partials(float *__restrict__ partials, const float *__restrict__ d_y, const float *__restrict__ z,
                             const float *__restrict__ mean, const float *__restrict__ rstd,
                             const float *__restrict__ weight, const float *__restrict__ bias,
                             const int *__restrict__ row_count, int columns) {
    __shared__ float2 partial[ROW_LANES][STRIP];
    int column = blockIdx.x * STRIP + threadIdx.x, first = blockIdx.y * CHUNK_ROWS, rows = *row_count;
    if (first >= rows) {
        return;
    }
    int count = min(CHUNK_ROWS, rows - first);
    float2 own = make_float2(0.0f, 0.0f);
    if (column < columns) {
        NormColumn norm = norm_column(mean, rstd, weight, bias, column);
        for (int row = threadIdx.y; row < count; row += ROW_LANES) {
            size_t at = size_t(first + row) * columns + column;
            float d = norm_value(norm, z[at]) > 0.0f ? d_y[at] : 0.0f;
            own.x += d;
            own.y += d * (z[at] - norm.mean);
        }
    }
    float2 sum = chunk_sum(own, partial);
    if (threadIdx.y == 0 && column < columns) {
        float *to = partials + size_t(blockIdx.y) * 2 * columns;
        to[column] = sum.x;
        to[columns + column] = sum.y;
    }
}

// d_weight, d_bias, and what the backward subtracts: d_z = scale d - constant - (z - mean) slope; terms [2, C], zeros
// where the statistics are not the batch's but constants.
extern "C" __global__ void __launch_bounds__(MERGE_THREADS)
batch_norm_backward_merge(float *__restrict__ d_weight, float *__restrict__ d_bias, float *__restrict__ terms,
                          const float *__restrict__ partials, const float *__restrict__ rstd,
                          const float *__restrict__ weight, int batch_statistics, const int *__restrict__ row_count,
                          int columns) {
    int column = blockIdx.x * MERGE_THREADS + threadIdx.x, rows = *row_count;
    if (column >= columns) {
        return;
    }
    int chunks = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    double sum = 0.0, product = 0.0;
    for (int chunk = 0; chunk < chunks; chunk++) {
        const float *from = partials + size_t(chunk) * 2 * columns + column;
        sum += from[0];
        product += from[columns];
    }
    double r = rstd[column], scale = r * weight[column], count = max(rows, 1);
    d_bias[column] = float(sum);
    d_weight[column] = float(product * r);
    terms[column] = batch_statistics ? float(scale * sum / count) : 0.0f;
    terms[columns + column] = batch_statistics ? float(scale * r * r * product / count) : 0.0f;
}

// d [R, C]: d_y becomes d_z; a thread per value.
extern "C" __global__ void __launch_bounds__(256)
batch_norm_backward(float *__restrict__ d, const float *__restrict__ z, const float *__restrict__ mean,
                    const float *__restrict__ rstd, const float *__restrict__ weight, const float *__restrict__ bias,
                    const float *__restrict__ terms, const int *__restrict__ row_count, int columns) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < size_t(*row_count) * columns) {
        int column = i % columns;
        NormColumn norm = norm_column(mean, rstd, weight, bias, column);
        float passed = norm_value(norm, z[i]) > 0.0f ? d[i] : 0.0f;
        d[i] = norm.scale * passed - terms[column] - (z[i] - norm.mean) * terms[columns + column];
    }
}

EMULATED_KERNELS(batch_norm, EMULATED_KERNEL(batch_norm_partial_statistics),
                 EMULATED_KERNEL(batch_norm_merge_statistics), EMULATED_KERNEL(batch_norm_running_statistics),
                 EMULATED_KERNEL(batch_norm_no_statistics), EMULATED_KERNEL(batch_norm_relu),
                 EMULATED_KERNEL(batch_norm_mask), EMULATED_KERNEL(batch_norm_backward_partials),
                 EMULATED_KERNEL(batch_norm_backward_merge), EMULATED_KERNEL(batch_norm_backward))
