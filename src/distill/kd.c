/* kd.c - soft labels at a temperature (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).
 * SPDX-License-Identifier: MIT
 *
 *     soft = T^2 D(p, q),  p = softmax(teacher / T), q = softmax(student / T),  D = KL(p || q), KL(q || p) or Jensen-Shannon
 *     d soft / d student = T (q - p)  for KL(p || q)
 *
 * T^2 keeps the size of the gradient when T changes; several toolkits leave it out (temperature_squared = 0). */
#include "distill/loss.h"

static kd_status check(const kd_loss_distill_desc *d)
{
    if (d->direction < KD_DIRECTION_FORWARD || d->direction > KD_DIRECTION_JS)
        return kd__fail(KD_ERR_ARG, "kd_loss_distill: direction %u is not KD_DIRECTION_FORWARD, _REVERSE or _JS", (unsigned)d->direction);
    if (d->direction == KD_DIRECTION_JS && !(d->js_beta > 0 && d->js_beta < 1))
        return kd__fail(KD_ERR_ARG, "kd_loss_distill: js_beta %g is not in (0, 1)", (double)d->js_beta);
    if (d->teacher_form < KD_TEACHER_LOGITS || d->teacher_form > KD_TEACHER_PROBS)
        return kd__fail(KD_ERR_ARG, "kd_loss_distill: teacher_form %u is not KD_TEACHER_LOGITS, _LOG_PROBS or _PROBS",
                        (unsigned)d->teacher_form);
    return KD_OK;
}

static double scale(const kd_loss_distill_desc *d)
{
    return d->temperature_squared ? (double)d->temperature * (double)d->temperature : 1;
}

const kd__method kd__method_KD = { check, scale, false };
