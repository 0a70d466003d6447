/* simd_avx512.h - the alphabet on AVX-512 (F, BW, DQ, VL): one zmm register.
 * SPDX-License-Identifier: MIT */
#if !defined KD_AMALGAMATION && (!defined __AVX512F__ || !defined __AVX512DQ__ || !defined __AVX512BW__ || !defined __AVX512VL__)
#error "simd_avx512.h needs -mavx512f -mavx512bw -mavx512dq -mavx512vl"
#endif
#include <immintrin.h>

typedef __m512    kd_f32x16;
typedef __m512i   kd_i32x16;
typedef __mmask16 kd_m16;
typedef struct { __m512d lo, hi; } kd_f64x16;

V_FN kd_m16 vm_first(size_t n) { return (kd_m16)((1u << n) - 1u); }   /* lanes below n */
V_FN kd_m16 vm_and(kd_m16 a, kd_m16 b) { return (kd_m16)(a & b); }
V_FN kd_m16 vm_or(kd_m16 a, kd_m16 b) { return (kd_m16)(a | b); }
V_FN kd_m16 vm_not(kd_m16 a) { return (kd_m16)~a; }
V_FN int    vm_any(kd_m16 a) { return a != 0; }
V_FN int    vm_all(kd_m16 a) { return a == 0xffff; }

V_FN kd_f32x16 v_set1(float x) { return _mm512_set1_ps(x); }
V_FN kd_f32x16 v_load(const float *p) { return _mm512_loadu_ps(p); }
V_FN kd_f32x16 v_load_n(const float *p, size_t n, float fill)
{
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), vm_first(n), p);
}
V_FN void v_store(float *p, kd_f32x16 a) { _mm512_storeu_ps(p, a); }
V_FN void v_store_n(float *p, kd_f32x16 a, size_t n) { _mm512_mask_storeu_ps(p, vm_first(n), a); }
/* Past the cache; p on 64 bytes.  v_stream_end() once after the last, before anyone reads. */
V_FN void v_stream(float *p, kd_f32x16 a) { _mm512_stream_ps(p, a); }
V_FN void v_stream_end(void) { _mm_sfence(); }

V_FN kd_f32x16 v_add(kd_f32x16 a, kd_f32x16 b) { return _mm512_add_ps(a, b); }
V_FN kd_f32x16 v_sub(kd_f32x16 a, kd_f32x16 b) { return _mm512_sub_ps(a, b); }
V_FN kd_f32x16 v_mul(kd_f32x16 a, kd_f32x16 b) { return _mm512_mul_ps(a, b); }
V_FN kd_f32x16 v_div(kd_f32x16 a, kd_f32x16 b) { return _mm512_div_ps(a, b); }
V_FN kd_f32x16 v_fma(kd_f32x16 a, kd_f32x16 b, kd_f32x16 c) { return _mm512_fmadd_ps(a, b, c); }
V_FN kd_f32x16 v_fms(kd_f32x16 a, kd_f32x16 b, kd_f32x16 c) { return _mm512_fmsub_ps(a, b, c); }
V_FN kd_f32x16 v_fnma(kd_f32x16 a, kd_f32x16 b, kd_f32x16 c) { return _mm512_fnmadd_ps(a, b, c); }
V_FN kd_f32x16 v_max(kd_f32x16 a, kd_f32x16 b) { return _mm512_max_ps(a, b); }
V_FN kd_f32x16 v_min(kd_f32x16 a, kd_f32x16 b) { return _mm512_min_ps(a, b); }
V_FN kd_f32x16 v_sqrt(kd_f32x16 a) { return _mm512_sqrt_ps(a); }
V_FN kd_f32x16 v_abs(kd_f32x16 a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
V_FN kd_f32x16 v_neg(kd_f32x16 a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
V_FN kd_f32x16 v_round(kd_f32x16 a) { return _mm512_roundscale_ps(a, 0x08); }   /* to nearest, ties to even */
V_FN kd_f32x16 v_floor(kd_f32x16 a) { return _mm512_roundscale_ps(a, 0x09); }

/* a 2^n for whole n, rounded once where the result is subnormal. */
#define V_SCALE2 1
V_FN kd_f32x16 v_scale2(kd_f32x16 a, kd_f32x16 n) { return _mm512_scalef_ps(a, n); }

V_FN kd_m16 v_lt(kd_f32x16 a, kd_f32x16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
V_FN kd_m16 v_le(kd_f32x16 a, kd_f32x16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
V_FN kd_m16 v_gt(kd_f32x16 a, kd_f32x16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
V_FN kd_m16 v_eq(kd_f32x16 a, kd_f32x16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
V_FN kd_m16 v_nle(kd_f32x16 a, kd_f32x16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ); }   /* a > b, or one is NaN */
V_FN kd_m16 v_isnan(kd_f32x16 a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
V_FN kd_f32x16 v_select(kd_m16 m, kd_f32x16 a, kd_f32x16 b) { return _mm512_mask_blend_ps(m, b, a); }

V_FN kd_f32x16 v_keep(kd_m16 m, kd_f32x16 a) { return _mm512_maskz_mov_ps(m, a); }

V_FN kd_i32x16 vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
V_FN kd_i32x16 vi_iota(void) { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
V_FN kd_i32x16 vi_load(const int32_t *p) { return _mm512_loadu_si512(p); }
V_FN kd_i32x16 vi_load_n(const int32_t *p, size_t n, int32_t fill)
{
    return _mm512_mask_loadu_epi32(_mm512_set1_epi32(fill), vm_first(n), p);
}
V_FN kd_i32x16 vi_load_u8(const uint8_t *p)
{
    __m128i b;
    memcpy(&b, p, 16);
    return _mm512_cvtepu8_epi32(b);
}
V_FN void vi_store(int32_t *p, kd_i32x16 a) { _mm512_storeu_si512(p, a); }
V_FN void vi_store_n(int32_t *p, kd_i32x16 a, size_t n) { _mm512_mask_storeu_epi32(p, vm_first(n), a); }
V_FN kd_i32x16 vi_add(kd_i32x16 a, kd_i32x16 b) { return _mm512_add_epi32(a, b); }
V_FN kd_i32x16 vi_sub(kd_i32x16 a, kd_i32x16 b) { return _mm512_sub_epi32(a, b); }
V_FN kd_i32x16 vi_mul(kd_i32x16 a, kd_i32x16 b) { return _mm512_mullo_epi32(a, b); }
/* The high half of the product of two unsigned numbers. */
V_FN kd_i32x16 vi_mulhi_u(kd_i32x16 a, kd_i32x16 b)
{
    __m512i even = _mm512_mul_epu32(a, b), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32));
    return _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}
V_FN kd_i32x16 vi_and(kd_i32x16 a, kd_i32x16 b) { return _mm512_and_si512(a, b); }
V_FN kd_i32x16 vi_or(kd_i32x16 a, kd_i32x16 b) { return _mm512_or_si512(a, b); }
V_FN kd_i32x16 vi_xor(kd_i32x16 a, kd_i32x16 b) { return _mm512_xor_si512(a, b); }
V_FN kd_i32x16 vi_shl(kd_i32x16 a, int n) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n)); }
V_FN kd_i32x16 vi_shr(kd_i32x16 a, int n) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n)); }
V_FN kd_i32x16 vi_sar(kd_i32x16 a, int n) { return _mm512_sra_epi32(a, _mm_cvtsi32_si128(n)); }
V_FN kd_m16 vi_eq(kd_i32x16 a, kd_i32x16 b) { return _mm512_cmpeq_epi32_mask(a, b); }
V_FN kd_m16 vi_gt(kd_i32x16 a, kd_i32x16 b) { return _mm512_cmpgt_epi32_mask(a, b); }
V_FN kd_i32x16 vi_select(kd_m16 m, kd_i32x16 a, kd_i32x16 b) { return _mm512_mask_blend_epi32(m, b, a); }

V_FN kd_i32x16 v_cvt_i32(kd_f32x16 a) { return _mm512_cvtps_epi32(a); }   /* nearest even; in range only */
V_FN kd_f32x16 vi_cvt_f32(kd_i32x16 a) { return _mm512_cvtepi32_ps(a); }
V_FN kd_i32x16 v_bits(kd_f32x16 a) { return _mm512_castps_si512(a); }
V_FN kd_f32x16 v_from_bits(kd_i32x16 a) { return _mm512_castsi512_ps(a); }

#include "simd/simd_x86.h"
V_FN float v_sum(kd_f32x16 a)
{
    return x86_sum8(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));
}
V_FN float v_hmax(kd_f32x16 a)
{
    return x86_max8(_mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));
}
V_FN float v_hmin(kd_f32x16 a)
{
    return x86_min8(_mm256_min_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));
}

/* The tree over sixteen vectors at once: lane r of the result is what v_sum, v_hmax make of p[16 r .. 16 r + 16). */
#define AVX512_FOLD(name, op)                                                                                        \
    V_FN kd_f32x16 name(const float *p)                                                                              \
    {                                                                                                                \
        __m512 a[8], b[4], c[2];                                                                                     \
        V_UNROLL(8)                                                                                                  \
        for (int i = 0; i < 8; i++) {   /* rows i and i + 8 */                                                       \
            __m512 x = v_load(p + 16 * i), y = v_load(p + 16 * i + 128);                                             \
            a[i] = op(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));                           \
        }                                                                                                            \
        V_UNROLL(4)                                                                                                  \
        for (int i = 0; i < 4; i++)     /* quads: rows i, i + 8, i + 4, i + 12 */                                    \
            b[i] = op(_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd));       \
        V_UNROLL(2)                                                                                                  \
        for (int i = 0; i < 2; i++)                                                                                  \
            c[i] = op(_mm512_shuffle_ps(b[2 * i], b[2 * i + 1], 0x44), _mm512_shuffle_ps(b[2 * i], b[2 * i + 1], 0xee)); \
        __m512 r = op(_mm512_shuffle_ps(c[0], c[1], 0x88), _mm512_shuffle_ps(c[0], c[1], 0xdd));                     \
        return _mm512_shuffle_f32x4(r, r, 0xd8);                                                                     \
    }
AVX512_FOLD(v_sum_rows, _mm512_add_ps)
AVX512_FOLD(v_hmax_rows, _mm512_max_ps)
#undef AVX512_FOLD

V_FN kd_f64x16 vd_set1(double x) { return (kd_f64x16){ _mm512_set1_pd(x), _mm512_set1_pd(x) }; }
V_FN kd_f64x16 vd_load(const double *p) { return (kd_f64x16){ _mm512_loadu_pd(p), _mm512_loadu_pd(p + 8) }; }
V_FN void vd_store(double *p, kd_f64x16 a)
{
    _mm512_storeu_pd(p, a.lo);
    _mm512_storeu_pd(p + 8, a.hi);
}
V_FN kd_f64x16 vd_from_f32(kd_f32x16 a)
{
    return (kd_f64x16){ _mm512_cvtps_pd(_mm512_castps512_ps256(a)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)) };
}
V_FN kd_f32x16 vd_to_f32(kd_f64x16 a)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(a.lo)), _mm512_cvtpd_ps(a.hi), 1);
}
V_FN kd_f64x16 vd_add(kd_f64x16 a, kd_f64x16 b)
{
    return (kd_f64x16){ _mm512_add_pd(a.lo, b.lo), _mm512_add_pd(a.hi, b.hi) };
}
V_FN kd_f64x16 vd_mul(kd_f64x16 a, kd_f64x16 b)
{
    return (kd_f64x16){ _mm512_mul_pd(a.lo, b.lo), _mm512_mul_pd(a.hi, b.hi) };
}
/* sum + a * b; the product of two floats is exact in double, so this rounds once. */
V_FN kd_f64x16 vd_mac_f32(kd_f64x16 sum, kd_f32x16 a, kd_f32x16 b)
{
    kd_f64x16 x = vd_from_f32(a), y = vd_from_f32(b);
    return (kd_f64x16){ _mm512_fmadd_pd(x.lo, y.lo, sum.lo), _mm512_fmadd_pd(x.hi, y.hi, sum.hi) };
}
V_FN double vd_sum(kd_f64x16 a)
{
    __m512d s = _mm512_add_pd(a.lo, a.hi);
    return x86_sum4d(_mm256_add_pd(_mm512_castpd512_pd256(s), _mm512_extractf64x4_pd(s, 1)));
}

/* r[i] lane j <-> r[j] lane i. */
V_FN void v_transpose16(kd_f32x16 r[16])
{
    __m512 t[16], u[16];
    V_UNROLL(8)
    for (int i = 0; i < 8; i++) {
        t[2 * i]     = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    V_UNROLL(4)
    for (int i = 0; i < 16; i += 4) {
        u[i]     = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    /* u[4q + c] holds column c of every group of four, for rows 4q .. 4q + 3 */
    V_UNROLL(4)
    for (int c = 0; c < 4; c++) {
        __m512 a = _mm512_shuffle_f32x4(u[c], u[4 + c], 0x88), b = _mm512_shuffle_f32x4(u[c], u[4 + c], 0xdd);
        __m512 d = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0x88), e = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0xdd);
        r[c]      = _mm512_shuffle_f32x4(a, d, 0x88);
        r[8 + c]  = _mm512_shuffle_f32x4(a, d, 0xdd);
        r[4 + c]  = _mm512_shuffle_f32x4(b, e, 0x88);
        r[12 + c] = _mm512_shuffle_f32x4(b, e, 0xdd);
    }
}

/* Four rows' quads: lane 4 i + k is p[i * step + k], k < n <= 4; the others 0. */
V_FN kd_f32x16 v_load_quads(const float *p, size_t step, size_t n)
{
    if (n == 4) {   /* a load that broadcasts needs no shuffle */
        __m512 q = _mm512_castps128_ps512(_mm_loadu_ps(p));
        q = _mm512_mask_broadcast_f32x4(q, 0x00f0, _mm_loadu_ps(p + step));
        q = _mm512_mask_broadcast_f32x4(q, 0x0f00, _mm_loadu_ps(p + 2 * step));
        return _mm512_mask_broadcast_f32x4(q, 0xf000, _mm_loadu_ps(p + 3 * step));
    }
    __m512 a = _mm512_castps128_ps512(x86_load_n4(p, n));
    a = _mm512_insertf32x4(a, x86_load_n4(p + step, n), 1);
    a = _mm512_insertf32x4(a, x86_load_n4(p + 2 * step, n), 2);
    return _mm512_insertf32x4(a, x86_load_n4(p + 3 * step, n), 3);
}
V_FN void v_store_quads(float *p, size_t step, kd_f32x16 a, size_t n)
{
    x86_store_n4(p, _mm512_castps512_ps128(a), n);
    x86_store_n4(p + step, _mm512_extractf32x4_ps(a, 1), n);
    x86_store_n4(p + 2 * step, _mm512_extractf32x4_ps(a, 2), n);
    x86_store_n4(p + 3 * step, _mm512_extractf32x4_ps(a, 3), n);
}
/* r[i] lane 4 q + k <-> r[k] lane 4 q + i. */
V_FN void v_transpose_quads(kd_f32x16 r[4])
{
    __m512 a = _mm512_unpacklo_ps(r[0], r[1]), b = _mm512_unpackhi_ps(r[0], r[1]);
    __m512 c = _mm512_unpacklo_ps(r[2], r[3]), d = _mm512_unpackhi_ps(r[2], r[3]);
    r[0] = _mm512_shuffle_ps(a, c, 0x44);
    r[1] = _mm512_shuffle_ps(a, c, 0xee);
    r[2] = _mm512_shuffle_ps(b, d, 0x44);
    r[3] = _mm512_shuffle_ps(b, d, 0xee);
}
