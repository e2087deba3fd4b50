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

// Tile of y for a block in a grid of columns by rows.
template <class Tile> __device__ __forceinline__ Place forward_place(const ForwardArguments<bf16> &of) {
    return {*of.row_count, of.y.columns, int(blockIdx.y) * Tile::rows, int(blockIdx.x) * Tile::columns, 0,
            of.x.columns};
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
    int across = (of.y.columns + Tile::columns - 1) / Tile::columns;
    Place place = {*of.row_count, of.y.columns, block / across * Tile::rows, block % across * Tile::columns, 0,
                   of.x.columns};
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

// The transposed gradient of a weight, [I, O] = x^T d_y.
template <class Size, Parts parts, class NormX>
__device__ __forceinline__ void weight_gradient(const BackwardArguments<bf16> &of, int block, const NormX &norm_x) {
    using Tile = WarpgroupTile<Size, INNER_FIRST, INNER_FIRST>;
    int rows = *of.row_count, inputs = of.d_x.columns, outputs = of.d_y.columns;
    int across = (outputs + Tile::columns - 1) / Tile::columns, tiles = across * ((inputs + Tile::rows - 1) / Tile::rows);
    int part = block / tiles, tile = block % tiles;
    RowParts cut = row_parts(rows, of.d_weight.most_parts);
    if (part >= cut.count) {
        return; // the whole block
    }
    int first = part * cut.rows_each;
    Place place = {inputs, outputs, tile / across * Tile::rows, tile % across * Tile::columns, first,
                   min(first + cut.rows_each, rows)};
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

// Backward of one layer in a range of the launch's blocks; `block` is the index of this block in the range.
template <class Size, Parts parts, class NormX, class Add, class Sums>
__device__ __forceinline__ void backward(const BackwardArguments<bf16> &of, int block, const NormX &norm_x,
                                         const Add &add, const Sums &sums) {
    using Tile = WarpgroupTile<Size, INNER_LAST, INNER_FIRST>;
    if (block >= of.input_blocks) {
        weight_gradient<Size, parts>(of, block - of.input_blocks, norm_x);
        return;
    }
    int rows = *of.row_count, inputs = of.d_x.columns, across = (inputs + Tile::columns - 1) / Tile::columns;
    Place place = {rows, inputs, block / across * Tile::rows, block % across * Tile::columns, 0, of.d_y.columns};
    if (!has_rows(place.first_row, rows)) {
        return; // the whole block
    }
    WarpgroupMemory<Tile> memory = warpgroup_memory<Tile>();
    if (rows > 0) {
        multiply_tile<Tile>(operand(of.d_y, NoNorm{}), weight_operand<parts>(of.weight), place, NoLengths{}, [] {});
        finish_tile(memory, output(of.d_x), place, add, sums);
    }
    finish_tile_sums(memory, place, sums);
}

template <class Size> __device__ __forceinline__ void linear_backward(const LinearBackward<bf16> &args) {
    backward<Size, Parts::TWO>(args.product, blockIdx.x, NoNorm{}, Alone{}, NoSums{});
}

template <class Size> __device__ __forceinline__ void linear_backward_norm(const LinearBackwardNorm<bf16> &args) {
    backward<Size, Parts::ONE>(args.product, blockIdx.x, args.norm.rows(), Alone{},
                                  backward_sums(args.d_norm, args.norm, args.product.x));
}

template <class Size>
__device__ __forceinline__ void linear_backward_unit(const LinearBackwardUnit<bf16> &args, int block) {
    backward<Size, Parts::TWO>(args.product, block, args.norm.rows(), LessAlong<bf16>{args.along},
                                  backward_sums(args.d_norm, args.norm, args.product.x));
}

template <class Size> __device__ __forceinline__ void linear_backward_unit(const LinearBackwardUnit<bf16> &args) {
    linear_backward_unit<Size>(args, blockIdx.x);
}

template <class Size>
__device__ __forceinline__ void linear_backward_states(const LinearBackwardStates<bf16> &args) {
    if (int(blockIdx.x) < args.node_blocks) {
        linear_backward_unit<Size>(args.nodes, blockIdx.x);
    } else {
        backward<Size, Parts::ONE>(args.edges.product, int(blockIdx.x) - args.node_blocks, args.edges.norm.rows(),
                                      Alone{}, NoSums{});
    }
}

} // namespace of_warpgroups

// ---- names ------------------------------------------------------------------------------------------------------

// Defines the kernel <name>_bf16_<rows>x<columns>.
#define WARPGROUP_KERNEL(name, Args, rows, columns)                                                                    \
    extern "C" __global__ void __launch_bounds__(warpgroup_threads(rows), warpgroup_blocks(rows))                      \
        name##_bf16_##rows##x##columns(const __grid_constant__ Args<bf16> args) {                                      \
        begin_kernel();                                                                                                \
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
