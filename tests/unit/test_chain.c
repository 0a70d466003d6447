/* test_chain.c - layers that run as one op have the bits of the layers one by one; frozen weights are packed again when they change.
 * A tape that looks for numbers that are not finite runs every layer by itself: the other side of each comparison.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "kd.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 3, SIDE = 9 };

typedef struct net {
    const char *name;
    size_t in;                          /* channels of x */
    void (*build)(kd_layer *root);
    int image;                          /* x is [n, h, w, c], else [n, c] */
    size_t rows;                        /* n; 0: BATCH */
} net;

static void conv(kd_layer *parent, size_t in, size_t out, size_t k, uint32_t stride, uint32_t groups, int32_t bias)
{
    kd_conv_desc d;
    kd_conv_desc_init(&d, sizeof d);
    d.stride[0] = d.stride[1] = stride;
    d.padding[0] = d.padding[1] = (uint32_t)k / 2;
    d.groups = groups;
    kd_layer_conv2d(parent, NULL, in, out, k, k, bias, &d);
}

static void norm_relu(kd_layer *parent, size_t channels)
{
    kd_layer_batch_norm(parent, NULL, channels, 0.1f, 1e-5f);
    kd_layer_activation(parent, NULL, KD_ACT_RELU);
}

static void every_way(kd_layer *root)   /* direct, Winograd, 1x1, depthwise, strided; with and without bias, norm, ReLU */
{
    conv(root, 5, 17, 3, 1, 1, 1), norm_relu(root, 17);
    conv(root, 17, 36, 1, 1, 1, 0), norm_relu(root, 36);
    conv(root, 36, 33, 3, 1, 1, 1), kd_layer_activation(root, NULL, KD_ACT_RELU);
    conv(root, 33, 33, 3, 1, 33, 1), norm_relu(root, 33);
    conv(root, 33, 40, 3, 2, 1, 0), kd_layer_batch_norm(root, NULL, 40, 0.1f, 1e-5f);
    conv(root, 40, 6, 3, 1, 2, 0), kd_layer_activation(root, NULL, KD_ACT_GELU);
}

static void residuals(kd_layer *root)
{
    for (size_t i = 0; i < 4; i++) {
        const size_t in = i < 2 ? 5 : 34, out = i == 0 ? 5 : 34;
        kd_layer *r = kd_layer_residual(root, NULL, i == 3 ? KD_ACT_NONE : KD_ACT_RELU);
        conv(r, in, out, 3, i == 1 ? 2 : 1, 1, 0), norm_relu(r, out);
        conv(r, out, out, 3, 1, 1, 1);
        if (i != 2) kd_layer_batch_norm(r, NULL, out, 0.1f, 1e-5f);
        if (in == out && i != 1) continue;
        kd_layer *s = kd_layer_shortcut(r, "down");
        conv(s, in, out, 1, i == 1 ? 2 : 1, 1, 0), kd_layer_batch_norm(s, NULL, out, 0.1f, 1e-5f);
    }
}

static void one_pixel_shortcut(kd_layer *root)   /* a sum that repeats one side is nothing for the last op */
{
    kd_layer *r = kd_layer_residual(root, NULL, KD_ACT_RELU), *s = kd_layer_shortcut(r, "down");
    conv(r, 5, 7, 3, 1, 1, 0), kd_layer_batch_norm(r, NULL, 7, 0.1f, 1e-5f);
    kd_layer_avg_pool2d(s, NULL, SIDE, 1, 0);
    conv(s, 5, 7, 1, 1, 1, 1);
}

static void rows(kd_layer *root)
{
    kd_layer_linear(root, NULL, 5, 37, 1), norm_relu(root, 37);
    kd_layer_linear(root, NULL, 37, 70, 0), kd_layer_activation(root, NULL, KD_ACT_RELU);
    kd_layer_batch_norm(root, NULL, 70, 0.1f, 1e-5f);
    kd_layer *r = kd_layer_residual(root, NULL, KD_ACT_RELU);
    kd_layer_linear(r, NULL, 70, 70, 1);
}

static void gelu_between(kd_layer *root)   /* twice; the last one has no gradient to give on */
{
    kd_layer_activation(root, NULL, KD_ACT_GELU), kd_layer_linear(root, NULL, 5, 70, 1);
    kd_layer_activation(root, NULL, KD_ACT_GELU), kd_layer_linear(root, NULL, 70, 37, 0), kd_layer_activation(root, NULL, KD_ACT_RELU);
    kd_layer *r = kd_layer_residual(root, NULL, KD_ACT_NONE);
    kd_layer_linear(r, NULL, 37, 9, 1), kd_layer_activation(r, NULL, KD_ACT_GELU), kd_layer_linear(r, NULL, 9, 37, 1);
}

static const net nets[] = { { "every way", 5, every_way, 1, 0 }, { "residuals", 5, residuals, 1, 0 },
                            { "one pixel shortcut", 5, one_pixel_shortcut, 1, 0 }, { "rows", 5, rows, 0, 0 },
                            { "gelu", 5, gelu_between, 0, 0 }, { "gelu, many rows", 5, gelu_between, 0, 1100 } };
#define EACH_NET(n) for (const net *n = nets; n < nets + sizeof nets / sizeof *nets; n++)

static kd_model *build(const net *n, kd_context *ctx)
{
    kd_model *m;
    CHECK_OK(kd_model_create(&m, ctx));
    n->build(kd_model_root(m));
    CHECK_OK(kd_model_finish(m, 5));
    size_t count;   /* running statistics and norm weights that do something, some negative */
    kd_rng rng = kd_rng_make(3);
    float *b = kd_model_buffers(m, &count);
    for (size_t i = 0; i < count; i++) b[i] = 0.25f + kd_rng_uniform(&rng);
    CHECK_OK(kd_model_initialize(m, "*.bias", KD_INIT_NORMAL, 0.0f, 0.3f, 9));
    return m;
}

static kd_tensor *input(const net *n, kd_context *ctx)
{
    kd_tensor *x;
    const size_t image[4] = { BATCH, SIDE, SIDE, n->in }, row[2] = { n->rows ? n->rows : BATCH, n->in };
    kd_rng rng = kd_rng_make(4);
    CHECK_OK(kd_tensor_create(&x, ctx, KD_F32, n->image ? 4 : 2, n->image ? image : row));
    for (size_t i = 0; i < kd_tensor_count(x); i++) kd_tensor_f32(x)[i] = kd_rng_normal(&rng);
    return x;
}

static kd_tape *tape_of(kd_context *ctx, uint32_t mode, bool apart)
{
    kd_tape *tape;
    CHECK_OK(kd_tape_create(&tape, ctx, mode | (apart ? KD_TAPE_CHECK_FINITE : 0)));
    return tape;
}

static void same(const net *n, const char *what, const float *a, const float *b, size_t count)
{
    size_t i = 0;
    while (i < count && !memcmp(&a[i], &b[i], sizeof *a)) i++;
    CHECK_MSG(i == count, "%s, %s: element %zu of %zu is %.9g, and %.9g one by one", n->name, what, i, count, (double)a[i < count ? i : 0],
              (double)b[i < count ? i : 0]);
}

/* A forward, and where the tape records a backward from the mean of squares. */
static float *run(const net *n, kd_model *m, kd_context *ctx, uint32_t mode, bool apart, size_t *count)
{
    kd_tape *tape = tape_of(ctx, mode, apart);
    kd_tensor *x = input(n, ctx), *y = kd_model_forward(m, tape, x);
    CHECK_OK(kd_tape_status(tape));
    if (mode != KD_TAPE_INFER && !kd_model_frozen(m)) {
        kd_model_zero_grads(m);
        CHECK_OK(kd_backward(tape, kd_mean(tape, kd_square(tape, y), 0, 0)));
    }
    *count = kd_tensor_count(y);
    float *copy = malloc((*count + 1) * sizeof *copy);
    memcpy(copy, kd_tensor_f32(y), *count * sizeof *copy);
    kd_tape_free(tape);
    kd_tensor_free(x);
    return copy;
}

static void compare(const net *n, const char *what, kd_model *together, kd_model *apart, kd_context *ctx, uint32_t mode)
{
    size_t count, other, grads;
    float *a = run(n, together, ctx, mode, false, &count), *b = run(n, apart, ctx, mode, true, &other);
    CHECK(count == other);
    same(n, what, a, b, count);
    const float *ga = kd_model_grads(together, &grads), *gb = kd_model_grads(apart, &grads);
    same(n, what, ga, gb, grads);
    const float *ba = kd_model_buffers(together, &grads), *bb = kd_model_buffers(apart, &grads);
    same(n, what, ba, bb, grads);
    free(a), free(b);
}

TEST(together_as_one_by_one)
{
    for (uint32_t threads = 1; threads <= 2; threads++) {
        kd_context *ctx;
        kd_context_desc how;
        kd_context_desc_init(&how, sizeof how);
        how.threads = threads;
        CHECK_OK(kd_context_create(&ctx, &how));
        EACH_NET(n) {
            kd_model *a = build(n, ctx), *b = build(n, ctx);
            compare(n, "infer", a, b, ctx, KD_TAPE_INFER);
            compare(n, "train", a, b, ctx, KD_TAPE_TRAIN);
            compare(n, "train again", a, b, ctx, KD_TAPE_TRAIN);
            compare(n, "eval", a, b, ctx, KD_TAPE_EVAL);
            kd_model_freeze(a, 1), kd_model_freeze(b, 1);
            compare(n, "frozen, infer", a, b, ctx, KD_TAPE_INFER);
            compare(n, "frozen, infer again", a, b, ctx, KD_TAPE_INFER);
            compare(n, "frozen, train", a, b, ctx, KD_TAPE_TRAIN);
            kd_model_free(a), kd_model_free(b);
        }
        kd_context_free(ctx);
    }
}

TEST(packed_weights_follow_the_weights)
{
    EACH_NET(n) {
        kd_model *a = build(n, NULL), *b = build(n, NULL);
        kd_model_freeze(a, 1), kd_model_freeze(b, 1);
        compare(n, "before", a, b, NULL, KD_TAPE_INFER);
        for (int way = 0; way < 3; way++) {
            kd_model *both[] = { a, b };
            for (size_t i = 0; i < 2; i++) {
                size_t count;
                if (way == 0) {   /* from outside */
                    float *w = kd_model_weights(both[i], &count);
                    for (size_t k = 0; k < count; k++) w[k] *= -0.5f;
                    kd_model_touch(both[i]);
                } else if (way == 1) {
                    CHECK_OK(kd_model_initialize(both[i], "*weight", KD_INIT_NORMAL, 0.1f, 0.2f, 77));
                } else {   /* trained a step without an optimizer: batch norm has moved */
                    kd_model_freeze(both[i], 0);
                    free(run(n, both[i], NULL, KD_TAPE_TRAIN, i == 1, &count));
                    kd_model_freeze(both[i], 1);
                }
            }
            compare(n, "after", a, b, NULL, KD_TAPE_INFER);
        }
        kd_model_free(a), kd_model_free(b);
    }
}

TEST(images_of_another_size)   /* the same layer by another way: packed again */
{
    kd_model *m;
    kd_conv_desc d;
    kd_conv_desc_init(&d, sizeof d);
    d.padding[0] = d.padding[1] = 1;
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer_conv2d(kd_model_root(m), "conv", 32, 40, 3, 3, 0, &d);
    CHECK_OK(kd_model_finish(m, 2));
    for (int round = 0; round < 4; round++) {
        const size_t side = round % 2 ? 3 : 8, shape[4] = { 2, side, side, 32 };
        float *out[2];
        size_t count = 0;
        for (int frozen = 0; frozen < 2; frozen++) {
            kd_tape *tape = tape_of(NULL, KD_TAPE_INFER, false);
            kd_tensor *x;
            CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, 4, shape));
            for (size_t i = 0; i < kd_tensor_count(x); i++) kd_tensor_f32(x)[i] = (float)(i % 13) - 6;
            kd_model_freeze(m, frozen);
            kd_tensor *y = kd_model_forward(m, tape, x);
            CHECK_OK(kd_tape_status(tape));
            count = kd_tensor_count(y);
            out[frozen] = malloc(count * sizeof(float));
            memcpy(out[frozen], kd_tensor_f32(y), count * sizeof(float));
            kd_tape_free(tape), kd_tensor_free(x);
        }
        CHECK(!memcmp(out[0], out[1], count * sizeof(float)));
        free(out[0]), free(out[1]);
    }
    kd_model_free(m);
}

TEST(taps_see_what_they_asked_for)
{
    const net *n = &nets[1];
    kd_model *a = build(n, NULL), *b = build(n, NULL), *both[] = { a, b };
    static const char *const paths[] = { "0.0", "0.1", "0.4", "1", "1:pre", "2.down.1", "2:pre", "3" };
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
            if (strcmp(paths[i], "2.down.1")) CHECK_OK(kd_model_tap(both[k], paths[i]));
    for (uint32_t mode = 0; mode < 2; mode++) {
        kd_tape *ta = tape_of(NULL, mode ? KD_TAPE_TRAIN : KD_TAPE_INFER, false);
        kd_tape *tb = tape_of(NULL, mode ? KD_TAPE_TRAIN : KD_TAPE_INFER, true);
        kd_tensor *x = input(n, NULL);
        kd_model_forward(a, ta, x), kd_model_forward(b, tb, x);
        for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
            if (!strcmp(paths[i], "2.down.1")) continue;
            kd_tensor *p = kd_model_tapped(a, ta, paths[i]), *q = kd_model_tapped(b, tb, paths[i]);
            CHECK_OK(kd_tape_status(ta));
            CHECK_OK(kd_tape_status(tb));
            same(n, paths[i], kd_tensor_f32(p), kd_tensor_f32(q), kd_tensor_count(q));
        }
        kd_tape_free(ta), kd_tape_free(tb), kd_tensor_free(x);
    }
    kd_model_free(a), kd_model_free(b);
}

TEST(errors_name_the_layer)
{
    kd_model *m;
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer *r = kd_layer_residual(kd_model_root(m), "block", KD_ACT_RELU);
    kd_layer_conv2d(r, "conv1", 5, 7, 3, 3, 0, NULL);
    kd_layer_batch_norm(r, "bn1", 7, 0.1f, 1e-5f);
    CHECK_OK(kd_model_finish(m, 1));
    kd_tape *tape = tape_of(NULL, KD_TAPE_INFER, false);
    kd_tensor *x;
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, 4, (size_t[]){ 1, 8, 8, 4 }));
    kd_model_forward(m, tape, x);
    CHECK(kd_tape_status(tape) == KD_ERR_SHAPE);
    CHECK_MSG(strstr(kd_last_error(), "block.conv1: kd_conv2d: x [1, 8, 8, 4]") != NULL, "%s", kd_last_error());
    kd_tape_free(tape), kd_tensor_free(x), kd_model_free(m);
}
