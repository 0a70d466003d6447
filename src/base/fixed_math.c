/* fixed_math.c - a few functions in double that have the same bits on every machine: +, -, *, / in this order, no
 * libm.  For numbers computed once a step or once an epoch (schedules, random draws); kernels have simd_math.h.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include <math.h>

/* Taylor series of cos and sin of pi y, |pi y| <= pi / 4: the first terms left out are below 2^-60. */
static double cos_series(double y)
{
    double a = y * 0x1.921fb54442d18p+1, z = a * a, c = 1;
    for (int k = 18; k >= 2; k -= 2) c = 1 - z / (k * (k - 1)) * c;
    return c;
}

static double sin_series(double y)
{
    double a = y * 0x1.921fb54442d18p+1, z = a * a, s = 1;
    for (int k = 18; k >= 2; k -= 2) s = 1 - z / (k * (k + 1)) * s;
    return a * s;
}

double kd__fixed_cos_pi(double x)
{
    if (x < 0.25) return cos_series(x);
    if (x <= 0.75) return sin_series(0.5 - x);   /* the differences are exact */
    return -cos_series(1 - x);
}

double kd__fixed_log(double x)
{
    int e = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        e = -54;
    }
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    e += (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffu) | (uint64_t)1023 << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        e++;
    }
    /* ln m = 2 atanh s, s^2 < 0.0295; terms from s^25 on are below 2^-60. */
    double s = (m - 1) / (m + 1), z = s * s, sum = 0;
    for (int k = 23; k >= 1; k -= 2) sum = sum * z + 1.0 / k;
    return e * 0x1.62e42fefa39efp-1 + 2 * s * sum;
}

double kd__fixed_exp(double x)
{
    x = x < -700 ? -700 : x > 700 ? 700 : x;
    double n = (x * 0x1.71547652b82fep+0 + 0x1.8p52) - 0x1.8p52;   /* to nearest */
    /* ln 2 in two parts; n times the first is exact. */
    double r = (x - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33, sum = 1;
    for (int k = 14; k >= 1; k--) sum = 1 + r / k * sum;
    uint64_t bits = (uint64_t)((int)n + 1023) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return sum * scale;
}

double kd__fixed_pow(double x, uint64_t n)
{
    double result = 1;
    for (; n; n >>= 1, x *= x)
        if (n & 1) result *= x;
    return result;
}
