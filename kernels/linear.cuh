// linear: matrix products of a linear layer y = x W^T without bias, and the operations fused with them. There is one
// file per number format of the operands: linear_fp32.cu, linear_bf16.cu, linear_bf16x3.cu. A kernel's name ends in its
// format and tile: _bf16_64.
//   linear_forward              y = x W^T, and the statistics of y
//   linear_forward_norm         y = relu(norm(x)) W^T, and the statistics of y; relu(norm(x)) is never stored
//   linear_forward_unit         y = (u / |u|) W^T by row, where u = relu(norm(x)), and the lengths |u|. The lengths are
//                               accumulated while u is loaded; the epilogue divides by them
//   linear_forward_gather       y[r] = x[r] W^T + P[subject(r), 0..O] + P[object(r), O..2 O], and the statistics of y
//   linear_forward_gather_norm  the same with relu(norm(x))
//   linear_forward_two          two independent products in one launch
//   linear_backward             d_x = d_y W and d_W = d_y^T x in one launch
//   linear_backward_norm        the same where x is relu(norm(z)), and the sums of this norm's backward
//   linear_backward_unit        backward of linear_forward_unit: d_y is already divided by |u|, and
//                               d_u = d_y W - along u by row. edge_hidden.cu computes `along`. Also the sums of the
//                               norm's backward
//   linear_backward_states      linear_backward_unit for nodes and linear_backward_norm for edges in one launch
// in   see linear_arguments.cuh. Matrices have row strides, so a block of columns of a wider matrix is a matrix too. R
//      lies in device memory (common.cuh)
// out  all overwritten. The last block of a strip of columns merges the column sums (column_sums.cuh). The last block
//      of a tile of d_W adds up its parts, each of which is the sum over some rows
// grid forward: x tiles of columns, y tiles of rows. linear_forward_two: the tiles of the first product row by row,
//      then those of the second. backward: the tiles of d_x row by row, and the tiles of d_W, part by part, in the order
//      of block_order.cuh. Blocks beyond R have no work
// sums products in the order of the inner dimension, column sums and parts in the order of rows: bit-reproducible.
//      The number of parts depends on R alone
// cost 2 R I O flops per product, three times as many for bf16x3; all formats but fp32 run on the tensor cores. A tile
//      of n x n reads 2 n values per n^2 multiply-adds. In fp32 that is 32 (n = 64) or 64 (n = 128) flops per byte from
//      L2, in bf16 twice as many
//
// There are two tile sizes. 64 x 64 is used while there are few tiles: [1056, 300] x [300, 512], at 16 triples, has 136
// of them for 132 multiprocessors, but only 36 of 128 x 128. 128 x 128, with half the traffic per product, is used once
// there are enough of its tiles. In the forward of bf16 the larger tile is 128 x 192, which normalises x for fewer tiles.
// Registers are bounded so that several blocks of the smaller tile, or two of the larger one in the backward of bf16, share
// a multiprocessor: the copies of one hide behind the products of another.
#pragma once

#include "block_order.cuh"
#include "linear_arguments.cuh"
#include "linear_epilogue.cuh"
#include "matmul_fma.cuh"
#include "matmul_tensor.cuh"

// Tiles of a format, with the least numbers of resident blocks. A stage holds 64 bytes of each row: 32 inner steps
// between two barriers in bf16, 16 in bf16x3. Four stages fit into shared memory. In the larger tile of bf16's forward
// a warp computes 64 x 48 values: it reads fewer fragments per product than for 64 x 32. Three stages of it fit where
// a block has 99 KiB at most. The backward has too few blocks at 16 triples for so wide tiles, and the two parts of each
// operand in bf16x3 leave no registers for that.
template <class Format> struct Tiles;
template <> struct Tiles<Bf16> {
    using Small = TensorCore<Shape<64, 64, 32, 4, 2, 2, 1>, Bf16, 4>;
    using LargeForward = TensorCore<Shape<LARGE_TILE, WIDE_TILE, 32, 3, 2, 4, 2>, Bf16, 1>;
    using LargeBackward = TensorCore<Shape<LARGE_TILE, LARGE_TILE, 32, 4, 2, 4, 1>, Bf16, 2>;
};
template <> struct Tiles<Bf16x3> {
    using Small = TensorCore<Shape<64, 64, 16, 4, 2, 2, 1>, Bf16x3, 3>;
    using LargeForward = TensorCore<Shape<LARGE_TILE, LARGE_TILE, 16, 4, 2, 4, 1>, Bf16x3, 1>;
    using LargeBackward = LargeForward;
};

template <class Core> using ValueOf = typename Core::Value;

__shared__ __align__(16) float small_tile_memory[SMALL_TILE_BYTES / sizeof(float)];

// Shared memory of the block.
template <class Core> __device__ __forceinline__ float *tile_memory() {
    if constexpr (Core::Shape::rows == LARGE_TILE) {
        DYNAMIC_SHARED(float, large_tile_memory);
        return large_tile_memory;
    } else {
        return small_tile_memory;
    }
}

// ---- operands ---------------------------------------------------------------------------------------------------

// Whether a layer's weight and its gradient are one matrix each, or may be two parts of a wider matrix. With one part
// the compiler removes the split.
enum class Parts { ONE, TWO };

template <class T, class Norm>
__device__ __forceinline__ Operand<T, Norm> operand(const MatrixArguments<T> &of, const Norm &norm) {
    return {of.values, of.stride, NO_SPLIT, 0, norm};
}

template <Parts parts, class T>
__device__ __forceinline__ Operand<T, NoNorm> weight_operand(const WeightArguments<T> &of) {
    return {of.values, of.stride, parts == Parts::ONE ? NO_SPLIT : of.split, parts == Parts::ONE ? 0 : of.jump, {}};
}

template <class T> __device__ __forceinline__ Output<T> output(const MatrixMutArguments<T> &of) {
    return {of.values, of.stride, NO_SPLIT, 0};
}

template <Parts parts> __device__ __forceinline__ Output<float> weight_output(const WeightGradientArguments &of) {
    return {of.values, of.stride, parts == Parts::ONE ? NO_SPLIT : of.split, parts == Parts::ONE ? 0 : of.jump};
}

template <class T>
__device__ __forceinline__ BackwardSums<T> backward_sums(const NormGradientArguments &d_norm, const NormArguments &norm,
                                                         const MatrixArguments<T> &z) {
    return {d_norm.memory(), d_norm.merge(norm), z.values, z.stride, norm.rows(), d_norm.mean};
}

__device__ __forceinline__ Statistics statistics(const StatisticsArguments &of) { return {of.memory(), of.merge()}; }

// ---- products ---------------------------------------------------------------------------------------------------

// Computes the block's tile of the matrix out(). out() is called after the tile is complete: earlier, the address would
// occupy registers during the product. `add` maps a product to the stored value.
template <class Core, Order order_a, Order order_b, class Out, class A, class B, class Lengths, class Add, class Sums>
__device__ __forceinline__ void product(const Out &out, const A &a, const B &b, const Place &place,
                                        const Lengths &lengths, const Add &add, const Sums &sums) {
    float *memory = tile_memory<Core>();
    if (place.rows > 0) {
        add.begin(place.first_row, min(Core::Shape::rows, place.rows - place.first_row));
        Core::template multiply<order_a, order_b>(memory, a, b, place, lengths, [&](int chunk) {
            finish_chunk<Core>(memory, out(), place, chunk, add, sums);
        });
    }
    finish_sums<Core>(memory, place, sums);
}

// Whether a block whose tile begins at this row has work. Without rows, one block of each strip still has work: the
// sums.
__device__ __forceinline__ bool has_rows(int first_row, int rows) { return first_row < rows || first_row == 0; }

// Tile of y for a block in a grid of columns by rows. The kernel begins here.
template <class Core> __device__ __forceinline__ Place forward_place(const ForwardArguments<ValueOf<Core>> &of) {
    int first_row = int(blockIdx.y) * Core::Shape::rows, first_column = int(blockIdx.x) * Core::Shape::columns;
    int rows = load_early(of.row_count);
    begin_kernel();
    return {rows, of.y.columns, first_row, first_column, 0, of.x.columns};
}

template <class Core, Parts parts, class Norm, class Add>
__device__ __forceinline__ void forward(const ForwardArguments<ValueOf<Core>> &of, const Norm &norm, const Add &add,
                                        const Statistics &sums) {
    Place place = forward_place<Core>(of);
    if (has_rows(place.first_row, place.rows)) { // otherwise the whole block returns
        product<Core, INNER_LAST, INNER_LAST>([&] { return output(of.y); }, operand(of.x, norm),
                                              weight_operand<parts>(of.weight), place, NoLengths{}, add, sums);
    }
}

// The launcher has the same numbers.
constexpr int LEAST_PART_ROWS = 128, ENOUGH_BLOCKS = 2 * MULTIPROCESSORS, LARGE_BACKWARD = 20, MOST_LARGE_PARTS = 4;

// Division of the sum over rows for a weight's gradient: `count` parts, at least one, of `rows_each` rows.
struct RowParts {
    int count, rows_each;
};

__device__ __forceinline__ int large_tiles(int rows, int columns) {
    return (rows + LARGE_TILE - 1) / LARGE_TILE * ((columns + LARGE_TILE - 1) / LARGE_TILE);
}

// If d_x has LARGE_BACKWARD larger tiles, and the format has them, the parts' tiles fill the GPU together with those. If
// d_x has few, each of them has a multiprocessor to itself (block_order.cuh), and the parts' tiles share the others.
// There are MOST_LARGE_PARTS at most, because one block adds up the parts of a tile. Otherwise there are `most_parts`, or
// fewer so that each part has enough rows. The result depends on the number of rows alone, not on the tile that runs,
// which depends on the grid's bound. The bound therefore changes no bits.
__device__ __forceinline__ RowParts row_parts(int rows, int inputs, int outputs, int most_parts, bool has_large) {
    int most = min(most_parts, (rows + LEAST_PART_ROWS - 1) / LEAST_PART_ROWS);
    int of_input = large_tiles(rows, inputs);
    if (has_large && of_input >= LARGE_BACKWARD) {
        int taken = 4 * of_input <= ENOUGH_BLOCKS ? 2 * of_input : of_input % ENOUGH_BLOCKS;
        int left = ENOUGH_BLOCKS - taken;
        left += left < ENOUGH_BLOCKS / 2 ? ENOUGH_BLOCKS : 0;
        most = min(max(left / large_tiles(outputs, inputs), 1), MOST_LARGE_PARTS);
    }
    int each = max((rows + most - 1) / max(most, 1), 1);
    return {max((rows + each - 1) / each, 1), each};
}

// Four adjacent columns that other blocks of this launch wrote; 0 beyond the end of the row. `whole`: one access reads
// them.
__device__ __forceinline__ Four load_written(const float *row, int column, int columns, bool whole) {
    const float *from = row + column;
    if (whole) {
        return PackedFour<float>{__ldcg(reinterpret_cast<const float4 *>(from))}.widen();
    }
    Four all;
#pragma unroll
    for (int i = 0; i < COLUMNS_EACH; i++) {
        all[i] = column + i < columns ? __ldcg(from + i) : 0.0f;
    }
    return all;
}

// Number of parts of a row that are loaded before the first of them is added: their latencies overlap.
constexpr int PARTS_AT_ONCE = 4;

// Adds up the parts of a tile in order, four columns per thread and `rows_at_once` rows together. `Shape` has the sides of the
// tile and the number of threads. Behind the last row it is loaded again, instead of a branch. `whole`: one access reads or
// writes the four columns.
template <class Shape, int rows_at_once>
__device__ __forceinline__ void add_parts(const Output<float> &out, const float *parts, int count, const Place &place,
                                          bool whole) {
    constexpr int across = Shape::columns / COLUMNS_EACH, stride = Shape::threads / across;
    int column = place.first_column + int(threadIdx.x) % across * COLUMNS_EACH;
    if (column >= place.columns) {
        return;
    }
    size_t part_stride = size_t(place.rows) * place.columns;
    int end = min(place.first_row + Shape::rows, place.rows);
    for (int row = place.first_row + threadIdx.x / across; row < end; row += rows_at_once * stride) {
        Four sums[rows_at_once];
        for (int first = 0; first < count; first += PARTS_AT_ONCE) {
            Four loaded[rows_at_once][PARTS_AT_ONCE];
#pragma unroll
            for (int r = 0; r < rows_at_once; r++) {
                const float *from = parts + size_t(min(row + r * stride, end - 1)) * place.columns;
#pragma unroll
                for (int k = 0; k < PARTS_AT_ONCE; k++) {
                    if (first + k < count) {
                        loaded[r][k] = load_written(from + (first + k) * part_stride, column, place.columns, whole);
                    }
                }
            }
#pragma unroll
            for (int k = 0; k < PARTS_AT_ONCE; k++) {
#pragma unroll
                for (int r = 0; r < rows_at_once; r++) {
                    if (first + k == 0) {
                        sums[r] = loaded[r][k]; // a sum with 0 would turn -0 into 0
                    } else if (first + k < count) {
                        add_four(sums[r], loaded[r][k]);
                    }
                }
            }
        }
#pragma unroll
        for (int r = 0; r < rows_at_once; r++) {
            if (row + r * stride < end) {
                store_four(out.line(row + r * stride), column, place.columns, sums[r], whole);
            }
        }
    }
}

template <class Core>
__device__ __forceinline__ void add_parts(const Output<float> &out, const float *parts, int count, const Place &place) {
    // Each row at once takes 20 registers.
    constexpr int rows_at_once = Core::Shape::threads * Core::blocks <= 512 ? 4 : 2;
    if (place.columns % COLUMNS_EACH == 0 && out.is_aligned_by_four()) { // so are the parts
        add_parts<typename Core::Shape, rows_at_once>(out, parts, count, place, true);
    } else {
        add_parts<typename Core::Shape, 2>(out, parts, count, place, false);
    }
}

// Products of a layer's backward, and their tiles.
enum BackwardProduct { D_X, D_WEIGHT, BACKWARD_PRODUCTS };

struct BackwardTiles {
    int rows, inputs, outputs;
    int across, of_input, of_weight; // tiles in a row of tiles, of d_x, and of each part of d_W
    RowParts parts;

    __device__ __forceinline__ BlockGroup group(BackwardProduct of, int first_product) const {
        int count = of == D_X ? of_input : of_weight * parts.count, steps = of == D_X ? outputs : parts.rows_each;
        return {first_product + of, count, steps};
    }
};

// Work of this block in a launch for one layer.
__device__ __forceinline__ BlockWork backward_work(const BackwardTiles &of) {
    BlockGroup groups[] = {of.group(D_X, 0), of.group(D_WEIGHT, 0)};
    return block_work(blockIdx.x, groups);
}

// Work of this block in a launch for two layers. Products of the second one follow those of the first.
__device__ __forceinline__ BlockWork backward_work(const BackwardTiles &first, const BackwardTiles &second) {
    BlockGroup groups[] = {first.group(D_X, 0), first.group(D_WEIGHT, 0), second.group(D_X, BACKWARD_PRODUCTS),
                           second.group(D_WEIGHT, BACKWARD_PRODUCTS)};
    return block_work(blockIdx.x, groups);
}

template <class Core>
__device__ __forceinline__ BackwardTiles backward_tiles(const BackwardArguments<ValueOf<Core>> &of) {
    constexpr int tile_rows = Core::Shape::rows, tile_columns = Core::Shape::columns;
    int rows = load_early(of.row_count), inputs = of.d_x.columns, outputs = of.d_y.columns;
    int across = (inputs + tile_columns - 1) / tile_columns;
    // Without rows, one block of each strip still has work: the sums.
    int down = max((rows + tile_rows - 1) / tile_rows, 1);
    RowParts cut = row_parts(rows, inputs, outputs, of.d_weight.most_parts, of.d_weight.has_large);
    return {rows, inputs, outputs, across, down * across, (outputs + tile_rows - 1) / tile_rows * across, cut};
}

// A block of one of a layer's gradients.
template <class Core, Parts parts, class NormX, class Add, class Sums>
__device__ __forceinline__ void backward(const BackwardArguments<ValueOf<Core>> &of, const BackwardTiles &tiles, bool is_input,
                                         int block, const NormX &norm_x, const Add &add, const Sums &sums) {
    constexpr int tile_rows = Core::Shape::rows, tile_columns = Core::Shape::columns;
    int rows = tiles.rows, inputs = tiles.inputs, outputs = tiles.outputs, across = tiles.across;
    RowParts cut = tiles.parts;
    if (is_input) {
        Place place = {rows, inputs, block / across * tile_rows, block % across * tile_columns, 0, outputs};
        product<Core, INNER_LAST, INNER_FIRST>([&] { return output(of.d_x); }, operand(of.d_y, NoNorm{}),
                                               weight_operand<parts>(of.weight), place, NoLengths{}, add, sums);
        return;
    }
    int part = block / tiles.of_weight, tile = block % tiles.of_weight;
    int first = part * cut.rows_each, first_row = tile / across * tile_rows;
    Place place = {outputs, inputs, first_row, tile % across * tile_columns, first, min(first + cut.rows_each, rows)};
    auto out = [&]() -> Output<float> {
        if (cut.count > 1) {
            return {of.d_weight.parts + size_t(part) * outputs * inputs, inputs, NO_SPLIT, 0};
        }
        return weight_output<parts>(of.d_weight);
    };
    product<Core, INNER_FIRST, INNER_FIRST>(out, operand(of.d_y, NoNorm{}), operand(of.x, norm_x), place, NoLengths{},
                                            Alone{}, NoSums{});
    if (cut.count > 1) {
        __syncthreads(); // the tile in shared memory has been read
        int *flag = reinterpret_cast<int *>(tile_memory<Core>());
        if (last_to_come(&of.d_weight.tickets[tile], 1, cut.count, threadIdx.x == 0, flag)) {
            add_parts<Core>(weight_output<parts>(of.d_weight), of.d_weight.parts, cut.count, place);
        }
    }
}

// Backward of one layer in a launch of its own.
template <class Core, Parts parts, class NormX, class Add, class Sums>
__device__ __forceinline__ void backward(const BackwardArguments<ValueOf<Core>> &of, const NormX &norm_x, const Add &add,
                                         const Sums &sums) {
    BackwardTiles tiles = backward_tiles<Core>(of);
    BlockWork work = backward_work(tiles);
    begin_kernel();
    if (work.product >= 0) { // otherwise the whole block returns
        backward<Core, parts>(of, tiles, work.product == D_X, work.index, norm_x, add, sums);
    }
}

// ---- kernels ----------------------------------------------------------------------------------------------------

template <class Core> __device__ __forceinline__ void linear_forward(const LinearForward<ValueOf<Core>> &args) {
    forward<Core, Parts::TWO>(args.product, NoNorm{}, Alone{}, statistics(args.statistics));
}

template <class Core>
__device__ __forceinline__ void linear_forward_norm(const LinearForwardNorm<ValueOf<Core>> &args) {
    forward<Core, Parts::ONE>(args.product, args.norm.rows(), Alone{}, statistics(args.statistics));
}

template <class Core>
__device__ __forceinline__ void linear_forward_unit(const LinearForwardUnit<ValueOf<Core>> &args) {
    const ForwardArguments<ValueOf<Core>> &of = args.product;
    Place place = forward_place<Core>(of);
    if (place.first_row < place.rows) { // otherwise the whole block returns
        OverLength over = {tile_memory<Core>() + Core::first_length, place.first_row};
        product<Core, INNER_LAST, INNER_LAST>([&] { return output(of.y); }, operand(of.x, args.norm.rows()),
                                              weight_operand<Parts::TWO>(of.weight), place,
                                              RowLengths<typename Core::Shape>{args.lengths}, over, NoSums{});
    }
}

template <class Core>
__device__ __forceinline__ Gathered<ValueOf<Core>> gathered(const GatherArguments<ValueOf<Core>> &of, int width) {
    return {of.projected.values, of.projected.stride, of.subject, of.object, width};
}

template <class Core>
__device__ __forceinline__ void linear_forward_gather(const LinearForwardGather<ValueOf<Core>> &args) {
    forward<Core, Parts::ONE>(args.product, NoNorm{}, gathered<Core>(args.gather, args.product.y.columns),
                              statistics(args.statistics));
}

template <class Core>
__device__ __forceinline__ void linear_forward_gather_norm(const LinearForwardGatherNorm<ValueOf<Core>> &args) {
    forward<Core, Parts::ONE>(args.product, args.norm.rows(), gathered<Core>(args.gather, args.product.y.columns),
                              statistics(args.statistics));
}

template <class Core> __device__ __forceinline__ void linear_forward_two(const LinearForwardTwo<ValueOf<Core>> &args) {
    bool is_first = int(blockIdx.x) < args.first_blocks;
    int block = int(blockIdx.x) - (is_first ? 0 : args.first_blocks);
    ForwardArguments<ValueOf<Core>> first = args.first, second = args.second;
    ForwardArguments<ValueOf<Core>> of = is_first ? first : second;
    int tiles_across = (of.y.columns + Core::Shape::columns - 1) / Core::Shape::columns;
    int first_row = block / tiles_across * Core::Shape::rows, rows = load_early(of.row_count);
    begin_kernel();
    if (first_row < rows) { // otherwise the whole block returns
        Place place = {rows, of.y.columns, first_row, block % tiles_across * Core::Shape::columns, 0, first.x.columns};
        // Both products have the same strides; reading them from one product saves the registers of a selection.
        of.x.stride = first.x.stride;
        of.weight.stride = first.weight.stride;
        product<Core, INNER_LAST, INNER_LAST>([&] { return output(of.y); }, operand(of.x, NoNorm{}),
                                              weight_operand<Parts::TWO>(of.weight), place, NoLengths{}, Alone{},
                                              NoSums{});
    }
}

template <class Core> __device__ __forceinline__ void linear_backward(const LinearBackward<ValueOf<Core>> &args) {
    backward<Core, Parts::TWO>(args.product, NoNorm{}, Alone{}, NoSums{});
}

template <class Core>
__device__ __forceinline__ void linear_backward_norm(const LinearBackwardNorm<ValueOf<Core>> &args) {
    backward<Core, Parts::ONE>(args.product, args.norm.rows(), Alone{},
                               backward_sums(args.d_norm, args.norm, args.product.x));
}

template <class Core>
__device__ __forceinline__ void linear_backward_unit(const LinearBackwardUnit<ValueOf<Core>> &args) {
    LessAlong<ValueOf<Core>> less = {args.along};
    backward<Core, Parts::TWO>(args.product, args.norm.rows(), less,
                               backward_sums(args.d_norm, args.norm, args.product.x));
}

template <class Core>
__device__ __forceinline__ void linear_backward_states(const LinearBackwardStates<ValueOf<Core>> &args) {
    const LinearBackwardUnit<ValueOf<Core>> &nodes = args.nodes;
    const LinearBackwardNorm<ValueOf<Core>> &edges = args.edges;
    BackwardTiles of_nodes = backward_tiles<Core>(nodes.product), of_edges = backward_tiles<Core>(edges.product);
    BlockWork work = backward_work(of_nodes, of_edges);
    bool is_input = work.product % BACKWARD_PRODUCTS == D_X;
    begin_kernel();
    if (work.product < 0) {
        return; // the whole block
    }
    if (work.product < BACKWARD_PRODUCTS) {
        LessAlong<ValueOf<Core>> less = {nodes.along};
        backward<Core, Parts::TWO>(nodes.product, of_nodes, is_input, work.index, nodes.norm.rows(), less,
                                   backward_sums(nodes.d_norm, nodes.norm, nodes.product.x));
    } else {
        backward<Core, Parts::ONE>(edges.product, of_edges, is_input, work.index, edges.norm.rows(), Alone{}, NoSums{});
    }
}

// ---- names ------------------------------------------------------------------------------------------------------

// Defines the kernel <name>_<suffix> from the function template `name`, which calls begin_kernel, and a core.
#define LINEAR_KERNEL(name, Args, suffix, Core) LINEAR_KERNEL_OF_BLOCKS(name, Args, suffix, Core, Core::blocks)
#define LINEAR_KERNEL_OF_BLOCKS(name, Args, suffix, Core, least_blocks)                                                \
    extern "C" __global__ void __launch_bounds__(Core::Shape::threads, least_blocks)                                   \
        name##_##suffix(const __grid_constant__ Args<Core::Value> args) {                                              \
        name<Core>(args);                                                                                              \
    }
#define EMULATED_LINEAR_KERNEL(name, suffix, Core) EMULATED_KERNEL(name##_##suffix, Core::Shape::threads)

#define LINEAR_FORWARD_KERNELS(suffix, Core)                                                                           \
    LINEAR_KERNEL(linear_forward, LinearForward, suffix, Core)                                                         \
    LINEAR_KERNEL(linear_forward_norm, LinearForwardNorm, suffix, Core)                                                \
    LINEAR_KERNEL(linear_forward_unit, LinearForwardUnit, suffix, Core)                                                \
    LINEAR_KERNEL(linear_forward_gather, LinearForwardGather, suffix, Core)                                            \
    LINEAR_KERNEL(linear_forward_gather_norm, LinearForwardGatherNorm, suffix, Core)                                   \
    LINEAR_KERNEL(linear_forward_two, LinearForwardTwo, suffix, Core)
#define EMULATED_LINEAR_FORWARD_KERNELS(suffix, Core)                                                                  \
    EMULATED_LINEAR_KERNEL(linear_forward, suffix, Core), EMULATED_LINEAR_KERNEL(linear_forward_norm, suffix, Core),   \
        EMULATED_LINEAR_KERNEL(linear_forward_unit, suffix, Core),                                                     \
        EMULATED_LINEAR_KERNEL(linear_forward_gather, suffix, Core),                                                   \
        EMULATED_LINEAR_KERNEL(linear_forward_gather_norm, suffix, Core),                                              \
        EMULATED_LINEAR_KERNEL(linear_forward_two, suffix, Core)

#define LINEAR_BACKWARD_KERNELS(suffix, Core)                                                                          \
    LINEAR_KERNEL(linear_backward, LinearBackward, suffix, Core)                                                       \
    LINEAR_KERNEL(linear_backward_norm, LinearBackwardNorm, suffix, Core)                                              \
    LINEAR_KERNEL(linear_backward_unit, LinearBackwardUnit, suffix, Core)                                              \
    LINEAR_KERNEL_OF_BLOCKS(linear_backward_states, LinearBackwardStates, suffix, Core, Core::states_blocks)
#define EMULATED_LINEAR_BACKWARD_KERNELS(suffix, Core)                                                                 \
    EMULATED_LINEAR_KERNEL(linear_backward, suffix, Core), EMULATED_LINEAR_KERNEL(linear_backward_norm, suffix, Core), \
        EMULATED_LINEAR_KERNEL(linear_backward_unit, suffix, Core),                                                    \
        EMULATED_LINEAR_KERNEL(linear_backward_states, suffix, Core)

// All kernels of a tensor-core format, for the file linear_<format>.cu.
#define LINEAR_FORMAT(format, Format)                                                                                  \
    LINEAR_FORWARD_KERNELS(format##_64, Tiles<Format>::Small)                                                          \
    LINEAR_FORWARD_KERNELS(format##_128, Tiles<Format>::LargeForward)                                                  \
    LINEAR_BACKWARD_KERNELS(format##_64, Tiles<Format>::Small)                                                         \
    LINEAR_BACKWARD_KERNELS(format##_128, Tiles<Format>::LargeBackward)                                                \
    EMULATED_KERNELS(linear_##format, EMULATED_LINEAR_FORWARD_KERNELS(format##_64, Tiles<Format>::Small),              \
                     EMULATED_LINEAR_FORWARD_KERNELS(format##_128, Tiles<Format>::LargeForward),                       \
                     EMULATED_LINEAR_BACKWARD_KERNELS(format##_64, Tiles<Format>::Small),                              \
                     EMULATED_LINEAR_BACKWARD_KERNELS(format##_128, Tiles<Format>::LargeBackward))
