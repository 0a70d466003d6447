/* check_difference.c - the kernels of losses of a difference.
 * SPDX-License-Identifier: MIT */
#include "checkkd.h"
#include "ref_loss.h"

static const char *const names[] = { "squared", "beta 0.5", "beta 2", NULL };
static const float betas[] = { 0, 0.5f, 2 };

static double difference(const ck_case *c, int a, size_t i) { return (double)BEFORE(a)[i] - (double)BEFORE(a + 1)[i]; }
static double value(const ck_case *c, double d) { return c->way ? ref_smooth_l1(d, (double)betas[c->way]) : d * d; }
static double slope(const ck_case *c, double d) { return c->way ? ref_smooth_l1_slope(d, (double)betas[c->way]) : 2 * d; }
/* What its rounding errors are relative to: beyond beta a difference of two numbers. */
static double size(const ck_case *c, double d) { return value(c, d) + (c->way ? fabs(d) : 0); }

static void operands(ck_case *c)
{
    ck_floats(c, CK_IN, "a", 1, c->n, 1);
    ck_floats(c, CK_IN, "b", 1, c->n, 1);
}

static void make_difference(ck_case *c)
{
    ck_floats(c, CK_OUT, "out", 1, c->n, 1);
    operands(c);
}
static void run_difference(const ck_case *c, const kd__kernels *k) { k->difference_f32(betas[c->way], F(1), F(2), c->n, F(0)); }
static void oracle_difference(const ck_case *c)
{
    for (size_t i = 0; i < c->n; i++) {
        const double d = difference(c, 1, i);
        ck_near(c, 0, i, value(c, d), 5 * U * size(c, d));
    }
}
CK_KERNEL(difference_f32, .ways = names, .make = make_difference, .run = run_difference, .oracle = oracle_difference,
          .bench_n = 4 << 20);

static void make_sum(ck_case *c)
{
    ck_other(c, CK_OUT, CK_F64, "sum", 1, 1);
    operands(c);
}
static void run_sum(const ck_case *c, const kd__kernels *k)
{
    k->difference_sum_f32(betas[c->way], F(1), F(2), c->n, c->a[0].at);
}
static void oracle_sum(const ck_case *c)
{
    double want = 0, sizes = 0;
    for (size_t i = 0; i < c->n; i++) {
        want += value(c, difference(c, 1, i));
        sizes += size(c, difference(c, 1, i));
    }
    ck_near(c, 0, 0, want, (5 + (double)(c->n < 4096 ? c->n : 4096) / 32 + 6) * U * sizes);
}
CK_KERNEL(difference_sum_f32, .ways = names, .make = make_sum, .run = run_sum, .oracle = oracle_sum, .bench_n = 4 << 20);

/* Ways: each with dy, then without. */
static const char *const backward_names[] = {"squared",         "beta 0.5",      "beta 2", "squared, no dy",
                                             "beta 0.5, no dy", "beta 2, no dy", NULL};
static void make_backward(ck_case *c)
{
    ck_floats(c, ck_result(c), "da", 1, c->n, 1);
    operands(c);
    ck_floats(c, CK_IN, "dy", 1, c->way < 3 ? c->n : 0, 1);
}
static void run_backward(const ck_case *c, const kd__kernels *k)
{
    k->difference_backward_f32(betas[c->way % 3], 0.75f, c->way < 3 ? F(3) : NULL, F(1), F(2), c->n, F(0), c->add);
}
static void oracle_backward(const ck_case *c)
{
    ck_case kind = *c;
    kind.way = c->way % 3;
    for (size_t i = 0; i < c->n; i++) {
        const double want = 0.75 * slope(&kind, difference(c, 1, i)) * (c->way < 3 ? (double)BEFORE(3)[i] : 1);
        ck_near(c, 0, i, want, 5 * U * fabs(want) + 0x1p-149);
    }
}
CK_KERNEL(difference_backward_f32, .ways = backward_names, .adds = true, .make = make_backward, .run = run_backward,
          .oracle = oracle_backward, .bench_n = 4 << 20);

/* NaN and infinities are data. */
TEST(differences_of_special_values)
{
    float x[32], y[32] = { 0 }, out[32];
    double sum;
    EACH_ISA(k) {
        for (size_t at = 0; at < 32; at += 31) {
            for (size_t i = 0; i < 32; i++) x[i] = (float)i;
            x[at] = NAN;
            for (int beta = 0; beta < 2; beta++) {
                k->difference_f32((float)beta, x, y, 32, out);
                CHECK(isnan(out[at]) && !isnan(out[5]));
                k->difference_backward_f32((float)beta, 1, NULL, x, y, 32, out, 0);
                CHECK(isnan(out[at]) && !isnan(out[5]));
                k->difference_sum_f32((float)beta, x, y, 32, &sum);
                CHECK(isnan(sum));
            }
            x[at] = INFINITY;
            k->difference_backward_f32(1, 1, NULL, x, y, 32, out, 0);
            CHECK(out[at] == 1);
        }
    }
}
