// launch: how a kernel follows the one before it in its stream, or in a captured graph.
//
// Kernels depend on each other in a chain, and each is short. On Hopper and later (sm_90) a launch may therefore begin
// before the one ahead of it has ended (programmatic dependent launch, gpu.rs): its blocks take their places while the
// last blocks of that one are still at work, wait here until all of it is done and written, and let the next launch
// come in turn. What a launch costs, its blocks' way to their multiprocessors and their start, is then over when the
// values are there. Elsewhere, and where a launch does not ask for it, this does nothing.
#pragma once

#ifndef __CUDACC__
#include "emulator/emulator.h"
#endif

// The first statement of every kernel, before any value that another launch may have written is read, and any written:
// also by blocks that have nothing to do, since a launch counts as done when its blocks are. The emulator refuses a
// kernel that a thread leaves without it; that no access to global memory has got ahead of it in the machine code, where
// reads by __restrict__ pointers might, is tests/machine_code.rs's.
__device__ __forceinline__ void begin_kernel() {
#ifndef __CUDACC__
    emulator::begin_kernel();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
