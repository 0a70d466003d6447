/* kd.c - soft labels at a temperature (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b D(p_b, q_b),  p = softmax(teacher / T), q = softmax(student / T)
 *     D = KL(p || q); KL(q || p) or Jensen-Shannon by `direction`
 * Gradient: T (q - p) / B for KL(p || q).
 * Divides by: rows (B).
 * Detached: the teacher.
 * Defaults: T 4, hard_weight 0.1, soft_weight 0.9 (the CIFAR-100 literature).
 * Forms: one.
 * Traps: several toolkits leave T^2 out, which makes the term T^2 smaller at the same weight (temperature_squared = 0 for their numbers).
 *     Averaging over rows times classes, which some do by accident and DeiT on purpose, divides by the classes too: that is
 *     KD_REDUCE_MEAN_ELEMENTS here, or deit_soft.  A cross-entropy with soft labels has this gradient but is larger by the
 *     teacher's entropy; here it is the divergence, 0 when both agree.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 73.33 (student 72.50, teacher 79.42); ResNet56 -> 20 70.66 (student 69.06).
 * Cost: one pass over the logits, fused with the hard term. */
#include "distill/loss.h"

const kd__method kd__method_KD = { .formula = "T^2 / B sum_b KL(softmax(teacher / T) || softmax(student / T))", .needs = KD__DIRECTIONS };
