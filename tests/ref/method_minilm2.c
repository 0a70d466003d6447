/* method_minilm2.c - query, key and value relations.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* Row i of X X^T / sqrt(d) of a relation head, valid tokens only; returns how many. */
static size_t row(const method_in *x, const method_tap *f, size_t heads, size_t b, size_t h, size_t i, double *out)
{
    size_t l = f->size[0], width = f->size[1], d = width / heads, n = 0;
    const double *at = f->data + b * f->each + h * d;
    for (size_t j = 0; j < l; j++)
        if (!x->mask || x->mask[b * l + j] > .5) out[n++] = mr_dot(at + i * width, at + j * width, d) / sqrt((double)d);
    return n;
}

static double loss(const method_in *x)
{
    size_t heads = x->feature->width ? x->feature->width : 48, l = x->s[0].size[0];
    double total = 0, valid = 0, weight[3] = { x->alpha, x->beta, x->gamma }, *s = mr_new(l), *t = mr_new(l);
    for (size_t b = 0; b < x->rows; b++)
        for (size_t i = 0; i < l; i++) {
            if (x->mask && x->mask[b * l + i] < .5) continue;
            valid++;
            for (size_t h = 0; h < heads; h++)
                for (size_t k = 0; k < 3; k++) {
                    size_t n = row(x, &x->s[k], heads, b, h, i, s);
                    row(x, &x->t[k], heads, b, h, i, t);
                    total += weight[k] * mr_kl_logits(t, s, n, 1);
                }
        }
    return valid > 0 ? total / ((double)heads * valid) : 0;
}

static double size(const method_in *x) { return x->alpha + x->beta + x->gamma + loss(x); }

static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    size_t heads = x->feature->width ? x->feature->width : 48, l = draw(rand, 1, 6);
    x->taps = x->teacher_taps = 3;
    for (size_t k = 0; k < 3; k++) {
        x->s[k] = (method_tap){ .rank = 2, .size = { l, heads * draw(rand, 1, 4) } };
        x->t[k] = (method_tap){ .rank = 2, .size = { l, heads * draw(rand, 1, 4) } };
    }
}

static void three(kd_loss_feature_desc *d) { d->width = 3; }
static void weighted(kd_loss_feature_desc *d) { d->width = 2, d->alpha = .5f, d->beta = 0, d->gamma = 2; }

const method_feature method_feature_MINILM2 = {
    .loss = loss, .size = size, .shapes = shapes, .needs = METHOD_MASK,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
    .options = { { "3 heads", three }, { "weighted", weighted } },
};
