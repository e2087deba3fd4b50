// Fibers (see fiber.h).

#include "fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if (defined(__x86_64__) || defined(__aarch64__)) && defined(__linux__)
#define EMULATOR_SWITCH 1
#else
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_SANITIZED 1
#endif
#endif

#ifdef EMULATOR_SANITIZED
extern "C" void __sanitizer_start_switch_fiber(void **save, const void *bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void *save, const void **bottom_old, size_t *size_old);
#endif

#ifdef EMULATOR_SWITCH
// Saves the preserved registers and the stack pointer, and loads those of the other fiber.
extern "C" void emulator_switch(void **save, void *to);
#endif

#if defined(EMULATOR_SWITCH) && defined(__x86_64__)
asm(R"(
    .text
    .p2align 4
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, . - emulator_switch
)");
#elif defined(EMULATOR_SWITCH)
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

char *stacks;
int reserved;
Fiber caller; // context that entered the running fiber

#ifndef EMULATOR_SWITCH
ucontext_t *contexts; // one per stack
ucontext_t caller_context;
#endif

void switch_stack(Fiber &from, Fiber &to) {
#ifdef EMULATOR_SWITCH
    emulator_switch(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(static_cast<ucontext_t *>(from.stack_pointer), static_cast<ucontext_t *>(to.stack_pointer));
#endif
}

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
#ifndef EMULATOR_SWITCH
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
#ifdef EMULATOR_SWITCH
    void **top = reinterpret_cast<void **>(stacks + size_t(index + 1) * STACK_BYTES);
#ifdef __x86_64__
    // Six registers, then the return address of the switch. At the entry the stack is 8 off a multiple of 16, as after
    // a call.
    void **frame = top - 8;
    frame[6] = reinterpret_cast<void *>(entry);
    frame[7] = nullptr;
#else
    void **frame = top - 20;
    frame[11] = reinterpret_cast<void *>(entry);
#endif
    fiber.stack_pointer = frame;
#else
    ucontext_t *context = &contexts[index];
    getcontext(context);
    context->uc_stack.ss_sp = stacks + size_t(index) * STACK_BYTES;
    context->uc_stack.ss_size = STACK_BYTES;
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    fiber.stack_pointer = context;
#endif
}

void enter_fiber(Fiber &fiber) {
#ifndef EMULATOR_SWITCH
    caller.stack_pointer = &caller_context;
#endif
#ifdef EMULATOR_SANITIZED
    __sanitizer_start_switch_fiber(&caller.sanitizer_stack, stacks + size_t(fiber.stack) * STACK_BYTES, STACK_BYTES);
#endif
    switch_stack(caller, fiber);
#ifdef EMULATOR_SANITIZED
    __sanitizer_finish_switch_fiber(caller.sanitizer_stack, nullptr, nullptr);
#endif
}

void leave_fiber(Fiber &fiber) {
#ifdef EMULATOR_SANITIZED
    __sanitizer_start_switch_fiber(&fiber.sanitizer_stack, caller_bottom, caller_bytes);
#endif
    switch_stack(fiber, caller);
#ifdef EMULATOR_SANITIZED
    __sanitizer_finish_switch_fiber(fiber.sanitizer_stack, &caller_bottom, &caller_bytes);
#endif
}

} // namespace emulator
