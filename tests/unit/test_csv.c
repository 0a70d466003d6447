/* test_csv.c - numbers in text.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"
#include "kdtest_file.h"
#include <stdlib.h>

static const char *csv(const char *text) { return kdtest_write("a.csv", text, strlen(text)); }

static void loads(const char *text, uint32_t separator, size_t skip, size_t rows, size_t columns, const float *values)
{
    kd_tensor *t;
    if (!CHECK_OK(kd_csv_load(&t, NULL, csv(text), separator, skip))) return;
    CHECK(kd_tensor_dtype(t) == KD_F32 && kd_tensor_rank(t) == 2);
    CHECK_MSG(kd_tensor_size(t, 0) == rows && kd_tensor_size(t, 1) == columns, "[%zu, %zu] from %s",
              kd_tensor_size(t, 0), kd_tensor_size(t, 1), text);
    for (size_t i = 0; i < rows * columns; i++) CHECK(kd_tensor_f32(t)[i] == values[i]);
    kd_tensor_free(t);
}

TEST(layouts)
{
    static const float six[] = { 1, 2.5f, -3e2f, 4, 5, 0.1f };
    loads("1,2.5,-3e2\n4,5,0.1\n", ',', 0, 2, 3, six);
    loads("1,2.5,-3e2\n4,5,0.1", ',', 0, 2, 3, six);
    loads("1,2.5,-3e2\r\n4,5,0.1\r\n", ',', 0, 2, 3, six);
    loads("\n\n1 ,\t2.5, -3e2 \n\n  \n4,5,0.1\n\n", ',', 0, 2, 3, six);
    loads("a,b,c\n\"x\",,z\n1,2.5,-3e2\n4,5,0.1\n", ',', 2, 2, 3, six);
    loads("\xef\xbb\xbf" "1,2.5,-3e2\n4,5,0.1\n", ',', 0, 2, 3, six);
    loads("1;2.5;-3e2\n4;5;0.1\n", ';', 0, 2, 3, six);
    loads("1\t2.5\t-3e2\n4\t5\t0.1\n", '\t', 0, 2, 3, six);
    loads("  1   2.5 \t -3e2\n4 5 0.1  \n \n", ' ', 0, 2, 3, six);
    loads("1  2.5 -3e2 \r\n4 5 0.1\r\n\r\n", ' ', 0, 2, 3, six);
    loads("1 2.5 -3e2\n4 5 0.1 ", ' ', 0, 2, 3, six);
    loads("1\n2.5\n-3e2\n4\n5\n0.1\n", ',', 0, 6, 1, six);
    loads("1", ',', 0, 1, 1, six);
}

/* Longer than one piece, with rows of every length around its edge. */
TEST(long_files)
{
    for (size_t columns = 1; columns <= 4001; columns = columns * 5 + 1) {
        size_t rows = 200000 / columns / 4 + 1, n = 0, cap = rows * columns * 16 + rows;
        char *text = malloc(cap);
        float *want = malloc(rows * columns * sizeof *want);
        if (!CHECK(text && want)) return;
        kdtest_rand r = { columns };
        for (size_t i = 0; i < rows * columns; i++) {
            want[i] = (float)kdtest_normal(&r);
            n += (size_t)snprintf(text + n, cap - n, "%.9g%c", (double)want[i], (i + 1) % columns ? ',' : '\n');
        }
        kd_tensor *t;
        if (CHECK_OK(kd_csv_load(&t, NULL, kdtest_write("long.csv", text, n), ',', 0))) {
            CHECK(kd_tensor_size(t, 0) == rows && kd_tensor_size(t, 1) == columns);
            CHECK(memcmp(kd_tensor_f32(t), want, rows * columns * sizeof *want) == 0);
        }
        kd_tensor_free(t);
        free(want);
        free(text);
    }
}

TEST(skipping_long_lines)
{
    size_t n = 200000;
    char *text = malloc(n + 16);
    if (!CHECK(text != NULL)) return;
    memset(text, 'x', n);
    memcpy(text + n, "\n1,2\n", 5);
    kd_tensor *t;
    if (CHECK_OK(kd_csv_load(&t, NULL, kdtest_write("long.csv", text, n + 5), ',', 1)))
        CHECK(kd_tensor_count(t) == 2);
    kd_tensor_free(t);
    CHECK_STATUS(kd_csv_load(&t, NULL, kdtest_path("long.csv"), ',', 0), KD_ERR_FORMAT);
    CHECK_ERROR_HAS("line 1, column 1");
    CHECK_ERROR_HAS("more than 1024 bytes");
    free(text);
}

TEST(bad_text)
{
    static const struct {
        const char *text;
        uint32_t separator;
        size_t skip;
        kd_status want;
        const char *error;
    } cases[] = {
        { "", ',', 0, KD_ERR_FORMAT, "no rows" },
        { "\n \n\r\n", ',', 0, KD_ERR_FORMAT, "no rows" },
        { "1,2\n", ',', 1, KD_ERR_FORMAT, "no rows after 1" },
        { "1,2\n", ',', 99, KD_ERR_FORMAT, "no rows after 99" },
        { "1,2\n3\n", ',', 0, KD_ERR_FORMAT, "line 2, column 1 (offset 4): fewer columns" },
        { "1,2\n3,4,5\n", ',', 0, KD_ERR_FORMAT, "line 2, column 3 (offset 8): more columns" },
        { "1,2\n\n3,x\n", ',', 0, KD_ERR_FORMAT, "line 3, column 2: \"x\" is not a number" },
        { "a,b\n3,x\n", ',', 1, KD_ERR_FORMAT, "line 2, column 2: \"x\" is not a number" },
        { "1,,2\n", ',', 0, KD_ERR_FORMAT, "line 1, column 2 (offset 2): an empty field" },
        { "1,2,\n", ',', 0, KD_ERR_FORMAT, "line 1, column 3 (offset 4): an empty field" },
        { ",1\n", ',', 0, KD_ERR_FORMAT, "line 1, column 1 (offset 0): an empty field" },
        { "1\t\t2\n", '\t', 0, KD_ERR_FORMAT, "line 1, column 2 (offset 2): an empty field" },
        { "1\t2\t\n", '\t', 0, KD_ERR_FORMAT, "line 1, column 3 (offset 4): an empty field" },
        { "1 2\n", ',', 0, KD_ERR_FORMAT, "\"1 2\" is not" },
        { "\"1\",2\n", ',', 0, KD_ERR_FORMAT, "not a number" },
        { "1,nan\n", ',', 0, KD_ERR_FORMAT, "not a number" },
        { "1,inf\n", ',', 0, KD_ERR_FORMAT, "not a number" },
        { "1,0x10\n", ',', 0, KD_ERR_FORMAT, "not a number" },
        { "1;2\n", ',', 0, KD_ERR_FORMAT, "not a number" },
        { "1,2\r3,4\r", ',', 0, KD_ERR_FORMAT, "not a number" },
        { "1,1e39\n", ',', 0, KD_ERR_RANGE, "line 1, column 2: 1e39 does not fit an f32" },
        { "1,-1e999999999999\n", ',', 0, KD_ERR_RANGE, "does not fit" },
        { "\x1f\x8b\x08", ',', 0, KD_ERR_FORMAT, "gzip" },
        { "version https://git-lfs.github.com/spec/v1\n", ',', 0, KD_ERR_FORMAT, "git lfs pull" },
        { "<!DOCTYPE html>", ',', 0, KD_ERR_FORMAT, "HTML" },
    };
    size_t fds = kdtest_fds();
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        kdtest_alloc a;
        kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
        kd_tensor *t = (kd_tensor *)1;
        kd_status got = kd_csv_load(&t, a.ctx, csv(cases[i].text), cases[i].separator, cases[i].skip);
        CHECK_MSG(got == cases[i].want, "case %zu: %s (%s)", i, kd_status_name(got), kd_last_error());
        CHECK_MSG(strstr(kd_last_error(), cases[i].error) != NULL, "case %zu: \"%s\" lacks \"%s\"", i,
                  kd_last_error(), cases[i].error);
        CHECK_ERROR_HAS("a.csv: ");
        CHECK(t == NULL);
        kdtest_alloc_end(&a);
    }
    kd_tensor *t;
    static const uint32_t separators[] = { 0, '\n', '\r', '0', '.', '-', '+', 'e', 'E', 128, 0x20ac };
    for (size_t i = 0; i < KD_COUNT(separators); i++)
        CHECK_STATUS(kd_csv_load(&t, NULL, csv("1,2"), separators[i], 0), KD_ERR_ARG);
    CHECK_STATUS(kd_csv_load(&t, NULL, kdtest_write("zero", "1\0,2\n", 5), ',', 0), KD_ERR_FORMAT);
    CHECK_STATUS(kd_csv_load(NULL, NULL, "x", ',', 0), KD_ERR_ARG);
    CHECK_STATUS(kd_csv_load(&t, NULL, NULL, ',', 0), KD_ERR_ARG);
    CHECK_STATUS(kd_csv_load(&t, NULL, kdtest_path("nothing"), ',', 0), KD_ERR_IO);
    CHECK(kdtest_fds() == fds);
}

/* A short first row and a wide later one, and the other way round, cannot ask for rows x columns of memory. */
TEST(ragged_files_ask_for_nothing)
{
    size_t n = 1u << 20;
    char *text = malloc(n + 2);
    if (!CHECK(text != NULL)) return;
    for (int wide_first = 0; wide_first < 2; wide_first++) {
        for (size_t i = 0; i < n; i++) text[i] = i % 2 == 0 ? '1' : (i < n / 2) == wide_first ? ',' : '\n';
        kdtest_alloc a;
        kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
        kd_tensor *t;
        CHECK_STATUS(kd_csv_load(&t, a.ctx, kdtest_write("ragged.csv", text, n), ',', 0), KD_ERR_FORMAT);
        CHECK_ERROR_HAS("columns than in the first row");
        CHECK(a.live_bytes < 200000);
        kdtest_alloc_end(&a);
    }
    free(text);
}

/* A file that another process changes between the first look and the second. */
static size_t reads;
static const char *second;
static int64_t (*real_read_at)(int fd, void *out, size_t bytes, uint64_t offset);

static int64_t changing_read_at(int fd, void *out, size_t bytes, uint64_t offset)
{
    int64_t n = real_read_at(fd, out, bytes, offset);
    if (++reads > 2 && n > 0) memcpy(out, second + offset, (size_t)n);   /* the first is for the kind of file */
    return n;
}

TEST(a_file_that_changes)
{
    static const char *const texts[] = { "1,2\n3,4\n5,6\n", "1,2\n3,4\n\n\n\n\n" };
    for (int i = 0; i < 2; i++) {
        kd_tensor *t = (kd_tensor *)1;
        const char *path = csv(texts[i]);
        reads = 0;
        second = texts[!i];
        real_read_at = kd__io_table.read_at;
        kd__io_table.read_at = changing_read_at;
        CHECK_STATUS(kd_csv_load(&t, NULL, path, ',', 0), KD_ERR_FORMAT);
        kd__io_table.read_at = real_read_at;
        CHECK_ERROR_HAS("the file changed while it was read");
        CHECK(t == NULL && reads == 3);
    }
}

static void any(const char *path, char what, size_t at, void *arg)
{
    (void)what;
    (void)at;
    kd_tensor *t;
    if (kd_csv_load(&t, arg, path, ',', at % 2) == KD_OK) kd_tensor_free(t);
}

TEST(every_prefix_and_flip)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    static const char text[] = "a,b\n1,2.5\n-3e2,4\r\n5 , 6e-1\n";
    kdtest_damage(text, sizeof text - 1, 1, any, a.ctx);
    kdtest_alloc_end(&a);
}
