/* check_move.c - filling, strided copies, adding multiples, to the bit.
 * SPDX-License-Identifier: MIT */
#include "checkkd.h"

static void make_axpy(ck_case *c)
{
    ck_floats(c, CK_INOUT, "y", 1, c->n, 1);
    ck_floats(c, CK_IN, "x", 1, c->n, 1);
}
static void run_axpy(const ck_case *c, const kd__kernels *k) { k->axpy_f32(F(0), F(1), c->n, 0.37f); }
static void oracle_axpy(const ck_case *c)
{
    for (size_t i = 0; i < c->n; i++) ck_same(c, 0, i, fmaf(0.37f, BEFORE(1)[i], BEFORE(0)[i]));
}
CK_KERNEL(axpy_f32, .special = true, .make = make_axpy, .run = run_axpy, .oracle = oracle_axpy, .bench_n = 4 << 20);

static void make_fill(ck_case *c) { ck_floats(c, CK_OUT, "out", 1, c->n, 1); }
static float fill_value(const ck_case *c) { return c->special ? special_floats[c->n % SPECIAL_COUNT] : -2.5f; }
static void run_fill(const ck_case *c, const kd__kernels *k) { k->fill_f32(F(0), c->n, fill_value(c)); }
static void oracle_fill(const ck_case *c)
{
    for (size_t i = 0; i < c->n; i++) ck_same(c, 0, i, fill_value(c));
}
CK_KERNEL(fill_f32, .special = true, .make = make_fill, .run = run_fill, .oracle = oracle_fill, .bench_n = 4 << 20);

/* Rows to rows, columns to rows, rows to columns, one row to all. */
static const char *const names[] = { "rows", "transposed", "scattered", "repeated", NULL };
enum { ROWS, TRANSPOSED, SCATTERED, REPEATED };
static void make_copy(ck_case *c)
{
    const bool turned_in = c->way == TRANSPOSED, turned_out = c->way == SCATTERED;
    ck_floats(c, ck_result(c), "out", turned_out ? c->n : c->rows, turned_out ? c->rows : c->n, 1);
    ck_strided(c);
    ck_floats(c, CK_IN, "in", turned_in ? c->n : c->way == REPEATED ? 1 : c->rows, turned_in ? c->rows : c->n, 1);
    ck_strided(c);
}
static void run_copy(const ck_case *c, const kd__kernels *k)
{
    const ptrdiff_t out = (ptrdiff_t)ROW(0), in = (ptrdiff_t)ROW(1);
    const bool turned_in = c->way == TRANSPOSED, turned_out = c->way == SCATTERED;
    k->copy2d_f32(F(0), turned_out ? 1 : out, turned_out ? out : 1, F(1),
                  turned_in            ? 1
                  : c->way == REPEATED ? 0
                                       : in,
                  turned_in ? in : 1, c->rows, c->n, c->add);
}
static void oracle_copy(const ck_case *c)
{
    for (size_t r = 0; r < c->rows; r++)
        for (size_t i = 0; i < c->n; i++) {
            const size_t turned = i * c->rows + r, plain = r * c->n + i;
            ck_same(c, 0, c->way == SCATTERED ? turned : plain,
                    BEFORE(1)[c->way == TRANSPOSED ? turned
                              : c->way == REPEATED ? i
                                                   : plain]);
        }
}
CK_KERNEL(copy2d_f32, .ways = names, .matrix = true, .adds = true, .special = true, .make = make_copy, .run = run_copy,
          .oracle = oracle_copy, .bench_rows = 2048, .bench_n = 2048);

/* Row-major, transposed, every second element, one row repeated, backwards; overwritten and added to. */
TEST(copy2d_ways)
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
