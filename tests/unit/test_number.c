/* test_number.c - decimal text to numbers: against the C library, at every hard place.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "kdtest.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>

static int parse(const char *text, double *out) { return kd__parse_double(text, text + strlen(text), out); }

static void same(const char *text)
{
    double got = 0, want = strtod(text, NULL);
    CHECK_MSG(parse(text, &got), "%s is refused", text);
    CHECK_MSG(memcmp(&got, &want, sizeof got) == 0, "%s: %a, wanted %a", text, got, want);
}

TEST(plain)
{
    static const char *const texts[] = {
        "0", "-0", "+0", "1", "-1", "+1", "0.5", ".5", "5.", "00012", "1e0", "1E5", "1e+5", "1e-5", "3.14159265358979",
        "123456789012345678901234567890", "0.000000000000000000000000000001", "1e22", "1e23", "8.5e-23", "9007199254740993",
        "9007199254740992.999999999999999999999", "0e99999999999999999999", "0.0e-5",
    };
    for (size_t i = 0; i < KD_COUNT(texts); i++) same(texts[i]);
}

TEST(edges)
{
    static const char *const texts[] = {
        "1.7976931348623157e308", "1.7976931348623158e308", "1.7976931348623159e308", "1.797693134862315807e308",
        "1.797693134862315708e308", "1e309", "1e310", "1e311", "1e99999", "-1e400", "123456e99999999999999999999",
        "2.2250738585072014e-308", "2.2250738585072011e-308", "2.2250738585072009e-308", "4.9406564584124654e-324",
        "4.94e-324", "2.4703282292062328e-324", "2.4703282292062327e-324", "2.4703282292062327208299493e-324",
        "2.47032822920623272088e-324", "7.4109846876186982e-324", "1e-323", "1e-324", "1e-325", "1e-400", "1e-99999999999999999999",
        "-1e-400", "6.631236846766476e-316", "9.5e-322", "2.22507385850720088902458687609e-308",
    };
    for (size_t i = 0; i < KD_COUNT(texts); i++) same(texts[i]);
}

/* The exact middle between two neighbours, and a hair to either side, far out in the digits. */
TEST(middles)
{
    kdtest_rand r = { 31 };
    for (int i = 0; i < (kdtest_full() ? 20000 : 400); i++) {
        uint64_t bits = kdtest_bits(&r) >> 1;
        double x, y;
        memcpy(&x, &bits, sizeof x);
        bits++;
        memcpy(&y, &bits, sizeof y);
        if (!(y < DBL_MAX)) continue;
        char text[1600];
        long double middle = ((long double)x + y) / 2;   /* exact where long double has 64 bits of mantissa */
        if (LDBL_MANT_DIG < 64 || middle - x != y - middle) continue;
        int n = snprintf(text, sizeof text, "%.1150Lf", middle);
        same(text);
        snprintf(text + n, sizeof text - (size_t)n, "1");
        same(text);
        snprintf(text + n, sizeof text - (size_t)n, "000000000000000000e0");
        same(text);
        for (int k = n - 1; k > 0; k--)   /* one unit below */
            if (text[k] != '.') {
                if (text[k] != '0') {
                    text[k]--;
                    break;
                }
                text[k] = '9';
            }
        same(text);
    }
}

TEST(random)
{
    kdtest_rand r = { 32 };
    char text[64];
    for (int i = 0; i < (kdtest_full() ? 2000000 : 20000); i++) {
        uint64_t bits = kdtest_bits(&r);
        double x, back;
        memcpy(&x, &bits, sizeof x);
        if (x - x != 0) continue;
        kd__format(text, sizeof text, "%.17g", x);
        if (!CHECK_MSG(parse(text, &back) && memcmp(&back, &x, sizeof x) == 0, "%s comes back as %.17g", text, back)) break;
        snprintf(text, sizeof text, "%.*e", (int)kdtest_size(&r, 0, 25), x);
        same(text);
        snprintf(text, sizeof text, "%llu.%lluE%d", (unsigned long long)(kdtest_bits(&r) >> kdtest_size(&r, 0, 63)),
                 (unsigned long long)kdtest_bits(&r), (int)kdtest_size(&r, 0, 700) - 350);
        same(text);
    }
}

TEST(many_digits)
{
    static char text[100001];
    memset(text, '9', 100000);
    same(text);   /* infinite */
    memcpy(text + 99990, "e-99990", 8);
    same(text);
    memset(text, '0', 100000);
    text[1] = '.';
    text[99000] = '7';
    memcpy(text + 99990, "e+98999", 8);
    same(text);
    memset(text, '1', 100000);
    text[1] = '.';
    same(text);
}

TEST(refused)
{
    static const char *const texts[] = { "", "-", "+", ".", "e5", ".e5", "1e", "1e+", "1e-", "--1", "+-1", "1.2.3", "1,5", " 1", "1 ",
                                         "0x10", "1f", "inf", "nan", "Infinity", "1e5.5", "1_000", "1-", "\xd9\xa1" };
    for (size_t i = 0; i < KD_COUNT(texts); i++) {
        double out = 77;
        CHECK_MSG(!parse(texts[i], &out) && out == 77, "\"%s\" is taken", texts[i]);
    }
    double out;
    const char longer[] = "1.5zzz";
    CHECK(kd__parse_double(longer, longer + 3, &out) && out == 1.5);
    const char zero[] = { '1', 0, '2' };
    CHECK(!kd__parse_double(zero, zero + 3, &out));
}

TEST(the_end_is_not_read)
{
    static const char *const texts[] = { "1", "1.", "1.5", "1e5", "1e", "-", "123456789012345678901234567890" };
    for (size_t i = 0; i < KD_COUNT(texts); i++) {
        size_t n = strlen(texts[i]);
        char *p = kdtest_guard(n, 1);
        memcpy(p, texts[i], n);
        double d;
        uint64_t u;
        kd__parse_double(p, p + n, &d);
        kd__parse_u64(p, p + n, &u);
        kdtest_guard_free(p, n, 1);
    }
}

TEST(whole_numbers)
{
    static const struct { const char *text; int ok; uint64_t value; } cases[] = {
        { "0", 1, 0 }, { "7", 1, 7 }, { "18446744073709551615", 1, UINT64_MAX }, { "18446744073709551616", 0, 0 },
        { "18446744073709551620", 0, 0 }, { "99999999999999999999", 0, 0 }, { "184467440737095516150", 0, 0 }, { "", 0, 0 },
        { "00", 0, 0 }, { "01", 0, 0 }, { "-1", 0, 0 }, { "+1", 0, 0 }, { " 1", 0, 0 }, { "1 ", 0, 0 }, { "1.0", 0, 0 },
        { "1e3", 0, 0 }, { "0x10", 0, 0 }, { "3L", 0, 0 },
    };
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        uint64_t out = 77;
        bool ok = kd__parse_u64(cases[i].text, cases[i].text + strlen(cases[i].text), &out);
        CHECK_MSG(ok == cases[i].ok && out == (ok ? cases[i].value : 77), "\"%s\"", cases[i].text);
    }
}
