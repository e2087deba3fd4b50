// linear_bf16x3: the products of operands split into two bf16 each, three products on tensor cores for one.

#include "linear.cuh"

LINEAR_FORMAT(bf16x3, Bf16x3)
