/* simd_scalar.h - the alphabet in plain C: sixteen floats in an array.
 * Same bits as the others on any CPU with IEEE single and double arithmetic: where there is no fused
 * multiply-add instruction, scalar_fma gives its result.
 * SPDX-License-Identifier: MIT */
#include <math.h>

typedef struct { float v[16]; } kd_f32x16;
typedef struct { int32_t v[16]; } kd_i32x16;
typedef struct { int32_t v[16]; } kd_m16;             /* a lane is -1 or 0 */
typedef struct { double v[16]; } kd_f64x16;
#define EACH(type, expr)                                \
    type r;                                             \
    for (int i = 0; i < 16; i++) r.v[i] = (expr);       \
    return r

/* a * b + c, rounded once.  The product of two floats is exact in double; the sum is rounded to odd (if it
 * was inexact and came out even, step to the odd neighbour on the side of the error), so that rounding it
 * again to float equals rounding the exact value: double has more than two bits to spare, for subnormal
 * results too.  No branch, no libm: it vectorises on plain SSE2, where fmaf is a slow call. */
V_FN float scalar_fma(float a, float b, float c)
{
#ifdef __FP_FAST_FMAF
    return fmaf(a, b, c);
#else
    double p = (double)a * (double)b, w = (double)c, s = p + w;
    double back = s - p, error = (p - (s - back)) + (w - back);   /* exact; NaN when s is not finite */
    uint64_t u, e;
    memcpy(&u, &s, sizeof u);
    memcpy(&e, &error, sizeof e);
    uint64_t inexact = (uint64_t)((error > 0) | (error < 0));
    uint64_t towards = 1 | (0 - ((u ^ e) >> 63));                 /* +1 away from zero, -1 towards it */
    u += towards & (0 - (inexact & ~u & 1));
    memcpy(&s, &u, sizeof s);
    return (float)s;
#endif
}
V_FN float scalar_round(float x)
{
    float a = fabsf(x), r = (a + 8388608.0f) - 8388608.0f;       /* 2^23: no room for a fraction */
    return a < 8388608.0f ? copysignf(r, x) : x;
}
V_FN float scalar_floor(float x)
{
    float r = scalar_round(x);
    return r > x ? r - 1.0f : r;
}
V_FN int32_t scalar_bits(float x)
{
    int32_t i;
    memcpy(&i, &x, sizeof i);
    return i;
}
V_FN float scalar_from_bits(int32_t i)
{
    float x;
    memcpy(&x, &i, sizeof x);
    return x;
}

V_FN kd_m16 vm_first(size_t n) { EACH(kd_m16, -(int32_t)((size_t)i < n)); }   /* lanes below n */
V_FN kd_m16 vm_and(kd_m16 a, kd_m16 b) { EACH(kd_m16, a.v[i] & b.v[i]); }
V_FN kd_m16 vm_or(kd_m16 a, kd_m16 b) { EACH(kd_m16, a.v[i] | b.v[i]); }
V_FN kd_m16 vm_not(kd_m16 a) { EACH(kd_m16, ~a.v[i]); }
V_FN int vm_any(kd_m16 a)
{
    int32_t any = 0;
    for (int i = 0; i < 16; i++) any |= a.v[i];
    return any != 0;
}
V_FN int vm_all(kd_m16 a)
{
    int32_t all = -1;
    for (int i = 0; i < 16; i++) all &= a.v[i];
    return all != 0;
}

V_FN kd_f32x16 v_set1(float x) { EACH(kd_f32x16, x); }
V_FN kd_f32x16 v_load(const float *p) { EACH(kd_f32x16, p[i]); }
V_FN kd_f32x16 v_load_n(const float *p, size_t n, float fill)
{
    kd_f32x16 r = v_set1(fill);
    for (size_t i = 0; i < n; i++) r.v[i] = p[i];
    return r;
}
V_FN void v_store(float *p, kd_f32x16 a) { memcpy(p, a.v, sizeof a.v); }
V_FN void v_store_n(float *p, kd_f32x16 a, size_t n)
{
    for (size_t i = 0; i < n; i++) p[i] = a.v[i];
}
/* Past the cache where the CPU can; p on 64 bytes.  v_stream_end() once after the last. */
V_FN void v_stream(float *p, kd_f32x16 a) { v_store(p, a); }
V_FN void v_stream_end(void) { }

V_FN kd_f32x16 v_add(kd_f32x16 a, kd_f32x16 b) { EACH(kd_f32x16, a.v[i] + b.v[i]); }
V_FN kd_f32x16 v_sub(kd_f32x16 a, kd_f32x16 b) { EACH(kd_f32x16, a.v[i] - b.v[i]); }
V_FN kd_f32x16 v_mul(kd_f32x16 a, kd_f32x16 b) { EACH(kd_f32x16, a.v[i] * b.v[i]); }
V_FN kd_f32x16 v_div(kd_f32x16 a, kd_f32x16 b) { EACH(kd_f32x16, a.v[i] / b.v[i]); }
V_FN kd_f32x16 v_fma(kd_f32x16 a, kd_f32x16 b, kd_f32x16 c) { EACH(kd_f32x16, scalar_fma(a.v[i], b.v[i], c.v[i])); }
V_FN kd_f32x16 v_fms(kd_f32x16 a, kd_f32x16 b, kd_f32x16 c) { EACH(kd_f32x16, scalar_fma(a.v[i], b.v[i], -c.v[i])); }
V_FN kd_f32x16 v_fnma(kd_f32x16 a, kd_f32x16 b, kd_f32x16 c) { EACH(kd_f32x16, scalar_fma(-a.v[i], b.v[i], c.v[i])); }
V_FN kd_f32x16 v_max(kd_f32x16 a, kd_f32x16 b) { EACH(kd_f32x16, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
V_FN kd_f32x16 v_min(kd_f32x16 a, kd_f32x16 b) { EACH(kd_f32x16, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
V_FN kd_f32x16 v_sqrt(kd_f32x16 a) { EACH(kd_f32x16, sqrtf(a.v[i])); }
V_FN kd_f32x16 v_abs(kd_f32x16 a) { EACH(kd_f32x16, fabsf(a.v[i])); }
V_FN kd_f32x16 v_neg(kd_f32x16 a) { EACH(kd_f32x16, -a.v[i]); }
V_FN kd_f32x16 v_round(kd_f32x16 a) { EACH(kd_f32x16, scalar_round(a.v[i])); }   /* to nearest, ties to even */
V_FN kd_f32x16 v_floor(kd_f32x16 a) { EACH(kd_f32x16, scalar_floor(a.v[i])); }

V_FN kd_m16 v_lt(kd_f32x16 a, kd_f32x16 b) { EACH(kd_m16, -(a.v[i] < b.v[i])); }
V_FN kd_m16 v_le(kd_f32x16 a, kd_f32x16 b) { EACH(kd_m16, -(a.v[i] <= b.v[i])); }
V_FN kd_m16 v_gt(kd_f32x16 a, kd_f32x16 b) { EACH(kd_m16, -(a.v[i] > b.v[i])); }
V_FN kd_m16 v_eq(kd_f32x16 a, kd_f32x16 b) { EACH(kd_m16, -(a.v[i] == b.v[i])); }
V_FN kd_m16 v_nle(kd_f32x16 a, kd_f32x16 b) { EACH(kd_m16, -!(a.v[i] <= b.v[i])); }   /* a > b, or one is NaN */
V_FN kd_m16 v_isnan(kd_f32x16 a) { EACH(kd_m16, -(a.v[i] != a.v[i])); }
V_FN kd_f32x16 v_select(kd_m16 m, kd_f32x16 a, kd_f32x16 b) { EACH(kd_f32x16, m.v[i] ? a.v[i] : b.v[i]); }
V_FN kd_f32x16 v_keep(kd_m16 m, kd_f32x16 a) { EACH(kd_f32x16, m.v[i] ? a.v[i] : 0.0f); }

/* Integers wrap, as on every CPU: the sums are done without sign. */
V_FN kd_i32x16 vi_set1(int32_t x) { EACH(kd_i32x16, x); }
V_FN kd_i32x16 vi_iota(void) { EACH(kd_i32x16, i); }
V_FN kd_i32x16 vi_load(const int32_t *p) { EACH(kd_i32x16, p[i]); }
V_FN kd_i32x16 vi_load_n(const int32_t *p, size_t n, int32_t fill)
{
    kd_i32x16 r = vi_set1(fill);
    for (size_t i = 0; i < n; i++) r.v[i] = p[i];
    return r;
}
V_FN kd_i32x16 vi_load_u8(const uint8_t *p) { EACH(kd_i32x16, p[i]); }
V_FN void vi_store(int32_t *p, kd_i32x16 a) { memcpy(p, a.v, sizeof a.v); }
V_FN void vi_store_n(int32_t *p, kd_i32x16 a, size_t n)
{
    for (size_t i = 0; i < n; i++) p[i] = a.v[i];
}
V_FN kd_i32x16 vi_add(kd_i32x16 a, kd_i32x16 b) { EACH(kd_i32x16, (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i])); }
V_FN kd_i32x16 vi_sub(kd_i32x16 a, kd_i32x16 b) { EACH(kd_i32x16, (int32_t)((uint32_t)a.v[i] - (uint32_t)b.v[i])); }
V_FN kd_i32x16 vi_mul(kd_i32x16 a, kd_i32x16 b) { EACH(kd_i32x16, (int32_t)((uint32_t)a.v[i] * (uint32_t)b.v[i])); }
/* The high half of the product of two unsigned numbers. */
V_FN kd_i32x16 vi_mulhi_u(kd_i32x16 a, kd_i32x16 b)
{
    EACH(kd_i32x16, (int32_t)((uint64_t)(uint32_t)a.v[i] * (uint32_t)b.v[i] >> 32));
}
V_FN kd_i32x16 vi_and(kd_i32x16 a, kd_i32x16 b) { EACH(kd_i32x16, a.v[i] & b.v[i]); }
V_FN kd_i32x16 vi_or(kd_i32x16 a, kd_i32x16 b) { EACH(kd_i32x16, a.v[i] | b.v[i]); }
V_FN kd_i32x16 vi_xor(kd_i32x16 a, kd_i32x16 b) { EACH(kd_i32x16, a.v[i] ^ b.v[i]); }
V_FN kd_i32x16 vi_shl(kd_i32x16 a, int n) { EACH(kd_i32x16, (int32_t)((uint32_t)a.v[i] << n)); }
V_FN kd_i32x16 vi_shr(kd_i32x16 a, int n) { EACH(kd_i32x16, (int32_t)((uint32_t)a.v[i] >> n)); }
V_FN kd_i32x16 vi_sar(kd_i32x16 a, int n) { EACH(kd_i32x16, a.v[i] >> n); }
V_FN kd_m16 vi_eq(kd_i32x16 a, kd_i32x16 b) { EACH(kd_m16, -(a.v[i] == b.v[i])); }
V_FN kd_m16 vi_gt(kd_i32x16 a, kd_i32x16 b) { EACH(kd_m16, -(a.v[i] > b.v[i])); }
V_FN kd_i32x16 vi_select(kd_m16 m, kd_i32x16 a, kd_i32x16 b) { EACH(kd_i32x16, m.v[i] ? a.v[i] : b.v[i]); }

/* nearest even; in range only (other lanes give some integer) */
V_FN kd_i32x16 v_cvt_i32(kd_f32x16 a)
{
    EACH(kd_i32x16, (int32_t)(fabsf(a.v[i]) < 2147483648.0f ? scalar_round(a.v[i]) : 0.0f));
}
V_FN kd_f32x16 vi_cvt_f32(kd_i32x16 a) { EACH(kd_f32x16, (float)a.v[i]); }
V_FN kd_i32x16 v_bits(kd_f32x16 a) { EACH(kd_i32x16, scalar_bits(a.v[i])); }
V_FN kd_f32x16 v_from_bits(kd_i32x16 a) { EACH(kd_f32x16, scalar_from_bits(a.v[i])); }

#define FOLD(expr)                                      \
    for (int w = 8; w; w >>= 1)                         \
        for (int i = 0; i < w; i++) a.v[i] = (expr);    \
    return a.v[0]
V_FN float v_sum(kd_f32x16 a) { FOLD(a.v[i] + a.v[i + w]); }
V_FN float v_hmax(kd_f32x16 a) { FOLD(a.v[i] > a.v[i + w] ? a.v[i] : a.v[i + w]); }
V_FN float v_hmin(kd_f32x16 a) { FOLD(a.v[i] < a.v[i + w] ? a.v[i] : a.v[i + w]); }
/* The tree over sixteen vectors at once: lane r of the result is what v_sum, v_hmax make of p[16 r .. 16 r + 16). */
V_FN kd_f32x16 v_sum_rows(const float *p) { EACH(kd_f32x16, v_sum(v_load(p + 16 * i))); }
V_FN kd_f32x16 v_hmax_rows(const float *p) { EACH(kd_f32x16, v_hmax(v_load(p + 16 * i))); }

V_FN kd_f64x16 vd_set1(double x) { EACH(kd_f64x16, x); }
V_FN kd_f64x16 vd_load(const double *p) { EACH(kd_f64x16, p[i]); }
V_FN void vd_store(double *p, kd_f64x16 a) { memcpy(p, a.v, sizeof a.v); }
V_FN kd_f64x16 vd_from_f32(kd_f32x16 a) { EACH(kd_f64x16, (double)a.v[i]); }
V_FN kd_f32x16 vd_to_f32(kd_f64x16 a) { EACH(kd_f32x16, (float)a.v[i]); }
V_FN kd_f64x16 vd_add(kd_f64x16 a, kd_f64x16 b) { EACH(kd_f64x16, a.v[i] + b.v[i]); }
V_FN kd_f64x16 vd_mul(kd_f64x16 a, kd_f64x16 b) { EACH(kd_f64x16, a.v[i] * b.v[i]); }
/* sum + a * b; the product of two floats is exact in double, so this rounds once. */
V_FN kd_f64x16 vd_mac_f32(kd_f64x16 sum, kd_f32x16 a, kd_f32x16 b)
{
    EACH(kd_f64x16, sum.v[i] + (double)a.v[i] * (double)b.v[i]);
}
V_FN double vd_sum(kd_f64x16 a) { FOLD(a.v[i] + a.v[i + w]); }
#undef FOLD

/* r[i] lane j <-> r[j] lane i. */
V_FN void v_transpose16(kd_f32x16 r[16])
{
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < i; j++) {
            float t = r[i].v[j];
            r[i].v[j] = r[j].v[i];
            r[j].v[i] = t;
        }
}
/* Four rows' quads: lane 4 i + k is p[i * step + k], k < n <= 4; the others 0. */
V_FN kd_f32x16 v_load_quads(const float *p, size_t step, size_t n)
{
    EACH(kd_f32x16, (size_t)i % 4 < n ? p[(size_t)i / 4 * step + (size_t)i % 4] : 0.0f);
}
V_FN void v_store_quads(float *p, size_t step, kd_f32x16 a, size_t n)
{
    for (size_t i = 0; i < 16; i++)
        if (i % 4 < n) p[i / 4 * step + i % 4] = a.v[i];
}
/* r[i] lane 4 q + k <-> r[k] lane 4 q + i. */
V_FN void v_transpose_quads(kd_f32x16 r[4])
{
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < i; k++)
            for (int q = 0; q < 16; q += 4) {
                float t = r[i].v[q + k];
                r[i].v[q + k] = r[k].v[q + i];
                r[k].v[q + i] = t;
            }
}
#undef EACH
