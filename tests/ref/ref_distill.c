/* ref_distill.c - see ref_distill.h.
 * SPDX-License-Identifier: MIT */
#include "ref_distill.h"
#include <math.h>
#include <stdlib.h>

/* out[c] = z[c] / T - log sum exp(z / T) */
static void log_softmax(const double *z, size_t n, double temperature, double *out)
{
    double top = -INFINITY, sum = 0;
    for (size_t c = 0; c < n; c++) top = z[c] > top ? z[c] : top;
    for (size_t c = 0; c < n; c++) sum += exp((z[c] - top) / temperature);
    for (size_t c = 0; c < n; c++) out[c] = (z[c] - top) / temperature - log(sum);
}

/* sum a (log a - log b); a = 0 contributes nothing */
static double kl(const double *log_a, const double *log_b, size_t n)
{
    double sum = 0;
    for (size_t c = 0; c < n; c++)
        if (exp(log_a[c]) > 0) sum += exp(log_a[c]) * (log_a[c] - log_b[c]);
    return sum;
}

static double soft_row(const ref_distill *d, const double *s, const double *t, double *p, double *q, double *m)
{
    size_t n = d->classes;
    if (d->hard_teacher) {
        size_t best = 0;
        for (size_t c = 1; c < n; c++)
            if (t[c] > t[best]) best = c;
        log_softmax(s, n, 1, q);
        return -q[best];
    }
    log_softmax(s, n, d->temperature, q);
    if (d->teacher_form == 1) log_softmax(t, n, d->temperature, p);
    for (size_t c = 0; c < n && d->teacher_form != 1; c++) p[c] = d->teacher_form == 2 ? t[c] : log(t[c]);
    if (d->direction == 1) return kl(p, q, n);
    if (d->direction == 2) return kl(q, p, n);
    double beta = d->js_beta;
    for (size_t c = 0; c < n; c++) m[c] = log(beta * exp(p[c]) + (1 - beta) * exp(q[c]));
    return beta * kl(p, m, n) + (1 - beta) * kl(q, m, n);
}

/* -sum_c w[c] target[c] log q[c]; target = (1 - smoothing) label + smoothing / classes */
static double hard_row(const ref_distill *d, const double *s, size_t r, double *q)
{
    size_t n = d->classes;
    double sum = 0;
    log_softmax(s, n, 1, q);
    for (size_t c = 0; c < n; c++) {
        double label = d->soft_labels ? d->soft_labels[r * n + c] : (int64_t)c == d->labels[r];
        double target = (1 - d->smoothing) * label + d->smoothing / (double)n;
        double w = d->class_weights ? d->class_weights[c] : 1;
        if (w * target != 0) sum -= w * target * q[c];
    }
    return sum;
}

ref_distill_value ref_distill_eval(const ref_distill *d, double *row_loss)
{
    ref_distill_value v = { 0, 0, 0, 0, 0 };
    double hard_sum = 0, soft_sum = 0, hard_div = 0, soft_div = 0;
    double *work = malloc(3 * (d->classes + 1) * sizeof *work);
    double *p = work, *q = work + d->classes, *m = q + d->classes;
    double t2 = d->hard_teacher || !d->squared ? 1 : d->temperature * d->temperature;

    for (size_t r = 0; r < d->rows; r++) {
        const double *s = d->student + r * d->classes, *t = d->teacher ? d->teacher + r * d->classes : NULL;
        double rw = d->row_weights ? d->row_weights[r] : 1, row = 0;
        int taught = d->soft_weight > 0 && t, labelled = d->hard_weight > 0;
        if (d->labels && d->labels[r] == d->ignore_index) taught = labelled = 0;
        if (d->labels && d->labels[r] == d->unlabelled_index) labelled = 0;
        if (labelled) {
            double ce = hard_row(d, s, r, q);
            double w = d->class_weights && d->labels ? d->class_weights[d->labels[r]] : 1;
            hard_sum += rw * ce, hard_div += rw * w, v.hard_rows++;
            row += d->hard_weight * rw * ce;
        }
        if (taught) {
            double kd = t2 * soft_row(d, s, t, p, q, m);
            soft_sum += rw * kd, soft_div += rw, v.soft_rows++;
            row += d->soft_weight * rw * kd;
        }
        if (row_loss) row_loss[r] = row;
    }
    free(work);
    if (d->reduction == 2 || d->reduction == 3) hard_div = soft_div = 1;
    if (d->reduction == 4) hard_div *= (double)d->classes, soft_div *= (double)d->classes;
    v.hard = hard_div > 0 ? hard_sum / hard_div : 0;
    v.soft = soft_div > 0 ? soft_sum / soft_div : 0;
    v.loss = d->hard_weight * v.hard + d->soft_weight * v.soft;
    return v;
}
