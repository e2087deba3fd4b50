// linear_warpgroup_bf16x3_128x152: products of operands in bf16x3 by warpgroups, in tiles of 128 x 152.

#include "linear_warpgroup.cuh"

LINEAR_WARPGROUP(bf16x3, Bf16x3, 128, 152)
