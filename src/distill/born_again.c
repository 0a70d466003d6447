/* born_again.c - born-again networks (Furlanello, Lipton, Tschannen, Itti, Anandkumar 2018, arXiv 1805.04770).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b KL(softmax(teacher / T) || softmax(student / T)),  teacher: the previous generation, of the same shape
 * Gradient: T (q - p) / B.
 * Divides by: rows (B).
 * Detached: the teacher.
 * Defaults: T 1, hard_weight 1, soft_weight 1.
 * Forms: one.
 * Traps: the loss is that of kd; what is new is who teaches: after a generation its student becomes the teacher, and the next begins
 *     from new weights.  The paper's ensemble of generations is several teachers for testing, not for training.
 * Published: CIFAR-10 and -100 gains of each generation in the paper; none for the pairs of this list.
 * Cost: as kd. */
#include "distill/loss.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 1, d->hard_weight = 1, d->soft_weight = 1; }

const kd__method kd__method_BORN_AGAIN = {
    .formula = "T^2 / B sum_b KL(softmax(teacher / T) || softmax(student / T)), the teacher of the generation before",
    .needs = KD__DIRECTIONS,
    .defaults = defaults,
};
