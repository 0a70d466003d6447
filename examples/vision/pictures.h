/* pictures.h - PNG and JPEG for kd_dataset_open_folder, where the program was built with IMAGES=1.
 * SPDX-License-Identifier: MIT */
#ifndef PICTURES_H
#define PICTURES_H
#include <stddef.h>
#include <stdint.h>

/* A kd_decode_fn; what is wrong with a file is said by `complain`, with how many bytes of it were read.  PNG: every kind, 16 bits
 * become 8, grey and palettes RGB, transparency is dropped.  JPEG: grey and colour, not CMYK; EXIF is not read, so nothing is
 * turned. */
int32_t pictures_decode(void *user, const char *path, const uint8_t *file, size_t bytes, size_t *height, size_t *width, uint8_t *rgb);
#endif
