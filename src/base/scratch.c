/* scratch.c - temporary memory of one call, kept in the context between calls.
 *
 * Free blocks form a list, smallest first; a request takes the smallest that fits.  A miss replaces the
 * largest free block by a larger one, so blocks only grow.  Calls nest like a stack; for any such pattern
 * the blocks at its end serve the same pattern again with no allocation: every block is at least as large
 * as it was at the same moment before, and taking the smallest that fits leaves the largest behind.
 * Which tasks of a parallel loop overlap is a matter of timing: a miss inside one makes a block for each
 * thread.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "base/platform.h"
#include <sched.h>

struct kd__scratch_block {
    kd__scratch_block *next;
    size_t             bytes;   /* usable, after the block's first KD_ALIGN bytes */
};

/* The lock word names the process generation that took it: a child forked while a thread of its parent
 * held the lock sees another generation's word and takes over.  Every store leaves a sound list. */
static void lock(kd_context *ctx)
{
    uint32_t mine = kd__fork_generation() * 2 + 1;
    for (unsigned spins = 1;; spins++) {
        uint32_t seen = atomic_load_explicit(&ctx->scratch_lock, memory_order_relaxed);
        if (seen != mine && atomic_compare_exchange_weak_explicit(&ctx->scratch_lock, &seen, mine, memory_order_acquire,
                                                                  memory_order_relaxed))
            return;
        kd__cpu_relax();
        if (spins % 256 == 0) sched_yield();
    }
}

static void unlock(kd_context *ctx) { atomic_store_explicit(&ctx->scratch_lock, 0, memory_order_release); }

static void insert(kd_context *ctx, kd__scratch_block *block)
{
    kd__scratch_block **link = &ctx->scratch;
    while (*link && (*link)->bytes < block->bytes) link = &(*link)->next;
    block->next = *link;
    *link = block;
}

static kd__scratch_block *take_fitting(kd_context *ctx, size_t bytes)
{
    kd__scratch_block **link = &ctx->scratch, *block;
    while ((block = *link) && block->bytes < bytes) link = &block->next;
    if (block) *link = block->next;
    return block;
}

/* Give back the largest free block smaller than `bytes`: it makes room for one that is not. */
static void free_largest_below(kd_context *ctx, size_t bytes)
{
    kd__scratch_block **link = &ctx->scratch, *block;
    while ((block = *link) && block->next && block->next->bytes < bytes) link = &block->next;
    if (!block || block->bytes >= bytes) return;
    *link = block->next;
    kd__free(ctx, block);
}

static kd__scratch_block *make(kd_context *ctx, size_t bytes)
{
    size_t total;
    if (!kd__add(bytes, KD_ALIGN, &total) || !kd__round_up(total, 4096, &total)) total = bytes;   /* refused below */
    kd__scratch_block *block = kd__alloc_raw(ctx, total);
    if (block) block->bytes = total - KD_ALIGN;
    return block;
}

void *kd__scratch_get(kd_context *ctx, size_t bytes)
{
    ctx = kd__context(ctx);
    lock(ctx);
    kd__scratch_block *block = take_fitting(ctx, bytes);
    if (!block) {
        free_largest_below(ctx, bytes);
        block = make(ctx, bytes);
        for (size_t i = 1, n = block && kd__in_parallel() ? ctx->threads : 1; i < n; i++) {
            free_largest_below(ctx, bytes);
            kd__scratch_block *other = make(ctx, bytes);
            if (!other) break;
            insert(ctx, other);
        }
    }
    unlock(ctx);
    return block ? (unsigned char *)block + KD_ALIGN : NULL;
}

void kd__scratch_put(kd_context *ctx, void *ptr)
{
    if (!ptr) return;
    ctx = kd__context(ctx);
    lock(ctx);
    insert(ctx, (kd__scratch_block *)(void *)((unsigned char *)ptr - KD_ALIGN));
    unlock(ctx);
}

void kd__scratch_free(kd_context *ctx)
{
    lock(ctx);
    while (ctx->scratch) free_largest_below(ctx, SIZE_MAX);
    unlock(ctx);
}
