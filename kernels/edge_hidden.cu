// edge_hidden: what joins the parts of an edge's first product, split by operand, and the way back.
//   z[e] = e W_e^T + P[subject(e), 0..H] + P[object(e), H..2H],   P = x [W_s; W_o]^T
// (in layer 0; later the product of the edge states adds the other parts, linear_forward_gather in linear.cuh)
//   sums[n] = (sum of d_z over edges with subject n, sum over edges with object n)
// Rows n are nodes; in layer 0, where x and e are rows of the embedding tables, they are the types that occur, and
// e W_e^T is one row per predicate type.
// in   projected = P [n, 2H]; subject, object [E] -> n; edge_projected [u, H], edge_row [E] -> u;
//      offsets [n + 1], entries (2 e + role) or (e)
// out  z [E, H], sums [n, 2H] or [u, H], written
// grid one block per row of the output, E, n or u of them in device memory (common.cuh), threads stride over H; sums in the order of `entries`: bit-reproducible
// cost reads 12 E H and writes 4 E H bytes; sums read 8 E H and write 8 n H bytes: bandwidth

#include "common.cuh"

extern "C" __global__ void __launch_bounds__(128)
edge_hidden_lookup(float *__restrict__ z, const float *__restrict__ edge_projected,
                   const float *__restrict__ projected, const int *__restrict__ edge_row,
                   const int *__restrict__ subject, const int *__restrict__ object,
                   const int *__restrict__ edge_count, int hidden) {
    size_t edge = blockIdx.x;
    if (edge >= size_t(*edge_count)) {
        return;
    }
    const float *of_edge = edge_projected + size_t(edge_row[edge]) * hidden;
    const float *of_subject = projected + size_t(subject[edge]) * 2 * hidden;
    const float *of_object = projected + size_t(object[edge]) * 2 * hidden + hidden;
    for (int c = threadIdx.x; c < hidden; c += blockDim.x) {
        z[edge * hidden + c] = of_edge[c] + (of_subject[c] + of_object[c]);
    }
}

// By node, or by object type.
extern "C" __global__ void __launch_bounds__(128)
edge_hidden_sum_ends(float *__restrict__ sums, const float *__restrict__ d_z, const int *__restrict__ offsets,
                     const int *__restrict__ entries, const int *__restrict__ row_count, int hidden) {
    size_t n = blockIdx.x;
    if (n >= size_t(*row_count)) {
        return;
    }
    for (int c = threadIdx.x; c < hidden; c += blockDim.x) {
        float as_subject = 0.0f, as_object = 0.0f;
        for (int i = offsets[n]; i < offsets[n + 1]; i++) {
            float value = d_z[size_t(entries[i] >> 1) * hidden + c];
            // The role is the same for the whole block.
            if (entries[i] & 1) {
                as_object += value;
            } else {
                as_subject += value;
            }
        }
        sums[n * 2 * hidden + c] = as_subject;
        sums[n * 2 * hidden + hidden + c] = as_object;
    }
}

// By predicate type.
extern "C" __global__ void __launch_bounds__(128)
edge_hidden_sum_edges(float *__restrict__ sums, const float *__restrict__ d_z, const int *__restrict__ offsets,
                      const int *__restrict__ entries, const int *__restrict__ row_count, int hidden) {
    size_t u = blockIdx.x;
    if (u >= size_t(*row_count)) {
        return;
    }
    for (int c = threadIdx.x; c < hidden; c += blockDim.x) {
        float sum = 0.0f;
        for (int i = offsets[u]; i < offsets[u + 1]; i++) {
            sum += d_z[size_t(entries[i]) * hidden + c];
        }
        sums[u * hidden + c] = sum;
    }
}

EMULATED_KERNELS(edge_hidden, EMULATED_KERNEL(edge_hidden_lookup), EMULATED_KERNEL(edge_hidden_sum_ends),
                 EMULATED_KERNEL(edge_hidden_sum_edges))
