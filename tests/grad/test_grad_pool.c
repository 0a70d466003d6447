/* test_grad_pool.c - pooling on a tape, forward and backward; what it refuses.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"
#include "ref_pool.h"

/* n: window, stride, padding (height, width) */
static kd_tensor *build_max(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    const size_t *n = c->n;
    return kd_max_pool2d(tape, in[0], (uint32_t[]){ (uint32_t)n[0], (uint32_t)n[1] }, (uint32_t[]){ (uint32_t)n[2], (uint32_t)n[3] },
                         (uint32_t[]){ (uint32_t)n[4], (uint32_t)n[5] });
}
static kd_tensor *build_avg(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    const size_t *n = c->n;
    return kd_avg_pool2d(tape, in[0], (uint32_t[]){ (uint32_t)n[0], (uint32_t)n[1] }, (uint32_t[]){ (uint32_t)n[2], (uint32_t)n[3] },
                         (uint32_t[]){ (uint32_t)n[4], (uint32_t)n[5] });
}
static kd_tensor *build_global(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    (void)c;
    return kd_global_avg_pool(tape, in[0]);
}

static ref_pool shape_of(const grad_case *c)
{
    const size_t *x = c->in[0].size.shape, *y = c->out.shape, *n = c->n;
    return (ref_pool){ x[0], x[1], x[2], x[3], y[1], y[2], n[0], n[1], n[2], n[3], n[4], n[5] };
}
static void ref_max(const grad_case *c, const double *const *in, double *out, double *size)
{
    ref_pool s = shape_of(c);
    (void)size;
    ref_max_pool(&s, in[0], out, NULL);
}
static void ref_avg(const grad_case *c, const double *const *in, double *out, double *size)
{
    ref_pool s = shape_of(c);
    ref_avg_pool(&s, in[0], out, size);
}
static void ref_global(const grad_case *c, const double *const *in, double *out, double *size)
{
    const size_t *x = c->in[0].size.shape;
    ref_pool s = { x[0], x[1], x[2], x[3], 1, 1, x[1], x[2], 1, 1, 0, 0 };
    ref_avg_pool(&s, in[0], out, size);
}

TEST(max_pool2d)
{
    static const grad_case cases[] = {
        { GRAD_CASE(max_pool2d, "2x2"), build_max, ref_max, .n = { 2, 2, 2, 2, 0, 0 },
          .in = { { GRAD_IN(2, 6, 4, 5), .kind = GRAD_SPACED } }, .out = GRAD_SHAPE(2, 3, 2, 5) },
        { GRAD_CASE(max_pool2d, "3x3, stride 2, padded"), build_max, ref_max, .n = { 3, 3, 2, 2, 1, 1 },
          .in = { { GRAD_IN(2, 7, 6, 18), .kind = GRAD_SPACED } }, .out = GRAD_SHAPE(2, 4, 3, 18) },
        { GRAD_CASE(max_pool2d, "uneven"), build_max, ref_max, .n = { 3, 2, 1, 3, 2, 0 },
          .in = { { GRAD_IN(1, 5, 8, 3), .kind = GRAD_SPACED } }, .out = GRAD_SHAPE(1, 7, 3, 3) },
        { GRAD_CASE(max_pool2d, "no images"), build_max, ref_max, .n = { 2, 2, 2, 2, 0, 0 }, .in = { { GRAD_IN(0, 6, 4, 5) } },
          .out = GRAD_SHAPE(0, 3, 2, 5) },
        { GRAD_CASE(max_pool2d, "large enough for threads"), build_max, ref_max, .n = { 3, 3, 2, 2, 1, 1 },
          .in = { { GRAD_IN(8, 16, 16, 40), .kind = GRAD_SPACED } }, .out = GRAD_SHAPE(8, 8, 8, 40) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

TEST(avg_pool2d)
{
    static const grad_case cases[] = {
        { GRAD_CASE(avg_pool2d, "2x2"), build_avg, ref_avg, .units = 6, .n = { 2, 2, 2, 2, 0, 0 }, .in = { { GRAD_IN(2, 6, 4, 5) } },
          .out = GRAD_SHAPE(2, 3, 2, 5) },
        { GRAD_CASE(avg_pool2d, "3x3, stride 2, padding not counted"), build_avg, ref_avg, .units = 12, .n = { 3, 3, 2, 2, 1, 1 },
          .in = { { GRAD_IN(2, 7, 6, 18) } }, .out = GRAD_SHAPE(2, 4, 3, 18) },
        { GRAD_CASE(avg_pool2d, "uneven"), build_avg, ref_avg, .units = 10, .n = { 3, 2, 1, 3, 2, 0 }, .in = { { GRAD_IN(1, 5, 8, 3) } },
          .out = GRAD_SHAPE(1, 7, 3, 3) },
        { GRAD_CASE(avg_pool2d, "gaps between windows"), build_avg, ref_avg, .units = 6, .n = { 2, 1, 3, 2, 0, 0 },
          .in = { { GRAD_IN(1, 8, 5, 3) } }, .out = GRAD_SHAPE(1, 3, 3, 3) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

TEST(global_avg_pool)
{
    static const grad_case cases[] = {
        { GRAD_CASE(global_avg_pool, "4x5"), build_global, ref_global, .units = 22, .in = { { GRAD_IN(3, 4, 5, 19) } },
          .out = GRAD_SHAPE(3, 19) },
        { GRAD_CASE(global_avg_pool, "one pixel"), build_global, ref_global, .units = 2, .in = { { GRAD_IN(3, 1, 1, 300) } },
          .out = GRAD_SHAPE(3, 300) },
        { GRAD_CASE(global_avg_pool, "large enough for threads"), build_global, ref_global, .units = 80,
          .in = { { GRAD_IN(8, 16, 16, 40) } }, .out = GRAD_SHAPE(8, 40) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

#define TENSOR(...) kd_tape_tensor(tape, KD_F32, sizeof((size_t[]){ __VA_ARGS__ }) / sizeof(size_t), (size_t[]){ __VA_ARGS__ })
#define PAIR(a, b) ((uint32_t[]){ a, b })
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
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    REFUSED(kd_max_pool2d(tape, TENSOR(8, 8, 3), PAIR(2, 2), PAIR(2, 2), PAIR(0, 0)), KD_ERR_SHAPE, "kd_max_pool2d: x [8, 8, 3]");
    REFUSED(kd_max_pool2d(tape, TENSOR(1, 8, 8, 3), PAIR(2, 2), PAIR(0, 2), PAIR(0, 0)), KD_ERR_ARG, "height: window 2, stride 0");
    REFUSED(kd_avg_pool2d(tape, TENSOR(1, 8, 8, 3), PAIR(2, 2), PAIR(2, 2), PAIR(0, 2)), KD_ERR_ARG,
            "width: window 2, stride 2, padding 2");
    REFUSED(kd_avg_pool2d(tape, TENSOR(1, 8, 3, 3), PAIR(2, 4), PAIR(2, 2), PAIR(0, 0)), KD_ERR_SHAPE,
            "width: a window of 4 does not fit size 3");
    REFUSED(kd_max_pool2d(tape, TENSOR(1, 0, 3, 3), PAIR(2, 2), PAIR(2, 2), PAIR(1, 1)), KD_ERR_SHAPE, "does not fit size 0");
    REFUSED(kd_max_pool2d(tape, TENSOR(1, 8, 8, 3), NULL, PAIR(2, 2), PAIR(0, 0)), KD_ERR_ARG, "window is NULL");
    REFUSED(kd_max_pool2d(tape, TENSOR(1, 8, 8, 3), PAIR(2, 2), NULL, PAIR(0, 0)), KD_ERR_ARG, "stride is NULL");
    REFUSED(kd_max_pool2d(tape, TENSOR(1, 8, 8, 3), PAIR(2, 2), PAIR(2, 2), NULL), KD_ERR_ARG, "padding is NULL");
    REFUSED(kd_global_avg_pool(tape, TENSOR(1, 8, 3)), KD_ERR_SHAPE, "kd_global_avg_pool: x [1, 8, 3]");
    REFUSED(kd_global_avg_pool(tape, TENSOR(1, 0, 8, 3)), KD_ERR_SHAPE, "the mean of no pixels");
    kd_tape_free(tape);
}
