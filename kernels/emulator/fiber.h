// Fibers: each has its own stack; a switch between two saves the registers that are in use.
//
// The switch is hand-written for x86-64 and aarch64. On x86-64 it is inlined: each place that switches has a jump of its own,
// which the processor predicts, and no return that it cannot. Elsewhere the switch is ucontext's, which also saves the signal mask
// with a system call.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_SANITIZED 1
#endif
#endif

namespace emulator {

struct Fiber {
    void *stack_pointer;   // while it does not run
    void *sanitizer_stack; // for AddressSanitizer
    int stack;
};

// Context that entered the running fiber.
extern Fiber caller;

// Reserves stacks for fibers 0..count; returns false if there is no memory.
bool reserve_stacks(int count);
// Makes `fiber` ready to run `entry`, which must never return, on stack `index`.
void start_fiber(Fiber &fiber, int index, void (*entry)());

#if defined(__x86_64__) && defined(__linux__)
// Leaves the place to resume at and the frame pointer on the stack, below the bytes that a function may use there without
// reserving them. All other registers are declared as overwritten.
inline __attribute__((always_inline)) void switch_stack(Fiber &from, Fiber &to) {
    void **save = &from.stack_pointer, *load = to.stack_pointer;
    asm volatile("leaq -128(%%rsp), %%rsp\n\t"
                 "pushq %%rbp\n\t"
                 "leaq 1f(%%rip), %%rcx\n\t"
                 "pushq %%rcx\n\t"
                 "movq %%rsp, (%[save])\n\t"
                 "movq %[load], %%rsp\n\t"
                 "popq %%rcx\n\t"
                 "jmpq *%%rcx\n"
                 "1:\n\t"
                 "popq %%rbp\n\t"
                 "leaq 128(%%rsp), %%rsp"
                 : [save] "+D"(save), [load] "+S"(load)
                 :
                 : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1",
                   "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
                   "xmm14", "xmm15", "memory", "cc");
}
#else
void switch_stack(Fiber &from, Fiber &to);
#endif

#ifdef EMULATOR_SANITIZED
// Runs `fiber` until it leaves.
void enter_fiber(Fiber &fiber);
// Called on `fiber`: returns to the point where it was entered.
void leave_fiber(Fiber &fiber);
#else
inline __attribute__((always_inline)) void enter_fiber(Fiber &fiber) { switch_stack(caller, fiber); }
inline __attribute__((always_inline)) void leave_fiber(Fiber &fiber) { switch_stack(fiber, caller); }
#endif

} // namespace emulator
