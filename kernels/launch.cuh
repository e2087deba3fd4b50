// launch: how a kernel follows its predecessor in a stream or in a captured graph.
//
// Kernels form a chain of dependencies, and each is short. On Hopper and later (sm_90) a launch may begin before its
// predecessor has ended (programmatic dependent launch, gpu.rs). Its blocks are scheduled while the last blocks of the
// predecessor still run. They wait here until all of the predecessor's writes are visible, and then allow the next
// launch to start. The launch overhead, scheduling blocks and starting them, overlaps with the predecessor. On other
// GPUs, and for launches that do not request it, this has no effect.
#pragma once

#ifndef __CUDACC__
#include "emulator/emulator.h"
#endif

// Every kernel calls it before any access to memory but load_early. Blocks without work call it too, because a launch
// counts as done only when all its blocks are. The emulator rejects a kernel if a thread returns without calling it. A test
// disassembles each kernel and checks that no other access precedes the wait (tests/kernels/machine_code.rs).
__device__ __forceinline__ void begin_kernel() {
#ifndef __CUDACC__
    emulator::begin_kernel();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Value that is read before begin_kernel: the load takes place while the launch ahead ends. It must not be written by that
// launch, nor by one that has gone to the branch since it was joined (Adam): row counts, lists, and what the forward left for
// the backward.
// All earlier launches have ended, with their writes in L2, since a launch begins only when every block of the one ahead
// has passed its own wait. The load goes past the first-level cache, which may hold an earlier value. The PTX interpreter
// knows which launches are in flight and rejects a load of what they write.
template <class T> __device__ __forceinline__ T load_early(const T *from) { return __ldcg(from); }
