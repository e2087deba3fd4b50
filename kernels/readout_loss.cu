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
// node_state and d_node_state are of T, rows `stride` apart (stored.cuh); all else is in single precision
// cost reads and writes T N D bytes; launch-bound at 16 triples
// Sums run over the graph's nodes in order, then by warp and over warps: bit-reproducible.

#include "stored.cuh"

constexpr int THREADS = 128;

template <class T>
__device__ __forceinline__ void readout(float *__restrict__ embedding, float *__restrict__ mean_norm,
                                        const T *__restrict__ node_state, const int *__restrict__ graph_offsets,
                                        const int *__restrict__ mean_ends, int graph_count, int width, int stride) {
    __shared__ float partial[THREADS / WARP_LANES];
    int graph = blockIdx.x;
    if (graph >= graph_count) {
        return;
    }
    int first = graph_offsets[graph], end = mean_ends[graph];
    float *to = embedding + size_t(graph) * width;
    float squares = 0.0f;
    for (int c = threadIdx.x * COLUMNS_EACH; c < width; c += THREADS * COLUMNS_EACH) {
        Four mean = {};
        for (int node = first; node < end; node++) {
            add_four(mean, load_four(node_state + size_t(node) * stride, c, width));
        }
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            mean[i] /= end - first;
            squares += c + i < width ? mean[i] * mean[i] : 0.0f; // beyond the row, of no nodes, it is 0 / 0
        }
        store_four(to, c, width, mean); // read back by the same thread
    }
    float norm = sqrtf(block_sum(squares, partial));
    for (int c = threadIdx.x * COLUMNS_EACH; c < width; c += THREADS * COLUMNS_EACH) {
        Four mean = load_four(to, c, width);
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            mean[i] /= norm < L2_EPSILON ? L2_EPSILON : norm;
        }
        store_four(to, c, width, mean);
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

// What a graph's embedding is multiplied with: factor (one - other); `other` may be null.
struct Direction {
    const float *__restrict__ one, *__restrict__ other;
    float factor;

    __device__ __forceinline__ Four four(int column, int width) const {
        Four d = load_four(one, column, width), less = {};
        if (other != nullptr) {
            less = load_four(other, column, width);
        }
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            d[i] = factor * (d[i] - less[i]);
        }
        return d;
    }
};

// A graph's nodes: those of the mean end at `mean_end`, all at `end`.
struct Nodes {
    int first, mean_end, end;
};

// Gives each node of the mean (d - f (f . d)) / (|mean| count), for the direction d. The graph's other nodes get 0.
template <class T>
__device__ __forceinline__ void graph_backward(T *__restrict__ d_node_state, const float *__restrict__ f,
                                               Direction direction, float norm, Nodes nodes, int width, int stride,
                                               float *partial) {
    float dot = 0.0f;
    for (int c = threadIdx.x * COLUMNS_EACH; c < width; c += THREADS * COLUMNS_EACH) {
        Four d = direction.four(c, width), of_f = load_four(f, c, width);
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            dot += of_f[i] * d[i];
        }
    }
    float along = block_sum(dot, partial);
    bool clamped = norm < L2_EPSILON;
    float divisor = (clamped ? L2_EPSILON : norm) * (nodes.mean_end - nodes.first);
    for (int c = threadIdx.x * COLUMNS_EACH; c < width; c += THREADS * COLUMNS_EACH) {
        Four d = direction.four(c, width), of_f = load_four(f, c, width);
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            d[i] = (d[i] - (clamped ? 0.0f : of_f[i] * along)) / divisor;
        }
        for (int node = nodes.first; node < nodes.mean_end; node++) {
            store_four(d_node_state + size_t(node) * stride, c, width, d);
        }
        for (int node = nodes.mean_end; node < nodes.end; node++) {
            store_four(d_node_state + size_t(node) * stride, c, width, Four{});
        }
    }
}

// The triples' graphs, and what is known of them.
struct Triples {
    const float *__restrict__ embedding, *__restrict__ mean_norm;
    const int *__restrict__ graph_offsets, *__restrict__ mean_ends;
    const float *__restrict__ similarity_positive, *__restrict__ similarity_negative;
    int count;
};

struct LossOptions {
    int kind;
    float temperature, margin;
};

// `losses` is this step's row.
template <class T>
__device__ __forceinline__ void readout_loss(float *__restrict__ losses, T *__restrict__ d_node_state, Triples of,
                                             LossOptions options, int width, int stride) {
    __shared__ float partial[THREADS / WARP_LANES];
    int triples = of.count, triple = blockIdx.x; // its graphs: triple, triples + triple, 2 triples + triple
    if (triple >= triples) {
        return;
    }
    const float *anchor = of.embedding + size_t(triple) * width;
    const float *positive = of.embedding + size_t(triples + triple) * width;
    const float *negative = of.embedding + size_t(2 * triples + triple) * width;
    float to_positive = 0.0f, to_negative = 0.0f;
    for (int c = threadIdx.x; c < width; c += THREADS) {
        to_positive += anchor[c] * positive[c];
        to_negative += anchor[c] * negative[c];
    }
    float toward = block_sum(to_positive, partial), away = block_sum(to_negative, partial);
    float2 loss = loss_and_slope(options.kind, toward, away, of.similarity_positive[triple],
                                 of.similarity_negative[triple], options.temperature, options.margin);
    if (threadIdx.x == 0) {
        losses[triple] = loss.x;
    }
    float slope = loss.y / triples;
    for (int role = 0; role < 3; role++) {
        int graph = role * triples + triple;
        Direction direction = {role == 0 ? positive : anchor, role == 0 ? negative : nullptr,
                               role == 2 ? -slope : slope};
        Nodes nodes = {of.graph_offsets[graph], of.mean_ends[graph], of.graph_offsets[graph + 1]};
        graph_backward(d_node_state, of.embedding + size_t(graph) * width, direction, of.mean_norm[graph], nodes,
                       width, stride, partial);
    }
}

#define READOUT_LOSS_KERNELS(T, suffix)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) readout_##suffix(                                           \
        float *__restrict__ embedding, float *__restrict__ mean_norm, const T *__restrict__ node_state,               \
        const int *__restrict__ graph_offsets, const int *__restrict__ mean_ends,                                     \
        const int *__restrict__ graph_count, int width, int stride) {                                                 \
        readout(embedding, mean_norm, node_state, graph_offsets, mean_ends, *graph_count, width, stride);             \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) readout_loss_##suffix(                                      \
        float *__restrict__ losses, T *__restrict__ d_node_state, const float *__restrict__ embedding,                \
        const float *__restrict__ mean_norm, const int *__restrict__ graph_offsets,                                   \
        const int *__restrict__ mean_ends, const float *__restrict__ similarity_positive,                             \
        const float *__restrict__ similarity_negative, const int *__restrict__ triple_count,                          \
        const unsigned long long *__restrict__ steps, int loss_rows, int most_triples, int width, int stride,         \
        int kind, float temperature, float margin) {                                                                  \
        readout_loss(losses + *steps % loss_rows * most_triples, d_node_state,                                        \
                     {embedding, mean_norm, graph_offsets, mean_ends, similarity_positive, similarity_negative,       \
                      *triple_count},                                                                                 \
                     {kind, temperature, margin}, width, stride);                                                     \
    }

STORED_KERNELS(READOUT_LOSS_KERNELS)
EMULATED_KERNELS(readout_loss, EMULATED_STORED_KERNEL(readout), EMULATED_STORED_KERNEL(readout_loss))
