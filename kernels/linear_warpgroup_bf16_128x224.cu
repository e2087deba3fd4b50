// linear_warpgroup_bf16_128x224: products of operands in bf16 by warpgroups, in tiles of 128 x 224.

#include "linear_warpgroup.cuh"

LINEAR_WARPGROUP(bf16, Bf16, 128, 224)
