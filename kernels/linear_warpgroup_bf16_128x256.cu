// linear_warpgroup_bf16_128x256: products of operands in bf16 by warpgroups, in tiles of 128 x 256.

#include "linear_warpgroup.cuh"

#ifdef HAS_WARPGROUPS
WARPGROUP_KERNELS(128, 256)
#endif
EMULATED_KERNELS(linear_warpgroup_bf16_128x256, EMULATED_WARPGROUP_KERNELS(128, 256))
