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

// Ends the launch with an error that names the kernel, line, block and thread.
__attribute__((format(printf, 2, 3))) void report(int line, const char *format, ...);

bool in_shared_memory(const void *address, size_t bytes);
bool in_dynamic_shared(const void *address, size_t bytes);

// Makes the running thread wait until `is_over(what)` holds, which other threads bring about. `name` is used in the
// message "waits at ...".
void wait_until(bool (*is_over)(const void *what), const void *what, const char *name, int line);

// Called when a block begins: no thread has copies in flight.
void forget_copies(int thread_count);
// The same for products, barriers and registers.
void forget_products(int thread_count);

// Called when a copy of the running thread has been performed, and when it returns.
void note_copy(const void *to, size_t bytes);
void check_products();

} // namespace emulator
