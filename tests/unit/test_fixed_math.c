/* test_fixed_math.c - the double functions with fixed bits, against libm and against recorded bits.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "base/base.h"
#include <math.h>

TEST(close_to_libm)
{
    for (int i = 0; i <= 40000; i++) {
        double x = i / 40000.0;
        CHECK_NEAR(kd__fixed_cos_pi(x), (double)cosl(3.14159265358979323846264338327950288L * (long double)x), 1e-15);
        double y = exp((i - 20000) / 30.0);
        CHECK_NEAR(kd__fixed_log(y), log(y), 1e-15 * fmax(1, fabs(log(y))));
        double z = (i - 20000) / 29.0;
        CHECK_NEAR(kd__fixed_exp(z), exp(z), 1e-15 * exp(z));
    }
    CHECK(kd__fixed_cos_pi(0) == 1 && kd__fixed_cos_pi(0.5) == 0 && kd__fixed_cos_pi(1) == -1);
    CHECK(kd__fixed_log(1) == 0 && kd__fixed_exp(0) == 1);
    CHECK_NEAR(kd__fixed_log(5e-324), log(5e-324), 1e-12);
    CHECK(kd__fixed_exp(1e300) == kd__fixed_exp(700) && kd__fixed_exp(-1e300) == kd__fixed_exp(-700));
}

TEST(powers)
{
    CHECK(kd__fixed_pow(0.3, 0) == 1 && kd__fixed_pow(0, 0) == 1 && kd__fixed_pow(0, 3) == 0 && kd__fixed_pow(-2, 5) == -32);
    for (uint64_t n = 1; n < 100000; n = n * 5 / 3 + 1)
        CHECK_NEAR(kd__fixed_pow(0.999, n), pow(0.999, (double)n), 2e-16 * ((double)n + 1) * pow(0.999, (double)n));
}

/* The same on every machine: what this one computes equals what is written here. */
TEST(recorded_bits)
{
    uint64_t hash = 0;
    for (int i = 0; i <= 1000; i++) {
        double v[4] = { kd__fixed_cos_pi(i / 1000.0), kd__fixed_log(0.001 + i * 0.37), kd__fixed_exp((i - 500) * 0.31),
                        kd__fixed_pow(0.9990234375, (uint64_t)i) };
        hash = hash * 31 + kdtest_hash(v, sizeof v);
    }
    CHECK_MSG(hash == 0x6e9a9574e1b9b7ccull, "0x%016llx", (unsigned long long)hash);
}
