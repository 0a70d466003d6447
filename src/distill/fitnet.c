/* fitnet.c - regression of hint layers (Romero, Ballas, Kahou, Chassang, Gatta, Bengio 2015, arXiv 1412.6550).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of taps of mean (R(S) - T)^2, over all elements
 *     R: convolution, batch norm, ReLU.  From [s, s, c] to [t, t, d]: 3x3 of stride 2 where s = 2t, transposed 4x4 of stride 2
 *     where 2s = t, else 1 + s - t without padding.  Of {width} and {tokens, width} taps: a linear layer, batch norm, ReLU.
 * Gradient: 2 (R(S) - T) / elements through R; R is trained too.
 * Divides by: elements of the teacher's tap, its batch included.
 * Detached: the teacher.
 * Taps: one or more pairs, as many of each.
 * Adapters: "reg0", "reg1", .. one for each pair.
 * Defaults: weight 100 (CIFAR-100, the second stage's map).
 * Forms: CODE with the ReLU at the end of R; PAPER without it.
 * Traps: a ReLU at the end of R forbids it to match a negative feature: with taps in front of a ReLU take the PAPER form.  The
 *     paper trains in two stages, hint first; the public code in one.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 73.50, WRN-40-2 -> 16-2 73.58.
 * Cost: the regressors. */
#include "distill/feature.h"

static void defaults(kd_loss_feature_desc *d) { d->weight = 100; }

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 1, 1u << 1 | 1u << 2 | 1u << 3));
    for (size_t i = 0; i < d->student_count; i++)
        if (!kd__conv_reg_fits(&d->student[i], &d->teacher[i]))
            return kd__feature_misfit(d, i, "the student's map must be half as large, or as large or larger on both axes");
    return KD_OK;
}

static void name_of(char name[16], size_t i) { kd__format(name, 16, "reg%zu", i); }

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    char name[16];
    for (size_t i = 0; i < d->student_count; i++) {
        name_of(name, i);
        kd__conv_reg(root, name, &d->student[i], &d->teacher[i], d->form == KD_FORM_CODE);
    }
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    char name[16];
    kd_tensor *sum = NULL;
    for (size_t i = 0; i < loss->desc.student_count; i++) {
        name_of(name, i);
        kd_tensor *s = kd__conv_reg_forward(loss, tape, name, in->student[i], i);
        sum = kd__feature_add(tape, sum, kd_mse(tape, s, in->teacher[i], KD_REDUCE_MEAN_ELEMENTS));
    }
    return sum;
}

const kd__feature_method kd__feature_FITNET = {
    .formula = "mean (R(S) - T)^2, R: convolution, batch norm, ReLU", .defaults = defaults, .check = check, .adapters = adapters,
    .apply = apply, .forms = 2
};
