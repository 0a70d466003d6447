/* fuzz_images.c - any bytes as the image of a folder, and as pixels of RandAugment's ops.
 * SPDX-License-Identifier: MIT */
#include "data/data_internal.h"
#include "fuzz.h"
#include <stdlib.h>

static void touch(const uint8_t *p, size_t n)
{
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < n; i++) sum = (uint8_t)(sum + p[i]);
}

/* The first two bytes choose the size it is brought to, 0: its own. */
int kdfuzz_ppm(const uint8_t *data, size_t size)
{
    kd_dataset *images;
    kd_folder_desc how;
    if (size < 2) return 0;
    kd_folder_desc_init(&how, sizeof how);
    how.height = data[0] % 32, how.width = data[1] % 32;
    if (!how.height || !how.width) how.height = how.width = 0;
    fuzz_begin(data + 2, size - 2);
    if (kd_dataset_open_folder(&images, NULL, "mem", &how) == KD_OK) {
        const size_t height = kd_dataset_item_size(images, 0), width = kd_dataset_item_size(images, 1);
        FUZZ_MUST(kd_dataset_count(images) == 1 && kd_dataset_classes(images) == 1 && kd_dataset_item_size(images, 2) == 3);
        FUZZ_MUST(how.height ? height == how.height && width == how.width : height && width && height * width <= size);
        touch(kd_dataset_item(images, 0), height * width * 3);
        kd_dataset_free(images);
    }
    fuzz_end();
    return 0;
}

/* Bytes: which op, level, sign, height, width, what comes in from outside; the pixels, repeated. */
int kdfuzz_randaugment(const uint8_t *data, size_t size)
{
    if (size < 9) return 0;
    const size_t height = 1 + data[3] % 24, width = 1 + data[4] % 24, bytes = height * width * 3;
    uint8_t *image = malloc(bytes), *spare = malloc(bytes);   /* of their own, so that reading past an end is seen */
    FUZZ_MUST(image && spare);
    for (size_t i = 0; i < bytes; i++) image[i] = data[8 + i % (size - 8)];
    kd__randaugment_op(data[0] % KD__RANDAUGMENT_OPS, data[1] / 25.5, data[2] & 1, image, spare, height, width, data + 5);
    touch(image, bytes);
    free(image);
    free(spare);
    return 0;
}
