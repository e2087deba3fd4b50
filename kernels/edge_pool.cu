// edge_pool: mean of the messages that reach each node; a message is relu(norm(z)), computed where z is read.
//   pooled[n] = sum(messages of n) / count(n), and 0 where count(n) = 0; a self loop counts twice
// in   z [E, W]: messages to the subject in the first H columns, to the object in the last H, W = H + D + H;
//      mean, rstd, weight, bias [W]; offsets [N + 1], entries [2E] (2 e + role; role 0 subject, 1 object)
// out  pooled [N, H]
// grid one block per node, N of them in device memory (common.cuh), threads stride over H; sums in the order of `entries`: bit-reproducible
// cost reads 8 E H and writes 4 N H bytes: bandwidth
// backward: edge_pool_backward, a gather: d_heads [E, W] of d_pooled [N, H] and d_edge_state [E, D], before the ReLU
//   and batch norm; one block per edge

#include "common.cuh"

extern "C" __global__ void __launch_bounds__(128)
edge_pool_forward(float *__restrict__ pooled, const float *__restrict__ z, const float *__restrict__ mean,
                  const float *__restrict__ rstd, const float *__restrict__ weight, const float *__restrict__ bias,
                  const int *__restrict__ offsets, const int *__restrict__ entries,
                  const int *__restrict__ node_count, int width, int hidden) {
    size_t node = blockIdx.x;
    if (node >= size_t(*node_count)) {
        return;
    }
    int first = offsets[node], end = offsets[node + 1], object_start = width - hidden;
    for (int c = threadIdx.x; c < hidden; c += blockDim.x) {
        NormColumn to_subject = norm_column(mean, rstd, weight, bias, c);
        NormColumn to_object = norm_column(mean, rstd, weight, bias, object_start + c);
        float sum = 0.0f;
        for (int i = first; i < end; i++) {
            const float *row = z + size_t(entries[i] >> 1) * width;
            sum += entries[i] & 1 ? relu_norm(to_object, row[object_start + c]) : relu_norm(to_subject, row[c]);
        }
        pooled[node * hidden + c] = sum / max(end - first, 1);
    }
}

extern "C" __global__ void __launch_bounds__(128)
edge_pool_backward(float *__restrict__ d_heads, const float *__restrict__ d_pooled,
                   const float *__restrict__ d_edge_state, const int *__restrict__ subject,
                   const int *__restrict__ object, const int *__restrict__ offsets,
                   const int *__restrict__ edge_count, int width, int hidden) {
    size_t edge = blockIdx.x;
    if (edge >= size_t(*edge_count)) {
        return;
    }
    int s = subject[edge], o = object[edge], state = width - 2 * hidden;
    float subject_count = offsets[s + 1] - offsets[s], object_count = offsets[o + 1] - offsets[o];
    float *row = d_heads + edge * width;
    for (int c = threadIdx.x; c < hidden; c += blockDim.x) {
        row[c] = d_pooled[size_t(s) * hidden + c] / subject_count;
        row[hidden + state + c] = d_pooled[size_t(o) * hidden + c] / object_count;
    }
    for (int c = threadIdx.x; c < state; c += blockDim.x) {
        row[hidden + c] = d_edge_state[edge * state + c];
    }
}

EMULATED_KERNELS(edge_pool, EMULATED_KERNEL(edge_pool_forward), EMULATED_KERNEL(edge_pool_backward))
