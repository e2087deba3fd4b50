// readout_loss: graph embeddings, the loss of every triple and its gradient by the node states.
//   f[g] = l2_normalise(mean of the graph's node states)
//   per triple (A, P, N): loss and slope of it by fA.fP - fA.fN (src/loss/mod.rs has the formulas)
//   d_fA = slope (fP - fN) / B,  d_fP = slope fA / B,  d_fN = -slope fA / B,  back through normalisation and mean
// in   node_state [N, D]; graph_offsets [G + 1]; mean_ends [G]; similarity_positive, similarity_negative [B]; steps [1]
//      the mean runs over the nodes graph_offsets[g]..mean_ends[g]: all of the graph's, or all but its image node
// out  readout: embedding [G, D], mean_norm [G];  readout_loss: losses [loss_rows, most_triples], of which the row
//      steps % loss_rows, and d_node_state [N, D], written
// grid readout: one block per graph; readout_loss: one block per triple, whose three graphs are its own; G and B lie in
//      device memory (common.cuh)
// cost reads and writes 4 N D bytes; launch-bound at 16 triples
// Sums run over the graph's nodes in order, then by warp and over warps: bit-reproducible.

#include "common.cuh"

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS)
readout(float *__restrict__ embedding, float *__restrict__ mean_norm, const float *__restrict__ node_state,
        const int *__restrict__ graph_offsets, const int *__restrict__ mean_ends,
        const int *__restrict__ graph_count, int width) {
    __shared__ float partial[THREADS / WARP_LANES];
    int graph = blockIdx.x;
    if (graph >= *graph_count) {
        return;
    }
    int first = graph_offsets[graph], end = mean_ends[graph];
    float *to = embedding + size_t(graph) * width;
    float squares = 0.0f;
    for (int c = threadIdx.x; c < width; c += THREADS) {
        float sum = 0.0f;
        for (int node = first; node < end; node++) {
            sum += node_state[size_t(node) * width + c];
        }
        float mean = sum / (end - first);
        to[c] = mean; // read back by the same thread
        squares += mean * mean;
    }
    float norm = sqrtf(block_sum(squares, partial));
    for (int c = threadIdx.x; c < width; c += THREADS) {
        to[c] /= norm < L2_EPSILON ? L2_EPSILON : norm;
    }
    if (threadIdx.x == 0) {
        mean_norm[graph] = norm;
    }
}

// The launcher has these numbers too.
enum LossKind { RANKING = 0, TRIPLET = 1, INFO_NCE = 2 };

// log(1 + e^x), without overflow.
__device__ __forceinline__ float softplus(float x) { return x > 0.0f ? x + log1pf(expf(-x)) : log1pf(expf(x)); }

// e^-x may overflow to infinity, which gives the right limit 0.
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The loss, and its derivative by `toward`; that by `away` is the negative.
__device__ __forceinline__ float2 loss_and_slope(int kind, float toward, float away, float similarity_positive,
                                                 float similarity_negative, float temperature, float margin) {
    float logit = (toward - away) / temperature;
    if (kind == RANKING) {
        float both = similarity_positive + similarity_negative;
        float target = both > 0.0f ? similarity_positive / both : 0.5f;
        return make_float2(softplus(logit) - target * logit, (sigmoid(logit) - target) / temperature);
    }
    if (kind == TRIPLET) {
        float violation = away - toward + margin;
        // NaN must come out as NaN, so the comparison asks for the harmless case.
        return violation <= 0.0f ? make_float2(0.0f, 0.0f) : make_float2(violation, -1.0f);
    }
    return make_float2(softplus(-logit), (sigmoid(logit) - 1.0f) / temperature);
}

// Gives each node of the mean (d - f (f . d)) / (|mean| count), for d = factor (one - other); `other` may be null. The
// graph's other nodes, from `mean_end` to `end`, get 0.
__device__ __forceinline__ void graph_backward(float *__restrict__ d_node_state, const float *__restrict__ f,
                                               const float *__restrict__ one, const float *__restrict__ other,
                                               float factor, float norm, int first, int mean_end, int end,
                                               int width, float *partial) {
    float dot = 0.0f;
    for (int c = threadIdx.x; c < width; c += THREADS) {
        dot += f[c] * factor * (other == nullptr ? one[c] : one[c] - other[c]);
    }
    float along = block_sum(dot, partial);
    bool clamped = norm < L2_EPSILON;
    float divisor = (clamped ? L2_EPSILON : norm) * (mean_end - first);
    for (int c = threadIdx.x; c < width; c += THREADS) {
        float d = factor * (other == nullptr ? one[c] : one[c] - other[c]);
        float d_node = (d - (clamped ? 0.0f : f[c] * along)) / divisor;
        for (int node = first; node < mean_end; node++) {
            d_node_state[size_t(node) * width + c] = d_node;
        }
        for (int node = mean_end; node < end; node++) {
            d_node_state[size_t(node) * width + c] = 0.0f;
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
readout_loss(float *__restrict__ losses, float *__restrict__ d_node_state, const float *__restrict__ embedding,
             const float *__restrict__ mean_norm, const int *__restrict__ graph_offsets,
             const int *__restrict__ mean_ends, const float *__restrict__ similarity_positive,
             const float *__restrict__ similarity_negative, const int *__restrict__ triple_count,
             const unsigned long long *__restrict__ steps, int loss_rows, int most_triples, int width, int kind,
             float temperature, float margin) {
    __shared__ float partial[THREADS / WARP_LANES];
    int triples = *triple_count, triple = blockIdx.x; // its graphs: triple, triples + triple, 2 triples + triple
    if (triple >= triples) {
        return;
    }
    const float *anchor = embedding + size_t(triple) * width;
    const float *positive = embedding + size_t(triples + triple) * width;
    const float *negative = embedding + size_t(2 * triples + triple) * width;
    float to_positive = 0.0f, to_negative = 0.0f;
    for (int c = threadIdx.x; c < width; c += THREADS) {
        to_positive += anchor[c] * positive[c];
        to_negative += anchor[c] * negative[c];
    }
    float toward = block_sum(to_positive, partial), away = block_sum(to_negative, partial);
    float2 loss = loss_and_slope(kind, toward, away, similarity_positive[triple], similarity_negative[triple],
                                 temperature, margin);
    if (threadIdx.x == 0) {
        losses[*steps % loss_rows * most_triples + triple] = loss.x;
    }
    float slope = loss.y / triples;
    for (int role = 0; role < 3; role++) {
        int graph = role * triples + triple;
        graph_backward(d_node_state, embedding + size_t(graph) * width, role == 0 ? positive : anchor,
                       role == 0 ? negative : nullptr, role == 2 ? -slope : slope, mean_norm[graph],
                       graph_offsets[graph], mean_ends[graph], graph_offsets[graph + 1], width, partial);
    }
}

EMULATED_KERNELS(readout_loss, EMULATED_KERNEL(readout), EMULATED_KERNEL(readout_loss))
