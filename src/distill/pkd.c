/* pkd.c - Pearson correlation of feature maps, for detectors (Cao, Zhang, Gao, Cheng, Cheng, Zhang 2022, arXiv 2207.02039).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of mean (N(s) - N(t))^2 / 2, over all elements
 *     N(x) = (x - mean) / (deviation + 1e-6), by channel over batch, height and width; deviation with M - 1, M = B H W
 *     that is close to 1 - the channels' mean Pearson correlation
 * Gradient: g / (dev + 1e-6) - (s - mean) sum g (s - mean) / ((M - 1) dev (dev + 1e-6)^2), g = (N(s) - N(t)) / (M C).
 * Divides by: elements (B H W C).
 * Detached: the teacher.
 * Taps: one or more pairs of maps {height, width, channels} of equal shapes: levels of a feature pyramid.
 * Defaults: weight 6 (Faster R-CNN's pyramid).
 * Forms: one.
 * Traps: the statistics are of the whole batch: the rows are coupled, and one row alone gives another value.  The deviation is
 *     the unbiased one. A constant channel is 0 after N and pulls by 1 / 1e-6; with a single element (M = 1) the deviation does
 *     not exist: value 0, no gradient.  The public code interpolates maps of other sizes bilinearly without a word; here they
 *     are KD_ERR_SHAPE.
 * Published: COCO FCOS-X101 -> RetinaNet-R50 36.5 -> 40.3, Faster R-CNN 38.4 -> 40.3, RepPoints 38.6 -> 42.3.
 * Cost: 512 C floats of scratch a thread, 5 C for each 256 positions. */
#include "distill/feature.h"
#include <math.h>

enum { PKD_ROWS = 256 };   /* positions a task; more would cost the kernels' sums precision */

static void defaults(kd_loss_feature_desc *d) { d->weight = 6; }
static kd_status check(kd_loss_feature_desc *d) { return kd__feature_equal_pairs(d, 1, 1u << 3); }

/* [channels]: N(x) = (x - mean) scale + shift, shift being the mean's rounding. */
typedef struct pkd_side { float *mean, *scale, *shift; double *deviation, *rest; } pkd_side;
typedef struct pkd_job {
    const kd__core *c;
    size_t     rows, channels, blocks;
    float     *partial;          /* [blocks, 3, channels]: what a task found */
    double    *value;            /* [blocks] */
    pkd_side   side[2];
    float     *pull, *k, *m;     /* [channels]: the gradient is pull d - ((s - mean) k + m) */
    size_t     now;              /* the side whose statistics are taken */
    _Atomic uint32_t failed;
} pkd_job;

static size_t pkd_rows(const pkd_job *j, size_t block) { return KD_MIN(j->rows - block * PKD_ROWS, (size_t)PKD_ROWS); }

static void pkd_stats(size_t block, void *arg)
{
    const pkd_job *j = arg;
    float *at = j->partial + 3 * block * j->channels;
    j->c->kernels->norm_columns_stats_f32(pkd_rows(j, block), j->channels, j->c->x[j->now] + block * PKD_ROWS * j->channels, at,
                                          at + j->channels, at + 2 * j->channels);
}

/* Blocks joined: mean, deviation and its reciprocal of channel k. */
static void pkd_join(const pkd_job *j, size_t k)
{
    const pkd_side *to = &j->side[j->now];
    const double m = (double)j->rows;
    double mean = 0, square = 0;
    for (size_t b = 0; b < j->blocks; b++) {
        const float *at = j->partial + 3 * b * j->channels + k;
        mean += (double)pkd_rows(j, b) * (double)at[0] + (double)at[j->channels];
    }
    mean /= m;
    for (size_t b = 0; b < j->blocks; b++) {
        const float *at = j->partial + 3 * b * j->channels + k;
        const double n = (double)pkd_rows(j, b), d = (double)at[j->channels] / n, far = (double)at[0] + d - mean;
        square += (double)at[2 * j->channels] + n * (far * far - d * d);
    }
    to->mean[k] = (float)mean;
    to->deviation[k] = sqrt(KD_MAX(square, 0.0) / (m - 1));
    to->rest[k] = (double)to->mean[k] - mean;
    to->scale[k] = (float)(1 / (to->deviation[k] + 1e-6));
    to->shift[k] = (float)(to->rest[k] / (to->deviation[k] + 1e-6));
}

/* d [rows of the block, channels] = N(s) - N(t), in the first half of `room`. */
static void pkd_difference(const pkd_job *j, size_t block, float *room)
{
    const size_t rows = pkd_rows(j, block), n = rows * j->channels;
    for (size_t i = 0; i < 2; i++)
        j->c->kernels->norm_columns_apply_f32(rows, j->channels, j->c->x[i] + block * PKD_ROWS * j->channels, j->side[i].mean,
                                              j->side[i].scale, j->side[i].shift, NULL, 0, room + i * n);
    j->c->kernels->axpy_f32(room, room + n, n, -1);
}

static float *pkd_room(pkd_job *j)
{
    float *room = kd__scratch_get(j->c->ctx, 2 * PKD_ROWS * j->channels * sizeof *room);
    if (!room) atomic_store(&j->failed, 1u);
    return room;
}

static void pkd_value(size_t block, void *arg)
{
    pkd_job *j = arg;
    const size_t rows = pkd_rows(j, block);
    float *room = pkd_room(j), *at = j->partial + 3 * block * j->channels;
    if (!room) return;
    pkd_difference(j, block, room);
    j->c->kernels->dot_f32(&j->value[block], room, room, rows * j->channels);
    j->c->kernels->norm_columns_dots_f32(rows, j->channels, room, j->c->x[0] + block * PKD_ROWS * j->channels, j->side[0].mean,
                                         at, at + j->channels, NULL);
    kd__scratch_put(j->c->ctx, room);
}

static void pkd_gradient(size_t block, void *arg)
{
    pkd_job *j = arg;
    const size_t at = block * PKD_ROWS * j->channels;
    float *room = pkd_room(j);
    if (!room) return;
    pkd_difference(j, block, room);
    j->c->kernels->norm_columns_backward_f32(pkd_rows(j, block), j->channels, room, j->c->x[0] + at, j->side[0].mean, j->pull,
                                             j->k, j->m, NULL, j->c->grad[0] + at, 0);
    kd__scratch_put(j->c->ctx, room);
}

static void pkd_run(pkd_job *j, double *value)
{
    kd_context *ctx = j->c->ctx;
    const double elements = (double)j->rows * (double)j->channels;
    for (j->now = 0; j->now < 2; j->now++) {
        kd__parallel(ctx, j->blocks, pkd_stats, j);
        for (size_t k = 0; k < j->channels; k++) pkd_join(j, k);
    }
    kd__parallel(ctx, j->blocks, pkd_value, j);
    if (atomic_load(&j->failed)) return;
    for (size_t b = 0; b < j->blocks; b++) *value += j->value[b] / (2 * elements);
    if (!j->c->grad[0]) return;
    for (size_t k = 0; k < j->channels; k++) {
        const double deviation = j->side[0].deviation[k], share = 1 / (deviation + 1e-6);
        double along = 0;
        for (size_t b = 0; b < j->blocks; b++) {
            const float *at = j->partial + 3 * b * j->channels + k;
            along += (double)at[j->channels] + j->side[0].rest[k] * (double)at[0];
        }
        along *= deviation > 0 ? share * share / (elements * deviation * (double)(j->rows - 1)) : 0;
        j->pull[k] = (float)(share / elements);
        j->k[k] = (float)along;
        j->m[k] = (float)(along * j->side[0].rest[k]);
    }
    kd__parallel(ctx, j->blocks, pkd_gradient, j);
}

static kd_status core(const kd__core *c, double *value)
{
    pkd_job j = { .c = c, .channels = c->in[0]->shape[3], .rows = c->in[0]->count / c->in[0]->shape[3] };
    const size_t n = j.channels;
    if (j.rows < 2) {
        if (c->grad[0]) memset(c->grad[0], 0, n * sizeof(float));
        return KD_OK;
    }
    j.blocks = (j.rows + PKD_ROWS - 1) / PKD_ROWS;
    double *doubles = kd__scratch_get(c->ctx, (j.blocks + 4 * n) * sizeof(double) + (3 * j.blocks + 9) * n * sizeof(float));
    if (!doubles) return kd__fail(KD_ERR_NOMEM, "out of memory");
    j.value = doubles;
    double *d = doubles + j.blocks;
    float *f = (float *)(d + 4 * n);
    for (size_t i = 0; i < 2; i++, f += 3 * n, d += 2 * n) j.side[i] = (pkd_side){ f, f + n, f + 2 * n, d, d + n };
    j.pull = f, j.k = f + n, j.m = f + 2 * n, j.partial = f + 3 * n;
    pkd_run(&j, value);
    kd__scratch_put(c->ctx, doubles);
    return atomic_load(&j.failed) ? kd__fail(KD_ERR_NOMEM, "out of memory") : KD_OK;
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    return kd__core_pairs(loss, tape, in, core);
}

const kd__feature_method kd__feature_PKD = {
    .formula = "mean (N(s) - N(t))^2 / 2, N: each channel standardised over batch and positions", .defaults = defaults,
    .check = check, .apply = apply
};
