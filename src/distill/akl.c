/* akl.c - adaptive Kullback-Leibler divergence (Wu, Tao, Wang, Yang, Zhao, Wong 2024, arXiv 2404.02657).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b [ a KL(p || q) + (1 - a) KL(q || p) ],  a = g_head / (g_head + g_tail)
 *     g: sums of |p - q| over the classes of the teacher's head and tail; the head: the most probable classes, each before which the sum
 *     of p is below alpha;  p = softmax(teacher / T), q = softmax(student / T);  no gap at all: a = 1/2
 * Gradient: a T (q - p) / B + (1 - a) T q (w - sum q w) / B,  w = log q - log p.
 * Divides by: rows (B); rows are tokens of a language model, those with ignore_index left out.
 * Detached: the teacher; the weights a.
 * Defaults: T 1, alpha .5 (the paper's mu), hard_weight 0, soft_weight 1.
 * Forms: one: the paper's.
 * Traps: the public code applies the mask of the head, which is in ascending order, to gaps in the order of the classes, lets the gradient
 *     run through the weights, and has a cross-entropy for its forward part.  This is what the paper describes.  Equal probabilities
 *     enter the head in the order of the classes.  Under a mask of the teacher reverse KL is +inf where the student has mass.
 * Published: its tables are ROUGE-L of GPT-2, Llama; above forward, reverse and Jensen-Shannon there.
 * Cost: eight rows of scratch, and the kernel's. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 1, d->hard_weight = 0, d->soft_weight = 1, d->alpha = 0.5f; }

static kd_status check(const kd_loss_distill_desc *d)
{
    if (d->alpha >= 0 && d->alpha <= 1) return KD_OK;
    return kd__fail(KD_ERR_ARG, "kd_loss_distill: akl: alpha %g is not in [0, 1]", (double)d->alpha);
}

static size_t scratch(const kd__soft *s)
{
    const size_t rows = kd__times(8, s->classes);
    return rows > SIZE_MAX / 4 ? SIZE_MAX : kd__distill_scratch(s->classes) + 32 + rows;
}

static double share(const kd__soft *s, size_t r, float *p, float *q, float *sorted, float *work)
{
    const size_t n = s->classes;
    uint32_t *order = (uint32_t *)(void *)(work + KD__SORT_FLOATS(n));
    double before = 0, head = 0, tail = 0;
    s->kernels->softmax_f32(p, n, s->teacher + r * s->teacher_stride, n, 1, n, s->desc->temperature, 0);
    s->kernels->softmax_f32(q, n, s->student + r * s->student_stride, n, 1, n, s->desc->temperature, 0);
    memcpy(sorted, p, n * sizeof *p);
    kd__sort_descending(sorted, order, n, work);
    for (size_t i = 0; i < n; i++) {
        const double gap = __builtin_fabs((double)p[order[i]] - (double)q[order[i]]);
        if (before < (double)s->desc->alpha) head += gap;
        else tail += gap;
        before += (double)sorted[i];
    }
    return head + tail > 0 ? head / (head + tail) : 0.5;
}

static void rows(const kd__soft *s)
{
    const size_t n = s->classes;
    float *kernel = s->scratch, *p = kernel + (kd__distill_scratch(n) + 15) / 16 * 16, *q = p + n, *grad = q + n, *work = grad + n;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        const double a = share(s, r, p, q, grad, work), weights[2] = { a, 1 - a };
        double value = 0;
        for (uint32_t i = 0; i < 2; i++) {
            const float none = 0, coef = (float)((double)s->coef[r] * weights[i]);
            float hard, soft;
            if (weights[i] == 0 || coef == 0) continue;
            kd__distill_args args = { .rows = 1, .classes = n, .student = s->student + r * s->student_stride, .student_stride = n,
                                      .teacher = s->teacher + r * s->teacher_stride, .teacher_stride = n, .hard_coef = &none,
                                      .soft_coef = &coef, .grad = s->grad ? grad : NULL, .grad_stride = n, .hard = &hard, .soft = &soft,
                                      .scratch = kernel, .masked = &(uint32_t){ 0 }, .temperature = s->desc->temperature,
                                      .direction = i ? KD_DIRECTION_REVERSE : KD_DIRECTION_FORWARD, .teacher_form = KD_TEACHER_LOGITS };
            s->kernels->distill_f32(&args);
            value += weights[i] * (double)soft;
            if (s->grad) s->kernels->axpy_f32(s->grad + r * s->grad_stride, grad, n, 1);
        }
        s->soft[r] = (float)value;
    }
}

const kd__method kd__method_AKL = { .formula = "T^2 / B sum_b a KL(p || q) + (1 - a) KL(q || p), a: share of the head in |p - q|",
    .defaults = defaults, .check = check, .scratch = scratch, .rows = rows };
