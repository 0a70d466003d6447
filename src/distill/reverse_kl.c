/* reverse_kl.c - reverse Kullback-Leibler divergence (as in MiniLLM, Gu, Dong, Wei, Huang 2024, arXiv 2306.08543, a token at a time).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b KL(q_b || p_b),  p = softmax(teacher / T), q = softmax(student / T)
 * Gradient: T q (w - sum q w) / B,  w = log q - log p.
 * Divides by: rows (B); rows are tokens of a language model, those with ignore_index left out.
 * Detached: the teacher.
 * Defaults: T 1, hard_weight 0, soft_weight 1.
 * Forms: one.
 * Traps: tools name the directions by the order of a framework's arguments, which is the reverse of the mathematics: here it is the
 *     student's expectation, which seeks a mode.  MiniLLM itself samples from the student and uses this as a reward; this is the
 *     exact divergence of each row.  Where the teacher has a mask and the student has mass the value is +inf, the gradient finite.
 * Published: Dolly, GPT-2 120M: MiniLLM 24.6 ROUGE-L against 22.8 with forward KL (its sampled form).
 * Cost: one pass over the logits, fused with the hard term. */
#include "distill/loss.h"

static void defaults(kd_loss_distill_desc *d)
{
    d->temperature = 1, d->hard_weight = 0, d->soft_weight = 1, d->direction = KD_DIRECTION_REVERSE;
}

static kd_status check(const kd_loss_distill_desc *d)
{
    if (d->direction == KD_DIRECTION_REVERSE) return KD_OK;
    return kd__fail(KD_ERR_ARG, "kd_loss_distill: method reverse_kl has direction KD_DIRECTION_REVERSE, not %u: kd_loss_distill_desc_for"
                    " has its"
                    " numbers", (unsigned)d->direction);
}

const kd__method kd__method_REVERSE_KL = { .formula = "T^2 / B sum_b KL(q || p)", .needs = KD__DIRECTIONS, .defaults = defaults,
    .check = check };
