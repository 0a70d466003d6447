/* kdtest_memory.c - guard pages, contexts whose memory is counted and may run out.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- guard pages ---------------------------------------------------------------------------------------- */

static size_t page(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static size_t pages_of(size_t bytes) { return (bytes + page() - 1) / page() * page(); }

void *kdtest_guard(size_t bytes, int tail)
{
    size_t inner = pages_of(bytes);
    unsigned char *base = mmap(NULL, inner + 2 * page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || (inner && mprotect(base + page(), inner, PROT_READ | PROT_WRITE) != 0)) {
        perror("kdtest_guard");
        exit(1);
    }
    return base + page() + (tail ? inner - bytes : 0);
}

void kdtest_guard_free(void *ptr, size_t bytes, int tail)
{
    size_t inner = pages_of(bytes);
    munmap((unsigned char *)ptr - page() - (tail ? inner - bytes : 0), inner + 2 * page());
}

/* ---- contexts ------------------------------------------------------------------------------------------- */

/* In front of each block of a counting allocator. */
typedef struct tag {
    size_t bytes, align;
    void *base;
    uint64_t magic;
} tag;

#define MAGIC 0x6b64746573742121u

static void take(kdtest_alloc *a)
{
    while (__atomic_exchange_n(&a->lock, 1, __ATOMIC_ACQUIRE)) {}
}

static void give(kdtest_alloc *a) { __atomic_store_n(&a->lock, 0, __ATOMIC_RELEASE); }

static void *counted_alloc(size_t bytes, size_t align, void *user)
{
    kdtest_alloc *a = user;
    CHECK_MSG(bytes > 0 && align > 0 && align <= 4096 && (align & (align - 1)) == 0, "alloc of %zu bytes, aligned to %zu",
              bytes, align);
    take(a);
    size_t call = ++a->calls;
    int fail = a->fail_at && (call == a->fail_at || (a->persistent && call > a->fail_at));
    give(a);
    if (fail || bytes > SIZE_MAX / 2) return NULL;
    unsigned char *base = malloc(bytes + align + sizeof(tag));
    if (!base) return NULL;
    uintptr_t at = ((uintptr_t)base + sizeof(tag) + align - 1) & ~(uintptr_t)(align - 1);
    unsigned char *ptr = base + (at - (uintptr_t)base);
    tag t = { bytes, align, base, MAGIC };
    memcpy(ptr - sizeof t, &t, sizeof t);
    memset(ptr, 0xa5, bytes < 1u << 20 ? bytes : 1u << 20);   /* who forgets to clear, shows */
    take(a);
    a->live++;
    a->live_bytes += bytes;
    if (a->live_bytes > a->peak_bytes) a->peak_bytes = a->live_bytes;
    give(a);
    return ptr;
}

static void counted_free(void *ptr, size_t bytes, void *user)
{
    kdtest_alloc *a = user;
    tag t;
    memcpy(&t, (unsigned char *)ptr - sizeof t, sizeof t);
    if (!CHECK_MSG(t.magic == MAGIC, "free of %p, which is no live block", ptr)) return;
    CHECK_MSG(t.bytes == bytes, "free says %zu bytes, alloc said %zu", bytes, t.bytes);
    memset((unsigned char *)ptr - sizeof t, 0, sizeof t);
    take(a);
    a->live--;
    a->live_bytes -= t.bytes;
    give(a);
    free(t.base);
}

void kdtest_alloc_begin(kdtest_alloc *a, uint32_t threads, uint32_t isa)
{
    memset(a, 0, sizeof *a);
    kd_context_desc desc;
    kd_context_desc_init(&desc, sizeof desc);
    desc.allocator = (kd_allocator){ counted_alloc, counted_free, a };
    desc.threads = threads;
    desc.isa = isa;
    CHECK_OK(kd_context_create(&a->ctx, &desc));
}

void kdtest_alloc_end(kdtest_alloc *a)
{
    kd_context_free(a->ctx);
    a->ctx = NULL;
    CHECK_MSG(a->live == 0 && a->live_bytes == 0, "%zu blocks, %zu bytes were not freed", a->live, a->live_bytes);
}

kd_context *kdtest_context(uint32_t threads, uint32_t isa)
{
    kd_context_desc desc;
    kd_context_desc_init(&desc, sizeof desc);
    desc.threads = threads;
    desc.isa = isa;
    kd_context *ctx;
    if (!CHECK_OK(kd_context_create(&ctx, &desc))) return NULL;
    if (isa == KD_ISA_AUTO || strcmp(kd_context_isa(ctx), kdtest_isa_name(isa)) == 0) return ctx;
    kd_context_free(ctx);
    return NULL;
}

size_t kdtest_isas(uint32_t out[5])
{
    size_t n = 0;
    for (uint32_t isa = KD_ISA_SCALAR; isa <= KD_ISA_AVX512; isa++) {
        kd_context *ctx = kdtest_context(1, isa);
        if (ctx) out[n++] = isa;
        kd_context_free(ctx);
    }
    return n;
}

const char *kdtest_isa_name(uint32_t isa)
{
    static const char *const names[] = { "auto", "scalar", "neon", "avx2", "avx512" };
    return isa < sizeof names / sizeof *names ? names[isa] : "?";
}
