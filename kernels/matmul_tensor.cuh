// matmul_tensor: a block's tile of a product on the tensor cores.
//
//   copies      stored values, global -> shared memory, several stages ahead (cp.async); zeros beyond the end of the
//               inner dimension
//   prologues   batch norm and ReLU, in shared memory, one stage ahead of the products
//   fragments   shared memory -> registers: 16 x 16 values of an operand per warp, in the layout of the tensor cores
//
// Each warp computes a part of the block's tile. An operand is stored with its inner dimension last (x and W of a
// forward product) or first (both operands of a weight's gradient).
#pragma once

#include "matmul.cuh"
#include "tensor_core.cuh"

// Tile of a block: its size, inner steps per stage, number of stages, the warps that share it, and the number of lanes
// of sums that a thread accumulates: a format's tiles have the same lanes in all, so that they give the same bits.
template <int rows_, int columns_, int inner_, int stages_, int warps_down_, int warps_across_, int lanes_each_>
struct Shape {
    static constexpr int rows = rows_, columns = columns_, inner = inner_, stages = stages_, lanes_each = lanes_each_;
    static constexpr int warps_down = warps_down_, warps_across = warps_across_;
    static constexpr int threads = warps_down * warps_across * WARP_LANES;
    // Part of a warp, in pairs of 16 x 8 products: one fragment of b serves two.
    static constexpr int warp_rows = rows / warps_down, warp_columns = columns / warps_across;
    static_assert(warp_rows % 16 == 0 && warp_columns % 16 == 0 && inner % 16 == 0, "whole fragments");
};

// One stage of an operand in shared memory. The padding puts 8 rows of 16 bytes (ldmatrix), or the 4 x 8 values of 32
// bits that a warp reads at once, into different banks.
template <class T, Order order, int outer, int inner> struct Stage {
    static constexpr int lines = order == INNER_LAST ? outer : inner;
    static constexpr int line = order == INNER_LAST ? inner : outer; // values side by side
    static constexpr int padding = sizeof(T) == 4 && order == INNER_LAST ? 4 : 8;
    static constexpr int stride = line + padding;
    static constexpr int values = lines * stride;
};

// The part of an operand's 16 x 16 values that lane 4 g + t holds. The order of the inner steps is free, as long as it
// is the same for both operands.
template <class T> struct Fragment;
// [i][j] is row g + 8 i, inner step t + 4 j.
template <> struct Fragment<float> {
    float value[2][4];
};
// [i][j] is row g + 8 i, inner steps 2 t + 8 j and the next, as the instruction takes them.
template <> struct Fragment<bf16> {
    unsigned pair[2][2];
};

// ---- number formats ---------------------------------------------------------------------------------------------

// `factor`: a fragment in the format. `multiply_add`: d [16, 8] += a b for columns 8 i..8 i + 8 of b.

// Values are stored in bf16.
struct Bf16 {
    using Value = bf16;
    using Factor = Fragment<bf16>;
    static __device__ __forceinline__ Factor factor(const Fragment<bf16> &from) { return from; }
    static __device__ __forceinline__ void multiply_add(float (&d)[4], const Factor &a, const Factor &b, int i) {
        const unsigned left[4] = {a.pair[0][0], a.pair[1][0], a.pair[0][1], a.pair[1][1]};
        const unsigned right[2] = {b.pair[i][0], b.pair[i][1]};
        mma_bf16(d, left, right);
    }
};

// x = high + low + rest, where high and low are bf16 and |rest| <= 2^-17 |x|. The product of the two low parts is
// omitted.
struct Bf16x3 {
    using Value = float;
    struct Factor {
        Bf16::Factor high, low;
    };
    // Factors of two values.
    struct FactorPair {
        unsigned high, low;
    };
    static __device__ __forceinline__ FactorPair split_pair(float first, float second) {
        unsigned high = pack_bf16(first, second);
        return {high, pack_bf16(first - low_bf16(high), second - high_bf16(high))};
    }
    static __device__ __forceinline__ Factor factor(const Fragment<float> &from) {
        Factor to;
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                FactorPair pair = split_pair(from.value[i][2 * j], from.value[i][2 * j + 1]);
                to.high.pair[i][j] = pair.high;
                to.low.pair[i][j] = pair.low;
            }
        }
        return to;
    }
    // Small terms first.
    static __device__ __forceinline__ void multiply_add(float (&d)[4], const Factor &a, const Factor &b, int i) {
        Bf16::multiply_add(d, a.low, b.high, i);
        Bf16::multiply_add(d, a.high, b.low, i);
        Bf16::multiply_add(d, a.high, b.high, i);
    }
};

// ---- copies -----------------------------------------------------------------------------------------------------

// Piece of an operand in one stage: rows first_outer.. and inner steps first_inner.., up to the ends.
struct Piece {
    int outer_end, first_outer, inner_end, first_inner;
};

// Line of a stage for the group-th threads that share a line. Two adjacent groups access shared memory at once. With
// the inner dimension last, lines that lie 4 apart are in different banks.
template <Order order> __device__ __forceinline__ int line_of(int group) {
    return order == INNER_FIRST ? group : group / 8 * 8 + group % 2 * 4 + group % 8 / 2;
}

// Copies of a piece, `bytes` each, divided among the threads: a thread copies the same columns of several lines.
template <int bytes, class Stage, Order order, int threads, class T> struct Copies {
    static constexpr int width = bytes / int(sizeof(T)), per_line = Stage::line / width;
    static constexpr int lines_at_once = threads / per_line, lines_each = Stage::lines / lines_at_once;
    static_assert(threads % per_line == 0 && Stage::lines % lines_at_once == 0, "the same lines for every thread");
    static_assert(order == INNER_FIRST || lines_at_once % 8 == 0, "whole groups of lines");

    // Results for lines or columns beyond the outer end are never stored. The last valid ones are copied there again,
    // so the addresses need no test. Values beyond the inner end are 0.
    template <class Norm>
    static __device__ __forceinline__ void begin(T *stage, const Operand<T, Norm> &from, const Piece &of) {
        int first_line = line_of<order>(int(threadIdx.x) / per_line), at = int(threadIdx.x) % per_line * width;
        int columns = min(max(of.inner_end - of.first_inner - at, 0), width);
        int column = min(of.first_outer + at, (of.outer_end - 1) / width * width);
#pragma unroll
        for (int i = 0; i < lines_each; i++) {
            int line = first_line + i * lines_at_once;
            T *to = &stage[line * Stage::stride + at];
            if (order == INNER_LAST) {
                const T *row = from.line(min(of.first_outer + line, of.outer_end - 1));
                copy_async<bytes>(to, row + of.first_inner + at, columns * int(sizeof(T)));
            } else {
                bool inside = of.first_inner + line < of.inner_end;
                copy_async<bytes>(to, from.line(of.first_inner + line) + column, inside ? bytes : 0);
            }
        }
    }
};

// Whether every line begins at a multiple of 16 bytes, so that copies can move 16 bytes. Always true in bf16, whose
// rows are padded (stored.cuh).
template <class Norm> __device__ __forceinline__ bool takes_wide_copies(const Operand<float, Norm> &from) {
    return reinterpret_cast<size_t>(from.values) % 16 == 0 && from.stride % 4 == 0 && from.jump % 4 == 0;
}
template <class Norm> __device__ __forceinline__ bool takes_wide_copies(const Operand<bf16, Norm> &) { return true; }

// ---- prologues --------------------------------------------------------------------------------------------------

// A prologue applies vectors by column to an operand in shared memory, one step ahead of the products.

// No prologue.
template <class Norm> struct Prologue {
    static constexpr int vectors = 0;
};

// relu(norm(x)).
template <> struct Prologue<NormRows> {
    static constexpr int vectors = 2;
    NormFour norm;

    static __device__ __forceinline__ const float *vector(const NormRows &of, int index) {
        return index == 0 ? of.scale : of.shift;
    }
    // `load(i)` returns four values of vector i.
    template <class Load> static __device__ __forceinline__ Prologue from(const Load &load) {
        return {{load(0), load(1)}};
    }
    // Lines beyond the inner end need not stay 0: those of the other operand are.
    __device__ __forceinline__ void store(bf16 *to, PackedFour<bf16> x) const {
        Four z = x.widen();
        float y[COLUMNS_EACH];
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            y[i] = norm_value(norm[i], z[i]);
        }
        *reinterpret_cast<uint2 *>(to) = make_uint2(pack_relu_bf16(y[0], y[1]), pack_relu_bf16(y[2], y[3]));
    }
    __device__ __forceinline__ void store(float *to, PackedFour<float> x) const {
        store_aligned(to, relu_norm(norm, x.widen()));
    }
};

// The `count` stages of an operand in shared memory; each step of the inner dimension uses the next one. With the inner
// dimension last, each stage has its part of the prologue's vectors, which is 0 beyond the inner end: a prologue leaves
// zeros there. Otherwise a thread's columns are the same in all steps, and it keeps the vectors in registers.
template <class Stage, int count, Order order, int threads, class T, class Norm> struct Stages {
    using Applied = Prologue<Norm>;
    static constexpr bool is_applied = Applied::vectors > 0, keeps_vectors = is_applied && order == INNER_FIRST;
    static constexpr int bytes = count * Stage::values * int(sizeof(T));
    static constexpr int stage_vectors = keeps_vectors ? 0 : Applied::vectors * Stage::line;
    static constexpr int vector_bytes = count * stage_vectors * int(sizeof(float));
    // A thread applies the prologue to the same four columns of several lines.
    static constexpr int per_line = Stage::line / COLUMNS_EACH, lines_at_once = threads / per_line;
    static constexpr int lines_each = Stage::lines / lines_at_once;
    static_assert(stage_vectors <= threads && Stage::lines % lines_at_once == 0, "the same lines for every thread");
    static_assert(order == INNER_FIRST || lines_at_once % 8 == 0, "whole groups of lines");

    T *memory;
    float *vectors;
    const Operand<T, Norm> &from;
    bool wide;
    Applied kept; // if keeps_vectors

    __device__ __forceinline__ Stages(char *stages, char *of_vectors, const Operand<T, Norm> &operand,
                                      const Piece &first)
        : memory(reinterpret_cast<T *>(stages)), vectors(reinterpret_cast<float *>(of_vectors)), from(operand),
          wide(takes_wide_copies(operand)) {
        if constexpr (keeps_vectors) {
            kept = Applied::from([&](int index) {
                return load_four(Applied::vector(from.norm, index), first.first_outer + column(), first.outer_end);
            });
        }
    }

    __device__ __forceinline__ T *stage(int step) const { return memory + unsigned(step) % count * Stage::values; }

    __device__ __forceinline__ void begin(int step, const Piece &of) const {
        if (wide) {
            Copies<16, Stage, order, threads, T>::begin(stage(step), from, of);
        } else if constexpr (sizeof(T) == 4) {
            Copies<4, Stage, order, threads, T>::begin(stage(step), from, of);
        }
        if constexpr (stage_vectors > 0) {
            int in_line = int(threadIdx.x) % Stage::line, at = of.first_inner + in_line;
            if (threadIdx.x < stage_vectors) {
                const float *vector = Applied::vector(from.norm, int(threadIdx.x) / Stage::line);
                copy_async<4>(vectors_of(step) + threadIdx.x, vector + at, at < of.inner_end ? 4 : 0);
            }
        }
    }

    // Values to which the thread applies the prologue.
    struct Loaded {
        PackedFour<T> values[is_applied ? lines_each : 1];
        Applied prologue;
    };

    // Loads a stage that has arrived for all threads.
    __device__ __forceinline__ Loaded load(int step) const {
        if constexpr (!is_applied) {
            return {};
        } else {
            Loaded loaded;
            loaded.prologue = kept;
            if constexpr (!keeps_vectors) {
                const float *of_columns = vectors_of(step) + column();
                loaded.prologue = Applied::from(
                    [&](int index) { return load_aligned(of_columns + index * Stage::line).widen(); });
            }
#pragma unroll
            for (int i = 0; i < lines_each; i++) {
                loaded.values[i] = load_aligned(stage(step) + place(i));
            }
            return loaded;
        }
    }
    // Stores the results in place.
    __device__ __forceinline__ void store(int step, const Loaded &loaded) const {
        if constexpr (is_applied) {
#pragma unroll
            for (int i = 0; i < lines_each; i++) {
                loaded.prologue.store(stage(step) + place(i), loaded.values[i]);
            }
        }
    }

  private:
    __device__ __forceinline__ float *vectors_of(int step) const {
        return vectors + unsigned(step) % count * stage_vectors;
    }
    static __device__ __forceinline__ int column() { return int(threadIdx.x) % per_line * COLUMNS_EACH; }
    static __device__ __forceinline__ int place(int i) {
        return (line_of<order>(int(threadIdx.x) / per_line) + i * lines_at_once) * Stage::stride + column();
    }
};

// ---- fragments --------------------------------------------------------------------------------------------------

enum Side { LEFT, RIGHT }; // of the product: operand a or operand b

// Loads rows outer..outer + 16 and inner steps inner..inner + 16 of a stage.
template <class Stage, Order order, Side>
__device__ __forceinline__ void load_fragment(Fragment<float> &to, const float *stage, int outer, int inner) {
    int lane = threadIdx.x % WARP_LANES;
    if (order == INNER_LAST) {
        // Four matrices of 8 rows x 4 steps: rows 0 and 8, then the same rows 4 steps later.
        const float *row = &stage[(outer + lane % 16) * Stage::stride + inner + lane / 16 * 4];
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
            unsigned bits[4];
            load_matrix_x4(bits, row + j * 4);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                to.value[k % 2][j + k / 2] = __uint_as_float(bits[k]);
            }
        }
    } else {
        const float *value = &stage[(inner + lane % 4) * Stage::stride + outer + lane / 4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                to.value[i][j] = value[j * 4 * Stage::stride + i * 8];
            }
        }
    }
}

// The instruction takes adjacent registers, those of one load. For a it takes four: rows 0 and 8, then the same rows 8
// steps later. For b it takes two per 8 rows: the two groups of steps. Any other load order would require register
// moves before each product.
template <class Stage, Order order, Side side>
__device__ __forceinline__ void load_fragment(Fragment<bf16> &to, const bf16 *stage, int outer, int inner) {
    int lane = threadIdx.x % WARP_LANES, second = lane / 8 % 2 * 8, fourth = lane / 16 * 8;
    int row = outer + (side == LEFT ? second : fourth), step = inner + (side == LEFT ? fourth : second);
    unsigned bits[4];
    if (order == INNER_LAST) {
        load_matrix_x4(bits, &stage[(row + lane % 8) * Stage::stride + step]); // 8 rows x 8 steps each
    } else {
        // 8 steps x 8 rows each, transposed while loading.
        load_matrix_x4_transposed(bits, &stage[(step + lane % 8) * Stage::stride + row]);
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
        to.pair[side == LEFT ? k % 2 : k / 2][side == LEFT ? k / 2 : k % 2] = bits[k];
    }
}

// ---- the product ------------------------------------------------------------------------------------------------

// Core for a tile shape and a number format, with registers for so many resident blocks per multiprocessor.
template <class Shape_, class Format, int blocks_> struct TensorCore {
    using Shape = Shape_;
    using Value = typename Format::Value; // of the operands in memory
    static constexpr int blocks = blocks_, states_blocks = blocks_;
    // Row stride of a chunk in shared memory: pairs of values from lanes 4 g + t go to all banks.
    static constexpr int tile_stride = Shape::columns + 8;
    static constexpr int memory_bytes = Shape::rows == LARGE_TILE ? LARGE_TILE_BYTES : SMALL_TILE_BYTES;
    static constexpr int first_length = CHUNK_ROWS * tile_stride; // start of the row lengths, after a chunk
    static_assert((first_length + Shape::rows) * int(sizeof(float)) <= memory_bytes, "room for a chunk");

    // Computes the block's tile. Calls finish(chunk) for each 64 rows once they lie in `memory`, with the lengths of
    // a's rows if these are wanted.
    template <Order order_a, Order order_b, class NormA, class NormB, class Lengths, class Finish>
    static __device__ __forceinline__ void multiply(float *memory, Operand<Value, NormA> a, Operand<Value, NormB> b,
                                                    Place place, Lengths lengths, Finish finish) {
        using StageA = Stage<Value, order_a, Shape::rows, Shape::inner>;
        using StageB = Stage<Value, order_b, Shape::columns, Shape::inner>;
        constexpr int products_down = Shape::warp_rows / 16, pairs_across = Shape::warp_columns / 16;
        constexpr int stages = Shape::stages;
        using StagesA = Stages<StageA, stages, order_a, Shape::threads, Value, NormA>;
        using StagesB = Stages<StageB, stages, order_b, Shape::threads, Value, NormB>;
        // Steps between a prologue and the products.
        constexpr int ahead = StagesA::is_applied || StagesB::is_applied ? 1 : 0;
        constexpr int vectors = StagesA::bytes + StagesB::bytes;
        static_assert(vectors + StagesA::vector_bytes + StagesB::vector_bytes <= memory_bytes, "room");
        char *room = reinterpret_cast<char *>(memory);
        int warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
        int warp_row = warp / Shape::warps_across * Shape::warp_rows;
        int warp_column = warp % Shape::warps_across * Shape::warp_columns;

        auto piece_a = [&](int inner) { return Piece{place.rows, place.first_row, place.inner_end, inner}; };
        auto piece_b = [&](int inner) { return Piece{place.columns, place.first_column, place.inner_end, inner}; };
        StagesA stages_a(room, room + vectors, a, piece_a(place.first_inner));
        StagesB stages_b(room + StagesA::bytes, room + vectors + StagesA::vector_bytes, b, piece_b(place.first_inner));
        // One group of copies per step, empty beyond the end, so the number of groups to wait for stays constant. The
        // step that a prologue reads beyond the end is zeros.
        auto begin = [&](int step) {
            int inner = place.first_inner + step * Shape::inner;
            if (inner < place.inner_end + ahead * Shape::inner) {
                stages_a.begin(step, piece_a(inner));
                stages_b.begin(step, piece_b(inner));
            }
            commit_copies();
        };
#pragma unroll
        for (int step = 0; step < stages - 1; step++) {
            begin(step);
        }
        if (ahead > 0) {
            wait_copies<stages - 2>();
            __syncthreads();
            stages_a.store(0, stages_a.load(0));
            stages_b.store(0, stages_b.load(0));
        }

        float sums[products_down][2 * pairs_across][4] = {};
        int step = 0;
        for (int inner = place.first_inner; inner < place.inner_end; inner += Shape::inner, step++) {
            wait_copies<stages - 2 - ahead>();
            // All copies of this step have arrived and all prologues were applied; no thread still reads the previous
            // stage, the next to fill.
            __syncthreads();
            // The prologue of the next step hides behind the products of this one; or, where their sums leave no registers
            // for it, behind those of other warps.
            constexpr bool loads_early = Shape::threads <= 128 || blocks == 1;
            typename StagesA::Loaded next_a;
            typename StagesB::Loaded next_b;
            if (loads_early) {
                next_a = stages_a.load(step + ahead);
                next_b = stages_b.load(step + ahead);
            }
            const Value *stage_a = stages_a.stage(step), *stage_b = stages_b.stage(step);
#pragma unroll
            for (int in_stage = 0; in_stage < Shape::inner; in_stage += 16) {
                if constexpr (Lengths::wanted) {
                    static_assert(order_a == INNER_LAST, "rows of a");
                    lengths.add([&](int row, int inner_step) {
                        return load_aligned(&stage_a[row * StageA::stride + in_stage + inner_step]).widen();
                    });
                }
                // The warps of the larger tile have more rows than columns: fragments of b stay in registers, those of
                // a are streamed.
                Fragment<Value> left, right[pairs_across];
#pragma unroll
                for (int j = 0; j < pairs_across; j++) {
                    load_fragment<StageB, order_b, RIGHT>(right[j], stage_b, warp_column + j * 16, in_stage);
                }
                load_fragment<StageA, order_a, LEFT>(left, stage_a, warp_row, in_stage);
                if (in_stage == 0) {
                    begin(step + stages - 1); // its address computations overlap with the fragment loads
                }
                typename Format::Factor of_right[pairs_across];
#pragma unroll
                for (int j = 0; j < pairs_across; j++) {
                    of_right[j] = Format::factor(right[j]);
                }
#pragma unroll
                for (int i = 0; i < products_down; i++) {
                    if (i > 0) {
                        load_fragment<StageA, order_a, LEFT>(left, stage_a, warp_row + i * 16, in_stage);
                    }
                    typename Format::Factor of_left = Format::factor(left);
#pragma unroll
                    for (int j = 0; j < pairs_across; j++) {
                        Format::multiply_add(sums[i][2 * j], of_left, of_right[j], 0);
                        Format::multiply_add(sums[i][2 * j + 1], of_left, of_right[j], 1);
                    }
                }
            }
            if (!loads_early) {
                next_a = stages_a.load(step + ahead);
                next_b = stages_b.load(step + ahead);
            }
            stages_a.store(step + ahead, next_a);
            stages_b.store(step + ahead, next_b);
        }

#pragma unroll
        for (int chunk = 0; chunk < Shape::rows; chunk += CHUNK_ROWS) {
            __syncthreads(); // no thread still reads the stages or the previous chunk
            if constexpr (Lengths::wanted) {
                if (chunk == 0) {
                    lengths.finish(memory + first_length, place);
                }
            }
            if (warp_row >= chunk && warp_row < chunk + CHUNK_ROWS) {
#pragma unroll
                for (int i = 0; i < products_down; i++) {
#pragma unroll
                    for (int j = 0; j < 2 * pairs_across; j++) {
                        int row = warp_row - chunk + i * 16 + lane / 4, column = warp_column + j * 8 + lane % 4 * 2;
#pragma unroll
                        for (int k = 0; k < 4; k += 2) {
                            *reinterpret_cast<float2 *>(&memory[(row + k * 4) * tile_stride + column]) =
                                make_float2(sums[i][j][k], sums[i][j][k + 1]);
                        }
                    }
                }
            }
            __syncthreads();
            finish(chunk);
        }
    }
};
