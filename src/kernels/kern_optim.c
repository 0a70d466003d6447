/* kern_optim.c - one step of an optimizer in one pass: weights, gradients and moments are read once; weights and
 * moments are written, and the gradients set to zero, in the same pass.  The order of operations is PyTorch's.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "simd/simd.h"

#ifndef KD_ISA_avx512   /* AVX2 serves: kernels.def */

/* ---- SGD ------------------------------------------------------------------------------------------- */

typedef struct sgd_lanes {
    kd_f32x16 grad_scale, decay, momentum, share, minus_lr;
} sgd_lanes;

/* `velocity` and the flags are constants wherever this is called. */
V_FN void sgd_16(float *w, float *g, float *v, size_t n, const sgd_lanes *s, int velocity, uint32_t flags)
{
    kd_f32x16 weight = load_part(w, n);
    kd_f32x16 step = v_fma(s->decay, weight, v_mul(load_part(g, n), s->grad_scale));
    if (velocity) {
        kd_f32x16 speed = flags & KD_SGD_FIRST ? step : v_fma(step, s->share, v_mul(load_part(v, n), s->momentum));
        store_part(v, speed, n);
        step = flags & KD_SGD_NESTEROV ? v_fma(speed, s->momentum, step) : speed;
    }
    store_part(w, v_fma(s->minus_lr, step, weight), n);
    store_part(g, v_zero(), n);
}

V_FN void sgd_loop(float *w, float *g, float *v, size_t n, const kd__sgd_step *step, int velocity, uint32_t flags)
{
    const sgd_lanes s = { v_set1(step->grad_scale), v_set1(step->weight_decay), v_set1(step->momentum),
                          v_set1(step->grad_share), v_set1(-step->lr) };
    size_t i = 0;
    V_FAST(for (; i + 16 <= n; i += 16) sgd_16(w + i, g + i, velocity ? v + i : v, 16, &s, velocity, flags);)
    V_END(i, n) sgd_16(w + i, g + i, velocity ? v + i : v, V_LEFT(i, n), &s, velocity, flags);
}

void KD_K(sgd_step_f32)(float *w, float *g, float *v, size_t n, const kd__sgd_step *step)
{
    if (!v) sgd_loop(w, g, v, n, step, 0, 0);
    else switch (step->flags) {
        case 0: sgd_loop(w, g, v, n, step, 1, 0); break;
        case KD_SGD_FIRST: sgd_loop(w, g, v, n, step, 1, KD_SGD_FIRST); break;
        case KD_SGD_NESTEROV: sgd_loop(w, g, v, n, step, 1, KD_SGD_NESTEROV); break;
        default: sgd_loop(w, g, v, n, step, 1, KD_SGD_FIRST | KD_SGD_NESTEROV); break;
        }
}

/* ---- Adam, AdamW ------------------------------------------------------------------------------------- */

typedef struct adam_lanes {
    kd_f32x16 grad_scale, decay, keep, share1, beta2, share2, minus_step, root_correction, eps;
} adam_lanes;

V_FN void adam_16(float *w, float *g, float *m, float *v, size_t n, const adam_lanes *s)
{
    kd_f32x16 weight = load_part(w, n), first = load_part(m, n);
    kd_f32x16 grad = v_fma(s->decay, weight, v_mul(load_part(g, n), s->grad_scale));
    first = v_fma(s->share1, v_sub(grad, first), first);
    kd_f32x16 second = v_fma(v_mul(s->share2, grad), grad, v_mul(load_part(v, n), s->beta2));
    kd_f32x16 below = v_add(v_div(v_sqrt(second), s->root_correction), s->eps);
    weight = v_add(v_mul(weight, s->keep), v_div(v_mul(s->minus_step, first), below));
    store_part(m, first, n);
    store_part(v, second, n);
    store_part(w, weight, n);
    store_part(g, v_zero(), n);
}

void KD_K(adam_step_f32)(float *w, float *g, float *m, float *v, size_t n, const kd__adam_step *step)
{
    const adam_lanes s = { v_set1(step->grad_scale), v_set1(step->weight_decay), v_set1(step->keep),
                           v_set1(step->grad_share1), v_set1(step->beta2), v_set1(step->grad_share2),
                           v_set1(-step->step_size), v_set1(step->root_correction), v_set1(step->eps) };
    size_t i = 0;
    V_FAST(for (; i + 16 <= n; i += 16) adam_16(w + i, g + i, m + i, v + i, 16, &s);)
    V_END(i, n) adam_16(w + i, g + i, m + i, v + i, V_LEFT(i, n), &s);
}

/* ---- averages ------------------------------------------------------------------------------------------ */

void KD_K(approach_f32)(float *average, const float *x, size_t n, float share)
{
    kd_f32x16 s = v_set1(share);
    for (size_t i = 0; i < n; i += 16) {
        const size_t k = part_of(n - i);
        kd_f32x16 a = load_part(average + i, k);
        store_part(average + i, v_fma(s, v_sub(load_part(x + i, k), a), a), k);
    }
}
#endif
