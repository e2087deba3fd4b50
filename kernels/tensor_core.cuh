// tensor_core: tensor-core instructions and asynchronous copies, one thin function each. With nvcc they are PTX for
// sm_80 and later. Without nvcc they are the emulator's (emulator/tensor_core.h), which also detects missing waits and
// misaligned addresses.
//
// Fragments (PTX ISA, "Matrix fragments for mma.m16n8k16"). Lane = 4 g + t, g = 0..7, t = 0..3; a pair of
// bf16 lies in one register, the lower column (for b: row) in the lower half.
//
//                a [16, 16]                                b [16, 8]                    c, d [16, 8] f32
//   bf16         a0 = [g][2t, 2t+1]    a1 = [g+8][2t..]    b0 = [2t, 2t+1][g]           d0 = [g][2t]    d1 = [g][2t+1]
//                a2 = [g][2t+8, 2t+9]  a3 = [g+8][2t+8..]  b1 = [2t+8, 2t+9][g]         d2 = [g+8][2t]  d3 = [g+8][2t+1]
//
//   ldmatrix     lane 8 m + r gives the address of row r of matrix m (8 rows of 16 bytes); register m of lane 4 g + t
//                receives its values [g][2t, 2t+1] of 16 bits, which is also value [g][t] of 32 bits; .trans receives
//                [2t, 2t+1][g] of 16 bits
#pragma once

#ifndef __CUDACC__
#include "emulator/emulator.h"
#include "emulator/tensor_core.h"
// Extra parameter for the emulator's error messages: the line of the call. Empty with nvcc.
#define CALL_LINE , int line = __builtin_LINE()
#define CALL_LINE_ALONE int line = __builtin_LINE()
#else
#define CALL_LINE
#define CALL_LINE_ALONE
#endif

// d += a b, a and b in bf16.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2] CALL_LINE) {
#ifdef __CUDACC__
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emulator::mma_bf16(d, a, b, line);
#endif
}

#ifdef __CUDACC__
// Address in shared memory, in the form that the instructions take.
__device__ __forceinline__ unsigned shared_address(const void *pointer) {
    return unsigned(__cvta_generic_to_shared(pointer));
}
#endif

// Loads four matrices; `row` points to the lane's row of 16 bytes in shared memory.
__device__ __forceinline__ void load_matrix_x4(unsigned (&to)[4], const void *row CALL_LINE) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    emulator::load_matrices(to, 4, false, row, line);
#endif
}

__device__ __forceinline__ void load_matrix_x4_transposed(unsigned (&to)[4], const void *row CALL_LINE) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    emulator::load_matrices(to, 4, true, row, line);
#endif
}

// Starts a copy of 16 or 4 bytes from global to shared memory; both addresses are aligned to that size. Bytes from
// `valid_bytes` on are zero-filled; if it is 0, `from` is not read. Copies of 16 bytes bypass the L1 cache, because the
// next reader is another block.
template <int bytes>
__device__ __forceinline__ void copy_async(void *to, const void *from, int valid_bytes CALL_LINE) {
    static_assert(bytes == 16 || bytes == 4, "cp.async with and without .cg");
#ifdef __CUDACC__
    if (bytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                     "r"(valid_bytes)
                     : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from),
                     "r"(valid_bytes)
                     : "memory");
    }
#else
    emulator::copy_async(to, from, bytes, valid_bytes, line);
#endif
}

// Commits the thread's copies since the last call as one group.
__device__ __forceinline__ void commit_copies() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emulator::commit_copies();
#endif
}

// Waits until at most the latest `groups` groups of this thread are in flight. Other threads see the copied values
// after a barrier.
template <int groups> __device__ __forceinline__ void wait_copies() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
#else
    emulator::wait_copies(groups);
#endif
}

// ---- number formats ---------------------------------------------------------------------------------------------

#ifndef __CUDACC__
inline unsigned emulated_bf16(float value) {
    unsigned bits = __float_as_uint(value);
    bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return is_nan ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}
#endif

// Rounds two values to bf16's 8 significand bits, halves to even: the relative error is at most 2^-8.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
#ifdef __CUDACC__
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return emulated_bf16(low) | emulated_bf16(high) << 16;
#endif
}

// Like pack_bf16, with 0 in place of values below 0; NaN stays NaN.
__device__ __forceinline__ unsigned pack_relu_bf16(float low, float high) {
#ifdef __CUDACC__
    unsigned pair;
    asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return pack_bf16(low <= 0.0f ? 0.0f : low, high <= 0.0f ? 0.0f : high);
#endif
}

// The two values of a pair of bf16, exact in f32.
__device__ __forceinline__ float low_bf16(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }
