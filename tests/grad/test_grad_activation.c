/* test_grad_activation.c - activations: values, gradients, special values, bad input.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"
#include "ref_eltwise.h"
#include <float.h>
#include <math.h>

static kd_tensor *leaky(kd_tape *tape, kd_tensor *x) { return kd_leaky_relu(tape, x, 0.25f); }

static const struct {
    const char *name;
    kd_tensor *(*run)(kd_tape *tape, kd_tensor *x);
} ops[] = {
    { "relu", kd_relu }, { "leaky_relu", leaky }, { "gelu", kd_gelu }, { "gelu_tanh", kd_gelu_tanh },
    { "silu", kd_silu }, { "sigmoid", kd_sigmoid }, { "tanh", kd_tanh }, { "softplus", kd_softplus },
};
enum { OPS = sizeof ops / sizeof *ops };

static kd_tensor *build(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    size_t k = 0;
    while (strcmp(ops[k].name, c->op) != 0) k++;
    return ops[k].run(tape, in[0]);
}

/* gelu near -|x| is a small difference: its error is of |x|. */
static void ref(const grad_case *c, const double *const *in, double *out, double *size)
{
    for (size_t i = 0; i < grad_count(&c->out); i++) {
        out[i] = ref_unary(c->op, in[0][i], 0.25, 0);
        if (size && c->op[0] == 'g') size[i] = fabs(in[0][i]);
    }
}

/* Units: the kernel's bound in ulp (simd_math.h; an ulp is up to 2 units) plus the roundings around it. */
TEST(activations)
{
    static const grad_case cases[] = {
        { GRAD_CASE(relu, "matrix"), build, ref, .units = 0, .in = { { GRAD_IN(5, 7), .kind = GRAD_SPACED } },
          .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(relu, "scalar"), build, ref, .units = 0, .in = { { .size = GRAD_SCALAR, .kind = GRAD_SPACED } },
          .out = GRAD_SCALAR },
        { GRAD_CASE(relu, "large"), build, ref, .units = 0, .in = { { GRAD_IN(2, 17000), .kind = GRAD_SPACED } },
          .out = GRAD_SHAPE(2, 17000) },
        { GRAD_CASE(relu, "nothing"), build, ref, .units = 0, .in = { { GRAD_IN(3, 0), .kind = GRAD_SPACED } },
          .out = GRAD_SHAPE(3, 0) },
        { GRAD_CASE(leaky_relu, "matrix"), build, ref, .units = 1, .in = { { GRAD_IN(5, 7), .kind = GRAD_SPACED } },
          .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(leaky_relu, "scalar"), build, ref, .units = 1, .in = { { .size = GRAD_SCALAR, .kind = GRAD_SPACED } },
          .out = GRAD_SCALAR },
        { GRAD_CASE(leaky_relu, "large"), build, ref, .units = 1, .in = { { GRAD_IN(2, 17000), .kind = GRAD_SPACED } },
          .out = GRAD_SHAPE(2, 17000) },
        { GRAD_CASE(leaky_relu, "nothing"), build, ref, .units = 1, .in = { { GRAD_IN(3, 0), .kind = GRAD_SPACED } },
          .out = GRAD_SHAPE(3, 0) },
        { GRAD_CASE(gelu, "matrix"), build, ref, .units = 2, .in = { { GRAD_IN(5, 7), .hi = 2 } }, .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(gelu, "scalar"), build, ref, .units = 2, .in = { { .size = GRAD_SCALAR, .hi = 2 } }, .out = GRAD_SCALAR },
        { GRAD_CASE(gelu, "large"), build, ref, .units = 2, .in = { { GRAD_IN(2, 17000), .hi = 2 } },
          .out = GRAD_SHAPE(2, 17000) },
        { GRAD_CASE(gelu, "nothing"), build, ref, .units = 2, .in = { { GRAD_IN(3, 0), .hi = 2 } }, .out = GRAD_SHAPE(3, 0) },
        { GRAD_CASE(gelu_tanh, "matrix"), build, ref, .units = 5, .in = { { GRAD_IN(5, 7), .hi = 2 } },
          .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(gelu_tanh, "scalar"), build, ref, .units = 5, .in = { { .size = GRAD_SCALAR, .hi = 2 } },
          .out = GRAD_SCALAR },
        { GRAD_CASE(gelu_tanh, "large"), build, ref, .units = 5, .in = { { GRAD_IN(2, 17000), .hi = 2 } },
          .out = GRAD_SHAPE(2, 17000) },
        { GRAD_CASE(gelu_tanh, "nothing"), build, ref, .units = 5, .in = { { GRAD_IN(3, 0), .hi = 2 } },
          .out = GRAD_SHAPE(3, 0) },
        { GRAD_CASE(silu, "matrix"), build, ref, .units = 5, .in = { { GRAD_IN(5, 7), .hi = 2 } }, .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(silu, "scalar"), build, ref, .units = 5, .in = { { .size = GRAD_SCALAR, .hi = 2 } }, .out = GRAD_SCALAR },
        { GRAD_CASE(silu, "large"), build, ref, .units = 5, .in = { { GRAD_IN(2, 17000), .hi = 2 } },
          .out = GRAD_SHAPE(2, 17000) },
        { GRAD_CASE(silu, "nothing"), build, ref, .units = 5, .in = { { GRAD_IN(3, 0), .hi = 2 } }, .out = GRAD_SHAPE(3, 0) },
        { GRAD_CASE(sigmoid, "matrix"), build, ref, .units = 4, .in = { { GRAD_IN(5, 7), .hi = 2 } }, .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(sigmoid, "scalar"), build, ref, .units = 4, .in = { { .size = GRAD_SCALAR, .hi = 2 } },
          .out = GRAD_SCALAR },
        { GRAD_CASE(sigmoid, "large"), build, ref, .units = 4, .in = { { GRAD_IN(2, 17000), .hi = 2 } },
          .out = GRAD_SHAPE(2, 17000) },
        { GRAD_CASE(sigmoid, "nothing"), build, ref, .units = 4, .in = { { GRAD_IN(3, 0), .hi = 2 } },
          .out = GRAD_SHAPE(3, 0) },
        { GRAD_CASE(tanh, "matrix"), build, ref, .units = 4, .in = { { GRAD_IN(5, 7), .hi = 2 } }, .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(tanh, "scalar"), build, ref, .units = 4, .in = { { .size = GRAD_SCALAR, .hi = 2 } }, .out = GRAD_SCALAR },
        { GRAD_CASE(tanh, "large"), build, ref, .units = 4, .in = { { GRAD_IN(2, 17000), .hi = 2 } },
          .out = GRAD_SHAPE(2, 17000) },
        { GRAD_CASE(tanh, "nothing"), build, ref, .units = 4, .in = { { GRAD_IN(3, 0), .hi = 2 } }, .out = GRAD_SHAPE(3, 0) },
        { GRAD_CASE(softplus, "matrix"), build, ref, .units = 7, .in = { { GRAD_IN(5, 7), .hi = 2 } },
          .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(softplus, "scalar"), build, ref, .units = 7, .in = { { .size = GRAD_SCALAR, .hi = 2 } },
          .out = GRAD_SCALAR },
        { GRAD_CASE(softplus, "large"), build, ref, .units = 7, .in = { { GRAD_IN(2, 17000), .hi = 2 } },
          .out = GRAD_SHAPE(2, 17000) },
        { GRAD_CASE(softplus, "nothing"), build, ref, .units = 7, .in = { { GRAD_IN(3, 0), .hi = 2 } },
          .out = GRAD_SHAPE(3, 0) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* Every activation at the ends of the range and around its bends, and its slope there. */
TEST(special_values)
{
    static const float x[] = { 0.0f, -0.0f, 1e-30f, -1e-30f, FLT_TRUE_MIN, -FLT_TRUE_MIN, 20.0f, -20.0f, 90.0f, -90.0f, 150.0f,
                               -150.0f, 1e5f, -1e5f, 1e20f, -1e20f, FLT_MAX, -FLT_MAX, INFINITY, -INFINITY, NAN };
    enum { N = sizeof x / sizeof *x };
    kd_tape *tape = NULL;
    if (!CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN))) return;
    for (size_t k = 0; k < OPS; k++) {
        const char *name = ops[k].name;
        kd_tensor *in = kd_requires_grad(tape, kd_tape_constant(tape, 1, (size_t[]){ N }, x)), *y = ops[k].run(tape, in);
        CHECK_OK(kd_backward(tape, kd_sum(tape, y, 0, 0)));
        const float *got = kd_tensor_f32(y), *slope = kd_grad(tape, in);
        for (size_t i = 0; i < N; i++) {
            double want = ref_unary(name, x[i], 0.25, 0);
            int near = got[i] == (float)want || fabs(got[i] - want) <= 8 * 0x1p-24 * fabs(want) + 1e-37;
            CHECK_MSG(isnan(want) ? isnan(got[i]) : near, "%s(%g) = %g, wanted %g", name, (double)x[i], (double)got[i], want);
            if (isnan(x[i])) continue;
            double at = isinf(x[i]) ? copysign(1e4, x[i]) : x[i];
            double goal = ref_unary_slope(name, fmax(-1e4, fmin(1e4, at)), 0.25, 0);
            CHECK_MSG(fabs(slope[i] - goal) <= 2e-6, "%s'(%g) = %g, wanted %g", name, (double)x[i], (double)slope[i], goal);
        }
        kd_tape_reset(tape);
    }
    kd_tape_free(tape);
}

/* Values of torch.nn.functional 2.13 in double, rounded. */
TEST(pytorch)
{
    static const float x[] = { -3.0f, -1.0f, -0.1f, 0.5f, 2.5f };
    static const double gelu[] = { -0.00404969409489, -0.158655253931, -0.0460172168989, 0.345731230637, 2.48447583669 };
    static const double gelu_tanh[] = { -0.00363739208177, -0.158808009392, -0.0460172495811, 0.345714009825, 2.48491573391 };
    kd_tape *tape = NULL;
    if (!CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_INFER))) return;
    kd_tensor *in = kd_tape_constant(tape, 1, (size_t[]){ 5 }, x), *a = kd_gelu(tape, in), *b = kd_gelu_tanh(tape, in);
    for (size_t i = 0; i < 5; i++) {
        CHECK_NEAR(kd_tensor_f32(a)[i], gelu[i], 2 * 0x1p-24 * fabs(x[i]));
        CHECK_NEAR(kd_tensor_f32(b)[i], gelu_tanh[i], 5 * 0x1p-24 * fabs(x[i]));
    }
    kd_tape_free(tape);
}

TEST(bad_input)
{
    kd_tape *tape = NULL;
    if (!CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN))) return;
    kd_tensor *x = kd_tape_constant(tape, 1, (size_t[]){ 2 }, (float[]){ 1, 2 });
    kd_leaky_relu(tape, x, NAN);
    CHECK(kd_tape_status(tape) == KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_leaky_relu: slope nan is not finite (op 1)");
    kd_tape_reset(tape);
    kd_relu(tape, NULL);
    CHECK(kd_tape_status(tape) == KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_relu: input 1");
    kd_tape_reset(tape);
    kd_gelu(tape, kd_tape_tensor(tape, KD_I32, 1, (size_t[]){ 2 }));
    CHECK(kd_tape_status(tape) == KD_ERR_DTYPE);
    CHECK_ERROR_HAS("kd_gelu: input 1 is i32, not f32");
    CHECK(kd_silu(NULL, NULL) != NULL);
    CHECK_ERROR_HAS("kd_silu: tape is NULL");
    kd_tape_free(tape);
}
