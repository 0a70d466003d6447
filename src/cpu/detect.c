/* detect.c - CPUID and XCR0 to a level.
 * SPDX-License-Identifier: MIT */
#include "cpu/cpu.h"
#if defined __x86_64__ || defined __i386__
#include <cpuid.h>
#endif

#define L1_NEEDED (1u << 12 | 1u << 27 | 1u << 28 | 1u << 29)            /* FMA OSXSAVE AVX F16C */
#define L1_OSXSAVE (1u << 27)
#define L7_AVX2 (1u << 5 | 1u << 8)                                      /* AVX2 BMI2 */
#define L7_AVX512 (1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31) /* F DQ CD BW VL */
#define XCR0_YMM 0x6u                                                    /* xmm, ymm */
#define XCR0_ZMM 0xe6u                                                   /* and k, zmm 0-15, zmm 16-31 */

static bool has(uint64_t bits, uint64_t mask) { return (bits & mask) == mask; }

uint32_t kd__cpu_level_of(const kd__cpuid *id)
{
    if (id->max_leaf < 7 || !has(id->leaf1_ecx, L1_NEEDED) || !has(id->leaf7_ebx, L7_AVX2) || !has(id->xcr0, XCR0_YMM))
        return KD_ISA_SCALAR;
    return has(id->leaf7_ebx, L7_AVX512) && has(id->xcr0, XCR0_ZMM) ? KD_ISA_AVX512 : KD_ISA_AVX2;
}

uint32_t kd__cpu_level(void)
{
#if defined __x86_64__ || defined __i386__
    kd__cpuid id = { .max_leaf = (uint32_t)__get_cpuid_max(0, NULL) };
    uint32_t a, b, c, d;
    if (id.max_leaf >= 1 && __get_cpuid(1, &a, &b, &c, &d)) id.leaf1_ecx = c;
    if (id.max_leaf >= 7 && __get_cpuid_count(7, 0, &a, &b, &c, &d)) id.leaf7_ebx = b;
    if (has(id.leaf1_ecx, L1_OSXSAVE)) {
        __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
        id.xcr0 = a | (uint64_t)d << 32;
    }
    return kd__cpu_level_of(&id);
#elif defined __aarch64__
    return KD_ISA_NEON;   /* part of the architecture */
#else
    return KD_ISA_SCALAR;
#endif
}
