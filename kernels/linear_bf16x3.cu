// linear_bf16x3: products of operands split into two bf16 each; three tensor-core products replace one.

#include "linear_block.cuh"

LINEAR_FORMAT(bf16x3, Bf16x3)
