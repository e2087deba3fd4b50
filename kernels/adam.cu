// adam: one optimizer step over all parameters (Kingma and Ba, 2014). Bias corrections are folded into rate and
// correction.
//   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,  p -= rate m / (sqrt(v correction) + epsilon)
//   rate = learning_rate / (1 - beta1^t),  correction = 1 / (1 - beta2^t)
// in   gradients [end]; steps [1]: t - 1, the number of steps already taken; ticket [1]: 0 before and after each launch
// out  adam_step: values, first, second [begin..end], updated in place. If copy is not null, the new weights are also
//      written there. If ticket is not null, the last block to read steps increments it. A step may run as several
//      launches; only the last one passes a ticket, so the step is counted once.
//      weight_copy: copy, filled from the current values
// copy the weights in bf16, rows at padded strides; segments [segment_count], in ascending order, locate the rows
// grid one thread per four values, at least one block
// cost 28 bytes and about 12 flops per value, 30 bytes with the copy: bandwidth
// The step number lies in device memory, so a captured step increments it on each replay.

#include "stored.cuh"

constexpr int THREADS = 256;

// base^exponent by squaring, with the same bits as powi on the host: a resumed run continues identically.
__device__ __forceinline__ double power(double base, unsigned exponent) {
    double product = 1.0;
    for (;;) {
        if (exponent & 1) {
            product = __dmul_rn(product, base);
        }
        exponent >>= 1;
        if (exponent == 0) {
            return product;
        }
        base = __dmul_rn(base, base);
    }
}

// Decay rates, and the bias-corrected factors of step t.
struct Rates {
    double learning_rate, beta1, beta2;

    __device__ __forceinline__ float rate(unsigned t) const { return float(learning_rate / (1.0 - power(beta1, t))); }
    __device__ __forceinline__ float correction(unsigned t) const { return float(1.0 / (1.0 - power(beta2, t))); }
};

// Rows of one weight: values first..end, in rows of `width` values. In the copy they begin at `at`, `stride` values
// apart. The launcher's struct has the same five fields.
struct WeightSegment {
    int first, end, width, stride, at;
};

// Destination of the weight copy; null pointers if there is no copy.
struct CopyArguments {
    bf16 *values;
    const WeightSegment *segments;
    int segment_count, reserved;

    // Last segment that begins at or before value i, or the first segment.
    __device__ __forceinline__ WeightSegment segment(int i) const {
        int low = 0, beyond = segment_count;
        while (beyond - low > 1) {
            int middle = (low + beyond) / 2;
            if (segments[middle].first <= i) {
                low = middle;
            } else {
                beyond = middle;
            }
        }
        return segments[low];
    }

    // Stores values i..i + 4, as far as they lie below `count`.
    __device__ __forceinline__ void store(int i, int count, const Four &all) const {
        WeightSegment of = segment(i);
        if (i >= of.first && i + COLUMNS_EACH <= min(of.end, count)) {
            unsigned row = unsigned(i - of.first) / of.width;
            int column = i - of.first - int(row) * of.width;
            if (column + COLUMNS_EACH <= of.width) {
                store_four(values + of.at + size_t(row) * of.stride, column, of.width, all);
                return;
            }
        }
        for (int k = 0; k < COLUMNS_EACH && i + k < count; k++) {
            of = segment(i + k);
            if (i + k >= of.first && i + k < of.end) {
                int offset = i + k - of.first;
                values[of.at + size_t(offset / of.width) * of.stride + offset % of.width] = narrow<bf16>(all.of[k]);
            }
        }
    }
};

struct AdamStep {
    float *values, *first, *second;
    const float *gradients;
    unsigned long long *steps;
    int *ticket;
    CopyArguments copy;
    double learning_rate, beta1, beta2;
    int begin, end;
    float epsilon;
    int reserved;
};

extern "C" __global__ void __launch_bounds__(THREADS) adam_step(const __grid_constant__ AdamStep args) {
    begin_kernel();
    __shared__ float factors[2];
    int i = args.begin + (blockIdx.x * THREADS + threadIdx.x) * COLUMNS_EACH;
    // The loads are in flight while two threads, in different warps, compute the two factors.
    Four p = {}, g = {}, m = {}, v = {};
    if (i < args.end) {
        p = load_four(args.values, i, args.end);
        g = load_four(args.gradients, i, args.end);
        m = load_four(args.first, i, args.end);
        v = load_four(args.second, i, args.end);
    }
    if (threadIdx.x == 0 || threadIdx.x == WARP_LANES) {
        unsigned long long t = *args.steps + 1;
        unsigned exponent = t < 0x7fffffff ? unsigned(t) : 0x7fffffffu;
        Rates rates = {args.learning_rate, args.beta1, args.beta2};
        factors[threadIdx.x != 0] = threadIdx.x == 0 ? rates.rate(exponent) : rates.correction(exponent);
    }
    __syncthreads();
    // This block has read the step number. The last block to reach this point increments it. The ticket orders the reads
    // of all blocks before the increment.
    if (threadIdx.x == 0 && args.ticket != nullptr) {
        if (add_ordered(args.ticket, 1) + 1 == int(gridDim.x)) {
            *args.ticket = 0;
            *args.steps += 1;
        }
    }
    if (i >= args.end) {
        return;
    }
    float rate = factors[0], correction = factors[1], beta1 = float(args.beta1), beta2 = float(args.beta2);
#pragma unroll
    for (int k = 0; k < COLUMNS_EACH; k++) {
        m[k] = beta1 * m[k] + (1.0f - beta1) * g[k];
        v[k] = beta2 * v[k] + (1.0f - beta2) * g[k] * g[k];
        p[k] -= rate * m[k] / (sqrtf(v[k] * correction) + args.epsilon);
    }
    store_four(args.first, i, args.end, m);
    store_four(args.second, i, args.end, v);
    store_four(args.values, i, args.end, p);
    if (args.copy.values != nullptr) {
        args.copy.store(i, args.end, p);
    }
}

struct CopyWeights {
    CopyArguments copy;
    const float *values;
    int count, reserved;
};

extern "C" __global__ void __launch_bounds__(THREADS) weight_copy(const __grid_constant__ CopyWeights args) {
    begin_kernel();
    int i = (blockIdx.x * THREADS + threadIdx.x) * COLUMNS_EACH;
    if (i < args.count) {
        args.copy.store(i, args.count, load_four(args.values, i, args.count));
    }
}

EMULATED_KERNELS(adam, EMULATED_KERNEL(adam_step, THREADS), EMULATED_KERNEL(weight_copy, THREADS))
