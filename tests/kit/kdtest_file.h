/* kdtest_file.h - files for tests: write bytes, read them back, damage them, look for what was left behind.
 * SPDX-License-Identifier: MIT */
#ifndef KDTEST_FILE_H
#define KDTEST_FILE_H
#include "kdtest.h"

/* Bytes being put together; fixed room, which tests do not exceed. */
typedef struct kdtest_bytes {
    size_t        size;
    unsigned char data[1 << 16];
} kdtest_bytes;
void kdtest_put(kdtest_bytes *b, const void *data, size_t n);
void kdtest_put_text(kdtest_bytes *b, const char *text);
void kdtest_put_le(kdtest_bytes *b, uint64_t value, size_t width);
void kdtest_put_be(kdtest_bytes *b, uint64_t value, size_t width);

/* The path of `name` in kdtest_tmp(); one of eight buffers, used in turn. */
const char *kdtest_path(const char *name);
/* Write a file there; its path. */
const char *kdtest_write(const char *name, const void *data, size_t n);
const char *kdtest_write_bytes(const char *name, const kdtest_bytes *b);
/* The whole file, malloc'd; NULL (and a failed check) if it cannot be read. */
unsigned char *kdtest_slurp(const char *path, size_t *n);
/* A file of the repository: "tests/golden/x". */
const char *kdtest_repo(const char *path);

/* Open descriptors of this process; files in kdtest_tmp() whose name has `part`. */
size_t kdtest_fds(void);
size_t kdtest_count_files(const char *part);

/* Call each(path, what, at, arg) for every prefix of the bytes (what 'p', at: its length), then for every flipped bit
 * ('b', at: its number); in the short form only for every `step`-th. */
void kdtest_damage(const void *data, size_t n, size_t step, void (*each)(const char *path, char what, size_t at, void *arg),
                   void *arg);
#endif
