/* file_posix.c - what the library asks of a file system, from POSIX.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#if !defined KD_NO_IO && !defined _WIN32
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* The entries of the table: thin, errno tells why. */
static int refuse(int fd, int error)
{
    if (fd >= 0) close(fd);
    errno = error;
    return -1;
}

static int kind_error(const struct stat *st)
{
    return S_ISREG(st->st_mode) ? 0 : S_ISDIR(st->st_mode) ? EISDIR : EINVAL;
}

static int io_resolve(const char *path, char *out, size_t cap)
{
    struct stat st;
    if (lstat(path, &st) != 0) {
        if (errno != ENOENT) return -1;
    } else if (S_ISLNK(st.st_mode)) {   /* saving through a link keeps the link */
        if (cap < PATH_MAX) return refuse(-1, ENAMETOOLONG);
        if (!realpath(path, out)) return -1;
        return stat(out, &st) == 0 && kind_error(&st) ? refuse(-1, kind_error(&st)) : 0;
    } else if (kind_error(&st)) {
        return refuse(-1, kind_error(&st));
    }
    size_t n = strlen(path) + 1;
    if (n > cap) return refuse(-1, ENAMETOOLONG);
    memcpy(out, path, n);
    return 0;
}

/* O_NONBLOCK: a FIFO without a writer must not hang us before fstat shows what it is. */
static int io_open_read(const char *path, uint64_t *size)
{
    struct stat st;
    int fd;
    do fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) return -1;
    if (fstat(fd, &st) != 0) return refuse(fd, errno);
    if (kind_error(&st)) return refuse(fd, kind_error(&st));
    *size = (uint64_t)st.st_size;
    return fd;
}

static int lock_fd(int fd)
{
    int r;
    do r = flock(fd, LOCK_EX | LOCK_NB);
    while (r != 0 && errno == EINTR);
    return r;
}

static bool still_named(int fd, const char *path)
{
    struct stat mine, there;
    return fstat(fd, &mine) == 0 && lstat(path, &there) == 0 && mine.st_dev == there.st_dev &&
           mine.st_ino == there.st_ino;
}

/* Remove `path` if its writer is dead: a living one holds a lock from creation until after the rename.
 * Who holds the lock of the file that has the name is the only one to remove or rename it. */
static void remove_stale(const char *path)
{
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == EACCES) fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return;
    if (lock_fd(fd) == 0 && still_named(fd, path)) unlink(path);
    close(fd);
}

/* Temporaries of TARGET are TARGET.kdtmp0 to TARGET.kdtmp7: eight writers at once.  What a killed writer
 * left is removed by the next one. */
enum { SLOTS = 8 };

static int io_open_temp(char *path, size_t cap, const char *target)
{
    int fd = -1, error = EBUSY;
    size_t n = strlen(target);
    char name[4160];
    if (n + sizeof ".kdtmp0" > KD_MIN(cap, sizeof name)) return refuse(-1, ENAMETOOLONG);
    for (int slot = 0; slot < SLOTS; slot++) {
        kd__format(name, sizeof name, "%s.kdtmp%d", target, slot);
        remove_stale(name);
        if (fd >= 0 || error != EBUSY) continue;
        do fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
        while (fd < 0 && errno == EINTR);
        if (fd < 0) {
            if (errno != EEXIST) error = errno;
            continue;
        }
        /* Another writer may have taken ours for stale before we held the lock.  A file system without
         * locks never removes anything. */
        if ((lock_fd(fd) != 0 && errno == EWOULDBLOCK) || !still_named(fd, name)) {
            close(fd);
            fd = -1;
            continue;
        }
        memcpy(path, name, strlen(name) + 1);
    }
    if (fd < 0) return refuse(-1, error);
    struct stat st;
    if (stat(target, &st) == 0) (void)!fchmod(fd, st.st_mode & 0777);   /* a wish: not all systems have modes */
    return fd;
}

static int64_t io_read_at(int fd, void *out, size_t bytes, uint64_t offset)
{
    return pread(fd, out, bytes, (off_t)offset);
}

static int64_t io_write(int fd, const void *data, size_t bytes) { return write(fd, data, bytes); }

static int io_sync(int fd) { return fsync(fd); }

static int io_close(int fd) { return close(fd) != 0 && errno != EINTR ? -1 : 0; }   /* EINTR: closed all the same */

static int io_rename(const char *from, const char *to) { return rename(from, to); }

static int io_unlink(const char *path) { return unlink(path); }

static int io_sync_dir(const char *path_inside)
{
    char dir[4096];
    const char *slash = strrchr(path_inside, '/');
    size_t n = slash ? (size_t)(slash - path_inside) : 0;
    if (n >= sizeof dir) return refuse(-1, ENAMETOOLONG);
    memcpy(dir, path_inside, n);
    dir[n] = 0;
    int fd = open(slash ? n ? dir : "/" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -1;
    int r;
    do r = fsync(fd);
    while (r != 0 && errno == EINTR);
    if (r != 0 && errno != EINVAL && errno != ENOTSUP) return refuse(fd, errno);   /* some cannot sync directories */
    close(fd);
    return 0;
}

static int io_hold(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 0); }

static void io_release(int hold)
{
    if (hold >= 0) close(hold);
}

static int io_list(const char *path, bool (*each)(void *user, const char *name, bool folder), void *user)
{
    DIR *dir = opendir(path);
    if (!dir) return -1;
    struct dirent *e;
    for (;;) {
        struct stat st;
        errno = 0;
        if (!(e = readdir(dir))) break;
        if (each(user, e->d_name, fstatat(dirfd(dir), e->d_name, &st, 0) == 0 && S_ISDIR(st.st_mode))) continue;
        errno = ENOMEM;
        break;
    }
    int error = errno;
    closedir(dir);
    return error ? refuse(-1, error) : 0;
}

kd__io kd__io_table = {
    .resolve = io_resolve,
    .open_read = io_open_read,
    .open_temp = io_open_temp,
    .read_at = io_read_at,
    .write = io_write,
    .sync = io_sync,
    .close = io_close,
    .rename = io_rename,
    .unlink = io_unlink,
    .sync_dir = io_sync_dir,
    .hold = io_hold,
    .release = io_release,
    .list = io_list,
};
#endif
