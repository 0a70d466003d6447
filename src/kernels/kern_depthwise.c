/* kern_depthwise.c - depthwise convolution: channels in lanes, a few neighbouring outputs at a time.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "kernels/epilogue.h"
#include "simd/simd.h"

#if defined KD_ISA_avx512
enum { PIXELS = 8 };
#else
enum { PIXELS = 4 };
#endif

/* `pixels` outputs from q on, channels [c, c + n). */
V_FN void outputs(const kd__depthwise_args *d, size_t q, size_t c, size_t n, const size_t pixels)
{
    kd_f32x16 sum[PIXELS];
    const kd_f32x16 zero = v_zero();
    V_UNROLL(8)
    for (size_t p = 0; p < pixels; p++) sum[p] = zero;
    for (size_t i = 0; i < d->kh; i++) {
        const float *x = d->x + i * d->x_row + q * d->x_step + c, *w = d->w + (ptrdiff_t)i * d->w_row + c;
        for (size_t j = 0; j < d->kw; j++, x += d->x_tap, w += d->w_tap) {
            const kd_f32x16 tap = load_part(w, n);
            V_UNROLL(8)
            for (size_t p = 0; p < pixels; p++) sum[p] = v_fma(load_part(x + p * d->x_step, n), tap, sum[p]);
        }
    }
    float *y = d->y + q * d->y_step + c;
    V_UNROLL(8)
    for (size_t p = 0; p < pixels; p++) {
        if (d->add) sum[p] = v_add(load_part(y + p * d->y_step, n), sum[p]);
        store_part(y + p * d->y_step, sum[p], n);
    }
}

V_FN void strip(const kd__depthwise_args *d, size_t c, size_t n)
{
    size_t q = 0;
    for (; q + PIXELS <= d->columns; q += PIXELS) outputs(d, q, c, n, PIXELS);
    if (q + 2 < d->columns) {   /* 3 or more are left */
        if (PIXELS == 8 && q + 4 <= d->columns) {
            outputs(d, q, c, n, 4);
            q += 4;
        }
    }
    for (; q + 2 <= d->columns; q += 2) outputs(d, q, c, n, 2);
    if (q < d->columns) outputs(d, q, c, n, 1);
}

void KD_K(epilogue_f32)(const kd__epilogue *after, float *c, size_t c_row, size_t rows, size_t n);

void KD_K(depthwise_f32)(const kd__depthwise_args *d)
{
    size_t c = 0;
    V_FAST(for (; c + 16 <= d->channels; c += 16) strip(d, c, 16);)
    V_END(c, d->channels) strip(d, c, V_LEFT(c, d->channels));
    /* the row is in the first cache still */
    if (kd__epilogue_any(&d->after)) KD_K(epilogue_f32)(&d->after, d->y, d->y_step, d->columns, d->channels);
}

#ifndef KD_ISA_avx512   /* AVX2 serves: kernels.def */

/* `taps` taps from j on, two vectors of channels (the second may be empty). */
V_FN void weights(const kd__depthwise_args *d, size_t j, size_t c, size_t n0, size_t n1, const size_t taps)
{
    kd_f32x16 sum[4][2];
    V_UNROLL(4)
    for (size_t t = 0; t < taps; t++) sum[t][0] = sum[t][1] = v_zero();
    for (size_t k = 0; k < d->images * d->rows; k++) {
        const size_t m = k / d->rows, r = k % d->rows;
        const float *x = d->x + (ptrdiff_t)m * d->x_image + r * d->x_row + j * d->x_tap + c;
        const float *dy = d->dy + m * d->dy_image + r * d->dy_row + c;
        for (size_t q = 0; q < d->columns; q++, x += d->x_step, dy += d->channels) {
            const kd_f32x16 a = load_part(dy, n0), b = load_part(dy + n0, n1);
            V_UNROLL(4)
            for (size_t t = 0; t < taps; t++) {
                sum[t][0] = v_fma(load_part(x + t * d->x_tap, n0), a, sum[t][0]);
                sum[t][1] = v_fma(load_part(x + t * d->x_tap + n0, n1), b, sum[t][1]);
            }
        }
    }
    for (size_t t = 0; t < taps; t++) {
        float *dw = d->dw + (j + t) * d->channels + c;
        if (d->add) {
            sum[t][0] = v_add(load_part(dw, n0), sum[t][0]);
            sum[t][1] = v_add(load_part(dw + n0, n1), sum[t][1]);
        }
        store_part(dw, sum[t][0], n0);
        store_part(dw + n0, sum[t][1], n1);
    }
}

V_FN void weight_strip(const kd__depthwise_args *d, size_t c, size_t n0, size_t n1)
{
    size_t j = 0;
    for (; j + 4 <= d->kw && j + 5 != d->kw; j += 4) weights(d, j, c, n0, n1, 4);   /* five are three and two */
    for (; j + 3 <= d->kw; j += 3) weights(d, j, c, n0, n1, 3);
    if (j + 2 <= d->kw) weights(d, j, c, n0, n1, 2);
    else if (j < d->kw) weights(d, j, c, n0, n1, 1);
}

void KD_K(depthwise_weight_f32)(const kd__depthwise_args *d)
{
    size_t c = 0;
    V_FAST(for (; c + 32 <= d->channels; c += 32) weight_strip(d, c, 16, 16);)
    for (; c < d->channels; c += 32) {
        const size_t left = d->channels - c;
        weight_strip(d, c, part_of(left), left > 16 ? part_of(left - 16) : 0);
    }
}
#endif
