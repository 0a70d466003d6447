/* method_irg.c - instance relationship graph.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* over the largest; 0 if that is 0 */
static void scale(double *x, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    for (size_t i = 0; i < n; i++) x[i] = most > 0 ? x[i] / most : 0;
}

static double *edges(const method_tap *f, size_t rows)
{
    double *e = mr_new(rows * rows);
    for (size_t i = 0; i < rows * rows; i++)
        e[i] = mr_distance2(f->data + i / rows * f->each, f->data + i % rows * f->each, f->each);
    scale(e, rows * rows);
    return e;
}

/* how far each sample moves from tap `a` to tap `c` */
static double *moves(const method_tap *a, const method_tap *c, size_t rows)
{
    double *r = mr_new(rows);
    const double *pooled = mr_adaptive_pool(a->data, rows, a->size[0], a->size[1], a->size[2], c->size[0], c->size[1]);
    size_t pixels = c->size[0] * c->size[1], in = a->size[2], out = c->size[2];
    for (size_t i = 0; i < rows * pixels; i++)
        for (size_t k = 0; k < in; k++) {
            const double *at = c->data + i * out;
            double d = pooled[i * in + k] - (out == in ? at[k] : (at[2 * k] + at[2 * k + 1]) / 2);
            r[i / pixels] += d * d;
        }
    scale(r, rows);
    return r;
}

static double loss(const method_in *x)
{
    size_t n = x->rows;
    double vertices = mr_mean_square(x->student_logits, x->teacher_logits, n * x->classes), edge = 0, move = 0;
    for (size_t i = 0; i < x->taps; i++) {
        edge += mr_mean_square(edges(&x->s[i], n), edges(&x->t[i], n), n * n) / (double)x->taps;
        if (x->gamma > 0 && i + 1 < x->taps && x->s[i].rank == 3 && x->s[i + 1].rank == 3)
            move += mr_mean_square(moves(&x->s[i], &x->s[i + 1], n), moves(&x->t[i], &x->t[i + 1], n), n);
    }
    return x->alpha * vertices + x->beta * edge + x->gamma * move;
}

static double size(const method_in *x) { return x->alpha + x->beta + (double)x->taps * x->gamma + loss(x); }

/* Maps that shrink and double their channels, then a vector; or some of it. */
static void shapes(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand)
{
    size_t maps = draw(rand, 0, 3), vectors = maps ? draw(rand, 0, 1) : 1;
    x->taps = x->teacher_taps = maps + vectors;
    for (int side = 0; side < 2; side++) {
        method_tap *tap = side ? x->t : x->s;
        size_t h = draw(rand, 3, 5), c = draw(rand, 2, 4);
        for (size_t k = 0; k < maps; k++) {
            tap[k] = (method_tap){ .rank = 3, .size = { h, h, c } };
            h = draw(rand, h > 1 ? h - 1 : 1, h), c *= draw(rand, 1, 2);
        }
        if (vectors) tap[maps] = (method_tap){ .rank = 1, .size = { draw(rand, 3, 12) } };
    }
}

static void edges_only(kd_loss_feature_desc *d) { d->alpha = d->gamma = 0; }

const method_feature method_feature_IRG = {
    .loss = loss, .size = size, .shapes = shapes, .needs = METHOD_LOGITS,
    .holds = METHOD_ROW_ORDER,
    .but = METHOD_NO_TEMPERATURE | METHOD_KINKS,
    .options = { { "default", NULL }, { "edges only", edges_only } },
};
