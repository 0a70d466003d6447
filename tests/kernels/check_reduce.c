/* check_reduce.c - sums, dot products, maxima: the documented order to the bit.
 * SPDX-License-Identifier: MIT */
#include "checkkd.h"

static int check_double(const ck_case *c, double want) { return ck_near(c, 0, 0, want, 0); }

/* Numbers of many magnitudes: a sum in double of any others is exact, and would not show its order. */
static void make_terms(ck_case *c, const char *name, size_t rows)
{
    float *x = ck_floats(c, CK_IN, name, rows, c->n, 1);
    for (size_t i = 0; i < rows * c->n && !c->bench; i++) x[i] = ldexpf(x[i], (int)kdtest_size(&c->rand, 0, 60) - 30);
}

static void make_sum(ck_case *c)
{
    ck_other(c, CK_OUT, CK_F64, "out", 1, 1);
    make_terms(c, "in", 1);
}
static void run_sum(const ck_case *c, const kd__kernels *k) { k->sum_f32(c->a[0].at, F(1), c->n); }
static void oracle_sum(const ck_case *c) { check_double(c, ck_ordered_sum(BEFORE(1), NULL, c->n)); }
CK_KERNEL(sum_f32, .special = true, .make = make_sum, .run = run_sum, .oracle = oracle_sum, .bench_n = 4 << 20);

static void make_dot(ck_case *c)
{
    make_sum(c);
    make_terms(c, "b", 1);
}
static void run_dot(const ck_case *c, const kd__kernels *k) { k->dot_f32(c->a[0].at, F(1), F(2), c->n); }
static void oracle_dot(const ck_case *c) { check_double(c, ck_ordered_sum(BEFORE(1), BEFORE(2), c->n)); }
CK_KERNEL(dot_f32, .special = true, .make = make_dot, .run = run_dot, .oracle = oracle_dot, .bench_n = 4 << 20);

static void make_row_sums(ck_case *c)
{
    ck_floats(c, ck_result(c), "out", c->rows, 1, 1);
    make_terms(c, "in", c->rows);
    ck_strided(c);
}
static void run_row_sums(const ck_case *c, const kd__kernels *k)
{
    k->row_sums_f32(F(0), F(1), c->rows, c->n, ROW(1), 0.3f, c->add);
}
static void oracle_row_sums(const ck_case *c)
{
    for (size_t r = 0; r < c->rows; r++)
        ck_same(c, 0, r, (float)(ck_ordered_sum(BEFORE(1) + r * c->n, NULL, c->n) * (double)0.3f));
}
CK_KERNEL(row_sums_f32, .matrix = true, .adds = true, .independent = true, .special = true, .make = make_row_sums,
          .run = run_row_sums, .oracle = oracle_row_sums, .bench_rows = 1024, .bench_n = 4096);

/* Where it adds, the blocks are added one by one to what is there. */
static const char *const set_or_add[] = { "=", "+=", NULL };
static void make_column_sums(ck_case *c)
{
    ck_floats(c, c->way ? CK_INOUT : CK_OUT, "out", 1, c->n, 1);
    ck_floats(c, CK_IN, "in", c->rows, c->n, 1);
    ck_strided(c);
}
static void run_column_sums(const ck_case *c, const kd__kernels *k)
{
    k->column_sums_f32(F(0), F(1), c->rows, c->n, ROW(1), (int)c->way);
}
static void oracle_column_sums(const ck_case *c)
{
    for (size_t i = 0; i < c->n; i++) {
        float total = c->way ? BEFORE(0)[i] : 0.0f;
        for (size_t block = 0; block < c->rows; block += 64) {
            float s = 0;
            for (size_t r = block; r < c->rows && r < block + 64; r++) s += BEFORE(1)[r * c->n + i];
            total += s;
        }
        ck_same(c, 0, i, total);
    }
}
CK_KERNEL(column_sums_f32, .ways = set_or_add, .matrix = true, .special = true, .make = make_column_sums, .run = run_column_sums,
          .oracle = oracle_column_sums, .bench_rows = 1024, .bench_n = 4096);

/* Ways: the places of the maxima wanted or not.  Many ties; rows of -inf, of zeros of both signs, with a NaN. */
static const char *const with_places[] = { "", "arg", NULL };
static void make_row_max(ck_case *c)
{
    ck_floats(c, CK_OUT, "out", c->rows, 1, 1);
    ck_other(c, CK_OUT, CK_I32, "arg", c->way ? c->rows : 0, 1);
    float *x = ck_floats(c, CK_IN, "in", c->rows, c->n, 1);
    ck_strided(c);
    for (size_t i = 0; i < c->rows * c->n && !c->special; i++) {
        const size_t kind = (c->n + i / c->n) % 5;
        x[i] = kind == 1 ? -INFINITY : kind == 2 ? i % 2 ? 0.0f : -0.0f : floorf(3 * x[i]);
        if (kind == 3 && i % c->n == c->n / 2) x[i] = NAN;
    }
}
static void run_row_max(const ck_case *c, const kd__kernels *k)
{
    k->row_max_f32(F(0), c->way ? c->a[1].at : NULL, F(2), c->rows, c->n, ROW(2));
}
static void oracle_row_max(const ck_case *c)
{
    for (size_t r = 0; r < c->rows && c->n; r++) {
        const float *p = BEFORE(2) + r * c->n;
        size_t best = 0;
        for (size_t i = 1; i < c->n && p[best] == p[best]; i++)
            if (p[i] > p[best] || p[i] != p[i]) best = i;
        ck_same(c, 0, r, p[best]);
        if (c->way && (size_t)((const int32_t *)c->a[1].after)[r] != best)
            ck_fail(c, "arg[%zu] is %d, want %zu", r, ((const int32_t *)c->a[1].after)[r], best);
    }
}
CK_KERNEL(row_max_f32, .ways = with_places, .matrix = true, .independent = true, .special = true, .make = make_row_max,
          .run = run_row_max, .oracle = oracle_row_max, .bench_rows = 1024, .bench_n = 4096);

/* Numbers as large and as small as can be; a NaN or infinity, where there is one, anywhere. */
static void make_first(ck_case *c)
{
    ck_other(c, CK_OUT, CK_SIZE, "out", 1, 1);
    float *x = ck_floats(c, CK_IN, "in", 1, c->n, 1);
    for (size_t i = 0; i < c->n && !c->special && !c->bench; i++) x[i] = i % 2 ? 0x1.fffffep127f : -0x1p-149f;
}
static void run_first(const ck_case *c, const kd__kernels *k) { k->first_nonfinite_f32(c->a[0].at, F(1), c->n); }
static void oracle_first(const ck_case *c)
{
    size_t want = 0;
    while (want < c->n && isfinite(BEFORE(1)[want])) want++;
    if (*(const size_t *)c->a[0].after != want) ck_fail(c, "%zu, want %zu", *(const size_t *)c->a[0].after, want);
}
CK_KERNEL(first_nonfinite_f32, .special = true, .make = make_first, .run = run_first, .oracle = oracle_first, .bench_n = 4 << 20);

TEST(first_nonfinite_at_every_place)
{
    for (size_t n = 0; n < 70; n++) {
        float x[70];
        for (size_t i = 0; i < n; i++) x[i] = i % 2 ? 0x1.fffffep127f : -0x1p-149f;
        EACH_ISA(k) {
            for (size_t i = 0; i < n; i++) {
                size_t at;
                float keep = x[i], bad[] = { NAN, INFINITY, -INFINITY };
                x[i] = bad[i % 3];
                k->first_nonfinite_f32(&at, x, n);
                CHECK(at == i);
                x[i] = keep;
            }
        }
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
