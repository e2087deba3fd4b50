// linear_fp32: products of operands in single precision, without tensor cores.

#include "linear_block.cuh"

FOR_LINEAR_FORWARD(LINEAR_KERNEL, fp32_64, BlockProducts<FmaCore>)
FOR_LINEAR_BACKWARD(LINEAR_KERNEL, fp32_64, BlockProducts<FmaCore>)
EMULATED_LINEAR_KERNELS(linear_fp32, FOR_LINEAR_FORWARD(EMULATED_LINEAR_KERNEL, fp32_64, BlockProducts<FmaCore>)
                                         FOR_LINEAR_BACKWARD(EMULATED_LINEAR_KERNEL, fp32_64, BlockProducts<FmaCore>))
