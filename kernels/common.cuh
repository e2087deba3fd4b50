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

// Batch norm of one column: norm(z) = scale z + shift, where scale = rstd weight and shift = bias - scale mean. They
// are computed once, in double precision (norm_affine). Rounding the shift costs no more than rounding a z of the size
// of its mean does, by half a unit in the last place each.
struct NormColumn {
    float scale, shift;
};

__device__ __forceinline__ NormColumn norm_affine(double mean, double rstd, float weight, float bias) {
    float scale = float(rstd * weight);
    return {scale, float(bias - double(scale) * mean)};
}

// norm(z), the same in every kernel: the backward and the masks repeat the ReLU's decision and must agree with the
// forward.
__device__ __forceinline__ float norm_value(NormColumn norm, float z) { return fmaf(z, norm.scale, norm.shift); }

// relu(norm(z)); NaN stays NaN.
__device__ __forceinline__ float relu_norm(NormColumn norm, float z) {
    float y = norm_value(norm, z);
    return y <= 0.0f ? 0.0f : y;
}

// Terms constant + slope z of a column that the backward of batch norm subtracts (computed by BackwardMerge in
// column_sums.cuh).
struct NormTerms {
    float constant, slope;
};

// d_z of relu(norm(z)), given the gradient d with respect to its output. Roundings are explicit, so every kernel
// computes the same d_z from d and z.
__device__ __forceinline__ float norm_backward_value(NormColumn norm, NormTerms terms, float d, float z) {
    float passed = norm_value(norm, z) > 0.0f ? d : 0.0f;
    return fmaf(-z, terms.slope, fmaf(norm.scale, passed, -terms.constant));
}

// Adds to a counter and returns its value before. What the block wrote and read before its last barrier is ordered before
// the addition; what other blocks did before their additions is visible after it (acq_rel). It costs one fence, where
// __threadfence() before and after an atomicAdd would be two sequentially consistent ones.
__device__ __forceinline__ int add_ordered(int *counter, int count) {
#ifdef __CUDACC__
    int before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(__cvta_generic_to_global(counter)), "r"(count)
                 : "memory");
    return before;
#else
    return atomicAdd(counter, count);
#endif
}

// Adds `count` to the ticket and returns whether it has reached `of`. If so, all earlier writes of the other blocks are
// visible, and the ticket is reset to 0. All threads of the block call it; `flag` is in shared memory. The first
// thread's addition stands for the block: the barriers order the other threads' accesses before and after it.
__device__ __forceinline__ bool last_to_come(int *ticket, int count, int of, bool first_thread, int *flag) {
    __syncthreads();
    if (first_thread) {
        bool last = add_ordered(ticket, count) + count == of;
        if (last) {
            *ticket = 0;
        }
        *flag = last;
    }
    __syncthreads();
    bool last = *flag;
    __syncthreads(); // the flag's memory may be reused after this
    return last;
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
