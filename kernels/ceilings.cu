// ceilings: arithmetic without memory accesses, to measure a GPU's peak rates.
//   ceiling_fma  FMA_CHAINS numbers per thread; each step computes s = s factor + addend; the result is their sum
//   ceiling_mma  MMA_CHAINS tiles [16, 8] per warp; each step computes d += a b in bf16, with constant fragments a and b;
//                the result is the sum of a thread's values
// in   factor, addend; a, b: a pair of bf16 that fills every register of the fragments
// out  sums [threads of the grid], written so that the compiler keeps every step
// grid any size; the chains are independent, which hides instruction latency
// cost 2 FMA_CHAINS steps flops per thread; 2 * 16 * 8 * 16 MMA_CHAINS steps flops per warp
// The tensor-core rate is that of mma.sync, which the matrix products use. wgmma is faster on GPUs that have it.

#include "common.cuh"
#include "tensor_core.cuh"

constexpr int FMA_CHAINS = 8;
constexpr int MMA_CHAINS = 4;
constexpr int THREADS = 256;

struct CeilingFma {
    float *sums;
    float factor, addend;
    int steps, reserved;
};

extern "C" __global__ void __launch_bounds__(THREADS) ceiling_fma(const __grid_constant__ CeilingFma args) {
    begin_kernel();
    float chain[FMA_CHAINS];
#pragma unroll
    for (int i = 0; i < FMA_CHAINS; i++) {
        chain[i] = float(threadIdx.x + i);
    }
#pragma unroll 16 // otherwise loop overhead would dominate
    for (int step = 0; step < args.steps; step++) {
#pragma unroll
        for (int i = 0; i < FMA_CHAINS; i++) {
            chain[i] = fmaf(chain[i], args.factor, args.addend);
        }
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < FMA_CHAINS; i++) {
        sum += chain[i];
    }
    args.sums[size_t(blockIdx.x) * THREADS + threadIdx.x] = sum;
}

struct CeilingMma {
    float *sums;
    unsigned a, b;
    int steps, reserved;
};

extern "C" __global__ void __launch_bounds__(THREADS) ceiling_mma(const __grid_constant__ CeilingMma args) {
    begin_kernel();
    const unsigned a[4] = {args.a, args.a, args.a, args.a}, b[2] = {args.b, args.b};
    float chain[MMA_CHAINS][4] = {};
#pragma unroll 8
    for (int step = 0; step < args.steps; step++) {
#pragma unroll
        for (int i = 0; i < MMA_CHAINS; i++) {
            mma_bf16(chain[i], a, b);
        }
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < MMA_CHAINS; i++) {
        sum += chain[i][0] + chain[i][1] + chain[i][2] + chain[i][3];
    }
    args.sums[size_t(blockIdx.x) * THREADS + threadIdx.x] = sum;
}

EMULATED_KERNELS(ceilings, EMULATED_KERNEL(ceiling_fma, THREADS), EMULATED_KERNEL(ceiling_mma, THREADS))
