/* kern_limits.h - what one core can do, measured: the ceilings that checkkd --bench and make bench compare with.
 * SPDX-License-Identifier: MIT */
#ifndef KERN_LIMITS_H
#define KERN_LIMITS_H
#include <stddef.h>
#include <stdint.h>
#include "kd/base.h"

/* A second: operations; bytes read, and bytes written (with ordinary stores, which read the line first). */
typedef struct ck_limits { double flops, read, write; } ck_limits;
/* On instruction set KD_ISA_*, with an array of so many bytes. */
void ck_measure(uint32_t isa, size_t bytes, ck_limits *limits);

/* Loops over the alphabet, one set for each instruction set. */
typedef struct kd__limit_loops {
    float (*fma)(size_t rounds);                          /* 12 * 16 multiply-adds a round */
    float (*read)(const float *x, size_t n);              /* n a multiple of 64 */
    void  (*write)(float *y, size_t n);
    void  (*copy)(float *y, const float *x, size_t n);
    void  (*update)(float *y, const float *x, size_t n);  /* y += x */
    float (*exp)(const float *x, size_t n);               /* n a multiple of 64 */
    void  (*add)(float *y, const float *a, const float *b, size_t n, int stream);   /* stream: past the cache */
} kd__limit_loops;
extern const kd__limit_loops kd__limit_loops_scalar, kd__limit_loops_avx2, kd__limit_loops_avx512, kd__limit_loops_neon;

/* Those of an instruction set that the build has. */
static inline const kd__limit_loops *kd__limit_loops_of(uint32_t isa)
{
    (void)isa;
#ifdef KD_BUILD_neon
    if (isa == KD_ISA_NEON) return &kd__limit_loops_neon;
#endif
#ifdef KD_BUILD_avx2
    if (isa == KD_ISA_AVX2) return &kd__limit_loops_avx2;
#endif
#ifdef KD_BUILD_avx512
    if (isa == KD_ISA_AVX512) return &kd__limit_loops_avx512;
#endif
    return &kd__limit_loops_scalar;
}
#endif
