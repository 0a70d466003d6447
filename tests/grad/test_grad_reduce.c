/* test_grad_reduce.c - sum, mean, maximum over axes.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"
#include "ref_reduce.h"
#include <math.h>
#include <stdlib.h>

/* n[0]: axes, n[1]: keep. */
static kd_tensor *build(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    uint32_t axes = (uint32_t)c->n[0];
    int32_t keep = (int32_t)c->n[1];
    if (!strcmp(c->op, "sum")) return kd_sum(tape, in[0], axes, keep);
    return !strcmp(c->op, "mean") ? kd_mean(tape, in[0], axes, keep) : kd_max(tape, in[0], axes, keep);
}

static void ref(const grad_case *c, const double *const *in, double *out, double *size)
{
    const grad_shape *s = &c->in[0].size;
    size_t count = grad_count(s), outs = grad_count(&c->out);
    char kind = !strcmp(c->op, "sum") ? 's' : !strcmp(c->op, "mean") ? 'm' : 'x';
    ref_reduce(kind, s->rank, s->shape, (uint32_t)c->n[0], in[0], count, out, outs, NULL);
    if (!size || kind == 'x') return;
    double *magnitude = malloc((count + 1) * sizeof *magnitude);
    for (size_t i = 0; i < count; i++) magnitude[i] = fabs(in[0][i]);
    ref_reduce(kind, s->rank, s->shape, (uint32_t)c->n[0], magnitude, count, size, outs, NULL);
    free(magnitude);
}

/* Units: rows are summed in double and rounded once or (with a factor) twice; columns of up to 64 rows of a matrix in single
 * precision are at most 64 roundings, and every further group of axes adds its own. */
TEST(sums)
{
    static const grad_case cases[] = {
        { GRAD_CASE(sum, "all"), build, ref, .units = 1, .in = { { GRAD_IN(5, 7) } }, .out = GRAD_SCALAR },
        { GRAD_CASE(sum, "all, kept"), build, ref, .units = 1, .n = { 0, 1 }, .in = { { GRAD_IN(5, 7) } },
          .out = GRAD_SHAPE(1, 1) },
        { GRAD_CASE(sum, "rows"), build, ref, .units = 1, .n = { 2 }, .in = { { GRAD_IN(5, 37) } }, .out = GRAD_SHAPE(5) },
        { GRAD_CASE(sum, "columns"), build, ref, .units = 64, .n = { 1 }, .in = { { GRAD_IN(37, 5) } }, .out = GRAD_SHAPE(5) },
        { GRAD_CASE(sum, "scalar"), build, ref, .units = 1, .in = { { .size = GRAD_SCALAR } }, .out = GRAD_SCALAR },
        { GRAD_CASE(sum, "size 1 axes"), build, ref, .units = 1, .n = { 5 }, .in = { { GRAD_IN(1, 6, 1) } },
          .out = GRAD_SHAPE(6) },
        { GRAD_CASE(sum, "middle"), build, ref, .units = 64, .n = { 2, 1 }, .in = { { GRAD_IN(3, 7, 5) } },
          .out = GRAD_SHAPE(3, 1, 5) },
        { GRAD_CASE(sum, "ends"), build, ref, .units = 65, .n = { 5 }, .in = { { GRAD_IN(3, 7, 5) } }, .out = GRAD_SHAPE(7) },
        { GRAD_CASE(sum, "every other of 8"), build, ref, .units = 4 * 3 + 1, .n = { 0x55 },
          .in = { { GRAD_IN(2, 2, 1, 3, 2, 2, 3, 2) } },
          .out = GRAD_SHAPE(2, 3, 2, 2) },
        { GRAD_CASE(sum, "nothing"), build, ref, .units = 1, .n = { 2 }, .in = { { GRAD_IN(3, 0) } }, .out = GRAD_SHAPE(3) },
        { GRAD_CASE(sum, "long row"), build, ref, .units = 1, .in = { { GRAD_IN(140000) } }, .out = GRAD_SCALAR },
        { GRAD_CASE(sum, "long columns"), build, ref, .units = 81, .n = { 1 }, .in = { { GRAD_IN(3000, 9) } },
          .out = GRAD_SHAPE(9) },
        { GRAD_CASE(sum, "wide columns"), build, ref, .units = 64, .n = { 1 }, .in = { { GRAD_IN(7, 9000) } },
          .out = GRAD_SHAPE(9000) },
        { GRAD_CASE(mean, "all"), build, ref, .units = 3, .in = { { GRAD_IN(5, 7) } }, .out = GRAD_SCALAR },
        { GRAD_CASE(mean, "rows, kept"), build, ref, .units = 3, .n = { 2, 1 }, .in = { { GRAD_IN(5, 37) } },
          .out = GRAD_SHAPE(5, 1) },
        { GRAD_CASE(mean, "height and width"), build, ref, .units = 66, .n = { 6 }, .in = { { GRAD_IN(3, 4, 6, 5) } },
          .out = GRAD_SHAPE(3, 5) },
        { GRAD_CASE(mean, "batches of columns"), build, ref, .units = 83, .n = { 2 }, .in = { { GRAD_IN(2, 1500, 4) } },
          .out = GRAD_SHAPE(2, 4) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

TEST(max)
{
    static const grad_case cases[] = {
        { GRAD_CASE(max, "all"), build, ref, .in = { { GRAD_IN(5, 7), .kind = GRAD_SPACED } }, .out = GRAD_SCALAR },
        { GRAD_CASE(max, "rows"), build, ref, .n = { 2 }, .in = { { GRAD_IN(5, 37), .kind = GRAD_SPACED } },
          .out = GRAD_SHAPE(5) },
        { GRAD_CASE(max, "columns"), build, ref, .n = { 1, 1 }, .in = { { GRAD_IN(37, 5), .kind = GRAD_SPACED } },
          .out = GRAD_SHAPE(1, 5) },
        { GRAD_CASE(max, "height and width"), build, ref, .n = { 6 }, .in = { { GRAD_IN(2, 4, 3, 5), .kind = GRAD_SPACED } },
          .out = GRAD_SHAPE(2, 5) },
        { GRAD_CASE(max, "ends"), build, ref, .n = { 5 }, .in = { { GRAD_IN(3, 7, 5), .kind = GRAD_SPACED } },
          .out = GRAD_SHAPE(7) },
        { GRAD_CASE(max, "scalar"), build, ref, .in = { { .size = GRAD_SCALAR } }, .out = GRAD_SCALAR },
        { GRAD_CASE(max, "every other of 8"), build, ref, .n = { 0xaa },
          .in = { { GRAD_IN(2, 2, 1, 3, 2, 2, 3, 2), .kind = GRAD_SPACED } }, .out = GRAD_SHAPE(2, 1, 2, 3) },
        { GRAD_CASE(max, "no rows"), build, ref, .n = { 2 }, .in = { { GRAD_IN(0, 3) } }, .out = GRAD_SHAPE(0) },
        { GRAD_CASE(max, "large"), build, ref, .n = { 2 }, .in = { { GRAD_IN(700, 60), .kind = GRAD_SPACED } },
          .out = GRAD_SHAPE(700) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* Of equal maxima the first in memory order takes the gradient, whatever the axes; a NaN is the maximum. */
TEST(ties)
{
    static const float x[12] = { 1, 3, 2, 3, 3, 0, NAN, 5, 5, 5, NAN, 1 };   /* [2, 2, 3] */
    static const struct { uint32_t axes; size_t outs; float y[6]; float grad[12]; } rows[] = {
        { 4, 4, { 3, 3, NAN, NAN }, { 0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0 } },
        { 2, 6, { 3, 3, 2, NAN, NAN, 5 }, { 0, 1, 1, 1, 0, 0, 1, 0, 1, 0, 1, 0 } },
        { 1, 6, { NAN, 5, 5, 5, NAN, 1 }, { 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1 } },
        { 5, 2, { NAN, NAN }, { 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0 } },
        { 6, 2, { 3, NAN }, { 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0 } },
        { 0, 1, { NAN }, { 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0 } },
    };
    kd_tape *tape = NULL;
    if (!CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN))) return;
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        kd_tensor *in = kd_requires_grad(tape, kd_tape_constant(tape, 3, (size_t[]){ 2, 2, 3 }, x));
        kd_tensor *y = kd_max(tape, in, rows[k].axes, 0);
        CHECK_OK(kd_backward(tape, kd_sum(tape, y, 0, 0)));
        CHECK(kd_tensor_count(y) == rows[k].outs);
        for (size_t i = 0; i < rows[k].outs; i++)
            CHECK_MSG(kdtest_ulp(kd_tensor_f32(y)[i], rows[k].y[i]) == 0, "axes %u: y[%zu] = %g", rows[k].axes, i,
                      (double)kd_tensor_f32(y)[i]);
        for (size_t i = 0; i < 12; i++)
            CHECK_MSG(kd_grad(tape, in)[i] == rows[k].grad[i], "axes %u: gradient %zu is %g", rows[k].axes, i,
                      (double)kd_grad(tape, in)[i]);
        kd_tape_reset(tape);
    }
    kd_tape_free(tape);
}

/* Ten million numbers lose nothing that shows. */
TEST(many)
{
    const size_t n = kdtest_full() ? 10000000 : 1000000;
    float *x = malloc(n * sizeof *x);
    double sum = 0;
    kdtest_rand r = { 5 };
    for (size_t i = 0; i < n; i++) sum += x[i] = (float)kdtest_uniform(&r, 0, 1);
    kd_tape *tape = NULL;
    kd_tensor *t = NULL;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    CHECK_OK(kd_tensor_wrap(&t, NULL, KD_F32, 1, &n, NULL, x));
    CHECK_NEAR(kd_tensor_item(kd_sum(tape, t, 0, 0)), sum, 0x1p-24 * sum);
    CHECK_NEAR(kd_tensor_item(kd_mean(tape, t, 0, 0)), sum / (double)n, 3 * 0x1p-24);
    kd_tensor_free(t);
    size_t shape[2] = { n / 2, 2 };
    CHECK_OK(kd_tensor_wrap(&t, NULL, KD_F32, 2, shape, NULL, x));
    kd_tensor *columns = kd_sum(tape, t, 1, 0);
    CHECK_NEAR((double)kd_tensor_f32(columns)[0] + (double)kd_tensor_f32(columns)[1], sum, 1e-6 * sum);
    kd_tensor_free(t);
    kd_tape_free(tape);
    free(x);
}

TEST(bad_input)
{
    kd_tape *tape = NULL;
    if (!CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN))) return;
    kd_sum(tape, kd_tape_tensor(tape, KD_F32, 2, (size_t[]){ 3, 4 }), 5, 0);
    CHECK(kd_tape_status(tape) == KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_sum: axes 0x5 name an axis that x [3, 4] does not have");
    kd_tape_reset(tape);
    kd_max(tape, kd_tape_tensor(tape, KD_F32, 2, (size_t[]){ 3, 0 }), 2, 0);
    CHECK(kd_tape_status(tape) == KD_ERR_SHAPE);
    CHECK_ERROR_HAS("kd_max: x [3, 0] has an empty axis");
    kd_tape_reset(tape);
    kd_tensor *y = kd_mean(tape, kd_tape_tensor(tape, KD_F32, 2, (size_t[]){ 3, 0 }), 2, 0);   /* of nothing: NaN, no error */
    CHECK_STATUS(kd_tape_status(tape), KD_OK);
    CHECK(kd_tensor_count(y) == 3 && isnan(kd_tensor_f32(y)[0]) && isnan(kd_tensor_f32(y)[2]));
    kd_tape_free(tape);
}
