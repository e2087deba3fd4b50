// rank_merge: batch norm over the rows of all ranks, from what each rank has computed over its own rows.
//   statistics  rows_r, mean_r and rstd_r of each rank r: with M2_r = rows_r (1 / rstd_r^2 - eps), mean and M2 over all rows
//               (Chan et al.), then mean, rstd, scale and shift, and the running statistics
//   sums        d_weight_r = rstd sum d (z - mean) and d_bias_r = sum d over the rows of rank r: the terms of the backward,
//               from the sums over all rows
// in   parts [ranks, 2, C]; sizes [ranks, sizes_each], of which the one at `size` is the rank's number of rows
// out  mean, rstd, scale, shift [C], running_mean, running_var [C] updated; terms [2, C] (column_sums.cuh)
// grid one thread per column, which adds the ranks in their order in double precision: the same bits on every rank
// cost reads 8 C bytes per rank, writes at most 24 C: latency

#include "norm_arguments.cuh"

constexpr int THREADS = 128;

// What the ranks have gathered.
struct RankParts {
    const float *parts;
    const int *sizes;
    int ranks, sizes_each, size, columns;

    // Calls `add(first, second, rows)` with the values of each rank that has rows, and returns the number of all rows.
    template <class Add> __device__ __forceinline__ int each(int column, Add add) const {
        int all_rows = 0;
#pragma unroll 1 // copies of a division spill registers
        for (int rank = 0; rank < ranks; rank++) {
            const float *part = parts + size_t(rank) * 2 * columns + column;
            int rows = sizes[rank * sizes_each + size];
            if (rows > 0) {
                add(part[0], part[columns], rows);
                all_rows += rows;
            }
        }
        return all_rows;
    }
};

struct RankMergeStatistics {
    NormStatisticsArguments norm;
    float *running_mean, *running_var; // [C], updated in place
    RankParts of;                      // mean and rstd
};

extern "C" __global__ void __launch_bounds__(THREADS)
rank_merge_statistics(const __grid_constant__ RankMergeStatistics args) {
    begin_kernel();
    int column = blockIdx.x * THREADS + threadIdx.x, columns = args.of.columns;
    if (column >= columns) {
        return;
    }
    const NormStatisticsArguments &norm = args.norm;
    StatisticsMerge merge = {norm.to(), norm.weight, norm.bias, args.running_mean, args.running_var};
    double around = 0.0; // the mean of the first rank that has rows
    int ranks_before = 0;
    Pair sum = {0.0, 0.0};
    int rows = args.of.each(column, [&](double mean, double rstd, int own) {
        around = ranks_before == 0 ? mean : around;
        ranks_before++;
        double variance = 1.0 / (rstd * rstd) - NORM_EPSILON;
        Pair part = {mean, variance < 0.0 ? 0.0 : own * variance}; // keeps NaN
        sum = merge.add(sum, part, own, around);
    });
    merge.finish(column, columns, rows, merge.close(sum, RowDivisor::of(rows), around), merge.load(column, rows));
}

struct RankMergeSums {
    float *terms;             // [2, C] terms that NormBackwardArguments reads, overwritten
    const float *mean, *rstd; // [C] statistics of the block
    const float *scale;       // [C]
    RankParts of;             // d_weight and d_bias
};

extern "C" __global__ void __launch_bounds__(THREADS)
rank_merge_sums(const __grid_constant__ RankMergeSums args) {
    begin_kernel();
    int column = blockIdx.x * THREADS + threadIdx.x, columns = args.of.columns;
    if (column >= columns) {
        return;
    }
    BackwardMerge merge = {nullptr, nullptr, args.terms, args.mean, args.rstd, args.scale, 1};
    Pair sum = {0.0, 0.0};
    int rows = args.of.each(column, [&](double d_weight, double d_bias, int) {
        sum = {sum.first + d_bias, sum.second + d_weight};
    });
    sum.second /= args.rstd[column];
    merge.set_terms(column, columns, sum, merge.load(column, rows));
}

EMULATED_KERNELS(rank_merge, EMULATED_KERNEL(rank_merge_statistics, THREADS), EMULATED_KERNEL(rank_merge_sums, THREADS))
