/* hard.c - hard-label distillation (Touvron, Cord, Douze, Massa, Sablayrolles, Jegou 2021, arXiv 2012.12877).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = 1 / B sum_b CE(student_b, argmax teacher_b), temperature 1
 * Gradient: softmax(student) - onehot(argmax teacher), over B.
 * Divides by: rows (B).
 * Detached: the teacher.
 * Defaults: hard_weight 0.1, soft_weight 0.9, those of KD; the temperature is not used.
 * Forms: one.
 * Traps: the argmax of equal logits goes to the first class.  There is no T^2.  This is the term on one head; two heads are deit_hard.
 * Published: see deit_hard.
 * Cost: none beside KD's: one pass, no logarithm of the teacher. */
#include "distill/loss.h"

const kd__method kd__method_HARD = {
    .formula = "1 / B sum_b CE(student, argmax teacher)",
    .needs = KD__HARD_TEACHER,
    .scale = kd__unscaled,
};
