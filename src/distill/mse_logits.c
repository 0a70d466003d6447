/* mse_logits.c - squared difference of logits (Ba, Caruana 2014, arXiv 1312.6184; Kim et al. 2021, arXiv 2105.08919).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = 1 / (B K) sum_b |student - teacher|^2
 * Gradient: 2 (student - teacher) / (B K).
 * Divides by: rows times classes (B K); PAPER, THIRD: rows (B).
 * Detached: the teacher.
 * Defaults: hard_weight 0.1, soft_weight 0.9; the temperature is not used.
 * Forms: CODE: the mean over elements, as mean-squared-error functions compute; PAPER: 1 / (2 B), Ba and Caruana; THIRD: 1 / B, the
 *     squared norm of Kim et al.
 * Traps: the forms differ by factors of K and 2: a weight belongs to one of them.  Logits are compared as they are, so a number added to
 *     all logits of a row counts.  A class that is -inf on either side is left out (and still counted in K).
 * Published: Kim et al. report it better than kd at its best temperature on CIFAR-100.
 * Cost: one pass; nothing else. */
#include "distill/loss.h"

static double scale(const kd_loss_distill *loss, size_t classes)
{
    return loss->desc.form == KD_FORM_CODE ? 1 / (double)classes : loss->desc.form == KD_FORM_PAPER ? 0.5 : 1;
}

static void rows(const kd__soft *s)
{
    const size_t n = s->classes;
    for (size_t r = 0; r < s->rows; r++) {
        const float *a = s->student + r * s->student_stride, *b = s->teacher + r * s->teacher_stride, coef = s->coef[r];
        float *g = s->grad ? s->grad + r * s->grad_stride : NULL;
        double sum;
        if (coef == 0.0f) continue;
        s->kernels->difference_sum_f32(0, a, b, n, &sum);
        if (sum - sum == 0) {
            if (g) s->kernels->difference_backward_f32(0, coef, NULL, a, b, n, g, 1);
        } else {
            sum = 0;
            for (size_t c = 0; c < n; c++) {
                if (a[c] == -__builtin_inff() || b[c] == -__builtin_inff()) continue;
                double d = (double)a[c] - (double)b[c];
                sum += d * d;
                if (g) g[c] += (float)(2 * (double)coef * d);
            }
        }
        s->soft[r] = (float)sum;
    }
}

const kd__method kd__method_MSE_LOGITS = {
    .formula = "1 / (B K) sum_b |student - teacher|^2",
    .needs = KD__RAW, .forms = 3,
    .scale = scale, .rows = rows,
};
