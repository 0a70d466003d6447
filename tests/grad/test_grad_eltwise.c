/* test_grad_eltwise.c - arithmetic: values, gradients, broadcasting, special values, bad input.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"
#include "ref_eltwise.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>

/* ---- one operand ------------------------------------------------------------------------------------------ */

static kd_tensor *build_unary(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    static const struct {
        const char *name;
        kd_tensor *(*run)(kd_tape *tape, kd_tensor *x);
    } ops[] = { { "neg", kd_neg }, { "exp", kd_exp }, { "log", kd_log },
                { "sqrt", kd_sqrt }, { "square", kd_square }, { "abs", kd_abs } };
    if (!strcmp(c->op, "scale")) return kd_scale(tape, in[0], (float)c->p[0], (float)c->p[1]);
    if (!strcmp(c->op, "clamp")) return kd_clamp(tape, in[0], (float)c->p[0], (float)c->p[1]);
    size_t k = 0;
    while (strcmp(ops[k].name, c->op) != 0) k++;
    return ops[k].run(tape, in[0]);
}

static void ref_of_unary(const grad_case *c, const double *const *in, double *out, double *size)
{
    for (size_t i = 0; i < grad_count(&c->out); i++) {
        out[i] = ref_unary(c->op, in[0][i], c->p[0], c->p[1]);
        if (size && c->op[0] == 'l') size[i] = fmax(fabs(out[i]), 0x1p-24);   /* log near 1: no smaller than its input's step */
    }
}

/* Units: 0 exact, 1 rounded once, 2 the kernels' bound of an ulp. */
TEST(unary)
{
    static const grad_case cases[] = {
        { GRAD_CASE(scale, "matrix"), build_unary, ref_of_unary, .p = { -2.5, 0.75 }, .units = 1, .in = { { GRAD_IN(5, 7) } },
          .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(scale, "large"), build_unary, ref_of_unary, .p = { 3, 0 }, .units = 1, .in = { { GRAD_IN(2, 17000) } },
          .out = GRAD_SHAPE(2, 17000) },
        { GRAD_CASE(neg, "matrix"), build_unary, ref_of_unary, .in = { { GRAD_IN(5, 7) } }, .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(neg, "scalar"), build_unary, ref_of_unary, .in = { { .size = GRAD_SCALAR } }, .out = GRAD_SCALAR },
        { GRAD_CASE(exp, "matrix"), build_unary, ref_of_unary, .units = 2, .in = { { GRAD_IN(5, 7) } },
          .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(exp, "nothing"), build_unary, ref_of_unary, .units = 2, .in = { { GRAD_IN(0, 7) } },
          .out = GRAD_SHAPE(0, 7) },
        { GRAD_CASE(log, "matrix"), build_unary, ref_of_unary, .units = 2,
          .in = { { GRAD_IN(5, 7), .kind = GRAD_UNIFORM, .lo = 0.1, .hi = 9 } }, .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(sqrt, "matrix"), build_unary, ref_of_unary, .units = 1,
          .in = { { GRAD_IN(5, 7), .kind = GRAD_UNIFORM, .lo = 0.1, .hi = 9 } }, .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(square, "matrix"), build_unary, ref_of_unary, .units = 1, .in = { { GRAD_IN(5, 7) } },
          .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(square, "rank 8"), build_unary, ref_of_unary, .units = 1, .in = { { GRAD_IN(2, 1, 2, 1, 3, 1, 2, 2) } },
          .out = GRAD_SHAPE(2, 1, 2, 1, 3, 1, 2, 2) },
        { GRAD_CASE(abs, "matrix"), build_unary, ref_of_unary, .in = { { GRAD_IN(5, 7), .kind = GRAD_SPACED } },
          .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(clamp, "matrix"), build_unary, ref_of_unary, .p = { -0.5, 1 },
          .in = { { GRAD_IN(5, 7), .kind = GRAD_SPACED } },
          .out = GRAD_SHAPE(5, 7) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* x -> y and dy/dx exactly, at the places where a rule decides. */
TEST(special_values)
{
    static const struct { const char *op; float x, y, slope; } rows[] = {
        { "exp", 89, INFINITY, INFINITY }, { "exp", -110, 0, 0 }, { "exp", 0, 1, 1 }, { "exp", -INFINITY, 0, 0 },
        { "exp", NAN, NAN, NAN },
        { "log", 0, -INFINITY, INFINITY }, { "log", -1, NAN, -1 }, { "log", 1, 0, 1 }, { "log", INFINITY, INFINITY, 0 },
        { "sqrt", 0, 0, INFINITY }, { "sqrt", -1, NAN, NAN }, { "sqrt", 4, 2, 0.25f }, { "abs", 0, 0, 0 }, { "abs", -0.0f, 0, 0 },
        { "abs", -2, 2, -1 }, { "abs", -INFINITY, INFINITY, -1 }, { "clamp", -1, -1, 1 }, { "clamp", 2, 2, 1 },
        { "clamp", -1.0001f, -1, 0 }, { "clamp", 2.001f, 2, 0 }, { "clamp", NAN, NAN, 1 }, { "square", -3, 9, -6 },
        { "neg", 0, -0.0f, -1 },
        { "scale", 3, 7, 2 },
    };
    kd_tape *tape = NULL;
    if (!CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN))) return;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        grad_case c = { .op = rows[i].op, .p = { -1, 2 } };
        if (!strcmp(c.op, "scale")) c.p[0] = 2, c.p[1] = 1;
        kd_tensor *x = kd_requires_grad(tape, kd_tape_constant(tape, 0, NULL, &rows[i].x)), *y = build_unary(tape, &x, &c);
        CHECK_OK(kd_backward(tape, y));
        float got = kd_tensor_f32(y)[0], slope = kd_grad(tape, x)[0];
        CHECK_MSG(kdtest_ulp(got, rows[i].y) == 0, "%s(%g) = %g, wanted %g", c.op, (double)rows[i].x, (double)got,
                  (double)rows[i].y);
        CHECK_MSG(kdtest_ulp(slope, rows[i].slope) == 0, "%s'(%g) = %g, wanted %g", c.op, (double)rows[i].x, (double)slope,
                  (double)rows[i].slope);
        kd_tape_reset(tape);
    }
    kd_tape_free(tape);
}

/* ---- two operands ----------------------------------------------------------------------------------------- */

static kd_tensor *binary(kd_tape *tape, char op, kd_tensor *a, kd_tensor *b)
{
    return op == '+' ? kd_add(tape, a, b) : op == '-' ? kd_sub(tape, a, b) : op == '*' ? kd_mul(tape, a, b) : kd_div(tape, a, b);
}

static char sign(const grad_case *c) { return c->op[0] == 'a' ? '+' : c->op[0] == 's' ? '-' : c->op[0] == 'm' ? '*' : '/'; }

static kd_tensor *build_binary(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return binary(tape, sign(c), in[0], in[1]);
}

static void ref_of_binary(const grad_case *c, const double *const *in, double *out, double *size)
{
    const grad_shape *a = &c->in[0].size, *b = &c->in[1].size, *o = &c->out;
    (void)size;
    for (size_t i = 0; i < grad_count(o); i++)
        out[i] = ref_binary(sign(c), in[0][ref_broadcast_index(a->rank, a->shape, o->rank, o->shape, i)],
                            in[1][ref_broadcast_index(b->rank, b->shape, o->rank, o->shape, i)]);
}

static kd_tensor *build_twice(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return binary(tape, sign(c), in[0], in[0]);
}

static void ref_twice(const grad_case *c, const double *const *in, double *out, double *size)
{
    (void)size;
    for (size_t i = 0; i < grad_count(&c->out); i++) out[i] = ref_binary(sign(c), in[0][i], in[0][i]);
}

#define A(...) { GRAD_IN(__VA_ARGS__) }
#define B(...) { GRAD_IN(__VA_ARGS__), .kind = GRAD_UNIFORM, .lo = 0.5, .hi = 2 }   /* a divisor */

TEST(binary)
{
    static const grad_case cases[] = {
        { GRAD_CASE(add, "equal"), build_binary, ref_of_binary, .units = 1, .in = { A(5, 7), A(5, 7) },
          .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(add, "bias"), build_binary, ref_of_binary, .units = 1, .in = { A(9, 20), A(20) },
          .out = GRAD_SHAPE(9, 20) },
        { GRAD_CASE(add, "scalars"), build_binary, ref_of_binary, .units = 1,
          .in = { { .size = GRAD_SCALAR }, { .size = GRAD_SCALAR } },
          .in_count = 2, .out = GRAD_SCALAR },
        { GRAD_CASE(add, "long columns"), build_binary, ref_of_binary, .units = 1, .in = { A(2100, 3), A(3) },
          .out = GRAD_SHAPE(2100, 3) },
        { GRAD_CASE(sub, "column"), build_binary, ref_of_binary, .units = 1, .in = { A(9, 1), A(9, 20) },
          .out = GRAD_SHAPE(9, 20) },
        { GRAD_CASE(sub, "outer"), build_binary, ref_of_binary, .units = 1, .in = { A(9, 1), A(1, 20) },
          .out = GRAD_SHAPE(9, 20) },
        { GRAD_CASE(mul, "equal, threads"), build_binary, ref_of_binary, .units = 1, .in = { A(3, 12000), A(3, 12000) },
          .out = GRAD_SHAPE(3, 12000) },
        { GRAD_CASE(mul, "channels"), build_binary, ref_of_binary, .units = 1, .in = { A(2, 3, 4, 5), A(5) },
          .out = GRAD_SHAPE(2, 3, 4, 5) },
        { GRAD_CASE(mul, "gate per image"), build_binary, ref_of_binary, .units = 1, .in = { A(2, 3, 4, 5), A(2, 1, 1, 5) },
          .out = GRAD_SHAPE(2, 3, 4, 5) },
        { GRAD_CASE(mul, "repeats twice"), build_binary, ref_of_binary, .units = 1, .in = { A(3, 2, 3, 4), A(1, 2, 1, 4) },
          .out = GRAD_SHAPE(3, 2, 3, 4) },
        { GRAD_CASE(mul, "both repeat"), build_binary, ref_of_binary, .units = 1, .in = { A(2, 1, 3, 1), A(4, 1, 5) },
          .out = GRAD_SHAPE(2, 4, 3, 5) },
        { GRAD_CASE(mul, "rank 8"), build_binary, ref_of_binary, .units = 1,
          .in = { A(2, 1, 2, 1, 2, 1, 2, 1), A(1, 2, 1, 2, 1, 2, 1, 2) }, .out = GRAD_SHAPE(2, 2, 2, 2, 2, 2, 2, 2) },
        { GRAD_CASE(mul, "nothing"), build_binary, ref_of_binary, .units = 1, .in = { A(1, 3), A(0, 1) },
          .out = GRAD_SHAPE(0, 3) },
        { GRAD_CASE(mul, "scalar, long"), build_binary, ref_of_binary, .units = 1, .in = { A(2, 5000), A(1) },
          .out = GRAD_SHAPE(2, 5000) },
        { GRAD_CASE(mul, "with itself"), build_twice, ref_twice, .units = 1, .in = { A(5, 7) }, .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(div, "equal"), build_binary, ref_of_binary, .units = 1, .in = { A(5, 7), B(5, 7) },
          .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(div, "row"), build_binary, ref_of_binary, .units = 1, .in = { A(9, 20), B(20) }, .out = GRAD_SHAPE(9, 20) },
        { GRAD_CASE(div, "column"), build_binary, ref_of_binary, .units = 1, .in = { A(9, 20), B(9, 1) },
          .out = GRAD_SHAPE(9, 20) },
        { GRAD_CASE(div, "scalar"), build_binary, ref_of_binary, .units = 1, .in = { A(9, 20), B(1, 1) },
          .out = GRAD_SHAPE(9, 20) },
        { GRAD_CASE(div, "by itself"), build_twice, ref_twice, .units = 1, .in = { B(5, 7) }, .out = GRAD_SHAPE(5, 7) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* Random pairs of shapes, forward and both gradients, against sums in double. */
static void check_pair(kdtest_rand *r, char op, size_t largest)
{
    size_t rank[2] = { kdtest_size(r, 0, 8), kdtest_size(r, 0, 8) }, shape[2][8], oshape[8], count[2] = { 1, 1 }, n = 1;
    size_t orank = rank[0] > rank[1] ? rank[0] : rank[1];
    for (size_t i = 0; i < orank; i++) {   /* from the last axis; sizes kept small enough together */
        size_t m = kdtest_size(r, 0, 3) ? kdtest_size(r, 1, 5) : kdtest_size(r, 1, largest);
        if (n * m > largest) m = 1;
        size_t ones = kdtest_size(r, 0, 5);   /* 1: a repeats, 2: b repeats */
        for (size_t k = 0; k < 2; k++)
            if (i < rank[k]) count[k] *= shape[k][rank[k] - 1 - i] = ones == k + 1 ? 1 : m;
        n *= (i < rank[0] && ones != 1) || (i < rank[1] && ones != 2) ? m : 1;
    }
    CHECK(ref_broadcast_shape(rank[0], shape[0], rank[1], shape[1], oshape) == (int)orank);
    float *x[2], *w = malloc((n + 1) * sizeof *w);
    double *sum[2], *size[2];
    for (int k = 0; k < 2; k++) {
        x[k] = malloc((count[k] + 1) * sizeof *x[k]);
        for (size_t i = 0; i < count[k]; i++)
            x[k][i] = (float)(k && op == '/' ? kdtest_uniform(r, 0.5, 2) : kdtest_normal(r));
        sum[k] = calloc(count[k] + 1, sizeof *sum[k]);
        size[k] = calloc(count[k] + 1, sizeof *size[k]);
    }
    kdtest_fill(r, w, n, 1);
    kd_tape *tape = NULL;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    kd_tensor *a = kd_requires_grad(tape, kd_tape_constant(tape, rank[0], shape[0], x[0]));
    kd_tensor *b = kd_requires_grad(tape, kd_tape_constant(tape, rank[1], shape[1], x[1]));
    kd_tensor *y = binary(tape, op, a, b);
    CHECK_OK(kd_backward(tape, kd_sum(tape, kd_mul(tape, y, kd_tape_constant(tape, orank, oshape, w)), 0, 0)));
    const float *out = kd_tensor_f32(y), *grad[2] = { kd_grad(tape, a), kd_grad(tape, b) };
    for (size_t i = 0; i < n; i++) {
        size_t at[2] = { ref_broadcast_index(rank[0], shape[0], orank, oshape, i),
                         ref_broadcast_index(rank[1], shape[1], orank, oshape, i) };
        double p = x[0][at[0]], q = x[1][at[1]], d[2] = { ref_binary_da(op, p, q), ref_binary_db(op, p, q) };
        double want = ref_binary(op, p, q);
        if (!CHECK_NEAR(out[i], want, 0x1p-24 * fabs(want))) break;
        for (int k = 0; k < 2; k++) {
            sum[k][at[k]] += d[k] * w[i];
            size[k][at[k]] += fabs(d[k] * w[i]);
        }
    }
    /* 4 roundings in the product; blocks of 64 in single precision and up to 16 of them, twice, in a column. */
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < count[k]; i++)
            if (!CHECK_MSG(fabs(grad[k][i] - sum[k][i]) <= (4 + 64 + 16 + 16) * 0x1p-24 * size[k][i],
                           "%c: gradient %d at %zu of %zu is %.9g, wanted %.9g", op, k, i, count[k], (double)grad[k][i],
                           sum[k][i]))
                break;
    kd_tape_free(tape);
    free(w);
    for (int k = 0; k < 2; k++) {
        free(x[k]);
        free(sum[k]);
        free(size[k]);
    }
}

TEST(random_shapes)
{
    kdtest_rand r = { 2024 };
    for (size_t i = 0; i < (kdtest_full() ? 4000u : 160u); i++) check_pair(&r, "+-*/"[i % 4], 400);
    for (size_t i = 0; i < (kdtest_full() ? 400u : 12u); i++) check_pair(&r, "*/"[i % 2], 20000);
}

TEST(bad_input)
{
    kd_tape *tape = NULL;
    if (!CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN))) return;
    kd_tensor *x = kd_tape_tensor(tape, KD_F32, 2, (size_t[]){ 3, 4 });
    kd_add(tape, x, kd_tape_tensor(tape, KD_F32, 1, (size_t[]){ 3 }));
    CHECK(kd_tape_status(tape) == KD_ERR_SHAPE);
    CHECK_ERROR_HAS("kd_add: a [3, 4] and b [3] do not broadcast (op 1)");
    kd_tape_reset(tape);
    x = kd_tape_tensor(tape, KD_F32, 2, (size_t[]){ 3, 4 });
    kd_mul(tape, x, NULL);
    CHECK(kd_tape_status(tape) == KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_mul: input 2");
    kd_tape_reset(tape);
    CHECK_STATUS(kd_tape_status(tape), KD_OK);
    kd_neg(tape, x);
    CHECK(kd_tape_status(tape) == KD_ERR_STATE);
    kd_tape_reset(tape);
    x = kd_tape_tensor(tape, KD_F32, 2, (size_t[]){ 3, 4 });
    kd_clamp(tape, x, 2, 1);
    CHECK(kd_tape_status(tape) == KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_clamp: lo 2, hi 1: want lo <= hi");
    kd_tape_reset(tape);
    x = kd_tape_tensor(tape, KD_F32, 2, (size_t[]){ 3, 4 });
    kd_scale(tape, x, INFINITY, 0);
    CHECK(kd_tape_status(tape) == KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_scale: scale inf, shift 0: want finite numbers");
    kd_sub(tape, x, x);
    CHECK_ERROR_HAS("kd_scale");   /* the first error stays */
    kd_tape_free(tape);
}
