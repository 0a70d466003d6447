/* kern_test.h - what tests of kernels share: every instruction set in turn, bits compared, the FP state watched.
 * SPDX-License-Identifier: MIT */
#ifndef KERN_TEST_H
#define KERN_TEST_H
#include "cpu/cpu.h"
#include "kdtest.h"
#include "kernels/kernels.h"
#include <math.h>
#include <stdlib.h>

#define ISA_END (KD_ISA_AVX512 + 1)
/* Asked of the CPU once: CPUID is slow on a virtual machine.  KD_TEST_ISA: this one only. */
static inline const kd__kernels *kernels_of(uint32_t isa)
{
    static const kd__kernels *tables[ISA_END];
    static int known;
    if (!known) {
        const char *only = getenv("KD_TEST_ISA");
        for (uint32_t i = KD_ISA_SCALAR; i < ISA_END; i++)
            if (!only || strcmp(only, kdtest_isa_name(i)) == 0) tables[i] = kd__kernels_for(i);
        known = 1;
    }
    return tables[isa];
}
/* for each instruction set that this build and CPU have: `k` its kernels */
#define EACH_ISA(k)                                             \
    for (uint32_t isa = KD_ISA_SCALAR; isa < ISA_END; isa++)    \
        for (const kd__kernels *k = kernels_of(isa); k; k = NULL)

static inline float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
/* Equal bits; any NaN equals any NaN. */
static inline int same_float(float a, float b) { return bits_of(a) == bits_of(b) || (a != a && b != b); }

/* The first index where a and b differ, n if nowhere. */
static inline size_t first_difference(const float *a, const float *b, size_t n)
{
    size_t i = 0;
    while (i < n && same_float(a[i], b[i])) i++;
    return i;
}
/* Records a failure naming `what` unless the n floats have the same bits. */
static inline int check_same(const float *got, const float *want, size_t n, const char *what)
{
    size_t i = first_difference(got, want, n);
    return i == n || CHECK_MSG(0, "%s: element %zu of %zu is %a, want %a", what, i, n, (double)got[i], (double)want[i]);
}

/* Rounding, flushing and exception masks; not the sticky flags. */
static inline uint64_t fp_control(void)
{
#if defined __x86_64__
    return __builtin_ia32_stmxcsr() & 0xffc0u;
#elif defined __aarch64__
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
#else
    return 0;
#endif
}

/* Values where functions of one float go wrong. */
static const float special_floats[] = {
    0.0f, -0.0f, 1.0f, -1.0f, 0.5f, -0.5f, 1.5f, 2.5f, -2.5f, 0x1p-149f, -0x1p-149f, 0x1.fffffcp-127f, 0x1p-126f, -0x1p-126f,
    0x1p-24f, 0x1.000002p-24f, 0x1.fffffep-1f, 0x1.000002p0f, 8388607.5f, 8388608.0f, -8388607.5f, 4194304.5f, 16777216.0f,
    2147483520.0f, 88.72283f, 88.72284f, -87.33654f, -103.97208f, -103.9721f, -104.0f, 89.0f, 0x1.fffffep127f, -0x1.fffffep127f,
    INFINITY, -INFINITY, NAN, 3.0f, 1e10f, -1e10f, 1e-10f, -1e-10f, 1e30f, -1e30f, 0.625f, 0.92f, 3.93f, -3.93f, 9.01f, 17.0f, 20.0f,
};
#define SPECIAL_COUNT (sizeof special_floats / sizeof *special_floats)
#endif
