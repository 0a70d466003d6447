/* pskd.c - the student of the epoch before as teacher (Kim, Ji, Yoon, Hwang 2021, arXiv 2006.12000).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = - 1 / B sum_b sum_k ((1 - a) y_bk + a p_bk) log q_bk,   a = alpha min((advances + 1) / beta, 1)
 *     p = softmax(teacher), q = softmax(student), temperature 1;  y the label;  advances: calls of kd_loss_distill_advance, one an epoch
 *     The teacher's logits are the student's own of the epoch before, which the caller keeps: [samples, classes], by the loader's
 *     indices.  beta is the number of epochs; 0: a = alpha from the first batch on.
 * Gradient: (q - (1 - a) y - a p) / B.
 * Divides by: rows (B).  No T^2.
 * Detached: the teacher.
 * Defaults: alpha .8, beta 0 (set it to the epochs of the run), hard_weight 0, soft_weight 1: the label is in the soft term already.
 * Forms: one.
 * Traps: the table of last epoch's outputs belongs into the checkpoint (kd_checkpoint_add_bytes).  In the first epoch there is no teacher
 *     yet: give a loss with soft_weight 0 and hard_weight 1, or the student's present logits.  a grows linearly with the epoch, and so
 *     does not use `warmup`, which would scale the whole term.  A row without a label is left out; soft labels count as their largest.
 * Published: CIFAR-100 PreAct ResNet-18 error 24.18 -> 20.82, ResNet-101 20.75 -> 19.43.
 * Cost: three rows of scratch. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 1, d->hard_weight = 0, d->soft_weight = 1, d->alpha = 0.8f; }

static kd_status check(const kd_loss_distill_desc *d)
{
    if (!(d->alpha >= 0 && d->alpha <= 1))
        return kd__fail(KD_ERR_ARG, "kd_loss_distill: pskd: alpha %g is not in [0, 1]", (double)d->alpha);
    return kd__number_check("beta", d->beta, 0);
}

static size_t scratch(const kd__soft *s) { return kd__times(3, s->classes); }

static void rows(const kd__soft *s)
{
    const size_t n = s->classes;
    const double done = (double)s->loss->advances + 1, epochs = (double)s->desc->beta;
    const double a = (double)s->desc->alpha * (done < epochs ? done / epochs : 1);
    float *q = s->scratch, *p = q + n, *work = p + n;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        const float *student = s->student + r * s->student_stride;
        double top;
        s->kernels->softmax_f32(q, n, student, s->student_stride, 1, n, 1, 0);
        s->kernels->softmax_f32(p, n, s->teacher + r * s->teacher_stride, s->teacher_stride, 1, n, 1, 0);
        const size_t label = (size_t)s->labels[r];
        const double old = a * kd__cross_row(s->kernels, p, student, q, n, 1, work, &top);
        s->soft[r] = (float)((a > 0 ? old : 0) - (a < 1 ? (1 - a) * ((double)work[label] + top) : 0));
        if (!s->grad) continue;
        float *grad = s->grad + r * s->grad_stride;
        const double coef = (double)s->coef[r];
        s->kernels->axpy_f32(grad, q, n, s->coef[r]);
        s->kernels->axpy_f32(grad, p, n, (float)(-coef * a));
        grad[label] -= (float)(coef * (1 - a));
    }
}

const kd__method kd__method_PSKD = { .formula = "CE((1 - a) y + a p, q), p the student's own output an epoch ago",
    .needs = KD__LABELS | KD__SCHEDULED, .defaults = defaults, .check = check, .scale = kd__unscaled, .scratch = scratch, .rows = rows };
