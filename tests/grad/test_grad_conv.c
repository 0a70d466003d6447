/* test_grad_conv.c - convolutions on a tape, forward and backward; what they refuse.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"
#include "ref_conv.h"
#include <stdlib.h>

/* n: stride, padding, dilation (height, width), groups */
static kd_conv_desc desc_of(const size_t *n)
{
    kd_conv_desc d;
    kd_conv_desc_init(&d, sizeof d);
    for (int i = 0; i < 2; i++) {
        d.stride[i] = (uint32_t)n[i];
        d.padding[i] = (uint32_t)n[2 + i];
        d.dilation[i] = (uint32_t)n[4 + i];
    }
    d.groups = (uint32_t)n[6];
    return d;
}

static kd_tensor *build_conv2d(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    kd_conv_desc d = desc_of(c->n);
    return kd_conv2d(tape, in[0], in[1], in[2], &d);
}

static kd_tensor *build_conv1d(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    kd_conv_desc d = desc_of(c->n);
    return kd_conv1d(tape, in[0], in[1], in[2], &d);
}

static kd_tensor *build_defaults(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    (void)c;
    return kd_conv2d(tape, in[0], in[1], in[2], NULL);
}

static void ref_conv2d(const grad_case *c, const double *const *in, double *out, double *size)
{
    const size_t *x = c->in[0].size.shape, *w = c->in[1].size.shape, *y = c->out.shape, *n = c->n;
    ref_conv s = { x[0], x[1], x[2], x[3], w[0], w[1], w[3], y[1], y[2], n[0], n[1], n[2], n[3], n[4], n[5], n[6] };
    ref_conv_forward(&s, in[0], in[1], c->in[2].kind == GRAD_NULL ? NULL : in[2], out, size);
}

static void ref_conv1d(const grad_case *c, const double *const *in, double *out, double *size)
{
    const size_t *x = c->in[0].size.shape, *w = c->in[1].size.shape, *y = c->out.shape, *n = c->n;
    ref_conv s = { x[0], x[1], 1, x[2], w[0], 1, w[2], y[1], 1, n[0], 1, n[2], 0, n[4], 1, n[6] };
    ref_conv_forward(&s, in[0], in[1], c->in[2].kind == GRAD_NULL ? NULL : in[2], out, size);
}

#define NO_BIAS { .kind = GRAD_NULL } }, .in_count = 3

TEST(conv2d)
{
    static const grad_case cases[] = {
        { GRAD_CASE(conv2d, "3x3, same size"), build_conv2d, ref_conv2d, .units = 40, .n = { 1, 1, 1, 1, 1, 1, 1 },
          .in = { { GRAD_IN(2, 5, 6, 3) }, { GRAD_IN(3, 3, 3, 4) }, { GRAD_IN(4) } }, .out = GRAD_SHAPE(2, 5, 6, 4) },
        { GRAD_CASE(conv2d, "defaults, no bias"), build_defaults, ref_conv2d, .units = 40, .n = { 1, 1, 0, 0, 1, 1, 1 },
          .in = { { GRAD_IN(2, 5, 6, 3) }, { GRAD_IN(3, 2, 3, 5) }, NO_BIAS, .out = GRAD_SHAPE(2, 3, 5, 5) },
        { GRAD_CASE(conv2d, "stride 2"), build_conv2d, ref_conv2d, .units = 80, .n = { 2, 2, 1, 1, 1, 1, 1 },
          .in = { { GRAD_IN(2, 8, 7, 6) }, { GRAD_IN(3, 3, 6, 5) }, { GRAD_IN(5) } }, .out = GRAD_SHAPE(2, 4, 4, 5) },
        { GRAD_CASE(conv2d, "1x1"), build_conv2d, ref_conv2d, .units = 20, .n = { 1, 1, 0, 0, 1, 1, 1 },
          .in = { { GRAD_IN(2, 4, 5, 7) }, { GRAD_IN(1, 1, 7, 6) }, { GRAD_IN(6) } }, .out = GRAD_SHAPE(2, 4, 5, 6) },
        { GRAD_CASE(conv2d, "1x1, stride 2"), build_conv2d, ref_conv2d, .units = 20, .n = { 2, 2, 0, 0, 1, 1, 1 },
          .in = { { GRAD_IN(2, 5, 6, 7) }, { GRAD_IN(1, 1, 7, 6) }, NO_BIAS, .out = GRAD_SHAPE(2, 3, 3, 6) },
        { GRAD_CASE(conv2d, "groups, dilation, uneven"), build_conv2d, ref_conv2d, .units = 40, .n = { 1, 2, 2, 1, 2, 1, 2 },
          .in = { { GRAD_IN(2, 6, 7, 4) }, { GRAD_IN(3, 2, 2, 6) }, { GRAD_IN(6) } }, .out = GRAD_SHAPE(2, 6, 4, 6) },
        { GRAD_CASE(conv2d, "depthwise"), build_conv2d, ref_conv2d, .units = 14, .n = { 1, 1, 1, 1, 1, 1, 5 },
          .in = { { GRAD_IN(2, 5, 5, 5) }, { GRAD_IN(3, 3, 1, 5) }, { GRAD_IN(5) } }, .out = GRAD_SHAPE(2, 5, 5, 5) },
        { GRAD_CASE(conv2d, "depthwise with a multiplier, stride 2"), build_conv2d, ref_conv2d, .units = 14,
          .n = { 2, 2, 1, 1, 1, 1, 3 }, .in = { { GRAD_IN(2, 5, 5, 3) }, { GRAD_IN(3, 3, 1, 6) }, NO_BIAS, .out = GRAD_SHAPE(2, 3, 3, 6) },
        { GRAD_CASE(conv2d, "32 channels: Winograd"), build_conv2d, ref_conv2d, .units = 1200, .n = { 1, 1, 1, 1, 1, 1, 1 },
          .in = { { GRAD_IN(2, 5, 7, 32) }, { GRAD_IN(3, 3, 32, 33) }, { GRAD_IN(33) } }, .out = GRAD_SHAPE(2, 5, 7, 33) },
        { GRAD_CASE(conv2d, "large enough for threads"), build_conv2d, ref_conv2d, .units = 160, .n = { 1, 1, 1, 1, 1, 1, 1 },
          .in = { { GRAD_IN(4, 8, 8, 16) }, { GRAD_IN(3, 3, 16, 16) }, { GRAD_IN(16) } }, .out = GRAD_SHAPE(4, 8, 8, 16) },
        { GRAD_CASE(conv2d, "no images"), build_conv2d, ref_conv2d, .units = 40, .n = { 1, 1, 1, 1, 1, 1, 1 },
          .in = { { GRAD_IN(0, 5, 6, 3) }, { GRAD_IN(3, 3, 3, 4) }, { GRAD_IN(4) } }, .out = GRAD_SHAPE(0, 5, 6, 4) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

TEST(conv1d)
{
    static const grad_case cases[] = {
        { GRAD_CASE(conv1d, "same size"), build_conv1d, ref_conv1d, .units = 30, .n = { 1, 9, 1, 9, 1, 9, 1 },
          .in = { { GRAD_IN(2, 9, 5) }, { GRAD_IN(3, 5, 4) }, { GRAD_IN(4) } }, .out = GRAD_SHAPE(2, 9, 4) },
        { GRAD_CASE(conv1d, "stride, dilation, groups"), build_conv1d, ref_conv1d, .units = 30, .n = { 2, 9, 3, 9, 2, 9, 2 },
          .in = { { GRAD_IN(2, 11, 4) }, { GRAD_IN(3, 2, 6) }, NO_BIAS, .out = GRAD_SHAPE(2, 7, 6) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

#define TENSOR(...) kd_tape_tensor(tape, KD_F32, sizeof((size_t[]){ __VA_ARGS__ }) / sizeof(size_t), (size_t[]){ __VA_ARGS__ })
#define REFUSED(expr, status, text)                         \
    do {                                                    \
        (void)(expr);                                       \
        CHECK_STATUS(kd_tape_status(tape), status);         \
        CHECK_ERROR_HAS(text);                              \
        kd_tape_reset(tape);                                \
    } while (0)

TEST(refused)
{
    kd_tape *tape;
    kd_conv_desc d, good;
    kd_conv_desc_init(&good, sizeof good);
    CHECK(good.stride[0] == 1 && good.stride[1] == 1 && good.padding[0] == 0 && good.padding[1] == 0 && good.dilation[0] == 1 &&
          good.dilation[1] == 1 && good.groups == 1);
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    REFUSED(kd_conv2d(tape, TENSOR(8, 8, 3), TENSOR(3, 3, 3, 4), NULL, NULL), KD_ERR_SHAPE,
            "kd_conv2d: x [8, 8, 3] must be [n, h, w, channels]");
    REFUSED(kd_conv2d(tape, TENSOR(1, 8, 8, 3), TENSOR(3, 3, 4, 4), NULL, NULL), KD_ERR_SHAPE,
            "x [1, 8, 8, 3], weight [3, 3, 4, 4], groups 1: weight must be [.., 3 / groups");
    REFUSED(kd_conv2d(tape, TENSOR(1, 8, 8, 3), TENSOR(3, 3, 3, 4), TENSOR(3), NULL), KD_ERR_SHAPE,
            "bias [3] does not fit weight [3, 3, 3, 4]");
    REFUSED(kd_conv2d(tape, TENSOR(1, 2, 8, 3), TENSOR(3, 3, 3, 4), NULL, NULL), KD_ERR_SHAPE,
            "height: a kernel of 3 with dilation 1 spans 3, the padded image only 2");
    REFUSED(kd_conv2d(tape, TENSOR(1, 8, 8, 3), TENSOR(0, 3, 3, 4), NULL, NULL), KD_ERR_SHAPE, "of size 0");
    REFUSED(kd_conv2d(tape, TENSOR(1, 8, 8, 3), NULL, NULL, NULL), KD_ERR_ARG, "kd_conv2d");
    REFUSED(kd_conv1d(tape, TENSOR(1, 4, 3), TENSOR(5, 3, 4), NULL, NULL), KD_ERR_SHAPE, "time: a kernel of 5");
    d = good;
    d.stride[1] = 0;
    REFUSED(kd_conv2d(tape, TENSOR(1, 8, 8, 3), TENSOR(3, 3, 3, 4), NULL, &d), KD_ERR_ARG, "stride 1, 0");
    d = good;
    d.groups = 2;
    REFUSED(kd_conv2d(tape, TENSOR(1, 8, 8, 3), TENSOR(3, 3, 3, 4), NULL, &d), KD_ERR_SHAPE, "groups 2");
    d = good;
    d.algorithm = 2;
    REFUSED(kd_conv2d(tape, TENSOR(1, 8, 8, 3), TENSOR(3, 3, 3, 4), NULL, &d), KD_ERR_ARG, "algorithm 2 is no KD_CONV_*");
    d = good;
    d.dilation[0] = 0xffffffffu;
    REFUSED(kd_conv2d(tape, TENSOR(1, 8, 8, 3), TENSOR(3, 3, 3, 4), NULL, &d), KD_ERR_SHAPE, "spans 8589934591");
    d = good;
    d.padding[0] = d.padding[1] = 0xffffffffu;
    REFUSED(kd_conv2d(tape, TENSOR(1, 8, 8, 3), TENSOR(3, 3, 3, 4), NULL, &d), KD_ERR_OVERFLOW, "kd_conv2d");
    d = good;
    d.struct_size = 3;
    REFUSED(kd_conv2d(tape, TENSOR(1, 8, 8, 3), TENSOR(3, 3, 3, 4), NULL, &d), KD_ERR_ARG, "kd_conv_desc: struct_size is 3");
    kd_tape_free(tape);
}

TEST(multiply_adds)
{
    kd_tape *tape;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    kd_tensor *x = TENSOR(2, 8, 8, 4), *w = TENSOR(3, 3, 2, 6);
    CHECK_OK(kd_tensor_fill(x, 0));
    CHECK_OK(kd_tensor_fill(w, 0));
    kd_conv_desc d;
    kd_conv_desc_init(&d, sizeof d);
    d.groups = 2;
    d.padding[0] = d.padding[1] = 1;
    kd_conv2d(tape, x, w, NULL, &d);
    CHECK(kd_tape_multiply_adds(tape) == 2 * 8 * 8 * 6 * 9 * 2);
    kd_tape_free(tape);
}
