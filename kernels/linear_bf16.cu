// linear_bf16: operands rounded to bf16.

#include "linear.cuh"

LINEAR_FORMAT(bf16, Bf16)
