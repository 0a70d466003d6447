/* decode_pictures.c - examples/vision/pictures.c from a command line, for check_images.py.
 * SPDX-License-Identifier: MIT
 *
 *     decode_pictures pixels FILE OUT   the pixels to OUT; prints "HEIGHT WIDTH", or what is said of the file and leaves 1
 *     decode_pictures cut FILE          every shorter beginning of it: how many are refused, passed on, read
 *     decode_pictures flip FILE         every byte wrong in two ways: how many are refused, passed on, read as they were, read otherwise */
#include "../../examples/vision/pictures.h"
#include "../../examples/vision/vision.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 1 << 24 };

/* As kd_dataset_open_folder asks: the size, then the pixels.  Copies of the exact size let a sanitizer see what lies beyond. */
static int decode(const char *path, const uint8_t *file, size_t bytes, size_t size[2], uint8_t **rgb)
{
    uint8_t *copy = malloc(bytes ? bytes : 1), *own = copy;
    int known = -1;
    *rgb = NULL;
    if (!copy) abort();
    memcpy(copy, file, bytes);
    if (!bytes) own = copy + 1;
    size[0] = size[1] = 0;
    known = (int)pictures_decode(NULL, path, own, bytes, &size[0], &size[1], NULL);
    if (known > 0 && size[0] * size[1] > MOST) known = -1;
    if (known > 0) {
        if (!(*rgb = malloc(size[0] * size[1] * 3))) abort();
        known = (int)pictures_decode(NULL, path, own, bytes, &size[0], &size[1], *rgb);
    }
    if (known <= 0) {
        free(*rgb);
        *rgb = NULL;
    }
    free(copy);
    return known;
}

static uint8_t *read_all(const char *path, size_t *bytes)
{
    static uint8_t room[1 << 22];
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        exit(2);
    }
    *bytes = fread(room, 1, sizeof room, f);
    fclose(f);
    return room;
}

int main(int argc, char **argv)
{
    size_t bytes, size[2], whole[2], refused = 0, passed = 0, same = 0, other = 0;
    uint8_t *rgb, *want;
    if (argc < 3) return 2;
    uint8_t *file = read_all(argv[2], &bytes);
    int known = decode(argv[2], file, bytes, whole, &want);
    if (!strcmp(argv[1], "pixels")) {
        if (known <= 0) return puts(known ? complaint() : "no picture"), 1;
        FILE *out = argc > 3 ? fopen(argv[3], "wb") : NULL;
        if (!out || fwrite(want, 1, whole[0] * whole[1] * 3, out) != whole[0] * whole[1] * 3 || fclose(out)) return 2;
        printf("%zu %zu\n", whole[0], whole[1]);
        free(want);
        return 0;
    }
    if (known <= 0) return 2;
    int cut = !strcmp(argv[1], "cut");
    for (size_t i = 0; i < bytes * (cut ? 1 : 2); i++) {
        if (!cut) file[i / 2] ^= i % 2 ? 0xff : 1;
        known = decode(argv[2], file, cut ? i : bytes, size, &rgb);
        if (!cut) file[i / 2] ^= i % 2 ? 0xff : 1;
        if (known < 0) refused++;
        else if (!known) passed++;
        else if (!memcmp(size, whole, sizeof size) && !memcmp(rgb, want, size[0] * size[1] * 3)) same++;
        else other++;
        free(rgb);
    }
    if (cut) printf("%zu %zu %zu\n", refused, passed, same + other);
    else printf("%zu %zu %zu %zu\n", refused, passed, same, other);
    free(want);
    return 0;
}
