/* system_win32.c - memory, CPUs and time, from Windows.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#ifdef _WIN32
#include <windows.h>
#include <malloc.h>

void *kd__system_alloc(size_t bytes, size_t align, void *user)
{
    (void)user;
    return _aligned_malloc(bytes, align);
}

void *kd__system_zeros(size_t bytes)
{
    (void)bytes;
    return NULL;   /* what calloc gives _aligned_free does not take */
}

void kd__system_free(void *ptr, size_t bytes, void *user)
{
    (void)bytes;
    (void)user;
    _aligned_free(ptr);
}

uint64_t kd__nanoseconds(void)
{
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    uint64_t t = (uint64_t)ticks.QuadPart, rate = (uint64_t)per_second.QuadPart;
    return t / rate * 1000000000u + t % rate * 1000000000u / rate;
}

uint32_t kd__system_cpus(void)
{
    DWORD_PTR mine, all;
    if (GetProcessAffinityMask(GetCurrentProcess(), &mine, &all) && mine) return (uint32_t)__builtin_popcountll(mine);
    return 1;
}
#endif
