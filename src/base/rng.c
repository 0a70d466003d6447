/* rng.c - Philox4x32-10 streams (docs/design/rng.md).
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "base/platform.h"
#include <math.h>

/* Third counter word: what a block is for.  Two uses of one key never meet. */
#define BLOCK_DRAW 0u
#define BLOCK_SPLIT 0x73706c74u   /* "splt" */

void kd_rng_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static void block(uint32_t out[4], uint64_t key, uint64_t number, uint32_t use)
{
    kd_rng_philox(out, (const uint32_t[4]){ (uint32_t)number, (uint32_t)(number >> 32), use, 0 },
                  (const uint32_t[2]){ (uint32_t)key, (uint32_t)(key >> 32) });
}

static bool usable(const void *rng, const char *function)
{
    if (rng) return true;
    kd__fail(KD_ERR_ARG, "%s: rng is NULL", function);
    return false;
}

kd_rng kd_rng_make(uint64_t seed) { return (kd_rng){ .key = seed }; }

kd_rng kd_rng_split(const kd_rng *parent, uint64_t id)
{
    uint32_t w[4];
    block(w, usable(parent, __func__) ? parent->key : 0, id, BLOCK_SPLIT);
    return (kd_rng){ .key = w[0] | (uint64_t)w[1] << 32 };
}

uint32_t kd_rng_u32(kd_rng *rng)
{
    if (!usable(rng, __func__)) return 0;
    uint32_t w[4];
    uint64_t i = rng->index++;
    block(w, rng->key, i / 4, BLOCK_DRAW);
    return w[i % 4];
}

static float to_uniform(uint32_t bits) { return (float)(bits >> 8) * 0x1p-24f; }

float kd_rng_uniform(kd_rng *rng) { return to_uniform(kd_rng_u32(rng)); }

void kd__rng_fill_uniform(kd_rng *rng, float *out, size_t n)
{
    size_t i = 0;
    for (; i < n && rng->index % 4; i++) out[i] = kd_rng_uniform(rng);
    for (; n - i >= 4; i += 4, rng->index += 4) {
        uint32_t w[4];
        block(w, rng->key, rng->index / 4, BLOCK_DRAW);
        for (size_t k = 0; k < 4; k++) out[i + k] = to_uniform(w[k]);
    }
    for (; i < n; i++) out[i] = kd_rng_uniform(rng);
}

/* n < 2^32: multiply and shift, drawing again for the few products that would favour some (Lemire 2019).
 * Larger: the low bits of two draws until they are below n. */
uint64_t kd_rng_below(kd_rng *rng, uint64_t n)
{
    if (!usable(rng, __func__) || n == 0) return 0;
    if (n <= UINT32_MAX) {
        uint32_t m = (uint32_t)n;
        uint64_t product = (uint64_t)kd_rng_u32(rng) * m;
        if ((uint32_t)product < m)
            for (uint32_t threshold = (0u - m) % m; (uint32_t)product < threshold;)
                product = (uint64_t)kd_rng_u32(rng) * m;
        return product >> 32;
    }
    uint64_t mask = UINT64_MAX >> __builtin_clzll(n - 1), value;
    do {
        value = kd_rng_u32(rng);
        value = (value | (uint64_t)kd_rng_u32(rng) << 32) & mask;
    } while (value >= n);
    return value;
}

void kd__rng_shuffle(kd_rng *rng, uint32_t *items, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)kd_rng_below(rng, i);
        uint32_t item = items[i - 1];
        items[i - 1] = items[j];
        items[j] = item;
    }
}

/* ---- normal: Box-Muller in double, basic operations only, in this order ---------------------------------- */

/* -2 ln((bits + 1) 2^-32).  x = m 2^e with m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh((m - 1)/(m + 1)), whose
 * series in s^2 < 0.0295 is below 2^-60 after twelve terms. */
static double minus_two_log(uint32_t bits)
{
    static const double odd[] = { 1. / 23, 1. / 21, 1. / 19, 1. / 17, 1. / 15, 1. / 13,
                                  1. / 11, 1. / 9,  1. / 7,  1. / 5,  1. / 3,  1. };
    uint64_t x = (uint64_t)bits + 1;
    int top = 63 - __builtin_clzll(x), e = top - 32;
    double m = (double)x / (double)(1ull << top);
    if (m > 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        e++;
    }
    double s = (m - 1) / (m + 1), z = s * s, sum = 0;
    for (size_t k = 0; k < KD_COUNT(odd); k++) sum = sum * z + odd[k];
    return -2 * (e * 0x1.62e42fefa39efp-1 + 2 * s * sum);
}

/* cos(2 pi bits 2^-32): the quarter turn from the two top bits, the rest as an angle in [-pi/4, pi/4), there
 * 1 - z/(1 2) (1 - z/(3 4) (1 - ...)) for the cosine, a (1 - z/(2 3) (1 - z/(4 5) (1 - ...))) for the sine. */
static double cos_turn(uint32_t bits)
{
    static const double even[] = { 1. / (17 * 18), 1. / (15 * 16), 1. / (13 * 14), 1. / (11 * 12), 1. / (9 * 10),
                                   1. / (7 * 8),   1. / (5 * 6),   1. / (3 * 4),   1. / (1 * 2) };
    static const double odd[] = { 1. / (18 * 19), 1. / (16 * 17), 1. / (14 * 15), 1. / (12 * 13), 1. / (10 * 11),
                                  1. / (8 * 9),   1. / (6 * 7),   1. / (4 * 5),   1. / (2 * 3) };
    uint32_t quarter = (uint32_t)(((uint64_t)bits + (1u << 29)) >> 30) & 3;
    double a = (double)(int32_t)(bits - (quarter << 30)) * (0x1.921fb54442d18p+0 * 0x1p-30), z = a * a;
    double c = 1, s = 1;
    for (size_t k = 0; k < KD_COUNT(even); k++) {
        c = 1 - z * even[k] * c;
        s = 1 - z * odd[k] * s;
    }
    s *= a;
    return quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s;
}

float kd_rng_normal(kd_rng *rng)
{
    KD__FP_SCOPE;
    if (!usable(rng, __func__)) return 0;
    uint32_t w[4];
    uint64_t i = rng->index;
    rng->index += 2;
    block(w, rng->key, i / 4, BLOCK_DRAW);
    uint32_t radius = w[i % 4];
    if (i % 4 == 3) block(w, rng->key, (i + 1) / 4, BLOCK_DRAW);
    return (float)(sqrt(minus_two_log(radius)) * cos_turn(w[(i + 1) % 4]));
}
