/* uskd.c - distillation without a teacher (Yang, Zeng, Li, Zhang, Yuan, Li 2023, arXiv 2303.13005, USKD).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = alpha A + beta N + gamma W
 *     A = - 1/B sum_b a_b log q_y,  a_b = q_y^2 + 1 - mean over rows of q_y^2
 *     N = - 1/B sum_b sum_{k != y} z_k log q^_k,  z = 1 / rank over the classes but y, brought to sum 1
 *     W = - 1/B sum_b sum_k (.9 [k = y] + .1 / K) log w_k
 *     q = softmax(student), q^ over the classes but the label y, w = softmax(student_second): the logits of a weak head, a linear layer on
 *     an inner feature of the student; temperature 1
 *     Rank 1, 2 .. of all classes (y takes its place too) by a key, the largest first, equal ones in the order of the classes:
 *     CODE   key = w_k / (1 - w_y + 1e-6) + log q_k / (1 - log q_y + 1e-6)
 *     PAPER  key = w_k / (1 - w_y + 1e-6) + q_k / (1 - q_y + 1e-6)
 * Gradient: (alpha a_b (q - onehot y) + beta (q^ - z)) / B for the student, gamma (w - smoothed label) / B for the weak head.
 * Divides by: rows (B).  No T^2.
 * Detached: the weights a and the ranks.
 * Defaults: alpha 1, beta .1, gamma .005, hard_weight 1, soft_weight 1 (ImageNet; .1, .1, .1 for CIFAR-100).
 * Forms: CODE ranks by what the public code has in its variable by then, a logarithm beside a probability; PAPER by probabilities.
 * Traps: alpha and beta do not scale the weak head's part.  The mean in a couples the rows: it is over the rows that count.  A row
 *     without a label is in no term; soft labels count as their largest class.  With one class N is 0.
 *     A class under a mask has a rank, and so a share of N: the value is +inf, the gradient finite.
 * Published: CIFAR-100 ResNet-18 79.90 against 78.58, ImageNet ResNet-18 70.79 against 69.90 (the paper).
 * Cost: eight rows of scratch for every sixteen rows. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d)
{
    d->temperature = 1, d->hard_weight = 1, d->soft_weight = 1;
    d->alpha = 1, d->beta = 0.1f, d->gamma = 0.005f;
}

static kd_status check(const kd_loss_distill_desc *d)
{
    KD_TRY(kd__number_check("alpha", d->alpha, 0));
    KD_TRY(kd__number_check("beta", d->beta, 0));
    return kd__number_check("gamma", d->gamma, 0);
}

enum { GROUP = 16 };   /* rows of a task */
typedef struct uskd_job { const kd__soft *s; float *space; double mean; } uskd_job;

static size_t scratch(const kd__soft *s) { return kd__times(kd__times(8, s->classes) + 16, s->rows / GROUP + 1); }

/* Where a class stands: its key among all, as the formula says. */
static void weights_by_rank(const kd__soft *s, size_t y, const float *lq, const float *lw, float *z, float *key)
{
    const size_t n = s->classes;
    const bool paper = s->desc->form == KD_FORM_PAPER;
    uint32_t *order = (uint32_t *)(void *)z;
    s->kernels->unary_f32(KD_UNARY_EXP, key, lq, n, 0, 0);
    const double q_y = paper ? (double)key[y] : (double)lq[y];
    s->kernels->unary_f32(KD_UNARY_EXP, z, lw, n, 0, 0);
    const double w_y = (double)z[y];
    for (size_t c = 0; c < n; c++)
        key[c] = (float)((double)z[c] / (1 - w_y + 1e-6) + (double)(paper ? key[c] : lq[c]) / (1 - q_y + 1e-6));
    kd__sort_descending(key, order, n, key + n);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        if (order[i] != y) sum += 1 / (double)(i + 1);
    for (size_t i = 0; i < n; i++) key[order[i]] = order[i] == y ? 0.0f : (float)(1 / ((double)(i + 1) * sum));
    memcpy(z, key, n * sizeof *z);
}

static void row(const kd__soft *s, size_t r, double mean, float *space)
{
    const kd__kernels *k = s->kernels;
    const size_t n = s->classes, y = (size_t)s->labels[r];
    const double coef = (double)s->coef[r], alpha = (double)s->desc->alpha, beta = (double)s->desc->beta, gamma = (double)s->desc->gamma;
    float *grad = s->grad ? s->grad + r * s->grad_stride : NULL;
    float *lq = space, *lw = lq + n, *z = lw + n, *key = z + n;   /* behind key: the sort's */
    const float *student = s->student + r * s->student_stride;
    k->softmax_f32(lq, n, student, s->student_stride, 1, n, 1, 1);
    k->softmax_f32(lw, n, s->second + r * s->second_stride, s->second_stride, 1, n, 1, 1);
    const double q_y = kd__fixed_exp((double)lq[y]), a = alpha * (q_y * q_y + 1 - mean);
    double value = a > 0 ? -a * (double)lq[y] : 0, sum;

    /* the weak head, while its logarithms are there */
    k->sum_f32(&sum, lw, n);
    value -= gamma * (0.9 * (double)lw[y] + 0.1 / (double)n * sum);
    float *second = s->grad_second ? s->grad_second + r * s->grad_second_stride : NULL;
    weights_by_rank(s, y, lq, lw, z, key);
    if (second) {
        k->unary_f32(KD_UNARY_EXP, lw, lw, n, 0, 0);
        kd__row_add(k, second, lw, n, (float)(coef * gamma), (float)(-coef * gamma * 0.1 / (double)n));
        second[y] -= (float)(coef * gamma * 0.9);
    }
    if (grad) {
        k->unary_f32(KD_UNARY_EXP, lq, lq, n, 0, 0);
        k->axpy_f32(grad, lq, n, (float)(coef * a));
        grad[y] -= (float)(coef * a);
    }
    kd__row_without(lw, student, n, y);
    k->softmax_f32(lq, n, lw, n, 1, n, 1, 1);
    if (n > 1) value -= beta * kd__dot_masked(k, z, lq, n);
    s->soft[r] = (float)value;
    if (!grad || n == 1) return;
    k->unary_f32(KD_UNARY_EXP, lq, lq, n, 0, 0);
    k->axpy_f32(grad, lq, n, (float)(coef * beta));
    k->axpy_f32(grad, z, n, (float)(-coef * beta));
}

static void group(size_t i, void *arg)
{
    const uskd_job *job = arg;
    const kd__soft *s = job->s;
    for (size_t r = i * GROUP; r < KD_MIN((i + 1) * GROUP, s->rows); r++)
        if (s->coef[r] != 0) row(s, r, job->mean, job->space + i * (8 * s->classes + 16));
}

static kd_status batch(const kd__soft *s)
{
    uskd_job job = { .s = s, .space = s->scratch };
    double sum = 0;
    size_t count = 0;
    for (size_t r = 0; r < s->rows; r++) {
        float all;
        if (s->coef[r] == 0) continue;
        s->kernels->logsumexp_f32(&all, s->student + r * s->student_stride, s->student_stride, 1, s->classes, 1);
        const double q_y = kd__fixed_exp((double)s->student[r * s->student_stride + (size_t)s->labels[r]] - (double)all);
        sum += q_y * q_y, count++;
    }
    job.mean = count ? sum / (double)count : 0;
    kd__parallel(s->ctx, (s->rows + GROUP - 1) / GROUP, group, &job);
    return KD_OK;
}

const kd__method kd__method_USKD = { .formula = "alpha a_b CE(y, q) + beta CE(1/rank, q^) + gamma CE(y, weak head), no teacher",
    .needs = KD__LABELS | KD__SECOND | KD__NO_TEACHER, .forms = 2, .defaults = defaults, .check = check, .scale = kd__unscaled,
    .scratch = scratch, .batch = batch };
