/* js.c - generalised Jensen-Shannon divergence (Agarwal et al. 2024, GKD, arXiv 2306.13649).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     soft = T^2 / B sum_b [ beta KL(p || m) + (1 - beta) KL(q || m) ],  m = beta p + (1 - beta) q,  beta = js_beta
 * Gradient: T (1 - beta) q (w - sum q w) / B,  w = log q - log m.
 * Divides by: rows (B); rows are tokens of a language model, those with ignore_index left out.
 * Detached: the teacher.
 * Defaults: T 1, js_beta .5, hard_weight 0, soft_weight 1.
 * Forms: one.
 * Traps: DistiLLM's lambda is 1 - beta here.  The paper has no T^2 and no temperature but that of sampling: T 1 is both.  Towards beta 0
 *     it becomes forward, towards 1 reverse KL, each times its vanishing weight: trainers that accept 0 and 1 switch to the divergence
 *     itself, which is kd and reverse_kl.  Implementations that multiply 0 by log 0 give NaN under masks: here that is 0.
 * Published: its tables are ROUGE-2 and BLEU of T5 students, beta .1 to .9 by task (the paper).
 * Cost: one pass over the logits, fused with the hard term. */
#include "distill/loss.h"

static void defaults(kd_loss_distill_desc *d)
{
    d->temperature = 1, d->hard_weight = 0, d->soft_weight = 1, d->direction = KD_DIRECTION_JS, d->js_beta = 0.5f;
}

static kd_status check(const kd_loss_distill_desc *d)
{
    if (d->direction == KD_DIRECTION_JS) return KD_OK;
    return kd__fail(KD_ERR_ARG, "kd_loss_distill: method js has direction KD_DIRECTION_JS, not %u: kd_loss_distill_desc_for has its"
                    " numbers",
                    (unsigned)d->direction);
}

const kd__method kd__method_JS = { .formula = "T^2 / B sum_b beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q",
    .needs = KD__DIRECTIONS, .defaults = defaults, .check = check };
