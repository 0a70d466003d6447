/* file.c - reading files.
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
