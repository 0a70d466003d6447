/* method_tfkd.c - a virtual teacher, made from the label.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* CODE: KL(softmax(u / T) || softmax(s)) / K; PAPER: KL(u^(1/T) normalised || softmax(s / T)) */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes, y = (size_t)x->labels[r];
    double *u = mr_new(n), *p = mr_new(n), *q = mr_new(n);
    int paper = x->form == KD_FORM_PAPER;
    for (size_t c = 0; c < n; c++) {
        double mass = n == 1 ? 1 : c == y ? x->alpha : (1 - x->alpha) / (double)(n - 1);
        u[c] = paper ? log(mass) : mass;
    }
    mr_log_softmax(u, n, x->T, p);
    mr_log_softmax(x->student + r * n, n, paper ? x->T : 1, q);
    return mr_kl_logs(p, q, n) / (paper ? 1 : (double)n);
}

static void paper(kd_loss_distill_desc *d) { d->form = KD_FORM_PAPER, d->temperature = 20; }
static void timid(kd_loss_distill_desc *d) { d->alpha = 0.3f; }

/* the student is at temperature 1 in CODE, at T in PAPER */
static double size(const method_in *x) { return x->form == KD_FORM_PAPER ? 2 : 2 / (double)x->classes * x->T; }

const method_output method_output_TFKD = {
    .row = row, .size = size,
    .needs = METHOD_LABELS | METHOD_NO_TEACHER,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT,
    .but = METHOD_NO_MASKS,
    .options = { { "default", NULL }, { "paper", paper }, { "alpha .3", timid } },
};
