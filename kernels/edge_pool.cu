// edge_pool: mean of the messages that reach each node. A message is relu(norm(z)), computed while loading z.
//   pooled[n] = sum(messages of n) / count(n), and 0 where count(n) = 0; a self loop counts twice
// in   z [E, W]: messages to the subject in the first H columns, to the object in the last H; W = H + D + H
//      mean, rstd, weight, bias [W]; offsets [N + 1], entries [2E] (2 e + role; role 0 subject, 1 object)
// out  pooled [N, H]
// All matrices have element type T and rows at the given strides (stored.cuh).
// grid one block per node, with N in device memory (common.cuh), threads stride over H, four columns each; sums in the
//      order of `entries`: bit-reproducible
// cost reads 2 T E H and writes T N H bytes: bandwidth
// backward, joined with the backward of batch norm and ReLU. d_heads [E, W], the gradient with respect to the outputs
// of the heads, is never stored; both kernels gather it from d_pooled [N, H] and d_edge_state [E, D]:
//   edge_pool_backward_sums  d_weight, d_bias and terms of batch norm (batch_norm.cu); strips (strip_sums.cuh)
//   edge_pool_backward       d_z [E, W]; one block per edge, threads as above
//   cost each reads T E (W + D) + T N H bytes, the second writes T E W: bandwidth

#include "lists.cuh"
#include "strip_sums.cuh"

constexpr int THREADS = 128;

template <class T> struct EdgePoolForward {
    T *pooled;
    const T *z;
    NormArguments norm;
    ListsArguments incidence;
    int width, hidden, z_stride, pooled_stride; // W is width, H is hidden
};

template <class T> __device__ __forceinline__ void edge_pool_forward(const EdgePoolForward<T> &args) {
    int node = blockIdx.x, hidden = args.hidden;
    if (node >= *args.incidence.row_count) {
        return;
    }
    const int *entries = args.incidence.entries;
    int first = args.incidence.offsets[node], end = args.incidence.offsets[node + 1];
    int object_start = args.width - hidden;
    NormRows norm = args.norm.rows();
    NormRows of_object = norm.from(object_start);
    for (int c = threadIdx.x * COLUMNS_EACH; c < hidden; c += THREADS * COLUMNS_EACH) {
        NormFour to_subject = load_norm(norm, c, hidden), to_object = load_norm(of_object, c, hidden);
        Four sum = {};
        for (int i = first; i < end; i++) {
            // The branch is uniform: all threads of the block read the same entry.
            int entry = entries[i], role = entry & 1;
            const T *row = args.z + size_t(entry >> 1) * args.z_stride + (role == 1 ? object_start : 0);
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
        store_four(args.pooled + size_t(node) * args.pooled_stride, c, hidden, sum);
    }
}

// Gradient [E, W] with respect to the outputs of the heads, gathered.
template <class T> struct HeadsGradientArguments {
    const T *d_pooled, *d_edge_state;     // [N, H], [E, D]
    const int *subject, *object;          // [E] -> node
    const int *offsets;                   // [N + 1]: start of each node's messages
    const int *edge_count;                // [1]: E
    int width, hidden;                    // W, H
    int stride, pooled_stride, state_stride; // row strides of the matrices of width W, H and D
    int reserved;

    // Gradient row of a message's node, and the message count that divides it.
    __device__ __forceinline__ const T *node_row(int node) const { return d_pooled + size_t(node) * pooled_stride; }
    __device__ __forceinline__ float count(int node) const { return offsets[node + 1] - offsets[node]; }
    __device__ __forceinline__ const T *edge_row(int edge) const { return d_edge_state + size_t(edge) * state_stride; }

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

// Backward of some columns of an edge's row; the gradient with respect to the output is `d_y` / `count`. The pointers
// point to the first of these columns.
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

template <class T> struct EdgePoolBackwardSums {
    NormGradientArguments gradient;
    HeadsGradientArguments<T> of;
    const T *z;
    NormArguments norm;
};

template <class T> __device__ __forceinline__ void edge_pool_backward_sums(const EdgePoolBackwardSums<T> &args) {
    NormInput<T> z = {args.z, args.norm, *args.of.edge_count, args.of.width, args.of.stride};
    HeadsGradientArguments<T> of = args.of; // a copy takes fewer registers
    backward_strip(args.gradient, z, of);
}

template <class T> struct EdgePoolBackward {
    T *d_z;
    HeadsGradientArguments<T> of;
    NormBackwardArguments<T> through;
};

template <class T> __device__ __forceinline__ void edge_pool_backward(const EdgePoolBackward<T> &args) {
    const HeadsGradientArguments<T> &of = args.of;
    int edge = blockIdx.x;
    if (edge >= *of.edge_count) {
        return;
    }
    int hidden = of.hidden, object_start = of.width - hidden;
    T *d_z = args.d_z + size_t(edge) * of.stride;
    const T *z = args.through.z + size_t(edge) * of.stride;
    NormBackwardRows backward = args.through.rows(of.width);
    auto part = [=](int first, const T *d_y, float count, int columns) {
        part_backward(d_z + first, z + first, backward.from(first), d_y, count, columns);
    };
    int subject = of.subject[edge], object = of.object[edge];
    part(0, of.node_row(subject), of.count(subject), hidden);
    part(hidden, of.edge_row(edge), 1.0f, object_start - hidden);
    part(object_start, of.node_row(object), of.count(object), hidden);
}

STORED_KERNEL(edge_pool_forward, EdgePoolForward, THREADS)
STORED_KERNEL(edge_pool_backward_sums, EdgePoolBackwardSums, STRIP *ROW_LANES, SUM_BLOCKS)
STORED_KERNEL(edge_pool_backward, EdgePoolBackward, THREADS)
EMULATED_KERNELS(edge_pool, EMULATED_STORED_KERNEL(edge_pool_forward, THREADS),
                 EMULATED_STORED_KERNEL(edge_pool_backward_sums, STRIP *ROW_LANES, SUM_BLOCKS),
                 EMULATED_STORED_KERNEL(edge_pool_backward, THREADS))
