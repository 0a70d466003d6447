/* simd.h - the vector alphabet.  kd_f32x16 is sixteen floats on every instruction set, so a kernel is
 * written once and gives the same bits on all of them.  docs/design/simd.md says why.
 *
 * A kernel includes this file and nothing of an instruction set's own.  Rules:
 *   - names: v_ floats, vi_ 32-bit integers, vm_ masks, vd_ doubles; all functions are static inline.
 *   - v_max(a, b) is (a > b ? a : b) and v_min(a, b) is (a < b ? a : b) lane by lane: b when either is NaN,
 *     b when the two are zeros of either sign.  So v_max(limit, x) lets a NaN in x through.
 *   - v_fma rounds once, everywhere, the plain C level included; a*b+c is never contracted.
 *   - _n forms touch p[0..n) only, 0 <= n <= 16; loads set the other lanes to `fill`.
 *   - lanes fold by one tree, 16 -> 8 -> 4 -> 2 -> 1: the upper half onto the lower, op(lower, upper).
 *   - the sign and payload of a NaN are outside the promise of equal bits.
 * SPDX-License-Identifier: MIT */
#ifndef KD__SIMD_H
#define KD__SIMD_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined __FINITE_MATH_ONLY__ && __FINITE_MATH_ONLY__
#error "libkd's kernels need IEEE arithmetic: compile without -ffast-math and -ffinite-math-only"
#endif

/* KD_K(softmax_f32) is kd__softmax_f32_avx2 in the AVX2 compilation. */
#define KD_CAT3_(a, b, c) a##b##c
#define KD_CAT3(a, b, c)  KD_CAT3_(a, b, c)
#define KD_K(name)        KD_CAT3(kd__##name, _, KD_ISA)

#ifdef KD_ISA_scalar
#define V_FN static inline __attribute__((unused))
#else
#define V_FN static inline __attribute__((always_inline))
#endif
/* a function of a kernel that is called, not inlined */
#define V_CALL static __attribute__((noinline))
/* V_FAST(a loop over whole vectors) V_END(i, n) a step of n - i: the step alone, where speed does not count.
 * V_PART(n): load and store by n; where a mask asks for no other instructions, always but for a literal 16. */
#ifdef KD_ISA_scalar
#define V_FAST(...)
#define V_END(i, n)   for (; (i) < (n); (i) += 16)
#define V_LEFT(i, n)  part_of((n) - (i))
#else
#define V_FAST(...)   __VA_ARGS__
#define V_END(i, n)   if ((i) < (n))
#define V_LEFT(i, n)  ((n) - (i))
#endif
#if defined KD_ISA_scalar || defined KD_ISA_avx512
#define V_PART(n) !(__builtin_constant_p(n) && (n) == 16)
#else
#define V_PART(n) ((n) != 16)
#endif
/* before a loop over registers, of n rounds or less; in plain C there are none */
#if defined KD_ISA_scalar
#define V_UNROLL(n)
#elif defined __clang__
#define V_UNROLL(n) V_PRAGMA_(clang loop unroll(full))
#else
#define V_UNROLL(n) V_PRAGMA_(GCC unroll n)
#endif
#define V_PRAGMA_(text) _Pragma(#text)

#if defined KD_ISA_avx512
#include "simd/simd_avx512.h"
#elif defined KD_ISA_avx2
#include "simd/simd_avx2.h"
#elif defined KD_ISA_neon
#include "simd/simd_neon.h"
#elif defined KD_ISA_scalar
#include "simd/simd_scalar.h"
#else
#error "compile kernels through the Makefile: KD_ISA is not set"
#endif

/* What follows is the same text on every instruction set. */

V_FN kd_f32x16 v_zero(void) { return v_set1(0.0f); }
V_FN kd_f32x16 v_load_u8(const uint8_t *p) { return vi_cvt_f32(vi_load_u8(p)); }
V_FN kd_i32x16 vi_zero(void) { return vi_set1(0); }
V_FN void v_prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }

/* Sixteen or fewer, of `left`; a literal 16 costs nothing. */
V_FN size_t part_of(size_t left) { return left < 16 ? left : 16; }
V_FN kd_f32x16 load_part(const float *p, size_t n) { return V_PART(n) ? v_load_n(p, n, 0.0f) : v_load(p); }
V_FN void store_part(float *p, kd_f32x16 a, size_t n)
{
    if (V_PART(n)) v_store_n(p, a, n);
    else v_store(p, a);
}

/* x with the sign of s. */
V_FN kd_f32x16 v_copysign(kd_f32x16 x, kd_f32x16 s)
{
    kd_i32x16 sign = vi_set1(INT32_MIN);
    return v_from_bits(vi_or(vi_and(v_bits(s), sign), v_bits(v_abs(x))));
}

/* sum of lanes, widened to double first: the tree of v_sum. */
V_FN double v_sum_f64(kd_f32x16 a) { return vd_sum(vd_from_f32(a)); }

#include "simd/simd_math.h"
#endif
