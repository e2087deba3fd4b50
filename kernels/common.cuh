// Definitions shared by several kernel files. The same sources compile with nvcc and, against the emulator, with a C++
// compiler.
#pragma once

#include "launch.cuh"

#ifdef __CUDACC__
// Kernel tables of the emulator (see emulator/emulator.h). Empty on a GPU, where the driver finds kernels by name.
#define EMULATED_KERNELS(file, ...)
// Declares dynamic shared memory within a function. The launch sets its size (`with_dynamic_shared` of its `Kernel`).
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#endif

constexpr unsigned FULL_WARP = 0xffffffffu;
constexpr int WARP_LANES = 32;

// The row counts of a training step (nodes, edges, types in use, graphs, triples) lie in device memory. Its kernels
// take `const int *row_count` instead of `int rows`, so one captured launch serves batches of every size. The grid
// covers an upper bound. Blocks beyond the rows return at once, before any barrier, and no sum depends on the bound.

// Smallest divisor of an l2 normalisation; epsilon and momentum of batch norm.
constexpr float L2_EPSILON = 1e-12f;
constexpr double NORM_EPSILON = 1e-5;
constexpr double NORM_MOMENTUM = 0.1;

// Batch norm of one column, the same in every kernel: norm(z) = (z - mean) (rstd weight) + bias.
struct NormColumn {
    float mean, scale, bias;
};

__device__ __forceinline__ NormColumn norm_column(const float *mean, const float *rstd, const float *weight,
                                                  const float *bias, int column) {
    return {mean[column], __fmul_rn(rstd[column], weight[column]), bias[column]};
}

// norm(z). Roundings are explicit: the backward and the masks repeat the ReLU's decision and must agree with the
// forward. The compiler must not contract one of them into a fused multiply-add.
__device__ __forceinline__ float norm_value(NormColumn norm, float z) {
    return __fadd_rn(__fmul_rn(z - norm.mean, norm.scale), norm.bias);
}

// relu(norm(z)); NaN stays NaN.
__device__ __forceinline__ float relu_norm(NormColumn norm, float z) {
    float y = norm_value(norm, z);
    return y <= 0.0f ? 0.0f : y;
}

// Terms of a column that the backward of batch norm subtracts (computed by BackwardMerge in column_sums.cuh).
struct NormTerms {
    float constant, slope;
};

// d_z of relu(norm(z)), given the gradient d with respect to its output. Roundings are explicit, so every kernel
// computes the same d_z from d and z.
__device__ __forceinline__ float norm_backward_value(NormColumn norm, NormTerms terms, float d, float z) {
    float passed = norm_value(norm, z) > 0.0f ? d : 0.0f;
    return fmaf(-(z - norm.mean), terms.slope, fmaf(norm.scale, passed, -terms.constant));
}

// Sum over a warp, returned in every lane, always in the same order.
template <class T> __device__ __forceinline__ T warp_sum(T value) {
    for (int bit = WARP_LANES / 2; bit > 0; bit /= 2) {
        value += __shfl_xor_sync(FULL_WARP, value, bit);
    }
    return value;
}

// Sum over a block of whole warps, returned in every thread, always in the same order. `partial` is shared, one value
// per warp.
template <class T> __device__ __forceinline__ T block_sum(T value, T *partial) {
    value = warp_sum(value);
    int warps = blockDim.x / WARP_LANES;
    __syncthreads(); // the values of an earlier sum may still be in use
    if (threadIdx.x % WARP_LANES == 0) {
        partial[threadIdx.x / WARP_LANES] = value;
    }
    __syncthreads();
    T sum = 0;
    for (int warp = 0; warp < warps; warp++) {
        sum += partial[warp];
    }
    return sum;
}
