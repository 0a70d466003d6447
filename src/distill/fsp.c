/* fsp.c - flow of solution procedure (Yim, Joo, Bae, Kim 2017, CVPR: A gift from knowledge distillation).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over neighbouring taps i, i + 1 of 1 / (B c c') sum_b |G(s_i, s_i+1) - G(t_i, t_i+1)|^2
 *     G(f, g) = F^T G / (H W), F [H W, c], G [H W, c']: how channels of one stage go with those of the next
 * Gradient: by the difference of the two, a product with the other map.
 * Divides by: samples times entries of the matrix (B c c'); PAPER: samples (B).
 * Detached: the teacher.
 * Taps: two or more maps {height, width, channels} on each side, in the network's order; tap i has as many channels on both
 *     sides.  The larger of two neighbours is average-pooled to the smaller one, on each side for itself: student and teacher
 *     need not be of one size.
 * Defaults: weight 1.
 * Stages: this is an initialisation.  First train the student's stages with this loss alone (30 epochs in the public code),
 *     then throw the loss away and train the whole student with cross-entropy (kd_loss_distill with soft_weight 0) from there.
 *     The weight 50 that the public code names is never used: its second stage does not have the term.
 * Forms: CODE: above.  PAPER: divided by B alone.
 * Traps: taps with other channels are KD_ERR_SHAPE, not an adapter: the method has none.  One toolkit divides each column by
 *     its length and pools by maxima, another works on tokens: other losses, whose weights do not carry over.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 72.62 (student 72.50), WRN-40-2 -> 16-2 72.91 (student 73.26).
 * Cost: 2 c c' floats of scratch a thread. */
#include "distill/feature.h"

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 2, 1u << 3));
    for (size_t i = 0; i < d->student_count; i++)
        if (d->student[i].size[2] != d->teacher[i].size[2]) return kd__feature_misfit(d, i, "they must have the same channels");
    return KD_OK;
}

/* Row r of inputs i, i + 1: g [c, c'] = F^T G. */
static bool flow(const kd__core *c, size_t i, size_t r, float *g)
{
    const size_t hw = c->in[i]->shape[1] * c->in[i]->shape[2], a = c->in[i]->shape[3], b = c->in[i + 1]->shape[3];
    return kd__gemm(c->ctx, &(kd__gemm_args){ .m = a, .n = b, .k = hw, .a = c->x[i] + r * hw * a, .a_stride = a,
                                              .a_transposed = true, .b = c->x[i + 1] + r * hw * b, .b_stride = b, .c = g,
                                              .c_stride = b }) == KD_OK;
}

/* The gradient of input i, 0 or 1, by d [c, c']: a product of d with the other one. */
static bool back(const kd__core *c, size_t i, size_t r, const float *d)
{
    const size_t hw = c->in[i]->shape[1] * c->in[i]->shape[2], own = c->in[i]->shape[3], other = c->in[1 - i]->shape[3];
    if (!c->grad[i]) return true;
    return kd__gemm(c->ctx, &(kd__gemm_args){ .m = hw, .n = own, .k = other, .a = c->x[1 - i] + r * hw * other, .a_stride = other,
                                              .b = d, .b_stride = i ? own : other, .b_transposed = i == 0,
                                              .c = c->grad[i] + r * hw * own, .c_stride = own }) == KD_OK;
}

static bool row(const kd__core *c, size_t r, void *scratch, double *value)
{
    const kd_loss_feature *loss = c->user;
    const size_t cells = c->in[0]->shape[3] * c->in[1]->shape[3];
    const double n = (double)c->in[0]->shape[0], factor = 1 / (loss->desc.form == KD_FORM_PAPER ? n : n * (double)cells);
    const double student = 1 / (double)(c->in[0]->shape[1] * c->in[0]->shape[2]);
    const double teacher = 1 / (double)(c->in[2]->shape[1] * c->in[2]->shape[2]);
    const kd__kernels *k = c->kernels;
    float *d = scratch, *t = d + cells;
    if (!flow(c, 0, r, d) || !flow(c, 2, r, t)) return false;
    k->unary_f32(KD_UNARY_SCALE_ADD, d, d, cells, (float)student, 0);
    k->unary_f32(KD_UNARY_SCALE_ADD, t, t, cells, (float)teacher, 0);
    k->axpy_f32(d, t, cells, -1);
    k->dot_f32(value, d, d, cells);
    *value *= factor;
    k->unary_f32(KD_UNARY_SCALE_ADD, d, d, cells, (float)(2 * factor * student), 0);
    return back(c, 0, r, d) && back(c, 1, r, d);
}

static kd_status core(const kd__core *c, double *value)
{
    return kd__core_rows(c, c->in[0]->shape[0], 2 * c->in[0]->shape[3] * c->in[1]->shape[3] * sizeof(float), row, value);
}

/* Taps i and i + 1 of one side, the larger pooled. */
static void neighbours(kd_tape *tape, kd_tensor *const *tap, const kd_feature_shape *shape, kd_tensor **out)
{
    const size_t h = KD_MIN(shape[0].size[0], shape[1].size[0]), w = KD_MIN(shape[0].size[1], shape[1].size[1]);
    for (size_t i = 0; i < 2; i++) out[i] = kd__adaptive_avg_pool(tape, tap[i], h, w);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    kd_tensor *sum = NULL;
    for (size_t i = 0; i + 1 < loss->desc.student_count; i++) {
        kd_tensor *four[4];
        neighbours(tape, in->student + i, loss->desc.student + i, four);
        neighbours(tape, in->teacher + i, loss->desc.teacher + i, four + 2);
        sum = kd__feature_add(tape, sum, kd__core_run(tape, loss->name, four, 4, core, loss));
    }
    return sum;
}

const kd__feature_method kd__feature_FSP = {
    .formula = "sum over neighbouring taps of mean (Gs - Gt)^2, G = F^T F' / (H W)", .check = check, .apply = apply, .forms = 2
};
