/* skew_reverse_kl.c - skew reverse Kullback-Leibler divergence (Ko, Kim, Chen, Yun 2024, DistiLLM, arXiv 2402.03898).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b KL(q || m),  m = (1 - alpha) p + alpha q,  p = softmax(teacher / T), q = softmax(student / T)
 * Gradient: T (h - q sum h) / B,  h = q (log q - log m - alpha q / m).
 * Divides by: rows (B); rows are tokens of a language model, those with ignore_index left out.
 * Detached: the teacher.
 * Defaults: T 1, alpha .1 (the paper's lambda), hard_weight 0, soft_weight 1.
 * Forms: one.
 * Traps: a class that the student does not have contributes 0.  Under a mask of the teacher log(q / m) is log(1 / alpha): finite, unlike
 *     reverse KL.
 * Published: the better of the paper's two with its adaptive off-policy generation; its tables are ROUGE-L of GPT-2, OPT, OpenLLaMA.
 * Cost: five rows of scratch. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 1, d->hard_weight = 0, d->soft_weight = 1, d->alpha = 0.1f; }

static kd_status check(const kd_loss_distill_desc *d)
{
    if (d->alpha > 0 && d->alpha < 1) return KD_OK;
    return kd__fail(KD_ERR_ARG, "kd_loss_distill: skew_reverse_kl: alpha %g is not in (0, 1)", (double)d->alpha);
}

static size_t scratch(const kd__soft *s) { return kd__times(5, s->classes); }

/* log(m / q) = log1p((1 - alpha) (p - q) / q) */
static void rows(const kd__soft *s)
{
    const size_t n = s->classes;
    const float alpha = s->desc->alpha, rest = 1 - alpha;
    float *lp = s->scratch, *lq = lp + n, *p = lq + n, *q = p + n, *ratio = q + n;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        double sum = 0;
        kd__softened(s, r, lp, lq, p, q);
        /* p / q may leave the range of floats, p and q do not: then log m - log q is taken apart */
        for (size_t c = 0; c < n; c++) ratio[c] = q[c] > 0 ? rest * (p[c] - q[c]) / q[c] : 0.0f;
        s->kernels->unary_f32(KD_UNARY_LOG1P, lq, ratio, n, 0, 0);
        for (size_t c = 0; c < n; c++) {
            if (!(lq[c] < __builtin_inff())) lq[c] = (float)(kd__fixed_log((double)rest * (double)p[c]) - kd__fixed_log((double)q[c]));
            sum += q[c] > 0 ? (double)q[c] * (double)lq[c] : 0;
            ratio[c] = q[c] > 0 ? -q[c] * (lq[c] + alpha * q[c] / (rest * p[c] + alpha * q[c])) : 0.0f;   /* h */
        }
        s->soft[r] = (float)-sum;
        kd__through_softmax(s, r, ratio, q);
    }
}

const kd__method kd__method_SKEW_REVERSE_KL = { .formula = "T^2 / B sum_b KL(q || (1 - alpha) p + alpha q)", .defaults = defaults,
    .check = check, .scratch = scratch, .rows = rows };
