/* method_mlkd.c - instances, classes and batch, at five temperatures, of two views.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

typedef struct parts { double instance, classes, batch; } parts;

static parts view(const method_in *x, const double *s, const double *t, double T)
{
    size_t n = x->classes, rows = x->rows;
    double *p = mr_new(rows * n), *q = mr_new(rows * n), *lp = mr_new(n), *lq = mr_new(n);
    parts out = { 0, 0, 0 };
    for (size_t r = 0; r < rows; r++) {
        mr_log_softmax(t + r * n, n, T, lp);
        mr_log_softmax(s + r * n, n, T, lq);
        out.instance += (x->desc->temperature_squared ? T * T : 1) * mr_kl_logs(lp, lq, n) / (double)rows;
        for (size_t c = 0; c < n; c++) p[r * n + c] = exp(lp[c]), q[r * n + c] = exp(lq[c]);
    }
    for (size_t a = 0; a < n; a++)
        for (size_t b = 0; b < n; b++) {
            double d = 0;
            for (size_t r = 0; r < rows; r++) d += q[r * n + a] * q[r * n + b] - p[r * n + a] * p[r * n + b];
            out.classes += d * d / (double)n;
        }
    for (size_t a = 0; a < rows; a++)
        for (size_t b = 0; b < rows; b++) {
            double d = mr_dot(q + a * n, q + b * n, n) - mr_dot(p + a * n, p + b * n, n);
            out.batch += d * d / (double)rows;
        }
    return out;
}

static double share(double *x, size_t n)
{
    double count = 0;
    double *sorted = mr_new(n);
    memcpy(sorted, x, n * sizeof *x);
    mr_sort(sorted, n);
    double median = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
    for (size_t i = 0; i < n; i++) count += x[i] <= median;
    return count / (double)n;
}

static double batch(const method_in *x)
{
    size_t n = x->classes, rows = x->rows;
    double pool[5] = { x->T, 2, 3, 5, 6 }, sum = 0, by_row = 1, by_class = 1;
    if (x->form == KD_FORM_THIRD) {
        double *p = mr_new(n), *top = mr_new(rows), *mass = mr_new(n);
        for (size_t r = 0; r < rows; r++) {
            mr_softmax(x->teacher + r * n, n, 1, p);
            top[r] = p[mr_argmax(p, n)];
            for (size_t c = 0; c < n; c++) mass[c] += p[c];
        }
        by_row = share(top, rows), by_class = share(mass, n);
    }
    for (int i = 0; i < 5; i++) {
        parts weak = view(x, x->student, x->teacher, pool[i]), strong = view(x, x->second, x->teacher_second, pool[i]);
        if (x->form != KD_FORM_THIRD) {
            sum += weak.instance + weak.classes + weak.batch + strong.instance + strong.classes + strong.batch;
        } else {
            sum += by_row * weak.instance + by_class * weak.classes + by_row * weak.batch;
            sum += i == 1 || i == 4 ? weak.instance : strong.instance;
        }
    }
    return sum;
}

/* five temperatures of two views; the correlations' gradients grow with the rows */
static double size(const method_in *x) { return 2 * (4 + 9 + 25 + 36 + x->T * x->T) + 8 * (double)x->rows; }
static void code(kd_loss_distill_desc *d) { d->form = KD_FORM_THIRD; }

const method_output method_output_MLKD = {
    .batch = batch, .size = size,
    .needs = METHOD_SECOND | METHOD_TEACHER_SECOND,
    .holds = METHOD_ROW_ORDER | METHOD_CLASS_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER,
    .options = { { "default", NULL }, { "third", code } },
    .memory = 8,
};
