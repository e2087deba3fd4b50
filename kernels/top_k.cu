// top_k: the rows with the greatest inner products with a query, best first.
//   score[q, i] = <queries[q], embeddings[i]>; ties go to the lower index, NaN comes after all numbers
// in   queries [Q, D]; embeddings [n, D]; bound [Q]
// out  lists [Q, parts, k]: the best keys of each part. scores, indices [Q, k]: the best rows whose key is below
//      `bound`, padded with NaN and -1. bound [Q]: the key of the last row, so the next pass continues from there
// grid top_k_parts: one block per query and TILE rows, one warp per 32 rows; top_k_merge: one block per query
// cost reads 4 n D bytes per query, 2 n D flops: bandwidth, that of L2 from the second query on. The scores [Q, n] are
//      never stored; only 8 k n / TILE bytes of lists are. Sorting TILE keys takes 36 barriers.
//
// A score and its row form one 64-bit key, greater for a greater score and, among equal scores, for a lower row. Keys
// are therefore distinct, and the order does not depend on how the work is divided. Sums run by lane, then over lanes:
// bit-reproducible.

#include "common.cuh"

typedef unsigned long long Key;

// Rows of a part, keys sorted at once, and threads of a block.
constexpr int TILE = 256;
// Rows whose values a warp loads together, so that the loads overlap.
constexpr int ROWS_AT_ONCE = 4;

// Below the key of any row.
constexpr Key NO_KEY = 0;

__device__ __forceinline__ Key key_of(float score, int row) {
    float positive_zero = score + 0.0f; // -0 is treated as 0
    unsigned bits;
    memcpy(&bits, &positive_zero, sizeof(bits));
    // Ascending for numbers of either sign; NaN maps to 1, below -infinity.
    unsigned ordered = score != score ? 1u : bits >> 31 ? ~bits : bits | 0x80000000u;
    return Key(ordered) << 32 | (0xffffffffu - unsigned(row));
}

// Score of a key; NaN for NO_KEY.
__device__ __forceinline__ float score_of(Key key) {
    unsigned ordered = unsigned(key >> 32);
    unsigned bits = ordered >> 31 ? ordered & 0x7fffffffu : ~ordered;
    float score;
    memcpy(&score, &bits, sizeof(score));
    return score;
}

// Row of a key; -1 for NO_KEY.
__device__ __forceinline__ int row_of(Key key) { return int(0xffffffffu - unsigned(key)); }

// Sorts TILE keys in shared memory in descending order: a bitonic network, one key per thread.
__device__ __forceinline__ void sort_descending(Key *keys) {
    int i = threadIdx.x;
    for (int size = 2; size <= TILE; size *= 2) {
        for (int stride = size / 2; stride > 0; stride /= 2) {
            __syncthreads();
            int other = i ^ stride;
            if (other > i) {
                bool descending = (i & size) == 0;
                Key a = keys[i], b = keys[other];
                if ((a < b) == descending) {
                    keys[i] = b;
                    keys[other] = a;
                }
            }
        }
    }
    __syncthreads();
}

struct TopKParts {
    Key *lists;
    const Key *bound;
    const float *queries, *embeddings;
    int parts, rows, width, k; // n is rows, D is width
};

extern "C" __global__ void __launch_bounds__(TILE) top_k_parts(const __grid_constant__ TopKParts args) {
    begin_kernel();
    int parts = args.parts, rows = args.rows, width = args.width, k = args.k;
    const float *embeddings = args.embeddings;
    __shared__ Key keys[TILE];
    int part = blockIdx.x % parts, query = blockIdx.x / parts;
    int lane = threadIdx.x % WARP_LANES, first = part * TILE + threadIdx.x - lane;
    const float *q = args.queries + size_t(query) * width;
    float own = 0.0f;
    for (int r = 0; r < WARP_LANES && first + r < rows; r += ROWS_AT_ONCE) {
        float sum[ROWS_AT_ONCE] = {};
        for (int c = lane; c < width; c += WARP_LANES) {
#pragma unroll
            for (int at = 0; at < ROWS_AT_ONCE; at++) {
                int row = min(first + r + at, rows - 1); // past the end, reload the last row
                sum[at] += q[c] * embeddings[size_t(row) * width + c];
            }
        }
#pragma unroll
        for (int at = 0; at < ROWS_AT_ONCE; at++) {
            float score = warp_sum(sum[at]);
            own = lane == r + at ? score : own;
        }
    }
    int row = first + lane;
    Key key = row < rows ? key_of(own, row) : NO_KEY;
    keys[threadIdx.x] = key < args.bound[query] ? key : NO_KEY;
    sort_descending(keys);
    int t = threadIdx.x;
    if (t < k) {
        args.lists[size_t(blockIdx.x) * k + t] = keys[t];
    }
}

struct TopKMerge {
    float *scores;
    int *indices;
    Key *bound;
    const Key *lists;
    long long candidates; // parts * k
    int k, reserved;
};

extern "C" __global__ void __launch_bounds__(TILE) top_k_merge(const __grid_constant__ TopKMerge args) {
    begin_kernel();
    long long candidates = args.candidates;
    int k = args.k;
    __shared__ Key keys[TILE];
    int t = threadIdx.x, query = blockIdx.x;
    const Key *from = args.lists + query * candidates;
    keys[t] = NO_KEY;
    // The best keys so far stay in front; the rest of the tile takes new ones.
    for (long long start = 0; start < candidates; start += TILE - k) {
        if (t >= k) {
            long long at = start + t - k;
            keys[t] = at < candidates ? from[at] : NO_KEY;
        }
        sort_descending(keys);
    }
    if (t < k) {
        args.scores[size_t(query) * k + t] = score_of(keys[t]);
        args.indices[size_t(query) * k + t] = row_of(keys[t]);
    }
    if (t == k - 1) {
        args.bound[query] = keys[t];
    }
}

EMULATED_KERNELS(top_k, EMULATED_KERNEL(top_k_parts, TILE), EMULATED_KERNEL(top_k_merge, TILE))
