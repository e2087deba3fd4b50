// warpgroup_format: number formats of products of warpgroups: how stages hold operands, and how values become the factors that
// the tensor cores multiply (matmul_warpgroup.cuh).
//
// An operand lies in swizzled lines of 128 bytes (warpgroup.cuh). With the inner dimension last, a line is a row with all inner
// steps of a stage. With the inner dimension first, 64 rows are a panel of 64 lines.
//
//   bf16      64 steps a stage. A value is one factor. Lines of panels are steps in order
//   bf16x3    32 steps a stage, single precision as copied. A value is the sum of two factors, high + low (matmul_tensor.cuh).
//             The consumers split a in registers. The producer splits b in place, after its copies have arrived:
//               inner last     a line holds the high factors of both products of 16 steps, then the low ones
//               inner first    16 lines of a panel from 32 k on are the high factors of product k, the next 16 the low ones. As
//                              copied, they are the first and the last 32 values of its steps
//
// The order of steps within a product is free, as long as both operands have the same. In bf16x3, with lane = 4 g + t of a's
// fragments, step 8 t + 4 k + j is place 2 t + j % 2 + 8 (j / 2) of product k: so a lane reads 16 bytes of a row at once, and no
// two lanes that are served together access the same bank.
#pragma once

#include "matmul_tensor.cuh"
#include "warpgroup.cuh"

// Bytes of 64 rows of an operand in a stage.
constexpr int PANEL_BYTES = 64 * SWIZZLED_LINE, PIECES = SWIZZLED_LINE / 16;

// Offset of a piece of 16 bytes in swizzled lines.
__device__ __forceinline__ int swizzled(int line, int piece) {
    return line * SWIZZLED_LINE + (piece ^ line % SWIZZLED_LINES) * 16;
}

template <class Format> struct WarpgroupFormat;

template <> struct WarpgroupFormat<Bf16> : Bf16 {
    static constexpr int inner = SWIZZLED_LINE / int(sizeof(Value));
    static constexpr bool factors_are_values = true;
    static constexpr int copies_at_once = 16; // of a thread, unrolled: all

    // Line of the group-th 8 threads, which copy it: 16 groups.
    static __device__ __forceinline__ int line_of(int group) { return group; }
    // Inner step of a line of a panel, and the first of the panel's rows whose values it holds.
    static __device__ __forceinline__ int step_of(int line) { return line; }
    static __device__ __forceinline__ int first_row_of(int) { return 0; }
    template <Order, int> static __device__ __forceinline__ void split(unsigned char *) {}

    // First of a lane's pairs of columns in a stage, and the distance from it of the lane's pair j in product k.
    static __device__ __forceinline__ int first_pair() { return threadIdx.x % 4; }
    static __device__ __forceinline__ int pair_after(int k, int j) { return 8 * k + 4 * j; }

    // Loads product k's 16 x 16 values for warp w: rows 16 w.. of the tile.
    template <Order order>
    static __device__ __forceinline__ void load(Fragment<bf16> &to, const unsigned char *lines, int k) {
        int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
        unsigned a[4];
        if (order == INNER_LAST) {
            load_matrix_x4(a, lines + swizzled(warp * 16 + lane % 16, 2 * k + lane / 16));
        } else {
            int line = k * 16 + lane / 16 * 8 + lane % 8, piece = warp % 4 * 2 + lane / 8 % 2;
            load_matrix_x4_transposed(a, lines + warp / 4 * PANEL_BYTES + swizzled(line, piece));
        }
        to = {{{a[0], a[2]}, {a[1], a[3]}}};
    }

    // sums += a b for product k of a stage.
    template <bool is_transposed, int sums>
    static __device__ __forceinline__ void multiply(float (&d)[sums], const Factor &a, unsigned long long b, int k) {
        constexpr int advance = is_transposed ? 16 * SWIZZLED_LINE : 16 * int(sizeof(bf16));
        multiply_lines<is_transposed>(d, a, b, k * advance);
    }

    // The same for the lines that lie `offset` bytes after b.
    template <bool is_transposed, int sums>
    static __device__ __forceinline__ void multiply_lines(float (&d)[sums], const Factor &a, unsigned long long b,
                                                          int offset) {
        const unsigned left[4] = {a.pair[0][0], a.pair[1][0], a.pair[0][1], a.pair[1][1]};
        ::multiply<is_transposed>(d, left, b + offset / 16, true);
    }
};

template <> struct WarpgroupFormat<Bf16x3> : Bf16x3 {
    static constexpr int inner = SWIZZLED_LINE / int(sizeof(Value));
    static constexpr bool factors_are_values = false;
    // With more, the positions of rows, computed ahead of all steps, would occupy too many registers.
    static constexpr int copies_at_once = 8;

    // Two adjacent groups access shared memory at once. Lines that lie 4 apart are in different banks.
    static __device__ __forceinline__ int line_of(int group) { return group / 8 * 8 + group % 2 * 4 + group % 8 / 2; }
    static __device__ __forceinline__ int step_of(int line) {
        return line % 8 / 2 * 8 + line / 32 * 4 + line % 2 + line / 8 % 2 * 2;
    }
    static __device__ __forceinline__ int first_row_of(int line) { return line / 16 % 2 * 32; }

    static __device__ __forceinline__ int first_pair() { return threadIdx.x % 4 * 4; }
    static __device__ __forceinline__ int pair_after(int k, int j) { return 2 * k + j; }

    // The four values of a lane in each row; with the inner dimension last they are one piece. Rows g and g + 8 of a warp have
    // the same swizzle.
    template <Order order>
    static __device__ __forceinline__ void load(Fragment<float> &to, const unsigned char *lines, int k) {
        int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES, g = lane / 4, t = lane % 4;
        if (order == INNER_LAST) {
            const unsigned char *row = lines + swizzled(warp * 16 + g, 2 * t + k);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                Four values = load_aligned(reinterpret_cast<const float *>(row + i * 8 * SWIZZLED_LINE)).widen();
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    to.value[i][j] = values[j];
                }
            }
        } else {
            int of_panel = warp % 4 * 16 + g, first_line = k * 32 + of_panel / 32 * 16 + 2 * t;
            const unsigned char *values = lines + warp / 4 * PANEL_BYTES + g % 4 * int(sizeof(float));
#pragma unroll
            for (int i = 0; i < 2; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    int line = first_line + j % 2, piece = of_panel % 32 / 4 + 2 * i;
                    const unsigned char *value = values + swizzled(line, piece) + j / 2 * 8 * SWIZZLED_LINE;
                    to.value[i][j] = *reinterpret_cast<const float *>(value);
                }
            }
        }
    }

    // Splits a stage of b with `outer` rows. The 8 threads that copied a line, lanes of one warp, read their pieces and then
    // write the factors in the place of all of them.
    template <Order order, int outer> static __device__ __forceinline__ void split(unsigned char *lines) {
        constexpr int lines_at_once = WARPGROUP / PIECES, at_once = 4;
        int thread = threadIdx.x % WARPGROUP, piece = thread % PIECES, first = line_of(thread / PIECES);
        constexpr int all = order == INNER_LAST ? outer : (outer + 63) / 64 * 64;
        // 64 lines at once.
#pragma unroll 1
        for (int panel = 0; panel < all; panel += at_once * lines_at_once) {
            Four values[at_once];
#pragma unroll
            for (int i = 0; i < at_once; i++) {
                int line = panel + i * lines_at_once + first;
                if (all % (at_once * lines_at_once) == 0 || line < all) {
                    values[i] = load_aligned(reinterpret_cast<const float *>(lines + swizzled(line, piece))).widen();
                }
            }
            __syncwarp();
#pragma unroll
            for (int i = 0; i < at_once; i++) {
                int line = panel + i * lines_at_once + first;
                if (all % (at_once * lines_at_once) == 0 || line < all) {
                    FactorPair pairs[2] = {split_pair(values[i][0], values[i][1]),
                                           split_pair(values[i][2], values[i][3])};
                    if (order == INNER_LAST) {
                        // Step 4 piece + j of the stage: see above.
                        int t = piece / 2, k = piece % 2;
#pragma unroll
                        for (int j = 0; j < 2; j++) {
                            store_pair(lines + swizzled(line, 2 * k + j) + 4 * t, pairs[j].high);
                            store_pair(lines + swizzled(line, 4 + 2 * k + j) + 4 * t, pairs[j].low);
                        }
                    } else {
                        int k = i / 2, half = i % 2, high = panel + k * 32 + first;
                        int of_line = half * 4 + piece / 2, in_piece = piece % 2 * 8;
                        store_pairs(lines + swizzled(high, of_line) + in_piece, pairs[0].high, pairs[1].high);
                        store_pairs(lines + swizzled(high + 16, of_line) + in_piece, pairs[0].low, pairs[1].low);
                    }
                }
            }
        }
    }

    // Small terms first.
    template <bool is_transposed, int sums>
    static __device__ __forceinline__ void multiply(float (&d)[sums], const Factor &a, unsigned long long b, int k) {
        using One = WarpgroupFormat<Bf16>;
        constexpr int advance = is_transposed ? 32 * SWIZZLED_LINE : 16 * int(sizeof(bf16));
        constexpr int low = is_transposed ? 16 * SWIZZLED_LINE : SWIZZLED_LINE / 2;
        One::multiply_lines<is_transposed>(d, a.low, b, k * advance);
        One::multiply_lines<is_transposed>(d, a.high, b, k * advance + low);
        One::multiply_lines<is_transposed>(d, a.high, b, k * advance);
    }

  private:
    static __device__ __forceinline__ void store_pair(unsigned char *to, unsigned pair) {
        *reinterpret_cast<unsigned *>(to) = pair;
    }
    static __device__ __forceinline__ void store_pairs(unsigned char *to, unsigned first, unsigned second) {
        *reinterpret_cast<uint2 *>(to) = make_uint2(first, second);
    }
};

// ---- copies -----------------------------------------------------------------------------------------------------

// Copies the values of 16 bytes: the first `count`, and zeros in place of the others. `wide`: both addresses are aligned to 16
// bytes.
template <bool wide, class T> __device__ __forceinline__ void copy_values(unsigned char *to, const T *from, int count) {
    if constexpr (wide) {
        copy_async<16>(to, from, count * int(sizeof(T)));
    } else {
#pragma unroll
        for (int i = 0; i < 16 / int(sizeof(T)); i++) {
            copy_async<4>(to + i * sizeof(T), from + i, i < count ? int(sizeof(T)) : 0);
        }
    }
}

// Copies a piece of an operand with `outer` rows. A thread copies the same 16 bytes of every 16th line. Beyond the inner end
// it copies zeros. Results beyond the last row are never stored: with the inner dimension last that row is copied again.
template <class Format, Order order, int outer, bool wide, class T, class Norm>
__device__ __forceinline__ void copy_lines(unsigned char *to, const Operand<T, Norm> &from, const Piece &of) {
    constexpr int width = 16 / int(sizeof(T)), lines_at_once = WARPGROUP / PIECES;
    int thread = threadIdx.x % WARPGROUP, piece = thread % PIECES, first = Format::line_of(thread / PIECES);
    if constexpr (order == INNER_LAST) {
        int column = of.first_inner + piece * width, count = min(max(of.inner_end - column, 0), width);
#pragma unroll Format::copies_at_once
        for (int at = 0; at < outer; at += lines_at_once) {
            int line = at + first;
            if (outer % lines_at_once == 0 || line < outer) {
                const T *row = from.line(min(of.first_outer + line, of.outer_end - 1));
                copy_values<wide>(to + swizzled(line, piece), row + column, count);
            }
        }
    } else {
#pragma unroll
        for (int at = 0; at < 64; at += lines_at_once) {
            int line = at + first, step = of.first_inner + Format::step_of(line);
            int in_panel = Format::first_row_of(line) + piece * width;
            const T *row = from.line(step) + of.first_outer + in_panel;
#pragma unroll
            for (int panel = 0; panel < (outer + 63) / 64; panel++) {
                int left = of.outer_end - of.first_outer - panel * 64 - in_panel;
                int count = step < of.inner_end ? min(max(left, 0), width) : 0;
                copy_values<wide>(to + panel * PANEL_BYTES + swizzled(line, piece), row + panel * 64, count);
            }
        }
    }
}

// The same; `wide`: every line begins at a multiple of 16 bytes. Rows of bf16 always do.
template <class Format, Order order, int outer, class Norm>
__device__ __forceinline__ void copy_piece(unsigned char *to, const Operand<bf16, Norm> &from, const Piece &of, bool) {
    copy_lines<Format, order, outer, true>(to, from, of);
}
template <class Format, Order order, int outer, class Norm>
__device__ __forceinline__ void copy_piece(unsigned char *to, const Operand<float, Norm> &from, const Piece &of, bool wide) {
    if (wide) {
        copy_lines<Format, order, outer, true>(to, from, of);
    } else {
        copy_lines<Format, order, outer, false>(to, from, of);
    }
}

// ---- prologues --------------------------------------------------------------------------------------------------

// relu(norm(x)) of pair j, two adjacent values, of row i of a lane.
__device__ __forceinline__ void activate_pair(Fragment<bf16> &a, int i, int j, const NormColumn &low, const NormColumn &high) {
    unsigned &x = a.pair[i][j];
    x = pack_relu_bf16(norm_value(low, low_bf16(x)), norm_value(high, high_bf16(x)));
}
__device__ __forceinline__ void activate_pair(Fragment<float> &a, int i, int j, const NormColumn &low, const NormColumn &high) {
    a.value[i][2 * j] = relu_norm(low, a.value[i][2 * j]);
    a.value[i][2 * j + 1] = relu_norm(high, a.value[i][2 * j + 1]);
}
