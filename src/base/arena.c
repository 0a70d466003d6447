/* arena.c - a stack of memory that grows by chunks and is rewound, never freed, between steps.
 *
 * A push that does not fit goes to the first later chunk where it does.  If there is none, a new chunk goes to the end of the
 * list, in place of those that were too small and not used since the last reset.  So a sequence of pushes and rewinds that ran
 * once lands on the same places when it runs again, and allocates nothing.  Under AddressSanitizer what was rewound is poisoned.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"

#if defined __SANITIZE_ADDRESS__
#define ARENA_POISON 1
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define ARENA_POISON 1
#endif
#endif
#ifdef ARENA_POISON
#include <sanitizer/asan_interface.h>
#define poison(ptr, bytes) ASAN_POISON_MEMORY_REGION(ptr, bytes)
#define unpoison(ptr, bytes) ASAN_UNPOISON_MEMORY_REGION(ptr, bytes)
#else
#define poison(ptr, bytes) ((void)(ptr), (void)(bytes))
#define unpoison(ptr, bytes) ((void)(ptr), (void)(bytes))
#endif

enum { FIRST_CHUNK = 64 * 1024, LARGE = 1024 * 1024 };

struct kd__chunk {
    kd__chunk *next;
    size_t     bytes;    /* usable, after the chunk's first KD_ALIGN bytes */
    size_t     before;   /* bytes in use in the chunks before this one */
    uint64_t   used_in;  /* the last of the arena's rounds in which it was used */
};

static unsigned char *data_of(kd__chunk *chunk) { return (unsigned char *)chunk + KD_ALIGN; }

void kd__arena_init(kd__arena *arena, kd_context *ctx)
{
    *arena = (kd__arena){ .ctx = kd__context(ctx) };
}

static void free_chunk(kd__arena *arena, kd__chunk *chunk)
{
    arena->total -= chunk->bytes;
    unpoison(data_of(chunk), chunk->bytes);
    kd__free(arena->ctx, chunk);
}

/* A chunk of at least `bytes` at the end, half as large as all before it together, a quarter once that is much. */
static kd__chunk *append(kd__arena *arena, size_t bytes)
{
    size_t want = KD_MAX(KD_MAX(bytes, arena->total / (arena->total < LARGE ? 2 : 4)), FIRST_CHUNK - 2 * KD_ALIGN), total, gone = 0;
    kd__chunk **link = arena->current ? &arena->current->next : &arena->first, *chunk;
    while ((chunk = *link) != NULL) {
        if (chunk->used_in == arena->round) {
            link = &chunk->next;
        } else {
            *link = chunk->next;
            gone += chunk->bytes;
            free_chunk(arena, chunk);
        }
    }
    want = KD_MAX(want, gone);
    if (!kd__round_up(want, KD_ALIGN, &want) || !kd__add(want, KD_ALIGN, &total)) total = SIZE_MAX;
    chunk = kd__alloc_raw(arena->ctx, total);
    if (!chunk) return NULL;
    *chunk = (kd__chunk){ .bytes = want };
    poison(data_of(chunk), want);
    *link = chunk;
    arena->total += want;
    return chunk;
}

/* The chunk behind the present one where `bytes` fit; NULL: none. */
static kd__chunk *later(const kd__arena *arena, size_t bytes)
{
    kd__chunk *chunk = arena->current ? arena->current->next : arena->first;
    while (chunk && chunk->bytes < bytes) chunk = chunk->next;
    return chunk;
}

static void enter(kd__arena *arena, kd__chunk *chunk)
{
    const kd__chunk *at = arena->current;
    chunk->before = at ? at->before + arena->used : 0;
    chunk->used_in = arena->round;
    arena->current = chunk;
    arena->used = 0;
}

void *kd__arena_push(kd__arena *arena, size_t bytes)
{
    size_t need;
    if (!kd__round_up(bytes, KD_ALIGN, &need)) {
        kd__fail(KD_ERR_NOMEM, "out of memory: %zu bytes", bytes);
        return NULL;
    }
    if (KD_UNLIKELY(!arena->current || arena->current->bytes - arena->used < need)) {
        kd__chunk *chunk = later(arena, need);
        if (!chunk && !(chunk = append(arena, need))) return NULL;
        enter(arena, chunk);
    }
    kd__chunk *at = arena->current;
    unsigned char *ptr = data_of(at) + arena->used;
    arena->used += need;
    arena->peak = KD_MAX(arena->peak, at->before + arena->used);
    unpoison(ptr, bytes);
    return ptr;
}

size_t kd__arena_rest(const kd__arena *arena) { return arena->current ? arena->current->bytes - arena->used : 0; }

bool kd__arena_next(kd__arena *arena, size_t bytes)
{
    if (!later(arena, bytes)) return false;
    enter(arena, arena->current ? arena->current->next : arena->first);
    return true;
}

kd__mark kd__arena_mark(const kd__arena *arena)
{
    return (kd__mark){ arena->current, arena->used };
}

void kd__arena_rewind(kd__arena *arena, kd__mark mark)
{
#ifdef ARENA_POISON
    kd__chunk *chunk = mark.chunk ? mark.chunk : arena->first;
    for (size_t used = mark.used; chunk; chunk = chunk->next, used = 0) poison(data_of(chunk) + used, chunk->bytes - used);
#endif
    arena->current = mark.chunk;
    arena->used = mark.used;
}

void kd__arena_reset(kd__arena *arena)
{
    kd__arena_rewind(arena, (kd__mark){ NULL, 0 });
    arena->round++;
}

void kd__arena_free(kd__arena *arena)
{
    kd__chunk *chunk = arena->first;
    while (chunk) {
        kd__chunk *next = chunk->next;
        free_chunk(arena, chunk);
        chunk = next;
    }
    kd__arena_init(arena, arena->ctx);
}
