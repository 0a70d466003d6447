/* srrl.c - softmax regression representation learning (Yang, Martinez, Bulat, Tzimiropoulos 2021, ICLR).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = alpha mean (x - y)^2 + beta mean (head(x) - head(y))^2
 *     x = means over positions of c(s), y = those of t; c: convolution 1x1, batch norm, ReLU; head: the teacher's classifier
 * Gradient: 2 alpha (x - y) / elements + 2 beta (head(x) - head(y)) W^T / logits, through the means and c.
 * Divides by: elements of the pooled vectors (B c); logits (B K).
 * Detached: the teacher and its classifier.
 * Taps: one pair of maps (or pooled vectors), the last ones; the sizes of the maps may differ.  The descriptor's
 *     teacher_weight is the teacher's classifier [channels, classes]; its bias cancels.
 * Adapters: s0: 0, the convolution without bias; 1, batch norm; 2, ReLU.
 * Defaults: weight 1, alpha 1, beta 1 (ImageNet; CIFAR-100: 5).
 * Forms: one.
 * Traps: the second term compares the student's features under the teacher's classifier, not the student's own logits: the
 *     student's classifier is trained by the true labels alone.  Both sides of it run through the same classifier, so it is
 *     computed as the head of the difference, which loses nothing to cancellation.
 * Published: CIFAR-100 ResNet32x4 -> 8x4 75.39, to ShuffleNetV2x1.5 77.55 (SimKD's table).
 * Cost: the convolution; a matrix of logits as scratch. */
#include "distill/feature.h"

static void defaults(kd_loss_feature_desc *d) { d->alpha = d->beta = 1; }

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 1, 1u << 1 | 1u << 3));
    if (d->student_count != 1) return kd__fail(KD_ERR_ARG, "%zu pairs of taps: it takes one", d->student_count);
    if (d->beta != 0 && !d->teacher_weight)
        return kd__fail(KD_ERR_ARG, "teacher_weight is NULL: it needs the teacher's classifier (or beta 0)");
    return d->student[0].rank == d->teacher[0].rank ? KD_OK : kd__feature_misfit(d, 0, "they must be of one kind");
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    const kd_feature_shape *s = &d->student[0], *t = &d->teacher[0];
    kd_layer *c = kd_layer_sequence(root, "s0");
    kd__point_layer(c, "0", s, s->size[s->rank - 1], t->size[t->rank - 1], false);
    kd_layer_batch_norm(c, "1", t->size[t->rank - 1], 0.1f, 1e-5f);
    kd_layer_activation(c, "2", KD_ACT_RELU);
}

static kd_status run(const kd__core *c, float *difference, float *logits, double *value)
{
    const kd__kernels *k = c->kernels;
    const kd_loss_feature_desc *d = c->user;
    const size_t all = c->in[0]->count, n = c->in[0]->shape[0], m = all / n, classes = d->classes;
    const double by = (double)d->alpha / (double)all, by_logit = logits ? (double)d->beta / (double)(n * classes) : 0;
    double sum;
    k->binary_f32(KD_BINARY_SUB, difference, all, (kd__operand){ c->x[0], all, 1 }, (kd__operand){ c->x[1], all, 1 }, 1, all);
    k->dot_f32(&sum, difference, difference, all);
    *value = by * sum;
    if (logits) {
        KD_TRY(kd__gemm(c->ctx, &(kd__gemm_args){ .m = n, .n = classes, .k = m, .a = difference, .a_stride = m,
                                                  .b = d->teacher_weight, .b_stride = classes,
                                                  .c = logits, .c_stride = classes }));
        k->dot_f32(&sum, logits, logits, n * classes);
        *value += by_logit * sum;
    }
    if (!c->grad[0]) return KD_OK;
    if (!logits) {
        k->unary_f32(KD_UNARY_SCALE_ADD, c->grad[0], difference, all, (float)(2 * by), 0);
        return KD_OK;
    }
    k->unary_f32(KD_UNARY_SCALE_ADD, logits, logits, n * classes, (float)(2 * by_logit), 0);
    KD_TRY(kd__gemm(c->ctx, &(kd__gemm_args){ .m = n, .n = m, .k = classes, .a = logits, .a_stride = classes,
                                              .b = d->teacher_weight, .b_stride = classes, .b_transposed = true,
                                              .c = c->grad[0], .c_stride = m }));
    k->axpy_f32(c->grad[0], difference, all, (float)(2 * by));
    return KD_OK;
}

static kd_status core(const kd__core *c, double *value)
{
    const kd_loss_feature_desc *d = c->user;
    const size_t all = c->in[0]->count, logits = d->beta != 0 ? c->in[0]->shape[0] * d->classes : 0;
    float *scratch = kd__scratch_get(c->ctx, (all + logits) * sizeof *scratch);
    kd_status status = scratch ? run(c, scratch, logits ? scratch + all : NULL, value) : kd__fail(KD_ERR_NOMEM, "out of memory");
    kd__scratch_put(c->ctx, scratch);
    return status;
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    kd_tensor *x = kd__adapter_forward(loss, tape, "s0", in->student[0]), *y = in->teacher[0];
    if (loss->desc.student[0].rank == 3) x = kd_global_avg_pool(tape, x), y = kd_global_avg_pool(tape, y);
    return kd__core_run(tape, loss->name, (kd_tensor *[]){ x, y }, 2, core, &loss->desc);
}

const kd__feature_method kd__feature_SRRL = {
    .formula = "alpha mean (x - y)^2 + beta mean (head(x) - head(y))^2, x, y: pooled c(S), T; head: the teacher's classifier",
    .defaults = defaults, .check = check, .adapters = adapters, .apply = apply
};
