/* kern_probe.h - every word of the vector alphabet as a function, for tests.  Compiled once per instruction set.
 * SPDX-License-Identifier: MIT */
#ifndef KERN_PROBE_H
#define KERN_PROBE_H
#include <stddef.h>
#include <stdint.h>

/* X(name, expression over the vectors x, y, z): sixteen floats. */
#define PROBE_FLOATS(X)                                                          \
    X(add, v_add(x, y))                                                          \
    X(sub, v_sub(x, y))                                                          \
    X(mul, v_mul(x, y))                                                          \
    X(div, v_div(x, y))                                                          \
    X(fma, v_fma(x, y, z))                                                       \
    X(fms, v_fms(x, y, z))                                                       \
    X(fnma, v_fnma(x, y, z))                                                     \
    X(max, v_max(x, y))                                                          \
    X(min, v_min(x, y))                                                          \
    X(sqrt, v_sqrt(x))                                                           \
    X(abs, v_abs(x))                                                             \
    X(neg, v_neg(x))                                                             \
    X(round, v_round(x))                                                         \
    X(floor, v_floor(x))                                                         \
    X(copysign, v_copysign(x, y))                                                \
    X(lt, v_select(v_lt(x, y), x, z))                                            \
    X(le, v_select(v_le(x, y), x, z))                                            \
    X(gt, v_select(v_gt(x, y), x, z))                                            \
    X(eq, v_select(v_eq(x, y), x, z))                                            \
    X(isnan, v_select(v_isnan(x), y, z))                                         \
    X(mask_and, v_select(vm_and(v_lt(x, y), v_lt(y, z)), x, z))                  \
    X(mask_or, v_select(vm_or(v_lt(x, y), v_lt(y, z)), x, z))                    \
    X(mask_not, v_select(vm_not(v_lt(x, y)), x, z))                              \
    X(rounds_through_double, vd_to_f32(vd_mul(vd_from_f32(x), vd_from_f32(y))))

/* The same over i, j: sixteen integers, n a number from 0 to 31. */
#define PROBE_INTS(X)                                                            \
    X(add, vi_add(i, j))                                                         \
    X(sub, vi_sub(i, j))                                                         \
    X(mul, vi_mul(i, j))                                                         \
    X(mulhi_u, vi_mulhi_u(i, j))                                                 \
    X(and, vi_and(i, j))                                                         \
    X(or, vi_or(i, j))                                                           \
    X(xor, vi_xor(i, j))                                                         \
    X(shl, vi_shl(i, n))                                                         \
    X(shr, vi_shr(i, n))                                                         \
    X(sar, vi_sar(i, n))                                                         \
    X(eq, vi_select(vi_eq(i, j), i, vi_set1(n)))                                 \
    X(gt, vi_select(vi_gt(i, j), i, vi_set1(n)))                                 \
    X(iota, vi_iota())                                                           \
    X(bits, v_bits(vi_cvt_f32(i)))

#define PROBE_ENUM_F(name, expression) PROBE_F_##name,
#define PROBE_ENUM_I(name, expression) PROBE_I_##name,
enum { PROBE_FLOATS(PROBE_ENUM_F) PROBE_F_COUNT };
enum { PROBE_INTS(PROBE_ENUM_I) PROBE_I_COUNT };
#undef PROBE_ENUM_F
#undef PROBE_ENUM_I

typedef struct kd__probe {
    void (*floats)(int what, float *out, const float *x, const float *y, const float *z);
    void (*ints)(int what, int32_t *out, const int32_t *i, const int32_t *j, int n);
    void (*to_ints)(int32_t *out, const float *x);
    /* out[0..2] sum, max, min of lanes; sums[0] their sum in double, [1] after a multiply-add, [2] of x + y in double */
    void (*folds)(float *out, double *sums, const float *x, const float *y);
    void (*masks)(int *out, const float *x, const float *y);   /* any and all of x < y */
    void (*load_store)(float *out, const float *in, size_t n, float fill);      /* v_load_n, then v_store */
    void (*store)(float *out, const float *in16, size_t n);                     /* v_store_n */
    void (*load_store_int)(int32_t *out, const int32_t *in, size_t n, int32_t fill);
    void (*store_int)(int32_t *out, const int32_t *in16, size_t n);
    void (*first)(float *out, size_t n);                        /* 1 in lanes below n, else 0 */
    void (*bytes)(float *out, const uint8_t *in);
    void (*transpose)(float *m);                                /* 16 x 16 in place */
    void (*stream)(float *out, const float *in);
} kd__probe;
extern const kd__probe kd__probe_scalar, kd__probe_avx2, kd__probe_avx512, kd__probe_neon;

#endif
