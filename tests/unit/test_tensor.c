/* test_tensor.c - kd_tensor: making, viewing, copying, reading, and what it refuses.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "ref_shape.h"
#include <math.h>
#include <stdlib.h>

#define SHAPE(...) sizeof((size_t[]){ __VA_ARGS__ }) / sizeof(size_t), (const size_t[]){ __VA_ARGS__ }
#define INDEX(...) (const size_t[]){ __VA_ARGS__ }

static double at(const kd_tensor *x, const size_t *index)
{
    double v;
    CHECK_OK(kd_tensor_get(x, index, &v));
    return v;
}

/* Elements 0, 1, 2, .. in order. */
static kd_tensor *counting(kd_dtype dtype, size_t rank, const size_t *shape)
{
    kd_tensor *x = NULL;
    size_t index[KD_MAX_RANK] = { 0 };
    CHECK_OK(kd_tensor_create(&x, NULL, dtype, rank, shape));
    for (size_t i = 0; i < kd_tensor_count(x); i++) {
        ref_index(rank, shape, i, index);
        CHECK_OK(kd_tensor_set(x, index, (double)i));
    }
    return x;
}

TEST(dtypes)
{
    CHECK(kd_dtype_size(KD_F32) == 4 && kd_dtype_size(KD_F64) == 8 && kd_dtype_size(KD_I32) == 4);
    CHECK(kd_dtype_size(KD_I64) == 8 && kd_dtype_size(KD_U8) == 1);
    CHECK(kd_dtype_size((kd_dtype)0) == 0 && kd_dtype_size((kd_dtype)6) == 0 && kd_dtype_size((kd_dtype)-1) == 0);
    CHECK_STR(kd_dtype_name(KD_F32), "f32");
    CHECK_STR(kd_dtype_name(KD_F64), "f64");
    CHECK_STR(kd_dtype_name(KD_I32), "i32");
    CHECK_STR(kd_dtype_name(KD_I64), "i64");
    CHECK_STR(kd_dtype_name(KD_U8), "u8");
    CHECK_STR(kd_dtype_name((kd_dtype)99), "?");
}

TEST(create)
{
    kd_tensor *x = NULL;
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, SHAPE(3, 4, 5)));
    CHECK(kd_tensor_rank(x) == 3 && kd_tensor_count(x) == 60 && kd_tensor_contiguous(x) == 1);
    CHECK(kd_tensor_size(x, 0) == 3 && kd_tensor_size(x, 2) == 5 && kd_tensor_size(x, 3) == 0);
    CHECK(kd_tensor_stride(x, 0) == 20 && kd_tensor_stride(x, 1) == 5 && kd_tensor_stride(x, 2) == 1);
    CHECK((uintptr_t)kd_tensor_data(x) % 64 == 0);
    for (size_t i = 0; i < 60; i++) CHECK(kd_tensor_f32(x)[i] == 0);
    kd_tensor_free(x);

    CHECK_OK(kd_tensor_create(&x, NULL, KD_I64, 0, NULL));
    CHECK(kd_tensor_rank(x) == 0 && kd_tensor_count(x) == 1 && kd_tensor_item(x) == 0);
    kd_tensor_free(x);
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, SHAPE(0, SIZE_MAX, SIZE_MAX)));
    CHECK(kd_tensor_count(x) == 0 && kd_tensor_contiguous(x));
    kd_tensor_free(x);
    kd_tensor_free(NULL);
}

TEST(create_refuses)
{
    kd_tensor *x = (kd_tensor *)&x;
    const size_t nine[9] = { 1, 1, 1, 1, 1, 1, 1, 1, 1 };
    CHECK_STATUS(kd_tensor_create(NULL, NULL, KD_F32, 0, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_tensor_create(&x, NULL, KD_F32, 2, NULL), KD_ERR_ARG);
    CHECK(x == NULL);
    CHECK_STATUS(kd_tensor_create(&x, NULL, (kd_dtype)77, SHAPE(1)), KD_ERR_DTYPE);
    CHECK_ERROR_HAS("77");
    CHECK_STATUS(kd_tensor_create(&x, NULL, KD_F32, 9, nine), KD_ERR_LIMIT);
    CHECK_STATUS(kd_tensor_create(&x, NULL, KD_F32, SHAPE(SIZE_MAX, 2)), KD_ERR_OVERFLOW);
    CHECK_ERROR_HAS("[18446744073709551615, 2]");
    CHECK_STATUS(kd_tensor_create(&x, NULL, KD_F64, SHAPE(SIZE_MAX / 8)), KD_ERR_OVERFLOW);
    CHECK_STATUS(kd_tensor_create(&x, NULL, KD_F32, SHAPE((size_t)1 << 60)), KD_ERR_NOMEM);
    CHECK_ERROR_HAS("kd_tensor_create: out of memory");
}

TEST(wrap)
{
    float data[24];
    kd_tensor *x = NULL, *c = NULL;
    for (int i = 0; i < 24; i++) data[i] = (float)i;
    /* [2, 3] from a [4, 6] matrix, backwards along the columns */
    CHECK_OK(kd_tensor_wrap(&x, NULL, KD_F32, SHAPE(2, 3), (const ptrdiff_t[]){ 12, -2 }, data + 5));
    CHECK(!kd_tensor_contiguous(x) && at(x, INDEX(0, 0)) == 5 && at(x, INDEX(1, 2)) == 13);
    CHECK_OK(kd_tensor_clone(&c, x));
    const float want[6] = { 5, 3, 1, 17, 15, 13 };
    CHECK(kd_tensor_contiguous(c) && memcmp(kd_tensor_f32(c), want, sizeof want) == 0);
    kd_tensor_free(c);
    kd_tensor_free(x);
    /* one row seen three times */
    CHECK_OK(kd_tensor_wrap(&x, NULL, KD_F32, SHAPE(3, 2), (const ptrdiff_t[]){ 0, 1 }, data + 1));
    CHECK_OK(kd_tensor_clone(&c, x));
    CHECK(kd_tensor_f32(c)[4] == 1 && kd_tensor_f32(c)[5] == 2);
    CHECK_STATUS(kd_tensor_copy(x, c), KD_ERR_ARG);
    CHECK_ERROR_HAS("share memory along axis 0");
    kd_tensor_free(c);
    kd_tensor_free(x);

    CHECK_OK(kd_tensor_wrap(&x, NULL, KD_F32, SHAPE(0, 4), NULL, NULL));
    kd_tensor_free(x);
    CHECK_STATUS(kd_tensor_wrap(&x, NULL, KD_F32, SHAPE(1), NULL, NULL), KD_ERR_ARG);
    CHECK_ERROR_HAS("data is NULL");
    CHECK_STATUS(kd_tensor_wrap(&x, NULL, KD_F32, SHAPE(1), NULL, (char *)data + 2), KD_ERR_ARG);
    CHECK_ERROR_HAS("not aligned");
    CHECK_STATUS(kd_tensor_wrap(&x, NULL, KD_F32, SHAPE(3), (const ptrdiff_t[]){ PTRDIFF_MAX / 4 }, data), KD_ERR_OVERFLOW);
    CHECK_STATUS(kd_tensor_wrap(&x, NULL, KD_F32, SHAPE(2, 2), (const ptrdiff_t[]){ PTRDIFF_MIN / 4, -1 }, data),
                 KD_ERR_OVERFLOW);
    CHECK(x == NULL);
}

TEST(views)
{
    kd_tensor *x = counting(KD_F32, SHAPE(4, 6)), *v = NULL, *w = NULL;
    CHECK_OK(kd_tensor_view(&v, x));
    CHECK(kd_tensor_data(v) == kd_tensor_data(x));
    kd_tensor_free(v);

    CHECK_OK(kd_tensor_reshape(&v, x, SHAPE(2, SIZE_MAX, 3)));
    CHECK(kd_tensor_size(v, 1) == 4 && at(v, INDEX(1, 2, 1)) == 19);
    kd_tensor_free(v);
    CHECK_STATUS(kd_tensor_reshape(&v, x, SHAPE(5, 5)), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("24 elements do not fill [5, 5]");
    CHECK_STATUS(kd_tensor_reshape(&v, x, SHAPE(5, SIZE_MAX)), KD_ERR_SHAPE);
    CHECK_STATUS(kd_tensor_reshape(&v, x, SHAPE(0, SIZE_MAX)), KD_ERR_SHAPE);
    CHECK_STATUS(kd_tensor_reshape(&v, x, SHAPE(SIZE_MAX, SIZE_MAX)), KD_ERR_ARG);
    CHECK_STATUS(kd_tensor_reshape(&v, x, 9, INDEX(1, 1, 1, 1, 1, 1, 1, 4, 6)), KD_ERR_LIMIT);
    CHECK_STATUS(kd_tensor_reshape(&v, x, SHAPE(SIZE_MAX / 2, 4)), KD_ERR_SHAPE);

    CHECK_OK(kd_tensor_slice(&v, x, 1, 1, 6, 2));
    CHECK(kd_tensor_size(v, 1) == 3 && at(v, INDEX(2, 2)) == 17 && !kd_tensor_contiguous(v));
    CHECK_STATUS(kd_tensor_reshape(&w, v, SHAPE(12)), KD_ERR_ARG);
    CHECK_ERROR_HAS("not contiguous");
    kd_tensor_free(v);
    CHECK_OK(kd_tensor_slice(&v, x, 0, 3, 3, SIZE_MAX));
    CHECK(kd_tensor_count(v) == 0);
    kd_tensor_free(v);
    CHECK_OK(kd_tensor_slice(&v, x, 0, 1, 4, SIZE_MAX));
    CHECK(kd_tensor_size(v, 0) == 1 && at(v, INDEX(0, 5)) == 11);
    kd_tensor_free(v);
    CHECK_STATUS(kd_tensor_slice(&v, x, 2, 0, 1, 1), KD_ERR_ARG);
    CHECK_STATUS(kd_tensor_slice(&v, x, 0, 3, 2, 1), KD_ERR_ARG);
    CHECK_STATUS(kd_tensor_slice(&v, x, 0, 3, 5, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("[3, 5) of axis 0 of x [4, 6]");
    CHECK_STATUS(kd_tensor_slice(&v, x, 0, 0, 1, 0), KD_ERR_ARG);

    CHECK_OK(kd_tensor_transpose(&v, x, NULL));
    CHECK(kd_tensor_size(v, 0) == 6 && at(v, INDEX(5, 1)) == 11);
    CHECK_STATUS(kd_tensor_transpose(&w, v, INDEX(0, 0)), KD_ERR_ARG);
    CHECK_STATUS(kd_tensor_transpose(&w, v, INDEX(0, 2)), KD_ERR_ARG);
    CHECK_ERROR_HAS("[0, 2] is not an order of 2 axes");
    CHECK(w == NULL);
    kd_tensor_free(v);
    kd_tensor_free(x);
}

/* Random strided layouts, each copied into another, element by element against kd_tensor_get. */
TEST(copy_layouts)
{
    kdtest_rand r = { 5 };
    static const kd_dtype dtypes[] = { KD_F32, KD_F64, KD_I32, KD_I64, KD_U8 };
    for (int round = 0; round < (kdtest_full() ? 3000 : 300); round++) {
        size_t rank = kdtest_size(&r, 0, 5), shape[5], perm[5], big[5], source[5];
        kd_dtype from = dtypes[kdtest_size(&r, 0, 4)], to = dtypes[kdtest_size(&r, 0, 4)];
        for (size_t i = 0; i < rank; i++) {
            shape[i] = kdtest_size(&r, round % 10 ? 1 : 0, round % 7 ? 5 : 40 / rank);
            perm[i] = i;
        }
        for (size_t i = rank; i-- > 1;) {
            size_t k = kdtest_size(&r, 0, i), swap = perm[i];
            perm[i] = perm[k];
            perm[k] = swap;
        }
        /* the source is a slice with steps of a transpose of a larger array */
        for (size_t i = 0; i < rank; i++) big[perm[i]] = 2 * shape[i] + 1;
        kd_tensor *base = NULL, *turned = NULL, *cut[6] = { NULL }, *dst = NULL, *twin = NULL;
        CHECK_OK(kd_tensor_create(&base, NULL, from, rank, big));
        for (size_t i = 0; i < kd_tensor_count(base); i++) {
            ref_index(rank, big, i, source);
            CHECK_OK(kd_tensor_set(base, source, (double)kdtest_size(&r, 0, 255)));
        }
        CHECK_OK(kd_tensor_transpose(&turned, base, perm));
        CHECK_OK(kd_tensor_view(&cut[0], turned));
        for (size_t i = 0; i < rank; i++) CHECK_OK(kd_tensor_slice(&cut[i + 1], cut[i], i, 1, 2 * shape[i] + 1, 2));
        kd_tensor *src = cut[rank];
        CHECK_OK(kd_tensor_create(&dst, NULL, to, rank, shape));
        CHECK_OK(kd_tensor_copy(dst, src));
        CHECK_OK(kd_tensor_clone(&twin, src));
        size_t wrong = 0;
        for (size_t i = 0; i < kd_tensor_count(dst); i++) {
            ref_index(rank, shape, i, source);
            wrong += at(dst, source) != at(src, source) || at(twin, source) != at(src, source);
        }
        CHECK_MSG(wrong == 0, "round %d: %s to %s, rank %zu: %zu elements differ", round, kd_dtype_name(from), kd_dtype_name(to),
                  rank, wrong);
        /* and back into the holes of the larger array */
        CHECK_OK(kd_tensor_fill(dst, 7));
        CHECK_OK(kd_tensor_copy(src, dst));
        for (size_t i = 0; i < kd_tensor_count(dst); i++) {
            ref_index(rank, shape, i, source);
            if (!CHECK(at(src, source) == 7)) break;
        }
        kd_tensor_free(twin);
        kd_tensor_free(dst);
        for (size_t i = 0; i <= rank; i++) kd_tensor_free(cut[i]);
        kd_tensor_free(turned);
        kd_tensor_free(base);
    }
}

TEST(copy_large_on_threads)
{
    static const size_t shapes[][3] = { { 1, 1, 300000 }, { 300, 1, 1000 }, { 61, 67, 71 }, { 100000, 3, 1 }, { 3, 100000, 1 } };
    for (size_t s = 0; s < 5; s++) {
        for (uint32_t threads = 1; threads <= 4; threads += 3) {
            kd_context *ctx = kdtest_context(threads, KD_ISA_AUTO);
            kd_tensor *x = NULL, *v = NULL, *y = NULL;
            CHECK_OK(kd_tensor_create(&x, ctx, KD_I32, 3, shapes[s]));
            int32_t *data = kd_tensor_data(x);
            const size_t n = kd_tensor_count(x), a = shapes[s][0], b = shapes[s][1], c = shapes[s][2];
            for (size_t i = 0; i < n; i++) data[i] = (int32_t)i;
            CHECK_OK(kd_tensor_transpose(&v, x, NULL));
            CHECK_OK(kd_tensor_clone(&y, v));
            const int32_t *got = kd_tensor_data(y);
            size_t wrong = 0;
            for (size_t i = 0; i < c; i++)
                for (size_t j = 0; j < b; j++)
                    for (size_t k = 0; k < a; k++) wrong += got[(i * b + j) * a + k] != data[(k * b + j) * c + i];
            CHECK_MSG(wrong == 0, "[%zu, %zu, %zu] on %u threads: %zu wrong", a, b, c, (unsigned)threads, wrong);
            kd_tensor_free(y);
            kd_tensor_free(v);
            kd_tensor_free(x);
            kd_context_free(ctx);
        }
    }
}

TEST(copy_overlap)
{
    kd_tensor *x = counting(KD_F32, SHAPE(5, 5)), *t = NULL, *a = NULL, *b = NULL;
    CHECK_OK(kd_tensor_transpose(&t, x, NULL));
    CHECK_OK(kd_tensor_copy(x, t));   /* in place */
    CHECK(at(x, INDEX(1, 3)) == 16 && at(x, INDEX(3, 1)) == 8 && at(x, INDEX(4, 4)) == 24);
    CHECK_OK(kd_tensor_copy(x, x));
    CHECK(at(x, INDEX(1, 3)) == 16);
    CHECK_OK(kd_tensor_slice(&a, x, 0, 0, 4, 1));
    CHECK_OK(kd_tensor_slice(&b, x, 0, 1, 5, 1));
    CHECK_OK(kd_tensor_copy(b, a));   /* every row moves down */
    CHECK(at(x, INDEX(4, 0)) == 3 && at(x, INDEX(0, 0)) == 0 && at(x, INDEX(1, 0)) == 0);
    kd_tensor_free(a);
    kd_tensor_free(b);
    kd_tensor_free(t);
    kd_tensor_free(x);
}

TEST(conversion)
{
    static const struct { kd_dtype from, to; double in, out; } cases[] = {
        { KD_F32, KD_I32, 2147483520, 2147483520 },
        { KD_F32, KD_I32, -2147483648.0, -2147483648.0 },
        { KD_F64, KD_I32, 2147483647.9, 2147483647 },
        { KD_F64, KD_I32, -2147483648.9, -2147483648.0 },
        { KD_F64, KD_U8, 255.99, 255 },
        { KD_F64, KD_U8, -0.99, 0 },
        { KD_F32, KD_I32, -1.9, -1 },
        { KD_F32, KD_I64, 1e18, 999999984306749440.0 },
        { KD_F64, KD_F32, 0.1, 0.1f },
        { KD_F64, KD_F32, 1e300, INFINITY },
        { KD_F64, KD_F32, 16777217, 16777216 },
        { KD_I64, KD_I32, -5, -5 },
        { KD_I32, KD_U8, 200, 200 },
        { KD_F64, KD_I64, -9223372036854775808.0, -9223372036854775808.0 },
        { KD_F64, KD_F32, -0.0, -0.0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kd_tensor *x = NULL, *y = NULL;
        CHECK_OK(kd_tensor_create(&x, NULL, cases[i].from, 0, NULL));
        CHECK_OK(kd_tensor_create(&y, NULL, cases[i].to, 0, NULL));
        CHECK_OK(kd_tensor_set(x, NULL, cases[i].in));
        CHECK_OK(kd_tensor_copy(y, x));
        CHECK_MSG(kd_tensor_item(y) == cases[i].out && signbit(kd_tensor_item(y)) == signbit(cases[i].out), "case %zu: %.17g", i,
                  kd_tensor_item(y));
        kd_tensor_free(x);
        kd_tensor_free(y);
    }
    /* i64 to f32 rounds once: through double this one would go down */
    kd_tensor *x = NULL, *y = NULL;
    CHECK_OK(kd_tensor_create(&x, NULL, KD_I64, 0, NULL));
    CHECK_OK(kd_tensor_create(&y, NULL, KD_F32, 0, NULL));
    *(int64_t *)kd_tensor_data(x) = 0x1000001000000001;
    CHECK_OK(kd_tensor_copy(y, x));
    CHECK(kd_tensor_f32(y)[0] == 0x1.000002p60f);
    kd_tensor_free(x);
    kd_tensor_free(y);
}

TEST(conversion_refuses)
{
    static const struct { kd_dtype from, to; double in; const char *text; } cases[] = {
        { KD_F32, KD_I32, 2147483648.0, "element [1, 2] is 2.14748365e+09, beyond i32" },
        { KD_F64, KD_I32, -2147483649.0, "beyond i32" },
        { KD_F32, KD_I32, NAN, "is nan, beyond i32" },
        { KD_F32, KD_I64, INFINITY, "is inf, beyond i64" },
        { KD_F64, KD_I64, 9223372036854775808.0, "beyond i64" },
        { KD_F32, KD_U8, -1, "is -1, beyond u8" },
        { KD_F64, KD_U8, 256, "beyond u8" },
        { KD_I64, KD_I32, 2147483648.0, "element [1, 2] is 2147483648, beyond i32" },
        { KD_I32, KD_U8, 256, "beyond u8" },
        { KD_I32, KD_U8, -1, "beyond u8" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kd_tensor *x = NULL, *y = NULL;
        CHECK_OK(kd_tensor_create(&x, NULL, cases[i].from, SHAPE(2, 3)));
        CHECK_OK(kd_tensor_create(&y, NULL, cases[i].to, SHAPE(2, 3)));
        CHECK_OK(kd_tensor_fill(y, 9));
        CHECK_OK(kd_tensor_set(x, INDEX(1, 2), cases[i].in));
        CHECK_STATUS(kd_tensor_copy(y, x), KD_ERR_RANGE);
        CHECK_ERROR_HAS(cases[i].text);
        CHECK_MSG(at(y, INDEX(0, 0)) == 9 && at(y, INDEX(1, 2)) == 9, "case %zu wrote", i);
        if (cases[i].from == KD_F64) {
            CHECK_STATUS(kd_tensor_fill(y, cases[i].in), KD_ERR_RANGE);
            CHECK_STATUS(kd_tensor_set(y, INDEX(0, 0), cases[i].in), KD_ERR_RANGE);
            CHECK(at(y, INDEX(0, 0)) == 9);
        }
        kd_tensor_free(x);
        kd_tensor_free(y);
    }
}

TEST(copy_refuses)
{
    kd_tensor *x = counting(KD_F32, SHAPE(2, 3)), *y = counting(KD_F32, SHAPE(3, 2)), *z = counting(KD_F32, SHAPE(6));
    double v = 1;
    CHECK_STATUS(kd_tensor_copy(x, y), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("dst [2, 3], src [3, 2]");
    CHECK_STATUS(kd_tensor_copy(x, z), KD_ERR_SHAPE);
    CHECK_STATUS(kd_tensor_copy(NULL, x), KD_ERR_ARG);
    CHECK_STATUS(kd_tensor_copy(x, NULL), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_tensor_copy: src is NULL");
    CHECK_STATUS(kd_tensor_get(x, INDEX(1, 3), &v), KD_ERR_RANGE);
    CHECK_ERROR_HAS("index 3 of axis 1 of x [2, 3]");
    CHECK(isnan(v));
    CHECK_STATUS(kd_tensor_get(x, NULL, &v), KD_ERR_ARG);
    CHECK_STATUS(kd_tensor_get(x, INDEX(0, 0), NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_tensor_set(x, INDEX(2, 0), 0), KD_ERR_RANGE);
    CHECK_STATUS(kd_tensor_set(NULL, INDEX(0), 0), KD_ERR_ARG);
    CHECK_STATUS(kd_tensor_fill(NULL, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_tensor_clone(NULL, x), KD_ERR_ARG);
    CHECK(isnan(kd_tensor_item(x)));
    CHECK_ERROR_HAS("kd_tensor_item: x [2, 3] has 6 elements, not one");
    CHECK(kd_tensor_f32(NULL) == NULL && kd_tensor_data(NULL) == NULL && kd_tensor_rank(NULL) == 0 && kd_tensor_count(NULL) == 0);
    CHECK(kd_tensor_dtype(NULL) == 0 && kd_tensor_size(NULL, 0) == 0 && kd_tensor_stride(NULL, 0) == 0 &&
          !kd_tensor_contiguous(NULL));
    CHECK(isnan(kd_tensor_item(NULL)));
    kd_tensor_free(x);
    kd_tensor_free(y);
    kd_tensor_free(z);
    x = counting(KD_I32, SHAPE(1));
    CHECK(kd_tensor_f32(x) == NULL);
    CHECK_ERROR_HAS("x is i32, not f32");
    kd_tensor_free(x);
}

TEST(fill)
{
    kd_tensor *x = NULL, *v = NULL;
    CHECK_OK(kd_tensor_create(&x, NULL, KD_U8, SHAPE(3, 700)));
    CHECK_OK(kd_tensor_slice(&v, x, 1, 0, 700, 2));
    CHECK_OK(kd_tensor_fill(v, 255.7));
    const uint8_t *data = kd_tensor_data(x);
    size_t wrong = 0;
    for (size_t i = 0; i < 2100; i++) wrong += data[i] != (i % 2 ? 0 : 255);
    CHECK(wrong == 0);
    kd_tensor_free(v);
    kd_tensor_free(x);
}

static void check_format(kd_tensor *x, const char *want)
{
    char text[2048], small[11];
    size_t n = kd_tensor_format(x, text, sizeof text);
    CHECK_STR(text, want);
    CHECK(n == strlen(want));
    CHECK(kd_tensor_format(x, NULL, 0) == n);
    CHECK(kd_tensor_format(x, small, sizeof small) == n);
    CHECK(strlen(small) == (n < 10 ? n : 10) && strncmp(small, want, 10) == 0);
    kd_tensor_free(x);
}

TEST(format)
{
    kd_tensor *x, *t;
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, 0, NULL));
    CHECK_OK(kd_tensor_set(x, NULL, 3.14159265));
    check_format(x, "f32 []\n3.142");
    x = counting(KD_F32, SHAPE(2, 3));
    CHECK_OK(kd_tensor_transpose(&t, x, NULL));
    check_format(t, "f32 [3, 2]\n[[0, 3],\n [1, 4],\n [2, 5]]");
    check_format(x, "f32 [2, 3]\n[[0, 1, 2],\n [3, 4, 5]]");
    check_format(counting(KD_I64, SHAPE(6)), "i64 [6]\n[0, 1, 2, 3, 4, 5]");
    check_format(counting(KD_U8, SHAPE(7)), "u8 [7]\n[0, 1, 2, ..., 4, 5, 6]");
    check_format(counting(KD_I32, SHAPE(2, 1, 2)), "i32 [2, 1, 2]\n[[[0, 1]],\n [[2, 3]]]");
    check_format(counting(KD_F64, SHAPE(8, 8)),
                 "f64 [8, 8]\n[[0, 1, 2, ..., 5, 6, 7],\n [8, 9, 10, ..., 13, 14, 15],\n [16, 17, 18, ..., 21, 22, 23],\n"
                 " ...,\n [40, 41, 42, ..., 45, 46, 47],\n [48, 49, 50, ..., 53, 54, 55],\n [56, 57, 58, ..., 61, 62, 63]]");
    check_format(counting(KD_F32, SHAPE(2, 2, 2)), "f32 [2, 2, 2]\n[[[0, 1],\n  [2, 3]],\n [[4, 5],\n  [6, 7]]]");
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, SHAPE(0, 3)));
    check_format(x, "f32 [0, 3]\n[]");
    static float odd[5] = { 1e-7f, -12345678.0f, NAN, -INFINITY, 0.1f };
    CHECK_OK(kd_tensor_wrap(&x, NULL, KD_F32, SHAPE(5), NULL, odd));
    check_format(x, "f32 [5]\n[1e-07, -1.235e+07, nan, -inf, 0.1]");
    CHECK(kd_tensor_format(NULL, NULL, 0) == 0);
    CHECK_ERROR_HAS("kd_tensor_format: x is NULL");
}

TEST(context_outlives_its_owner)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    kd_tensor *x = NULL, *v = NULL, *c = NULL;
    CHECK_OK(kd_tensor_create(&x, a.ctx, KD_F32, SHAPE(4, 4)));
    CHECK_OK(kd_tensor_transpose(&v, x, NULL));
    CHECK_OK(kd_tensor_clone(&c, v));
    kd_tensor_free(c);
    kd_tensor_free(v);
    kd_tensor_free(x);
    kdtest_alloc_end(&a);
}

/* Every allocation of every call fails once. */
TEST(out_of_memory)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    kd_tensor *x = NULL, *v = NULL;
    CHECK_OK(kd_tensor_create(&x, a.ctx, KD_F32, SHAPE(3, 4)));
    float data[2];
#define FAILS(call)                                                                                        \
    for (size_t k = 1;; k++) {                                                                             \
        v = (kd_tensor *)&v;                                                                               \
        a.fail_at = a.calls + k;                                                                           \
        kd_status status = (call);                                                                         \
        int reached = a.calls >= a.fail_at;                                                                \
        a.fail_at = 0;                                                                                     \
        if (!reached) {                                                                                    \
            CHECK_STATUS(status, KD_OK);                                                                   \
            CHECK_MSG(k > 1, "%s allocates nothing", #call);                                               \
            kd_tensor_free(v);                                                                             \
            break;                                                                                         \
        }                                                                                                  \
        CHECK_STATUS(status, KD_ERR_NOMEM);                                                                \
        CHECK_ERROR_HAS("out of memory");                                                                  \
        CHECK(v == NULL);                                                                                  \
    }
    FAILS(kd_tensor_create(&v, a.ctx, KD_F32, SHAPE(100)))
    FAILS(kd_tensor_wrap(&v, a.ctx, KD_F32, SHAPE(2), NULL, data))
    FAILS(kd_tensor_view(&v, x))
    FAILS(kd_tensor_reshape(&v, x, SHAPE(12)))
    FAILS(kd_tensor_slice(&v, x, 0, 0, 2, 1))
    FAILS(kd_tensor_transpose(&v, x, NULL))
    FAILS(kd_tensor_clone(&v, x))
    kd_tensor_free(x);
    kdtest_alloc_end(&a);
}

TEST(freed_is_an_error)
{
    /* Memory that is no tensor is refused by its mark; a header that was freed lost it. */
    static uint64_t junk[64];
    kd_tensor *y = NULL;
    CHECK_STATUS(kd_tensor_view(&y, (kd_tensor *)(void *)junk), KD_ERR_ARG);
    CHECK_ERROR_HAS("x is not a tensor, or was freed");
    kd_tensor_free((kd_tensor *)(void *)junk);
}
