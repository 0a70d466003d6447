/* binary.c - one sigmoid a class: distillation of multi-label classifiers and detectors' class heads.
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b sum_k KL(Bernoulli(sigmoid(t / T)) || Bernoulli(sigmoid(s / T)))
 * Gradient: T (sigmoid(s / T) - sigmoid(t / T)) / B.
 * Divides by: rows (B); summed over classes.
 * Detached: the teacher.
 * Defaults: T 1, hard_weight 0, soft_weight 1.
 * Forms: one.
 * Traps: the hard term is cross-entropy over classes, not one sigmoid a class: leave hard_weight 0 and add your own.  Binary
 *     cross-entropy with soft targets has this gradient and is larger by the teacher's entropy.  Averages over rows times classes
 *     (KD_REDUCE_MEAN_ELEMENTS) make it smaller by the number of classes.  A logit of -inf is probability 0; where the teacher has some
 *     and the student none the value is +inf, the gradient finite.
 * Published: none that is a number of this loss alone.
 * Cost: four rows of scratch. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 1, d->hard_weight = 0, d->soft_weight = 1; }
static size_t scratch(const kd__soft *s) { return kd__times(4, s->classes); }

/* KL = a (t - s) + softplus(s) - softplus(t), a = sigmoid(t).  With both logits turned it is the same number, so both are turned to where
 * the teacher's is negative: softplus is small there, and nothing cancels. */
static void rows(const kd__soft *s)
{
    const size_t n = s->classes;
    const kd__kernels *k = s->kernels;
    const float t = s->desc->temperature;
    float *x = s->scratch, *y = x + n, *a = y + n, *b = a + n;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        const float *student = s->student + r * s->student_stride, *teacher = s->teacher + r * s->teacher_stride;
        double sum = 0;
        for (size_t c = 0; c < n; c++) {
            x[c] = -__builtin_fabsf(teacher[c]) / t, y[c] = __builtin_copysignf(1, -teacher[c]) * student[c] / t;
        }
        k->unary_f32(KD_UNARY_SIGMOID, a, x, n, 0, 0);
        k->unary_f32(KD_UNARY_SOFTPLUS, b, x, n, 0, 0);
        for (size_t c = 0; c < n; c++) sum += (a[c] > 0 ? (double)a[c] * ((double)x[c] - (double)y[c]) : 0) - (double)b[c];
        k->unary_f32(KD_UNARY_SOFTPLUS, b, y, n, 0, 0);
        for (size_t c = 0; c < n; c++) sum += (double)b[c];
        s->soft[r] = (float)KD_MAX(sum, 0.0);
        if (sum != sum) s->soft[r] = (float)sum;
        if (!s->grad) continue;
        float *grad = s->grad + r * s->grad_stride;
        const float coef = s->coef[r] / t;
        k->unary_f32(KD_UNARY_SIGMOID, b, y, n, 0, 0);
        for (size_t c = 0; c < n; c++) grad[c] += __builtin_copysignf(coef, -teacher[c]) * (b[c] - a[c]);
    }
}

const kd__method kd__method_BINARY = { .formula = "T^2 / B sum_b sum_k KL of Bernoullis, a sigmoid a class", .defaults = defaults,
    .scratch = scratch, .rows = rows };
