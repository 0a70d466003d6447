/* uld.c - universal logit distillation (Boizard, El Haddad, Hudelot, Colombo 2024, arXiv 2402.12030).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b sum_i |p_(i) - q_(i)|,  p_(i), q_(i): the i-th largest of softmax(teacher / T), softmax(student / T)
 *     The teacher may have another number of classes (kd_distill_batch.teacher_width): the shorter is filled with zeros.
 * Gradient: T (h - q sum h) / B,  h_k = q_k sign(q_(i) - p_(i)) for the rank i of class k;  sign 0 = 0.
 * Divides by: rows (B): tokens that both have, those with ignore_index left out.
 * Detached: the teacher; the order.
 * Defaults: T 1, hard_weight 0, soft_weight 1; the paper adds cross-entropy with weight 1 to 1.5 times this.
 * Forms: one.
 * Traps: it compares shapes of distributions, not classes: any permutation of the teacher gives the same value, 0 included.  The public
 *     code averages over tokens of a sample first, then over samples: for that, weight the rows by 1 / tokens of their sample.  Equal
 *     probabilities keep the order of the classes.
 * Published: its tables are of pairs with different tokenisers (Llama 2, Mistral to OPT, Pythia, Bloomz).
 * Cost: eight rows of scratch, of the wider side. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 1, d->hard_weight = 0, d->soft_weight = 1; }
static size_t scratch(const kd__soft *s)
{
    const size_t wide = KD_MAX(s->classes, s->teacher_width);
    return wide > SIZE_MAX / 16 ? SIZE_MAX : 8 * wide + 2;
}

static void rows(const kd__soft *s)
{
    const size_t n = s->classes, m = s->teacher_width, wide = KD_MAX(n, m);
    float *q = s->scratch, *qs = q + wide, *ps = qs + wide, *work = ps + wide;
    uint32_t *order = (uint32_t *)(void *)(work + KD__SORT_FLOATS(wide));
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        double sum = 0;
        s->kernels->softmax_f32(ps, m, s->teacher + r * s->teacher_stride, m, 1, m, s->desc->temperature, 0);
        s->kernels->softmax_f32(q, n, s->student + r * s->student_stride, n, 1, n, s->desc->temperature, 0);
        memcpy(qs, q, n * sizeof *q);
        kd__sort_descending(ps, order, m, work);
        kd__sort_descending(qs, order, n, work);
        for (size_t i = 0; i < wide; i++) {
            const float a = i < n ? qs[i] : 0.0f, b = i < m ? ps[i] : 0.0f;
            sum += (double)__builtin_fabsf(a - b);
            if (i < n) work[order[i]] = (float)((a > b) - (a < b));   /* dD / dq */
        }
        s->soft[r] = (float)sum;
        kd__through_softmax(s, r, work, q);
    }
}

const kd__method kd__method_ULD = { .formula = "T^2 / B sum_b sum_i |p_(i) - q_(i)|, sorted", .needs = KD__OTHER_CLASSES,
    .defaults = defaults, .scratch = scratch, .rows = rows };
