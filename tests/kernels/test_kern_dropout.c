/* test_kern_dropout.c - the dropout kernel against the public generator, to the bit.
 * SPDX-License-Identifier: MIT */
#include "kern_test.h"

static float want_one(float in, float old, uint64_t key, uint64_t index, uint32_t threshold, float scale, int accumulate)
{
    kd_rng rng = { key, index };
    float y = kd_rng_u32(&rng) >> 8 < threshold ? 0.0f : in * scale;
    return accumulate ? old + y : y;
}

TEST(dropout)
{
    /* the last begins where the low word of the counter wraps within the first block */
    static const uint64_t indices[] = { 0, 4, 1000, ((uint64_t)1 << 34) - 40, (uint64_t)1 << 34, UINT64_MAX - 4095 };
    static const uint32_t thresholds[] = { 0, 1, 0x199999, 0x800000, 0xffffff, 0x1000000 };
    kdtest_rand r = { 91 };
    const uint64_t control = fp_control();
    for (size_t n = 0; n < 210; n += 1 + n / 70) {
        for (int tail = 0; tail < 2; tail++) {
            float *in = kdtest_guard(n * 4, tail), *out = kdtest_guard(n * 4, tail), old[210], want[210];
            kdtest_fill(&r, in, n, 1);
            kdtest_fill(&r, old, n, 1);
            if (n > 3) in[1] = INFINITY, in[2] = NAN, in[3] = -0.0f;
            const uint64_t key = kdtest_bits(&r), index = indices[n % 6] & ~(uint64_t)3;
            const uint32_t threshold = thresholds[kdtest_bits(&r) % 6];
            for (int accumulate = 0; accumulate < 2; accumulate++) {
                for (size_t i = 0; i < n; i++) want[i] = want_one(in[i], old[i], key, index + i, threshold, 1.75f, accumulate);
                EACH_ISA(k) {
                    memcpy(out, old, n * 4);
                    k->dropout_f32(out, in, n, key, index, threshold, 1.75f, accumulate);
                    check_same(out, want, n, "dropout");
                    if (accumulate) continue;
                    memcpy(out, in, n * 4);
                    k->dropout_f32(out, out, n, key, index, threshold, 1.75f, 0);
                    check_same(out, want, n, "dropout in place");
                }
            }
            kdtest_guard_free(in, n * 4, tail);
            kdtest_guard_free(out, n * 4, tail);
        }
    }
    CHECK(fp_control() == control);
}
