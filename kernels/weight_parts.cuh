// weight_parts: a weight's gradient as a sum of parts, each of which is the sum over some rows. The last block of a tile adds
// them up.
#pragma once

#include "linear_epilogue.cuh"

// Least number of rows of a part; the launcher has the same number.
constexpr int LEAST_PART_ROWS = 128;

// Division of the sum over rows for a weight's gradient: `count` parts, at least one, of `rows_each` rows.
struct RowParts {
    int count, rows_each;
};

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
