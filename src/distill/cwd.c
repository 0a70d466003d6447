/* cwd.c - channel-wise distillation (Shu, Liu, Gao, Yan, Shen 2021, arXiv 2011.13256).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of T^2 / (B C) sum over samples and channels of KL(p || q)
 *     p = softmax over positions of (t / T), q = softmax over positions of (s / T): where on the map a channel is active
 * Gradient: T / (B C) (q - p).
 * Divides by: samples times channels (B C), not positions.
 * Detached: the teacher.
 * Taps: one or more pairs of maps {height, width, channels} of equal height and width: a segmentation network's logits, or
 *     features.
 * Adapters: s0, s1, ..: a 1x1 convolution with bias to the teacher's channels, for each pair whose channels differ.
 * Defaults: weight 3, temperature 4 (logits).
 * Forms: one.
 * Traps: three settings go by this name: logits with T 4 and weight 3 (the paper), logits with T 1 and weight 5, features with
 *     weight 50. One port takes the logarithm of a softmax, -inf where a position underflows; here all is in log space, and a
 *     position that is -inf on both sides counts nothing.  Maps of other sizes are KD_ERR_SHAPE: interpolate the student's
 *     yourself, as its paper does before the logits, so that you know how.
 * Published: Cityscapes PSPNet-R18 74.87 -> 75.54; COCO GFL R101 -> R50 40.2 -> 41.9.
 * Cost: 48 H W floats of scratch a thread, and the adapters. */
#include "distill/feature.h"

enum { CWD_CHANNELS = 16 };   /* a task: so many channels of a sample */

static void defaults(kd_loss_feature_desc *d) { d->weight = 3, d->temperature = 4; }

static kd_status check(kd_loss_feature_desc *d) { return kd__same_size_pairs(d); }

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    char name[24];
    for (size_t i = 0; i < d->student_count; i++)
        if (kd__pair_adapted(d, i))
            kd_layer_conv2d(root, kd__pair_name(name, i), d->student[i].size[2], d->teacher[i].size[2], 1, 1, 1, NULL);
}

static bool row(const kd__core *c, size_t task, void *scratch, double *value)
{
    const kd__pair *pair = c->user;
    const size_t channels = c->in[0]->shape[3], hw = c->in[0]->shape[1] * c->in[0]->shape[2];
    const size_t groups = (channels + CWD_CHANNELS - 1) / CWD_CHANNELS, first = task % groups * CWD_CHANNELS;
    const size_t n = KD_MIN(channels - first, (size_t)CWD_CHANNELS), at = task / groups * hw * channels + first;
    const double T = (double)pair->loss->desc.temperature;
    const float coef = (float)(T * T / ((double)c->in[0]->shape[0] * (double)channels));
    float *s = scratch, *t = s + CWD_CHANNELS * hw, *g = t + CWD_CHANNELS * hw, *room = g + CWD_CHANNELS * hw;
    float none[CWD_CHANNELS] = { 0 }, coefs[CWD_CHANNELS], hard[CWD_CHANNELS], soft[CWD_CHANNELS];
    uint32_t masked = 0;
    for (size_t k = 0; k < n; k++) coefs[k] = coef;
    for (size_t side = 0; side < 2; side++)
        c->kernels->copy2d_f32(side ? t : s, (ptrdiff_t)hw, 1, c->x[side] + at, 1, (ptrdiff_t)channels, n, hw, 0);
    c->kernels->distill_f32(&(kd__distill_args){
        .rows = n, .classes = hw, .student = s, .student_stride = hw, .teacher = t, .teacher_stride = hw, .hard_coef = none,
        .soft_coef = coefs, .grad = c->grad[0] ? g : NULL, .grad_stride = hw, .hard = hard, .soft = soft, .scratch = room,
        .masked = &masked, .temperature = (float)T, .js_beta = 0.5f, .direction = KD_DIRECTION_FORWARD,
        .teacher_form = KD_TEACHER_LOGITS });
    for (size_t k = 0; k < n; k++) *value += (double)coef * (double)soft[k];
    if (c->grad[0]) c->kernels->copy2d_f32(c->grad[0] + at, (ptrdiff_t)channels, 1, g, 1, (ptrdiff_t)hw, hw, n, 0);
    return true;
}

static kd_status core(const kd__core *c, double *value)
{
    const size_t channels = c->in[0]->shape[3], hw = c->in[0]->shape[1] * c->in[0]->shape[2];
    const size_t groups = (channels + CWD_CHANNELS - 1) / CWD_CHANNELS, floats = 3 * CWD_CHANNELS * hw;
    return kd__core_rows(c, c->in[0]->shape[0] * groups, (floats + kd__distill_scratch(hw)) * sizeof(float), row, value);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    return kd__each_pair(loss, tape, in, kd__adapt_channels, core);
}

const kd__feature_method kd__feature_CWD = {
    .formula = "T^2/(B C) sum over channels of KL(softmax_HW(t/T) || softmax_HW(s/T))", .defaults = defaults, .check = check,
    .adapters = adapters, .apply = apply
};
