// linear: the products of a linear layer y = x W^T without bias, with what shares their reads and writes; a file for
// each number format of the operands: linear_fp32.cu, linear_tf32.cu, linear_bf16.cu, linear_bf16x3.cu. Names end in
// the format and the tile, such as _bf16_64.
//   linear_forward                y   [R, O] = x [R, I] W [O, I]^T
//   linear_forward_norm           the same of relu(norm(x)): no activated copy of x
//   linear_forward_gather         y[r] += P[subject(r), 0..O] + P[object(r), O..2 O]
//   linear_backward_input         d_x [R, I] = d_y [R, O] W [O, I]
//   linear_backward_input_sums    and the sums of batch norm's backward, where x was relu(norm(z))
//   linear_backward_weight        d_W [O, I] = d_y [R, O]^T x [R, I], parts of the sum over R, added by linear_sum_parts
//   linear_backward_weight_norm   the same of relu(norm(x))
// in   matrices with row strides (a part of the columns of a wider matrix is a matrix); W, and d_W, may be two such
//      parts one above the other: rows from `split` on lie `jump` further
// out  written. partials [R / 64, 2, columns], or null: of each 64 rows and column of y the mean and the sum of squared
//      deviations from it; or of d = d_x where the ReLU passed, and 0 elsewhere, the sums of d and of d (z - mean): what
//      batch_norm.cu merges
// grid x tiles of columns, y tiles of rows; linear_backward_weight: z parts, each into its own [O, I] of `out`. R lies in
//      device memory (common.cuh), and the parts of a sum over R follow from it alone
// sums in the order of the inner dimension, columns' sums in the order of rows: bit-reproducible
// cost 2 R I O flops each, on the tensor cores but for fp32, times 3 for bf16x3; a tile of n x n reads 2 n values of 4
//      bytes per n^2 multiply-adds: 32 (n = 64) or 64 (n = 128) flops a byte from L2
//
// Two tiles. 64 x 64 while tiles are few: at 16 triples [1056, 300] x [300, 512] are 136 of them for 132
// multiprocessors, of 128 x 128 only 36. 128 x 128 once these fill the GPU: half the traffic per product.
// Both take 40,960 bytes of shared memory: 4 or 2 stages of 16 inner values. Registers are bounded to 128 a thread, or
// 255 where operands have two parts, so that 4 or 2 blocks, or half as many, share a multiprocessor and one's copies
// hide behind another's products.
#pragma once

#include "matmul_fma.cuh"
#include "matmul_tensor.cuh"

template <class Format> using Tile64 = TensorCore<Shape<64, 64, 16, 4, 2, 2>, Format>;
template <class Format> using Tile128 = TensorCore<Shape<128, 128, 16, 2, 2, 4>, Format>;

constexpr int TILE_BYTES = 40960;
__shared__ __align__(16) float tile_memory[TILE_BYTES / sizeof(float)];

// ---- sums of a column over a chunk ------------------------------------------------------------------------------

// Nothing.
struct NoSums {
    float *partials = nullptr;
    struct Column {
        __device__ __forceinline__ Column(const NoSums &, int) {}
        __device__ __forceinline__ void add(int, float) {}
        __device__ __forceinline__ float2 result() const { return make_float2(0.0f, 0.0f); }
    };
    static __device__ __forceinline__ float2 merge(float2 first, int, float2, int) { return first; }
};

// Mean and sum of squared deviations from it (M2), taken around the first value: free of cancellation.
struct Statistics {
    float *__restrict__ partials;
    struct Column {
        float around = 0.0f, sum = 0.0f, squares = 0.0f;
        int count = 0;
        __device__ __forceinline__ Column(const Statistics &, int) {}
        __device__ __forceinline__ void add(int, float value) {
            around = count == 0 ? value : around;
            float offset = value - around;
            sum += offset;
            squares += offset * offset;
            count++;
        }
        __device__ __forceinline__ float2 result() const {
            float offset = sum / float(max(count, 1)), deviation = squares - sum * offset;
            return make_float2(around + offset, deviation < 0.0f ? 0.0f : deviation); // keeps NaN
        }
    };
    // Chan et al.
    static __device__ __forceinline__ float2 merge(float2 first, int first_count, float2 second, int second_count) {
        if (second_count == 0) {
            return first;
        }
        float share = float(second_count) / float(first_count + second_count), offset = second.x - first.x;
        return make_float2(first.x + offset * share, first.y + second.y + offset * offset * share * float(first_count));
    }
};

// Of the backward pass of relu(norm(z)), given the gradient by its output: sums of d and of d (z - mean).
struct BackwardSums {
    float *__restrict__ partials;
    const float *__restrict__ z;
    int stride;
    NormArrays norm;
    struct Column {
        NormColumn norm;
        const float *__restrict__ z;
        int stride;
        float sum = 0.0f, product = 0.0f;
        __device__ __forceinline__ Column(const BackwardSums &of, int column)
            : norm(of.norm.column(column)), z(of.z + column), stride(of.stride) {}
        __device__ __forceinline__ void add(int row, float value) {
            float at = z[size_t(row) * stride];
            float d = norm_value(norm, at) > 0.0f ? value : 0.0f;
            sum += d;
            product += d * (at - norm.mean);
        }
        __device__ __forceinline__ float2 result() const { return make_float2(sum, product); }
    };
    static __device__ __forceinline__ float2 merge(float2 first, int, float2 second, int) {
        return make_float2(first.x + second.x, first.y + second.y);
    }
};

// A chunk of the tile, in shared memory: value(row, column, product) stores each and gives what was stored, which the
// columns' sums are made of. A thread takes every rows_at_once-th row of its column.
template <class Core, class Value, class Sums>
__device__ __forceinline__ void finish_chunk(float *memory, const Place &place, int chunk, Value value, Sums sums) {
    constexpr int columns = Core::Shape::columns, rows_at_once = Core::Shape::threads / columns;
    int column = place.first_column + threadIdx.x % columns, lane = threadIdx.x / columns;
    int first_row = place.first_row + chunk, count = min(CHUNK_ROWS, place.rows - first_row);
    float2 own = make_float2(0.0f, 0.0f);
    if (column < place.columns) {
        typename Sums::Column of_column(sums, column);
        for (int row = lane; row < count; row += rows_at_once) {
            float product = memory[row * Core::tile_stride + threadIdx.x % columns];
            of_column.add(first_row + row, value(first_row + row, column, product));
        }
        own = of_column.result();
    }
    if (sums.partials == nullptr || count <= 0) {
        return; // the whole block
    }
    __syncthreads(); // the chunk was read
    float2 *of_lanes = reinterpret_cast<float2 *>(memory);
    of_lanes[threadIdx.x] = own;
    __syncthreads();
    if (lane == 0 && column < place.columns) {
        int rows = (count + rows_at_once - 1) / rows_at_once;
        for (int other = 1; other < rows_at_once; other++) {
            int of_other = (count - other + rows_at_once - 1) / rows_at_once;
            own = Sums::merge(own, rows, of_lanes[other * columns + threadIdx.x], of_other);
            rows += of_other;
        }
        float *to = sums.partials + size_t(first_row / CHUNK_ROWS) * 2 * place.columns;
        to[column] = own.x;
        to[place.columns + column] = own.y;
    }
}

// ---- the products -----------------------------------------------------------------------------------------------

template <class Core> __device__ __forceinline__ Place tile_place(int rows, int columns, int first_inner, int inner_end) {
    return {rows, columns, int(blockIdx.y) * Core::Shape::rows, int(blockIdx.x) * Core::Shape::columns, first_inner,
            inner_end};
}

// The block's tile of out, lines as in Operand; `add(row, column)` is added to each value.
template <class Core, Order order_a, Order order_b, class NormA, class NormB, class Add, class Sums>
__device__ __forceinline__ void product(float *__restrict__ out, int out_stride, int out_split, long long out_jump,
                                        Operand<NormA> a, Operand<NormB> b, Place place, Add add, Sums sums) {
    auto value = [=](int row, int column, float product) {
        float sum = add(row, column, product);
        out[size_t(row) * out_stride + (row >= out_split ? out_jump : 0) + column] = sum;
        return sum;
    };
    Core::template multiply<order_a, order_b>(tile_memory, a, b, place, [&](int chunk) {
        finish_chunk<Core>(tile_memory, place, chunk, value, sums);
    });
}

struct Alone {
    __device__ __forceinline__ float operator()(int, int, float product) const { return product; }
};

struct Gathered {
    const float *__restrict__ projected;
    const int *__restrict__ subject, *__restrict__ object;
    int width;
    __device__ __forceinline__ float operator()(int row, int column, float product) const {
        const float *of_subject = projected + size_t(subject[row]) * 2 * width;
        const float *of_object = projected + size_t(object[row]) * 2 * width + width;
        return product + (of_subject[column] + of_object[column]);
    }
};

constexpr int NO_SPLIT = 0x7fffffff;

template <class Core, class Norm, class Add>
__device__ __forceinline__ void forward(float *y, Operand<Norm> x, Operand<NoNorm> weight, float *partials,
                                        int y_stride, int rows, int outputs, int inputs, Add add) {
    Place place = tile_place<Core>(rows, outputs, 0, inputs);
    if (place.first_row >= rows) {
        return; // the whole block
    }
    product<Core, INNER_LAST, INNER_LAST>(y, y_stride, NO_SPLIT, 0, x, weight, place, add, Statistics{partials});
}

template <class Core, class Sums>
__device__ __forceinline__ void backward_input(float *d_x, Operand<NoNorm> d_y, Operand<NoNorm> weight, int d_x_stride,
                                               int rows, int inputs, int outputs, Sums sums) {
    Place place = tile_place<Core>(rows, inputs, 0, outputs);
    if (place.first_row >= rows) {
        return; // the whole block
    }
    product<Core, INNER_LAST, INNER_FIRST>(d_x, d_x_stride, NO_SPLIT, 0, d_y, weight, place, Alone{}, sums);
}

// The launcher has these numbers and this rule too.
constexpr int LEAST_PART_ROWS = 128, LEAST_LARGE_PART_ROWS = 256;

// The parts of a sum over rows, at least one: `most_parts` as far as each gets enough rows; `most_large_parts`, which
// suit the larger tile, once each gets enough for that (0: never). The tile that runs is chosen by the grid's bound and
// changes nothing here, so bits follow from the number of rows.
struct RowParts {
    int count, rows_each;
};

__device__ __forceinline__ RowParts row_parts(int rows, int most_parts, int most_large_parts) {
    bool large = most_large_parts > 0 && rows >= LEAST_LARGE_PART_ROWS * most_large_parts;
    int most = large ? most_large_parts : min(most_parts, (rows + LEAST_PART_ROWS - 1) / LEAST_PART_ROWS);
    int each = max((rows + most - 1) / max(most, 1), 1);
    return {max((rows + each - 1) / each, 1), each};
}

// Part z takes the rows z * rows_each.. and writes its [O, I] at out + z * part_stride.
template <class Core, class Norm>
__device__ __forceinline__ void backward_weight(float *out, Operand<NoNorm> d_y, Operand<Norm> x, int out_stride,
                                                int out_split, long long out_jump, int outputs, int inputs, int rows,
                                                int most_parts, int most_large_parts, long long part_stride) {
    RowParts parts = row_parts(rows, most_parts, most_large_parts);
    if (int(blockIdx.z) >= parts.count) {
        return; // the whole block
    }
    int first = blockIdx.z * parts.rows_each;
    Place place = tile_place<Core>(outputs, inputs, first, min(first + parts.rows_each, rows));
    product<Core, INNER_FIRST, INNER_FIRST>(out + blockIdx.z * part_stride, out_stride, out_split, out_jump, d_y, x,
                                            place, Alone{}, NoSums{});
}

// ---- kernels ----------------------------------------------------------------------------------------------------

#define LINEAR_KERNEL(name, Core) extern "C" __global__ void __launch_bounds__(Core::Shape::threads, Core::blocks) name
#define LINEAR_NORM_KERNEL(name, Core)                                                                                \
    extern "C" __global__ void __launch_bounds__(Core::Shape::threads, Core::norm_blocks) name

#define LINEAR_KERNELS(suffix, Core)                                                                                  \
    LINEAR_KERNEL(linear_forward_##suffix, Core)                                                                      \
    (float *__restrict__ y, const float *__restrict__ x, const float *__restrict__ weight,                            \
     float *__restrict__ partials, int y_stride, int x_stride, int weight_stride, int weight_split,                   \
     long long weight_jump, const int *__restrict__ row_count, int outputs, int inputs) {                             \
        forward<Core>(y, operand(x, x_stride, NoNorm{}), {weight, weight_stride, weight_split, weight_jump, {}},      \
                      partials, y_stride, *row_count, outputs, inputs, Alone{});                                      \
    }                                                                                                                 \
    LINEAR_NORM_KERNEL(linear_forward_norm_##suffix, Core)                                                            \
    (float *__restrict__ y, const float *__restrict__ x, const float *__restrict__ mean,                              \
     const float *__restrict__ rstd, const float *__restrict__ norm_weight, const float *__restrict__ norm_bias,      \
     const float *__restrict__ weight, float *__restrict__ partials, int y_stride, int x_stride,                      \
     int weight_stride, const int *__restrict__ row_count, int outputs, int inputs) {                                 \
        forward<Core>(y, operand(x, x_stride, NormArrays{mean, rstd, norm_weight, norm_bias}),                        \
                      operand(weight, weight_stride, NoNorm{}), partials, y_stride, *row_count, outputs, inputs,      \
                      Alone{});                                                                                       \
    }                                                                                                                 \
    LINEAR_KERNEL(linear_forward_gather_##suffix, Core)                                                               \
    (float *__restrict__ y, const float *__restrict__ x, const float *__restrict__ weight,                            \
     const float *__restrict__ projected, const int *__restrict__ subject, const int *__restrict__ object,            \
     float *__restrict__ partials, int y_stride, int x_stride, int weight_stride,                                     \
     const int *__restrict__ row_count, int outputs, int inputs) {                                                    \
        forward<Core>(y, operand(x, x_stride, NoNorm{}), operand(weight, weight_stride, NoNorm{}), partials,          \
                      y_stride, *row_count, outputs, inputs, Gathered{projected, subject, object, outputs});          \
    }                                                                                                                 \
    LINEAR_KERNEL(linear_backward_input_##suffix, Core)                                                               \
    (float *__restrict__ d_x, const float *__restrict__ d_y, const float *__restrict__ weight, int d_x_stride,        \
     int d_y_stride, int weight_stride, int weight_split, long long weight_jump,                                      \
     const int *__restrict__ row_count, int inputs, int outputs) {                                                    \
        backward_input<Core>(d_x, operand(d_y, d_y_stride, NoNorm{}),                                                 \
                             {weight, weight_stride, weight_split, weight_jump, {}}, d_x_stride, *row_count,          \
                             inputs, outputs, NoSums{});                                                              \
    }                                                                                                                 \
    LINEAR_KERNEL(linear_backward_input_sums_##suffix, Core)                                                          \
    (float *__restrict__ d_x, float *__restrict__ partials, const float *__restrict__ d_y,                            \
     const float *__restrict__ weight, const float *__restrict__ z, const float *__restrict__ mean,                   \
     const float *__restrict__ rstd, const float *__restrict__ norm_weight, const float *__restrict__ norm_bias,      \
     int d_x_stride, int d_y_stride, int weight_stride, int z_stride, const int *__restrict__ row_count,              \
     int inputs, int outputs) {                                                                                       \
        backward_input<Core>(d_x, operand(d_y, d_y_stride, NoNorm{}), operand(weight, weight_stride, NoNorm{}),       \
                             d_x_stride, *row_count, inputs, outputs,                                                 \
                             BackwardSums{partials, z, z_stride, {mean, rstd, norm_weight, norm_bias}});              \
    }                                                                                                                 \
    LINEAR_KERNEL(linear_backward_weight_##suffix, Core)                                                              \
    (float *__restrict__ out, const float *__restrict__ d_y, const float *__restrict__ x, int out_stride,             \
     int out_split, long long out_jump, int d_y_stride, int x_stride, int outputs, int inputs,                        \
     const int *__restrict__ row_count, int most_parts, int most_large_parts, long long part_stride) {                \
        backward_weight<Core>(out, operand(d_y, d_y_stride, NoNorm{}), operand(x, x_stride, NoNorm{}), out_stride,    \
                              out_split, out_jump, outputs, inputs, *row_count, most_parts, most_large_parts,         \
                              part_stride);                                                                           \
    }                                                                                                                 \
    LINEAR_NORM_KERNEL(linear_backward_weight_norm_##suffix, Core)                                                    \
    (float *__restrict__ out, const float *__restrict__ d_y, const float *__restrict__ x,                             \
     const float *__restrict__ mean, const float *__restrict__ rstd, const float *__restrict__ norm_weight,           \
     const float *__restrict__ norm_bias, int out_stride, int d_y_stride, int x_stride, int outputs, int inputs,      \
     const int *__restrict__ row_count, int most_parts, int most_large_parts, long long part_stride) {                \
        backward_weight<Core>(out, operand(d_y, d_y_stride, NoNorm{}),                                                \
                              operand(x, x_stride, NormArrays{mean, rstd, norm_weight, norm_bias}), out_stride,       \
                              NO_SPLIT, 0, outputs, inputs, *row_count, most_parts, most_large_parts,                 \
                              part_stride);                                                                           \
    }

#define EMULATED_LINEAR(suffix)                                                                                       \
    EMULATED_KERNEL(linear_forward_##suffix), EMULATED_KERNEL(linear_forward_norm_##suffix),                          \
        EMULATED_KERNEL(linear_forward_gather_##suffix), EMULATED_KERNEL(linear_backward_input_##suffix),             \
        EMULATED_KERNEL(linear_backward_input_sums_##suffix), EMULATED_KERNEL(linear_backward_weight_##suffix),       \
        EMULATED_KERNEL(linear_backward_weight_norm_##suffix)

// All kernels of a format on the tensor cores.
#define LINEAR_FORMAT(format, Format)                                                                                 \
    LINEAR_KERNELS(format##_64, Tile64<Format>)                                                                       \
    LINEAR_KERNELS(format##_128, Tile128<Format>)                                                                     \
    EMULATED_KERNELS(linear_##format, EMULATED_LINEAR(format##_64), EMULATED_LINEAR(format##_128))
