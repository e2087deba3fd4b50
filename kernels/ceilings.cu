// ceilings: arithmetic that touches no memory, to measure the rate that a GPU reaches at most.
//   ceiling_fma: CHAINS numbers per thread, each `steps` times s = s factor + addend, and then their sum
// in   factor, addend
// out  sums [threads of the grid], written so that no step can be left out
// grid any; a thread's chains do not depend on each other, so that they hide the latency of a fused multiply-add
// cost 2 CHAINS steps flops per thread

#include "common.cuh"

constexpr int CHAINS = 8;
constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS)
ceiling_fma(float *__restrict__ sums, float factor, float addend, int steps) {
    size_t thread = size_t(blockIdx.x) * THREADS + threadIdx.x;
    float chain[CHAINS];
#pragma unroll
    for (int i = 0; i < CHAINS; i++) {
        chain[i] = float(threadIdx.x + i);
    }
#pragma unroll 16 // the loop's own instructions would count
    for (int step = 0; step < steps; step++) {
#pragma unroll
        for (int i = 0; i < CHAINS; i++) {
            chain[i] = fmaf(chain[i], factor, addend);
        }
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < CHAINS; i++) {
        sum += chain[i];
    }
    sums[thread] = sum;
}

EMULATED_KERNELS(ceilings, EMULATED_KERNEL(ceiling_fma))
