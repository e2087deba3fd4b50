// A minimal profiler tool: NVTX loads it into the program, and it writes the beginning and end of ranges to the file
// named by NVTX_TEST_LOG. The numbers are those of NVTX 3's nvtxTypes.h.
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

namespace {

typedef void (*Function)();

struct Callbacks {
    size_t struct_size;
    int (*get_module_function_table)(int module, Function ***table, unsigned *size);
};
struct VersionInfo {
    size_t struct_size;
    uint32_t version, reserved;
    void (*set_injection_version)(uint32_t);
};

enum { CALLBACKS = 1, VERSION_INFO = 3, MODULES = 6, CORE = 1, RANGE_PUSH_A = 9, RANGE_POP = 11 };
// Number of entries in each module's table, including the unused first one.
const unsigned SIZES[MODULES + 1] = {0, 16, 9, 15, 7, 16, 7};

FILE *out;

int push(const char *name) {
    fprintf(out, "push %s\n", name);
    fflush(out);
    return 0;
}
int pop() {
    fprintf(out, "pop\n");
    fflush(out);
    return 0;
}

} // namespace

extern "C" int InitializeInjectionNvtx2(const void *(*get_export_table)(uint32_t)) {
    const char *path = getenv("NVTX_TEST_LOG");
    out = path ? fopen(path, "w") : nullptr;
    auto callbacks = static_cast<const Callbacks *>(get_export_table(CALLBACKS));
    auto version = static_cast<const VersionInfo *>(get_export_table(VERSION_INFO));
    if (!out || !callbacks || callbacks->struct_size < sizeof(Callbacks) || !version || version->version != 3) {
        return 0;
    }
    version->set_injection_version(3);
    for (int module = 1; module <= MODULES; module++) {
        Function **table = nullptr;
        unsigned size = 0;
        if (!callbacks->get_module_function_table(module, &table, &size) || size != SIZES[module]) {
            fprintf(out, "module %d has %u functions\n", module, size);
            return 0;
        }
        if (table[0] || table[size]) {
            fprintf(out, "module %d: no null at an end\n", module);
            return 0;
        }
        for (unsigned function = 1; function < size; function++) {
            *table[function] = nullptr; // must be there to be written
        }
        if (module == CORE) {
            *table[RANGE_PUSH_A] = reinterpret_cast<Function>(push);
            *table[RANGE_POP] = reinterpret_cast<Function>(pop);
        }
    }
    return callbacks->get_module_function_table(MODULES + 1, nullptr, nullptr) == 0;
}
