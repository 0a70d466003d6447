/* alloc.c - every byte of the library comes through here, from the context's allocator.
 * A block begins KD_ALIGN bytes after its header, which holds its size.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"

typedef struct header {
    size_t total;   /* bytes asked of the allocator, header included */
    void  *start;   /* what it gave */
} header;

enum { LARGE = 1024 * 1024 };

static header *header_of(void *ptr) { return (header *)(void *)((unsigned char *)ptr - KD_ALIGN); }

void *kd__alloc_raw(kd_context *ctx, size_t bytes)
{
    ctx = kd__context(ctx);
    size_t total;
    header *h = NULL;
    if (kd__add(bytes, 2 * KD_ALIGN, &total)) {
        /* Whole lines, so that two blocks never share one; one at least, so that the pointer lies inside its block:
         * leak checkers take one behind the end for nobody's. */
        total = (KD_MAX(bytes, 1u) + 2 * KD_ALIGN - 1) & ~(size_t)(KD_ALIGN - 1);
        h = ctx->allocator.alloc(total, KD_ALIGN, ctx->allocator.user);
    }
    if (KD_UNLIKELY(!h)) {
        kd__fail(KD_ERR_NOMEM, "out of memory: %zu bytes", bytes);
        return NULL;
    }
    *h = (header){ total, h };
    return (unsigned char *)h + KD_ALIGN;
}

/* Zeros that the system makes where they are first touched; NULL: it must be done here. */
static void *untouched(const kd_context *ctx, size_t bytes)
{
    size_t total;
    if (bytes < LARGE || ctx->allocator.alloc != kd__system_alloc || !kd__add(bytes, 3 * KD_ALIGN, &total)) return NULL;
    unsigned char *start = kd__system_zeros(total);
    if (!start) return NULL;
    header *h = (header *)(void *)(start + (KD_ALIGN - (uintptr_t)start % KD_ALIGN) % KD_ALIGN);
    *h = (header){ total, start };
    return (unsigned char *)h + KD_ALIGN;
}

void *kd__alloc(kd_context *ctx, size_t bytes)
{
    void *ptr = untouched(kd__context(ctx), bytes);
    if (ptr) return ptr;
    ptr = kd__alloc_raw(ctx, bytes);
    if (ptr) memset(ptr, 0, bytes);
    return ptr;
}

void *kd__alloc_array(kd_context *ctx, size_t count, size_t bytes_each)
{
    size_t bytes;
    if (!kd__mul(count, bytes_each, &bytes)) {
        kd__fail(KD_ERR_NOMEM, "out of memory: %zu elements of %zu bytes", count, bytes_each);
        return NULL;
    }
    return kd__alloc(ctx, bytes);
}

void kd__free(kd_context *ctx, void *ptr)
{
    if (!ptr) return;
    ctx = kd__context(ctx);
    const header h = *header_of(ptr);
    ctx->allocator.free(h.start, h.total, ctx->allocator.user);
}

kd_status kd__grow(kd_context *ctx, void *ptr_to_ptr, size_t *capacity, size_t count, size_t bytes_each)
{
    if (count <= *capacity) return KD_OK;
    size_t larger = *capacity > SIZE_MAX / 2 ? count : KD_MAX(count, KD_MAX(*capacity * 2, 8));
    void *bigger = kd__alloc_array(ctx, larger, bytes_each);
    if (!bigger) return KD_ERR_NOMEM;
    void *old;
    memcpy(&old, ptr_to_ptr, sizeof old);
    if (old) memcpy(bigger, old, *capacity * bytes_each);
    kd__free(ctx, old);
    memcpy(ptr_to_ptr, &bigger, sizeof bigger);
    *capacity = larger;
    return KD_OK;
}

char *kd__strdup(kd_context *ctx, const char *text)
{
    size_t n = strlen(text) + 1;
    char *copy = kd__alloc_raw(ctx, n);
    if (copy) memcpy(copy, text, n);
    return copy;
}
