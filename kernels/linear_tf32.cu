// linear_tf32: operands rounded to tf32.

#include "linear_tensor.cuh"

LINEAR_FORMAT(tf32, Tf32)
