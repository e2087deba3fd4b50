// edge_hidden: adds up the parts of an edge's first product, which is split by operand; sums its gradient by node or
// type.
//   z[e] = e W_e^T + P[subject(e), 0..H] + P[object(e), H..2H],   P = x [W_s; W_o]^T
// (layer 0; in later layers linear_forward_gather in linear.cuh adds the other parts to the product of the edge states)
//   sums[n] = (sum of d_z over edges with subject n, sum over edges with object n)
// Rows n are nodes. In layer 0, where x and e are rows of the embedding tables, they are the types in use, and e W_e^T
// has one row per predicate type.
// With lengths, x = u / length by row, where u = relu(norm(.)) (linear_forward_unit in linear.cuh). The sums are then
// divided by the length, which makes them the gradient with respect to u W. The kernel also writes along[n] = sums[n] .
// P[n] / length, or 0 where the length is clamped. It is the multiple of u to subtract from the gradient with respect
// to u. Since x . (sums W) = sums . (x W), it does not depend on the gradient with respect to x.
// in   projected = P [n, 2H]; subject, object [E] -> n; edge_projected [u, H], edge_row [E] -> u; offsets [n + 1],
//      entries (2 e + role) or (e); lengths [n], null if x is not divided
// out  z [E, H] and optionally the statistics of its columns, computed from the stored values; sums [n, 2H] or [u, H]
//      and along [n], overwritten
// All matrices have element type T; rows of H are `stride` apart (stored.cuh), rows of 2 H are `ends_stride` apart.
// grid lookup: x strips of 64 columns, y chunks of 64 rows, with E in device memory (common.cuh), 16 rows at a time;
//      the strip's last block merges the chunks (column_sums.cuh). sums: one block per output row, with n in device
//      memory; threads stride over H. sums by type: one block per chunk of 64 entries of a type's list (lists.cuh), since
//      one type may have most of them; the type's last block merges the chunks. The blocks of predicate types come first,
//      those of object types follow. Four columns per thread. Sums in the order of rows, or of `entries`: bit-reproducible
// cost lookup reads 3 T E H and writes T E H bytes; sums read 2 T E H and write 2 T n H bytes:
//      bandwidth

#include "lists.cuh"
#include "norm_arguments.cuh"

constexpr int THREADS = 128; // sums
// Least number of resident blocks per multiprocessor for the sums by end: enough warps to hide the gather, without
// spills.
constexpr int ENDS_BLOCKS = 8;
// Lookup: columns of a strip, four per thread, and rows at a time.
constexpr int STRIP = 64, ROW_LANES = 16;
constexpr int LOOKUP_THREADS = STRIP / COLUMNS_EACH * ROW_LANES;
// Least number per multiprocessor: registers for a thread's rows, which are all loaded at once, without spills.
constexpr int LOOKUP_BLOCKS = 3;

template <class T> struct EdgeHiddenLookup {
    T *z;
    StatisticsArguments statistics;
    const T *edge_projected, *projected;
    const int *edge_row, *subject, *object;
    const int *edge_count;
    int hidden, stride, ends_stride, reserved;
};

// The statistics of a chunk are the means of its columns and the sums of squared deviations from them. They are taken
// around the chunk's first row, which avoids cancellation.
template <class T> __device__ __forceinline__ void edge_hidden_lookup(const EdgeHiddenLookup<T> &args) {
    __shared__ union {
        float2 chunk[ROW_LANES][STRIP];
        Pair merged[LOOKUP_THREADS];
    } memory;
    __shared__ float first_row[STRIP];
    constexpr int rows_each = CHUNK_ROWS / ROW_LANES;
    int edge_count = load_early(args.edge_count), hidden = args.hidden, stride = args.stride;
    int ends_stride = args.ends_stride, first = blockIdx.y * CHUNK_ROWS, count = min(CHUNK_ROWS, edge_count - first);
    int in_strip = threadIdx.x % (STRIP / COLUMNS_EACH) * COLUMNS_EACH, lane = threadIdx.x / (STRIP / COLUMNS_EACH);
    int column = blockIdx.x * STRIP + in_strip;
    // The chunk's first row, then the thread's own rows, all in flight together. Behind the last row it is loaded again.
    auto edge_of = [&](int i) { return first + (i == 0 ? 0 : min((i - 1) * ROW_LANES + lane, count - 1)); };
    int rows[rows_each + 1] = {}, subjects[rows_each + 1] = {}, objects[rows_each + 1] = {};
    bool has_rows = column < hidden && count > 0;
    if (has_rows) {
#pragma unroll
        for (int i = 0; i <= rows_each; i++) {
            rows[i] = load_early(args.edge_row + edge_of(i));
            subjects[i] = load_early(args.subject + edge_of(i));
            objects[i] = load_early(args.object + edge_of(i));
        }
    }
    begin_kernel();
    if (first >= edge_count && first > 0) {
        return; // the whole block; without rows the first blocks continue, for the statistics
    }
    auto edge_rows = four_columns(args.edge_projected, stride, column, hidden);
    auto subject_rows = four_columns(args.projected, ends_stride, column, hidden);
    auto object_rows = four_columns(args.projected + hidden, ends_stride, column, hidden);
    struct Loaded {
        PackedFour<T> of_edge, of_subject, of_object;
        // The value as stored.
        __device__ __forceinline__ Four sum() const {
            Four sum = of_edge.widen(), s = of_subject.widen(), o = of_object.widen();
#pragma unroll
            for (int i = 0; i < COLUMNS_EACH; i++) {
                sum[i] = rounded<T>(sum[i] + (s[i] + o[i]));
            }
            return sum;
        }
    };
    Four around = {}, sums = {}, squares = {};
    if (has_rows) {
        Loaded loaded[rows_each + 1];
#pragma unroll
        for (int i = 0; i <= rows_each; i++) {
            loaded[i] = {edge_rows.load(rows[i]), subject_rows.load(subjects[i]), object_rows.load(objects[i])};
        }
        around = loaded[0].sum();
#pragma unroll
        for (int k = 0; k < rows_each; k++) {
            int row = k * ROW_LANES + lane;
            if (row < count) {
                Four values = loaded[k + 1].sum();
                store_four(row_of(args.z, first + row, stride), column, hidden, values);
#pragma unroll
                for (int i = 0; i < COLUMNS_EACH; i++) {
                    float offset = values[i] - around[i];
                    sums[i] += offset;
                    squares[i] += offset * offset;
                }
            }
        }
    }
    ColumnMemory of = args.statistics.memory();
    if (of.partials == nullptr) {
        return; // the whole grid
    }
#pragma unroll
    for (int i = 0; i < COLUMNS_EACH; i++) {
        memory.chunk[lane][in_strip + i] = make_float2(sums[i], squares[i]);
        if (lane == 0) {
            first_row[in_strip + i] = around[i];
        }
    }
    __syncthreads();
    StripThread thread = {int(blockIdx.x), int(gridDim.x), int(blockIdx.x * STRIP + threadIdx.x % STRIP),
                          int(threadIdx.x % STRIP), int(threadIdx.x / STRIP)};
    if (thread.lane == 0 && thread.column < hidden && count > 0) {
        float2 sum = make_float2(0.0f, 0.0f);
        for (int other = 0; other < ROW_LANES; other++) {
            sum.x += memory.chunk[other][thread.in_strip].x;
            sum.y += memory.chunk[other][thread.in_strip].y;
        }
        float offset = sum.x / count, deviation = sum.y - sum.x * offset;
        float *to = of.chunk(blockIdx.y, hidden);
        to[thread.column] = first_row[thread.in_strip] + offset;
        to[hidden + thread.column] = deviation < 0.0f ? 0.0f : deviation; // keeps NaN
    }
    __syncthreads(); // the chunk's sums have been read
    finish_columns<LOOKUP_THREADS / STRIP, STRIP>(of, args.statistics.merge(), thread, edge_count, hidden, blockIdx.y, 1,
                                                  memory.merged);
}

// Lengths of the rows of x; null pointers if x is not divided.
template <class T> struct LengthsArguments {
    float *along;         // [n], overwritten
    const float *lengths; // [n]
    const T *projected;   // [n, 2 H]
};

// Divides the values by a length. Adds to `dot` the products of the values, as stored, with a row of P.
template <class T>
__device__ __forceinline__ void over_length(Four &values, float length, const T *projected, int column, int columns,
                                            float &dot) {
    Four with = load_four(projected, column, columns);
#pragma unroll
    for (int i = 0; i < COLUMNS_EACH; i++) {
        values[i] = rounded<T>(values[i] / length);
        dot = fmaf(values[i], with[i], dot);
    }
}

// Adds the rows of the entries first..end, in order, to the sum of each role. Entries are roles * edge + role.
template <int roles, class T>
__device__ __forceinline__ void add_list(Four (&sums)[roles], const FourColumns<T> &rows, const int *entries, int first,
                                         int end) {
    for_columns(rows, [&](auto columns) {
        constexpr int at_once = rows_at_once<decltype(columns), LISTED_AT_ONCE>;
        auto load = [&](int entry) { return columns.load(int(unsigned(entry) / roles)); };
        for_each_entry<at_once>(entries, first, end, load, [&](int entry, const PackedFour<T> &loaded) {
            // The branch is uniform: all threads of the block read the same entry.
            if (unsigned(entry) % roles == 0) {
                add_four(sums[0], loaded.widen());
            } else {
                add_four(sums[roles - 1], loaded.widen());
            }
        });
    });
}

// Sums [n, roles H] per type of one kind, and the memory for those of the chunks of its lists.
template <class T> struct TypeSumsArguments {
    T *sums; // overwritten; rows lie `stride` apart
    ListsArguments by_type;
    float *partials; // [chunks, roles, H up to a multiple of 4]
    int *tickets;    // [n]: zeros before and after each launch
    int stride, reserved;
};

template <class T> struct EdgeHiddenSumTypes {
    TypeSumsArguments<T> by_predicate, by_object;
    const T *d_z;
    int predicate_blocks; // number of blocks for predicates; the blocks for objects follow
    int hidden, stride, reserved;
};

// Number of chunks whose sums are loaded before the first of them is added.
constexpr int CHUNKS_AT_ONCE = 8;

// Sums over one chunk of a type's list. The type's last block merges the chunks in order.
template <int roles, class T>
__device__ __forceinline__ void sum_type(const EdgeHiddenSumTypes<T> &args, const TypeSumsArguments<T> &of,
                                         int number) {
    __shared__ int flag;
    int hidden = args.hidden;
    ListChunk chunk = find_chunk(of.by_type, number);
    begin_kernel();
    if (chunk.count == 0) {
        return; // the whole block
    }
    T *to = row_of(of.sums, chunk.row, of.stride);
    size_t part_stride = (hidden + COLUMNS_EACH - 1) / COLUMNS_EACH * COLUMNS_EACH, chunk_stride = roles * part_stride;
    for (int c = threadIdx.x * COLUMNS_EACH; c < hidden; c += THREADS * COLUMNS_EACH) {
        Four sums[roles] = {};
        auto rows = four_columns(args.d_z, args.stride, c, hidden);
        add_list<roles>(sums, rows, of.by_type.entries, chunk.first, chunk.end);
#pragma unroll
        for (int role = 0; role < roles; role++) {
            if (chunk.count == 1) {
                store_four(to + role * hidden, c, hidden, sums[role]);
            } else {
                store_aligned(of.partials + number * chunk_stride + role * part_stride + c, sums[role]);
            }
        }
    }
    if (chunk.count == 1 || !last_to_come(&of.tickets[chunk.row], 1, chunk.count, threadIdx.x == 0, &flag)) {
        return; // the whole block
    }
    for (int c = threadIdx.x * COLUMNS_EACH; c < hidden; c += THREADS * COLUMNS_EACH) {
#pragma unroll
        for (int role = 0; role < roles; role++) {
            const float *from = of.partials + chunk.first_chunk * chunk_stride + role * part_stride + c;
            Four sum = {};
            auto load = [&](int part) { return __ldcg(reinterpret_cast<const float4 *>(from + part * chunk_stride)); };
            for_each_row<CHUNKS_AT_ONCE>(0, chunk.count, load, [&](int, const float4 &part) {
                add_four(sum, PackedFour<float>{part}.widen());
            });
            store_four(to + role * hidden, c, hidden, sum);
        }
    }
}

template <class T> struct EdgeHiddenSumEnds {
    T *sums;
    LengthsArguments<T> lengths;
    const T *d_z;
    ListsArguments by_row;
    int hidden, stride, ends_stride, reserved;
};

template <class T> __device__ __forceinline__ void edge_hidden_sum_ends(const EdgeHiddenSumEnds<T> &args) {
    __shared__ float partial[THREADS / WARP_LANES];
    int n = blockIdx.x, hidden = args.hidden;
    bool exists = n < load_early(args.by_row.row_count);
    int first = exists ? load_early(args.by_row.offsets + n) : 0, end = exists ? load_early(args.by_row.offsets + n + 1) : 0;
    begin_kernel();
    if (!exists) {
        return; // the whole block
    }
    const LengthsArguments<T> &with = args.lengths;
    float dot = 0.0f;
    T *to = row_of(args.sums, n, args.ends_stride);
    for (int c = threadIdx.x * COLUMNS_EACH; c < hidden; c += THREADS * COLUMNS_EACH) {
        Four sums[2] = {};
        add_list<2>(sums, four_columns(args.d_z, args.stride, c, hidden), args.by_row.entries, first, end);
        Four &as_subject = sums[0], &as_object = sums[1];
        if (with.lengths != nullptr) {
            const T *projected = row_of(with.projected, n, args.ends_stride);
            float length = with.lengths[n];
            over_length(as_subject, length, projected, c, hidden, dot);
            over_length(as_object, length, projected + hidden, c, hidden, dot);
        }
        store_four(to, c, hidden, as_subject);
        store_four(to + hidden, c, hidden, as_object);
    }
    if (with.lengths != nullptr) {
        dot = block_sum(dot, partial);
        if (threadIdx.x == 0) {
            float length = with.lengths[n];
            with.along[n] = length <= L2_EPSILON ? 0.0f : dot / length; // keeps NaN
        }
    }
}

template <class T>
__device__ __forceinline__ void edge_hidden_sum_types(const EdgeHiddenSumTypes<T> &args) {
    int block = blockIdx.x;
    if (block < args.predicate_blocks) {
        sum_type<1>(args, args.by_predicate, block);
    } else {
        sum_type<2>(args, args.by_object, block - args.predicate_blocks);
    }
}

STORED_KERNEL(edge_hidden_lookup, EdgeHiddenLookup, LOOKUP_THREADS, LOOKUP_BLOCKS)
STORED_KERNEL(edge_hidden_sum_ends, EdgeHiddenSumEnds, THREADS, ENDS_BLOCKS)
STORED_KERNEL(edge_hidden_sum_types, EdgeHiddenSumTypes, THREADS)
EMULATED_KERNELS(edge_hidden, EMULATED_STORED_KERNEL(edge_hidden_lookup, LOOKUP_THREADS, LOOKUP_BLOCKS),
                 EMULATED_STORED_KERNEL(edge_hidden_sum_ends, THREADS, ENDS_BLOCKS),
                 EMULATED_STORED_KERNEL(edge_hidden_sum_types, THREADS))
