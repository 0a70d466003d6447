/* test_grad_shape.c - gradients of the shape ops.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"

static void ref_same(const grad_case *c, const double *const *in, double *out, double *size)
{
    (void)size;
    for (size_t i = 0; i < grad_count(&c->out); i++) out[i] = in[0][i];
}

static kd_tensor *build_reshape(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return kd_reshape(tape, in[0], c->n[0], c->n + 1);
}

static kd_tensor *build_flatten(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    (void)c;
    return kd_flatten(tape, in[0]);
}

TEST(reshape)
{
    static const grad_case cases[] = {
        { GRAD_CASE(reshape, "to two axes"), build_reshape, ref_same, .n = { 2, 6, 4 }, .in = { { GRAD_IN(2, 3, 4) } },
          .out = GRAD_SHAPE(6, 4) },
        { GRAD_CASE(reshape, "a size inferred"), build_reshape, ref_same, .n = { 3, 4, SIZE_MAX, 2 },
          .in = { { GRAD_IN(2, 3, 4) } }, .out = GRAD_SHAPE(4, 3, 2) },
        { GRAD_CASE(reshape, "to a scalar"), build_reshape, ref_same, .n = { 0 }, .in = { { GRAD_IN(1, 1) } }, .out = GRAD_SCALAR },
        { GRAD_CASE(reshape, "flatten"), build_flatten, ref_same, .in = { { GRAD_IN(3, 4, 5) } }, .out = GRAD_SHAPE(3, 20) },
        { GRAD_CASE(reshape, "large"), build_reshape, ref_same, .n = { 1, SIZE_MAX }, .in = { { GRAD_IN(300, 400) } },
          .out = GRAD_SHAPE(120000) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}
