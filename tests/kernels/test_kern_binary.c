/* test_kern_binary.c - elementwise kernels of two operands with every repetition, and their summed gradients.
 * SPDX-License-Identifier: MIT */
#include "kern_test.h"
#include "ref_eltwise.h"
#include <stdlib.h>

#define U 0x1p-24
static const char signs[] = { '+', '-', '*', '/' };

/* The four layouts of an operand of a [rows, n] result. */
static void layout(int which, size_t n, size_t *row, size_t *step, size_t rows, size_t *count)
{
    *row = which == 0 ? n : which == 2;
    *step = which < 2;
    *count = which == 0 ? rows * n : which == 1 ? n : which == 2 ? rows : 1;
}

static float *fresh(kdtest_rand *r, size_t count, double base)
{
    float *p = malloc((count + 1) * sizeof *p);
    for (size_t i = 0; i < count; i++) {
        double x = kdtest_normal(r);
        p[i] = (float)(x < 0 ? x - base : x + base);
    }
    return p;
}

typedef struct problem {
    size_t rows, n;
    uint32_t op;
    float *a, *b, *g;
    size_t a_row, a_step, a_count, b_row, b_step, b_count;
} problem;

static void check_forward(const problem *p)
{
    size_t count = p->rows * p->n;
    float *want = malloc((count + 1) * 4), *got = malloc((count + 1) * 4);
    for (size_t i = 0; i < count; i++) {
        size_t r = i / p->n, c = i % p->n;
        want[i] = (float)ref_binary(signs[p->op], (double)p->a[r * p->a_row + c * p->a_step],
                                    (double)p->b[r * p->b_row + c * p->b_step]);   /* one operation: double rounds the same */
    }
    EACH_ISA(k) {
        k->binary_f32(p->op, got, p->n, (kd__operand){ p->a, p->a_row, p->a_step },
                      (kd__operand){ p->b, p->b_row, p->b_step }, p->rows, p->n);
        check_same(got, want, count, "binary");
    }
    if (p->a_step && p->a_row == p->n) EACH_ISA(k) {   /* in place */
        memcpy(got, p->a, count * 4);
        k->binary_f32(p->op, got, p->n, (kd__operand){ got, p->a_row, p->a_step },
                      (kd__operand){ p->b, p->b_row, p->b_step }, p->rows, p->n);
        check_same(got, want, count, "binary in place");
    }
    free(want);
    free(got);
}

static void check_backward(const problem *p, int which, int accumulate)
{
    size_t row = which ? p->b_row : p->a_row, step = which ? p->b_step : p->a_step, count = which ? p->b_count : p->a_count;
    double *exact = calloc(count + 1, sizeof *exact), *mass = calloc(count + 1, sizeof *mass);
    float *first = NULL, *got = malloc((count + 1) * 4);
    for (size_t i = 0; i < p->rows * p->n; i++) {
        size_t r = i / p->n, c = i % p->n;
        double a = (double)p->a[r * p->a_row + c * p->a_step], b = (double)p->b[r * p->b_row + c * p->b_step];
        double d = (double)p->g[i] * (which ? ref_binary_db(signs[p->op], a, b) : ref_binary_da(signs[p->op], a, b));
        exact[r * row + c * step] += d;
        mass[r * row + c * step] += fabs(d);
    }
    double terms = (double)(p->rows * p->n) / (double)(count ? count : 1);
    EACH_ISA(k) {
        for (size_t i = 0; i < count; i++) got[i] = accumulate ? 3.5f : NAN;
        k->binary_backward_f32(p->op, which, (kd__target){ got, row, step }, p->g, p->n,
                               (kd__operand){ p->a, p->a_row, p->a_step }, (kd__operand){ p->b, p->b_row, p->b_step },
                               p->rows, p->n, accumulate);
        if (!first) {
            first = malloc((count + 1) * 4);
            memcpy(first, got, count * 4);
            for (size_t i = 0; i < count; i++) {   /* three roundings a term, one for each of at most 64 + rows/64 sums */
                double sums = step && !row ? fmin(terms, 64) + terms / 64 : 1;
                double near = (3 + sums) * U * mass[i] + (accumulate ? U * (3.5 + fabs(exact[i])) : 0);
                CHECK_NEAR((double)got[i], exact[i] + (accumulate ? 3.5 : 0), near);
            }
        }
        check_same(got, first, count, "binary backward");
    }
    free(exact);
    free(mass);
    free(first);
    free(got);
}

TEST(every_layout)
{
    static const size_t sizes[][2] = { { 1, 1 }, { 3, 5 }, { 2, 16 }, { 5, 17 }, { 130, 33 }, { 64, 3 }, { 65, 80 }, { 1, 200 } };
    kdtest_rand r = { 21 };
    for (size_t si = 0; si < sizeof sizes / sizeof *sizes; si++)
        for (int la = 0; la < 4; la++)
            for (int lb = 0; lb < 4; lb++)
                for (uint32_t op = 0; op < 4; op++) {
                    problem p = { .rows = sizes[si][0], .n = sizes[si][1], .op = op };
                    layout(la, p.n, &p.a_row, &p.a_step, p.rows, &p.a_count);
                    layout(lb, p.n, &p.b_row, &p.b_step, p.rows, &p.b_count);
                    p.a = fresh(&r, p.a_count, 0);
                    p.b = fresh(&r, p.b_count, 0.1);
                    p.g = fresh(&r, p.rows * p.n, 0);
                    check_forward(&p);
                    for (int which = 0; which < 2; which++) check_backward(&p, which, (int)(si + op) % 2);
                    free(p.a);
                    free(p.b);
                    free(p.g);
                }
}

/* Rows apart, beside pages that fault: the gaps are neither read nor written. */
TEST(guarded_rows)
{
    kdtest_rand r = { 22 };
    for (size_t n = 1; n < 40; n++)
        for (int tail = 0; tail < 2; tail++) {
            size_t row = n + 3, span = row + n;   /* two rows */
            float *a = kdtest_guard(span * 4, tail), *b = kdtest_guard(n * 4, tail), *out = kdtest_guard(span * 4, tail);
            kdtest_fill(&r, a, span, 1);
            kdtest_fill(&r, b, n, 1);
            EACH_ISA(k) {
                for (size_t i = 0; i < span; i++) out[i] = -99;
                k->binary_f32(KD_BINARY_ADD, out, row, (kd__operand){ a, row, 1 }, (kd__operand){ b, 0, 1 }, 2, n);
                for (size_t i = 0; i < span; i++)
                    CHECK(out[i] == (i < n ? a[i] + b[i] : i < row ? -99 : a[i] + b[i - row]));
                k->binary_backward_f32(KD_BINARY_MUL, 1, (kd__target){ out, 0, 1 }, a, row, (kd__operand){ a, row, 1 },
                                       (kd__operand){ b, 0, 1 }, 2, n, 0);
                for (size_t i = 0; i < n; i++) CHECK(out[i] == a[i] * a[i] + a[row + i] * a[row + i]);
            }
            kdtest_guard_free(a, span * 4, tail);
            kdtest_guard_free(b, n * 4, tail);
            kdtest_guard_free(out, span * 4, tail);
        }
}
