// graph_batch: assembles the batch of a step's triples from a collection of graphs that stays on the device. The lists
// equal those of src/batch/graph_batch.rs. A collection is itself a batch, of all images: the nodes, edges and message
// lists of a graph are ranges of it. Concatenating graphs is therefore copying with shifted indices. Five launches:
//     graph_batch_places    graphs, and where each begins             one block
//     graph_batch_graphs    ends, edges, and node -> messages         one block per graph
//     graph_batch_count     rows and entries of each type             one warp per 4 types and segment of the rows
//     graph_batch_number    numbering of the types in use             one block each for objects and predicates
//     graph_batch_fill      type -> messages of its nodes, or edges   as count; a third of the grid looks up the type
//                                                                     numbers of the edges, one thread per edge
//   Only the device knows the sizes: counts [6] = graphs, nodes, edges, object types, predicate types in use, triples.
//   Grids may cover more rows than exist.
// in   a collection; the epoch's triples [A] (an anchor whose `positive` is negative has none); position [1]: the first
//      anchor of the step, advanced past the step's anchors. Batches without a triple are skipped. At the end of the
//      epoch the batch has no graphs.
// out  counts and lists, at their places in a slot (src/backend/cuda/launchers/batch_places.rs)
// cost bytes of the lists; counting and filling read the types of all rows once per 4 types, from cache
// All values are integers, written in a fixed order: bit-reproducible.

#include "common.cuh"

constexpr int GRAPHS = 0, NODES = 1, EDGES = 2, OBJECTS = 3, PREDICATES = 4, TRIPLES = 5;

constexpr int THREADS = 256;
constexpr int GRAPH_THREADS = 128; // kernels with one block per graph
constexpr int TYPE_BLOCKS = 5;     // least number of resident blocks per multiprocessor
constexpr int TYPES_PER_WARP = 4;
// Rows whose types a lane loads before it tests the first.
constexpr int ROWS_AHEAD = 8;

// Sum of the values of the lower lanes; `total` is the sum over all lanes.
__device__ __forceinline__ int warp_scan(int value, int &total) {
    int lane = threadIdx.x % WARP_LANES, sum = value;
    for (int step = 1; step < WARP_LANES; step *= 2) {
        int before = __shfl_up_sync(FULL_WARP, sum, step);
        sum += lane >= step ? before : 0;
    }
    total = __shfl_sync(FULL_WARP, sum, WARP_LANES - 1);
    return sum - value;
}

// The same over a block of THREADS. `partial` is shared, one value per warp.
__device__ __forceinline__ int block_scan(int value, int &total, int *partial) {
    int of_warp, sum = warp_scan(value, of_warp), warp = threadIdx.x / WARP_LANES;
    __syncthreads(); // the values of an earlier scan may still be in use
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

// ---- arguments ----------------------------------------------------------------------------------------------------

// Lists of all images, as one batch.
struct CollectionArguments {
    const int *node_offsets, *edge_offsets; // [images + 1]
    const int *object_ends;                 // [images]
    const int *node_object;                 // [nodes]
    const int *edge_predicate, *edge_subject, *edge_object; // [edges]
    const int *message_offsets;             // [nodes + 1]
    const int *messages;                    // [2 edges]
};

// Triples of the epoch, one per anchor [A].
struct EpochArguments {
    const int *anchors, *positive, *negative;
    const float *similarity_positive, *similarity_negative;
};

// Header and lists of the batch.
struct BatchArguments {
    int *counts;                                      // [6]
    int *graph_offsets;                               // [G + 1] -> node
    int *object_ends;                                 // [G] -> node
    int *edge_subject, *edge_object;                  // [E] -> node
    int *node_offsets, *node_entries;                 // [N + 1]; [2 E] messages
    int *object_types, *object_offsets, *object_entries;          // [U]; [U + 1]; [2 E] messages
    int *predicate_types, *predicate_offsets, *predicate_entries; // [V]; [V + 1]; [E] edges
    int *edge_subject_slot, *edge_object_slot;        // [E] -> object_types
    int *edge_predicate_slot;                         // [E] -> predicate_types
    int *similarity_positive, *similarity_negative;   // [B], floats as bits
};

// Intermediate results passed between the launches.
struct ScratchArguments {
    int *graph_image;              // [G] -> image
    int *graph_edges;              // [G + 1] -> edge
    int *node_object;              // [N] -> object type
    int *edge_predicate;           // [E] -> predicate type
    int *type_rows, *type_entries; // [segments, object_types + predicate_types]
    int *slot_of_type;             // [object_types + predicate_types], -1 where the type does not occur
};

// Arguments of all five launches.
struct AssembleGraphBatch {
    CollectionArguments collection;
    EpochArguments epoch;
    BatchArguments batch;
    ScratchArguments scratch;
    int *position; // [1]
    int anchor_count, batch_size;
    int object_types, predicate_types;
    int segments, reserved;
};

// ---- kernels ------------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(THREADS)
graph_batch_places(const __grid_constant__ AssembleGraphBatch args) {
    begin_kernel();
    __shared__ int partial[THREADS / WARP_LANES];
    const EpochArguments &epoch = args.epoch;
    const BatchArguments &batch = args.batch;
    int *graph_image = args.scratch.graph_image;
    int first = *args.position, end = first, triples = 0;
    while (triples == 0 && end < args.anchor_count) {
        first = end;
        end = min(first + args.batch_size, args.anchor_count);
        for (int start = first; start < end; start += THREADS) {
            int at = start + threadIdx.x, total;
            block_scan(at < end && epoch.positive[at] >= 0, total, partial);
            triples += total;
        }
    }
    for (int start = first, before = 0; start < end; start += THREADS) {
        int at = start + threadIdx.x, total;
        bool there = at < end && epoch.positive[at] >= 0;
        int triple = before + block_scan(there, total, partial);
        before += total;
        if (there) {
            graph_image[triple] = epoch.anchors[at];
            graph_image[triples + triple] = epoch.positive[at];
            graph_image[2 * triples + triple] = epoch.negative[at];
            batch.similarity_positive[triple] = int(__float_as_uint(epoch.similarity_positive[at]));
            batch.similarity_negative[triple] = int(__float_as_uint(epoch.similarity_negative[at]));
        }
    }
    __syncthreads();
    const int *node_offsets = args.collection.node_offsets, *edge_offsets = args.collection.edge_offsets;
    int *graph_nodes = batch.graph_offsets, *graph_edges = args.scratch.graph_edges;
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
    __syncthreads(); // all threads have read the position
    if (threadIdx.x == 0) {
        graph_nodes[graphs] = nodes;
        graph_edges[graphs] = edges;
        batch.counts[GRAPHS] = graphs;
        batch.counts[NODES] = nodes;
        batch.counts[EDGES] = edges;
        batch.counts[TRIPLES] = triples;
        *args.position = end;
    }
}

extern "C" __global__ void __launch_bounds__(GRAPH_THREADS)
graph_batch_graphs(const __grid_constant__ AssembleGraphBatch args) {
    begin_kernel();
    const CollectionArguments &all = args.collection;
    const BatchArguments &batch = args.batch;
    const ScratchArguments &scratch = args.scratch;
    int graph = blockIdx.x;
    if (graph >= batch.counts[GRAPHS]) {
        // End of the message lists. One block writes it, even if there are no graphs.
        if (graph == batch.counts[GRAPHS] && threadIdx.x == 0) {
            batch.node_offsets[batch.counts[NODES]] = 2 * batch.counts[EDGES];
        }
        return;
    }
    int image = scratch.graph_image[graph];
    int from_node = all.node_offsets[image], nodes = all.node_offsets[image + 1] - from_node;
    int from_edge = all.edge_offsets[image], edges = all.edge_offsets[image + 1] - from_edge;
    int to_node = batch.graph_offsets[graph], to_edge = scratch.graph_edges[graph];
    int node_shift = to_node - from_node, message_shift = 2 * (to_edge - from_edge);
    if (threadIdx.x == 0) {
        batch.object_ends[graph] = all.object_ends[image] + node_shift;
    }
    for (int n = threadIdx.x; n < nodes; n += GRAPH_THREADS) {
        scratch.node_object[to_node + n] = all.node_object[from_node + n];
        batch.node_offsets[to_node + n] = all.message_offsets[from_node + n] + message_shift;
    }
    for (int e = threadIdx.x; e < edges; e += GRAPH_THREADS) {
        scratch.edge_predicate[to_edge + e] = all.edge_predicate[from_edge + e];
        batch.edge_subject[to_edge + e] = all.edge_subject[from_edge + e] + node_shift;
        batch.edge_object[to_edge + e] = all.edge_object[from_edge + e] + node_shift;
    }
    for (int m = threadIdx.x; m < 2 * edges; m += GRAPH_THREADS) {
        batch.node_entries[2 * to_edge + m] = all.messages[2 * from_edge + m] + message_shift;
    }
}

// A segment of the rows of one kind of type. Object rows are nodes, whose entries are the messages that reach them.
// Predicate rows are edges, which are their own entries. All warps scan each segment.
struct Rows {
    const int *type_of, *message_offsets;
    int start, end;

    __device__ __forceinline__ int entries(int row) const {
        return message_offsets ? message_offsets[row + 1] - message_offsets[row] : 1;
    }

    // Types of rows `row`, row + 32, ..., relative to `first`; -1 if a type is not one of the warp's.
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

// blockIdx.y is the kind (0 objects, 1 predicates); blockIdx.z is the segment, one of at most 32.
__device__ __forceinline__ Rows segment_of_kind(const AssembleGraphBatch &args) {
    bool objects = blockIdx.y == 0;
    int count = args.batch.counts[objects ? NODES : EDGES];
    int segments = gridDim.z, length = (count + segments - 1) / segments, start = min(int(blockIdx.z) * length, count);
    return {objects ? args.scratch.node_object : args.scratch.edge_predicate,
            objects ? args.batch.node_offsets : nullptr, start, min(start + length, count)};
}

// First type of the warp.
__device__ __forceinline__ int first_type() {
    return (blockIdx.x * THREADS + threadIdx.x) / WARP_LANES * TYPES_PER_WARP;
}

// Counts the rows and entries of each type in a segment: type_rows, type_entries.
extern "C" __global__ void __launch_bounds__(THREADS, TYPE_BLOCKS)
graph_batch_count(const __grid_constant__ AssembleGraphBatch args) {
    begin_kernel();
    Rows rows = segment_of_kind(args);
    int object_types = args.object_types, predicate_types = args.predicate_types;
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
            args.scratch.type_rows[at] = all_rows;
            args.scratch.type_entries[at] = all_entries;
        }
    }
}

// Lists the types in use in ascending order, with the start of their entries and the number (slot) of each type.
extern "C" __global__ void __launch_bounds__(THREADS)
graph_batch_number(const __grid_constant__ AssembleGraphBatch args) {
    begin_kernel();
    __shared__ int partial[THREADS / WARP_LANES];
    bool objects = blockIdx.x == 0;
    int all_types = args.object_types + args.predicate_types;
    int count = objects ? args.object_types : args.predicate_types, start_of_kind = objects ? 0 : args.object_types;
    int *types = objects ? args.batch.object_types : args.batch.predicate_types;
    int *offsets = objects ? args.batch.object_offsets : args.batch.predicate_offsets;
    int slots = 0, entries = 0;
    for (int start = 0; start < count; start += THREADS) {
        int type = start + threadIdx.x, at = start_of_kind + type, total;
        int rows = 0, own = 0;
        for (int segment = 0; segment < args.segments; segment++) {
            int in_segment = segment * all_types + at;
            rows += type < count ? args.scratch.type_rows[in_segment] : 0;
            own += type < count ? args.scratch.type_entries[in_segment] : 0;
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
            args.scratch.slot_of_type[at] = occurs ? slot : -1;
        }
    }
    if (threadIdx.x == 0) {
        offsets[slots] = entries;
        args.batch.counts[objects ? OBJECTS : PREDICATES] = slots;
    }
}

// Type numbers of the ends and the predicate of each edge.
__device__ __forceinline__ void fill_edge_slots(const AssembleGraphBatch &args) {
    const BatchArguments &batch = args.batch;
    const int *slot_of_type = args.scratch.slot_of_type, *node_object = args.scratch.node_object;
    int edge_count = batch.counts[EDGES];
    int blocks = gridDim.x * gridDim.z, block = blockIdx.z * gridDim.x + blockIdx.x;
    for (int edge = block * THREADS + threadIdx.x; edge < edge_count; edge += blocks * THREADS) {
        batch.edge_subject_slot[edge] = slot_of_type[node_object[batch.edge_subject[edge]]];
        batch.edge_object_slot[edge] = slot_of_type[node_object[batch.edge_object[edge]]];
        batch.edge_predicate_slot[edge] = slot_of_type[args.object_types + args.scratch.edge_predicate[edge]];
    }
}

// Entries by type, with rows ascending; the entries of a node are its messages. With blockIdx.y = 2: the type numbers
// of the edges.
extern "C" __global__ void __launch_bounds__(THREADS, TYPE_BLOCKS)
graph_batch_fill(const __grid_constant__ AssembleGraphBatch args) {
    begin_kernel();
    if (blockIdx.y == 2) {
        fill_edge_slots(args);
        return; // the whole block
    }
    const BatchArguments &batch = args.batch;
    int object_types = args.object_types, predicate_types = args.predicate_types;
    bool objects = blockIdx.y == 0;
    Rows rows = segment_of_kind(args);
    int first = first_type(), types = objects ? object_types : predicate_types;
    int lane = threadIdx.x % WARP_LANES;
    int *entries = objects ? batch.object_entries : batch.predicate_entries;
    const int *offsets = objects ? batch.object_offsets : batch.predicate_offsets;
    // Start of the segment's entries of each type, after those of earlier segments.
    int next[TYPES_PER_WARP];
#pragma unroll
    for (int t = 0; t < TYPES_PER_WARP; t++) {
        int at = blockIdx.y * object_types + first + t, slot = first + t < types ? args.scratch.slot_of_type[at] : -1;
        bool before = slot >= 0 && lane < int(blockIdx.z);
        warp_scan(before ? args.scratch.type_entries[lane * (object_types + predicate_types) + at] : 0, next[t]);
        next[t] += slot < 0 ? 0 : offsets[slot];
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
            // The warp copies the messages of one node at a time: an image node has one message for each object of its
            // graph.
            int message = type < 0 ? 0 : batch.node_offsets[row];
            for (; wanted != 0; wanted &= wanted - 1) {
                int node = __ffs(wanted) - 1;
                int count = __shfl_sync(FULL_WARP, own, node), to = __shfl_sync(FULL_WARP, place, node);
                int from = __shfl_sync(FULL_WARP, message, node);
                for (int i = lane; i < count; i += WARP_LANES) {
                    entries[to + i] = batch.node_entries[from + i];
                }
            }
        }
    }
}

EMULATED_KERNELS(graph_batch, EMULATED_KERNEL(graph_batch_places, THREADS),
                 EMULATED_KERNEL(graph_batch_graphs, GRAPH_THREADS),
                 EMULATED_KERNEL(graph_batch_count, THREADS, TYPE_BLOCKS), EMULATED_KERNEL(graph_batch_number, THREADS),
                 EMULATED_KERNEL(graph_batch_fill, THREADS, TYPE_BLOCKS))
