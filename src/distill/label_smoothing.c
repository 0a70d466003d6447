/* label_smoothing.c - label smoothing as distillation from a uniform teacher (Szegedy et al. 2016, arXiv 1512.00567; Yuan et al. 2020,
 * arXiv 1909.11723, section 3.1).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     CODE   soft = - 1 / B sum_b 1 / K sum_k log q_bk
 *     PAPER  soft = 1 / B sum_b KL(uniform || q_b), which is less by log K
 *     q = softmax(student), temperature 1
 *     With hard_weight 1 - a and soft_weight a this is cross-entropy with the label smoothed by a.
 * Gradient: (q - 1 / K) / B.
 * Divides by: rows (B).  No T^2.
 * Detached: nothing; there is no teacher.
 * Defaults: hard_weight .9, soft_weight .1 (Inception-v3).
 * Forms: CODE as frameworks compute it, a cross-entropy; PAPER the divergence from the uniform teacher.  Gradients are equal.
 * Traps: the field `label_smoothing` of any loss does the same inside the hard term; using both smooths twice.  A class under a mask
 *     has probability 0 where the uniform teacher has 1 / K: the value is +inf, as it truly is, the gradient finite.
 * Published: ImageNet Inception-v3 23.1 -> 22.8 top-1 error (the paper).
 * Cost: two rows of scratch. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 1, d->hard_weight = 0.9f, d->soft_weight = 0.1f; }
static size_t scratch(const kd__soft *s) { return kd__times(2, s->classes); }

static void rows(const kd__soft *s)
{
    const double each = 1 / (double)s->classes, less = s->desc->form == KD_FORM_PAPER ? kd__fixed_log((double)s->classes) : 0;
    for (size_t r = 0; r < s->rows; r++)
        if (s->coef[r] != 0) s->soft[r] = (float)(kd__two_level_row(s, r, SIZE_MAX, each, each, 1, s->scratch) - less);
}

const kd__method kd__method_LABEL_SMOOTHING = { .formula = "-1/K sum_k log q_k: cross-entropy with a uniform teacher",
    .needs = KD__NO_TEACHER, .forms = 2, .defaults = defaults, .scale = kd__unscaled, .scratch = scratch, .rows = rows };
