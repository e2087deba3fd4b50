// column_sums: two sums over the rows of every column of a matrix [R, C], for the statistics of batch norm and for its
// backward. The sums need no launch of their own.
//   chunks   64 rows each: the block that computes or reads them writes two values per column, partials [chunks, 2, C]
//   groups   32 chunks each: the last block of a strip of columns to finish a group merges its chunks
//   total    the block that merges the last group also merges the groups
// Merging is in double precision. Its order depends on R alone: bit-reproducible. Tickets, which are 0 before and after
// every launch, tell a block whether it is the last.
#pragma once

#include "common.cuh"

constexpr int CHUNK_ROWS = 64;   // the same in batch_norm.rs, as is GROUP_CHUNKS
constexpr int GROUP_CHUNKS = 32; // even, because a block may compute two chunks

// Memory for the sums of one launch.
struct ColumnMemory {
    float *partials; // [chunks, 2, C]; null if no sums are wanted
    double *groups;  // [groups, 2, C]
    int *tickets;    // [groups + 1, strips]

    __device__ __forceinline__ float *chunk(int index, int columns) const {
        return partials + size_t(index) * 2 * columns;
    }
    __device__ __forceinline__ double *group(int index, int columns) const {
        return groups + size_t(index) * 2 * columns;
    }
};

// The two values of a column, accumulated over some of its rows.
template <class T> struct PairOf {
    T first, second;
};
using Pair = PairOf<double>;

// Destination of the statistics of all columns: mean, rstd = 1 / sqrt(variance + eps), and the batch norm that follows
// from them and from its weight and bias (norm_affine in common.cuh).
struct NormStatistics {
    float *mean, *rstd, *scale, *shift;

    __device__ __forceinline__ void set(int column, double of_mean, double of_rstd, float of_weight,
                                        float of_bias) const {
        NormColumn norm = norm_affine(of_mean, of_rstd, of_weight, of_bias);
        mean[column] = float(of_mean);
        rstd[column] = float(of_rstd);
        scale[column] = norm.scale;
        shift[column] = norm.shift;
    }
};

// A merge loads and computes what it needs of a column besides the sums, `Column`, before it waits for the sums.

// Division by a number of rows, at least 1, whose reciprocal is computed ahead. The quotient is the rounded one: its
// error before the last addition is far below the distance of x / rows from any value half-way between two doubles.
struct RowDivisor {
    double rows, reciprocal;

    static __device__ __forceinline__ RowDivisor of(int rows) {
        double count = max(rows, 1);
        return {count, 1.0 / count};
    }
    __device__ __forceinline__ double divide(double x) const {
        double quotient = x * reciprocal;
        return fma(fma(-quotient, rows, x), reciprocal, quotient);
    }
};

// Merges means and sums of squared deviations from them (M2) into the statistics, and updates the running statistics.
// Without rows nothing is updated. With a single row the running variance uses the biased variance, 0.
struct StatisticsMerge {
    NormStatistics to;
    const float *weight, *bias;
    float *running_mean, *running_var;

    // M2 = sum M2_i + sum n_i (mean_i - mean)^2 (Chan et al.), with sums taken around one of the means.
    __device__ __forceinline__ Pair add(Pair sum, Pair part, int rows, double around) const {
        double offset = part.first - around;
        return {sum.first + rows * offset, sum.second + (part.second + rows * offset * offset)};
    }
    __device__ __forceinline__ Pair close(Pair sum, const RowDivisor &rows, double around) const {
        double offset = rows.divide(sum.first), deviation = sum.second - sum.first * offset;
        return {around + offset, deviation < 0.0 ? 0.0 : deviation}; // keeps NaN
    }
    struct Column {
        float weight, bias, running_mean, running_var;
        RowDivisor rows;
    };
    __device__ __forceinline__ Column load(int column, int rows) const {
        return {weight[column], bias[column], running_mean[column], running_var[column], RowDivisor::of(rows)};
    }
    __device__ __forceinline__ void finish(int column, int, int rows, Pair all, Column of) const {
        double rstd = 1.0 / sqrt(of.rows.divide(all.second) + NORM_EPSILON);
        to.set(column, all.first, rstd, of.weight, of.bias);
        if (rows > 0) {
            double unbiased = all.second / max(rows - 1, 1);
            running_mean[column] = of.running_mean + float(NORM_MOMENTUM * (all.first - of.running_mean));
            running_var[column] = of.running_var + float(NORM_MOMENTUM * (unbiased - of.running_var));
        }
    }
};

// Merges the sums of d and of d (z - mean) into d_weight, d_bias and the terms [2, C] of the backward: d_z = scale d -
// terms[0] - terms[1] z. The terms are 0 if mean and rstd are constants.
struct BackwardMerge {
    float *d_weight, *d_bias, *terms;
    const float *mean, *rstd, *scale;
    int batch_statistics;

    __device__ __forceinline__ Pair add(Pair sum, Pair part, int, double) const {
        return {sum.first + part.first, sum.second + part.second};
    }
    __device__ __forceinline__ Pair close(Pair sum, const RowDivisor &, double) const { return sum; }
    struct Column {
        float mean, rstd;
        double share; // scale / rows
    };
    __device__ __forceinline__ Column load(int column, int rows) const {
        double share = batch_statistics ? scale[column] / double(max(rows, 1)) : 0.0;
        return {mean[column], rstd[column], share};
    }
    __device__ __forceinline__ void finish(int column, int columns, int, Pair all, Column of) const {
        d_bias[column] = float(all.first);
        d_weight[column] = float(all.second * of.rstd);
        set_terms(column, columns, all, of);
    }
    __device__ __forceinline__ void set_terms(int column, int columns, Pair all, Column of) const {
        double r = of.rstd;
        float slope = float(of.share * r * r * all.second);
        terms[column] = float(of.share * all.first - double(slope) * of.mean);
        terms[columns + column] = slope;
    }
};

// Position of a thread in the merge. Each column of a strip has `lanes` lanes in all, of which `at_once` threads handle
// one each at a time.
struct StripThread {
    int strip, strips, column, in_strip, lane;
};

// Parts of a column: their number, that of all rows, and the rows of each part; the last one may have fewer.
struct ColumnParts {
    int count, rows, rows_each;
    RowDivisor divisor; // by `rows`
};

// Merges the parts of a column. `part(i)` returns the i-th part. Each lane merges a share, and the first lane returns the
// result. `memory` is shared: lanes * strip pairs.
template <int lanes, int strip, int at_once, class Merge, class Part>
__device__ __forceinline__ Pair merge_parts(const Merge &merge, StripThread thread, bool inside, const ColumnParts &of,
                                            Part part, Pair *memory) {
    int count = of.count;
    // A lane's share of a whole group: its loads are in flight together. Behind the last part it is loaded again,
    // instead of a branch.
    constexpr int PARTS_AT_ONCE = GROUP_CHUNKS / lanes;
    Pair own = {0.0, 0.0};
    double around = inside ? part(0).first : 0.0;
#pragma unroll
    for (int lane = thread.lane; lane < lanes; lane += at_once) {
        own = {0.0, 0.0};
        if (inside) {
            for (int first = lane; first < count; first += PARTS_AT_ONCE * lanes) {
                decltype(part(0)) loaded[PARTS_AT_ONCE];
#pragma unroll
                for (int k = 0; k < PARTS_AT_ONCE; k++) {
                    loaded[k] = part(min(first + k * lanes, count - 1));
                }
#pragma unroll
                for (int k = 0; k < PARTS_AT_ONCE; k++) {
                    int i = first + k * lanes;
                    if (i < count) {
                        Pair wide = {loaded[k].first, loaded[k].second};
                        own = merge.add(own, wide, min(of.rows_each, of.rows - i * of.rows_each), around);
                    }
                }
            }
        }
        memory[lane * strip + thread.in_strip] = own;
    }
    __syncthreads();
    if (thread.lane == 0) {
        own = memory[thread.in_strip];
        for (int other = 1; other < lanes; other++) {
            own.first += memory[other * strip + thread.in_strip].first;
            own.second += memory[other * strip + thread.in_strip].second;
        }
        own = merge.close(own, of.divisor, around);
    }
    __syncthreads(); // the memory may be reused after this
    return own;
}

// Called after a block has written `chunk_count` chunks of its strip, starting at `first_chunk`, all in one group.
// Without rows, one block of each strip calls it too. `memory` is shared: lanes * strip pairs.
template <int lanes, int strip, int at_once = lanes, class Merge>
__device__ __forceinline__ void finish_columns(const ColumnMemory &of, const Merge &merge, StripThread thread, int rows,
                                               int columns, int first_chunk, int chunk_count, Pair *memory) {
    constexpr int GROUP_ROWS = GROUP_CHUNKS * CHUNK_ROWS;
    int *flag = reinterpret_cast<int *>(memory);
    bool first_thread = thread.lane == 0 && thread.in_strip == 0;
    bool inside = thread.column < columns, writes = inside && thread.lane == 0;
    typename Merge::Column of_column = {};
    if (writes) {
        of_column = merge.load(thread.column, rows);
    }
    if (rows == 0) {
        if (writes) {
            Pair none = merge.close({0.0, 0.0}, RowDivisor::of(rows), 0.0);
            merge.finish(thread.column, columns, rows, none, of_column);
        }
        return;
    }
    int chunks = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS, groups = (chunks + GROUP_CHUNKS - 1) / GROUP_CHUNKS;
    int group = first_chunk / GROUP_CHUNKS, first = group * GROUP_CHUNKS;
    int in_group = min(GROUP_CHUNKS, chunks - first), group_rows = min(GROUP_ROWS, rows - group * GROUP_ROWS);
    ColumnParts of_group = {in_group, group_rows, CHUNK_ROWS, RowDivisor::of(group_rows)};
    int *tickets = &of.tickets[(group + 1) * thread.strips + thread.strip];
    if (!last_to_come(tickets, chunk_count, in_group, first_thread, flag)) {
        return;
    }
    auto chunk = [&](int i) {
        const float *from = of.chunk(first + i, columns) + thread.column;
        return PairOf<float>{__ldcg(from), __ldcg(from + columns)};
    };
    Pair sum = merge_parts<lanes, strip, at_once>(merge, thread, inside, of_group, chunk, memory);
    if (groups == 1) {
        if (writes) {
            merge.finish(thread.column, columns, rows, sum, of_column);
        }
        return;
    }
    if (writes) {
        double *to = of.group(group, columns) + thread.column;
        to[0] = sum.first;
        to[columns] = sum.second;
    }
    if (!last_to_come(&of.tickets[thread.strip], 1, groups, first_thread, flag)) {
        return;
    }
    auto merged = [&](int i) {
        const double *from = of.group(i, columns) + thread.column;
        return Pair{__ldcg(from), __ldcg(from + columns)};
    };
    ColumnParts of_all = {groups, rows, GROUP_ROWS, RowDivisor::of(rows)};
    sum = merge_parts<lanes, strip, at_once>(merge, thread, inside, of_all, merged, memory);
    if (writes) {
        merge.finish(thread.column, columns, rows, sum, of_column);
    }
}
