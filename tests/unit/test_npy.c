/* test_npy.c - NumPy files: versions, types, byte orders, and everything that is refused.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"
#include "kdtest_file.h"
#include <stdlib.h>

static const char *npy_file(int major, int minor, const char *header, const void *data, size_t n)
{
    static kdtest_bytes b;
    b.size = 0;
    kdtest_put(&b, "\x93NUMPY", 6);
    kdtest_put_le(&b, (uint64_t)major, 1);
    kdtest_put_le(&b, (uint64_t)minor, 1);
    kdtest_put_le(&b, strlen(header), major == 1 ? 2 : 4);
    kdtest_put_text(&b, header);
    kdtest_put(&b, data, n);
    return kdtest_write_bytes("a.npy", &b);
}

/* Load, and compare with numbers as doubles. */
static void loads(const char *path, kd_dtype dtype, size_t rank, const size_t *shape, const double *values)
{
    kd_tensor *t;
    if (!CHECK_OK(kd_npy_load(&t, NULL, path))) return;
    CHECK(kd_tensor_dtype(t) == dtype && kd_tensor_rank(t) == rank);
    for (size_t i = 0; i < rank; i++) CHECK(kd_tensor_size(t, i) == shape[i]);
    const char *p = kd_tensor_data(t);
    for (size_t i = 0; i < kd_tensor_count(t); i++) {
        double v = dtype == KD_F32 ? ((const float *)(const void *)p)[i]
                 : dtype == KD_F64 ? ((const double *)(const void *)p)[i]
                 : dtype == KD_I32 ? ((const int32_t *)(const void *)p)[i]
                 : dtype == KD_I64 ? (double)((const int64_t *)(const void *)p)[i]
                                   : ((const uint8_t *)p)[i];
        CHECK_MSG(v == values[i], "element %zu is %g, wanted %g", i, v, values[i]);
    }
    kd_tensor_free(t);
}

TEST(types_and_byte_orders)
{
    static const struct { char descr[4]; kd_dtype dtype; size_t width; } types[] = {
        { "<f4", KD_F32, 4 }, { ">f4", KD_F32, 4 }, { "<f8", KD_F64, 8 }, { ">f8", KD_F64, 8 }, { "<i4", KD_I32, 4 },
        { ">i4", KD_I32, 4 }, { "<i8", KD_I64, 8 }, { ">i8", KD_I64, 8 }, { "|u1", KD_U8, 1 }, { "|b1", KD_U8, 1 },
    };
    for (int version = 1; version <= 3; version++)
        for (size_t k = 0; k < KD_COUNT(types); k++) {
            double values[6];
            kdtest_bytes *b = calloc(1, sizeof *b);
            for (size_t i = 0; i < 6; i++) {
                uint64_t bits = 0;
                values[i] = types[k].width == 1 ? (double)(i % 2) : (double)i * 1000.0 - 2500;
                float f = (float)values[i];
                if (types[k].dtype == KD_F32) memcpy(&bits, &f, 4);
                else if (types[k].dtype == KD_F64) memcpy(&bits, &values[i], 8);
                else bits = (uint64_t)(int64_t)values[i];
                if (types[k].descr[0] == '>') kdtest_put_be(b, bits, types[k].width);
                else kdtest_put_le(b, bits, types[k].width);
            }
            char header[256];
            snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (2, 3), }   \n",
                     types[k].descr);
            loads(npy_file(version, 0, header, b->data, b->size), types[k].dtype, 2, (size_t[]){ 2, 3 }, values);
            free(b);
        }
}

TEST(legal_headers)
{
    static const float two[] = { 1.5f, -2 };
    const double want[] = { 1.5, -2 };
    const size_t shape[] = { 2, 1 };
    loads(npy_file(1, 0, "{\"shape\":(2,),\"descr\":\"<f4\",\"fortran_order\":False}", two, 8), KD_F32, 1, shape,
          want);
    loads(npy_file(1, 0, "{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }\n", two, 8), KD_F32, 1, shape,
          want);
    loads(npy_file(1, 0, "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 1L)}\n", two, 8), KD_F32, 2, shape,
          want);
    loads(npy_file(1, 0, " { 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( 2 , 1 , ) , } ", two, 8), KD_F32,
          2, shape, want);
    loads(npy_file(1, 0, "{'descr': '<f4', 'fortran_order': False, 'shape': ()}", two, 4), KD_F32, 0, shape, want);
    loads(npy_file(1, 0, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3)}", two, 0), KD_F32, 2,
          (size_t[]){ 0, 3 }, want);
    loads(npy_file(2, 0, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 1, 1, 1, 1, 1, 1)}", two, 8),
          KD_F32, 8, (size_t[]){ 2, 1, 1, 1, 1, 1, 1, 1 }, want);
}

TEST(written_by_numpy)
{
    static const char files[][24] = { "npy_f4.npy", "npy_f8_big.npy", "npy_i8.npy", "npy_u1_v2.npy",
                                      "npy_b1_v3.npy" };
    static const kd_dtype dtypes[] = { KD_F32, KD_F64, KD_I64, KD_U8, KD_U8 };
    for (size_t k = 0; k < KD_COUNT(files); k++) {
        double values[24];
        for (size_t i = 0; i < 24; i++)
            values[i] = k == 0 ? (double)i / 8 - 1
                      : k == 1 ? (double)i * 0.125 - 1
                      : k == 2 ? (double)i * 1e9 - 7e9
                      : k == 3 ? (double)i * 10
                               : (double)(i % 3 == 0);
        char path[64];
        snprintf(path, sizeof path, "tests/golden/%s", files[k]);
        loads(kdtest_repo(path), dtypes[k], 3, (size_t[]){ 2, 3, 4 }, values);
    }
}

TEST(bad_headers)
{
#define D "{'descr': '<f4', 'fortran_order': False, 'shape': "
    static const struct { const char *header; kd_status want; const char *text; } cases[] = {
        { "", KD_ERR_FORMAT, "dictionary" },
        { "[]", KD_ERR_FORMAT, "dictionary" },
        { "{", KD_ERR_FORMAT, "key" },
        { D "(3)}", KD_ERR_FORMAT, "(3,)" },
        { D "3}", KD_ERR_FORMAT, "tuple" },
        { D "(-1,)}", KD_ERR_FORMAT, "whole number" },
        { D "(1.0,)}", KD_ERR_FORMAT, "(3,)" },
        { D "(0x10,)}", KD_ERR_FORMAT, "(3,)" },
        { D "(01,)}", KD_ERR_FORMAT, "leading zero" },
        { D "(2 3)}", KD_ERR_FORMAT, "(3,)" },
        { D "(2, 3 4)}", KD_ERR_FORMAT, "','" },
        { D "(,)}", KD_ERR_FORMAT, "whole number" },
        { D "(2,", KD_ERR_FORMAT, "whole number" },
        { D "(2,1)", KD_ERR_FORMAT, "'}'" },
        { D "(2,1)} x", KD_ERR_FORMAT, "white space" },
        { D "(2,1)}# a comment", KD_ERR_FORMAT, "white space" },
        { D "(2,1), 'x': 1}", KD_ERR_FORMAT, "not descr" },
        { D "(2,1), 'shape': (2,1)}", KD_ERR_FORMAT, "twice" },
        { D "(2,1), 'descr': '<f4'}", KD_ERR_FORMAT, "twice" },
        { D "(18446744073709551615,2)}", KD_ERR_OVERFLOW, "does not fit" },
        { D "(18446744073709551616,)}", KD_ERR_OVERFLOW, "2^64" },
        { D "(4294967296,4294967296)}", KD_ERR_OVERFLOW, "does not fit" },
        { D "(0,4294967296,4294967296)}", KD_ERR_OVERFLOW, "does not fit" },
        { D "(9223372036854775807,)}", KD_ERR_OVERFLOW, "does not fit" },
        { D "(1,1,1,1,1,1,1,1,1)}", KD_ERR_LIMIT, "8 axes" },
        { D "__import__('os').system('true')}", KD_ERR_FORMAT, "tuple" },
        { D "(__import__('os'),)}", KD_ERR_FORMAT, "whole number" },
        { D "{'a': 1}}", KD_ERR_FORMAT, "tuple" },
        { "{'descr': '<f4', 'fortran_order': False}", KD_ERR_FORMAT, "missing" },
        { "{'fortran_order': False, 'shape': (2,)}", KD_ERR_FORMAT, "missing" },
        { "{'descr': '<f4', 'shape': (2,)}", KD_ERR_FORMAT, "missing" },
        { "{}", KD_ERR_FORMAT, "missing" },
        { "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}", KD_ERR_FORMAT, "True or False" },
        { "{'descr': '<f4', 'fortran_order': true, 'shape': (2,)}", KD_ERR_FORMAT, "True or False" },
        { "{'descr': '<f4', 'fortran_order': True, 'shape': (2,1)}", KD_ERR_UNSUPPORTED, "Fortran" },
        { "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", KD_ERR_UNSUPPORTED, "never unpickles" },
        { "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", KD_ERR_UNSUPPORTED, "structured" },
        { "{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (2,)}", KD_ERR_UNSUPPORTED, "structured" },
        { "{'descr': '<U8', 'fortran_order': False, 'shape': (2,)}", KD_ERR_UNSUPPORTED, "<U8" },
        { "{'descr': '|V16', 'fortran_order': False, 'shape': (2,)}", KD_ERR_UNSUPPORTED, "|V16" },
        { "{'descr': '<c8', 'fortran_order': False, 'shape': (2,)}", KD_ERR_UNSUPPORTED, "<c8" },
        { "{'descr': '<f16', 'fortran_order': False, 'shape': (2,)}", KD_ERR_UNSUPPORTED, "<f16" },
        { "{'descr': '<f2', 'fortran_order': False, 'shape': (2,)}", KD_ERR_UNSUPPORTED, "<f2" },
        { "{'descr': '<u4', 'fortran_order': False, 'shape': (2,)}", KD_ERR_UNSUPPORTED, "<u4" },
        { "{'descr': '=f4', 'fortran_order': False, 'shape': (2,)}", KD_ERR_FORMAT, "byte order" },
        { "{'descr': '|f4', 'fortran_order': False, 'shape': (2,)}", KD_ERR_FORMAT, "byte order" },
        { "{'descr': 'f4', 'fortran_order': False, 'shape': (2,)}", KD_ERR_FORMAT, "like '<f4'" },
        { "{'descr': '<', 'fortran_order': False, 'shape': (2,)}", KD_ERR_FORMAT, "like '<f4'" },
        { "{'descr': '<\\x66', 'fortran_order': False, 'shape': (2,)}", KD_ERR_FORMAT, "like '<f4'" },
        { "{'descr': 4, 'fortran_order': False, 'shape': (2,)}", KD_ERR_FORMAT, "like '<f4'" },
        { "{'descr': '<f4", KD_ERR_FORMAT, "like '<f4'" },
        { "{'descr' '<f4', 'fortran_order': False, 'shape': (2,)}", KD_ERR_FORMAT, "':'" },
        { "{'descr': '<f4' 'fortran_order': False, 'shape': (2,)}", KD_ERR_FORMAT, "','" },
    };
    size_t fds = kdtest_fds();
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        kdtest_alloc a;
        kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
        kd_tensor *t = (kd_tensor *)1;
        kd_status got = kd_npy_load(&t, a.ctx, npy_file(1, 0, cases[i].header, "\0\0\0\0\0\0\0\0", 8));
        CHECK_MSG(got == cases[i].want, "%s: %s (%s)", cases[i].header, kd_status_name(got), kd_last_error());
        CHECK_MSG(strstr(kd_last_error(), cases[i].text) != NULL, "%s: \"%s\" lacks \"%s\"", cases[i].header,
                  kd_last_error(), cases[i].text);
        CHECK_ERROR_HAS("a.npy: offset ");
        CHECK(t == NULL);
        kdtest_alloc_end(&a);
    }
    CHECK(kdtest_fds() == fds);
}

static void refused(const char *path, kd_status want, const char *text)
{
    kd_tensor *t = (kd_tensor *)1;
    CHECK_STATUS(kd_npy_load(&t, NULL, path), want);
    CHECK_ERROR_HAS(text);
    CHECK_ERROR_HAS("kd_npy_load: ");
    CHECK(t == NULL);
}

TEST(bad_files)
{
    const char *good = D "(2,)}\n";
    static const char eight[8];
    refused(kdtest_write("x", "", 0), KD_ERR_TRUNCATED, "begins with 10");
    refused(kdtest_write("x", "\x93NUM", 4), KD_ERR_TRUNCATED, "begins with 10");
    refused(kdtest_write("x", "\x93NUMPY\1\0", 8), KD_ERR_TRUNCATED, "begins with 10");
    refused(kdtest_write("x", "\x93NUMPX\1\0\0\0", 10), KD_ERR_FORMAT, "not an .npy");
    refused(kdtest_write("x", "PK\3\4abcdefgh", 12), KD_ERR_FORMAT, "zip");
    refused(kdtest_write("x", "\x1f\x8b\x08 abcdefgh", 12), KD_ERR_FORMAT, "gzip");
    refused(npy_file(0, 9, good, eight, 8), KD_ERR_FORMAT, "version 0.9");
    refused(npy_file(4, 0, good, eight, 8), KD_ERR_FORMAT, "version 4.0");
    refused(npy_file(1, 1, good, eight, 8), KD_ERR_FORMAT, "version 1.1");
    refused(npy_file(1, 0, good, eight, 7), KD_ERR_TRUNCATED, "needs 8 bytes");
    refused(npy_file(1, 0, good, "123456789", 9), KD_ERR_FORMAT, "1 bytes too many");
    refused(kdtest_write("x", "\x93NUMPY\1\0\xff\xff", 10), KD_ERR_TRUNCATED, "65535");
    refused(kdtest_write("x", "\x93NUMPY\2\0\xff\xff\xff\xff", 12), KD_ERR_LIMIT, "4294967295");
    refused(kdtest_write("x", "\x93NUMPY\2\0\1\0\1\0abc", 15), KD_ERR_LIMIT, "65537");
    refused(kdtest_write("x", "\x93NUMPY\2\0\1", 9), KD_ERR_TRUNCATED, "begins with 10");
    refused(kdtest_write("x", "\x93NUMPY\2\0\1\0\0", 11), KD_ERR_TRUNCATED, "ends in its header");
    char zero[] = "\x93NUMPY\1\0\x35\0{'descr': '?u1', 'fortran_order': False, 'shape': (2,)}12";
    zero[21] = 0;
    refused(kdtest_write("x", zero, sizeof zero - 1), KD_ERR_FORMAT, "like '<f4'");
    refused(kdtest_tmp(), KD_ERR_IO, "is a directory");
    refused("/dev/zero", KD_ERR_IO, "not a regular file");
    refused(kdtest_path("nothing"), KD_ERR_IO, "no such file");
    static char deep[60000];
    memset(deep, '(', sizeof deep - 1);
    memcpy(deep, D, sizeof D - 1);
    refused(npy_file(1, 0, deep, eight, 8), KD_ERR_FORMAT, "whole number");
    kd_tensor *t;
    CHECK_STATUS(kd_npy_load(NULL, NULL, "x"), KD_ERR_ARG);
    CHECK_STATUS(kd_npy_load(&t, NULL, NULL), KD_ERR_ARG);
}

static void any(const char *path, char what, size_t at, void *arg)
{
    kd_tensor *t;
    kd_status s = kd_npy_load(&t, arg, path);
    if (what == 'p')
        CHECK_MSG(s == KD_ERR_TRUNCATED || s == KD_ERR_FORMAT, "prefix of %zu bytes: %s", at, kd_status_name(s));
    kd_tensor_free(t);
}

TEST(every_prefix_and_flip)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    static const float six[6] = { 1, 2, 3, 4, 5, 6 };
    for (int version = 1; version <= 3; version += 2) {
        size_t n;
        unsigned char *data = kdtest_slurp(npy_file(version, 0, D "(2, 3), }   \n", six, sizeof six), &n);
        kdtest_damage(data, n, 1, any, a.ctx);
        free(data);
    }
    kdtest_alloc_end(&a);
}
