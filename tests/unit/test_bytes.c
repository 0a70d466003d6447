/* test_bytes.c - byte order, names for error texts, files of other kinds, sorting.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"
#include "kdtest_file.h"
#include <stdlib.h>

TEST(numbers_in_both_orders)
{
    unsigned char p[8] = { 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0 }, q[8];
    CHECK(kd__le32(p) == 0x78563412u && kd__be32(p) == 0x12345678u && kd__le64(p) == 0xf0debc9a78563412u);
    kd__put_le32(q, 0x78563412u);
    CHECK(memcmp(p, q, 4) == 0);
    kd__put_le64(q, 0xf0debc9a78563412u);
    CHECK(memcmp(p, q, 8) == 0);
}

TEST(swapping)
{
    for (size_t width = 1; width <= 8; width *= 2) {
        unsigned char data[1 + 8 * 5], *p = data + 1;   /* not aligned */
        for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)i;
        kd__swap_bytes(p, 5, width);
        for (size_t i = 0; i < 5 * width; i++)
            CHECK(p[i] == (unsigned char)(1 + i / width * width + (width - 1 - i % width)));
        CHECK(5 * width == 40 || p[5 * width] == 1 + 5 * width);
        CHECK(data[0] == 0);
    }
}

/* What a big-endian machine writes, on any machine: more than one piece, and a last one that is not full. */
TEST(writing_swapped)
{
    for (size_t width = 2; width <= 8; width *= 2) {
        size_t n = 10007, size;
        unsigned char *data = malloc(n * width);
        if (!CHECK(data != NULL)) return;
        kdtest_rand r = { width };
        for (size_t i = 0; i < n * width; i++) data[i] = (unsigned char)kdtest_bits(&r);
        kd__writer w;
        const char *path = kdtest_path("swapped");
        CHECK_OK(kd__writer_open(&w, NULL, path));
        CHECK_OK(kd__writer_put_swapped(&w, data, n, width));
        CHECK_OK(kd__writer_commit(&w));
        unsigned char *got = kdtest_slurp(path, &size);
        kd__swap_bytes(data, n, width);
        CHECK(size == n * width && memcmp(got, data, size) == 0);
        free(got);
        free(data);
    }
}

TEST(names_for_error_texts)
{
    char name[200];
    CHECK_STR(kd__show("fc.weight").text, "fc.weight");
    CHECK_STR(kd__show("a\x1b[0m\n\x7f\xc3\xa9").text, "a?[0m??\xc3\xa9");
    for (size_t n = 70; n < 100; n++) {
        memset(name, 'n', n);
        name[n] = 0;
        const char *text = kd__show(name).text;
        CHECK(n > 80 ? strlen(text) == 83 && strcmp(text + 80, "...") == 0 : strcmp(text, name) == 0);
    }
    for (size_t n = 74; n < 82; n++) {   /* never a part of a character */
        memset(name, 'n', n);
        strcpy(name + n, "\xf0\x9f\x98\x80\xf0\x9f\x98\x80\xf0\x9f\x98\x80");
        kd__shown s = kd__show(name);
        CHECK_MSG(kd__utf8_valid(s.text, strlen(s.text)), "%s", s.text);
    }
}

TEST(files_of_other_kinds)
{
    CHECK(kd__foreign_file("", 0) == NULL && kd__foreign_file("anything else", 13) == NULL);
    CHECK(kd__foreign_file("\x1f", 1) == NULL);
    static const struct { const char *head; size_t n; const char *part;
    } cases[] = {
        { "\x1f\x8b\x08", 3, "gzip" },
        { "BZh9", 4, "bzip2" },
        { "\xfd"
          "7zXZ\0",
          6, "xz" },
        { "\x28\xb5\x2f\xfd", 4, "zstd" },
        { "PK\3\4", 4, "zip" },
        { "\x80\x02}", 3, "pickle" },
        { "\x80\x04\x95", 3, "pickle" },
        { "\x93NUMPY\1", 7, ".npy" },
        { "\x89HDF\r\n\x1a\n", 8, "HDF5" },
        { "<!DOCTYPE html>", 15, "HTML" },
        { "<html>", 6, "HTML" },
        { "version https://git-lfs.github.com/spec/v1", 42, "git lfs pull" },
    };
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        const char *what = kd__foreign_file(cases[i].head, cases[i].n);
        CHECK_MSG(what && strstr(what, cases[i].part), "%s: %s", cases[i].part, what ? what : "(nothing)");
    }
}

/* ---- sorting ---------------------------------------------------------------------------------------- */

static const char *name_of(const void *arg, const kd__sort_item *item)
{
    return ((const char *const *)arg)[item->index];
}

TEST(names_in_order)
{
    kdtest_rand r = { 9 };
    for (int round = 0; round < 300; round++) {
        enum { MOST = 200 };
        static char names[MOST][64];
        const char *list[MOST];
        kd__sort_item items[MOST], spare[MOST];
        const kd__sort_item *twice;
        size_t n = kdtest_size(&r, 0, MOST), common = kdtest_size(&r, 0, 30);
        int unique = 1;
        for (size_t i = 0; i < n; i++) {
            size_t length = common + kdtest_size(&r, 0, 20);
            memset(names[i], 'x', common);
            for (size_t k = common; k < length; k++)
                names[i][k] = (char)(round % 3 ? kdtest_size(&r, 1, 255) : kdtest_size(&r, 'a', 'b'));
            names[i][length] = 0;
            list[i] = names[i];
            items[i] = (kd__sort_item){ 0, (uint32_t)i, 0 };
            for (size_t k = 0; k < i; k++) unique = unique && strcmp(names[i], names[k]) != 0;
        }
        CHECK_OK(kd__sort_names(NULL, items, spare, n, name_of, list, &twice));
        CHECK((twice == NULL) == unique);
        if (twice) {
            size_t same = 0;
            for (size_t i = 0; i < n; i++) same += strcmp(names[i], names[twice->index]) == 0;
            CHECK(same > 1);
        }
        for (size_t i = 1; !twice && i < n; i++) CHECK(strcmp(names[items[i - 1].index], names[items[i].index]) < 0);
    }
}

TEST(items_in_order_and_stable)
{
    kdtest_rand r = { 10 };
    for (size_t n = 0; n < 100; n++) {
        kd__sort_item items[100], spare[100];
        for (size_t i = 0; i < n; i++) items[i] = (kd__sort_item){ kdtest_size(&r, 0, n / 3), (uint32_t)i, 0 };
        kd__sort_items(items, spare, n);
        for (size_t i = 1; i < n; i++)
            CHECK(items[i - 1].key < items[i].key ||
                  (items[i - 1].key == items[i].key && items[i - 1].index < items[i].index));
    }
}
