// linear_warpgroup_bf16_128x224: products of operands in bf16 by warpgroups, in tiles of 128 x 224.

#include "linear_warpgroup.cuh"

#ifdef HAS_WARPGROUPS
WARPGROUP_KERNELS(128, 224)
#endif
EMULATED_KERNELS(linear_warpgroup_bf16_128x224, EMULATED_WARPGROUP_KERNELS(128, 224))
