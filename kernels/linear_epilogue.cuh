// linear_epilogue: epilogue of a tile's products (linear.cuh), in chunks of 64 rows as a core leaves them:
//   stored values    the product; or the product plus gathered values, divided by the row's length, or minus the
//                    component parallel to u
//   column sums      over the chunk, of the values as stored: statistics, or the sums of batch norm's backward
//   merge            of the chunks' sums, by the last block of these columns (column_sums.cuh)
#pragma once

#include "matmul.cuh"

// ---- sums of a column over a chunk ------------------------------------------------------------------------------
// A `Column` holds a thread's sums of one column. `Rows` loads what a row needs from global memory: a `Row`.

// No values to load.
struct NoRow {
    __device__ __forceinline__ float operator[](int) const { return 0.0f; }
};
struct NoRows {
    using Row = NoRow;
    __device__ __forceinline__ NoRow load(int) const { return {}; }
};

// No sums.
struct NoSums {};

// Mean and sum of squared deviations from it (M2), accumulated around the first value to avoid cancellation.
struct Statistics {
    ColumnMemory memory;
    StatisticsMerge merge;
    __device__ __forceinline__ bool wanted() const { return memory.partials != nullptr; }
    using Rows = NoRows;
    __device__ __forceinline__ NoRows rows(int, int) const { return {}; }
    struct Column {
        float around, sum, squares;
        __device__ __forceinline__ void begin(const Statistics &, int) {}
        __device__ __forceinline__ void add(float, float value, bool is_first, bool exists) {
            around = is_first ? value : around;
            float offset = exists ? value - around : 0.0f;
            sum += offset;
            squares += offset * offset;
        }
        __device__ __forceinline__ float2 result(int rows) const {
            float offset = sum / float(max(rows, 1)), deviation = squares - sum * offset;
            return make_float2(around + offset, deviation < 0.0f ? 0.0f : deviation); // keeps NaN
        }
    };
    // Merges the sums of two sets of rows (Chan et al.). The first set has rows.
    static __device__ __forceinline__ float2 join(float2 first, int first_count, float2 second, int second_count) {
        float share = float(second_count) / float(first_count + second_count), offset = second.x - first.x;
        float mean = first.x + offset * share;
        float deviation = first.y + second.y + offset * offset * share * float(first_count);
        return second_count == 0 ? first : make_float2(mean, deviation); // instead of a branch
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
    using Rows = AdjacentColumns<T>;
    __device__ __forceinline__ Rows rows(int column, int columns) const {
        return adjacent_columns(z, stride, column, columns);
    }
    struct Column {
        NormColumn norm;
        float mean, sum, product;
        __device__ __forceinline__ void begin(const BackwardSums &of, int column) {
            norm = of.norm.column(column);
            mean = of.mean == nullptr ? 0.0f : of.mean[column]; // null if no sums are wanted
        }
        __device__ __forceinline__ void add(float z, float value, bool, bool exists) {
            float d = exists && norm_value(norm, z) > 0.0f ? value : 0.0f;
            sum += d;
            product += d * (z - mean);
        }
        __device__ __forceinline__ float2 result(int) const { return make_float2(sum, product); }
    };
    static __device__ __forceinline__ float2 join(float2 first, int, float2 second, int) {
        return make_float2(first.x + second.x, first.y + second.y);
    }
};

// ---- stored values ----------------------------------------------------------------------------------------------
// `begin` is called before the product. `reads_row_of_sums`: the row of the sums is needed even if no sums are wanted.

// The product itself.
struct Alone {
    static constexpr bool reads_row_of_sums = false;
    __device__ __forceinline__ void begin(int, int) const {}
    using Rows = NoRows;
    __device__ __forceinline__ NoRows rows(int, int, int) const { return {}; }
    __device__ __forceinline__ float stored(int, float product) const { return product; }
    template <class Column>
    __device__ __forceinline__ float stored(float product, NoRow, int, const Column &, float) const {
        return product;
    }
};

// The nodes at the two ends of the tile's edges, in shared memory.
__shared__ int ends_memory[2][LARGE_TILE];

// The product plus the values that an edge (the row) gathers from its two ends.
template <class T> struct Gathered {
    const T *projected;
    int stride;
    const int *subject, *object;
    int width;
    static constexpr bool reads_row_of_sums = false;

    // Begins to load the ends of `count` edges; they arrive with the first copies of the product.
    __device__ __forceinline__ void begin(int first_row, int count) const {
        for (int i = threadIdx.x; i < count; i += blockDim.x) {
            copy_async<4>(&ends_memory[0][i], subject + first_row + i, 4);
            copy_async<4>(&ends_memory[1][i], object + first_row + i, 4);
        }
    }
    struct Row {
        Adjacent<T> of_subject, of_object;
    };
    struct Rows {
        AdjacentColumns<T> subjects, objects;
        int first_row;
        using Row = typename Gathered::Row;
        __device__ __forceinline__ Row load(int row) const {
            int at = row - first_row;
            return {subjects.load(ends_memory[0][at]), objects.load(ends_memory[1][at])};
        }
    };
    __device__ __forceinline__ Rows rows(int first_row, int column, int columns) const {
        return {adjacent_columns(projected, stride, column, columns),
                adjacent_columns(projected + width, stride, column, columns), first_row};
    }
    template <class Column>
    __device__ __forceinline__ float stored(float product, const Row &row, int i, const Column &, float) const {
        return product + (row.of_subject[i] + row.of_object[i]);
    }
};

// The product divided by the length of a's row.
struct OverLength {
    const float *of_tile; // in shared memory
    int first_row;
    __device__ __forceinline__ void begin(int, int) const {}
    __device__ __forceinline__ float stored(int row, float product) const { return product / of_tile[row - first_row]; }
};

// The product minus along[row] u, the component parallel to u = relu(norm(z)), where norm is the norm whose sums are
// computed. Nothing is subtracted if `along` is null.
template <class T> struct LessAlong {
    const float *along;
    static constexpr bool reads_row_of_sums = true;
    __device__ __forceinline__ void begin(int, int) const {}
    struct Rows {
        const float *along;
        using Row = float;
        __device__ __forceinline__ float load(int row) const { return along == nullptr ? 0.0f : along[row]; }
    };
    __device__ __forceinline__ Rows rows(int, int, int) const { return {along}; }
    __device__ __forceinline__ float stored(float product, float of_row, int,
                                            const typename BackwardSums<T>::Column &column, float z) const {
        // u with the rounding that it had when its length was computed.
        return along == nullptr ? product : fmaf(-rounded<T>(relu_norm(column.norm, z)), of_row, product);
    }
};

// ---- chunks -----------------------------------------------------------------------------------------------------

// Output matrix, with lines as in Operand.
template <class T> struct Output {
    T *values;
    int stride, split;
    long long jump;

    __device__ __forceinline__ T *line(int index) const {
        return values + size_t(index) * stride + (index >= split ? jump : 0);
    }
    // Whether every line begins at a multiple of four columns.
    __device__ __forceinline__ bool is_aligned_by_four() const {
        return is_aligned(values) && stride % COLUMNS_EACH == 0 && jump % COLUMNS_EACH == 0;
    }
};

// Number of rows that the threads of a block handle at once, if they suffice for `rows`: it divides CHUNK_ROWS. Threads
// beyond these rows have no part.
__device__ constexpr int whole_rows(int rows) {
    int at_once = 1;
    while (2 * at_once <= rows) {
        at_once *= 2;
    }
    return at_once;
}

// Stores the values that `add` computes from the products of a chunk: per thread, four columns of every rows_at_once-th
// row.
template <class Core, class T, class Add>
__device__ __forceinline__ void finish_chunk(float *memory, const Output<T> &out, const Place &place, int chunk,
                                             const Add &add, const NoSums &) {
    constexpr int across = Core::Shape::columns / COLUMNS_EACH, rows_at_once = whole_rows(Core::Shape::threads / across);
    int in_tile = int(threadIdx.x) % across * COLUMNS_EACH, column = place.first_column + in_tile;
    int first_row = place.first_row + chunk, count = min(CHUNK_ROWS, place.rows - first_row);
    if (column >= place.columns || int(threadIdx.x) >= across * rows_at_once) {
        return;
    }
    bool whole = column + COLUMNS_EACH <= place.columns && out.is_aligned_by_four();
#pragma unroll
    for (int at = 0; at < CHUNK_ROWS; at += rows_at_once) {
        int in_chunk = at + int(threadIdx.x) / across, row = first_row + in_chunk;
        if (in_chunk >= count) {
            break;
        }
        Four values = load_aligned(&memory[in_chunk * Core::tile_stride + in_tile]).widen();
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            values[i] = add.stored(row, values[i]);
        }
        store_four(out.line(row), column, place.columns, values, whole);
    }
}

// A thread's part of a chunk whose columns are summed: `each` adjacent columns (those in 4 bytes) of every
// rows_at_once-th row. The row with index i belongs to lane i % lanes of the sums.
template <class Core, class T> struct ChunkThread {
    static constexpr int each = Adjacent<T>::count, across = Core::Shape::columns / each;
    static constexpr int rows_at_once = whole_rows(Core::Shape::threads / across), lanes_each = Core::Shape::lanes_each;
    static constexpr int lanes = rows_at_once * lanes_each;
    // Rows whose values from global memory are in flight together, limited by registers.
    static constexpr int most = sizeof(T) == 4 || (Core::Shape::threads > 128 && Core::blocks > 1) ? 8 : 16;
    static constexpr int rows_each = CHUNK_ROWS / rows_at_once;
    static constexpr int group = rows_each < most ? rows_each : most;
    static_assert(group % lanes_each == 0, "the k-th row of a group belongs to the same lane in each");
    int in_tile = int(threadIdx.x) % across * each, lane = int(threadIdx.x) / across;
    bool has_part = lane < rows_at_once;
};

// Stores all adjacent columns of a row, or the first one alone, or none, and rounds `values` to the stored values. Lines
// of bf16 begin at multiples of 16 bytes.
__device__ __forceinline__ void store_columns(float *to, float (&values)[1], bool all, bool) {
    if (all) {
        *to = values[0];
    }
}
__device__ __forceinline__ void store_columns(bf16 *to, float (&values)[2], bool all, bool first) {
    unsigned pair = pack_bf16(values[0], values[1]);
    values[0] = low_bf16(pair);
    values[1] = high_bf16(pair);
    if (all) {
        *reinterpret_cast<unsigned *>(to) = pair;
    }
    if (first) {
        to->bits = static_cast<unsigned short>(pair);
    }
}

// The chunk of a product whose columns are summed: stores the values, and leaves the sums for the merge.
template <class Core, class T, class Add, class Sums>
__device__ __forceinline__ void finish_chunk(float *memory, const Output<T> &out, const Place &place, int chunk,
                                             const Add &add, const Sums &sums) {
    using Thread = ChunkThread<Core, T>;
    constexpr int each = Thread::each, rows_at_once = Thread::rows_at_once, group = Thread::group;
    constexpr int lanes_each = Thread::lanes_each, lanes = Thread::lanes;
    Thread thread;
    int column = place.first_column + thread.in_tile, first_row = place.first_row + chunk;
    int count = min(CHUNK_ROWS, place.rows - first_row);
    if (count <= 0) {
        return; // the whole block
    }
    float2 own[lanes_each][each] = {};
    if (column < place.columns && thread.has_part) {
        typename Sums::Column of_column[lanes_each][each] = {};
#pragma unroll
        for (int i = 0; i < each; i++) {
#pragma unroll
            for (int lane = 0; lane < lanes_each; lane++) {
                of_column[lane][i].begin(sums, min(column + i, place.columns - 1));
            }
        }
        auto rows_of_sums = sums.rows(column, place.columns);
        auto rows_of_add = add.rows(place.first_row, column, place.columns);
        bool reads = sums.wanted() || Add::reads_row_of_sums;
        // Number of rows from the thread's first one on, and of those whose columns all exist, or only the first one.
        int left = count - thread.lane, of_all = column + each <= place.columns ? left : 0, of_first = left - of_all;
        T *to = out.line(first_row + thread.lane) + column;
        size_t step = size_t(rows_at_once) * out.stride;
        // The compiler may not move a load ahead of a store that might alias it. A group of rows is therefore loaded
        // before any of them is stored. Behind the last row it is loaded again, which costs less than a branch.
#pragma unroll
        for (int first = 0; first < CHUNK_ROWS; first += group * rows_at_once) {
            typename Sums::Rows::Row of_row[group] = {};
            typename Add::Rows::Row add_row[group] = {};
            auto row_of = [&](int k) { return first + k * rows_at_once + thread.lane; };
            if (reads) {
#pragma unroll
                for (int k = 0; k < group; k++) {
                    of_row[k] = rows_of_sums.load(first_row + min(row_of(k), count - 1));
                }
            }
#pragma unroll
            for (int k = 0; k < group; k++) {
                add_row[k] = rows_of_add.load(first_row + min(row_of(k), count - 1));
            }
#pragma unroll
            for (int k = 0; k < group; k++) {
                // Rows that do not exist are computed like the others: only their effects are left out.
                int at = first + k * rows_at_once;
                float values[each];
#pragma unroll
                for (int i = 0; i < each; i++) {
                    float product = memory[row_of(k) * Core::tile_stride + thread.in_tile + i];
                    values[i] = add.stored(product, add_row[k], i, of_column[k % lanes_each][i], of_row[k][i]);
                }
                store_columns(to, values, at < of_all, at < of_first);
                to += step;
#pragma unroll
                for (int i = 0; i < each; i++) {
                    of_column[k % lanes_each][i].add(of_row[k][i], values[i], first == 0 && k < lanes_each, at < left);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < each; i++) {
#pragma unroll
            for (int lane = 0; lane < lanes_each; lane++) {
                int of_sums = thread.lane + lane * rows_at_once;
                own[lane][i] = of_column[lane][i].result(max(count - of_sums + lanes - 1, 0) / lanes);
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
            if (thread.has_part) {
                of_lanes[of_sums * Core::Shape::columns + thread.in_tile + i] = own[lane][i];
            }
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
#pragma unroll
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
    constexpr int lanes = at_once * Core::Shape::lanes_each;
    if (thread.lane >= at_once) {
        thread.lane = lanes; // more threads than columns: no part
    }
    int chunks = (min(Core::Shape::rows, place.rows - place.first_row) + CHUNK_ROWS - 1) / CHUNK_ROWS;
    finish_columns<lanes, columns, at_once>(sums.memory, sums.merge, thread, place.rows, place.columns,
                                            place.first_row / CHUNK_ROWS, chunks, reinterpret_cast<Pair *>(memory));
}
