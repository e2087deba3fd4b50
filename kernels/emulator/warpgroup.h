// Implementation of warpgroup.cuh without nvcc: barriers with phases, products of a warpgroup, and registers that change
// hands.
//
// A product is only recorded when it is issued, and its sums are filled with NaN. It is performed when its threads wait
// for its group, from what shared memory holds by then. A missing wait, or a wait for one group too few, is therefore
// read as NaN. Errors are: products without begin_products; a factor that changes before the wait, that a copy has
// written without fence_proxy, or that does not lie as the descriptor says; warps that do not do the same; and a thread
// that returns with products in flight.
#pragma once

#include <stdint.h>

namespace emulator {

void begin_phases(unsigned long long *barrier, int arrivals, int line);
void arrive(unsigned long long *barrier, int line);
void wait_phase(unsigned long long *barrier, unsigned parity, int line);
void fence_proxy();

// Sets the registers of the thread: takes some for a positive count, gives some up for a negative one.
void change_registers(int count, int line);

// Offset in dynamic shared memory: an address in the form that descriptors take.
unsigned shared_offset(const void *address);
void begin_products(int line);
void commit_products(int line);
void wait_products(int groups_in_flight, int line);
// Matrix in shared memory. Lines are its rows; or, transposed, inner steps.
struct Factor {
    unsigned long long descriptor;
    bool is_transposed;
};
// d [64, 2 sums] += a b^T, or d = a b^T.
void multiply(float *d, int sums, const uint32_t (&a)[4], Factor b, bool is_added, int line);

} // namespace emulator
