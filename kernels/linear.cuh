// linear: the products of a linear layer y = x W^T without bias, with what shares their reads and writes; a file for
// each number format of the operands: linear_fp32.cu, linear_bf16.cu, linear_bf16x3.cu. Names end in
// the format and the tile, such as _bf16_64.
//   linear_forward               y   [R, O] = x [R, I] W [O, I]^T, and its statistics if they are wanted
//   linear_forward_norm          the same of relu(norm(x)): no activated copy of x
//   linear_forward_unit          y = (u / |u|) W^T of u = relu(norm(x)), by row, and |u|: neither is written wide. The
//                                lengths are found while the product goes over the columns, and y is divided by them
//   linear_forward_gather        y[r] += P[subject(r), 0..O] + P[object(r), O..2 O]
//   linear_forward_gather_norm   the same of relu(norm(x))
//   linear_forward_two           two products of values that do not depend on each other, without statistics: of x that
//                                are alike in their rows, and of parts of one W
//   linear_backward              d_x [R, I] = d_y [R, O] W [O, I] and d_W [O, I] = d_y [R, O]^T x [R, I], in one launch
//   linear_backward_norm         the same where x is relu(norm(z)), and the sums of its batch norm's backward, if they
//                                are wanted
//   linear_backward_unit         given d_y / |u|, the gradient by u: d_y W / |u| less what lies along u, whose amount for
//                                each row edge_hidden.cu has found; d_W, and the sums of the norm's backward
//   linear_backward_states       linear_backward_unit of nodes, and in further blocks linear_backward_norm_through_norm of
//                                edges, which do not wait for each other; of the smaller tile, as those
//   linear_backward_through_norm, linear_backward_norm_through_norm
//                                both where d_y is what batch norm's backward makes of d and the layer's own z: no d_z
//                                is stored. Of the smaller tile only, of which there are few: more and larger ones would
//                                each normalise the same values again
// in   matrices with row strides (a part of the columns of a wider matrix is a matrix); W, and d_W, may be two such
//      parts one above the other: rows from `split` on lie `jump` further
// out  written. Columns' statistics, and the sums of the backward, are merged by the last block of their strip
//      (column_sums.cuh), d_W's parts, sums over some rows each, by the last block of their tile
// grid forward: x tiles of columns, y tiles of rows; of two the first one's tiles row by row, `first_blocks` of them,
//      then the second one's. backward: d_x's tiles row by row, `input_blocks` of them, then
//      d_W's, part by part. R lies in device memory (common.cuh), and the parts of a sum over R follow from it alone
// sums in the order of the inner dimension, columns' sums and parts in the order of rows: bit-reproducible
// cost 2 R I O flops each, on the tensor cores but for fp32, times 3 for bf16x3; a tile of n x n reads 2 n values of 4
//      bytes, or 2 of bf16, per n^2 multiply-adds: 32 (n = 64) or 64 (n = 128) flops a byte from L2, or twice as many
//
// Two tiles. 64 x 64 while tiles are few: at 16 triples [1056, 300] x [300, 512] are 136 of them for 132
// multiprocessors, of 128 x 128 only 36. 128 x 128 once these fill the GPU: half the traffic per product.
// Registers are bounded so that 512 threads of bf16, or 384 of what is stored in single precision, share a multiprocessor
// (of the larger tile one block, then), and one block's copies hide behind another's products.
#pragma once

#include "linear_epilogue.cuh"
#include "matmul_fma.cuh"
#include "matmul_tensor.cuh"

// A stage holds 64 bytes of each row: a step of 32 products of a warp of the larger tile, 16 of the smaller one's, to a
// barrier in bf16. As many stages as find room, four.
template <class Value> struct Tiles {
    static constexpr int inner = 64 / int(sizeof(Value));
    using Small = Shape<64, 64, inner, 4, 2, 2>;
    using Large = Shape<LARGE_TILE, LARGE_TILE, inner, 4, 2, 4>;
};
template <class Format> using Tile64 = TensorCore<typename Tiles<typename Format::Value>::Small, Format>;
template <class Format> using Tile128 = TensorCore<typename Tiles<typename Format::Value>::Large, Format>;

__shared__ __align__(16) float small_tile_memory[SMALL_TILE_BYTES / sizeof(float)];

// The memory of a core's tile.
template <class Core> __device__ __forceinline__ float *tile_memory() {
    if constexpr (Core::Shape::rows == LARGE_TILE) {
        DYNAMIC_SHARED(float, large_tile_memory);
        return large_tile_memory;
    } else {
        return small_tile_memory;
    }
}

// ---- the products -----------------------------------------------------------------------------------------------

// The block's tile of out(), which is asked for when the tile is there: before, it would take registers from the product.
// `add` gives what is stored of a product.
template <class Core, Order order_a, Order order_b, class Out, class A, class B, class Lengths, class Add, class Sums>
__device__ __forceinline__ void product(float *memory, const Out &out, const A &a, const B &b, const Place &place,
                                        const Lengths &lengths, const Add &add, const Sums &sums) {
    if (place.rows > 0) {
        Core::template multiply<order_a, order_b>(memory, a, b, place, lengths, [&](int chunk) {
            finish_chunk<Core>(memory, out(), place, chunk, add, sums);
        });
    }
    finish_sums<Core>(memory, place, sums);
}

// Whether a block whose rows begin there has anything to do: without rows one of each strip, for the columns' sums.
__device__ __forceinline__ bool has_rows(int first_row, int rows) { return first_row < rows || first_row == 0; }

template <class Core>
__device__ __forceinline__ Place forward_place(int rows, int outputs, int inputs) {
    int first_row = int(blockIdx.y) * Core::Shape::rows, first_column = int(blockIdx.x) * Core::Shape::columns;
    return {rows, outputs, first_row, first_column, 0, inputs};
}

template <class Core, class Value, class Norm, class Add>
__device__ __forceinline__ void forward(float *memory, Value *y, Operand<Value, Norm> x, Operand<Value, NoNorm> weight,
                                        const Statistics &statistics, int y_stride, int rows, int outputs, int inputs,
                                        const Add &add) {
    Place place = forward_place<Core>(rows, outputs, inputs);
    if (has_rows(place.first_row, rows)) { // or the whole block leaves
        auto out = [&]() -> Output<Value> { return {y, y_stride, NO_SPLIT, 0}; };
        product<Core, INNER_LAST, INNER_LAST>(memory, out, x, weight, place, NoLengths{}, add, statistics);
    }
}

// Of x over the lengths of its rows, which are left in `lengths`.
template <class Core, class Value>
__device__ __forceinline__ void forward_unit(float *memory, Value *y, float *lengths, Operand<Value, NormRows> x,
                                             Operand<Value, NoNorm> weight, int y_stride, int rows, int outputs,
                                             int inputs) {
    Place place = forward_place<Core>(rows, outputs, inputs);
    if (place.first_row < rows) { // or the whole block leaves
        auto out = [&]() -> Output<Value> { return {y, y_stride, NO_SPLIT, 0}; };
        OverLength over = {memory + Core::first_length, place.first_row};
        product<Core, INNER_LAST, INNER_LAST>(memory, out, x, weight, place,
                                              RowLengths<typename Core::Shape>{lengths}, over, NoSums{});
    }
}

// A product of values, one of two in a launch.
template <class Value> struct Forward {
    Output<Value> y;
    Operand<Value, NoNorm> x, weight;
    int rows, outputs;
};

template <class Core, class Value>
__device__ __forceinline__ void forward_two(float *memory, const Forward<Value> &first, const Forward<Value> &second,
                                            int inputs, int first_blocks) {
    int block = blockIdx.x;
    const Forward<Value> of = block < first_blocks ? first : second;
    block -= block < first_blocks ? 0 : first_blocks;
    int tiles_across = (of.outputs + Core::Shape::columns - 1) / Core::Shape::columns;
    int first_row = block / tiles_across * Core::Shape::rows;
    if (first_row < of.rows) { // or the whole block leaves
        Place place = {of.rows, of.outputs, first_row, block % tiles_across * Core::Shape::columns, 0, inputs};
        auto out = [&]() -> Output<Value> { return of.y; };
        product<Core, INNER_LAST, INNER_LAST>(memory, out, of.x, of.weight, place, NoLengths{}, Alone{}, NoSums{});
    }
}

// The launcher has these numbers and this rule too.
constexpr int LEAST_PART_ROWS = 128, ENOUGH_BLOCKS = 264;

// The parts of a sum over rows, at least one: `most_large_parts`, which suit the larger tile, where d_x has enough of
// these (0: never), else `most_parts` as far as each gets enough rows. The tile that runs is chosen by the grid's bound
// and changes nothing here, so bits follow from the number of rows.
struct RowParts {
    int count, rows_each;
};

__device__ __forceinline__ RowParts row_parts(int rows, int inputs, int most_parts, int most_large_parts) {
    int large_tiles = (rows + LARGE_TILE - 1) / LARGE_TILE * ((inputs + LARGE_TILE - 1) / LARGE_TILE);
    bool large = most_large_parts > 0 && large_tiles >= ENOUGH_BLOCKS;
    int most = large ? most_large_parts : min(most_parts, (rows + LEAST_PART_ROWS - 1) / LEAST_PART_ROWS);
    int each = max((rows + most - 1) / max(most, 1), 1);
    return {max((rows + each - 1) / each, 1), each};
}

// A weight's gradient: its parts [parts, O, I], added up by the last block of a tile.
struct WeightGradient {
    Output<float> out;
    float *__restrict__ parts;
    int *__restrict__ tickets; // by tile
    int most_parts, most_large_parts;
};

// The tile's sum over the parts, in their order.
template <class Core>
__device__ __forceinline__ void add_parts(const WeightGradient &d_weight, const Place &place, int parts) {
    constexpr int columns = Core::Shape::columns, rows_at_once = Core::Shape::threads / columns;
    int column = place.first_column + threadIdx.x % columns;
    if (column >= place.columns) {
        return;
    }
    size_t part_stride = size_t(place.rows) * place.columns;
    int end = min(place.first_row + Core::Shape::rows, place.rows);
    for (int row = place.first_row + threadIdx.x / columns; row < end; row += rows_at_once) {
        const float *from = d_weight.parts + size_t(row) * place.columns + column;
        float sum = __ldcg(from); // not added to 0: as one launch for each part would
#pragma unroll 4
        for (int part = 1; part < parts; part++) {
            sum += __ldcg(from + part * part_stride);
        }
        d_weight.out.line(row)[column] = sum;
    }
}

// The backward of a layer in blocks of a launch, of which this one is `block`.
template <class Core, class Value, class NormY, class Norm, class Add, class Sums>
__device__ __forceinline__ void backward(float *memory, int block, Value *d_x, int d_x_stride,
                                         const WeightGradient &d_weight, Operand<Value, NormY> d_y,
                                         Operand<Value, Norm> x, Operand<Value, NoNorm> weight, int rows, int inputs,
                                         int outputs, int input_blocks, const Add &add, const Sums &sums) {
    constexpr int tile_rows = Core::Shape::rows, tile_columns = Core::Shape::columns;
    int tiles_across = (inputs + tile_columns - 1) / tile_columns;
    if (block < input_blocks) {
        Place place = {rows, inputs, block / tiles_across * tile_rows, block % tiles_across * tile_columns, 0, outputs};
        if (has_rows(place.first_row, rows)) { // or the whole block leaves
            auto out = [&]() -> Output<Value> { return {d_x, d_x_stride, NO_SPLIT, 0}; };
            product<Core, INNER_LAST, INNER_FIRST>(memory, out, d_y, weight, place, NoLengths{}, add, sums);
        }
        return;
    }
    int tiles = tiles_across * ((outputs + tile_rows - 1) / tile_rows);
    int part = (block - input_blocks) / tiles, tile = (block - input_blocks) % tiles;
    RowParts parts = row_parts(rows, inputs, d_weight.most_parts, d_weight.most_large_parts);
    if (part >= parts.count) {
        return; // the whole block
    }
    int first = part * parts.rows_each, first_row = tile / tiles_across * tile_rows;
    Place place = {outputs, inputs, first_row, tile % tiles_across * tile_columns, first,
                   min(first + parts.rows_each, rows)};
    auto out = [&]() -> Output<float> {
        if (parts.count > 1) {
            return {d_weight.parts + size_t(part) * outputs * inputs, inputs, NO_SPLIT, 0};
        }
        return d_weight.out;
    };
    product<Core, INNER_FIRST, INNER_FIRST>(memory, out, d_y, x, place, NoLengths{}, Alone{}, NoSums{});
    if (parts.count > 1) {
        __syncthreads(); // the tile was read
        int *flag = reinterpret_cast<int *>(memory);
        if (last_to_come(&d_weight.tickets[tile], 1, parts.count, threadIdx.x == 0, flag)) {
            add_parts<Core>(d_weight, place, parts.count);
        }
    }
}

// ---- kernels ----------------------------------------------------------------------------------------------------

#define LINEAR_KERNEL(name, Core) extern "C" __global__ void __launch_bounds__(Core::Shape::threads, Core::blocks) name

#define IN(type, name) const type *__restrict__ name
#define OUT(type, name) type *__restrict__ name
#define STATISTICS_PARAMETERS                                                                                          \
    OUT(float, partials), OUT(double, groups), OUT(int, tickets), OUT(float, y_mean), OUT(float, y_rstd),              \
        OUT(float, running_mean), OUT(float, running_var)
#define STATISTICS Statistics{{partials, groups, tickets}, {y_mean, y_rstd, running_mean, running_var}}
#define NORM_PARAMETERS IN(float, mean), IN(float, rstd), IN(float, norm_weight), IN(float, norm_bias)
#define NORM NormRows{mean, rstd, norm_weight, norm_bias}
#define NORM_GRADIENT_PARAMETERS                                                                                       \
    OUT(float, partials), OUT(double, groups), OUT(int, tickets), OUT(float, d_norm_weight), OUT(float, d_norm_bias),  \
        OUT(float, terms), int batch_statistics
#define BACKWARD_SUMS(Value)                                                                                           \
    BackwardSums<Value> {                                                                                              \
        {partials, groups, tickets}, {d_norm_weight, d_norm_bias, terms, rstd, norm_weight, batch_statistics}, z,      \
            z_stride, NORM                                                                                             \
    }
// Of the layer's output, by which d_y, beside its z, becomes d_z.
#define NORM_BACKWARD_PARAMETERS(Value)                                                                                \
    IN(Value, y_z), IN(float, y_mean), IN(float, y_rstd), IN(float, y_weight), IN(float, y_bias), IN(float, y_terms)
#define NORM_BACKWARD norm_backward({y_mean, y_rstd, y_weight, y_bias}, y_terms, outputs, y_z)
#define GATHER_PARAMETERS(Value) IN(Value, projected), int projected_stride, IN(int, subject), IN(int, object)
#define GATHERED Gathered<Value>{projected, projected_stride, subject, object, outputs}
#define WEIGHT_GRADIENT_PARAMETERS OUT(float, d_weight), OUT(float, parts), OUT(int, part_tickets)
#define WEIGHT_GRADIENT(split, jump)                                                                                   \
    {{d_weight, d_weight_stride, split, jump}, parts, part_tickets, most_parts, most_large_parts}
#define SIZES IN(int, row_count), int outputs, int inputs
// Of one of two products.
#define FORWARD_PARAMETERS(Value, of)                                                                                  \
    OUT(Value, y_##of), IN(Value, x_##of), IN(Value, weight_##of), int y_stride_##of, int weight_split_##of,           \
        long long weight_jump_##of, IN(int, row_count_##of), int outputs_##of
#define FORWARD(Value, of)                                                                                             \
    Forward<Value> {                                                                                                   \
        {y_##of, y_stride_##of, NO_SPLIT, 0}, operand(x_##of, x_stride, NoNorm{}),                                     \
            {weight_##of, weight_stride, weight_split_##of, weight_jump_##of, {}}, *row_count_##of, outputs_##of       \
    }
#define BACKWARD_SIZES                                                                                                 \
    IN(int, row_count), int inputs, int outputs, int most_parts, int most_large_parts, int input_blocks

#define LINEAR_KERNELS(suffix, Core)                                                                                   \
    LINEAR_KERNEL(linear_forward_##suffix, Core)                                                                       \
    (OUT(Core::Value, y), IN(Core::Value, x), IN(Core::Value, weight), STATISTICS_PARAMETERS, int y_stride,            \
     int x_stride, int weight_stride, int weight_split, long long weight_jump, SIZES) {                                \
        begin_kernel();                                                                                                \
        forward<Core>(tile_memory<Core>(), y, operand(x, x_stride, NoNorm{}),                                          \
                      {weight, weight_stride, weight_split, weight_jump, {}}, STATISTICS, y_stride, *row_count,        \
                      outputs, inputs, Alone{});                                                                       \
    }                                                                                                                  \
    LINEAR_KERNEL(linear_forward_norm_##suffix, Core)                                                                  \
    (OUT(Core::Value, y), IN(Core::Value, x), NORM_PARAMETERS, IN(Core::Value, weight), STATISTICS_PARAMETERS,         \
     int y_stride, int x_stride, int weight_stride, SIZES) {                                                           \
        begin_kernel();                                                                                                \
        forward<Core>(tile_memory<Core>(), y, operand(x, x_stride, NORM), operand(weight, weight_stride, NoNorm{}),    \
                      STATISTICS, y_stride, *row_count, outputs, inputs, Alone{});                                     \
    }                                                                                                                  \
    LINEAR_KERNEL(linear_forward_unit_##suffix, Core)                                                                  \
    (OUT(Core::Value, y), OUT(float, lengths), IN(Core::Value, x), NORM_PARAMETERS, IN(Core::Value, weight),           \
     int y_stride, int x_stride, int weight_stride, int weight_split, long long weight_jump, SIZES) {                  \
        begin_kernel();                                                                                                \
        forward_unit<Core>(tile_memory<Core>(), y, lengths, operand(x, x_stride, NORM),                                \
                           {weight, weight_stride, weight_split, weight_jump, {}}, y_stride, *row_count, outputs,      \
                           inputs);                                                                                    \
    }                                                                                                                  \
    LINEAR_KERNEL(linear_forward_gather_##suffix, Core)                                                                \
    (OUT(Core::Value, y), IN(Core::Value, x), IN(Core::Value, weight), GATHER_PARAMETERS(Core::Value),                 \
     STATISTICS_PARAMETERS, int y_stride, int x_stride, int weight_stride, SIZES) {                                    \
        begin_kernel();                                                                                                \
        using Value = Core::Value;                                                                                     \
        forward<Core>(tile_memory<Core>(), y, operand(x, x_stride, NoNorm{}),                                          \
                      operand(weight, weight_stride, NoNorm{}), STATISTICS, y_stride, *row_count, outputs, inputs,     \
                      GATHERED);                                                                                       \
    }                                                                                                                  \
    LINEAR_KERNEL(linear_forward_gather_norm_##suffix, Core)                                                           \
    (OUT(Core::Value, y), IN(Core::Value, x), NORM_PARAMETERS, IN(Core::Value, weight),                                \
     GATHER_PARAMETERS(Core::Value), STATISTICS_PARAMETERS, int y_stride, int x_stride, int weight_stride, SIZES) {    \
        begin_kernel();                                                                                                \
        using Value = Core::Value;                                                                                     \
        forward<Core>(tile_memory<Core>(), y, operand(x, x_stride, NORM), operand(weight, weight_stride, NoNorm{}),    \
                      STATISTICS, y_stride, *row_count, outputs, inputs, GATHERED);                                    \
    }                                                                                                                  \
    LINEAR_KERNEL(linear_forward_two_##suffix, Core)                                                                   \
    (FORWARD_PARAMETERS(Core::Value, first), FORWARD_PARAMETERS(Core::Value, second), int x_stride,                    \
     int weight_stride, int inputs, int first_blocks) {                                                                \
        begin_kernel();                                                                                                \
        using Value = Core::Value;                                                                                     \
        forward_two<Core>(tile_memory<Core>(), FORWARD(Value, first), FORWARD(Value, second), inputs, first_blocks);   \
    }                                                                                                                  \
    LINEAR_KERNEL(linear_backward_##suffix, Core)                                                                      \
    (OUT(Core::Value, d_x), WEIGHT_GRADIENT_PARAMETERS, IN(Core::Value, d_y), IN(Core::Value, x),                      \
     IN(Core::Value, weight), int d_x_stride, int d_weight_stride, int d_weight_split, long long d_weight_jump,        \
     int d_y_stride, int x_stride, int weight_stride, int weight_split, long long weight_jump, BACKWARD_SIZES) {       \
        begin_kernel();                                                                                                \
        backward<Core>(tile_memory<Core>(), blockIdx.x, d_x, d_x_stride,                                               \
                       WEIGHT_GRADIENT(d_weight_split, d_weight_jump),                                                 \
                       operand(d_y, d_y_stride, NoNorm{}), operand(x, x_stride, NoNorm{}),                             \
                       {weight, weight_stride, weight_split, weight_jump, {}}, *row_count, inputs, outputs,            \
                       input_blocks, Alone{}, NoSums{});                                                               \
    }                                                                                                                  \
    LINEAR_KERNEL(linear_backward_norm_##suffix, Core)                                                                 \
    (OUT(Core::Value, d_x), WEIGHT_GRADIENT_PARAMETERS, IN(Core::Value, d_y), IN(Core::Value, z), NORM_PARAMETERS,     \
     IN(Core::Value, weight), NORM_GRADIENT_PARAMETERS, int d_x_stride, int d_weight_stride, int d_y_stride,           \
     int z_stride, int weight_stride, BACKWARD_SIZES) {                                                                \
        begin_kernel();                                                                                                \
        backward<Core>(tile_memory<Core>(), blockIdx.x, d_x, d_x_stride, WEIGHT_GRADIENT(NO_SPLIT, 0),                 \
                       operand(d_y, d_y_stride, NoNorm{}), operand(z, z_stride, NORM),                                 \
                       operand(weight, weight_stride, NoNorm{}), *row_count, inputs, outputs, input_blocks, Alone{},   \
                       BACKWARD_SUMS(Core::Value));                                                                    \
    }                                                                                                                  \
    LINEAR_KERNEL(linear_backward_unit_##suffix, Core)                                                                 \
    (OUT(Core::Value, d_x), WEIGHT_GRADIENT_PARAMETERS, IN(Core::Value, d_y), IN(Core::Value, z), NORM_PARAMETERS,     \
     IN(Core::Value, weight), NORM_GRADIENT_PARAMETERS, IN(float, along), int d_x_stride, int d_weight_stride,         \
     int d_weight_split, long long d_weight_jump, int d_y_stride, int z_stride, int weight_stride, int weight_split,   \
     long long weight_jump, BACKWARD_SIZES) {                                                                          \
        begin_kernel();                                                                                                \
        LessAlong<Core::Value> less = {along};                                                                         \
        backward<Core>(tile_memory<Core>(), blockIdx.x, d_x, d_x_stride,                                               \
                       WEIGHT_GRADIENT(d_weight_split, d_weight_jump),                                                 \
                       operand(d_y, d_y_stride, NoNorm{}), operand(z, z_stride, NORM),                                 \
                       {weight, weight_stride, weight_split, weight_jump, {}}, *row_count, inputs, outputs,            \
                       input_blocks, less, BACKWARD_SUMS(Core::Value));                                                \
    }

// The backward of both states that a layer reads: in the first `node_blocks` blocks as linear_backward_unit, in those
// behind them of the edges.
#define STATES_PARAMETERS(Value)                                                                                       \
    OUT(Value, d_x), WEIGHT_GRADIENT_PARAMETERS, IN(Value, d_y), IN(Value, z), NORM_PARAMETERS, IN(Value, weight),     \
        NORM_GRADIENT_PARAMETERS, IN(float, along), int d_x_stride, int d_weight_stride, int d_weight_split,           \
        long long d_weight_jump, int d_y_stride, int z_stride, int weight_stride, int weight_split,                    \
        long long weight_jump, BACKWARD_SIZES, int node_blocks, OUT(Value, d_e), OUT(float, e_d_weight),               \
        OUT(float, e_parts), OUT(int, e_part_tickets), IN(Value, e_d_y), NORM_BACKWARD_PARAMETERS(Value),              \
        IN(Value, e_z), IN(float, e_mean), IN(float, e_rstd), IN(float, e_norm_weight), IN(float, e_norm_bias),        \
        IN(Value, e_weight), int d_e_stride, int e_d_weight_stride, int e_d_y_stride, int e_z_stride,                  \
        int e_weight_stride, IN(int, e_row_count), int e_inputs, int e_outputs, int e_most_parts,                      \
        int e_most_large_parts, int e_input_blocks

// With the smaller tile only.
#define LINEAR_SMALL_KERNELS(suffix, Core)                                                                             \
    LINEAR_KERNEL(linear_backward_through_norm_##suffix, Core)                                                         \
    (OUT(Core::Value, d_x), WEIGHT_GRADIENT_PARAMETERS, IN(Core::Value, d_y), NORM_BACKWARD_PARAMETERS(Core::Value),   \
     IN(Core::Value, x), IN(Core::Value, weight), int d_x_stride, int d_weight_stride, int d_y_stride, int x_stride,   \
     int weight_stride, BACKWARD_SIZES) {                                                                              \
        begin_kernel();                                                                                                \
        backward<Core>(tile_memory<Core>(), blockIdx.x, d_x, d_x_stride, WEIGHT_GRADIENT(NO_SPLIT, 0),                 \
                       operand(d_y, d_y_stride, NORM_BACKWARD), operand(x, x_stride, NoNorm{}),                        \
                       operand(weight, weight_stride, NoNorm{}), *row_count, inputs, outputs, input_blocks, Alone{},   \
                       NoSums{});                                                                                      \
    }                                                                                                                  \
    LINEAR_KERNEL(linear_backward_norm_through_norm_##suffix, Core)                                                    \
    (OUT(Core::Value, d_x), WEIGHT_GRADIENT_PARAMETERS, IN(Core::Value, d_y), NORM_BACKWARD_PARAMETERS(Core::Value),   \
     IN(Core::Value, z), NORM_PARAMETERS, IN(Core::Value, weight), NORM_GRADIENT_PARAMETERS, int d_x_stride,           \
     int d_weight_stride, int d_y_stride, int z_stride, int weight_stride, BACKWARD_SIZES) {                           \
        begin_kernel();                                                                                                \
        backward<Core>(tile_memory<Core>(), blockIdx.x, d_x, d_x_stride, WEIGHT_GRADIENT(NO_SPLIT, 0),                 \
                       operand(d_y, d_y_stride, NORM_BACKWARD), operand(z, z_stride, NORM),                            \
                       operand(weight, weight_stride, NoNorm{}), *row_count, inputs, outputs, input_blocks, Alone{},   \
                       BACKWARD_SUMS(Core::Value));                                                                    \
    }                                                                                                                  \
    LINEAR_KERNEL(linear_backward_states_##suffix, Core)                                                               \
    (STATES_PARAMETERS(Core::Value)) {                                                                                 \
        begin_kernel();                                                                                                \
        if (int(blockIdx.x) < node_blocks) {                                                                           \
            LessAlong<Core::Value> less = {along};                                                                     \
            backward<Core>(tile_memory<Core>(), blockIdx.x, d_x, d_x_stride,                                           \
                           WEIGHT_GRADIENT(d_weight_split, d_weight_jump),                                             \
                           operand(d_y, d_y_stride, NoNorm{}), operand(z, z_stride, NORM),                             \
                           {weight, weight_stride, weight_split, weight_jump, {}}, *row_count, inputs, outputs,        \
                           input_blocks, less, BACKWARD_SUMS(Core::Value));                                            \
        } else {                                                                                                       \
            backward<Core>(tile_memory<Core>(), int(blockIdx.x) - node_blocks, d_e, d_e_stride,                        \
                           {{e_d_weight, e_d_weight_stride, NO_SPLIT, 0},                                              \
                            e_parts,                                                                                   \
                            e_part_tickets,                                                                            \
                            e_most_parts,                                                                              \
                            e_most_large_parts},                                                                       \
                           operand(e_d_y, e_d_y_stride,                                                                \
                                   norm_backward({y_mean, y_rstd, y_weight, y_bias}, y_terms, e_outputs, y_z)),        \
                           operand(e_z, e_z_stride, NormRows{e_mean, e_rstd, e_norm_weight, e_norm_bias}),             \
                           operand(e_weight, e_weight_stride, NoNorm{}), *e_row_count, e_inputs, e_outputs,            \
                           e_input_blocks, Alone{}, NoSums{});                                                         \
        }                                                                                                              \
    }

#define EMULATED_LINEAR(suffix)                                                                                        \
    EMULATED_KERNEL(linear_forward_##suffix), EMULATED_KERNEL(linear_forward_norm_##suffix),                           \
        EMULATED_KERNEL(linear_forward_gather_##suffix), EMULATED_KERNEL(linear_forward_gather_norm_##suffix),         \
        EMULATED_KERNEL(linear_forward_unit_##suffix), EMULATED_KERNEL(linear_forward_two_##suffix),                   \
        EMULATED_KERNEL(linear_backward_##suffix), EMULATED_KERNEL(linear_backward_norm_##suffix),                     \
        EMULATED_KERNEL(linear_backward_unit_##suffix)
#define EMULATED_SMALL_LINEAR(suffix)                                                                                  \
    EMULATED_LINEAR(suffix), EMULATED_KERNEL(linear_backward_through_norm_##suffix),                                   \
        EMULATED_KERNEL(linear_backward_norm_through_norm_##suffix),                                                   \
        EMULATED_KERNEL(linear_backward_states_##suffix)

// All kernels of a format on the tensor cores.
#define LINEAR_FORMAT(format, Format)                                                                                  \
    LINEAR_KERNELS(format##_64, Tile64<Format>)                                                                        \
    LINEAR_SMALL_KERNELS(format##_64, Tile64<Format>)                                                                  \
    LINEAR_KERNELS(format##_128, Tile128<Format>)                                                                      \
    EMULATED_KERNELS(linear_##format, EMULATED_SMALL_LINEAR(format##_64), EMULATED_LINEAR(format##_128))
