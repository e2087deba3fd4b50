// linear_epilogue: epilogue of a tile's products (linear.cuh), in chunks of 64 rows as a core leaves them:
//   stored values    the product; or the product plus gathered values, divided by the row's length, or minus the
//                    component parallel to u
//   column sums      over the chunk, of the values as stored: statistics, or the sums of batch norm's backward
//   merge            of the chunks' sums, by the last block of these columns (column_sums.cuh)
#pragma once

#include "matmul.cuh"

// ---- sums of a column over a chunk ------------------------------------------------------------------------------
// A `Column` holds a thread's sums of one column. A `Row` holds the values that a row needs from global memory, loaded
// ahead.

// No values to load.
struct NoRow {};

// No sums.
struct NoSums {
    ColumnMemory memory = {};
    __device__ __forceinline__ bool wanted() const { return false; }
    using Row = NoRow;
    struct Column {
        __device__ __forceinline__ void begin(const NoSums &, int) {}
        __device__ __forceinline__ NoRow load(int) const { return {}; }
        __device__ __forceinline__ void add(NoRow, float) {}
        __device__ __forceinline__ float2 result() const { return make_float2(0.0f, 0.0f); }
    };
    static __device__ __forceinline__ float2 join(float2 first, int, float2, int) { return first; }
};

// Mean and sum of squared deviations from it (M2), accumulated around the first value to avoid cancellation.
struct Statistics {
    ColumnMemory memory;
    StatisticsMerge merge;
    __device__ __forceinline__ bool wanted() const { return memory.partials != nullptr; }
    using Row = NoRow;
    struct Column {
        float around, sum, squares;
        int count;
        __device__ __forceinline__ void begin(const Statistics &, int) {}
        __device__ __forceinline__ NoRow load(int) const { return {}; }
        __device__ __forceinline__ void add(NoRow, float value) {
            around = count == 0 ? value : around;
            float offset = value - around;
            sum += offset;
            squares += offset * offset;
            count++;
        }
        __device__ __forceinline__ float2 result() const {
            float offset = sum / float(max(count, 1)), deviation = squares - sum * offset;
            return make_float2(around + offset, deviation < 0.0f ? 0.0f : deviation); // keeps NaN
        }
    };
    // Merges the sums of two sets of rows (Chan et al.).
    static __device__ __forceinline__ float2 join(float2 first, int first_count, float2 second, int second_count) {
        if (second_count == 0) {
            return first;
        }
        float share = float(second_count) / float(first_count + second_count), offset = second.x - first.x;
        return make_float2(first.x + offset * share, first.y + second.y + offset * offset * share * float(first_count));
    }
};

// Backward of relu(norm(z)), given the gradient with respect to its output: sums of d and of d (z - mean). d is that
// gradient where the ReLU passed, and 0 elsewhere.
template <class T> struct BackwardSums {
    ColumnMemory memory;
    BackwardMerge merge;
    const T *z;
    int stride;
    NormRows norm;
    const float *mean;
    __device__ __forceinline__ bool wanted() const { return memory.partials != nullptr; }
    struct Row {
        T z;
    };
    struct Column {
        NormColumn norm;
        const T *z;
        int stride;
        float mean, sum, product;
        __device__ __forceinline__ void begin(const BackwardSums &of, int column) {
            norm = of.norm.column(column);
            mean = of.mean == nullptr ? 0.0f : of.mean[column]; // null if no sums are wanted
            z = of.z + column;
            stride = of.stride;
        }
        __device__ __forceinline__ Row load(int row) const { return {z[size_t(row) * stride]}; }
        __device__ __forceinline__ float activated(Row of) const { return relu_norm(norm, widen(of.z)); }
        __device__ __forceinline__ void add(Row of, float value) {
            float at = widen(of.z);
            float d = norm_value(norm, at) > 0.0f ? value : 0.0f;
            sum += d;
            product += d * (at - mean);
        }
        __device__ __forceinline__ float2 result() const { return make_float2(sum, product); }
    };
    static __device__ __forceinline__ float2 join(float2 first, int, float2 second, int) {
        return make_float2(first.x + second.x, first.y + second.y);
    }
};

// ---- stored values ----------------------------------------------------------------------------------------------
// `at_once`: number of rows loaded before the first of them is stored, limited by registers. `reads_row_of_sums`: the
// Row of the sums is needed even if no sums are wanted.

// The product itself.
struct Alone {
    static constexpr int at_once = 4;
    static constexpr bool reads_row_of_sums = false;
    using Row = NoRow;
    struct Column {
        __device__ __forceinline__ void begin(const Alone &, int) {}
        __device__ __forceinline__ NoRow load(int) const { return {}; }
        template <class Sums, class SumsRow>
        __device__ __forceinline__ float stored(int, float product, NoRow, const Sums &, SumsRow) const {
            return product;
        }
    };
};

// The product plus the values that an edge (the row) gathers from its two ends.
template <class T> struct Gathered {
    const T *projected;
    int stride;
    const int *subject, *object;
    int width;
    static constexpr int at_once = 4;
    static constexpr bool reads_row_of_sums = false;
    struct Row {
        T of_subject, of_object;
    };
    struct Column {
        Gathered of;
        int column;
        __device__ __forceinline__ void begin(const Gathered &gathered, int index) {
            of = gathered;
            column = index;
        }
        __device__ __forceinline__ Row load(int row) const {
            const T *of_subject = of.projected + size_t(of.subject[row]) * of.stride;
            const T *of_object = of.projected + size_t(of.object[row]) * of.stride + of.width;
            return {of_subject[column], of_object[column]};
        }
        template <class Sums, class SumsRow>
        __device__ __forceinline__ float stored(int, float product, Row row, const Sums &, SumsRow) const {
            return product + (widen(row.of_subject) + widen(row.of_object));
        }
    };
};

// The product divided by the length of a's row.
struct OverLength {
    const float *of_tile; // in shared memory
    int first_row;
    static constexpr int at_once = 4;
    static constexpr bool reads_row_of_sums = false;
    using Row = NoRow;
    struct Column {
        const float *of_tile;
        int first_row;
        __device__ __forceinline__ void begin(const OverLength &lengths, int) {
            of_tile = lengths.of_tile;
            first_row = lengths.first_row;
        }
        __device__ __forceinline__ NoRow load(int) const { return {}; }
        template <class Sums, class SumsRow>
        __device__ __forceinline__ float stored(int row, float product, NoRow, const Sums &, SumsRow) const {
            return product / of_tile[row - first_row];
        }
    };
};

// The product minus along[row] u, the component parallel to u = relu(norm(z)), where norm is the norm whose sums are
// computed. Nothing is subtracted if `along` is null.
template <class T> struct LessAlong {
    const float *along;
    static constexpr int at_once = 2;
    static constexpr bool reads_row_of_sums = true;
    struct Row {
        float along;
    };
    struct Column {
        const float *along;
        __device__ __forceinline__ void begin(const LessAlong &of, int) { along = of.along; }
        __device__ __forceinline__ Row load(int row) const { return {along == nullptr ? 0.0f : along[row]}; }
        __device__ __forceinline__ float stored(int, float product, Row row,
                                                const typename BackwardSums<T>::Column &of_column,
                                                typename BackwardSums<T>::Row of_row) const {
            // u with the rounding that it had when its length was computed.
            return along == nullptr ? product : fmaf(-rounded<T>(of_column.activated(of_row)), row.along, product);
        }
    };
};

// ---- chunks -----------------------------------------------------------------------------------------------------

// A thread's part of a chunk in shared memory: `each` adjacent columns (those in 4 bytes) of every rows_at_once-th row.
// The row with index i belongs to lane i % lanes of the sums.
template <class Core, class T> struct ChunkThread {
    static constexpr int each = 4 / int(sizeof(T)), across = Core::Shape::columns / each;
    static constexpr int rows_at_once = Core::Shape::threads / across, lanes_each = Core::Shape::lanes_each;
    static constexpr int lanes = rows_at_once * lanes_each;
    int in_tile = int(threadIdx.x) % across * each, lane = int(threadIdx.x) / across;
};

// Output matrix, with lines as in Operand.
template <class T> struct Output {
    T *values;
    int stride, split;
    long long jump;

    __device__ __forceinline__ T *line(int index) const {
        return values + size_t(index) * stride + (index >= split ? jump : 0);
    }
};

// Stores adjacent columns, of which only the first may exist, and rounds `values` to the stored values. Lines of bf16
// begin at multiples of 16 bytes.
__device__ __forceinline__ void store_columns(float *to, float (&values)[1], bool) { *to = values[0]; }
__device__ __forceinline__ void store_columns(bf16 *to, float (&values)[2], bool both) {
    unsigned pair = pack_bf16(values[0], values[1]);
    values[0] = low_bf16(pair);
    values[1] = high_bf16(pair);
    if (both) {
        *reinterpret_cast<unsigned *>(to) = pair;
    } else {
        to->bits = static_cast<unsigned short>(pair);
    }
}

// Stores the values that `add` computes from the products of a chunk, and leaves the column sums over the chunk for the
// merge.
template <class Core, class T, class Add, class Sums>
__device__ __forceinline__ void finish_chunk(float *memory, const Output<T> &out, const Place &place, int chunk,
                                             const Add &add, const Sums &sums) {
    using Thread = ChunkThread<Core, T>;
    constexpr int each = Thread::each, rows_at_once = Thread::rows_at_once, group = Add::at_once;
    constexpr int lanes_each = Thread::lanes_each, lanes = Thread::lanes;
    static_assert(group % lanes_each == 0, "the k-th row of a group belongs to the same lane in each");
    Thread thread;
    int column = place.first_column + thread.in_tile, first_row = place.first_row + chunk;
    int count = min(CHUNK_ROWS, place.rows - first_row);
    if (count <= 0) {
        return; // the whole block
    }
    float2 own[lanes_each][each] = {};
    if (column < place.columns) {
        typename Sums::Column of_column[lanes_each][each] = {};
        typename Add::Column add_column[each] = {};
#pragma unroll
        for (int i = 0; i < each; i++) {
#pragma unroll
            for (int lane = 0; lane < lanes_each; lane++) {
                of_column[lane][i].begin(sums, min(column + i, place.columns - 1));
            }
            add_column[i].begin(add, min(column + i, place.columns - 1));
        }
        // The compiler may not move a load ahead of a store that might alias it. A group of rows is therefore loaded
        // before any of them is stored.
        for (int first = thread.lane; first < count; first += group * rows_at_once) {
            typename Sums::Row of_row[group][each] = {};
            typename Add::Row add_row[group][each] = {};
#pragma unroll
            for (int k = 0; k < group; k++) {
                int row = first + k * rows_at_once;
                if (row < count) {
#pragma unroll
                    for (int i = 0; i < each; i++) {
                        if (sums.wanted() || Add::reads_row_of_sums) {
                            of_row[k][i] = of_column[0][i].load(first_row + row);
                        }
                        add_row[k][i] = add_column[i].load(first_row + row);
                    }
                }
            }
#pragma unroll
            for (int k = 0; k < group; k++) {
                int row = first + k * rows_at_once;
                if (row < count) {
                    float values[each];
#pragma unroll
                    for (int i = 0; i < each; i++) {
                        float product = memory[row * Core::tile_stride + thread.in_tile + i];
                        values[i] = 0.0f;
                        if (column + i < place.columns) {
                            values[i] = add_column[i].stored(first_row + row, product, add_row[k][i], of_column[0][i],
                                                             of_row[k][i]);
                        }
                    }
                    store_columns(out.line(first_row + row) + column, values, column + each <= place.columns);
                    if (sums.wanted()) {
#pragma unroll
                        for (int i = 0; i < each; i++) {
                            of_column[k % lanes_each][i].add(of_row[k][i], values[i]);
                        }
                    }
                }
            }
        }
#pragma unroll
        for (int i = 0; i < each; i++) {
#pragma unroll
            for (int lane = 0; lane < lanes_each; lane++) {
                own[lane][i] = of_column[lane][i].result();
            }
        }
    }
    if (!sums.wanted()) {
        return; // the whole block
    }
    __syncthreads(); // the chunk has been read
    float2 *of_lanes = reinterpret_cast<float2 *>(memory);
#pragma unroll
    for (int i = 0; i < each; i++) {
#pragma unroll
        for (int lane = 0; lane < lanes_each; lane++) {
            int of_sums = thread.lane + lane * rows_at_once;
            of_lanes[of_sums * Core::Shape::columns + thread.in_tile + i] = own[lane][i];
        }
    }
    __syncthreads();
    if (thread.lane > 0) {
        return;
    }
#pragma unroll
    for (int i = 0; i < each; i++) {
        if (column + i < place.columns) {
            float2 all = own[0][i];
            int rows = (count + lanes - 1) / lanes;
            for (int other = 1; other < lanes; other++) {
                int of_other = max(count - other + lanes - 1, 0) / lanes;
                all = Sums::join(all, rows, of_lanes[other * Core::Shape::columns + thread.in_tile + i], of_other);
                rows += of_other;
            }
            float *to = sums.memory.chunk(first_row / CHUNK_ROWS, place.columns) + column + i;
            to[0] = all.x;
            to[place.columns] = all.y;
        }
    }
}

// After all chunks of the tile: the last block of these columns merges the chunks' sums.
template <class Core> __device__ __forceinline__ void finish_sums(float *, const Place &, const NoSums &) {}

template <class Core, class Sums>
__device__ __forceinline__ void finish_sums(float *memory, const Place &place, const Sums &sums) {
    constexpr int columns = Core::Shape::columns, at_once = Core::Shape::threads / columns;
    if (!sums.wanted()) {
        return;
    }
    __syncthreads(); // the lanes of the last chunk have been read
    int in_strip = threadIdx.x % columns;
    StripThread thread = {place.first_column / columns, (place.columns + columns - 1) / columns,
                          place.first_column + in_strip, in_strip, int(threadIdx.x / columns)};
    int chunks = (min(Core::Shape::rows, place.rows - place.first_row) + CHUNK_ROWS - 1) / CHUNK_ROWS;
    constexpr int lanes = at_once * Core::Shape::lanes_each;
    finish_columns<lanes, columns, at_once>(sums.memory, sums.merge, thread, place.rows, place.columns,
                                            place.first_row / CHUNK_ROWS, chunks, reinterpret_cast<Pair *>(memory));
}
