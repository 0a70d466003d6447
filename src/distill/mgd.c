/* mgd.c - masked generative distillation (Yang, Li, Shao, Shi, Yuan, Yuan 2022, arXiv 2205.01529).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of maps of 1 / B sum over all elements of (G(align(s) * keep) - t)^2
 *     keep: 0 with probability gamma, else 1: one for each sample's channel (PAPER: for each sample's position)
 *     G: convolution 3x3, ReLU, convolution 3x3; align: convolution 1x1
 * Gradient: 2 (G(..) - t) / B through G, the mask and align; all of them are trained.
 * Divides by: samples (B): a sum over channels and positions.
 * Detached: the teacher.
 * Taps: one or more pairs of maps of equal height and width.
 * Adapters: s0, s1, ..: align, only where the channels differ; generation.0 and .2.
 * Defaults: weight 7e-5 (ImageNet; CIFAR-100: 1.2e-3), gamma 0.15.
 * Forms: CODE: channels are masked, as for classification.  PAPER: positions are, as for detection and segmentation; with
 *     gamma 0.65 and weight 2e-5 for one-stage detectors.
 * State: the place in the random stream of `kd_loss_feature_eval`; on your tape it is the tape's (`kd_checkpoint_add_tape`).
 * Traps: what is kept is not scaled up as dropout would.  The weight belongs to the sum over a sample's elements: one port
 *     takes the mean, with which the published weights do next to nothing.  Masks are drawn on TRAIN tapes only, from the
 *     tape's random stream, one draw a pair and batch: a run that is resumed draws the same ones.  On EVAL tapes all is kept.
 * Published: ImageNet ResNet34 -> 18 71.69 (student 69.90); RetinaNet ResNeXt101 -> ResNet50 37.4 -> 41.0 mAP.
 * Cost: the generator: two 3x3 convolutions of the teacher's channels. */
#include "distill/feature.h"

static void defaults(kd_loss_feature_desc *d) { d->weight = 7e-5f, d->gamma = 0.15f; }

static kd_status check(kd_loss_feature_desc *d)
{
    if (!(d->gamma >= 0 && d->gamma < 1)) return kd__fail(KD_ERR_ARG, "gamma %g is not in [0, 1)", (double)d->gamma);
    return kd__same_size_pairs(d);
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    char name[24];
    for (size_t i = 0; i < d->student_count; i++) {
        kd_layer *s = kd__holder(root, kd__pair_name(name, i));
        if (kd__pair_adapted(d, i)) kd__same_conv(s, "align", d->student[i].size[2], d->teacher[i].size[2], 1, true);
        kd__generator(s, d->teacher[i].size[2]);
    }
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    const kd_loss_feature_desc *d = &loss->desc;
    kd_tensor *sum = NULL;
    char name[24], path[40];
    for (size_t i = 0; i < d->student_count; i++) {
        const size_t *t = d->teacher[i].size;
        kd_tensor *x = in->student[i];
        kd__format(path, sizeof path, "%s.align", kd__pair_name(name, i));
        if (kd__pair_adapted(d, i)) x = kd__adapter_forward(loss, tape, path, x);
        if (d->gamma > 0 && kd__tape_ok(tape) && tape->mode == KD_TAPE_TRAIN) {
            const bool pixels = d->form == KD_FORM_PAPER;
            const size_t shape[4] = { in->rows, pixels ? t[0] : 1, pixels ? t[1] : 1, pixels ? 1 : t[2] };
            x = kd_mul(tape, x, kd__draw_keep(tape, 4, shape, d->gamma));
        }
        kd__format(path, sizeof path, "%s.generation", name);
        x = kd__adapter_forward(loss, tape, path, x);
        sum = kd__feature_add(tape, sum, kd_mse(tape, x, in->teacher[i], KD_REDUCE_MEAN_ROWS));
    }
    return sum;
}

const kd__feature_method kd__feature_MGD = {
    .formula = "1/B sum (G(align(S) * keep) - T)^2, keep: random channels or positions, G: 3x3, ReLU, 3x3", .defaults = defaults,
    .check = check, .adapters = adapters, .draws = true, .apply = apply, .forms = 2
};
