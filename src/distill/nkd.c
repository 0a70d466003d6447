/* nkd.c - normalised distillation (Yang, Zeng, Li, Zhang, Yuan, Li 2023, arXiv 2303.13005).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = - 1 / B sum_b [ p_y log q_y + gamma T^2 sum_{k != y} p^_k log q^_k ]
 *     p, q: softmax at temperature 1;  p^, q^: softmax at T over the classes but the label y
 * Gradient: (p_y (q - onehot y) + gamma T (q^ - p^)) / B.
 * Divides by: rows (B).  temperature_squared 0 takes T^2 out of the second part.
 * Detached: the teacher.
 * Defaults: T 1, gamma 1.5, hard_weight 1, soft_weight 1 (ImageNet; the paper's CIFAR-100 uses T 3 and gamma 3.5).
 * Forms: one.
 * Traps: the label's logit is taken out, not lowered by a number: no logit is large enough to show.  Both parts are cross-entropies,
 *     above the divergences by the teacher's entropy.  The target part is at temperature 1 whatever T is.  The first public version took
 *     the logarithm of a softmax and gave NaN; here all is in log space.  With one class the second part is 0, with two it is constant.
 *     A row without a label is in neither term; soft labels count as their largest class.
 * Published: ImageNet ResNet-34 -> 18 71.96, ResNet-50 -> MobileNetV1 72.58, DeiT-T 76.68.
 * Cost: three rows of scratch. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 1, d->gamma = 1.5f, d->hard_weight = 1, d->soft_weight = 1; }
static kd_status check(const kd_loss_distill_desc *d) { return kd__number_check("gamma", d->gamma, 0); }
static size_t scratch(const kd__soft *s) { return kd__times(3, s->classes); }

static void rows(const kd__soft *s)
{
    const kd__kernels *k = s->kernels;
    const size_t n = s->classes;
    const float t = s->desc->temperature;
    const double others = (double)s->desc->gamma * (s->desc->temperature_squared ? (double)t * (double)t : 1);
    float *lq = s->scratch, *p = lq + n, *row = p + n;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        const float *student = s->student + r * s->student_stride, *teacher = s->teacher + r * s->teacher_stride;
        float *grad = s->grad ? s->grad + r * s->grad_stride : NULL;
        const size_t y = (size_t)s->labels[r];
        const double coef = (double)s->coef[r];
        k->softmax_f32(p, n, teacher, s->teacher_stride, 1, n, 1, 0);
        k->softmax_f32(lq, n, student, s->student_stride, 1, n, 1, 1);
        const double target = (double)p[y];
        double value = target > 0 ? -target * (double)lq[y] : 0;
        if (grad) {
            k->unary_f32(KD_UNARY_EXP, lq, lq, n, 0, 0);
            k->axpy_f32(grad, lq, n, (float)(coef * target));
            grad[y] -= (float)(coef * target);
        }
        kd__row_without(row, student, n, y);
        k->softmax_f32(lq, n, row, n, 1, n, t, 1);
        kd__row_without(row, teacher, n, y);
        k->softmax_f32(p, n, row, n, 1, n, t, 0);
        value -= others * kd__dot_masked(k, p, lq, n);
        s->soft[r] = (float)value;
        if (!grad) continue;
        const double by = coef * others / (double)t;
        double sum;   /* 1; 0 if the teacher has no other class */
        k->sum_f32(&sum, p, n);
        k->unary_f32(KD_UNARY_EXP, lq, lq, n, 0, 0);
        k->axpy_f32(grad, lq, n, sum > 0 ? (float)by : 0);
        k->axpy_f32(grad, p, n, (float)-by);
    }
}

const kd__method kd__method_NKD = { .formula = "CE of the target, weighted by the teacher, + gamma T^2 CE(p^, q^) over the other classes",
    .needs = KD__LABELS, .defaults = defaults, .check = check, .scale = kd__unscaled, .scratch = scratch, .rows = rows };
