// The subset of CUDA C++ that the kernels use, for a C++ compiler: the same sources run without a GPU.
//
// The threads of a block are fibers. Each runs on its own stack until it waits for others (a barrier, a shuffle) or
// returns. Blocks run one after another. The emulator detects errors that a GPU hides:
//   - shared memory holds NaN when a block starts;
//   - a barrier that some thread never reaches, or a shuffle that a named lane never reaches, ends the launch with an
//     error that names the kernel, block and thread;
//   - with a seed, blocks run in a shuffled order, and so do threads between two waits: a race changes the result;
//   - a kernel that a thread leaves without calling begin_kernel (launch.cuh) ends the launch with an error;
//   - an asynchronous copy is performed only when it is waited for; until then its target holds NaN;
//   - products of a warpgroup and barriers with phases: see warpgroup.h;
//   - built with AddressSanitizer, an access outside of a buffer or of shared memory is reported.
//
// One launch runs at a time: the caller holds a lock.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// ---- declarations -----------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
// All static shared arrays lie in one section, which the runtime fills with NaN.
#define __shared__ static __attribute__((section("emulator_shared")))
// `extern __shared__` within a function: allocated for each launch, with the requested size.
#define DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(emulator::dynamic_shared)

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulator {

struct Position {
    uint3 thread;
    uint3 block;
    dim3 block_size;
    dim3 grid_size;
};

// Position of the running thread; the runtime updates it when it switches fibers.
extern Position position;
// Index of the running thread in its block.
extern int running;
extern void *dynamic_shared;

// Marks that the running thread has waited for the previous launch.
void begin_kernel();

// Synchronisation points of the threads; `line` is the line of the call in the kernel's source.
void barrier(int line);
void warp_barrier(unsigned mask, int line);
// Passes `value` to the lanes of `mask` and returns the value of lane `source`.
uint64_t shuffle(unsigned mask, uint64_t value, int source, int line);
// Lanes of `mask` whose `predicate` is true.
unsigned ballot(unsigned mask, bool predicate, int line);
inline int lane() { return int(unsigned(running) % 32); }

template <typename T> T shuffle_value(unsigned mask, T value, int source, int line) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves up to 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = shuffle(mask, bits, source, line);
    memcpy(&value, &bits, sizeof(T));
    return value;
}

// Source lane within groups of `width`; a source beyond the group is the lane itself.
inline int source_down(int delta, int width) {
    int own = lane();
    return own % width + delta < width ? own + delta : own;
}
inline int source_up(int delta, int width) {
    int own = lane();
    return own % width >= delta ? own - delta : own;
}
inline int source_xor(int bits, int width) {
    int own = lane(), other = own ^ bits;
    return other / width <= own / width ? other : own;
}
inline int source_index(int index, int width) {
    int own = lane();
    return own / width * width + index % width;
}

} // namespace emulator

#define threadIdx (emulator::position.thread)
#define blockIdx (emulator::position.block)
#define blockDim (emulator::position.block_size)
#define gridDim (emulator::position.grid_size)
#define warpSize 32

// ---- synchronisation points -------------------------------------------------------------------------------------

#define __syncthreads() emulator::barrier(__LINE__)
#define EMULATOR_FIRST(first, ...) first
#define EMULATOR_SECOND(first, second, ...) second
// Optional width argument of a shuffle.
#define EMULATOR_WIDTH(...) EMULATOR_SECOND(__VA_ARGS__, 32, )
#define EMULATOR_SHUFFLE(source, mask, value, ...)                                                                    \
    emulator::shuffle_value(mask, value, emulator::source(EMULATOR_FIRST(__VA_ARGS__, ), EMULATOR_WIDTH(__VA_ARGS__)), \
                            __LINE__)
#define __shfl_sync(...) EMULATOR_SHUFFLE(source_index, __VA_ARGS__)
#define __shfl_down_sync(...) EMULATOR_SHUFFLE(source_down, __VA_ARGS__)
#define __shfl_up_sync(...) EMULATOR_SHUFFLE(source_up, __VA_ARGS__)
#define __shfl_xor_sync(...) EMULATOR_SHUFFLE(source_xor, __VA_ARGS__)
#define __ballot_sync(mask, predicate) emulator::ballot(mask, (predicate) != 0, __LINE__)
#define __any_sync(mask, predicate) (__ballot_sync(mask, predicate) != 0)
#define __all_sync(mask, predicate) (__ballot_sync(mask, predicate) == (mask))
#define __syncwarp(...) emulator::warp_barrier(0xffffffffu __VA_OPT__(&(__VA_ARGS__)), __LINE__)

// ---- memory and arithmetic --------------------------------------------------------------------------------------

// Only one thread runs at a time, and it never switches inside one of these.
float atomicAdd(float *, float) = delete; // float sums need a fixed order
template <typename T> T atomicAdd(T *address, T value) {
    T before = *address;
    *address = before + value;
    return before;
}
template <typename T> T atomicExch(T *address, T value) {
    T before = *address;
    *address = value;
    return before;
}
template <typename T> T atomicMax(T *address, T value) {
    T before = *address;
    *address = before < value ? value : before;
    return before;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T> T __ldg(const T *address) { return *address; }
template <typename T> T __ldcg(const T *address) { return *address; }
inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
inline double rsqrt(double a) { return 1.0 / sqrt(a); }
// Position of the lowest set bit, from 1; 0 if there is none.
inline int __ffs(int bits) { return __builtin_ffs(bits); }
template <typename T> T min(T a, T b) { return b < a ? b : a; }
template <typename T> T max(T a, T b) { return a < b ? b : a; }

// ---- launch -----------------------------------------------------------------------------------------------------

namespace emulator {

constexpr int MAX_PARAMETERS = 64;

// Kernel as seen by the runtime: how to call it with an array of pointers to its arguments.
struct Kernel {
    const char *name;
    void (*call)(void *const *arguments);
    int parameter_count;
    unsigned short parameter_bytes[MAX_PARAMETERS];
    int threads; // threads per block; 0: not registered, any number
    size_t most_shared_bytes;
};

// Dynamic shared memory of a block: the smallest limit of the architectures that the kernels are compiled for, and that
// of sm_90a for its kernels.
constexpr size_t MOST_SHARED_BYTES = 99 << 10, MOST_SHARED_BYTES_90A = 227 << 10;

// Number of threads from the arguments of __launch_bounds__.
constexpr int bound_threads(int threads = 0, int = 0) { return threads; }

template <auto function> struct Call;
template <typename... Parameter, void (*function)(Parameter...)> struct Call<function> {
    template <size_t... I> struct Indices {};
    template <size_t n, size_t... I> struct Count : Count<n - 1, n - 1, I...> {};
    template <size_t... I> struct Count<0, I...> {
        using Type = Indices<I...>;
    };
    template <size_t... I> static void unpack(void *const *arguments, Indices<I...>) {
        function(*static_cast<Parameter *>(arguments[I])...);
    }
    static void call(void *const *arguments) { unpack(arguments, typename Count<sizeof...(Parameter)>::Type()); }
    static constexpr Kernel kernel(const char *name, int threads, size_t most_shared_bytes = MOST_SHARED_BYTES) {
        static_assert(sizeof...(Parameter) <= MAX_PARAMETERS, "more parameters than the table has room for");
        return {name, call, int(sizeof...(Parameter)), {sizeof(Parameter)...}, threads, most_shared_bytes};
    }
};

// Arguments of emulator_launch; the same struct as in src/backend/cuda/device/emulator/functions.rs.
struct Launch {
    const Kernel *kernel;
    uint32_t grid[3], block[3];
    size_t dynamic_shared_bytes;
    // Addresses of the arguments; their sizes, which are checked against the parameters; their number.
    void *const *arguments;
    const size_t *argument_bytes;
    size_t argument_count;
    // Seed that shuffles the order of blocks and threads; 0: no shuffling.
    uint64_t seed;
    // Buffer for the error message.
    char *message;
    size_t message_bytes;
};

} // namespace emulator

// A kernel and the arguments of its __launch_bounds__; a launch must use the same number of threads.
#define EMULATED_KERNEL(function, ...)                                                                                \
    emulator::Call<&function>::kernel(#function, emulator::bound_threads(__VA_ARGS__))
// A kernel for sm_90a alone, with its threads per block.
#define EMULATED_KERNEL_90A(function, threads)                                                                        \
    emulator::Call<&function>::kernel(#function, threads, emulator::MOST_SHARED_BYTES_90A)
// Table of the kernels in kernels/<file>.cu, placed at its end.
#define EMULATED_KERNELS(file, ...)                                                                                   \
    extern "C" const emulator::Kernel emulator_kernels_##file[] = {__VA_ARGS__, {}};

extern "C" {

// Tables of all kernel files, terminated by null; defined by the program that links them.
extern const emulator::Kernel *const emulator_tables[];

// Returns the kernel with this name, or null.
const emulator::Kernel *emulator_find(const char *name);

// Runs a kernel. Returns 0, or 1 with the reason in the message buffer.
int emulator_launch(const emulator::Launch *launch);
}
