/* fuzz_memory.c - files in memory behind the library's table of system calls.
 * SPDX-License-Identifier: MIT */
#include "fuzz.h"
#include <errno.h>
#include <stdlib.h>

enum { READ_FD = 1000, WRITE_FD = 1001 };

static struct {
    uint8_t *data, *next;     /* "mem"; what is being written */
    size_t   size, next_size;
} mem;
static kd__io real;

static int mem_resolve(const char *path, char *out, size_t cap)
{
    if (strlen(path) >= cap) return -1;
    memcpy(out, path, strlen(path) + 1);
    return 0;
}

static int mem_open_read(const char *path, uint64_t *size)
{
    if (strcmp(path, "mem") != 0 && strcmp(path, "mem/class/image") != 0) {
        errno = ENOENT;
        return -1;
    }
    *size = mem.size;
    return READ_FD;
}

static int mem_open_temp(char *path, size_t cap, const char *target)
{
    (void)target;
    if (cap < 5) return -1;
    memcpy(path, "temp", 5);
    mem.next_size = 0;
    return WRITE_FD;
}

static int64_t mem_read_at(int fd, void *out, size_t bytes, uint64_t offset)
{
    FUZZ_MUST(fd == READ_FD);
    if (offset >= mem.size) return 0;
    size_t n = bytes < mem.size - offset ? bytes : (size_t)(mem.size - offset);
    if (n > 1 && (offset + n) % 3 == 0) n = (n + 1) / 2;   /* short reads are legal */
    memcpy(out, mem.data + offset, n);
    return (int64_t)n;
}

static int64_t mem_write(int fd, const void *data, size_t bytes)
{
    FUZZ_MUST(fd == WRITE_FD);
    uint8_t *grown = realloc(mem.next, mem.next_size + bytes + 1);
    if (!grown) {
        errno = ENOSPC;
        return -1;
    }
    mem.next = grown;
    memcpy(mem.next + mem.next_size, data, bytes);
    mem.next_size += bytes;
    return (int64_t)bytes;
}

/* A folder of one class with one image, the file again. */
static int mem_list(const char *path, bool (*each)(void *user, const char *name, bool folder), void *user)
{
    const bool root = strcmp(path, "mem") == 0;
    if (!root && strcmp(path, "mem/class") != 0) {
        errno = ENOENT;
        return -1;
    }
    if (each(user, root ? "class" : "image", root)) return 0;
    errno = ENOMEM;
    return -1;
}

static int mem_ok(int fd)
{
    (void)fd;
    return 0;
}

static int mem_hold(int fd)
{
    (void)fd;
    return -1;
}
static void mem_release(int hold) { (void)hold; }

static int mem_rename(const char *from, const char *to)
{
    (void)from;
    (void)to;
    free(mem.data);
    mem.data = mem.next;
    mem.size = mem.next_size;
    mem.next = NULL;
    return 0;
}

static int mem_path_ok(const char *path)
{
    (void)path;
    return 0;
}

void fuzz_begin(const uint8_t *data, size_t size)
{
    mem.data = malloc(size ? size : 1);   /* of its own, so that reading past the end is seen */
    FUZZ_MUST(mem.data != NULL);
    if (size) memcpy(mem.data, data, size);
    mem.size = size;
    real = kd__io_table;
    kd__io_table = (kd__io){ .resolve = mem_resolve, .open_read = mem_open_read, .open_temp = mem_open_temp,
                             .read_at = mem_read_at, .write = mem_write, .sync = mem_ok, .close = mem_ok,
                             .rename = mem_rename, .hold = mem_hold, .release = mem_release, .unlink = mem_path_ok,
                             .sync_dir = mem_path_ok, .list = mem_list };
}

void fuzz_end(void)
{
    kd__io_table = real;
    free(mem.data);
    free(mem.next);
    mem.data = mem.next = NULL;
    mem.size = mem.next_size = 0;
}

const uint8_t *fuzz_bytes(size_t *size)
{
    *size = mem.size;
    return mem.data;
}
