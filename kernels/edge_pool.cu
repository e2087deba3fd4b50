// edge_pool: mean of the messages that reach each node; a message is relu(norm(z)), computed where z is read.
//   pooled[n] = sum(messages of n) / count(n), and 0 where count(n) = 0; a self loop counts twice
// in   z [E, W]: messages to the subject in the first H columns, to the object in the last H, W = H + D + H;
//      mean, rstd, weight, bias [W]; offsets [N + 1], entries [2E] (2 e + role; role 0 subject, 1 object)
// out  pooled [N, H]
// All matrices are of T, rows at the strides that are given (stored.cuh).
// grid one block per node, N of them in device memory (common.cuh), threads stride over H, four columns each; sums in
//      the order of `entries`: bit-reproducible
// cost reads 2 T E H and writes T N H bytes: bandwidth
// backward, with that of batch norm and the ReLU: d_heads [E, W], the gradient by the heads' outputs, is gathered from
//   d_pooled [N, H] and d_edge_state [E, D] where it is needed, and never stored
//   edge_pool_backward_sums  d_weight, d_bias and terms of batch norm (batch_norm.cu); strips (strip_sums.cuh)
//   edge_pool_backward       d_z [E, W]; one block per edge, threads as above
//   cost each reads T E (W + D) + T N H bytes, the second writes T E W: bandwidth

#include "strip_sums.cuh"

constexpr int THREADS = 128;

// Of rows of W, H and D columns.
struct Strides {
    int heads, pooled, state;
};

template <class T>
__device__ __forceinline__ void edge_pool_forward(T *pooled, const T *z, NormRows norm,
                                                  const int *offsets, const int *entries,
                                                  int node_count, int width, int hidden, Strides strides) {
    int node = blockIdx.x;
    if (node >= node_count) {
        return;
    }
    int first = offsets[node], end = offsets[node + 1], object_start = width - hidden;
    NormRows of_object = norm.from(object_start);
    for (int c = threadIdx.x * COLUMNS_EACH; c < hidden; c += THREADS * COLUMNS_EACH) {
        NormFour to_subject = load_norm(norm, c, hidden), to_object = load_norm(of_object, c, hidden);
        Four sum = {};
        for (int i = first; i < end; i++) {
            // The role is the same for the whole block.
            int entry = entries[i], role = entry & 1;
            const T *row = z + size_t(entry >> 1) * strides.heads + (role == 1 ? object_start : 0);
            Four value = load_four(row, c, hidden);
#pragma unroll
            for (int k = 0; k < COLUMNS_EACH; k++) {
                sum[k] += relu_norm(role == 1 ? to_object[k] : to_subject[k], value[k]);
            }
        }
#pragma unroll
        for (int k = 0; k < COLUMNS_EACH; k++) {
            sum[k] /= max(end - first, 1);
        }
        store_four(pooled + size_t(node) * strides.pooled, c, hidden, sum);
    }
}

// The gradient by the heads' outputs, gathered.
template <class T> struct HeadsGradient {
    const T *d_pooled, *d_edge_state;
    const int *subject, *object, *offsets;
    int width, hidden;
    Strides strides;

    // Where a message's node was given its gradient, and the count that it is divided by.
    __device__ __forceinline__ const T *node_row(int node) const { return d_pooled + size_t(node) * strides.pooled; }
    __device__ __forceinline__ float count(int node) const { return offsets[node + 1] - offsets[node]; }
    __device__ __forceinline__ const T *edge_row(int edge) const {
        return d_edge_state + size_t(edge) * strides.state;
    }

    __device__ __forceinline__ float operator()(int edge, int column) const {
        int object_start = width - hidden;
        if (column >= hidden && column < object_start) {
            return widen(edge_row(edge)[column - hidden]);
        }
        bool to_object = column >= object_start;
        int node = to_object ? object[edge] : subject[edge];
        return widen(node_row(node)[to_object ? column - object_start : column]) / count(node);
    }
};

// Columns of an edge's row, of a gradient by the output that is `d_y` over `count`; pointers begin at the first of them.
template <class T>
__device__ __forceinline__ void part_backward(T *d_z, const T *z,
                                              const NormBackwardRows &backward, const T *d_y, float count,
                                              int columns) {
    for (int c = threadIdx.x * COLUMNS_EACH; c < columns; c += THREADS * COLUMNS_EACH) {
        Four values = load_four(z, c, columns), d = load_four(d_y, c, columns);
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            d[i] /= count;
        }
        store_four(d_z, c, columns, load_norm_backward(backward, c, columns)(d, values));
    }
}

template <class T>
__device__ __forceinline__ void edge_pool_backward(T *d_z, HeadsGradient<T> d_heads,
                                                   const T *z, NormRows norm,
                                                   const float *terms, int edge_count) {
    int edge = blockIdx.x;
    if (edge >= edge_count) {
        return;
    }
    int width = d_heads.width, hidden = d_heads.hidden, object_start = width - hidden;
    size_t row = size_t(edge) * d_heads.strides.heads;
    NormBackwardRows backward = norm_backward_rows(norm, terms, width);
    auto part = [=](int first, const T *d_y, float count, int columns) {
        part_backward(d_z + row + first, z + row + first, backward.from(first), d_y, count, columns);
    };
    int subject = d_heads.subject[edge], object = d_heads.object[edge];
    part(0, d_heads.node_row(subject), d_heads.count(subject), hidden);
    part(hidden, d_heads.edge_row(edge), 1.0f, object_start - hidden);
    part(object_start, d_heads.node_row(object), d_heads.count(object), hidden);
}

#define EDGE_POOL_KERNELS(T, suffix)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) edge_pool_forward_##suffix(                                 \
        T *pooled, const T *z, const float *mean,                              \
        const float *rstd, const float *weight, const float *bias,             \
        const int *offsets, const int *entries, const int *node_count,         \
        int width, int hidden, int z_stride, int pooled_stride) {                                                     \
        begin_kernel();                                                                                               \
        edge_pool_forward(pooled, z, {mean, rstd, weight, bias}, offsets, entries, *node_count, width, hidden,        \
                          {z_stride, pooled_stride, 0});                                                              \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(STRIP *ROW_LANES, SUM_BLOCKS) edge_pool_backward_sums_##suffix(      \
        float *partials, double *groups, int *tickets,                         \
        float *d_weight, float *d_bias, float *terms, int batch_statistics,    \
        const T *d_pooled, const T *d_edge_state, const int *subject,          \
        const int *object, const int *offsets, const T *z,                     \
        const float *mean, const float *rstd, const float *weight,             \
        const float *bias, const int *edge_count, int width, int hidden, int heads_stride,  \
        int pooled_stride, int state_stride) {                                                                        \
        begin_kernel();                                                                                               \
        HeadsGradient<T> d_heads = {d_pooled, d_edge_state, subject, object, offsets, width, hidden,                  \
                                    {heads_stride, pooled_stride, state_stride}};                                     \
        backward_strip({partials, groups, tickets}, {d_weight, d_bias, terms, rstd, weight, batch_statistics},        \
                       d_heads, z, {mean, rstd, weight, bias}, heads_stride, *edge_count, width);                     \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) edge_pool_backward_##suffix(                                \
        T *d_z, const float *terms, const T *d_pooled,                         \
        const T *d_edge_state, const int *subject, const int *object,          \
        const int *offsets, const T *z, const float *mean,                     \
        const float *rstd, const float *weight, const float *bias,             \
        const int *edge_count, int width, int hidden, int heads_stride, int pooled_stride,               \
        int state_stride) {                                                                                           \
        begin_kernel();                                                                                               \
        HeadsGradient<T> d_heads = {d_pooled, d_edge_state, subject, object, offsets, width, hidden,                  \
                                    {heads_stride, pooled_stride, state_stride}};                                     \
        edge_pool_backward(d_z, d_heads, z, {mean, rstd, weight, bias}, terms, *edge_count);                          \
    }

STORED_KERNELS(EDGE_POOL_KERNELS)
EMULATED_KERNELS(edge_pool, EMULATED_STORED_KERNEL(edge_pool_forward), EMULATED_STORED_KERNEL(edge_pool_backward_sums),
                 EMULATED_STORED_KERNEL(edge_pool_backward))
