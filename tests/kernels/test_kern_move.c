/* test_kern_move.c - filling, strided copies, adding multiples, to the bit.
 * SPDX-License-Identifier: MIT */
#include "kern_test.h"
#include <stdlib.h>

TEST(axpy_and_fill)
{
    kdtest_rand r = { 41 };
    for (size_t n = 0; n < 100; n++)
        for (int tail = 0; tail < 2; tail++) {
            float *x = kdtest_guard(n * 4, tail), *y = kdtest_guard(n * 4, tail), old[100];
            kdtest_fill(&r, x, n, 1);
            kdtest_fill(&r, old, n, 1);
            EACH_ISA(k) {
                memcpy(y, old, n * 4);
                k->axpy_f32(y, x, n, 0.37f);
                for (size_t i = 0; i < n; i++) CHECK(y[i] == fmaf(0.37f, x[i], old[i]));
                k->fill_f32(y, n, -2.5f);
                for (size_t i = 0; i < n; i++) CHECK(y[i] == -2.5f);
            }
            kdtest_guard_free(x, n * 4, tail);
            kdtest_guard_free(y, n * 4, tail);
        }
}

/* Row-major, transposed, every second element, one row repeated, backwards; overwritten and added to. */
TEST(copy2d)
{
    static const size_t sizes[][2] = { { 0, 5 }, { 5, 0 }, { 1, 1 }, { 1, 40 }, { 40, 1 }, { 16, 16 }, { 17, 33 }, { 50, 70 } };
    kdtest_rand r = { 42 };
    enum { ROOM = 50 * 70 * 2 };
    static float in[ROOM], out[ROOM], want[ROOM], old[ROOM];
    kdtest_fill(&r, in, ROOM, 1);
    kdtest_fill(&r, old, ROOM, 1);
    for (size_t si = 0; si < sizeof sizes / sizeof *sizes; si++) {
        ptrdiff_t rows = (ptrdiff_t)sizes[si][0], n = (ptrdiff_t)sizes[si][1];
        struct { ptrdiff_t out_row, out_step, in_row, in_step, in_first; } ways[] = {
            { n, 1, n, 1, 0 },     { n + 2, 1, n, 1, 0 },    { n, 1, 1, rows, 0 }, { n, 1, 2 * n, 2, 0 },
            { 2 * n, 2, n, 1, 0 }, { 1, rows, n, 1, 0 },     { n, 1, 0, 1, 0 },    { n, 1, -n, 1, rows ? (rows - 1) * n : 0 },
        };
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++)
            for (int accumulate = 0; accumulate < 2; accumulate++) {
                memcpy(want, old, sizeof want);
                for (ptrdiff_t i = 0; i < rows; i++)
                    for (ptrdiff_t j = 0; j < n; j++) {
                        float *o = want + i * ways[w].out_row + j * ways[w].out_step;
                        float x = in[ways[w].in_first + i * ways[w].in_row + j * ways[w].in_step];
                        *o = accumulate ? *o + x : x;
                    }
                EACH_ISA(k) {
                    memcpy(out, old, sizeof out);
                    k->copy2d_f32(out, ways[w].out_row, ways[w].out_step, in + ways[w].in_first, ways[w].in_row,
                                  ways[w].in_step, (size_t)rows, (size_t)n, accumulate);
                    check_same(out, want, ROOM, "copy2d");
                }
            }
    }
}

TEST(copy2d_stays_inside)
{
    for (size_t rows = 1; rows < 36; rows += 5)
        for (size_t n = 1; n < 36; n += 3)
            for (int tail = 0; tail < 2; tail++) {
                float *in = kdtest_guard(rows * n * 4, tail), *out = kdtest_guard(rows * n * 4, tail);
                for (size_t i = 0; i < rows * n; i++) in[i] = (float)i;
                EACH_ISA(k) {
                    k->copy2d_f32(out, (ptrdiff_t)n, 1, in, 1, (ptrdiff_t)rows, rows, n, 0);
                    for (size_t i = 0; i < rows * n; i++) CHECK(out[i] == (float)(i % n * rows + i / n));
                    k->copy2d_f32(out, (ptrdiff_t)n, 1, in, (ptrdiff_t)n, 1, rows, n, 0);
                    CHECK(memcmp(in, out, rows * n * 4) == 0);
                }
                kdtest_guard_free(in, rows * n * 4, tail);
                kdtest_guard_free(out, rows * n * 4, tail);
            }
}
