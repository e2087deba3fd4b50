// warpgroup: instructions of sm_90a for products of four warps, one thin function each. Without nvcc they are the
// emulator's (emulator/warpgroup.h). Other architectures have none of them: kernels that use them are defined where
// HAS_WARPGROUPS is.
//
// A product computes d [64, n] += a [64, 16] b [n, 16]^T in bf16. Warp w of the group holds rows 16 w.. of d and a, in
// fragments as in tensor_core.cuh: register 4 j + i of d is d_i of columns 8 j.. 8 j + 8. b lies in shared memory and
// is named by a descriptor (PTX ISA, "Matrix descriptor"):
//
//   bits 0..14    address / 16
//   bits 16..30   leading offset / 16: distance of 64 columns from the next, if they lie side by side; else unused
//   bits 32..46   stride offset / 16: distance of 8 lines from the next
//   bits 62..64   1: lines of 128 bytes whose pieces of 16 bytes are swizzled
//
// A line is a row of b, 64 inner steps; or, transposed, an inner step, 64 rows of b. Piece p of line i is stored at
// piece p ^ i % 8. Matrices begin at multiples of 1,024 bytes.
//
// The product runs beside the threads. Its registers may not be touched, nor its memory be written, before it is waited
// for. What threads wrote to shared memory is visible to it after fence_proxy of the writers and a barrier.
#pragma once

#include "common.cuh"

#ifndef __CUDACC__
#include "emulator/warpgroup.h"
#endif
#include "tensor_core.cuh"

#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_WARPGROUPS
#endif

constexpr int WARPGROUP = 128; // threads
constexpr int SWIZZLED_LINE = 128, SWIZZLED_LINES = 8; // bytes; lines after which the pattern repeats

// Declares all shared memory of the block within a function, at a multiple of 1,024 bytes.
#ifdef __CUDACC__
#define WARPGROUP_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#else
#define WARPGROUP_SHARED(name) DYNAMIC_SHARED(unsigned char, name)
#endif

// Barrier in shared memory.
using PhaseBarrier = unsigned long long;

// ---- barriers ---------------------------------------------------------------------------------------------------

// Makes a barrier whose phases end after so many arrivals. Other threads use it after a barrier of the block.
__device__ __forceinline__ void begin_phases(PhaseBarrier *barrier, int arrivals CALL_LINE) {
#ifdef __CUDACC__
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
#else
    emulator::begin_phases(barrier, arrivals, line);
#endif
}

// One arrival: what the thread did before it precedes the end of the phase.
__device__ __forceinline__ void arrive(PhaseBarrier *barrier CALL_LINE) {
#ifdef __CUDACC__
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#else
    emulator::arrive(barrier, line);
#endif
}

// Waits for the end of the current phase if it has this parity. Phases alternate, from 0 on.
__device__ __forceinline__ void wait_phase(PhaseBarrier *barrier, unsigned parity CALL_LINE) {
#ifdef __CUDACC__
    unsigned ended;
    do {
        asm volatile("{\n"
                     ".reg .pred ended;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
                     "selp.b32 %0, 1, 0, ended;\n"
                     "}"
                     : "=r"(ended)
                     : "r"(shared_address(barrier)), "r"(parity)
                     : "memory");
    } while (ended == 0);
#else
    emulator::wait_phase(barrier, parity, line);
#endif
}

// The thread's writes to shared memory precede reads by later products.
__device__ __forceinline__ void fence_proxy() {
#ifdef __CUDACC__
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
    emulator::fence_proxy();
#endif
}

// ---- registers --------------------------------------------------------------------------------------------------

// Gives up registers of the warpgroup's threads beyond `count`, or takes some up to it: a multiple of 8, 24 to 256.
template <int count> __device__ __forceinline__ void release_registers(CALL_LINE_ALONE) {
#ifdef __CUDACC__
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
#else
    emulator::change_registers(-count, line);
#endif
}
template <int count> __device__ __forceinline__ void take_registers(CALL_LINE_ALONE) {
#ifdef __CUDACC__
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
#else
    emulator::change_registers(count, line);
#endif
}

// ---- products ---------------------------------------------------------------------------------------------------

// Descriptor of a matrix whose 8 lines lie 1,024 bytes from the next 8.
__device__ __forceinline__ unsigned long long matrix_descriptor(const void *matrix, int leading_bytes = 16) {
#ifdef __CUDACC__
    unsigned address = shared_address(matrix);
#else
    unsigned address = emulator::shared_offset(matrix);
#endif
    constexpr unsigned long long form = 1ull << 62 | (unsigned long long)(SWIZZLED_LINE * SWIZZLED_LINES / 16) << 32;
    return form | (unsigned long long)(leading_bytes / 16) << 16 | address / 16;
}

// Registers that products use were touched: the next products follow.
__device__ __forceinline__ void begin_products(CALL_LINE_ALONE) {
#ifdef __CUDACC__
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
    emulator::begin_products(line);
#endif
}

// Commits the products since the last call as one group.
__device__ __forceinline__ void commit_products(CALL_LINE_ALONE) {
#ifdef __CUDACC__
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
    emulator::commit_products(line);
#endif
}

// Waits until at most the latest `groups` groups are in flight.
template <int groups> __device__ __forceinline__ void wait_products(CALL_LINE_ALONE) {
#ifdef __CUDACC__
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
#else
    emulator::wait_products(groups, line);
#endif
}

// Operands %0.. of the sums of a product, by the number of its columns.
#define SUMS_64                                                                                                        \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "             \
    "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "             \
    "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "             \
    "%62, %63"
#define SUMS_76                                                                                                        \
    SUMS_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75"
#define SUMS_112                                                                                                       \
    SUMS_76 ", %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "   \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define SUMS_128                                                                                                       \
    SUMS_112 ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define FOUR_SUMS(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TWELVE_SUMS(i) FOUR_SUMS(i), FOUR_SUMS(i + 4), FOUR_SUMS(i + 8)
#define THIRTY_SIX_SUMS(i) TWELVE_SUMS(i), TWELVE_SUMS(i + 12), TWELVE_SUMS(i + 24)
#define ALL_64 THIRTY_SIX_SUMS(0), TWELVE_SUMS(36), TWELVE_SUMS(48), FOUR_SUMS(60)
#define ALL_76 ALL_64, TWELVE_SUMS(64)
#define ALL_112 ALL_76, THIRTY_SIX_SUMS(76)
#define ALL_128 ALL_112, TWELVE_SUMS(112), FOUR_SUMS(124)
#define PRODUCT(columns, sums, all, a0, a1, a2, a3, b, adds, b_order)                                                  \
    asm volatile("{\n"                                                                                                 \
                 ".reg .pred adds;\n"                                                                                  \
                 "setp.ne.b32 adds, " adds ", 0;\n"                                                                    \
                 "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32.bf16.bf16 {" sums "}, {" a0 ", " a1 ", " a2      \
                 ", " a3 "}, " b ", adds, 1, 1, " b_order ";\n"                                                        \
                 "}"                                                                                                   \
                 : all                                                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b_descriptor), "r"(int(is_added)))

#define PRODUCTS_OF(b_order)                                                                                           \
    if constexpr (sums == 64) {                                                                                        \
        PRODUCT("128", SUMS_64, ALL_64, "%64", "%65", "%66", "%67", "%68", "%69", b_order);                            \
    } else if constexpr (sums == 76) {                                                                                 \
        PRODUCT("152", SUMS_76, ALL_76, "%76", "%77", "%78", "%79", "%80", "%81", b_order);                            \
    } else if constexpr (sums == 112) {                                                                                \
        PRODUCT("224", SUMS_112, ALL_112, "%112", "%113", "%114", "%115", "%116", "%117", b_order);                    \
    } else {                                                                                                           \
        PRODUCT("256", SUMS_128, ALL_128, "%128", "%129", "%130", "%131", "%132", "%133", b_order);                    \
    }

// d += a b^T, or d = a b^T. Lines are b's rows; or, transposed, inner steps.
template <bool is_transposed, int sums>
__device__ __forceinline__ void multiply(float (&d)[sums], const unsigned (&a)[4], unsigned long long b_descriptor,
                                         bool is_added CALL_LINE) {
    static_assert(sums == 64 || sums == 76 || sums == 112 || sums == 128, "columns of a product: 128, 152, 224 or 256");
#ifdef __CUDACC__
    if constexpr (is_transposed) {
        PRODUCTS_OF("1")
    } else {
        PRODUCTS_OF("0")
    }
#else
    emulator::multiply(d, sums, a, {b_descriptor, is_transposed}, is_added, line);
#endif
}
