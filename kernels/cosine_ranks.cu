// cosine_ranks: the rank of each query's own image.
//   rank[q] = number of rows i with score[q, i] >= score[q, truth[q]],  score[q, i] = <queries[q], index[i]>
// Rows that tie with the true row count, and so does the true row itself: the rank is the worst of the tied ranks.
// in   queries [Q, D]; index [n, D]; truth [Q] -> row of index, below n
// out  ranks [Q], from 1; blocks add to them, so they must start as zeros
// grid one block per 64 queries and part of 512 rows; the scores, in double precision, stay in registers. All sums,
//      including those of the true rows, run in the order of the inner dimension (inner_products.cuh), so ties are
//      exact. Counts are integers and may be added in any order: bit-reproducible
// cost reads 4 (Q + n) D bytes (repeated reads hit the cache) and writes 4 Q bytes; 2 Q n D flops in double precision:
//      arithmetic
//
// A NaN score counts against the query.

#include "inner_products.cuh"

constexpr int SIDE = InnerTile::SIDE;
constexpr int PART_ROWS = 8 * SIDE; // the same in cosine_ranks.rs; each part recomputes the true rows' scores

struct CosineRanks {
    int *ranks;
    const float *queries, *index;
    const int *truth;
    int query_count, rows, width, reserved; // Q is query_count, n is rows, D is width
};

extern "C" __global__ void __launch_bounds__(InnerTile::THREADS)
cosine_ranks(const __grid_constant__ CosineRanks args) {
    begin_kernel();
    int query_count = args.query_count, rows = args.rows;
    const int *truth = args.truth;
    __shared__ double memory[InnerTile::MEMORY];
    __shared__ double true_score[SIDE];
    int parts = (rows + PART_ROWS - 1) / PART_ROWS;
    int query0 = blockIdx.x / parts * SIDE, first = blockIdx.x % parts * PART_ROWS;
    auto query_row = [=](int at) { return query0 + at < query_count ? query0 + at : -1; };
    auto true_row = [=](int at) { return query0 + at < query_count ? truth[query0 + at] : -1; };
    double score_of_pair = InnerTile::multiply_pairs(memory, args.queries, query_row, args.index, true_row, args.width);
    if (threadIdx.x < SIDE) {
        true_score[threadIdx.x] = score_of_pair;
    }
    __syncthreads();
    double own[InnerTile::EACH];
    int count[InnerTile::EACH] = {};
#pragma unroll
    for (int i = 0; i < InnerTile::EACH; i++) {
        own[i] = true_score[InnerTile::row() + i];
    }
    int end = min(rows, first + PART_ROWS);
    for (int row0 = first; row0 < end; row0 += SIDE) {
        auto index_row = [=](int at) { return row0 + at < rows ? row0 + at : -1; };
        double score[InnerTile::EACH][InnerTile::EACH];
        InnerTile::multiply(score, memory, args.queries, query_row, args.index, index_row, args.width);
#pragma unroll
        for (int i = 0; i < InnerTile::EACH; i++) {
#pragma unroll
            for (int j = 0; j < InnerTile::EACH; j++) {
                bool there = row0 + InnerTile::column() + InnerTile::APART * j < rows;
                count[i] += there && !(score[i][j] < own[i]);
            }
        }
    }
    // The APART threads of a query are adjacent lanes.
#pragma unroll
    for (int i = 0; i < InnerTile::EACH; i++) {
        for (int bit = InnerTile::APART / 2; bit > 0; bit /= 2) {
            count[i] += __shfl_xor_sync(FULL_WARP, count[i], bit);
        }
        int query = query0 + InnerTile::row() + i;
        if (InnerTile::column() == 0 && query < query_count) {
            atomicAdd(&args.ranks[query], count[i]);
        }
    }
}

EMULATED_KERNELS(cosine_ranks, EMULATED_KERNEL(cosine_ranks, InnerTile::THREADS))
