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
 * Cost: five rows of scratch. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 1, d->hard_weight = 0, d->soft_weight = 1; }
static size_t scratch(const kd__soft *s) { return kd__times(5, s->classes); }

static void rows(const kd__soft *s)
{
    const size_t n = s->classes;
    float *lp = s->scratch, *lq = lp + n, *p = lq + n, *q = p + n, *h = q + n;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        double sum = 0;
        kd__softened(s, r, lp, lq, p, q);
        for (size_t c = 0; c < n; c++) {
            const float d = q[c] - p[c];
            sum += d < 0 ? (double)-d : (double)d;
            h[c] = d > 0 ? q[c] / 2 : d < 0 ? -q[c] / 2 : 0.0f;
        }
        s->soft[r] = (float)(sum / 2);
        kd__through_softmax(s, r, h, q);
    }
}

const kd__method kd__method_TVD = { .formula = "T^2 / (2 B) sum_b sum_k |p - q|", .defaults = defaults, .scratch = scratch, .rows = rows };
