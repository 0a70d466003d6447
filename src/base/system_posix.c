/* system_posix.c - memory, CPUs and time, from POSIX and Linux.
 * SPDX-License-Identifier: MIT */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE   /* sched_getaffinity */
#endif
#include "base/base.h"
#ifndef _WIN32
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { HUGE_PAGE = 2 << 20 };

/* The whole huge pages from `ptr` on: the first touch of 256 MB takes 35 ms instead of 220. */
static void advise(void *ptr, size_t bytes)
{
    const size_t before = (HUGE_PAGE - (uintptr_t)ptr % HUGE_PAGE) % HUGE_PAGE;
    if (bytes < before + 2 * (size_t)HUGE_PAGE) return;
#ifdef MADV_HUGEPAGE
    int saved = errno;
    madvise((unsigned char *)ptr + before, (bytes - before) & ~(size_t)(HUGE_PAGE - 1), MADV_HUGEPAGE);   /* advice: refused is fine */
    errno = saved;
#endif
}

void *kd__system_alloc(size_t bytes, size_t align, void *user)
{
    (void)user;
    void *ptr = NULL;
    if (posix_memalign(&ptr, bytes >= 2 * (size_t)HUGE_PAGE ? HUGE_PAGE : align, bytes) != 0) return NULL;
    advise(ptr, bytes);
    return ptr;
}

void *kd__system_zeros(size_t bytes)
{
    int saved = errno;
    void *ptr = calloc(1, bytes);
    errno = saved;
    if (ptr) advise(ptr, bytes);
    return ptr;
}

void kd__system_free(void *ptr, size_t bytes, void *user)
{
    (void)bytes;
    (void)user;
    free(ptr);
}

uint64_t kd__nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#ifdef KD_NO_THREADS
uint32_t kd__system_cpus(void) { return 1; }
#else
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

enum { MOST = 256 };

#if defined __linux__ && !defined KD_NO_IO
/* A container's CPU quota, rounded up; 0: none.  The file reads "max 100000" or "200000 100000". */
static uint32_t cgroup_cpus(void)
{
    char text[64];
    int fd = open("/sys/fs/cgroup/cpu.max", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text);
    close(fd);
    const char *space = n > 0 ? memchr(text, ' ', (size_t)n) : NULL;
    const char *end = n > 0 && text[n - 1] == '\n' ? text + n - 1 : text + (n > 0 ? n : 0);
    uint64_t quota, period;
    if (!space || !kd__parse_u64(text, space, &quota) || !kd__parse_u64(space + 1, end, &period) || !period) return 0;
    return (uint32_t)KD_MIN(quota / period + (quota % period != 0), (uint64_t)MOST);
}
#endif

uint32_t kd__system_cpus(void)
{
    uint32_t n = 0;
#if defined __linux__ && defined CPU_COUNT
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n = (uint32_t)CPU_COUNT(&set);
#ifndef KD_NO_IO
    uint32_t quota = cgroup_cpus();
    if (n && quota) n = KD_MIN(n, quota);
#endif
#endif
    if (!n) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        n = online > 0 ? (uint32_t)KD_MIN(online, (long)MOST) : 1;
    }
    return n;
}
#endif
#endif
