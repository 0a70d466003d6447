/* method_pskd.c - the student of the epoch before as teacher.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* - sum ((1 - a) onehot + a p) log q at temperature 1; no advance was made: a = alpha min(1 / beta, 1) */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes, y = (size_t)x->labels[r];
    double *p = mr_new(n), *q = mr_new(n), a = x->alpha * (x->beta > 1 ? 1 / x->beta : 1), sum = 0;
    mr_softmax(x->teacher + r * n, n, 1, p);
    mr_log_softmax(x->student + r * n, n, 1, q);
    for (size_t c = 0; c < n; c++) {
        double target = a * p[c] + (c == y ? 1 - a : 0);
        if (target > 0) sum -= target * q[c];
    }
    return sum;
}

static void first_of_4(kd_loss_distill_desc *d) { d->beta = 4; }
static void labels_only(kd_loss_distill_desc *d) { d->alpha = 0; }
static void teacher_only(kd_loss_distill_desc *d) { d->alpha = 1; }

const method_output method_output_PSKD = {
    .row = row,
    .needs = METHOD_LABELS,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "beta 4", first_of_4 }, { "alpha 0", labels_only }, { "alpha 1", teacher_only } },
};
