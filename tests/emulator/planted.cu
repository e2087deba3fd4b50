// planted: kernels for the tests of the emulator; some contain errors on purpose.

#include "launch.cuh"
#include "tensor_core.cuh"

// out[b] = sum of in[b * blockDim.x ..], by a tree in shared memory and shuffles in the last warp.
extern "C" __global__ void block_sum(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
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

// The same without one barrier: a race.
extern "C" __global__ void planted_race(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
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

// Every block writes to the same address: the last one wins.
extern "C" __global__ void planted_block_race(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    if (threadIdx.x == 0) {
        out[0] = in[blockIdx.x];
    }
}

// A thread reads values that the previous launch may still be writing.
extern "C" __global__ void planted_early_kernel(float *__restrict__ out, const float *__restrict__ in) {
    if (threadIdx.x == 77 && blockIdx.x == 1) {
        out[77] = in[77];
        return;
    }
    begin_kernel();
    out[threadIdx.x] = in[threadIdx.x];
}

// The last thread returns before a barrier.
extern "C" __global__ void planted_divergent_barrier(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    if (threadIdx.x == blockDim.x - 1) {
        return;
    }
    __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}

// Two barriers instead of one.
extern "C" __global__ void planted_two_barriers(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = in[threadIdx.x];
}

// Only half of the warp executes a shuffle over the whole warp.
extern "C" __global__ void planted_divergent_shuffle(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    float value = in[threadIdx.x];
    if (threadIdx.x % 32 < 16) {
        value += __shfl_xor_sync(0xffffffffu, value, 1);
    }
    out[threadIdx.x] = value;
}

// Reads shared memory that was never written.
extern "C" __global__ void planted_unwritten_shared(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    __shared__ float values[257];
    values[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = values[threadIdx.x + 1];
}

// The same for dynamic shared memory of 256 floats.
extern "C" __global__ void planted_unwritten_dynamic(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    DYNAMIC_SHARED(float, values);
    if (threadIdx.x < 255) {
        values[threadIdx.x] = in[threadIdx.x];
    }
    __syncthreads();
    out[threadIdx.x] = values[threadIdx.x];
}

// Writes one value beyond its end.
extern "C" __global__ void planted_dynamic_out_of_bounds(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    DYNAMIC_SHARED(float, values);
    values[threadIdx.x + 1] = in[threadIdx.x];
    __syncthreads();
    out[blockIdx.x] = values[1];
}

// Writes one value beyond the end of `out`.
extern "C" __global__ void planted_out_of_bounds(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    if (blockIdx.x == gridDim.x - 1) {
        out[blockIdx.x + (threadIdx.x == 255)] = in[threadIdx.x];
    }
}

// Writes beyond the end of a static shared array.
extern "C" __global__ void planted_shared_out_of_bounds(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    __shared__ float values[255];
    values[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[blockIdx.x] = values[0];
}

// Reads four floats at once from an address that is not a multiple of 16.
extern "C" __global__ void planted_misaligned(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    out[threadIdx.x] = reinterpret_cast<const float4 *>(in + 1)->x;
}

// Tests a block's ticket, votes and every shuffle: out[b] = 1 if all results are correct.
extern "C" __global__ void warp_functions(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
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

// ---- tensor cores -----------------------------------------------------------------------------------------------

// Small integers, which every format can represent, with no two rows or columns alike.
static float value_a(int row, int inner) { return float((row * 7 + inner * 5) % 23 - 11); }
static float value_b(int inner, int column) { return float((inner * 3 + column * 11) % 19 - 9); }

// Whether a lane's d [16, 8] is a [16, 16] b [16, 8].
static bool is_product(const float (&d)[4]) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    bool right = true;
    for (int i = 0; i < 4; i++) {
        float want = 0.0f;
        for (int k = 0; k < 16; k++) {
            want += value_a(g + i / 2 * 8, k) * value_b(k, 2 * t + i % 2);
        }
        right &= d[i] == want;
    }
    return right;
}

// Fragments written by hand according to the table in tensor_core.cuh: out[b] = 1 if the products are correct.
extern "C" __global__ void fragments(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    unsigned a[4], b[2];
    for (int i = 0; i < 4; i++) {
        int row = g + i % 2 * 8, inner = 2 * t + i / 2 * 8;
        a[i] = pack_bf16(value_a(row, inner), value_a(row, inner + 1));
    }
    for (int i = 0; i < 2; i++) {
        b[i] = pack_bf16(value_b(2 * t + i * 8, g), value_b(2 * t + i * 8 + 1, g));
    }
    float d[4] = {};
    mma_bf16(d, a, b);
    bool right = is_product(d);
    bool all = __all_sync(0xffffffffu, right);
    if (threadIdx.x == 0) {
        out[blockIdx.x] = all && in[0] == in[0] ? 1.0f : 0.0f;
    }
}

// The same products from shared memory with copies and ldmatrix: a is row-major, b is used with its inner dimension
// last, and transposed with it first.
extern "C" __global__ void loaded_fragments(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    __shared__ __align__(16) unsigned short a[16][24], b_last[8][24], b_first[16][24];
    int t = threadIdx.x, lane = t % 32;
    for (int i = t; i < 16 * 16; i += int(blockDim.x)) {
        a[i / 16][i % 16] = static_cast<unsigned short>(pack_bf16(value_a(i / 16, i % 16), 0.0f));
        if (i % 16 < 8) {
            unsigned short value = static_cast<unsigned short>(pack_bf16(value_b(i / 16, i % 16), 0.0f));
            b_last[i % 16][i / 16] = b_first[i / 16][i % 16] = value;
        }
        b_first[i / 16][8 + i % 8] = 0;
    }
    __syncthreads();
    unsigned left[4], last[4], first[4];
    load_matrix_x4(left, &a[lane % 16][lane / 16 * 8]);
    load_matrix_x4(last, &b_last[lane % 8][lane / 8 % 2 * 8]);
    load_matrix_x4_transposed(first, &b_first[lane % 16][lane / 16 * 8]);
    float d[4] = {}, e[4] = {}, zero[4] = {};
    mma_bf16(d, left, {last[0], last[1]});
    mma_bf16(e, left, {first[0], first[1]});
    mma_bf16(zero, left, {first[2], first[3]});
    bool right = is_product(d) && is_product(e) && zero[0] == 0.0f && zero[3] == 0.0f;
    bool all = __all_sync(0xffffffffu, right);
    if (t == 0) {
        out[blockIdx.x] = all && in[0] == in[0] ? 1.0f : 0.0f;
    }
}

// Roundings to the formats: out[b] = 1 if ties, signs and values out of range are correct.
extern "C" __global__ void roundings(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    float ulp_bf16 = 1.0f / 128;
    bool right = low_bf16(pack_bf16(1.0f + ulp_bf16 / 2, 0.0f)) == 1.0f; // a tie, to even
    right &= high_bf16(pack_bf16(0.0f, 1.0f + 1.5f * ulp_bf16)) == 1.0f + 2 * ulp_bf16;
    right &= low_bf16(pack_bf16(-1.0f - 0.51f * ulp_bf16, 0.0f)) == -1.0f - ulp_bf16;
    right &= low_bf16(pack_bf16(3.4e38f, 0.0f)) == INFINITY && low_bf16(pack_bf16(-INFINITY, 0.0f)) == -INFINITY;
    right &= isnan(low_bf16(pack_bf16(NAN, 0.0f))) && isnan(high_bf16(pack_bf16(0.0f, __uint_as_float(0x7fffffffu))));
    if (threadIdx.x == 0) {
        out[blockIdx.x] = right && in[0] == in[0] ? 1.0f : 0.0f;
    }
}

// Copies in two groups, of which the first is waited for: out[b] = 1 if its values, and zeros beyond the valid bytes,
// have arrived.
extern "C" __global__ void copies(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    __shared__ __align__(16) float first[256][4], second[256];
    int t = threadIdx.x;
    copy_async<16>(first[t], &in[t / 4 * 4], 12);
    commit_copies();
    copy_async<4>(&second[t], &in[t], 4);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    const float *there = first[(t + 1) % 256];
    bool right = there[2] == float((t + 1) % 256 / 4 * 4 + 2) && there[3] == 0.0f && isnan(second[t]);
    wait_copies<0>();
    right &= second[t] == float(t);
    __shared__ unsigned count;
    if (t == 0) {
        count = 0;
    }
    __syncthreads();
    atomicAdd(&count, unsigned(right));
    __syncthreads();
    if (t == 0) {
        out[blockIdx.x] = count == blockDim.x ? 1.0f : 0.0f;
    }
}

// Waits for one group too few.
extern "C" __global__ void planted_missing_wait(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    __shared__ __align__(16) float stages[2][256];
    int t = threadIdx.x;
    for (int stage = 0; stage < 2; stage++) {
        copy_async<4>(&stages[stage][t], &in[t], 4);
        commit_copies();
    }
    wait_copies<1>();
    __syncthreads();
    out[t] = stages[1][t];
}

// Waits, but reads another thread's copies without a barrier.
extern "C" __global__ void planted_missing_barrier(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    __shared__ float values[256];
    int t = threadIdx.x;
    copy_async<4>(&values[t], &in[t], 4);
    commit_copies();
    wait_copies<0>();
    out[t] = values[255 - t];
}

// Copies 16 bytes to an address that is only a multiple of 4.
extern "C" __global__ void planted_misaligned_copy(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    __shared__ __align__(16) float values[1024 + 4];
    int t = threadIdx.x;
    copy_async<16>(&values[4 * t + (t == 77)], &in[t / 4 * 4], 16);
    commit_copies();
    wait_copies<0>();
    out[t] = values[4 * t];
}

// Copies to an array that is local to the thread.
extern "C" __global__ void planted_copy_elsewhere(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    float value;
    copy_async<4>(&value, &in[threadIdx.x], 4);
    commit_copies();
    wait_copies<0>();
    out[threadIdx.x] = value;
}

// An ldmatrix row that does not begin at a multiple of 16 bytes.
extern "C" __global__ void planted_misaligned_load(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    __shared__ __align__(16) unsigned short values[32][9];
    unsigned to[4];
    load_matrix_x4(to, values[threadIdx.x % 32]);
    out[threadIdx.x] = in[0] + float(to[0]);
}

// Half of the warp executes a product at one line, the other half at another.
extern "C" __global__ void planted_divergent_mma(float *__restrict__ out, const float *__restrict__ in) {
    begin_kernel();
    float d[4] = {};
    const unsigned a[4] = {}, b[2] = {};
    if (threadIdx.x % 32 < 16) {
        mma_bf16(d, a, b);
    } else {
        mma_bf16(d, a, b);
    }
    out[threadIdx.x] = in[0] + d[0];
}

// Registered for 128 threads, and launched with 256.
extern "C" __global__ void __launch_bounds__(128) planted_block_size(float *, const float *) { begin_kernel(); }

EMULATED_KERNELS(planted, EMULATED_KERNEL(block_sum), EMULATED_KERNEL(planted_race),
                 EMULATED_KERNEL(planted_block_race), EMULATED_KERNEL(planted_misaligned),
                 EMULATED_KERNEL(planted_early_kernel),
                 EMULATED_KERNEL(planted_divergent_barrier), EMULATED_KERNEL(planted_two_barriers),
                 EMULATED_KERNEL(planted_divergent_shuffle), EMULATED_KERNEL(planted_unwritten_shared),
                 EMULATED_KERNEL(planted_unwritten_dynamic), EMULATED_KERNEL(planted_dynamic_out_of_bounds),
                 EMULATED_KERNEL(planted_out_of_bounds), EMULATED_KERNEL(planted_shared_out_of_bounds),
                 EMULATED_KERNEL(warp_functions), EMULATED_KERNEL(fragments), EMULATED_KERNEL(loaded_fragments),
                 EMULATED_KERNEL(roundings), EMULATED_KERNEL(copies), EMULATED_KERNEL(planted_missing_wait),
                 EMULATED_KERNEL(planted_missing_barrier), EMULATED_KERNEL(planted_misaligned_copy),
                 EMULATED_KERNEL(planted_copy_elsewhere), EMULATED_KERNEL(planted_misaligned_load),
                 EMULATED_KERNEL(planted_divergent_mma), EMULATED_KERNEL(planted_block_size, 128))
