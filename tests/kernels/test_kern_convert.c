/* test_kern_convert.c - items to floats and mixing, against plain loops, on every instruction set.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "cpu/cpu.h"
#include "kernels/kernels.h"
#include <math.h>

#define EACH_KERNELS(k)                                                    \
    for (uint32_t isa = KD_ISA_SCALAR; isa <= KD_ISA_AVX512; isa++)       \
        for (const kd__kernels *k = kd__kernels_for(isa); k; k = NULL)

/* fma in one rounding, without fmaf: the product of a small integer and a float is exact in double, and so is the
 * sum unless the two are far apart; then it decides nothing. */
TEST(affine)
{
    static const size_t sizes[] = {0, 1, 5, 15, 16, 17, 47, 48, 49, 95, 96, 97, 300, 784, 1000}, periods[] = {16, 48, 80, 112};
    float scale[112], offset[112];
    kdtest_rand r = { 9 };
    for (int i = 0; i < 112; i++) {
        scale[i] = (float)kdtest_uniform(&r, 0.5, 2) / 255;
        offset[i] = (float)kdtest_uniform(&r, -2, 2);
    }
    for (size_t si = 0; si < sizeof sizes / sizeof *sizes; si++) {
        size_t n = sizes[si];
        for (int tail = 0; tail < 2; tail++) {
            uint8_t *u = kdtest_guard(n, tail);
            float *f = kdtest_guard(n * sizeof(float), tail), *out = kdtest_guard(n * sizeof(float), tail);
            for (size_t i = 0; i < n; i++) {
                u[i] = (uint8_t)(kdtest_bits(&r) >> 56);
                f[i] = (float)u[i];
            }
            for (size_t p = 0; p < sizeof periods / sizeof *periods; p++) EACH_KERNELS(k) {
                k->affine_u8(out, u, n, scale, offset, periods[p]);
                for (size_t i = 0; i < n; i++)
                    CHECK(out[i] == (float)((double)u[i] * (double)scale[i % periods[p]] + (double)offset[i % periods[p]]));
                memset(out, 0, n * sizeof(float));
                k->affine_f32(out, f, n, scale, offset, periods[p]);
                for (size_t i = 0; i < n; i++)
                    CHECK(out[i] == (float)((double)u[i] * (double)scale[i % periods[p]] + (double)offset[i % periods[p]]));
            }
            kdtest_guard_free(u, n, tail);
            kdtest_guard_free(f, n * sizeof(float), tail);
            kdtest_guard_free(out, n * sizeof(float), tail);
        }
    }
}

TEST(affine_of_one_and_zero_copies)
{
    float one[16], zero[16] = { 0 }, in[37], out[37];
    for (int i = 0; i < 16; i++) one[i] = 1;
    kdtest_rand r = { 4 };
    kdtest_fill(&r, in, 37, 100);
    EACH_KERNELS(k) {
        k->affine_f32(out, in, 37, one, zero, 16);
        CHECK(memcmp(out, in, sizeof in) == 0);
    }
}

TEST(mix)
{
    for (size_t n = 0; n < 70; n++) {
        float *a = kdtest_guard(n * sizeof(float), 1), *b = kdtest_guard(n * sizeof(float), 1), x[70], y[70];
        uint64_t bits = 0;
        EACH_KERNELS(k) {
            kdtest_rand r = { n + 1 };
            kdtest_fill(&r, a, n, 1);
            kdtest_fill(&r, b, n, 1);
            memcpy(x, a, n * sizeof(float));
            memcpy(y, b, n * sizeof(float));
            k->mix_f32(a, b, n, 0.8125f);
            for (size_t i = 0; i < n; i++) {
                double p = (double)x[i], q = (double)y[i];
                CHECK_NEAR((double)a[i], 0.8125 * p + 0.1875 * q, 0x1p-24 * (fabs(0.1875 * q) + fabs((double)a[i])));
                CHECK_NEAR((double)b[i], 0.8125 * q + 0.1875 * p, 0x1p-24 * (fabs(0.1875 * p) + fabs((double)b[i])));
            }
            uint64_t hash = kdtest_hash(a, n * sizeof(float)) * 31 + kdtest_hash(b, n * sizeof(float));
            CHECK(!bits || hash == bits);
            bits = hash;
        }
        kdtest_guard_free(a, n * sizeof(float), 1);
        kdtest_guard_free(b, n * sizeof(float), 1);
    }
}
