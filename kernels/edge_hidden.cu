// edge_hidden: what joins the parts of an edge's first product, split by operand, and the way back.
//   z[e] = e W_e^T + P[subject(e), 0..H] + P[object(e), H..2H],   P = x [W_s; W_o]^T
// (in layer 0; later the product of the edge states adds the other parts, linear_forward_gather in linear.cuh)
//   sums[n] = (sum of d_z over edges with subject n, sum over edges with object n)
// Rows n are nodes; in layer 0, where x and e are rows of the embedding tables, they are the types that occur, and
// e W_e^T is one row per predicate type.
// Where x is u over its rows' lengths, u = relu(norm(.)) (linear_forward_unit in linear.cuh), sums are by u W instead of
// x W: over the length, and along[n] = sums[n] . P[n] over it, by which the gradient by u is less than sums W: as
// x . (sums W) = sums . (x W), no gradient by x is needed for it. 0 where the length is clamped.
// Where the sums are _through_norm, d_z is what batch norm's backward makes of d [E, H], the gradient by relu(norm(z)), as
// it is read: in the bits in which it would be stored.
// in   projected = P [n, 2H]; subject, object [E] -> n; edge_projected [u, H], edge_row [E] -> u;
//      offsets [n + 1], entries (2 e + role) or (e); lengths [n], null where x is what it is
// out  z [E, H] and, if they are wanted, its columns' statistics, of the values as they are stored; sums [n, 2H] or
//      [u, H], along [n], written
// All matrices are of T; rows of H are `stride` apart (stored.cuh), those of 2 H `ends_stride`.
// grid lookup: x strips of 64 columns, y chunks of 64 rows, E of them in device memory (common.cuh), 16 rows at a time;
//      the strip's last block merges the chunks (column_sums.cuh); sums: one block per row of the output, n or u of them
//      in device memory, threads stride over H; by types, blocks for as many predicates as there may be, then those for
//      objects; four columns to a thread. Sums in the order of rows, or of `entries`: bit-reproducible
// cost lookup reads 3 T E H and writes T E H bytes; sums read 2 T E H, or of d and z 4 T E H, and write 2 T n H bytes:
//      bandwidth

#include "column_sums.cuh"
#include "stored.cuh"

constexpr int THREADS = 128; // of sums
// On a multiprocessor, at least, of the sums by end: as many warps as hide the gather, without spills.
constexpr int ENDS_BLOCKS = 12, NORM_BLOCKS = 9;
// Of the lookup: a strip's columns, four to a thread, and as many rows at a time.
constexpr int STRIP = 64, ROW_LANES = 16;
constexpr int LOOKUP_THREADS = STRIP / COLUMNS_EACH * ROW_LANES;
constexpr int LOOKUP_BLOCKS = 4; // on a multiprocessor, at least: registers for double precision without spills

// Rows of H, and of 2 H.
struct Strides {
    int stride, ends_stride;
};

// Of each chunk also its columns' means and sums of squared deviations from them, taken around the chunk's first row,
// which keeps them free of cancellation.
template <class T>
__device__ __forceinline__ void edge_hidden_lookup(T *z, ColumnMemory of, StatisticsMerge merge,
                                                   const T *edge_projected,
                                                   const T *projected, const int *edge_row,
                                                   const int *subject, const int *object,
                                                   int edge_count, int hidden, Strides strides) {
    __shared__ union {
        float2 chunk[ROW_LANES][STRIP];
        Pair merged[LOOKUP_THREADS];
    } memory;
    __shared__ float first_row[STRIP];
    int first = blockIdx.y * CHUNK_ROWS, count = min(CHUNK_ROWS, edge_count - first);
    if (first >= edge_count && first > 0) {
        return; // the whole block; without rows the first ones stay, for the statistics
    }
    int in_strip = threadIdx.x % (STRIP / COLUMNS_EACH) * COLUMNS_EACH, lane = threadIdx.x / (STRIP / COLUMNS_EACH);
    int column = blockIdx.x * STRIP + in_strip;
    // As it is stored.
    auto looked_up = [&](int edge) {
        Four sum = load_four(edge_projected + size_t(edge_row[edge]) * strides.stride, column, hidden);
        Four s = load_four(projected + size_t(subject[edge]) * strides.ends_stride, column, hidden);
        Four o = load_four(projected + size_t(object[edge]) * strides.ends_stride + hidden, column, hidden);
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            sum[i] = rounded<T>(sum[i] + (s[i] + o[i]));
        }
        return sum;
    };
    Four around = {}, sums = {}, squares = {};
    if (column < hidden && count > 0) {
        around = looked_up(first);
        for (int row = lane; row < count; row += ROW_LANES) {
            Four values = looked_up(first + row);
            store_four(z + size_t(first + row) * strides.stride, column, hidden, values);
#pragma unroll
            for (int i = 0; i < COLUMNS_EACH; i++) {
                float offset = values[i] - around[i];
                sums[i] += offset;
                squares[i] += offset * offset;
            }
        }
    }
    if (of.partials == nullptr) {
        return; // the whole grid
    }
#pragma unroll
    for (int i = 0; i < COLUMNS_EACH; i++) {
        memory.chunk[lane][in_strip + i] = make_float2(sums[i], squares[i]);
        if (lane == 0) {
            first_row[in_strip + i] = around[i];
        }
    }
    __syncthreads();
    StripThread thread = {int(blockIdx.x), int(gridDim.x), int(blockIdx.x * STRIP + threadIdx.x % STRIP),
                          int(threadIdx.x % STRIP), int(threadIdx.x / STRIP)};
    if (thread.lane == 0 && thread.column < hidden && count > 0) {
        float2 sum = make_float2(0.0f, 0.0f);
        for (int other = 0; other < ROW_LANES; other++) {
            sum.x += memory.chunk[other][thread.in_strip].x;
            sum.y += memory.chunk[other][thread.in_strip].y;
        }
        float offset = sum.x / count, deviation = sum.y - sum.x * offset;
        float *to = of.chunk(blockIdx.y, hidden);
        to[thread.column] = first_row[thread.in_strip] + offset;
        to[hidden + thread.column] = deviation < 0.0f ? 0.0f : deviation; // keeps NaN
    }
    __syncthreads(); // the chunk's sums were read
    finish_columns<LOOKUP_THREADS / STRIP, STRIP>(of, merge, thread, edge_count, hidden, blockIdx.y, 1, memory.merged);
}

// The rows of d_z, as `columns` gives them four columns at a time: in memory,
template <class T> struct Stored {
    const T *d_z;
    int stride;

    __device__ __forceinline__ auto columns(int c, int hidden) const {
        return [=, of = *this](int edge) { return load_four(of.d_z + size_t(edge) * of.stride, c, hidden); };
    }
};

// or made of d and z.
template <class T> struct ThroughNorm {
    const T *d, *z;
    int stride;
    NormBackwardRows norm;

    __device__ __forceinline__ auto columns(int c, int hidden) const {
        return [=, of = *this, backward = load_norm_backward(norm, c, hidden)](int edge) {
            size_t row = size_t(edge) * of.stride;
            Four d_z = backward(load_four(of.d + row, c, hidden), load_four(of.z + row, c, hidden));
#pragma unroll
            for (int i = 0; i < COLUMNS_EACH; i++) {
                d_z[i] = rounded<T>(d_z[i]);
            }
            return d_z;
        };
    }
};

// The lengths that x has its rows over; null where there are none.
template <class T> struct Lengths {
    float *along;
    const float *lengths;
    const T *projected;

    __device__ __forceinline__ bool given() const { return lengths != nullptr; }
};

// Values over a length; `dot` takes their products, as they are stored, with a row of P.
template <class T>
__device__ __forceinline__ void over_length(Four &values, float length, const T *projected, int column, int columns,
                                            float &dot) {
    Four with = load_four(projected, column, columns);
#pragma unroll
    for (int i = 0; i < COLUMNS_EACH; i++) {
        values[i] = rounded<T>(values[i] / length);
        dot = fmaf(values[i], with[i], dot);
    }
}

// By node, or by object type.
template <class T, class Gradient>
__device__ __forceinline__ void edge_hidden_sum_ends(T *sums, const Lengths<T> &of, const Gradient &d_z,
                                                     const int *offsets, const int *entries,
                                                     int n, int row_count, int hidden, int ends_stride) {
    __shared__ float partial[THREADS / WARP_LANES];
    if (n >= row_count) {
        return;
    }
    int first = offsets[n], end = offsets[n + 1];
    float dot = 0.0f;
    T *to = sums + size_t(n) * ends_stride;
    for (int c = threadIdx.x * COLUMNS_EACH; c < hidden; c += THREADS * COLUMNS_EACH) {
        auto row = d_z.columns(c, hidden);
        Four as_subject = {}, as_object = {};
        for (int i = first; i < end; i++) {
            int entry = entries[i];
            Four value = row(entry >> 1);
            // The role is the same for the whole block.
            if (entry & 1) {
                add_four(as_object, value);
            } else {
                add_four(as_subject, value);
            }
        }
        if (of.given()) {
            const T *projected = of.projected + size_t(n) * ends_stride;
            float length = of.lengths[n];
            over_length(as_subject, length, projected, c, hidden, dot);
            over_length(as_object, length, projected + hidden, c, hidden, dot);
        }
        store_four(to, c, hidden, as_subject);
        store_four(to + hidden, c, hidden, as_object);
    }
    if (of.given()) {
        dot = block_sum(dot, partial);
        if (threadIdx.x == 0) {
            float length = of.lengths[n];
            of.along[n] = length <= L2_EPSILON ? 0.0f : dot / length; // keeps NaN
        }
    }
}

// By predicate type.
template <class T>
__device__ __forceinline__ void edge_hidden_sum_edges(T *sums, const ThroughNorm<T> &d_z,
                                                      const int *offsets,
                                                      const int *entries, int u, int row_count,
                                                      int hidden) {
    if (u >= row_count) {
        return;
    }
    int first = offsets[u], end = offsets[u + 1];
    for (int c = threadIdx.x * COLUMNS_EACH; c < hidden; c += THREADS * COLUMNS_EACH) {
        auto row = d_z.columns(c, hidden);
        Four sum = {};
        for (int i = first; i < end; i++) {
            add_four(sum, row(entries[i]));
        }
        store_four(sums + size_t(u) * d_z.stride, c, hidden, sum);
    }
}

#define THROUGH_NORM_PARAMETERS(T)                                                                                    \
    const T *d, const T *z, const float *mean, const float *rstd, \
        const float *weight, const float *bias, const float *terms
#define THROUGH_NORM(T) ThroughNorm<T>{d, z, stride, norm_backward_rows({mean, rstd, weight, bias}, terms, hidden)}

#define LENGTHS_PARAMETERS(T)                                                                                         \
    float *along, const float *lengths, const T *projected

#define EDGE_HIDDEN_KERNELS(T, suffix)                                                                                \
    extern "C" __global__ void __launch_bounds__(LOOKUP_THREADS, LOOKUP_BLOCKS) edge_hidden_lookup_##suffix(          \
        T *z, float *partials, double *groups, int *tickets,      \
        float *mean, float *rstd, float *running_mean,                         \
        float *running_var, const T *edge_projected, const T *projected,       \
        const int *edge_row, const int *subject, const int *object,            \
        const int *edge_count, int hidden, int stride, int ends_stride) {                                \
        begin_kernel();                                                                                               \
        edge_hidden_lookup(z, {partials, groups, tickets}, {mean, rstd, running_mean, running_var}, edge_projected,   \
                           projected, edge_row, subject, object, *edge_count, hidden, {stride, ends_stride});         \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, ENDS_BLOCKS) edge_hidden_sum_ends_##suffix(                 \
        T *sums, LENGTHS_PARAMETERS(T), const T *d_z, const int *offsets,      \
        const int *entries, const int *row_count, int hidden, int stride,                   \
        int ends_stride) {                                                                                            \
        begin_kernel();                                                                                               \
        edge_hidden_sum_ends(sums, {along, lengths, projected}, Stored<T>{d_z, stride}, offsets, entries, blockIdx.x, \
                             *row_count, hidden, ends_stride);                                                        \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, NORM_BLOCKS) edge_hidden_sum_ends_through_norm_##suffix(    \
        T *sums, LENGTHS_PARAMETERS(T), THROUGH_NORM_PARAMETERS(T), const int *offsets,     \
        const int *entries, const int *row_count, int hidden, int stride,                   \
        int ends_stride) {                                                                                            \
        begin_kernel();                                                                                               \
        edge_hidden_sum_ends(sums, {along, lengths, projected}, THROUGH_NORM(T), offsets, entries, blockIdx.x,        \
                             *row_count, hidden, ends_stride);                                                        \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) edge_hidden_sum_types_through_norm_##suffix(                \
        T *edge_sums, T *end_sums, THROUGH_NORM_PARAMETERS(T),                              \
        const int *predicate_offsets, const int *predicate_entries,                         \
        const int *predicate_count, const int *object_offsets,                              \
        const int *object_entries, const int *object_count, int predicate_blocks,           \
        int hidden, int stride, int ends_stride) {                                                                    \
        begin_kernel();                                                                                               \
        int block = blockIdx.x;                                                                                       \
        if (block < predicate_blocks) {                                                                               \
            edge_hidden_sum_edges(edge_sums, THROUGH_NORM(T), predicate_offsets, predicate_entries, block,            \
                                  *predicate_count, hidden);                                                          \
        } else {                                                                                                      \
            edge_hidden_sum_ends(end_sums, Lengths<T>{}, THROUGH_NORM(T), object_offsets, object_entries,             \
                                 block - predicate_blocks, *object_count, hidden, ends_stride);                       \
        }                                                                                                             \
    }

STORED_KERNELS(EDGE_HIDDEN_KERNELS)
EMULATED_KERNELS(edge_hidden, EMULATED_STORED_KERNEL(edge_hidden_lookup),
                 EMULATED_STORED_KERNEL(edge_hidden_sum_ends),
                 EMULATED_STORED_KERNEL(edge_hidden_sum_ends_through_norm),
                 EMULATED_STORED_KERNEL(edge_hidden_sum_types_through_norm))
