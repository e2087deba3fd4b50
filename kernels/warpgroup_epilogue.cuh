// warpgroup_epilogue: what follows the products of a warpgroup's tile (matmul_warpgroup.cuh). All threads of the block
// take part: they store the tile, and sum its columns over each 64 rows, with the values and sums of linear_epilogue.cuh.
#pragma once

#include "matmul_warpgroup.cuh"
#include "weight_parts.cuh"

// A thread's sums of one column.
template <class Sums> struct EpilogueColumn : Sums::Column {
    static constexpr bool exists = true;
};
template <> struct EpilogueColumn<NoSums> {
    static constexpr bool exists = false;
};

// Products of adjacent columns that a thread stores at once.
__device__ __forceinline__ void load_products(float (&to)[1], const float *from) { to[0] = *from; }
__device__ __forceinline__ void load_products(float (&to)[2], const float *from) {
    float2 both = *reinterpret_cast<const float2 *>(from);
    to[0] = both.x;
    to[1] = both.y;
}

// Stores adjacent columns, those in 4 bytes, of every COLUMN_LANES-th of `count` rows of a chunk, from `lane` on. Leaves their
// sums for the merge. `is_full`: there are CHUNK_ROWS rows.
template <bool is_full, class Tile, class T, class Add, class Sums>
__device__ __forceinline__ void finish_rows(const WarpgroupMemory<Tile> &memory, const Output<T> &out,
                                            const Place &place, int chunk, int count, int lane, int in_tile, const Add &add,
                                            const Sums &sums) {
    constexpr int rows_each = CHUNK_ROWS / COLUMN_LANES, each = Adjacent<T>::count;
    using Column = EpilogueColumn<Sums>;
    int first = chunk * CHUNK_ROWS, column = place.first_column + in_tile, first_row = place.first_row + first;
    bool all = column + each <= place.columns;
    Column of_column[each] = {};
    auto rows_of_add = [&] {
        if constexpr (Column::exists) {
            return add.rows(place.first_row, column, place.columns);
        } else {
            return NoRows{};
        }
    }();
    auto rows_of_sums = [&] {
        if constexpr (Column::exists) {
            return sums.rows(column, place.columns);
        } else {
            return NoRows{};
        }
    }();
    bool reads = false;
    if constexpr (Column::exists) {
        reads = sums.wanted() || Add::reads_row_of_sums;
#pragma unroll
        for (int i = 0; i < each; i++) {
            of_column[i].begin(sums, min(column + i, place.columns - 1));
        }
    }
    // The rows are loaded before any of them is stored: their latencies overlap. Behind the last one it is loaded again.
    auto row_of = [&](int k) { return is_full ? lane + k * COLUMN_LANES : min(lane + k * COLUMN_LANES, count - 1); };
    const float *tile = memory.tile() + first * Tile::row_stride + in_tile;
    typename decltype(rows_of_sums)::Row of_row[rows_each] = {};
    typename decltype(rows_of_add)::Row add_row[rows_each] = {};
    if (reads) {
#pragma unroll
        for (int k = 0; k < rows_each; k++) {
            of_row[k] = rows_of_sums.load(first_row + row_of(k));
        }
    }
#pragma unroll
    for (int k = 0; k < rows_each; k++) {
        add_row[k] = rows_of_add.load(first_row + row_of(k));
    }
#pragma unroll
    for (int k = 0; k < rows_each; k++) {
        int row = row_of(k);
        bool exists = is_full || lane + k * COLUMN_LANES < count;
        float values[each];
        load_products(values, tile + row * Tile::row_stride);
#pragma unroll
        for (int i = 0; i < each; i++) {
            if constexpr (Column::exists) {
                values[i] = add.stored(values[i], add_row[k], i, of_column[i], of_row[k][i]);
            } else {
                values[i] = add.stored(first_row + row, values[i]);
            }
        }
        store_columns(out.line(first_row + row) + column, values, exists && all, exists && !all);
        if constexpr (Column::exists) {
#pragma unroll
            for (int i = 0; i < each; i++) {
                of_column[i].add(of_row[k][i], values[i], k == 0, exists);
            }
        }
    }
    if constexpr (Column::exists) {
#pragma unroll
        for (int i = 0; i < each; i++) {
            memory.lanes()[(chunk * COLUMN_LANES + lane) * Tile::columns + in_tile + i] =
                of_column[i].result(max(count - lane + COLUMN_LANES - 1, 0) / COLUMN_LANES);
        }
    }
}

// Merges the lanes' sums of each 64 rows.
template <class Tile, class Sums>
__device__ __forceinline__ void merge_lanes(const WarpgroupMemory<Tile> &memory, const Place &place, int rows,
                                            const Sums &sums) {
    constexpr int lanes = COLUMN_LANES;
    int wanted = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS * Tile::columns;
    for (unsigned i = threadIdx.x; int(i) < wanted; i += Tile::threads) {
        int chunk = int(i / Tile::columns), of_chunk = int(i % Tile::columns);
        if (place.first_column + of_chunk < place.columns) {
            int count = min(CHUNK_ROWS, rows - chunk * CHUNK_ROWS), joined = (count + lanes - 1) / lanes;
            const float2 *of_lanes = memory.lanes() + chunk * lanes * Tile::columns + of_chunk;
            float2 all = of_lanes[0];
            for (int other = 1; other < lanes; other++) {
                int of_other = max(count - other + lanes - 1, 0) / lanes;
                all = Sums::join(all, joined, of_lanes[other * Tile::columns], of_other);
                joined += of_other;
            }
            float *to = sums.memory.chunk(place.first_row / CHUNK_ROWS + chunk, place.columns) + place.first_column;
            to[of_chunk] = all.x;
            to[place.columns + of_chunk] = all.y;
        }
    }
}

// Stores the tile and its sums; `add` maps a product to the stored value.
template <class Tile, class T, class Add, class Sums>
__device__ __forceinline__ void finish_tile(const WarpgroupMemory<Tile> &memory, const Output<T> &out, const Place &place,
                                            const Add &add, const Sums &sums) {
    constexpr int each = Adjacent<T>::count, across = Tile::columns / each;
    int rows = min(Tile::rows, place.rows - place.first_row), chunks = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
#pragma unroll 1
    for (int at = threadIdx.x; at < chunks * COLUMN_LANES * across; at += Tile::threads) {
        int in_tile = int(unsigned(at) % across) * each, lane = int(unsigned(at) / across % COLUMN_LANES);
        int chunk = int(unsigned(at) / (across * COLUMN_LANES)), count = min(CHUNK_ROWS, rows - chunk * CHUNK_ROWS);
        if (place.first_column + in_tile >= place.columns) {
            continue;
        }
        if (count == CHUNK_ROWS) {
            finish_rows<true>(memory, out, place, chunk, count, lane, in_tile, add, sums);
        } else {
            finish_rows<false>(memory, out, place, chunk, count, lane, in_tile, add, sums);
        }
    }
    if constexpr (EpilogueColumn<Sums>::exists) {
        if (sums.wanted()) {
            __syncthreads();
            merge_lanes(memory, place, rows, sums);
        }
    }
}

// The last block of the tile's columns merges the sums of all rows. Without rows, one block of each strip does it.
template <class Tile, class Sums>
__device__ __forceinline__ void finish_tile_sums(const WarpgroupMemory<Tile> &memory, const Place &place,
                                                 const Sums &sums) {
    if constexpr (EpilogueColumn<Sums>::exists) {
        constexpr int at_once = Tile::threads / Tile::columns;
        static_assert(at_once <= COLUMN_LANES, "a lane for each thread");
        if (!sums.wanted()) {
            return;
        }
        // Threads beyond the columns have no lane.
        int lane = int(threadIdx.x) / Tile::columns, in_strip = int(threadIdx.x) % Tile::columns;
        StripThread thread = {place.first_column / Tile::columns, (place.columns + Tile::columns - 1) / Tile::columns,
                              place.first_column + in_strip, in_strip, lane < at_once ? lane : COLUMN_LANES};
        int chunks = (min(Tile::rows, place.rows - place.first_row) + CHUNK_ROWS - 1) / CHUNK_ROWS;
        finish_columns<COLUMN_LANES, Tile::columns, at_once>(sums.memory, sums.merge, thread, place.rows, place.columns,
                                                place.first_row / CHUNK_ROWS, chunks,
                                                reinterpret_cast<Pair *>(memory.bytes));
    }
}

// ---- gradients of weights ---------------------------------------------------------------------------------------

// The transpose of a tile: its columns are rows of `out`.
template <class Tile> struct TransposedShape {
    static constexpr int rows = Tile::columns, columns = Tile::rows, threads = Tile::threads;
};

// Stores the transpose of the tile.
template <class Tile>
__device__ __forceinline__ void store_transposed(const WarpgroupMemory<Tile> &memory, const Output<float> &out,
                                                 const Place &place) {
    constexpr int across = Tile::rows / COLUMNS_EACH, rows_at_once = Tile::threads / across;
    int first_row = int(threadIdx.x) / across, in_tile = int(threadIdx.x) % across * COLUMNS_EACH;
    int column = place.first_row + in_tile;
    if (column >= place.rows) {
        return;
    }
    bool whole = column + COLUMNS_EACH <= place.rows && out.is_aligned_by_four();
    int rows = min(Tile::columns, place.columns - place.first_column);
#pragma unroll 2
    for (int row = first_row; row < rows; row += rows_at_once) {
        Four values = load_aligned(memory.tile() + row * Tile::column_stride + in_tile).widen();
        store_four(out.line(place.first_column + row), column, place.rows, values, whole);
    }
}

// Adds up `count` parts of the transposed tile in order. Each part has all rows of `out`, without padding.
template <class Tile>
__device__ __forceinline__ void add_transposed_parts(const Output<float> &out, const float *parts, int count,
                                                     const Place &place) {
    Place transposed = {place.columns, place.rows, place.first_column, place.first_row, 0, 0};
    bool whole = place.rows % COLUMNS_EACH == 0 && out.is_aligned_by_four(); // so are the parts
    add_parts<TransposedShape<Tile>, 2>(out, parts, count, transposed, whole);
}
