/* test_kern_reduce.c - sums, dot products, maxima: the documented order to the bit, and near the exact value.
 * SPDX-License-Identifier: MIT */
#include "kern_test.h"
#include <stdlib.h>

#define U 0x1p-24

/* The order of kernels.h, written out: register (i / 16) % 4, lane i % 16, in double. */
static double ordered_sum(const float *a, const float *b, size_t n)
{
    double s[4][16] = { { 0 } };
    for (size_t i = 0; i < n; i++) s[i / 16 % 4][i % 16] += b ? (double)a[i] * (double)b[i] : (double)a[i];
    for (int k = 0; k < 16; k++) s[0][k] = (s[0][k] + s[1][k]) + (s[2][k] + s[3][k]);
    for (int w = 8; w; w /= 2)
        for (int k = 0; k < w; k++) s[0][k] += s[0][k + w];
    return s[0][0];
}

TEST(sum_and_dot)
{
    kdtest_rand r = { 31 };
    for (size_t n = 0; n < 100000; n = n < 200 ? n + 1 : n * 5 + 3)
        for (int tail = 0; tail < 2; tail++) {
            float *a = kdtest_guard(n * 4, tail), *b = kdtest_guard(n * 4, tail);
            kdtest_fill(&r, a, n, 1);
            kdtest_fill(&r, b, n, 1);
            EACH_ISA(k) {
                double sum = -1, dot = -1;
                k->sum_f32(&sum, a, n);
                k->dot_f32(&dot, a, b, n);
                CHECK(sum == ordered_sum(a, NULL, n));
                CHECK(dot == ordered_sum(a, b, n));
            }
            kdtest_guard_free(a, n * 4, tail);
            kdtest_guard_free(b, n * 4, tail);
        }
}

TEST(sums_of_rows_and_columns)
{
    static const size_t sizes[][2] = { { 1, 1 }, { 2, 15 }, { 3, 16 }, { 64, 17 }, { 65, 64 }, { 129, 100 }, { 300, 3 }, { 7, 300 } };
    kdtest_rand r = { 32 };
    for (size_t si = 0; si < sizeof sizes / sizeof *sizes; si++)
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            size_t rows = sizes[si][0], n = sizes[si][1], row = n + 5 * (si % 2), span = (rows - 1) * row + n;
            float *x = kdtest_guard(span * 4, 1), *out = kdtest_guard(n * 4, 1), *sums = kdtest_guard(rows * 4, 1);
            kdtest_fill(&r, x, span, 1);
            EACH_ISA(k) {
                for (size_t i = 0; i < n; i++) out[i] = accumulate ? 2.0f : NAN;
                for (size_t i = 0; i < rows; i++) sums[i] = accumulate ? 2.0f : NAN;
                k->column_sums_f32(out, x, rows, n, row, accumulate);
                k->row_sums_f32(sums, x, rows, n, row, 0.25f, accumulate);
                for (size_t i = 0; i < n; i++) {
                    float total = accumulate ? 2.0f : 0.0f;
                    for (size_t block = 0; block < rows; block += 64) {
                        float s = 0;
                        for (size_t k2 = block; k2 < rows && k2 < block + 64; k2++) s += x[k2 * row + i];
                        total += s;
                    }
                    CHECK(out[i] == total);
                }
                for (size_t i = 0; i < rows; i++) {
                    float s = (float)(ordered_sum(x + i * row, NULL, n) * 0.25);
                    CHECK(sums[i] == (accumulate ? 2.0f + s : s));
                }
            }
            kdtest_guard_free(x, span * 4, 1);
            kdtest_guard_free(out, n * 4, 1);
            kdtest_guard_free(sums, rows * 4, 1);
        }
}

/* 200,000 elements lose nothing that shows. */
TEST(long_sums)
{
    size_t n = 200000;
    float *x = malloc(n * 4);
    for (size_t i = 0; i < n; i++) x[i] = 0.1f;
    EACH_ISA(k) {
        double sum;
        k->sum_f32(&sum, x, n);
        CHECK_NEAR(sum, (double)0.1f * (double)n, 1e-8 * (double)n * 0.1);
    }
    free(x);
}

TEST(maximum_of_rows)
{
    kdtest_rand r = { 33 };
    for (size_t n = 1; n < 100; n++)
        for (int tail = 0; tail < 2; tail++) {
            float *x = kdtest_guard(2 * n * 4, tail);
            for (size_t i = 0; i < 2 * n; i++) x[i] = (float)(kdtest_bits(&r) % 7) - 3;   /* many ties */
            if (n % 5 == 0) x[n + n / 2] = NAN;
            if (n % 5 == 1) for (size_t i = 0; i < n; i++) x[i] = -INFINITY;
            if (n % 5 == 2) for (size_t i = 0; i < n; i++) x[i] = i % 2 ? 0.0f : -0.0f;
            EACH_ISA(k) {
                float out[2];
                int32_t arg[2];
                k->row_max_f32(out, arg, x, 2, n, n);
                for (size_t row = 0; row < 2; row++) {
                    const float *p = x + row * n;
                    size_t best = 0;
                    for (size_t i = 1; i < n && p[best] == p[best]; i++)
                        if (p[i] > p[best] || p[i] != p[i]) best = i;
                    CHECK_MSG((size_t)arg[row] == best && same_float(out[row], p[best]), "%s n %zu: %a at %d, want %a at %zu", k->isa,
                              n, (double)out[row], arg[row], (double)p[best], best);
                }
                float only;
                k->row_max_f32(&only, NULL, x, 1, n, n);
                CHECK(same_float(only, out[0]));
            }
            kdtest_guard_free(x, 2 * n * 4, tail);
        }
}

TEST(first_nonfinite)
{
    for (size_t n = 0; n < 70; n++) {
        float *x = kdtest_guard(n * 4, 1);
        for (size_t i = 0; i < n; i++) x[i] = i % 2 ? 0x1.fffffep127f : -0x1p-149f;
        EACH_ISA(k) {
            size_t at;
            k->first_nonfinite_f32(&at, x, n);
            CHECK(at == n);
            for (size_t i = 0; i < n; i++) {
                float keep = x[i], bad[] = { NAN, INFINITY, -INFINITY };
                x[i] = bad[i % 3];
                k->first_nonfinite_f32(&at, x, n);
                CHECK(at == i);
                x[i] = keep;
            }
        }
        kdtest_guard_free(x, n * 4, 1);
    }
}
