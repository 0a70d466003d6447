/* file.c - reading files and the names in a folder.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include <errno.h>

enum { ONE_CALL = 1 << 30 };   /* bytes per system call: some systems refuse 2 GB */

#ifdef KD_NO_IO
kd__io kd__io_table = { 0 };   /* nobody asks it: opening is refused */
#endif

/* ---- reading ------------------------------------------------------------------------------------------ */

kd_status kd__file_open(kd__file *file, const char *path)
{
    int saved = errno;
    file->fd = -1;
    file->size = 0;
    KD_NEED(path);
    size_t n = strlen(path), cut = n < sizeof file->path ? 0 : n + 1 - sizeof file->path;   /* the end tells more */
    memcpy(file->path, path + cut, n + 1 - cut);
#ifdef KD_NO_IO
    return kd__fail(KD_ERR_UNSUPPORTED, "%s: this libkd has no files (KD_NO_IO)", file->path);
#endif
    file->fd = kd__io_table.open_read(path, &file->size);
    if (file->fd < 0) return kd__fail(KD_ERR_IO, "%s: open: %s (errno %d)", file->path, kd__os_text(errno), errno);
    errno = saved;
    return KD_OK;
}

kd_status kd__file_read(kd__file *file, void *out, size_t bytes, uint64_t offset)
{
    int saved = errno;
    if (offset > file->size || bytes > file->size - offset)
        return kd__fail(KD_ERR_TRUNCATED, "%s: %zu bytes wanted at offset %llu, the file has %llu", file->path, bytes,
                        (unsigned long long)offset, (unsigned long long)file->size);
    unsigned char *to = out;
    while (bytes) {
        int64_t n = kd__io_table.read_at(file->fd, to, KD_MIN(bytes, (size_t)ONE_CALL), offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return kd__fail(KD_ERR_IO, "%s: read at offset %llu: %s (errno %d)", file->path, (unsigned long long)offset,
                            kd__os_text(errno), errno);
        if (n == 0)
            return kd__fail(KD_ERR_TRUNCATED, "%s: the file shrank: it ends at offset %llu, was %llu bytes when opened",
                            file->path, (unsigned long long)offset, (unsigned long long)file->size);
        to += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    errno = saved;
    return KD_OK;
}

void kd__file_close(kd__file *file)
{
    int saved = errno;
    if (file->fd >= 0) kd__io_table.close(file->fd);
    file->fd = -1;
    errno = saved;
}

/* ---- folders ------------------------------------------------------------------------------------------ */

#ifndef KD_NO_IO
static bool keep_name(void *user, const char *name, bool folder)
{
    kd__names *names = user;
    size_t n = strlen(name) + 1;
    if (*name == '.' || (names->folders && !folder)) return true;
    if (kd__grow(names->ctx, &names->text, &names->capacity, names->bytes + n, 1) != KD_OK) return false;
    memcpy(names->text + names->bytes, name, n);
    names->bytes += n;
    names->count++;
    return true;
}

/* The larger of two children goes up. */
static void sift(const char **at, size_t i, size_t count)
{
    const char *name = at[i];
    for (size_t child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && strcmp(at[child], at[child + 1]) < 0) child++;
        if (strcmp(name, at[child]) >= 0) break;
        at[i] = at[child];
    }
    at[i] = name;
}
#endif

kd_status kd__names_read(kd__names *names, kd_context *ctx, const char *path, bool folders)
{
    *names = (kd__names){ .ctx = ctx, .folders = folders };
#ifdef KD_NO_IO
    return kd__fail(KD_ERR_UNSUPPORTED, "%s: this libkd has no files (KD_NO_IO)", path);
#else
    int saved = errno;
    if (kd__io_table.list(path, keep_name, names) != 0)
        return kd__fail(errno == ENOMEM ? KD_ERR_NOMEM : KD_ERR_IO, "%s: list: %s (errno %d)", path, kd__os_text(errno), errno);
    errno = saved;
    if (!(names->at = kd__alloc_array(ctx, names->count, sizeof *names->at))) return KD_ERR_NOMEM;
    const char *name = names->text;
    for (size_t i = 0; i < names->count; i++, name += strlen(name) + 1) names->at[i] = name;
    for (size_t i = names->count / 2; i > 0; i--) sift(names->at, i - 1, names->count);
    for (size_t n = names->count; n > 1; n--) {
        const char *last = names->at[n - 1];
        names->at[n - 1] = names->at[0];
        names->at[0] = last;
        sift(names->at, 0, n - 1);
    }
    return KD_OK;
#endif
}

void kd__names_free(kd__names *names)
{
    kd__free(names->ctx, names->text);
    kd__free(names->ctx, names->at);
}
