/* mutual.c - deep mutual learning (Zhang, Xiang, Hospedales, Lu 2018, arXiv 1706.00384).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b KL(p || softmax(student / T)),  p: the peer's softmax, or the mean of several peers'
 * Gradient: T (q - p) / B; with M peers that of 1 / M sum_j KL(p_j || q).
 * Divides by: rows (B).
 * Detached: the peers.
 * Defaults: T 1, hard_weight 1, soft_weight 1.
 * Forms: one.
 * Traps: every network has its own loss, its own optimizer, and its peers' logits as constants; the public code takes a step with
 *     one network before the other sees it, so the order is part of the result.  Of several peers the paper averages the divergences;
 *     here the divergence is from the average: the same gradient, a value lower by how much the peers differ among themselves.
 * Published: CIFAR-100 ResNet32 69.83 -> 71.03 with a peer of its own kind.
 * Cost: as kd with one peer, as multi_teacher with more. */
#include "distill/loss.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 1, d->hard_weight = 1, d->soft_weight = 1; }

const kd__method kd__method_MUTUAL = {
    .formula = "T^2 / B sum_b KL(softmax(peer / T) || softmax(student / T))",
    .needs = KD__DIRECTIONS,
    .defaults = defaults,
};
