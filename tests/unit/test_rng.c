/* test_rng.c - Philox against its published vectors; streams; uniform, bounded and normal numbers.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "kdtest.h"
#include <math.h>

/* Random123 1.09, kat_vectors, philox4x32 10. */
TEST(published_vectors)
{
    static const struct { uint32_t counter[4], key[2], out[4]; } known[] = {
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff },
          { 0xffffffff, 0xffffffff },
          { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
          { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (size_t i = 0; i < KD_COUNT(known); i++) {
        uint32_t out[4];
        kd_rng_philox(out, known[i].counter, known[i].key);
        CHECK(memcmp(out, known[i].out, sizeof out) == 0);
    }
}

/* docs/design/rng.md, said again: number i is word i mod 4 of block i / 4. */
static uint32_t number(uint64_t key, uint64_t i)
{
    uint64_t b = i >> 2;
    uint32_t out[4], counter[4] = { (uint32_t)b, (uint32_t)(b >> 32), 0, 0 }, k[2] = { (uint32_t)key, (uint32_t)(key >> 32) };
    kd_rng_philox(out, counter, k);
    return out[i & 3];
}

TEST(streams)
{
    kd_rng rng = kd_rng_make(0x0123456789abcdefu);
    CHECK(rng.key == 0x0123456789abcdefu && rng.index == 0);
    for (uint64_t i = 0; i < 100; i++) CHECK(kd_rng_u32(&rng) == number(rng.key, i));
    CHECK(rng.index == 100);
    rng.index = (1ull << 34) - 2;   /* the block number leaves its low word */
    for (uint64_t i = 0; i < 8; i++) CHECK(kd_rng_u32(&rng) == number(rng.key, (1ull << 34) - 2 + i));
    kd_rng copy = rng;
    CHECK(kd_rng_u32(&copy) == kd_rng_u32(&rng));
}

TEST(splits)
{
    kd_rng parent = kd_rng_make(7);
    kd_rng a = kd_rng_split(&parent, 5);
    uint32_t out[4], counter[4] = { 5, 0, 0x73706c74, 0 }, key[2] = { 7, 0 };
    kd_rng_philox(out, counter, key);
    CHECK(a.index == 0 && a.key == (out[0] | (uint64_t)out[1] << 32));
    for (int i = 0; i < 9; i++) kd_rng_u32(&parent);
    kd_rng b = kd_rng_split(&parent, 5);
    CHECK(a.key == b.key && b.index == 0);   /* whatever was drawn */
    uint64_t keys[1000];
    for (uint64_t id = 0; id < 1000; id++) {
        keys[id] = kd_rng_split(&parent, id << (id % 50)).key;
        for (uint64_t k = 0; k < id; k++)
            if (k << (k % 50) != id << (id % 50)) CHECK(keys[k] != keys[id]);
    }
}

TEST(uniform)
{
    kd_rng rng = kd_rng_make(1);
    double sum = 0, squares = 0;
    int n = 100000;
    for (int i = 0; i < n; i++) {
        float u = kd_rng_uniform(&rng);
        CHECK(u >= 0 && u < 1 && u * 0x1p24f == floorf(u * 0x1p24f));
        sum += u;
        squares += (double)u * u;
    }
    /* five standard deviations of the means */
    CHECK_NEAR(sum / n, 0.5, 5 * sqrt(1.0 / 12 / n));
    CHECK_NEAR(squares / n, 1.0 / 3, 5 * sqrt(4.0 / 45 / n));
}

TEST(fill_equals_single)
{
    for (uint64_t start = 0; start < 6; start++)
        for (size_t n = 0; n < 40; n++) {
            kd_rng a = { 99, start }, b = a;
            float out[40];
            kd__rng_fill_uniform(&a, out, n);
            for (size_t i = 0; i < n; i++) CHECK(out[i] == kd_rng_uniform(&b));
            CHECK(a.index == start + n);
        }
}

TEST(below)
{
    kd_rng rng = kd_rng_make(3);
    CHECK(kd_rng_below(&rng, 0) == 0);
    for (int i = 0; i < 100; i++) CHECK(kd_rng_below(&rng, 1) == 0);
    static const uint64_t limits[] = { 2, 3, 10, 1000, 0x80000001u, 0xffffffffu, 1ull << 32, (1ull << 32) + 1, 3ull << 40, UINT64_MAX };
    for (size_t k = 0; k < KD_COUNT(limits); k++) {
        uint64_t most = 0;
        for (int i = 0; i < 3000; i++) {
            uint64_t v = kd_rng_below(&rng, limits[k]);
            CHECK(v < limits[k]);
            if (v > most) most = v;
        }
        CHECK((double)most > 0.99 * (double)(limits[k] - 1));
    }
    /* Without bias: 2^32 mod 3221225472 = 2^30, so plain multiply-shift would favour every third number. */
    int counts[3] = { 0, 0, 0 }, n = 90000;
    for (int i = 0; i < n; i++) counts[kd_rng_below(&rng, 3221225472u) % 3]++;
    for (int i = 0; i < 3; i++) CHECK_NEAR(counts[i], n / 3.0, 5 * sqrt(n * 2.0 / 9));
}

/* Box-Muller from the formula, with the C library's double functions. */
TEST(normal)
{
    kd_rng rng = kd_rng_make(5), bits = rng;
    double sum = 0, squares = 0, fourth = 0;
    int n = kdtest_full() ? 10000000 : 200000;
    double worst = 0;
    for (int i = 0; i < n; i++) {
        double u = ((double)kd_rng_u32(&bits) + 1) * 0x1p-32, v = (double)kd_rng_u32(&bits) * 0x1p-32;
        double want = sqrt(-2 * log(u)) * cos(6.283185307179586476925 * v);
        float got = kd_rng_normal(&rng);
        /* one rounding to float; the reference's own angle 2 pi v is off by 2^-51 at most, times a radius of 6.7 */
        double slack = fabs(got - want) - 8 * 0x1p-50;
        if (slack > 0 && slack / (fabs(want) + 1e-30) > worst) worst = slack / fabs(want);
        sum += got;
        squares += (double)got * got;
        fourth += pow(got, 4);
    }
    CHECK(rng.index == bits.index && rng.index == 2 * (uint64_t)n);
    CHECK_MSG(worst <= 0x1p-24, "relative error %g", worst);
    CHECK_NEAR(sum / n, 0, 5 / sqrt(n));
    CHECK_NEAR(squares / n, 1, 5 * sqrt(2.0 / n));
    CHECK_NEAR(fourth / n, 3, 5 * sqrt(96.0 / n));
}

TEST(normal_at_the_edges)
{
    /* keys and positions do not matter here: any index parity must pair the same two numbers */
    for (uint64_t start = 0; start < 8; start++) {
        kd_rng a = { 21, start };
        kd_rng b = a;
        kd_rng_u32(&b);
        kd_rng_u32(&b);
        kd_rng_normal(&a);
        CHECK(a.index == b.index);
        CHECK(kd_rng_u32(&a) == kd_rng_u32(&b));
    }
}

/* Bits that every machine must reproduce. */
TEST(same_bits_everywhere)
{
    kd_rng rng = kd_rng_make(2024);
    float out[2000];
    for (size_t i = 0; i < KD_COUNT(out); i++) out[i] = kd_rng_normal(&rng);
    CHECK_MSG(kdtest_hash(out, sizeof out) == 0x1aff10f371cd54d5u, "hash of normal numbers: 0x%016llx",
              (unsigned long long)kdtest_hash(out, sizeof out));
    kd__rng_fill_uniform(&rng, out, KD_COUNT(out));
    CHECK_MSG(kdtest_hash(out, sizeof out) == 0x7a160f4741e7d5dbu, "hash of uniform numbers: 0x%016llx",
              (unsigned long long)kdtest_hash(out, sizeof out));
}

TEST(shuffle)
{
    uint32_t items[1000], seen[1000] = { 0 };
    for (uint32_t i = 0; i < 1000; i++) items[i] = i;
    kd_rng rng = kd_rng_make(8);
    kd__rng_shuffle(&rng, items, 1000);
    size_t fixed = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        seen[items[i]]++;
        fixed += items[i] == i;
    }
    for (uint32_t i = 0; i < 1000; i++) CHECK(seen[i] == 1);
    CHECK(fixed < 12);
    kd__rng_shuffle(&rng, items, 0);
    kd__rng_shuffle(&rng, items, 1);
    /* all six orders of three, equally often */
    int counts[27] = { 0 }, n = 60000;
    for (int i = 0; i < n; i++) {
        uint32_t t[3] = { 0, 1, 2 };
        kd__rng_shuffle(&rng, t, 3);
        counts[t[0] * 9 + t[1] * 3 + t[2]]++;
    }
    int orders = 0;
    for (int i = 0; i < 27; i++)
        if (counts[i]) {
            orders++;
            CHECK_NEAR(counts[i], n / 6.0, 5 * sqrt(n * 5.0 / 36));
        }
    CHECK(orders == 6);
}

TEST(null_is_refused)
{
    CHECK(kd_rng_u32(NULL) == 0);
    CHECK_ERROR_HAS("kd_rng_u32: rng is NULL");
    CHECK(kd_rng_uniform(NULL) == 0 && kd_rng_below(NULL, 5) == 0 && kd_rng_normal(NULL) == 0);
    CHECK_ERROR_HAS("kd_rng_normal: rng is NULL");
    CHECK(kd_rng_split(NULL, 1).index == 0);
    CHECK_ERROR_HAS("kd_rng_split: rng is NULL");
}
