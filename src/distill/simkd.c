/* simkd.c - the teacher's classifier reused (Chen, Mei, Zhang, Wang, Feng, Chen 2022, arXiv 2203.14001).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = mean (P(s) - t)^2
 *     P: convolutions 1x1, 3x3, 1x1 without bias, batch norm and ReLU behind each, `width` channels between
 * Gradient: 2 (P(s) - t) / elements through P; P is trained too.
 * Divides by: elements of the teacher's map at the smaller of the two sizes, its batch included.
 * Detached: the teacher.
 * Taps: one pair, the last maps, behind the ReLU.  The larger is average-pooled to the other's height and width, the
 *     student's before P.
 * Adapters: s0: 0, 3, 6 the convolutions; 1, 4, 7 batch norms; 2, 5, 8 ReLUs.  width 0: half the teacher's channels (the
 *     paper's reduction factor 2).
 * Defaults: weight 1; the hard and soft terms of `kd_loss_distill` have weight 0: no label is used.
 * Forms: one.
 * Traps: the student's own classifier is not trained and must not be used.  The deployed network is student, P, mean over
 *     positions, the teacher's classifier: on an EVAL or INFER tape run the student up to the tap, average-pool its map to the
 *     teacher's size if it is larger, `kd_layer_forward` of the layer "s0" of `kd_model_root(kd_loss_feature_adapters(loss))`,
 *     `kd_global_avg_pool`, then `kd_linear` with the teacher's weight and bias; that output is what is measured, and
 *     published accuracies are its. P's parameters count as the student's and have to be saved with it (`kd_model_save` of the
 *     adapters).  teacher_weight is not needed for the loss.
 * Published: CIFAR-100 teacher ResNet32x4 (79.42): 8x4 78.08, VGG8 75.76, ShuffleNetV2x1.5 79.54; with width a quarter of
 *     the teacher's 77.88, 75.62, 79.48.
 * Cost: P: ct (cs + ct) / 2 + 9 ct^2 / 4 multiply-adds a position at the default width. */
#include "distill/feature.h"

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 1, 1u << 3));
    if (d->student_count != 1) return kd__fail(KD_ERR_ARG, "%zu pairs of taps: it takes one", d->student_count);
    if (!d->width) d->width = KD_MAX(d->teacher[0].size[2] / 2, 1u);
    return KD_OK;
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    kd__projector(kd_layer_sequence(root, "s0"), d->student[0].size[2], d->width, d->teacher[0].size[2], true);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    kd_tensor *s = in->student[0], *t = in->teacher[0];
    kd__match_maps(loss, tape, 0, &s, &t);
    return kd_mse(tape, kd__adapter_forward(loss, tape, "s0", s), t, KD_REDUCE_MEAN_ELEMENTS);
}

const kd__feature_method kd__feature_SIMKD = {
    .formula = "mean (P(S) - T)^2, P: 1x1, 3x3, 1x1, batch norm and ReLU behind each; the teacher's classifier behind P",
    .check = check, .adapters = adapters, .apply = apply
};
