/* cpu.h - which instruction sets this processor and its operating system give us.
 * SPDX-License-Identifier: MIT */
#ifndef KD__CPU_H
#define KD__CPU_H
#include "base/base.h"

/* What detection reads, as plain numbers, so that tests can play any processor. */
typedef struct kd__cpuid {
    uint32_t max_leaf;
    uint32_t leaf1_ecx, leaf7_ebx;
    uint64_t xcr0;                   /* 0 unless OSXSAVE is set */
} kd__cpuid;

/* The best level (KD_ISA_*) that these registers allow: instructions present and their registers saved. */
uint32_t kd__cpu_level_of(const kd__cpuid *id);
/* The best level of this machine. */
uint32_t kd__cpu_level(void);
/* Of this machine. */
kd__caches kd__cpu_caches(void);
/* One leaf of CPUID 4 or 0x8000001d: eax, ebx, ecx, edx. */
void kd__caches_add(kd__caches *caches, const uint32_t leaf[4]);
/* Sizes that nothing is wrong with: what was not found is as usual, what cannot be is held to what can. */
kd__caches kd__caches_held(kd__caches found);
/* The kernels of exactly this level; NULL when the build or the CPU lacks it. */
const kd__kernels *kd__kernels_for(uint32_t isa);
#endif
