/* scratch.c - temporary memory of one call, kept in the context between calls.
 *
 * Outside parallel loops: free blocks form a list, smallest first; a request takes the smallest that fits, a
 * miss replaces the largest free block by a larger one.  Calls nest like a stack; for any such pattern the
 * blocks at its end serve the same pattern again with no allocation: every block is at least as large as it
 * was at the same moment before, and taking the smallest that fits leaves the largest behind.
 *
 * Inside tasks, which requests overlap is a matter of timing, so blocks are made for the worst: level d
 * serves a thread's d-th simultaneous request, and has one block for each thread, all as large as the
 * largest request seen at that level.  Once every task has run, whatever the timing, nothing is allocated.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "base/platform.h"
#include "base/thread.h"

enum { NO_LEVEL = -1 };

struct kd__scratch_block {
    kd__scratch_block *next;
    size_t             bytes;   /* usable, after the block's first KD_ALIGN bytes */
    int                level;
};

/* Levels of which this thread holds a block. */
static KD_THREAD_LOCAL uint32_t held_levels;

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
        if (spins % 256 == 0) kd__yield();
    }
}

static void unlock(kd_context *ctx) { atomic_store_explicit(&ctx->scratch_lock, 0, memory_order_release); }

static kd__scratch_block *make(kd_context *ctx, size_t bytes, int level)
{
    size_t total;
    if (!kd__add(bytes, KD_ALIGN, &total) || !kd__round_up(total, 4096, &total)) total = SIZE_MAX;   /* refused below */
    kd__scratch_block *block = kd__alloc_raw(ctx, total);
    if (block) *block = (kd__scratch_block){ NULL, total - KD_ALIGN, level };
    return block;
}

static void push(kd__scratch_block **list, kd__scratch_block *block)
{
    block->next = *list;
    *list = block;
}

static kd__scratch_block *pop(kd__scratch_block **list)
{
    kd__scratch_block *block = *list;
    if (block) *list = block->next;
    return block;
}

/* ---- outside loops ---------------------------------------------------------------------------------------- */

static kd__scratch_block *get_serial(kd_context *ctx, size_t bytes)
{
    kd__scratch_block **link = &ctx->scratch, **largest = NULL;
    while (*link && (*link)->bytes < bytes) {
        largest = link;
        link = &(*link)->next;
    }
    if (*link) return pop(link);
    if (largest) kd__free(ctx, pop(largest));
    return make(ctx, bytes, NO_LEVEL);
}

static void put_serial(kd_context *ctx, kd__scratch_block *block)
{
    kd__scratch_block **link = &ctx->scratch;
    while (*link && (*link)->bytes < block->bytes) link = &(*link)->next;
    push(link, block);
}

/* ---- inside tasks ----------------------------------------------------------------------------------------- */

static kd__scratch_block *get_level(kd_context *ctx, size_t bytes, int level)
{
    kd__scratch_level *at = &ctx->scratch_levels[level];
    if (bytes > at->bytes || !at->bytes) {
        while (at->free) kd__free(ctx, pop(&at->free));
        at->bytes = 0;   /* until they are there */
        kd__scratch_block *block = NULL;
        for (uint32_t i = 0; i < ctx->threads; i++) {
            block = make(ctx, bytes, level);
            if (!block) return pop(&at->free);
            push(&at->free, block);
        }
        at->bytes = block->bytes;
    }
    kd__scratch_block *block = pop(&at->free);
    return block ? block : make(ctx, at->bytes, level);   /* a host's loop with more threads than it told us */
}

static void put_level(kd_context *ctx, kd__scratch_block *block)
{
    kd__scratch_level *at = &ctx->scratch_levels[block->level];
    if (block->bytes == at->bytes) push(&at->free, block);
    else kd__free(ctx, block);   /* from before the level grew */
}

/* ---------------------------------------------------------------------------------------------------------- */

void *kd__scratch_get(kd_context *ctx, size_t bytes)
{
    ctx = kd__context(ctx);
    int level = NO_LEVEL;
    if (kd__in_parallel()) {
        level = __builtin_ctz(~held_levels);
        if (level >= KD__SCRATCH_LEVELS) level = NO_LEVEL;
    }
    lock(ctx);
    kd__scratch_block *block = level == NO_LEVEL ? get_serial(ctx, bytes) : get_level(ctx, bytes, level);
    unlock(ctx);
    if (!block) return NULL;
    if (level != NO_LEVEL) held_levels |= 1u << level;
    return (unsigned char *)block + KD_ALIGN;
}

void kd__scratch_put(kd_context *ctx, void *ptr)
{
    if (!ptr) return;
    ctx = kd__context(ctx);
    kd__scratch_block *block = (kd__scratch_block *)(void *)((unsigned char *)ptr - KD_ALIGN);
    lock(ctx);
    if (block->level == NO_LEVEL) {
        put_serial(ctx, block);
    } else {
        held_levels &= ~(1u << block->level);
        put_level(ctx, block);
    }
    unlock(ctx);
}

void kd__scratch_free(kd_context *ctx)
{
    lock(ctx);
    while (ctx->scratch) kd__free(ctx, pop(&ctx->scratch));
    for (int i = 0; i < KD__SCRATCH_LEVELS; i++) {
        while (ctx->scratch_levels[i].free) kd__free(ctx, pop(&ctx->scratch_levels[i].free));
        ctx->scratch_levels[i].bytes = 0;
    }
    unlock(ctx);
}
