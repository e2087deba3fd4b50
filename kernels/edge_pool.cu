// edge_pool: mean of the messages that reach each node; a message is relu(norm(z)), computed where z is read.
//   pooled[n] = sum(messages of n) / count(n), and 0 where count(n) = 0; a self loop counts twice
// in   z [E, W]: messages to the subject in the first H columns, to the object in the last H, W = H + D + H;
//      mean, rstd, weight, bias [W]; offsets [N + 1], entries [2E] (2 e + role; role 0 subject, 1 object)
// out  pooled [N, H]
// All matrices are of T, rows at the strides that are given (stored.cuh).
// grid one block per node, N of them in device memory (common.cuh), threads stride over H, four columns each; sums in
//      the order of `entries`: bit-reproducible
// cost reads 2 T E H and writes T N H bytes: bandwidth
// backward: edge_pool_backward, a gather: d_heads [E, W] of d_pooled [N, H] and d_edge_state [E, D], before the ReLU
//   and batch norm; one block per edge

#include "stored.cuh"

constexpr int THREADS = 128;

// Of rows of W, H and D columns.
struct Strides {
    int heads, pooled, state;
};

template <class T>
__device__ __forceinline__ void edge_pool_forward(T *__restrict__ pooled, const T *__restrict__ z, NormRows norm,
                                                  const int *__restrict__ offsets, const int *__restrict__ entries,
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

// To the columns `to` of an edge's messages, of its node's row.
template <class T>
__device__ __forceinline__ void message_gradient(T *__restrict__ to, const T *__restrict__ d_pooled, float count,
                                                 int hidden) {
    for (int c = threadIdx.x * COLUMNS_EACH; c < hidden; c += THREADS * COLUMNS_EACH) {
        Four d = load_four(d_pooled, c, hidden);
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            d[i] /= count;
        }
        store_four(to, c, hidden, d);
    }
}

template <class T>
__device__ __forceinline__ void edge_pool_backward(T *__restrict__ d_heads, const T *__restrict__ d_pooled,
                                                   const T *__restrict__ d_edge_state,
                                                   const int *__restrict__ subject, const int *__restrict__ object,
                                                   const int *__restrict__ offsets, int edge_count, int width,
                                                   int hidden, Strides strides) {
    int edge = blockIdx.x;
    if (edge >= edge_count) {
        return;
    }
    int s = subject[edge], o = object[edge], state = width - 2 * hidden;
    T *row = d_heads + size_t(edge) * strides.heads;
    message_gradient(row, d_pooled + size_t(s) * strides.pooled, offsets[s + 1] - offsets[s], hidden);
    message_gradient(row + hidden + state, d_pooled + size_t(o) * strides.pooled, offsets[o + 1] - offsets[o], hidden);
    for (int c = threadIdx.x * COLUMNS_EACH; c < state; c += THREADS * COLUMNS_EACH) {
        store_four(row + hidden, c, state, load_four(d_edge_state + size_t(edge) * strides.state, c, state));
    }
}

#define EDGE_POOL_KERNELS(T, suffix)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) edge_pool_forward_##suffix(                                 \
        T *__restrict__ pooled, const T *__restrict__ z, const float *__restrict__ mean,                              \
        const float *__restrict__ rstd, const float *__restrict__ weight, const float *__restrict__ bias,             \
        const int *__restrict__ offsets, const int *__restrict__ entries, const int *__restrict__ node_count,         \
        int width, int hidden, int z_stride, int pooled_stride) {                                                     \
        edge_pool_forward(pooled, z, {mean, rstd, weight, bias}, offsets, entries, *node_count, width, hidden,        \
                          {z_stride, pooled_stride, 0});                                                              \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) edge_pool_backward_##suffix(                                \
        T *__restrict__ d_heads, const T *__restrict__ d_pooled, const T *__restrict__ d_edge_state,                  \
        const int *__restrict__ subject, const int *__restrict__ object, const int *__restrict__ offsets,             \
        const int *__restrict__ edge_count, int width, int hidden, int heads_stride, int pooled_stride,               \
        int state_stride) {                                                                                           \
        edge_pool_backward(d_heads, d_pooled, d_edge_state, subject, object, offsets, *edge_count, width, hidden,     \
                           {heads_stride, pooled_stride, state_stride});                                              \
    }

STORED_KERNELS(EDGE_POOL_KERNELS)
EMULATED_KERNELS(edge_pool, EMULATED_STORED_KERNEL(edge_pool_forward), EMULATED_STORED_KERNEL(edge_pool_backward))
