// Instructions of sm_90a for four warps (see warpgroup.h).

#include "warpgroup.h"
#include "emulator.h"
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

namespace emulator {
namespace {

// ---- barriers ---------------------------------------------------------------------------------------------------

constexpr int MAX_BARRIERS = 64, MOST_ARRIVALS = (1 << 20) - 1;

struct Phases {
    const void *barrier;
    int arrivals, missing; // per phase; still to come in this one
    unsigned ended;        // number of phases that have ended
};

Phases barriers[MAX_BARRIERS];
int barrier_count;

Phases *find_barrier(const void *barrier, int line) {
    for (int i = 0; i < barrier_count; i++) {
        if (barriers[i].barrier == barrier) {
            return &barriers[i];
        }
    }
    report(line, "no barrier was made at %p", barrier);
    return nullptr;
}

struct Wait {
    const Phases *of;
    unsigned parity;
};

bool phase_is_over(const void *what) {
    const Wait &wait = *static_cast<const Wait *>(what);
    return wait.of->ended % 2 != wait.parity;
}

// ---- copies that products may not see ---------------------------------------------------------------------------

constexpr size_t PIECE = 16, MAX_PIECES = (size_t(228) << 10) / PIECE;

// By piece of shared memory: the thread that copied it and has not executed a proxy fence since, plus one.
uint16_t unfenced[MAX_PIECES];

// Pieces of each thread among them.
struct Pieces {
    uint16_t *list;
    int count, room;
};
Pieces pieces[MAX_THREADS];

// ---- registers --------------------------------------------------------------------------------------------------

constexpr int ALL_REGISTERS = 65536;
int registers[MAX_THREADS]; // of each thread
// Registers that the block has taken, and those with which it was launched: it gets no more.
int registers_taken, registers_launched;

bool registers_are_free(const void *more) {
    return registers_taken + *static_cast<const int *>(more) <= registers_launched;
}

// ---- products ---------------------------------------------------------------------------------------------------

constexpr int INNER = 16, MAX_PRODUCTS = 64, MAX_SUMS = 128;
constexpr unsigned LINE = 128, PATTERN = 1024;

struct Product {
    uint32_t a[4];
    Factor b;
    bool is_added;
    int group, line;
    uint16_t *seen; // b when it was issued, of a warp's first lane
};

// Products in flight of a thread, in order.
struct Products {
    Product list[MAX_PRODUCTS];
    int count, groups, performed; // `performed`: of those in the list, by the running wait
    bool begun;
    float *d;             // sums in flight, which hold NaN meanwhile
    float sums[MAX_SUMS]; // their values
    int sum_count;
};
Products *products; // [MAX_THREADS], allocated when a kernel first uses them

Products &own_products() {
    if (products == nullptr) {
        products = static_cast<Products *>(calloc(MAX_THREADS, sizeof(Products)));
        if (products == nullptr) {
            abort();
        }
    }
    return products[running];
}

// Place of a value of a matrix in shared memory; null if the descriptor is wrong. Lines of 128 bytes hold 64 values, and
// the lines of a matrix with more values side by side continue in other panels.
const char *place(const Factor &of, int row, int inner) {
    unsigned long long bits = of.descriptor;
    unsigned start = unsigned(bits & 0x3fff) << 4, leading = unsigned(bits >> 16 & 0x3fff) << 4;
    unsigned stride = unsigned(bits >> 32 & 0x3fff) << 4;
    bool is_swizzled = bits >> 62 == 1, has_base = (bits >> 49 & 7) != 0;
    if (!is_swizzled || has_base || start % PATTERN >= LINE || (of.is_transposed && leading % PATTERN != 0)) {
        return nullptr;
    }
    unsigned line = unsigned(of.is_transposed ? inner : row), value = unsigned(of.is_transposed ? row : inner);
    unsigned panel = value / 64, in_panel = value % 64 * 2;
    unsigned piece = (start % LINE + in_panel) / 16 ^ line % 8;
    unsigned offset = start / LINE * LINE + panel * leading + line / 8 * stride + line % 8 * LINE;
    const char *address = static_cast<const char *>(dynamic_shared) + offset + piece * 16 + in_panel % 16;
    return in_shared_memory(address, 2) ? address : nullptr;
}

uint16_t value(const Factor &of, int row, int inner) {
    uint16_t bits;
    memcpy(&bits, place(of, row, inner), sizeof bits);
    return bits;
}

float widen(uint32_t bits) { return __uint_as_float(bits << 16); }

// Performs the first products of a warp's lanes.
void run_products(void *const operands[WARP]) {
    Products &first = *static_cast<Products *>(operands[0]);
    for (int i = 0; i < first.performed; i++) {
        const Product &product = first.list[i];
        int columns = 2 * first.sum_count;
        float a[16][INNER], b[256][INNER];
        for (int row = 0; row < columns; row++) {
            for (int k = 0; k < INNER; k++) {
                uint16_t bits = value(product.b, row, k);
                if (bits != product.seen[row * INNER + k]) {
                    report(product.line, "a factor of a product changed before it was waited for");
                    return;
                }
                b[row][k] = widen(bits);
            }
        }
        for (int lane = 0; lane < WARP; lane++) {
            const Products &of = *static_cast<const Products *>(operands[lane]);
            const Product &own = of.list[i];
            bool is_same = own.b.descriptor == product.b.descriptor && own.b.is_transposed == product.b.is_transposed;
            if (of.performed != first.performed || !is_same || own.is_added != product.is_added) {
                report(product.line, "the lanes of a warp issue different products");
                return;
            }
            for (int j = 0; j < 4; j++) {
                for (int half = 0; half < 2; half++) {
                    a[lane / 4 + j % 2 * 8][lane % 4 * 2 + half + j / 2 * 8] = widen(own.a[j] >> (16 * half) & 0xffff);
                }
            }
        }
        for (int lane = 0; lane < WARP; lane++) {
            Products &of = *static_cast<Products *>(operands[lane]);
            for (int j = 0; j < of.sum_count; j++) {
                int row = lane / 4 + j / 2 % 2 * 8, column = j / 4 * 8 + lane % 4 * 2 + j % 2;
                float sum = product.is_added ? of.sums[j] : 0.0f;
                for (int k = 0; k < INNER; k++) {
                    sum += a[row][k] * b[column][k];
                }
                of.sums[j] = sum;
            }
        }
    }
}

const Collective WAIT = {"a wait for products", run_products};

} // namespace

void begin_phases(unsigned long long *barrier, int arrivals, int line) {
    if (!in_shared_memory(barrier, sizeof *barrier) || reinterpret_cast<uintptr_t>(barrier) % sizeof *barrier != 0) {
        report(line, "a barrier at %p, which is not in shared memory or not aligned", static_cast<void *>(barrier));
    } else if (arrivals < 1 || arrivals > MOST_ARRIVALS || barrier_count == MAX_BARRIERS) {
        report(line, "a barrier for %d arrivals, or too many barriers", arrivals);
    } else {
        barriers[barrier_count++] = {barrier, arrivals, arrivals, 0};
    }
}

void arrive(unsigned long long *barrier, int line) {
    Phases *of = find_barrier(barrier, line);
    if (of != nullptr && --of->missing == 0) {
        of->missing = of->arrivals;
        of->ended++;
    }
}

void wait_phase(unsigned long long *barrier, unsigned parity, int line) {
    if (parity > 1) {
        report(line, "a wait for parity %u", parity);
        return;
    }
    Wait wait = {find_barrier(barrier, line), parity};
    if (wait.of != nullptr && !phase_is_over(&wait)) {
        wait_until(phase_is_over, &wait, "a barrier's phase", line);
    }
}

void fence_proxy() {
    Pieces &own = pieces[running];
    for (int i = 0; i < own.count; i++) {
        uint16_t &of = unfenced[own.list[i]];
        of = of == running + 1 ? 0 : of;
    }
    own.count = 0;
}

void change_registers(int count, int line) {
    bool takes = count > 0;
    int wanted = takes ? count : -count, more = wanted - registers[running];
    if (wanted % 8 != 0 || wanted < 24 || wanted > 256 || (more != 0 && takes != (more > 0))) {
        report(line, "a change from %d to %d registers", registers[running], wanted);
        return;
    }
    if (takes && !registers_are_free(&more)) {
        wait_until(registers_are_free, &more, "a change of registers", line);
    }
    registers[running] += more;
    registers_taken += more;
}

unsigned shared_offset(const void *address) {
    return unsigned(static_cast<const char *>(address) - static_cast<const char *>(dynamic_shared));
}

void begin_products(int) { own_products().begun = true; }

void commit_products(int) { own_products().groups++; }

void multiply(float *d, int sums, const uint32_t (&a)[4], Factor b, bool is_added, int line) {
    Products &own = own_products();
    if (!own.begun) {
        report(line, "a product without begin_products");
        return;
    }
    if (own.count == MAX_PRODUCTS || (own.count > 0 && (own.d != d || own.sum_count != sums))) {
        report(line, "too many products in flight, or sums of another one");
        return;
    }
    Product &product = own.list[own.count];
    product = {{a[0], a[1], a[2], a[3]}, b, is_added, own.groups, line, nullptr};
    if (lane() == 0) {
        product.seen = static_cast<uint16_t *>(malloc(sizeof(uint16_t) * 2 * sums * INNER));
        for (int i = 0; i < 2 * sums * INNER; i++) {
            const char *at = place(b, i / INNER, i % INNER);
            if (at == nullptr) {
                report(line, "a descriptor %#llx that names no swizzled lines in shared memory", b.descriptor);
                return;
            }
            if (uint16_t by = unfenced[shared_offset(at) / PIECE]) {
                report(line, "a product reads what thread %d copied without fence_proxy", by - 1);
                return;
            }
            memcpy(&product.seen[i], at, sizeof(uint16_t));
        }
    }
    if (own.count++ == 0) {
        own.d = d;
        own.sum_count = sums;
        memcpy(own.sums, d, sizeof(float) * sums);
        memset(d, 0xff, sizeof(float) * sums); // NaN
    }
}

void wait_products(int groups_in_flight, int line) {
    Products &own = own_products();
    own.performed = 0;
    while (own.performed < own.count && own.list[own.performed].group < own.groups - groups_in_flight) {
        own.performed++;
    }
    collective(WAIT, &own, line);
    for (int i = 0; i < own.performed; i++) {
        free(own.list[i].seen);
    }
    own.count -= own.performed;
    memmove(own.list, own.list + own.performed, sizeof(Product) * own.count);
    if (own.count == 0 && own.d != nullptr) {
        memcpy(own.d, own.sums, sizeof(float) * own.sum_count);
        own.d = nullptr;
        own.begun = false; // the next products touch registers that threads may have touched
    }
}

// ---- what the runtime calls -------------------------------------------------------------------------------------

void note_copy(const void *to, size_t bytes) {
    size_t first = shared_offset(to) / PIECE;
    if (barrier_count == 0 || !in_dynamic_shared(to, bytes) || first >= MAX_PIECES) {
        return; // no products, or not a factor of one
    }
    Pieces &own = pieces[running];
    if (own.count == own.room) {
        own.room = own.room == 0 ? 64 : 2 * own.room;
        own.list = static_cast<uint16_t *>(realloc(own.list, sizeof(uint16_t) * own.room));
        if (own.list == nullptr) {
            abort();
        }
    }
    own.list[own.count++] = uint16_t(first);
    unfenced[first] = uint16_t(running + 1);
}

void check_products() {
    if (products != nullptr && own_products().count > 0) {
        report(own_products().list[0].line, "returns with products in flight");
    }
}

void forget_products(int thread_count) {
    barrier_count = 0;
    memset(unfenced, 0, sizeof unfenced);
    registers_taken = 0;
    for (int i = 0; i < thread_count; i++) {
        int launched = ALL_REGISTERS / thread_count / 8 * 8;
        registers[i] = launched < 248 ? launched : 248;
        registers_taken += registers[i];
        pieces[i].count = 0;
        if (products != nullptr) {
            for (int k = 0; k < products[i].count; k++) {
                free(products[i].list[k].seen);
            }
            products[i].count = products[i].groups = 0;
            products[i].begun = false;
            products[i].d = nullptr;
        }
    }
    registers_launched = registers_taken;
}

} // namespace emulator
