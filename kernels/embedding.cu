// embedding: rows of a table by type, for the types that occur in a batch, and the way back.
//   forward: rows[u] = table[types[u]];   backward: d_table[types[u]] = d_rows[u]
// in   table [V, D] in single precision, or d_rows [U, D]; types [U], each once
// out  rows [U, D]; d_table [V, D] in single precision, whose other rows the launcher has zeroed
// rows and d_rows are of T, `stride` apart (stored.cuh)
// grid one block per row, U of them in device memory (common.cuh), threads stride over D, four columns each
// cost copies of (4 + T) U D bytes, and 4 V D bytes of zeros

#include "stored.cuh"

constexpr int THREADS = 128;

template <class T>
__device__ __forceinline__ void embedding_forward(T *__restrict__ rows, const float *__restrict__ table,
                                                  const int *__restrict__ types, int row_count, int width,
                                                  int stride) {
    int row = blockIdx.x;
    if (row >= row_count) {
        return;
    }
    const float *from = table + size_t(types[row]) * width;
    for (int c = threadIdx.x * COLUMNS_EACH; c < width; c += THREADS * COLUMNS_EACH) {
        store_four(rows + size_t(row) * stride, c, width, load_four(from, c, width));
    }
}

template <class T>
__device__ __forceinline__ void embedding_backward(float *__restrict__ d_table, const T *__restrict__ d_rows,
                                                   const int *__restrict__ types, int row_count, int width,
                                                   int stride) {
    int row = blockIdx.x;
    if (row >= row_count) {
        return;
    }
    float *to = d_table + size_t(types[row]) * width;
    for (int c = threadIdx.x * COLUMNS_EACH; c < width; c += THREADS * COLUMNS_EACH) {
        store_four(to, c, width, load_four(d_rows + size_t(row) * stride, c, width));
    }
}

#define EMBEDDING_KERNELS(T, suffix)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) embedding_forward_##suffix(                                 \
        T *__restrict__ rows, const float *__restrict__ table, const int *__restrict__ types,                         \
        const int *__restrict__ row_count, int width, int stride) {                                                   \
        embedding_forward(rows, table, types, *row_count, width, stride);                                             \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) embedding_backward_##suffix(                                \
        float *__restrict__ d_table, const T *__restrict__ d_rows, const int *__restrict__ types,                     \
        const int *__restrict__ row_count, int width, int stride) {                                                   \
        embedding_backward(d_table, d_rows, types, *row_count, width, stride);                                        \
    }

STORED_KERNELS(EMBEDDING_KERNELS)
EMULATED_KERNELS(embedding, EMULATED_STORED_KERNEL(embedding_forward), EMULATED_STORED_KERNEL(embedding_backward))
