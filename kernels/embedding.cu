// embedding: rows of a table by type, for the types that occur in a batch, and the way back.
//   forward: rows[u] = table[types[u]];   backward: d_table[types[u]] = d_rows[u]
// in   table [V, D] or d_rows [U, D]; types [U], each once
// out  rows [U, D]; d_table [V, D], whose other rows the launcher has zeroed
// grid one block per row, U of them in device memory (common.cuh), threads stride over D
// cost copies of 8 U D bytes, and 4 V D bytes of zeros

#include "common.cuh"

extern "C" __global__ void __launch_bounds__(128)
embedding_forward(float *__restrict__ rows, const float *__restrict__ table, const int *__restrict__ types,
                  const int *__restrict__ row_count, int width) {
    if (int(blockIdx.x) >= *row_count) {
        return;
    }
    const float *from = table + size_t(types[blockIdx.x]) * width;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        rows[size_t(blockIdx.x) * width + c] = from[c];
    }
}

extern "C" __global__ void __launch_bounds__(128)
embedding_backward(float *__restrict__ d_table, const float *__restrict__ d_rows, const int *__restrict__ types,
                   const int *__restrict__ row_count, int width) {
    if (int(blockIdx.x) >= *row_count) {
        return;
    }
    float *to = d_table + size_t(types[blockIdx.x]) * width;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        to[c] = d_rows[size_t(blockIdx.x) * width + c];
    }
}

EMULATED_KERNELS(embedding, EMULATED_KERNEL(embedding_forward), EMULATED_KERNEL(embedding_backward))
