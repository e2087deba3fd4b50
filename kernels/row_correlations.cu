// row_correlations: counts and sums for Kendall's tau-b, Spearman's rho and Pearson's r. Each row of scores x is
// compared with the same row of similarities y, without the diagonal entry: n = columns - 1 pairs (x_i, y_i) per row.
//   over n (n - 1) / 2 pairs of entries: number of concordant minus discordant pairs, of ties in x, of ties in y
//   u_i = (entries below x_i) - (entries above x_i), twice the distance of the rank from the middle; v_i likewise for y:
//   sum u u, sum v v, sum u v
//   sums of dx dx, dy dy, dx dy, with deviations from the means
// in   scores, similarities [R, columns], in double precision; similarities are clamped to [0, 1]; row r belongs to
//      image first_row + r, and its entry with itself is left out
// out  counts [R, 6]: concordant - discordant, tied in x, tied in y, uu, vv, uv;  moments [R, 3]: xx, yy, xy
// grid one block of 256 threads per row. Each entry is compared with every other: a thread holds 4, and all entries
//      pass through shared memory, 1,024 at a time, so rows may have any length. Counts are integers. Sums of
//      deviations run by thread, then over threads in a fixed order: bit-reproducible
// cost 16 R columns bytes; n^2 pairs per row, each with 4 comparisons of 64-bit integers and 6 counts: arithmetic
//
// For an entry i and all entries j, the kernel counts x_j < x_i and x_j <= x_i, the same for y, and
//   both = #(x_j < x_i and y_j < y_i),  mixed = #(x_j < x_i and y_j <= y_i)
// `both` counts every concordant pair once. #(x_j < x_i) - mixed counts every discordant pair once. #(x_j <= x_i) -
// #(x_j < x_i) counts every pair tied in x twice, and also i itself.

#include "common.cuh"

typedef long long Count;
typedef long long Key;

constexpr int THREADS = 256;
constexpr int EACH = 4;    // entries held by a thread
constexpr int TILE = 1024; // entries in shared memory
constexpr int COUNTS = 6, MOMENTS = 3;

// Integer with the same order as the value, so that comparisons need no special cases. -0 and 0 are equal. NaN compares
// as above or below all numbers, depending on its sign, and as equal to the same NaN. The bits of positive numbers
// ascend with the value; those of negative numbers descend until all bits but the sign are flipped.
__device__ __forceinline__ Key key_of(double value) {
    double positive_zero = value + 0.0;
    Key bits;
    memcpy(&bits, &positive_zero, sizeof(bits));
    return bits < 0 ? bits ^ 0x7fffffffffffffff : bits;
}

// A similarity clamped to [0, 1]; NaN stays NaN.
__device__ __forceinline__ double clamped(double similarity) {
    return similarity < 0.0 ? 0.0 : similarity > 1.0 ? 1.0 : similarity;
}

// Keys of an entry: 16 bytes, loaded at once.
struct __align__(16) Pair {
    Key x, y;
};

// A row without its diagonal entry.
struct Row {
    const double *scores, *similarities;
    int diagonal;

    __device__ __forceinline__ int column(int entry) const { return entry + (entry >= diagonal); }
    __device__ __forceinline__ double x(int entry) const { return scores[column(entry)]; }
    __device__ __forceinline__ double y(int entry) const { return clamped(similarities[column(entry)]); }
    __device__ __forceinline__ Pair keys(int entry) const { return {key_of(x(entry)), key_of(y(entry))}; }
};

// Computes the moments; thread 0 writes them.
__device__ __forceinline__ void write_moments(double *to, Row row, int n, double *partial) {
    double sum_x = 0.0, sum_y = 0.0;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        sum_x += row.x(i);
        sum_y += row.y(i);
    }
    // A single division: its subroutine costs many registers.
    double share = 1.0 / n, mean_x = block_sum(sum_x, partial) * share, mean_y = block_sum(sum_y, partial) * share;
    double xx = 0.0, yy = 0.0, xy = 0.0;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        double dx = row.x(i) - mean_x, dy = row.y(i) - mean_y;
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    double sums[MOMENTS] = {block_sum(xx, partial), block_sum(yy, partial), block_sum(xy, partial)};
    if (threadIdx.x == 0) {
        for (int i = 0; i < MOMENTS; i++) {
            to[i] = sums[i];
        }
    }
}

struct RowCorrelations {
    Count *counts;
    double *moments;
    const double *scores, *similarities;
    int columns, first_row;
};

// Two blocks per multiprocessor: with three the compiler would spill registers.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
row_correlations(const __grid_constant__ RowCorrelations args) {
    begin_kernel();
    __shared__ Pair tile[TILE];
    __shared__ double partial_sums[THREADS / WARP_LANES];
    __shared__ Count partial_counts[THREADS / WARP_LANES];
    size_t start = size_t(blockIdx.x) * args.columns;
    Row row = {args.scores + start, args.similarities + start, args.first_row + int(blockIdx.x)};
    int n = args.columns - 1;
    write_moments(args.moments + size_t(blockIdx.x) * MOMENTS, row, n, partial_sums);

    Count agreement = 0, tied_x = 0, tied_y = 0, uu = 0, vv = 0, uv = 0;
    for (int first = 0; first < n; first += THREADS * EACH) {
        Pair own[EACH];
        int below_x[EACH] = {}, upto_x[EACH] = {}, below_y[EACH] = {}, upto_y[EACH] = {};
        int both[EACH] = {}, mixed[EACH] = {};
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            own[i] = row.keys(min(first + i * THREADS + int(threadIdx.x), n - 1));
        }
        for (int start = 0; start < n; start += TILE) {
            int count = min(TILE, n - start);
            __syncthreads(); // the previous tile may still be in use
            for (int j = threadIdx.x; j < count; j += THREADS) {
                tile[j] = row.keys(start + j);
            }
            __syncthreads();
            for (int j = 0; j < count; j++) {
                Pair other = tile[j];
#pragma unroll
                for (int i = 0; i < EACH; i++) {
                    bool x_below = other.x < own[i].x, y_below = other.y < own[i].y, y_upto = other.y <= own[i].y;
                    below_x[i] += x_below;
                    upto_x[i] += other.x <= own[i].x;
                    below_y[i] += y_below;
                    upto_y[i] += y_upto;
                    both[i] += x_below && y_below;
                    mixed[i] += x_below && y_upto;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            if (first + i * THREADS + int(threadIdx.x) < n) {
                Count u = Count(below_x[i]) + upto_x[i] - n, v = Count(below_y[i]) + upto_y[i] - n;
                agreement += Count(both[i]) + mixed[i] - below_x[i];
                tied_x += upto_x[i] - below_x[i] - 1;
                tied_y += upto_y[i] - below_y[i] - 1;
                uu += u * u;
                vv += v * v;
                uv += u * v;
            }
        }
    }
    // A tied pair was counted from both sides.
    Count sums[COUNTS] = {block_sum(agreement, partial_counts),
                          block_sum(tied_x, partial_counts) / 2,
                          block_sum(tied_y, partial_counts) / 2,
                          block_sum(uu, partial_counts),
                          block_sum(vv, partial_counts),
                          block_sum(uv, partial_counts)};
    if (threadIdx.x == 0) {
        for (int i = 0; i < COUNTS; i++) {
            args.counts[size_t(blockIdx.x) * COUNTS + i] = sums[i];
        }
    }
}

EMULATED_KERNELS(row_correlations, EMULATED_KERNEL(row_correlations, THREADS, 2))
