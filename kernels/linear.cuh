// linear: matrix products of a linear layer y = x W^T without bias, and the operations fused with them. There is one
// file per number format of the operands: linear_fp32.cu, linear_bf16.cu, linear_bf16x3.cu, by products of blocks
// (linear_block.cuh); and for bf16 one per tile by products of warpgroups (linear_warpgroup.cuh). A kernel's name ends in
// its format and tile: _bf16_64.
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
#pragma once

#include "block_order.cuh"
#include "linear_arguments.cuh"
#include "weight_parts.cuh"

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

// ---- families of products ---------------------------------------------------------------------------------------
// The kernels are templates over a family of products: a struct with these members.
//   Value, Sides         type of the operands in memory; numbers of rows and columns of a tile
//   threads, blocks      of a block; least number of resident blocks, and `states_blocks` in linear_backward_states
//   memory               shared memory of the block
//   product              computes the block's tile of the matrix out(). out() is called after the tile is complete: earlier,
//                        the address would occupy registers during the product. `add` maps a product to the stored value
//   lengths_of, lengths  accumulator of the lengths of a's rows; the tile's lengths, in shared memory
//   selects_arguments    whether linear_forward_two selects the arguments of its product, or branches
//   row_parts            division of d_W's sum over rows
//   transposes_weights   whether d_W is computed as its transpose [I, O]
//   weight_product       computes the block's tile of d_W, or of one of its parts, and stores it to out()
//   add_weight_parts     adds up the parts of such a tile

template <class Products> using ValueOf = typename Products::Value;

// ---- forward ----------------------------------------------------------------------------------------------------

// Whether a block whose tile begins at this row has work. Without rows, one block of each strip still has work: the
// sums.
__device__ __forceinline__ bool has_rows(int first_row, int rows) { return first_row < rows || first_row == 0; }

// Tile of y for a block in a grid of columns by rows. The kernel begins here.
template <class Products>
__device__ __forceinline__ Place forward_place(const ForwardArguments<ValueOf<Products>> &of) {
    int first_row = int(blockIdx.y) * Products::Sides::rows, first_column = int(blockIdx.x) * Products::Sides::columns;
    int rows = load_early(of.row_count);
    begin_kernel();
    return {rows, of.y.columns, first_row, first_column, 0, of.x.columns};
}

template <class Products, Parts parts, class Norm, class Lengths, class Add, class Sums>
__device__ __forceinline__ void forward(const ForwardArguments<ValueOf<Products>> &of, const Place &place,
                                        const Norm &norm, const Lengths &lengths, const Add &add, const Sums &sums) {
    Products::template product<INNER_LAST, INNER_LAST>([&] { return output(of.y); }, operand(of.x, norm),
                                                       weight_operand<parts>(of.weight), place, lengths, add, sums);
}

template <class Products, Parts parts, class Norm, class Add>
__device__ __forceinline__ void forward(const ForwardArguments<ValueOf<Products>> &of, const Norm &norm, const Add &add,
                                        const Statistics &sums) {
    Place place = forward_place<Products>(of);
    if (has_rows(place.first_row, place.rows)) { // otherwise the whole block returns
        forward<Products, parts>(of, place, norm, NoLengths{}, add, sums);
    }
}

template <class Products>
__device__ __forceinline__ void linear_forward(const LinearForward<ValueOf<Products>> &args) {
    forward<Products, Parts::TWO>(args.product, NoNorm{}, Alone{}, statistics(args.statistics));
}

template <class Products>
__device__ __forceinline__ void linear_forward_norm(const LinearForwardNorm<ValueOf<Products>> &args) {
    forward<Products, Parts::ONE>(args.product, args.norm.rows(), Alone{}, statistics(args.statistics));
}

template <class Products>
__device__ __forceinline__ void linear_forward_unit(const LinearForwardUnit<ValueOf<Products>> &args) {
    Place place = forward_place<Products>(args.product);
    if (place.first_row < place.rows) { // otherwise the whole block returns
        OverLength over = {Products::lengths(), place.first_row};
        forward<Products, Parts::TWO>(args.product, place, args.norm.rows(), Products::lengths_of(args), over, NoSums{});
    }
}

template <class T> __device__ __forceinline__ Gathered<T> gathered(const GatherArguments<T> &of, int width) {
    return {of.projected.values, of.projected.stride, of.subject, of.object, width};
}

template <class Products>
__device__ __forceinline__ void linear_forward_gather(const LinearForwardGather<ValueOf<Products>> &args) {
    forward<Products, Parts::ONE>(args.product, NoNorm{}, gathered(args.gather, args.product.y.columns),
                                  statistics(args.statistics));
}

template <class Products>
__device__ __forceinline__ void linear_forward_gather_norm(const LinearForwardGatherNorm<ValueOf<Products>> &args) {
    forward<Products, Parts::ONE>(args.product, args.norm.rows(), gathered(args.gather, args.product.y.columns),
                                  statistics(args.statistics));
}

// A block of one of two products, whose tiles are counted row by row.
template <class Products>
__device__ __forceinline__ void forward_one(const ForwardArguments<ValueOf<Products>> &of, int block) {
    int across = (of.y.columns + Products::Sides::columns - 1) / Products::Sides::columns;
    int first_row = block / across * Products::Sides::rows, rows = load_early(of.row_count);
    begin_kernel();
    if (first_row < rows) { // otherwise the whole block returns
        Place place = {rows, of.y.columns, first_row, block % across * Products::Sides::columns, 0, of.x.columns};
        forward<Products, Parts::TWO>(of, place, NoNorm{}, NoLengths{}, Alone{}, NoSums{});
    }
}

template <class Products>
__device__ __forceinline__ void linear_forward_two(const LinearForwardTwo<ValueOf<Products>> &args) {
    bool is_first = int(blockIdx.x) < args.first_blocks;
    if constexpr (Products::selects_arguments) {
        int block = int(blockIdx.x) - (is_first ? 0 : args.first_blocks);
        ForwardArguments<ValueOf<Products>> first = args.first, second = args.second;
        ForwardArguments<ValueOf<Products>> of = is_first ? first : second;
        // Both products have the same number of inputs and the same strides; reading them from one product saves the
        // registers of a selection.
        of.x.columns = first.x.columns;
        of.x.stride = first.x.stride;
        of.weight.stride = first.weight.stride;
        forward_one<Products>(of, block);
    } else if (is_first) {
        forward_one<Products>(args.first, blockIdx.x);
    } else {
        forward_one<Products>(args.second, int(blockIdx.x) - args.first_blocks);
    }
}

// ---- backward ---------------------------------------------------------------------------------------------------

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

template <class Products>
__device__ __forceinline__ BackwardTiles backward_tiles(const BackwardArguments<ValueOf<Products>> &of) {
    constexpr int tile_rows = Products::Sides::rows, tile_columns = Products::Sides::columns;
    int rows = load_early(of.row_count), inputs = of.d_x.columns, outputs = of.d_y.columns;
    int across = (inputs + tile_columns - 1) / tile_columns;
    // Without rows, one block of each strip still has work: the sums.
    int down = max((rows + tile_rows - 1) / tile_rows, 1);
    RowParts cut = Products::row_parts(rows, inputs, outputs, of.d_weight.most_parts, of.d_weight.has_large);
    int weight_rows = Products::transposes_weights ? inputs : outputs;
    int weight_columns = Products::transposes_weights ? outputs : inputs;
    int of_weight = (weight_rows + tile_rows - 1) / tile_rows * ((weight_columns + tile_columns - 1) / tile_columns);
    return {rows, inputs, outputs, across, down * across, of_weight, cut};
}

// A block of one of a layer's gradients.
template <class Products, Parts parts, class NormX, class Add, class Sums>
__device__ __forceinline__ void backward(const BackwardArguments<ValueOf<Products>> &of, const BackwardTiles &tiles,
                                         bool is_input, int block, const NormX &norm_x, const Add &add, const Sums &sums) {
    constexpr int tile_rows = Products::Sides::rows, tile_columns = Products::Sides::columns;
    int rows = tiles.rows, inputs = tiles.inputs, outputs = tiles.outputs;
    RowParts cut = tiles.parts;
    if (is_input) {
        int across = tiles.across;
        Place place = {rows, inputs, block / across * tile_rows, block % across * tile_columns, 0, outputs};
        Products::template product<INNER_LAST, INNER_FIRST>([&] { return output(of.d_x); }, operand(of.d_y, NoNorm{}),
                                                            weight_operand<parts>(of.weight), place, NoLengths{}, add, sums);
        return;
    }
    int weight_rows = Products::transposes_weights ? inputs : outputs; // of d_W, or of its transpose
    int weight_columns = Products::transposes_weights ? outputs : inputs;
    int across = (weight_columns + tile_columns - 1) / tile_columns;
    int part = block / tiles.of_weight, tile = block % tiles.of_weight, first = part * cut.rows_each;
    Place place = {weight_rows, weight_columns, tile / across * tile_rows, tile % across * tile_columns, first,
                   min(first + cut.rows_each, rows)};
    auto out = [&]() -> Output<float> {
        if (cut.count > 1) {
            return {of.d_weight.parts + size_t(part) * outputs * inputs, inputs, NO_SPLIT, 0};
        }
        return weight_output<parts>(of.d_weight);
    };
    Products::weight_product(out, operand(of.d_y, NoNorm{}), operand(of.x, norm_x), place);
    if (cut.count > 1) {
        __syncthreads(); // the tile in shared memory has been read
        int *flag = reinterpret_cast<int *>(Products::memory());
        if (last_to_come(&of.d_weight.tickets[tile], 1, cut.count, threadIdx.x == 0, flag)) {
            Products::add_weight_parts(weight_output<parts>(of.d_weight), of.d_weight.parts, cut.count, place);
        }
    }
}

// Backward of one layer in a launch of its own.
template <class Products, Parts parts, class NormX, class Add, class Sums>
__device__ __forceinline__ void backward(const BackwardArguments<ValueOf<Products>> &of, const NormX &norm_x,
                                         const Add &add, const Sums &sums) {
    BackwardTiles tiles = backward_tiles<Products>(of);
    BlockWork work = backward_work(tiles);
    begin_kernel();
    if (work.product >= 0) { // otherwise the whole block returns
        backward<Products, parts>(of, tiles, work.product == D_X, work.index, norm_x, add, sums);
    }
}

template <class Products>
__device__ __forceinline__ void linear_backward(const LinearBackward<ValueOf<Products>> &args) {
    backward<Products, Parts::TWO>(args.product, NoNorm{}, Alone{}, NoSums{});
}

template <class Products>
__device__ __forceinline__ void linear_backward_norm(const LinearBackwardNorm<ValueOf<Products>> &args) {
    backward<Products, Parts::ONE>(args.product, args.norm.rows(), Alone{},
                                   backward_sums(args.d_norm, args.norm, args.product.x));
}

template <class Products>
__device__ __forceinline__ void linear_backward_unit(const LinearBackwardUnit<ValueOf<Products>> &args) {
    LessAlong<ValueOf<Products>> less = {args.along};
    backward<Products, Parts::TWO>(args.product, args.norm.rows(), less,
                                   backward_sums(args.d_norm, args.norm, args.product.x));
}

template <class Products>
__device__ __forceinline__ void linear_backward_states(const LinearBackwardStates<ValueOf<Products>> &args) {
    const LinearBackwardUnit<ValueOf<Products>> &nodes = args.nodes;
    const LinearBackwardNorm<ValueOf<Products>> &edges = args.edges;
    BackwardTiles of_nodes = backward_tiles<Products>(nodes.product), of_edges = backward_tiles<Products>(edges.product);
    BlockWork work = backward_work(of_nodes, of_edges);
    bool is_input = work.product % BACKWARD_PRODUCTS == D_X;
    begin_kernel();
    if (work.product < 0) {
        return; // the whole block
    }
    if (work.product < BACKWARD_PRODUCTS) {
        LessAlong<ValueOf<Products>> less = {nodes.along};
        backward<Products, Parts::TWO>(nodes.product, of_nodes, is_input, work.index, nodes.norm.rows(), less,
                                       backward_sums(nodes.d_norm, nodes.norm, nodes.product.x));
    } else {
        backward<Products, Parts::ONE>(edges.product, of_edges, is_input, work.index, edges.norm.rows(), Alone{}, NoSums{});
    }
}

// ---- names ------------------------------------------------------------------------------------------------------

// Each applies the macro KERNEL to the kernels of a family: name of the function template, type of the arguments, end of
// the kernel's name, family, and least number of resident blocks.
#define FOR_LINEAR_FORWARD(KERNEL, suffix, Products)                                                                   \
    KERNEL(linear_forward, LinearForward, suffix, Products, Products::blocks)                                          \
    KERNEL(linear_forward_norm, LinearForwardNorm, suffix, Products, Products::blocks)                                 \
    KERNEL(linear_forward_unit, LinearForwardUnit, suffix, Products, Products::blocks)                                 \
    KERNEL(linear_forward_gather, LinearForwardGather, suffix, Products, Products::blocks)                             \
    KERNEL(linear_forward_gather_norm, LinearForwardGatherNorm, suffix, Products, Products::blocks)                    \
    KERNEL(linear_forward_two, LinearForwardTwo, suffix, Products, Products::blocks)
#define FOR_LINEAR_BACKWARD(KERNEL, suffix, Products)                                                                  \
    KERNEL(linear_backward, LinearBackward, suffix, Products, Products::blocks)                                        \
    KERNEL(linear_backward_norm, LinearBackwardNorm, suffix, Products, Products::blocks)                               \
    KERNEL(linear_backward_unit, LinearBackwardUnit, suffix, Products, Products::blocks)                               \
    KERNEL(linear_backward_states, LinearBackwardStates, suffix, Products, Products::states_blocks)

// Defines the kernel <name>_<suffix> from the function template `name`, which calls begin_kernel.
#define LINEAR_KERNEL(name, Args, suffix, Products, least_blocks)                                                      \
    extern "C" __global__ void __launch_bounds__(Products::threads, least_blocks)                                      \
        name##_##suffix(const __grid_constant__ Args<Products::Value> args) {                                          \
        name<Products>(args);                                                                                          \
    }
// Entry of such a kernel in the emulator's table, and the table. An empty entry follows the last comma.
#define EMULATED_LINEAR_KERNEL(name, Args, suffix, Products, least_blocks)                                             \
    EMULATED_KERNEL(name##_##suffix, Products::threads),
#define EMULATED_LINEAR_KERNELS(file, ...) EMULATED_KERNELS(file, __VA_ARGS__{})
