// adam: one step over all parameters (Kingma and Ba, 2014), bias corrections folded into rate and correction.
//   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,  p -= rate m / (sqrt(v correction) + epsilon)
// in   gradients [count]
// out  values, first, second [count], updated in place
// grid one thread per value
// cost 28 bytes and some 12 flops per value: bandwidth

#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
adam_step(float *__restrict__ values, float *__restrict__ first, float *__restrict__ second,
          const float *__restrict__ gradients, long long count, float beta1, float beta2, float rate, float correction,
          float epsilon) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) {
        return;
    }
    float g = gradients[i];
    float m = beta1 * first[i] + (1.0f - beta1) * g;
    float v = beta2 * second[i] + (1.0f - beta2) * g * g;
    first[i] = m;
    second[i] = v;
    values[i] -= rate * m / (sqrtf(v * correction) + epsilon);
}

EMULATED_KERNELS(adam, EMULATED_KERNEL(adam_step))
