/* dkd.c - decoupled knowledge distillation (Zhao, Cui, Song, Qiu, Liang 2022, arXiv 2203.08679).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b [ alpha KL(b_t || b_s) + beta KL(p^ || q^) ]
 *     b = (p_y, 1 - p_y), the label's class against all others;  p^, q^ = softmax over the others alone
 * Gradient: with d = z_y / T - logsumexp of the others / T, so that b_s = sigmoid(d):
 *     alpha T (sigmoid(d_s) - sigmoid(d_t)) (onehot(y) - q^) + beta T (q^ - p^), over B.
 * Divides by: rows (B).
 * Detached: the teacher.
 * Defaults: T 4, alpha 1, beta 8, hard_weight 1, soft_weight 1, warm-up 20 epochs (paper, CIFAR-100, ResNet32x4 -> ResNet8x4; beta
 *     6 for VGG13 -> 8 and WRN40-2, 2 for ResNet56 -> 20; ImageNet T 1, beta 0.5, warm-up 1).
 * Forms: one.
 * Traps: public code takes the logarithm of a sum of probabilities, which is -inf when q_y underflows; here both groups are
 *     compared as logits.  It masks the label's class by subtracting 1000, which is not a mask for large logits at small T; here
 *     the class is left out.  Two classes leave one other, which carries nothing: that part is 0, where public code has been seen to
 *     give inf; so it is where all the others are masked.  Warm-up counts epochs from 1.  A row without a label leaves the soft
 *     term too.  Soft labels: y is their largest.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 76.32 (student 72.50, KD 73.33); ResNet56 -> 20 71.97 (student 69.06, KD 70.66).
 * Cost: three rows of scratch for each thread; two exponentials a logit. */
#include "distill/loss.h"

static void defaults(kd_loss_distill_desc *d)
{
    d->alpha = 1, d->beta = 8;
    d->hard_weight = 1, d->soft_weight = 1, d->warmup = 20;
}

static kd_status check(const kd_loss_distill_desc *d)
{
    KD_TRY(kd__number_check("alpha", d->alpha, 0));
    KD_TRY(kd__number_check("beta", d->beta, 0));
    if (d->alpha == 0.0f && d->beta == 0.0f)
        return kd__fail(KD_ERR_ARG, "kd_loss_distill: method dkd with alpha and beta 0 is nothing: kd_loss_distill_desc_for has its numbers");
    return KD_OK;
}

static size_t scratch(const kd__soft *s) { return kd__times(3, s->classes); }   /* one row at a time */

/* One side of a row.  p: probabilities of the classes other than y; their logarithms are (z - top) / T + log_top.  y itself against
 * all of them: chance[0], that of the others chance[1], and their logarithms. */
typedef struct side { double top, log_top, chance[2], log_chance[2]; bool others; } side;

static const float lowest = -0x1.fffffep127f;   /* no class; but times 0 it is 0 */

/* z and p become the row without class y, and its probabilities. */
static side without(const kd__soft *s, const float *row, size_t y, float *z, float *p)
{
    const size_t n = s->classes;
    float top;
    int32_t at;
    s->kernels->unary_f32(KD_UNARY_CLAMP, z, row, n, lowest, -lowest);
    z[y] = lowest;
    s->kernels->row_max_f32(&top, &at, z, 1, n, n);
    s->kernels->softmax_f32(p, n, z, n, 1, n, s->desc->temperature, 0);
    double log_top = p[at] > 0.0f ? kd__fixed_log((double)p[at]) : (double)p[at];
    side x = { .top = (double)top, .log_top = log_top, .chance = { 1, 0 }, .log_chance = { 0, -__builtin_inf() }, .others = top != lowest };
    if (!x.others) return x;
    double odds = ((double)row[y] - x.top) / (double)s->desc->temperature + log_top, far = odds < 0 ? odds : -odds;
    double small = far < -700 ? 0 : kd__fixed_exp(far), rest = odds == odds ? kd__fixed_log(1 + small) : odds;
    int more = odds < 0;   /* which of the two is the likelier */
    x.chance[more] = 1 / (1 + small), x.chance[!more] = small / (1 + small);
    x.log_chance[more] = -rest, x.log_chance[!more] = far - rest;
    return x;
}

/* p (log p - log q); p = 0 gives 0. */
static double part(const side *b, const side *a, int i)
{
    return b->chance[i] == 0 ? 0 : b->chance[i] * (b->log_chance[i] - a->log_chance[i]);
}

static void rows(const kd__soft *s)
{
    const size_t n = s->classes;
    const double t = (double)s->desc->temperature, alpha = (double)s->desc->alpha, beta = (double)s->desc->beta;
    const kd__kernels *k = s->kernels;
    float *z = s->scratch, *q = z + n, *p = q + n;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0.0f) continue;
        double others = 0, mass, sum_s, sum_t, coef = (double)s->coef[r];
        size_t y = (size_t)s->labels[r];
        side b = without(s, s->teacher + r * s->teacher_stride, y, z, p);
        k->dot_f32(&sum_t, p, z, n);
        side a = without(s, s->student + r * s->student_stride, y, z, q);
        bool both = a.others && b.others;
        if (both) {   /* sum p^ (log p^ - log q^); the tops leave the sums first, in double */
            k->sum_f32(&mass, p, n);
            k->dot_f32(&sum_s, p, z, n);
            others = (sum_t - mass * b.top - sum_s + mass * a.top) / t + mass * (b.log_top - a.log_top);
            if (others > 1e30) others = __builtin_inf();   /* mass where the student is masked */
            if (others < 0) others = 0;
        }
        double target = part(&b, &a, 0);
        if (both) target += part(&b, &a, 1);
        s->soft[r] = (float)((alpha > 0 ? alpha * target : 0) + (beta > 0 ? beta * others : 0));
        if (!s->grad || !both) continue;
        float *g = s->grad + r * s->grad_stride;
        double off = a.chance[0] - b.chance[0];
        k->axpy_f32(g, q, n, (float)(coef / t * (beta - alpha * off)));
        k->axpy_f32(g, p, n, (float)(-coef / t * beta));
        g[y] += (float)(coef / t * alpha * off);
    }
}

const kd__method kd__method_DKD = {
    .formula = "T^2 / B sum_b [alpha KL(target || target) + beta KL(others || others)]",
    .needs = KD__LABELS,
    .defaults = defaults, .check = check, .scratch = scratch, .rows = rows,
};
