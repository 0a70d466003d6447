/* kern_convert.c - items of a data set to floats: scaled and normalised per channel, and mixed in pairs.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "simd/simd.h"

#ifndef KD_ISA_avx512   /* AVX2 serves: kernels.def */

/* Sixteen (or n) items from either source. */
V_FN kd_f32x16 get_u8(const uint8_t *p, size_t n)
{
    if (n == 16) return v_load_u8(p);
    uint8_t t[16] = { 0 };
    memcpy(t, p, n);
    return v_load_u8(t);
}
V_FN kd_f32x16 get_f32(const float *p, size_t n) { return n == 16 ? v_load(p) : v_load_n(p, n, 0.0f); }

/* scale and offset repeat every `period`, a multiple of 16; one vector of each is the common case. */
#define AFFINE(get)                                                                             \
    size_t i = 0;                                                                               \
    if (period == 16) {                                                                         \
        kd_f32x16 a = v_load(scale), b = v_load(offset);                                        \
        for (; i + 16 <= n; i += 16) v_store(out + i, v_fma(get(in + i, 16), a, b));            \
        if (i < n) v_store_n(out + i, v_fma(get(in + i, n - i), a, b), n - i);                  \
        return;                                                                                 \
    }                                                                                           \
    for (size_t p = 0; i + 16 <= n; i += 16) {                                                  \
        v_store(out + i, v_fma(get(in + i, 16), v_load(scale + p), v_load(offset + p)));        \
        if ((p += 16) == period) p = 0;                                                         \
    }                                                                                           \
    if (i < n) {                                                                                \
        size_t p = i % period;                                                                  \
        v_store_n(out + i, v_fma(get(in + i, n - i), v_load(scale + p), v_load(offset + p)), n - i); \
    }

void KD_K(affine_u8)(float *out, const uint8_t *in, size_t n, const float *scale, const float *offset, size_t period)
{
    AFFINE(get_u8)
}

void KD_K(affine_f32)(float *out, const float *in, size_t n, const float *scale, const float *offset, size_t period)
{
    AFFINE(get_f32)
}

V_FN void mix_16(float *a, float *b, size_t n, kd_f32x16 share, kd_f32x16 rest)
{
    kd_f32x16 x = get_f32(a, n), y = get_f32(b, n);
    kd_f32x16 first = v_fma(share, x, v_mul(rest, y)), second = v_fma(share, y, v_mul(rest, x));
    if (n == 16) {
        v_store(a, first);
        v_store(b, second);
    } else {
        v_store_n(a, first, n);
        v_store_n(b, second, n);
    }
}

void KD_K(mix_f32)(float *a, float *b, size_t n, float share)
{
    kd_f32x16 s = v_set1(share), r = v_set1(1.0f - share);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) mix_16(a + i, b + i, 16, s, r);
    if (i < n) mix_16(a + i, b + i, n - i, s, r);
}
#endif
