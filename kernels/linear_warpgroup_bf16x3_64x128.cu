// linear_warpgroup_bf16x3_64x128: products of operands in bf16x3 by warpgroups, in tiles of 64 x 128.

#include "linear_warpgroup.cuh"

LINEAR_WARPGROUP(bf16x3, Bf16x3, 64, 128)
