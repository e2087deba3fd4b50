// linear_tensor: the three products of linear.cu on the tensor cores, for one number format: a file linear_<format>.cu
// each, so that they compile beside each other.
//   linear_forward_<format>_<tile>          y   [R, O] = x [R, I] W [O, I]^T
//   linear_backward_input_<format>_<tile>   d_x [R, I] = d_y [R, O] W [O, I]
//   linear_backward_weight_<format>_<tile>  d_W [O, I] = d_y [R, O]^T x [R, I], in parts as in linear.cu
// in, out, grid  as in linear.cu, whose kernel adds the parts
// cost           2 R I O flops each on the tensor cores, times 3 for bf16x3; a tile of n x n reads 2 n values of 4
//                bytes per n^2 multiply-adds: 32 (n = 64) or 64 (n = 128) flops a byte from L2
//
// Two tiles. 64 x 64 while tiles are few: at 16 triples [1056, 300] x [300, 512] are 136 of them for 132
// multiprocessors, of 128 x 128 only 36. 128 x 128 once these fill the GPU: half the traffic per product.
// Both take 40,960 bytes of shared memory: 4 or 2 stages of 16 inner values. Registers are bounded to 128 a thread, or
// 255 where operands have two parts, so that 4 or 2 blocks, or half as many, share a multiprocessor and one's copies
// hide behind another's products.

#include "matmul.cuh"

using Tile64 = Shape<64, 64, 16, 4, 2, 2>;
using Tile128 = Shape<128, 128, 16, 2, 2, 4>;
constexpr int TILE_BYTES = 40960;

__shared__ __align__(16) float tile_memory[TILE_BYTES / sizeof(float)];

template <class Shape, class Precision, Order order_a, Order order_b>
__device__ __forceinline__ void linear_product(float *__restrict__ out, int out_stride, Operand a, Operand b, int rows,
                                               int columns, int first_step, int end_step, bool accumulate) {
    constexpr int stage = Stage<order_a, Shape::rows, Shape::inner>::values +
                          Stage<order_b, Shape::columns, Shape::inner>::values;
    static_assert(Shape::stages * stage * sizeof(float) <= TILE_BYTES, "the stages fit");
    auto store = [=](int row, int column, float value) {
        float *to = &out[size_t(row) * out_stride + column];
        *to = accumulate ? *to + value : value;
    };
    matmul<Shape, Precision, order_a, order_b>(tile_memory, a, b, rows, columns, blockIdx.y * Shape::rows,
                                               blockIdx.x * Shape::columns, first_step, end_step, store);
}

#define LINEAR_KERNELS(format, Precision, tile)                                                                       \
    extern "C" __global__ void __launch_bounds__(Tile##tile::threads, Precision::threads / Tile##tile::threads)       \
    linear_forward_##format##_##tile(float *__restrict__ y, const float *__restrict__ x,                              \
                                     const float *__restrict__ weight, int y_stride, int x_stride, int weight_stride, \
                                     int rows, int outputs, int inputs, int accumulate) {                             \
        linear_product<Tile##tile, Precision, INNER_LAST, INNER_LAST>(                                                \
            y, y_stride, {x, x_stride}, {weight, weight_stride}, rows, outputs, 0, inputs, accumulate);               \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(Tile##tile::threads, Precision::threads / Tile##tile::threads)       \
    linear_backward_input_##format##_##tile(float *__restrict__ d_x, const float *__restrict__ d_y,                   \
                                            const float *__restrict__ weight, int d_x_stride, int d_y_stride,         \
                                            int weight_stride, int rows, int inputs, int outputs, int accumulate) {   \
        linear_product<Tile##tile, Precision, INNER_LAST, INNER_FIRST>(                                               \
            d_x, d_x_stride, {d_y, d_y_stride}, {weight, weight_stride}, rows, inputs, 0, outputs, accumulate);       \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(Tile##tile::threads, Precision::threads / Tile##tile::threads)       \
    linear_backward_weight_##format##_##tile(float *__restrict__ partials, const float *__restrict__ d_y,             \
                                             const float *__restrict__ x, int partial_stride, int d_y_stride,         \
                                             int x_stride, int outputs, int inputs, int rows, int rows_per_part,      \
                                             long long part_stride) {                                                 \
        int first = blockIdx.z * rows_per_part;                                                                       \
        linear_product<Tile##tile, Precision, INNER_FIRST, INNER_FIRST>(                                              \
            partials + blockIdx.z * part_stride, partial_stride, {d_y, d_y_stride}, {x, x_stride}, outputs, inputs,   \
            first, min(first + rows_per_part, rows), false);                                                          \
    }

#define EMULATED_LINEAR(format, tile)                                                                                 \
    EMULATED_KERNEL(linear_forward_##format##_##tile), EMULATED_KERNEL(linear_backward_input_##format##_##tile),      \
        EMULATED_KERNEL(linear_backward_weight_##format##_##tile)

// All kernels of a format.
#define LINEAR_FORMAT(format, Precision)                                                                              \
    LINEAR_KERNELS(format, Precision, 64)                                                                             \
    LINEAR_KERNELS(format, Precision, 128)                                                                            \
    EMULATED_KERNELS(linear_##format, EMULATED_LINEAR(format, 64), EMULATED_LINEAR(format, 128))
