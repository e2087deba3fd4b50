// ceilings: arithmetic without memory accesses, to measure a GPU's peak rates, and a kernel without work.
//   ceiling_fma  FMA_CHAINS numbers per thread; each step computes s = s factor + addend; the result is their sum
//   ceiling_mma  MMA_CHAINS tiles [16, 8] per warp; each step computes d += a b in bf16, with constant fragments a and b;
//                the result is the sum of a thread's values
//   ceiling_mma_varied  the same with FRAGMENTS different random fragments a and b, which take turns: the power that a
//                product takes, and with it the clock, depends on how many bits change
//   ceiling_launch  nothing: what remains is the launch
// in   factor, addend; a, b: a pair of bf16 that fills every register of the fragments
// out  sums [threads of the grid], written so that the compiler keeps every step
// grid any size; the chains are independent, which hides instruction latency
// cost 2 FMA_CHAINS steps flops per thread; 2 * 16 * 8 * 16 MMA_CHAINS steps flops per warp
// The tensor-core rate is that of mma.sync, which the matrix products use. wgmma is faster on GPUs that have it.

#include "common.cuh"
#include "tensor_core.cuh"

constexpr int FMA_CHAINS = 8;
constexpr int MMA_CHAINS = 4;
constexpr int FRAGMENTS = 4;
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

// Sum of a thread's values.
__device__ __forceinline__ float total(const float (&chain)[MMA_CHAINS][4]) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < MMA_CHAINS; i++) {
        sum += chain[i][0] + chain[i][1] + chain[i][2] + chain[i][3];
    }
    return sum;
}

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
    args.sums[size_t(blockIdx.x) * THREADS + threadIdx.x] = total(chain);
}

struct CeilingMmaVaried {
    float *sums;
    int steps, reserved; // steps: a multiple of FRAGMENTS
};

// A pair of bf16 with random signs and significands, of magnitudes in 0.5..1. The hash is lowbias32 (Wellons, 2018).
__device__ __forceinline__ unsigned random_pair(unsigned index) {
    index = (index ^ (index >> 16)) * 0x7feb352du;
    index = (index ^ (index >> 15)) * 0x846ca68bu;
    index ^= index >> 16;
    return (index & 0x807f807fu) | 0x3f003f00u;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    ceiling_mma_varied(const __grid_constant__ CeilingMmaVaried args) {
    begin_kernel();
    unsigned a[FRAGMENTS][4], b[FRAGMENTS][2], index = (blockIdx.x * THREADS + threadIdx.x) * FRAGMENTS * 6;
#pragma unroll
    for (int f = 0; f < FRAGMENTS; f++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[f][i] = random_pair(index + 6 * f + i);
        }
        b[f][0] = random_pair(index + 6 * f + 4);
        b[f][1] = random_pair(index + 6 * f + 5);
    }
    float chain[MMA_CHAINS][4] = {};
#pragma unroll 2
    for (int step = 0; step < args.steps; step += FRAGMENTS) {
#pragma unroll
        for (int f = 0; f < FRAGMENTS; f++) {
#pragma unroll
            for (int i = 0; i < MMA_CHAINS; i++) {
                mma_bf16(chain[i], a[(f + i) % FRAGMENTS], b[f]);
            }
        }
    }
    args.sums[size_t(blockIdx.x) * THREADS + threadIdx.x] = total(chain);
}

struct CeilingLaunch {
    int reserved;
};

extern "C" __global__ void __launch_bounds__(THREADS) ceiling_launch(const __grid_constant__ CeilingLaunch) {
    begin_kernel();
}

EMULATED_KERNELS(ceilings, EMULATED_KERNEL(ceiling_fma, THREADS), EMULATED_KERNEL(ceiling_mma, THREADS),
                 EMULATED_KERNEL(ceiling_mma_varied, THREADS), EMULATED_KERNEL(ceiling_launch, THREADS))
