// l2_normalise: rows x = y / max(|y|, eps) of y = relu(norm(z)), for the last layer, whose states the readout reads. In
// the other layers the matrix products divide by the length (linear_forward_unit in linear.cuh).
// backward: d_y = (d_x - x (x . d_x)) / |y|, and d_x / eps where |y| < eps; x is recomputed from z
// in   z [R, C]; scale, shift [C] of the norm; backward: d_x [R, C]. Matrices have element type T, rows `stride` apart
//      (stored.cuh)
// out  x [R, C]; d_y [R, C], the gradient with respect to relu(norm(z)); the first part of batch norm's backward:
//      d_weight, d_bias and terms (batch_norm.cu)
// grid forward: one block per row, with R in device memory (common.cuh), threads stride over C, four columns each;
//      backward: x strips of 128 columns, y chunks of 64 rows, 8 rows at a time; the strip's last block merges the
//      chunks (column_sums.cuh); sums by warp, then over warps, in a fixed order: bit-reproducible
// cost forward reads T R C (twice, the second time from cache) and writes T R C bytes; backward reads 2 T R C, once
//      more for each strip (from cache), and writes T R C

#include "strip_sums.cuh"

constexpr int THREADS = 128; // forward
constexpr int ROWS_AT_ONCE = 4;    // backward: number of rows that a warp loads before it uses the first
constexpr int BACKWARD_BLOCKS = 3; // least number per multiprocessor: registers for double precision without spills

// relu(norm(z)) of four columns of the row.
template <class T>
__device__ __forceinline__ Four activated(const T *z, const NormRows &norm, int column, int columns) {
    return relu_norm(load_norm(norm, column, columns), load_four(z, column, columns));
}

template <class T> struct L2NormaliseForward {
    T *x;
    const T *z;
    NormArguments norm;
    const int *row_count;
    int columns, stride;
};

template <class T> __device__ __forceinline__ void l2_normalise_forward(const L2NormaliseForward<T> &args) {
    __shared__ float partial[THREADS / WARP_LANES];
    int row = blockIdx.x, rows = load_early(args.row_count), columns = args.columns;
    begin_kernel();
    if (row >= rows) {
        return;
    }
    NormRows norm = args.norm.rows();
    const T *from = args.z + size_t(row) * args.stride;
    float squares = 0.0f;
    for (int c = threadIdx.x * COLUMNS_EACH; c < columns; c += THREADS * COLUMNS_EACH) {
        Four y = activated(from, norm, c, columns);
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            squares += y[i] * y[i];
        }
    }
    float length = sqrtf(block_sum(squares, partial));
    float divisor = length < L2_EPSILON ? L2_EPSILON : length; // keeps NaN
    for (int c = threadIdx.x * COLUMNS_EACH; c < columns; c += THREADS * COLUMNS_EACH) {
        Four y = activated(from, norm, c, columns);
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            y[i] /= divisor;
        }
        store_four(args.x + size_t(row) * args.stride, c, columns, y);
    }
}

template <class T> struct L2NormaliseBackward {
    T *d_y;
    const T *d_x, *z;
    NormArguments norm;
    NormGradientArguments gradient;
    const int *row_count;
    int columns, stride;
};

// A block handles one strip of columns of a chunk. It computes the lengths of the chunk's rows itself, and reads whole
// rows for that.
template <class T> __device__ __forceinline__ void l2_normalise_backward(const L2NormaliseBackward<T> &args) {
    __shared__ SumMemory memory;
    __shared__ float2 of_rows[CHUNK_ROWS]; // divisor, and x . d_x divided by it
    int rows = load_early(args.row_count), columns = args.columns, stride = args.stride;
    begin_kernel();
    int first = blockIdx.y * CHUNK_ROWS, count = min(CHUNK_ROWS, rows - first);
    if (first >= rows && first > 0) {
        return; // the whole block; without rows the first blocks continue
    }
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    NormRows norm = args.norm.rows();
    const T *of_x = row_of(args.d_x, first, stride), *of_z = row_of(args.z, first, stride);
    for (int begin = warp; begin < count; begin += ROWS_AT_ONCE * ROW_LANES) {
        float squares[ROWS_AT_ONCE] = {}, dot[ROWS_AT_ONCE] = {};
        for (int c = lane * COLUMNS_EACH; c < columns; c += STRIP) {
            NormFour norms = load_norm(norm, c, columns);
            auto z_rows = four_columns(of_z, stride, c, columns), x_rows = four_columns(of_x, stride, c, columns);
            PackedFour<T> of_value[ROWS_AT_ONCE], of_d[ROWS_AT_ONCE];
            for_columns(z_rows, x_rows, [&](const auto &z_columns, const auto &x_columns) {
#pragma unroll
                for (int k = 0; k < ROWS_AT_ONCE; k++) {
                    int row = min(begin + k * ROW_LANES, count - 1); // the last one again instead of a branch
                    of_value[k] = z_columns.load(row);
                    of_d[k] = x_columns.load(row);
                }
            });
#pragma unroll
            for (int k = 0; k < ROWS_AT_ONCE; k++) {
                Four y = relu_norm(norms, of_value[k].widen()), d = of_d[k].widen();
#pragma unroll
                for (int i = 0; i < COLUMNS_EACH; i++) {
                    squares[k] += y[i] * y[i];
                    dot[k] += y[i] * d[i];
                }
            }
        }
#pragma unroll
        for (int k = 0; k < ROWS_AT_ONCE; k++) {
            float length = sqrtf(warp_sum(squares[k])), product = warp_sum(dot[k]);
            bool clamped = length < L2_EPSILON;
            float divisor = clamped ? L2_EPSILON : length;
            int row = begin + k * ROW_LANES;
            if (lane == 0 && row < count) {
                of_rows[row] = make_float2(divisor, clamped ? 0.0f : product / divisor / divisor);
            }
        }
    }
    __syncthreads();
    int column = blockIdx.x * STRIP + lane * COLUMNS_EACH;
    SumsOfFour sums = {};
    if (column < columns) {
        NormFour norms = load_norm(norm, column, columns);
        Four mean = load_four(args.gradient.mean, column, columns);
        auto z_rows = four_columns(of_z, stride, column, columns), x_rows = four_columns(of_x, stride, column, columns);
        T *of_y = row_of(args.d_y, first, stride);
        bool whole = four_columns(of_y, stride, column, columns).whole;
        for_columns(z_rows, x_rows, [&](const auto &z_columns, const auto &x_columns) {
#pragma unroll 2
            for (int row = warp; row < count; row += ROW_LANES) {
                float2 of_row = of_rows[row];
                auto of_value = z_columns.load(row), of_d = x_columns.load(row);
                Four values = of_value.widen(), d = of_d.widen(), y = relu_norm(norms, values);
#pragma unroll
                for (int i = 0; i < COLUMNS_EACH; i++) {
                    d[i] = (d[i] - y[i] * of_row.y) / of_row.x;
                }
                sums.add(norms, mean, rounded_four<T>(d), values);
                store_four(row_of(of_y, row, stride), column, columns, d, whole);
            }
        });
    }
    auto column_of = [&](int in_strip) { return int(blockIdx.x * STRIP) + in_strip; };
    finish_strip(args.gradient.memory(), args.gradient.merge(args.norm), sums, rows, columns, column_of, memory);
}

STORED_KERNEL(l2_normalise_forward, L2NormaliseForward, THREADS)
STORED_KERNEL(l2_normalise_backward, L2NormaliseBackward, STRIP_THREADS, BACKWARD_BLOCKS)
EMULATED_KERNELS(l2_normalise, EMULATED_STORED_KERNEL(l2_normalise_forward, THREADS),
                 EMULATED_STORED_KERNEL(l2_normalise_backward, STRIP_THREADS, BACKWARD_BLOCKS))
