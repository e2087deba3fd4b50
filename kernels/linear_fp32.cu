// linear_fp32: operands as they are, without tensor cores.

#include "linear.cuh"

LINEAR_KERNELS(fp32_64, FmaCore)
LINEAR_SMALL_KERNELS(fp32_64, FmaCore)
EMULATED_KERNELS(linear_fp32, EMULATED_SMALL_LINEAR(fp32_64))
