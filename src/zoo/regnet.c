/* regnet.c - RegNetY (Radosavovic et al. 2020, arXiv 2003.13678): grouped bottlenecks with squeeze-and-excitation, timm's names.
 * SPDX-License-Identifier: MIT */
#include "zoo/zoo.h"

/* x times sigmoid(fc2(relu(fc1(m)))), m: the mean of each channel over height and width. */
static kd_tensor *squeeze_excite(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)user;
    return kd_mul(tape, x, kd__zoo_run(self, "fc1", "gate", tape, kd_mean(tape, x, 6, 1)));
}

/* conv, bn and, if wanted, act.  Returns the norm. */
static kd_layer *unit(kd_layer *self, size_t in, size_t out, size_t kernel, size_t stride, size_t groups, bool relu)
{
    kd_layer *conv = kd__zoo_conv(self, "conv", in, out, kernel, stride, groups);
    kd__layer_set_init(conv, "weight", KD_INIT_KAIMING_NORMAL, 0.0f, 1.0f);   /* here the outputs of a group are the fan */
    kd_layer *norm = kd__zoo_batch_norm(self, "bn", out);
    if (relu) kd_layer_activation(self, "act", KD_ACT_RELU);
    return norm;
}

static void block(kd_layer *b, size_t in, size_t out, size_t stride, size_t groups)
{
    unit(kd_layer_sequence(b, "conv1"), in, out, 1, 1, 1, true);
    unit(kd_layer_sequence(b, "conv2"), out, out, 3, stride, groups, true);
    kd_layer *se = kd__zoo_block(b, "se", "squeeze_excite", squeeze_excite);
    for (size_t i = 0; i < 2; i++) {
        kd_layer *fc = kd_layer_conv2d(se, i ? "fc2" : "fc1", i ? in / 4 : out, i ? out : in / 4, 1, 1, 1, NULL);
        kd__layer_set_init(fc, "weight", KD_INIT_KAIMING_NORMAL, 0.0f, 1.0f);
        kd__layer_set_init(fc, "bias", KD_INIT_ZEROS, 0.0f, 0.0f);
        kd_layer_activation(se, i ? "gate" : "act", i ? KD_ACT_SIGMOID : KD_ACT_RELU);
    }
    /* A block begins as its shortcut. */
    kd__layer_set_init(unit(kd_layer_sequence(b, "conv3"), out, out, 1, 1, 1, false), "weight", KD_INIT_ZEROS, 0.0f, 0.0f);
}

/* a: which of the networks; b: channels of a group. */
void kd__zoo_regnety(kd_layer *root, size_t a, size_t b, size_t classes)
{
    static const uint16_t stages[][8] = {   /* blocks, channels */
        { 1, 24, 1, 56, 4, 152, 7, 368 },  { 1, 48, 3, 104, 6, 208, 6, 440 },
        { 1, 48, 3, 112, 7, 256, 4, 608 }, { 1, 64, 3, 128, 8, 320, 2, 768 },
    };
    size_t in = 32;
    unit(kd_layer_sequence(root, "stem"), 3, in, 3, 2, 1, true);
    for (size_t i = 0; i < 4; i++) {
        kd_layer *stage = kd__zoo_stage(root, "s", i + 1);
        const size_t out = stages[a][2 * i + 1];
        for (size_t j = 0; j < stages[a][2 * i]; j++) {
            char name[24];
            kd__format(name, sizeof name, "b%zu", j + 1);
            kd_layer *self = kd_layer_residual(stage, name, KD_ACT_RELU);
            block(self, in, out, j ? 1 : 2, out / b);
            if (!j) unit(kd_layer_shortcut(self, "downsample"), in, out, 1, 2, 1, false);
            in = out;
        }
    }
    kd_layer *head = kd_layer_sequence(root, "head");
    kd_layer_global_avg_pool(head, "global_pool");
    kd_layer *fc = kd_layer_linear(head, "fc", in, classes, 1);
    kd__layer_set_init(fc, "weight", KD_INIT_NORMAL, 0.0f, 0.01f);
    kd__layer_set_init(fc, "bias", KD_INIT_ZEROS, 0.0f, 0.0f);
}
