/* vitkd.c - features of vision transformers (Yang, Li, Zeng, Li, Yuan, Li 2022, arXiv 2209.02432).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = alpha / B sum over all pairs but the last of sum (f_i(s_i) - t_i)^2
 *          + beta / (gamma B) sum over masked tokens of (G(x) - t)^2 of the last pair
 *     x = align(s), the masked tokens replaced by a trained one, laid out as a square map; G: 3x3, ReLU, 3x3
 *     f_i, align: linear layers
 * Gradient: 2 alpha (f(s) - t) / B through f; 2 beta (G(x) - t) / (gamma B) at masked tokens through G to the kept tokens,
 *     align and the trained token.
 * Divides by: samples (B): sums over tokens and width.
 * Detached: the teacher.
 * Taps: two or more pairs {tokens, width}, the first layers and then the last one, all without the class token; tokens a
 *     square, the same on both sides.
 * Adapters: s0, s1, ..: f, only where the widths differ; of the last pair: mask_token [width], align (where the widths
 *     differ), generation.0 and .2.
 * Defaults: weight 1, alpha 3e-5, beta 3e-6, gamma 0.5 (ImageNet, DeiT).
 * Forms: one.
 * State: the place in the random stream of `kd_loss_feature_eval`; on your tape it is the tape's (`kd_checkpoint_add_tape`).
 * Traps: tokens - floor(tokens (1 - gamma)) of each sample are masked, each choice as likely as another, drawn on TRAIN
 *     tapes from the tape's random stream: a run that is resumed draws the same ones.  The batch's `mask` [n, tokens] (1:
 *     kept, 0: masked) takes the place of the draw.  On an EVAL tape without a mask nothing is masked, so that the second part
 *     is 0.  The weights belong to sums over tokens and width: means need other ones.  The early layers imitate, the last one
 *     generates: to imitate the last one harms the student, says the paper.
 * Published: ImageNet DeiT III-Small -> DeiT-Tiny 76.06 (student 74.42).
 * Cost: two 3x3 convolutions of the teacher's width over the tokens. */
#include "distill/feature.h"
#include <math.h>

static void defaults(kd_loss_feature_desc *d) { d->alpha = 3e-5f, d->beta = 3e-6f, d->gamma = 0.5f; }

static bool adapted(const kd_loss_feature_desc *d, size_t i) { return d->student[i].size[1] != d->teacher[i].size[1]; }
static size_t side_of(const kd_loss_feature_desc *d) { return (size_t)sqrt((double)d->student[d->student_count - 1].size[0]); }

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 2, 1u << 2));
    for (size_t i = 0; i < d->student_count; i++)
        if (d->student[i].size[0] != d->teacher[i].size[0]) return kd__feature_misfit(d, i, "they must have the same tokens");
    const size_t last = d->student_count - 1, tokens = d->student[0].size[0], side = side_of(d);
    if (side * side != d->student[last].size[0]) return kd__feature_misfit(d, last, "the tokens must be a square");
    if (tokens != d->student[last].size[0]) return kd__feature_misfit(d, last, "all pairs must have the same tokens");
    return d->gamma >= 0 && d->gamma < 1 ? KD_OK : kd__fail(KD_ERR_ARG, "gamma %g is not in [0, 1)", (double)d->gamma);
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    char name[24];
    const size_t last = d->student_count - 1;
    const kd_feature_shape *s = d->student, *t = d->teacher;
    for (size_t i = 0; i < last; i++)
        if (adapted(d, i)) kd_layer_linear(root, kd__pair_name(name, i), s[i].size[1], t[i].size[1], 1);
    kd_layer *both = kd__holder(root, kd__pair_name(name, last));
    kd_layer_add_parameter(both, "mask_token", 1, &t[last].size[1], KD_INIT_ZEROS, 0, 0);
    if (adapted(d, last)) kd_layer_linear(both, "align", s[last].size[1], t[last].size[1], 1);
    kd__generator(both, t[last].size[1]);
}

static kd_tensor *generate(const kd_loss_feature *loss, kd_tape *tape, kd_tensor *s, kd_tensor *t, kd_tensor *keep)
{
    const kd_loss_feature_desc *d = &loss->desc;
    const size_t last = d->student_count - 1, n = s->shape[0], side = side_of(d), tokens = side * side, width = t->shape[2];
    char name[24], path[40];
    kd__format(path, sizeof path, "%s.align", kd__pair_name(name, last));
    if (adapted(d, last)) s = kd__adapter_forward(loss, tape, path, s);
    kd__format(path, sizeof path, "%s.generation", name);
    keep = kd_reshape(tape, keep, 3, (size_t[]){ n, tokens, 1 });
    kd_tensor *masked = kd_scale(tape, keep, -1, 1);
    s = kd_add(tape, kd_mul(tape, s, keep), kd_mul(tape, masked, kd__adapter_parameter(loss, name, "mask_token")));
    s = kd__adapter_forward(loss, tape, path, kd_reshape(tape, s, 4, (size_t[]){ n, side, side, width }));
    s = kd_square(tape, kd_sub(tape, kd_reshape(tape, s, 3, (size_t[]){ n, tokens, width }), t));
    const double share = (double)d->beta / ((double)d->gamma * (double)n);
    return kd_scale(tape, kd_sum(tape, kd_mul(tape, s, masked), 7u, 0), (float)share, 0);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    const kd_loss_feature_desc *d = &loss->desc;
    const size_t last = d->student_count - 1, tokens = d->student[last].size[0];
    kd_tensor *sum = NULL, *keep = in->mask;
    char name[24];
    for (size_t i = 0; i < last; i++) {
        kd_tensor *s = in->student[i];
        if (adapted(d, i)) s = kd__adapter_forward(loss, tape, kd__pair_name(name, i), s);
        sum = kd__feature_add(tape, sum, kd_mse(tape, s, in->teacher[i], KD_REDUCE_MEAN_ROWS));
    }
    sum = kd_scale(tape, sum, d->alpha, 0);
    if (d->gamma == 0 || d->beta == 0 || !kd__tape_ok(tape) || (!keep && tape->mode != KD_TAPE_TRAIN)) return sum;
    if (!keep) keep = kd__draw_tokens(tape, in->rows, tokens, tokens - kd__share(1 - d->gamma, tokens));
    return kd_add(tape, sum, generate(loss, tape, in->student[last], in->teacher[last], keep));
}

const kd__feature_method kd__feature_VITKD = {
    .formula = "alpha/B sum (f(S) - T)^2 of first layers + beta/(gamma B) sum (G(masked S) - T)^2 of the last at masked tokens",
    .defaults = defaults, .check = check, .adapters = adapters, .draws = true, .apply = apply
};
