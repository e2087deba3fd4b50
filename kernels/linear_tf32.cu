// linear_tf32: operands rounded to tf32.

#include "linear.cuh"

LINEAR_FORMAT(tf32, Tf32)
