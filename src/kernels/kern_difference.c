/* kern_difference.c - losses of a difference d = a - b: squares, and Huber's smooth L1.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "simd/simd.h"

#define BLOCK 4096u   /* floats summed in single precision */

/* beta > 0: |d| < beta ? d^2 / (2 beta) : |d| - beta / 2.  beta 0: d^2. */
V_FN kd_f32x16 loss(kd_f32x16 a, kd_f32x16 b, float beta)
{
    kd_f32x16 d = v_sub(a, b), size = v_abs(d);
    if (beta == 0.0f) return v_mul(d, d);
    kd_f32x16 inside = v_div(v_mul(v_mul(d, d), v_set1(0.5f)), v_set1(beta));
    return v_select(v_lt(size, v_set1(beta)), inside, v_sub(size, v_set1(0.5f * beta)));
}

/* Its derivative by d. */
V_FN kd_f32x16 slope(kd_f32x16 a, kd_f32x16 b, float beta)
{
    kd_f32x16 d = v_sub(a, b);
    if (beta == 0.0f) return v_add(d, d);
    kd_f32x16 one = v_set1(1.0f);
    return v_select(v_lt(v_abs(d), v_set1(beta)), v_div(d, v_set1(beta)), v_select(v_isnan(d), d, v_copysign(one, d)));
}

void KD_K(difference_f32)(float beta, const float *a, const float *b, size_t n, float *out)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(out + i, loss(v_load(a + i), v_load(b + i), beta));
    if (i < n) v_store_n(out + i, loss(v_load_n(a + i, n - i, 0.0f), v_load_n(b + i, n - i, 0.0f), beta), n - i);
}

V_FN double block_loss(float beta, const float *a, const float *b, size_t n)
{
    kd_f32x16 s[2] = { v_zero(), v_zero() };
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        s[0] = v_add(s[0], loss(v_load(a + i), v_load(b + i), beta));
        s[1] = v_add(s[1], loss(v_load(a + i + 16), v_load(b + i + 16), beta));
    }
    if (i + 16 <= n) {
        s[0] = v_add(s[0], loss(v_load(a + i), v_load(b + i), beta));
        i += 16;
    }
    if (i < n) s[1] = v_add(s[1], loss(v_load_n(a + i, n - i, 0.0f), v_load_n(b + i, n - i, 0.0f), beta));
    return v_sum_f64(v_add(s[0], s[1]));
}

void KD_K(difference_sum_f32)(float beta, const float *a, const float *b, size_t n, double *sum)
{
    *sum = 0.0;
    for (size_t i = 0; i < n; i += BLOCK) *sum += block_loss(beta, a + i, b + i, n - i < BLOCK ? n - i : BLOCK);
}

void KD_K(difference_backward_f32)(float beta, float scale, const float *dy, const float *a, const float *b, size_t n,
                                   float *da, int accumulate)
{
    kd_f32x16 by = v_set1(scale);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        kd_f32x16 g = v_mul(slope(v_load(a + i), v_load(b + i), beta), dy ? v_mul(by, v_load(dy + i)) : by);
        v_store(da + i, accumulate ? v_add(v_load(da + i), g) : g);
    }
    if (i < n) {
        size_t k = n - i;
        kd_f32x16 g = slope(v_load_n(a + i, k, 0.0f), v_load_n(b + i, k, 0.0f), beta);
        g = v_mul(g, dy ? v_mul(by, v_load_n(dy + i, k, 0.0f)) : by);
        v_store_n(da + i, accumulate ? v_add(v_load_n(da + i, k, 0.0f), g) : g, k);
    }
}
