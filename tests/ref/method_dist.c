/* method_dist.c - DIST: correlation of rows and of columns.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double pearson(const double *a, const double *b, size_t n, size_t step)
{
    double ma = 0, mb = 0, ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) ma += a[i * step] / (double)n, mb += b[i * step] / (double)n;
    for (size_t i = 0; i < n; i++) {
        double u = a[i * step] - ma, v = b[i * step] - mb;
        ab += u * v, aa += u * u, bb += v * v;
    }
    return ab / (sqrt(aa) * sqrt(bb) + 1e-8);
}

/* T^2 [beta (1 - mean over rows of rho) + gamma (1 - mean over classes of rho)] */
static double batch(const method_in *x)
{
    size_t n = x->classes, rows = x->rows;
    double *p = mr_new(rows * n), *q = mr_new(rows * n), inter = 1, intra = 1;
    for (size_t r = 0; r < rows; r++) {
        mr_softmax(x->teacher + r * n, n, x->T, p + r * n);
        mr_softmax(x->student + r * n, n, x->T, q + r * n);
    }
    for (size_t r = 0; r < rows; r++) inter -= pearson(p + r * n, q + r * n, n, 1) / (double)rows;
    for (size_t c = 0; c < n; c++) intra -= pearson(p + c, q + c, rows, n) / (double)n;
    return (x->form == KD_FORM_CODE && x->desc->temperature_squared ? x->T * x->T : 1) * (x->beta * inter + x->gamma * intra);
}

/* The larger of the two terms whose difference a gradient's element is: q |p'| / (|q'| |p'|), of rows and of columns. */
static double term(const double *q, const double *p, size_t n, size_t step)
{
    double mq = 0, mp = 0, qq = 0, pp = 0, most = 0;
    for (size_t i = 0; i < n; i++) mq += q[i * step] / (double)n, mp += p[i * step] / (double)n;
    for (size_t i = 0; i < n; i++) {
        double u = q[i * step] - mq, v = p[i * step] - mp;
        qq += u * u, pp += v * v;
        most = fmax(most, fabs(v) * q[i * step]);
    }
    return most / (sqrt(qq) * sqrt(pp) + 1e-8);
}
static double size(const method_in *x)
{
    size_t n = x->classes, rows = x->rows;
    double *p = mr_new(rows * n), *q = mr_new(rows * n), of_rows = 1, of_columns = 1;
    for (size_t r = 0; r < rows; r++) {
        mr_softmax(x->teacher + r * n, n, x->T, p + r * n);
        mr_softmax(x->student + r * n, n, x->T, q + r * n);
    }
    for (size_t r = 0; r < rows; r++) of_rows = fmax(of_rows, term(q + r * n, p + r * n, n, 1));
    for (size_t c = 0; c < n; c++) of_columns = fmax(of_columns, term(q + c, p + c, rows, n));
    return x->T * x->T * (x->beta * of_rows + x->gamma * of_columns * (double)rows / (double)n + x->beta + x->gamma);
}

static void paper(kd_loss_distill_desc *d) { d->form = KD_FORM_PAPER; }

const method_output method_output_DIST = {
    .batch = batch, .size = size,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_SHIFT_STUDENT | METHOD_SHIFT_TEACHER,
    .options = { { "default", NULL }, { "paper", paper } },
};
