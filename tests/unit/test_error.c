/* test_error.c - the formatter against the C library's, statuses, error text, descriptors.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "kdtest.h"
#include <float.h>
#include <pthread.h>
#include <stdarg.h>

/* Both formatters on the same arguments, into small and large buffers. */
static void same(const char *format, ...)
{
    static const size_t caps[] = { 0, 1, 7, 2000 };
    for (size_t c = 0; c < KD_COUNT(caps); c++) {
        char want[2000] = "?", got[2000] = "?";
        va_list args;
        va_start(args, format);
        int n = vsnprintf(want, caps[c], format, args);
        va_end(args);
        va_start(args, format);
        size_t m = kd__vformat(got, caps[c], format, args);
        va_end(args);
        CHECK_MSG(n >= 0 && m == (size_t)n, "%s: length %zu, wanted %d", format, m, n);
        CHECK_STR(got, want);
    }
}

TEST(integers_and_text)
{
    same("plain");
    same("%d %i %u %x", -7, 42, 4000000000u, 0xbeefu);
    same("%d %d", INT32_MIN, INT32_MAX);
    same("%ld %lu %lx", INT64_MIN, UINT64_MAX, 0xfeedfacecafef00dul);
    same("%lld %llu %llx", -1ll, 18446744073709551615ull, 255ull);
    same("%zu %zd", SIZE_MAX, (ptrdiff_t)-3);
    same("%5d|%-5d|%05d|%+d|%+05d", 42, 42, 42, 42, 42);
    same("%5d|%-6d|%06d", -42, -42, -42);
    same("%c%c %3c|%-3c|", 'a', 'b', 'c', 'd');
    same("%s|%6s|%-6s|%.2s|%.*s|%*s", "one", "two", "three", "four", 3, "fivesix", 8, "eight");
    same("100%% of %s", "it");
    same("%3u|%08x", 7u, 0xabcu);
}

TEST(doubles)
{
    static const double values[] = { 0,    1,       -1,      0.5,     2.5,     3.5,    0.1,    123456,  1234567, 999999.5, 9.9999995,
                                     1e-4, 9.99e-5, 1e100,   DBL_MAX, DBL_MIN, 5e-324, FLT_MAX, FLT_MIN, 1.0 / 3, 100,      1e15,
                                     1e22, 1e23,    0.00012, 65504,   -0.0,    0.05,   0.95,   0.995,   12345.678 };
    static const char *const formats[] = { "%g",   "%f",    "%e",   "%.0f", "%.0e", "%.0g",  "%.1f",  "%.3g", "%.9g",
                                           "%.17g", "%.17e", "%.20f", "%12.4f", "%-12.4e|", "%012.3f", "%+g", "%1.1g" };
    for (size_t i = 0; i < KD_COUNT(values); i++)
        for (size_t f = 0; f < KD_COUNT(formats); f++) same(formats[f], values[i]);
    same("%f %g %5g|%-5g|%05g", __builtin_inf(), -__builtin_inf(), __builtin_inf(), __builtin_inf(), __builtin_inf());
    same("%g", __builtin_nan(""));
    same("%.1000f", 5e-324);
}

TEST(random_doubles)
{
    kdtest_rand r = { 11 };
    for (int i = 0; i < (kdtest_full() ? 1000000 : 4000); i++) {
        uint64_t bits = kdtest_bits(&r);
        double x;
        memcpy(&x, &bits, sizeof x);
        if (x - x != 0) continue;
        char format[16], got[1200], want[1200];
        snprintf(format, sizeof format, "%%.%d%c", (int)kdtest_size(&r, 0, 20), "efg"[kdtest_size(&r, 0, 2)]);
        kd__format(got, sizeof got, format, x);
        snprintf(want, sizeof want, format, x);
        if (!CHECK_STR(got, want)) break;
        double y = kdtest_uniform(&r, -1000, 1000);   /* few digits, ties */
        y = (double)(int64_t)(y * 8) / 8;
        kd__format(got, sizeof got, "%.1f %.2f %.0f %.2g", y, y, y, y);
        snprintf(want, sizeof want, "%.1f %.2f %.0f %.2g", y, y, y, y);
        if (!CHECK_STR(got, want)) break;
    }
}

TEST(shapes)
{
    char text[64];
    const size_t shape[] = { 64, 10, 18446744073709551615u };
    kd__format(text, sizeof text, "x %S w %S s %S", (size_t)2, shape, (size_t)3, shape, (size_t)0, shape);
    CHECK_STR(text, "x [64, 10] w [64, 10, 18446744073709551615] s []");
    kd__format(text, sizeof text, "%S %d", (size_t)2, (const size_t *)NULL, 5);
    CHECK_STR(text, "[?, ?] 5");
}

TEST(odd_formats)
{
    char text[64];
    kd__format(text, sizeof text, "%q %s %", (const char *)NULL);
    CHECK_STR(text, "%q (null) %");
    CHECK(kd__format(NULL, 0, "%d", 12345) == 5);
}

TEST(text_is_kept_and_cut)
{
    CHECK(kd__fail(KD_ERR_SHAPE, "kd_linear: inner sizes %zu and %d differ", (size_t)64, 60) == KD_ERR_SHAPE);
    CHECK_STR(kd_last_error(), "kd_linear: inner sizes 64 and 60 differ");
    CHECK(kd__fail_prefix(KD_ERR_IO, "reading %s: ", "f.npy") == KD_ERR_IO);
    CHECK_STR(kd_last_error(), "reading f.npy: kd_linear: inner sizes 64 and 60 differ");
    kd__fail(KD_ERR_IO, "again: %s", kd_last_error());
    CHECK_STR(kd_last_error(), "again: reading f.npy: kd_linear: inner sizes 64 and 60 differ");
    char large[1000];
    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = 0;
    kd__fail(KD_ERR_ARG, "%s", large);
    CHECK(strlen(kd_last_error()) == 511);
    kd__fail_prefix(KD_ERR_ARG, "%s", large);
    CHECK(strlen(kd_last_error()) == 511);
}

static void *other_thread(void *arg)
{
    (void)arg;
    CHECK_STR(kd_last_error(), "");
    kd__fail(KD_ERR_ARG, "of the other thread");
    return NULL;
}

TEST(text_is_per_thread)
{
    kd__fail(KD_ERR_ARG, "of this thread");
    pthread_t id;
    CHECK(pthread_create(&id, NULL, other_thread, NULL) == 0);
    pthread_join(id, NULL);
    CHECK_STR(kd_last_error(), "of this thread");
}

TEST(status_names)
{
    CHECK_STR(kd_status_name(KD_OK), "KD_OK");
    CHECK_STR(kd_status_name(KD_END), "KD_END");
    for (int s = KD_ERR_STATE; s < 0; s++) {
        CHECK(strncmp(kd_status_name((kd_status)s), "KD_ERR_", 7) == 0);
        for (int t = s + 1; t < 2; t++) CHECK(strcmp(kd_status_name((kd_status)s), kd_status_name((kd_status)t)) != 0);
    }
    CHECK_STR(kd_status_name((kd_status)-17), "unknown status");
    CHECK_STR(kd_status_name((kd_status)2), "unknown status");
}

typedef struct desc_old { size_t struct_size; uint32_t a; uint32_t b; } desc_old;
typedef struct desc_now { size_t struct_size; uint32_t a; uint32_t b; double c; } desc_now;
typedef struct desc_new { size_t struct_size; uint32_t a; uint32_t b; double c; uint64_t d; } desc_new;

TEST(descriptors_old_and_new)
{
    const desc_now defaults = { sizeof defaults, 1, 2, 3.5 };
    desc_now own = defaults;
    CHECK_OK(kd__desc_read(&own, sizeof own, NULL, "desc"));
    CHECK(own.c == 3.5 && own.a == 1);

    desc_old old;
    memset(&old, 0xff, sizeof old);
    kd__desc_write(&old, sizeof old, &defaults, sizeof defaults);
    CHECK(old.struct_size == sizeof old && old.a == 1 && old.b == 2);
    old.b = 7;
    own = defaults;
    CHECK_OK(kd__desc_read(&own, sizeof own, &old, "desc"));
    CHECK(own.struct_size == sizeof own && own.a == 1 && own.b == 7 && own.c == 3.5);

    desc_new newer;
    memset(&newer, 0xff, sizeof newer);
    kd__desc_write(&newer, sizeof newer, &defaults, sizeof defaults);
    CHECK(newer.struct_size == sizeof newer && newer.c == 3.5 && newer.d == 0);
    newer.c = 9;
    own = defaults;
    CHECK_OK(kd__desc_read(&own, sizeof own, &newer, "desc"));
    CHECK(own.c == 9);
    newer.d = 1;
    own = defaults;
    CHECK_STATUS(kd__desc_read(&own, sizeof own, &newer, "desc"), KD_ERR_VERSION);
    CHECK_ERROR_HAS("desc: a field at byte 24 is set");
    CHECK(own.c == 3.5);

    newer.struct_size = 0;
    CHECK_STATUS(kd__desc_read(&own, sizeof own, &newer, "desc"), KD_ERR_ARG);
    CHECK_ERROR_HAS("desc: struct_size is 0");
    newer.struct_size = SIZE_MAX;
    CHECK_STATUS(kd__desc_read(&own, sizeof own, &newer, "desc"), KD_ERR_ARG);
    kd__desc_write(NULL, 100, &defaults, sizeof defaults);
    memset(&old, 0xee, sizeof old);
    kd__desc_write(&old, 4, &defaults, sizeof defaults);
    CHECK(old.a == 0xeeeeeeee);
}

TEST(versions)
{
    CHECK(kd_abi_version() == KD_ABI_VERSION);
    CHECK(kd_version() == KD_VERSION);
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", KD_VERSION_MAJOR, KD_VERSION_MINOR, KD_VERSION_PATCH);
    CHECK_STR(kd_version_string(), text);
    CHECK(strstr(kd_build_info(), text) && strstr(kd_build_info(), "scalar"));
}
