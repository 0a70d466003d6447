/* check_convert.c - items to floats and mixing.
 * SPDX-License-Identifier: MIT */
#include "checkkd.h"

static const char *const names[] = { "period 16", "period 48", "period 80", "period 112", NULL };
static const size_t periods[] = { 16, 48, 80, 112 };

static void make_affine(ck_case *c)
{
    float *scale = ck_floats(c, CK_IN, "scale", 1, periods[c->way], 1),
          *offset = ck_floats(c, CK_IN, "offset", 1, periods[c->way], 1);
    for (size_t i = 0; i < periods[c->way] && !c->special; i++) {
        scale[i] = (float)kdtest_uniform(&c->rand, 0.5, 2) / 255;
        offset[i] = (float)kdtest_uniform(&c->rand, -2, 2);
    }
    ck_floats(c, CK_OUT, "out", 1, c->n, 1);
}
static void make_affine_u8(ck_case *c)
{
    make_affine(c);
    uint8_t *in = ck_other(c, CK_IN, CK_U8, "in", 1, c->n);
    for (size_t i = 0; i < c->n; i++) in[i] = (uint8_t)(i < 4096 ? kdtest_bits(&c->rand) >> 56 : in[i - 4096]);
}
static void run_affine_u8(const ck_case *c, const kd__kernels *k)
{
    k->affine_u8(F(2), c->a[3].at, c->n, F(0), F(1), periods[c->way]);
}
static void check_affine(const ck_case *c, size_t i, float in)
{
    const size_t p = i % periods[c->way];
    ck_same(c, 2, i, fmaf(in, BEFORE(0)[p], BEFORE(1)[p]));
}
static void oracle_affine_u8(const ck_case *c)
{
    for (size_t i = 0; i < c->n; i++) check_affine(c, i, ((const uint8_t *)c->a[3].before)[i]);
}
CK_KERNEL(affine_u8, .ways = names, .special = true, .make = make_affine_u8, .run = run_affine_u8, .oracle = oracle_affine_u8,
          .bench_n = 4 << 20, .bench_every = 2);

static void make_affine_f32(ck_case *c)
{
    make_affine(c);
    ck_floats(c, CK_IN, "in", 1, c->n, 100);
}
static void run_affine_f32(const ck_case *c, const kd__kernels *k)
{
    k->affine_f32(F(2), F(3), c->n, F(0), F(1), periods[c->way]);
}
static void oracle_affine_f32(const ck_case *c)
{
    for (size_t i = 0; i < c->n; i++) check_affine(c, i, BEFORE(3)[i]);
}
CK_KERNEL(affine_f32, .ways = names, .special = true, .make = make_affine_f32, .run = run_affine_f32, .oracle = oracle_affine_f32,
          .bench_n = 4 << 20, .bench_every = 2);

TEST(affine_of_one_and_zero_copies)
{
    float one[16], zero[16] = { 0 }, in[37], out[37];
    for (int i = 0; i < 16; i++) one[i] = 1;
    kdtest_rand r = { 4 };
    kdtest_fill(&r, in, 37, 100);
    EACH_ISA(k) {
        k->affine_f32(out, in, 37, one, zero, 16);
        CHECK(memcmp(out, in, sizeof in) == 0);
    }
}

static void make_mix(ck_case *c)
{
    ck_floats(c, CK_INOUT, "a", 1, c->n, 1);
    ck_floats(c, CK_INOUT, "b", 1, c->n, 1);
}
static void run_mix(const ck_case *c, const kd__kernels *k) { k->mix_f32(F(0), F(1), c->n, 0.8125f); }
static void oracle_mix(const ck_case *c)
{
    for (size_t i = 0; i < c->n; i++) {
        const double p = (double)BEFORE(0)[i], q = (double)BEFORE(1)[i];
        ck_near(c, 0, i, 0.8125 * p + 0.1875 * q, U * (fabs(0.1875 * q) + fabs((double)AFTER(0)[i])));
        ck_near(c, 1, i, 0.8125 * q + 0.1875 * p, U * (fabs(0.1875 * p) + fabs((double)AFTER(1)[i])));
    }
}
CK_KERNEL(mix_f32, .make = make_mix, .run = run_mix, .oracle = oracle_mix, .bench_n = 4 << 20);
