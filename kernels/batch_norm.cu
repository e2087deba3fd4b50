// batch_norm: batch normalisation of columns (normalise, scale, shift), followed by ReLU.
//   norm(z) = (z - mean) rstd weight + bias = scale z + shift,  rstd = 1 / sqrt(variance + eps)
// backward, where d is d_y if the ReLU passed and 0 otherwise:
//   d_bias = sum d,  d_weight = sum d xhat,  d_z = weight rstd (d - d_bias / R - xhat d_weight / R)
// Without batch norm the statistics are the constants 0 and 1, and d_z = weight d.
// The kernel that computes z also computes the batch's statistics (edge_hidden.cu, linear.cuh).
// in   z [R, C]; batch_norm_relu may read some of the columns of a wider z
// out  mean, rstd, scale, shift [C]; y [R, C]; d_z [R, C], overwrites d_y; d_weight, d_bias [C], overwritten
// z, y and d have element type T and rows at the given strides (stored.cuh); R lies in device memory (common.cuh)
// grid sums: x strips of 128 columns, y chunks of 64 rows, 8 rows at a time; the strip's last block merges the chunks
//      (strip_sums.cuh): bit-reproducible
// cost each pass over z or d_y reads or writes T R C bytes (T: bytes per element): bandwidth

#include "strip_sums.cuh"

constexpr int COLUMN_THREADS = 128;
constexpr int THREADS = 256; // elementwise kernels
constexpr int SUM_BLOCKS = 3;  // least number per multiprocessor: registers for double precision without spills

struct BatchNormRunningStatistics {
    NormStatisticsArguments norm;
    const float *running_mean, *running_var;
    int columns, reserved;
};

// Evaluation: the running statistics replace the batch statistics.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
batch_norm_running_statistics(const __grid_constant__ BatchNormRunningStatistics args) {
    begin_kernel();
    int column = blockIdx.x * COLUMN_THREADS + threadIdx.x;
    if (column < args.columns) {
        double rstd = 1.0 / sqrt(args.running_var[column] + NORM_EPSILON);
        const NormStatisticsArguments &norm = args.norm;
        norm.to().set(column, args.running_mean[column], rstd, norm.weight[column], norm.bias[column]);
    }
}

struct BatchNormNoStatistics {
    NormStatisticsArguments norm;
    int columns, reserved;
};

// Without batch norm: mean 0 and rstd 1, the identity.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
batch_norm_no_statistics(const __grid_constant__ BatchNormNoStatistics args) {
    begin_kernel();
    int column = blockIdx.x * COLUMN_THREADS + threadIdx.x;
    if (column < args.columns) {
        const NormStatisticsArguments &norm = args.norm;
        norm.to().set(column, 0.0, 1.0, norm.weight[column], norm.bias[column]);
    }
}

// Position of a thread in [R, C]; each thread handles four columns.
struct Place {
    unsigned row;
    int column;
};

__device__ __forceinline__ Place four_place(int columns) {
    unsigned i = blockIdx.x * THREADS + threadIdx.x, in_row = (columns + COLUMNS_EACH - 1) / COLUMNS_EACH;
    return {i / in_row, int(i % in_row) * COLUMNS_EACH};
}

template <class T> struct BatchNormRelu {
    T *y;
    const T *z;
    NormArguments norm;
    const int *row_count;
    int columns, y_stride, z_stride, reserved;
};

// y [R, C] = relu(norm(z)).
template <class T> __device__ __forceinline__ void batch_norm_relu(const BatchNormRelu<T> &args) {
    int rows = load_early(args.row_count), columns = args.columns;
    Place at = four_place(columns);
    begin_kernel();
    if (at.row >= unsigned(rows)) {
        return;
    }
    NormFour norms = load_norm(args.norm.rows(), at.column, columns);
    Four values = load_four(args.z + size_t(at.row) * args.z_stride, at.column, columns);
    store_four(args.y + size_t(at.row) * args.y_stride, at.column, columns, relu_norm(norms, values));
}

template <class T> struct BatchNormMask {
    unsigned char *mask;
    const T *z;
    NormArguments norm;
    int rows, columns, stride, reserved;
};

// mask [R, C], without padding: 1 where the ReLU passes, 0 elsewhere. One thread per value.
template <class T> __device__ __forceinline__ void batch_norm_mask(const BatchNormMask<T> &args) {
    begin_kernel();
    int columns = args.columns;
    size_t i = size_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i < size_t(args.rows) * columns) {
        int column = i % columns;
        NormColumn of = args.norm.rows().column(column);
        args.mask[i] = norm_value(of, widen(args.z[i / columns * args.stride + column])) > 0.0f;
    }
}

template <class T> struct BatchNormBackwardSums {
    const T *d_y, *z;
    NormArguments norm;
    NormGradientArguments gradient;
    const int *row_count;
    int columns, stride;
};

// Sums of d and of d (z - mean), first over each chunk, then over all chunks.
template <class T> __device__ __forceinline__ void batch_norm_backward_sums(const BatchNormBackwardSums<T> &args) {
    __shared__ SumMemory memory;
    int rows = load_early(args.row_count), columns = args.columns, first = blockIdx.y * CHUNK_ROWS;
    begin_kernel();
    if (first >= rows && first > 0) {
        return; // the whole block; without rows the first blocks continue
    }
    int end = min(first + CHUNK_ROWS, rows), column = blockIdx.x * STRIP + threadIdx.x % WARP_LANES * COLUMNS_EACH;
    SumsOfFour sums = {};
    if (column < columns) {
        NormFour norm = load_norm(args.norm.rows(), column, columns);
        Four mean = load_four(args.gradient.mean, column, columns);
        auto of_d = four_columns(args.d_y, args.stride, column, columns);
        auto of_z = four_columns(args.z, args.stride, column, columns);
        for (int row = first + threadIdx.x / WARP_LANES; row < end; row += ROW_LANES) {
            auto loaded_d = of_d.load(row), loaded_z = of_z.load(row);
            sums.add(norm, mean, loaded_d.widen(), loaded_z.widen());
        }
    }
    auto column_of = [&](int in_strip) { return int(blockIdx.x * STRIP) + in_strip; };
    finish_strip(args.gradient.memory(), args.gradient.merge(args.norm), sums, rows, columns, column_of, memory);
}

template <class T> struct BatchNormBackward {
    T *d;
    NormBackwardArguments<T> through;
    const int *row_count;
    int columns, stride;
};

// Overwrites d_y [R, C] with d_z.
template <class T> __device__ __forceinline__ void batch_norm_backward(const BatchNormBackward<T> &args) {
    int rows = load_early(args.row_count), columns = args.columns;
    Place at = four_place(columns);
    begin_kernel();
    if (at.row >= unsigned(rows)) {
        return;
    }
    NormBackwardFour backward = load_norm_backward(args.through.rows(columns), at.column, columns);
    size_t start = size_t(at.row) * args.stride;
    Four values = load_four(args.through.z + start, at.column, columns);
    store_four(args.d + start, at.column, columns, backward(load_four(args.d + start, at.column, columns), values));
}

STORED_KERNEL(batch_norm_relu, BatchNormRelu, THREADS)
STORED_KERNEL(batch_norm_mask, BatchNormMask, THREADS)
STORED_KERNEL(batch_norm_backward_sums, BatchNormBackwardSums, STRIP_THREADS, SUM_BLOCKS)
STORED_KERNEL(batch_norm_backward, BatchNormBackward, THREADS)
EMULATED_KERNELS(batch_norm, EMULATED_KERNEL(batch_norm_running_statistics, COLUMN_THREADS),
                 EMULATED_KERNEL(batch_norm_no_statistics, COLUMN_THREADS),
                 EMULATED_STORED_KERNEL(batch_norm_relu, THREADS), EMULATED_STORED_KERNEL(batch_norm_mask, THREADS),
                 EMULATED_STORED_KERNEL(batch_norm_backward_sums, STRIP_THREADS, SUM_BLOCKS),
                 EMULATED_STORED_KERNEL(batch_norm_backward, THREADS))
