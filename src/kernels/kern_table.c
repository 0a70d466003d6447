/* kern_table.c - gathers this instruction set's kernels.  Compiled once per instruction set.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "simd/simd.h"

#ifdef KD_ISA_avx512
#define SHARED_NAME(name) kd__##name##_avx2
#else
#define SHARED_NAME(name) KD_K(name)
#endif
#define KERNEL(name, args) void KD_K(name) args;
#if defined KD_ISA_avx512 && defined KD_AMALGAMATION   /* defined above, for another target */
#define SHARED(name, args)
#else
#define SHARED(name, args) void SHARED_NAME(name) args;
#endif
#include "kernels/kernels.def"
#undef KERNEL
#undef SHARED

#define NAME_(isa) #isa
#define NAME(isa)  NAME_(isa)
const kd__kernels KD_CAT3(kd__kernels, _, KD_ISA) = {
    NAME(KD_ISA),
#define KERNEL(name, args) KD_K(name),
#define SHARED(name, args) SHARED_NAME(name),
#include "kernels/kernels.def"
#undef KERNEL
#undef SHARED
};
