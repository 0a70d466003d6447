/* row_ops.c - pieces of several methods on outputs.
 * SPDX-License-Identifier: MIT */
#include "distill/row_ops.h"

double kd__dot_masked(const kd__kernels *k, const float *a, const float *b, size_t n)
{
    double sum;
    k->dot_f32(&sum, a, b, n);
    if (sum - sum == 0) return sum;
    sum = 0;   /* 0 times -inf is among them, or it is infinite in truth */
    for (size_t i = 0; i < n; i++)
        if (a[i] != 0) sum += (double)a[i] * (double)b[i];
    return sum;
}

void kd__row_without(float *out, const float *row, size_t n, size_t hole)
{
    memcpy(out, row, n * sizeof *out);
    out[hole] = -__builtin_inff();
}

void kd__row_add(const kd__kernels *k, float *y, const float *x, size_t n, float a, float b)
{
    k->axpy_f32(y, x, n, a);
    k->unary_f32(KD_UNARY_SCALE_ADD, y, y, n, 1.0f, b);
}

double kd__two_level_row(const kd__soft *s, size_t r, size_t label, double yes, double no, float temperature, float *scratch)
{
    const kd__kernels *k = s->kernels;
    const size_t n = s->classes;
    const float *student = s->student + r * s->student_stride;
    float *q = scratch, *work = q + n, most;
    int32_t at;
    double sum = 0, value;
    k->softmax_f32(q, n, student, s->student_stride, 1, n, temperature, 0);
    k->row_max_f32(&most, &at, student, 1, n, n);
    k->unary_f32(KD_UNARY_SCALE_ADD, work, student, n, 1, -most);
    if (no > 0) k->sum_f32(&sum, work, n);
    value = -no * sum / (double)temperature - kd__fixed_log((double)q[at]);   /* the target's mass is 1 */
    if (label < n)
        value = work[label] == -__builtin_inff() ? __builtin_inf() : value - (yes - no) * (double)work[label] / (double)temperature;
    if (s->grad) {
        float *grad = s->grad + r * s->grad_stride;
        const double coef = (double)s->coef[r] / (double)temperature;
        kd__row_add(k, grad, q, n, (float)coef, (float)(-coef * no));
        if (label < n) grad[label] -= (float)(coef * (yes - no));
    }
    return value;
}

double kd__cross_row(const kd__kernels *k, const float *p, const float *logits, const float *q, size_t n, float temperature, float *work,
                     double *top)
{
    float most;
    int32_t at;
    double mass;
    k->row_max_f32(&most, &at, logits, 1, n, n);
    k->unary_f32(KD_UNARY_SCALE_ADD, work, logits, n, 1, -most);
    k->sum_f32(&mass, p, n);
    const double known = kd__fixed_log((double)q[at]);
    if (top) *top = known;
    return -(kd__dot_masked(k, p, work, n) / (double)temperature + mass * known);
}

/* Only differences of g count: without that of the most probable class, what its probability of nearly 1 multiplies is nearly 0. */
void kd__through_softmax(const kd__soft *s, size_t r, float *g, const float *q)
{
    const size_t n = s->classes;
    double sum;
    float top;
    int32_t at;
    if (!s->grad) return;
    const double coef = (double)s->coef[r] / (double)s->desc->temperature;
    float *grad = s->grad + r * s->grad_stride;
    s->kernels->row_max_f32(&top, &at, q, 1, n, n);
    top = g[at];
    for (size_t c = 0; c < n; c++) g[c] = q[c] * (g[c] - top);
    s->kernels->sum_f32(&sum, g, n);
    s->kernels->axpy_f32(grad, g, n, (float)coef);
    s->kernels->axpy_f32(grad, q, n, (float)(-coef * sum));
}

/* Floats as integers of the same order, the largest first; -0 is 0. */
static uint32_t rank_bits(float x)
{
    union { float f; uint32_t u; } v = { x + 0.0f };
    return v.u & 0x80000000u ? v.u : ~v.u & 0x7fffffffu;
}

static float rank_value(uint32_t bits)
{
    union { uint32_t u; float f; } v = { bits & 0x80000000u ? bits : ~bits & 0x7fffffffu };
    return v.f;
}

/* Keys with their columns below them, eight bits at a time from the lowest of the key: equal keys keep their order.  Few of them:
 * each into its place. */
void kd__sort_descending(float *key, uint32_t *order, size_t n, float *scratch)
{
    uint64_t *from = (uint64_t *)(((uintptr_t)scratch + 7) & ~(uintptr_t)7), *to = from + n;
    if (n <= 32) {
        for (size_t i = 0; i < n; i++) {
            const uint64_t item = (uint64_t)rank_bits(key[i]) << 32 | i;
            size_t at = i;
            for (; at && from[at - 1] > item; at--) from[at] = from[at - 1];
            from[at] = item;
        }
    } else {
        uint32_t count[4][256] = { { 0 } };
        for (size_t i = 0; i < n; i++) {
            const uint32_t bits = rank_bits(key[i]);
            from[i] = (uint64_t)bits << 32 | i;
            for (uint32_t d = 0; d < 4; d++) count[d][bits >> 8 * d & 255]++;
        }
        for (uint32_t d = 0; d < 4; d++) {
            uint32_t *c = count[d], sum = 0;
            if (c[from[0] >> (32 + 8 * d) & 255] == n) continue;   /* all alike here */
            for (size_t i = 0; i < 256; i++) {
                const uint32_t here = c[i];
                c[i] = sum;
                sum += here;
            }
            for (size_t i = 0; i < n; i++) to[c[from[i] >> (32 + 8 * d) & 255]++] = from[i];
            uint64_t *swap = from;
            from = to, to = swap;
        }
    }
    for (size_t i = 0; i < n; i++) key[i] = rank_value((uint32_t)(from[i] >> 32)), order[i] = (uint32_t)from[i];
}
