// embedding: gathers the table rows of the types in a batch, for both tables; the backward scatters the gradients.
//   forward: rows[u] = table[types[u]];   backward: d_table[types[u]] = d_rows[u], and 0 for types that do not occur
// in   table [V, D] in single precision, or d_rows [U, D]; types [U], ascending and unique; one set for objects, one
//      for predicates
// out  rows [U, D], or d_table [V, D] in single precision, overwritten completely
// rows and d_rows have element type T, rows `stride` apart (stored.cuh)
// grid x one block per row, with U in device memory (common.cuh); y the table. Threads stride over D, four columns
//      each. In the backward, each block also writes the zeros up to the next row; the first block also writes those
//      before its row

#include "stored.cuh"

constexpr int THREADS = 128;

// Arguments for one table.
template <class T> struct LookupArguments {
    T *rows;
    const float *table;
    const int *types, *row_count;
};

template <class T> struct EmbeddingForward {
    LookupArguments<T> lookups[2]; // objects, predicates
    int width, stride;
};

template <class T> __device__ __forceinline__ void embedding_forward(const EmbeddingForward<T> &args) {
    begin_kernel(); // the launch ahead may have written the types
    const LookupArguments<T> &of = args.lookups[blockIdx.y];
    int row = blockIdx.x, width = args.width;
    if (row >= *of.row_count) {
        return;
    }
    const float *from = of.table + size_t(of.types[row]) * width;
    for (int c = threadIdx.x * COLUMNS_EACH; c < width; c += THREADS * COLUMNS_EACH) {
        store_four(of.rows + size_t(row) * args.stride, c, width, load_four(from, c, width));
    }
}

template <class T> struct LookupGradientArguments {
    float *d_table;
    const T *d_rows;
    const int *types, *row_count;
    int type_count, reserved; // V is type_count
};

template <class T> struct EmbeddingBackward {
    LookupGradientArguments<T> lookups[2]; // objects, predicates
    int width, stride;
};

template <class T> __device__ __forceinline__ void embedding_backward(const EmbeddingBackward<T> &args) {
    const LookupGradientArguments<T> &of = args.lookups[blockIdx.y];
    int row = blockIdx.x, count = load_early(of.row_count), width = args.width;
    int occurs = row < count ? load_early(of.types + row) : -1;
    int first = row == 0 ? 0 : occurs, end = row + 1 < count ? load_early(of.types + row + 1) : of.type_count;
    begin_kernel();
    if (row >= max(count, 1)) { // without rows the first block writes all zeros
        return;
    }
    for (int type = first; type < end; type++) {
        for (int c = threadIdx.x * COLUMNS_EACH; c < width; c += THREADS * COLUMNS_EACH) {
            Four d = {};
            if (type == occurs) {
                d = load_four(of.d_rows + size_t(row) * args.stride, c, width);
            }
            store_four(of.d_table + size_t(type) * width, c, width, d);
        }
    }
}

STORED_KERNEL(embedding_forward, EmbeddingForward, THREADS)
STORED_KERNEL(embedding_backward, EmbeddingBackward, THREADS)
EMULATED_KERNELS(embedding, EMULATED_STORED_KERNEL(embedding_forward, THREADS),
                 EMULATED_STORED_KERNEL(embedding_backward, THREADS))
