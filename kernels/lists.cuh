// lists: compressed lists of a batch, as in src/backend/cuda/launchers/lists.rs, and how kernels read them.
#pragma once

#include "common.cuh"

// For each of n rows, a list of edges or of messages (2 edge + role; role 0 subject, 1 object).
struct ListsArguments {
    const int *offsets;   // [n + 1]
    const int *entries;
    const int *row_count; // [1]: n
};

// Number of rows that are loaded before the first of them is used: their latencies overlap.
constexpr int LISTED_AT_ONCE = 8;

// Number of rows that are loaded at once: `most`, or fewer if a row takes several accesses, which need more registers.
template <class Columns, int most>
constexpr int rows_at_once = most / Columns::accesses > 2 ? most / Columns::accesses : 2;

// Calls share.take<at_once, all>(first, count) for shares of first..end, in order: whole ones, then one for the rest, of
// half the size if that is enough. In a share that may not be whole, what lies behind its last row is that row again,
// which costs less than a branch between the loads.
template <int at_once, class Share>
__device__ __forceinline__ void for_each_share(int first, int end, const Share &share) {
    for (; first + at_once <= end; first += at_once) {
        share.template take<at_once, true>(first, at_once);
    }
    if (end - first > at_once / 2) {
        share.template take<at_once, false>(first, end - first);
    } else if (first < end) {
        share.template take<at_once / 2, false>(first, end - first);
    }
}

template <class Load, class Use> struct RowShare {
    const Load &load;
    const Use &use;

    template <int at_once, bool all> __device__ __forceinline__ void take(int first, int count) const {
        decltype(load(0)) loaded[at_once];
#pragma unroll
        for (int k = 0; k < at_once; k++) {
            loaded[k] = load(first + (all ? k : min(k, count - 1)));
        }
#pragma unroll
        for (int k = 0; k < at_once; k++) {
            if (all || k < count) {
                use(first + k, loaded[k]);
            }
        }
    }
};

// Calls use(row, load(row)) for the rows first..end, in order.
template <int at_once = LISTED_AT_ONCE, class Load, class Use>
__device__ __forceinline__ void for_each_row(int first, int end, const Load &load, const Use &use) {
    for_each_share<at_once>(first, end, RowShare<Load, Use>{load, use});
}

template <class Load, class Use> struct EntryShare {
    const int *entries;
    const Load &load;
    const Use &use;

    template <int at_once, bool all> __device__ __forceinline__ void take(int first, int count) const {
        int entry[at_once];
#pragma unroll
        for (int k = 0; k < at_once; k++) {
            entry[k] = entries[first + (all ? k : min(k, count - 1))];
        }
        decltype(load(0)) loaded[at_once];
#pragma unroll
        for (int k = 0; k < at_once; k++) {
            loaded[k] = load(entry[k]);
        }
#pragma unroll
        for (int k = 0; k < at_once; k++) {
            if (all || k < count) {
                use(entry[k], loaded[k]);
            }
        }
    }
};

// Calls use(entry, load(entry)) for the entries first..end of the lists, in order.
template <int at_once = LISTED_AT_ONCE, class Load, class Use>
__device__ __forceinline__ void for_each_entry(const int *entries, int first, int end, const Load &load,
                                               const Use &use) {
    for_each_share<at_once>(first, end, EntryShare<Load, Use>{entries, load, use});
}

// ---- long lists ---------------------------------------------------------------------------------------------------

// Lists that may be long are cut into chunks, one block each. Chunks have numbers without gaps between the lists of a
// row, but for one unused number at most behind each: row n has those from n + offsets[n] / CHUNK_ENTRIES on.
constexpr int CHUNK_ENTRIES = 64; // the same in edge_hidden.rs

struct ListChunk {
    int row, first, end; // entries
    int first_chunk;     // of the row
    int count;           // number of the row's chunks, at least one; 0: the number is not used
};

__device__ __forceinline__ int first_chunk(const int *offsets, int row) {
    return row + load_early(offsets + row) / CHUNK_ENTRIES;
}

// Chunk with this number, found before begin_kernel. All lanes of a warp search together, in 32 places at a time.
__device__ __forceinline__ ListChunk find_chunk(const ListsArguments &lists, int number) {
    const int *offsets = lists.offsets;
    int row = 0, end = load_early(lists.row_count), lane = threadIdx.x % WARP_LANES;
    if (end == 0 || number >= first_chunk(offsets, end)) {
        return {};
    }
    while (end - row > 1) { // first_chunk of row <= number < first_chunk of end
        int step = (end - row + WARP_LANES - 1) / WARP_LANES, at = row + lane * step;
        unsigned reached = __ballot_sync(FULL_WARP, at < end && first_chunk(offsets, at) <= number);
        row += (__popc(reached) - 1) * step;
        end = min(end, row + step);
    }
    int begin = load_early(offsets + row), length = load_early(offsets + row + 1) - begin;
    int of_row = row + begin / CHUNK_ENTRIES, count = max(1, (length + CHUNK_ENTRIES - 1) / CHUNK_ENTRIES);
    int index = number - of_row, first = begin + index * CHUNK_ENTRIES;
    if (index >= count) {
        return {};
    }
    return {row, first, min(first + CHUNK_ENTRIES, begin + length), of_row, count};
}
