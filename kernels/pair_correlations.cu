// pair_correlations: what Kendall's tau-b, Spearman's rho and Pearson's r of all n pairs of a score x and a similarity y
// follow from, exactly, in O(n log n).
//
//   round by x: sort the pairs (x, y), by x and then y; count ties; give each pair the rank of its x: (y, rank x)
//   round by y: the same of the pairs (y, rank x)                                                  : (rank x, rank y)
//   sum the products of the ranks
//
// Ascending by x, a pair of pairs is discordant exactly when its y stand in the wrong order (where x ties, y ascends), and
// a merge sort meets each such inversion once: when an entry of the right run goes before k of the left one, those are k.
// So the second round's inversions are the discordant pairs (Knight, 1966).
//
// in   pairs [n]: keys of x and y (order.cuh), written by pair_keys from strips of both matrices
// out  counts [12], added to, so they begin as zeros: of each round inversions, pairs tied in the first key, pairs tied in
//      both; of u u, v v, u v, where u is the number of pairs below x less that of those above it and v the same of y, sums
//      of the upper and of the lower 32 bits (sums of the products themselves need more than 64)
//      moments [P, 5], by block: sums of x, y, and of dx dx, dy dy, dx dy of the deviations from the means
// grid one block per tile of 2,048 pairs; pair_sums and pair_deviations: P blocks, by n alone; pair_keys: one per row
// cost a sort reads and writes 16 n bytes once for its tiles and once for each of log2(n / 2048) merges: bandwidth
//
// Counts are integers, which may be added in any order; sums run by thread, then over threads, in one order:
// bit-reproducible.

#include "order.cuh"

typedef long long Index;
typedef long long Count;

// As in pair_correlations.rs.
constexpr int THREADS = 256;
constexpr int EACH = 8; // entries that a thread sorts or merges
constexpr int TILE = THREADS * EACH;
constexpr int MOMENTS = 5;

// 16 bytes, read at once.
struct __align__(16) Pair {
    Key first, second;
};

__device__ __forceinline__ bool less(Pair a, Pair b) {
    return a.first < b.first || (a.first == b.first && a.second < b.second);
}

__device__ __forceinline__ void add_to(Count *total, Count count) {
    atomicAdd(reinterpret_cast<unsigned long long *>(total), static_cast<unsigned long long>(count));
}

// The sum over the block, added to a total.
__device__ __forceinline__ void add_block(Count *total, Count count, Count *partial) {
    count = block_sum(count, partial);
    if (threadIdx.x == 0) {
        add_to(total, count);
    }
}

// ---- pairs -------------------------------------------------------------------------------------------------------

// Rows first_row.. of both [images, images] matrices, of which the part above the diagonal is kept, row after row.
extern "C" __global__ void __launch_bounds__(THREADS)
pair_keys(Pair *__restrict__ pairs, const double *__restrict__ scores, const double *__restrict__ similarities, int columns,
          int first_row) {
    begin_kernel();
    int row = first_row + int(blockIdx.x);
    size_t start = size_t(blockIdx.x) * columns;
    // Pairs of earlier rows, less the columns up to the diagonal of this one.
    Index before = Index(row) * (2 * Index(columns) - row - 1) / 2 - (row + 1);
    for (int column = row + 1 + int(threadIdx.x); column < columns; column += THREADS) {
        pairs[before + column] = {key_of(scores[start + column]), key_of(clamped(similarities[start + column]))};
    }
}

// ---- moments -----------------------------------------------------------------------------------------------------

// This block's pairs, for each of its threads: always the same ones.
template <class Visit> __device__ __forceinline__ void for_own_pairs(const Pair *pairs, Index n, Visit visit) {
    Index threads = Index(gridDim.x) * THREADS;
    for (Index i = Index(blockIdx.x) * THREADS + threadIdx.x; i < n; i += threads) {
        visit(value_of(pairs[i].first), value_of(pairs[i].second));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
pair_sums(double *__restrict__ moments, const Pair *__restrict__ pairs, Index n) {
    begin_kernel();
    __shared__ double partial[THREADS / WARP_LANES];
    double sum_x = 0.0, sum_y = 0.0;
    for_own_pairs(pairs, n, [&](double x, double y) {
        sum_x += x;
        sum_y += y;
    });
    double sums[] = {block_sum(sum_x, partial), block_sum(sum_y, partial)};
    if (threadIdx.x == 0) {
        moments[blockIdx.x * MOMENTS] = sums[0];
        moments[blockIdx.x * MOMENTS + 1] = sums[1];
    }
}

// Of the sums of all blocks, this one.
__device__ __forceinline__ double sum_of_blocks(const double *moments, int which, double *partial) {
    double sum = 0.0;
    for (unsigned block = threadIdx.x; block < gridDim.x; block += THREADS) {
        sum += moments[block * MOMENTS + which];
    }
    return block_sum(sum, partial);
}

// After pair_sums with the same grid.
extern "C" __global__ void __launch_bounds__(THREADS)
pair_deviations(double *moments, const Pair *__restrict__ pairs, Index n) {
    begin_kernel();
    __shared__ double partial[THREADS / WARP_LANES];
    double share = 1.0 / double(n);
    double mean_x = sum_of_blocks(moments, 0, partial) * share, mean_y = sum_of_blocks(moments, 1, partial) * share;
    double xx = 0.0, yy = 0.0, xy = 0.0;
    for_own_pairs(pairs, n, [&](double x, double y) {
        double dx = x - mean_x, dy = y - mean_y;
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    });
    double sums[] = {block_sum(xx, partial), block_sum(yy, partial), block_sum(xy, partial)};
    if (threadIdx.x == 0) {
        for (int i = 0; i < 3; i++) {
            moments[blockIdx.x * MOMENTS + 2 + i] = sums[i];
        }
    }
}

// ---- sorting -----------------------------------------------------------------------------------------------------

// A tile's entries in shared memory. One place in nine stays empty, so that threads that each walk EACH entries are on
// different banks.
struct Tile {
    Pair places[TILE + THREADS];

    __device__ __forceinline__ Pair &operator[](unsigned entry) { return places[entry + entry / EACH]; }

    // From and to memory, neighbouring threads neighbouring entries.
    __device__ __forceinline__ void load(const Pair *from, int first, int count) {
        for (int i = threadIdx.x; i < count; i += THREADS) {
            (*this)[first + i] = from[i];
        }
    }
    __device__ __forceinline__ void store(Pair *to, int count) {
        for (int i = threadIdx.x; i < count; i += THREADS) {
            to[i] = (*this)[i];
        }
    }
    // Each thread's own entries, and all threads wait before and after.
    __device__ __forceinline__ void put(const Pair (&own)[EACH]) {
        __syncthreads(); // the entries there may still be being read
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            (*this)[threadIdx.x * EACH + i] = own[i];
        }
        __syncthreads();
    }
};

// Two sorted runs of a tile, one behind the other.
struct Runs {
    int left, right, end;
};

// How many of the first `diagonal` entries of the merged run come from the left one: equal ones before the right's.
__device__ __forceinline__ int left_share(Tile &tile, Runs runs, int diagonal) {
    int low = max(0, diagonal - (runs.end - runs.right)), high = min(diagonal, runs.right - runs.left);
    while (low < high) {
        int middle = (low + high) / 2;
        if (less(tile[runs.right + diagonal - 1 - middle], tile[runs.left + middle])) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

// EACH entries of the merged run, from `diagonal` on, as far as there are; returns their inversions. `beyond` entries of
// the left run lie behind the tile.
__device__ __forceinline__ Count merge(Pair (&merged)[EACH], Tile &tile, Runs runs, int diagonal, Index beyond) {
    int share = left_share(tile, runs, diagonal), i = runs.left + share, j = runs.right + diagonal - share;
    Count inversions = 0;
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        bool left = i < runs.right, right = j < runs.end;
        if (left && !(right && less(tile[j], tile[i]))) {
            merged[k] = tile[i++];
        } else if (right) {
            merged[k] = tile[j++];
            inversions += runs.right - i + beyond;
        }
    }
    return inversions;
}

// Sorts each tile in place and counts its inversions.
extern "C" __global__ void __launch_bounds__(THREADS)
pair_sort_tiles(Pair *__restrict__ pairs, Count *__restrict__ inversions, Index n) {
    begin_kernel();
    __shared__ Tile tile;
    __shared__ Count partial[THREADS / WARP_LANES];
    Pair *own_tile = pairs + Index(blockIdx.x) * TILE;
    int count = int(min(n - Index(blockIdx.x) * TILE, Index(TILE)));
    tile.load(own_tile, 0, count);
    __syncthreads();
    Pair own[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int entry = int(threadIdx.x) * EACH + i;
        own[i] = entry < count ? tile[entry] : Pair{GREATEST_KEY, GREATEST_KEY}; // goes last, and stays there
    }
    // Exchanges of neighbours, alternately at even and odd places: each removes one inversion.
    Count found = 0;
#pragma unroll
    for (int step = 0; step < EACH; step++) {
#pragma unroll
        for (int i = step % 2; i + 1 < EACH; i += 2) {
            if (less(own[i + 1], own[i])) {
                Pair upper = own[i];
                own[i] = own[i + 1];
                own[i + 1] = upper;
                found++;
            }
        }
    }
    for (int run = EACH; run < TILE; run *= 2) {
        tile.put(own);
        int first = int(threadIdx.x) * EACH, left = first / (2 * run) * (2 * run);
        found += merge(own, tile, {left, left + run, left + 2 * run}, first - left, 0);
    }
    tile.put(own);
    tile.store(own_tile, count);
    add_block(inversions, found, partial);
}

// `left_share` of runs in memory, by a warp, which looks at 32 places at once: a wait for memory is long.
__device__ __forceinline__ Index left_share_by_warp(const Pair *left, Index left_count, const Pair *right,
                                                    Index right_count, Index diagonal) {
    Index low = max(Index(0), diagonal - right_count), high = min(diagonal, left_count);
    while (low < high) {
        Index step = (high - low + WARP_LANES - 1) / WARP_LANES, place = low + Index(threadIdx.x % WARP_LANES) * step;
        bool from_left = place < high && !less(right[diagonal - 1 - place], left[place]);
        // Those come first.
        int count = __popc(__ballot_sync(FULL_WARP, from_left));
        high = min(high, low + count * step);
        low = count == 0 ? low : low + (count - 1) * step + 1;
    }
    return low;
}

// Merges runs of `run` entries, whole tiles, in twos: each block makes one tile of what comes out.
extern "C" __global__ void __launch_bounds__(THREADS)
pair_merge(Pair *__restrict__ merged, Count *__restrict__ inversions, const Pair *__restrict__ pairs, Index n,
           Index run) {
    begin_kernel();
    __shared__ Tile tile;
    __shared__ Index shares[2];
    __shared__ Count partial[THREADS / WARP_LANES];
    Index begin = Index(blockIdx.x) * TILE, start = begin / (2 * run) * (2 * run);
    Index left_count = min(run, n - start), right_count = min(run, n - start - left_count);
    const Pair *left = pairs + start, *right = left + left_count;
    // What the left run gives before this tile and before the next.
    Index diagonal = begin - start, end = min(diagonal + TILE, left_count + right_count);
    int warp = int(threadIdx.x) / WARP_LANES;
    if (warp < 2) {
        Index share = left_share_by_warp(left, left_count, right, right_count, warp == 0 ? diagonal : end);
        if (threadIdx.x % WARP_LANES == 0) {
            shares[warp] = share;
        }
    }
    __syncthreads();
    int count = int(end - diagonal), of_left = int(shares[1] - shares[0]);
    tile.load(left + shares[0], 0, of_left);
    tile.load(right + (diagonal - shares[0]), of_left, count - of_left);
    __syncthreads();
    Pair own[EACH] = {};
    Count found = merge(own, tile, {0, of_left, count}, int(threadIdx.x) * EACH, left_count - shares[1]);
    tile.put(own);
    tile.store(merged + begin, count);
    add_block(inversions, found, partial);
}

// ---- ranks -------------------------------------------------------------------------------------------------------

// How many of the `most` entries next to one, in one direction, are the same: in steps that double, then halve.
template <class Same> __device__ __forceinline__ Index same_entries(Index most, Same same) {
    Index inside = 0, outside = 1;
    while (outside <= most && same(outside)) {
        inside = outside;
        outside *= 2;
    }
    outside = min(outside, most + 1);
    while (outside - inside > 1) {
        Index middle = (inside + outside) / 2;
        if (same(middle)) {
            inside = middle;
        } else {
            outside = middle;
        }
    }
    return inside;
}

// Of sorted pairs: ties, counted in ties [2] by the first key and by both, and
//   ranked [n] (second key, rank of the first): the number of entries below its value, plus that of those up to it
extern "C" __global__ void __launch_bounds__(THREADS)
pair_ranks(Pair *__restrict__ ranked, Count *__restrict__ ties, const Pair *__restrict__ pairs, Index n) {
    begin_kernel();
    __shared__ Count partial[THREADS / WARP_LANES];
    Count tied = 0, tied_both = 0;
    for (int k = 0; k < EACH; k++) {
        Index i = Index(blockIdx.x) * TILE + k * THREADS + threadIdx.x;
        if (i < n) {
            Pair own = pairs[i];
            Index before = same_entries(i, [&](Index d) { return pairs[i - d].first == own.first; });
            Index after = same_entries(n - 1 - i, [&](Index d) { return pairs[i + d].first == own.first; });
            // Each tie is met from its later entry.
            tied += before;
            tied_both += same_entries(before, [&](Index d) { return pairs[i - d].second == own.second; });
            ranked[i] = {own.second, (i - before) + (i + 1 + after)};
        }
    }
    add_block(&ties[0], tied, partial);
    add_block(&ties[1], tied_both, partial);
}

// Of pairs of ranks. n is below 2^31, so that products stay below 2^63.
extern "C" __global__ void __launch_bounds__(THREADS)
pair_rank_products(Count *__restrict__ products, const Pair *__restrict__ ranked, Index n) {
    begin_kernel();
    __shared__ Count partial[THREADS / WARP_LANES];
    constexpr int PRODUCTS = 3;
    Count upper[PRODUCTS] = {}, lower[PRODUCTS] = {};
    for (int k = 0; k < EACH; k++) {
        Index i = Index(blockIdx.x) * TILE + k * THREADS + threadIdx.x;
        if (i < n) {
            Index u = ranked[i].first - n, v = ranked[i].second - n;
            Count of[PRODUCTS] = {u * u, v * v, u * v};
#pragma unroll
            for (int p = 0; p < PRODUCTS; p++) {
                upper[p] += of[p] >> 32; // rounds down
                lower[p] += of[p] & 0xffffffff;
            }
        }
    }
#pragma unroll
    for (int p = 0; p < PRODUCTS; p++) {
        add_block(&products[2 * p], upper[p], partial);
        add_block(&products[2 * p + 1], lower[p], partial);
    }
}

EMULATED_KERNELS(pair_correlations, EMULATED_KERNEL(pair_keys), EMULATED_KERNEL(pair_sums),
                 EMULATED_KERNEL(pair_deviations), EMULATED_KERNEL(pair_sort_tiles), EMULATED_KERNEL(pair_merge),
                 EMULATED_KERNEL(pair_ranks), EMULATED_KERNEL(pair_rank_products))
