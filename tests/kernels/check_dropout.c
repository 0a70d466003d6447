/* check_dropout.c - the dropout kernel against the public generator, to the bit.
 * SPDX-License-Identifier: MIT */
#include "checkkd.h"

/* The last index begins where the low word of the counter wraps within the first block. */
static const uint64_t indices[] = { 0, 4, 1000, ((uint64_t)1 << 34) - 40, (uint64_t)1 << 34, UINT64_MAX - 4095 };
static const uint32_t thresholds[] = { 0, 1, 0x199999, 0x800000, 0xffffff, 0x1000000 };
static const char *const names[] = { "of 0", "of 2^-24", "of 0.1", "of 0.5", "of nearly 1", "of 1", NULL };
static uint64_t key, at;

static void make_dropout(ck_case *c)
{
    ck_floats(c, ck_result(c), "out", 1, c->n, 1);
    ck_floats(c, CK_IN, "in", 1, c->n, 1);
    key = kdtest_bits(&c->rand);
    at = indices[c->n % 6] & ~(uint64_t)3;
    if (!c->add) ck_in_place(c, 0, 1);
}
static void run_dropout(const ck_case *c, const kd__kernels *k)
{
    k->dropout_f32(F(0), F(1), c->n, key, at, thresholds[c->way], 1.75f, c->add);
}
static void oracle_dropout(const ck_case *c)
{
    for (size_t i = 0; i < c->n; i++) {
        kd_rng rng = { key, at + i };
        ck_same(c, 0, i, kd_rng_u32(&rng) >> 8 < thresholds[c->way] ? 0.0f : BEFORE(1)[i] * 1.75f);
    }
}
CK_KERNEL(dropout_f32, .ways = names, .adds = true, .special = true, .make = make_dropout, .run = run_dropout,
          .oracle = oracle_dropout, .bench_n = 4 << 20, .bench_every = 3);
