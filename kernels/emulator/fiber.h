// Fibers: a stack of its own for each, and a switch between two that saves what a call preserves.
//
// The switch is hand-written for x86-64 and aarch64 (some 10 instructions); elsewhere it is ucontext's, which also
// saves the signal mask by a system call.
#pragma once

namespace emulator {

struct Fiber {
    void *stack_pointer;   // while it does not run
    void *sanitizer_stack; // for AddressSanitizer
    int stack;
};

// Stacks for fibers 0..count; false where there is no memory.
bool reserve_stacks(int count);
// Makes `fiber` ready to run `entry`, which must never return, on stack `index`.
void start_fiber(Fiber &fiber, int index, void (*entry)());
// Runs `fiber` until it leaves.
void enter_fiber(Fiber &fiber);
// Called on `fiber`: goes back to where it was entered.
void leave_fiber(Fiber &fiber);

} // namespace emulator
