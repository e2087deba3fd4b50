// linear: the products of a linear layer y = x W^T without bias, with what shares their reads and writes; a file for
// each number format of the operands: linear_fp32.cu, linear_tf32.cu, linear_bf16.cu, linear_bf16x3.cu. Names end in
// the format and the tile, such as _bf16_64.
//   linear_forward               y   [R, O] = x [R, I] W [O, I]^T, and its statistics if they are wanted
//   linear_forward_norm          the same of relu(norm(x)): no activated copy of x
//   linear_forward_gather        y[r] += P[subject(r), 0..O] + P[object(r), O..2 O]
//   linear_forward_gather_norm   the same of relu(norm(x))
//   linear_backward              d_x [R, I] = d_y [R, O] W [O, I] and d_W [O, I] = d_y [R, O]^T x [R, I], in one launch
//   linear_backward_norm         the same where x is relu(norm(z)), and the sums of its batch norm's backward, if they
//                                are wanted
// in   matrices with row strides (a part of the columns of a wider matrix is a matrix); W, and d_W, may be two such
//      parts one above the other: rows from `split` on lie `jump` further
// out  written. Columns' statistics, and the sums of the backward, are merged by the last block of their strip
//      (column_sums.cuh), d_W's parts, sums over some rows each, by the last block of their tile
// grid forward: x tiles of columns, y tiles of rows. backward: d_x's tiles row by row, `input_blocks` of them, then d_W's,
//      part by part. R lies in device memory (common.cuh), and the parts of a sum over R follow from it alone
// sums in the order of the inner dimension, columns' sums and parts in the order of rows: bit-reproducible
// cost 2 R I O flops each, on the tensor cores but for fp32, times 3 for bf16x3; a tile of n x n reads 2 n values of 4
//      bytes per n^2 multiply-adds: 32 (n = 64) or 64 (n = 128) flops a byte from L2
//
// Two tiles. 64 x 64 while tiles are few: at 16 triples [1056, 300] x [300, 512] are 136 of them for 132
// multiprocessors, of 128 x 128 only 36. 128 x 128 once these fill the GPU: half the traffic per product.
// Both take 40,960 bytes of shared memory: 4 or 2 stages of 16 inner values. Registers are bounded to 128 a thread, or
// 255 where operands have two parts, so that 4 or 2 blocks, or half as many, share a multiprocessor and one's copies
// hide behind another's products.
#pragma once

#include "column_sums.cuh"
#include "matmul_fma.cuh"
#include "matmul_tensor.cuh"

template <class Format> using Tile64 = TensorCore<Shape<64, 64, 16, 4, 2, 2>, Format>;
template <class Format> using Tile128 = TensorCore<Shape<128, 128, 16, 2, 2, 4>, Format>;

constexpr int TILE_BYTES = 40960;
__shared__ __align__(16) float tile_memory[TILE_BYTES / sizeof(float)];

// ---- sums of a column over a chunk ------------------------------------------------------------------------------

// Nothing.
struct NoSums {};

// Mean and sum of squared deviations from it (M2), taken around the first value: free of cancellation.
struct Statistics {
    ColumnMemory memory;
    StatisticsMerge merge;
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
    // Of two sets of rows (Chan et al.).
    static __device__ __forceinline__ float2 join(float2 first, int first_count, float2 second, int second_count) {
        if (second_count == 0) {
            return first;
        }
        float share = float(second_count) / float(first_count + second_count), offset = second.x - first.x;
        return make_float2(first.x + offset * share, first.y + second.y + offset * offset * share * float(first_count));
    }
};

// Of the backward pass of relu(norm(z)), given the gradient by its output: sums of d and of d (z - mean).
struct BackwardSums {
    ColumnMemory memory;
    BackwardMerge merge;
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
    static __device__ __forceinline__ float2 join(float2 first, int, float2 second, int) {
        return make_float2(first.x + second.x, first.y + second.y);
    }
};

// A chunk of the tile, in shared memory: value(row, column, product) stores each and gives what was stored. A thread
// takes every rows_at_once-th row of its column.
template <class Core, class Value>
__device__ __forceinline__ void finish_chunk(float *memory, const Place &place, int chunk, Value value, const NoSums &) {
    constexpr int columns = Core::Shape::columns, rows_at_once = Core::Shape::threads / columns;
    int column = place.first_column + threadIdx.x % columns, first_row = place.first_row + chunk;
    if (column < place.columns) {
        for (int row = threadIdx.x / columns; row < min(CHUNK_ROWS, place.rows - first_row); row += rows_at_once) {
            value(first_row + row, column, memory[row * Core::tile_stride + threadIdx.x % columns]);
        }
    }
}

// The same, and the columns' two values of what was stored.
template <class Core, class Value, class Sums>
__device__ __forceinline__ void finish_chunk(float *memory, const Place &place, int chunk, Value value,
                                             const Sums &sums) {
    constexpr int columns = Core::Shape::columns, rows_at_once = Core::Shape::threads / columns;
    if (sums.memory.partials == nullptr) {
        finish_chunk<Core>(memory, place, chunk, value, NoSums{});
        return;
    }
    int column = place.first_column + threadIdx.x % columns, lane = threadIdx.x / columns;
    int first_row = place.first_row + chunk, count = min(CHUNK_ROWS, place.rows - first_row);
    if (count <= 0) {
        return; // the whole block
    }
    float2 own = make_float2(0.0f, 0.0f);
    if (column < place.columns) {
        typename Sums::Column of_column(sums, column);
        for (int row = lane; row < count; row += rows_at_once) {
            float product = memory[row * Core::tile_stride + threadIdx.x % columns];
            of_column.add(first_row + row, value(first_row + row, column, product));
        }
        own = of_column.result();
    }
    __syncthreads(); // the chunk was read
    float2 *of_lanes = reinterpret_cast<float2 *>(memory);
    of_lanes[threadIdx.x] = own;
    __syncthreads();
    if (lane == 0 && column < place.columns) {
        int rows = (count + rows_at_once - 1) / rows_at_once;
        for (int other = 1; other < rows_at_once; other++) {
            int of_other = (count - other + rows_at_once - 1) / rows_at_once;
            own = Sums::join(own, rows, of_lanes[other * columns + threadIdx.x], of_other);
            rows += of_other;
        }
        float *to = sums.memory.chunk(first_row / CHUNK_ROWS, place.columns);
        to[column] = own.x;
        to[place.columns + column] = own.y;
    }
}

// After the tile's chunks: the last block of these columns merges them.
template <class Core> __device__ __forceinline__ void finish_sums(float *, const Place &, const NoSums &) {}

template <class Core, class Sums>
__device__ __forceinline__ void finish_sums(float *memory, const Place &place, const Sums &sums) {
    constexpr int columns = Core::Shape::columns, lanes = Core::Shape::threads / columns;
    if (sums.memory.partials == nullptr) {
        return;
    }
    __syncthreads(); // the last chunk's lanes were read
    int in_strip = threadIdx.x % columns;
    StripThread thread = {place.first_column / columns, (place.columns + columns - 1) / columns,
                          place.first_column + in_strip, in_strip, int(threadIdx.x / columns)};
    int chunks = (min(Core::Shape::rows, place.rows - place.first_row) + CHUNK_ROWS - 1) / CHUNK_ROWS;
    finish_columns<lanes, columns>(sums.memory, sums.merge, thread, place.rows, place.columns,
                                   place.first_row / CHUNK_ROWS, chunks, reinterpret_cast<Pair *>(memory));
}

// ---- the products -----------------------------------------------------------------------------------------------

// A matrix to write, lines as in Operand.
struct Output {
    float *__restrict__ values;
    int stride, split;
    long long jump;

    __device__ __forceinline__ float *line(int index) const {
        return values + size_t(index) * stride + (index >= split ? jump : 0);
    }
};

constexpr int NO_SPLIT = 0x7fffffff;

// The block's tile of out; `add(row, column)` is added to each value.
template <class Core, Order order_a, Order order_b, class NormA, class NormB, class Add, class Sums>
__device__ __forceinline__ void product(Output out, Operand<NormA> a, Operand<NormB> b, Place place, Add add,
                                        const Sums &sums) {
    auto value = [=](int row, int column, float product) {
        float sum = add(row, column, product);
        out.line(row)[column] = sum;
        return sum;
    };
    Core::template multiply<order_a, order_b>(tile_memory, a, b, place, [&](int chunk) {
        finish_chunk<Core>(tile_memory, place, chunk, value, sums);
    });
    finish_sums<Core>(tile_memory, place, sums);
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

// Whether a block whose rows begin there has anything to do: without rows one of each strip, for the columns' sums.
__device__ __forceinline__ bool has_rows(int first_row, int rows) { return first_row < rows || first_row == 0; }

template <class Core, class Norm, class Add>
__device__ __forceinline__ void forward(float *y, Operand<Norm> x, Operand<NoNorm> weight, const Statistics &statistics,
                                        int y_stride, int rows, int outputs, int inputs, Add add) {
    Place place = {rows, outputs, int(blockIdx.y) * Core::Shape::rows, int(blockIdx.x) * Core::Shape::columns, 0, inputs};
    if (has_rows(place.first_row, rows)) { // or the whole block leaves
        product<Core, INNER_LAST, INNER_LAST>({y, y_stride, NO_SPLIT, 0}, x, weight, place, add, statistics);
    }
}

// The launcher has these numbers and this rule too.
constexpr int LEAST_PART_ROWS = 128, ENOUGH_BLOCKS = 264, LARGE_TILE = 128;

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
    Output out;
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

template <class Core, class Norm, class Sums>
__device__ __forceinline__ void backward(float *d_x, int d_x_stride, const WeightGradient &d_weight,
                                         Operand<NoNorm> d_y, Operand<Norm> x, Operand<NoNorm> weight, int rows,
                                         int inputs, int outputs, int input_blocks, const Sums &sums) {
    constexpr int tile_rows = Core::Shape::rows, tile_columns = Core::Shape::columns;
    int tiles_across = (inputs + tile_columns - 1) / tile_columns, block = blockIdx.x;
    if (block < input_blocks) {
        Place place = {rows, inputs, block / tiles_across * tile_rows, block % tiles_across * tile_columns, 0, outputs};
        if (has_rows(place.first_row, rows)) { // or the whole block leaves
            product<Core, INNER_LAST, INNER_FIRST>({d_x, d_x_stride, NO_SPLIT, 0}, d_y, weight, place, Alone{}, sums);
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
    Output out = d_weight.out;
    if (parts.count > 1) {
        out = {d_weight.parts + size_t(part) * outputs * inputs, inputs, NO_SPLIT, 0};
    }
    product<Core, INNER_FIRST, INNER_FIRST>(out, d_y, x, place, Alone{}, NoSums{});
    if (parts.count > 1) {
        __syncthreads(); // the tile was read
        int *flag = reinterpret_cast<int *>(tile_memory);
        if (last_to_come(&d_weight.tickets[tile], 1, parts.count, threadIdx.x == 0, flag)) {
            add_parts<Core>(d_weight, place, parts.count);
        }
    }
}

// ---- kernels ----------------------------------------------------------------------------------------------------

#define LINEAR_KERNEL(name, Core)                                                                                         extern "C" __global__ void __launch_bounds__(Core::Shape::threads, Core::norm_blocks) name

#define STATISTICS_PARAMETERS                                                                                             float *__restrict__ partials, double *__restrict__ groups, int *__restrict__ tickets, float *__restrict__ y_mean,         float *__restrict__ y_rstd, float *__restrict__ running_mean, float *__restrict__ running_var
#define STATISTICS Statistics{{partials, groups, tickets}, {y_mean, y_rstd, running_mean, running_var}}
#define NORM_PARAMETERS                                                                                                   const float *__restrict__ mean, const float *__restrict__ rstd, const float *__restrict__ norm_weight,                    const float *__restrict__ norm_bias
#define NORM NormArrays{mean, rstd, norm_weight, norm_bias}
#define GATHER_PARAMETERS                                                                                                 const float *__restrict__ projected, const int *__restrict__ subject, const int *__restrict__ object

#define LINEAR_KERNELS(suffix, Core)                                                                                      LINEAR_KERNEL(linear_forward_##suffix, Core)                                                                          (float *__restrict__ y, const float *__restrict__ x, const float *__restrict__ weight, STATISTICS_PARAMETERS,          int y_stride, int x_stride, int weight_stride, int weight_split, long long weight_jump,                               const int *__restrict__ row_count, int outputs, int inputs) {                                                            forward<Core>(y, operand(x, x_stride, NoNorm{}), {weight, weight_stride, weight_split, weight_jump, {}},                            STATISTICS, y_stride, *row_count, outputs, inputs, Alone{});                                        }                                                                                                                     LINEAR_KERNEL(linear_forward_norm_##suffix, Core)                                                                     (float *__restrict__ y, const float *__restrict__ x, NORM_PARAMETERS, const float *__restrict__ weight,                STATISTICS_PARAMETERS, int y_stride, int x_stride, int weight_stride, const int *__restrict__ row_count,              int outputs, int inputs) {                                                                                               forward<Core>(y, operand(x, x_stride, NORM), operand(weight, weight_stride, NoNorm{}), STATISTICS, y_stride,                        *row_count, outputs, inputs, Alone{});                                                              }                                                                                                                     LINEAR_KERNEL(linear_forward_gather_##suffix, Core)                                                                   (float *__restrict__ y, const float *__restrict__ x, const float *__restrict__ weight, GATHER_PARAMETERS,              STATISTICS_PARAMETERS, int y_stride, int x_stride, int weight_stride, const int *__restrict__ row_count,              int outputs, int inputs) {                                                                                               forward<Core>(y, operand(x, x_stride, NoNorm{}), operand(weight, weight_stride, NoNorm{}), STATISTICS,                              y_stride, *row_count, outputs, inputs, Gathered{projected, subject, object, outputs});              }                                                                                                                     LINEAR_KERNEL(linear_forward_gather_norm_##suffix, Core)                                                              (float *__restrict__ y, const float *__restrict__ x, NORM_PARAMETERS, const float *__restrict__ weight,                GATHER_PARAMETERS, STATISTICS_PARAMETERS, int y_stride, int x_stride, int weight_stride,                              const int *__restrict__ row_count, int outputs, int inputs) {                                                            forward<Core>(y, operand(x, x_stride, NORM), operand(weight, weight_stride, NoNorm{}), STATISTICS, y_stride,                        *row_count, outputs, inputs, Gathered{projected, subject, object, outputs});                        }                                                                                                                     LINEAR_KERNEL(linear_backward_##suffix, Core)                                                                         (float *__restrict__ d_x, float *__restrict__ d_weight, float *__restrict__ parts, int *__restrict__ part_tickets,     const float *__restrict__ d_y, const float *__restrict__ x, const float *__restrict__ weight, int d_x_stride,         int d_weight_stride, int d_weight_split, long long d_weight_jump, int d_y_stride, int x_stride,                       int weight_stride, int weight_split, long long weight_jump, const int *__restrict__ row_count, int inputs,            int outputs, int most_parts, int most_large_parts, int input_blocks) {                                                   backward<Core>(d_x, d_x_stride,                                                                                                      {{d_weight, d_weight_stride, d_weight_split, d_weight_jump}, parts, part_tickets, most_parts,                          most_large_parts},                                                                                                   operand(d_y, d_y_stride, NoNorm{}), operand(x, x_stride, NoNorm{}),                                                   {weight, weight_stride, weight_split, weight_jump, {}}, *row_count, inputs, outputs,                                  input_blocks, NoSums{});                                                                           }                                                                                                                     LINEAR_KERNEL(linear_backward_norm_##suffix, Core)                                                                    (float *__restrict__ d_x, float *__restrict__ d_weight, float *__restrict__ parts, int *__restrict__ part_tickets,     const float *__restrict__ d_y, const float *__restrict__ z, NORM_PARAMETERS, const float *__restrict__ weight,        float *__restrict__ partials, double *__restrict__ groups, int *__restrict__ tickets,                                 float *__restrict__ d_norm_weight, float *__restrict__ d_norm_bias, float *__restrict__ terms,                        int batch_statistics, int d_x_stride, int d_weight_stride, int d_y_stride, int z_stride, int weight_stride,           const int *__restrict__ row_count, int inputs, int outputs, int most_parts, int most_large_parts,                     int input_blocks) {                                                                                                      backward<Core>(d_x, d_x_stride,                                                                                                      {{d_weight, d_weight_stride, NO_SPLIT, 0}, parts, part_tickets, most_parts, most_large_parts},                        operand(d_y, d_y_stride, NoNorm{}), operand(z, z_stride, NORM),                                                       operand(weight, weight_stride, NoNorm{}), *row_count, inputs, outputs, input_blocks,                                  BackwardSums{{partials, groups, tickets},                                                                                          {d_norm_weight, d_norm_bias, terms, rstd, norm_weight, batch_statistics},                                             z,                                                                                                                    z_stride,                                                                                                             NORM});                                                                               }

#define EMULATED_LINEAR(suffix)                                                                                           EMULATED_KERNEL(linear_forward_##suffix), EMULATED_KERNEL(linear_forward_norm_##suffix),                                  EMULATED_KERNEL(linear_forward_gather_##suffix), EMULATED_KERNEL(linear_forward_gather_norm_##suffix),                EMULATED_KERNEL(linear_backward_##suffix), EMULATED_KERNEL(linear_backward_norm_##suffix)

// All kernels of a format on the tensor cores.
#define LINEAR_FORMAT(format, Format)                                                                                     LINEAR_KERNELS(format##_64, Tile64<Format>)                                                                           LINEAR_KERNELS(format##_128, Tile128<Format>)                                                                         EMULATED_KERNELS(linear_##format, EMULATED_LINEAR(format##_64), EMULATED_LINEAR(format##_128))
