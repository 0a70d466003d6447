/* method_uskd.c - without a teacher: ranks and a weak head.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* alpha (- a log q_y) + beta (- sum z log q^) + gamma (- sum smooth log w); a and z are constants */
static double batch(const method_in *x)
{
    size_t n = x->classes, rows = x->rows;
    double *lq = mr_new(n), *fixed = mr_new(n), *lw = mr_new(n);
    double *lw_fixed = mr_new(n), *key = mr_new(n), *z = mr_new(n), *others = mr_new(n);
    double mean = 0, sum = 0;
    for (size_t r = 0; r < rows; r++)
        mean += exp(-2 * mr_cross_entropy_label(x->student_fixed + r * n, n, (size_t)x->labels[r])) / (double)rows;
    for (size_t r = 0; r < rows; r++) {
        size_t y = (size_t)x->labels[r], rest = 0;
        mr_log_softmax(x->student + r * n, n, 1, lq);
        mr_log_softmax(x->student_fixed + r * n, n, 1, fixed);
        mr_log_softmax(x->second + r * n, n, 1, lw);
        mr_log_softmax(x->second_fixed + r * n, n, 1, lw_fixed);
        double q_y = exp(fixed[y]), total = 0, a = q_y * q_y + 1 - mean;
        sum -= x->alpha * a * lq[y];
        for (size_t c = 0; c < n; c++) {
            double f = x->form == KD_FORM_PAPER ? exp(fixed[c]) : fixed[c], f_y = x->form == KD_FORM_PAPER ? q_y : fixed[y];
            key[c] = exp(lw_fixed[c]) / (1 - exp(lw_fixed[y]) + 1e-6) + f / (1 - f_y + 1e-6);
        }
        for (size_t c = 0; c < n; c++) {
            size_t rank = 1;
            for (size_t k = 0; k < n; k++) rank += key[k] > key[c] || (key[k] == key[c] && k < c);
            z[c] = c == y ? 0 : 1 / (double)rank;
            total += z[c];
        }
        for (size_t c = 0; c < n; c++)
            if (c != y) others[rest++] = x->student[r * n + c];
        double all = rest ? mr_log_sum_exp(others, rest) : 0;
        for (size_t c = 0; c < n; c++)
            if (c != y) sum -= x->beta * z[c] / total * (x->student[r * n + c] - all);
        for (size_t c = 0; c < n; c++) sum -= x->gamma * ((c == y ? 0.9 : 0) + 0.1 / (double)n) * lw[c];
    }
    return sum / (double)rows;
}

static void paper(kd_loss_distill_desc *d) { d->form = KD_FORM_PAPER; }
static void cifar(kd_loss_distill_desc *d) { d->alpha = d->beta = d->gamma = 0.1f; }

const method_output method_output_USKD = {
    .batch = batch,
    .needs = METHOD_LABELS | METHOD_SECOND | METHOD_NO_TEACHER,
    .holds = METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT,
    .but = METHOD_NO_TEMPERATURE | METHOD_NO_MASKS,
    .options = { { "default", NULL }, { "paper", paper }, { ".1", cifar } },
};
