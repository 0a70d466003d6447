/* kern_softmax.c - softmax, log-softmax and log-sum-exp of rows, at a temperature.
 *
 * The exponent (x - max) / t is d * s with d = x/2 - max/2, which cannot overflow and rounds as x - max does,
 * and s = 2/t in two floats; what the product loses goes along in `low`.  So large logits, large and small t cost
 * no accuracy and need no cases.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "kernels/kernels.h"
#include "simd/simd.h"

#define LARGEST 3.402823466e38f

typedef struct scale { kd_f32x16 hi, lo, half_max; } scale;

/* half_max is filled for each row. */
V_FN scale scale_of(float t)
{
    double s = 2.0 / (double)t;
    if (s > (double)LARGEST) s = (double)LARGEST;
    float hi = (float)s;
    return (scale){ v_set1(hi), v_set1((float)(s - (double)hi)), v_zero() };
}

/* The largest of a row, or -LARGEST if that is larger: so subtracting it never makes NaN of -inf. */
V_FN float row_max(const float *x, size_t n)
{
    kd_f32x16 m = v_set1(-LARGEST);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) m = v_max(m, v_load(x + i));
    if (i < n) m = v_max(m, v_load_n(x + i, n - i, -LARGEST));
    return v_hmax(m);
}

/* (x - max) / t: the result and its rounding error. */
V_FN kd_f32x16 exponent(const scale *s, kd_f32x16 x, kd_f32x16 *low)
{
    kd_f32x16 d = v_fma(v_set1(0.5f), x, v_neg(s->half_max)), y = v_mul(d, s->hi);
    kd_f32x16 lost = v_fma(d, s->lo, v_fms(d, s->hi, y));
    *low = v_select(v_lt(y, v_set1(-104.0f)), v_zero(), lost);   /* -inf, and where e^y is 0 */
    return y;
}
V_FN kd_f32x16 power(const scale *s, kd_f32x16 x)
{
    kd_f32x16 low, y = exponent(s, x, &low);
    return v_exp_low(y, low);
}

/* Sum of e^((x - max)/t); the terms go to `out` unless NULL.  Blocks of 1024 elements in float, those in double. */
V_FN double exponentials(float *out, const float *x, size_t n, const scale *s)
{
    kd_f64x16 total = vd_set1(0);
    size_t i = 0;
    while (i < n) {
        size_t end = n - i < 1024 ? n : i + 1024;
        kd_f32x16 sum = v_zero();
        for (; i + 16 <= end; i += 16) {
            kd_f32x16 e = power(s, v_load(x + i));
            sum = v_add(sum, e);
            if (out) v_store(out + i, e);
        }
        if (i < end) {
            /* The lanes behind the end get the largest, not -inf: a power that underflows takes the processor 150 cycles. */
            const kd_m16 there = vm_first(end - i);
            kd_f32x16 last = v_select(there, v_load_n(x + i, end - i, 0.0f), v_add(s->half_max, s->half_max));
            kd_f32x16 e = v_keep(there, power(s, last));
            sum = v_add(sum, e);
            if (out) v_store_n(out + i, e, end - i);
            i = end;
        }
        total = vd_add(total, vd_from_f32(sum));
    }
    return vd_sum(total);
}

/* The logarithm of such a sum: -inf of 0, NaN of NaN. */
V_FN double log_of(double sum) { return sum > 0 ? kd__fixed_log(sum) : sum == 0 ? -__builtin_inf() : sum; }

V_FN void fill_row(float *out, size_t n, float value)
{
    kd_f32x16 v = v_set1(value);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(out + i, v);
    if (i < n) v_store_n(out + i, v, n - i);
}

/* A few rows side by side: each step of one waits for the step before, and meanwhile the others go on. */
enum { TOGETHER = 8 };
V_FN void softmax_rows(float *out, size_t out_row, const float *x, size_t in_row, size_t rows, size_t n, scale s)
{
    float half[TOGETHER];
    double sum[TOGETHER];
    for (size_t r = 0; r < rows; r++) half[r] = 0.5f * row_max(x + r * in_row, n);
    for (size_t r = 0; r < rows; r++) {
        s.half_max = v_set1(half[r]);
        sum[r] = exponentials(out + r * out_row, x + r * in_row, n, &s);
    }
    for (size_t r = 0; r < rows; r++, out += out_row) {
        kd_f32x16 reciprocal = v_set1(sum[r] == 0 ? 0.0f : (float)(1.0 / sum[r]));
        size_t i = 0;
        for (; i + 16 <= n; i += 16) v_store(out + i, v_mul(v_load(out + i), reciprocal));
        if (i < n) v_store_n(out + i, v_mul(v_load_n(out + i, n - i, 0.0f), reciprocal), n - i);
    }
}

V_FN kd_f32x16 log_softmax_at(const scale *s, kd_f32x16 x, kd_f32x16 log_hi, kd_f32x16 log_lo)
{
    kd_f32x16 low, y = exponent(s, x, &low);
    return v_add(v_sub(y, log_hi), v_sub(low, log_lo));
}

V_CALL double sum_alone(const float *x, size_t n, const scale *s) { return exponentials(NULL, x, n, s); }

V_FN void log_softmax_row(float *out, const float *x, size_t n, const scale *s)
{
    double log_sum = log_of(sum_alone(x, n, s));
    if (log_sum == -__builtin_inf()) {
        fill_row(out, n, -__builtin_inff());
        return;
    }
    float hi = (float)log_sum;
    kd_f32x16 log_hi = v_set1(hi), log_lo = v_set1((float)(log_sum - (double)hi));
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(out + i, log_softmax_at(s, v_load(x + i), log_hi, log_lo));
    if (i < n) v_store_n(out + i, log_softmax_at(s, v_load_n(x + i, n - i, 0.0f), log_hi, log_lo), n - i);
}

void KD_K(softmax_f32)(float *out, size_t out_row, const float *in, size_t in_row, size_t rows, size_t n, float t,
                       int logarithm)
{
    scale s = scale_of(t);
    if (!logarithm) {
        for (size_t r = 0; r < rows; r += TOGETHER)
            softmax_rows(out + r * out_row, out_row, in + r * in_row, in_row, rows - r < TOGETHER ? rows - r : TOGETHER, n, s);
        return;
    }
    for (size_t r = 0; r < rows; r++) {
        const float *x = in + r * in_row;
        s.half_max = v_set1(0.5f * row_max(x, n));
        log_softmax_row(out + r * out_row, x, n, &s);
    }
}

void KD_K(logsumexp_f32)(float *out, const float *in, size_t in_row, size_t rows, size_t n, float t)
{
    scale s = scale_of(t);
    for (size_t r = 0; r < rows; r++) {
        const float *x = in + r * in_row;
        float max = row_max(x, n);
        s.half_max = v_set1(0.5f * max);
        double sum = sum_alone(x, n, &s);
        out[r] = (float)((double)max / (double)t + log_of(sum));
    }
}

/* softmax: y (g - sum g y) / t; its logarithm: (g - e^y sum g) / t. */
V_FN kd_f32x16 softmax_gradient(int logarithm, kd_f32x16 y, kd_f32x16 g, kd_f32x16 sum, kd_f32x16 inverse_t)
{
    kd_f32x16 d = logarithm ? v_fnma(v_exp(y), sum, g) : v_mul(y, v_sub(g, sum));
    return v_mul(d, inverse_t);
}

/* k elements of a row: 16, as a literal (whole vectors: a masked store that misses the cache is slow), or fewer at its end. */
V_FN void softmax_sum_step(kd_f64x16 *total, kd_m16 *unmasked, const float *g, const float *y, size_t k, int logarithm)
{
    kd_f32x16 none = v_set1(-__builtin_inff()), vg = k == 16 ? v_load(g) : v_load_n(g, k, 0.0f);
    kd_f32x16 vy = k == 16 ? v_load(y) : v_load_n(y, k, -__builtin_inff());
    *unmasked = vm_or(*unmasked, vm_not(v_eq(vy, none)));
    if (logarithm) *total = vd_add(*total, vd_from_f32(vg));
    else *total = vd_mac_f32(*total, vg, k == 16 ? vy : v_select(vm_first(k), vy, v_zero()));
}
V_FN void softmax_gradient_step(float *out, const float *g, const float *y, size_t k, kd_f32x16 sum, kd_f32x16 inverse_t,
                                int logarithm, int accumulate)
{
    kd_f32x16 vg = k == 16 ? v_load(g) : v_load_n(g, k, 0.0f), vy = k == 16 ? v_load(y) : v_load_n(y, k, 0.0f);
    kd_f32x16 d = softmax_gradient(logarithm, vy, vg, sum, inverse_t);
    if (accumulate) d = v_add(k == 16 ? v_load(out) : v_load_n(out, k, 0.0f), d);
    if (k == 16) v_store(out, d);
    else v_store_n(out, d, k);
}

V_FN void softmax_backward_row(float *out, const float *g, const float *y, size_t n, float t, int logarithm,
                               int accumulate)
{
    kd_f64x16 total = vd_set1(0);
    kd_m16 unmasked = vm_first(0);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) softmax_sum_step(&total, &unmasked, g + i, y + i, 16, logarithm);
    if (i < n) softmax_sum_step(&total, &unmasked, g + i, y + i, n - i, logarithm);
    /* the row that is -inf throughout has no gradient; in softmax that comes by itself, y being 0 */
    kd_f32x16 sum = v_set1((float)vd_sum(total)), inverse_t = v_set1(vm_any(unmasked) ? 1.0f / t : 0.0f);
    for (i = 0; i + 16 <= n; i += 16) softmax_gradient_step(out + i, g + i, y + i, 16, sum, inverse_t, logarithm, accumulate);
    if (i < n) softmax_gradient_step(out + i, g + i, y + i, n - i, sum, inverse_t, logarithm, accumulate);
}

void KD_K(softmax_backward_f32)(float *grad_in, const float *grad_out, const float *y, size_t rows, size_t n, float t,
                                int logarithm, int accumulate)
{
    for (size_t r = 0; r < rows; r++) {
        size_t o = r * n;
        if (logarithm) softmax_backward_row(grad_in + o, grad_out + o, y + o, n, t, 1, accumulate);
        else softmax_backward_row(grad_in + o, grad_out + o, y + o, n, t, 0, accumulate);
    }
}
