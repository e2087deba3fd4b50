// linear_bf16: of values stored in bf16 (stored.cuh).

#include "linear.cuh"

LINEAR_FORMAT(bf16, Bf16)
