/* test_kern_eltwise.c - elementwise kernels of one operand, forward and backward, against double.
 * SPDX-License-Identifier: MIT */
#include "kern_test.h"
#include "ref_eltwise.h"

#define U 0x1p-24
#define PI 3.14159265358979323846
#define N_MAX 300

/* f(x) in double and how far from it a float result may be: `ulps` of the result plus `share` of |x|. */
static const struct op {
    const char *name;   /* in ref_eltwise; NULL: none there */
    uint32_t op;
    float a, b;
    double ulps, share;
} ops[] = {
    { "exp", KD_UNARY_EXP, 0, 0, 1.02, 0 },
    { "log", KD_UNARY_LOG, 0, 0, 1, 0 },
    { "log1p", KD_UNARY_LOG1P, 0, 0, 2, 0 },
    { "sqrt", KD_UNARY_SQRT, 0, 0, 0.5, 0 },
    { "rsqrt", KD_UNARY_RSQRT, 0, 0, 2, 0 },
    { "square", KD_UNARY_SQUARE, 0, 0, 0.5, 0 },
    { "abs", KD_UNARY_ABS, 0, 0, 0, 0 },
    { "neg", KD_UNARY_NEG, 0, 0, 0, 0 },
    { "relu", KD_UNARY_RELU, 0, 0, 0, 0 },
    { "leaky_relu", KD_UNARY_LEAKY_RELU, 0.01f, 0, 0.5, 0 },
    { "gelu", KD_UNARY_GELU_ERF, 0, 0, 0.5, 2 * U },
    { "gelu_tanh", KD_UNARY_GELU_TANH, 0, 0, 0.5, 4 * U },   /* 3 U of the tanh's argument, 2 U of the tanh; halved */
    { "silu", KD_UNARY_SILU, 0, 0, 4, 0x1p-149 },   /* a sigmoid among the subnormals is off by a unit there */
    { "sigmoid", KD_UNARY_SIGMOID, 0, 0, 3, 0 },
    { "tanh", KD_UNARY_TANH, 0, 0, 2, 0 },
    { "erf", KD_UNARY_ERF, 0, 0, 1.02, 0 },
    { "softplus", KD_UNARY_SOFTPLUS, 0, 0, 4, 0 },
    { "clamp", KD_UNARY_CLAMP, -0.75f, 1.25f, 0, 0 },
    { "scale", KD_UNARY_SCALE_ADD, 1.7f, -0.3f, 0.51, 0 },
};
#define OPS (sizeof ops / sizeof *ops)

static double exact(const struct op *o, double x)
{
    if (o->op == KD_UNARY_LOG1P) return log1p(x);
    if (o->op == KD_UNARY_RSQRT) return 1 / sqrt(x);
    if (o->op == KD_UNARY_ERF) return erf(x);
    return ref_unary(o->name, x, (double)o->a, (double)o->b);
}

/* The gradient from what is saved, and in *near how far a float result may be from it. */
static double exact_gradient(const struct op *o, double g, double s, double *near)
{
    double d, slack = 4 * U;
    switch (o->op) {
    case KD_UNARY_EXP: d = s; break;
    case KD_UNARY_LOG: d = 1 / s; break;
    case KD_UNARY_LOG1P: d = 1 / (1 + s); break;
    case KD_UNARY_SQRT: d = 0.5 / s; break;
    case KD_UNARY_RSQRT: d = -0.5 * s * s * s; break;
    case KD_UNARY_RELU: d = s > 0; break;
    case KD_UNARY_SIGMOID: d = s * (1 - s); break;
    case KD_UNARY_TANH: d = 1 - s * s; break;
    case KD_UNARY_ERF:
        d = 2 / sqrt(PI) * exp(-s * s);
        slack += s * s * U;   /* the square rounds, and the exponential turns that into a relative error */
        break;
    default: d = ref_unary_slope(o->name, s, (double)o->a, (double)o->b);
    }
    *near = fabs(g * d) * slack + 0x1p-149;
    /* sums of two parts, each near 1 at most: an absolute error of a few U */
    if (o->op == KD_UNARY_GELU_ERF) *near += fabs(g) * 4 * U;
    if (o->op == KD_UNARY_GELU_TANH) *near += fabs(g) * 32 * U;   /* x u' (1 - t^2) / 2 with t within U of 1, x up to 5 */
    if (o->op == KD_UNARY_SILU) *near += fabs(g) * 4 * U * fmin(fabs(s), 20);
    return g * d;
}

static float draw(kdtest_rand *r, int round)
{
    if (round % 3 == 0) return special_floats[kdtest_bits(r) % SPECIAL_COUNT];
    return (float)(round % 3 == 1 ? 3 * kdtest_normal(r) : fabs(kdtest_normal(r)));
}

static void check_value(const struct op *o, const char *isa, float x, float got)
{
    double want = exact(o, (double)x), error = kdtest_ulp(got, want);
    if (error <= o->ulps || (isfinite(x) && fabs((double)got - want) <= o->share * fabs((double)x) + 0x1p-149)) return;
    CHECK_MSG(0, "%s %s(%a) = %a, want %a (%.2f ulp)", isa, o->name, (double)x, (double)got, want, error);
}

/* Every size, both page ends, in place and not: values near, bits equal on all instruction sets. */
TEST(unary)
{
    kdtest_rand r = { 11 };
    float want[N_MAX];
    for (size_t oi = 0; oi < OPS; oi++)
        for (size_t n = 0; n < N_MAX; n += n < 68 ? 1 : 77) {
            const struct op *o = ops + oi;
            int tail = (int)(n % 2);
            float *x = kdtest_guard(n * 4, tail), *y = kdtest_guard(n * 4, tail);
            for (size_t i = 0; i < n; i++) x[i] = draw(&r, (int)(n + i));
            int first = 1;
            EACH_ISA(k) {
                uint64_t control = fp_control();
                k->unary_f32(o->op, y, x, n, o->a, o->b);
                CHECK(fp_control() == control);
                if (first) {
                    for (size_t i = 0; i < n; i++) check_value(o, k->isa, x[i], y[i]);
                    memcpy(want, y, n * 4);
                    first = 0;
                }
                check_same(y, want, n, o->name);
                memcpy(y, x, n * 4);
                k->unary_f32(o->op, y, y, n, o->a, o->b);
                check_same(y, want, n, o->name);
            }
            kdtest_guard_free(x, n * 4, tail);
            kdtest_guard_free(y, n * 4, tail);
        }
}

/* A value does not depend on where it sits. */
TEST(position)
{
    kdtest_rand r = { 12 };
    float x[128], y[128], want[128];
    for (size_t i = 0; i < 128; i++) x[i] = (float)(4 * kdtest_normal(&r));
    for (size_t oi = 0; oi < OPS; oi++) EACH_ISA(k) {
        k->unary_f32(ops[oi].op, want, x, 128, ops[oi].a, ops[oi].b);
        for (size_t offset = 0; offset < 16; offset++)
            for (size_t n = 1; n < 50; n += 7) {
                k->unary_f32(ops[oi].op, y + offset, x + offset, n, ops[oi].a, ops[oi].b);
                check_same(y + offset, want + offset, n, ops[oi].name);
            }
    }
}

TEST(unary_backward)
{
    kdtest_rand r = { 13 };
    float want[N_MAX], added[N_MAX], old[N_MAX];
    for (size_t oi = 0; oi < OPS; oi++)
        for (size_t n = 0; n < N_MAX; n += n < 36 ? 1 : 77) {
            const struct op *o = ops + oi;
            int tail = (int)(n % 2), first = 1;
            uint32_t saves = kd__unary_saves(o->op);
            float *s = kdtest_guard(n * 4, tail), *g = kdtest_guard(n * 4, tail), *d = kdtest_guard(n * 4, tail);
            for (size_t i = 0; i < n; i++) {
                float x = (float)(saves == KD_UNARY_SAVES_OUT || o->op <= KD_UNARY_LOG1P ? fabs(kdtest_normal(&r)) + 0.01
                                                                                         : 3 * kdtest_normal(&r));
                s[i] = saves == KD_UNARY_SAVES_OUT ? (float)exact(o, (double)x) : x;
                g[i] = (float)kdtest_normal(&r);
                old[i] = (float)kdtest_normal(&r);
            }
            EACH_ISA(k) {
                k->unary_backward_f32(o->op, d, g, saves == KD_UNARY_SAVES_NONE ? NULL : s, n, o->a, o->b, 0);
                if (first) {
                    for (size_t i = 0; i < n; i++) {
                        double near, e = exact_gradient(o, (double)g[i], (double)s[i], &near);
                        CHECK_MSG(fabs((double)d[i] - e) <= near, "%s gradient at %a: %a, want %a", o->name, (double)s[i],
                                  (double)d[i], e);
                        added[i] = old[i] + d[i];
                    }
                    memcpy(want, d, n * 4);
                    first = 0;
                }
                check_same(d, want, n, o->name);
                memcpy(d, old, n * 4);
                k->unary_backward_f32(o->op, d, g, saves == KD_UNARY_SAVES_NONE ? NULL : s, n, o->a, o->b, 1);
                check_same(d, added, n, o->name);
                memcpy(d, g, n * 4);   /* grad_in may be grad_out */
                k->unary_backward_f32(o->op, d, d, saves == KD_UNARY_SAVES_NONE ? NULL : s, n, o->a, o->b, 0);
                check_same(d, want, n, o->name);
            }
            kdtest_guard_free(s, n * 4, tail);
            kdtest_guard_free(g, n * 4, tail);
            kdtest_guard_free(d, n * 4, tail);
        }
}

/* Gradients at kinks and limits; nothing that is 0 in the limit becomes NaN. */
TEST(backward_limits)
{
    static const struct { uint32_t op; float saved, want; } cases[] = {
        { KD_UNARY_RELU, 0, 0 },            { KD_UNARY_RELU, -0.0f, 0 },          { KD_UNARY_ABS, 0, 0 },
        { KD_UNARY_ABS, -0.0f, 0 },         { KD_UNARY_CLAMP, -0.75f, 1 },        { KD_UNARY_CLAMP, 1.25f, 1 },
        { KD_UNARY_CLAMP, 1.2500001f, 0 },  { KD_UNARY_SQRT, 0, INFINITY },       { KD_UNARY_GELU_ERF, INFINITY, 1 },
        { KD_UNARY_GELU_ERF, -INFINITY, 0 }, { KD_UNARY_GELU_TANH, INFINITY, 1 }, { KD_UNARY_GELU_TANH, -INFINITY, 0 },
        { KD_UNARY_SILU, INFINITY, 1 },     { KD_UNARY_SILU, -INFINITY, 0 },      { KD_UNARY_SOFTPLUS, INFINITY, 1 },
        { KD_UNARY_SOFTPLUS, -INFINITY, 0 }, { KD_UNARY_ERF, INFINITY, 0 },       { KD_UNARY_LEAKY_RELU, 0, 0.5f },
    };
    EACH_ISA(k) for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float one = 1, d, a = cases[i].op == KD_UNARY_CLAMP ? -0.75f : 0.5f;
        k->unary_backward_f32(cases[i].op, &d, &one, &cases[i].saved, 1, a, 1.25f, 0);
        CHECK_MSG(d == cases[i].want, "%s: op %u at %a: %a", k->isa, cases[i].op, (double)cases[i].saved, (double)d);
    }
}
