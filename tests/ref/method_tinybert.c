/* method_tinybert.c - attention scores, hidden states, embeddings.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

static double f(double x) { return x > -100 ? x : 0; }

static int valid(const method_in *x, size_t b, size_t l, size_t i) { return !x->mask || x->mask[b * l + i] > .5; }

static double scores(const method_in *x, const method_tap *s, const method_tap *t)
{
    size_t heads = s->size[0], l = s->size[1];
    double sum = 0, count = 0;
    for (size_t b = 0; b < x->rows; b++)
        for (size_t h = 0; h < heads; h++)
            for (size_t i = 0; i < l; i++)
                for (size_t j = 0; j < l; j++) {
                    size_t at = ((b * heads + h) * l + i) * l + j;
                    double d = f(s->data[at]) - f(t->data[at]);
                    if (valid(x, b, l, i) && valid(x, b, l, j)) sum += d * d, count++;
                }
    return count > 0 ? sum / count : 0;
}

static double states(const method_in *x, const method_tap *s, const method_tap *t)
{
    size_t l = s->size[0], width = t->size[1];
    double *y = mr_adapter_linear(x, "fit", s->data, x->rows * l), sum = 0, count = 0;
    for (size_t r = 0; r < x->rows * l; r++)
        if (valid(x, r / l, l, r % l)) sum += mr_distance2(y + r * width, t->data + r * width, width), count += (double)width;
    return count > 0 ? sum / count : 0;
}

/* the k-th tap of a rank on each side */
static double loss(const method_in *x)
{
    double total = 0;
    for (size_t rank = 2; rank < 4; rank++)
        for (size_t i = 0, j = 0; i < x->taps; i++) {
            if (x->s[i].rank != rank) continue;
            while (x->t[j].rank != rank) j++;
            total += rank == 3 ? x->alpha * scores(x, &x->s[i], &x->t[j]) : x->beta * states(x, &x->s[i], &x->t[j]);
            j++;
        }
    return total;
}

static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    size_t l = draw(rand, 1, 5), ws = draw(rand, 1, 7), wt = draw(rand, 1, 9), n = draw(rand, 1, 4), kinds = draw(rand, 0, 15);
    x->taps = x->teacher_taps = n;
    for (size_t k = 0; k < n; k++) {   /* the teacher's in the opposite order */
        size_t heads = draw(rand, 1, 3);
        if (kinds >> k & 1) x->s[k] = (method_tap){ .rank = 3, .size = { heads, l, l } };
        else x->s[k] = (method_tap){ .rank = 2, .size = { l, ws } };
    }
    size_t at = 0;
    for (size_t rank = 3; rank > 1; rank--)
        for (size_t k = 0; k < n; k++) {
            if (x->s[k].rank != rank) continue;
            x->t[at] = x->s[k];
            if (rank == 2) x->t[at].size[1] = wt;
            at++;
        }
}

static void weighted(kd_loss_feature_desc *d) { d->alpha = .5f, d->beta = 2; }

const method_feature method_feature_TINYBERT = {
    .loss = loss, .shapes = shapes, .needs = METHOD_MASK,
    .holds = METHOD_ROW_ORDER,
    .but = METHOD_NO_TEMPERATURE,
    .options = { { "default", NULL }, { "weighted", weighted } },
};
