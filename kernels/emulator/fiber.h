// Fibers: each has its own stack; a switch between two saves the registers that a call preserves.
//
// The switch is hand-written for x86-64 and aarch64 (about 10 instructions). Elsewhere it is ucontext's, which also
// saves the signal mask with a system call.
#pragma once

namespace emulator {

struct Fiber {
    void *stack_pointer;   // while it does not run
    void *sanitizer_stack; // for AddressSanitizer
    int stack;
};

// Reserves stacks for fibers 0..count; returns false if there is no memory.
bool reserve_stacks(int count);
// Makes `fiber` ready to run `entry`, which must never return, on stack `index`.
void start_fiber(Fiber &fiber, int index, void (*entry)());
// Runs `fiber` until it leaves.
void enter_fiber(Fiber &fiber);
// Called on `fiber`: returns to the point where it was entered.
void leave_fiber(Fiber &fiber);

} // namespace emulator
