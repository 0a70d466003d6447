/* kern_pool.c - pooling: channels in lanes, one output or input pixel at a time.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "simd/simd.h"

/* The taps [i0, i1) of window `o` that lie in [0, size). */
static void taps_inside(size_t o, size_t stride, size_t pad, size_t taps, size_t size, size_t *i0, size_t *i1)
{
    const size_t at = o * stride;   /* of tap 0, plus pad */
    *i0 = at < pad ? pad - at : 0;
    *i1 = size + pad - at < taps ? size + pad - at : taps;
}

/* The windows [o0, o1) that cover pixel `at`. */
static void windows_over(size_t at, size_t stride, size_t pad, size_t taps, size_t outputs, size_t *o0, size_t *o1)
{
    const size_t end = (at + pad) / stride + 1;
    *o0 = at + pad < taps ? 0 : (at + pad - taps) / stride + 1;
    *o1 = end < outputs ? end : outputs;
}

V_FN kd_f32x16 load(const float *p, size_t n) { return n == 16 ? v_load(p) : v_load_n(p, n, 0.0f); }
V_FN void store(float *p, kd_f32x16 a, size_t n)
{
    if (n == 16) v_store(p, a);
    else v_store_n(p, a, n);
}

static void store_places(void *arg, size_t at, size_t bytes, kd_i32x16 place, size_t n)
{
    int32_t t[16];
    if (bytes == 4) {
        vi_store_n((int32_t *)arg + at, place, n);
        return;
    }
    vi_store(t, place);
    for (size_t i = 0; i < n; i++) ((uint8_t *)arg)[at + i] = (uint8_t)t[i];
}

V_FN kd_i32x16 load_places(const void *arg, size_t at, size_t bytes, size_t n)
{
    if (bytes == 4) return vi_load_n((const int32_t *)arg + at, n, 0);
    if (n == 16) return vi_load_u8((const uint8_t *)arg + at);
    uint8_t t[16] = { 0 };
    memcpy(t, (const uint8_t *)arg + at, n);
    return vi_load_u8(t);
}

void KD_K(max_pool_f32)(const kd__pool_args *p, size_t r0, size_t r1)
{
    for (size_t r = r0; r < r1; r++)
        for (size_t q = 0; q < p->ow; q++) {
            size_t i0, i1, j0, j1;
            taps_inside(r, p->stride_h, p->pad_h, p->kh, p->h, &i0, &i1);
            taps_inside(q, p->stride_w, p->pad_w, p->kw, p->w, &j0, &j1);
            const float *x = p->in + ((r * p->stride_h + i0 - p->pad_h) * p->w + q * p->stride_w + j0 - p->pad_w) * p->c;
            const size_t at = (r * p->ow + q) * p->c;
            for (size_t c = 0; c < p->c; c += 16) {
                const size_t n = p->c - c < 16 ? p->c - c : 16;
                kd_f32x16 best = load(x + c, n);
                kd_i32x16 place = vi_set1((int32_t)(i0 * p->kw + j0));
                for (size_t i = i0; i < i1; i++)
                    for (size_t j = j0; j < j1; j++) {
                        kd_f32x16 v = load(x + ((i - i0) * p->w + (j - j0)) * p->c + c, n);
                        kd_m16 better = vm_and(vm_not(v_le(v, best)), v_eq(best, best));
                        best = v_select(better, v, best);
                        place = vi_select(better, vi_set1((int32_t)(i * p->kw + j)), place);
                    }
                store(p->out + at + c, best, n);
                if (p->arg) store_places(p->arg, at + c, p->arg_bytes, place, n);
            }
        }
}

#ifndef KD_ISA_avx512   /* AVX2 serves: kernels.def */
void KD_K(avg_pool_f32)(const kd__pool_args *p, size_t r0, size_t r1)
{
    for (size_t r = r0; r < r1; r++)
        for (size_t q = 0; q < p->ow; q++) {
            size_t i0, i1, j0, j1;
            taps_inside(r, p->stride_h, p->pad_h, p->kh, p->h, &i0, &i1);
            taps_inside(q, p->stride_w, p->pad_w, p->kw, p->w, &j0, &j1);
            const float *x = p->in + ((r * p->stride_h + i0 - p->pad_h) * p->w + q * p->stride_w + j0 - p->pad_w) * p->c;
            const kd_f32x16 count = v_set1((float)((i1 - i0) * (j1 - j0)));
            for (size_t c = 0; c < p->c; c += 16) {
                const size_t n = p->c - c < 16 ? p->c - c : 16;
                kd_f32x16 sum = v_zero();
                for (size_t i = 0; i < i1 - i0; i++)
                    for (size_t j = 0; j < j1 - j0; j++) sum = v_add(sum, load(x + (i * p->w + j) * p->c + c, n));
                store(p->out + (r * p->ow + q) * p->c + c, v_div(sum, count), n);
            }
        }
}
#endif

/* dx rows [r0, r1): gathered, so that threads may share the rows; what a window gives is a constant choice. */
V_FN void backward(const kd__pool_args *p, size_t r0, size_t r1, const int maximum)
{
    for (size_t r = r0; r < r1; r++)
        for (size_t q = 0; q < p->w; q++) {
            size_t a0, a1, b0, b1;
            windows_over(r, p->stride_h, p->pad_h, p->kh, p->oh, &a0, &a1);
            windows_over(q, p->stride_w, p->pad_w, p->kw, p->ow, &b0, &b1);
            for (size_t c = 0; c < p->c; c += 16) {
                const size_t n = p->c - c < 16 ? p->c - c : 16;
                kd_f32x16 sum = v_zero();
                for (size_t a = a0; a < a1; a++)
                    for (size_t b = b0; b < b1; b++) {
                        const size_t at = (a * p->ow + b) * p->c + c;
                        kd_f32x16 dy = load(p->in + at, n);
                        if (maximum) {
                            const size_t tap = (r + p->pad_h - a * p->stride_h) * p->kw + q + p->pad_w - b * p->stride_w;
                            kd_m16 mine = vi_eq(load_places(p->arg, at, p->arg_bytes, n), vi_set1((int32_t)tap));
                            sum = v_add(sum, v_select(mine, dy, v_zero()));
                        } else {
                            size_t i0, i1, j0, j1;
                            taps_inside(a, p->stride_h, p->pad_h, p->kh, p->h, &i0, &i1);
                            taps_inside(b, p->stride_w, p->pad_w, p->kw, p->w, &j0, &j1);
                            sum = v_add(sum, v_div(dy, v_set1((float)((i1 - i0) * (j1 - j0)))));
                        }
                    }
                float *dx = p->out + (r * p->w + q) * p->c + c;
                if (p->accumulate) sum = v_add(load(dx, n), sum);
                store(dx, sum, n);
            }
        }
}

void KD_K(max_pool_backward_f32)(const kd__pool_args *p, size_t r0, size_t r1) { backward(p, r0, r1, 1); }
void KD_K(avg_pool_backward_f32)(const kd__pool_args *p, size_t r0, size_t r1) { backward(p, r0, r1, 0); }
