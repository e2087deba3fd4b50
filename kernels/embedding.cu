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

// Zeros that the compiler takes for unknown: it would store four constants one by one.
__device__ __forceinline__ Four unknown_zeros() {
    float zero = 0.0f;
#ifdef __CUDACC__
    asm("mov.f32 %0, 0f00000000;" : "=f"(zero));
#endif
    return {{zero, zero, zero, zero}};
}

// Writes zeros to the rows first..end of the table, which lie side by side.
__device__ __forceinline__ void write_zeros(float *table, int first, int end, int width) {
    float *from = table + size_t(first) * width;
    Four zeros = unknown_zeros();
    int count = max(end - first, 0) * width, i = threadIdx.x * COLUMNS_EACH;
    if (is_aligned(from)) {
#pragma unroll 4
        for (; i + COLUMNS_EACH <= count; i += THREADS * COLUMNS_EACH) {
            store_aligned(from + i, zeros);
        }
    }
    for (; i < count; i += THREADS * COLUMNS_EACH) {
        store_four(from, i, count, zeros, false);
    }
}

template <class T> __device__ __forceinline__ void embedding_backward(const EmbeddingBackward<T> &args) {
    const LookupGradientArguments<T> &of = args.lookups[blockIdx.y];
    int row = blockIdx.x, count = load_early(of.row_count), width = args.width;
    int occurs = row < count ? load_early(of.types + row) : -1;
    int first = row == 0 ? 0 : occurs, end = row + 1 < count ? load_early(of.types + row + 1) : of.type_count;
    begin_kernel();
    if (row >= max(count, 1)) { // without rows the first block writes all zeros
        return;
    }
    if (row < count) {
        for (int c = threadIdx.x * COLUMNS_EACH; c < width; c += THREADS * COLUMNS_EACH) {
            Four d = load_four(row_of(of.d_rows, row, args.stride), c, width);
            store_four(row_of(of.d_table, occurs, width), c, width, d);
        }
    }
    write_zeros(of.d_table, first, occurs, width);
    write_zeros(of.d_table, occurs + 1, end, width);
}

STORED_KERNEL(embedding_forward, EmbeddingForward, THREADS)
STORED_KERNEL(embedding_backward, EmbeddingBackward, THREADS)
EMULATED_KERNELS(embedding, EMULATED_STORED_KERNEL(embedding_forward, THREADS),
                 EMULATED_STORED_KERNEL(embedding_backward, THREADS))
