/* lskd.c - logit standardisation (Sun, Ren, Li, Wang, Cao 2024, arXiv 2403.01427).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b KL(softmax(t^ / T) || softmax(s^ / T))
 *     z^ = (z - mean z) / (deviation z + 1e-7), over the classes of a row, deviation with K - 1; both sides
 * Gradient: that of kd with respect to s^, g, then (g - mean g) / (deviation + 1e-7) - s^ (g . s^) / ((K - 1) deviation).
 * Divides by: rows (B).
 * Detached: the teacher; mean and deviation of the student are not.
 * Defaults: T 2, hard_weight 0.1, soft_weight 9 (most cells of the paper's CIFAR-100 table).
 * Forms: one.  Any other method over logits is standardised by `standardize`: DKD's numbers are then those of DKD with alpha and
 *     beta 9 times as large.
 * Traps: the published cells are tuned pair by pair: T 2 and weight 9 mostly, but 3, 9 (VGG13 -> 8), 4, 12 (ResNet110 -> 20), 3, 1
 *     (ResNet50 -> MobileNetV2).  The deviation divides by K - 1, as the public code does; with K it is the same loss at
 *     temperature T sqrt((K - 1) / K).  A row of equal logits has deviation 0: its standardised row is 0, its gradient finite.  Masked
 *     classes are left out of mean and deviation.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 76.62 (KD 73.33); ResNet56 -> 20 71.43 (KD 70.66).
 * Cost: one more matrix and a gradient of it for a block of rows. */
#include "distill/loss.h"

static void defaults(kd_loss_distill_desc *d)
{
    d->temperature = 2;
    d->hard_weight = 0.1f, d->soft_weight = 9;
    d->standardize = 1;
}

static kd_status check(const kd_loss_distill_desc *d)
{
    if (d->standardize) return KD_OK;
    return kd__fail(KD_ERR_ARG, "kd_loss_distill: method lskd without standardize is kd: kd_loss_distill_desc_for has its numbers");
}

const kd__method kd__method_LSKD = {
    .formula = "T^2 / B sum_b KL(softmax(t^ / T) || softmax(s^ / T)), z^ standardised over classes",
    .needs = KD__DIRECTIONS,
    .defaults = defaults, .check = check,
};
