// linear_epilogue: what becomes of a tile's products (linear.cuh), chunk by chunk of 64 rows, as a core gives them away:
//   what is stored of a product   itself, with what an edge gathers, over a row's length, or less what lies along a row
//   a column's sums over a chunk  statistics, or those of batch norm's backward, of the values as they are stored
//   the merge of chunks           by the last block of these columns (column_sums.cuh)
#pragma once

#include "matmul.cuh"

// ---- sums of a column over a chunk ------------------------------------------------------------------------------

// Nothing.
struct NoSums {
    ColumnMemory memory = {};
    __device__ __forceinline__ bool wanted() const { return false; }
    struct Column {
        __device__ __forceinline__ void begin(const NoSums &, int) {}
        __device__ __forceinline__ void add(int, float) {}
        __device__ __forceinline__ float2 result() const { return make_float2(0.0f, 0.0f); }
    };
    static __device__ __forceinline__ float2 join(float2 first, int, float2, int) { return first; }
};

// Mean and sum of squared deviations from it (M2), taken around the first value: free of cancellation.
struct Statistics {
    ColumnMemory memory;
    StatisticsMerge merge;
    __device__ __forceinline__ bool wanted() const { return memory.partials != nullptr; }
    struct Column {
        float around, sum, squares;
        int count;
        __device__ __forceinline__ void begin(const Statistics &, int) {}
        __device__ __forceinline__ void add(int, float value) {
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
    // Of two sets of rows (Chan et al.).
    static __device__ __forceinline__ float2 join(float2 first, int first_count, float2 second, int second_count) {
        if (second_count == 0) {
            return first;
        }
        float share = float(second_count) / float(first_count + second_count), offset = second.x - first.x;
        return make_float2(first.x + offset * share, first.y + second.y + offset * offset * share * float(first_count));
    }
};

// Of the backward pass of relu(norm(z)), given the gradient by its output: sums of d and of d (z - mean).
template <class T> struct BackwardSums {
    ColumnMemory memory;
    BackwardMerge merge;
    const T *__restrict__ z;
    int stride;
    NormRows norm;
    __device__ __forceinline__ bool wanted() const { return memory.partials != nullptr; }
    struct Column {
        NormColumn norm;
        const T *z;
        int stride;
        float sum, product;
        __device__ __forceinline__ void begin(const BackwardSums &of, int column) {
            norm = of.norm.column(column);
            z = of.z + column;
            stride = of.stride;
        }
        __device__ __forceinline__ float activated(int row) const {
            return relu_norm(norm, widen(z[size_t(row) * stride]));
        }
        __device__ __forceinline__ void add(int row, float value) {
            float at = widen(z[size_t(row) * stride]);
            float d = norm_value(norm, at) > 0.0f ? value : 0.0f;
            sum += d;
            product += d * (at - norm.mean);
        }
        __device__ __forceinline__ float2 result() const { return make_float2(sum, product); }
    };
    static __device__ __forceinline__ float2 join(float2 first, int, float2 second, int) {
        return make_float2(first.x + second.x, first.y + second.y);
    }
};

// ---- what is stored ---------------------------------------------------------------------------------------------

// What is stored of the products of a column, so many rows at once as registers allow: these themselves,
struct Alone {
    static constexpr int unrolled = 4;
    struct Column {
        __device__ __forceinline__ void begin(const Alone &, int) {}
        template <class Sums> __device__ __forceinline__ float stored(int, float product, const Sums &) const {
            return product;
        }
    };
};

// with what an edge gathers from its ends,
template <class T> struct Gathered {
    const T *__restrict__ projected;
    int stride;
    const int *__restrict__ subject, *__restrict__ object;
    int width;
    static constexpr int unrolled = 4;
    struct Column {
        Gathered of;
        int column;
        __device__ __forceinline__ void begin(const Gathered &gathered, int index) {
            of = gathered;
            column = index;
        }
        template <class Sums>
        __device__ __forceinline__ float stored(int row, float product, const Sums &) const {
            const T *of_subject = of.projected + size_t(of.subject[row]) * of.stride;
            const T *of_object = of.projected + size_t(of.object[row]) * of.stride + of.width;
            return product + (widen(of_subject[column]) + widen(of_object[column]));
        }
    };
};

// over the length of a's row,
struct OverLength {
    const float *of_tile; // shared
    int first_row;
    static constexpr int unrolled = 4;
    struct Column {
        const float *of_tile;
        int first_row;
        __device__ __forceinline__ void begin(const OverLength &lengths, int) {
            of_tile = lengths.of_tile;
            first_row = lengths.first_row;
        }
        template <class Sums>
        __device__ __forceinline__ float stored(int row, float product, const Sums &) const {
            return product / of_tile[row - first_row];
        }
    };
};

// or less the part along the row u = relu(norm(z)), of whose norm the sums are: u times `along`, by row; all where that is
// null.
template <class T> struct LessAlong {
    const float *__restrict__ along;
    static constexpr int unrolled = 2;
    struct Column {
        const float *along;
        __device__ __forceinline__ void begin(const LessAlong &of, int) { along = of.along; }
        __device__ __forceinline__ float stored(int row, float product,
                                                const typename BackwardSums<T>::Column &of_column) const {
            // u as the product that made the length has read it.
            return along == nullptr ? product : fmaf(-rounded<T>(of_column.activated(row)), along[row], product);
        }
    };
};

// ---- chunks -----------------------------------------------------------------------------------------------------

// What a thread does with a chunk of the tile, in shared memory: it takes `each` columns, as many as 4 bytes hold, of
// every rows_at_once-th row.
template <class Core, class T> struct ChunkThread {
    static constexpr int each = 4 / int(sizeof(T)), across = Core::Shape::columns / each;
    static constexpr int rows_at_once = Core::Shape::threads / across;
    int in_tile = int(threadIdx.x) % across * each, lane = int(threadIdx.x) / across;
};

// A matrix to write, lines as in Operand.
template <class T> struct Output {
    T *__restrict__ values;
    int stride, split;
    long long jump;

    __device__ __forceinline__ T *line(int index) const {
        return values + size_t(index) * stride + (index >= split ? jump : 0);
    }
};

constexpr int NO_SPLIT = 0x7fffffff;

// Of neighbouring columns, and what they are when they are read back. Lines of bf16 begin at multiples of 16 bytes.
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

// A chunk of the tile: what `add` makes of each product by its column and row is stored, and of what was stored the
// columns' two values are left for the merge.
template <class Core, class T, class Add, class Sums>
__device__ __forceinline__ void finish_chunk(float *memory, const Output<T> &out, const Place &place, int chunk,
                                             const Add &add, const Sums &sums) {
    using Thread = ChunkThread<Core, T>;
    constexpr int each = Thread::each, rows_at_once = Thread::rows_at_once;
    Thread thread;
    int column = place.first_column + thread.in_tile, first_row = place.first_row + chunk;
    int count = min(CHUNK_ROWS, place.rows - first_row);
    if (count <= 0) {
        return; // the whole block
    }
    float2 own[each] = {};
    if (column < place.columns) {
        typename Sums::Column of_column[each] = {};
        typename Add::Column add_column[each] = {};
#pragma unroll
        for (int i = 0; i < each; i++) {
            of_column[i].begin(sums, min(column + i, place.columns - 1));
            add_column[i].begin(add, min(column + i, place.columns - 1));
        }
#pragma unroll Add::unrolled
        for (int row = thread.lane; row < count; row += rows_at_once) {
            float values[each];
#pragma unroll
            for (int i = 0; i < each; i++) {
                float product = memory[row * Core::tile_stride + thread.in_tile + i];
                bool inside = column + i < place.columns;
                values[i] = inside ? add_column[i].stored(first_row + row, product, of_column[i]) : 0.0f;
            }
            store_columns(out.line(first_row + row) + column, values, column + each <= place.columns);
            if (sums.wanted()) {
#pragma unroll
                for (int i = 0; i < each; i++) {
                    of_column[i].add(first_row + row, values[i]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < each; i++) {
            own[i] = of_column[i].result();
        }
    }
    if (!sums.wanted()) {
        return; // the whole block
    }
    __syncthreads(); // the chunk was read
    float2 *of_lanes = reinterpret_cast<float2 *>(memory);
#pragma unroll
    for (int i = 0; i < each; i++) {
        of_lanes[thread.lane * Core::Shape::columns + thread.in_tile + i] = own[i];
    }
    __syncthreads();
    if (thread.lane > 0) {
        return;
    }
#pragma unroll
    for (int i = 0; i < each; i++) {
        if (column + i < place.columns) {
            float2 all = own[i];
            int rows = (count + rows_at_once - 1) / rows_at_once;
            for (int other = 1; other < rows_at_once; other++) {
                int of_other = max(count - other + rows_at_once - 1, 0) / rows_at_once;
                all = Sums::join(all, rows, of_lanes[other * Core::Shape::columns + thread.in_tile + i], of_other);
                rows += of_other;
            }
            float *to = sums.memory.chunk(first_row / CHUNK_ROWS, place.columns) + column + i;
            to[0] = all.x;
            to[place.columns] = all.y;
        }
    }
}

// After the tile's chunks: the last block of these columns merges them.
template <class Core> __device__ __forceinline__ void finish_sums(float *, const Place &, const NoSums &) {}

template <class Core, class Sums>
__device__ __forceinline__ void finish_sums(float *memory, const Place &place, const Sums &sums) {
    constexpr int columns = Core::Shape::columns, lanes = Core::Shape::threads / columns;
    if (!sums.wanted()) {
        return;
    }
    __syncthreads(); // the last chunk's lanes were read
    int in_strip = threadIdx.x % columns;
    StripThread thread = {place.first_column / columns, (place.columns + columns - 1) / columns,
                          place.first_column + in_strip, in_strip, int(threadIdx.x / columns)};
    int chunks = (min(Core::Shape::rows, place.rows - place.first_row) + CHUNK_ROWS - 1) / CHUNK_ROWS;
    finish_columns<lanes, columns>(sums.memory, sums.merge, thread, place.rows, place.columns,
                                   place.first_row / CHUNK_ROWS, chunks, reinterpret_cast<Pair *>(memory));
}
