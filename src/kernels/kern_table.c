/* kern_table.c - gathers this instruction set's kernels.  Compiled once per instruction set.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "simd/simd.h"

#define KERNEL(name, args) void KD_K(name) args;
#include "kernels/kernels.def"
#undef KERNEL

#define NAME_(isa) #isa
#define NAME(isa)  NAME_(isa)
const kd__kernels KD_CAT3(kd__kernels, _, KD_ISA) = {
    NAME(KD_ISA),
#define KERNEL(name, args) KD_K(name),
#include "kernels/kernels.def"
#undef KERNEL
};
