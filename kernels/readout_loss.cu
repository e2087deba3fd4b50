// readout_loss: graph embeddings, the loss of every triple, and the gradient with respect to the node states.
//   f[g] = l2_normalise(mean of the graph's node states)
//   per triple (A, P, N): the loss and its slope with respect to fA.fP - fA.fN (formulas in src/loss/mod.rs)
//   d_fA = slope (fP - fN) / B,  d_fP = slope fA / B,  d_fN = -slope fA / B,  back through normalisation and mean
//   with several ranks, this divisor B is the number of triples of all ranks
// in   node_state [N, D]; graph_offsets [G + 1]; mean_ends [G]; similarity_positive, similarity_negative [B]; steps [1]
//      the mean runs over the nodes graph_offsets[g]..mean_ends[g]: all nodes of the graph, or all but its image node
// out  embedding [G, D]; readout_loss also writes d_node_state [N, D] and row steps % loss_rows of losses [loss_rows,
//      most_triples]
// grid readout: one block per graph. readout_loss: one block per triple, with the threads of one readout block for each
//      of its three graphs; no graph belongs to two triples. G and B lie in device memory (common.cuh)
// node_state and d_node_state have element type T, rows `stride` apart (stored.cuh); the rest is in single precision
// cost reads T N D bytes; readout_loss also writes T N D bytes; launch-bound at 16 triples
// Sums run over the graph's nodes in order, then by warp and over warps: bit-reproducible, and both kernels give the same
// embedding.

#include "lists.cuh"
#include "stored.cuh"

constexpr int THREADS = 128; // per graph
constexpr int WARPS = THREADS / WARP_LANES;
constexpr int ROLES = 3; // graphs of a triple: anchor, positive, negative
constexpr int LOSS_BLOCKS = 2; // least number of resident blocks per multiprocessor for the loss

// Nodes of a graph: those that enter the mean end at `mean_end`, all nodes end at `end`.
struct Nodes {
    int first, mean_end, end;
};

// Node states of all graphs.
template <class T> struct StatesArguments {
    const T *values;
    const int *graph_offsets, *mean_ends;
    int width, stride;

    // Before begin_kernel.
    __device__ __forceinline__ Nodes of(int graph) const {
        return {load_early(graph_offsets + graph), load_early(mean_ends + graph), load_early(graph_offsets + graph + 1)};
    }
};

// Writes the embedding f [D] of a graph and returns the length of the mean.
template <class T>
__device__ __forceinline__ float graph_embedding(float *f, const StatesArguments<T> &states, Nodes nodes,
                                                 float *partial) {
    int width = states.width, count = nodes.mean_end - nodes.first;
    float squares = 0.0f;
    for (int c = threadIdx.x * COLUMNS_EACH; c < width; c += THREADS * COLUMNS_EACH) {
        Four mean = {};
        auto rows = four_columns(states.values, states.stride, c, width);
        for_columns(rows, [&](const auto &columns) {
            for_each_row(
                nodes.first, nodes.mean_end, [&](int node) { return columns.load(node); },
                [&](int, const PackedFour<T> &loaded) { add_four(mean, loaded.widen()); });
        });
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            mean[i] /= count;
            squares += c + i < width ? mean[i] * mean[i] : 0.0f; // 0 / 0 beyond the row if there are no nodes
        }
        store_four(f, c, width, mean); // read again by the same thread
    }
    float norm = sqrtf(block_sum(squares, partial));
    for (int c = threadIdx.x * COLUMNS_EACH; c < width; c += THREADS * COLUMNS_EACH) {
        Four mean = load_four(f, c, width);
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            mean[i] /= norm < L2_EPSILON ? L2_EPSILON : norm;
        }
        store_four(f, c, width, mean);
    }
    return norm;
}

template <class T> struct Readout {
    float *embedding;
    StatesArguments<T> states;
    const int *graph_count; // G
};

template <class T> __device__ __forceinline__ void readout(const Readout<T> &args) {
    __shared__ float partial[WARPS];
    const StatesArguments<T> &states = args.states;
    int graph = blockIdx.x;
    bool exists = graph < load_early(args.graph_count);
    Nodes nodes = exists ? states.of(graph) : Nodes{};
    begin_kernel();
    if (exists) { // otherwise the whole block returns
        graph_embedding(args.embedding + size_t(graph) * states.width, states, nodes, partial);
    }
}

// The same in readout_loss.rs.
enum LossKind { RANKING = 0, TRIPLET = 1, INFO_NCE = 2 };

// log(1 + e^x), without overflow.
__device__ __forceinline__ float softplus(float x) { return x > 0.0f ? x + log1pf(expf(-x)) : log1pf(expf(x)); }

// e^-x may overflow to infinity, which gives the right limit 0.
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Loss and its derivative with respect to `toward`; the derivative with respect to `away` is its negative.
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
        // NaN must propagate, so the comparison tests for the zero case.
        return violation <= 0.0f ? make_float2(0.0f, 0.0f) : make_float2(violation, -1.0f);
    }
    return make_float2(softplus(-logit), (sigmoid(logit) - 1.0f) / temperature);
}

// Factor of a graph's embedding in the derivative of the loss: factor (one - other); `other` may be null. Both
// embeddings were written by this launch.
struct Direction {
    const float *one, *other;
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

// Writes (d - f (f . d)) / (|mean| count) for each node in the mean, where d is the direction, and 0 for the other
// nodes.
template <class T>
__device__ __forceinline__ void graph_backward(T *d_node_state, const float *f,
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
        for_columns(four_columns(d_node_state, stride, c, width), [&](const auto &columns) {
#pragma unroll 4
            for (int node = nodes.first; node < nodes.mean_end; node++) {
                store_four(row_of(d_node_state, node, stride), c, width, d, columns.whole);
            }
            for (int node = nodes.mean_end; node < nodes.end; node++) {
                store_four(row_of(d_node_state, node, stride), c, width, Four{}, columns.whole);
            }
        });
    }
}

template <class T> struct ReadoutLoss {
    float *embedding, *losses;
    T *d_node_state;
    StatesArguments<T> states;
    const float *similarity_positive, *similarity_negative;
    const int *triple_count; // B
    const unsigned long long *steps;
    int loss_rows, most_triples, kind;
    float temperature, margin;
    int triples_of_all; // number of triples of all ranks; 0 with one rank, whose triples are those of the batch
};

// Threads with the same threadIdx.y compute the sums and the gradient of one graph.
template <class T> __device__ __forceinline__ void readout_loss(const ReadoutLoss<T> &args) {
    __shared__ float partials[ROLES][WARPS];
    const StatesArguments<T> &states = args.states;
    float *embedding = args.embedding;
    int triples = load_early(args.triple_count), triple = blockIdx.x;
    int role = threadIdx.y, graph = role * triples + triple;
    Nodes nodes = triple < triples ? states.of(graph) : Nodes{};
    begin_kernel();
    if (triple >= triples) {
        return; // the whole block
    }
    int width = states.width;
    float *partial = partials[role], *f = embedding + size_t(graph) * width;
    float norm = graph_embedding(f, states, nodes, partial);
    __syncthreads(); // all three embeddings are complete
    const float *anchor = embedding + size_t(triple) * width;
    const float *positive = embedding + size_t(triples + triple) * width;
    const float *negative = embedding + size_t(2 * triples + triple) * width;
    float to_positive = 0.0f, to_negative = 0.0f;
    for (int c = threadIdx.x; c < width; c += THREADS) {
        to_positive += anchor[c] * positive[c];
        to_negative += anchor[c] * negative[c];
    }
    float toward = block_sum(to_positive, partial), away = block_sum(to_negative, partial);
    float2 loss = loss_and_slope(args.kind, toward, away, args.similarity_positive[triple],
                                 args.similarity_negative[triple], args.temperature, args.margin);
    if (role == 0 && threadIdx.x == 0) {
        args.losses[*args.steps % args.loss_rows * args.most_triples + triple] = loss.x;
    }
    float slope = loss.y / (args.triples_of_all > 0 ? args.triples_of_all : triples);
    Direction direction = {role == 0 ? positive : anchor, role == 0 ? negative : nullptr, role == 2 ? -slope : slope};
    graph_backward(args.d_node_state, f, direction, norm, nodes, width, states.stride, partial);
}

STORED_KERNEL(readout, Readout, THREADS)
STORED_KERNEL(readout_loss, ReadoutLoss, ROLES *THREADS, LOSS_BLOCKS)
EMULATED_KERNELS(readout_loss, EMULATED_STORED_KERNEL(readout, THREADS),
                 EMULATED_STORED_KERNEL(readout_loss, ROLES *THREADS, LOSS_BLOCKS))
