/* taid.c - temporally adaptive interpolated distillation (Shing, Misaki, Bao, Yokoi, Akiba 2025, arXiv 2501.16937).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     CODE   soft = - T^2 / B sum_b sum_k r log q
 *     PAPER  soft = T^2 / B sum_b KL(r || q)
 *     r = softmax(((1 - a) student + a teacher) / T), a constant;  q = softmax(student / T)
 *     a begins at alpha.  After each batch of a TRAIN tape, or of kd_loss_distill_eval with a gradient, with the soft term L:
 *     d = (L_before - L) / (L_before + 1e-15),  m = beta m + (1 - beta) d,  a += gamma sigmoid(m) (1 - a),
 *     a = min(1, max(a, alpha + (1 - alpha) advances / warmup));  the first batch only stores L
 * Gradient: T (q - r) / B.
 * Divides by: rows (B); rows are tokens of a language model, those with ignore_index left out.
 * Detached: r, both of its parts.
 * Defaults: T 1, alpha .4, beta .99, gamma 5e-4, warmup 0 (no linear part: set it to the number of kd_loss_distill_advance calls in which
 *     a is to reach 1 at the latest), hard_weight 0, soft_weight 1.
 * Forms: CODE as the public code computes it; PAPER the divergence.  Gradients are equal, and so is what is learned; the speed of a depends
 *     on L, and so on the form.
 * Traps: the batch uses a as it was before its own update.  `warmup` moves a here and does not scale the term.  The state (a, m, L) is in
 *     the checkpoint.  A loss with a state is for one thread at a time.
 * Published: its tables compare LLM students at 1.1B to 8B (the paper).
 * Cost: four rows of scratch; four numbers of state. */
#include "distill/row_ops.h"

enum { MOVED, MOMENTUM, BEFORE, SEEN, STATE };   /* a - alpha, m, L, whether there was a batch */

static void defaults(kd_loss_distill_desc *d)
{
    d->temperature = 1, d->hard_weight = 0, d->soft_weight = 1;
    d->alpha = 0.4f, d->beta = 0.99f, d->gamma = 5e-4f;
}

static kd_status check(const kd_loss_distill_desc *d)
{
    if (!(d->alpha >= 0 && d->alpha <= 1))
        return kd__fail(KD_ERR_ARG, "kd_loss_distill: taid: alpha %g is not in [0, 1]", (double)d->alpha);
    if (!(d->beta >= 0 && d->beta < 1))
        return kd__fail(KD_ERR_ARG, "kd_loss_distill: taid: beta %g is not in [0, 1)", (double)d->beta);
    return kd__number_check("taid: gamma", d->gamma, 0);
}

static double mixing(const kd_loss_distill *loss)
{
    const double start = (double)loss->desc.alpha, all = (double)loss->desc.warmup, done = (double)loss->advances;
    const double line = loss->desc.warmup ? start + (1 - start) * (done < all ? done / all : 1) : 0;
    const double a = KD_MAX(start + loss->state[MOVED], line);
    return KD_MIN(a, 1.0);
}

static void observe(const kd_loss_distill *loss, double soft)
{
    double *state = loss->state;
    if (state[SEEN] != 0 && soft - soft == 0) {
        const double d = (state[BEFORE] - soft) / (state[BEFORE] + 1e-15), a = mixing(loss);
        state[MOMENTUM] = (double)loss->desc.beta * state[MOMENTUM] + (1 - (double)loss->desc.beta) * d;
        const double step = (double)loss->desc.gamma / (1 + kd__fixed_exp(-state[MOMENTUM])) * (1 - a);
        state[MOVED] = KD_MIN(a + step, 1.0) - (double)loss->desc.alpha;
    }
    if (soft - soft == 0) state[BEFORE] = soft, state[SEEN] = 1;
}

static size_t scratch(const kd__soft *s) { return kd__times(4, s->classes); }

static void rows(const kd__soft *s)
{
    const kd__kernels *k = s->kernels;
    const size_t n = s->classes;
    const float t = s->desc->temperature, a = (float)mixing(s->loss);
    float *mixed = s->scratch, *v = mixed + n, *q = v + n, *work = q + n;
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        const float *student = s->student + r * s->student_stride, *teacher = s->teacher + r * s->teacher_stride;
        if (a == 0 || a == 1) memcpy(mixed, a == 0 ? student : teacher, n * sizeof *mixed);
        else k->unary_f32(KD_UNARY_SCALE_ADD, mixed, student, n, 1 - a, 0), k->axpy_f32(mixed, teacher, n, a);
        k->softmax_f32(v, n, mixed, n, 1, n, t, 0);
        k->softmax_f32(q, n, student, n, 1, n, t, 0);
        double value = kd__cross_row(k, v, student, q, n, t, work, NULL);
        if (s->desc->form != KD_FORM_CODE) value -= kd__cross_row(k, v, mixed, v, n, t, work, NULL);
        s->soft[r] = (float)value;
        if (!s->grad) continue;
        const float coef = s->coef[r] / t;
        float *grad = s->grad + r * s->grad_stride;
        k->axpy_f32(grad, q, n, coef);
        k->axpy_f32(grad, v, n, -coef);
    }
}

const kd__method kd__method_TAID = { .formula = "T^2 / B sum_b CE(softmax((1 - a) s + a t), q), a from alpha to 1",
    .needs = KD__SCHEDULED | KD__OWN_WARMUP, .forms = 2, .state = STATE, .defaults = defaults, .check = check, .scratch = scratch,
    .rows = rows, .observe = observe };
