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
 * Cost: four rows of scratch. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 1, d->hard_weight = 0, d->soft_weight = 1, d->alpha = 0.1f; }

static kd_status check(const kd_loss_distill_desc *d)
{
    if (d->alpha > 0 && d->alpha < 1) return KD_OK;
    return kd__fail(KD_ERR_ARG, "kd_loss_distill: skew_reverse_kl: alpha %g is not in (0, 1)", (double)d->alpha);
}

static size_t scratch(const kd__soft *s) { return kd__times(4, s->classes); }

/* L = log(m / q) = log1p((1 - alpha) (p - q) / q) where p and q are near each other, elsewhere log alpha + log1p(u),
 * u = (1 - alpha) p / (alpha q): where p is nothing L is one constant to the last bit, and falls out of the gradient. */
static void rows(const kd__soft *s)
{
    const size_t n = s->classes;
    const float alpha = s->desc->alpha, rest = 1 - alpha, ratio = rest / alpha;
    const double least = kd__fixed_log((double)alpha);
    float *x = s->scratch, *l = x + n, *p = l + n, *q = p + n;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        double sum = 0;
        s->kernels->softmax_f32(p, n, s->teacher + r * s->teacher_stride, n, 1, n, s->desc->temperature, 0);
        s->kernels->softmax_f32(q, n, s->student + r * s->student_stride, n, 1, n, s->desc->temperature, 0);
        for (size_t c = 0; c < n; c++) {
            const float d = q[c] > 0 ? rest * (p[c] - q[c]) / q[c] : 0.0f;
            x[c] = kd__choose(__builtin_fabsf(d) < 0.5f, d, ratio * (p[c] / q[c]));
        }
        s->kernels->unary_f32(KD_UNARY_LOG1P, l, x, n, 0, 0);
        for (size_t c = 0; c < n; c++) {
            const float d = q[c] > 0 ? rest * (p[c] - q[c]) / q[c] : 0.0f, m = rest * p[c] + alpha * q[c];
            const bool near = __builtin_fabsf(d) < 0.5f;
            if (!(l[c] < __builtin_inff())) l[c] = (float)(kd__fixed_log((double)ratio * (double)p[c]) - kd__fixed_log((double)q[c]));
            sum += (double)q[c] * ((double)l[c] + (double)!near * least);
            /* dD / dq = - L - alpha q / m, and the constant log alpha + 1 */
            x[c] = kd__choose(near, (float)(least + (double)rest * (1 - (double)alpha * ((double)q[c] - (double)p[c]) / (double)m)),
                              rest * p[c] / m) - l[c];
            if (!(q[c] > 0)) x[c] = 0;
        }
        s->soft[r] = (float)-sum;
        kd__through_softmax(s, r, x, q);
    }
}

const kd__method kd__method_SKEW_REVERSE_KL = { .formula = "T^2 / B sum_b KL(q || (1 - alpha) p + alpha q)", .defaults = defaults,
    .check = check, .scratch = scratch, .rows = rows };
