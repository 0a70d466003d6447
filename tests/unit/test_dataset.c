/* test_dataset.c - data sets over memory, subsets, and from IDX, CSV and CIFAR files good and bad.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "kdtest_file.h"
#include "base/base.h"
#include <stdlib.h>

/* ---- over memory ------------------------------------------------------------------------------------------ */

TEST(wrap)
{
    uint8_t items[5][2][3][1];
    for (int i = 0; i < 30; i++) ((uint8_t *)items)[i] = (uint8_t)i;
    int32_t labels[5] = { 3, 0, -1, 7, 2 };
    kd_dataset *data;
    CHECK_OK(kd_dataset_wrap(&data, NULL, KD_U8, 5, 3, (const size_t[]){ 2, 3, 1 }, items, labels));
    labels[0] = 99;   /* copied */
    CHECK(kd_dataset_count(data) == 5 && kd_dataset_item_rank(data) == 3 && kd_dataset_dtype(data) == KD_U8);
    CHECK(kd_dataset_item_size(data, 0) == 2 && kd_dataset_item_size(data, 1) == 3 && kd_dataset_item_size(data, 2) == 1);
    CHECK(kd_dataset_item_size(data, 3) == 0);
    CHECK(kd_dataset_labels(data)[0] == 3 && kd_dataset_labels(data)[3] == 7);
    CHECK(kd_dataset_classes(data) == 8);
    CHECK(kd_dataset_item(data, 4) == (const void *)items[4]);   /* not copied */
    CHECK(!kd_dataset_item(data, 5));
    CHECK_ERROR_HAS("index: 5, of 5 items");
    kd_dataset_free(data);

    CHECK_OK(kd_dataset_wrap(&data, NULL, KD_U8, 5, 3, (const size_t[]){ 2, 3, 1 }, items, NULL));
    for (int i = 0; i < 5; i++) CHECK(kd_dataset_labels(data)[i] == -1);
    CHECK(kd_dataset_classes(data) == 0);
    kd_dataset_free(data);

    CHECK_OK(kd_dataset_wrap(&data, NULL, KD_U8, 0, 1, (const size_t[]){ 2 }, NULL, NULL));   /* none is allowed */
    CHECK(kd_dataset_count(data) == 0);
    kd_dataset_free(data);
    CHECK_OK(kd_dataset_wrap(&data, NULL, KD_F32, 5, 0, NULL, (float[5]){ 0 }, NULL));   /* scalars */
    CHECK(kd_dataset_item_rank(data) == 0);
    kd_dataset_free(data);
    kd_dataset_free(NULL);
}

TEST(subsets_share_and_outlive)
{
    float items[6][2] = { { 0, 1 }, { 2, 3 }, { 4, 5 }, { 6, 7 }, { 8, 9 }, { 10, 11 } };
    int32_t labels[6] = { 0, 1, 2, 3, 4, 5 };
    kd_dataset *data, *some, *fewer;
    CHECK_OK(kd_dataset_wrap(&data, NULL, KD_F32, 6, 1, (const size_t[]){ 2 }, items, labels));
    kd_dataset_labels(data)[5] = 50;
    CHECK_OK(kd_dataset_subset(&some, data, (const uint32_t[]){ 5, 1, 1, 3 }, 4));
    CHECK_OK(kd_dataset_subset(&fewer, some, (const uint32_t[]){ 3, 0 }, 2));
    kd_dataset_free(data);
    kd_dataset_free(some);
    CHECK(kd_dataset_count(fewer) == 2);
    CHECK(kd_dataset_labels(fewer)[0] == 3 && kd_dataset_labels(fewer)[1] == 50);
    CHECK(((const float *)kd_dataset_item(fewer, 0))[1] == 7 && ((const float *)kd_dataset_item(fewer, 1))[0] == 10);
    CHECK_STATUS(kd_dataset_subset(&some, fewer, (const uint32_t[]){ 0, 2 }, 2), KD_ERR_RANGE);
    CHECK_ERROR_HAS("number 1 is 2, of 2 items");
    CHECK_OK(kd_dataset_subset(&some, fewer, NULL, 0));
    CHECK(kd_dataset_count(some) == 0);
    kd_dataset_free(some);
    kd_dataset_free(fewer);
}

TEST(wrong_arguments)
{
    static float x[40];
    const size_t shape[8] = { 2, 2, 1, 1, 1, 1, 1, 1 }, none[] = { 2, 0 }, huge[] = { SIZE_MAX / 2, 3 };
    kd_dataset *data = (void *)1;
    CHECK_STATUS(kd_dataset_wrap(NULL, NULL, KD_F32, 2, 2, shape, x, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_dataset_wrap(&data, NULL, KD_I64, 2, 2, shape, x, NULL), KD_ERR_DTYPE);
    CHECK_ERROR_HAS("i64");
    CHECK(!data);
    CHECK_STATUS(kd_dataset_wrap(&data, NULL, KD_F32, 2, 2, shape, NULL, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_dataset_wrap(&data, NULL, KD_F32, 2, 2, NULL, x, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_dataset_wrap(&data, NULL, KD_F32, 2, 2, shape, (char *)x + 2, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_dataset_wrap(&data, NULL, KD_F32, 2, 8, shape, x, NULL), KD_ERR_LIMIT);
    CHECK_STATUS(kd_dataset_wrap(&data, NULL, KD_F32, 2, 2, none, x, NULL), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("[2, 0]");
    CHECK_STATUS(kd_dataset_wrap(&data, NULL, KD_F32, 2, 2, huge, x, NULL), KD_ERR_OVERFLOW);
    CHECK_STATUS(kd_dataset_wrap(&data, NULL, KD_U8, SIZE_MAX / 2, 1, shape, x, NULL), KD_ERR_LIMIT);
    CHECK_STATUS(kd_dataset_subset(&data, NULL, NULL, 0), KD_ERR_ARG);
    CHECK(!kd_dataset_item(NULL, 0) && kd_dataset_count(NULL) == 0 && kd_dataset_item_rank(NULL) == 0);
    CHECK(kd_dataset_item_size(NULL, 0) == 0 && !kd_dataset_labels(NULL) && kd_dataset_classes(NULL) == 0);
}

/* ---- IDX ----------------------------------------------------------------------------------------------------- */

static kdtest_bytes bytes;

static const char *idx(const char *name, uint8_t type, size_t rank, const size_t *sizes, size_t data_bytes)
{
    bytes.size = 0;
    kdtest_put(&bytes, (const uint8_t[]){ 0, 0, type, (uint8_t)rank }, 4);
    for (size_t i = 0; i < rank; i++) kdtest_put_be(&bytes, sizes[i], 4);
    for (size_t i = 0; i < data_bytes; i++) kdtest_put_be(&bytes, i * 7 % 251, 1);
    return kdtest_write_bytes(name, &bytes);
}

TEST(idx_files)
{
    const size_t images[] = { 4, 3, 2 }, labels[] = { 4 }, flat[] = { 4, 3 }, colour[] = { 2, 2, 2, 3 };
    kd_dataset *data;
    const char *x = idx("x.idx", 8, 3, images, 24), *y = idx("y.idx", 8, 1, labels, 4);
    CHECK_OK(kd_dataset_open_idx(&data, NULL, x, y));
    CHECK(kd_dataset_count(data) == 4 && kd_dataset_item_rank(data) == 3 && kd_dataset_dtype(data) == KD_U8);
    CHECK(kd_dataset_item_size(data, 0) == 3 && kd_dataset_item_size(data, 1) == 2 && kd_dataset_item_size(data, 2) == 1);
    CHECK(((const uint8_t *)kd_dataset_item(data, 1))[5] == 11 * 7);
    CHECK(kd_dataset_labels(data)[3] == 21 && kd_dataset_classes(data) == 22);
    kd_dataset_free(data);

    CHECK_OK(kd_dataset_open_idx(&data, NULL, idx("x.idx", 8, 2, flat, 12), NULL));
    CHECK(kd_dataset_item_rank(data) == 1 && kd_dataset_item_size(data, 0) == 3 && kd_dataset_labels(data)[0] == -1);
    kd_dataset_free(data);
    CHECK_OK(kd_dataset_open_idx(&data, NULL, idx("x.idx", 0x0d, 4, colour, 96), NULL));
    CHECK(kd_dataset_item_rank(data) == 3 && kd_dataset_item_size(data, 2) == 3 && kd_dataset_dtype(data) == KD_F32);
    kd_dataset_free(data);
}

static void idx_fails(const char *x, const char *y, kd_status status, const char *part)
{
    kd_dataset *data = (void *)1;
    size_t fds = kdtest_fds();
    CHECK_STATUS(kd_dataset_open_idx(&data, NULL, x, y), status);
    CHECK_ERROR_HAS("kd_dataset_open_idx: ");
    CHECK_ERROR_HAS(part);
    CHECK(!data && kdtest_fds() == fds);
}

TEST(bad_idx_files)
{
    const size_t images[] = { 4, 3, 2 }, huge[] = { 0xffffffff, 28, 28 }, one[] = { 24 }, five[] = { 4, 1, 2, 3, 1 };
    char good[512];   /* paths are in buffers used in turn */
    snprintf(good, sizeof good, "%s", idx("good.idx", 8, 3, images, 24));
    idx_fails(idx("a.idx", 8, 3, images, 23), NULL, KD_ERR_TRUNCATED, "a.idx");
    idx_fails(idx("a.idx", 8, 3, images, 25), NULL, KD_ERR_FORMAT, "a.idx");
    idx_fails(idx("a.idx", 8, 3, huge, 4096), NULL, KD_ERR_TRUNCATED, "a.idx");
    idx_fails(idx("a.idx", 10, 3, images, 24), NULL, KD_ERR_FORMAT, "type code");
    idx_fails(idx("a.idx", 12, 3, images, 96), NULL, KD_ERR_DTYPE, "u8 or f32, not i32");
    idx_fails(idx("a.idx", 8, 1, one, 24), NULL, KD_ERR_SHAPE, "[24]");
    idx_fails(idx("a.idx", 8, 5, five, 24), NULL, KD_ERR_SHAPE, "[4, 1, 2, 3, 1]");
    idx_fails(good, idx("l.idx", 8, 1, (const size_t[]){ 3 }, 3), KD_ERR_SHAPE, "labels [3] for 4 items");
    idx_fails(good, idx("l.idx", 8, 2, (const size_t[]){ 2, 2 }, 4), KD_ERR_SHAPE, "labels [2, 2]");
    idx_fails(good, idx("l.idx", 12, 1, (const size_t[]){ 4 }, 16), KD_ERR_DTYPE, "labels are u8, not i32");
    idx_fails(good, "/nonexistent/labels", KD_ERR_IO, "/nonexistent/labels");
    idx_fails("/nonexistent/images", NULL, KD_ERR_IO, "/nonexistent/images");
    idx_fails(kdtest_write("g.idx", "\x1f\x8b\x08\x00", 4), NULL, KD_ERR_FORMAT, "decompress");
    kd_dataset *data;
    CHECK_STATUS(kd_dataset_open_idx(&data, NULL, NULL, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_dataset_open_idx(NULL, NULL, good, NULL), KD_ERR_ARG);
    const size_t empty[] = { 3, 0, 2 };
    CHECK_STATUS(kd_dataset_open_idx(&data, NULL, idx("a.idx", 8, 3, empty, 0), NULL), KD_ERR_SHAPE);
}

/* ---- CSV ------------------------------------------------------------------------------------------------------ */

static const char *csv(const char *text) { return kdtest_write("t.csv", text, strlen(text)); }

TEST(csv_files)
{
    kd_dataset *data;
    CHECK_OK(kd_dataset_open_csv(&data, NULL, csv("1,2.5,0\n3,4,2\n\n-5,6e1,-1\n"), NULL));
    CHECK(kd_dataset_count(data) == 3 && kd_dataset_item_rank(data) == 1 && kd_dataset_item_size(data, 0) == 2);
    static const float want[3][2] = { { 1, 2.5f }, { 3, 4 }, { -5, 60 } };
    for (size_t i = 0; i < 3; i++) CHECK(memcmp(kd_dataset_item(data, i), want[i], sizeof want[i]) == 0);
    CHECK(kd_dataset_labels(data)[0] == 0 && kd_dataset_labels(data)[1] == 2 && kd_dataset_labels(data)[2] == -1);
    kd_dataset_free(data);

    kd_csv_desc d;
    kd_csv_desc_init(&d, sizeof d);
    d.label_column = 1;
    d.separator = ';';
    d.skip_lines = 1;
    CHECK_OK(kd_dataset_open_csv(&data, NULL, csv("a;b;c\n1;9;2\n3;8;4\n"), &d));
    static const float middle[2][2] = { { 1, 2 }, { 3, 4 } };
    for (size_t i = 0; i < 2; i++) CHECK(memcmp(kd_dataset_item(data, i), middle[i], sizeof middle[i]) == 0);
    CHECK(kd_dataset_labels(data)[0] == 9 && kd_dataset_labels(data)[1] == 8);
    kd_dataset_free(data);

    d.label_column = KD_CSV_NO_LABEL;
    CHECK_OK(kd_dataset_open_csv(&data, NULL, csv("a;b;c\n1;9;2\n3;8;4\n"), &d));
    CHECK(kd_dataset_item_size(data, 0) == 3 && kd_dataset_labels(data)[1] == -1);
    kd_dataset_free(data);
}

static void csv_fails(const char *text, int64_t column, kd_status status, const char *part)
{
    kd_csv_desc d;
    kd_csv_desc_init(&d, sizeof d);
    d.label_column = column;
    kd_dataset *data = (void *)1;
    CHECK_STATUS(kd_dataset_open_csv(&data, NULL, csv(text), &d), status);
    CHECK_ERROR_HAS("kd_dataset_open_csv: ");
    CHECK_ERROR_HAS(part);
    CHECK(!data);
}

TEST(bad_csv_files)
{
    csv_fails("1,2,0\n1,x,0\n", -1, KD_ERR_FORMAT, "line 2, column 2");
    csv_fails("1,2,0\n1,2\n", -1, KD_ERR_FORMAT, "line 2");
    csv_fails("1,2,0\n1,2,0.5\n", -1, KD_ERR_FORMAT, "row 2 of the data, column 3: 0.5 is no class label");
    csv_fails("1,2,0\n1,2,-2\n", -1, KD_ERR_FORMAT, "-2 is no class label");
    csv_fails("1,2,0\n1,2,3e9\n", -1, KD_ERR_FORMAT, "no class label");
    csv_fails("1,2,0\n", 3, KD_ERR_ARG, "label_column: 3, of 3 columns");
    csv_fails("1,2,0\n", -2, KD_ERR_ARG, "label_column");
    csv_fails("1\n2\n", -1, KD_ERR_SHAPE, "no other");
    csv_fails("", -1, KD_ERR_FORMAT, "t.csv");
    kd_dataset *data;
    CHECK_STATUS(kd_dataset_open_csv(&data, NULL, NULL, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_dataset_open_csv(&data, NULL, "/nonexistent/x.csv", NULL), KD_ERR_IO);
}

/* ---- CIFAR ------------------------------------------------------------------------------------------------------- */

static const char *cifar(const char *name, size_t label_bytes, size_t records, size_t cut, uint8_t first_label)
{
    size_t record = label_bytes + 3072, n = records * record - cut;
    uint8_t *file = malloc(records * record + 1);
    for (size_t r = 0; r < records; r++)
        for (size_t i = 0; i < record; i++)
            file[r * record + i] =
                (uint8_t)(i < label_bytes ? (r ? r % 10 + i * 7 : first_label) : (r * 31 + (i - label_bytes) * 3) % 256);
    const char *path = kdtest_write(name, file, n);
    free(file);
    return path;
}

/* Records that do not fit the buffer at once, over two files; each pixel where it belongs. */
TEST(cifar_files)
{
    const char *paths[] = { cifar("a.bin", 1, 70, 0, 9), cifar("b.bin", 1, 3, 0, 4) };
    kd_dataset *data;
    CHECK_OK(kd_dataset_open_cifar(&data, NULL, paths, 2, KD_CIFAR_10));
    CHECK(kd_dataset_count(data) == 73 && kd_dataset_item_rank(data) == 3 && kd_dataset_dtype(data) == KD_U8);
    CHECK(kd_dataset_item_size(data, 0) == 32 && kd_dataset_item_size(data, 1) == 32 && kd_dataset_item_size(data, 2) == 3);
    for (size_t n = 0; n < 73; n++) {
        size_t r = n < 70 ? n : n - 70, wrong = 0;
        CHECK(kd_dataset_labels(data)[n] == (r ? (int32_t)(r % 10) : n ? 4 : 9));
        const uint8_t *item = kd_dataset_item(data, n);
        for (size_t p = 0; p < 1024; p++)
            for (size_t c = 0; c < 3; c++) wrong += item[p * 3 + c] != (r * 31 + (c * 1024 + p) * 3) % 256;
        CHECK(!wrong);
    }
    kd_dataset_free(data);

    paths[0] = cifar("c.bin", 2, 4, 0, 5);
    CHECK_OK(kd_dataset_open_cifar(&data, NULL, paths, 1, KD_CIFAR_100_FINE));
    CHECK(kd_dataset_labels(data)[0] == 5 && kd_dataset_labels(data)[2] == 9);
    kd_dataset_free(data);
    CHECK_OK(kd_dataset_open_cifar(&data, NULL, paths, 1, KD_CIFAR_100_COARSE));
    CHECK(kd_dataset_labels(data)[0] == 5 && kd_dataset_labels(data)[2] == 2);
    kd_dataset_free(data);
}

static void cifar_fails(const char *path, uint32_t variant, kd_status status, const char *part)
{
    kd_dataset *data = (void *)1;
    size_t fds = kdtest_fds();
    CHECK_STATUS(kd_dataset_open_cifar(&data, NULL, &path, 1, variant), status);
    CHECK_ERROR_HAS(part);
    CHECK(!data && kdtest_fds() == fds);
}

TEST(bad_cifar_files)
{
    cifar_fails(cifar("d.bin", 1, 3, 1, 0), KD_CIFAR_10, KD_ERR_TRUNCATED,
                "d.bin: ends 3072 bytes into record 2 of 3073 bytes, at byte 9218");
    cifar_fails(cifar("d.bin", 2, 3, 0, 0), KD_CIFAR_10, KD_ERR_TRUNCATED, "into record 3");   /* the other variant */
    cifar_fails(kdtest_write("d.bin", "", 0), KD_CIFAR_10, KD_ERR_TRUNCATED, "d.bin");
    cifar_fails(cifar("d.bin", 1, 3, 0, 10), KD_CIFAR_10, KD_ERR_RANGE, "record 0 has label 10, of 10 classes (byte 0)");
    cifar_fails(cifar("d.bin", 2, 3, 0, 100), KD_CIFAR_100_FINE, KD_ERR_RANGE,
                "d.bin: record 0 has label 100, of 100 classes (byte 1)");
    cifar_fails(cifar("d.bin", 2, 3, 0, 20), KD_CIFAR_100_COARSE, KD_ERR_RANGE, "label 20");
    cifar_fails(kdtest_write("d.bin", "\x1f\x8b\x08\x00", 4), KD_CIFAR_10, KD_ERR_FORMAT, "decompress");
    cifar_fails("/nonexistent/x.bin", KD_CIFAR_10, KD_ERR_IO, "/nonexistent/x.bin");
    cifar_fails(cifar("d.bin", 1, 1, 0, 0), 0, KD_ERR_ARG, "variant");
    cifar_fails(NULL, KD_CIFAR_10, KD_ERR_ARG, "number 0 is NULL");
    kd_dataset *data;
    CHECK_STATUS(kd_dataset_open_cifar(&data, NULL, NULL, 1, KD_CIFAR_10), KD_ERR_ARG);
    CHECK_STATUS(kd_dataset_open_cifar(&data, NULL, (const char *const[]){ "x" }, 0, KD_CIFAR_10), KD_ERR_ARG);
}

/* In the second buffer of records. */
TEST(cifar_label_outside_far_inside)
{
    uint8_t *file = calloc(70, 3074);
    file[66 * 3074 + 1] = 107;
    cifar_fails(kdtest_write("far.bin", file, 70 * 3074), KD_CIFAR_100_FINE, KD_ERR_RANGE,
                "far.bin: record 66 has label 107, of 100 classes (byte 202885)");
    free(file);
}

/* ---- memory and the file system --------------------------------------------------------------------------------------- */

static kd_status open_all(kd_context *ctx, const char *const paths[4])
{
    kd_dataset *data, *part = NULL;
    kd_status status = kd_dataset_open_idx(&data, ctx, paths[0], paths[1]);
    if (status == KD_OK) status = kd_dataset_subset(&part, data, (const uint32_t[]){ 1, 0 }, 2);
    kd_dataset_free(data);
    kd_dataset_free(part);
    if (status != KD_OK) return status;
    status = kd_dataset_open_csv(&data, ctx, paths[2], NULL);
    kd_dataset_free(data);
    if (status != KD_OK) return status;
    status = kd_dataset_open_cifar(&data, ctx, &paths[3], 1, KD_CIFAR_10);
    kd_dataset_free(data);
    return status;
}

TEST(out_of_memory)
{
    const char *paths[4] = { idx("m.idx", 8, 3, (const size_t[]){ 4, 3, 2 }, 24), idx("n.idx", 8, 1, (const size_t[]){ 4 }, 4),
                             csv("1,2\n3,4\n"), cifar("e.bin", 1, 2, 0, 0) };
    for (int persistent = 0; persistent < 2; persistent++)
        for (size_t fail = 1; fail < 60; fail++) {
            kdtest_alloc a;
            kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
            a.fail_at = a.calls + fail;
            a.persistent = persistent;
            kd_status status = open_all(a.ctx, paths);
            a.fail_at = 0;
            kdtest_alloc_end(&a);
            if (status == KD_OK) break;
            CHECK_STATUS(status, KD_ERR_NOMEM);
            CHECK(fail < 59);
        }
}

static int reads_left;
static int64_t (*true_read)(int fd, void *out, size_t n, uint64_t offset);
static int64_t failing_read(int fd, void *out, size_t n, uint64_t offset)
{
    return reads_left-- > 0 ? true_read(fd, out, n, offset) : 0;   /* the file became shorter */
}

TEST(files_that_shrink_while_read)
{
    const char *path = cifar("f.bin", 1, 70, 0, 0);
    true_read = kd__io_table.read_at;
    kd__io_table.read_at = failing_read;
    for (int n = 0; n < 3; n++) {   /* the head, the first 64 records, the rest */
        reads_left = n;
        cifar_fails(path, KD_CIFAR_10, KD_ERR_TRUNCATED, "f.bin");
    }
    reads_left = 3;
    kd_dataset *data;
    CHECK_OK(kd_dataset_open_cifar(&data, NULL, &path, 1, KD_CIFAR_10));
    kd_dataset_free(data);
    kd__io_table.read_at = true_read;
}
