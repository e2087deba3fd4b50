// Runs one kernel of planted.cu or warpgroup_planted.cu on 3 blocks of 256 threads: planted_main KERNEL SEED. Prints its output, one value per
// line, or `error: ` and the emulator's message.

#include "emulator/emulator.h"

#include <stdio.h>
#include <stdlib.h>

extern "C" const emulator::Kernel emulator_kernels_planted[], emulator_kernels_warpgroup_planted[];
const emulator::Kernel *const emulator_tables[] = {emulator_kernels_planted, emulator_kernels_warpgroup_planted, nullptr};

int main(int argument_count, char **arguments) {
    if (argument_count != 3) {
        return 2;
    }
    constexpr int BLOCKS = 3, THREADS = 256;
    const int values = BLOCKS * THREADS;
    bool one_per_block = strcmp(arguments[1], "planted_out_of_bounds") == 0;
    int outputs = one_per_block ? BLOCKS : values;
    float *out = static_cast<float *>(malloc(sizeof(float) * outputs));
    float *in = static_cast<float *>(malloc(sizeof(float) * values));
    for (int i = 0; i < outputs; i++) {
        out[i] = NAN;
    }
    for (int i = 0; i < values; i++) {
        in[i] = float(i % 256);
    }
    void *parameters[2] = {&out, &in};
    const size_t bytes[2] = {sizeof(out), sizeof(in)};
    char message[512] = "";
    const emulator::Kernel *kernel = emulator_find(arguments[1]);
    if (kernel == nullptr) {
        return 2;
    }
    uint64_t seed = strtoull(arguments[2], nullptr, 10);
    size_t dynamic_bytes = strstr(arguments[1], "dynamic") != nullptr ? sizeof(float) * THREADS : 0;
    dynamic_bytes = strstr(arguments[1], "warpgroup") != nullptr ? 128 << 10 : dynamic_bytes;
    const emulator::Launch launch = {kernel, {BLOCKS, 1, 1}, {THREADS, 1, 1}, dynamic_bytes, parameters, bytes, 2, seed,
                                     message, sizeof message};
    int failed = emulator_launch(&launch);
    if (failed) {
        printf("error: %s\n", message);
    } else {
        for (int i = 0; i < outputs; i++) {
            printf("%g\n", out[i]);
        }
    }
    free(in);
    free(out);
    return 0;
}
