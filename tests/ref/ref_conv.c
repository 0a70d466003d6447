/* ref_conv.c - convolutions from the formula.
 * SPDX-License-Identifier: MIT */
#include "ref_conv.h"
#include <math.h>
#include <stdbool.h>

typedef struct term { size_t x, weight, y; } term;   /* indices of one product */

/* The terms of everything, in the order n, r, q, o, i, j, c; false at the end. */
typedef struct walk { size_t n, r, q, o, i, j, c; int started; } walk;
static int next(const ref_conv *s, walk *k, term *t)
{
    const size_t cg = s->ci / s->groups, og = s->co / s->groups;
    if (!s->n || !s->oh || !s->ow || !s->co || !s->kh || !s->kw || !cg) return 0;
    for (;;) {
        if (!k->started) k->started = 1;
        else if (++k->c == cg) {
            k->c = 0;
            if (++k->j == s->kw) {
                k->j = 0;
                if (++k->i == s->kh) {
                    k->i = 0;
                    if (++k->o == s->co) {
                        k->o = 0;
                        if (++k->q == s->ow) {
                            k->q = 0;
                            if (++k->r == s->oh) {
                                k->r = 0;
                                if (++k->n == s->n) return 0;
                            }
                        }
                    }
                }
            }
        }
        const size_t a = k->r * s->stride_h + k->i * s->dil_h, b = k->q * s->stride_w + k->j * s->dil_w;
        if (a < s->pad_h || a - s->pad_h >= s->h || b < s->pad_w || b - s->pad_w >= s->w) continue;
        t->x = ((k->n * s->h + a - s->pad_h) * s->w + b - s->pad_w) * s->ci + k->o / og * cg + k->c;
        t->weight = ((k->i * s->kw + k->j) * cg + k->c) * s->co + k->o;
        t->y = ((k->n * s->oh + k->r) * s->ow + k->q) * s->co + k->o;
        return 1;
    }
}

static void clear(double *p, size_t n)
{
    for (size_t i = 0; p && i < n; i++) p[i] = 0;
}

void ref_conv_forward(const ref_conv *s, const double *x, const double *weight, const double *bias, double *y, double *size)
{
    const size_t count = s->n * s->oh * s->ow * s->co;
    walk k = { 0 };
    term t;
    clear(y, count);
    clear(size, count);
    while (next(s, &k, &t)) {
        y[t.y] += x[t.x] * weight[t.weight];
        if (size) size[t.y] += fabs(x[t.x] * weight[t.weight]);
    }
    for (size_t i = 0; bias && i < count; i++) {
        y[i] += bias[i % s->co];
        if (size) size[i] += fabs(bias[i % s->co]);
    }
}

void ref_conv_backward_data(const ref_conv *s, const double *dy, const double *weight, double *dx, double *size)
{
    const size_t count = s->n * s->h * s->w * s->ci;
    walk k = { 0 };
    term t;
    clear(dx, count);
    clear(size, count);
    while (next(s, &k, &t)) {
        dx[t.x] += dy[t.y] * weight[t.weight];
        if (size) size[t.x] += fabs(dy[t.y] * weight[t.weight]);
    }
}

void ref_conv_backward_weight(const ref_conv *s, const double *x, const double *dy, double *dw, double *size)
{
    const size_t count = s->kh * s->kw * (s->ci / s->groups) * s->co;
    walk k = { 0 };
    term t;
    clear(dw, count);
    clear(size, count);
    while (next(s, &k, &t)) {
        dw[t.weight] += x[t.x] * dy[t.y];
        if (size) size[t.weight] += fabs(x[t.x] * dy[t.y]);
    }
}

/* Kernel rows of 3 at stride 1 sum over the kernel's columns inside the channels, others the other way round: step t is where. */
static void step_at(const ref_conv *s, size_t t, size_t channels, size_t *column, size_t *channel)
{
    const bool inside = s->kw == 3 && s->stride_w == 1 && s->dil_w == 1;
    *column = inside ? t % 3 : t / channels;
    *channel = inside ? t / 3 : t % channels;
}

float ref_conv_chain_forward(const ref_conv *s, const float *x, const float *weight, size_t n, size_t r, size_t q, size_t o)
{
    const size_t cg = s->ci / s->groups, g = o / (s->co / s->groups);
    float sum = 0.0f;
    for (size_t i = 0; i < s->kh; i++)
        for (size_t t = 0; t < s->kw * cg; t++) {
            size_t j, c;
            step_at(s, t, cg, &j, &c);
            const size_t a = r * s->stride_h + i * s->dil_h, b = q * s->stride_w + j * s->dil_w;
            if (a < s->pad_h || a - s->pad_h >= s->h || b < s->pad_w || b - s->pad_w >= s->w) continue;
            sum = fmaf(x[((n * s->h + a - s->pad_h) * s->w + b - s->pad_w) * s->ci + g * cg + c],
                       weight[((i * s->kw + j) * cg + c) * s->co + o], sum);
        }
    return sum;
}

float ref_conv_chain_data(const ref_conv *s, const float *dy, const float *weight, size_t n, size_t r, size_t q, size_t c)
{
    const size_t cg = s->ci / s->groups, og = s->co / s->groups, g = c / cg;
    float sum = 0.0f;
    for (size_t i = s->kh; i-- > 0;)       /* the source pixels ascend */
        for (size_t t = 0; t < s->kw * og; t++) {
            size_t j, o;
            step_at(s, t, og, &j, &o);
            j = s->kw - 1 - j;
            const size_t a = r + s->pad_h, b = q + s->pad_w, di = i * s->dil_h, dj = j * s->dil_w;
            if (a < di || b < dj || (a - di) % s->stride_h || (b - dj) % s->stride_w) continue;
            const size_t u = (a - di) / s->stride_h, v = (b - dj) / s->stride_w;
            if (u >= s->oh || v >= s->ow) continue;
            sum = fmaf(dy[((n * s->oh + u) * s->ow + v) * s->co + g * og + o],
                       weight[((i * s->kw + j) * cg + c % cg) * s->co + g * og + o], sum);
        }
    return sum;
}

float ref_conv_chain_weight(const ref_conv *s, const float *x, const float *dy, size_t i, size_t j, size_t c, size_t o)
{
    const size_t cg = s->ci / s->groups, g = o / (s->co / s->groups), image = s->oh * s->ow;
    const size_t images = image < 1024 ? 1024 / image : 1, rows = image <= 1024 ? s->oh : s->ow < 1024 ? 1024 / s->ow : 1;
    float total = 0.0f;
    for (size_t n0 = 0; n0 < s->n; n0 += images)
        for (size_t r0 = 0; r0 < s->oh; r0 += rows) {
            float sum = 0.0f;
            for (size_t n = n0; n < s->n && n < n0 + images; n++)
                for (size_t r = r0; r < s->oh && r < r0 + rows; r++)
                    for (size_t q = 0; q < s->ow; q++) {
                        const size_t a = r * s->stride_h + i * s->dil_h, b = q * s->stride_w + j * s->dil_w;
                        if (a < s->pad_h || a - s->pad_h >= s->h || b < s->pad_w || b - s->pad_w >= s->w) continue;
                        sum = fmaf(x[((n * s->h + a - s->pad_h) * s->w + b - s->pad_w) * s->ci + g * cg + c],
                                   dy[((n * s->oh + r) * s->ow + q) * s->co + o], sum);
                    }
            total = n0 || r0 ? total + sum : sum;
        }
    return total;
}
