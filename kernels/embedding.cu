// embedding: rows of the two tables by type, for the types that occur in a batch, and the way back.
//   forward: rows[u] = table[types[u]];   backward: d_table[types[u]] = d_rows[u], and 0 where no type occurs
// in   table [V, D] in single precision, or d_rows [U, D]; types [U], ascending, each once; of objects and of predicates
// out  rows [U, D], or d_table [V, D] in single precision, written whole
// rows and d_rows are of T, `stride` apart (stored.cuh)
// grid x one block per row, with U in device memory (common.cuh), y the table; threads stride over D, four columns each.
//      In backward each block also writes the zeros up to the next row, and the first block those before its row
// cost copies of (4 + T) U D bytes; backward reads T U D and writes 4 V D

#include "stored.cuh"

constexpr int THREADS = 128;

// Of one table.
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
    int row = blockIdx.x, count = *of.row_count, width = args.width;
    if (row >= max(count, 1)) { // without rows the first block writes all zeros
        return;
    }
    int occurs = row < count ? of.types[row] : -1;
    int first = row == 0 ? 0 : occurs, end = row + 1 < count ? of.types[row + 1] : of.type_count;
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
