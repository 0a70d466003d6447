/* skew_kl.c - skew Kullback-Leibler divergence (Ko, Kim, Chen, Yun 2024, DistiLLM, arXiv 2402.03898).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     CODE   soft = - T^2 / B sum_b sum_k p log m
 *     PAPER  soft = T^2 / B sum_b KL(p || m)
 *     m = alpha p + (1 - alpha) q,  p = softmax(teacher / T), q = softmax(student / T)
 * Gradient: T (h - q sum h) / B,  h = - (1 - alpha) p q / m.
 * Divides by: rows (B); rows are tokens of a language model, those with ignore_index left out.
 * Detached: the teacher.
 * Defaults: T 1, alpha .1 (the paper's lambda), hard_weight 0, soft_weight 1.
 * Forms: CODE leaves the teacher's entropy out, as the public code does; PAPER is the divergence, 0 when both agree.  Gradients are equal.
 * Traps: the paper's skew JSD takes lambda the other way round than GKD.  The public code's log of a mixture of probabilities is -inf
 *     where both underflow; here a class that the teacher does not have contributes 0.  No value is infinite: m >= alpha p.
 * Published: up to 4.3 times faster training than on-policy methods, at equal or better ROUGE-L (the abstract).
 * Cost: four rows of scratch. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 1, d->hard_weight = 0, d->soft_weight = 1, d->alpha = 0.1f; }

static kd_status check(const kd_loss_distill_desc *d)
{
    if (d->alpha > 0 && d->alpha < 1) return KD_OK;
    return kd__fail(KD_ERR_ARG, "kd_loss_distill: skew_kl: alpha %g is not in (0, 1)", (double)d->alpha);
}

static size_t scratch(const kd__soft *s) { return kd__times(4, s->classes); }

/* log(m / p) = log1p((1 - alpha) (q - p) / p): nothing cancels when both agree. */
static void rows(const kd__soft *s)
{
    const size_t n = s->classes;
    const float alpha = s->desc->alpha, rest = 1 - alpha;
    const kd__kernels *k = s->kernels;
    float *p = s->scratch, *q = p + n, *g = q + n, *x = g + n;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        double value;
        const float *teacher = s->teacher + r * s->teacher_stride;
        k->softmax_f32(p, n, teacher, n, 1, n, s->desc->temperature, 0);
        k->softmax_f32(q, n, s->student + r * s->student_stride, n, 1, n, s->desc->temperature, 0);
        for (size_t c = 0; c < n; c++) {   /* p = 0: x is 0, g finite */
            const float some = p[c] + (float)(p[c] == 0);
            x[c] = rest * ((q[c] - p[c]) / some) * (float)(p[c] > 0);
            g[c] = -rest * p[c] / (alpha * some + rest * q[c]);   /* dD / dq */
        }
        k->unary_f32(KD_UNARY_LOG1P, x, x, n, 0, 0);
        k->dot_f32(&value, p, x, n);
        value = -value;
        if (s->desc->form == KD_FORM_CODE) value += kd__cross_row(k, p, teacher, p, n, s->desc->temperature, x, NULL);   /* its entropy */
        s->soft[r] = (float)value;
        kd__through_softmax(s, r, g, q);
    }
}

const kd__method kd__method_SKEW_KL = { .formula = "T^2 / B sum_b KL(p || alpha p + (1 - alpha) q)", .forms = 2, .defaults = defaults,
    .check = check, .scratch = scratch, .rows = rows };
