// draw_random, draw_probability, draw_reject: draw the triples of an epoch by rejection sampling. The CPU draws the
// same triples. src/batch/strategies.rs describes each strategy, src/batch/philox.rs the random numbers.
// in   anchors [A] -> image; caption_vectors [images, W]; seed, epoch. The training images are the `images` rows from
//      `first` on
// out  positive, negative [A] -> image; similarity_positive, similarity_negative [A]: s_AP, s_AN
//      -1, -1, NaN, NaN if MAX_TRIALS were not enough: the host then draws from the whole row
// grid one warp per anchor. Its four groups of eight lanes run the next four trials in parallel. The first trial that
//      accepts wins, as if trials ran one after another. The lanes of a group hold the eight partial sums of one inner
//      product, in the order that the CPU uses, so the bits are the same (src/data/similarity.rs).
// cost 1 / mean(s) trials for P and 1 / (1 - mean(s)) for N, 8 W bytes and 2 W flops each: scattered rows, latency

#include "common.cuh"

// The same in src/batch/strategies.rs.
constexpr int MAX_TRIALS = 1024;
constexpr unsigned POSITIVE = 1, NEGATIVE = 2, PAIR = 3;

constexpr int THREADS = 128;
constexpr int BLOCKS = 8; // least number of resident blocks per multiprocessor
constexpr int GROUP = 8;
constexpr int GROUPS = WARP_LANES / GROUP;

struct Words {
    unsigned a, b, c, d;
};

// An image and its similarity to the anchor.
struct Pick {
    int image;
    float similarity;
};

// The row of an anchor, and its random numbers in one epoch.
struct Draw {
    const float *vectors;
    unsigned seed_low, seed_high, epoch;
    int anchor, first, others, width;

    // Philox4x32-10 at the counter (epoch, anchor, role, trial).
    __device__ __forceinline__ Words words(unsigned role, unsigned trial) const {
        Words c = {epoch, unsigned(anchor), role, trial};
        unsigned low = seed_low, high = seed_high;
        for (int round = 0; round < 10; round++) {
            unsigned long long one = 0xD2511F53ull * c.a, two = 0xCD9E8D57ull * c.c;
            c = {unsigned(two >> 32) ^ c.b ^ low, unsigned(two), unsigned(one >> 32) ^ c.d ^ high, unsigned(one)};
            low += 0x9E3779B9u;
            high += 0xBB67AE85u;
        }
        return c;
    }

    // Image at a position of the row, which leaves out the anchor.
    __device__ __forceinline__ int image(int position) const {
        int at = first + position;
        return at + (at >= anchor);
    }

    // Similarity of the anchor and this image, the same in all lanes of the group.
    __device__ __forceinline__ float similarity(int image) const {
        const float *x = vectors + size_t(anchor) * width, *y = vectors + size_t(image) * width;
        int whole = width / GROUP * GROUP;
        float sum = 0.0f, total = 0.0f, tail = 0.0f;
        for (int c = threadIdx.x % GROUP; c < whole; c += GROUP) {
            sum = __fadd_rn(sum, __fmul_rn(x[c], y[c]));
        }
        for (int lane = 0; lane < GROUP; lane++) {
            total = __fadd_rn(total, __shfl_sync(FULL_WARP, sum, lane, GROUP));
        }
        for (int c = whole; c < width; c++) {
            tail = __fadd_rn(tail, __fmul_rn(x[c], y[c]));
        }
        return fminf(fmaxf(__fadd_rn(total, tail), 0.0f), 1.0f);
    }
};

// Uniform integer below n from 64 random bits: the high half of the product.
__device__ __forceinline__ int index_below(unsigned low, unsigned high, unsigned n) {
    unsigned long long carry = ((unsigned long long)low * n) >> 32;
    return int(((unsigned long long)high * n + carry) >> 32);
}

// Uniform multiple of 2^-24 in [0, 1).
__device__ __forceinline__ float unit(unsigned bits) { return float(bits >> 8) * (1.0f / 16777216.0f); }

__device__ __forceinline__ int group() { return threadIdx.x % WARP_LANES / GROUP; }

// Pick of the first group that accepts.
__device__ __forceinline__ Pick of_first(unsigned votes, Pick own) {
    int lane = __ffs(votes) - 1;
    return {__shfl_sync(FULL_WARP, own.image, lane), __shfl_sync(FULL_WARP, own.similarity, lane)};
}

// Runs the trials from `trial` on. Returns true if one accepts; `pick` is then its image and `trial` the next trial. A
// trial accepts a uniformly drawn other image with probability s, or 1 - s for a negative. It never accepts
// `not_image`.
__device__ __forceinline__ bool find(const Draw &draw, unsigned role, int not_image, int &trial, Pick &pick) {
    for (; trial < MAX_TRIALS; trial += GROUPS) {
        int own_trial = trial + group();
        Words words = draw.words(role, own_trial);
        int image = draw.image(index_below(words.a, words.b, draw.others));
        Pick own = {image, draw.similarity(image)};
        float weight = role == POSITIVE ? own.similarity : __fadd_rn(1.0f, -own.similarity);
        bool accepts = own_trial < MAX_TRIALS && unit(words.c) < weight && image != not_image;
        unsigned votes = __ballot_sync(FULL_WARP, accepts);
        if (votes != 0) {
            pick = of_first(votes, own);
            trial += (__ffs(votes) - 1) / GROUP + 1;
            return true;
        }
    }
    return false;
}

// Draws an unordered pair and orders it by similarity; draws again if the two tie.
__device__ __forceinline__ bool draw_pair(const Draw &draw, Pick &positive, Pick &negative) {
    for (int trial = 0; trial < MAX_TRIALS; trial += GROUPS) {
        Words words = draw.words(PAIR, trial + group());
        int one = index_below(words.a, words.b, draw.others);
        // Uniform over the other images except the first draw: shifting by one skips it, as the row skips the anchor.
        int two = index_below(words.c, words.d, draw.others - 1);
        two += two >= one;
        one = draw.image(one);
        two = draw.image(two);
        Pick first = {one, draw.similarity(one)}, second = {two, draw.similarity(two)};
        unsigned votes = __ballot_sync(FULL_WARP, first.similarity != second.similarity);
        if (votes != 0) {
            bool ordered = first.similarity > second.similarity;
            positive = of_first(votes, ordered ? first : second);
            negative = of_first(votes, ordered ? second : first);
            return true;
        }
    }
    return false;
}

__device__ __forceinline__ bool draw_independent(const Draw &draw, Pick &positive, Pick &negative) {
    int of_positive = 0, of_negative = 0;
    return find(draw, POSITIVE, -1, of_positive, positive) &&
           find(draw, NEGATIVE, positive.image, of_negative, negative);
}

// Redraws both while the positive is less similar than the negative, or is the same image.
__device__ __forceinline__ bool draw_ordered(const Draw &draw, Pick &positive, Pick &negative) {
    int trial = 0;
    while (find(draw, POSITIVE, -1, trial, positive) && find(draw, NEGATIVE, -1, trial, negative)) {
        if (positive.similarity >= negative.similarity && positive.image != negative.image) {
            return true;
        }
    }
    return false;
}

struct DrawTriples {
    int *positive, *negative;
    float *similarity_positive, *similarity_negative;
    const int *anchors;
    const float *caption_vectors;
    int count, first, images, width; // A is count, W is width
    unsigned seed_low, seed_high, epoch;
    int reserved;
};

// A strategy draws the two images of a triple. It returns false if MAX_TRIALS were not enough.
typedef bool Strategy(const Draw &draw, Pick &positive, Pick &negative);

template <Strategy strategy> __device__ __forceinline__ void draw_triples(const DrawTriples &args) {
    int at = (blockIdx.x * THREADS + threadIdx.x) / WARP_LANES;
    if (at >= args.count) {
        return;
    }
    Draw draw = {args.caption_vectors, args.seed_low, args.seed_high,  args.epoch,
                 args.anchors[at],     args.first,    args.images - 1, args.width};
    Pick positive, negative;
    if (!strategy(draw, positive, negative)) {
        positive = negative = {-1, __uint_as_float(0x7fffffffu)};
    }
    if (threadIdx.x % WARP_LANES == 0) {
        args.positive[at] = positive.image;
        args.negative[at] = negative.image;
        args.similarity_positive[at] = positive.similarity;
        args.similarity_negative[at] = negative.similarity;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) draw_random(const __grid_constant__ DrawTriples args) {
    begin_kernel();
    draw_triples<draw_pair>(args);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
draw_probability(const __grid_constant__ DrawTriples args) {
    begin_kernel();
    draw_triples<draw_independent>(args);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) draw_reject(const __grid_constant__ DrawTriples args) {
    begin_kernel();
    draw_triples<draw_ordered>(args);
}

EMULATED_KERNELS(draw_triples, EMULATED_KERNEL(draw_random, THREADS, BLOCKS),
                 EMULATED_KERNEL(draw_probability, THREADS, BLOCKS), EMULATED_KERNEL(draw_reject, THREADS, BLOCKS))
