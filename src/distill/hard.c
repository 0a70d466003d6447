/* hard.c - hard-label distillation (Touvron et al. 2021, DeiT, arXiv 2012.12877).
 * SPDX-License-Identifier: MIT
 *
 *     soft = CE(student, argmax teacher), temperature 1, no T^2;  ties go to the first maximum
 *     d soft / d student = softmax(student) - onehot(argmax teacher) */
#include "distill/loss.h"

static kd_status check(const kd_loss_distill_desc *d)
{
    (void)d;
    return KD_OK;
}

static double scale(const kd_loss_distill_desc *d)
{
    (void)d;
    return 1;
}

const kd__method kd__method_HARD = { check, scale, true };
