/* caches.c - how large the caches of one core are.
 * SPDX-License-Identifier: MIT */
#include "cpu/cpu.h"
#if defined __x86_64__ || defined __i386__
#include <cpuid.h>
#else
#include <unistd.h>
#endif

enum { DATA = 1, UNIFIED = 3 };

void kd__caches_add(kd__caches *caches, const uint32_t leaf[4])
{
    const uint32_t type = leaf[0] & 31u, level = leaf[0] >> 5 & 7u;
    const uint64_t ways = (uint64_t)(leaf[1] >> 22) + 1, partitions = (leaf[1] >> 12 & 0x3ffu) + 1, line = (leaf[1] & 0xfffu) + 1;
    const uint64_t bytes = ways * partitions * line * ((uint64_t)leaf[2] + 1);
    if (type != DATA && type != UNIFIED) return;
    if (level == 1) caches->l1 = (size_t)bytes;
    if (level == 2) caches->l2 = (size_t)bytes;
    if (level == 3) caches->l3 = (size_t)bytes;
}

kd__caches kd__caches_held(kd__caches found)
{
    const kd__caches usual = { 32u << 10, 512u << 10, 8u << 20 };
    if (!found.l1) found.l1 = usual.l1;
    if (!found.l2) found.l2 = usual.l2;
    if (!found.l3) found.l3 = KD_MAX(usual.l3, found.l2);
    found.l1 = KD_MIN(KD_MAX(found.l1, (size_t)8 << 10), (size_t)256 << 10);
    found.l2 = KD_MIN(KD_MAX(found.l2, (size_t)128 << 10), (size_t)8 << 20);
    found.l3 = KD_MIN(KD_MAX(found.l3, found.l2), (size_t)1 << 30);
    return found;
}

kd__caches kd__cpu_caches(void)
{
    kd__caches found = { 0 };
#if defined __x86_64__ || defined __i386__
    /* Leaf 4 on Intel, 0x8000001d, of the same form, on AMD. */
    const uint32_t leaves[] = { 4u, 0x8000001du };
    for (size_t k = 0; k < KD_COUNT(leaves) && !found.l2; k++) {
        uint32_t r[4];
        for (uint32_t i = 0; i < 16 && __get_cpuid_count(leaves[k], i, &r[0], &r[1], &r[2], &r[3]) && (r[0] & 31u); i++)
            kd__caches_add(&found, r);
    }
#elif defined _SC_LEVEL1_DCACHE_SIZE
    const long l1 = sysconf(_SC_LEVEL1_DCACHE_SIZE), l2 = sysconf(_SC_LEVEL2_CACHE_SIZE), l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
    found = (kd__caches){ l1 > 0 ? (size_t)l1 : 0, l2 > 0 ? (size_t)l2 : 0, l3 > 0 ? (size_t)l3 : 0 };
#endif
    return kd__caches_held(found);
}
