// linear_warpgroup_bf16_64x128: products of operands in bf16 by warpgroups, in tiles of 64 x 128.

#include "linear_warpgroup.cuh"

LINEAR_WARPGROUP(bf16, Bf16, 64, 128)
