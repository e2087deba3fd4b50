// linear_warpgroup: the kernels of linear.cuh by products of warpgroups, on GPUs of compute capability 9.0
// (matmul_warpgroup.cuh), in bf16 and in bf16x3. Code for other architectures has none of them. Names end in the format and the
// tile: _bf16_128x152.
// in, out  as in linear.cuh
// grid     as in linear.cuh, with tiles of 64 x 128, or of 128 rows and 152, 224 or 256 columns. A weight's gradient is
//          computed as its transpose [I, O]: the prologue of x then belongs to the operand in registers
// sums     products in the order of the inner dimension, 16 at a time; column sums and parts in the order of rows:
//          bit-reproducible. No sum depends on the tile, and the number of parts depends on R alone
// cost     as in linear.cuh. A tile of 128 x 256 reads 384 values per 32,768 multiply-adds: 85 flops per byte from L2 in
//          bf16, and half as many in bf16x3, each of which is three products
//
// One block of 384 threads occupies a multiprocessor; two of 256 threads, with tiles of 64 rows, share it. The launcher
// chooses these for matrices with few tiles; otherwise the tile that covers a matrix with the fewest columns beyond it.
#pragma once

#include "linear.cuh"
#include "warpgroup_epilogue.cuh"

// Rows beyond LEAST_PART_ROWS for which a weight's gradient has another part; the launcher has the same number.
constexpr int ROWS_OF_ANOTHER_PART = 640;

// The family of products by warpgroups.
template <class Format, class Size> struct WarpgroupProducts {
    using Value = typename Format::Value;
    using Sides = Size;
    template <Order order_a, Order order_b> using Tile = WarpgroupTile<Size, WarpgroupFormat<Format>, order_a, order_b>;
    using WeightTile = Tile<INNER_FIRST, INNER_FIRST>;
    static constexpr int threads = warpgroup_threads(Size::rows), blocks = warpgroup_blocks(Size::rows);
    static constexpr int states_blocks = blocks;
    static constexpr bool selects_arguments = false; // a selection would occupy the producer's registers
    static constexpr bool transposes_weights = true;

    static __device__ __forceinline__ void *memory() { return warpgroup_memory<WeightTile>().bytes; }

    static __device__ __forceinline__ FactorLengths lengths_of(const LinearForwardUnit<Value> &args) {
        return {args.lengths, args.product.row_count};
    }
    static __device__ __forceinline__ float *lengths() {
        return warpgroup_memory<Tile<INNER_LAST, INNER_LAST>>().lengths();
    }

    template <Order order_a, Order order_b, class Out, class A, class B, class Lengths, class Add, class Sums>
    static __device__ __forceinline__ void product(const Out &out, const A &a, const B &b, const Place &place,
                                                   const Lengths &lengths, const Add &add, const Sums &sums) {
        using OfOrders = Tile<order_a, order_b>;
        WarpgroupMemory<OfOrders> memory = warpgroup_memory<OfOrders>();
        if (place.rows > 0) {
            multiply_tile<OfOrders>(a, b, place, lengths, [&] {
                add.begin(place.first_row, min(Sides::rows, place.rows - place.first_row));
            });
            Place again = place;
            if constexpr (Lengths::wanted) {
                again.rows = *lengths.row_count; // kept, it would take a register too many
                lengths.store(memory.lengths(), again, Sides::rows);
            }
            finish_tile(memory, out(), again, add, sums);
        }
        finish_tile_sums(memory, place, sums);
    }

    // The parts depend on the number of rows alone, not on the tile, which the grid's bound chooses. One block adds up those
    // of a tile, so there are few.
    static __device__ __forceinline__ RowParts row_parts(int rows, int, int, int most_parts, bool) {
        int others = (max(rows - LEAST_PART_ROWS, 0) + ROWS_OF_ANOTHER_PART - 1) / ROWS_OF_ANOTHER_PART;
        int most = min(most_parts, 1 + others);
        int each = max((rows + most - 1) / most, 1);
        return {max((rows + each - 1) / each, 1), each};
    }

    // A block of the transposed gradient of a weight, [I, O] = x^T d_y.
    template <class Out, class DY, class X>
    static __device__ __forceinline__ void weight_product(const Out &out, const DY &d_y, const X &x, const Place &place) {
        multiply_tile<WeightTile>(x, d_y, place, NoLengths{}, [] {});
        store_transposed(warpgroup_memory<WeightTile>(), out(), place);
    }

    static __device__ __forceinline__ void add_weight_parts(const Output<float> &out, const float *parts, int count,
                                                            const Place &place) {
        add_transposed_parts<WeightTile>(out, parts, count, place);
    }
};

// ---- names ------------------------------------------------------------------------------------------------------

// All kernels of a format with a tile of so many rows and columns, for the file
// linear_warpgroup_<format>_<rows>x<columns>.cu.
#define LINEAR_WARPGROUP(format, Format, rows, columns)                                                                \
    using TileProducts = WarpgroupProducts<Format, TileSize<rows, columns>>;                                           \
    LINEAR_WARPGROUP_KERNELS(LINEAR_KERNEL, format##_##rows##x##columns)                                               \
    EMULATED_LINEAR_KERNELS(linear_warpgroup_##format##_##rows##x##columns,                                            \
                            LINEAR_WARPGROUP_KERNELS(EMULATED_WARPGROUP_KERNEL, format##_##rows##x##columns))
#define EMULATED_WARPGROUP_KERNEL(name, Args, suffix, Products, least_blocks)                                          \
    EMULATED_KERNEL_90A(name##_##suffix, Products::threads),
#ifdef HAS_WARPGROUPS
#define LINEAR_WARPGROUP_KERNELS(KERNEL, suffix)                                                                       \
    FOR_LINEAR_FORWARD(KERNEL, suffix, TileProducts)                                                                   \
    FOR_LINEAR_BACKWARD(KERNEL, suffix, TileProducts)
#else
#define LINEAR_WARPGROUP_KERNELS(KERNEL, suffix)
#endif
