// What the emulator's files know of each other.
#pragma once

#include <stddef.h>

namespace emulator {

constexpr int MAX_THREADS = 1024;
constexpr int WARP = 32;

// An instruction of a whole warp: `run` performs it once for all 32 lanes, on what each has given.
struct Collective {
    const char *name; // as in "waits at ..."
    void (*run)(void *const operands[WARP]);
};

// The running thread's part in it: waits for the other lanes.
void collective(const Collective &kind, void *operands, int line);

// The index of the running thread in its block.
int running_thread();

// Ends the launch with an error that names kernel, line, block and thread.
__attribute__((format(printf, 2, 3))) void report(int line, const char *format, ...);

bool in_shared_memory(const void *address, size_t bytes);

// A block begins: no thread has copies under way.
void forget_copies(int thread_count);

} // namespace emulator
