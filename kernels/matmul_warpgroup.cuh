// matmul_warpgroup: a block's tile of a product on the tensor cores of sm_90a (warpgroup.cuh), in a number format
// (warpgroup_format.cuh).
//
//   consumers       a warpgroup for each 64 rows: fragments of a from shared memory, the prologue in registers, products
//                   with b in shared memory
//   a producer      a warpgroup that copies stages of a and b, several steps ahead (cp.async), into swizzled lines of
//                   128 bytes; zeros beyond the end of the inner dimension. It splits values of b that are two factors
//   barriers        each stage has one that says it is full, and one that says all consumers have read it
//
// Two consumers, of one block or of two, take turns: while the tensor cores work for one, the other loads and normalises.
// The tensor map of a
// TMA copy would replace the producer's addresses, but it holds the size and the address of a matrix, and these vary:
// weights have two parts, and the number of rows is known on the device alone.
#pragma once

#include "linear_epilogue.cuh"
#include "warpgroup_format.cuh"

// Numbers of rows and columns of a tile.
template <int rows_, int columns_> struct TileSize {
    static constexpr int rows = rows_, columns = columns_;
};

// Threads of a block with a tile of so many rows, and blocks that share a multiprocessor.
constexpr int warpgroup_threads(int rows) { return (rows / 64 + 1) * WARPGROUP; }
constexpr int warpgroup_blocks(int rows) { return rows == 64 ? 2 : 1; }

// Threads that share a column of the epilogue, each with every so many rows: the same in all tiles, so that the order of
// sums is.
constexpr int COLUMN_LANES = 4;

// Tile of 64 or 128 rows, its number format, and the memory orders of its operands.
template <class Size, class Format_, Order order_a_, Order order_b_> struct WarpgroupTile {
    using Format = Format_;
    using Value = typename Format::Value;
    static constexpr Order order_a = order_a_, order_b = order_b_;
    static constexpr int rows = Size::rows, columns = Size::columns;
    static constexpr int inner = Format::inner, stages = 4;
    static constexpr int consumers = rows / 64, threads = warpgroup_threads(rows), blocks = warpgroup_blocks(rows);
    static constexpr int sums = columns / 2; // of a consumer's thread
    // Registers of a thread: as launched, and while the roles differ. A block gets no more than it was launched with: a
    // consumer would wait for them for ever. With 64 rows, what is launched is enough for both roles.
    static constexpr bool moves_registers = blocks == 1;
    static constexpr int registers = 168, consumer_registers = 208, producer_registers = 88;
    static_assert(consumers * consumer_registers + producer_registers <= (consumers + 1) * registers || !moves_registers,
                  "registers of a block");
    // Bytes of a stage, in this order: lines of a, lines of b, and by column of a, 64 at most, the norm's scale and shift.
    static constexpr int a_bytes = rows / 64 * PANEL_BYTES, b_bytes = (columns + 63) / 64 * PANEL_BYTES;
    static constexpr int norm_bytes = 64 * 2 * int(sizeof(float));
    static constexpr int first_norm = stages * (a_bytes + b_bytes), first_barrier = first_norm + stages * norm_bytes;
    static constexpr int memory_bytes = first_barrier + 2 * stages * int(sizeof(PhaseBarrier));
    static_assert(columns % 8 == 0 && columns <= 256, "columns of a product");
    // The system takes 1,024 bytes of each block; so does the epilogue.
    static_assert(blocks * (memory_bytes + 2048) <= 228 * 1024, "shared memory of a multiprocessor");
    // After the products the stages' memory holds the tile, row by row, or column by column if the inner dimension of a
    // comes first. The distances put the values that a warp stores at once into different banks. Each lane's sums of columns
    // follow, and the lengths of rows.
    static constexpr int row_stride = columns + (40 - columns % 32) % 32, column_stride = rows + 4;
    static constexpr int first_lane = rows * row_stride * int(sizeof(float));
    static constexpr int first_length = first_lane + consumers * COLUMN_LANES * columns * int(sizeof(float2));
    static_assert(first_length + rows * int(sizeof(float)) <= first_norm, "room for the tile");
    static_assert(columns * column_stride * int(sizeof(float)) <= first_norm, "room for the tile");
};

// Shared memory of a block.
template <class Tile> struct WarpgroupMemory {
    unsigned char *bytes;

    __device__ __forceinline__ unsigned char *a(int stage) const {
        return bytes + stage * (Tile::a_bytes + Tile::b_bytes);
    }
    __device__ __forceinline__ unsigned char *b(int stage) const { return a(stage) + Tile::a_bytes; }
    __device__ __forceinline__ float *norm(int stage) const {
        return reinterpret_cast<float *>(bytes + Tile::first_norm + stage * Tile::norm_bytes);
    }
    __device__ __forceinline__ PhaseBarrier *full(int stage) const {
        return reinterpret_cast<PhaseBarrier *>(bytes + Tile::first_barrier) + stage;
    }
    __device__ __forceinline__ PhaseBarrier *read(int stage) const { return full(Tile::stages + stage); }
    __device__ __forceinline__ float *tile() const { return reinterpret_cast<float *>(bytes); }
    __device__ __forceinline__ float2 *lanes() const { return reinterpret_cast<float2 *>(bytes + Tile::first_lane); }
    __device__ __forceinline__ float *lengths() const { return reinterpret_cast<float *>(bytes + Tile::first_length); }
};

// Position of a step in the ring of stages.
template <class Tile> struct RingStep {
    int stage;
    unsigned parity; // of the phases in which this step's stage becomes full
    __device__ __forceinline__ explicit RingStep(int step)
        : stage(int(unsigned(step) % Tile::stages)), parity(unsigned(step) / Tile::stages & 1) {}
};

template <class Tile> __device__ __forceinline__ int steps_of(const Place &place) {
    return (place.inner_end - place.first_inner + Tile::inner - 1) / Tile::inner;
}

// One arrival of a whole warp: what its lanes did before it precedes the end of the phase.
__device__ __forceinline__ void arrive_warp(PhaseBarrier *barrier) {
    __syncwarp();
    if (threadIdx.x % WARP_LANES == 0) {
        arrive(barrier);
    }
}

// The barrier at which producers and consumers meet after their last stage.
__device__ __forceinline__ void meet_roles() { __syncthreads(); }

// ---- producer ---------------------------------------------------------------------------------------------------

// Copies the norm's scales and shifts of a step's columns of a, if they are columns.
template <class Tile>
__device__ __forceinline__ void copy_norm(float *, const NoNorm &, int, int) {}
template <class Tile>
__device__ __forceinline__ void copy_norm(float *to, const NormRows &norm, int first_inner, int inner_end) {
    if (Tile::order_a == INNER_LAST) {
        int thread = threadIdx.x % WARPGROUP, column = first_inner + thread / 2;
        static_assert(WARPGROUP >= 2 * Tile::inner, "at most one value per thread");
        if (thread < 2 * Tile::inner) {
            copy_async<4>(to + thread, (thread % 2 == 0 ? norm.scale : norm.shift) + column, column < inner_end ? 4 : 0);
        }
    }
}

template <class Tile, class Norm>
__device__ __forceinline__ void produce(const WarpgroupMemory<Tile> &memory, const Operand<typename Tile::Value, Norm> &a,
                                        const Operand<typename Tile::Value, NoNorm> &b, const Place &place) {
    using Format = typename Tile::Format;
    // Steps whose copies are in flight while the producer waits for a stage to be read.
    constexpr int ahead = Tile::stages - 2;
    int steps = steps_of<Tile>(place);
    bool wide_a = takes_wide_copies(a), wide_b = takes_wide_copies(b);
    for (int step = 0; step < steps + ahead; step++) {
        if (step < steps) {
            RingStep<Tile> at(step);
            wait_phase(memory.read(at.stage), at.parity ^ 1);
            int inner = place.first_inner + step * Tile::inner;
            Piece of_a = {place.rows, place.first_row, place.inner_end, inner};
            Piece of_b = {place.columns, place.first_column, place.inner_end, inner};
            copy_piece<Format, Tile::order_a, Tile::rows>(memory.a(at.stage), a, of_a, wide_a);
            copy_piece<Format, Tile::order_b, Tile::columns>(memory.b(at.stage), b, of_b, wide_b);
            copy_norm<Tile>(memory.norm(at.stage), a.norm, inner, place.inner_end);
        }
        commit_copies();
        if (step >= ahead) {
            wait_copies<ahead>();
            int stage = RingStep<Tile>(step - ahead).stage;
            Format::template split<Tile::order_b, Tile::columns>(memory.b(stage));
            fence_proxy();
            arrive_warp(memory.full(stage));
        }
    }
}

// ---- prologues --------------------------------------------------------------------------------------------------

// A prologue of a's fragments, for a warp whose first row of the product is `row`; `in_step` is a step's scales and shifts.
template <class Format, Order order, class Norm> struct FactorPrologue {
    __device__ __forceinline__ FactorPrologue(const Norm &, int, int) {}
    __device__ __forceinline__ void apply(Fragment<typename Format::Value> &, const float *, int) const {}
};

// Columns of the norm are inner steps.
template <class Format> struct FactorPrologue<Format, INNER_LAST, NormRows> {
    __device__ __forceinline__ FactorPrologue(const NormRows &, int, int) {}
    __device__ __forceinline__ void apply(Fragment<typename Format::Value> &a, const float *in_step, int k) const {
        const float4 *pairs = reinterpret_cast<const float4 *>(in_step) + Format::first_pair();
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float4 of = pairs[Format::pair_after(k, j)];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                activate_pair(a, i, j, {of.x, of.y}, {of.z, of.w});
            }
        }
    }
};

// Columns of the norm are rows of the product. Steps beyond the inner end need not stay 0: those of b are.
template <class Format> struct FactorPrologue<Format, INNER_FIRST, NormRows> {
    NormColumn of_row[2];
    __device__ __forceinline__ FactorPrologue(const NormRows &norm, int row, int rows) {
        int lane = threadIdx.x % WARP_LANES;
        of_row[0] = norm.column(min(row + lane / 4, rows - 1));
        of_row[1] = norm.column(min(row + lane / 4 + 8, rows - 1));
    }
    __device__ __forceinline__ void apply(Fragment<typename Format::Value> &a, const float *, int) const {
#pragma unroll
        for (int j = 0; j < 2; j++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                activate_pair(a, i, j, of_row[i], of_row[i]);
            }
        }
    }
};

// ---- lengths of rows --------------------------------------------------------------------------------------------

// No lengths (NoLengths), or divisors of an l2 normalisation of a's rows, written to `to`; if `to` is null, all are 1.
struct FactorLengths {
    static constexpr bool wanted = true;
    float *to;
    const int *row_count;  // [1]: R
    float squares[2] = {}; // of the thread's two rows

    __device__ __forceinline__ void add(const Fragment<bf16> &a) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float low = low_bf16(a.pair[i][j]), high = high_bf16(a.pair[i][j]);
                squares[i] = fmaf(high, high, fmaf(low, low, squares[i]));
            }
        }
    }
    __device__ __forceinline__ void add(const Fragment<float> &a) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                squares[i] = fmaf(a.value[i][j], a.value[i][j], squares[i]);
            }
        }
    }
    // Writes the divisors of a warp's rows to `of_tile`.
    __device__ __forceinline__ void finish(float *of_tile) {
        int in_tile = int(threadIdx.x) / WARP_LANES * 16 + int(threadIdx.x) % WARP_LANES / 4;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = squares[half];
            sum += __shfl_xor_sync(FULL_WARP, sum, 2);
            sum += __shfl_xor_sync(FULL_WARP, sum, 1);
            float length = sqrtf(sum), divisor = length < L2_EPSILON ? L2_EPSILON : length; // keeps NaN
            if (threadIdx.x % 4 == 0) {
                of_tile[in_tile + half * 8] = to == nullptr ? 1.0f : divisor;
            }
        }
    }
    // The blocks of the first columns write them to `to`.
    __device__ __forceinline__ void store(const float *of_tile, const Place &place, int rows_of_tile) const {
        int in_tile = int(threadIdx.x), row = place.first_row + in_tile;
        if (to != nullptr && place.first_column == 0 && in_tile < rows_of_tile && row < place.rows) {
            to[row] = of_tile[in_tile];
        }
    }
};

// ---- consumers --------------------------------------------------------------------------------------------------

// A consumer's products, which it leaves in the block's tile once all stages have been read.
template <class Tile, class Norm, class Lengths>
__device__ __forceinline__ void consume(const WarpgroupMemory<Tile> &memory, const Norm &norm, const Place &place,
                                        Lengths lengths) {
    using Format = typename Tile::Format;
    constexpr bool is_transposed = Tile::order_b == INNER_FIRST;
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES; // of all consumers
    FactorPrologue<Format, Tile::order_a, Norm> prologue(norm, place.first_row + warp * 16, place.rows);
    float sums[Tile::sums] = {};
    int steps = steps_of<Tile>(place);
    for (int step = 0; step < steps; step++) {
        RingStep<Tile> at(step);
        wait_phase(memory.full(at.stage), at.parity);
        Fragment<typename Format::Value> a[Tile::inner / 16];
#pragma unroll
        for (int k = 0; k < Tile::inner / 16; k++) {
            Format::template load<Tile::order_a>(a[k], memory.a(at.stage), k);
        }
        typename Format::Factor factors[Tile::inner / 16];
#pragma unroll
        for (int k = 0; k < Tile::inner / 16; k++) {
            prologue.apply(a[k], memory.norm(at.stage), k);
            if constexpr (Lengths::wanted && !Format::factors_are_values) {
                lengths.add(a[k]);
            }
            factors[k] = Format::factor(a[k]);
        }
        unsigned long long b = matrix_descriptor(memory.b(at.stage), is_transposed ? PANEL_BYTES : 16);
        begin_products();
#pragma unroll
        for (int k = 0; k < Tile::inner / 16; k++) {
            Format::template multiply<is_transposed>(sums, factors[k], b, k);
        }
        commit_products();
        wait_products<0>();
        arrive_warp(memory.read(at.stage));
        if constexpr (Lengths::wanted && Format::factors_are_values) { // here, where the prologue needs no registers
#pragma unroll
            for (int k = 0; k < Tile::inner / 16; k++) {
                lengths.add(a[k]);
            }
        }
    }
    wait_copies<0>(); // of the epilogue
    meet_roles();     // all consumers have read the stages
    if constexpr (Lengths::wanted) {
        lengths.finish(memory.lengths());
    }
    int row = warp * 16 + lane / 4, column = lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < Tile::sums; j += 2) {
        int to_row = row + j / 2 % 2 * 8, to_column = column + j / 4 * 8;
        if (Tile::order_a == INNER_LAST) {
            *reinterpret_cast<float2 *>(memory.tile() + to_row * Tile::row_stride + to_column) =
                make_float2(sums[j], sums[j + 1]);
        } else {
            memory.tile()[to_column * Tile::column_stride + to_row] = sums[j];
            memory.tile()[(to_column + 1) * Tile::column_stride + to_row] = sums[j + 1];
        }
    }
}

// ---- the product ------------------------------------------------------------------------------------------------

template <class Tile> __device__ __forceinline__ WarpgroupMemory<Tile> warpgroup_memory() {
    WARPGROUP_SHARED(memory_bytes);
    return {memory_bytes};
}

// Leaves the block's tile of a b^T in shared memory. `begin` starts copies that the epilogue needs.
template <class Tile, class Norm, class Lengths, class Begin>
__device__ __forceinline__ void multiply_tile(const Operand<typename Tile::Value, Norm> &a,
                                              const Operand<typename Tile::Value, NoNorm> &b, const Place &place,
                                              const Lengths &lengths, const Begin &begin) {
    WarpgroupMemory<Tile> memory = warpgroup_memory<Tile>();
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < Tile::stages; stage++) {
            begin_phases(memory.full(stage), WARPGROUP / WARP_LANES);
            begin_phases(memory.read(stage), Tile::consumers * WARPGROUP / WARP_LANES);
        }
    }
    begin();
    commit_copies();
    __syncthreads();
    if (int(threadIdx.x) < Tile::consumers * WARPGROUP) {
        if constexpr (Tile::moves_registers) {
            take_registers<Tile::consumer_registers>();
        }
        consume(memory, a.norm, place, lengths);
        if constexpr (Tile::moves_registers) {
            release_registers<Tile::registers>();
        }
    } else {
        if constexpr (Tile::moves_registers) {
            release_registers<Tile::producer_registers>();
        }
        produce(memory, a, b, place);
        wait_copies<0>();
        meet_roles();
        if constexpr (Tile::moves_registers) {
            take_registers<Tile::registers>();
        }
    }
    __syncthreads();
}
