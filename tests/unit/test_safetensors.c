/* test_safetensors.c - reading what the format allows, refusing the rest, writing what its own package writes.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"
#include "kdtest_file.h"
#include <math.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* A file of the header's length, the header and `data` bytes 0, 1, 2, .. */
static const char *st_file(const char *header, size_t header_bytes, size_t data)
{
    static kdtest_bytes b;
    b.size = 0;
    kdtest_put_le(&b, header_bytes, 8);
    kdtest_put(&b, header, header_bytes);
    for (size_t i = 0; i < data; i++) kdtest_put_le(&b, i, 1);
    return kdtest_write_bytes("a.safetensors", &b);
}

static kd_tensor *read_named(const kd_safetensors *f, const char *name)
{
    kd_tensor *t = NULL;
    size_t i = kd_safetensors_find(f, name);
    if (CHECK_MSG(i != (size_t)-1, "no tensor \"%s\"", name)) CHECK_OK(kd_safetensors_read(f, i, &t));
    return t;
}

/* ---- the package's own files ------------------------------------------------------------------------ */

static const char odd_name[] = "a \"quoted\" \\ name\n\xc3\xa9";

static void check_ramp(kd_tensor *t, kd_dtype dtype, size_t rank, const size_t *shape)
{
    if (!CHECK(t != NULL)) return;
    CHECK(kd_tensor_dtype(t) == dtype && kd_tensor_rank(t) == rank);
    for (size_t i = 0; i < rank; i++) CHECK(kd_tensor_size(t, i) == shape[i]);
    for (size_t i = 0; i < kd_tensor_count(t); i++) {
        double v = dtype == KD_F32 ? (double)kd_tensor_f32(t)[i] : ((const double *)kd_tensor_data(t))[i];
        CHECK_NEAR(v, (double)i * 0.25 - 1, 0);
    }
    kd_tensor_free(t);
}

TEST(reads_the_packages_file)
{
    kd_safetensors *f;
    if (!CHECK_OK(kd_safetensors_open(&f, NULL, kdtest_repo("tests/golden/st_plain.safetensors"), 0))) return;
    CHECK(kd_safetensors_count(f) == 8);
    CHECK_STR(kd_safetensors_metadata(f, "format"), "pt");
    CHECK(kd_safetensors_metadata(f, "other") == NULL && kd_safetensors_find(f, "nothing") == (size_t)-1);
    check_ramp(read_named(f, "layer.weight"), KD_F32, 2, (size_t[]){ 2, 3 });
    check_ramp(read_named(f, "layer.bias"), KD_F32, 1, (size_t[]){ 3 });
    check_ramp(read_named(f, odd_name), KD_F32, 1, (size_t[]){ 2 });
    check_ramp(read_named(f, "wide"), KD_F64, 2, (size_t[]){ 2, 2 });
    check_ramp(read_named(f, "none"), KD_F32, 2, (size_t[]){ 0, 4 });
    kd_tensor *steps = read_named(f, "steps"), *index = read_named(f, "index"), *image = read_named(f, "image");
    CHECK(kd_tensor_dtype(steps) == KD_I64 && kd_tensor_item(steps) == 7);
    CHECK(kd_tensor_dtype(index) == KD_I32 && ((const int32_t *)kd_tensor_data(index))[1] == INT32_MAX);
    CHECK(kd_tensor_dtype(image) == KD_U8 && ((const uint8_t *)kd_tensor_data(image))[4] == 4);
    kd_tensor_free(steps);
    kd_tensor_free(index);
    kd_tensor_free(image);
    uint64_t at = 0;
    for (size_t i = 0; i < 8; i++) {
        kd_safetensors_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_safetensors_at(f, i, &info));
        CHECK(i == 0 || info.offset == at);
        at = info.offset + info.bytes;
        CHECK(kd_safetensors_find(f, info.name) == i);
        if (i == 0)
            CHECK(strcmp(info.name, "steps") == 0 && strcmp(info.dtype, "I64") == 0 && info.rank == 0 &&
                  info.bytes == 8);
    }
    kd_safetensors_close(f);
}

static double f16_value(unsigned h)
{
    double sign = h >> 15 ? -1 : 1, frac = h & 1023;
    int e = h >> 10 & 31;
    if (e == 31) return frac != 0 ? NAN : sign * INFINITY;
    return e ? sign * ldexp(1024 + frac, e - 25) : sign * ldexp(frac, -24);
}

TEST(every_half_precision_number)
{
    for (unsigned h = 0; h < 65536; h++) {
        uint16_t in = (uint16_t)h;
        float f16, bf16;
        kd__f16_widen(&f16, &in, 1);
        kd__bf16_widen(&bf16, &in, 1);
        double want = f16_value(h);
        if (!CHECK_MSG(isnan(want) ? isnan(f16) : (double)f16 == want && !signbit(f16) == !(h >> 15),
                       "f16 %04x is %g, wanted %g", h, (double)f16, want)) return;
        uint32_t bits;
        memcpy(&bits, &bf16, 4);
        if (!CHECK(bits == h << 16)) return;
    }
}

TEST(reads_converts_refuses_types)
{
    kd_safetensors *f;
    if (!CHECK_OK(kd_safetensors_open(&f, NULL, kdtest_repo("tests/golden/st_types.safetensors"), 0))) return;
    static const double half[] = { 0, 0, 1, -2.5, 65504, 0x1p-24, 0x1p-14, INFINITY, -INFINITY, 0x1.554p-2 };
    static const double brain[] = { 0,       0,        1,         -2.5,      65536,      0x1p-24,
                                    0x1p-14, INFINITY, -INFINITY, 0x1.56p-2, 0x1.c4p127, 0x1p-133 };
    kd_tensor *t = read_named(f, "f16");
    CHECK(kd_tensor_dtype(t) == KD_F32 && kd_tensor_count(t) == 10);
    for (size_t i = 0; i < 10; i++) CHECK_NEAR((double)kd_tensor_f32(t)[i], half[i], 0);
    kd_tensor_free(t);
    t = read_named(f, "bf16");
    CHECK(kd_tensor_dtype(t) == KD_F32 && kd_tensor_count(t) == 12);
    for (size_t i = 0; i < 12; i++) CHECK_NEAR((double)kd_tensor_f32(t)[i], brain[i], 0);
    kd_tensor_free(t);
    t = read_named(f, "bool");
    CHECK(kd_tensor_dtype(t) == KD_U8 && kd_tensor_count(t) == 3 && ((const uint8_t *)kd_tensor_data(t))[2] == 1);
    kd_tensor_free(t);
    t = read_named(f, "scalar");
    CHECK(kd_tensor_rank(t) == 0 && kd_tensor_item(t) == 3.5);
    kd_tensor_free(t);
    static const char refused[][4] = { "i8", "i16", "f8", "c64" };
    for (size_t i = 0; i < KD_COUNT(refused); i++) {
        t = (kd_tensor *)1;
        CHECK_STATUS(kd_safetensors_read(f, kd_safetensors_find(f, refused[i]), &t), KD_ERR_UNSUPPORTED);
        CHECK_ERROR_HAS(refused[i]);
        CHECK_ERROR_HAS("is not served");
        CHECK(t == NULL);
    }
    kd_safetensors_close(f);
}

static kd_tensor *made(kd_dtype dtype, size_t rank, const size_t *shape, double first, double step)
{
    kd_tensor *t;
    if (!CHECK_OK(kd_tensor_create(&t, NULL, dtype, rank, shape))) return NULL;
    size_t index[KD_MAX_RANK] = { 0 };
    for (size_t i = 0; i < kd_tensor_count(t); i++) {
        size_t rest = i;
        for (size_t a = rank; a-- > 0; rest /= shape[a]) index[a] = rest % shape[a];
        CHECK_OK(kd_tensor_set(t, index, first + step * (double)i));
    }
    return t;
}

TEST(writes_the_packages_bytes)
{
    const char *names[] = { "layer.weight", "layer.bias", odd_name, "wide", "steps", "index", "image", "none" };
    const char *metadata[] = { "format", "pt" };
    kd_tensor *t[8] = {
        made(KD_F32, 2, (size_t[]){ 2, 3 }, -1, 0.25),
        made(KD_F32, 1, (size_t[]){ 3 }, -1, 0.25),
        made(KD_F32, 1, (size_t[]){ 2 }, -1, 0.25),
        made(KD_F64, 2, (size_t[]){ 2, 2 }, -1, 0.25),
        made(KD_I64, 0, NULL, 7, 0),
        made(KD_I32, 1, (size_t[]){ 2 }, -1, 2147483648.0),
        made(KD_U8, 1, (size_t[]){ 5 }, 0, 1),
        made(KD_F32, 2, (size_t[]){ 0, 4 }, 0, 0),
    };
    /* the first one as a strided view: [3, 2] transposed */
    kd_tensor *base = made(KD_F32, 2, (size_t[]){ 3, 2 }, 0, 0), *view = NULL;
    CHECK_OK(kd_tensor_transpose(&view, base, NULL));
    CHECK_OK(kd_tensor_copy(view, t[0]));
    kd_tensor_free(t[0]);
    t[0] = view;
    const char *path = kdtest_path("out.safetensors");
    CHECK_OK(kd_safetensors_save(NULL, path, names, (const kd_tensor *const *)t, 8, metadata, 2));
    size_t n, m;
    unsigned char *got = kdtest_slurp(path, &n),
                  *want = kdtest_slurp(kdtest_repo("tests/golden/st_plain.safetensors"), &m);
    CHECK_MSG(n == m && memcmp(got, want, n) == 0, "%zu bytes that differ from the golden file's %zu", n, m);
    free(got);
    free(want);
    for (size_t i = 0; i < 8; i++) kd_tensor_free(t[i]);
    kd_tensor_free(base);
}

/* ---- refused ---------------------------------------------------------------------------------------- */

static void refused(const char *path, uint32_t flags, kd_status want, const char *text, const char *what)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    kd_safetensors *f = (kd_safetensors *)1;
    kd_status got = kd_safetensors_open(&f, a.ctx, path, flags);
    CHECK_MSG(got == want, "%s: %s, wanted %s (%s)", what, kd_status_name(got), kd_status_name(want),
              kd_last_error());
    CHECK_MSG(strstr(kd_last_error(), text) != NULL, "%s: \"%s\" lacks \"%s\"", what, kd_last_error(), text);
    CHECK_MSG(strstr(kd_last_error(), "kd_safetensors_open: ") == kd_last_error(), "%s", kd_last_error());
    CHECK_MSG(f == NULL, "%s", what);
    if (got == KD_OK) kd_safetensors_close(f);
    kdtest_alloc_end(&a);
}

TEST(bad_beginnings)
{
    size_t fds = kdtest_fds();
    static const struct { uint64_t length; const char *rest; kd_status want; const char *text; } cases[] = {
        { 2, "", KD_ERR_TRUNCATED, "a header of 2 bytes in a file of 8" },
        { 1000, "{}", KD_ERR_TRUNCATED, "a header of 1000 bytes" },
        { 100000000, "{}", KD_ERR_TRUNCATED, "a header of 100000000 bytes" },
        { 100000001, "{}", KD_ERR_LIMIT, "the limit is 100000000" },
        { UINT64_MAX, "{}", KD_ERR_LIMIT, "the limit" },
        { UINT64_MAX - 7, "{}", KD_ERR_LIMIT, "the limit" },
        { 0, "", KD_ERR_FORMAT, "the header is empty" },
        { 0, "{}", KD_ERR_FORMAT, "the header is empty" },
    };
    refused(kdtest_write("x", "", 0), 0, KD_ERR_TRUNCATED, "begins with 8 bytes", "empty");
    refused(kdtest_write("x", "\2\0\0\0\0\0\0", 7), 0, KD_ERR_TRUNCATED, "begins with 8 bytes", "seven bytes");
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        kdtest_bytes *b = calloc(1, sizeof *b);
        kdtest_put_le(b, cases[i].length, 8);
        kdtest_put_text(b, cases[i].rest);
        refused(kdtest_write_bytes("x", b), 0, cases[i].want, cases[i].text, cases[i].rest);
        free(b);
    }
    static const char lfs[] = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    refused(kdtest_write("x", lfs, sizeof lfs - 1), 0, KD_ERR_FORMAT, "git lfs pull", "lfs");
    refused(kdtest_write("x", "PK\3\4, a PyTorch file", 20), 0, KD_ERR_FORMAT, "zip archive", "zip");
    refused(kdtest_write("x", "\x80\x02}q\0(X\1\0\0\0", 11), 0, KD_ERR_FORMAT, "pickle", "pickle");
    refused(kdtest_tmp(), 0, KD_ERR_IO, "is a directory", "directory");
    refused("/dev/zero", 0, KD_ERR_IO, "not a regular file", "device");
    refused(kdtest_path("nothing"), 0, KD_ERR_IO, "no such file", "missing");
    refused(st_file("{}", 2, 0), 2, KD_ERR_ARG, "flags", "flags");
    CHECK(kdtest_fds() == fds);
}

TEST(bad_headers)
{
#define T(dtype, shape, offsets) "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    static const struct { const char *header; size_t size, data; kd_status want; const char *text;
    } cases[] = {
#define CASE(header, data, want, text) { header, sizeof(header) - 1, data, want, text }
        /* the text */
        CASE("[]", 0, KD_ERR_FORMAT, "offset 8: the header does not begin with '{'"),
        CASE("\xef\xbb\xbf{}", 0, KD_ERR_FORMAT, "begin with '{'"),
        CASE(" {}", 0, KD_ERR_FORMAT, "begin with '{'"),
        CASE("\t{}", 0, KD_ERR_FORMAT, "begin with '{'"),
        CASE("{", 0, KD_ERR_FORMAT, "offset 9: the text ends"),
        CASE("{}}", 0, KD_ERR_FORMAT, "offset 10: only spaces"),
        CASE("{}\n", 0, KD_ERR_FORMAT, "only spaces"),
        CASE("{}\0", 0, KD_ERR_FORMAT, "only spaces"),
        CASE("{\"\xff\":1}", 0, KD_ERR_FORMAT, "offset 10: not valid UTF-8"),
        CASE("{\"\xc0\x80\":1}", 0, KD_ERR_FORMAT, "not valid UTF-8"),
        CASE("{\"\\ud800\":1}", 0, KD_ERR_FORMAT, "surrogate"),
        CASE("{\"a\x01\":1}", 0, KD_ERR_FORMAT, "control"),
        CASE("{\"a\0\":1}", 0, KD_ERR_FORMAT, "control"),
        CASE("{\"a\\u0000\":1}", 0, KD_ERR_FORMAT, "zero character"),
        CASE("{\"a\":[[[[[[[[[[[[1]]]]]]]]]]]]}", 0, KD_ERR_FORMAT, "an object with dtype"),
        CASE("{\"a\":{\"shape\":[[[[[[[[[[[[1]]]]]]]]]]]]}}", 0, KD_ERR_FORMAT, "whole number"),
        /* names */
        CASE("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],"
             "\"data_offsets\":[1,2]}}",
             2, KD_ERR_FORMAT, "the name \"a\" is there twice"),
        CASE("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"\\u0061\":{\"dtype\":\"U8\",\"shape\":"
             "[0],\"data_offsets\":[0,0]}}",
             0, KD_ERR_FORMAT, "the name \"a\" is there twice"),
        CASE("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, KD_ERR_FORMAT,
             "twice"),
        CASE("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,1]}}", 1, KD_ERR_FORMAT,
             "twice"),
        CASE("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"more\":0}}", 1, KD_ERR_FORMAT,
             "a key that is not"),
        CASE("{\"__metadata__\":{},\"__metadata__\":{}}", 0, KD_ERR_FORMAT, "__metadata__ is there twice"),
        CASE("{\"__metadata__\":{\"x\":\"1\",\"y\":\"2\",\"x\":\"1\"}}", 0, KD_ERR_FORMAT,
             "the name \"x\" is there twice"),
        CASE("{\"__metadata__\":{\"x\":1}}", 0, KD_ERR_FORMAT, "strings only"),
        CASE("{\"__metadata__\":{\"x\":{}}}", 0, KD_ERR_FORMAT, "strings only"),
        CASE("{\"__metadata__\":[]}", 0, KD_ERR_FORMAT, "must be an object"),
        CASE("{\"__metadata__\":null}", 0, KD_ERR_FORMAT, "must be an object"),
        /* dtypes */
        CASE(T("F7", "[0]", "[0,0]"), 0, KD_ERR_FORMAT, "tensor \"a\": a dtype that the format does not know"),
        CASE(T("f32", "[0]", "[0,0]"), 0, KD_ERR_FORMAT, "does not know"),
        CASE("{\"a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, KD_ERR_FORMAT,
             "dtype must be a string"),
        CASE("{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, KD_ERR_FORMAT, "missing"),
        CASE("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, KD_ERR_FORMAT, "missing"),
        CASE("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, KD_ERR_FORMAT, "missing"),
        CASE("{\"a\":null}", 0, KD_ERR_FORMAT, "an object with dtype"),
        /* sizes */
        CASE(T("F32", "[4294967296,4294967296]", "[0,0]"), 0, KD_ERR_OVERFLOW,
             "tensor \"a\": the size of F32 [4294967296, 4294967296]"),
        CASE(T("U8", "[2,18446744073709551614]", "[0,0]"), 0, KD_ERR_OVERFLOW, "does not fit"),
        CASE(T("U8", "[2,9223372036854775807]", "[0,0]"), 0, KD_ERR_OVERFLOW, "does not fit"),
        CASE(T("U8", "[4611686018427387904]", "[0,0]"), 0, KD_ERR_OVERFLOW, "does not fit"),
        CASE(T("F32", "[0,4294967296,4294967296]", "[0,0]"), 0, KD_ERR_OVERFLOW, "does not fit"),
        CASE(T("U8", "[-1]", "[0,1]"), 1, KD_ERR_FORMAT, "whole number"),
        CASE(T("U8", "[1.0]", "[0,1]"), 1, KD_ERR_FORMAT, "whole number"),
        CASE(T("U8", "[1e3]", "[0,1]"), 1, KD_ERR_FORMAT, "whole number"),
        CASE(T("U8", "[01]", "[0,1]"), 1, KD_ERR_FORMAT, "number"),
        CASE(T("U8", "[\"3\"]", "[0,1]"), 1, KD_ERR_FORMAT, "whole number"),
        CASE(T("U8", "[18446744073709551616]", "[0,1]"), 1, KD_ERR_FORMAT, "whole number"),
        CASE(T("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, KD_ERR_LIMIT, "limit of 8"),
        CASE(T("U8", "{}", "[0,1]"), 1, KD_ERR_FORMAT, "list of numbers"),
        CASE(T("U8", "[[1]]", "[0,1]"), 1, KD_ERR_FORMAT, "whole number"),
        CASE(T("F32", "[1000,1000]", "[0,4]"), 4, KD_ERR_FORMAT,
             "F32 [1000, 1000] is 32000000 bits, its data_offsets are [0, 4]"),
        CASE(T("F4", "[3]", "[0,1]"), 1, KD_ERR_FORMAT, "F4 [3] is 12 bits"),
        CASE(T("F4", "[3]", "[0,2]"), 2, KD_ERR_FORMAT, "F4 [3] is 12 bits"),
        /* places */
        CASE(T("U8", "[1]", "[0]"), 1, KD_ERR_FORMAT, "must be two"),
        CASE(T("U8", "[1]", "[0,1,1]"), 1, KD_ERR_FORMAT, "must be two"),
        CASE(T("U8", "[1]", "[0,-1]"), 1, KD_ERR_FORMAT, "whole number"),
        CASE(T("U8", "[1]", "[1,0]"), 1, KD_ERR_FORMAT, "data_offsets are [1, 0]"),
        CASE(T("U8", "[2]", "[0,2]"), 1, KD_ERR_TRUNCATED, "tensor \"a\" ends at 2 of the data, the file has 1"),
        CASE(T("U8", "[1]", "[1,2]"), 2, KD_ERR_FORMAT, "a hole"),
        CASE(T("U8", "[4]", "[18446744073709551612,0]"), 0, KD_ERR_FORMAT, "data_offsets"),
        CASE(T("U8", "[3]", "[18446744073709551612,18446744073709551615]"), 0, KD_ERR_FORMAT, "a hole"),
        CASE(T("U8", "[0]", "[1,1]"), 1, KD_ERR_FORMAT, "a hole"),
        CASE("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],"
             "\"data_offsets\":[0,4]}}",
             4, KD_ERR_FORMAT, "they overlap"),
        CASE("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],"
             "\"data_offsets\":[3,7]}}",
             7, KD_ERR_FORMAT, "they overlap"),
        CASE("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[0],"
             "\"data_offsets\":[2,2]}}",
             4, KD_ERR_FORMAT, "they overlap"),
        CASE("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],"
             "\"data_offsets\":[8,12]}}",
             12, KD_ERR_FORMAT, "tensor \"b\" begins at 8 of the data, but the one before it ends at 4: a hole"),
        CASE(T("U8", "[4]", "[0,4]"), 38, KD_ERR_FORMAT, "34 bytes after the last tensor"),
        CASE("{}", 1, KD_ERR_FORMAT, "1 bytes after the last tensor"),
        CASE(T("U8", "[4]", "[0,4]"), 2, KD_ERR_TRUNCATED, "cut short"),
#undef CASE
    };
    size_t fds = kdtest_fds();
    for (size_t i = 0; i < KD_COUNT(cases); i++)
        refused(st_file(cases[i].header, cases[i].size, cases[i].data), 0, cases[i].want, cases[i].text,
                cases[i].header);
    char digits[11000] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[";
    memset(digits + strlen(digits), '1', 10000);
    strcat(digits, "],\"data_offsets\":[0,1]}}");
    refused(st_file(digits, strlen(digits), 1), 0, KD_ERR_FORMAT, "whole number", "10,000 digits");
    static char deep[60000];
    memset(deep, '[', sizeof deep);
    refused(st_file(deep, sizeof deep, 0), 1, KD_ERR_FORMAT, "must be an object", "[[[[");
    for (size_t i = 0; i + 5 <= sizeof deep; i += 5) memcpy(deep + i, "{\"a\":", 5);
    refused(st_file(deep, sizeof deep, 0), 0, KD_ERR_FORMAT, "a key that is not dtype", "{\"a\":{\"a\":");
    CHECK(kdtest_fds() == fds);
}

/* More of one name than are sorted by insertion, alone and among others; long ones and short ones. */
TEST(one_name_many_times)
{
    for (int how = 0; how < 4; how++) {
        char header[8192];
        size_t n = (size_t)snprintf(header, sizeof header, "{\"__metadata__\":{\"a\":\"\"}");
        for (int i = 0; i < 40; i++)
            n += (size_t)snprintf(header + n, sizeof header - n, ",\"%s%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                                  how & 1 ? "a.name.of.more.than.eight." : "a", how & 2 ? i % 39 : 7);
        snprintf(header + n, sizeof header - n, "}");
        refused(st_file(header, n + 1, 0), 0, KD_ERR_FORMAT, how & 2 ? "0\" is there twice" : "7\" is there twice", "one name");
    }
}

TEST(control_characters_do_not_reach_the_error_text)
{
    kd_safetensors *f;
    const char *header = "{\"\\u001b[31m red \\u0007\":{\"dtype\":\"F7\"}}";
    CHECK_STATUS(kd_safetensors_open(&f, NULL, st_file(header, strlen(header), 0), 0), KD_ERR_FORMAT);
    CHECK_ERROR_HAS("\"?[31m red ?\"");
}

/* ---- odd, but allowed ------------------------------------------------------------------------------- */

static void opens(const char *header, size_t data, uint32_t flags, size_t count)
{
    kd_safetensors *f;
    if (!CHECK_OK(kd_safetensors_open(&f, NULL, st_file(header, strlen(header), data), flags))) return;
    CHECK(kd_safetensors_count(f) == count);
    for (size_t i = 0; i < count; i++) {
        kd_tensor *t = NULL;
        kd_safetensors_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_safetensors_at(f, i, &info));
        kd_status s = kd_safetensors_read(f, i, &t);
        CHECK_MSG(s == KD_OK || s == KD_ERR_UNSUPPORTED, "%s: %s", info.name, kd_last_error());
        if (s == KD_OK && kd_tensor_dtype(t) == KD_U8)
            for (size_t k = 0; k < kd_tensor_count(t); k++)
                CHECK(((const uint8_t *)kd_tensor_data(t))[k] == (uint8_t)(info.offset - 8 - strlen(header) + k));
        kd_tensor_free(t);
    }
    kd_safetensors_close(f);
}

TEST(legal_files)
{
    opens("{}", 0, 0, 0);
    opens("{}      ", 0, 0, 0);
    opens("{\"__metadata__\":{}}", 0, 0, 0);
    opens("{ \"a\" :\n{\"data_offsets\":[0 , 1],\t\"shape\":[ ],\r\"dtype\":\"U8\"} }", 1, 0, 1);
    opens(" \t\r\n{}\n\r\t ", 0, KD_SAFETENSORS_LENIENT, 0);
    opens(T("U8", "[]", "[0,1]"), 1, 0, 1);
    opens(T("F4", "[2]", "[0,1]"), 1, 0, 1);
    opens(T("F6_E2M3", "[4]", "[0,3]"), 3, 0, 1);
    opens(T("F32", "[1]", "[0,4]"), 4, 0, 1);           /* data at an odd offset: the header is 55 bytes */
    opens(T("U8", "[1,1,1,1,1,1,1,3]", "[0,3]"), 3, 0, 1);
    opens("{\"b\":{\"dtype\":\"U8\",\"shape\":[2,0],\"data_offsets\":[3,3]},\"c\":{\"dtype\":\"U8\",\"shape\":[4],"
          "\"data_offsets\":[3,7]},"
          "\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},\"z\":{\"dtype\":\"F64\",\"shape\":[0],"
          "\"data_offsets\":[7,7]},"
          "\"\":{\"dtype\":\"F64\",\"shape\":[0],\"data_offsets\":[0,0]}}",
          7, 0, 5);
    static const char dtypes[][12] = { "BOOL",    "F4",      "F6_E2M3", "F6_E3M2",     "U8",          "I8",
                                       "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16",
                                       "U16",     "F16",     "BF16",    "I32",         "U32",         "F32",
                                       "C64",     "F64",     "I64",     "U64" };
    for (size_t i = 0; i < KD_COUNT(dtypes); i++) {
        char header[400];
        size_t bits = kd__safetensors_dtypes[i].bits;
        CHECK_STR(kd__safetensors_dtypes[i].name, dtypes[i]);
        snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"%s\",\"shape\":[8],\"data_offsets\":[0,%zu]}}",
                 dtypes[i], bits);
        opens(header, bits, 0, 1);
    }
}

TEST(arguments)
{
    kd_safetensors *f;
    CHECK_STATUS(kd_safetensors_open(NULL, NULL, "x", 0), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_open(&f, NULL, NULL, 0), KD_ERR_ARG);
    CHECK(f == NULL && kd_safetensors_count(NULL) == 0 && kd_safetensors_metadata(NULL, "a") == NULL);
    CHECK(kd_safetensors_find(NULL, "a") == (size_t)-1);
    kd_safetensors_close(NULL);
    const char *header = T("U8", "[]", "[0,1]");
    if (!CHECK_OK(kd_safetensors_open(&f, NULL, st_file(header, strlen(header), 1), 0))) return;
    kd_tensor *t;
    kd_safetensors_info info = { .struct_size = sizeof info };
    CHECK_STATUS(kd_safetensors_at(f, 1, &info), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_at(f, 0, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_at(NULL, 0, &info), KD_ERR_ARG);
    info.struct_size = 0;
    CHECK_STATUS(kd_safetensors_at(f, 0, &info), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_read(f, 1, &t), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_read(f, 0, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_read(NULL, 0, &t), KD_ERR_ARG);
    CHECK(kd_safetensors_find(f, NULL) == (size_t)-1 && kd_safetensors_metadata(f, NULL) == NULL);
    kd_safetensors_close(f);
}

TEST(save_arguments)
{
    kd_tensor *t = made(KD_F32, 1, (size_t[]){ 2 }, 0, 1);
    const kd_tensor *two[] = { t, t }, *missing[] = { NULL };
    const char *path = kdtest_path("refused.safetensors");
    const char *same[] = { "a", "a" }, *meta[] = { "__metadata__" }, *bad[] = { "\xff" }, *null[] = { NULL },
               *odd[] = { "k", "v", "k", "w" };
    CHECK_STATUS(kd_safetensors_save(NULL, NULL, same, two, 1, NULL, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_save(NULL, path, NULL, two, 1, NULL, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_save(NULL, path, same, NULL, 1, NULL, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_save(NULL, path, same, missing, 1, NULL, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_save(NULL, path, same, two, 2, NULL, 0), KD_ERR_ARG);
    CHECK_ERROR_HAS("\"a\" is there twice");
    CHECK_STATUS(kd_safetensors_save(NULL, path, meta, two, 1, NULL, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_save(NULL, path, bad, two, 1, NULL, 0), KD_ERR_ARG);
    CHECK_ERROR_HAS("UTF-8");
    CHECK_STATUS(kd_safetensors_save(NULL, path, null, two, 1, NULL, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_save(NULL, path, same, two, 1, NULL, 2), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_save(NULL, path, same, two, 1, odd, 3), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_save(NULL, path, same, two, 1, odd, 4), KD_ERR_ARG);
    CHECK_ERROR_HAS("metadata: \"k\" is there twice");
    const char *ff[] = { "k", "\xff" }, *hole[] = { "k", NULL };
    CHECK_STATUS(kd_safetensors_save(NULL, path, same, two, 1, ff, 2), KD_ERR_ARG);
    CHECK_ERROR_HAS("metadata[1] is not valid UTF-8");
    CHECK_STATUS(kd_safetensors_save(NULL, path, same, two, 1, hole, 2), KD_ERR_ARG);
    CHECK_ERROR_HAS("metadata[1] is NULL");
    CHECK_STATUS(kd_safetensors_save(NULL, path, same, two, (size_t)1 << 33, NULL, 0), KD_ERR_LIMIT);
    CHECK_STATUS(kd_safetensors_save(NULL, path, same, two, 1, bad, 1), KD_ERR_ARG);
    CHECK_STATUS(kd_safetensors_save(NULL, kdtest_path("no/such/dir"), same, two, 1, NULL, 0), KD_ERR_IO);
    CHECK_ERROR_HAS("kd_safetensors_save: ");
    CHECK_STATUS(kd_safetensors_save(NULL, kdtest_tmp(), same, two, 1, NULL, 0), KD_ERR_IO);
    CHECK(kdtest_count_files("refused") == 0);
    CHECK_OK(kd_safetensors_save(NULL, path, NULL, NULL, 0, NULL, 0));
    kd_safetensors *f;
    if (CHECK_OK(kd_safetensors_open(&f, NULL, path, 0))) CHECK(kd_safetensors_count(f) == 0);
    kd_safetensors_close(f);
    kd_tensor_free(t);
}

/* Random names, types and shapes there and back. */
TEST(round_trips)
{
    kdtest_rand r = { 42 };
    for (int round = 0; round < 60; round++) {
        enum { MOST = 40 };
        char names[MOST][24], meta[8][16];
        const char *name_list[MOST], *meta_list[8];
        kd_tensor *t[MOST];
        size_t n = kdtest_size(&r, 0, MOST);
        for (size_t i = 0; i < n; i++) {
            size_t shape[4], rank = kdtest_size(&r, 0, 4);
            for (size_t a = 0; a < rank; a++) shape[a] = kdtest_size(&r, 0, 4);
            snprintf(names[i], sizeof *names, "%c%zu.\n\"\xc3\xa9%zu", (int)kdtest_size(&r, 'a', 'c'), i,
                     kdtest_size(&r, 0, 9));
            name_list[i] = names[i];
            CHECK_OK(kd_tensor_create(&t[i], NULL, (kd_dtype)kdtest_size(&r, KD_F32, KD_U8), rank, shape));
            unsigned char *p = kd_tensor_data(t[i]);
            for (size_t b = 0; b < kd_tensor_count(t[i]) * kd_dtype_size(kd_tensor_dtype(t[i])); b++)
                p[b] = (unsigned char)kdtest_bits(&r);
        }
        for (size_t i = 0; i < 8; i++) {
            snprintf(meta[i], sizeof *meta, "%zu\t\\%c", i, (int)kdtest_size(&r, 1, 126));
            meta_list[i] = meta[i];
        }
        size_t pairs = kdtest_size(&r, 0, 4);
        const char *path = kdtest_path("round.safetensors");
        CHECK_OK(kd_safetensors_save(NULL, path, name_list, (const kd_tensor *const *)t, n, meta_list, 2 * pairs));
        kd_safetensors *f;
        if (!CHECK_OK(kd_safetensors_open(&f, NULL, path, 0))) return;
        CHECK(kd_safetensors_count(f) == n);
        for (size_t i = 0; i < n; i++) {
            kd_tensor *back = read_named(f, names[i]);
            CHECK(kd_tensor_dtype(back) == kd_tensor_dtype(t[i]) && kd_tensor_rank(back) == kd_tensor_rank(t[i]));
            for (size_t a = 0; a < kd_tensor_rank(back); a++)
                CHECK(kd_tensor_size(back, a) == kd_tensor_size(t[i], a));
            size_t bytes = kd_tensor_count(t[i]) * kd_dtype_size(kd_tensor_dtype(t[i]));
            CHECK(bytes == 0 || memcmp(kd_tensor_data(back), kd_tensor_data(t[i]), bytes) == 0);
            kd_tensor_free(back);
            kd_safetensors_info info = { .struct_size = sizeof info };
            CHECK_OK(kd_safetensors_at(f, i, &info));
            CHECK_MSG(info.offset % kd_dtype_size(strcmp(info.dtype, "U8") ? strchr(info.dtype, '6') ? KD_F64 : KD_F32
                                                                           : KD_U8) ==
                          0,
                      "%s at %llu", info.dtype, (unsigned long long)info.offset);
        }
        for (size_t i = 0; i < pairs; i++) CHECK_STR(kd_safetensors_metadata(f, meta[2 * i]), meta[2 * i + 1]);
        kd_safetensors_close(f);
        for (size_t i = 0; i < n; i++) kd_tensor_free(t[i]);
    }
}

/* Saving over a file that is open leaves the old handle with the old data. */
TEST(saving_over_an_open_file)
{
    const char *name = "a", *path = kdtest_path("open.safetensors");
    kd_tensor *one = made(KD_F32, 1, (size_t[]){ 3 }, 1, 1), *two = made(KD_F32, 1, (size_t[]){ 5 }, 9, 1);
    CHECK_OK(kd_safetensors_save(NULL, path, &name, (const kd_tensor *const *)&one, 1, NULL, 0));
    kd_safetensors *old, *new;
    CHECK_OK(kd_safetensors_open(&old, NULL, path, 0));
    CHECK_OK(kd_safetensors_save(NULL, path, &name, (const kd_tensor *const *)&two, 1, NULL, 0));
    CHECK_OK(kd_safetensors_open(&new, NULL, path, 0));
    kd_tensor *a = read_named(old, name), *b = read_named(new, name);
    CHECK(kd_tensor_count(a) == 3 && kd_tensor_f32(a)[2] == 3 && kd_tensor_count(b) == 5 &&
          kd_tensor_f32(b)[4] == 13);
    kd_tensor_free(a);
    kd_tensor_free(b);
    kd_tensor_free(one);
    kd_tensor_free(two);
    kd_safetensors_close(old);
    /* a file that shrinks under the reader */
    size_t size;
    free(kdtest_slurp(path, &size));
    CHECK(truncate(path, (off_t)size - 1) == 0);
    kd_tensor *t = (kd_tensor *)1;
    CHECK_STATUS(kd_safetensors_read(new, 0, &t), KD_ERR_TRUNCATED);
    CHECK_ERROR_HAS("shrank");
    CHECK(t == NULL);
    kd_safetensors_close(new);
    CHECK(kdtest_count_files("kdtmp") == 0);
}

/* ---- damage, and files built to be slow ------------------------------------------------------------- */

static void any(const char *path, char what, size_t at, void *arg)
{
    kd_safetensors *f;
    kd_status s = kd_safetensors_open(&f, arg, path, 0);
    if (what == 'p') CHECK_MSG(s == KD_ERR_TRUNCATED, "prefix of %zu bytes: %s", at, kd_status_name(s));
    for (size_t i = 0; i < kd_safetensors_count(f); i++) {
        kd_tensor *t;
        if (kd_safetensors_read(f, i, &t) == KD_OK) kd_tensor_free(t);
    }
    kd_safetensors_close(f);
}

TEST(every_prefix_and_flip)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    const char *files[] = { "tests/golden/st_plain.safetensors", "tests/golden/st_types.safetensors" };
    for (size_t i = 0; i < 2; i++) {
        size_t n;
        unsigned char *data = kdtest_slurp(kdtest_repo(files[i]), &n);
        kdtest_damage(data, n, 3, any, a.ctx);
        free(data);
    }
    kdtest_alloc_end(&a);
}

/* A context that knows the most memory it ever held. */
typedef struct meter { size_t live, peak; } meter;

static void *meter_alloc(size_t bytes, size_t align, void *user)
{
    meter *m = user;
    void *ptr = NULL;
    if (posix_memalign(&ptr, align < sizeof ptr ? sizeof ptr : align, bytes) != 0) return NULL;
    m->live += bytes;
    if (m->live > m->peak) m->peak = m->live;
    return ptr;
}

static void meter_free(void *ptr, size_t bytes, void *user)
{
    ((meter *)user)->live -= bytes;
    free(ptr);
}

/* Names that a hash or a naive sort would choke on: a long common beginning, in random order. */
static void hostile(const char *what, size_t entries, size_t name_bytes, const char *rest, size_t data,
                    kd_status want)
{
    size_t each = name_bytes + strlen(rest) + 8, n = 8, cap = entries * each + data + 64;
    char *text = malloc(cap);
    if (!CHECK(text != NULL)) return;
    text[n++] = '{';
    for (size_t i = 0; i < entries; i++) {
        size_t k = i * 7919 % entries;   /* a permutation: 7919 is a prime that divides no size used here */
        if (i) text[n++] = ',';
        text[n++] = '"';
        memset(text + n, 'x', name_bytes);
        n += name_bytes;
        for (size_t digit = 0; digit < 7; digit++, k /= 10) text[n - 1 - digit] = (char)('0' + k % 10);
        text[n++] = '"';
        text[n++] = ':';
        memcpy(text + n, rest, strlen(rest));
        n += strlen(rest);
    }
    text[n++] = '}';
    for (size_t i = 0; i < 8; i++) text[i] = (char)((n - 8) >> 8 * i);
    memset(text + n, 0, data);
    const char *path = kdtest_write("hostile", text, n + data);
    free(text);
    meter m = { 0 };
    kd_context_desc desc;
    kd_context_desc_init(&desc, sizeof desc);
    desc.allocator = (kd_allocator){ meter_alloc, meter_free, &m };
    kd_context *ctx;
    if (!CHECK_OK(kd_context_create(&ctx, &desc))) return;
    size_t before = m.live;
    m.peak = before;
    clock_t start = clock();
    kd_safetensors *f;
    CHECK_STATUS(kd_safetensors_open(&f, ctx, path, 0), want);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;   /* of this process: the cores are shared */
    if (want == KD_OK) {
        CHECK(kd_safetensors_count(f) == entries);
        kd_safetensors_close(f);
    }
    if (getenv("KD_TEST_VERBOSE"))
        printf("%s: %.1f MB header, %zu entries: %.3f s, peak %.2f x the header\n", what, 1e-6 * (double)n, entries,
               seconds, (double)(m.peak - before) / (double)n);
    CHECK_MSG(m.peak - before <= 8 * n + 65536, "%s: %zu bytes of memory for a header of %zu", what, m.peak - before,
              n);
    double most = KD_MAX(1e-6 * (double)entries, 1e-8 * (double)n);   /* a second for a million entries, for 100 MB */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
    most *= 20;
#endif
    if (!kdtest_full()) most *= 4;   /* small ones end before the clock has ticked often */
#ifdef __OPTIMIZE__
    CHECK_MSG(seconds <= most, "%s: %.3f s for %zu entries in a header of %zu bytes", what, seconds, entries, n);
#endif
    kd_context_free(ctx);
    unlink(path);
}

TEST(hostile_headers)
{
    size_t scale = kdtest_full() ? 10 : 1;
    static const char entry[] = "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
    static const char overlap[] = "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}";
    hostile("many entries", 100000 * scale, 45, entry, 0, KD_OK);
    hostile("overlapping entries", 100000 * scale, 44, overlap, 4, KD_ERR_FORMAT);
    hostile("short entries", 170000 * scale, 7, "{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}", 1,
            KD_ERR_FORMAT);
    hostile("long names", 1000 * scale, 9000, entry, 0, KD_OK);
}
