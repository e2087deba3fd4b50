// planted: kernels for the emulator's own tests; some are wrong on purpose.

#include "emulator/emulator.h"

// out[b] = sum of in[b * blockDim.x ..], by a tree in shared memory and shuffles in the last warp.
extern "C" __global__ void block_sum(float *__restrict__ out, const float *__restrict__ in) {
    __shared__ float partial[256];
    int t = threadIdx.x;
    partial[t] = in[blockIdx.x * blockDim.x + t];
    __syncthreads();
    for (int half = 128; half >= 32; half /= 2) {
        if (t < half) {
            partial[t] += partial[t + half];
        }
        __syncthreads();
    }
    float sum = partial[t % 32];
    for (int delta = 16; delta > 0; delta /= 2) {
        sum += __shfl_down_sync(0xffffffffu, sum, delta);
    }
    if (t == 0) {
        out[blockIdx.x] = sum;
    }
}

// The same with a barrier left out: a race.
extern "C" __global__ void planted_race(float *__restrict__ out, const float *__restrict__ in) {
    __shared__ float partial[256];
    int t = threadIdx.x;
    partial[t] = in[blockIdx.x * blockDim.x + t];
    __syncthreads();
    for (int half = 128; half >= 1; half /= 2) {
        if (t < half) {
            partial[t] += partial[t + half];
        }
    }
    if (t == 0) {
        out[blockIdx.x] = partial[0];
    }
}

// Every block writes the same value: the last one wins.
extern "C" __global__ void planted_block_race(float *__restrict__ out, const float *__restrict__ in) {
    if (threadIdx.x == 0) {
        out[0] = in[blockIdx.x];
    }
}

// A barrier that the last thread returns before.
extern "C" __global__ void planted_divergent_barrier(float *__restrict__ out, const float *__restrict__ in) {
    if (threadIdx.x == blockDim.x - 1) {
        return;
    }
    __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}

// Two barriers where there should be one.
extern "C" __global__ void planted_two_barriers(float *__restrict__ out, const float *__restrict__ in) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = in[threadIdx.x];
}

// A shuffle over the whole warp that half of it takes.
extern "C" __global__ void planted_divergent_shuffle(float *__restrict__ out, const float *__restrict__ in) {
    float value = in[threadIdx.x];
    if (threadIdx.x % 32 < 16) {
        value += __shfl_xor_sync(0xffffffffu, value, 1);
    }
    out[threadIdx.x] = value;
}

// Reads shared memory that nothing wrote.
extern "C" __global__ void planted_unwritten_shared(float *__restrict__ out, const float *__restrict__ in) {
    __shared__ float values[257];
    values[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = values[threadIdx.x + 1];
}

// Writes one value behind the end of `out`.
extern "C" __global__ void planted_out_of_bounds(float *__restrict__ out, const float *__restrict__ in) {
    if (blockIdx.x == gridDim.x - 1) {
        out[blockIdx.x + (threadIdx.x == 255)] = in[threadIdx.x];
    }
}

// Writes behind the end of a static shared array.
extern "C" __global__ void planted_shared_out_of_bounds(float *__restrict__ out, const float *__restrict__ in) {
    __shared__ float values[255];
    values[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[blockIdx.x] = values[0];
}

// Reads four floats at once from an address that is no multiple of 16.
extern "C" __global__ void planted_misaligned(float *__restrict__ out, const float *__restrict__ in) {
    out[threadIdx.x] = reinterpret_cast<const float4 *>(in + 1)->x;
}

// A block's ticket, votes and every shuffle: out[b] = 1 where all is as it must be.
extern "C" __global__ void warp_functions(float *__restrict__ out, const float *__restrict__ in) {
    int t = threadIdx.x, lane = t % 32;
    bool right = __shfl_sync(0xffffffffu, lane, 5) == 5;
    right &= __shfl_sync(0xffffffffu, lane, 3, 8) == lane / 8 * 8 + 3;
    right &= __shfl_up_sync(0xffffffffu, lane, 1) == (lane == 0 ? 0 : lane - 1);
    right &= __shfl_down_sync(0xffffffffu, lane, 2, 4) == (lane % 4 < 2 ? lane + 2 : lane);
    right &= __shfl_xor_sync(0xffffffffu, double(lane), 7) == double(lane ^ 7);
    right &= __ballot_sync(0xffffffffu, lane % 2) == 0xaaaaaaaau;
    right &= __any_sync(0xffffffffu, lane == 31) && !__all_sync(0xffffffffu, lane == 31);
    if (lane < 4) {
        right &= __shfl_xor_sync(0xfu, lane, 1) == (lane ^ 1);
        __syncwarp(0xfu);
    }
    __shared__ unsigned ticket;
    if (t == 0) {
        ticket = 0;
    }
    __syncthreads();
    atomicAdd(&ticket, unsigned(right));
    __syncthreads();
    if (t == 0) {
        out[blockIdx.x] = ticket == blockDim.x && in[0] == in[0] ? 1.0f : 0.0f;
    }
}

EMULATED_KERNELS(planted, EMULATED_KERNEL(block_sum), EMULATED_KERNEL(planted_race),
                 EMULATED_KERNEL(planted_block_race), EMULATED_KERNEL(planted_misaligned),
                 EMULATED_KERNEL(planted_divergent_barrier), EMULATED_KERNEL(planted_two_barriers),
                 EMULATED_KERNEL(planted_divergent_shuffle), EMULATED_KERNEL(planted_unwritten_shared),
                 EMULATED_KERNEL(planted_out_of_bounds), EMULATED_KERNEL(planted_shared_out_of_bounds),
                 EMULATED_KERNEL(warp_functions))
