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

double kd__now(void)
{
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    return (double)ticks.QuadPart / (double)per_second.QuadPart;
}

uint32_t kd__system_cpus(void)
{
    DWORD_PTR mine, all;
    if (GetProcessAffinityMask(GetCurrentProcess(), &mine, &all) && mine) return (uint32_t)__builtin_popcountll(mine);
    return 1;
}
#endif
