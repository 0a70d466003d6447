/* dispatch.c - one table of kernels per level; which of them a context uses.
 * SPDX-License-Identifier: MIT */
#include "cpu/cpu.h"

/* Defined by src/kernels, once per instruction set of the build. */
extern const kd__kernels kd__kernels_scalar, kd__kernels_neon, kd__kernels_avx2, kd__kernels_avx512;

const kd__kernels *kd__kernels_for(uint32_t isa)
{
    uint32_t level = kd__cpu_level();
    if (isa == KD_ISA_SCALAR) return &kd__kernels_scalar;
#ifdef KD_BUILD_neon
    if (isa == KD_ISA_NEON && level == KD_ISA_NEON) return &kd__kernels_neon;
#endif
#ifdef KD_BUILD_avx2
    if (isa == KD_ISA_AVX2 && level >= KD_ISA_AVX2) return &kd__kernels_avx2;
#endif
#ifdef KD_BUILD_avx512
    if (isa == KD_ISA_AVX512 && level >= KD_ISA_AVX512) return &kd__kernels_avx512;
#endif
    (void)level;
    return NULL;
}

const kd__kernels *kd__cpu_kernels(uint32_t cap, uint32_t *chosen, kd__caches *caches)
{
    *caches = kd__cpu_caches();
    uint32_t level = kd__cpu_level(), isa = cap == KD_ISA_AUTO ? KD_ISA_AVX512 : cap;
    while (isa > KD_ISA_SCALAR && (isa > level || !kd__kernels_for(isa))) isa--;
    *chosen = isa;
    return kd__kernels_for(isa);
}
