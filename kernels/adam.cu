// adam: one step over all parameters (Kingma and Ba, 2014), bias corrections folded into rate and correction.
//   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,  p -= rate m / (sqrt(v correction) + epsilon)
//   rate = learning_rate / (1 - beta1^t),  correction = 1 / (1 - beta2^t)
// in   gradients [count]; steps [1]: t - 1, the steps done
// out  adam_next_step: steps moved on to t, factors [2] = rate, correction
//      adam_step: values, first, second [count], updated in place
// grid adam_next_step: one thread; adam_step: one thread per value
// cost 28 bytes and some 12 flops per value: bandwidth
// The step's number lies in device memory, so that a captured step counts on by itself.

#include "common.cuh"

// base^exponent by squaring, as the host's powi: the same bits, so that a run that was resumed goes on alike.
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

extern "C" __global__ void __launch_bounds__(1)
adam_next_step(unsigned long long *__restrict__ steps, float *__restrict__ factors, double learning_rate,
               double beta1, double beta2) {
    unsigned long long t = *steps + 1;
    *steps = t;
    unsigned exponent = t < 0x7fffffff ? unsigned(t) : 0x7fffffffu;
    factors[0] = float(learning_rate / (1.0 - power(beta1, exponent)));
    factors[1] = float(1.0 / (1.0 - power(beta2, exponent)));
}

extern "C" __global__ void __launch_bounds__(256)
adam_step(float *__restrict__ values, float *__restrict__ first, float *__restrict__ second,
          const float *__restrict__ gradients, const float *__restrict__ factors, long long count, float beta1,
          float beta2, float epsilon) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) {
        return;
    }
    float rate = factors[0], correction = factors[1];
    float g = gradients[i];
    float m = beta1 * first[i] + (1.0f - beta1) * g;
    float v = beta2 * second[i] + (1.0f - beta2) * g * g;
    first[i] = m;
    second[i] = v;
    values[i] -= rate * m / (sqrtf(v * correction) + epsilon);
}

EMULATED_KERNELS(adam, EMULATED_KERNEL(adam_next_step), EMULATED_KERNEL(adam_step))
