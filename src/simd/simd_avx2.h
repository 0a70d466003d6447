/* simd_avx2.h - the alphabet on AVX2 with FMA: two ymm registers, lanes 0-7 and 8-15.
 * SPDX-License-Identifier: MIT */
#if !defined KD_AMALGAMATION && (!defined __AVX2__ || !defined __FMA__)
#error "simd_avx2.h needs -mavx2 -mfma"
#endif
#include <immintrin.h>

typedef struct { __m256 lo, hi; } kd_f32x16;
typedef struct { __m256i lo, hi; } kd_i32x16;
typedef struct { __m256 lo, hi; } kd_m16;             /* a lane is all ones or zero */
typedef struct { __m256d q[4]; } kd_f64x16;           /* lanes 0-3, 4-7, 8-11, 12-15 */
#define F2(l, h) ((kd_f32x16){ (l), (h) })
#define I2(l, h) ((kd_i32x16){ (l), (h) })
#define M2(l, h) ((kd_m16){ (l), (h) })

V_FN __m256i avx2_first_lo(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
V_FN __m256i avx2_first_hi(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15));
}
V_FN kd_m16 vm_first(size_t n)   /* lanes below n */
{
    return M2(_mm256_castsi256_ps(avx2_first_lo(n)), _mm256_castsi256_ps(avx2_first_hi(n)));
}
V_FN kd_m16 vm_and(kd_m16 a, kd_m16 b) { return M2(_mm256_and_ps(a.lo, b.lo), _mm256_and_ps(a.hi, b.hi)); }
V_FN kd_m16 vm_or(kd_m16 a, kd_m16 b) { return M2(_mm256_or_ps(a.lo, b.lo), _mm256_or_ps(a.hi, b.hi)); }
V_FN kd_m16 vm_not(kd_m16 a)
{
    __m256 ones = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    return M2(_mm256_xor_ps(a.lo, ones), _mm256_xor_ps(a.hi, ones));
}
V_FN int vm_any(kd_m16 a) { return _mm256_movemask_ps(_mm256_or_ps(a.lo, a.hi)) != 0; }
V_FN int vm_all(kd_m16 a) { return _mm256_movemask_ps(_mm256_and_ps(a.lo, a.hi)) == 0xff; }

V_FN kd_f32x16 v_set1(float x) { return F2(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
V_FN kd_f32x16 v_load(const float *p) { return F2(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
V_FN kd_f32x16 v_load_n(const float *p, size_t n, float fill)
{
    __m256i lo = avx2_first_lo(n), hi = avx2_first_hi(n);
    __m256 a = _mm256_maskload_ps(p, lo), b = _mm256_setzero_ps(), f = _mm256_set1_ps(fill);
    if (n > 8) b = _mm256_maskload_ps(p + 8, hi);
    if (__builtin_constant_p(fill) && fill == 0.0f && !__builtin_signbit(fill)) return F2(a, b);   /* as the instruction leaves them */
    return F2(_mm256_blendv_ps(f, a, _mm256_castsi256_ps(lo)), _mm256_blendv_ps(f, b, _mm256_castsi256_ps(hi)));
}
V_FN void v_store(float *p, kd_f32x16 a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
V_FN void v_store_n(float *p, kd_f32x16 a, size_t n)
{
    _mm256_maskstore_ps(p, avx2_first_lo(n), a.lo);
    if (n > 8) _mm256_maskstore_ps(p + 8, avx2_first_hi(n), a.hi);
}
/* Past the cache; p on 64 bytes.  v_stream_end() once after the last, before anyone reads. */
V_FN void v_stream(float *p, kd_f32x16 a)
{
    _mm256_stream_ps(p, a.lo);
    _mm256_stream_ps(p + 8, a.hi);
}
V_FN void v_stream_end(void) { _mm_sfence(); }

V_FN kd_f32x16 v_add(kd_f32x16 a, kd_f32x16 b) { return F2(_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)); }
V_FN kd_f32x16 v_sub(kd_f32x16 a, kd_f32x16 b) { return F2(_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)); }
V_FN kd_f32x16 v_mul(kd_f32x16 a, kd_f32x16 b) { return F2(_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)); }
V_FN kd_f32x16 v_div(kd_f32x16 a, kd_f32x16 b) { return F2(_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)); }
V_FN kd_f32x16 v_fma(kd_f32x16 a, kd_f32x16 b, kd_f32x16 c)
{
    return F2(_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}
V_FN kd_f32x16 v_fms(kd_f32x16 a, kd_f32x16 b, kd_f32x16 c)
{
    return F2(_mm256_fmsub_ps(a.lo, b.lo, c.lo), _mm256_fmsub_ps(a.hi, b.hi, c.hi));
}
V_FN kd_f32x16 v_fnma(kd_f32x16 a, kd_f32x16 b, kd_f32x16 c)
{
    return F2(_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi));
}
V_FN kd_f32x16 v_max(kd_f32x16 a, kd_f32x16 b) { return F2(_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)); }
V_FN kd_f32x16 v_min(kd_f32x16 a, kd_f32x16 b) { return F2(_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)); }
V_FN kd_f32x16 v_sqrt(kd_f32x16 a) { return F2(_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)); }
V_FN kd_f32x16 v_abs(kd_f32x16 a)
{
    __m256 s = _mm256_set1_ps(-0.0f);
    return F2(_mm256_andnot_ps(s, a.lo), _mm256_andnot_ps(s, a.hi));
}
V_FN kd_f32x16 v_neg(kd_f32x16 a)
{
    __m256 s = _mm256_set1_ps(-0.0f);
    return F2(_mm256_xor_ps(a.lo, s), _mm256_xor_ps(a.hi, s));
}
/* to nearest, ties to even */
V_FN kd_f32x16 v_round(kd_f32x16 a) { return F2(_mm256_round_ps(a.lo, 0x08), _mm256_round_ps(a.hi, 0x08)); }
V_FN kd_f32x16 v_floor(kd_f32x16 a) { return F2(_mm256_round_ps(a.lo, 0x09), _mm256_round_ps(a.hi, 0x09)); }

#define AVX2_COMPARE(name, how)                                                                 \
    V_FN kd_m16 name(kd_f32x16 a, kd_f32x16 b)                                                  \
    {                                                                                           \
        return M2(_mm256_cmp_ps(a.lo, b.lo, how), _mm256_cmp_ps(a.hi, b.hi, how));              \
    }
AVX2_COMPARE(v_lt, _CMP_LT_OQ)
AVX2_COMPARE(v_le, _CMP_LE_OQ)
AVX2_COMPARE(v_gt, _CMP_GT_OQ)
AVX2_COMPARE(v_eq, _CMP_EQ_OQ)
AVX2_COMPARE(v_nle, _CMP_NLE_UQ)   /* a > b, or one is NaN */
#undef AVX2_COMPARE
V_FN kd_m16 v_isnan(kd_f32x16 a)
{
    return M2(_mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q), _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q));
}
V_FN kd_f32x16 v_select(kd_m16 m, kd_f32x16 a, kd_f32x16 b)
{
    return F2(_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi));
}
V_FN kd_f32x16 v_keep(kd_m16 m, kd_f32x16 a) { return F2(_mm256_and_ps(m.lo, a.lo), _mm256_and_ps(m.hi, a.hi)); }

V_FN kd_i32x16 vi_set1(int32_t x) { return I2(_mm256_set1_epi32(x), _mm256_set1_epi32(x)); }
V_FN kd_i32x16 vi_iota(void)
{
    return I2(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15));
}
V_FN kd_i32x16 vi_load(const int32_t *p)
{
    return I2(_mm256_loadu_si256((const __m256i *)(const void *)p), _mm256_loadu_si256((const __m256i *)(const void *)(p + 8)));
}
V_FN kd_i32x16 vi_load_n(const int32_t *p, size_t n, int32_t fill)
{
    __m256i lo = avx2_first_lo(n), hi = avx2_first_hi(n), f = _mm256_set1_epi32(fill);
    __m256i a = _mm256_blendv_epi8(f, _mm256_maskload_epi32(p, lo), lo), b = f;
    if (n > 8) b = _mm256_blendv_epi8(f, _mm256_maskload_epi32(p + 8, hi), hi);
    return I2(a, b);
}
V_FN kd_i32x16 vi_load_u8(const uint8_t *p)
{
    __m128i b;
    memcpy(&b, p, 16);
    return I2(_mm256_cvtepu8_epi32(b), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(b, b)));
}
V_FN void vi_store(int32_t *p, kd_i32x16 a)
{
    _mm256_storeu_si256((__m256i *)(void *)p, a.lo);
    _mm256_storeu_si256((__m256i *)(void *)(p + 8), a.hi);
}
V_FN void vi_store_n(int32_t *p, kd_i32x16 a, size_t n)
{
    _mm256_maskstore_epi32(p, avx2_first_lo(n), a.lo);
    if (n > 8) _mm256_maskstore_epi32(p + 8, avx2_first_hi(n), a.hi);
}
V_FN kd_i32x16 vi_add(kd_i32x16 a, kd_i32x16 b) { return I2(_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)); }
V_FN kd_i32x16 vi_sub(kd_i32x16 a, kd_i32x16 b) { return I2(_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)); }
V_FN kd_i32x16 vi_mul(kd_i32x16 a, kd_i32x16 b) { return I2(_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)); }
/* The high half of the product of two unsigned numbers. */
V_FN __m256i avx2_mulhi_u(__m256i a, __m256i b)
{
    __m256i even = _mm256_mul_epu32(a, b), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32));
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}
V_FN kd_i32x16 vi_mulhi_u(kd_i32x16 a, kd_i32x16 b) { return I2(avx2_mulhi_u(a.lo, b.lo), avx2_mulhi_u(a.hi, b.hi)); }
V_FN kd_i32x16 vi_and(kd_i32x16 a, kd_i32x16 b) { return I2(_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)); }
V_FN kd_i32x16 vi_or(kd_i32x16 a, kd_i32x16 b) { return I2(_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)); }
V_FN kd_i32x16 vi_xor(kd_i32x16 a, kd_i32x16 b) { return I2(_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)); }
V_FN kd_i32x16 vi_shl(kd_i32x16 a, int n)
{
    __m128i c = _mm_cvtsi32_si128(n);
    return I2(_mm256_sll_epi32(a.lo, c), _mm256_sll_epi32(a.hi, c));
}
V_FN kd_i32x16 vi_shr(kd_i32x16 a, int n)
{
    __m128i c = _mm_cvtsi32_si128(n);
    return I2(_mm256_srl_epi32(a.lo, c), _mm256_srl_epi32(a.hi, c));
}
V_FN kd_i32x16 vi_sar(kd_i32x16 a, int n)
{
    __m128i c = _mm_cvtsi32_si128(n);
    return I2(_mm256_sra_epi32(a.lo, c), _mm256_sra_epi32(a.hi, c));
}
V_FN kd_m16 vi_eq(kd_i32x16 a, kd_i32x16 b)
{
    return M2(_mm256_castsi256_ps(_mm256_cmpeq_epi32(a.lo, b.lo)), _mm256_castsi256_ps(_mm256_cmpeq_epi32(a.hi, b.hi)));
}
V_FN kd_m16 vi_gt(kd_i32x16 a, kd_i32x16 b)
{
    return M2(_mm256_castsi256_ps(_mm256_cmpgt_epi32(a.lo, b.lo)), _mm256_castsi256_ps(_mm256_cmpgt_epi32(a.hi, b.hi)));
}
V_FN kd_i32x16 vi_select(kd_m16 m, kd_i32x16 a, kd_i32x16 b)
{
    return I2(_mm256_blendv_epi8(b.lo, a.lo, _mm256_castps_si256(m.lo)),
              _mm256_blendv_epi8(b.hi, a.hi, _mm256_castps_si256(m.hi)));
}

/* nearest even; in range only */
V_FN kd_i32x16 v_cvt_i32(kd_f32x16 a) { return I2(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)); }
V_FN kd_f32x16 vi_cvt_f32(kd_i32x16 a) { return F2(_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)); }
V_FN kd_i32x16 v_bits(kd_f32x16 a) { return I2(_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)); }
V_FN kd_f32x16 v_from_bits(kd_i32x16 a) { return F2(_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)); }

#include "simd/simd_x86.h"
V_FN float v_sum(kd_f32x16 a) { return x86_sum8(_mm256_add_ps(a.lo, a.hi)); }
V_FN float v_hmax(kd_f32x16 a) { return x86_max8(_mm256_max_ps(a.lo, a.hi)); }
V_FN float v_hmin(kd_f32x16 a) { return x86_min8(_mm256_min_ps(a.lo, a.hi)); }
/* The tree over sixteen vectors at once: lane r of the result is what v_sum, v_hmax make of p[16 r .. 16 r + 16). */
#define AVX2_FOLD(name, op)                                                                                        \
    V_FN __m256 avx2_##name(const float *p)   /* eight rows */                                                     \
    {                                                                                                              \
        __m256 a[4], b[2];                                                                                         \
        V_UNROLL(4)                                                                                                \
        for (int i = 0; i < 4; i++) {             /* rows i and i + 4 */                                           \
            __m256 x = op(_mm256_loadu_ps(p + 16 * i), _mm256_loadu_ps(p + 16 * i + 8));                           \
            __m256 y = op(_mm256_loadu_ps(p + 16 * i + 64), _mm256_loadu_ps(p + 16 * i + 72));                     \
            a[i] = op(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));                     \
        }                                                                                                          \
        V_UNROLL(2)                                                                                                \
        for (int i = 0; i < 2; i++)                                                                                \
            b[i] = op(_mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0x44), _mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0xee)); \
        return op(_mm256_shuffle_ps(b[0], b[1], 0x88), _mm256_shuffle_ps(b[0], b[1], 0xdd));                       \
    }                                                                                                              \
    V_FN kd_f32x16 name(const float *p) { return F2(avx2_##name(p), avx2_##name(p + 128)); }
AVX2_FOLD(v_sum_rows, _mm256_add_ps)
AVX2_FOLD(v_hmax_rows, _mm256_max_ps)
#undef AVX2_FOLD

V_FN kd_f64x16 vd_set1(double x)
{
    __m256d d = _mm256_set1_pd(x);
    return (kd_f64x16){ { d, d, d, d } };
}
V_FN kd_f64x16 vd_load(const double *p)
{
    return (kd_f64x16){ { _mm256_loadu_pd(p), _mm256_loadu_pd(p + 4), _mm256_loadu_pd(p + 8), _mm256_loadu_pd(p + 12) } };
}
V_FN void vd_store(double *p, kd_f64x16 a)
{
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) _mm256_storeu_pd(p + 4 * i, a.q[i]);
}
V_FN kd_f64x16 vd_from_f32(kd_f32x16 a)
{
    return (kd_f64x16){ { _mm256_cvtps_pd(_mm256_castps256_ps128(a.lo)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.lo, 1)),
                          _mm256_cvtps_pd(_mm256_castps256_ps128(a.hi)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.hi, 1)) } };
}
V_FN kd_f32x16 vd_to_f32(kd_f64x16 a)
{
    return F2(_mm256_set_m128(_mm256_cvtpd_ps(a.q[1]), _mm256_cvtpd_ps(a.q[0])),
              _mm256_set_m128(_mm256_cvtpd_ps(a.q[3]), _mm256_cvtpd_ps(a.q[2])));
}
V_FN kd_f64x16 vd_add(kd_f64x16 a, kd_f64x16 b)
{
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) a.q[i] = _mm256_add_pd(a.q[i], b.q[i]);
    return a;
}
V_FN kd_f64x16 vd_mul(kd_f64x16 a, kd_f64x16 b)
{
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) a.q[i] = _mm256_mul_pd(a.q[i], b.q[i]);
    return a;
}
/* sum + a * b; the product of two floats is exact in double, so this rounds once. */
V_FN kd_f64x16 vd_mac_f32(kd_f64x16 sum, kd_f32x16 a, kd_f32x16 b)
{
    kd_f64x16 x = vd_from_f32(a), y = vd_from_f32(b);
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) sum.q[i] = _mm256_fmadd_pd(x.q[i], y.q[i], sum.q[i]);
    return sum;
}
V_FN double vd_sum(kd_f64x16 a)
{
    return x86_sum4d(_mm256_add_pd(_mm256_add_pd(a.q[0], a.q[2]), _mm256_add_pd(a.q[1], a.q[3])));
}

V_FN void avx2_transpose8(__m256 r[8])
{
    __m256 t[8], u[8];
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) {
        t[2 * i]     = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    V_UNROLL(2)
    for (int i = 0; i < 8; i += 4) {
        u[i]     = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) {
        r[i]     = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}
/* r[i] lane j <-> r[j] lane i. */
V_FN void v_transpose16(kd_f32x16 r[16])
{
    __m256 a[8], b[8], c[8], d[8];   /* the four quarters: rows 0-7 and 8-15, columns 0-7 and 8-15 */
    V_UNROLL(8)
    for (int i = 0; i < 8; i++) {
        a[i] = r[i].lo;
        b[i] = r[i].hi;
        c[i] = r[8 + i].lo;
        d[i] = r[8 + i].hi;
    }
    avx2_transpose8(a);
    avx2_transpose8(b);
    avx2_transpose8(c);
    avx2_transpose8(d);
    V_UNROLL(8)
    for (int i = 0; i < 8; i++) {
        r[i]     = F2(a[i], c[i]);
        r[8 + i] = F2(b[i], d[i]);
    }
}
/* Four rows' quads: lane 4 i + k is p[i * step + k], k < n <= 4; the others 0. */
V_FN kd_f32x16 v_load_quads(const float *p, size_t step, size_t n)
{
    return F2(_mm256_insertf128_ps(_mm256_castps128_ps256(x86_load_n4(p, n)), x86_load_n4(p + step, n), 1),
              _mm256_insertf128_ps(_mm256_castps128_ps256(x86_load_n4(p + 2 * step, n)), x86_load_n4(p + 3 * step, n), 1));
}
V_FN void v_store_quads(float *p, size_t step, kd_f32x16 a, size_t n)
{
    x86_store_n4(p, _mm256_castps256_ps128(a.lo), n);
    x86_store_n4(p + step, _mm256_extractf128_ps(a.lo, 1), n);
    x86_store_n4(p + 2 * step, _mm256_castps256_ps128(a.hi), n);
    x86_store_n4(p + 3 * step, _mm256_extractf128_ps(a.hi, 1), n);
}
V_FN void avx2_transpose_quads(__m256 r[4])
{
    __m256 a = _mm256_unpacklo_ps(r[0], r[1]), b = _mm256_unpackhi_ps(r[0], r[1]);
    __m256 c = _mm256_unpacklo_ps(r[2], r[3]), d = _mm256_unpackhi_ps(r[2], r[3]);
    r[0] = _mm256_shuffle_ps(a, c, 0x44);
    r[1] = _mm256_shuffle_ps(a, c, 0xee);
    r[2] = _mm256_shuffle_ps(b, d, 0x44);
    r[3] = _mm256_shuffle_ps(b, d, 0xee);
}
/* r[i] lane 4 q + k <-> r[k] lane 4 q + i. */
V_FN void v_transpose_quads(kd_f32x16 r[4])
{
    __m256 lo[4] = { r[0].lo, r[1].lo, r[2].lo, r[3].lo }, hi[4] = { r[0].hi, r[1].hi, r[2].hi, r[3].hi };
    avx2_transpose_quads(lo);
    avx2_transpose_quads(hi);
    V_UNROLL(4)
    for (int i = 0; i < 4; i++) r[i] = F2(lo[i], hi[i]);
}
#undef F2
#undef I2
#undef M2
