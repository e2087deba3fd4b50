// linear: the products of a linear layer y = x W^T without bias, with what shares their reads and writes; a file for
// each number format of the operands: linear_fp32.cu, linear_tf32.cu, linear_bf16.cu, linear_bf16x3.cu. Names end in
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
//   linear_backward_states       linear_backward_unit of nodes, and in further blocks linear_backward_norm of edges, with
//                                the larger tile, or linear_backward_norm_through_norm, with the smaller one
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

#include "column_sums.cuh"
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

// ---- sums of a column over a chunk ------------------------------------------------------------------------------

// Nothing.
struct NoSums {
    ColumnMemory memory = {};
    __device__ __forceinline__ bool wanted() const { return false; }
    struct Column {
        __device__ __forceinline__ void begin(const NoSums &, int) {}
        __device__ __forceinline__ void add(int, float) {}
        __device__ __forceinline__ float2 result() const { return make_float2(0.0f, 0.0f); }
    };
    static __device__ __forceinline__ float2 join(float2 first, int, float2, int) { return first; }
};

// Mean and sum of squared deviations from it (M2), taken around the first value: free of cancellation.
struct Statistics {
    ColumnMemory memory;
    StatisticsMerge merge;
    __device__ __forceinline__ bool wanted() const { return memory.partials != nullptr; }
    struct Column {
        float around, sum, squares;
        int count;
        __device__ __forceinline__ void begin(const Statistics &, int) {}
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
template <class T> struct BackwardSums {
    ColumnMemory memory;
    BackwardMerge merge;
    const T *__restrict__ z;
    int stride;
    NormRows norm;
    __device__ __forceinline__ bool wanted() const { return memory.partials != nullptr; }
    struct Column {
        NormColumn norm;
        const T *z;
        int stride;
        float sum, product;
        __device__ __forceinline__ void begin(const BackwardSums &of, int column) {
            norm = of.norm.column(column);
            z = of.z + column;
            stride = of.stride;
        }
        __device__ __forceinline__ void add(int row, float value) {
            float at = widen(z[size_t(row) * stride]);
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

// What a thread does with a chunk of the tile, in shared memory: it takes `each` columns, as many as 4 bytes hold, of
// every rows_at_once-th row.
template <class Core, class T> struct ChunkThread {
    static constexpr int each = 4 / int(sizeof(T)), across = Core::Shape::columns / each;
    static constexpr int rows_at_once = Core::Shape::threads / across;
    int in_tile = int(threadIdx.x) % across * each, lane = int(threadIdx.x) / across;
};

// A matrix to write, lines as in Operand.
template <class T> struct Output {
    T *__restrict__ values;
    int stride, split;
    long long jump;

    __device__ __forceinline__ T *line(int index) const {
        return values + size_t(index) * stride + (index >= split ? jump : 0);
    }
};

constexpr int NO_SPLIT = 0x7fffffff;

// Of neighbouring columns, and what they are when they are read back. Lines of bf16 begin at multiples of 16 bytes.
__device__ __forceinline__ void store_columns(float *to, float (&values)[1], bool) { *to = values[0]; }
__device__ __forceinline__ void store_columns(bf16 *to, float (&values)[2], bool both) {
    unsigned pair = pack_bf16(values[0], values[1]);
    values[0] = low_bf16(pair);
    values[1] = high_bf16(pair);
    if (both) {
        *reinterpret_cast<unsigned *>(to) = pair;
    } else {
        to->bits = static_cast<unsigned short>(pair);
    }
}

// A chunk of the tile: what `add` makes of each product by its column and row is stored, and of what was stored the
// columns' two values are left for the merge.
template <class Core, class T, class Add, class Sums>
__device__ __forceinline__ void finish_chunk(float *memory, const Output<T> &out, const Place &place, int chunk,
                                             const Add &add, const Sums &sums) {
    using Thread = ChunkThread<Core, T>;
    constexpr int each = Thread::each, rows_at_once = Thread::rows_at_once;
    Thread thread;
    int column = place.first_column + thread.in_tile, first_row = place.first_row + chunk;
    int count = min(CHUNK_ROWS, place.rows - first_row);
    if (count <= 0) {
        return; // the whole block
    }
    float2 own[each] = {};
    if (column < place.columns) {
        typename Sums::Column of_column[each] = {};
        typename Add::Column add_column[each] = {};
#pragma unroll
        for (int i = 0; i < each; i++) {
            of_column[i].begin(sums, min(column + i, place.columns - 1));
            add_column[i].begin(add, min(column + i, place.columns - 1));
        }
        for (int row = thread.lane; row < count; row += rows_at_once) {
            float values[each];
#pragma unroll
            for (int i = 0; i < each; i++) {
                float product = memory[row * Core::tile_stride + thread.in_tile + i];
                values[i] = column + i < place.columns ? add_column[i].stored(first_row + row, product) : 0.0f;
            }
            store_columns(out.line(first_row + row) + column, values, column + each <= place.columns);
            if (sums.wanted()) {
#pragma unroll
                for (int i = 0; i < each; i++) {
                    of_column[i].add(first_row + row, values[i]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < each; i++) {
            own[i] = of_column[i].result();
        }
    }
    if (!sums.wanted()) {
        return; // the whole block
    }
    __syncthreads(); // the chunk was read
    float2 *of_lanes = reinterpret_cast<float2 *>(memory);
#pragma unroll
    for (int i = 0; i < each; i++) {
        of_lanes[thread.lane * Core::Shape::columns + thread.in_tile + i] = own[i];
    }
    __syncthreads();
    if (thread.lane > 0) {
        return;
    }
#pragma unroll
    for (int i = 0; i < each; i++) {
        if (column + i < place.columns) {
            float2 all = own[i];
            int rows = (count + rows_at_once - 1) / rows_at_once;
            for (int other = 1; other < rows_at_once; other++) {
                int of_other = max(count - other + rows_at_once - 1, 0) / rows_at_once;
                all = Sums::join(all, rows, of_lanes[other * Core::Shape::columns + thread.in_tile + i], of_other);
                rows += of_other;
            }
            float *to = sums.memory.chunk(first_row / CHUNK_ROWS, place.columns) + column + i;
            to[0] = all.x;
            to[place.columns] = all.y;
        }
    }
}

// After the tile's chunks: the last block of these columns merges them.
template <class Core> __device__ __forceinline__ void finish_sums(float *, const Place &, const NoSums &) {}

template <class Core, class Sums>
__device__ __forceinline__ void finish_sums(float *memory, const Place &place, const Sums &sums) {
    constexpr int columns = Core::Shape::columns, lanes = Core::Shape::threads / columns;
    if (!sums.wanted()) {
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

// The block's tile of out; `add` gives what is stored of a product.
template <class Core, Order order_a, Order order_b, class T, class A, class B, class Lengths, class Add, class Sums>
__device__ __forceinline__ void product(float *memory, const Output<T> &out, const A &a, const B &b, const Place &place,
                                        const Lengths &lengths, const Add &add, const Sums &sums) {
    if (place.rows > 0) {
        Core::template multiply<order_a, order_b>(memory, a, b, place, lengths, [&](int chunk) {
            finish_chunk<Core>(memory, out, place, chunk, add, sums);
        });
    }
    finish_sums<Core>(memory, place, sums);
}

// What is stored of the products of a column: these themselves,
struct Alone {
    struct Column {
        __device__ __forceinline__ void begin(const Alone &, int) {}
        __device__ __forceinline__ float stored(int, float product) const { return product; }
    };
};

// with what an edge gathers from its ends,
template <class T> struct Gathered {
    const T *__restrict__ projected;
    int stride;
    const int *__restrict__ subject, *__restrict__ object;
    int width;
    struct Column {
        Gathered of;
        int column;
        __device__ __forceinline__ void begin(const Gathered &gathered, int index) {
            of = gathered;
            column = index;
        }
        __device__ __forceinline__ float stored(int row, float product) const {
            const T *of_subject = of.projected + size_t(of.subject[row]) * of.stride;
            const T *of_object = of.projected + size_t(of.object[row]) * of.stride + of.width;
            return product + (widen(of_subject[column]) + widen(of_object[column]));
        }
    };
};

// over the length of a's row,
struct OverLength {
    const float *of_tile; // shared
    int first_row;
    struct Column {
        const float *of_tile;
        int first_row;
        __device__ __forceinline__ void begin(const OverLength &lengths, int) {
            of_tile = lengths.of_tile;
            first_row = lengths.first_row;
        }
        __device__ __forceinline__ float stored(int row, float product) const {
            return product / of_tile[row - first_row];
        }
    };
};

// or less the part along the row u = relu(norm(z)): u times `along`, by row; all where that is null.
template <class T> struct LessAlong {
    const T *__restrict__ z;
    int stride;
    NormRows norm;
    const float *__restrict__ along;
    struct Column {
        NormColumn norm;
        const T *z;
        int stride;
        const float *along;
        __device__ __forceinline__ void begin(const LessAlong &of, int column) {
            norm = of.norm.column(column);
            z = of.z + column;
            stride = of.stride;
            along = of.along;
        }
        __device__ __forceinline__ float stored(int row, float product) const {
            if (along == nullptr) {
                return product;
            }
            // As the product that made the length has read it.
            float u = rounded<T>(relu_norm(norm, widen(z[size_t(row) * stride])));
            return fmaf(-u, along[row], product);
        }
    };
};

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
        Output<Value> out = {y, y_stride, NO_SPLIT, 0};
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
        Output<Value> out = {y, y_stride, NO_SPLIT, 0};
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
        product<Core, INNER_LAST, INNER_LAST>(memory, of.y, of.x, of.weight, place, NoLengths{}, Alone{}, NoSums{});
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
            Output<Value> out = {d_x, d_x_stride, NO_SPLIT, 0};
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
    Output<float> out = d_weight.out;
    if (parts.count > 1) {
        out = {d_weight.parts + size_t(part) * outputs * inputs, inputs, NO_SPLIT, 0};
    }
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
        LessAlong<Core::Value> less = {z, z_stride, NORM, along};                                                      \
        backward<Core>(tile_memory<Core>(), blockIdx.x, d_x, d_x_stride,                                               \
                       WEIGHT_GRADIENT(d_weight_split, d_weight_jump),                                                 \
                       operand(d_y, d_y_stride, NoNorm{}), operand(z, z_stride, NORM),                                 \
                       {weight, weight_stride, weight_split, weight_jump, {}}, *row_count, inputs, outputs,            \
                       input_blocks, less, BACKWARD_SUMS(Core::Value));                                                \
    }

// The backward of both states that a layer reads: in the first `node_blocks` blocks as linear_backward_unit, in those
// behind them of the edges. OfEdges: what the edges' d_y is of the values e_d_y.
#define STATES_PARAMETERS(Value)                                                                                       \
    OUT(Value, d_x), WEIGHT_GRADIENT_PARAMETERS, IN(Value, d_y), IN(Value, z), NORM_PARAMETERS, IN(Value, weight),     \
        NORM_GRADIENT_PARAMETERS, IN(float, along), int d_x_stride, int d_weight_stride, int d_weight_split,           \
        long long d_weight_jump, int d_y_stride, int z_stride, int weight_stride, int weight_split,                    \
        long long weight_jump, BACKWARD_SIZES, int node_blocks, OUT(Value, d_e), OUT(float, e_d_weight),               \
        OUT(float, e_parts), OUT(int, e_part_tickets), IN(Value, e_d_y)
#define STATES_EDGE_PARAMETERS(Value)                                                                                  \
    IN(Value, e_z), IN(float, e_mean), IN(float, e_rstd), IN(float, e_norm_weight), IN(float, e_norm_bias),            \
        IN(Value, e_weight), int d_e_stride, int e_d_weight_stride, int e_d_y_stride, int e_z_stride,                  \
        int e_weight_stride, IN(int, e_row_count), int e_inputs, int e_outputs, int e_most_parts,                      \
        int e_most_large_parts, int e_input_blocks
#define STATES(Core, of_edges)                                                                                         \
    begin_kernel();                                                                                                    \
    if (int(blockIdx.x) < node_blocks) {                                                                               \
        LessAlong<Core::Value> less = {z, z_stride, NORM, along};                                                      \
        backward<Core>(tile_memory<Core>(), blockIdx.x, d_x, d_x_stride,                                               \
                       WEIGHT_GRADIENT(d_weight_split, d_weight_jump),                                                 \
                       operand(d_y, d_y_stride, NoNorm{}), operand(z, z_stride, NORM),                                 \
                       {weight, weight_stride, weight_split, weight_jump, {}}, *row_count, inputs, outputs,            \
                       input_blocks, less, BACKWARD_SUMS(Core::Value));                                                \
    } else {                                                                                                           \
        backward<Core>(tile_memory<Core>(), int(blockIdx.x) - node_blocks, d_e, d_e_stride,                            \
                       {{e_d_weight, e_d_weight_stride, NO_SPLIT, 0},                                                  \
                        e_parts,                                                                                       \
                        e_part_tickets,                                                                                \
                        e_most_parts,                                                                                  \
                        e_most_large_parts},                                                                           \
                       operand(e_d_y, e_d_y_stride, of_edges),                                                         \
                       operand(e_z, e_z_stride, NormRows{e_mean, e_rstd, e_norm_weight, e_norm_bias}),                 \
                       operand(e_weight, e_weight_stride, NoNorm{}), *e_row_count, e_inputs, e_outputs,                \
                       e_input_blocks, Alone{}, NoSums{});                                                             \
    }

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
    (STATES_PARAMETERS(Core::Value), NORM_BACKWARD_PARAMETERS(Core::Value), STATES_EDGE_PARAMETERS(Core::Value)) {     \
        STATES(Core, norm_backward({y_mean, y_rstd, y_weight, y_bias}, y_terms, e_outputs, y_z))                       \
    }

// With the larger tile only.
#define LINEAR_LARGE_KERNELS(suffix, Core)                                                                             \
    LINEAR_KERNEL(linear_backward_states_##suffix, Core)                                                               \
    (STATES_PARAMETERS(Core::Value), STATES_EDGE_PARAMETERS(Core::Value)) {                                            \
        STATES(Core, NoNorm{})                                                                                         \
    }

#define EMULATED_LINEAR(suffix)                                                                                        \
    EMULATED_KERNEL(linear_forward_##suffix), EMULATED_KERNEL(linear_forward_norm_##suffix),                           \
        EMULATED_KERNEL(linear_forward_gather_##suffix), EMULATED_KERNEL(linear_forward_gather_norm_##suffix),         \
        EMULATED_KERNEL(linear_forward_unit_##suffix), EMULATED_KERNEL(linear_forward_two_##suffix),                   \
        EMULATED_KERNEL(linear_backward_##suffix), EMULATED_KERNEL(linear_backward_norm_##suffix),                     \
        EMULATED_KERNEL(linear_backward_unit_##suffix), EMULATED_KERNEL(linear_backward_states_##suffix)
#define EMULATED_SMALL_LINEAR(suffix)                                                                                  \
    EMULATED_LINEAR(suffix), EMULATED_KERNEL(linear_backward_through_norm_##suffix),                                   \
        EMULATED_KERNEL(linear_backward_norm_through_norm_##suffix)

// All kernels of a format on the tensor cores.
#define LINEAR_FORMAT(format, Format)                                                                                  \
    LINEAR_KERNELS(format##_64, Tile64<Format>)                                                                        \
    LINEAR_SMALL_KERNELS(format##_64, Tile64<Format>)                                                                  \
    LINEAR_KERNELS(format##_128, Tile128<Format>)                                                                      \
    LINEAR_LARGE_KERNELS(format##_128, Tile128<Format>)                                                                \
    EMULATED_KERNELS(linear_##format, EMULATED_SMALL_LINEAR(format##_64), EMULATED_LINEAR(format##_128))
