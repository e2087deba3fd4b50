// linear_bf16: products of operands stored in bf16 (stored.cuh), on tensor cores.

#include "linear_block.cuh"

LINEAR_FORMAT(bf16, Bf16)
