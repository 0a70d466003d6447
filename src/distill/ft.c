/* ft.c - factor transfer (Kim, Park, Kwak 2018, arXiv 1802.04977).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = alpha * factor + beta * reconstruction
 *     factor = mean over samples and positions of |A(f_s) - A(f_t)|
 *     A(f) = a / max(|a|, 1e-12), a[h, w] = mean over channels of f^2
 *     reconstruction = mean (decoder(f_t) - t)^2
 *     f_s = translator(s), f_t = encoder(t); encoder and decoder together are the paraphraser
 * Gradient: of the factor to the student and the translator alone; of the reconstruction to the paraphraser alone.
 * Divides by: samples times positions (PAPER: elements of the factor); the reconstruction by elements of the teacher's
 *     tap.
 * Detached: the teacher; f_t in the factor.
 * Taps: one pair of maps.  Of two factors of different sizes the larger is average-pooled to the other's height and width.
 * Adapters: s0 conv1, bn1, .. conv3, bn3, the translator: 3x3 convolutions of padding 1 with channels c, k, k, batch norm,
 *     leaky ReLU .1; t0 conv1 .. conv3, the encoder, with channels t, k, k, and conv4 .. conv6, the decoder, with k, t, t,
 *     without batch norm. k = floor(gamma t), at least 1: gamma of the teacher's channels.
 * Defaults: weight 200, alpha 1, beta 0.005 (so that the reconstruction counts 1), gamma 0.5.
 * Forms: CODE: above.  PAPER: A(f) = f / max(|f|, 1e-12) of all elements of a sample's factor.
 * Traps: the two forms are different losses, not only other scales: CODE compares where a factor is active, PAPER the
 *     factor. The published runs train the paraphraser first (30 epochs, learning rate .01 for ResNets) and hold it fixed
 *     afterwards.  In two stages: a loss with alpha 0 and beta 1 trains the paraphraser; `kd_model_copy` takes its adapters to
 *     one with alpha 1 and beta 0, whose paraphraser gets no gradient.  An optimizer's weight decay would still shrink it: put
 *     no decay on `t0`.  The default trains both at once.  A part with weight 0 is not run.  The decoder's convolutions are
 *     ordinary ones: transposed ones of stride 1 are the same with the kernel turned.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 72.86, WRN-40-2 -> 16-2 73.25; ImageNet ResNet34 -> 18 71.43.
 * Cost: nine convolutions; two rows of the factor in double as scratch a thread. */
#include "distill/feature.h"
#include <math.h>

static void defaults(kd_loss_feature_desc *d) { d->weight = 200, d->alpha = 1, d->beta = 0.005f, d->gamma = 0.5f; }

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 1, 1u << 3));
    if (d->student_count != 1) return kd__fail(KD_ERR_ARG, "%zu pairs of taps: it takes one", d->student_count);
    if (!(d->gamma > 0 && d->gamma <= 16)) return kd__fail(KD_ERR_ARG, "gamma %g is not in (0, 16]", (double)d->gamma);
    if (!(d->alpha >= 0 && d->beta >= 0 && d->alpha + d->beta > 0))
        return kd__fail(KD_ERR_ARG, "alpha %g, beta %g: neither below 0, and not both 0", (double)d->alpha, (double)d->beta);
    return KD_OK;
}

static void chain(kd_layer *parent, size_t first, const size_t size[4], bool norm)
{
    char name[24];
    for (size_t i = 0; i < 3; i++) {
        kd__format(name, sizeof name, "conv%zu", first + i);
        kd__same_conv(parent, name, size[i], size[i + 1], 3, true);
        kd__format(name, sizeof name, "bn%zu", first + i);
        if (norm) kd_layer_batch_norm(parent, name, size[i + 1], 0.1f, 1e-5f);
    }
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    const size_t s = d->student[0].size[2], t = d->teacher[0].size[2], k = KD_MAX(kd__share(d->gamma, t), 1u);
    kd_layer *student = kd__holder(root, "s0"), *teacher = kd__holder(root, "t0");
    chain(student, 1, (size_t[]){ s, s, k, k }, true);
    chain(teacher, 1, (size_t[]){ t, t, k, k }, false);
    chain(teacher, 4, (size_t[]){ k, k, t, t }, false);
}

static kd_tensor *forward(const kd_loss_feature *loss, kd_tape *tape, const char *side, size_t first, bool norm, kd_tensor *x)
{
    char path[40];
    for (size_t i = first; i < first + 3; i++) {
        kd__format(path, sizeof path, "%s.conv%zu", side, i);
        x = kd__adapter_forward(loss, tape, path, x);
        kd__format(path, sizeof path, "%s.bn%zu", side, i);
        if (norm) x = kd__adapter_forward(loss, tape, path, x);
        x = kd_leaky_relu(tape, x, 0.1f);
    }
    return x;
}

/* a = A of row r, and how long it was. */
static double factor(const kd__core *c, size_t i, size_t r, size_t m, double *a)
{
    const kd_loss_feature_desc *d = c->user;
    const size_t channels = c->in[i]->shape[3];
    const float *x = c->x[i] + r * (c->in[i]->count / c->in[i]->shape[0]);
    double square = 0;
    for (size_t p = 0; p < m; p++) {
        a[p] = (double)x[p];
        if (d->form != KD_FORM_PAPER) {
            c->kernels->dot_f32(&a[p], x + p * channels, x + p * channels, channels);
            a[p] /= (double)channels;
        }
        square += a[p] * a[p];
    }
    const double length = sqrt(square), share = 1 / KD_MAX(length, 1e-12);
    for (size_t p = 0; p < m; p++) a[p] *= share;
    return length;
}

static size_t factor_size(const kd__core *c)
{
    const kd_loss_feature_desc *d = c->user;
    const size_t *shape = c->in[0]->shape;
    return shape[1] * shape[2] * (d->form == KD_FORM_PAPER ? shape[3] : 1);
}

static bool row(const kd__core *c, size_t r, void *scratch, double *value)
{
    const kd_loss_feature_desc *desc = c->user;
    const size_t hw = c->in[0]->shape[1] * c->in[0]->shape[2], channels = c->in[0]->shape[3], m = factor_size(c);
    const bool squares = desc->form != KD_FORM_PAPER;
    double *a = scratch, *d = a + m, sum = 0, along = 0, share = 1 / ((double)c->in[0]->shape[0] * (double)m);
    const double length = factor(c, 0, r, m, a);
    factor(c, 1, r, m, d);
    for (size_t p = 0; p < m; p++) {
        const double x = a[p] - d[p];
        sum += fabs(x);
        d[p] = x > 0 ? 1 : x < 0 ? -1 : 0;
        along += d[p] * a[p];
    }
    *value = sum * share;
    if (!c->grad[0]) return true;
    if (length < 1e-12) along = 0, share = length > 0 ? share / 1e-12 : 0;
    else share /= length;
    float *g = c->grad[0] + r * hw * channels;
    const float *x = c->x[0] + r * hw * channels;
    for (size_t p = 0; p < m; p++) {
        const double by = share * (d[p] - a[p] * along);
        if (!squares) g[p] = (float)by;
        else c->kernels->unary_f32(KD_UNARY_SCALE_ADD, g + p * channels, x + p * channels, channels,
                                   (float)(2 * by / (double)channels), 0);
    }
    return true;
}

static kd_status core(const kd__core *c, double *value)
{
    return kd__core_rows(c, c->in[0]->shape[0], 2 * factor_size(c) * sizeof(double), row, value);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    const kd_loss_feature_desc *d = &loss->desc;
    kd_tensor *code = forward(loss, tape, "t0", 1, false, in->teacher[0]), *sum = NULL;
    if (d->alpha > 0) {
        kd_tensor *pair[2] = { forward(loss, tape, "s0", 1, true, in->student[0]), kd_detach(tape, code) };
        kd__match_maps(loss, tape, 0, &pair[0], &pair[1]);
        sum = kd_scale(tape, kd__core_run(tape, loss->name, pair, 2, core, d), d->alpha, 0);
    }
    if (d->beta > 0) {
        kd_tensor *t = forward(loss, tape, "t0", 4, false, code);
        t = kd_scale(tape, kd_mse(tape, t, in->teacher[0], KD_REDUCE_MEAN_ELEMENTS), d->beta, 0);
        sum = kd__feature_add(tape, sum, t);
    }
    return sum;
}

const kd__feature_method kd__feature_FT = {
    .formula = "alpha mean |A(translator(S)) - A(encoder(T))| + beta mean (decoder(encoder(T)) - T)^2", .defaults = defaults,
    .check = check, .adapters = adapters, .apply = apply, .forms = 2
};
