// linear_bf16: operands rounded to bf16.

#include "linear_tensor.cuh"

LINEAR_FORMAT(bf16, Bf16)
