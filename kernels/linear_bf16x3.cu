// linear_bf16x3: operands split in two bf16, three products.

#include "linear.cuh"

LINEAR_FORMAT(bf16x3, Bf16x3)
