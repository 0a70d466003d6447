/* test_golden_augment.c - RandAugment's ops and the resizing of images against Pillow's own pixels.
 * SPDX-License-Identifier: MIT */
#include "golden_augment.h"
#include "data/data_internal.h"
#include "kdtest_file.h"
#include "probe.h"
#include <stdlib.h>
#include <sys/stat.h>

enum { MOST = 40 * 40 * 3 };

static const uint8_t fill[3] = { 124, 116, 104 };

/* As in gen_augment.py. */
static void picture(uint8_t *out, size_t height, size_t width, uint32_t stream)
{
    const double part[3] = { 60, 90, 40 };
    for (size_t i = 0; i < height * width * 3; i++) {
        int x = (int)(i / 3 % width), y = (int)(i / 3 / width);
        const int base[3] = { x * 9 + y * 5, 230 - x * 4 + y * 3, x * y % 97 + 60 };
        double v = floor(base[i % 3] + number(stream, (uint32_t)i) * part[i % 3]);
        out[i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
    }
}

static int byte_at(const char *hex, size_t i)
{
    const char text[3] = { hex[2 * i], hex[2 * i + 1], 0 };
    return (int)strtol(text, NULL, 16);
}

TEST(ops_are_pillows)
{
    static uint8_t image[MOST], spare[MOST];
    for (size_t k = 0; k < sizeof op_cases / sizeof *op_cases; k++) {
        size_t h = op_cases[k].height, w = op_cases[k].width, other = 0;
        picture(image, h, w, op_cases[k].op + 1);
        kd__randaugment_op(op_cases[k].op, op_cases[k].level, op_cases[k].negative, image, spare, h, w, fill);
        for (size_t i = 0; i < h * w * 3; i++) other += image[i] != byte_at(op_cases[k].hex, i);
        CHECK_MSG(!other, "%s at %g, negative %d: %zu of %zu bytes differ", op_cases[k].name, op_cases[k].level, op_cases[k].negative,
                  other, h * w * 3);
    }
    CHECK(op_cases[sizeof op_cases / sizeof *op_cases - 1].op == KD__RANDAUGMENT_OPS - 1);
    picture(image, 9, 11, 1);   /* Posterize to no bits: black */
    kd__randaugment_op(4, 10, false, image, spare, 9, 11, fill);
    for (size_t i = 0; i < 9 * 11 * 3; i++) CHECK(image[i] == 0);
}

TEST(images_too_small_for_neighbours)
{
    uint8_t image[6], spare[6];
    for (uint32_t op = 0; op < KD__RANDAUGMENT_OPS; op++) {
        for (size_t i = 0; i < 6; i++) image[i] = (uint8_t)(40 * i + 20);
        kd__randaugment_op(op, 9, op & 1, image, spare, op & 2 ? 2 : 1, op & 2 ? 1 : 2, fill);
    }
}

/* Pillow sums in fixed point of 22 bits, we in double, both round twice: the first rounding may fall on the other side of a half,
 * and then the second too, so a byte may be off by one. */
TEST(sizes_are_pillows)
{
    static uint8_t image[MOST];
    for (size_t k = 0; k < sizeof size_cases / sizeof *size_cases; k++) {
        size_t h = size_cases[k].height, w = size_cases[k].width, th = size_cases[k].to_height, tw = size_cases[k].to_width;
        static kdtest_bytes file;
        char head[64], name[64];
        picture(image, h, w, 50 + (uint32_t)k);
        file.size = 0;
        snprintf(head, sizeof head, "P6 %zu %zu 255\n", w, h);
        kdtest_put_text(&file, head);
        kdtest_put(&file, image, h * w * 3);
        snprintf(name, sizeof name, "sizes%zu", k);
        CHECK(mkdir(kdtest_path(name), 0777) == 0);
        snprintf(name, sizeof name, "sizes%zu/only", k);
        CHECK(mkdir(kdtest_path(name), 0777) == 0);
        snprintf(name, sizeof name, "sizes%zu/only/a.ppm", k);
        kdtest_write_bytes(name, &file);
        snprintf(name, sizeof name, "sizes%zu", k);
        kd_folder_desc d;
        kd_folder_desc_init(&d, sizeof d);
        d.height = th;
        d.width = tw;
        kd_dataset *data;
        if (!CHECK_OK(kd_dataset_open_folder(&data, NULL, kdtest_path(name), &d))) continue;
        const uint8_t *got = kd_dataset_item(data, 0);
        size_t off = 0, worst = 0;
        for (size_t i = 0; i < th * tw * 3; i++) {
            size_t by = (size_t)abs((int)got[i] - byte_at(size_cases[k].hex, i));
            off += by > 0;
            worst = by > worst ? by : worst;
        }
        CHECK_MSG(worst <= 1 && off * 20 <= th * tw * 3, "%zu x %zu to %zu x %zu: %zu bytes differ, by up to %zu", h, w, th, tw, off,
                  worst);
        kd_dataset_free(data);
    }
}
