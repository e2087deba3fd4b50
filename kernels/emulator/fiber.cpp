// Fibers (see fiber.h).

#include "fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if !(defined(__x86_64__) && defined(__linux__))
#if defined(__aarch64__) && defined(__linux__)
#define EMULATOR_SWITCH 1
#else
#define EMULATOR_CONTEXTS 1
#include <ucontext.h>
#endif
#endif

#ifdef EMULATOR_SANITIZED
extern "C" void __sanitizer_start_switch_fiber(void **save, const void *bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void *save, const void **bottom_old, size_t *size_old);
#endif

#ifdef EMULATOR_SWITCH
// Saves the preserved registers and the stack pointer, and loads those of the other fiber.
extern "C" void emulator_switch(void **save, void *to);
asm(R"(
    .text
    .p2align 4
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, %function
emulator_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emulator_switch, . - emulator_switch
)");
#endif

namespace emulator {
namespace {

#ifdef EMULATOR_SANITIZED
constexpr size_t STACK_BYTES = 256 << 10; // instrumented frames are large
#else
constexpr size_t STACK_BYTES = 64 << 10;
#endif

// Stacks begin at different distances from their ends. Equal ones would put the frames of all lanes into one set of the caches.
constexpr int COLOURS = 32;
constexpr size_t COLOUR_BYTES = 320;

char *stacks;
int reserved;

#ifdef EMULATOR_CONTEXTS
ucontext_t *contexts; // one per stack
ucontext_t caller_context;
#endif

#ifdef EMULATOR_SANITIZED
// AddressSanitizer must be told of every stack switch; it returns the location of the caller's stack.
const void *caller_bottom;
size_t caller_bytes;
void (*first_entry)();
void sanitized_entry() {
    __sanitizer_finish_switch_fiber(nullptr, &caller_bottom, &caller_bytes);
    first_entry();
}
#endif

} // namespace

Fiber caller;

#if defined(EMULATOR_SWITCH)
void switch_stack(Fiber &from, Fiber &to) { emulator_switch(&from.stack_pointer, to.stack_pointer); }
#elif defined(EMULATOR_CONTEXTS)
void switch_stack(Fiber &from, Fiber &to) {
    swapcontext(static_cast<ucontext_t *>(from.stack_pointer), static_cast<ucontext_t *>(to.stack_pointer));
}
#endif

// The stacks lie in one mapping, each above a guard page. Memory is committed on first use.
bool reserve_stacks(int count) {
    if (count <= reserved) {
        return true;
    }
    size_t guard = size_t(sysconf(_SC_PAGESIZE));
    if (stacks != nullptr) {
        munmap(stacks, size_t(reserved) * STACK_BYTES);
        reserved = 0;
    }
    void *mapping = mmap(nullptr, size_t(count) * STACK_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) {
        stacks = nullptr;
        return false;
    }
    stacks = static_cast<char *>(mapping);
    for (int i = 0; i < count; i++) {
        mprotect(stacks + size_t(i) * STACK_BYTES, guard, PROT_NONE);
    }
#ifdef EMULATOR_CONTEXTS
    caller.stack_pointer = &caller_context;
    free(contexts);
    contexts = static_cast<ucontext_t *>(calloc(size_t(count), sizeof(ucontext_t)));
    if (contexts == nullptr) {
        return false;
    }
#endif
    reserved = count;
    return true;
}

void start_fiber(Fiber &fiber, int index, void (*entry)()) {
    fiber.stack = index;
    fiber.sanitizer_stack = nullptr;
#ifdef EMULATOR_SANITIZED
    first_entry = entry;
    entry = sanitized_entry;
#endif
#ifdef EMULATOR_CONTEXTS
    ucontext_t *context = &contexts[index];
    getcontext(context);
    context->uc_stack.ss_sp = stacks + size_t(index) * STACK_BYTES;
    context->uc_stack.ss_size = STACK_BYTES;
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    fiber.stack_pointer = context;
#else
    char *end = stacks + size_t(index + 1) * STACK_BYTES;
    void **top = reinterpret_cast<void **>(end - size_t(index % COLOURS) * COLOUR_BYTES);
#ifdef __x86_64__
    // The place to resume at. At the entry the stack is 8 off a multiple of 16, as after a call.
    void **frame = top - 2;
    frame[0] = reinterpret_cast<void *>(entry);
    frame[1] = nullptr;
#else
    void **frame = top - 20;
    frame[11] = reinterpret_cast<void *>(entry);
#endif
    fiber.stack_pointer = frame;
#endif
}

#ifdef EMULATOR_SANITIZED
void enter_fiber(Fiber &fiber) {
    __sanitizer_start_switch_fiber(&caller.sanitizer_stack, stacks + size_t(fiber.stack) * STACK_BYTES, STACK_BYTES);
    switch_stack(caller, fiber);
    __sanitizer_finish_switch_fiber(caller.sanitizer_stack, nullptr, nullptr);
}

void leave_fiber(Fiber &fiber) {
    __sanitizer_start_switch_fiber(&fiber.sanitizer_stack, caller_bottom, caller_bytes);
    switch_stack(fiber, caller);
    __sanitizer_finish_switch_fiber(fiber.sanitizer_stack, &caller_bottom, &caller_bytes);
}
#endif

} // namespace emulator
