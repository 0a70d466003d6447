/* deit_soft.c - two heads, soft labels on the distillation head (Touvron et al. 2021, DeiT, arXiv 2012.12877).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / (B K) sum_b KL(softmax(teacher / T) || softmax(student_second / T));  the hard term is on `student`
 * Gradient: T (q - p) / (B K) on student_second; none on student.
 * Divides by: rows times classes (B K); PAPER: rows (B).
 * Detached: the teacher.
 * Defaults: T 1, hard_weight 0.5, soft_weight 0.5 (the code's; the paper says T 3 and 0.1 for its weight of this term).
 * Forms: CODE divides by B K, as the public code does on purpose; PAPER by B.
 * Traps: the numbers of one form with the divisor of the other are a loss K times as large or small.  The teacher sees the same
 *     augmented image as the student.  At test time the two heads' logits are averaged.  Mix-up: labels may be soft.
 * Published: ImageNet DeiT-S 79.9 -> 81.2 distilled (hard labels; the paper found soft ones worse).
 * Cost: two passes, one over each head. */
#include "distill/loss.h"

static void defaults(kd_loss_distill_desc *d)
{
    d->temperature = 1;
    d->hard_weight = 0.5f, d->soft_weight = 0.5f;
}

static double scale(const kd_loss_distill *loss, size_t classes)
{
    double squared = kd__squared(loss, classes);
    return loss->desc.form == KD_FORM_CODE ? squared / (double)classes : squared;
}

const kd__method kd__method_DEIT_SOFT = {
    .formula = "T^2 / (B K) sum_b KL(softmax(teacher / T) || softmax(student_second / T))",
    .needs = KD__SECOND | KD__DIRECTIONS, .forms = 2,
    .defaults = defaults, .scale = scale,
};
