/* prepare.c - teachers become one and plain logits; standardised logits (Sun et al. 2024).
 * SPDX-License-Identifier: MIT */
#include "distill/prepare.h"

#define MASK (-__builtin_inff())

/* ---- standardised logits ------------------------------------------------------------------------------------------------ */
static double root(double x) { return __builtin_sqrt(x); }

/* The same where some classes are -inf: they stay so, and the statistics are of the others. */
static void standardize_some(float *out, const float *in, size_t n, float keep[2])
{
    double sum = 0, squares = 0, count = 0;
    for (size_t c = 0; c < n; c++)
        if (in[c] != MASK) sum += (double)in[c], count += 1;
    double mean = count > 0 ? sum / count : 0;
    for (size_t c = 0; c < n; c++)
        if (in[c] != MASK) squares += ((double)in[c] - mean) * ((double)in[c] - mean);
    double deviation = count > 1 ? root(squares / (count - 1)) : 0;
    keep[0] = (float)(1 / (deviation + 1e-7));
    keep[1] = deviation > 0 ? (float)(1 / ((count - 1) * deviation)) : 0;
    for (size_t c = 0; c < n; c++) out[c] = in[c] != MASK ? (float)(((double)in[c] - mean) * (1 / (deviation + 1e-7))) : MASK;
}

void kd__standardize_row(const kd__kernels *kernels, float *out, const float *in, size_t n, float keep[2])
{
    double sum, squares, rest;
    kernels->sum_f32(&sum, in, n);
    if (n < 2 || sum == (double)MASK) {
        standardize_some(out, in, n, keep);
        return;
    }
    float mean = (float)(sum / (double)n);
    kernels->unary_f32(KD_UNARY_SCALE_ADD, out, in, n, 1, -mean);
    kernels->sum_f32(&rest, out, n);   /* what rounding the mean left */
    kernels->dot_f32(&squares, out, out, n);
    squares -= rest * rest / (double)n;
    double deviation = squares > 0 ? root(squares / (double)(n - 1)) : squares == squares ? 0 : squares;
    keep[0] = (float)(1 / (deviation + 1e-7));
    keep[1] = deviation == 0 ? 0 : (float)(1 / ((double)(n - 1) * deviation));
    kernels->unary_f32(KD_UNARY_SCALE_ADD, out, out, n, keep[0], (float)(-rest / (double)n * (double)keep[0]));
}

/* d in = (g - mean g) / (deviation + 1e-7) - z (g . z) / ((n - 1) deviation) */
void kd__standardize_row_back(const kd__kernels *kernels, float *grad, const float *g, const float *z, size_t n, const float keep[2])
{
    double sum, inner;
    size_t count = 0;
    kernels->dot_f32(&inner, g, z, n);
    kernels->sum_f32(&sum, g, n);
    if (n > 1 && inner == inner) {
        kernels->axpy_f32(grad, g, n, keep[0]);
        kernels->axpy_f32(grad, z, n, (float)-(inner * (double)keep[1]));
        kernels->unary_f32(KD_UNARY_SCALE_ADD, grad, grad, n, 1, (float)(-sum / (double)n * (double)keep[0]));
        return;
    }
    inner = 0;   /* 0 times -inf: leave those out */
    for (size_t c = 0; c < n; c++)
        if (z[c] != MASK) count++, inner += (double)g[c] * (double)z[c];
    for (size_t c = 0; c < n && count > 1; c++)
        if (z[c] != MASK)
            grad[c] += (float)(((double)g[c] - sum / (double)count) * (double)keep[0] - (double)z[c] * inner * (double)keep[1]);
}

/* ---- teachers ---------------------------------------------------------------------------------------------------------------- */
/* a = log(e^a + e^b), d: n floats */
static void log_add(const kd__kernels *kernels, float *a, const float *b, float *d, size_t n)
{
    for (size_t c = 0; c < n; c++) {
        float high = a[c] > b[c] ? a[c] : b[c], low = a[c] > b[c] ? b[c] : a[c];
        d[c] = high == MASK ? MASK : low - high;
        a[c] = a[c] != a[c] || b[c] != b[c] ? a[c] + b[c] : high;
    }
    kernels->unary_f32(KD_UNARY_EXP, d, d, n, 0, 0);
    kernels->unary_f32(KD_UNARY_LOG1P, d, d, n, 0, 0);
    for (size_t c = 0; c < n; c++) a[c] += d[c];
}

/* The teacher's cross-entropy with the label, at temperature 1. */
static float teacher_error(uint32_t form, const kd__kernels *kernels, const float *row, size_t n, int32_t label)
{
    float sum, x = row[label];
    if (form == KD_TEACHER_PROBS) return -x;   /* the order is the same */
    if (form == KD_TEACHER_LOG_PROBS) return -x;
    kernels->logsumexp_f32(&sum, row, n, 1, n, 1);
    return sum - x;
}

void kd__teacher_row(const kd_loss_distill *loss, const kd__kernels *kernels, float *out, const float *const *teachers, size_t count,
                     size_t n, int32_t label, float *work)
{
    const kd_loss_distill_desc *d = &loss->desc;
    float *one = work, *spare = one + n, keep[2], least = 0;
    bool logits = d->teacher_form == KD_TEACHER_LOGITS, first = true;
    double total = 0;
    if (count > 1 && d->teachers == KD_TEACHERS_BEST) {
        size_t best = 0;
        for (size_t i = 0; i < count; i++) {
            float error = teacher_error(d->teacher_form, kernels, teachers[i], n, label);
            if (i == 0 || error < least) least = error, best = i;
        }
        teachers += best, count = 1;
    }
    for (size_t i = 0; i < count; i++) total += d->teacher_weights && count > 1 ? (double)d->teacher_weights[i] : 1;
    for (size_t i = 0; i < count; i++) {
        double share = (d->teacher_weights && count > 1 ? (double)d->teacher_weights[i] : 1) / total;
        float *z = count == 1 ? out : one;
        if (!(share > 0)) continue;
        if (logits) memcpy(z, teachers[i], n * sizeof *z);
        else if (d->teacher_form == KD_TEACHER_PROBS) kernels->unary_f32(KD_UNARY_LOG, z, teachers[i], n, 0, 0);
        else memcpy(z, teachers[i], n * sizeof *z);
        if (!logits) kernels->unary_f32(KD_UNARY_SCALE_ADD, z, z, n, d->temperature, 0);
        if (d->standardize) kd__standardize_row(kernels, z, z, n, keep);
        if (count == 1) return;
        if (d->teachers == KD_TEACHERS_MEAN_LOGITS) {
            kernels->unary_f32(KD_UNARY_SCALE_ADD, z, z, n, (float)share, 0);
        } else {
            kernels->softmax_f32(z, n, z, n, 1, n, d->temperature, 1);
            kernels->unary_f32(KD_UNARY_SCALE_ADD, z, z, n, 1, (float)kd__fixed_log(share));
        }
        if (first) memcpy(out, z, n * sizeof *z);
        else if (d->teachers == KD_TEACHERS_MEAN_LOGITS) kernels->axpy_f32(out, z, n, 1);
        else log_add(kernels, out, z, spare, n);
        first = false;
    }
    if (d->teachers == KD_TEACHERS_MEAN_PROBS) kernels->unary_f32(KD_UNARY_SCALE_ADD, out, out, n, d->temperature, 0);
}
