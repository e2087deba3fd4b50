// linear_fp32: products of operands in single precision, without tensor cores.

#include "linear.cuh"

LINEAR_FORWARD_KERNELS(fp32_64, FmaCore)
LINEAR_BACKWARD_KERNELS(fp32_64, FmaCore)
EMULATED_KERNELS(linear_fp32, EMULATED_LINEAR_FORWARD_KERNELS(fp32_64, FmaCore),
                 EMULATED_LINEAR_BACKWARD_KERNELS(fp32_64, FmaCore))
