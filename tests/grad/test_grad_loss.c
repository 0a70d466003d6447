/* test_grad_loss.c - mse, smooth L1, cross-entropy, KL divergence, cosine similarity.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"
#include "ref_loss.h"
#include "ref_softmax.h"
#include <math.h>
#include <stdlib.h>

/* In every case n[0] is the reduction. */
static void reduce(const grad_case *c, const double *values, size_t count, double rows, double elements, double *out)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        if (c->n[0] == KD_REDUCE_NONE) out[i] = values[i];
        sum += values[i];
    }
    if (c->n[0] == KD_REDUCE_NONE) return;
    *out = c->n[0] == KD_REDUCE_SUM ? sum : sum / fmax(c->n[0] == KD_REDUCE_MEAN_ROWS ? rows : elements, 1);
}

/* ---- differences: p[0] is beta, 0 for mse ---------------------------------------------------------------------- */

static kd_tensor *build_difference(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    kd_tensor *b = c->n[1] ? in[0] : in[1];   /* n[1]: with itself */
    if (c->op[0] == 'm') return kd_mse(tape, in[0], b, (uint32_t)c->n[0]);
    return kd_smooth_l1(tape, in[0], b, (float)c->p[0], (uint32_t)c->n[0]);
}

static void ref_difference(const grad_case *c, const double *const *in, double *out, double *size)
{
    const grad_shape *s = &c->in[0].size;
    size_t n = grad_count(s);
    double *v = malloc((n + 1) * sizeof *v), *sizes = malloc((n + 1) * sizeof *sizes);
    for (size_t i = 0; i < n; i++) {
        double a = in[0][i], b = c->n[1] ? a : in[1][i], d = a - b;
        v[i] = c->op[0] == 'm' ? d * d : ref_smooth_l1(d, (double)(float)c->p[0]);
        sizes[i] = c->op[0] == 'm' ? d * d : v[i] + fabs(d);
    }
    reduce(c, v, n, s->rank ? (double)s->shape[0] : 1, (double)n, out);
    if (size) reduce(c, sizes, n, s->rank ? (double)s->shape[0] : 1, (double)n, size);
    free(v);
    free(sizes);
}

#define X(...) { GRAD_IN(__VA_ARGS__) }
#define SPACED(...) { GRAD_IN(__VA_ARGS__), .kind = GRAD_SPACED }
#define LABELS(kind_, classes, ...) { GRAD_IN(__VA_ARGS__), .kind = GRAD_##kind_, .hi = classes }
#define CONSTANT(...) { GRAD_IN(__VA_ARGS__), .constant = 1 }
#define ZEROS(...) { GRAD_IN(__VA_ARGS__), .values = zeros }
static const double zeros[64];

/* Units: the difference is rounded once and enters twice, then 3 more; sums of blocks add 2 for every 32 elements. */
TEST(differences)
{
    static const grad_case cases[] = {
        { GRAD_CASE(mse, "sum"), build_difference, ref_difference, .units = 12, .n = { KD_REDUCE_SUM },
          .in = { X(5, 7), X(5, 7) },
          .out = GRAD_SCALAR },
        { GRAD_CASE(mse, "rows"), build_difference, ref_difference, .units = 12, .n = { KD_REDUCE_MEAN_ROWS },
          .in = { X(5, 7), X(5, 7) }, .out = GRAD_SCALAR },
        { GRAD_CASE(mse, "elements"), build_difference, ref_difference, .units = 12, .n = { KD_REDUCE_MEAN_ELEMENTS },
          .in = { X(5, 7), X(5, 7) }, .out = GRAD_SCALAR },
        { GRAD_CASE(mse, "none"), build_difference, ref_difference, .units = 3, .n = { KD_REDUCE_NONE },
          .in = { X(5, 7), X(5, 7) },
          .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(mse, "with itself"), build_difference, ref_difference, .units = 12, .n = { KD_REDUCE_SUM, 1 },
          .in = { X(5, 7) },
          .out = GRAD_SCALAR },
        { GRAD_CASE(mse, "scalars"), build_difference, ref_difference, .units = 12, .n = { KD_REDUCE_MEAN_ROWS }, .in_count = 2,
          .in = { { .size = GRAD_SCALAR }, { .size = GRAD_SCALAR } }, .out = GRAD_SCALAR },
        { GRAD_CASE(mse, "nothing"), build_difference, ref_difference, .units = 12, .n = { KD_REDUCE_MEAN_ELEMENTS },
          .in = { X(0, 7), X(0, 7) }, .out = GRAD_SCALAR },
        { GRAD_CASE(mse, "large"), build_difference, ref_difference, .units = 140, .n = { KD_REDUCE_MEAN_ELEMENTS },
          .in = { X(9, 4100), X(9, 4100) }, .out = GRAD_SCALAR },
        { GRAD_CASE(smooth_l1, "sum"), build_difference, ref_difference, .units = 14, .p = { 1 }, .n = { KD_REDUCE_SUM },
          .in = { SPACED(5, 7), ZEROS(5, 7) }, .out = GRAD_SCALAR },
        { GRAD_CASE(smooth_l1, "small beta"), build_difference, ref_difference, .units = 14, .p = { 0.1 },
          .n = { KD_REDUCE_MEAN_ELEMENTS }, .in = { SPACED(5, 7), ZEROS(5, 7) }, .out = GRAD_SCALAR },
        { GRAD_CASE(smooth_l1, "none"), build_difference, ref_difference, .units = 5, .p = { 2 }, .n = { KD_REDUCE_NONE },
          .in = { SPACED(5, 7), ZEROS(5, 7) }, .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(smooth_l1, "rows"), build_difference, ref_difference, .units = 14, .p = { 0.4 }, .n = { KD_REDUCE_MEAN_ROWS },
          .in = { ZEROS(5, 7), SPACED(5, 7) }, .out = GRAD_SCALAR },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* ---- rows of logits -------------------------------------------------------------------------------------------- */

/* p[0]: smoothing, p[1]: ignore_index. */
static kd_tensor *build_ce(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return kd_cross_entropy(tape, in[0], in[1], (int64_t)c->p[1], (float)c->p[0], (uint32_t)c->n[0]);
}

static void ref_ce(const grad_case *c, const double *const *in, double *out, double *size)
{
    const grad_shape *s = &c->in[0].size;
    size_t n = s->shape[s->rank - 1], rows = grad_count(s) / n, valid = 0;
    int soft = c->in[1].kind != GRAD_I32 && c->in[1].kind != GRAD_I64;
    double *v = calloc(2 * rows + 1, sizeof *v), *sizes = v + rows;
    double *target = malloc(n * sizeof *target), smooth = (double)(float)c->p[0];
    for (size_t r = 0; r < rows; r++) {
        if (!soft && in[1][r] == c->p[1]) continue;
        valid++;
        if (!soft) ref_smooth_target(n, (size_t)in[1][r], smooth, target);
        double largest = 0, mass = 0;
        for (size_t k = 0; k < n; k++) {
            if (soft) target[k] = (1 - smooth) * in[1][r * n + k] + smooth / (double)n;
            largest = fmax(largest, fabs(in[0][r * n + k]));
            mass += target[k];
        }
        v[r] = ref_cross_entropy(n, in[0] + r * n, target, NULL);
        sizes[r] = v[r] + mass * (1 + 2 * largest);   /* the logarithm of the sum, and differences of logits */
    }
    reduce(c, v, rows, (double)valid, (double)valid * (double)n, out);
    if (size) reduce(c, sizes, rows, (double)valid, (double)valid * (double)n, size);
    free(v);
    free(target);
}

/* Units: exponentials of (7 + c |x|) units with |x| in the tens, a logarithm, some sums. */
TEST(cross_entropy)
{
    static const double labels[] = { 3, -100, 0, 9, 9, -100 }, all_ignored[] = { -1, -1, -1 };
    static const grad_case cases[] = {
        { GRAD_CASE(cross_entropy, "rows"), build_ce, ref_ce, .units = 16, .p = { 0, -100 }, .n = { KD_REDUCE_MEAN_ROWS },
          .in = { X(6, 10), LABELS(I32, 10, 6) }, .out = GRAD_SCALAR },
        { GRAD_CASE(cross_entropy, "i64"), build_ce, ref_ce, .units = 16, .p = { 0, -100 }, .n = { KD_REDUCE_SUM },
          .in = { X(6, 50), LABELS(I64, 50, 6) }, .out = GRAD_SCALAR },
        { GRAD_CASE(cross_entropy, "ignored rows"), build_ce, ref_ce, .units = 16, .p = { 0, -100 }, .n = { KD_REDUCE_MEAN_ROWS },
          .in = { X(6, 10), { GRAD_IN(6), .kind = GRAD_I32, .values = labels } }, .out = GRAD_SCALAR },
        { GRAD_CASE(cross_entropy, "ignored rows, elements"), build_ce, ref_ce, .units = 16, .p = { 0.1, -100 },
          .n = { KD_REDUCE_MEAN_ELEMENTS }, .in = { X(6, 10), { GRAD_IN(6), .kind = GRAD_I64, .values = labels } },
          .out = GRAD_SCALAR },
        { GRAD_CASE(cross_entropy, "every row ignored"), build_ce, ref_ce, .units = 16, .p = { 0, -1 },
          .n = { KD_REDUCE_MEAN_ROWS }, .in = { X(3, 4), { GRAD_IN(3), .kind = GRAD_I32, .values = all_ignored } }, .out = GRAD_SCALAR },
        { GRAD_CASE(cross_entropy, "a class ignored"), build_ce, ref_ce, .units = 16, .p = { 0, 2 }, .n = { KD_REDUCE_NONE },
          .in = { X(9, 4), LABELS(I32, 4, 9) }, .out = GRAD_SHAPE(9) },
        { GRAD_CASE(cross_entropy, "tokens, none"), build_ce, ref_ce, .units = 16, .p = { 0, -100 }, .n = { KD_REDUCE_NONE },
          .in = { X(2, 3, 40), LABELS(I32, 40, 2, 3) }, .out = GRAD_SHAPE(2, 3) },
        { GRAD_CASE(cross_entropy, "smoothing"), build_ce, ref_ce, .units = 16, .p = { 0.2, -100 }, .n = { KD_REDUCE_MEAN_ROWS },
          .in = { X(6, 10), LABELS(I32, 10, 6) }, .out = GRAD_SCALAR },
        { GRAD_CASE(cross_entropy, "soft labels"), build_ce, ref_ce, .units = 16, .p = { 0, -100 }, .n = { KD_REDUCE_MEAN_ROWS },
          .in = { X(6, 10), { GRAD_IN(6, 10), .constant = 1, .kind = GRAD_UNIFORM, .hi = 0.2 } }, .out = GRAD_SCALAR },
        { GRAD_CASE(cross_entropy, "soft and smooth"), build_ce, ref_ce, .units = 16, .p = { 0.3, -100 }, .n = { KD_REDUCE_NONE },
          .in = { X(6, 10), { GRAD_IN(6, 10), .constant = 1, .kind = GRAD_UNIFORM, .hi = 0.2 } }, .out = GRAD_SHAPE(6) },
        { GRAD_CASE(cross_entropy, "one row"), build_ce, ref_ce, .units = 16, .p = { 0, -100 }, .n = { KD_REDUCE_SUM },
          .in = { X(10), { .size = GRAD_SCALAR, .kind = GRAD_I32, .hi = 10 } }, .out = GRAD_SCALAR },
        { GRAD_CASE(cross_entropy, "no rows"), build_ce, ref_ce, .units = 16, .p = { 0, -100 }, .n = { KD_REDUCE_MEAN_ROWS },
          .in = { X(0, 10), LABELS(I32, 10, 0) }, .out = GRAD_SCALAR },
        { GRAD_CASE(cross_entropy, "threads"), build_ce, ref_ce, .units = 40, .p = { 0, -100 }, .n = { KD_REDUCE_MEAN_ROWS },
          .in = { X(300, 200), LABELS(I32, 200, 300) }, .out = GRAD_SCALAR },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* p[0]: temperature. */
static kd_tensor *build_kl(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return kd_kl_div(tape, in[0], in[1], (float)c->p[0], (uint32_t)c->n[0]);
}

static void ref_kl_rows(const grad_case *c, const double *const *in, double *out, double *size)
{
    const grad_shape *s = &c->in[0].size;
    size_t n = s->shape[s->rank - 1], rows = grad_count(s) / n;
    double *v = calloc(2 * rows + 1, sizeof *v), *sizes = v + rows;
    for (size_t r = 0; r < rows; r++) {
        double largest = 0;
        for (size_t k = 0; k < n; k++) largest = fmax(largest, fmax(fabs(in[0][r * n + k]), fabs(in[1][r * n + k])));
        v[r] = ref_kl(n, in[0] + r * n, in[1] + r * n, c->p[0], NULL);
        sizes[r] = v[r] + 1 + 4 * largest / c->p[0];
    }
    reduce(c, v, rows, (double)rows, (double)(rows * n), out);
    if (size) reduce(c, sizes, rows, (double)rows, (double)(rows * n), size);
    free(v);
}

TEST(kl_div)
{
    static const grad_case cases[] = {
        { GRAD_CASE(kl_div, "rows"), build_kl, ref_kl_rows, .units = 16, .p = { 1 }, .n = { KD_REDUCE_MEAN_ROWS },
          .in = { CONSTANT(6, 10), X(6, 10) }, .out = GRAD_SCALAR },
        { GRAD_CASE(kl_div, "T = 4"), build_kl, ref_kl_rows, .units = 16, .p = { 4 }, .n = { KD_REDUCE_SUM },
          .in = { CONSTANT(6, 50), X(6, 50) }, .out = GRAD_SCALAR },
        { GRAD_CASE(kl_div, "T = 0.5, none"), build_kl, ref_kl_rows, .units = 16, .p = { 0.5 }, .n = { KD_REDUCE_NONE },
          .in = { CONSTANT(2, 3, 7), X(2, 3, 7) }, .out = GRAD_SHAPE(2, 3) },
        { GRAD_CASE(kl_div, "T = 3, elements"), build_kl, ref_kl_rows, .units = 16, .p = { 3 }, .n = { KD_REDUCE_MEAN_ELEMENTS },
          .in = { CONSTANT(6, 40), X(6, 40) }, .out = GRAD_SCALAR },
        { GRAD_CASE(kl_div, "threads"), build_kl, ref_kl_rows, .units = 40, .p = { 2 }, .n = { KD_REDUCE_MEAN_ROWS },
          .in = { CONSTANT(300, 200), X(300, 200) }, .out = GRAD_SCALAR },
        { GRAD_CASE(kl_div, "no rows"), build_kl, ref_kl_rows, .units = 16, .p = { 2 }, .n = { KD_REDUCE_MEAN_ROWS },
          .in = { CONSTANT(0, 5), X(0, 5) }, .out = GRAD_SCALAR },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* p[0]: eps; n[1]: with itself. */
static kd_tensor *build_cosine(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return kd_cosine_similarity(tape, in[0], c->n[1] ? in[0] : in[1], (float)c->p[0]);
}

static void ref_cosine_rows(const grad_case *c, const double *const *in, double *out, double *size)
{
    const grad_shape *s = &c->in[0].size;
    size_t n = s->shape[s->rank - 1], rows = grad_count(&c->out);
    for (size_t r = 0; r < rows; r++) {
        const double *a = in[0] + r * n, *b = c->n[1] ? a : in[1] + r * n;
        out[r] = ref_cosine_similarity(n, a, b, (double)(float)c->p[0], NULL, NULL);
        if (size) size[r] = fabs(out[r]);   /* sums, roots and quotient are in double: one rounding */
    }
}

TEST(cosine)
{
    static const grad_case cases[] = {
        { GRAD_CASE(cosine_similarity, "rows"), build_cosine, ref_cosine_rows, .units = 1.01, .p = { 1e-8 },
          .in = { X(6, 20), X(6, 20) },
          .out = GRAD_SHAPE(6) },
        { GRAD_CASE(cosine_similarity, "below eps"), build_cosine, ref_cosine_rows, .units = 1.01, .p = { 1000 },
          .in = { X(6, 20), X(6, 20) }, .out = GRAD_SHAPE(6) },
        { GRAD_CASE(cosine_similarity, "vectors"), build_cosine, ref_cosine_rows, .units = 1.01, .p = { 1e-8 },
          .in = { X(9), X(9) },
          .out = GRAD_SCALAR },
        { GRAD_CASE(cosine_similarity, "images"), build_cosine, ref_cosine_rows, .units = 1.01, .p = { 1e-8 },
          .in = { X(2, 3, 4, 5), X(2, 3, 4, 5) }, .out = GRAD_SHAPE(2, 3, 4) },
        { GRAD_CASE(cosine_similarity, "threads"), build_cosine, ref_cosine_rows, .units = 1.01, .p = { 1e-8 },
          .in = { X(300, 130), X(300, 130) }, .out = GRAD_SHAPE(300) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* Zeros, parallels, and vectors whose squares leave the range of floats. */
TEST(cosine_special)
{
    static const float a[5][2] = { { 0, 0 }, { 3, 4 }, { 3e30f, 4e30f }, { 3e-30f, 4e-30f }, { NAN, 1 } };
    static const float b[5][2] = { { 1, 2 }, { -3, -4 }, { 6e30f, 8e30f }, { 3, 4 }, { 1, 1 } };
    static const float want[5] = { 0, -1, 1, 1, NAN };
    kd_tape *tape = NULL;
    if (!CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN))) return;
    kd_tensor *x = kd_requires_grad(tape, kd_tape_constant(tape, 2, (size_t[]){ 5, 2 }, a[0]));
    kd_tensor *y = kd_cosine_similarity(tape, x, kd_tape_constant(tape, 2, (size_t[]){ 5, 2 }, b[0]), 1e-35f);
    CHECK_OK(kd_backward(tape, kd_sum(tape, y, 0, 0)));
    for (size_t i = 0; i < 5; i++)
        CHECK_MSG(kdtest_ulp(kd_tensor_f32(y)[i], want[i]) <= 1, "row %zu: %g", i, (double)kd_tensor_f32(y)[i]);
    CHECK(kdtest_ulp(kd_grad(tape, x)[0], 1e35) <= 1 && kdtest_ulp(kd_grad(tape, x)[1], 2e35) <= 1);   /* b / eps */
    for (size_t i = 2; i < 6; i++)
        CHECK_MSG(fabs(kd_grad(tape, x)[i]) <= 1e-7, "gradient %zu: %g", i, (double)kd_grad(tape, x)[i]);
    kd_tape_free(tape);
}

/* Masked logits, rows that are all mask, NaN, infinities. */
TEST(special_rows)
{
    static const float x[5][3] = { { -INFINITY, 1, 1 }, { -INFINITY, -INFINITY, -INFINITY }, { NAN, 0, 0 }, { 0, INFINITY, 0 },
                                    { 3e38f, -3e38f, 0 } };
    static const int32_t labels[5] = { 1, 0, 1, 0, 0 };
    static const float ce[5] = { 0.693147181f, 0, NAN, NAN, 0 };
    kd_tape *tape = NULL;
    if (!CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN))) return;
    size_t five = 5;
    kd_tensor *y = NULL;
    CHECK_OK(kd_tensor_create(&y, NULL, KD_I32, 1, &five));
    for (size_t i = 0; i < 5; i++) CHECK_OK(kd_tensor_set(y, &i, labels[i]));
    kd_tensor *in = kd_requires_grad(tape, kd_tape_constant(tape, 2, (size_t[]){ 5, 3 }, x[0]));
    kd_tensor *loss = kd_cross_entropy(tape, in, y, -100, 0, KD_REDUCE_NONE);
    kd_tensor *kl = kd_kl_div(tape, kd_tape_constant(tape, 2, (size_t[]){ 5, 3 }, x[0]), in, 2, KD_REDUCE_NONE);
    CHECK_OK(kd_backward(tape, kd_sum(tape, kd_add(tape, loss, kl), 0, 0)));
    for (size_t r = 0; r < 5; r++) {
        float got = kd_tensor_f32(loss)[r], d = kd_tensor_f32(kl)[r];
        CHECK_MSG(isnan(ce[r]) ? isnan(got) : fabs(got - ce[r]) < 1e-6, "cross-entropy %zu: %g", r, (double)got);
        CHECK_MSG(isnan(ce[r]) ? isnan(d) : fabs(d) < 1e-6, "KL %zu: %g", r, (double)d);   /* with itself */
        for (size_t k = 0; k < 3; k++) {
            float g = kd_grad(tape, in)[3 * r + k];
            CHECK_MSG(isnan(ce[r]) ? isnan(g) : isfinite(g), "gradient [%zu][%zu]: %g", r, k, (double)g);
        }
    }
    CHECK(kd_grad(tape, in)[3] == 0 && kd_grad(tape, in)[4] == 0 && kd_grad(tape, in)[5] == 0);
    kd_tape_reset(tape);
    static const float p[3] = { 0, 0, 0 }, q[3] = { 0, -INFINITY, 0 };   /* mass where there may be none */
    in = kd_requires_grad(tape, kd_tape_constant(tape, 1, (size_t[]){ 3 }, q));
    kl = kd_kl_div(tape, kd_tape_constant(tape, 1, (size_t[]){ 3 }, p), in, 1, KD_REDUCE_SUM);
    CHECK_OK(kd_backward(tape, kl));
    CHECK(kd_tensor_item(kl) == INFINITY);
    CHECK_NEAR(kd_grad(tape, in)[0], 0.5 - 1.0 / 3, 1e-6);
    CHECK_NEAR(kd_grad(tape, in)[1], -1.0 / 3, 1e-6);
    kd_tensor_free(y);
    kd_tape_free(tape);
}

/* ---- values of torch.nn.functional 2.13 in double ------------------------------------------------------------------ */
TEST(pytorch)
{
    static const float x[] = {
        -0.625, -2.25, -0.5, -1.125, -2.875, 0.125, 2.125, 1.5, -1.75, -0.875, -1.75, 2.125, -1, 1.5, -1, -2,
        1.375, -2.625, 0.75, -1.125
    };
    static const float t[] = {
        0.75, -0.875, 2.625, -2.625, -1.75, -2.75, -0.375, -2.625, 0.875, 2.625, -2.875, -0.625, -2.625,
        -0.625, -2.75, 2.75, -2.625, -0.125, 2.125, -1.75
    };
    static const double ce_grad[] = {
        0.102910726, -0.285089599, 0.117500786, 0.0597953814, 0.00488270552, 0, 0, 0, 0, 0, -0.00245828644,
        0.196104448, 0.00224247434, 0.10186889, -0.297757526, -0.299836213, 0.192948453, -0.00301058821,
        0.100179608, 0.00971874018
    };
    static const double cosine[] = { 0.49114477, -0.579675538, 0.488276548, -0.290788451 };
    static const double labels[4] = { 1, -100, 4, 0 };
    kd_tape *tape = NULL;
    kd_tensor *y = NULL;
    size_t four = 4, shape[2] = { 4, 5 };
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    CHECK_OK(kd_tensor_create(&y, NULL, KD_I64, 1, &four));
    for (size_t i = 0; i < 4; i++) CHECK_OK(kd_tensor_set(y, &i, labels[i]));
    kd_tensor *a = kd_requires_grad(tape, kd_tape_constant(tape, 2, shape, x)), *b = kd_tape_constant(tape, 2, shape, t);
    kd_tensor *ce = kd_cross_entropy(tape, a, y, -100, 0.1f, KD_REDUCE_MEAN_ROWS);
    CHECK_NEAR(kd_tensor_item(ce), 3.31494298, 1e-6);
    CHECK_NEAR(kd_tensor_item(kd_smooth_l1(tape, a, b, 0.75f, KD_REDUCE_MEAN_ELEMENTS)), 1.96302083, 1e-6);
    CHECK_NEAR(kd_tensor_item(kd_kl_div(tape, b, a, 4, KD_REDUCE_MEAN_ROWS)), 0.155595261, 1e-6);
    kd_tensor *c = kd_cosine_similarity(tape, a, b, 1e-8f);
    for (size_t i = 0; i < 4; i++) CHECK_NEAR(kd_tensor_f32(c)[i], cosine[i], 0x1p-24);
    CHECK_OK(kd_backward(tape, ce));
    for (size_t i = 0; i < 20; i++) CHECK_NEAR(kd_grad(tape, a)[i], ce_grad[i], 2e-7);
    kd_tensor_free(y);
    kd_tape_free(tape);
}

static void expect(kd_tape *tape, kd_status status, const char *text)
{
    CHECK_MSG(kd_tape_status(tape) == status, "%s: status is %s", text, kd_status_name(kd_tape_status(tape)));
    CHECK_ERROR_HAS(text);
    kd_tape_reset(tape);
}

TEST(bad_input)
{
    kd_tape *t = NULL;
    kd_tensor *labels = NULL, *labels64 = NULL, *u8 = NULL;
    static const size_t two = 2, three = 3, shape[2] = { 2, 4 };
    CHECK_OK(kd_tape_create(&t, NULL, KD_TAPE_TRAIN));
    CHECK_OK(kd_tensor_create(&labels, NULL, KD_I32, 1, &two));
    CHECK_OK(kd_tensor_create(&labels64, NULL, KD_I64, 1, &two));
    CHECK_OK(kd_tensor_create(&u8, NULL, KD_U8, 1, &two));
#define LOGITS kd_tape_tensor(t, KD_F32, 2, shape)
    static const double bad[] = { 4, -1, 2147483647, -2147483648.0 };
    for (size_t i = 0; i < 4; i++) {
        char text[80];
        CHECK_OK(kd_tensor_set(labels, (size_t[]){ 1 }, bad[i]));
        kd_cross_entropy(t, LOGITS, labels, -100, 0, KD_REDUCE_SUM);
        snprintf(text, sizeof text, "kd_cross_entropy: labels[1] = %.0f is not in [0, 4) (op 1)", bad[i]);
        expect(t, KD_ERR_RANGE, text);
    }
    static const int64_t wide[] = { INT64_MAX, INT64_MIN, (int64_t)1 << 40, (int64_t)1 << 32 };
    for (size_t i = 0; i < 4; i++) {
        ((int64_t *)kd_tensor_data(labels64))[0] = wide[i];
        kd_cross_entropy(t, LOGITS, labels64, -100, 0, KD_REDUCE_NONE);
        expect(t, KD_ERR_RANGE, "kd_cross_entropy: labels[0] = ");
    }
    kd_cross_entropy(t, LOGITS, u8, -100, 0, KD_REDUCE_SUM);
    expect(t, KD_ERR_DTYPE, "kd_cross_entropy: labels are u8: want i32, i64 or f32");
    kd_cross_entropy(t, kd_tape_tensor(t, KD_F32, 2, (size_t[]){ 3, 4 }), labels, -100, 0, KD_REDUCE_SUM);
    expect(t, KD_ERR_SHAPE, "kd_cross_entropy: logits [3, 4] and i32 labels [2]");
    kd_cross_entropy(t, LOGITS, kd_tape_tensor(t, KD_F32, 1, &two), -100, 0, KD_REDUCE_SUM);
    expect(t, KD_ERR_SHAPE, "kd_cross_entropy: logits [2, 4] and f32 labels [2]");
    kd_cross_entropy(t, LOGITS, NULL, -100, 0, KD_REDUCE_SUM);
    expect(t, KD_ERR_ARG, "kd_cross_entropy: input 2");
    kd_cross_entropy(t, kd_tape_tensor(t, KD_F32, 2, (size_t[]){ 2, 0 }), labels, -100, 0, KD_REDUCE_SUM);
    expect(t, KD_ERR_SHAPE, "kd_cross_entropy: logits [2, 0] has no classes");
    CHECK_OK(kd_tensor_set(labels, (size_t[]){ 1 }, 0));
    kd_cross_entropy(t, LOGITS, labels, -100, 1, KD_REDUCE_SUM);
    expect(t, KD_ERR_ARG, "kd_cross_entropy: label_smoothing 1 is not in [0, 1)");
    kd_cross_entropy(t, LOGITS, labels, -100, 0, 7);
    expect(t, KD_ERR_ARG, "kd_cross_entropy: reduction 7 is not a KD_REDUCE_*");
    kd_kl_div(t, LOGITS, kd_tape_tensor(t, KD_F32, 2, (size_t[]){ 2, 5 }), 1, KD_REDUCE_SUM);
    expect(t, KD_ERR_SHAPE, "kd_kl_div: p_logits [2, 4] and q_logits [2, 5] differ");
    kd_kl_div(t, LOGITS, LOGITS, 0, KD_REDUCE_SUM);
    expect(t, KD_ERR_ARG, "kd_kl_div: temperature 0 is not a number > 0");
    kd_kl_div(t, LOGITS, LOGITS, 1, 0);
    expect(t, KD_ERR_ARG, "kd_kl_div: reduction 0 is not a KD_REDUCE_*");
    kd_mse(t, LOGITS, kd_tape_tensor(t, KD_F32, 1, &three), KD_REDUCE_SUM);
    expect(t, KD_ERR_SHAPE, "kd_mse: a [2, 4] and b [3] differ");
    kd_mse(t, LOGITS, LOGITS, 9);
    expect(t, KD_ERR_ARG, "kd_mse: reduction 9 is not a KD_REDUCE_*");
    kd_smooth_l1(t, LOGITS, LOGITS, 0, KD_REDUCE_SUM);
    expect(t, KD_ERR_ARG, "kd_smooth_l1: beta 0 is not a number > 0");
    kd_cosine_similarity(t, LOGITS, kd_tape_tensor(t, KD_F32, 1, &three), 1e-8f);
    expect(t, KD_ERR_SHAPE, "kd_cosine_similarity: a [2, 4] and b [3] differ");
    kd_cosine_similarity(t, LOGITS, LOGITS, 0);
    expect(t, KD_ERR_ARG, "kd_cosine_similarity: eps 0 is not a number > 0");
#undef LOGITS
    kd_tensor_free(labels);
    kd_tensor_free(labels64);
    kd_tensor_free(u8);
    kd_tape_free(t);
}
