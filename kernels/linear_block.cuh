// linear_block: the kernels of linear.cuh by products in which all threads of a block copy and multiply, by fused
// multiply-adds (matmul_fma.cuh) or on the tensor cores of every GPU (matmul_tensor.cuh).
//
// There are two tile sizes. 64 x 64 is used while there are few tiles: [1056, 300] x [300, 512], at 16 triples, has 136
// of them for 132 multiprocessors, but only 36 of 128 x 128. 128 x 128, with half the traffic per product, is used once
// there are enough of its tiles. In the forward of bf16 the larger tile is 128 x 192, which normalises x for fewer tiles.
// Registers are bounded so that several blocks of the smaller tile, or two of the larger one in the backward of bf16, share
// a multiprocessor: the copies of one hide behind the products of another.
#pragma once

#include "linear.cuh"
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

__shared__ __align__(16) float small_tile_memory[SMALL_TILE_BYTES / sizeof(float)];

// The launcher has the same numbers.
constexpr int ENOUGH_BLOCKS = 2 * MULTIPROCESSORS, LARGE_BACKWARD = 20, MOST_LARGE_PARTS = 4;

__device__ __forceinline__ int large_tiles(int rows, int columns) {
    return (rows + LARGE_TILE - 1) / LARGE_TILE * ((columns + LARGE_TILE - 1) / LARGE_TILE);
}

// The family of products by a core.
template <class Core> struct BlockProducts {
    using Value = typename Core::Value;
    using Sides = typename Core::Shape;
    static constexpr int threads = Sides::threads, blocks = Core::blocks, states_blocks = Core::states_blocks;
    static constexpr bool selects_arguments = true, transposes_weights = false;

    static __device__ __forceinline__ float *memory() {
        if constexpr (Sides::rows == LARGE_TILE) {
            DYNAMIC_SHARED(float, large_tile_memory);
            return large_tile_memory;
        } else {
            return small_tile_memory;
        }
    }

    static __device__ __forceinline__ RowLengths<Sides> lengths_of(const LinearForwardUnit<Value> &args) {
        return {args.lengths};
    }
    static __device__ __forceinline__ float *lengths() { return memory() + Core::first_length; }

    template <Order order_a, Order order_b, class Out, class A, class B, class Lengths, class Add, class Sums>
    static __device__ __forceinline__ void product(const Out &out, const A &a, const B &b, const Place &place,
                                                   const Lengths &lengths, const Add &add, const Sums &sums) {
        float *in_tile = memory();
        if (place.rows > 0) {
            add.begin(place.first_row, min(Sides::rows, place.rows - place.first_row));
            Core::template multiply<order_a, order_b>(in_tile, a, b, place, lengths, [&](int chunk) {
                finish_chunk<Core>(in_tile, out(), place, chunk, add, sums);
            });
        }
        finish_sums<Core>(in_tile, place, sums);
    }

    // If d_x has LARGE_BACKWARD larger tiles, and the format has them, the parts' tiles fill the GPU together with those. If
    // d_x has few, each of them has a multiprocessor to itself (block_order.cuh), and the parts' tiles share the others.
    // There are MOST_LARGE_PARTS at most, because one block adds up the parts of a tile. Otherwise there are `most_parts`, or
    // fewer so that each part has enough rows. The result depends on the number of rows alone, not on the tile that runs,
    // which depends on the grid's bound. The bound therefore changes no bits.
    static __device__ __forceinline__ RowParts row_parts(int rows, int inputs, int outputs, int most_parts,
                                                         bool has_large) {
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

    template <class Out, class DY, class X>
    static __device__ __forceinline__ void weight_product(const Out &out, const DY &d_y, const X &x, const Place &place) {
        product<INNER_FIRST, INNER_FIRST>(out, d_y, x, place, NoLengths{}, Alone{}, NoSums{});
    }

    static __device__ __forceinline__ void add_weight_parts(const Output<float> &out, const float *parts, int count,
                                                            const Place &place) {
        // Each row at once takes 20 registers.
        constexpr int rows_at_once = threads * blocks <= 512 ? 4 : 2;
        if (place.columns % COLUMNS_EACH == 0 && out.is_aligned_by_four()) { // so are the parts
            add_parts<Sides, rows_at_once>(out, parts, count, place, true);
        } else {
            add_parts<Sides, 2>(out, parts, count, place, false);
        }
    }
};

// ---- names ------------------------------------------------------------------------------------------------------

// All kernels of a tensor-core format, for the file linear_<format>.cu.
#define LINEAR_FORMAT(format, Format)                                                                                  \
    LINEAR_FORMAT_KERNELS(LINEAR_KERNEL, format, Tiles<Format>)                                                        \
    EMULATED_LINEAR_KERNELS(linear_##format, LINEAR_FORMAT_KERNELS(EMULATED_LINEAR_KERNEL, format, Tiles<Format>))
#define LINEAR_FORMAT_KERNELS(KERNEL, format, Tiles)                                                                   \
    FOR_LINEAR_FORWARD(KERNEL, format##_64, BlockProducts<Tiles::Small>)                                               \
    FOR_LINEAR_FORWARD(KERNEL, format##_128, BlockProducts<Tiles::LargeForward>)                                       \
    FOR_LINEAR_BACKWARD(KERNEL, format##_64, BlockProducts<Tiles::Small>)                                              \
    FOR_LINEAR_BACKWARD(KERNEL, format##_128, BlockProducts<Tiles::LargeBackward>)
