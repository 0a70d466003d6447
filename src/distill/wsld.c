/* wsld.c - weighted soft labels (Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang 2021, arXiv 2102.00650).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b w_b (- sum_k p_k log q_k),  w_b = 1 - exp(-CE_s / (CE_t + 1e-7))
 *     p, q: softened by T;  CE_s, CE_t: cross-entropy of student and teacher with the label at temperature 1
 * Gradient: T w_b (q - p) / B.
 * Divides by: rows (B).
 * Detached: the teacher and the weights w.
 * Defaults: T 2, hard_weight 1, soft_weight 2.5 (ImageNet; the paper's CIFAR-100 uses T 4 and 2.25).
 * Forms: one.
 * Traps: cross-entropy form: its value differs from the divergence by the teacher's entropy, the gradient does not.  The public code
 *     computes the teacher with gradients on and softmax without an axis; neither changes the number.  Where the teacher gives the label
 *     no probability at all (a mask) the weight is 0.  A row without a label is in neither term; soft labels count as their largest class.
 * Published: ImageNet ResNet-34 -> 18 72.04 (71.54 elsewhere), ResNet-50 -> MobileNetV1 71.52.  Its CIFAR-100 numbers were not
 *     reproduced by users.
 * Cost: three rows of scratch. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 2, d->hard_weight = 1, d->soft_weight = 2.5f; }
static size_t scratch(const kd__soft *s) { return kd__times(3, s->classes); }

static double cross_entropy_at(const kd__soft *s, const float *row, int32_t label)
{
    float sum;
    s->kernels->logsumexp_f32(&sum, row, s->classes, 1, s->classes, 1);
    return KD_MAX((double)sum - (double)row[label], 0.0);
}

static double weight(double student, double teacher)
{
    if (teacher > 1e300) return 0;
    const double ratio = student / (teacher + 1e-7);
    return 1 - (ratio > 700 ? 0 : kd__fixed_exp(-ratio));
}

static void rows(const kd__soft *s)
{
    const size_t n = s->classes;
    const float t = s->desc->temperature;
    float *q = s->scratch, *p = q + n, *work = p + n;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        const float *student = s->student + r * s->student_stride, *teacher = s->teacher + r * s->teacher_stride;
        const double w = weight(cross_entropy_at(s, student, s->labels[r]), cross_entropy_at(s, teacher, s->labels[r]));
        s->kernels->softmax_f32(q, n, student, s->student_stride, 1, n, t, 0);
        s->kernels->softmax_f32(p, n, teacher, s->teacher_stride, 1, n, t, 0);
        s->soft[r] = w == 0 ? 0.0f : (float)(w * kd__cross_row(s->kernels, p, student, q, n, t, work, NULL));
        if (!s->grad) continue;
        const float coef = (float)((double)s->coef[r] * w / (double)t);
        float *grad = s->grad + r * s->grad_stride;
        s->kernels->axpy_f32(grad, q, n, coef);
        s->kernels->axpy_f32(grad, p, n, -coef);
    }
}

const kd__method kd__method_WSLD = { .formula = "T^2 / B sum_b w_b CE(p, q), w = 1 - exp(-CE_s / CE_t)", .needs = KD__LABELS,
    .defaults = defaults, .scratch = scratch, .rows = rows };
