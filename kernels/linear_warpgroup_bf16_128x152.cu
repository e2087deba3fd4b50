// linear_warpgroup_bf16_128x152: products of operands in bf16 by warpgroups, in tiles of 128 x 152.

#include "linear_warpgroup.cuh"

#ifdef HAS_WARPGROUPS
WARPGROUP_KERNELS(128, 152)
#endif
EMULATED_KERNELS(linear_warpgroup_bf16_128x152, EMULATED_WARPGROUP_KERNELS(128, 152))
