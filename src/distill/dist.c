/* dist.c - DIST: correlation of rows and of columns (Huang, You, Wang, Qian, Xu 2022, arXiv 2205.10536).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 [ beta (1 - 1/B sum_b rho(q_b, p_b)) + gamma (1 - 1/K sum_k rho(q_.k, p_.k)) ]
 *     q, p = softmax(student / T), softmax(teacher / T), [B, K];  rho(a, b) = a' . b' / (|a'| |b'| + 1e-8), a', b' less their
 *     means
 * Gradient: of rho by a: b' / (|a'| |b'| + 1e-8) - a' (a' . b') |b'| / |a'| / (|a'| |b'| + 1e-8)^2; summed over rows and columns,
 *     then through the softmax.
 * Divides by: rows (B) and classes (K), each correlation by its own number.
 * Detached: the teacher.
 * Defaults: T 4, beta 1, gamma 1, hard_weight 1, soft_weight 2 (the code's factor; CIFAR-100; ImageNet T 1).
 * Forms: CODE; PAPER without T^2, which only the code has.
 * Traps: the second part couples the rows of a batch: with one row it is gamma, with two its correlations are 1 or -1, and both
 *     have no useful gradient; it depends on the batch size.  With row weights the first part is weighted, the second takes every
 *     row that counts alike.  The 1e-8 matters where probabilities of a column are that small, and is kept as the code has it.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 76.31 (KD 73.33); ResNet56 -> 20 71.75; ImageNet ResNet34 -> 18 72.07.
 * Cost: three matrices [B, K]. */
#include "distill/loss.h"

enum { ROWS_AT_ONCE = 64 };   /* of a task, and of a sum in single precision */
enum { SUM_Q, SUM_P, QQ, PP, QP, REST_Q, REST_P, SPARE, PARTS };   /* columns, of each task: [PARTS][classes] */

typedef struct work {
    const kd__soft *s;
    size_t  count, tasks;       /* rows that count */
    int32_t *which;             /* they */
    float   *q, *p, *g;         /* [count, classes] */
    float   *parts, *mean_q, *mean_p, *a, *minus_b, *m;   /* the columns' gradient: a g - ((q - mean) minus_b + m) */
    double   all;               /* sum of coef */
    double   columns;           /* the second part */
} work;

static void defaults(kd_loss_distill_desc *d)
{
    d->beta = 1, d->gamma = 1;
    d->hard_weight = 1, d->soft_weight = 2;
}

static kd_status check(const kd_loss_distill_desc *d)
{
    KD_TRY(kd__number_check("beta", d->beta, 0));
    KD_TRY(kd__number_check("gamma", d->gamma, 0));
    if (d->beta == 0.0f && d->gamma == 0.0f)
        return kd__fail(KD_ERR_ARG,
                        "kd_loss_distill: dist with beta and gamma 0 is nothing: kd_loss_distill_desc_for has its numbers");
    return KD_OK;
}

static double scale(const kd_loss_distill *loss, size_t classes)
{
    return loss->desc.form == KD_FORM_CODE ? kd__squared(loss, classes) : 1;
}

static size_t padded(size_t n) { return (n + 15) / 16 * 16; }

static size_t scratch(const kd__soft *s)
{
    size_t tasks = s->rows / ROWS_AT_ONCE + 1, columns = kd__times(tasks * PARTS + 5, s->classes);
    size_t matrices = kd__times(3, kd__times(s->rows, s->classes));
    return matrices > SIZE_MAX / 4 || columns > SIZE_MAX / 4 ? SIZE_MAX : matrices + columns + padded(s->rows) + 48;
}

/* b / (|a| |b| + 1e-8) and the factor on -a, of a correlation with these sums of squares and products; rho itself. */
static double correlation(double aa, double bb, double ab, double *on_b, double *on_a)
{
    double a = __builtin_sqrt(aa > 0 ? aa : aa == aa ? 0 : aa), b = __builtin_sqrt(bb > 0 ? bb : bb == bb ? 0 : bb),
        size = a * b + 1e-8;
    *on_b = 1 / size;
    *on_a = a > 0 ? ab / size * (b / a) / size : a == 0 ? 0 : a;
    return ab / size;
}

static void softmax_task(size_t i, void *arg)
{
    const work *w = arg;
    const kd__soft *s = w->s;
    const size_t n = s->classes, first = i * ROWS_AT_ONCE, end = KD_MIN(first + ROWS_AT_ONCE, w->count);
    for (size_t r = first; r < end; r++) {
        size_t row = (size_t)w->which[r];
        s->kernels->softmax_f32(w->q + r * n, n, s->student + row * s->student_stride, n, 1, n, s->desc->temperature, 0);
        s->kernels->softmax_f32(w->p + r * n, n, s->teacher + row * s->teacher_stride, n, 1, n, s->desc->temperature, 0);
    }
    float *parts = w->parts + i * PARTS * n;
    s->kernels->column_sums_f32(parts + SUM_Q * n, w->q + first * n, end - first, n, n, 0);
    s->kernels->column_sums_f32(parts + SUM_P * n, w->p + first * n, end - first, n, n, 0);
}

/* Sums of squares and products about the means. */
static void squares_task(size_t i, void *arg)
{
    const work *w = arg;
    const size_t n = w->s->classes, first = i * ROWS_AT_ONCE, rows = KD_MIN((size_t)ROWS_AT_ONCE, w->count - first);
    const kd__kernels *k = w->s->kernels;
    const float *q = w->q + first * n, *p = w->p + first * n;
    float *parts = w->parts + i * PARTS * n, *spare = parts + SPARE * n;
    float *g = w->g + first * n;   /* q, then p less its mean: the latter for the gradient as well */
    k->binary_f32(KD_BINARY_SUB, g, n, (kd__operand){ q, n, 1 }, (kd__operand){ w->mean_q, 0, 1 }, rows, n);
    k->norm_columns_dots_f32(rows, n, g, q, w->mean_q, parts + REST_Q * n, parts + QQ * n, NULL);
    k->binary_f32(KD_BINARY_SUB, g, n, (kd__operand){ p, n, 1 }, (kd__operand){ w->mean_p, 0, 1 }, rows, n);
    k->norm_columns_dots_f32(rows, n, g, p, w->mean_p, parts + REST_P * n, parts + PP * n, NULL);
    k->norm_columns_dots_f32(rows, n, g, q, w->mean_q, spare, parts + QP * n, NULL);
}

static double total_of(const work *w, int part, size_t c)
{
    const size_t n = w->s->classes;
    double sum = 0;
    for (size_t i = 0; i < w->tasks; i++) sum += (double)w->parts[(i * PARTS + (size_t)part) * n + c];
    return sum;
}

static void gradient_task(size_t i, void *arg)
{
    const work *w = arg;
    const kd__soft *s = w->s;
    const kd__kernels *k = s->kernels;
    const size_t n = s->classes, first = i * ROWS_AT_ONCE, end = KD_MIN(first + ROWS_AT_ONCE, w->count);
    const double beta = (double)s->desc->beta;
    if (s->grad)
        k->norm_columns_backward_f32(end - first, n, w->g + first * n, w->q + first * n, w->mean_q, w->a, w->minus_b, w->m, NULL,
                                     w->g + first * n, 0);
    for (size_t r = first; r < end; r++) {
        size_t row = (size_t)w->which[r];
        const float *q = w->q + r * n, *p = w->p + r * n;
        double qq, pp, qp, mq, mp, on_p, on_q;
        k->dot_f32(&qq, q, q, n), k->dot_f32(&pp, p, p, n), k->dot_f32(&qp, q, p, n), k->sum_f32(&mq, q, n), k->sum_f32(&mp, p,
                n);
        double rho = correlation(qq - mq * mq / (double)n, pp - mp * mp / (double)n, qp - mq * mp / (double)n, &on_p, &on_q);
        s->soft[row] = (float)(beta * (1 - rho) + w->columns);
        if (!s->grad) continue;
        double coef = (double)s->coef[row] * beta;   /* the means drop out in the softmax */
        k->axpy_f32(w->g + r * n, p, n, (float)(-coef * on_p));
        k->axpy_f32(w->g + r * n, q, n, (float)(coef * on_q));
        k->softmax_backward_f32(s->grad + row * s->grad_stride, w->g + r * n, q, 1, n, s->desc->temperature, 0, 1);
    }
}

static kd_status batch(const kd__soft *s)
{
    const size_t n = s->classes;
    const double gamma = (double)s->desc->gamma;
    work w = { .s = s, .which = (int32_t *)(void *)s->scratch, .q = s->scratch + padded(s->rows) };
    for (size_t r = 0; r < s->rows; r++)
        if (s->coef[r] != 0.0f) w.which[w.count++] = (int32_t)r, w.all += (double)s->coef[r];
    w.p = w.q + s->rows * n, w.g = w.p + s->rows * n;
    w.mean_q = w.g + s->rows * n, w.mean_p = w.mean_q + n, w.a = w.mean_p + n, w.minus_b = w.a + n, w.m = w.minus_b + n,
        w.parts = w.m + n;
    w.tasks = (w.count + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    if (!w.count) return KD_OK;
    kd__parallel(s->ctx, w.tasks, softmax_task, &w);
    for (size_t c = 0; c < n; c++) {
        w.mean_q[c] = (float)(total_of(&w, SUM_Q, c) / (double)w.count);
        w.mean_p[c] = (float)(total_of(&w, SUM_P, c) / (double)w.count);
    }
    kd__parallel(s->ctx, w.tasks, squares_task, &w);
    double sum = 0, unit = w.all * gamma / (double)n, count = (double)w.count;
    for (size_t c = 0; c < n; c++) {
        double on_p = 0, on_q = 0, alone = w.count > 1 ? 1 : 0;
        double rest_q = total_of(&w, REST_Q, c), rest_p = total_of(&w, REST_P, c);   /* what rounding the means left */
        double qq = total_of(&w, QQ, c) - rest_q * rest_q / count, pp = total_of(&w, PP, c) - rest_p * rest_p / count;
        double qp = total_of(&w, QP, c) - rest_q * rest_p / count;
        sum += alone * correlation(qq, pp, qp, &on_p, &on_q);
        w.a[c] = (float)(-unit * on_p * alone);
        w.minus_b[c] = (float)(-unit * on_q * alone);
        w.m[c] = (float)(((double)w.a[c] * rest_p - (double)w.minus_b[c] * rest_q) / count);
    }
    w.columns = gamma * (1 - sum / (double)n);
    kd__parallel(s->ctx, w.tasks, gradient_task, &w);
    return KD_OK;
}

const kd__method kd__method_DIST = {
    .formula = "T^2 [beta (1 - mean over rows of rho(q, p)) + gamma (1 - mean over classes of rho(q, p))]",
    .forms = 2,
    .defaults = defaults, .check = check, .scale = scale, .scratch = scratch, .batch = batch,
};
