/* multi_teacher.c - several teachers, combined before the divergence (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b KL(p || softmax(student / T)),  w = teacher_weights over their sum
 *     p = sum_j w_j softmax(t_j / T)              KD_TEACHERS_MEAN_PROBS, the default: Hinton's arithmetic mean
 *     p = softmax(sum_j w_j t_j / T)              KD_TEACHERS_MEAN_LOGITS: the geometric mean, normalised
 *     p = softmax(t_j / T), CE(t_j, label) least  KD_TEACHERS_BEST, row by row
 * Gradient: T (q - p) / B.
 * Divides by: rows (B).
 * Detached: all teachers.
 * Defaults: T 4, hard_weight 0.1, soft_weight 0.9, means of probabilities, equal weights.
 * Forms: one; `teachers` says how.
 * Traps: the means of logits and of probabilities are two losses that public toolkits both call the ensemble.  One teacher is kd, to
 *     the last digits.  Any other method over logits takes several teachers in the same way.  BEST needs labels; of equally good
 *     teachers the first; a row without a label leaves the soft term.  A mask of one teacher masks the geometric mean.
 * Published: none that compare the three.
 * Cost: a logarithm of softmax for each teacher and row, one matrix for a block of rows. */
#include "distill/loss.h"

const kd__method kd__method_MULTI_TEACHER = {
    .formula = "T^2 / B sum_b KL(mean_j softmax(t_j / T) || softmax(student / T))",
    .needs = KD__DIRECTIONS,
};
