/* deit_hard.c - two heads, the teacher's class on the distillation head (Touvron et al. 2021, DeiT, arXiv 2012.12877).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = 1 / B sum_b CE(student_second, argmax teacher), temperature 1;  the hard term is on `student`
 * Gradient: (softmax(student_second) - onehot(argmax teacher)) / B on student_second; none on student.
 * Divides by: rows (B).
 * Detached: the teacher.
 * Defaults: hard_weight 0.5, soft_weight 0.5; the temperature is not used.
 * Forms: one.
 * Traps: equal logits go to the first class.  The teacher sees the same augmented image as the student, mix-up included.  At test
 *     time the public code averages the two heads' logits, the paper adds their softmax outputs.
 * Published: ImageNet DeiT-Ti 72.2 -> 74.5, DeiT-S 79.9 -> 81.2, DeiT-B 81.8 -> 83.4.
 * Cost: two passes, one over each head. */
#include "distill/loss.h"

static void defaults(kd_loss_distill_desc *d) { d->hard_weight = 0.5f, d->soft_weight = 0.5f; }

const kd__method kd__method_DEIT_HARD = {
    .formula = "1 / B sum_b CE(student_second, argmax teacher)",
    .needs = KD__SECOND | KD__HARD_TEACHER,
    .defaults = defaults, .scale = kd__unscaled,
};
