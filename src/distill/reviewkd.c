/* reviewkd.c - knowledge review (Chen, Liu, Zhao, Jia 2021, arXiv 2104.09044).
 * SPDX-License-Identifier: MIT
 *
 * Formula:
 *     loss = sum over pairs of taps of [ mse + mse@4 / 2 + mse@2 / 4 + mse@1 / 8 ] / (1 + 1/2 + 1/4 + 1/8), mse of out_i and t_i
 *     From the deepest pair up: x = conv1(s_i); for all but the deepest x = z0 x + z1 y, (z0, z1) = sigmoid(att([x, y])), y the
 *     fused map of the deeper pair as large as s_i; x as large as t_i; out_i = conv2(x), and x goes on to the pair above
 *     @k: both average-pooled to k x k; where t_i is not higher than k it is left out, its factor in the sum too, and the next
 *     one is not halved for it
 * Gradient: through all of it, from each out_i also to the deeper students.
 * Divides by: elements, of each pooled map its own.
 * Detached: the teacher.
 * Taps: one or more pairs of maps, shallow to deep, before the ReLU of a stage; the last pair may be pooled vectors
 *     {width}, as maps of 1 x 1.  Maps are made larger or smaller by nearest neighbours.
 * Adapters: s0, s1, ..: conv1 (1x1 without bias to `width` channels, batch norm), conv2 (3x3 without bias to the
 *     teacher's, batch norm), att_conv.0 (1x1 to 2; none for the deepest).  width 0: the channels of the student's last tap,
 *     at most 512.
 * Defaults: weight 1, warm-up 20 epochs (`kd_loss_feature_advance` once an epoch).  CIFAR-100: 5 (ResNet32x4 -> 8x4, WRN),
 *     8 (to ShuffleNetV2), 0.6 (ResNet56 -> 20), 1 (110 -> 32); ImageNet: 1 (ResNet18), 8 (MobileNetV1).
 * Forms: one.
 * Traps: the factors' rule above makes the weight of a level depend on the size of its map, so a weight does not carry
 *     over to another resolution.  Which taps are given is part of the method: in front of the ReLU, and the pooled vector as
 *     one more pair.
 * Published: ImageNet ResNet34 -> 18 71.61, ResNet50 -> MobileNetV1 72.56.
 * Cost: the convolutions, a 3x3 one from width to the teacher's channels for each pair. */
#include "distill/feature.h"

static void defaults(kd_loss_feature_desc *d) { d->warmup = 20; }

static kd_status check(kd_loss_feature_desc *d)
{
    KD_TRY(kd__feature_pairs(d, 1, 1u << 1 | 1u << 3));
    for (size_t i = 0; i < d->student_count; i++) {
        if (d->student[i].rank != d->teacher[i].rank) return kd__feature_misfit(d, i, "they must be of one kind");
        if (i + 1 < d->student_count && d->student[i].rank != 3)
            return kd__feature_misfit(d, i, "only the last pair may be vectors");
    }
    const kd_feature_shape *last = &d->student[d->student_count - 1];
    if (!d->width) d->width = KD_MIN(last->size[last->rank - 1], 512u);
    return KD_OK;
}

static void adapters(const kd_loss_feature_desc *d, kd_layer *root)
{
    char name[24];
    for (size_t i = 0; i < d->student_count; i++) {
        const size_t in = d->student[i].size[d->student[i].rank - 1], out = d->teacher[i].size[d->teacher[i].rank - 1];
        kd_layer *s = kd__holder(root, kd__pair_name(name, i));
        kd_layer *conv1 = kd_layer_sequence(s, "conv1"), *conv2 = kd_layer_sequence(s, "conv2");
        kd__same_conv(conv1, "0", in, d->width, 1, false);
        kd_layer_batch_norm(conv1, "1", d->width, 0.1f, 1e-5f);
        kd__same_conv(conv2, "0", d->width, out, 3, false);
        kd_layer_batch_norm(conv2, "1", out, 0.1f, 1e-5f);
        if (i + 1 < d->student_count) kd__same_conv(kd_layer_sequence(s, "att_conv"), "0", 2 * d->width, 2, 1, true);
    }
}

/* A tap as a map. */
static kd_tensor *map(kd_tape *tape, kd_tensor *x, const kd_feature_shape *shape)
{
    return shape->rank == 3 ? x : kd_reshape(tape, x, 4, (size_t[]){ x->shape[0], 1, 1, shape->size[0] });
}

static kd_tensor *attend(const kd_loss_feature *loss, kd_tape *tape, const char *path, kd_tensor *x, kd_tensor *y)
{
    kd_tensor *z = kd_sigmoid(tape, kd__adapter_forward(loss, tape, path, kd_concat(tape, (kd_tensor *[]){ x, y }, 2, 3)));
    return kd_add(tape, kd_mul(tape, x, kd_slice(tape, z, 3, 0, 1)), kd_mul(tape, y, kd_slice(tape, z, 3, 1, 2)));
}

/* The pooled differences of a pair: pooling is linear. */
static kd_tensor *levels(kd_tape *tape, kd_tensor *x, kd_tensor *t, size_t height)
{
    kd_tensor *d = kd_sub(tape, x, t), *sum = kd_mean(tape, kd_square(tape, d), 15u, 0);
    float factor = 1, factors = 1;
    for (size_t k = 4; k; k /= 2) {
        if (k >= height) continue;
        factor /= 2;
        factors += factor;
        kd_tensor *level = kd_mean(tape, kd_square(tape, kd__adaptive_avg_pool(tape, d, k, k)), 15u, 0);
        sum = kd_add(tape, sum, kd_scale(tape, level, factor, 0));
    }
    return kd_scale(tape, sum, 1 / factors, 0);
}

static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
{
    const kd_loss_feature_desc *d = &loss->desc;
    kd_tensor *sum = NULL, *deeper = NULL;
    char name[24], path[40];
    for (size_t i = d->student_count; i-- && kd__tape_ok(tape);) {
        kd_tensor *s = map(tape, in->student[i], &d->student[i]), *t = map(tape, in->teacher[i], &d->teacher[i]);
        const size_t th = t->shape[1], tw = t->shape[2];
        kd__format(path, sizeof path, "%s.conv1", kd__pair_name(name, i));
        kd_tensor *x = kd__adapter_forward(loss, tape, path, s);
        kd__format(path, sizeof path, "%s.att_conv", name);
        if (deeper) x = attend(loss, tape, path, x, kd__upsample_nearest(tape, deeper, s->shape[1], s->shape[2]));
        deeper = kd__upsample_nearest(tape, x, th, tw);
        kd__format(path, sizeof path, "%s.conv2", name);
        sum = kd__feature_add(tape, sum, levels(tape, kd__adapter_forward(loss, tape, path, deeper), t, th));
    }
    return kd__tape_ok(tape) ? sum : kd__poison(tape);
}

const kd__feature_method kd__feature_REVIEWKD = {
    .formula = "sum of pyramids of mse of conv(fused S, deep to shallow) and T", .defaults = defaults, .check = check,
    .adapters = adapters, .apply = apply
};
