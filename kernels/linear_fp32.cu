// linear_fp32: operands as they are, without tensor cores; and the sum of a weight's gradient over its parts, which
// every format uses.

#include "linear.cuh"

LINEAR_KERNELS(fp32_64, FmaCore)

constexpr int SUM_THREADS = 256;

// d_weight [O, I], lines as in Operand, = the sum of the parts of a sum over rows, dense matrices [O, I].
extern "C" __global__ void __launch_bounds__(SUM_THREADS)
linear_sum_parts(float *__restrict__ d_weight, const float *__restrict__ partials, int d_weight_stride,
                 int d_weight_split, long long d_weight_jump, int outputs, int inputs,
                 const int *__restrict__ row_count, int most_parts, int most_large_parts) {
    size_t count = size_t(outputs) * inputs, i = size_t(blockIdx.x) * SUM_THREADS + threadIdx.x;
    if (i >= count) {
        return;
    }
    int parts = row_parts(*row_count, most_parts, most_large_parts).count;
    float sum = partials[i]; // not added to 0, so that a single part keeps its bits
    for (int part = 1; part < parts; part++) {
        sum += partials[part * count + i];
    }
    int row = int(i / inputs);
    d_weight[size_t(row) * d_weight_stride + (row >= d_weight_split ? d_weight_jump : 0) + i % inputs] = sum;
}

EMULATED_KERNELS(linear_fp32, EMULATED_LINEAR(fp32_64), EMULATED_KERNEL(linear_sum_parts))
