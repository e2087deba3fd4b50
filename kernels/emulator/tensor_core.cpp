// Tensor-core instructions and asynchronous copies (see tensor_core.h).

#include "tensor_core.h"
#include "emulator.h"
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

namespace emulator {
namespace {

// ---- products ---------------------------------------------------------------------------------------------------

struct Product {
    float *d;
    const uint32_t *a, *b;
};

float bf16(uint32_t pair, int half) { return __uint_as_float(half == 0 ? pair << 16 : pair & 0xffff0000u); }

// d [16, 8] += a [16, 16] b [16, 8], with fragments as in tensor_core.cuh.
void run_mma_bf16(void *const operands[WARP]) {
    constexpr int INNER = 16;
    float a[16][INNER], b[INNER][8];
    for (int lane = 0; lane < WARP; lane++) {
        const Product &p = *static_cast<const Product *>(operands[lane]);
        int g = lane / 4, t = lane % 4;
        for (int half = 0; half < 2; half++) {
            for (int i = 0; i < 4; i++) {
                a[g + i % 2 * 8][t * 2 + half + i / 2 * 8] = bf16(p.a[i], half);
            }
            for (int i = 0; i < 2; i++) {
                b[t * 2 + half + i * 8][g] = bf16(p.b[i], half);
            }
        }
    }
    // Each element is summed in the order of k; the columns of a row side by side.
    float sums[16][8];
    for (int lane = 0; lane < WARP; lane++) {
        const float *d = static_cast<const Product *>(operands[lane])->d;
        for (int i = 0; i < 4; i++) {
            sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = d[i];
        }
    }
    for (int row = 0; row < 16; row++) {
        float row_sums[8];
        memcpy(row_sums, sums[row], sizeof row_sums);
        for (int k = 0; k < INNER; k++) {
            for (int column = 0; column < 8; column++) {
                row_sums[column] += a[row][k] * b[k][column];
            }
        }
        memcpy(sums[row], row_sums, sizeof row_sums);
    }
    for (int lane = 0; lane < WARP; lane++) {
        float *d = static_cast<const Product *>(operands[lane])->d;
        for (int i = 0; i < 4; i++) {
            d[i] = sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
        }
    }
}

const Collective MMA_BF16 = {"an mma", run_mma_bf16};

// ---- loads of matrices ------------------------------------------------------------------------------------------

struct Load {
    uint32_t *to;
    int count;
    const void *row;
};

// Lane 8 m + r gives the address of row r of matrix m. From each matrix, 8 x 8 of 16 bits, lane 4 g + t receives the
// values [g][2t] and [g][2t+1], or those of the transpose.
template <bool transposed> void run_load(void *const operands[WARP]) {
    int count = static_cast<const Load *>(operands[0])->count;
    for (int matrix = 0; matrix < count; matrix++) {
        uint16_t values[8][8];
        for (int row = 0; row < 8; row++) {
            memcpy(values[row], static_cast<const Load *>(operands[matrix * 8 + row])->row, sizeof values[row]);
        }
        for (int lane = 0; lane < WARP; lane++) {
            int g = lane / 4, t = lane % 4;
            uint32_t low = transposed ? values[2 * t][g] : values[g][2 * t];
            uint32_t high = transposed ? values[2 * t + 1][g] : values[g][2 * t + 1];
            static_cast<const Load *>(operands[lane])->to[matrix] = low | high << 16;
        }
    }
}

const Collective LOAD = {"an ldmatrix", run_load<false>}, LOAD_TRANSPOSED = {"an ldmatrix", run_load<true>};

// ---- copies -----------------------------------------------------------------------------------------------------

struct Copy {
    void *to;
    const void *from;
    int bytes, valid_bytes;
    int group;
};

// A thread's copies in flight, in the order of issue.
struct Copies {
    Copy *list;
    int count, room;
    int groups; // number of committed groups
};

Copies copies[MAX_THREADS];

// Describes how the addresses violate an instruction's requirements; null if they do not.
const char *flaw(const void *shared, const void *global, size_t alignment, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(shared) % alignment != 0 || reinterpret_cast<uintptr_t>(global) % alignment != 0) {
        return "is not aligned";
    }
    return in_shared_memory(shared, bytes) ? nullptr : "is not in shared memory";
}

} // namespace

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line) {
    Product product = {d, a, b};
    collective(MMA_BF16, &product, line);
}

void load_matrices(uint32_t *to, int count, bool transposed, const void *row, int line) {
    // Lanes beyond those needed give no address.
    bool gives_address = running % WARP < count * 8;
    const char *problem = gives_address ? flaw(row, nullptr, 16, 16) : nullptr;
    if (problem != nullptr) {
        report(line, "ldmatrix: the row's address %p %s", row, problem);
        return;
    }
    Load load = {to, count, row};
    collective(transposed ? LOAD_TRANSPOSED : LOAD, &load, line);
}

void copy_async(void *to, const void *from, int bytes, int valid_bytes, int line) {
    const char *problem = flaw(to, from, size_t(bytes), size_t(bytes));
    if (problem != nullptr) {
        report(line, "cp.async of %d bytes from %p to %p: one of them %s", bytes, from, to, problem);
        return;
    }
    Copies &own = copies[running];
    if (own.count == own.room) {
        own.room = own.room == 0 ? 64 : 2 * own.room;
        own.list = static_cast<Copy *>(realloc(own.list, sizeof(Copy) * own.room));
        if (own.list == nullptr) {
            abort();
        }
    }
    memset(to, 0xff, size_t(bytes)); // NaN as f32 and as bf16
    own.list[own.count++] = {to, from, bytes, valid_bytes, own.groups};
}

void commit_copies() { copies[running].groups++; }

void wait_copies(int groups_under_way) {
    Copies &own = copies[running];
    int performed = 0;
    for (; performed < own.count && own.list[performed].group < own.groups - groups_under_way; performed++) {
        const Copy &copy = own.list[performed];
        memcpy(copy.to, copy.from, size_t(copy.valid_bytes));
        memset(static_cast<char *>(copy.to) + copy.valid_bytes, 0, size_t(copy.bytes - copy.valid_bytes));
        note_copy(copy.to, size_t(copy.bytes));
    }
    if (performed == 0) {
        return; // a thread without copies has no list
    }
    own.count -= performed;
    memmove(own.list, own.list + performed, sizeof(Copy) * own.count);
}

void forget_copies(int thread_count) {
    for (int i = 0; i < thread_count; i++) {
        copies[i].count = copies[i].groups = 0;
    }
}

} // namespace emulator
