/* check_eltwise.c - elementwise kernels of one operand, forward and backward, against double.
 * SPDX-License-Identifier: MIT */
#include "checkkd.h"
#include "ref_eltwise.h"

#define PI 3.14159265358979323846

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
    { "gelu", KD_UNARY_GELU_ERF, 0, 0, 0.5, 2.5 * U },
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
    if (o->op == KD_UNARY_ERF)
        *near += fabs(g) * 1.16 * 0x1p-149; /* an exponential among the subnormals: 1.02 units, times 2 / sqrt(pi) */
    /* sums of two parts, each near 1 at most: an absolute error of a few U */
    if (o->op == KD_UNARY_GELU_ERF) *near += fabs(g) * 4 * U;
    if (o->op == KD_UNARY_GELU_TANH) *near += fabs(g) * 32 * U;   /* x u' (1 - t^2) / 2 with t within U of 1, x up to 5 */
    if (o->op == KD_UNARY_SILU) *near += fabs(g) * 4 * U * fmin(fabs(s), 20);
    return g * d;
}

static void check_value(const ck_case *c, const struct op *o, size_t i)
{
    const float x = BEFORE(1)[i], got = AFTER(0)[i];
    double want = exact(o, (double)x), error = kdtest_ulp(got, want);
    if (error <= o->ulps || (isfinite(x) && fabs((double)got - want) <= o->share * fabs((double)x) + 0x1p-149)) return;
    ck_fail(c, "%s(%a) = %a, want %a (%.2f ulp)", o->name, (double)x, (double)got, want, error);
}

static void make_unary(ck_case *c)
{
    ck_floats(c, CK_OUT, "out", 1, c->n, 1);
    float *x = ck_floats(c, CK_IN, "in", 1, c->n, 3);
    for (size_t i = 0; i < c->n; i += 2) x[i] = c->special ? x[i] : fabsf(x[i]);   /* for logarithms and roots */
    ck_in_place(c, 0, 1);
}
static void run_unary(const ck_case *c, const kd__kernels *k)
{
    const struct op *o = ops + c->way;
    k->unary_f32(o->op, F(0), F(1), c->n, o->a, o->b);
}
static void oracle_unary(const ck_case *c)
{
    for (size_t i = 0; i < c->n; i++) check_value(c, ops + c->way, i);
}
static const char *const names[] = {
#define NAME(name, saved) #name,
    KD_UNARY_OPS(NAME) NULL
};
CK_KERNEL(unary_f32, .ways = names, .special = true, .make = make_unary, .run = run_unary, .oracle = oracle_unary,
          .bench_n = 4 << 20);

static void make_backward(ck_case *c)
{
    const struct op *o = ops + c->way;
    const uint32_t saves = kd__unary_saves(o->op);
    const size_t saved = saves == KD_UNARY_SAVES_NONE ? 0 : c->n;
    ck_floats(c, ck_result(c), "grad_in", 1, c->n, 1);
    ck_floats(c, CK_IN, "grad_out", 1, c->n, 1);
    float *s = ck_floats(c, CK_IN, "saved", 1, saved, 3);
    for (size_t i = 0; i < saved && !c->special; i++) {
        if (saves == KD_UNARY_SAVES_OUT || o->op <= KD_UNARY_LOG1P) s[i] = fabsf(s[i]) / 3 + 0.01f;
        if (saves == KD_UNARY_SAVES_OUT) s[i] = (float)exact(o, (double)s[i]);
    }
    if (!c->add) ck_in_place(c, 0, 1);
}
static void run_backward(const ck_case *c, const kd__kernels *k)
{
    const struct op *o = ops + c->way;
    const float *saved = kd__unary_saves(o->op) == KD_UNARY_SAVES_NONE ? NULL : F(2);
    k->unary_backward_f32(o->op, F(0), F(1), saved, c->n, o->a, o->b, c->add);
}
static void oracle_backward(const ck_case *c)
{
    for (size_t i = 0; i < c->n; i++) {
        double near, e = exact_gradient(ops + c->way, (double)BEFORE(1)[i], c->a[2].n ? (double)BEFORE(2)[i] : 0, &near);
        ck_near(c, 0, i, e, near);
    }
}
CK_KERNEL(unary_backward_f32, .ways = names, .adds = true, .make = make_backward, .run = run_backward, .oracle = oracle_backward,
          .bench_n = 4 << 20);

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
