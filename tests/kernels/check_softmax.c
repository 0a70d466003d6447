/* check_softmax.c - softmax, log-softmax, log-sum-exp and the gradients, against double.
 *
 * Where the differences from the maximum are exact or nearly so, a softmax is within 2 ulp of an exponential, one of a
 * reciprocal and one of a product: 4 ulp.  A difference rounded by half an ulp moves e^y by |y| 2^-24 relative.
 * SPDX-License-Identifier: MIT */
#include "checkkd.h"
#include "ref_softmax.h"

/* Ways: temperature; softmax, or its logarithm. */
static const char *const names[] = {"T 1",     "T 4",        "T 0.07",   "T 20",      "T 2.5", "log T 1",
                                    "log T 4", "log T 0.07", "log T 20", "log T 2.5", NULL};
static const float temperatures[] = { 1, 4, 0.07f, 20, 2.5f };
static float temperature(const ck_case *c) { return temperatures[c->way % 5]; }
static int logarithm(const ck_case *c) { return c->way >= 5; }

static float top_of(const float *x, size_t n)
{
    float top = -INFINITY;
    for (size_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    return top;
}

/* One row of results y, from x at t. */
static void check_softmax_row(const float *x, const float *y, size_t n, float t)
{
    double *wide = ck_wide(x, n), *want = malloc((n + 1) * sizeof *want), sum = 0, mass = 0;
    const float top = top_of(x, n);
    ref_softmax(n, wide, (double)t, want);
    for (size_t i = 0; i < n; i++) {
        const double y0 = fabs((wide[i] - (double)top) / (double)t),
                     near = want[i] == 0 ? 0x1p-126 : (8 + y0) * U * want[i] + 0x1p-126;
        if (isnan(want[i])) CHECK(isnan(y[i]));
        else
            CHECK_MSG(fabs((double)y[i] - want[i]) <= near, "n %zu t %g: softmax[%zu] %a, want %a", n, (double)t, i,
                      (double)y[i], want[i]);
        sum += (double)y[i];
        mass += want[i];
    }
    if (mass > 0.5) CHECK_NEAR(sum, 1, 1e-6);
    free(wide);
    free(want);
}
static void check_log_row(const float *x, const float *y, size_t n, float t)
{
    double *wide = ck_wide(x, n), *logs = malloc((n + 1) * sizeof *logs);
    const float top = top_of(x, n);
    const double lost = fmin((double)n / 16, 5);   /* units: what a long sum of exponentials loses, docs/design/simd.md */
    ref_log_softmax(n, wide, (double)t, logs);
    for (size_t i = 0; i < n; i++) {
        const double want = logs[i], y0 = fabs((wide[i] - (double)top) / (double)t);
        if (isnan(want)) CHECK(isnan(y[i]));
        else if (isinf(want)) CHECK((double)y[i] == want || (isinf((float)want) && isinf(y[i])));
        else if (isinf((float)want)) CHECK(y[i] == -INFINITY);
        else
            CHECK_MSG(fabs((double)y[i] - want) <= 2 * U * (1 + fabs(want) + y0) + lost * U,
                      "n %zu t %g: log-softmax[%zu] %a, want %a", n, (double)t, i, (double)y[i], want);
    }
    free(wide);
    free(logs);
}

static void make_softmax(ck_case *c)
{
    ck_floats(c, CK_OUT, "out", c->rows, c->n, 1);
    ck_strided(c);
    ck_floats(c, CK_IN, "in", c->rows, c->n, c->bench || c->n % 2 ? 1 : 30);
    ck_strided(c);
    ck_in_place(c, 0, 1);
}
static void run_softmax(const ck_case *c, const kd__kernels *k)
{
    k->softmax_f32(F(0), ROW(0), F(1), ROW(1), c->rows, c->n, temperature(c), logarithm(c));
}
static void oracle_softmax(const ck_case *c)
{
    for (size_t r = 0; r < c->rows; r++)
        (logarithm(c) ? check_log_row : check_softmax_row)(BEFORE(1) + r * c->n, AFTER(0) + r * c->n, c->n, temperature(c));
}
CK_KERNEL(softmax_f32, .ways = names, .matrix = true, .independent = true, .special = true, .make = make_softmax,
          .run = run_softmax, .oracle = oracle_softmax, .bench_rows = 256, .bench_n = 1000, .bench_every = 5, .ops = 20);

/* One row through every instruction set. */
static void each_row(const float *x, size_t n, float t)
{
    float *y = malloc((n + 1) * sizeof *y);
    EACH_ISA(k) {
        k->softmax_f32(y, n, x, n, 1, n, t, 0);
        check_softmax_row(x, y, n, t);
        k->softmax_f32(y, n, x, n, 1, n, t, 1);
        check_log_row(x, y, n, t);
    }
    free(y);
}

TEST(edge_rows)
{
    const float inf = INFINITY, big = 3e38f;
    const struct { float x[4], t;
    } cases[] = {
        {{-inf, -inf, -inf, -inf}, 1},
        {{-inf, 2, -inf, -inf}, 4},
        {{1, NAN, 2, 3}, 1},
        {{NAN, NAN, NAN, NAN}, 2},
        {{1, inf, 2, 3}, 1},
        {{inf, inf, 0, -inf}, 0.5f},
        {{big, -big, 0, big}, 0.5f},
        {{big, -big, 0, 1}, 1e38f},
        {{2.5e38f, 1e38f, 0, -inf}, 0.7f},
        {{0, 0, 0, 0}, 1e-30f},
        {{5, 5, 5, 5}, 3e38f},
        {{1, 2, -inf, 4}, 3e38f},
        {{1e-40f, 0, -1e-40f, 2e-40f}, 1},
        {{100, 0, -100, -200}, 1},
        {{0.05f, 0, -0.05f, 0.1f}, 0.05f},
        {{-big, -big, -inf, -big}, 1},
    };
    float x[43];
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (size_t pad = 0; pad < 40; pad += 13) {   /* alone, and among masked classes */
            for (size_t i = 0; i < 4 + pad; i++) x[i] = i < 4 ? cases[c].x[i] : -inf;
            each_row(x, 4 + pad, cases[c].t);
        }
}

/* A row of 200,000 classes sums to 1. */
TEST(large_vocabulary)
{
    kdtest_rand r = { 52 };
    float *x = malloc(200000 * sizeof *x);
    kdtest_fill(&r, x, 200000, 0.5);
    each_row(x, 200000, 1);
    free(x);
}

/* log-softmax is x/t minus it. */
static const char *const lse_names[] = { "T 1", "T 4", "T 0.07", "T 20", "T 2.5", NULL };
static void make_lse(ck_case *c)
{
    ck_floats(c, CK_OUT, "out", c->rows, 1, 1);
    ck_floats(c, CK_IN, "in", c->rows, c->n, 10);
    ck_strided(c);
}
static void run_lse(const ck_case *c, const kd__kernels *k)
{
    k->logsumexp_f32(F(0), F(1), ROW(1), c->rows, c->n, temperature(c));
}
static void oracle_lse(const ck_case *c)
{
    double *logs = malloc((c->n + 1) * sizeof *logs);
    for (size_t r = 0; r < c->rows && c->n; r++) {
        double *wide = ck_wide(BEFORE(1) + r * c->n, c->n), scale = 0;
        ref_log_softmax(c->n, wide, (double)temperature(c), logs);
        const double want = wide[0] / (double)temperature(c) - logs[0];
        for (size_t i = 0; i < c->n; i++) scale = fmax(scale, fabs(wide[i]) / (double)temperature(c));
        ck_near(c, 0, r, want, U * (4 + fabs(want) + scale * 1e-6));
        free(wide);
    }
    free(logs);
}
CK_KERNEL(logsumexp_f32, .ways = lse_names, .matrix = true, .independent = true, .make = make_lse, .run = run_lse,
          .oracle = oracle_lse, .bench_rows = 256, .bench_n = 1000, .bench_every = 5, .ops = 18);

TEST(logsumexp_of_masks)
{
    const float masked[3] = { -INFINITY, -INFINITY, -INFINITY }, nan[3] = { 1, NAN, 2 }, inf[3] = { 1, INFINITY, 2 };
    EACH_ISA(k) {
        float y;
        k->logsumexp_f32(&y, masked, 3, 1, 3, 1);
        CHECK(y == -INFINITY);
        k->logsumexp_f32(&y, nan, 3, 1, 3, 1);
        CHECK(y != y);
        k->logsumexp_f32(&y, inf, 3, 1, 3, 1);
        CHECK(y != y);
    }
}

/* y is the softmax, or its logarithm, of numbers that the oracle makes again. */
static void make_backward(ck_case *c)
{
    const double t = (double)temperature(c);
    ck_floats(c, ck_result(c), "grad_in", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "grad_out", c->rows, c->n, 1);
    float *y = ck_floats(c, CK_IN, "y", c->rows, c->n, 2 * fmin(t, 2));
    for (size_t r = 0; r < c->rows && !c->bench && !c->special; r++) {
        double *x = ck_wide(y + r * c->n, c->n), *out = malloc((c->n + 1) * sizeof *out);
        (logarithm(c) ? ref_log_softmax : ref_softmax)(c->n, x, t, out);
        for (size_t i = 0; i < c->n; i++) y[r * c->n + i] = (float)out[i];
        free(x);
        free(out);
    }
}
static void run_backward(const ck_case *c, const kd__kernels *k)
{
    k->softmax_backward_f32(F(0), F(1), F(2), c->rows, c->n, temperature(c), logarithm(c), c->add);
}
/* In double, from the y that the kernel has: the sum rounds by (2 + |log y|) U of its terms, the result four times. */
static void oracle_backward(const ck_case *c)
{
    const double t = (double)temperature(c);
    for (size_t r = 0; r < c->rows; r++) {
        const float *g = BEFORE(1) + r * c->n, *y = BEFORE(2) + r * c->n;
        double dot = 0, total = 0;
        for (size_t i = 0; i < c->n; i++) {
            dot += logarithm(c) ? (double)g[i] : (double)g[i] * (double)y[i];
            total += fabs((double)g[i]);
        }
        for (size_t i = 0; i < c->n; i++) {
            const double p = logarithm(c) ? exp((double)y[i]) : (double)y[i], logs = logarithm(c) ? (double)y[i] : log(p);
            const double want = (logarithm(c) ? (double)g[i] - p * dot : p * ((double)g[i] - dot)) / t;
            const double near = (p * (6 + (p > 0 ? fabs(logs) : 0)) * total + 4 * fabs((double)g[i])) * U / t;
            ck_near(c, 0, r * c->n + i, want, near + 0x1p-149);
        }
    }
}
CK_KERNEL(softmax_backward_f32, .ways = names, .matrix = true, .adds = true, .independent = true, .make = make_backward,
          .run = run_backward, .oracle = oracle_backward, .bench_rows = 256, .bench_n = 1000, .bench_every = 5, .ops = 6);

/* The row that is -inf throughout. */
TEST(gradient_of_masks)
{
    const float g[3] = { 1, 2, 3 }, logs[3] = { -INFINITY, -INFINITY, -INFINITY }, zeros[3] = { 0 };
    EACH_ISA(k) {
        float d[3];
        k->softmax_backward_f32(d, g, logs, 1, 3, 2, 1, 0);
        CHECK(d[0] == 0 && d[1] == 0 && d[2] == 0);
        k->softmax_backward_f32(d, g, zeros, 1, 3, 2, 0, 0);
        CHECK(d[0] == 0 && d[1] == 0 && d[2] == 0);
    }
}
