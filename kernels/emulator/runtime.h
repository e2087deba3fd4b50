// Internal interface between the emulator's source files.
#pragma once

#include <stddef.h>

namespace emulator {

constexpr int MAX_THREADS = 1024;
constexpr int WARP = 32;

// Instruction of a whole warp: `run` performs it once for all 32 lanes, on the operands of each lane.
struct Collective {
    const char *name; // used in the message "waits at ..."
    void (*run)(void *const operands[WARP]);
};

// Runs the running thread's part of a collective: waits for the other lanes.
void collective(const Collective &kind, void *operands, int line);

// Index of the running thread in its block.
int running_thread();

// Ends the launch with an error that names the kernel, line, block and thread.
__attribute__((format(printf, 2, 3))) void report(int line, const char *format, ...);

bool in_shared_memory(const void *address, size_t bytes);

// Called when a block begins: no thread has copies in flight.
void forget_copies(int thread_count);

} // namespace emulator
