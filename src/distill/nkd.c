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

/* log(1 + e^x) */
static double log_one_and(double x)
{
    if (x > 40) return x;
    return x < -40 ? kd__fixed_exp(x) : kd__fixed_log(1 + kd__fixed_exp(x));
}

/* The classes of a row but the label: out = softmax of them at T, row = their logits less the largest, top; log out = row / T + share. */
typedef struct nkd_others { double share; float top; bool none; } nkd_others;

static nkd_others others_of(const kd__soft *s, const float *logits, size_t y, float *row, float *out)
{
    const size_t n = s->classes;
    nkd_others o = { .top = 0 };
    int32_t at;
    kd__row_without(row, logits, n, y);
    s->kernels->row_max_f32(&o.top, &at, row, 1, n, n);
    o.none = o.top == -__builtin_inff();
    if (!o.none) s->kernels->unary_f32(KD_UNARY_SCALE_ADD, row, row, n, 1, -o.top);
    s->kernels->softmax_f32(out, n, row, n, 1, n, s->desc->temperature, 0);
    if (!o.none) o.share = kd__fixed_log((double)out[at]);
    return o;
}

/* The label's log-odds at temperature 1: its logit less the log-sum-exp of the others. */
static double odds_of(const kd__soft *s, nkd_others o, const float *row, float logit)
{
    float all;
    if (o.none) return __builtin_inf();
    if (s->desc->temperature == 1) return (double)logit - (double)o.top + o.share;
    s->kernels->logsumexp_f32(&all, row, s->classes, 1, s->classes, 1);
    return (double)logit - (double)o.top - (double)all;
}

static void rows(const kd__soft *s)
{
    const kd__kernels *k = s->kernels;
    const size_t n = s->classes;
    const float t = s->desc->temperature;
    const double others = (double)s->desc->gamma * (s->desc->temperature_squared ? (double)t * (double)t : 1);
    float *q = s->scratch, *p = q + n, *row = p + n;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        const float *student = s->student + r * s->student_stride, *teacher = s->teacher + r * s->teacher_stride;
        float *grad = s->grad ? s->grad + r * s->grad_stride : NULL;
        const size_t y = (size_t)s->labels[r];
        const double coef = (double)s->coef[r], by = coef * others / (double)t;
        nkd_others o = others_of(s, teacher, y, row, p);
        const double taught = 1 / (1 + kd__fixed_exp(-odds_of(s, o, row, teacher[y])));                              /* p_y */
        o = others_of(s, student, y, row, q);
        const double odds = odds_of(s, o, row, student[y]), rest = 1 / (1 + kd__fixed_exp(odds));   /* rest: 1 - q_y */
        double value = taught > 0 ? taught * log_one_and(-odds) : 0, sum;
        k->sum_f32(&sum, p, n);   /* 1; 0 if the teacher has no other class */
        if (sum > 0 && others > 0) value -= o.none ? -__builtin_inf() : others * (kd__dot_masked(k, p, row, n) / (double)t + sum * o.share);
        s->soft[r] = (float)value;
        if (!grad) continue;
        grad[y] -= (float)(coef * taught * rest);
        if (t == 1) {
            k->axpy_f32(grad, q, n, (float)(coef * taught * rest + (sum > 0 ? by : 0)));
        } else {
            k->axpy_f32(grad, q, n, sum > 0 ? (float)by : 0);
            k->softmax_f32(q, n, row, n, 1, n, 1, 0);
            k->axpy_f32(grad, q, n, (float)(coef * taught * rest));
        }
        k->axpy_f32(grad, p, n, (float)-by);
    }
}

const kd__method kd__method_NKD = { .formula = "CE of the target, weighted by the teacher, + gamma T^2 CE(p^, q^) over the other classes",
    .needs = KD__LABELS, .defaults = defaults, .check = check, .scale = kd__unscaled, .scratch = scratch, .rows = rows };
