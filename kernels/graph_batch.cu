// graph_batch: a step's triples become its batch, from a collection of graphs that stays on the device; the same lists as
//   src/batch/graph_batch.rs builds. A collection is itself a batch, of all images: a graph's nodes and edges are a range
//   of it, and so are its lists of messages, so that concatenating graphs is copying with shifted indices. Five launches:
//     graph_batch_places    which graphs, and where each begins       one block
//     graph_batch_graphs    ends, edges, and node -> messages         a block per graph
//     graph_batch_count     rows and entries of each type             a warp for 4 types and a segment of the rows
//     graph_batch_number    the types that occur, numbered            one block each for objects and predicates
//     graph_batch_fill      type -> messages of its nodes, or edges   as count; a third part of the grid gives each
//                           edge the numbers of its types             edge a thread
//   Sizes are known to the device alone: counts [6] = graphs, nodes, edges, object types, predicate types that occur,
//   triples. Grids may cover more rows than there are.
// in   a collection; the epoch's triples [A] (a negative positive: none); position [1]: where the step's anchors begin,
//      moved behind them. A batch without a triple is no step: it is passed over. Behind the last there are no graphs.
// out  counts and lists where they lie in a slot (src/backend/cuda/step/batch.rs)
// cost bytes of the lists; counting and filling read the types of all rows once per 4 types, from the caches
// No sums of floats: all integers, in one order.

#include "common.cuh"

constexpr int GRAPHS = 0, NODES = 1, EDGES = 2, OBJECTS = 3, PREDICATES = 4, TRIPLES = 5;

constexpr int THREADS = 256;
constexpr int TYPES_PER_WARP = 4;
// Rows whose types a lane asks for before it looks at the first.
constexpr int ROWS_AHEAD = 8;

// The sum of the values of the lanes before this one; `total` is that of all.
__device__ __forceinline__ int warp_scan(int value, int &total) {
    int lane = threadIdx.x % WARP_LANES, sum = value;
    for (int step = 1; step < WARP_LANES; step *= 2) {
        int before = __shfl_up_sync(FULL_WARP, sum, step);
        sum += lane >= step ? before : 0;
    }
    total = __shfl_sync(FULL_WARP, sum, WARP_LANES - 1);
    return sum - value;
}

// The same over a block of THREADS. `partial` is shared, a value per warp.
__device__ __forceinline__ int block_scan(int value, int &total, int *partial) {
    int of_warp, sum = warp_scan(value, of_warp), warp = threadIdx.x / WARP_LANES;
    __syncthreads(); // an earlier scan's values may still be being read
    if (threadIdx.x % WARP_LANES == 0) {
        partial[warp] = of_warp;
    }
    __syncthreads();
    total = 0;
    for (int w = 0; w < THREADS / WARP_LANES; w++) {
        sum += w < warp ? partial[w] : 0;
        total += partial[w];
    }
    return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
graph_batch_places(int *counts, int *graph_image, int *graph_nodes,
                   int *graph_edges, float *similarity_positive,
                   float *similarity_negative, int *position, const int *anchors,
                   const int *positives, const int *negatives,
                   const float *similarities_positive, const float *similarities_negative,
                   const int *node_offsets, const int *edge_offsets, int anchor_count,
                   int batch_size) {
    begin_kernel();
    __shared__ int partial[THREADS / WARP_LANES];
    int first = *position, end = first, triples = 0;
    while (triples == 0 && end < anchor_count) {
        first = end;
        end = min(first + batch_size, anchor_count);
        for (int start = first; start < end; start += THREADS) {
            int at = start + threadIdx.x, total;
            block_scan(at < end && positives[at] >= 0, total, partial);
            triples += total;
        }
    }
    for (int start = first, before = 0; start < end; start += THREADS) {
        int at = start + threadIdx.x, total;
        bool there = at < end && positives[at] >= 0;
        int triple = before + block_scan(there, total, partial);
        before += total;
        if (there) {
            graph_image[triple] = anchors[at];
            graph_image[triples + triple] = positives[at];
            graph_image[2 * triples + triple] = negatives[at];
            similarity_positive[triple] = similarities_positive[at];
            similarity_negative[triple] = similarities_negative[at];
        }
    }
    __syncthreads();
    int graphs = 3 * triples, nodes = 0, edges = 0;
    for (int start = 0; start < graphs; start += THREADS) {
        int graph = start + threadIdx.x, image = graph < graphs ? graph_image[graph] : -1, total;
        int own = image < 0 ? 0 : node_offsets[image + 1] - node_offsets[image];
        int node = nodes + block_scan(own, total, partial);
        nodes += total;
        own = image < 0 ? 0 : edge_offsets[image + 1] - edge_offsets[image];
        int edge = edges + block_scan(own, total, partial);
        edges += total;
        if (image >= 0) {
            graph_nodes[graph] = node;
            graph_edges[graph] = edge;
        }
    }
    __syncthreads(); // all have read the position
    if (threadIdx.x == 0) {
        graph_nodes[graphs] = nodes;
        graph_edges[graphs] = edges;
        counts[GRAPHS] = graphs;
        counts[NODES] = nodes;
        counts[EDGES] = edges;
        counts[TRIPLES] = triples;
        *position = end;
    }
}

extern "C" __global__ void __launch_bounds__(128)
graph_batch_graphs(int *object_ends, int *node_object, int *edge_predicate,
                   int *edge_subject, int *edge_object, int *message_offsets,
                   int *messages, const int *counts, const int *graph_image,
                   const int *graph_nodes, const int *graph_edges,
                   const int *node_offsets, const int *edge_offsets,
                   const int *all_object_ends,
                   const int *all_node_object, const int *all_edge_predicate,
                   const int *all_edge_subject, const int *all_edge_object,
                   const int *all_message_offsets, const int *all_messages) {
    begin_kernel();
    int graph = blockIdx.x;
    if (graph >= counts[GRAPHS]) {
        // The list's end; one block writes it, also where there is no graph.
        if (graph == counts[GRAPHS] && threadIdx.x == 0) {
            message_offsets[counts[NODES]] = 2 * counts[EDGES];
        }
        return;
    }
    int image = graph_image[graph];
    int from_node = node_offsets[image], nodes = node_offsets[image + 1] - from_node, to_node = graph_nodes[graph];
    int from_edge = edge_offsets[image], edges = edge_offsets[image + 1] - from_edge, to_edge = graph_edges[graph];
    int node_shift = to_node - from_node, message_shift = 2 * (to_edge - from_edge);
    if (threadIdx.x == 0) {
        object_ends[graph] = all_object_ends[image] + node_shift;
    }
    for (int n = threadIdx.x; n < nodes; n += blockDim.x) {
        node_object[to_node + n] = all_node_object[from_node + n];
        message_offsets[to_node + n] = all_message_offsets[from_node + n] + message_shift;
    }
    for (int e = threadIdx.x; e < edges; e += blockDim.x) {
        edge_predicate[to_edge + e] = all_edge_predicate[from_edge + e];
        edge_subject[to_edge + e] = all_edge_subject[from_edge + e] + node_shift;
        edge_object[to_edge + e] = all_edge_object[from_edge + e] + node_shift;
    }
    for (int m = threadIdx.x; m < 2 * edges; m += blockDim.x) {
        messages[2 * to_edge + m] = all_messages[2 * from_edge + m] + message_shift;
    }
}

// A segment of the rows of a kind of types, which warps go through side by side, since an image's own types are on many:
// those of nodes, whose entries are the messages that reach them, or of edges, whose entries are they.
struct Rows {
    const int *type_of, *message_offsets;
    int start, end;

    __device__ __forceinline__ int entries(int row) const {
        return message_offsets ? message_offsets[row + 1] - message_offsets[row] : 1;
    }

    // The types of rows `row`, row + 32 and so on, counted from `first`; -1 where that is none of the warp's types.
    __device__ __forceinline__ void types(int (&of_row)[ROWS_AHEAD], int row, int first) const {
#pragma unroll
        for (int ahead = 0; ahead < ROWS_AHEAD; ahead++) {
            int at = row + ahead * WARP_LANES;
            of_row[ahead] = at < end ? type_of[at] - first : -1;
        }
#pragma unroll
        for (int ahead = 0; ahead < ROWS_AHEAD; ahead++) {
            of_row[ahead] = of_row[ahead] < TYPES_PER_WARP ? max(of_row[ahead], -1) : -1;
        }
    }
};

// blockIdx.y is the kind: 0 objects, 1 predicates; blockIdx.z the segment, of at most 32.
__device__ __forceinline__ Rows segment_of_kind(const int *counts, const int *node_object, const int *edge_predicate,
                                                const int *message_offsets) {
    bool objects = blockIdx.y == 0;
    int count = counts[objects ? NODES : EDGES];
    int segments = gridDim.z, length = (count + segments - 1) / segments, start = min(int(blockIdx.z) * length, count);
    return {objects ? node_object : edge_predicate, objects ? message_offsets : nullptr, start,
            min(start + length, count)};
}

// The warp's first type.
__device__ __forceinline__ int first_type() {
    return (blockIdx.x * THREADS + threadIdx.x) / WARP_LANES * TYPES_PER_WARP;
}

// type_rows, type_entries [segments, object_types + predicate_types]: how many of each type.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
graph_batch_count(int *type_rows, int *type_entries, const int *counts,
                  const int *node_object, const int *edge_predicate,
                  const int *message_offsets, int object_types, int predicate_types) {
    begin_kernel();
    Rows rows = segment_of_kind(counts, node_object, edge_predicate, message_offsets);
    int first = first_type(), types = blockIdx.y == 0 ? object_types : predicate_types;
    int lane = threadIdx.x % WARP_LANES;
    int of_type[TYPES_PER_WARP] = {}, entries[TYPES_PER_WARP] = {};
    for (int row = rows.start + lane; row < rows.end; row += ROWS_AHEAD * WARP_LANES) {
        int of_row[ROWS_AHEAD];
        rows.types(of_row, row, first);
#pragma unroll
        for (int ahead = 0; ahead < ROWS_AHEAD; ahead++) {
            int type = of_row[ahead];
            if (type < 0) {
                continue;
            }
            int own = rows.entries(row + ahead * WARP_LANES);
#pragma unroll
            for (int t = 0; t < TYPES_PER_WARP; t++) {
                of_type[t] += type == t;
                entries[t] += type == t ? own : 0;
            }
        }
    }
#pragma unroll
    for (int t = 0; t < TYPES_PER_WARP; t++) {
        int all_rows, all_entries;
        warp_scan(of_type[t], all_rows);
        warp_scan(entries[t], all_entries);
        if (lane == 0 && first + t < types) {
            int at = blockIdx.z * (object_types + predicate_types) + blockIdx.y * object_types + first + t;
            type_rows[at] = all_rows;
            type_entries[at] = all_entries;
        }
    }
}

// The types that occur, ascending, the start of each one's entries, and each type's number among them.
extern "C" __global__ void __launch_bounds__(THREADS)
graph_batch_number(int *counts, int *types_of_objects, int *offsets_of_objects,
                   int *types_of_predicates, int *offsets_of_predicates,
                   int *slot_of_type, const int *type_rows,
                   const int *type_entries, int object_types, int predicate_types, int segments) {
    begin_kernel();
    __shared__ int partial[THREADS / WARP_LANES];
    bool objects = blockIdx.x == 0;
    int count = objects ? object_types : predicate_types, start_of_kind = objects ? 0 : object_types;
    int *types = objects ? types_of_objects : types_of_predicates;
    int *offsets = objects ? offsets_of_objects : offsets_of_predicates;
    int slots = 0, entries = 0;
    for (int start = 0; start < count; start += THREADS) {
        int type = start + threadIdx.x, at = start_of_kind + type, total;
        int rows = 0, own = 0;
        for (int segment = 0; segment < segments; segment++) {
            int in_segment = segment * (object_types + predicate_types) + at;
            rows += type < count ? type_rows[in_segment] : 0;
            own += type < count ? type_entries[in_segment] : 0;
        }
        bool occurs = rows > 0;
        int slot = slots + block_scan(occurs, total, partial);
        slots += total;
        int entry = entries + block_scan(own, total, partial);
        entries += total;
        if (occurs) {
            types[slot] = type;
            offsets[slot] = entry;
        }
        if (type < count) {
            slot_of_type[at] = occurs ? slot : -1;
        }
    }
    if (threadIdx.x == 0) {
        offsets[slots] = entries;
        counts[objects ? OBJECTS : PREDICATES] = slots;
    }
}

// The numbers of each edge's types.
struct EdgeSlots {
    int *of_subject, *of_object, *of_predicate;

    __device__ __forceinline__ void fill(const int *slot_of_type, int edge_count, const int *node_object,
                                         const int *edge_subject, const int *edge_object, const int *edge_predicate,
                                         int object_types) const {
        int blocks = gridDim.x * gridDim.z, block = blockIdx.z * gridDim.x + blockIdx.x;
        for (int edge = block * THREADS + threadIdx.x; edge < edge_count; edge += blocks * THREADS) {
            of_subject[edge] = slot_of_type[node_object[edge_subject[edge]]];
            of_object[edge] = slot_of_type[node_object[edge_object[edge]]];
            of_predicate[edge] = slot_of_type[object_types + edge_predicate[edge]];
        }
    }
};

// entries: by type, rows ascending; a node's are its messages. Where blockIdx.y is 2, the edges' slots.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
graph_batch_fill(int *entries_of_objects, int *entries_of_predicates,
                 int *edge_subject_slot, int *edge_object_slot,
                 int *edge_predicate_slot, const int *offsets_of_objects, const int *offsets_of_predicates,
                 const int *slot_of_type, const int *type_entries,
                 const int *counts, const int *node_object,
                 const int *edge_predicate, const int *message_offsets,
                 const int *messages, const int *edge_subject,
                 const int *edge_object, int object_types, int predicate_types) {
    begin_kernel();
    if (blockIdx.y == 2) {
        EdgeSlots slots = {edge_subject_slot, edge_object_slot, edge_predicate_slot};
        slots.fill(slot_of_type, counts[EDGES], node_object, edge_subject, edge_object, edge_predicate, object_types);
        return; // the whole block
    }
    bool objects = blockIdx.y == 0;
    Rows rows = segment_of_kind(counts, node_object, edge_predicate, message_offsets);
    int first = first_type(), types = objects ? object_types : predicate_types;
    int lane = threadIdx.x % WARP_LANES;
    int *entries = objects ? entries_of_objects : entries_of_predicates;
    // Where the segment's entries of each type begin: behind those of the segments before.
    int next[TYPES_PER_WARP];
#pragma unroll
    for (int t = 0; t < TYPES_PER_WARP; t++) {
        int at = blockIdx.y * object_types + first + t, slot = first + t < types ? slot_of_type[at] : -1;
        bool before = slot >= 0 && lane < int(blockIdx.z);
        warp_scan(before ? type_entries[lane * (object_types + predicate_types) + at] : 0, next[t]);
        next[t] += slot < 0 ? 0 : (objects ? offsets_of_objects : offsets_of_predicates)[slot];
    }
    for (int start = rows.start; start < rows.end; start += ROWS_AHEAD * WARP_LANES) {
        int of_row[ROWS_AHEAD];
        rows.types(of_row, start + lane, first);
#pragma unroll
        for (int ahead = 0; ahead < ROWS_AHEAD; ahead++) {
            int row = start + lane + ahead * WARP_LANES, type = of_row[ahead];
            unsigned wanted = __ballot_sync(FULL_WARP, type >= 0);
            if (wanted == 0) {
                continue;
            }
            int own = type < 0 ? 0 : rows.entries(row), place = 0;
#pragma unroll
            for (int t = 0; t < TYPES_PER_WARP; t++) {
                int total, before = warp_scan(type == t ? own : 0, total);
                place = type == t ? next[t] + before : place;
                next[t] += total;
            }
            if (!objects) {
                if (type >= 0) {
                    entries[place] = row;
                }
                continue;
            }
            // The messages of one node after another: those of an image node are as many as its graph has objects.
            int message = type < 0 ? 0 : message_offsets[row];
            for (; wanted != 0; wanted &= wanted - 1) {
                int node = __ffs(wanted) - 1;
                int count = __shfl_sync(FULL_WARP, own, node), to = __shfl_sync(FULL_WARP, place, node);
                int from = __shfl_sync(FULL_WARP, message, node);
                for (int i = lane; i < count; i += WARP_LANES) {
                    entries[to + i] = messages[from + i];
                }
            }
        }
    }
}

EMULATED_KERNELS(graph_batch, EMULATED_KERNEL(graph_batch_places), EMULATED_KERNEL(graph_batch_graphs),
                 EMULATED_KERNEL(graph_batch_count), EMULATED_KERNEL(graph_batch_number),
                 EMULATED_KERNEL(graph_batch_fill))
