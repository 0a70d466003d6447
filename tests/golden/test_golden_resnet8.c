/* test_golden_resnet8.c - a residual network of the zoo against PyTorch: logits, taps, loss, every gradient, statistics.
 * SPDX-License-Identifier: MIT
 *
 * Tolerance: a value is the end of chains of sums whose lengths add up along the network (forward 9 ci per convolution, 1728 in
 * all with the pool and the last layer; backward as many again plus the 576 positions of a weight gradient).  Each addition rounds
 * by at most 2^-24 of what has been summed, so the error is within (chain lengths) 2^-24 of the magnitude that enters. */
#include "golden_resnet8.h"

enum { FORWARD_CHAIN = 1728, BACKWARD_CHAIN = 2 * FORWARD_CHAIN + 576 };

static int ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

static kd_model *golden_model(kd_context *ctx)
{
    kd_model *m = NULL;
    CHECK_OK(kd_zoo_resnet_cifar(&m, ctx, 8, 1, CLASSES, 1));
    for (uint32_t s = 0; s < kd_model_parameter_count(m); s++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(m, s, &info));
        double scale = 1, shift = 1;   /* norm weights, running variances */
        if (kd_tensor_rank(info.tensor) == 4) {
            scale = 0.25;
            shift = 0;
        } else if (ends_with(info.name, "bias") || ends_with(info.name, "running_mean") || ends_with(info.name, "fc.weight")) {
            scale = 0.5;
            shift = 0;
        }
        float *w = kd_tensor_f32(info.tensor);
        for (uint32_t i = 0; i < kd_tensor_count(info.tensor); i++) w[i] = (float)(number(s, i) * scale + shift);
    }
    kd_model_touch(m);
    return m;
}

static kd_tensor *golden_images(void)
{
    kd_tensor *x = NULL;
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, 4, (size_t[]){ BATCH, SIDE, SIDE, 3 }));
    for (uint32_t i = 0; i < kd_tensor_count(x); i++) kd_tensor_f32(x)[i] = (float)(number(1000, i) * 4);
    return x;
}

static void check_logits(const kd_tensor *y, const double *want)
{
    const float *got = kd_tensor_f32(y);
    double largest = 0;
    for (size_t i = 0; i < BATCH * CLASSES; i++) largest = fmax(largest, fabs(want[i]));
    for (size_t i = 0; got && i < BATCH * CLASSES; i++) CHECK_NEAR((double)got[i], want[i], FORWARD_CHAIN * U * largest);
    CHECK(got && kd_tensor_count(y) == BATCH * CLASSES);
}

static void check_all(kd_context *ctx)
{
    kd_model *m = golden_model(ctx);
    kd_tensor *x = golden_images(), *labels = NULL;
    kd_tape *infer = NULL, *train = NULL;
    CHECK_OK(kd_tape_create(&infer, ctx, KD_TAPE_INFER));
    CHECK_OK(kd_tape_create(&train, ctx, KD_TAPE_TRAIN));
    const size_t taps = sizeof eval_taps / sizeof *eval_taps, grads = sizeof train_grads / sizeof *train_grads;
    const size_t buffers = sizeof train_buffers / sizeof *train_buffers;
    for (size_t i = 0; i < taps; i++) CHECK_OK(kd_model_tap(m, eval_taps[i].name));

    check_logits(kd_model_forward(m, infer, x), eval_logits);
    for (uint32_t i = 0; i < taps; i++) {
        kd_tensor *t = kd_model_tapped(m, infer, eval_taps[i].name);
        check_probe(&eval_taps[i], kd_tensor_f32(t), kd_tensor_count(t), 2000 + i, FORWARD_CHAIN);
    }

    int32_t classes[BATCH];
    for (int32_t i = 0; i < BATCH; i++) classes[i] = i * 3 % CLASSES;
    CHECK_OK(kd_tensor_wrap(&labels, NULL, KD_I32, 1, (size_t[]){ BATCH }, NULL, classes));
    kd_tensor *y = kd_model_forward(m, train, x);
    check_logits(y, train_logits);
    kd_tensor *loss = kd_cross_entropy(train, y, labels, -100, 0, KD_REDUCE_MEAN_ROWS);
    CHECK_NEAR(kd_tensor_item(loss), train_loss, FORWARD_CHAIN * U * train_loss);
    CHECK_OK(kd_backward(train, loss));
    CHECK(kd_model_parameter_count(m) == grads + buffers);
    for (uint32_t i = 0; i < grads + buffers; i++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(m, i, &info));
        const probe *want = i < grads ? &train_grads[i] : &train_buffers[i - grads];
        CHECK_STR(info.name, want->name);
        if (i < grads) check_probe(want, info.grad, kd_tensor_count(info.tensor), 3000 + i, BACKWARD_CHAIN);
        else check_probe(want, kd_tensor_f32(info.tensor), kd_tensor_count(info.tensor), 4000 + i - (uint32_t)grads, FORWARD_CHAIN);
    }
    kd_tape_free(infer);
    kd_tape_free(train);
    kd_tensor_free(x);
    kd_tensor_free(labels);
    kd_model_free(m);
}

TEST(resnet8_equals_pytorch_on_every_isa)
{
    uint32_t isas[5];
    size_t n = kdtest_isas(isas);
    for (size_t i = 0; i < n; i++) {
        kd_context *ctx = kdtest_context(2, isas[i]);
        check_all(ctx);
        kd_context_free(ctx);
    }
}
