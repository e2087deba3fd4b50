// warpgroup_planted: a ring of stages between a warpgroup that copies and one that multiplies, for the tests of the emulator;
// all but one of the kernels contain an error on purpose.

#include "warpgroup.cuh"

enum Defect {
    NONE,
    OTHER_SWIZZLE,    // pieces are stored as they come
    OTHER_STRIDE,     // the descriptor's groups of 8 lines lie 2,048 bytes apart
    OTHER_PHASE,      // the consumer waits for the phase before
    NO_PROXY_FENCE,   // products may not see what was copied
    FENCE_TOO_EARLY,  // before the copies have arrived
    COPIES_LATE,      // a stage is full before its copies have arrived
    NO_FENCE,         // registers are not ready for products
    A_WAIT_TOO_FEW,   // the last group is still in flight when its sums are read
    RELEASE_TOO_EARLY, // a stage is copied over while products read it
    ARRIVAL_TOO_MANY, // the producer waits for an arrival that does not come
    OTHER_DIRECTION,  // registers are taken that the threads have
    OTHER_MATRIX,     // a descriptor that does not begin where the pattern does
};

constexpr int STAGES = 2, STEPS = 5, COLUMNS = 152, STAGE_BYTES = 20480; // a multiple of 1,024

// d [64, 152] = a b^T over 5 steps of 64: value (row, k) of b is 0 for even k, and in[...] for odd k, as the bits of a
// float lie in memory; a depends on k / 8 alone. out is 1 where a thread's sums are right, and NaN where one of them is.
template <Defect defect> __device__ void ring(float *out, const float *in) {
    begin_kernel();
    WARPGROUP_SHARED(memory);
    PhaseBarrier *full = reinterpret_cast<PhaseBarrier *>(memory + STAGES * STAGE_BYTES), *read = full + STAGES;
    int thread = threadIdx.x;
    if (thread == 0) {
        for (int i = 0; i < STAGES; i++) {
            begin_phases(&full[i], WARPGROUP);
            begin_phases(&read[i], defect == ARRIVAL_TOO_MANY ? WARPGROUP + 1 : WARPGROUP);
        }
    }
    __syncthreads();
    auto source = [&](int row, int step) { return in + (row + step) % 24 * 32; };
    float *to = &out[blockIdx.x * blockDim.x + thread];
    if (thread >= WARPGROUP) { // the producer
        release_registers<64>();
        for (int step = 0; step < STEPS; step++) {
            int stage = step % STAGES;
            wait_phase(&read[stage], (step / STAGES & 1) ^ 1);
            for (int i = thread - WARPGROUP; i < COLUMNS * 8; i += WARPGROUP) {
                int row = i / 8, piece = i % 8, at = defect == OTHER_SWIZZLE ? piece : piece ^ row % 8;
                copy_async<16>(memory + stage * STAGE_BYTES + row * 128 + at * 16, source(row, step) + piece * 4, 16);
            }
            commit_copies();
            if (defect == FENCE_TOO_EARLY) {
                fence_proxy();
            }
            if (defect == COPIES_LATE) {
                wait_copies<1>();
            } else {
                wait_copies<0>();
            }
            if (defect != NO_PROXY_FENCE && defect != FENCE_TOO_EARLY) {
                fence_proxy();
            }
            arrive(&full[stage]);
        }
        *to = 1.0f;
        return;
    }
    if (defect == OTHER_DIRECTION) {
        release_registers<256>();
    } else {
        take_registers<256>();
    }
    float sums[COLUMNS / 2];
    for (float &sum : sums) {
        sum = 0.0f;
    }
    for (int step = 0; step < STEPS; step++) {
        int stage = step % STAGES;
        wait_phase(&full[stage], (step / STAGES & 1) ^ (defect == OTHER_PHASE));
        unsigned long long b = matrix_descriptor(memory + stage * STAGE_BYTES + (defect == OTHER_MATRIX ? 128 : 0));
        b += defect == OTHER_STRIDE ? 64ull << 32 : 0;
        if (defect != NO_FENCE) {
            begin_products();
        }
        for (int k = 0; k < 4; k++) {
            float low = float(2 * k + 1), high = float(2 * k + 2);
            unsigned first = pack_bf16(low, low), second = pack_bf16(high, high);
            const unsigned a[4] = {first, first, second, second};
            multiply<false>(sums, a, b + 2 * k, true);
        }
        commit_products();
        if (defect == RELEASE_TOO_EARLY) {
            arrive(&read[stage]);
        }
        if ((defect == A_WAIT_TOO_FEW && step == STEPS - 1) || defect == RELEASE_TOO_EARLY) {
            wait_products<1>();
        } else {
            wait_products<0>();
        }
        if (defect != RELEASE_TOO_EARLY) {
            arrive(&read[stage]);
        }
    }
    if (defect == RELEASE_TOO_EARLY) {
        wait_products<0>();
    }
    float right = 1.0f;
    for (int i = 0; i < COLUMNS / 2; i++) {
        int column = i / 4 * 8 + thread % 4 * 2 + i % 2;
        float sum = 0.0f;
        for (int k = 0; k < STEPS * 32; k++) {
            sum += float(k % 32 / 4 + 1) * source(column, k / 32)[k % 32];
        }
        right = sums[i] == sum ? right : sums[i] == sums[i] ? 0.0f : NAN;
    }
    *to = right;
    if (defect == A_WAIT_TOO_FEW) {
        wait_products<0>();
    }
}

#define RING(name, defect)                                                                                             \
    extern "C" __global__ void name(float *out, const float *in) { ring<defect>(out, in); }

RING(warpgroup_ring, NONE)
RING(planted_warpgroup_swizzle, OTHER_SWIZZLE)
RING(planted_warpgroup_stride, OTHER_STRIDE)
RING(planted_warpgroup_phase, OTHER_PHASE)
RING(planted_warpgroup_no_proxy_fence, NO_PROXY_FENCE)
RING(planted_warpgroup_early_fence, FENCE_TOO_EARLY)
RING(planted_warpgroup_copies, COPIES_LATE)
RING(planted_warpgroup_no_fence, NO_FENCE)
RING(planted_warpgroup_wait, A_WAIT_TOO_FEW)
RING(planted_warpgroup_release, RELEASE_TOO_EARLY)
RING(planted_warpgroup_arrivals, ARRIVAL_TOO_MANY)
RING(planted_warpgroup_direction, OTHER_DIRECTION)
RING(planted_warpgroup_matrix, OTHER_MATRIX)

EMULATED_KERNELS(warpgroup_planted, EMULATED_KERNEL_90A(warpgroup_ring, 0),
                 EMULATED_KERNEL_90A(planted_warpgroup_swizzle, 0), EMULATED_KERNEL_90A(planted_warpgroup_stride, 0),
                 EMULATED_KERNEL_90A(planted_warpgroup_phase, 0),
                 EMULATED_KERNEL_90A(planted_warpgroup_no_proxy_fence, 0),
                 EMULATED_KERNEL_90A(planted_warpgroup_early_fence, 0),
                 EMULATED_KERNEL_90A(planted_warpgroup_copies, 0),
                 EMULATED_KERNEL_90A(planted_warpgroup_no_fence, 0), EMULATED_KERNEL_90A(planted_warpgroup_wait, 0),
                 EMULATED_KERNEL_90A(planted_warpgroup_release, 0),
                 EMULATED_KERNEL_90A(planted_warpgroup_arrivals, 0),
                 EMULATED_KERNEL_90A(planted_warpgroup_direction, 0), EMULATED_KERNEL_90A(planted_warpgroup_matrix, 0))
