/* tape_memory.c - the tape's memory: headers, records, and blocks for all that is large.
 *
 * Blocks are cut from an arena, given back when the last tensor or node that shares them is done (an inner result of a model,
 * a gradient that has been used), joined with free neighbours and handed out again.
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

enum { HEADERS = 64, LEAST_REST = 4096, LARGEST_RECORD = 1024 };

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
    if (!kd__tape_ok(tape)) return NULL;
    void *ptr = NULL;
    if (bytes <= LARGEST_RECORD) {
        ptr = kd__arena_push(&tape->records, bytes);
        if (ptr) count_used(tape, (bytes + KD_ALIGN - 1) & ~(size_t)(KD_ALIGN - 1));
    } else {
        size_t block = kd__block_new(tape, bytes);
        if (block != KD__NO_BLOCK) ptr = tape->blocks[block].ptr;
    }
    if (!ptr) kd__tape_fail(tape, kd__fail(KD_ERR_NOMEM, "out of memory: %zu bytes", bytes));
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
    kd_tensor *x = kd__header_new(tape);
    if (x) header.block = kd__block_new(tape, header.count * kd_dtype_size(dtype));
    if (header.block == KD__NO_BLOCK) {
        kd__tape_fail(tape, kd__fail(KD_ERR_NOMEM, "out of memory for %s %S", kd_dtype_name(dtype), rank, shape));
        return NULL;
    }
    *x = header;
    x->data = tape->blocks[header.block].ptr;
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

static void list_free(kd_tape *tape, size_t i)
{
    kd__block *b = &tape->blocks[i];
    b->free_next = tape->block_free;
    b->free_prev = KD__NO_BLOCK;
    if (b->free_next != KD__NO_BLOCK) tape->blocks[b->free_next].free_prev = i;
    tape->block_free = i;
}

static void unlist_free(kd_tape *tape, size_t i)
{
    const kd__block *b = &tape->blocks[i];
    if (b->free_prev == KD__NO_BLOCK) tape->block_free = b->free_next;
    else tape->blocks[b->free_prev].free_next = b->free_next;
    if (b->free_next != KD__NO_BLOCK) tape->blocks[b->free_next].free_prev = b->free_prev;
}

/* Block i, free, takes over its free neighbour `next`. */
static void join(kd_tape *tape, size_t i)
{
    kd__block *b = &tape->blocks[i];
    size_t gone = b->next;
    b->bytes += tape->blocks[gone].bytes;
    b->next = tape->blocks[gone].next;
    if (b->next != KD__NO_BLOCK) tape->blocks[b->next].prev = i;
    if (tape->block_last == gone) tape->block_last = i;
    unlist_free(tape, gone);
    entry_free(tape, gone);
}

static size_t best_fit(const kd_tape *tape, size_t bytes)
{
    size_t best = KD__NO_BLOCK;
    for (size_t i = tape->block_free; i != KD__NO_BLOCK; i = tape->blocks[i].free_next)
        if (tape->blocks[i].bytes >= bytes && (best == KD__NO_BLOCK || tape->blocks[i].bytes < tape->blocks[best].bytes)) best = i;
    return best;
}

/* Entry `at` becomes the arena's next bytes; false: out of memory. */
static bool cut(kd_tape *tape, size_t at, size_t bytes)
{
    unsigned char *ptr = kd__arena_push(&tape->arena, bytes);
    if (!ptr) return false;
    kd__block *last = tape->block_last == KD__NO_BLOCK ? NULL : &tape->blocks[tape->block_last];
    bool follows = last && last->ptr + last->bytes == ptr;
    tape->blocks[at] = (kd__block){ .ptr = ptr, .bytes = bytes, .next = KD__NO_BLOCK,
                                    .prev = follows ? tape->block_last : KD__NO_BLOCK };
    if (follows) last->next = at;
    tape->block_last = at;
    return true;
}

/* The rests of chunks that are too small for a request become free blocks. */
static void cut_rests(kd_tape *tape, size_t bytes)
{
    size_t rest;
    while ((rest = kd__arena_rest(&tape->arena)) < bytes) {
        if (rest >= LEAST_REST) {
            size_t at = entry_new(tape);
            if (at == KD__NO_BLOCK) return;
            cut(tape, at, rest);
            poison(tape->blocks[at].ptr, rest);
            list_free(tape, at);
        }
        if (!kd__arena_next(&tape->arena, bytes)) return;
    }
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
        unlist_free(tape, at);
        if (b->bytes > need) {
            tape->blocks[spare] = (kd__block){ .ptr = b->ptr + need, .bytes = b->bytes - need, .next = b->next, .prev = at };
            if (b->next != KD__NO_BLOCK) tape->blocks[b->next].prev = spare;
            if (tape->block_last == at) tape->block_last = spare;
            b->next = spare;
            b->bytes = need;
            list_free(tape, spare);
        } else {
            entry_free(tape, spare);
        }
    } else {
        cut_rests(tape, need);
        if (!cut(tape, at = spare, need)) {
            entry_free(tape, spare);
            return KD__NO_BLOCK;
        }
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
    b->kept = false;
    poison(b->ptr, b->bytes);
    list_free(tape, block);
    if (b->next != KD__NO_BLOCK && is_free(&tape->blocks[b->next])) join(tape, block);
    if (b->prev != KD__NO_BLOCK && is_free(&tape->blocks[b->prev])) join(tape, b->prev);
}

/* ---- what backward reads --------------------------------------------------------------------------------- */
static bool in_block(const kd_tape *tape, const kd_tensor *x)
{
    return x && x->owner == KD__OWNER_TAPE && x->tape == tape && x->block != KD__NO_BLOCK;
}

/* What can be made again is not held: its readers are counted. */
static void hold(kd_tape *tape, kd_tensor *x)
{
    if (!in_block(tape, x)) return;
    if (x->maker) x->readers++;
    else tape->blocks[x->block].references++;
}

static void drop(kd_tape *tape, kd_tensor *x)
{
    if (!in_block(tape, x)) return;
    if (!x->maker) {
        kd__block_drop(tape, x->block);
    } else if (--x->readers == 0 && !x->generation) {
        kd__block_drop(tape, x->block);
        x->block = KD__NO_BLOCK;
    }
}

void kd__node_hold(kd_tape *tape, const kd__node *node)
{
    for (size_t i = 0; i < node->in_count; i++)
        if (!(node->unread_in >> i & 1)) hold(tape, node->in[i]);
    for (size_t i = 0; i < node->out_count; i++)
        if (!(node->unread_out >> i & 1)) hold(tape, node->out[i]);
}

void kd__node_drop(kd_tape *tape, const kd__node *node)
{
    for (size_t i = 0; i < node->in_count; i++)
        if (!(node->unread_in >> i & 1)) drop(tape, node->in[i]);
    for (size_t i = 0; i < node->out_count; i++)
        if (!(node->unread_out >> i & 1)) drop(tape, node->out[i]);
}

void kd__node_ready(kd_tape *tape, const kd__node *node)
{
    for (size_t i = 0; i < node->in_count; i++) {
        kd_tensor *x = node->in[i];
        if (node->unread_in >> i & 1 || !x || !x->maker || x->owner != KD__OWNER_TAPE || x->tape != tape ||
            x->block != KD__NO_BLOCK)
            continue;
        x->block = kd__block_new(tape, x->count * sizeof(float));
        if (x->block == KD__NO_BLOCK) {
            kd__tape_fail(tape, kd__fail(KD_ERR_NOMEM, "out of memory for %S", (size_t)x->rank, x->shape));
            return;
        }
        x->data = tape->blocks[x->block].ptr;
        kd__make_again(tape, &tape->nodes[x->maker - 1]);
    }
}

/* ---- for kd_model_forward ------------------------------------------------------------------------------- */
static bool alive_in_block(const kd_tape *tape, const kd_tensor *x)
{
    return tape && in_block(tape, x) && x->generation == tape->state.generation;
}

size_t kd__tape_block_mark(const kd_tape *tape) { return tape ? tape->header_used : 0; }

void kd__tape_release(kd_tape *tape, kd_tensor *x)
{
    if (!alive_in_block(tape, x) || x->retain_grad || tape->blocks[x->block].kept) return;
    x->generation = 0;
    kd__block_drop(tape, x->block);
    if (x->maker) x->block = KD__NO_BLOCK;
}

void kd__tape_release_since(kd_tape *tape, size_t mark, const kd_tensor *keep)
{
    if (!tape) return;
    for (size_t i = mark; i < tape->header_used; i++)
        if (header_at(tape, i) != keep) kd__tape_release(tape, header_at(tape, i));
}

void kd__tape_keep(kd_tape *tape, const kd_tensor *x)
{
    if (alive_in_block(tape, x)) tape->blocks[x->block].kept = true;
}

void kd__tape_keep_seen(kd_tape *tape, size_t mark, const kd_tensor *x, const kd_tensor *y)
{
    if (tape->mode == KD_TAPE_INFER) return;
    kd__tape_keep(tape, x);
    if (kd__tensor_alive(y)) kd__tape_keep(tape, y);
    for (size_t i = mark; i < tape->header_used; i++) kd__tape_keep(tape, header_at(tape, i));
}

void kd__memory_reset(kd_tape *tape)
{
    tape->header_used = tape->node_count = tape->leaf_count = 0;
    tape->block_count = 0;
    tape->block_unused = tape->block_last = tape->block_free = KD__NO_BLOCK;
    tape->used = 0;
    kd__arena_reset(&tape->arena);
    kd__arena_reset(&tape->records);
}

void kd__memory_free(kd_tape *tape)
{
    for (size_t i = 0; i < tape->header_chunks; i++) kd__free(tape->ctx, tape->headers[i]);
    kd__free(tape->ctx, tape->headers);
    kd__free(tape->ctx, tape->nodes);
    kd__free(tape->ctx, tape->blocks);
    kd__free(tape->ctx, tape->leaves);
    kd__arena_free(&tape->arena);
    kd__arena_free(&tape->records);
}

size_t kd_tape_bytes(const kd_tape *tape)
{
    if (!tape) return 0;
    return sizeof *tape + tape->arena.total + tape->records.total + tape->header_chunks * HEADERS * sizeof(kd_tensor) +
           tape->header_capacity * sizeof *tape->headers + tape->node_capacity * sizeof *tape->nodes +
           tape->block_capacity * sizeof *tape->blocks + tape->leaf_capacity * sizeof *tape->leaves;
}

size_t kd_tape_peak_bytes(const kd_tape *tape) { return tape ? tape->peak : 0; }
