/* tfkd.c - distillation from a virtual teacher (Yuan, Tay, Li, Wang, Feng 2020, arXiv 1909.11723).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     CODE   soft = 1 / (B K) sum_b KL(softmax(u_b / T) || softmax(z_b))
 *     PAPER  soft = 1 / B sum_b KL(u_b^(1/T) / sum u_b^(1/T) || softmax(z_b / T))
 *     u_b: alpha at the label, (1 - alpha) / (K - 1) at the other classes; z: student's logits
 * Gradient: (q - target) / (B K), or / (B T) for PAPER.
 * Divides by: rows times classes (B K) for CODE, rows for PAPER.  No T^2.
 * Detached: nothing else is there: the teacher is made from the labels and not asked for.
 * Defaults: T 20, alpha .99, hard_weight .9, soft_weight .1 (the repository's CIFAR-100 scripts; they multiply the term by a number that
 *     grows with K besides: put it into soft_weight).
 * Forms: CODE takes the softmax of the probabilities u, which is nearly uniform for any T above 1, and leaves the student at temperature
 *     1; PAPER softens u itself, and the student with it.
 * Traps: the published weights belong to CODE and its division by B K; with PAPER they are another loss.  A row without a label is in
 *     neither term; soft labels count as their largest class.  The self-training form of the paper is Hinton's loss with an earlier copy
 *     of the student as teacher: born_again.  A class under a mask has probability 0 where the virtual teacher has some: the value is
 *     +inf, the gradient finite.
 * Published: ImageNet ResNet-18 69.84 -> 70.42 (the paper); 70.52 elsewhere.
 * Cost: two rows of scratch. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d)
{
    d->temperature = 20, d->alpha = 0.99f, d->hard_weight = 0.9f, d->soft_weight = 0.1f;
}

static kd_status check(const kd_loss_distill_desc *d)
{
    if (!(d->alpha > 0 && d->alpha < 1))
        return kd__fail(KD_ERR_ARG, "kd_loss_distill: tfkd: alpha %g is not in (0, 1)", (double)d->alpha);
    return KD_OK;
}

static double scale(const kd_loss_distill *loss, size_t classes)
{
    return loss->desc.form == KD_FORM_CODE ? 1 / (double)classes : 1;
}

static size_t scratch(const kd__soft *s) { return kd__times(2, s->classes); }

static void rows(const kd__soft *s)
{
    const bool paper = s->desc->form == KD_FORM_PAPER;
    const double t = (double)s->desc->temperature, others = (double)s->classes - 1, alpha = (double)s->desc->alpha;
    double yes = 1, no = 0, entropy = 0;
    if (others > 0) {   /* no / yes before the two are brought to sum 1 */
        const double rest = (1 - alpha) / others;
        const double ratio = kd__fixed_exp(paper ? kd__fixed_log(rest / alpha) / t : (rest - alpha) / t);
        yes = 1 / (1 + others * ratio);
        no = yes * ratio;
        entropy = (yes > 0 ? yes * kd__fixed_log(yes) : 0) + (no > 0 ? others * no * kd__fixed_log(no) : 0);
    }
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        const double crossed = kd__two_level_row(s, r, (size_t)s->labels[r], yes, no, paper ? s->desc->temperature : 1, s->scratch);
        s->soft[r] = (float)(entropy + crossed);
    }
}

const kd__method kd__method_TFKD = { .formula = "KL(softmax(virtual teacher / T) || q), the virtual teacher made from the label",
    .needs = KD__LABELS | KD__NO_TEACHER, .forms = 2, .defaults = defaults, .check = check, .scale = scale, .scratch = scratch,
    .rows = rows };
