/* test_dataset_folder.c - folders of images: order, names, PPM and PGM, a decoder, everything that can be wrong.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "kdtest_file.h"
#include "base/base.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[512];

/* A new empty folder to build in. */
static void begin(const char *name)
{
    snprintf(root, sizeof root, "%s", kdtest_path(name));
    CHECK(mkdir(root, 0777) == 0);
}

static void folder(const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", root, name);
    CHECK(mkdir(path, 0777) == 0);
}

static void put(const char *name, const void *bytes, size_t n)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *f = fopen(path, "wb");
    if (CHECK(f != NULL)) CHECK(fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

/* A header and the numbers from `first` on. */
static void image(const char *name, const char *header, size_t pixels, int first)
{
    uint8_t file[4096];
    size_t n = strlen(header);
    memcpy(file, header, n);
    for (size_t i = 0; i < pixels; i++) file[n + i] = (uint8_t)((size_t)first + i);
    put(name, file, n + pixels);
}

TEST(classes_and_images_in_the_order_of_their_names)
{
    begin("order");
    folder("b10");
    folder("b2");
    folder("B");
    folder(".hidden");
    put("readme.txt", "no class", 8);
    image("b2/z.ppm", "P6\n2 1\n255\n", 6, 10);
    image("b2/a", "P6 # a comment\n#another 9 9\n2\t#\n 1 255 ", 6, 20);   /* a name's ending says nothing */
    image("b2/.ignored", "nothing", 0, 0);
    image("b10/x.pgm", "P5 2 1 255\n", 2, 30);
    image("B/1.ppm", "P6#c\n2 1\r255\t", 6, 40);
    kd_dataset *data, *part;
    CHECK_OK(kd_dataset_open_folder(&data, NULL, root, NULL));
    static const uint8_t want[4][6] = { { 40, 41, 42, 43, 44, 45 }, { 30, 30, 30, 31, 31, 31 }, { 20, 21, 22, 23, 24, 25 },
                                        { 10, 11, 12, 13, 14, 15 } };
    static const int32_t labels[4] = { 0, 1, 2, 2 };
    CHECK(kd_dataset_count(data) == 4 && kd_dataset_classes(data) == 3 && kd_dataset_dtype(data) == KD_U8);
    CHECK(kd_dataset_item_rank(data) == 3 && kd_dataset_item_size(data, 0) == 1 && kd_dataset_item_size(data, 1) == 2 &&
          kd_dataset_item_size(data, 2) == 3);
    for (size_t i = 0; i < 4; i++)
        CHECK_MSG(!memcmp(kd_dataset_item(data, i), want[i], 6) && kd_dataset_labels(data)[i] == labels[i], "item %zu", i);
    CHECK(!strcmp(kd_dataset_class_name(data, 0), "B") && !strcmp(kd_dataset_class_name(data, 1), "b10"));
    CHECK_OK(kd_dataset_subset(&part, data, (const uint32_t[]){ 3 }, 1));
    kd_dataset_free(data);
    CHECK(!strcmp(kd_dataset_class_name(part, 2), "b2"));   /* shared */
    CHECK(!kd_dataset_class_name(part, 3) && !kd_dataset_class_name(NULL, 0));
    kd_dataset_free(part);
    uint8_t item = 0;
    CHECK_OK(kd_dataset_wrap(&data, NULL, KD_U8, 1, 0, NULL, &item, NULL));
    CHECK(!kd_dataset_class_name(data, 0));
    kd_dataset_free(data);
}

TEST(many_names_are_sorted)
{
    begin("many");
    folder("c");
    enum { MANY = 300 };
    for (int i = 0; i < MANY; i++) {
        char name[64];
        int n = i * 77 % MANY;
        snprintf(name, sizeof name, "c/%03d", n);
        uint8_t pixel[] = { 'P', '5', ' ', '1', ' ', '1', ' ', '2', '5', '5', '\n', (uint8_t)n };
        put(name, pixel, sizeof pixel);
    }
    kd_dataset *data;
    CHECK_OK(kd_dataset_open_folder(&data, NULL, root, NULL));
    for (size_t i = 0; i < MANY; i++) CHECK(*(const uint8_t *)kd_dataset_item(data, i) == i % 256);
    kd_dataset_free(data);
}

/* ---- a decoder ------------------------------------------------------------------------------------------------ */

typedef struct decoder { size_t asked, filled; } decoder;

/* "XX", height, width, then one number for all pixels; 0 wide: damaged; a number above 200: found to be so later. */
static int32_t decode(void *user, const char *path, const uint8_t *file, size_t bytes, size_t *height, size_t *width, uint8_t *rgb)
{
    decoder *d = user;
    CHECK(strstr(path, root) == path);
    d->asked++;
    if (bytes < 5 || memcmp(file, "XX", 2) != 0) return 0;
    if (!file[3]) return -1;
    if (!rgb) {
        *height = file[2];
        *width = file[3];
        return 1;
    }
    d->filled++;
    if (file[4] > 200) return -1;
    memset(rgb, file[4], *height * *width * 3);
    return 1;
}

static kd_status open_decoded(decoder *d, size_t side)
{
    kd_folder_desc how;
    kd_folder_desc_init(&how, sizeof how);
    how.decode = decode;
    how.decode_user = d;
    how.height = how.width = side;
    kd_dataset *data = (void *)1;
    kd_status status = kd_dataset_open_folder(&data, NULL, root, &how);
    if (status != KD_OK) CHECK(!data);
    else {
        const uint8_t *x = kd_dataset_item(data, 0), *grey = kd_dataset_item(data, 1);
        for (size_t i = 0; i < kd_dataset_item_size(data, 0) * kd_dataset_item_size(data, 1) * 3; i++) CHECK(x[i] == 99 && grey[i] >= 1);
        kd_dataset_free(data);
    }
    return status;
}

TEST(a_decoder_of_the_callers)
{
    begin("decoder");
    folder("c");
    put("c/a", "XX\x02\x03\x63", 5);
    image("c/b", "P5 3 2 255\n", 6, 1);
    decoder d = { 0, 0 };
    CHECK_OK(open_decoded(&d, 0));
    CHECK(d.asked == 4 && d.filled == 1);   /* the first one's size, then each, and its pixels */
    CHECK_OK(open_decoded(&d, 7));          /* a constant stays one when it is resized */
    put("c/c", "XX\x02\x00\x63", 5);
    CHECK_STATUS(open_decoded(&d, 0), KD_ERR_FORMAT);
    CHECK_ERROR_HAS("decoder/c/c: damaged");
    put("c/c", "XX\x02\x03\xff", 5);
    CHECK_STATUS(open_decoded(&d, 0), KD_ERR_FORMAT);
    CHECK_ERROR_HAS("decoder/c/c: damaged");
    put("c/c", "XX\x00\x03\x01", 5);
    CHECK_STATUS(open_decoded(&d, 0), KD_ERR_FORMAT);
    CHECK_ERROR_HAS("0 x 3");
    put("c/c", "YYYYY", 5);
    CHECK_STATUS(open_decoded(&d, 0), KD_ERR_FORMAT);
    CHECK_ERROR_HAS("decoder/c/c: no image");
}

/* ---- what is wrong ------------------------------------------------------------------------------------------------ */

static void fails(const kd_folder_desc *how, kd_status status, const char *part)
{
    kd_dataset *data = (void *)1;
    size_t fds = kdtest_fds();
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    CHECK_STATUS(kd_dataset_open_folder(&data, a.ctx, root, how), status);
    CHECK_ERROR_HAS("kd_dataset_open_folder: ");
    CHECK_ERROR_HAS(part);
    CHECK(!data && kdtest_fds() == fds);
    kdtest_alloc_end(&a);   /* nothing is left */
}

TEST(bad_folders)
{
    begin("bad");
    fails(NULL, KD_ERR_FORMAT, "bad: no classes");
    put("file", "P5 1 1 255\n1", 12);
    fails(NULL, KD_ERR_FORMAT, "bad: no classes");
    folder("c");
    fails(NULL, KD_ERR_FORMAT, "bad/c: a class without images");
    image("c/a.ppm", "P6 2 1 255\n", 6, 0);
    folder("d");
    fails(NULL, KD_ERR_FORMAT, "bad/d: a class without images");
    static const struct { const char *header; size_t pixels; kd_status status; const char *part; } cases[] = {
        { "P6 1 2 255\n", 6, KD_ERR_SHAPE, "bad/d/b.ppm: 2 x 1 pixels, the first image has 1 x 2" },
        { "P6 2 1 255\n", 5, KD_ERR_TRUNCATED, "bad/d/b.ppm: 5 bytes of pixels at byte 11, 1 x 2 pixels are 6" },
        { "P6 2 1 255\n", 7, KD_ERR_FORMAT, "7 bytes of pixels at byte 11" },
        { "P6 2 1 65535\n", 12, KD_ERR_UNSUPPORTED, "bad/d/b.ppm: byte 12: largest value 65535, only 255" },
        { "P6 2 1 15\n", 6, KD_ERR_UNSUPPORTED, "largest value 15" },
        { "P3 2 1 255\n", 6, KD_ERR_FORMAT, "bad/d/b.ppm: no image: neither P6 nor P5 at byte 0" },
        { "", 0, KD_ERR_FORMAT, "no image" },
        { "P6", 0, KD_ERR_FORMAT, "no image" },
        { "P65 2 1 255\n", 6, KD_ERR_FORMAT, "no image" },
        { "P6 x 1 255\n", 6, KD_ERR_FORMAT, "byte 3: no width" },
        { "P6 2 -1 255\n", 6, KD_ERR_FORMAT, "byte 5: no height" },
        { "P6 2 1 255x", 6, KD_ERR_FORMAT, "byte 10: a blank" },
        { "P6 2 1", 0, KD_ERR_TRUNCATED, "byte 6: no largest value" },
        { "P6 2 1 255", 0, KD_ERR_TRUNCATED, "0 bytes of pixels" },
        { "P6 2 # no end", 0, KD_ERR_TRUNCATED, "no height" },
        { "P6 0 1 255\n", 0, KD_ERR_FORMAT, "1 x 0" },
        { "P6 99999999999999999999 1 255\n", 6, KD_ERR_FORMAT, "byte 3: no width below a million" },
        { "P6 70000 1 255\n", 6, KD_ERR_LIMIT, "70000" },
        { "P6 65535 65535 255\n", 6, KD_ERR_TRUNCATED, "12884508675" },
        { "\x89HDF\r\n", 6, KD_ERR_FORMAT, "HDF5" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        image("d/b.ppm", cases[i].header, cases[i].pixels, 0);
        fails(NULL, cases[i].status, cases[i].part);
    }
    image("d/b.ppm", "P6 2 1 255\n", 6, 0);
    kd_dataset *data;
    CHECK_OK(kd_dataset_open_folder(&data, NULL, root, NULL));
    kd_dataset_free(data);
    folder("d/e");
    fails(NULL, KD_ERR_IO, "bad/d/e");   /* a folder where an image should be */

    kd_folder_desc how;
    kd_folder_desc_init(&how, sizeof how);
    how.height = 3;
    fails(&how, KD_ERR_ARG, "height, width: 3 x 0");
    how.width = 70000;
    fails(&how, KD_ERR_ARG, "3 x 70000");
    how.struct_size = 1;
    CHECK_STATUS(kd_dataset_open_folder(&data, NULL, root, &how), KD_ERR_ARG);
    CHECK_STATUS(kd_dataset_open_folder(NULL, NULL, root, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_dataset_open_folder(&data, NULL, NULL, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_dataset_open_folder(&data, NULL, "/nonexistent/folder", NULL), KD_ERR_IO);
    CHECK_ERROR_HAS("/nonexistent/folder: list: ");
}

static int64_t (*true_read)(int fd, void *out, size_t n, uint64_t offset);
static int bad_read;
static int64_t failing_read(int fd, void *out, size_t n, uint64_t offset)
{
    if (bad_read-- > 0) return true_read(fd, out, n, offset);
    errno = EIO;
    return -1;
}

TEST(out_of_memory_and_failing_reads)
{
    begin("memory");
    folder("c");
    folder("d");
    image("c/a", "P6 4 5 255\n", 60, 0);
    image("d/b", "P6 7 3 255\n", 63, 0);
    kd_folder_desc how;
    kd_folder_desc_init(&how, sizeof how);
    how.height = how.width = 4;
    size_t failed = 0;
    for (int persistent = 0; persistent < 2; persistent++)
        for (size_t fail = 1; fail < 60; fail++) {
            kdtest_alloc a;
            kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
            a.fail_at = a.calls + fail;
            a.persistent = persistent;
            kd_dataset *data = (void *)1;
            kd_status status = kd_dataset_open_folder(&data, a.ctx, root, &how);
            a.fail_at = 0;
            if (status != KD_OK) {
                CHECK_STATUS(status, KD_ERR_NOMEM);
                CHECK(!data);
                failed++;
            }
            kd_dataset_free(data);
            kdtest_alloc_end(&a);
            if (status == KD_OK) break;
        }
    CHECK_MSG(failed > 20, "%zu", failed);
    true_read = kd__io_table.read_at;
    kd__io_table.read_at = failing_read;
    for (int n = 0; n < 2; n++) {
        bad_read = n;
        fails(&how, KD_ERR_IO, n ? "memory/d/b" : "memory/c/a");
    }
    kd__io_table.read_at = true_read;
}
