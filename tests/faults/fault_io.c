/* fault_io.c - system calls that go wrong when told to.
 * SPDX-License-Identifier: MIT */
#include "fault_io.h"
#include <errno.h>

static fault now;
static kd__io real;

static void before(void)
{
    now.calls++;
    if (now.before) now.before(now.calls);
}

static void after(void)
{
    if (now.after) now.after(now.calls);
}

/* Does this call go wrong in this way? */
static int wrong(fault_kind kind)
{
    int hit = now.at && now.kind == kind && (now.calls == now.at || (now.persistent && now.calls > now.at));
    if (hit) {
        now.hit++;
        if (kind == FAULT_ERROR) errno = now.error;
    }
    return hit;
}

static int io_resolve(const char *path, char *out, size_t cap)
{
    before();
    int r = wrong(FAULT_ERROR) ? -1 : real.resolve(path, out, cap);
    after();
    return r;
}

static int io_open_read(const char *path, uint64_t *size)
{
    before();
    int r = wrong(FAULT_ERROR) ? -1 : real.open_read(path, size);
    after();
    return r;
}

static int io_open_temp(char *path, size_t cap, const char *target)
{
    before();
    int r = wrong(FAULT_ERROR) ? -1 : real.open_temp(path, cap, target);
    after();
    return r;
}

static int64_t io_read_at(int fd, void *out, size_t bytes, uint64_t offset)
{
    before();
    int64_t r = wrong(FAULT_ERROR) ? -1 : wrong(FAULT_END) ? 0
              : real.read_at(fd, out, wrong(FAULT_SHORT) ? (bytes + 1) / 2 : bytes, offset);
    after();
    return r;
}

static int64_t io_write(int fd, const void *data, size_t bytes)
{
    before();
    if (now.most && bytes > now.most) bytes = now.most;
    int64_t r = wrong(FAULT_ERROR) ? -1 : real.write(fd, data, wrong(FAULT_SHORT) ? (bytes + 1) / 2 : bytes);
    after();
    return r;
}

static int io_sync(int fd)
{
    before();
    int r = wrong(FAULT_ERROR) ? -1 : real.sync(fd);
    after();
    return r;
}

static int io_close(int fd)   /* closed all the same, as systems do */
{
    before();
    int r = real.close(fd);
    if (wrong(FAULT_ERROR)) {
        r = -1;
        now.hit_close++;
    }
    after();
    return r;
}

static int io_rename(const char *from, const char *to)
{
    before();
    int r = wrong(FAULT_ERROR) ? -1 : real.rename(from, to);
    now.renamed |= r == 0;
    after();
    return r;
}

static int io_unlink(const char *path)
{
    before();
    int hit = wrong(FAULT_ERROR);
    now.unlink_hit |= hit;
    int r = hit ? -1 : real.unlink(path);
    after();
    return r;
}

static int io_sync_dir(const char *path)
{
    before();
    int r = wrong(FAULT_ERROR) ? -1 : real.sync_dir(path);
    after();
    return r;
}

void fault_begin(const fault *plan)
{
    now = *plan;
    real = kd__io_table;
    kd__io_table = (kd__io){ .resolve = io_resolve, .open_read = io_open_read, .open_temp = io_open_temp,
                             .read_at = io_read_at, .write = io_write, .sync = io_sync, .close = io_close,
                             .rename = io_rename, .unlink = io_unlink, .sync_dir = io_sync_dir,
                             .hold = real.hold, .release = real.release };
}

fault fault_end(void)
{
    kd__io_table = real;
    return now;
}
