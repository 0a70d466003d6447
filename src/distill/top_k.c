/* top_k.c - sparse teachers: of each row only the k largest classes are known (stored outputs of language models).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     CODE   soft = T^2 / B sum_b sum_j p'_j (log p'_j - log q_j),  p' = the teacher over its k classes, brought to sum 1
 *     PAPER  soft = T^2 / B sum_b KL over k + 1 events, the last one the rest:  1 - sum p_j  and  1 - sum q_j
 *     q = softmax(student / T) over all classes; the teacher's row is [k] values, teacher_classes [k] says of which classes
 * Gradient: T (q - p') / B;  with the rest also - rest q^ over the classes that are not kept, q^ normalised there.
 * Divides by: rows (B); rows are tokens of a language model, those with ignore_index left out.
 * Detached: the teacher.
 * Defaults: T 1, hard_weight 0, soft_weight 1.
 * Forms: CODE is DistillKit's `zero`: its least value is not 0 but minus the logarithm of the mass the student keeps elsewhere.
 *     PAPER is its
 *     `symmetric_uniform`, a bucket for the rest, 0 when both agree; the rest is known of probabilities or log-probabilities only:
 *     KD_TEACHER_LOGITS is refused.
 * Traps: classes are 32 bits wide: stores with 16 bits break at 32768 classes.  Probabilities are at T already (p^(1/T), brought to sum
 *     1 again: offline); a store should say at which T, and of which teacher.  Mass above 1 leaves no rest.  A class twice in a row counts
 *     twice.
 * Published: none that is a number of this loss alone.
 * Cost: four rows of scratch. */
#include "distill/row_ops.h"

static void defaults(kd_loss_distill_desc *d) { d->temperature = 1, d->hard_weight = 0, d->soft_weight = 1; }

static kd_status check(const kd_loss_distill_desc *d)
{
    if (d->form == KD_FORM_CODE || d->teacher_form != KD_TEACHER_LOGITS) return KD_OK;
    return kd__fail(KD_ERR_ARG,
        "kd_loss_distill: top_k: KD_FORM_PAPER needs KD_TEACHER_PROBS or _LOG_PROBS: logits of k classes do not say how much"
                    " is left");
}

static size_t scratch(const kd__soft *s) { return kd__times(4, KD_MAX(s->classes, s->teacher_width)); }

static void rows(const kd__soft *s)
{
    const kd__kernels *k = s->kernels;
    const size_t n = s->classes, kept = s->teacher_width;
    const float t = s->desc->temperature;
    float *q = s->scratch, *lp = q + KD_MAX(n, kept), *others = lp + KD_MAX(n, kept), *p = others + KD_MAX(n, kept);
    for (size_t r = 0; r < s->rows; r++) {
        if (s->coef[r] == 0) continue;
        const float *teacher = s->teacher + r * s->teacher_stride, *student = s->student + r * s->student_stride;
        const int32_t *which = s->teacher_classes + r * s->teacher_classes_stride;
        double value = 0, mass = 0, rest = 0;
        float top;
        int32_t most;
        k->softmax_f32(q, n, student, n, 1, n, t, 0);
        k->row_max_f32(&top, &most, student, 1, n, n);
        const double all = kd__fixed_log((double)q[most]);   /* log q_j = (s_j - s_most) / T + log q_most */
        if (s->desc->form == KD_FORM_CODE) k->softmax_f32(lp, kept, teacher, kept, 1, kept, t, 1);
        else k->unary_f32(KD_UNARY_SCALE_ADD, lp, teacher, kept, 1 / t, 0);
        k->unary_f32(KD_UNARY_EXP, p, lp, kept, 0, 0);
        for (size_t j = 0; j < kept; j++) {
            if (!(p[j] > 0)) continue;
            value += (double)p[j] * ((double)lp[j] - all - ((double)student[which[j]] - (double)top) / (double)t);
            mass += (double)p[j];
        }
        if (s->desc->form != KD_FORM_CODE && kept < n && mass < 1) {
            rest = 1 - mass;
            memcpy(others, student, n * sizeof *others);
            for (size_t j = 0; j < kept; j++) others[which[j]] = -__builtin_inff();
            float sum, left;
            k->logsumexp_f32(&sum, student, n, 1, n, t);
            k->logsumexp_f32(&left, others, n, 1, n, t);
            value += rest * (kd__fixed_log(rest) - ((double)left - (double)sum));
        }
        s->soft[r] = (float)value;
        if (!s->grad) continue;
        float *grad = s->grad + r * s->grad_stride;
        const double coef = (double)s->coef[r] / (double)t;
        k->axpy_f32(grad, q, n, (float)(coef * (mass + rest)));
        for (size_t j = 0; j < kept; j++) grad[which[j]] -= (float)(coef * (double)p[j]);
        if (rest > 0) {
            k->softmax_f32(others, n, others, n, 1, n, t, 0);
            k->axpy_f32(grad, others, n, (float)(-coef * rest));
        }
    }
}

const kd__method kd__method_TOP_K = { .formula = "T^2 / B sum_b KL(p || q), the teacher known at k classes",
    .needs = KD__SPARSE, .forms = 2,
    .defaults = defaults, .check = check, .scratch = scratch, .rows = rows };
