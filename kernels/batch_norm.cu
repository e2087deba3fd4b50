// batch_norm: columns normalised by their statistics, scaled, shifted; ReLU (model.md, "Forward").
//   norm(z) = (z - mean) rstd weight + bias,  rstd = 1 / sqrt(variance + eps)
// backward, with d = d_y where the ReLU passed and 0 elsewhere:
//   d_bias = sum d,  d_weight = sum d xhat,  d_z = weight rstd (d - d_bias / R - xhat d_weight / R)
// without batch norm the statistics are the constants 0 and 1, and d_z = weight d
// in   z [R, C] dense; relu reads a part of the columns of a wider z
// out  mean, rstd, running statistics [C]; y [R, C]; d_z in the place of d_y; d_weight, d_bias [C] written
// rows R lie in device memory (common.cuh)
// grid sums: x strips of 32 columns, y chunks of 64 rows, 8 rows at a time; the strip's last block merges the chunks
//      (column_sums.cuh): bit-reproducible
// cost each pass over z or d_y reads or writes 4 R C bytes: bandwidth

#include "column_sums.cuh"

constexpr int STRIP = 32;     // columns of a block: a warp reads 128 bytes
constexpr int ROW_LANES = 8;  // rows that a block reads at once
constexpr int SUM_BLOCKS = 4; // on a multiprocessor, at least: registers for double precision without spills
constexpr int COLUMN_THREADS = 128;

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
extern "C" __global__ void __launch_bounds__(STRIP *ROW_LANES, SUM_BLOCKS)
batch_norm_statistics(float *__restrict__ partials, double *__restrict__ groups, int *__restrict__ tickets,
                      float *__restrict__ mean, float *__restrict__ rstd, float *__restrict__ running_mean,
                      float *__restrict__ running_var, const float *__restrict__ z,
                      const int *__restrict__ row_count, int columns) {
    __shared__ SumMemory memory;
    int column = blockIdx.x * STRIP + threadIdx.x, first = blockIdx.y * CHUNK_ROWS, rows = *row_count;
    if (first >= rows && first > 0) {
        return; // the whole block; without rows the first ones stay
    }
    int count = min(CHUNK_ROWS, rows - first);
    float2 own = make_float2(0.0f, 0.0f);
    float around = column < columns && count > 0 ? z[size_t(first) * columns + column] : 0.0f;
    if (column < columns) {
        for (int row = threadIdx.y; row < count; row += ROW_LANES) {
            float offset = z[size_t(first + row) * columns + column] - around;
            own.x += offset;
            own.y += offset * offset;
        }
    }
    ColumnMemory of = {partials, groups, tickets};
    float2 sum = chunk_sum(own, memory.chunk);
    if (threadIdx.y == 0 && column < columns && count > 0) {
        float offset = sum.x / count;
        float deviation = sum.y - sum.x * offset;
        float *to = of.chunk(blockIdx.y, columns);
        to[column] = around + offset;
        to[columns + column] = deviation < 0.0f ? 0.0f : deviation; // keeps NaN
    }
    finish_strip(of, StatisticsMerge{mean, rstd, running_mean, running_var}, rows, columns, memory);
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

// Of each chunk its sums of d and of d (z - mean).
extern "C" __global__ void __launch_bounds__(STRIP *ROW_LANES, SUM_BLOCKS)
batch_norm_backward_sums(float *__restrict__ partials, double *__restrict__ groups, int *__restrict__ tickets,
                         float *__restrict__ d_weight, float *__restrict__ d_bias, float *__restrict__ terms,
                         int batch_statistics, const float *__restrict__ d_y, const float *__restrict__ z,
                         const float *__restrict__ mean, const float *__restrict__ rstd,
                         const float *__restrict__ weight, const float *__restrict__ bias,
                         const int *__restrict__ row_count, int columns) {
    __shared__ SumMemory memory;
    int column = blockIdx.x * STRIP + threadIdx.x, first = blockIdx.y * CHUNK_ROWS, rows = *row_count;
    if (first >= rows && first > 0) {
        return; // the whole block; without rows the first ones stay
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
    ColumnMemory of = {partials, groups, tickets};
    float2 sum = chunk_sum(own, memory.chunk);
    if (threadIdx.y == 0 && column < columns && count > 0) {
        float *to = of.chunk(blockIdx.y, columns);
        to[column] = sum.x;
        to[columns + column] = sum.y;
    }
    finish_strip(of, BackwardMerge{d_weight, d_bias, terms, rstd, weight, batch_statistics}, rows, columns, memory);
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

EMULATED_KERNELS(batch_norm, EMULATED_KERNEL(batch_norm_statistics), EMULATED_KERNEL(batch_norm_running_statistics),
                 EMULATED_KERNEL(batch_norm_no_statistics), EMULATED_KERNEL(batch_norm_relu),
                 EMULATED_KERNEL(batch_norm_mask), EMULATED_KERNEL(batch_norm_backward_sums),
                 EMULATED_KERNEL(batch_norm_backward))
