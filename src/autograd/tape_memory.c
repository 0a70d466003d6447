/* tape_memory.c - the tape's memory: headers, what lives until reset, and blocks that are recycled before it.
 *
 * Everything lies in the arena.  Blocks are cut from it, given back when the last tensor that shares them is done (an INFER
 * result, a gradient that has been used), joined with free neighbours and handed out again.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"

#if defined __SANITIZE_ADDRESS__
#define POISONS 1
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define POISONS 1
#endif
#endif
#ifdef POISONS
#include <sanitizer/asan_interface.h>
#define poison(ptr, bytes) ASAN_POISON_MEMORY_REGION(ptr, bytes)
#define unpoison(ptr, bytes) ASAN_UNPOISON_MEMORY_REGION(ptr, bytes)
#else
#define poison(ptr, bytes) ((void)(ptr), (void)(bytes))
#define unpoison(ptr, bytes) ((void)(ptr), (void)(bytes))
#endif

enum { HEADERS = 64 };

kd_tensor *kd__header_new(kd_tape *tape)
{
    size_t chunk = tape->header_used / HEADERS;
    if (chunk == tape->header_chunks) {
        if (kd__grow(tape->ctx, &tape->headers, &tape->header_capacity, chunk + 1, sizeof *tape->headers) != KD_OK) return NULL;
        tape->headers[chunk] = kd__alloc_array(tape->ctx, HEADERS, sizeof(kd_tensor));
        if (!tape->headers[chunk]) return NULL;
        tape->header_chunks++;
    }
    kd_tensor *x = &tape->headers[chunk][tape->header_used++ % HEADERS];
    memset(x, 0, sizeof *x);
    return x;
}

static kd_tensor *header_at(const kd_tape *tape, size_t i) { return &tape->headers[i / HEADERS][i % HEADERS]; }

static void count_used(kd_tape *tape, size_t bytes)
{
    tape->used += bytes;
    tape->peak = KD_MAX(tape->peak, tape->used);
}

void *kd__tape_alloc(kd_tape *tape, size_t bytes)
{
    void *ptr = kd__tape_ok(tape) ? kd__arena_push(&tape->arena, bytes) : NULL;
    if (!ptr) {
        if (kd__tape_ok(tape)) kd__tape_fail(tape, kd__fail(KD_ERR_NOMEM, "out of memory: %zu bytes", bytes));
        return NULL;
    }
    count_used(tape, (bytes + KD_ALIGN - 1) & ~(size_t)(KD_ALIGN - 1));
    return ptr;
}

kd_tensor *kd__tape_new(kd_tape *tape, kd_dtype dtype, size_t rank, const size_t *shape)
{
    if (!kd__tape_ok(tape)) return NULL;
    kd_tensor header;
    kd_status status = kd__tensor_init(&header, tape->op_name, dtype, rank, shape, NULL);
    if (status != KD_OK) {
        kd__tape_fail(tape, status);
        return NULL;
    }
    size_t bytes = header.count * kd_dtype_size(dtype);
    kd_tensor *x = kd__header_new(tape);
    if (x && tape->mode == KD_TAPE_INFER) {
        header.block = kd__block_new(tape, bytes);
        if (header.block != KD__NO_BLOCK) header.data = tape->blocks[header.block].ptr;
    } else if (x) {
        header.data = kd__arena_push(&tape->arena, bytes);
        if (header.data) count_used(tape, (bytes + KD_ALIGN - 1) & ~(size_t)(KD_ALIGN - 1));
    }
    if (!header.data) {
        kd__tape_fail(tape, kd__fail(KD_ERR_NOMEM, "out of memory for %s %S", kd_dtype_name(dtype), rank, shape));
        return NULL;
    }
    *x = header;
    x->owner = KD__OWNER_TAPE;
    x->ctx = tape->ctx;
    x->tape = tape;
    x->generation = tape->state.generation;
    return x;
}

/* ---- blocks -------------------------------------------------------------------------------------------- */
/* An entry of the table to fill; KD__NO_BLOCK when out of memory. */
static size_t entry_new(kd_tape *tape)
{
    size_t i = tape->block_unused;
    if (i != KD__NO_BLOCK) {
        tape->block_unused = tape->blocks[i].next;
        return i;
    }
    if (kd__grow(tape->ctx, &tape->blocks, &tape->block_capacity, tape->block_count + 1, sizeof *tape->blocks) != KD_OK)
        return KD__NO_BLOCK;
    return tape->block_count++;
}

static void entry_free(kd_tape *tape, size_t i)
{
    tape->blocks[i] = (kd__block){ .next = tape->block_unused };
    tape->block_unused = i;
}

static bool is_free(const kd__block *b) { return b->bytes && !b->references; }

/* Block i, free, takes over its free neighbour `next`. */
static void join(kd_tape *tape, size_t i)
{
    kd__block *b = &tape->blocks[i];
    size_t gone = b->next;
    b->bytes += tape->blocks[gone].bytes;
    b->next = tape->blocks[gone].next;
    if (b->next != KD__NO_BLOCK) tape->blocks[b->next].prev = i;
    if (tape->block_last == gone) tape->block_last = i;
    entry_free(tape, gone);
    tape->block_free--;
}

static size_t best_fit(const kd_tape *tape, size_t bytes)
{
    size_t best = KD__NO_BLOCK;
    for (size_t i = 0, seen = 0; seen < tape->block_free; i++) {
        const kd__block *b = &tape->blocks[i];
        if (!is_free(b)) continue;
        seen++;
        if (b->bytes >= bytes && (best == KD__NO_BLOCK || b->bytes < tape->blocks[best].bytes)) best = i;
    }
    return best;
}

size_t kd__block_new(kd_tape *tape, size_t bytes)
{
    size_t need;
    if (!kd__round_up(KD_MAX(bytes, 1), KD_ALIGN, &need)) return KD__NO_BLOCK;
    size_t spare = entry_new(tape);   /* for the new block, or for what is left of a free one */
    if (spare == KD__NO_BLOCK) return KD__NO_BLOCK;
    size_t at = best_fit(tape, need);
    if (at != KD__NO_BLOCK) {
        kd__block *b = &tape->blocks[at];
        if (b->bytes > need) {
            tape->blocks[spare] = (kd__block){ .ptr = b->ptr + need, .bytes = b->bytes - need, .next = b->next, .prev = at };
            if (b->next != KD__NO_BLOCK) tape->blocks[b->next].prev = spare;
            if (tape->block_last == at) tape->block_last = spare;
            b->next = spare;
            b->bytes = need;
        } else {
            entry_free(tape, spare);
            tape->block_free--;
        }
    } else {
        unsigned char *ptr = kd__arena_push(&tape->arena, need);
        if (!ptr) {
            entry_free(tape, spare);
            return KD__NO_BLOCK;
        }
        at = spare;
        kd__block *last = tape->block_last == KD__NO_BLOCK ? NULL : &tape->blocks[tape->block_last];
        bool follows = last && last->ptr + last->bytes == ptr;
        tape->blocks[at] = (kd__block){ .ptr = ptr, .bytes = need, .next = KD__NO_BLOCK,
                                        .prev = follows ? tape->block_last : KD__NO_BLOCK };
        if (follows) last->next = at;
        tape->block_last = at;
    }
    unpoison(tape->blocks[at].ptr, need);
    tape->blocks[at].references = 1;
    count_used(tape, need);
    return at;
}

void kd__block_drop(kd_tape *tape, size_t block)
{
    kd__block *b = &tape->blocks[block];
    if (--b->references) return;
    tape->used -= b->bytes;
    tape->block_free++;
    b->kept = false;
    poison(b->ptr, b->bytes);
    if (b->next != KD__NO_BLOCK && is_free(&tape->blocks[b->next])) join(tape, block);
    if (b->prev != KD__NO_BLOCK && is_free(&tape->blocks[b->prev])) join(tape, b->prev);
}

/* ---- for kd_model_forward ------------------------------------------------------------------------------- */
size_t kd__tape_block_mark(const kd_tape *tape) { return tape ? tape->header_used : 0; }

void kd__tape_release(kd_tape *tape, kd_tensor *x)
{
    if (!tape || !x || tape->mode != KD_TAPE_INFER || x->owner != KD__OWNER_TAPE || x->tape != tape ||
        x->generation != tape->state.generation || x->block == KD__NO_BLOCK || tape->blocks[x->block].kept)
        return;
    x->generation = 0;
    kd__block_drop(tape, x->block);
}

void kd__tape_release_since(kd_tape *tape, size_t mark, const kd_tensor *keep)
{
    if (!tape || tape->mode != KD_TAPE_INFER) return;
    for (size_t i = mark; i < tape->header_used; i++)
        if (header_at(tape, i) != keep) kd__tape_release(tape, header_at(tape, i));
}

void kd__tape_keep(kd_tape *tape, const kd_tensor *x)
{
    if (tape && x && tape->mode == KD_TAPE_INFER && x->owner == KD__OWNER_TAPE && x->tape == tape &&
        x->generation == tape->state.generation && x->block != KD__NO_BLOCK)
        tape->blocks[x->block].kept = true;
}

void kd__memory_reset(kd_tape *tape)
{
    tape->header_used = tape->node_count = tape->leaf_count = 0;
    tape->block_count = tape->block_free = 0;
    tape->block_unused = tape->block_last = KD__NO_BLOCK;
    tape->used = 0;
    kd__arena_reset(&tape->arena);
}

void kd__memory_free(kd_tape *tape)
{
    for (size_t i = 0; i < tape->header_chunks; i++) kd__free(tape->ctx, tape->headers[i]);
    kd__free(tape->ctx, tape->headers);
    kd__free(tape->ctx, tape->nodes);
    kd__free(tape->ctx, tape->blocks);
    kd__free(tape->ctx, tape->leaves);
    kd__arena_free(&tape->arena);
}

size_t kd_tape_bytes(const kd_tape *tape)
{
    if (!tape) return 0;
    return sizeof *tape + tape->arena.total + tape->header_chunks * HEADERS * sizeof(kd_tensor) +
           tape->header_capacity * sizeof *tape->headers + tape->node_capacity * sizeof *tape->nodes +
           tape->block_capacity * sizeof *tape->blocks + tape->leaf_capacity * sizeof *tape->leaves;
}

size_t kd_tape_peak_bytes(const kd_tape *tape) { return tape ? tape->peak : 0; }
