// edge_pool: mean of the messages that reach each node. A message is relu(norm(z)), computed while loading z.
//   pooled[n] = sum(messages of n) / count(n), and 0 where count(n) = 0; a self loop counts twice
// in   z [E, W]: messages to the subject in the first H columns, to the object in the last H; W = H + D + H
//      scale, shift [W] of the norm; offsets [N + 1], entries [2E] (2 e + role; role 0 subject, 1 object)
// out  pooled [N, H]
// All matrices have element type T and rows at the given strides (stored.cuh).
// grid one block per node, with N in device memory (common.cuh), threads stride over H, four columns each; sums in the
//      order of `entries`: bit-reproducible
// cost reads 2 T E H and writes T N H bytes: bandwidth
// backward, joined with the backward of batch norm and ReLU. d_heads [E, W], the gradient with respect to the outputs
// of the heads, is never stored; both kernels gather it from d_pooled [N, H] and d_edge_state [E, D]:
//   edge_pool_backward_sums  d_weight, d_bias and terms of batch norm (batch_norm.cu)
//   edge_pool_backward       d_z [E, W]
//   grid x strips of 128 columns, y chunks of 64 edges, 8 rows at a time (strip_sums.cuh); no thread's four columns lie in
//        two of the row's parts
//   cost each reads T E (W + D) + T N H bytes, the second writes T E W: bandwidth

#include "lists.cuh"
#include "strip_sums.cuh"

constexpr int THREADS = 128; // forward
// Least numbers of resident blocks per multiprocessor: in the forward, a large GPU then holds the nodes of 16 triples.
constexpr int FORWARD_BLOCKS = 8, SUMS_BLOCKS = 3, BACKWARD_BLOCKS = 3;

template <class T> struct EdgePoolForward {
    T *pooled;
    const T *z;
    NormArguments norm;
    ListsArguments incidence;
    int width, hidden, z_stride, pooled_stride; // W is width, H is hidden
};

template <class T> __device__ __forceinline__ void edge_pool_forward(const EdgePoolForward<T> &args) {
    int node = blockIdx.x, hidden = args.hidden;
    bool exists = node < load_early(args.incidence.row_count);
    const int *offsets = args.incidence.offsets + node;
    int first = exists ? load_early(offsets) : 0, end = exists ? load_early(offsets + 1) : 0;
    begin_kernel();
    if (!exists) {
        return; // the whole block
    }
    const int *entries = args.incidence.entries;
    int object_start = args.width - hidden;
    NormRows norm = args.norm.rows();
    NormRows of_object = norm.from(object_start);
    for (int c = threadIdx.x * COLUMNS_EACH; c < hidden; c += THREADS * COLUMNS_EACH) {
        NormFour to_subject = load_norm(norm, c, hidden), to_object = load_norm(of_object, c, hidden);
        Four sum = {};
        auto rows = four_columns(args.z, args.z_stride, c, hidden);
        rows.whole = rows.whole && object_start % COLUMNS_EACH == 0; // of both messages
        for_columns(rows, [&](auto columns) {
            constexpr int at_once = rows_at_once<decltype(columns), LISTED_AT_ONCE>;
            auto load = [&](int entry) { return columns.load(entry >> 1, entry & 1 ? object_start : 0); };
            for_each_entry<at_once>(entries, first, end, load, [&](int entry, const PackedFour<T> &loaded) {
                Four value = loaded.widen();
                bool is_object = entry & 1;
#pragma unroll
                for (int k = 0; k < COLUMNS_EACH; k++) {
                    NormColumn of = {is_object ? to_object.scale[k] : to_subject.scale[k],
                                     is_object ? to_object.shift[k] : to_subject.shift[k]};
                    sum[k] += relu_norm(of, value[k]);
                }
            });
        });
#pragma unroll
        for (int k = 0; k < COLUMNS_EACH; k++) {
            sum[k] /= max(end - first, 1);
        }
        store_four(row_of(args.pooled, node, args.pooled_stride), c, hidden, sum);
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
};

// Four adjacent columns of a row, all in one of its parts, which are the message to the subject, the edge state and the
// message to the object.
enum HeadPart { TO_SUBJECT, TO_OBJECT, EDGE_STATE, HEAD_PARTS };
struct HeadColumns {
    HeadPart part;
    int start, columns; // first column of the part in the row, and its width
    int column;         // first of the four in the part; none if it is not below `columns`

    // Column of the row, or `width` if the part has no i-th of the four.
    __device__ __forceinline__ int in_row(int i, int width) const {
        return column + i < columns ? start + column + i : width;
    }
};

// The columns number `index`: each part begins with a new number.
__device__ __forceinline__ HeadColumns head_columns(int index, int width, int hidden) {
    int column = index * COLUMNS_EACH, each = (hidden + COLUMNS_EACH - 1) / COLUMNS_EACH * COLUMNS_EACH;
    int state = width - 2 * hidden, of_state = (state + COLUMNS_EACH - 1) / COLUMNS_EACH * COLUMNS_EACH;
    if (column < each) {
        return {TO_SUBJECT, 0, hidden, column};
    }
    if (column < each + of_state) {
        return {EDGE_STATE, hidden, state, column - each};
    }
    return {TO_OBJECT, width - hidden, hidden, column - each - of_state};
}

// Where the gradient with respect to each part of a chunk's edges is found: the row, which is the node at this end or the
// edge itself, and its factor, which is 1 / the node's number of messages or 1.
struct ChunkRows {
    int row[HEAD_PARTS][CHUNK_ROWS];
    float share[HEAD_PARTS][CHUNK_ROWS];
};

// A thread's part of one of `count` edges, starting at `first`. It is read before begin_kernel.
struct ThreadRow {
    int part, edge, row, messages;
    bool exists;

    template <class T>
    __device__ __forceinline__ ThreadRow(const HeadsGradientArguments<T> &of, int first, int count)
        : part(threadIdx.x / CHUNK_ROWS), edge(threadIdx.x % CHUNK_ROWS), row(first + edge), messages(1) {
        exists = part < HEAD_PARTS && edge < count;
        if (exists && part != EDGE_STATE) {
            row = load_early((part == TO_SUBJECT ? of.subject : of.object) + first + edge);
            messages = load_early(of.offsets + row + 1) - load_early(of.offsets + row);
        }
    }
    // The caller waits for the block.
    __device__ __forceinline__ void keep(ChunkRows &rows) const {
        if (exists) {
            rows.row[part][edge] = row;
            rows.share[part][edge] = 1.0f / messages;
        }
    }
};

// Number of rows that are loaded before the first of them is used.
constexpr int ROWS_AT_ONCE = 4;

// Calls use(edge, d, z) for a warp's edges of a chunk: d, the gradient with respect to four columns of the heads'
// outputs, and their z.
template <class T, class Use>
__device__ __forceinline__ void for_each_gradient(const HeadsGradientArguments<T> &of, const T *z,
                                                  const HeadColumns &at, const ChunkRows &rows, int first, int count,
                                                  const Use &use) {
    bool is_message = at.part != EDGE_STATE;
    const int *gradient_rows = rows.row[at.part];
    const float *shares = rows.share[at.part];
    auto gradient = four_columns(is_message ? of.d_pooled : of.d_edge_state,
                                 is_message ? of.pooled_stride : of.state_stride, at.column, at.columns);
    auto input = four_columns(z + at.start, of.stride, at.column, at.columns);
    int warp = threadIdx.x / WARP_LANES, rows_of_warp = (count - warp + ROW_LANES - 1) / ROW_LANES;
    struct Loaded {
        PackedFour<T> d, z;
    };
    for_columns(gradient, input, [&](auto of_gradient, auto of_input) {
        constexpr int at_once = rows_at_once<decltype(of_input), ROWS_AT_ONCE>;
        auto load = [&](int i) {
            int edge = warp + i * ROW_LANES;
            return Loaded{of_gradient.load(gradient_rows[edge]), of_input.load(first + edge)};
        };
        for_each_row<at_once>(0, rows_of_warp, load, [&](int i, const Loaded &loaded) {
            int edge = warp + i * ROW_LANES;
            Four d = loaded.d.widen();
            float share = shares[edge];
#pragma unroll
            for (int k = 0; k < COLUMNS_EACH; k++) {
                d[k] = __fmul_rn(d[k], share);
            }
            use(edge, d, loaded.z.widen());
        });
    });
}

template <class T> struct EdgePoolBackwardSums {
    NormGradientArguments gradient;
    HeadsGradientArguments<T> of;
    const T *z;
    NormArguments norm;
};

template <class T> __device__ __forceinline__ void edge_pool_backward_sums(const EdgePoolBackwardSums<T> &args) {
    __shared__ SumMemory memory;
    __shared__ ChunkRows chunk;
    const HeadsGradientArguments<T> &of = args.of;
    int edges = load_early(of.edge_count), first = blockIdx.y * CHUNK_ROWS, count = min(CHUNK_ROWS, edges - first);
    ThreadRow own(of, first, count);
    begin_kernel();
    if (first >= edges && first > 0) {
        return; // the whole block; without edges the first blocks continue
    }
    own.keep(chunk);
    __syncthreads();
    auto columns_of = [&](int index) {
        return head_columns(blockIdx.x * WARP_LANES + index, of.width, of.hidden);
    };
    HeadColumns at = columns_of(threadIdx.x % WARP_LANES);
    SumsOfFour sums = {};
    if (at.column < at.columns) {
        NormFour norm = load_norm(args.norm.rows().from(at.start), at.column, at.columns);
        Four mean = load_four(args.gradient.mean + at.start, at.column, at.columns);
        for_each_gradient(of, args.z, at, chunk, first, count,
                          [&](int, const Four &d, const Four &z) { sums.add(norm, mean, d, z); });
    }
    auto column_of = [&](int in_strip) {
        return columns_of(in_strip / COLUMNS_EACH).in_row(in_strip % COLUMNS_EACH, of.width);
    };
    finish_strip(args.gradient.memory(), args.gradient.merge(args.norm), sums, edges, of.width, column_of, memory);
}

template <class T> struct EdgePoolBackward {
    T *d_z;
    HeadsGradientArguments<T> of;
    NormBackwardArguments<T> through;
};

template <class T> __device__ __forceinline__ void edge_pool_backward(const EdgePoolBackward<T> &args) {
    __shared__ ChunkRows chunk;
    const HeadsGradientArguments<T> &of = args.of;
    int first = blockIdx.y * CHUNK_ROWS, count = min(CHUNK_ROWS, load_early(of.edge_count) - first);
    ThreadRow own(of, first, count);
    begin_kernel();
    if (count <= 0) {
        return; // the whole block
    }
    own.keep(chunk);
    __syncthreads();
    HeadColumns at = head_columns(blockIdx.x * WARP_LANES + threadIdx.x % WARP_LANES, of.width, of.hidden);
    if (at.column >= at.columns) {
        return;
    }
    NormBackwardFour backward = load_norm_backward(args.through.rows(of.width).from(at.start), at.column, at.columns);
    bool whole = four_columns(args.d_z + at.start, of.stride, at.column, at.columns).whole;
    for_each_gradient(of, args.through.z, at, chunk, first, count, [&](int edge, const Four &d, const Four &z) {
        store_four(row_of(args.d_z + at.start, first + edge, of.stride), at.column, at.columns, backward(d, z), whole);
    });
}

STORED_KERNEL(edge_pool_forward, EdgePoolForward, THREADS, FORWARD_BLOCKS)
STORED_KERNEL(edge_pool_backward_sums, EdgePoolBackwardSums, STRIP_THREADS, SUMS_BLOCKS)
STORED_KERNEL(edge_pool_backward, EdgePoolBackward, STRIP_THREADS, BACKWARD_BLOCKS)
EMULATED_KERNELS(edge_pool, EMULATED_STORED_KERNEL(edge_pool_forward, THREADS, FORWARD_BLOCKS),
                 EMULATED_STORED_KERNEL(edge_pool_backward_sums, STRIP_THREADS, SUMS_BLOCKS),
                 EMULATED_STORED_KERNEL(edge_pool_backward, STRIP_THREADS, BACKWARD_BLOCKS))
