// ceilings: arithmetic that touches no memory, to measure the rates that a GPU reaches at most.
//   ceiling_fma:      FMA_CHAINS numbers per thread, each `steps` times s = s factor + addend, and then their sum
//   ceiling_mma:      MMA_CHAINS tiles [16, 8] per warp, each `steps` times d += a b with constant fragments a and b, and
//                     then the sum of what the thread has of them
// in   factor, addend; a, b: a pair of bf16, in every register of the fragments
// out  sums [threads of the grid], written so that no step can be left out
// grid any; chains do not depend on each other, so that they hide an instruction's latency
// cost 2 FMA_CHAINS steps flops per thread; per warp MMA_CHAINS steps of 2 * 16 * 8 * 16 flops
// The tensor cores' rate is that of mma.sync, which the products use; wgmma is faster where there is any.

#include "common.cuh"
#include "tensor_core.cuh"

constexpr int FMA_CHAINS = 8;
constexpr int MMA_CHAINS = 4;
constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS)
ceiling_fma(float *__restrict__ sums, float factor, float addend, int steps) {
    begin_kernel();
    float chain[FMA_CHAINS];
#pragma unroll
    for (int i = 0; i < FMA_CHAINS; i++) {
        chain[i] = float(threadIdx.x + i);
    }
#pragma unroll 16 // the loop's own instructions would count
    for (int step = 0; step < steps; step++) {
#pragma unroll
        for (int i = 0; i < FMA_CHAINS; i++) {
            chain[i] = fmaf(chain[i], factor, addend);
        }
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < FMA_CHAINS; i++) {
        sum += chain[i];
    }
    sums[size_t(blockIdx.x) * THREADS + threadIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
ceiling_mma(float *__restrict__ sums, unsigned a, unsigned b, int steps) {
    begin_kernel();
    const unsigned fragment_a[4] = {a, a, a, a}, fragment_b[2] = {b, b};
    float chain[MMA_CHAINS][4] = {};
#pragma unroll 8
    for (int step = 0; step < steps; step++) {
#pragma unroll
        for (int i = 0; i < MMA_CHAINS; i++) {
            mma_bf16(chain[i], fragment_a, fragment_b);
        }
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < MMA_CHAINS; i++) {
        sum += chain[i][0] + chain[i][1] + chain[i][2] + chain[i][3];
    }
    sums[size_t(blockIdx.x) * THREADS + threadIdx.x] = sum;
}

EMULATED_KERNELS(ceilings, EMULATED_KERNEL(ceiling_fma), EMULATED_KERNEL(ceiling_mma))
