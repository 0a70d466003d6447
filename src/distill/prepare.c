/* prepare.c - teachers become one and plain logits; standardised logits (Sun et al. 2024).
 * SPDX-License-Identifier: MIT */
#include "distill/prepare.h"

static const float masked = -__builtin_inff();   /* a class that is not there */

/* ---- standardised logits ------------------------------------------------------------------------------------------------ */
static double root(double x) { return __builtin_sqrt(x); }

/* The same where some classes are -inf: they stay so, and the statistics are of the others. */
static void standardize_some(float *out, const float *in, size_t n, float keep[2])
{
    double sum = 0, squares = 0, count = 0;
    for (size_t c = 0; c < n; c++)
        if (in[c] != masked) sum += (double)in[c], count += 1;
    double mean = count > 0 ? sum / count : 0;
    for (size_t c = 0; c < n; c++)
        if (in[c] != masked) squares += ((double)in[c] - mean) * ((double)in[c] - mean);
    double deviation = count > 1 ? root(squares / (count - 1)) : 0;
    keep[0] = (float)(1 / (deviation + 1e-7));
    keep[1] = deviation > 0 ? (float)(1 / ((count - 1) * deviation)) : 0;
    for (size_t c = 0; c < n; c++) out[c] = in[c] != masked ? (float)(((double)in[c] - mean) * (1 / (deviation + 1e-7))) : masked;
}

void kd__standardize_row(const kd__kernels *kernels, float *out, const float *in, size_t n, float keep[2])
{
    double sum, squares, rest = 0;
    kernels->sum_f32(&sum, in, n);
    if (n < 2 || sum == (double)masked) {
        standardize_some(out, in, n, keep);
        return;
    }
    double mean = sum / (double)n, offset = mean;
    kernels->dot_f32(&squares, in, in, n);
    squares -= sum * mean;
    if (!(squares > 0.01 * sum * mean)) {   /* far from 0: the mean leaves first */
        kernels->unary_f32(KD_UNARY_SCALE_ADD, out, in, n, 1, (float)-mean);
        kernels->sum_f32(&rest, out, n);   /* what rounding it left */
        kernels->dot_f32(&squares, out, out, n);
        squares -= rest * rest / (double)n;
        offset = rest / (double)n;
        in = out;
    }
    double deviation = squares > 0 ? root(squares / (double)(n - 1)) : squares == squares ? 0 : squares;
    keep[0] = (float)(1 / (deviation + 1e-7));
    keep[1] = deviation == 0 ? 0 : (float)(1 / ((double)(n - 1) * deviation));
    kernels->unary_f32(KD_UNARY_SCALE_ADD, out, in, n, keep[0], (float)(-offset * (double)keep[0]));
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
        if (z[c] != masked) count++, inner += (double)g[c] * (double)z[c];
    for (size_t c = 0; c < n && count > 1; c++)
        if (z[c] != masked)
            grad[c] += (float)(((double)g[c] - sum / (double)count) * (double)keep[0] - (double)z[c] * inner * (double)keep[1]);
}

/* ---- teachers ---------------------------------------------------------------------------------------------------------------- */
/* a = log(e^a + e^b); d: n floats */
static void log_add(const kd__kernels *kernels, float *a, const float *b, float *d, size_t n)
{
    for (size_t c = 0; c < n; c++) {
        float high = a[c] > b[c] ? a[c] : b[c], low = a[c] > b[c] ? b[c] : a[c];
        d[c] = high == masked ? masked : low - high;
        a[c] = a[c] != a[c] || b[c] != b[c] ? a[c] + b[c] : high;
    }
    kernels->unary_f32(KD_UNARY_EXP, d, d, n, 0, 0);
    kernels->unary_f32(KD_UNARY_LOG1P, d, d, n, 0, 0);
    for (size_t c = 0; c < n; c++) a[c] += d[c];
}

/* The teacher's cross-entropy with the label at temperature 1, or something in the same order. */
static float teacher_error(uint32_t form, const kd__kernels *kernels, const float *row, size_t n, int32_t label)
{
    float sum = 0;
    if (form == KD_TEACHER_LOGITS) kernels->logsumexp_f32(&sum, row, n, 1, n, 1);
    return sum - row[label];
}

static double share_of(const kd_loss_distill_desc *d, size_t i) { return d->teacher_weights ? (double)d->teacher_weights[i] : 1; }

/* One teacher as logits, standardised if asked. */
static void logits_of(const kd_loss_distill_desc *d, const kd__kernels *kernels, float *z, const float *row, size_t n)
{
    float keep[2];
    const float *from = row;
    if (d->teacher_form == KD_TEACHER_PROBS) kernels->unary_f32(KD_UNARY_LOG, z, row, n, 0, 0), from = z;
    if (d->teacher_form != KD_TEACHER_LOGITS) kernels->unary_f32(KD_UNARY_SCALE_ADD, z, from, n, d->temperature, 0), from = z;
    if (d->standardize) kd__standardize_row(kernels, z, from, n, keep);
    else if (from != z) memcpy(z, from, n * sizeof *z);
}

/* out = T log sum_j w_j softmax(z_j / T).  Most rows have no class that underflows, and are added as they are. */
static void mean_of_probabilities(const kd_loss_distill_desc *d, const kd__kernels *kernels, float *out, const float *const *teachers,
                                  size_t count, size_t n, double total, float *work)
{
    float *one = work, *spare = one + n;
    for (int logarithms = 0; logarithms < 2; logarithms++) {
        double all;
        for (size_t i = 0; i < count; i++) {
            double share = share_of(d, i) / total;
            float *z = i == 0 ? out : one;
            logits_of(d, kernels, z, teachers[i], n);
            kernels->softmax_f32(z, n, z, n, 1, n, d->temperature, logarithms);
            if (logarithms) kernels->unary_f32(KD_UNARY_SCALE_ADD, z, z, n, 1, share > 0 ? (float)kd__fixed_log(share) : masked);
            else if (i == 0) kernels->unary_f32(KD_UNARY_SCALE_ADD, z, z, n, (float)share, 0);
            if (i > 0 && logarithms) log_add(kernels, out, z, spare, n);
            else if (i > 0) kernels->axpy_f32(out, z, n, (float)share);
        }
        if (logarithms) break;
        kernels->unary_f32(KD_UNARY_LOG, out, out, n, 0, 0);
        kernels->sum_f32(&all, out, n);
        if (all > (double)masked) break;
    }
    kernels->unary_f32(KD_UNARY_SCALE_ADD, out, out, n, d->temperature, 0);
}

void kd__teacher_row(const kd_loss_distill *loss, const kd__kernels *kernels, float *out, const float *const *teachers, size_t count,
                     size_t n, int32_t label, float *work)
{
    const kd_loss_distill_desc *d = &loss->desc;
    double total = 0;
    size_t best = 0;
    if (count > 1 && d->teachers == KD_TEACHERS_BEST) {
        float least = 0;
        for (size_t i = 0; i < count; i++) {
            float error = teacher_error(d->teacher_form, kernels, teachers[i], n, label);
            if (i == 0 || error < least) least = error, best = i;
        }
        count = 1;
    }
    for (size_t i = 0; i < count; i++) total += share_of(d, i);
    if (count == 1) {
        logits_of(d, kernels, out, teachers[best], n);
    } else if (d->teachers == KD_TEACHERS_MEAN_PROBS) {
        mean_of_probabilities(d, kernels, out, teachers, count, n, total, work);
    } else {
        memset(out, 0, n * sizeof *out);
        for (size_t i = 0; i < count; i++) {
            if (!(share_of(d, i) > 0)) continue;
            logits_of(d, kernels, work, teachers[i], n);
            kernels->axpy_f32(out, work, n, (float)(share_of(d, i) / total));
        }
    }
}
