// A CUDA driver without a GPU: device memory is host memory, copies take place at once, kernels do nothing.
// Environment variables set the results of calls. With STUB_LOG, every call of a step is written as a line to
// that file.

#include "stub.h"

typedef unsigned long long Address;

// A stream or event is a number that is never 0.
static size_t handles = 0;

static Result make(void **handle) {
    *handle = (void *)(++handles << 4);
    return 0;
}

// By stream: whether its latest work is a kernel. Only another kernel may then begin before it has ended.
static char after_kernel[1 << 10];

static void other_work(const void *stream) { after_kernel[name(stream)] = 0; }

Result cuInit(unsigned flags) { return number("STUB_INIT", 0); }
Result cuDriverGetVersion(int *version) {
    *version = number("STUB_VERSION", 13000);
    return 0;
}
Result cuGetErrorName(Result error, const char **text) {
    *text = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OF_THE_STUB";
    return 0;
}
Result cuGetErrorString(Result error, const char **text) {
    *text = "as it was told";
    return 0;
}
Result cuDeviceGetCount(int *count) {
    *count = number("STUB_COUNT", 1);
    return 0;
}
Result cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return 0;
}
Result cuDeviceGetName(char *name, int bytes, int device) {
    snprintf(name, bytes, "stub %d", device);
    return 0;
}
Result cuDeviceGetUuid(unsigned char *id, int device) {
    memset(id, 0xab, 16);
    return 0;
}
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    // 75 and 76 are the compute capability, 97 is the shared memory available to a block.
    *value = attribute == 75   ? number("STUB_CAPABILITY", 9)
             : attribute == 76 ? 0
             : attribute == 97 ? number("STUB_SHARED_BYTES", 227 << 10)
                               : 1;
    return 0;
}
Result cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &handles;
    return number("STUB_RETAIN", 0);
}
Result cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
// A context is current on the threads that set it, and on no other.
static __thread void *current = NULL;
enum { INVALID_CONTEXT = 201 };

Result cuCtxGetCurrent(void **context) {
    *context = current;
    return 0;
}
Result cuCtxSetCurrent(void *context) {
    current = context;
    return 0;
}
Result cuCtxSynchronize(void) { return 0; }

Result cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return 0;
}
Result cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    Result made = make(stream);
    say("stream", name(*stream), priority);
    return made;
}
Result cuStreamDestroy_v2(void *stream) { return 0; }
Result cuStreamSynchronize(void *stream) {
    say("stream_synchronize", name(stream), 0);
    return 0;
}
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    other_work(stream);
    say("stream_waits", name(stream), name(event));
    return 0;
}
Result cuEventCreate(void **event, unsigned flags) { return make(event); }
Result cuEventDestroy_v2(void *event) { return 0; }
Result cuEventRecord(void *event, void *stream) {
    say("record", name(event), name(stream));
    return 0;
}
Result cuEventSynchronize(void *event) {
    say("host_waits", name(event), 0);
    return 0;
}

Result cuModuleLoadData(void **module, const void *image) {
    *module = &handles;
    return number("STUB_LOAD", 0);
}
Result cuModuleUnload(void *module) { return 0; }
Result cuModuleGetFunction(void **function, void *module, const char *kernel) {
    *function = strdup(kernel);
    return 0;
}
Result cuFuncSetAttribute(void *function, int attribute, int value) {
    // 8 is the largest size of dynamic shared memory.
    if (attribute == 8) {
        say("most_shared", value, 0);
    }
    return 0;
}
// A graph is a number, too. Captured calls are logged, and do nothing.
static int capturing = 0;
// Number of launches of the latest capture that may begin before their predecessor has ended.
static int overlapping = 0;

// STUB_REFUSES names a call that fails for graphs with overlapping launches.
static int refuses(const char *call) {
    const char *refused = getenv("STUB_REFUSES");
    return refused != NULL && strcmp(refused, call) == 0 && overlapping > 0 ? 801 : 0;
}

Result cuStreamBeginCapture_v2(void *stream, int mode) {
    capturing = 1;
    overlapping = 0;
    other_work(stream);
    say("begin_capture", name(stream), mode);
    return 0;
}
Result cuStreamEndCapture(void *stream, void **graph) {
    capturing = 0;
    make(graph);
    say("end_capture", name(stream), name(*graph));
    return refuses("end_capture");
}
Result cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    make(executable);
    say("instantiate", name(*executable), name(graph));
    say("instantiate_flags", (int)flags, 0);
    return number("STUB_INSTANTIATE", refuses("instantiate"));
}
Result cuGraphLaunch(void *executable, void *stream) {
    other_work(stream);
    say("launch_graph", name(stream), name(executable));
    return refuses("launch_graph");
}
Result cuGraphExecDestroy(void *executable) { return 0; }
Result cuGraphDestroy(void *graph) { return 0; }

Result cuFuncGetAttribute(int *value, int attribute, void *function) {
    // 5 is the PTX version through which the kernel was compiled.
    *value = attribute == 5 ? number("STUB_PTX", 90) : 0;
    return 0;
}

typedef struct {
    int id;
    char padding[4];
    int value[16];
} Attribute;
typedef struct {
    unsigned grid[3], block[3], shared;
    void *stream;
    Attribute *attributes;
    unsigned attribute_count;
} LaunchConfig;

// The second number: whether the launch may begin before its predecessor has ended.
Result cuLaunchKernelEx(const LaunchConfig *config, void *function, void **parameters, void **extra) {
    int overlaps = 0;
    for (unsigned i = 0; i < config->attribute_count; i++) {
        overlaps |= config->attributes[i].id == 6 && config->attributes[i].value[0] == 1;
    }
    say(function, name(config->stream), overlaps);
    overlapping += capturing && overlaps;
    if (overlaps && !after_kernel[name(config->stream)]) {
        return 1;
    }
    after_kernel[name(config->stream)] = 1;
    return current == NULL ? INVALID_CONTEXT : capturing ? refuses("launch") : 0;
}

Result cuMemGetInfo_v2(size_t *available, size_t *total) {
    *available = (size_t)3 << 20;
    *total = (size_t)1 << 30;
    return 0;
}
Result cuMemAllocAsync(Address *address, size_t bytes, void *stream) {
    static size_t allocated = 0;
    static int allocations = 0;
    allocated += bytes;
    allocations++;
    if (allocated > (size_t)number("STUB_MEMORY_MIB", 1 << 14) << 20 || allocations > number("STUB_ALLOCATIONS", 1 << 30)) {
        return 2;
    }
    if (current == NULL) {
        return INVALID_CONTEXT;
    }
    say("allocate", name(stream), (int)bytes);
    *address = (Address)calloc(1, bytes); // no kernel runs: what they would write is zeros
    return 0;
}
Result cuMemFreeAsync(Address address, void *stream) {
    if (current == NULL) {
        return INVALID_CONTEXT;
    }
    say("free", name(stream), 0);
    free((void *)address);
    return 0;
}
Result cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    *address = malloc(bytes);
    return number("STUB_HOST_ALLOC", current == NULL ? INVALID_CONTEXT : 0);
}
Result cuMemFreeHost(void *address) {
    if (current == NULL) {
        return INVALID_CONTEXT;
    }
    free(address);
    return 0;
}
Result cuMemsetD8Async(Address address, unsigned char value, size_t count, void *stream) {
    other_work(stream);
    if (!capturing) {
        memset((void *)address, value, count);
    }
    return 0;
}
Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *stream) {
    other_work(stream);
    memcpy((void *)to, from, bytes);
    say("upload", name(stream), 0);
    return 0;
}
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *stream) {
    other_work(stream);
    memmove((void *)to, (void *)from, bytes);
    say("copy", name(stream), 0);
    return 0;
}
Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *stream) {
    other_work(stream);
    memcpy(to, (void *)from, bytes);
    say("download", name(stream), 0);
    return 0;
}
