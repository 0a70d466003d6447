/* kdtest_file.c - files for tests.
 * SPDX-License-Identifier: MIT */
#include "kdtest_file.h"
#include <dirent.h>
#include <stdlib.h>

void kdtest_put(kdtest_bytes *b, const void *data, size_t n)
{
    if (n > sizeof b->data - b->size) {
        CHECK_MSG(0, "kdtest_put: no room");
        return;
    }
    if (n) memcpy(b->data + b->size, data, n);
    b->size += n;
}

void kdtest_put_text(kdtest_bytes *b, const char *text) { kdtest_put(b, text, strlen(text)); }

void kdtest_put_le(kdtest_bytes *b, uint64_t value, size_t width)
{
    for (size_t i = 0; i < width; i++) kdtest_put(b, &(unsigned char){ (unsigned char)(value >> 8 * i) }, 1);
}

void kdtest_put_be(kdtest_bytes *b, uint64_t value, size_t width)
{
    for (size_t i = width; i-- > 0;) kdtest_put(b, &(unsigned char){ (unsigned char)(value >> 8 * i) }, 1);
}

const char *kdtest_path(const char *name)
{
    static char paths[8][640];
    static size_t turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof *paths, "%s/%s", kdtest_tmp(), name);
    return path;
}

const char *kdtest_repo(const char *name)
{
    static char paths[8][1024];
    static size_t turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof *paths, "%s/%s", KD_TEST_ROOT, name);
    return path;
}

const char *kdtest_write(const char *name, const void *data, size_t n)
{
    const char *path = kdtest_path(name);
    remove(path);   /* some file systems flush a file that is cut and written again */
    FILE *f = fopen(path, "wb");
    int ok = f != NULL;
    if (f) {
        ok = n == 0 || fwrite(data, 1, n, f) == n;
        ok = fclose(f) == 0 && ok;
    }
    CHECK_MSG(ok, "cannot write %s", path);
    return path;
}

const char *kdtest_write_bytes(const char *name, const kdtest_bytes *b)
{
    return kdtest_write(name, b->data, b->size);
}

unsigned char *kdtest_slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    unsigned char *data = NULL;
    *n = 0;
    if (f && fseek(f, 0, SEEK_END) == 0) {
        long size = ftell(f);
        data = size >= 0 ? malloc((size_t)size + 1) : NULL;
        rewind(f);
        if (data && fread(data, 1, (size_t)size, f) == (size_t)size) *n = (size_t)size;
    }
    if (f) fclose(f);
    CHECK_MSG(data != NULL, "cannot read %s", path);
    return data;
}

static size_t count_entries(const char *dir, const char *part)
{
    size_t n = 0;
    DIR *d = opendir(dir);
    if (!d) return 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;) n += !part || strstr(e->d_name, part) != NULL;
    closedir(d);
    return n;
}

size_t kdtest_fds(void) { return count_entries("/proc/self/fd", NULL); }

size_t kdtest_count_files(const char *part) { return count_entries(kdtest_tmp(), part); }

void kdtest_damage(const void *data, size_t n, size_t step, void (*each)(const char *path, char what, size_t at, void *arg),
                   void *arg)
{
    unsigned char *copy = malloc(n + 1);
    if (!CHECK(copy != NULL)) return;
    memcpy(copy, data, n);
    if (kdtest_full()) step = 1;
    for (size_t length = 0; length < n; length += step) each(kdtest_write("damaged", copy, length), 'p', length, arg);
    for (size_t bit = 0; bit < 8 * n; bit += step) {
        copy[bit / 8] ^= (unsigned char)(1u << bit % 8);
        each(kdtest_write("damaged", copy, n), 'b', bit, arg);
        copy[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    free(copy);
}
