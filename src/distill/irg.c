/* irg.c - instance relationship graph (Liu, Cao, Li, Yuan, Hu, Li, Duan 2019, CVPR).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = alpha mean (z_s - z_t)^2 + beta mean over taps of 1 / B^2 sum_ij (E_ij - E'_ij)^2
 *          + gamma sum over neighbouring maps of 1 / B sum_b (R_b - R'_b)^2
 *     vertices: logits z; edges: E_ij = |x_i - x_j|^2 / max_ij; transformations of tap i into i + 1: R_b = |a_b - c_b|^2 / max_b,
 *     a: tap i, pooled to the size of tap i + 1 if it is larger; c: tap i + 1, channels 2k and 2k + 1 averaged if it has twice as
 *     many; E', R' of the teacher.  A maximum of 0 gives 0.
 * Gradient: flows through the maxima, in equal parts where several are the largest.
 * Divides by: elements of the logits; pairs of samples (B^2) and taps; rows (B).
 * Detached: the teacher.
 * Taps: one or more pairs of any shapes, as many of each; neighbours that are maps on both sides have a transformation, and
 *     their shapes must then fit as above unless gamma is 0.
 * Defaults: weight 1, alpha 0.1, beta 5, gamma 5 (of a public toolbox); the paper's own code has 0.005 for edges and
 *     transformations and half the sum of squares over B.
 * Forms: one.
 * Traps: the authors' code takes the maximum as a constant and gives each distance's gradient to one of its two samples:
 *     half of it; here it is whole.  Distances come from products of centred features; those of duplicates are exactly 0,
 *     where a clamp at 1e-12 would be divided by the maximum.  Logits may be missing if alpha is 0.
 * Published: none under the common CIFAR-100 protocol.
 * Cost: 2 B^2 doubles, B^2 + B D floats of scratch. */
#include "distill/feature.h"
#include <math.h>

static void defaults(kd_loss_feature_desc *d) { d->alpha = 0.1f, d->beta = d->gamma = 5; }

/* Do taps i and i + 1 have a transformation? */
static bool irg_moves(const kd_loss_feature_desc *d, size_t i)
{
    return i + 1 < d->student_count && d->student[i].rank == 3 && d->student[i + 1].rank == 3 && d->teacher[i].rank == 3 &&
           d->teacher[i + 1].rank == 3;
}

static bool irg_fits(const kd_feature_shape *tap)
{
    const size_t *a = tap[0].size, *c = tap[1].size;
    return a[0] >= c[0] && a[1] >= c[1] && (a[2] == c[2] || 2 * a[2] == c[2]);
}

static kd_status check(kd_loss_feature_desc *d)
{
    if (d->alpha < 0 || d->beta < 0 || d->gamma < 0)
        return kd__fail(KD_ERR_ARG, "alpha %g, beta %g, gamma %g: all must be at least 0", (double)d->alpha, (double)d->beta,
                        (double)d->gamma);
    KD_TRY(kd__feature_pairs(d, 1, ~0u));
    for (size_t i = 0; d->gamma > 0 && i < d->student_count; i++)
        if (irg_moves(d, i) && !(irg_fits(d->student + i) && irg_fits(d->teacher + i)))
            return kd__feature_misfit(d, i + 1, "for gamma > 0 a map is as large as the one before it or smaller, and has as "
                                                "many channels or twice as many");
    return KD_OK;
}

typedef struct irg_side { double *x, most; size_t tied; } irg_side;   /* [count] over their maximum */

static void irg_scale(irg_side *side, size_t count)
{
    side->most = 0, side->tied = 0;
    for (size_t i = 0; i < count; i++) side->most = KD_MAX(side->most, side->x[i]);
    for (size_t i = 0; i < count && side->most > 0; i++) {
        side->tied += side->x[i] == side->most;
        side->x[i] /= side->most;
    }
}

/* by sum (s - t)^2; s.x becomes the gradient of what was divided by its maximum, times it: distances and the maximum are squares
 * of features, so that the gradient is made of features over its root, and divided by the root once more. */
static double irg_compare(irg_side *s, const irg_side *t, size_t count, double by)
{
    double value = 0, through = 0;
    for (size_t i = 0; i < count; i++) {
        double d = s->x[i] - t->x[i];
        value += by * d * d;
        through += 2 * by * d * s->x[i];
    }
    for (size_t i = 0; i < count && s->most > 0; i++) {
        double g = 2 * by * (s->x[i] - t->x[i]);
        if (s->x[i] == 1) g -= through / (double)s->tied;
        s->x[i] = g;
    }
    return value;
}

/* Products of centred features in single precision: distances are made relative to the largest, and that has their error. */
static kd_status irg_distances(const kd__core *c, size_t in, size_t n, float *gram, float *centred, double *out)
{
    const size_t d = c->in[in]->count / n;
    kd__centre(c->kernels, c->x[in], n, d, centred + n * d, centred);
    KD_TRY(kd__gram(c->ctx, centred, n, d, gram));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            const double square = (double)gram[i * n + i] + (double)gram[j * n + j] - 2 * (double)gram[i * n + j];
            out[i * n + j] = i == j || square < 0 ? 0 : square;   /* of equal rows 0: their products are equal */
        }
    return KD_OK;
}

static kd_status edges_run(const kd__core *c, size_t n, double *memory, float *g, float *centred, double *value)
{
    irg_side s = { .x = memory }, t = { .x = memory + n * n };
    KD_TRY(irg_distances(c, 1, n, g, centred, t.x));
    KD_TRY(irg_distances(c, 0, n, g, centred, s.x));
    irg_scale(&t, n * n);
    irg_scale(&s, n * n);
    *value = irg_compare(&s, &t, n * n, *(const double *)c->user / ((double)n * (double)n));
    if (!c->grad[0]) return KD_OK;
    const size_t d = c->in[0]->count / n;
    if (!(s.most > 0)) {
        memset(c->grad[0], 0, n * d * sizeof(float));
        return KD_OK;
    }
    const float root = (float)(1 / sqrt(s.most));   /* g of the products: |x_i - x_j|^2 = G_ii + G_jj - 2 G_ij, and w_ij = w_ji */
    for (size_t i = 0; i < n; i++) {
        double own = 0;
        for (size_t j = 0; j < n; j++) {
            g[i * n + j] = (float)(-2 * s.x[i * n + j]);
            if (i != j) own += 2 * s.x[i * n + j];
        }
        g[i * n + i] = (float)own;
    }
    c->kernels->unary_f32(KD_UNARY_SCALE_ADD, centred, centred, n * d, root, 0);
    KD_TRY(kd__gram_backward(c->ctx, g, centred, n, d, c->grad[0]));
    c->kernels->unary_f32(KD_UNARY_SCALE_ADD, c->grad[0], c->grad[0], n * d, root, 0);
    return KD_OK;
}

static kd_status edges(const kd__core *c, double *value)
{
    const size_t n = c->in[0]->shape[0], widest = KD_MAX(c->in[0]->count, c->in[1]->count) / n;
    double *memory = kd__scratch_get(c->ctx, 2 * n * n * sizeof *memory);
    float *floats = kd__scratch_get(c->ctx, (n * n + (n + 1) * widest) * sizeof *floats);
    kd_status status = kd__fail(KD_ERR_NOMEM, "irg: out of memory");
    if (memory && floats) status = edges_run(c, n, memory, floats, floats + n * n, value);
    kd__scratch_put(c->ctx, floats);
    kd__scratch_put(c->ctx, memory);
    return status;
}

/* The student's a and c, the teacher's. */
static kd_status transformations(const kd__core *c, double *value)
{
    const size_t n = c->in[0]->shape[0];
    double *memory = kd__scratch_get(c->ctx, 2 * n * sizeof *memory);
    if (!memory) return kd__fail(KD_ERR_NOMEM, "irg: out of memory");
    irg_side side[2] = { { .x = memory }, { .x = memory + n } };
    for (size_t k = 0; k < 2; k++) {
        const size_t each = c->in[2 * k]->count / n;
        for (size_t b = 0; b < n; b++)
            c->kernels->difference_sum_f32(0, c->x[2 * k] + b * each, c->x[2 * k + 1] + b * each, each, &side[k].x[b]);
        irg_scale(&side[k], n);
    }
    *value = irg_compare(&side[0], &side[1], n, *(const double *)c->user / (double)n);
    const size_t each = c->in[0]->count / n;
    const float root = side[0].most > 0 ? (float)(1 / sqrt(side[0].most)) : 0;
    for (size_t b = 0; b < n; b++)
        for (size_t k = 0; k < 2; k++) {
            const float *x = c->x[k] + b * each, *other = c->x[1 - k] + b * each;
            if (!c->grad[k]) continue;
            c->kernels->difference_backward_f32(0, root * (float)side[0].x[b], NULL, x, other, each, c->grad[k] + b * each, 0);
            c->kernels->unary_f32(KD_UNARY_SCALE_ADD, c->grad[k] + b * each, c->grad[k] + b * each, each, root, 0);
        }
    kd__scratch_put(c->ctx, memory);
    return KD_OK;
}

/* a and c of neighbouring maps. */
static void irg_move(kd_tape *tape, kd_tensor *const *tap, kd_tensor *out[2])
{
    out[0] = tap[0], out[1] = tap[1];
    if (!kd__tape_ok(tape)) return;
    const size_t *c = tap[1]->shape;
    out[0] = kd__adaptive_avg_pool(tape, tap[0], c[1], c[2]);
    if (c[3] == tap[0]->shape[3]) return;
    out[1] = kd_mean(tape, kd_reshape(tape, tap[1], 5, (size_t[]){ c[0], c[1], c[2], c[3] / 2, 2 }), 1u << 4, 0);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    const kd_loss_feature_desc *d = &loss->desc;
    const double beta = (double)d->beta / (double)d->student_count, gamma = (double)d->gamma;
    kd_tensor *sum = NULL;
    if (d->alpha > 0 && (!in->student_logits || !in->teacher_logits)) {
        kd_status status = kd__fail(KD_ERR_ARG, "irg: %s_logits: alpha %g needs them, and they are NULL",
                                    in->student_logits ? "teacher" : "student", (double)d->alpha);
        return kd__tape_fail_in(tape, "kd_loss_feature_apply", status);
    }
    if (d->alpha > 0)
        sum = kd_scale(tape, kd_mse(tape, in->student_logits, in->teacher_logits, KD_REDUCE_MEAN_ELEMENTS), d->alpha, 0);
    for (size_t i = 0; i < d->student_count; i++) {
        kd_tensor *const pair[] = { in->student[i], in->teacher[i] };
        sum = kd__feature_add(tape, sum, kd__core_run(tape, "irg", pair, 2, edges, &beta));
        if (!(d->gamma > 0) || !irg_moves(d, i)) continue;
        kd_tensor *moved[4];
        irg_move(tape, in->student + i, moved);
        irg_move(tape, in->teacher + i, moved + 2);
        sum = kd__feature_add(tape, sum, kd__core_run(tape, "irg", moved, 4, transformations, &gamma));
    }
    return sum;
}

const kd__feature_method kd__feature_IRG = {
    .formula = "alpha mean (z - z')^2 + beta mean (E - E')^2 + gamma mean (R - R')^2, E: distances of samples, R: of layers",
    .needs = KD__TAKES_LOGITS, .defaults = defaults, .check = check, .apply = apply
};
