/* method_multi_teacher.c - several teachers, combined before the divergence.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static const double *teacher_at(const method_in *x, size_t i, size_t r) { return (i ? x->more[i - 1] : x->teacher) + r * x->classes; }

static double row(const method_in *x, size_t r)
{
    size_t n = x->classes, count = x->more_count + 1, best = 0;
    double *p = mr_new(n), *q = mr_new(n), *one = mr_new(n), total = 0, least = INFINITY;
    for (size_t i = 0; i < count; i++) total += x->desc->teacher_weights ? (double)x->desc->teacher_weights[i] : 1;
    for (size_t i = 0; i < count; i++) {
        const double *t = teacher_at(x, i, r);
        double w = (x->desc->teacher_weights ? (double)x->desc->teacher_weights[i] : 1) / total;
        if (x->desc->teachers == KD_TEACHERS_MEAN_LOGITS) memcpy(one, t, n * sizeof *one);
        else mr_softmax(t, n, x->T, one);
        for (size_t c = 0; c < n; c++) p[c] += w * one[c];
        if (x->desc->teachers == KD_TEACHERS_BEST) {
            double error = mr_cross_entropy_label(t, n, (size_t)x->labels[r]);
            if (i == 0 || error < least) least = error, best = i;
        }
    }
    if (x->desc->teachers == KD_TEACHERS_BEST) memcpy(p, teacher_at(x, best, r), n * sizeof *p);
    if (x->desc->teachers == KD_TEACHERS_MEAN_PROBS)
        for (size_t c = 0; c < n; c++) p[c] = log(p[c]);
    mr_log_softmax(p, n, x->desc->teachers == KD_TEACHERS_MEAN_PROBS ? 1 : x->T, p);
    mr_log_softmax(x->student + r * n, n, x->T, q);
    return (x->desc->temperature_squared ? x->T * x->T : 1) * mr_kl_logs(p, q, n);
}

static void logits(kd_loss_distill_desc *d) { d->teachers = KD_TEACHERS_MEAN_LOGITS; }
static void best(kd_loss_distill_desc *d) { d->teachers = KD_TEACHERS_BEST; }
static const float weights[3] = { 1, .5f, 3 };
static void weighted(kd_loss_distill_desc *d) { d->teacher_weights = weights, d->teacher_weight_count = 3; }

const method_output method_output_MULTI_TEACHER = {
    .row = row,
    .needs = METHOD_MORE | METHOD_LABELS,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT,
    .options = { { "default", NULL }, { "logits", logits }, { "best", best }, { "weights", weighted } },
};
