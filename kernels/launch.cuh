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

// The first statement of every kernel: it comes before any access to memory that another launch may have written or may
// read. Blocks that have nothing to do call it too, since a launch counts as done when its blocks are. The emulator refuses
// a kernel that a thread leaves without it. A test disassembles each kernel and checks that no memory access precedes the
// wait (tests/kernels/machine_code.rs).
__device__ __forceinline__ void begin_kernel() {
#ifndef __CUDACC__
    emulator::begin_kernel();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
