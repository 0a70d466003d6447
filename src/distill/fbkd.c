/* fbkd.c - attention-guided and non-local distillation of a detector's features (Zhang, Ma 2021, ICLR).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = alpha |sqrt(w) (t - feature(s))| + beta |mean_hw t - channel(mean_hw s)| + beta |mean_c t - spatial(mean_c s)|
 *          + gamma |N_t(t) - relation(N_s(s))|
 *     | |: the length over all elements of the batch, not squared
 *     w = (m(s) + m(t)) / 2, m(x) = H W softmax over positions of mean_c |x| / T: where both sides look
 *     N(x) = x + BN(conv_out(theta(x) phi(x)^T g(x) / (H W))): every position with every other
 * Gradient: the difference over the length, nothing where the length is 0; through the adapters, and on the teacher's side
 *     to N_t's own layers.
 * Divides by: nothing: lengths grow with the root of the batch.
 * Detached: the teacher's tap; the attention w, on both sides.
 * Taps: one pair of maps of equal height and width: a level of the pyramid; a loss a level.
 * Adapters: s0: feature (1x1), channel (linear), spatial (3x3, one channel), non_local (g, theta, phi 1x1 to h channels,
 *     conv_out 1x1 without bias, bn), relation (1x1); t0: the teacher's non-local block.  h = width; 0: half the channels of
 *     that side.
 * Defaults: weight 1, alpha 7e-5, beta 4e-3, gamma 7e-5, temperature 0.5 (COCO, two-stage detectors).
 * Forms: one.
 * Traps: the public code computes a channel mask and never uses it: it is not here.  Its lengths are not squared, as the
 *     formula above. The product of theta, phi and g is taken as theta (phi^T g), which is the same and needs no matrix of all
 *     pairs of positions. Batch norm in the non-local blocks is trained like the other layers, the teacher's too.
 * Published: COCO Faster R-CNN ResNet50, 37.4 -> 39.3 mAP in another toolbox.
 * Cost: eleven 1x1 convolutions; twice the teacher's tap as scratch. */
#include "distill/feature.h"

static void defaults(kd_loss_feature_desc *d) { d->alpha = d->gamma = 7e-5f, d->beta = 4e-3f, d->temperature = 0.5f; }

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__same_size_pairs(d));
    return d->student_count == 1 ? KD_OK : kd__fail(KD_ERR_ARG, "%zu pairs of taps: it takes one", d->student_count);
}

static void non_local(kd_layer *block, size_t channels, size_t width)
{
    const size_t h = width ? width : KD_MAX(channels / 2, 1u);
    kd__same_conv(block, "g", channels, h, 1, true);
    kd__same_conv(block, "theta", channels, h, 1, true);
    kd__same_conv(block, "phi", channels, h, 1, true);
    kd__same_conv(block, "conv_out", h, channels, 1, false);
    kd_layer_batch_norm(block, "bn", channels, 0.1f, 1e-5f);
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    const size_t s = d->student[0].size[2], t = d->teacher[0].size[2];
    kd_layer *student = kd__holder(root, "s0");
    kd__same_conv(student, "feature", s, t, 1, true);
    kd_layer_linear(student, "channel", s, t, 1);
    kd__same_conv(student, "spatial", 1, 1, 3, true);
    non_local(kd__holder(student, "non_local"), s, d->width);
    kd__same_conv(student, "relation", s, t, 1, true);
    non_local(kd__holder(root, "t0"), t, d->width);
}

/* [n, hw]: softmax over positions. */
static kd_tensor *importance(kd_tape *tape, kd_tensor *x, float temperature)
{
    x = kd_mean(tape, kd_abs(tape, kd_detach(tape, x)), 8u, 0);
    return kd_softmax(tape, kd_flatten(tape, x), temperature);
}

static kd_tensor *part(const kd_loss_feature *loss, kd_tape *tape, const char *side, const char *layer, kd_tensor *x)
{
    char path[40];
    kd__format(path, sizeof path, "%s.%s", side, layer);
    return kd__adapter_forward(loss, tape, path, x);
}

static kd_tensor *related(const kd_loss_feature *loss, kd_tape *tape, const char *side, kd_tensor *x)
{
    kd_tensor *g = part(loss, tape, side, "g", x), *theta = part(loss, tape, side, "theta", x);
    kd_tensor *phi = part(loss, tape, side, "phi", x);
    if (!kd__tape_ok(tape)) return kd__poison(tape);
    const size_t n = x->shape[0], hw = x->shape[1] * x->shape[2], h = g->shape[3], flat[3] = { n, hw, h };
    kd_tensor *pairs = kd_matmul(tape, kd_reshape(tape, phi, 3, flat), kd_reshape(tape, g, 3, flat), KD_TRANSPOSE_A);
    pairs = kd_scale(tape, pairs, 1 / (float)hw, 0);
    kd_tensor *y = kd_matmul(tape, kd_reshape(tape, theta, 3, flat), pairs, 0);
    y = kd_reshape(tape, y, 4, (size_t[]){ n, x->shape[1], x->shape[2], h });
    return kd_add(tape, x, part(loss, tape, side, "bn", part(loss, tape, side, "conv_out", y)));
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    const kd_loss_feature_desc *d = &loss->desc;
    const size_t hw = d->student[0].size[0] * d->student[0].size[1];
    kd_tensor *s = in->student[0], *t = in->teacher[0];
    kd_tensor *w = kd_add(tape, importance(tape, s, d->temperature), importance(tape, t, d->temperature));
    w = kd_scale(tape, w, (float)hw / 2, 0);
    kd_tensor *sum = kd__distance(tape, loss->name, t, part(loss, tape, "s0", "feature", s), w, d->alpha), *x;
    x = part(loss, tape, "s0", "channel", kd_global_avg_pool(tape, s));
    sum = kd_add(tape, sum, kd__distance(tape, loss->name, kd_global_avg_pool(tape, t), x, NULL, d->beta));
    x = part(loss, tape, "s0", "spatial", kd_mean(tape, s, 8u, 1));
    sum = kd_add(tape, sum, kd__distance(tape, loss->name, kd_mean(tape, t, 8u, 1), x, NULL, d->beta));
    x = part(loss, tape, "s0", "relation", related(loss, tape, "s0.non_local", s));
    return kd_add(tape, sum, kd__distance(tape, loss->name, related(loss, tape, "t0", t), x, NULL, d->gamma));
}

const kd__feature_method kd__feature_FBKD = {
    .formula = "alpha |w (T - conv(S))| + beta (|channel means| + |position means|) + gamma |non-local T - conv(non-local S)|",
    .defaults = defaults, .check = check, .adapters = adapters, .apply = apply
};
