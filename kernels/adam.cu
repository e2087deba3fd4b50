// adam: one optimizer step over all parameters (Kingma and Ba, 2014), with decoupled weight decay (AdamW). Bias
// corrections are folded into rate and correction.
//   g = scale gradient,  m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
//   p = kept p - rate m / (sqrt(v correction) + epsilon)
//   rate = learning_rate / (1 - beta1^t),  correction = 1 / (1 - beta2^t)
//   kept = 1 - learning_rate weight_decay if the parameter decays, else 1
//   scale = min(1, clip_norm / (norm + 1e-6)) if gradients are clipped, else 1
// in   gradients [end]; steps [1]: t - 1, the number of steps already taken; ticket [1]: 0 before and after each launch
//      learning_rates [RATE_STEPS]: those of steps t with the same quotient (t - 1) / RATE_STEPS; null if all are equal
//      decaying [end / 32 words]: bit i is set if parameter i decays; null without decay
//      norm [1]: that of the whole gradient; null without clipping
// out  adam_step: values, first, second [begin..end], updated in place. If copy is not null, the new weights are also
//      written there. If ticket is not null, the last block to read steps increments it. A step may run as several
//      launches; only the last one passes a ticket, so the step is counted once.
//      gradient_norm: norm [1] = sqrt(sum of g^2), in double precision. Each block sums a chunk of NORM_CHUNK values;
//      the last block sums the chunks' sums [chunks]. Chunks and the order of all sums depend on the count alone.
//      weight_copy: copy, filled from the current values
// copy the weights in bf16, rows at padded strides; segments [segment_count], in ascending order, locate the rows
// grid adam_step, weight_copy: one thread per four values, at least one block; gradient_norm: one block per chunk
// cost adam_step: 28 bytes and about 15 flops per value, 30 bytes with the copy: bandwidth; gradient_norm: 4 bytes and
//      2 flops per value
// The step number and the learning rates lie in device memory, so a captured step takes the next ones on each replay.

#include "stored.cuh"

constexpr int THREADS = 256;
constexpr unsigned RATE_STEPS = 1024;     // the same in optimizer/schedule.rs
constexpr double CLIP_EPSILON = 1e-6;     // the same in optimizer/mod.rs
constexpr int NORM_LOADS = 8;             // of four values each, in flight at once
constexpr int NORM_CHUNK = THREADS * COLUMNS_EACH * NORM_LOADS; // the same in the launcher

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

// Factors of a step, named in the header; KEPT is that of a parameter that decays.
enum Factor { RATE, CORRECTION, KEPT, SCALE, FACTORS };

// Rows of one weight: values first..end, in rows of `width` values. In the copy they begin at `at`, `stride` values
// apart. The launcher's struct has the same five fields.
struct WeightSegment {
    int first, end, width, stride, at;
};

// Stores four values in one access. A uint2, as in store_aligned, is stored by two here.
__device__ __forceinline__ void store_together(bf16 *to, const Four &all) {
    unsigned low = pack_bf16(all[0], all[1]), high = pack_bf16(all[2], all[3]);
    unsigned long long both;
#ifdef __CUDACC__
    asm("mov.b64 %0, {%1, %2};" : "=l"(both) : "r"(low), "r"(high));
#else
    both = low | (unsigned long long)(high) << 32;
#endif
    *reinterpret_cast<unsigned long long *>(to) = both;
}

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

    // Number of the segment of a warp whose first value is i. All lanes search together, in 32 places at a time.
    __device__ __forceinline__ int warp_segment(int i) const {
        int low = 0, beyond = segment_count, lane = threadIdx.x % WARP_LANES;
        while (beyond - low > 1) {
            int step = (beyond - low + WARP_LANES - 1) / WARP_LANES, at = low + lane * step;
            unsigned reached = __ballot_sync(FULL_WARP, at < beyond && segments[at].first <= i);
            low += max(__popc(reached) - 1, 0) * step;
            beyond = min(beyond, low + step);
        }
        return low;
    }

    // Stores values i..i + 4, as far as they lie below `count`. `near` is the segment of the warp's first value.
    __device__ __forceinline__ void store(int i, int count, const Four &all, int near) const {
        int next_first = near + 1 < segment_count ? segments[near + 1].first : 0x7fffffff;
        WeightSegment of = segments[i < next_first ? near : near + 1];
        if (i >= of.first && i < min(of.end, count) - (COLUMNS_EACH - 1)) {
            int row = unsigned(i - of.first) / of.width, column = i - of.first - row * of.width;
            bf16 *to = row_of(values + of.at, row, of.stride) + column;
            if (column + COLUMNS_EACH <= of.width && is_aligned(to)) {
                store_together(to, all);
                return;
            }
        } else if (i <= next_first - COLUMNS_EACH && (i >= of.end || i <= of.first - COLUMNS_EACH)) {
            return; // no weight
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
    const double *learning_rates, *norm;
    const unsigned *decaying;
    unsigned long long *steps;
    int *ticket;
    CopyArguments copy;
    double learning_rate, beta1, beta2, weight_decay, clip_norm;
    int begin, end;
    float epsilon;
    int reserved;

    // Factor of the step after `done` steps, computed in double precision and rounded once.
    __device__ __forceinline__ float factor(int which, unsigned long long done) const {
        unsigned t = done < 0x7ffffffe ? unsigned(done) + 1 : 0x7fffffffu;
        double rate = learning_rates != nullptr ? learning_rates[done % RATE_STEPS] : learning_rate;
        switch (which) {
        case RATE:
            return float(rate / (1.0 - power(beta1, t)));
        case CORRECTION:
            return float(1.0 / (1.0 - power(beta2, t)));
        case KEPT:
            return float(1.0 - __dmul_rn(rate, weight_decay));
        default:
            double length = norm != nullptr ? *norm + CLIP_EPSILON : 0.0;
            return length <= clip_norm ? 1.0f : float(clip_norm / length); // NaN stays NaN
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS) adam_step(const __grid_constant__ AdamStep args) {
    begin_kernel();
    __shared__ float factors[FACTORS];
    int i = args.begin + (blockIdx.x * THREADS + threadIdx.x) * COLUMNS_EACH;
    // The loads are in flight while the warps find their segments, and four threads, in different warps, compute the factors.
    Four p = {}, g = {}, m = {}, v = {};
    bool decays[COLUMNS_EACH] = {};
    if (i < args.end) {
        p = load_four(args.values, i, args.end);
        g = load_four(args.gradients, i, args.end);
        m = load_four(args.first, i, args.end);
        v = load_four(args.second, i, args.end);
        if (args.decaying != nullptr) {
#pragma unroll
            for (int k = 0; k < COLUMNS_EACH; k++) {
                unsigned place = min(i + k, args.end - 1);
                decays[k] = args.decaying[place / 32] >> place % 32 & 1;
            }
        }
    }
    int segment = args.copy.warp_segment(i - threadIdx.x % WARP_LANES * COLUMNS_EACH);
    if (threadIdx.x % WARP_LANES == 0 && threadIdx.x < FACTORS * WARP_LANES) {
        int which = threadIdx.x / WARP_LANES;
        factors[which] = args.factor(which, *args.steps);
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
    float rate = factors[RATE], correction = factors[CORRECTION], scale = factors[SCALE];
    float beta1 = float(args.beta1), beta2 = float(args.beta2);
#pragma unroll
    for (int k = 0; k < COLUMNS_EACH; k++) {
        float kept = decays[k] ? factors[KEPT] : 1.0f;
        float scaled = scale * g[k];
        m[k] = beta1 * m[k] + (1.0f - beta1) * scaled;
        v[k] = beta2 * v[k] + (1.0f - beta2) * scaled * scaled;
        p[k] = kept * p[k] - rate * m[k] / (sqrtf(v[k] * correction) + args.epsilon);
    }
    store_four(args.first, i, args.end, m);
    store_four(args.second, i, args.end, v);
    store_four(args.values, i, args.end, p);
    if (args.copy.values != nullptr) {
        args.copy.store(i, args.end, p, segment);
    }
}

struct GradientNorm {
    const float *gradients;
    double *sums, *norm;
    int *ticket;
    int count, reserved;
};

extern "C" __global__ void __launch_bounds__(THREADS) gradient_norm(const __grid_constant__ GradientNorm args) {
    begin_kernel();
    __shared__ double partial[THREADS / WARP_LANES];
    __shared__ int flag;
    // 64 bits: the last chunk may end beyond 2^31.
    long long first = (long long)(blockIdx.x) * NORM_CHUNK + threadIdx.x * COLUMNS_EACH;
    Four g[NORM_LOADS] = {};
#pragma unroll
    for (int load = 0; load < NORM_LOADS; load++) {
        long long i = first + load * THREADS * COLUMNS_EACH;
        if (i < args.count) {
            g[load] = load_four(args.gradients, int(i), args.count);
        }
    }
    double own = 0.0;
#pragma unroll
    for (int load = 0; load < NORM_LOADS; load++) {
#pragma unroll
        for (int k = 0; k < COLUMNS_EACH; k++) {
            own += double(g[load][k]) * double(g[load][k]); // exact product
        }
    }
    double sum = block_sum(own, partial);
    if (threadIdx.x == 0) {
        args.sums[blockIdx.x] = sum;
    }
    if (!last_to_come(args.ticket, 1, int(gridDim.x), threadIdx.x == 0, &flag)) {
        return; // the whole block
    }
    double all = 0.0;
#pragma unroll 4
    for (int chunk = threadIdx.x; chunk < int(gridDim.x); chunk += THREADS) {
        all += __ldcg(args.sums + chunk);
    }
    all = block_sum(all, partial);
    if (threadIdx.x == 0) {
        *args.norm = sqrt(all);
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
    int segment = args.copy.warp_segment(i - threadIdx.x % WARP_LANES * COLUMNS_EACH);
    if (i < args.count) {
        args.copy.store(i, args.count, load_four(args.values, i, args.count), segment);
    }
}

EMULATED_KERNELS(adam, EMULATED_KERNEL(adam_step, THREADS), EMULATED_KERNEL(gradient_norm, THREADS),
                 EMULATED_KERNEL(weight_copy, THREADS))
