// block_order: which work a block takes, in launches whose blocks take different times.
//
// A launch has groups of blocks, each of equal length: the tiles of a product. A GPU hands out blocks in order, each to the
// multiprocessor with the fewest. So the first MULTIPROCESSORS blocks have one each, and those behind them join the first.
//   groups     the longest comes first: a block that waits for room should be a short one
//   rotation   if the longest group leaves multiprocessors to others, its blocks are the last that find an empty one: the
//              blocks behind them join shorter ones
// Groups have the size that the batch needs, not that of the grid, which covers the largest batch. Surplus blocks are the
// last ones. The order changes no result.
#pragma once

#include "common.cuh"

constexpr int MULTIPROCESSORS = 132; // of a large GPU

// `count` blocks with this number of inner steps each. `product` names the group.
struct BlockGroup {
    int product, count, steps;
};

// Block `index` of a group. A surplus block has product -1.
struct BlockWork {
    int product, index;
};

// Sorts the groups by length.
template <int groups> __device__ __forceinline__ void sort_by_length(BlockGroup (&of)[groups]) {
#pragma unroll
    for (int last = groups - 1; last > 0; last--) {
#pragma unroll
        for (int i = 0; i < last; i++) {
            BlockGroup first = of[i], second = of[i + 1];
            bool swaps = first.steps < second.steps;
            of[i] = swaps ? second : first;
            of[i + 1] = swaps ? first : second;
        }
    }
}

template <int groups> __device__ __forceinline__ BlockWork block_work(int block, BlockGroup (&of)[groups]) {
    sort_by_length(of);
    int all = 0, longest = of[0].count;
#pragma unroll
    for (int i = 0; i < groups; i++) {
        all += of[i].count;
    }
    // Number of blocks ahead of the longest ones.
    int ahead = max(min(all, MULTIPROCESSORS) - longest, 0);
    int index = block < ahead ? block + longest : block < ahead + longest ? block - ahead : block;
    BlockWork work = {-1, 0};
#pragma unroll
    for (int i = 0; i < groups; i++) {
        if (index >= 0 && index < of[i].count) {
            work = {of[i].product, index};
        }
        index -= of[i].count;
    }
    return work;
}
