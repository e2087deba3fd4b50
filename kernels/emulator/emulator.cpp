// Runtime of the emulator: blocks run one after another, the threads of a block as fibers (see emulator.h).
//
//   warp by warp, run every ready lane until it waits or returns, and release the lanes of a shuffle once all that it names
//   wait at it, until the warp can go no further;
//   then release the threads whose wait is over, or else the barrier if all threads of the block wait at it; if there are
//   none and not all threads have returned, some thread never arrives: an error.

#include "emulator.h"
#include "fiber.h"
#include "runtime.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

namespace emulator {

Position position;
int running;
void *dynamic_shared;

namespace {

constexpr int MAX_WARPS = MAX_THREADS / WARP;

enum class State : uint8_t { ready, at_barrier, at_warp, waits, returned };
enum class Meeting : uint8_t { barrier, shuffle, ballot, collective };

struct Thread {
    Fiber fiber;
    uint3 index;
    State state;
    bool begun;      // has called begin_kernel
    Meeting meeting; // at_warp: kind of meeting
    int line;        // line at which it waits
    unsigned mask;   // at_warp: lanes named by the mask
    uint64_t given;  // value passed to a shuffle or ballot; address of the operands in a collective
    const Collective *collective;
    // waits: until this holds; its name.
    bool (*is_over)(const void *what);
    const void *what;
    const char *name;
};

struct Warp {
    // Values passed by the lanes to the latest completed meeting; the lanes read them after they resume.
    uint64_t given[WARP];
    unsigned votes;
    int waiting; // number of lanes that wait at a meeting
};

// State of the running launch.
struct Running {
    Launch of;
    int thread_count;
    bool failed;
    uint64_t random; // 0: in order
};

Thread threads[MAX_THREADS];
Warp warps[MAX_WARPS];
int returned;
Running launch;

// Keeps the first error only; later ones are its consequences.
__attribute__((format(printf, 1, 2))) void fail(const char *format, ...) {
    if (launch.failed) {
        return;
    }
    launch.failed = true;
    int written = snprintf(launch.of.message, launch.of.message_bytes, "%s: ", launch.of.kernel->name);
    if (written >= 0 && size_t(written) < launch.of.message_bytes) {
        va_list values;
        va_start(values, format);
        vsnprintf(launch.of.message + written, launch.of.message_bytes - written, format, values);
        va_end(values);
    }
}

const char *place(const Thread &thread, char *text, size_t bytes) {
    uint3 b = position.block, t = thread.index;
    snprintf(text, bytes, "block (%u, %u, %u), thread (%u, %u, %u)", b.x, b.y, b.z, t.x, t.y, t.z);
    return text;
}

const char *waiting_at(const Thread &thread, char *text, size_t bytes) {
    const char *what = thread.state == State::at_barrier  ? "__syncthreads"
                       : thread.state == State::waits        ? thread.name
                       : thread.meeting == Meeting::shuffle ? "a shuffle"
                       : thread.meeting == Meeting::ballot  ? "a vote"
                       : thread.meeting == Meeting::collective ? thread.collective->name
                                                            : "__syncwarp";
    if (thread.state == State::returned) {
        snprintf(text, bytes, "has returned");
    } else {
        snprintf(text, bytes, "waits at %s, line %d", what, thread.line);
    }
    return text;
}

// ---- order ------------------------------------------------------------------------------------------------------

// splitmix64
uint64_t next_random() {
    uint64_t z = launch.random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// Permutation of 0..count: start, then steps modulo count, with a step coprime to count; random if there is a seed.
struct Order {
    uint64_t count, step, start;
};

uint64_t greatest_common_divisor(uint64_t a, uint64_t b) { return b == 0 ? a : greatest_common_divisor(b, a % b); }

Order next_order(uint64_t count) {
    if (launch.random == 0 || count == 1) {
        return {count, 1, 0};
    }
    uint64_t step = next_random() % count;
    while (greatest_common_divisor(step, count) != 1) {
        step = (step + 1) % count;
    }
    return {count, step, next_random() % count};
}

uint64_t after(const Order &order, uint64_t position) {
    uint64_t next = position + order.step;
    return next < order.count ? next : next - order.count;
}

// ---- threads ----------------------------------------------------------------------------------------------------

inline __attribute__((always_inline)) void wait(State state, int line) {
    Thread &thread = threads[running];
    thread.state = state;
    thread.line = line;
    leave_fiber(thread.fiber);
}

inline __attribute__((always_inline)) void wait_in_warp(Meeting meeting, unsigned mask, uint64_t given, int line) {
    Thread &thread = threads[running];
    thread.meeting = meeting;
    thread.mask = mask;
    thread.given = given;
    if ((mask >> lane() & 1) == 0) {
        char text[96];
        fail("line %d: %s is not in the mask %#x that it names", line, place(thread, text, sizeof text), mask);
    }
    warps[running / WARP].waiting++;
    wait(State::at_warp, line);
}

void thread_main() {
    launch.of.kernel->call(launch.of.arguments);
    if (!threads[running].begun) {
        char text[96];
        fail("%s returns without begin_kernel", place(threads[running], text, sizeof text));
    }
    check_products();
    returned++;
    wait(State::returned, 0);
}

// ---- meetings ---------------------------------------------------------------------------------------------------

// Number of lanes of a warp; the last one may have fewer than WARP.
int lanes_of(int warp) {
    int rest = launch.thread_count - warp * WARP;
    return rest < WARP ? rest : WARP;
}

// Releases the lanes of a complete meeting of a warp; returns whether there was one. A second meeting waits until the votes of
// the first have been read.
bool release_warp(int warp) {
    int first = warp * WARP, lanes = lanes_of(warp);
    for (int own = 0; own < lanes; own++) {
        const Thread &thread = threads[first + own];
        if (thread.state != State::at_warp) {
            continue;
        }
        // In a partial last warp, lanes that do not exist are not waited for.
        unsigned mask = thread.mask & (lanes == WARP ? 0xffffffffu : (1u << lanes) - 1);
        bool complete = true;
        for (int other = 0; other < lanes && complete; other++) {
            const Thread &t = threads[first + other];
            complete = (mask >> other & 1) == 0 ||
                       (t.state == State::at_warp && t.meeting == thread.meeting && t.mask == thread.mask);
            // A collective is one instruction of the whole warp: all lanes must run the same one, at the same line.
            complete &= thread.meeting != Meeting::collective ||
                        (t.collective == thread.collective && t.line == thread.line);
        }
        if (!complete) {
            continue;
        }
        if (thread.meeting == Meeting::collective) {
            void *operands[WARP];
            for (int other = 0; other < WARP; other++) {
                operands[other] = reinterpret_cast<void *>(threads[first + other].given);
            }
            thread.collective->run(operands);
        }
        unsigned votes = 0;
        for (int other = 0; other < lanes; other++) {
            if (mask >> other & 1) {
                Thread &t = threads[first + other];
                warps[warp].given[other] = t.given;
                votes |= unsigned(t.given != 0) << other;
                t.state = State::ready;
                warps[warp].waiting--;
            }
        }
        warps[warp].votes = votes;
        return true;
    }
    return false;
}

// Releases all threads if they wait at the same barrier.
bool release_barrier() {
    for (int i = 0; i < launch.thread_count; i++) {
        if (threads[i].state != State::at_barrier || threads[i].line != threads[0].line) {
            return false;
        }
    }
    for (int i = 0; i < launch.thread_count; i++) {
        threads[i].state = State::ready;
    }
    return true;
}

// Releases the threads whose wait is over; returns whether there was one.
bool release_waits() {
    bool released = false;
    for (int i = 0; i < launch.thread_count; i++) {
        if (threads[i].state == State::waits && threads[i].is_over(threads[i].what)) {
            threads[i].state = State::ready;
            released = true;
        }
    }
    return released;
}

// Reports a deadlock: names a thread that waits and one that does not arrive.
void report_stuck() {
    int waiting = 0;
    while (threads[waiting].state == State::returned) {
        waiting++;
    }
    const Thread &one = threads[waiting];
    int missing = -1;
    for (int i = 0; i < launch.thread_count && missing < 0; i++) {
        const Thread &t = threads[i];
        bool same_meeting = t.state == one.state && t.line == one.line;
        bool named = one.state == State::at_barrier || (i / WARP == waiting / WARP && (one.mask >> i % WARP & 1));
        missing = named && !same_meeting ? i : -1;
    }
    char first[96], second[96], at_first[64], at_second[64];
    place(one, first, sizeof first);
    waiting_at(one, at_first, sizeof at_first);
    if (one.state == State::waits) {
        fail("%s %s, which never ends", first, at_first);
        return;
    }
    if (missing < 0) {
        fail("%s %s with lanes that name other masks", first, at_first);
        return;
    }
    place(threads[missing], second, sizeof second);
    waiting_at(threads[missing], at_second, sizeof at_second);
    fail("%s %s, which %s never reaches: it %s", first, at_first, second, at_second);
}

// ---- blocks -----------------------------------------------------------------------------------------------------

extern "C" {
// Ends of the section of static shared arrays, defined by the linker; null if no kernel has any.
extern char __start_emulator_shared[] __attribute__((weak));
extern char __stop_emulator_shared[] __attribute__((weak));
}

// Fills memory with quiet NaN, as f32 and as bf16. Uses plain stores without instrumentation instead of memset, because
// the section includes AddressSanitizer's redzones. On x86-64 one instruction is more than twice as fast as a loop.
__attribute__((no_sanitize("address"))) void poison(volatile char *from, size_t bytes) {
    constexpr uint64_t NANS = 0x7fc17fc17fc17fc1;
    size_t words = bytes / sizeof NANS;
#ifdef __x86_64__
    asm volatile("rep stosq" : "+D"(from), "+c"(words) : "a"(NANS) : "memory");
#else
    for (; words > 0; words--, from += sizeof NANS) {
        *reinterpret_cast<volatile uint64_t *>(from) = NANS;
    }
#endif
    if (bytes % sizeof NANS >= 4) {
        *reinterpret_cast<volatile uint32_t *>(from) = uint32_t(NANS);
    }
}

// Runs the lanes of a warp until each has returned, waits at a barrier, or waits at a meeting that is not complete.
void run_warp(int warp) {
    int first = warp * WARP, lanes = lanes_of(warp);
    do {
        Order order = next_order(uint64_t(lanes));
        uint64_t own = order.start;
        for (int i = 0; i < lanes; i++, own = after(order, own)) {
            Thread &thread = threads[first + int(own)];
            if (thread.state == State::ready) {
                running = first + int(own);
                position.thread = thread.index;
                enter_fiber(thread.fiber);
                if (launch.failed) {
                    return;
                }
            }
        }
    } while (warps[warp].waiting > 0 && release_warp(warp));
}

void run_block() {
    if (__start_emulator_shared != nullptr) {
        poison(__start_emulator_shared, __stop_emulator_shared - __start_emulator_shared);
    }
    poison(static_cast<char *>(dynamic_shared), launch.of.dynamic_shared_bytes);
    int count = launch.thread_count;
    forget_copies(count);
    forget_products(count);
    returned = 0;
    for (int i = 0; i < count; i++) {
        unsigned x = position.block_size.x, y = position.block_size.y;
        threads[i].index = {i % x, i / x % y, i / (x * y)};
        threads[i].state = State::ready;
        threads[i].begun = false;
        start_fiber(threads[i].fiber, i, thread_main);
    }
    int warp_count = (count + WARP - 1) / WARP;
    for (int warp = 0; warp < warp_count; warp++) {
        warps[warp].waiting = 0;
    }
    while (returned < count) {
        Order order = next_order(uint64_t(warp_count));
        uint64_t warp = order.start;
        for (int i = 0; i < warp_count && !launch.failed; i++, warp = after(order, warp)) {
            run_warp(int(warp));
        }
        if (launch.failed) {
            return;
        }
        if (returned < count && !release_waits() && !release_barrier()) {
            report_stuck();
            return;
        }
    }
}

bool check_launch() {
    const Kernel &kernel = *launch.of.kernel;
    const uint32_t *grid = launch.of.grid, *block = launch.of.block;
    size_t shared = launch.of.dynamic_shared_bytes, count = launch.of.argument_count;
    const size_t *bytes = launch.of.argument_bytes;
    bool grid_fits = grid[0] > 0 && grid[0] < 1u << 31;
    bool block_fits = block[2] <= 64 && size_t(block[0]) * block[1] * block[2] <= MAX_THREADS;
    for (int i = 0; i < 3; i++) {
        grid_fits &= grid[i] > 0 && (i == 0 || grid[i] <= 65535);
        block_fits &= block[i] > 0;
    }
    if (!grid_fits) {
        fail("a grid of (%u, %u, %u) blocks cannot be launched", grid[0], grid[1], grid[2]);
    } else if (!block_fits) {
        fail("a block of (%u, %u, %u) threads cannot be launched", block[0], block[1], block[2]);
    } else if (kernel.threads != 0 && block[0] * block[1] * block[2] != uint32_t(kernel.threads)) {
        fail("a block of (%u, %u, %u) threads where the kernel is for %d", block[0], block[1], block[2], kernel.threads);
    } else if (shared > kernel.most_shared_bytes) {
        fail("%zu bytes of dynamic shared memory cannot be launched", shared);
    } else if (count != size_t(kernel.parameter_count)) {
        fail("takes %d arguments and was given %zu", kernel.parameter_count, count);
    }
    for (size_t i = 0; i < count && !launch.failed; i++) {
        if (bytes[i] != kernel.parameter_bytes[i]) {
            fail("argument %zu has %zu bytes where the parameter has %d", i, bytes[i], kernel.parameter_bytes[i]);
        }
    }
    return !launch.failed;
}

} // namespace

// ---- what kernels call ------------------------------------------------------------------------------------------

void begin_kernel() { threads[running].begun = true; }

void barrier(int line) { wait(State::at_barrier, line); }

void warp_barrier(unsigned mask, int line) { wait_in_warp(Meeting::barrier, mask, 0, line); }

uint64_t shuffle(unsigned mask, uint64_t value, int source, int line) {
    if (source < 0 || source >= WARP || (mask >> source & 1) == 0) {
        char text[96];
        fail("line %d: %s reads lane %d, which the mask %#x does not name", line,
             place(threads[running], text, sizeof text), source, mask);
        source = lane();
    }
    wait_in_warp(Meeting::shuffle, mask, value, line);
    return warps[running / WARP].given[source];
}

unsigned ballot(unsigned mask, bool predicate, int line) {
    wait_in_warp(Meeting::ballot, mask, predicate, line);
    return warps[running / WARP].votes & mask;
}

void wait_until(bool (*is_over)(const void *what), const void *what, const char *name, int line) {
    Thread &thread = threads[running];
    thread.is_over = is_over;
    thread.what = what;
    thread.name = name;
    wait(State::waits, line);
}

void collective(const Collective &kind, void *operands, int line) {
    if (running / WARP * WARP + WARP > launch.thread_count) {
        report(line, "%s in a warp of fewer than 32 threads", kind.name);
        return;
    }
    threads[running].collective = &kind;
    wait_in_warp(Meeting::collective, 0xffffffffu, reinterpret_cast<uint64_t>(operands), line);
}

// ---- what tensor_core.cpp calls ---------------------------------------------------------------------------------

void report(int line, const char *format, ...) {
    char problem[256], text[96];
    va_list values;
    va_start(values, format);
    vsnprintf(problem, sizeof problem, format, values);
    va_end(values);
    fail("line %d: %s: %s", line, place(threads[running], text, sizeof text), problem);
}

bool in_dynamic_shared(const void *address, size_t bytes) {
    const char *from = static_cast<const char *>(address), *dynamic = static_cast<const char *>(dynamic_shared);
    return dynamic != nullptr && from >= dynamic && from + bytes <= dynamic + launch.of.dynamic_shared_bytes;
}

bool in_shared_memory(const void *address, size_t bytes) {
    const char *from = static_cast<const char *>(address);
    bool is_static = from >= __start_emulator_shared && from + bytes <= __stop_emulator_shared;
    return is_static || in_dynamic_shared(address, bytes);
}

} // namespace emulator

using namespace emulator;

const Kernel *emulator_find(const char *name) {
    for (const Kernel *const *table = emulator_tables; *table != nullptr; table++) {
        for (const Kernel *kernel = *table; kernel->name != nullptr; kernel++) {
            if (strcmp(kernel->name, name) == 0) {
                return kernel;
            }
        }
    }
    return nullptr;
}

int emulator_launch(const Launch *given) {
    launch = {*given, 0, false, given->seed};
    dynamic_shared = nullptr;
    if (!check_launch()) {
        return 1;
    }
    const uint32_t *grid = given->grid, *block = given->block;
    launch.thread_count = int(block[0] * block[1] * block[2]);
    position.block_size = {block[0], block[1], block[2]};
    position.grid_size = {grid[0], grid[1], grid[2]};
    // Allocated for each launch with its exact size, so that AddressSanitizer detects accesses beyond its end.
    // Swizzled patterns repeat after 1,024 bytes; the largest alignment that kernels ask for.
    constexpr size_t ALIGNMENT = 1024;
    size_t room = (given->dynamic_shared_bytes + 15) / 16 * 16;
    if (!reserve_stacks(launch.thread_count) ||
        (room > 0 && posix_memalign(&dynamic_shared, ALIGNMENT, room) != 0)) {
        fail("no memory for %d threads and %zu bytes of shared memory", launch.thread_count,
             given->dynamic_shared_bytes);
        return 1;
    }
    uint64_t plane = uint64_t(grid[0]) * grid[1];
    Order order = next_order(plane * grid[2]);
    uint64_t b = order.start;
    for (uint64_t i = 0; i < order.count && !launch.failed; i++, b = after(order, b)) {
        position.block = {unsigned(b % grid[0]), unsigned(b / grid[0] % grid[1]), unsigned(b / plane)};
        run_block();
    }
    if (room > 0) {
        free(dynamic_shared);
    }
    return launch.failed ? 1 : 0;
}
