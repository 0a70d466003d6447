/* semckd.c - layers matched by attention (Chen, Mei, Zhang, Wang, Wang, Feng, Chen 2021, arXiv 2012.03236).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = 1 / (B S) sum over samples b, student taps i, teacher taps j of a[b, i, j] mean over elements of (P_ij(s_i) - t_j)^2
 *     a[b, i, .] = softmax over j of q_bi . k_bj / T,  q_i = N(E_i(s_i s_i^T)), k_j = N(E_j(t_j t_j^T)), N: rows of length 1
 *     s_i s_i^T: similarities of the batch's samples [B, B]; E: linear, ReLU, linear; P: convolutions 1x1, 3x3, 1x1
 * Gradient: through P; through a to the embeddings and, by the similarities, to the student.
 * Divides by: samples times student taps (B S), and elements of each t_j.
 * Detached: the teacher.
 * Taps: one or more student maps and one or more teacher maps; their numbers may differ.  Of s_i and t_j the larger is
 *     average-pooled to the other's height and width.
 * Adapters: s0, s1, ..: query.linear1 [B, 2 w], query.linear2 [2 w, w], proj0, proj1, .. for each teacher tap (0, 3, 6
 *     convolutions without bias, 2 c channels between; 1, 4 batch norms; 2, 5 ReLUs); t0, t1, ..: key.linear1, key.linear2.  w
 *     = width; 0: B / 4.
 * Defaults: weight 400 (CIFAR-100), temperature 1.
 * Forms: one.
 * Traps: the embeddings read a sample's similarities to all others, so the batch size is part of the adapters' shapes: the
 *     descriptor's `samples` is it, and another batch is an error (the last, smaller one of an epoch has to be dropped, as the
 *     public code does). For the same reason the loss depends on the order of the samples.
 * Published: CIFAR-100 teacher ResNet32x4: 8x4 76.23, VGG8 75.27, ShuffleNetV2x1.5 79.13.
 * Cost: S R projectors; B^2 floats a tap. */
#include "distill/feature.h"

static void defaults(kd_loss_feature_desc *d) { d->weight = 400; }

static kd_status check(kd_loss_feature_desc *d)
{
    if (!d->student_count || !d->teacher_count)
        return kd__fail(KD_ERR_ARG, "%zu student and %zu teacher taps: it takes one or more of each", d->student_count,
                        d->teacher_count);
    for (size_t i = 0; i < d->student_count + d->teacher_count; i++) {
        const bool student = i < d->student_count;
        const kd_feature_shape *s = student ? &d->student[i] : &d->teacher[i - d->student_count];
        if (s->rank != 3)
            return kd__fail(KD_ERR_SHAPE, "%s tap %zu is %S, not {height, width, channels}", student ? "student" : "teacher",
                            student ? i : i - d->student_count, s->rank, s->size);
    }
    if (!d->samples) return kd__fail(KD_ERR_ARG, "samples is 0: it is the size of every batch");
    if (!d->width) d->width = KD_MAX(d->samples / 4, 1u);
    return KD_OK;
}

static void embedding(kd_layer *parent, const char *name, const kd_loss_feature_desc *d)
{
    kd_layer *e = kd_layer_sequence(parent, name);
    kd_layer_linear(e, "linear1", d->samples, 2 * d->width, 1);
    kd_layer_activation(e, "relu", KD_ACT_RELU);
    kd_layer_linear(e, "linear2", 2 * d->width, d->width, 1);
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    char name[24];
    for (size_t i = 0; i < d->student_count; i++) {
        kd_layer *s = kd__holder(root, kd__pair_name(name, i));
        embedding(s, "query", d);
        for (size_t j = 0; j < d->teacher_count; j++) {
            const size_t out = d->teacher[j].size[2];
            kd__format(name, sizeof name, "proj%zu", j);
            kd__projector(kd_layer_sequence(s, name), d->student[i].size[2], 2 * out, out, false);
        }
    }
    for (size_t j = 0; j < d->teacher_count; j++) {
        kd__format(name, sizeof name, "t%zu", j);
        embedding(kd__holder(root, name), "key", d);
    }
}

/* [B, count, w]: where each tap looks for its like. */
static kd_tensor *embed(const kd_loss_feature *loss, kd_tape *tape, const char *format, kd_tensor *const *taps, size_t count)
{
    kd_tensor **parts = kd__tape_alloc(tape, count * sizeof *parts);
    char path[40];
    for (size_t i = 0; parts && i < count; i++) {
        kd_tensor *x = kd_flatten(tape, taps[i]);
        kd__format(path, sizeof path, format, i);
        x = kd__adapter_forward(loss, tape, path, kd_matmul(tape, x, x, KD_TRANSPOSE_B));
        parts[i] = kd_reshape(tape, kd_l2_normalize(tape, x, 1e-12f), 3, (size_t[]){ loss->desc.samples, 1, loss->desc.width });
    }
    return parts ? kd_concat(tape, parts, count, 1) : kd__poison(tape);
}

static bool row(const kd__core *c, size_t r, void *scratch, double *value)   /* P(s), t, attention of the pair */
{
    const kd_loss_feature_desc *d = c->user;
    const kd__kernels *k = c->kernels;
    const size_t n = c->in[0]->shape[0], m = c->in[0]->count / n;
    float *x = c->grad[0] ? c->grad[0] + r * m : scratch;
    const double share = 1 / ((double)n * (double)d->student_count * (double)m), a = (double)c->x[2][r];
    double sum;
    k->binary_f32(KD_BINARY_SUB, x, m, (kd__operand){ c->x[0] + r * m, m, 1 }, (kd__operand){ c->x[1] + r * m, m, 1 }, 1, m);
    k->dot_f32(&sum, x, x, m);
    *value = a * share * sum;
    if (c->grad[0]) k->unary_f32(KD_UNARY_SCALE_ADD, x, x, m, (float)(2 * a * share), 0);
    if (c->grad[2]) c->grad[2][r] = (float)(share * sum);
    return true;
}

static kd_status core(const kd__core *c, double *value)
{
    const size_t n = c->in[0]->shape[0];
    return kd__core_rows(c, n, c->grad[0] ? 0 : c->in[0]->count / n * sizeof(float), row, value);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    const kd_loss_feature_desc *d = &loss->desc;
    if (in->rows != d->samples) {
        kd_status status = kd__fail(KD_ERR_SHAPE, "semckd: a batch of %zu rows, its adapters are for %zu (`samples`)", in->rows,
                                    d->samples);
        return kd__tape_fail_in(tape, "kd_loss_feature_apply", status);
    }
    kd_tensor *q = embed(loss, tape, "s%zu.query", in->student, d->student_count), *sum = NULL;
    kd_tensor *a = kd_matmul(tape, q, embed(loss, tape, "t%zu.key", in->teacher, d->teacher_count), KD_TRANSPOSE_B);
    a = kd_softmax(tape, a, d->temperature);
    for (size_t i = 0; i < d->student_count; i++)
        for (size_t j = 0; j < d->teacher_count; j++) {
            const size_t *s = d->student[i].size, *t = d->teacher[j].size, h = KD_MIN(s[0], t[0]), w = KD_MIN(s[1], t[1]);
            char path[40];
            kd__format(path, sizeof path, "s%zu.proj%zu", i, j);
            kd_tensor *x = kd__adapter_forward(loss, tape, path, kd__adaptive_avg_pool(tape, in->student[i], h, w));
            kd_tensor *y = kd__adaptive_avg_pool(tape, in->teacher[j], h, w);
            kd_tensor *weight = kd_slice(tape, kd_slice(tape, a, 1, i, i + 1), 2, j, j + 1);
            sum = kd__feature_add(tape, sum, kd__core_run(tape, loss->name, (kd_tensor *[]){ x, y, weight }, 3, core, d));
        }
    return sum;
}

const kd__feature_method kd__feature_SEMCKD = {
    .formula = "1/(B S) sum a_bij mean (P_ij(S_i) - T_j)^2, a: attention of student taps over teacher taps", .defaults = defaults,
    .check = check, .adapters = adapters, .apply = apply
};
