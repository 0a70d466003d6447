/* method_minilm.c - attention and value relations.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* Mean over heads and valid tokens of the KL of rows; score(tap, b, h, i, j) of the i-th and j-th token. */
typedef double (*score_fn)(const method_tap *f, size_t heads, size_t b, size_t h, size_t i, size_t j);

static double attention(const method_tap *f, size_t heads, size_t b, size_t h, size_t i, size_t j)
{
    return f->data[((b * heads + h) * f->size[1] + i) * f->size[1] + j];
}

static double relation(const method_tap *f, size_t heads, size_t b, size_t h, size_t i, size_t j)
{
    size_t d = f->size[1] / heads;
    const double *at = f->data + b * f->each + h * d;
    return mr_dot(at + i * f->size[1], at + j * f->size[1], d) / sqrt((double)d);
}

static double mean_kl(const method_in *x, size_t tap, size_t heads, score_fn score)
{
    const method_tap *s = &x->s[tap], *t = &x->t[tap];
    size_t l = s->rank == 3 ? s->size[1] : s->size[0];
    double total = 0, valid = 0, *ls = mr_new(l), *lt = mr_new(l);
    for (size_t b = 0; b < x->rows; b++)
        for (size_t i = 0; i < l; i++) {
            if (x->mask && x->mask[b * l + i] < .5) continue;
            valid++;
            for (size_t h = 0; h < heads; h++) {
                size_t n = 0;
                for (size_t j = 0; j < l; j++) {
                    if (x->mask && x->mask[b * l + j] < .5) continue;
                    ls[n] = score(s, heads, b, h, i, j), lt[n++] = score(t, heads, b, h, i, j);
                }
                total += mr_kl_logits(lt, ls, n, 1);
            }
        }
    return valid > 0 ? total / ((double)heads * valid) : 0;
}

static double loss(const method_in *x)
{
    size_t heads = x->s[0].size[0];
    return x->alpha * mean_kl(x, 0, heads, attention) + x->beta * mean_kl(x, 1, heads, relation);
}

static double size(const method_in *x) { return x->alpha + x->beta + loss(x); }

static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    size_t heads = draw(rand, 1, 3), l = draw(rand, 1, 6);
    x->taps = x->teacher_taps = 2;
    x->s[0] = x->t[0] = (method_tap){ .rank = 3, .size = { heads, l, l } };
    x->s[1] = (method_tap){ .rank = 2, .size = { l, heads * draw(rand, 1, 5) } };
    x->t[1] = (method_tap){ .rank = 2, .size = { l, heads * draw(rand, 1, 5) } };
}

static void weighted(kd_loss_feature_desc *d) { d->alpha = .5f, d->beta = 2; }

const method_feature method_feature_MINILM = {
    .loss = loss, .size = size, .shapes = shapes, .needs = METHOD_MASK,
    .holds = METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
    .but = METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "weighted", weighted } },
};
