/* writer.c - atomic replacement of a file.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include <errno.h>

enum { BUFFER = 64 * 1024, ONE_CALL = 1 << 30 };

static kd_status fail_os(kd__writer *writer, const char *what)
{
    int error = errno;
    size_t n = strlen(writer->path);
    const char *end = writer->path + (n > 300 ? n - 300 : 0);   /* of a long path, the end tells more */
    kd_status status = kd__fail(KD_ERR_IO, "%s: %s: %s (errno %d)", end, what, kd__os_text(error), error);
    kd__writer_abort(writer);
    errno = error;
    return status;
}

kd_status kd__writer_open(kd__writer *writer, kd_context *ctx, const char *path)
{
    int saved = errno;
    writer->buffer = NULL;
    writer->fd = -1;
    writer->written = 0;
    writer->crc = 0;
    writer->buffered = 0;
    writer->temp[0] = 0;
    writer->ctx = kd__context(ctx);
    KD_NEED(path);
    kd__format(writer->path, sizeof writer->path, "%s", path);
#ifdef KD_NO_IO
    return kd__fail(KD_ERR_UNSUPPORTED, "%s: this libkd has no files (KD_NO_IO)", writer->path);
#endif
    char target[sizeof writer->path];
    if (kd__io_table.resolve(path, target, sizeof target) != 0) return fail_os(writer, "save");
    memcpy(writer->path, target, strlen(target) + 1);
    writer->buffer = kd__alloc_raw(ctx, BUFFER);
    if (!writer->buffer) return KD_ERR_NOMEM;
    writer->fd = kd__io_table.open_temp(writer->temp, sizeof writer->temp, writer->path);
    if (writer->fd < 0) {
        writer->temp[0] = 0;
        return fail_os(writer, "create a temporary file beside it");
    }
    errno = saved;
    return KD_OK;
}

static kd_status write_all(kd__writer *writer, const uint8_t *data, size_t bytes)
{
    int saved = errno;
    while (bytes) {
        int64_t n = kd__io_table.write(writer->fd, data, KD_MIN(bytes, (size_t)ONE_CALL));
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = EIO;
        if (n <= 0) return fail_os(writer, "write");
        data += n;
        bytes -= (size_t)n;
    }
    errno = saved;
    return KD_OK;
}

static kd_status flush(kd__writer *writer)
{
    size_t n = writer->buffered;
    writer->buffered = 0;
    return write_all(writer, writer->buffer, n);
}

static kd_status not_open(void) { return kd__fail(KD_ERR_STATE, "writer: not open: committed, or failed before"); }

kd_status kd__writer_put(kd__writer *writer, const void *data, size_t bytes)
{
    if (!writer->buffer) return not_open();
    if (!bytes) return KD_OK;
    writer->crc = kd__crc32c(writer->crc, data, bytes);
    writer->written += bytes;
    if (bytes > BUFFER - writer->buffered) KD_TRY(flush(writer));
    if (bytes >= BUFFER) return write_all(writer, data, bytes);
    memcpy(writer->buffer + writer->buffered, data, bytes);
    writer->buffered += bytes;
    return KD_OK;
}

kd_status kd__writer_commit(kd__writer *writer)
{
    if (!writer->buffer) return not_open();
    KD_TRY(flush(writer));
    int saved = errno, r;
    do r = kd__io_table.sync(writer->fd);
    while (r != 0 && errno == EINTR);
    if (r != 0) return fail_os(writer, "fsync");

    /* close() may be where a network file system reports; the duplicate keeps the lock through the rename. */
    int lock = kd__io_table.hold(writer->fd);
    int fd = writer->fd;
    writer->fd = -1;
    r = kd__io_table.close(fd);
    kd_status status = KD_OK;
    if (r != 0) status = fail_os(writer, "close");
    else if (kd__io_table.rename(writer->temp, writer->path) != 0) status = fail_os(writer, "rename");
    kd__io_table.release(lock);
    if (status != KD_OK) return status;

    writer->temp[0] = 0;   /* the name is gone: nothing to remove any more */
    if (kd__io_table.sync_dir(writer->path) != 0) return fail_os(writer, "saved, but fsync of its directory");
    kd__writer_abort(writer);
    errno = saved;
    return KD_OK;
}

void kd__writer_abort(kd__writer *writer)
{
    if (!writer->buffer) return;
    int saved = errno;
    if (writer->fd >= 0) kd__io_table.close(writer->fd);
    writer->fd = -1;
    if (writer->temp[0]) kd__io_table.unlink(writer->temp);
    writer->temp[0] = 0;
    kd__free(writer->ctx, writer->buffer);
    writer->buffer = NULL;
    errno = saved;
}
