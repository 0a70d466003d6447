/* test_grad_softmax.c - softmax and log-softmax.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"
#include "ref_softmax.h"
#include <math.h>

static kd_tensor *build(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return c->op[0] == 's' ? kd_softmax(tape, in[0], (float)c->p[0]) : kd_log_softmax(tape, in[0], (float)c->p[0]);
}

static void ref(const grad_case *c, const double *const *in, double *out, double *size)
{
    size_t n = c->out.shape[c->out.rank - 1];
    for (size_t i = 0; i < grad_count(&c->out); i += n) {
        if (c->op[0] == 's') ref_softmax(n, in[0] + i, c->p[0], out + i);
        else ref_log_softmax(n, in[0] + i, c->p[0], out + i);
        for (size_t k = 0; size && k < n; k++) size[i + k] = c->op[0] == 's' ? out[i + k] : 1 + fabs(out[i + k]);
    }
}

/* Units.  softmax: 2 of the exponential, as many of the sum's terms, one for each addition in a lane (n / 16 of them, at most
 * 64), 2 for the inverse and the product.  log-softmax: the relative error of the sum is an absolute one of its logarithm. */
TEST(softmax)
{
    static const grad_case cases[] = {
        { GRAD_CASE(softmax, "rows"), build, ref, .p = { 1 }, .units = 9, .in = { { GRAD_IN(5, 7) } },
          .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(softmax, "T = 4"), build, ref, .p = { 4 }, .units = 9, .in = { { GRAD_IN(3, 33), .hi = 5 } },
          .out = GRAD_SHAPE(3, 33) },
        { GRAD_CASE(softmax, "T = 0.05"), build, ref, .p = { 0.05 }, .units = 9, .grad_tol = 3e-5,
          .in = { { GRAD_IN(3, 9), .hi = 0.1 } },
          .out = GRAD_SHAPE(3, 9) },
        { GRAD_CASE(softmax, "one class"), build, ref, .p = { 1 }, .units = 9, .in = { { GRAD_IN(4, 1) } },
          .out = GRAD_SHAPE(4, 1) },
        { GRAD_CASE(softmax, "rank 8"), build, ref, .p = { 1 }, .units = 9, .in = { { GRAD_IN(2, 1, 1, 2, 1, 3, 1, 4) } },
          .out = GRAD_SHAPE(2, 1, 1, 2, 1, 3, 1, 4) },
        { GRAD_CASE(softmax, "no rows"), build, ref, .p = { 1 }, .units = 9, .in = { { GRAD_IN(0, 4) } },
          .out = GRAD_SHAPE(0, 4) },
        { GRAD_CASE(softmax, "threads"), build, ref, .p = { 2 }, .units = 13, .in = { { GRAD_IN(400, 100) } },
          .out = GRAD_SHAPE(400, 100) },
        { GRAD_CASE(log_softmax, "rows"), build, ref, .p = { 1 }, .units = 9, .in = { { GRAD_IN(5, 7) } },
          .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(log_softmax, "T = 4"), build, ref, .p = { 4 }, .units = 9, .in = { { GRAD_IN(3, 33), .hi = 5 } },
          .out = GRAD_SHAPE(3, 33) },
        { GRAD_CASE(log_softmax, "vector"), build, ref, .p = { 1 }, .units = 9, .in = { { GRAD_IN(20) } },
          .out = GRAD_SHAPE(20) },
        { GRAD_CASE(log_softmax, "threads"), build, ref, .p = { 2 }, .units = 70, .in = { { GRAD_IN(10, 4000) } },
          .out = GRAD_SHAPE(10, 4000) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* Masks, rows that are all mask, NaN, infinity, and numbers whose difference overflows. */
TEST(special_rows)
{
    static const float x[6][4] = {
        { 1, -INFINITY, 1, -INFINITY }, { -INFINITY, -INFINITY, -INFINITY, -INFINITY }, { 0, NAN, 1, 2 },
        { 0, INFINITY, 1, 2 }, { 3e38f, -3e38f, 0, 3e38f }, { -3e38f, -3.1e38f, -3.2e38f, -INFINITY },
    };
    static const float p[6][4] = { { 0.5f, 0, 0.5f, 0 }, { 0, 0, 0, 0 }, { NAN, NAN, NAN, NAN }, { NAN, NAN, NAN, NAN },
                                   { 0.5f, 0, 0, 0.5f }, { 1, 0, 0, 0 } };
    static const float temperatures[] = { 0.5f, 1, 4 };
    kd_tape *tape = NULL;
    if (!CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN))) return;
    for (size_t k = 0; k < 3; k++) {
        kd_tensor *in = kd_requires_grad(tape, kd_tape_constant(tape, 2, (size_t[]){ 6, 4 }, x[0]));
        kd_tensor *s = kd_softmax(tape, in, temperatures[k]), *l = kd_log_softmax(tape, in, temperatures[k]);
        static const float w[24] = { 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4 };
        kd_tensor *loss = kd_mul(tape, s, kd_tape_constant(tape, 2, (size_t[]){ 6, 4 }, w));
        CHECK_OK(kd_backward(tape, kd_sum(tape, loss, 0, 0)));
        for (size_t r = 0; r < 6; r++)
            for (size_t c = 0; c < 4; c++) {
                size_t at = 4 * r + c;
                float got = kd_tensor_f32(s)[at], log_got = kd_tensor_f32(l)[at], grad = kd_grad(tape, in)[at];
                CHECK_MSG(kdtest_ulp(got, p[r][c]) == 0, "T %g: softmax[%zu][%zu] = %g", (double)temperatures[k], r, c,
                          (double)got);
                if (isnan(p[r][c])) CHECK(isnan(log_got) && isnan(grad));
                else {
                    CHECK(x[r][c] == -INFINITY ? log_got == -INFINITY : log_got <= 0);
                    CHECK_MSG(isfinite(grad), "T %g: gradient[%zu][%zu] = %g", (double)temperatures[k], r, c, (double)grad);
                }
            }
        CHECK(kd_grad(tape, in)[4] == 0 && kd_grad(tape, in)[7] == 0);
        kd_tape_reset(tape);
    }
    kd_tape_free(tape);
}

TEST(bad_input)
{
    static const float bad[] = { 0, -1, NAN, INFINITY };
    kd_tape *tape = NULL;
    if (!CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN))) return;
    for (size_t i = 0; i < 4; i++) {
        kd_softmax(tape, kd_tape_tensor(tape, KD_F32, 2, (size_t[]){ 3, 4 }), bad[i]);
        CHECK(kd_tape_status(tape) == KD_ERR_ARG);
        CHECK_ERROR_HAS("kd_softmax: temperature ");
        kd_tape_reset(tape);
    }
    kd_log_softmax(tape, kd_tape_tensor(tape, KD_F32, 2, (size_t[]){ 3, 0 }), 1);
    CHECK(kd_tape_status(tape) == KD_ERR_SHAPE);
    CHECK_ERROR_HAS("kd_log_softmax: x [3, 0] has no classes");
    kd_tape_reset(tape);
    kd_softmax(tape, kd_tape_tensor(tape, KD_F32, 0, NULL), 1);
    CHECK(kd_tape_status(tape) == KD_ERR_SHAPE);
    kd_tape_free(tape);
}
