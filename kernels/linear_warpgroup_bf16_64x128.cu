// linear_warpgroup_bf16_64x128: products of operands in bf16 by warpgroups, in tiles of 64 x 128.

#include "linear_warpgroup.cuh"

#ifdef HAS_WARPGROUPS
WARPGROUP_KERNELS(64, 128)
#endif
EMULATED_KERNELS(linear_warpgroup_bf16_64x128, EMULATED_WARPGROUP_KERNELS(64, 128))
