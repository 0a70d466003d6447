/* cosine_logits.c - one minus the cosine between rows of logits.
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = 1 / B sum_b (1 - s . t / max(|s| |t|, 1e-8)),  s, t: the rows of student and teacher
 * Gradient: (cos s / |s|^2 - t / (|s| |t|)) / B; -t / 1e-8 / B where |s| |t| is less than 1e-8.
 * Divides by: rows (B).
 * Detached: the teacher.
 * Defaults: hard_weight 0.1, soft_weight 0.9; the temperature is not used.
 * Forms: one.
 * Traps: logits are compared as they are: a number added to a row counts, a factor does not.  A row of zeros has cosine 0.  A class that
 *     is -inf on either side is left out.  One class: the cosine is 1 or -1, without a gradient.
 * Published: as a part of other losses only.
 * Cost: three sums of products a row; nothing else. */
#include "distill/loss.h"

enum { SS, TT, ST, SUMS };

/* The same without the classes that are -inf on either side. */
static void sums_of_some(const float *a, const float *b, size_t n, double sum[SUMS])
{
    sum[SS] = sum[TT] = sum[ST] = 0;
    for (size_t c = 0; c < n; c++) {
        if (a[c] == -__builtin_inff() || b[c] == -__builtin_inff()) continue;
        double x = (double)a[c], y = (double)b[c];
        sum[SS] += x * x, sum[TT] += y * y, sum[ST] += x * y;
    }
}

static void rows(const kd__soft *s)
{
    const size_t n = s->classes;
    const kd__kernels *k = s->kernels;
    for (size_t r = 0; r < s->rows; r++) {
        const float *a = s->student + r * s->student_stride, *b = s->teacher + r * s->teacher_stride;
        double sum[SUMS], coef = (double)s->coef[r];
        if (s->coef[r] == 0.0f) continue;
        k->dot_f32(&sum[SS], a, a, n), k->dot_f32(&sum[TT], b, b, n), k->dot_f32(&sum[ST], a, b, n);
        bool whole = sum[SS] + sum[TT] < __builtin_inf();
        if (!whole) sums_of_some(a, b, n, sum);
        double size = __builtin_sqrt(sum[SS]) * __builtin_sqrt(sum[TT]);
        double factor = size < 1e-8 ? 1e8 : 1 / size, back = size < 1e-8 ? 0 : sum[ST] / size / sum[SS];
        s->soft[r] = (float)(1 - sum[ST] * factor);
        if (!s->grad) continue;
        float *g = s->grad + r * s->grad_stride;
        if (whole) {
            k->axpy_f32(g, a, n, (float)(coef * back));
            k->axpy_f32(g, b, n, (float)(-coef * factor));
            continue;
        }
        for (size_t c = 0; c < n; c++)
            if (a[c] != -__builtin_inff() && b[c] != -__builtin_inff())
                g[c] += (float)(coef * (back * (double)a[c] - factor * (double)b[c]));
    }
}

const kd__method kd__method_COSINE_LOGITS = {
    .formula = "1 / B sum_b (1 - cos(student, teacher))",
    .needs = KD__RAW,
    .scale = kd__unscaled, .rows = rows,
};
