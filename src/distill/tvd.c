/* tvd.c - total variation distance (as in f-distill, Wen, Li, Du, Mou 2023, arXiv 2307.15190).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / (2 B) sum_b sum_k |p - q|,  p = softmax(teacher / T), q = softmax(student / T)
 * Gradient: T (h - q sum h) / B,  h = q sign(q - p) / 2,  sign 0 = 0.
 * Divides by: rows (B); rows are tokens of a language model, those with ignore_index left out.
 * Detached: the teacher.
 * Defaults: T 1, hard_weight 0, soft_weight 1.
 * Forms: one.
 * Traps: bounded by T^2: far from the teacher its gradient vanishes, so that it is slow from a random start.
 * Published: none that is a number of this loss alone.
 * Cost: four rows of scratch. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 1, d->hard_weight = 0, d->soft_weight = 1; }
static size_t scratch(const kd__soft *s) { return kd__times(4, s->classes); }

/* h_k - q_k sum h = q_k / 2 sum_j q_j (sign_k - sign_j): by the mass of each sign, since the sum of h is nearly h_k
 * where one q is nearly 1. */
static void rows(const kd__soft *s)
{
    const size_t n = s->classes;
    const kd__kernels *k = s->kernels;
    float *p = s->scratch, *q = p + n, *over = q + n, *under = over + n;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        double sum = 0, above, below, mass;
        k->softmax_f32(p, n, s->teacher + r * s->teacher_stride, n, 1, n, s->desc->temperature, 0);
        k->softmax_f32(q, n, s->student + r * s->student_stride, n, 1, n, s->desc->temperature, 0);
        for (size_t c = 0; c < n; c++) {
            const float d = q[c] - p[c];
            over[c] = q[c] * (float)(d > 0), under[c] = q[c] * (float)(d < 0), p[c] = __builtin_fabsf(d);
        }
        k->sum_f32(&sum, p, n), k->sum_f32(&above, over, n), k->sum_f32(&below, under, n), k->sum_f32(&mass, q, n);
        const double equal = mass - above - below > 1e-12 ? mass - above - below : 0;
        s->soft[r] = (float)(sum / 2);
        if (!s->grad) continue;
        const double coef = (double)s->coef[r] / (double)s->desc->temperature / 2;
        const float up = (float)(coef * (2 * below + equal));
        const float down = (float)(-coef * (2 * above + equal)), same = (float)(coef * (below - above));
        float *grad = s->grad + r * s->grad_stride;
        k->axpy_f32(grad, over, n, up);
        k->axpy_f32(grad, under, n, down);
        for (size_t c = 0; equal > 0 && c < n; c++) grad[c] += same * (q[c] - over[c] - under[c]);
    }
}

const kd__method kd__method_TVD = { .formula = "T^2 / (2 B) sum_b sum_k |p - q|", .defaults = defaults, .scratch = scratch, .rows = rows };
