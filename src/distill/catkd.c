/* catkd.c - class attention transfer (Guo, Yan, Li, Lin 2023, arXiv 2304.12777).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of mean (A(s) - A(t))^2
 *     A(x) = class maps [n, classes, w x w]: the classifier as a 1x1 convolution of the last map, average-pooled to w = `width`
 *     PAPER: each class's map of a sample over max(its length, 1e-12)
 * Gradient: 2 (A(s) - A(t)) / elements through the division and the pooling to the student's class maps, and by the
 *     caller's 1x1 convolution to its classifier and features.
 * Divides by: elements of the pooled class maps (B classes w^2).
 * Detached: the teacher and its classifier.
 * Taps: one or more pairs of maps.  The student's are class maps {height, width, classes}: its classifier run as a 1x1
 *     convolution before the mean over positions (their mean is the logits).  The teacher's are class maps as well, or, where
 *     the descriptor has teacher_weight [channels, classes] (teacher_bias [classes] or NULL), its last maps {height, width,
 *     channels}.
 * Defaults: weight 15 (CIFAR-100, ResNet32x4 -> 8x4), width 2 (ShuffleNet: 4).  Others: 0.7 (ResNet56 -> 20), 1.8 (110 ->
 *     32), 4.5 (VGG), 12 (WRN-16-2), 1.5 (WRN-40-1); PAPER: 600 (to ShuffleNet), 40 (ResNet50 -> MobileNetV2), 15 (VGG13 ->
 *     MobileNetV2), 80 (WRN -> ShuffleNetV1); ImageNet 0.5 and 10.
 * Forms: CODE: the maps as they are, as for pairs of one family.  PAPER: of length 1, as for pairs of two.
 * Traps: weights of the two forms differ by orders of magnitude.  A class's map that is 0 throughout has no direction: it
 *     stays 0 and has no gradient.  The teacher's maps are pooled before its classifier, which is the same as after it and
 *     cheaper.
 * Published: none that was checked.
 * Cost: the pooled class maps twice as scratch. */
#include "distill/feature.h"
#include <math.h>

static void defaults(kd_loss_feature_desc *d) { d->weight = 15, d->width = 2; }

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 1, 1u << 3));
    const size_t channels = d->teacher[d->teacher_count - 1].size[2];
    if (!d->width) d->width = 2;
    for (size_t i = 0; i < d->student_count; i++) {
        if (d->student[i].size[2] != (d->teacher_weight ? d->classes : d->teacher[i].size[2]))
            return kd__feature_misfit(d, i, d->teacher_weight ? "the student's must have `classes` channels, a class map each"
                                                              : "both must have a channel a class, or teacher_weight be given");
        if (d->teacher_weight && d->teacher[i].size[2] != channels)
            return kd__feature_misfit(d, i, "teacher_weight is for the channels of the last teacher tap");
    }
    return KD_OK;
}

/* Length 1 for each class of a sample: a [positions, classes]; its length. */
static double unit(const float *x, size_t positions, size_t classes, double *a)
{
    double square = 0;
    for (size_t p = 0; p < positions; p++) a[p] = (double)x[p * classes], square += a[p] * a[p];
    const double length = sqrt(square), share = 1 / KD_MAX(length, 1e-12);
    for (size_t p = 0; p < positions; p++) a[p] *= share;
    return length;
}

/* One class of one sample: value, and the gradient over s. */
static double unit_difference(const float *s, const float *t, float *grad, size_t positions, size_t classes, double share,
                              double *a)
{
    double *d = a + positions, sum = 0, along = 0, length = unit(s, positions, classes, a);
    unit(t, positions, classes, d);
    for (size_t p = 0; p < positions; p++) {
        d[p] = a[p] - d[p];
        sum += d[p] * d[p];
        along += d[p] * a[p];
    }
    double by = length > 0 ? 2 * share / KD_MAX(length, 1e-12) : 0;
    if (length < 1e-12) along = 0;
    for (size_t p = 0; grad && p < positions; p++) grad[p * classes] = (float)(by * (d[p] - a[p] * along));
    return sum * share;
}

static kd_status run(const kd__core *c, float *t, double *row, double *value)
{
    const kd_loss_feature_desc *d = c->user;
    const kd__kernels *k = c->kernels;
    const size_t classes = c->in[0]->shape[3], all = c->in[0]->count, rows = all / classes, n = c->in[0]->shape[0];
    const size_t channels = c->in[1]->shape[3], positions = rows / n;
    const double share = 1 / (double)all;
    if (d->teacher_weight) {
        KD_TRY(kd__gemm(c->ctx, &(kd__gemm_args){ .m = rows, .n = classes, .k = channels, .a = c->x[1], .a_stride = channels,
                                                  .b = d->teacher_weight, .b_stride = classes, .c = t, .c_stride = classes }));
        if (d->teacher_bias)
            k->binary_f32(KD_BINARY_ADD, t, classes, (kd__operand){ t, classes, 1 }, (kd__operand){ d->teacher_bias, 0, 1 }, rows,
                          classes);
    } else {
        memcpy(t, c->x[1], all * sizeof *t);
    }
    if (d->form == KD_FORM_PAPER) {
        for (size_t r = 0; r < n; r++)
            for (size_t j = 0, at = r * positions * classes; j < classes; j++, at++) {
                float *grad = c->grad[0] ? c->grad[0] + at : NULL;
                *value += unit_difference(c->x[0] + at, t + at, grad, positions, classes, share, row);
            }
        return KD_OK;
    }
    k->difference_sum_f32(0, c->x[0], t, all, value);
    *value *= share;
    if (!c->grad[0]) return KD_OK;
    k->binary_f32(KD_BINARY_SUB, c->grad[0], all, (kd__operand){ c->x[0], all, 1 }, (kd__operand){ t, all, 1 }, 1, all);
    k->unary_f32(KD_UNARY_SCALE_ADD, c->grad[0], c->grad[0], all, (float)(2 * share), 0);
    return KD_OK;
}

static kd_status core(const kd__core *c, double *value)
{
    const size_t positions = c->in[0]->shape[1] * c->in[0]->shape[2];
    double *row = kd__scratch_get(c->ctx, 2 * positions * sizeof *row + c->in[0]->count * sizeof(float));
    kd_status status = row ? run(c, (float *)(void *)(row + 2 * positions), row, value) : kd__fail(KD_ERR_NOMEM, "out of memory");
    kd__scratch_put(c->ctx, row);
    return status;
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    const size_t w = loss->desc.width;
    kd_tensor *sum = NULL;
    for (size_t i = 0; i < loss->desc.student_count; i++) {
        kd_tensor *s = kd__adaptive_avg_pool(tape, in->student[i], w, w), *t = kd__adaptive_avg_pool(tape, in->teacher[i], w, w);
        sum = kd__feature_add(tape, sum, kd__core_run(tape, loss->name, (kd_tensor *[]){ s, t }, 2, core, &loss->desc));
    }
    return sum;
}

const kd__feature_method kd__feature_CATKD = {
    .formula = "mean (A(S) - A(T))^2, A: pooled maps of the classes", .defaults = defaults, .check = check, .apply = apply,
    .forms = 2
};
