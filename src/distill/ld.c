/* ld.c - localisation distributions of a detector (Zheng, Ye, Wang, Ren, Zuo, Hou, Cheng 2022, arXiv 2102.12252).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs and edges of w D / alpha, D = T^2 / bins KL(p || q)
 *     p = softmax(t / T), q = softmax(s / T) over the bins
 *     w: the mask's weight of the edge, 1 without a mask; alpha: the public code's averaging factor, the four edges of a box
 * Gradient: w T / (bins alpha) (q - p).
 * Divides by: bins, and alpha; PAPER: the sum of w; THIRD: bins, and the sum of w.
 * Detached: the teacher.
 * Taps: one or more pairs of equal shapes whose last size is the bins of an edge's distribution: {bins}, {edges, bins}, {boxes,
 *     4, bins}.
 * Mask: [B, edges], all sizes before the bins times each other: any weights >= 0, the public code's are the student's largest
 *     class score at the position, and 0 where there is no object.
 * Defaults: weight 0.25, alpha 4, temperature 10 (17 bins, the main region).
 * Forms: CODE: above.  PAPER: sum w T^2 KL / sum w.  THIRD: sum w D / sum w.
 * Traps: CODE divides by the bins because it takes a mean over them where a sum was meant (its users dispute it): the published
 *     weight belongs to that.  CODE does not divide by the sum of scores that the box losses beside it divide by, so it grows
 *     with the number of boxes.  Where all w are 0 the loss is 0 in every form.  The region outside the boxes is a second loss
 *     of this kind with a weight of its own (0.25, alpha 16); the code's term for negatives is multiplied by 0 and left out.
 * Published: COCO GFL with an R101 teacher: R18 35.8 -> 36.5, R50 40.1 -> 41.1.
 * Cost: three floats an edge, and the soft labels' kernel. */
#include "distill/feature.h"
#include "kernels/distill_run.h"

static void defaults(kd_loss_feature_desc *d) { d->weight = 0.25f, d->alpha = 4, d->temperature = 10; }

static kd_status check(kd_loss_feature_desc *d)
{
    if (!(d->alpha > 0)) return kd__fail(KD_ERR_ARG, "alpha %g is not positive: the sum is divided by it", (double)d->alpha);
    return kd__feature_equal_pairs(d, 1, 1u << 1 | 1u << 2 | 1u << 3);
}

/* Edges of a sample: all sizes before the bins. */
static size_t edges_of(const kd_loss_feature_desc *d)
{
    return kd__feature_size(&d->student[0]) / d->student[0].size[d->student[0].rank - 1];
}

static kd_status core(const kd__core *c, double *value)
{
    const kd_loss_feature_desc *d = c->user;
    const size_t bins = c->in[0]->shape[c->in[0]->rank - 1], edges = c->in[0]->count / bins;
    const double T = (double)d->temperature;
    if (c->x[2] && c->in[2]->count != edges)
        return kd__fail(KD_ERR_SHAPE, "mask %S is the first tap's, and a later one has %zu edges in all", (size_t)c->in[2]->rank,
                        c->in[2]->shape, edges);
    float *coef = kd__scratch_get(c->ctx, 3 * edges * sizeof *coef);
    if (!coef) return kd__fail(KD_ERR_NOMEM, "out of memory");
    float *none = coef + edges, *soft = none + edges;
    double all = (double)edges, factor = T * T;
    size_t masked;
    if (c->x[2]) c->kernels->sum_f32(&all, c->x[2], edges);
    if (d->form != KD_FORM_PAPER) factor /= (double)bins;
    factor = d->form == KD_FORM_CODE ? factor / (double)d->alpha : all > 0 ? factor / all : 0;
    for (size_t i = 0; i < edges; i++) coef[i] = (float)(factor * (c->x[2] ? (double)c->x[2][i] : 1)), none[i] = 0;
    const kd__distill_args args = { .rows = edges, .classes = bins, .student = c->x[0], .student_stride = bins,
                                    .teacher = c->x[1], .teacher_stride = bins, .hard_coef = none, .soft_coef = coef,
                                    .grad = c->grad[0], .grad_stride = bins, .hard = none, .soft = soft,
                                    .temperature = d->temperature, .js_beta = 0.5f, .direction = KD_DIRECTION_FORWARD,
                                    .teacher_form = KD_TEACHER_LOGITS };
    const kd_status status = kd__distill_run(c->ctx, &args, &masked);
    for (size_t i = 0; status == KD_OK && i < edges; i++) *value += (double)coef[i] * (double)soft[i];
    kd__scratch_put(c->ctx, coef);
    return status;
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    return kd__core_pairs(loss, tape, in, core);
}

const kd__feature_method kd__feature_LD = {
    .formula = "sum w T^2/bins KL(softmax(t/T) || softmax(s/T)) / alpha over edges of boxes", .defaults = defaults,
    .check = check, .apply = apply, .forms = 3, .mask_width = edges_of
};
