// matmul_tensor: a block's tile of a product on the tensor cores.
//
//   copies      stored values, global -> shared memory, several stages ahead (cp.async); zeros beyond the end of the
//               inner dimension
//   operands    batch norm and ReLU, or batch norm's backward, in shared memory, by the thread that copied the values
//   fragments   shared memory -> registers: 16 x 16 values of an operand per warp, in the layout of the tensor cores
//
// Each warp computes a part of the block's tile. An operand is stored with its inner dimension last (x and W of a
// forward product) or first (both operands of a weight's gradient).
#pragma once

#include "matmul.cuh"
#include "tensor_core.cuh"

// Tile of a block: its size, inner steps per stage, number of stages, and the warps that share it.
template <int rows_, int columns_, int inner_, int stages_, int warps_down_, int warps_across_> struct Shape {
    static constexpr int rows = rows_, columns = columns_, inner = inner_, stages = stages_;
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

// One stage of the matrix z that accompanies an operand's d. Only the thread that copied a piece of z reads it, so z
// needs no padding. The piece is read before the barrier that frees the operand's stage, so z needs one stage less.
template <class Stage> struct StageBeside {
    static constexpr int lines = Stage::lines, line = Stage::line, stride = line, values = lines * stride;
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

// `factor`: a fragment in the format. `multiply_add`: d [16, 8] += a b for columns 8 i..8 i + 8 of b. `threads`: number
// of threads that share the 65,536 registers of a multiprocessor.

// Values are stored in bf16.
struct Bf16 {
    using Value = bf16;
    static constexpr int threads = 512;
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
    static constexpr int threads = 384;
    struct Factor {
        Bf16::Factor high, low;
    };
    static __device__ __forceinline__ Factor factor(const Fragment<float> &from) {
        Factor to;
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float first = from.value[i][2 * j], second = from.value[i][2 * j + 1];
                unsigned pair = pack_bf16(first, second);
                to.high.pair[i][j] = pair;
                to.low.pair[i][j] = pack_bf16(first - low_bf16(pair), second - high_bf16(pair));
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

// Loads the same four columns of several rows. One alignment test serves all rows, because a step of the inner
// dimension is short. (Elsewhere more columns are loaded at once, and this would need too many registers.)
template <int count>
__device__ __forceinline__ void load_fours(Four (&to)[count], const float *const (&rows)[count], int column,
                                           int columns) {
    bool aligned = column + COLUMNS_EACH <= columns;
#pragma unroll
    for (int row = 0; row < count; row++) {
        aligned = aligned && is_aligned(rows[row] + column);
    }
    if (aligned) {
#pragma unroll
        for (int row = 0; row < count; row++) {
            to[row] = load_aligned(rows[row] + column).widen();
        }
        return;
    }
#pragma unroll
    for (int row = 0; row < count; row++) {
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            to[row][i] = column + i < columns ? rows[row][column + i] : 0.0f;
        }
    }
}

__device__ __forceinline__ NormFour load_for_step(const NormRows &of, int column, int columns) {
    const float *rows[4] = {of.mean, of.rstd, of.weight, of.bias};
    Four all[4];
    load_fours(all, rows, column, columns);
    return norm_four(all[0], all[1], all[2], all[3]);
}
__device__ __forceinline__ NormBackwardFour load_for_step(const NormBackwardRows &of, int column, int columns) {
    const float *rows[6] = {of.norm.mean, of.norm.rstd, of.norm.weight, of.norm.bias, of.constant, of.slope};
    Four all[6];
    load_fours(all, rows, column, columns);
    return {norm_four(all[0], all[1], all[2], all[3]), all[4], all[5]};
}

// Copies of a piece, `bytes` each, divided among the threads: a thread copies the same columns of several lines.
template <int bytes, class Stage, Order order, int threads, class T> struct Copies {
    static constexpr int width = bytes / int(sizeof(T)), per_line = Stage::line / width;
    static constexpr int lines_at_once = threads / per_line, lines_each = Stage::lines / lines_at_once;
    static_assert(threads % per_line == 0 && Stage::lines % lines_at_once == 0, "the same lines for every thread");
    int first_line, at, lines, first, end;

    __device__ __forceinline__ Copies(const Piece &of)
        : first_line(int(threadIdx.x) / per_line), at(int(threadIdx.x) % per_line * width),
          lines(order == INNER_LAST ? of.outer_end - of.first_outer : of.inner_end - of.first_inner),
          first(order == INNER_LAST ? of.first_inner : of.first_outer),
          end(order == INNER_LAST ? of.inner_end : of.outer_end) {}

    // Results for lines or columns beyond the outer end are never stored. The last valid ones are copied there again,
    // so the addresses need no test.
    template <class Norm>
    __device__ __forceinline__ void begin(T *stage, const Operand<T, Norm> &from, const Piece &of) const {
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

    // Applies relu(norm(.)) to the values that this thread copied, after waiting for its copies. Each value is
    // processed once, without another barrier.
    __device__ __forceinline__ void apply(T *stage, const NormRows &norm) const {
        auto load = [&](int column, int end) { return load_for_step(norm, column, end); };
        each_four<2>(load, [&](const NormFour &of, int line, int in_line) {
            T *values = &stage[line * Stage::stride + in_line];
            Four four = load_copied(values);
#pragma unroll
            for (int k = 0; k < COLUMNS_EACH; k++) {
                four[k] = relu_norm(of[k], four[k]);
            }
            store_copied(values, four);
        });
    }
    // Turns d into d_z in place, using the stage of z.
    __device__ __forceinline__ void apply(T *stage, const T *beside, const NormBackwardRows &norm) const {
        auto load = [&](int column, int end) { return load_for_step(norm, column, end); };
        each_four<1>(load, [&](const NormBackwardFour &of, int line, int in_line) {
            T *values = &stage[line * Stage::stride + in_line];
            store_copied(values, of(load_copied(values), load_copied(&beside[line * Stage::line + in_line])));
        });
    }

  private:
    // Calls `run` on the thread's columns in each of its lines, four at a time (or the single column in 4 bytes), with
    // the values that `load` returns for these columns. Eight columns of bf16 are processed as one or two fours at
    // once, limited by registers. Zeros beyond the ends stay zero.
    template <int at_once, class Load, class Do> __device__ __forceinline__ void each_four(Load load, Do run) const {
        int column = first + at;
        if (column >= end) {
            return;
        }
#pragma unroll at_once
        for (int i = 0; i < width; i += COLUMNS_EACH) {
            auto of = load(column + i, width == 1 ? column + 1 : end);
#pragma unroll
            for (int j = 0; j < lines_each; j++) {
                int line = first_line + j * lines_at_once;
                if (line < lines) {
                    run(of, line, at + i);
                }
            }
        }
    }
    static __device__ __forceinline__ Four load_copied(const T *values) {
        if constexpr (width == 1) {
            return {{widen(*values)}};
        } else {
            return load_aligned(values).widen();
        }
    }
    static __device__ __forceinline__ void store_copied(T *values, const Four &four) {
        if constexpr (width == 1) {
            *values = four[0];
        } else {
            store_aligned(values, four);
        }
    }
};

// Whether every line begins at a multiple of 16 bytes, so that copies can move 16 bytes. Always true in bf16, whose
// rows are padded (stored.cuh).
template <class Norm> __device__ __forceinline__ bool takes_wide_copies(const Operand<float, Norm> &from) {
    return reinterpret_cast<size_t>(from.values) % 16 == 0 && from.stride % 4 == 0 && from.jump % 4 == 0;
}
__device__ __forceinline__ bool takes_wide_copies(const Operand<float, NormBackward<float>> &from) {
    return takes_wide_copies(z_of(from)) && reinterpret_cast<size_t>(from.values) % 16 == 0;
}
template <class Norm> __device__ __forceinline__ bool takes_wide_copies(const Operand<bf16, Norm> &) { return true; }

// The `count` stages of an operand in shared memory; each step of the inner dimension uses the next one.
template <class Stage, int count, Order order, int threads, class T, class Norm> struct Stages {
    using Beside = StageBeside<Stage>;
    static constexpr int first_beside = count * Stage::values; // the stages of z follow those of d
    static constexpr int values = first_beside + (reads_z<Norm> ? (count - 1) * Beside::values : 0);
    T *memory;
    const Operand<T, Norm> &from;
    bool wide;

    __device__ __forceinline__ T *stage(int step) const { return memory + unsigned(step) % count * Stage::values; }
    __device__ __forceinline__ T *beside(int step) const {
        return memory + first_beside + unsigned(step) % (count - 1) * Beside::values;
    }

    __device__ __forceinline__ void begin(int step, const Piece &of) const {
        begin_copies<Stage>(stage(step), from, of);
        if constexpr (reads_z<Norm>) {
            begin_copies<Beside>(beside(step), z_of(from), of);
        }
    }
    // Applies the operand's prologue to the values that this thread copied.
    __device__ __forceinline__ void apply(int step, const Piece &of) const {
        if (wide) {
            apply_to(As<16, Stage>(of), step, from.norm);
        } else if constexpr (sizeof(T) == 4) {
            apply_to(As<4, Stage>(of), step, from.norm);
        }
    }

  private:
    template <int bytes, class Of> using As = Copies<bytes, Of, order, threads, T>;

    template <class Of, class OfNorm>
    __device__ __forceinline__ void begin_copies(T *to, const Operand<T, OfNorm> &source, const Piece &of) const {
        if (wide) {
            As<16, Of>(of).begin(to, source, of);
        } else if constexpr (sizeof(T) == 4) {
            As<4, Of>(of).begin(to, source, of);
        }
    }
    template <class Copies> __device__ __forceinline__ void apply_to(const Copies &, int, const NoNorm &) const {}
    template <class Copies>
    __device__ __forceinline__ void apply_to(const Copies &copies, int step, const NormRows &norm) const {
        copies.apply(stage(step), norm);
    }
    template <class Copies>
    __device__ __forceinline__ void apply_to(const Copies &copies, int step, const NormBackward<T> &norm) const {
        copies.apply(stage(step), beside(step), norm);
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

// Core for a tile shape and a number format.
template <class Shape_, class Format> struct TensorCore {
    using Shape = Shape_;
    using Value = typename Format::Value; // of the operands in memory
    static constexpr int blocks = Format::threads / Shape::threads; // resident blocks per multiprocessor
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
        constexpr int stages = Shape::stages - int(reads_z<NormA>); // z takes the memory of one stage
        using StagesA = Stages<StageA, stages, order_a, Shape::threads, Value, NormA>;
        using StagesB = Stages<StageB, stages, order_b, Shape::threads, Value, NormB>;
        static_assert((StagesA::values + StagesB::values) * int(sizeof(Value)) <= memory_bytes, "room");
        Value *memory_a = reinterpret_cast<Value *>(memory), *memory_b = memory_a + StagesA::values;
        StagesA stages_a = {memory_a, a, takes_wide_copies(a)};
        StagesB stages_b = {memory_b, b, takes_wide_copies(b)};
        int warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
        int warp_row = warp / Shape::warps_across * Shape::warp_rows;
        int warp_column = warp % Shape::warps_across * Shape::warp_columns;

        auto piece_a = [&](int inner) { return Piece{place.rows, place.first_row, place.inner_end, inner}; };
        auto piece_b = [&](int inner) { return Piece{place.columns, place.first_column, place.inner_end, inner}; };
        // One group of copies per step, empty beyond the end, so the number of groups to wait for stays constant.
        auto begin = [&](int step) {
            int inner = place.first_inner + step * Shape::inner;
            if (inner < place.inner_end) {
                stages_a.begin(step, piece_a(inner));
                stages_b.begin(step, piece_b(inner));
            }
            commit_copies();
        };
#pragma unroll
        for (int step = 0; step < stages - 1; step++) {
            begin(step);
        }

        float sums[products_down][2 * pairs_across][4] = {};
        int step = 0;
        for (int inner = place.first_inner; inner < place.inner_end; inner += Shape::inner, step++) {
            wait_copies<stages - 2>();
            stages_a.apply(step, piece_a(inner));
            stages_b.apply(step, piece_b(inner));
            __syncthreads(); // all copies have arrived; no thread still reads the previous stage, the next to fill
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
