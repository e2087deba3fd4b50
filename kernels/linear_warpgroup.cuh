// linear_warpgroup: the kernels of linear.cuh by products of warpgroups, on GPUs of compute capability 9.0
// (matmul_warpgroup.cuh). Code for other architectures has none of them. Names end in the format and the tile: _bf16_128x152.
// in, out  as in linear.cuh
// grid     as in linear.cuh, with tiles of 64 x 128, or of 128 rows and 152, 224 or 256 columns. A weight's gradient is
//          computed as its transpose [I, O]: the prologue of x then belongs to the operand in registers
// sums     products in the order of the inner dimension, 16 at a time; column sums and parts in the order of rows:
//          bit-reproducible. No sum depends on the tile, and the number of parts depends on R alone
// cost     as in linear.cuh. A tile of 128 x 256 reads 384 values per 32,768 multiply-adds: 85 flops per byte from L2
//
// One block of 384 threads occupies a multiprocessor; two of 256 threads, with tiles of 64 rows, share it. The launcher
// chooses these for matrices with few tiles; otherwise the tile that covers a matrix with the fewest columns beyond it.
#pragma once

#include "linear.cuh"
#include "warpgroup_epilogue.cuh"

namespace of_warpgroups {

// ---- forward ----------------------------------------------------------------------------------------------------

template <class Size> using ForwardTile = WarpgroupTile<Size, INNER_LAST, INNER_LAST>;

// Tile of y for a block in a grid of columns by rows. The kernel begins here.
template <class Tile> __device__ __forceinline__ Place forward_place(const ForwardArguments<bf16> &of) {
    int rows = load_early(of.row_count);
    begin_kernel();
    return {rows, of.y.columns, int(blockIdx.y) * Tile::rows, int(blockIdx.x) * Tile::columns, 0, of.x.columns};
}

template <class Tile, Parts parts, class Norm, class Lengths, class Add, class Sums>
__device__ __forceinline__ void forward(const ForwardArguments<bf16> &of, const Place &place, const Norm &norm,
                                        const Lengths &lengths, const Add &add, const Sums &sums) {
    WarpgroupMemory<Tile> memory = warpgroup_memory<Tile>();
    if (place.rows > 0) {
        multiply_tile<Tile>(operand(of.x, norm), weight_operand<parts>(of.weight), place, lengths, [&] {
            add.begin(place.first_row, min(Tile::rows, place.rows - place.first_row));
        });
        Place again = place;
        if constexpr (Lengths::wanted) {
            again.rows = *of.row_count; // kept, it would take a register too many
            lengths.store(memory.lengths(), again, Tile::rows);
        }
        finish_tile(memory, output(of.y), again, add, sums);
    }
    finish_tile_sums(memory, place, sums);
}

template <class Tile, Parts parts, class Norm, class Add>
__device__ __forceinline__ void forward(const ForwardArguments<bf16> &of, const Norm &norm, const Add &add,
                                        const StatisticsArguments &sums) {
    Place place = forward_place<Tile>(of);
    if (has_rows(place.first_row, place.rows)) { // otherwise the whole block returns
        forward<Tile, parts>(of, place, norm, NoLengths{}, add, statistics(sums));
    }
}

template <class Size> __device__ __forceinline__ void linear_forward(const LinearForward<bf16> &args) {
    forward<ForwardTile<Size>, Parts::TWO>(args.product, NoNorm{}, Alone{}, args.statistics);
}

template <class Size> __device__ __forceinline__ void linear_forward_norm(const LinearForwardNorm<bf16> &args) {
    forward<ForwardTile<Size>, Parts::ONE>(args.product, args.norm.rows(), Alone{}, args.statistics);
}

template <class Size> __device__ __forceinline__ void linear_forward_unit(const LinearForwardUnit<bf16> &args) {
    using Tile = ForwardTile<Size>;
    Place place = forward_place<Tile>(args.product);
    if (place.first_row < place.rows) { // otherwise the whole block returns
        OverLength over = {warpgroup_memory<Tile>().lengths(), place.first_row};
        forward<Tile, Parts::TWO>(args.product, place, args.norm.rows(), FactorLengths{args.lengths}, over, NoSums{});
    }
}

__device__ __forceinline__ Gathered<bf16> gathered(const GatherArguments<bf16> &of, int width) {
    return {of.projected.values, of.projected.stride, of.subject, of.object, width};
}

template <class Size> __device__ __forceinline__ void linear_forward_gather(const LinearForwardGather<bf16> &args) {
    forward<ForwardTile<Size>, Parts::ONE>(args.product, NoNorm{}, gathered(args.gather, args.product.y.columns),
                                              args.statistics);
}

template <class Size>
__device__ __forceinline__ void linear_forward_gather_norm(const LinearForwardGatherNorm<bf16> &args) {
    forward<ForwardTile<Size>, Parts::ONE>(args.product, args.norm.rows(),
                                              gathered(args.gather, args.product.y.columns), args.statistics);
}

template <class Size>
__device__ __forceinline__ void forward_of_two(const ForwardArguments<bf16> &of, int block) {
    using Tile = ForwardTile<Size>;
    int across = (of.y.columns + Tile::columns - 1) / Tile::columns, rows = load_early(of.row_count);
    begin_kernel();
    Place place = {rows, of.y.columns, block / across * Tile::rows, block % across * Tile::columns, 0, of.x.columns};
    if (place.first_row < place.rows) { // otherwise the whole block returns
        forward<Tile, Parts::TWO>(of, place, NoNorm{}, NoLengths{}, Alone{}, NoSums{});
    }
}

// A selection of the arguments would occupy the producer's registers.
template <class Size> __device__ __forceinline__ void linear_forward_two(const LinearForwardTwo<bf16> &args) {
    if (int(blockIdx.x) < args.first_blocks) {
        forward_of_two<Size>(args.first, blockIdx.x);
    } else {
        forward_of_two<Size>(args.second, int(blockIdx.x) - args.first_blocks);
    }
}

// ---- backward ---------------------------------------------------------------------------------------------------

// Rows beyond LEAST_PART_ROWS for which a weight's gradient has another part; the launcher has the same number.
constexpr int ROWS_OF_ANOTHER_PART = 640;

// Division of the sum over rows for a weight's gradient. It depends on the number of rows alone, not on the tile, which
// the grid's bound chooses. One block adds up the parts of a tile, so there are few.
__device__ __forceinline__ RowParts row_parts(int rows, int most_parts) {
    int others = (max(rows - LEAST_PART_ROWS, 0) + ROWS_OF_ANOTHER_PART - 1) / ROWS_OF_ANOTHER_PART;
    int most = min(most_parts, 1 + others);
    int each = max((rows + most - 1) / most, 1);
    return {max((rows + each - 1) / each, 1), each};
}

template <class Size> __device__ __forceinline__ BackwardTiles backward_tiles(const BackwardArguments<bf16> &of) {
    int rows = load_early(of.row_count), inputs = of.d_x.columns, outputs = of.d_y.columns;
    int across = (inputs + Size::columns - 1) / Size::columns;
    // Without rows, one block of each strip still has work: the sums.
    int down = max((rows + Size::rows - 1) / Size::rows, 1);
    int of_weight = (inputs + Size::rows - 1) / Size::rows * ((outputs + Size::columns - 1) / Size::columns);
    return {rows, inputs, outputs, across, down * across, of_weight, row_parts(rows, of.d_weight.most_parts)};
}

// A block of the transposed gradient of a weight, [I, O] = x^T d_y.
template <class Size, Parts parts, class NormX>
__device__ __forceinline__ void weight_gradient(const BackwardArguments<bf16> &of, const BackwardTiles &tiles, int block,
                                                const NormX &norm_x) {
    using Tile = WarpgroupTile<Size, INNER_FIRST, INNER_FIRST>;
    int inputs = tiles.inputs, outputs = tiles.outputs, across = (outputs + Tile::columns - 1) / Tile::columns;
    int part = block / tiles.of_weight, tile = block % tiles.of_weight;
    RowParts cut = tiles.parts;
    int first = part * cut.rows_each;
    Place place = {inputs, outputs, tile / across * Tile::rows, tile % across * Tile::columns, first,
                   min(first + cut.rows_each, tiles.rows)};
    WarpgroupMemory<Tile> memory = warpgroup_memory<Tile>();
    multiply_tile<Tile>(operand(of.x, norm_x), operand(of.d_y, NoNorm{}), place, NoLengths{}, [] {});
    if (cut.count == 1) {
        store_transposed(memory, weight_output<parts>(of.d_weight), place);
        return;
    }
    float *own = of.d_weight.parts + size_t(part) * outputs * inputs;
    store_transposed(memory, Output<float>{own, inputs, NO_SPLIT, 0}, place);
    __syncthreads(); // the tile in shared memory has been read
    if (last_to_come(&of.d_weight.tickets[tile], 1, cut.count, threadIdx.x == 0, reinterpret_cast<int *>(memory.bytes))) {
        add_transposed_parts<Tile>(weight_output<parts>(of.d_weight), of.d_weight.parts, cut.count, place);
    }
}

// A block of one of a layer's gradients.
template <class Size, Parts parts, class NormX, class Add, class Sums>
__device__ __forceinline__ void backward(const BackwardArguments<bf16> &of, const BackwardTiles &tiles, bool is_input,
                                         int block, const NormX &norm_x, const Add &add, const Sums &sums) {
    using Tile = WarpgroupTile<Size, INNER_LAST, INNER_FIRST>;
    if (!is_input) {
        weight_gradient<Size, parts>(of, tiles, block, norm_x);
        return;
    }
    int across = tiles.across;
    Place place = {tiles.rows, tiles.inputs, block / across * Tile::rows, block % across * Tile::columns, 0, tiles.outputs};
    WarpgroupMemory<Tile> memory = warpgroup_memory<Tile>();
    if (tiles.rows > 0) {
        multiply_tile<Tile>(operand(of.d_y, NoNorm{}), weight_operand<parts>(of.weight), place, NoLengths{}, [] {});
        finish_tile(memory, output(of.d_x), place, add, sums);
    }
    finish_tile_sums(memory, place, sums);
}

// Backward of one layer in a launch of its own.
template <class Size, Parts parts, class NormX, class Add, class Sums>
__device__ __forceinline__ void backward(const BackwardArguments<bf16> &of, const NormX &norm_x, const Add &add,
                                         const Sums &sums) {
    BackwardTiles tiles = backward_tiles<Size>(of);
    BlockWork work = backward_work(tiles);
    begin_kernel();
    if (work.product >= 0) { // otherwise the whole block returns
        backward<Size, parts>(of, tiles, work.product == D_X, work.index, norm_x, add, sums);
    }
}

template <class Size> __device__ __forceinline__ void linear_backward(const LinearBackward<bf16> &args) {
    backward<Size, Parts::TWO>(args.product, NoNorm{}, Alone{}, NoSums{});
}

template <class Size> __device__ __forceinline__ void linear_backward_norm(const LinearBackwardNorm<bf16> &args) {
    backward<Size, Parts::ONE>(args.product, args.norm.rows(), Alone{},
                               backward_sums(args.d_norm, args.norm, args.product.x));
}

template <class Size> __device__ __forceinline__ void linear_backward_unit(const LinearBackwardUnit<bf16> &args) {
    backward<Size, Parts::TWO>(args.product, args.norm.rows(), LessAlong<bf16>{args.along},
                               backward_sums(args.d_norm, args.norm, args.product.x));
}

template <class Size> __device__ __forceinline__ void linear_backward_states(const LinearBackwardStates<bf16> &args) {
    const LinearBackwardUnit<bf16> &nodes = args.nodes;
    const LinearBackwardNorm<bf16> &edges = args.edges;
    BackwardTiles of_nodes = backward_tiles<Size>(nodes.product), of_edges = backward_tiles<Size>(edges.product);
    BlockWork work = backward_work(of_nodes, of_edges);
    bool is_input = work.product % BACKWARD_PRODUCTS == D_X;
    begin_kernel();
    if (work.product < 0) {
        return; // the whole block
    }
    if (work.product < BACKWARD_PRODUCTS) {
        backward<Size, Parts::TWO>(nodes.product, of_nodes, is_input, work.index, nodes.norm.rows(),
                                   LessAlong<bf16>{nodes.along}, backward_sums(nodes.d_norm, nodes.norm, nodes.product.x));
    } else {
        backward<Size, Parts::ONE>(edges.product, of_edges, is_input, work.index, edges.norm.rows(), Alone{}, NoSums{});
    }
}

} // namespace of_warpgroups

// ---- names ------------------------------------------------------------------------------------------------------

// Defines the kernel <name>_bf16_<rows>x<columns> from the function template `name`, which calls begin_kernel.
#define WARPGROUP_KERNEL(name, Args, rows, columns)                                                                    \
    extern "C" __global__ void __launch_bounds__(warpgroup_threads(rows), warpgroup_blocks(rows))                      \
        name##_bf16_##rows##x##columns(const __grid_constant__ Args<bf16> args) {                                      \
        of_warpgroups::name<TileSize<rows, columns>>(args);                                                            \
    }
#define EMULATED_WARPGROUP_KERNEL(name, rows, columns)                                                                 \
    EMULATED_KERNEL_90A(name##_bf16_##rows##x##columns, warpgroup_threads(rows))

#define WARPGROUP_KERNELS(rows, columns)                                                                               \
    WARPGROUP_KERNEL(linear_forward, LinearForward, rows, columns)                                                     \
    WARPGROUP_KERNEL(linear_forward_norm, LinearForwardNorm, rows, columns)                                            \
    WARPGROUP_KERNEL(linear_forward_unit, LinearForwardUnit, rows, columns)                                            \
    WARPGROUP_KERNEL(linear_forward_gather, LinearForwardGather, rows, columns)                                        \
    WARPGROUP_KERNEL(linear_forward_gather_norm, LinearForwardGatherNorm, rows, columns)                               \
    WARPGROUP_KERNEL(linear_forward_two, LinearForwardTwo, rows, columns)                                              \
    WARPGROUP_KERNEL(linear_backward, LinearBackward, rows, columns)                                                   \
    WARPGROUP_KERNEL(linear_backward_norm, LinearBackwardNorm, rows, columns)                                          \
    WARPGROUP_KERNEL(linear_backward_unit, LinearBackwardUnit, rows, columns)                                          \
    WARPGROUP_KERNEL(linear_backward_states, LinearBackwardStates, rows, columns)
#define EMULATED_WARPGROUP_KERNELS(rows, columns)                                                                      \
    EMULATED_WARPGROUP_KERNEL(linear_forward, rows, columns),                                                          \
        EMULATED_WARPGROUP_KERNEL(linear_forward_norm, rows, columns),                                                 \
        EMULATED_WARPGROUP_KERNEL(linear_forward_unit, rows, columns),                                                 \
        EMULATED_WARPGROUP_KERNEL(linear_forward_gather, rows, columns),                                               \
        EMULATED_WARPGROUP_KERNEL(linear_forward_gather_norm, rows, columns),                                          \
        EMULATED_WARPGROUP_KERNEL(linear_forward_two, rows, columns),                                                  \
        EMULATED_WARPGROUP_KERNEL(linear_backward, rows, columns),                                                     \
        EMULATED_WARPGROUP_KERNEL(linear_backward_norm, rows, columns),                                                \
        EMULATED_WARPGROUP_KERNEL(linear_backward_unit, rows, columns),                                                \
        EMULATED_WARPGROUP_KERNEL(linear_backward_states, rows, columns)
