/* test_kern_softmax.c - softmax, log-softmax, log-sum-exp and the gradients, against double.
 *
 * Where the differences from the maximum are exact or nearly so, a softmax is within 2 ulp of an exponential, one of a
 * reciprocal and one of a product: 4 ulp.  A difference rounded by half an ulp moves e^y by |y| 2^-24 relative.
 * SPDX-License-Identifier: MIT */
#include "kern_test.h"
#include "ref_softmax.h"
#include <stdlib.h>

#define U 0x1p-24

typedef struct rows { size_t n; float *x; double *wide, *want, *logs; } rows;

static rows begin(size_t n)
{
    rows s = { n, malloc((n + 1) * 4), malloc((n + 1) * 8), malloc((n + 1) * 8), malloc((n + 1) * 8) };
    return s;
}
static void end(rows *s)
{
    free(s->x);
    free(s->wide);
    free(s->want);
    free(s->logs);
}
static void reference(rows *s, float t)
{
    for (size_t i = 0; i < s->n; i++) s->wide[i] = (double)s->x[i];
    ref_softmax(s->n, s->wide, (double)t, s->want);
    ref_log_softmax(s->n, s->wide, (double)t, s->logs);
}

/* One row through every instruction set, in place and not, values and bits. */
static void check_row(rows *s, float t)
{
    size_t n = s->n;
    float *y = malloc((n + 1) * 4), *first = malloc((n + 1) * 4), *first_log = malloc((n + 1) * 4), top = -INFINITY;
    int began = 0;
    reference(s, t);
    for (size_t i = 0; i < n; i++) top = s->x[i] > top ? s->x[i] : top;
    EACH_ISA(k) {
        uint64_t control = fp_control();
        k->softmax_f32(y, n, s->x, n, 1, n, t, 0);
        if (!began) {
            double sum = 0, mass = 0;
            for (size_t i = 0; i < n; i++) {
                double want = s->want[i], y0 = fabs(((double)s->x[i] - (double)top) / (double)t);
                double near = want == 0 ? 0x1p-126 : (8 + y0) * U * want + 0x1p-126;
                if (isnan(want)) CHECK(isnan(y[i]));
                else CHECK_MSG(fabs((double)y[i] - want) <= near, "n %zu t %g: softmax[%zu] %a, want %a", n, (double)t, i,
                               (double)y[i], want);
                sum += (double)y[i];
                mass += want;
            }
            if (mass > 0.5) CHECK_NEAR(sum, 1, 1e-6);
            memcpy(first, y, n * 4);
        }
        check_same(y, first, n, "softmax");
        memcpy(y, s->x, n * 4);
        k->softmax_f32(y, n, y, n, 1, n, t, 0);
        check_same(y, first, n, "softmax in place");

        k->softmax_f32(y, n, s->x, n, 1, n, t, 1);
        if (!began) {
            for (size_t i = 0; i < n; i++) {
                double want = s->logs[i], y0 = fabs(((double)s->x[i] - (double)top) / (double)t);
                if (isnan(want)) CHECK(isnan(y[i]));
                else if (isinf(want)) CHECK((double)y[i] == want || (isinf((float)want) && isinf(y[i])));
                else if (isinf((float)want)) CHECK(y[i] == -INFINITY);
                else CHECK_MSG(fabs((double)y[i] - want) <= 2 * U * (1 + fabs(want) + y0), "n %zu t %g: log-softmax[%zu] %a, want %a",
                               n, (double)t, i, (double)y[i], want);
            }
            memcpy(first_log, y, n * 4);
        }
        check_same(y, first_log, n, "log-softmax");
        memcpy(y, s->x, n * 4);
        k->softmax_f32(y, n, y, n, 1, n, t, 1);
        check_same(y, first_log, n, "log-softmax in place");
        CHECK(fp_control() == control);
        began = 1;
    }
    free(y);
    free(first);
    free(first_log);
}

TEST(rows_of_every_size)
{
    kdtest_rand r = { 51 };
    static const float temperatures[] = { 1, 4, 0.07f, 20, 2.5f };
    for (size_t n = 1; n < 20000; n = n < 70 ? n + 1 : n * 3)
        for (int scale = 1; scale <= 30; scale *= 30) {
            rows s = begin(n);
            kdtest_fill(&r, s.x, n, (double)scale);
            check_row(&s, temperatures[n % 5]);
            end(&s);
        }
}

TEST(edge_rows)
{
    const float inf = INFINITY, big = 3e38f;
    const struct { float x[4], t; } cases[] = {
        { { -inf, -inf, -inf, -inf }, 1 }, { { -inf, 2, -inf, -inf }, 4 },   { { 1, NAN, 2, 3 }, 1 },      { { NAN, NAN, NAN, NAN }, 2 },
        { { 1, inf, 2, 3 }, 1 },           { { inf, inf, 0, -inf }, 0.5f },  { { big, -big, 0, big }, 0.5f },
        { { big, -big, 0, 1 }, 1e38f },
        { { 2.5e38f, 1e38f, 0, -inf }, 0.7f }, { { 0, 0, 0, 0 }, 1e-30f },   { { 5, 5, 5, 5 }, 3e38f },    { { 1, 2, -inf, 4 }, 3e38f },
        { { 1e-40f, 0, -1e-40f, 2e-40f }, 1 }, { { 100, 0, -100, -200 }, 1 }, { { 0.05f, 0, -0.05f, 0.1f }, 0.05f },
        { { -big, -big, -inf, -big }, 1 },
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (size_t pad = 0; pad < 40; pad += 13) {   /* alone, and among masked classes */
            rows s = begin(4 + pad);
            for (size_t i = 0; i < s.n; i++) s.x[i] = i < 4 ? cases[c].x[i] : -inf;
            check_row(&s, cases[c].t);
            end(&s);
        }
}

/* A row of 200,000 classes sums to 1. */
TEST(large_vocabulary)
{
    kdtest_rand r = { 52 };
    rows s = begin(200000);
    kdtest_fill(&r, s.x, s.n, 0.5);
    check_row(&s, 1);
    end(&s);
}

TEST(strides_and_guards)
{
    kdtest_rand r = { 53 };
    for (size_t n = 1; n < 50; n += 3)
        for (int tail = 0; tail < 2; tail++) {
            size_t in_row = n + 2, out_row = n + 5, in_span = in_row + n, out_span = out_row + n;
            float *x = kdtest_guard(in_span * 4, tail), *y = kdtest_guard(out_span * 4, tail), want[50], lse[2];
            kdtest_fill(&r, x, in_span, 3);
            EACH_ISA(k)
                for (int logarithm = 0; logarithm < 2; logarithm++) {
                    for (size_t i = 0; i < out_span; i++) y[i] = -99;
                    k->softmax_f32(y, out_row, x, in_row, 2, n, 1.5f, logarithm);
                    for (size_t row = 0; row < 2; row++) {
                        k->softmax_f32(want, n, x + row * in_row, n, 1, n, 1.5f, logarithm);
                        check_same(y + row * out_row, want, n, "strided softmax");
                    }
                    for (size_t i = n; i < out_row; i++) CHECK(y[i] == -99);
                    k->logsumexp_f32(lse, x, in_row, 2, n, 1.5f);
                    for (size_t row = 0; row < 2 && logarithm; row++)   /* log-softmax is x/t minus it */
                        CHECK_NEAR((double)x[row * in_row] / 1.5 - (double)lse[row], (double)y[row * out_row], 1e-5);
                }
            kdtest_guard_free(x, in_span * 4, tail);
            kdtest_guard_free(y, out_span * 4, tail);
        }
}

TEST(logsumexp)
{
    kdtest_rand r = { 54 };
    for (size_t n = 1; n < 3000; n = n * 2 + 1) {
        rows s = begin(n);
        kdtest_fill(&r, s.x, n, 10);
        for (float t = 0.5f; t < 5; t *= 3) {
            float got, first = 0;
            reference(&s, t);
            double want = s.wide[0] / (double)t - s.logs[0], scale = 0;
            for (size_t i = 0; i < n; i++) scale = fmax(scale, fabs(s.wide[i]) / (double)t);
            int began = 0;
            EACH_ISA(k) {
                k->logsumexp_f32(&got, s.x, n, 1, n, t);
                CHECK_NEAR((double)got, want, U * (4 + fabs(want) + scale * 1e-6));
                if (began++) CHECK(got == first);
                first = got;
            }
        }
        end(&s);
    }
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

TEST(backward)
{
    kdtest_rand r = { 55 };
    for (size_t n = 1; n < 500; n = n < 40 ? n + 1 : n * 3)
        for (int logarithm = 0; logarithm < 2; logarithm++)
            for (int accumulate = 0; accumulate < 2; accumulate++) {
                rows s = begin(n);
                float t = 0.5f + (float)(n % 7), *first = malloc((n + 1) * 4);
                float *y = kdtest_guard(n * 4, 1), *g = kdtest_guard(n * 4, 1), *d = kdtest_guard(n * 4, 1);
                double *dy = malloc((n + 1) * 8), *dx = malloc((n + 1) * 8), total = 0;
                kdtest_fill(&r, s.x, n, 2);
                kdtest_fill(&r, g, n, 1);
                reference(&s, t);
                for (size_t i = 0; i < n; i++) {
                    dy[i] = (double)g[i];
                    total += fabs(dy[i]);
                    y[i] = (float)(logarithm ? s.logs[i] : s.want[i]);
                }
                if (logarithm) ref_log_softmax_grad(n, s.wide, (double)t, dy, dx);
                else ref_softmax_grad(n, s.wide, (double)t, dy, dx);
                int began = 0;
                EACH_ISA(k) {
                    for (size_t i = 0; i < n; i++) d[i] = accumulate ? 0.75f : NAN;
                    k->softmax_backward_f32(d, g, y, 1, n, t, logarithm, accumulate);
                    if (!began++) {
                        for (size_t i = 0; i < n; i++) {
                            double near = (s.want[i] * (6 + fabs(s.logs[i])) * total + 4 * fabs(dy[i])) * U / (double)t;
                            CHECK_NEAR((double)d[i], dx[i] + (accumulate ? 0.75 : 0), near + (accumulate ? U * (0.75 + fabs(dx[i])) : 0));
                        }
                        memcpy(first, d, n * 4);
                    }
                    check_same(d, first, n, "softmax gradient");
                }
                free(first);
                free(dy);
                free(dx);
                kdtest_guard_free(y, n * 4, 1);
                kdtest_guard_free(g, n * 4, 1);
                kdtest_guard_free(d, n * 4, 1);
                end(&s);
            }
    /* the row that is -inf throughout */
    const float g[3] = { 1, 2, 3 }, logs[3] = { -INFINITY, -INFINITY, -INFINITY }, zeros[3] = { 0 };
    EACH_ISA(k) {
        float d[3];
        k->softmax_backward_f32(d, g, logs, 1, 3, 2, 1, 0);
        CHECK(d[0] == 0 && d[1] == 0 && d[2] == 0);
        k->softmax_backward_f32(d, g, zeros, 1, 3, 2, 0, 0);
        CHECK(d[0] == 0 && d[1] == 0 && d[2] == 0);
    }
}
