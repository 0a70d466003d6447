/* test_arena.c - arenas, blocks, scratch: alignment, reuse, nothing allocated the second time, no memory.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "kdtest.h"
#include <pthread.h>

static bool aligned(const void *p) { return ((uintptr_t)p & (KD_ALIGN - 1)) == 0; }

/* ---- blocks ---------------------------------------------------------------------------------------------- */

TEST(blocks)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    for (size_t n = 0; n < 300; n++) {
        unsigned char *p = kd__alloc(a.ctx, n), *q = kd__alloc_raw(a.ctx, n);
        CHECK(p && q && aligned(p) && aligned(q));
        for (size_t i = 0; i < n; i++) CHECK(p[i] == 0);
        memset(p, 1, n);
        memset(q, 2, n);
        kd__free(a.ctx, p);
        kd__free(a.ctx, q);
    }
    kd__free(a.ctx, NULL);
    char *copy = kd__strdup(a.ctx, "layer3.0.conv1.weight");
    CHECK_STR(copy, "layer3.0.conv1.weight");
    kd__free(a.ctx, copy);
    kdtest_alloc_end(&a);
}

TEST(blocks_too_large)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    size_t calls = a.calls;
    CHECK(!kd__alloc(a.ctx, SIZE_MAX));
    CHECK_ERROR_HAS("out of memory: 18446744073709551615 bytes");
    CHECK(!kd__alloc_raw(a.ctx, SIZE_MAX - KD_ALIGN));
    CHECK(!kd__alloc_array(a.ctx, SIZE_MAX / 2, 3));
    CHECK_ERROR_HAS("elements of 3 bytes");
    CHECK(!kd__scratch_get(a.ctx, SIZE_MAX));
    CHECK(!kd__scratch_get(a.ctx, SIZE_MAX - 3000));
    CHECK_MSG(a.calls == calls, "an impossible size reached the allocator");
    CHECK(!kd__alloc(a.ctx, SIZE_MAX / 2));
    kdtest_alloc_end(&a);
}

TEST(grow)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    uint32_t *list = NULL;
    size_t capacity = 0, before = a.calls;
    for (uint32_t i = 0; i < 1000; i++) {
        CHECK_OK(kd__grow(a.ctx, &list, &capacity, i + 1, sizeof *list));
        CHECK(list[i] == 0);
        list[i] = i;
    }
    for (uint32_t i = 0; i < 1000; i++) CHECK(list[i] == i);
    CHECK_MSG(a.calls - before <= 8, "%zu allocations", a.calls - before);
    uint32_t *old = list;
    size_t old_capacity = capacity;
    CHECK_STATUS(kd__grow(a.ctx, &list, &capacity, SIZE_MAX / 2, sizeof *list), KD_ERR_NOMEM);
    CHECK(list == old && capacity == old_capacity);
    a.fail_at = a.calls + 1;
    CHECK_STATUS(kd__grow(a.ctx, &list, &capacity, capacity + 1, sizeof *list), KD_ERR_NOMEM);
    CHECK(list == old && capacity == old_capacity && list[999] == 999);
    kd__free(a.ctx, list);
    kdtest_alloc_end(&a);
}

TEST(checked_arithmetic)
{
    size_t n;
    CHECK(kd__mul(1ull << 32, (1ull << 32) - 1, &n) && n == 0xffffffff00000000u);
    CHECK(!kd__mul(1ull << 32, 1ull << 32, &n));
    CHECK(kd__add(SIZE_MAX - 1, 1, &n) && n == SIZE_MAX);
    CHECK(!kd__add(SIZE_MAX, 1, &n));
    CHECK(kd__round_up(0, 64, &n) && n == 0);
    CHECK(kd__round_up(65, 64, &n) && n == 128);
    CHECK(kd__round_up(SIZE_MAX - 63, 64, &n) && n == SIZE_MAX - 63);
    CHECK(!kd__round_up(SIZE_MAX - 62, 64, &n));
}

/* ---- arenas ---------------------------------------------------------------------------------------------- */

TEST(arena_places)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    kd__arena arena;
    kd__arena_init(&arena, a.ctx);
    unsigned char *p = kd__arena_push(&arena, 100), *q = kd__arena_push(&arena, 0), *r = kd__arena_push(&arena, 1);
    CHECK(p && q && r && aligned(p) && aligned(q) && aligned(r));
    CHECK(q >= p + 100 && r >= q);
    memset(p, 1, 100);
    *r = 2;
    kd__mark mark = kd__arena_mark(&arena);
    unsigned char *s = kd__arena_push(&arena, 1000000), *t = kd__arena_push(&arena, 10);
    memset(s, 3, 1000000);
    memset(t, 4, 10);
    CHECK(p[99] == 1 && *r == 2);
    kd__arena_rewind(&arena, mark);
    CHECK(kd__arena_push(&arena, 1000000) == s && kd__arena_push(&arena, 10) == t);
    kd__arena_reset(&arena);
    CHECK(kd__arena_push(&arena, 100) == p);
    CHECK(arena.peak >= 1000000 + 100 && arena.peak <= arena.total);
    kd__arena_free(&arena);
    CHECK(kd__arena_push(&arena, 5) != NULL);   /* a freed arena is an empty one */
    kd__arena_free(&arena);
    kdtest_alloc_end(&a);
}

/* The rest of a chunk can be had; chunks that are too small for what comes make room for one that is not. */
TEST(arena_chunks)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    kd__arena arena;
    kd__arena_init(&arena, a.ctx);
    CHECK(kd__arena_rest(&arena) == 0 && !kd__arena_next(&arena, 1));
    for (int i = 0; i < 20; i++) CHECK(kd__arena_push(&arena, 300000));
    const size_t total = arena.total, live = a.live;
    CHECK(kd__arena_rest(&arena) < 1200000 && kd__arena_push(&arena, kd__arena_rest(&arena)) && kd__arena_rest(&arena) == 0);
    kd__arena_reset(&arena);
    CHECK(kd__arena_next(&arena, 1) && kd__arena_rest(&arena) >= 65536 - 128);
    CHECK(kd__arena_next(&arena, 300000) && !kd__arena_next(&arena, 3000000));
    kd__arena_reset(&arena);
    unsigned char *p = kd__arena_push(&arena, 3000000);
    CHECK_MSG(p && arena.total <= total + 64 && a.live < live, "%zu bytes in place of %zu", arena.total, total);
    memset(p, 1, 3000000);
    const size_t calls = a.calls;
    kd__arena_reset(&arena);
    CHECK(kd__arena_push(&arena, 3000000) == p && a.calls == calls);
    kd__arena_free(&arena);
    kdtest_alloc_end(&a);
}

/* A random program of pushes, marks and rewinds, with every piece of memory written and checked. */
static uint64_t arena_program(kd__arena *arena, uint64_t seed, int *failures)
{
    enum { LIVE = 400 };
    kdtest_rand r = { seed };
    unsigned char *piece[LIVE];
    size_t bytes[LIVE], count = 0, marks = 0, at[8];
    kd__mark mark[8];
    uint64_t hash = 0;
    for (int step = 0; step < 600; step++) {
        size_t what = kdtest_size(&r, 0, 9);
        if (what == 0 && marks < 8) {
            at[marks] = count;
            mark[marks++] = kd__arena_mark(arena);
        } else if (what == 1 && marks) {
            marks--;
            count = at[marks];
            kd__arena_rewind(arena, mark[marks]);
        } else if (count < LIVE) {
            size_t n = kdtest_size(&r, 0, kdtest_size(&r, 0, 7) ? 2000 : 300000);
            piece[count] = kd__arena_push(arena, n);
            bytes[count] = n;
            if (!piece[count]) {
                ++*failures;
                return 0;
            }
            memset(piece[count], (int)(count & 255), n);
            hash = hash * 31 + (uintptr_t)piece[count];
            count++;
        }
        for (size_t i = 0; step % 50 == 0 && i < count; i++)
            CHECK(!bytes[i] || (piece[i][0] == (i & 255) && piece[i][bytes[i] - 1] == (i & 255)));
    }
    return hash;
}

TEST(arena_second_run_allocates_nothing)
{
    for (uint64_t seed = 1; seed <= (kdtest_full() ? 500 : 20); seed++) {
        kdtest_alloc a;
        kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
        kd__arena arena;
        int failures = 0;
        kd__arena_init(&arena, a.ctx);
        uint64_t first = arena_program(&arena, seed, &failures);
        size_t calls = a.calls;
        for (int again = 0; again < 3; again++) {
            kd__arena_reset(&arena);
            CHECK(arena_program(&arena, seed, &failures) == first);
        }
        CHECK_MSG(a.calls == calls, "seed %d: %zu allocations in later runs", (int)seed, a.calls - calls);
        CHECK(failures == 0);
        kd__arena_free(&arena);
        kdtest_alloc_end(&a);
    }
}

TEST(arena_without_memory)
{
    for (int persistent = 0; persistent < 2; persistent++) {
        int failures = 1;
        for (size_t fail = 1; failures; fail++) {
            kdtest_alloc a;
            kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
            a.fail_at = a.calls + fail;
            a.persistent = persistent;
            kd__arena arena;
            kd__arena_init(&arena, a.ctx);
            failures = 0;
            arena_program(&arena, 3, &failures);
            a.fail_at = 0;
            kd__arena_reset(&arena);
            int more = 0;
            arena_program(&arena, 3, &more);   /* and it is usable afterwards */
            CHECK(more == 0);
            kd__arena_free(&arena);
            kdtest_alloc_end(&a);
        }
    }
    kd__arena arena;
    kd__arena_init(&arena, NULL);
    CHECK(!kd__arena_push(&arena, SIZE_MAX));
    CHECK(!kd__arena_push(&arena, SIZE_MAX - 100));
    CHECK_ERROR_HAS("out of memory");
    kd__arena_free(&arena);
}

/* ---- scratch --------------------------------------------------------------------------------------------- */

static void nested(kd_context *ctx, kdtest_rand *r, int depth)
{
    for (size_t i = 0, n = kdtest_size(r, 1, 3); i < n; i++) {
        size_t bytes = kdtest_size(r, 0, 100000);
        unsigned char *p = kd__scratch_get(ctx, bytes);
        CHECK(p && aligned(p));
        memset(p, depth, bytes);
        if (depth < 5) nested(ctx, r, depth + 1);
        for (size_t k = 0; k < bytes; k += 97)
            if (!CHECK(p[k] == depth)) break;
        kd__scratch_put(ctx, p);
    }
}

TEST(scratch_second_run_allocates_nothing)
{
    for (uint64_t seed = 1; seed <= (kdtest_full() ? 500 : 20); seed++) {
        kdtest_alloc a;
        kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
        size_t before = a.live;
        nested(a.ctx, &(kdtest_rand){ seed }, 0);
        size_t calls = a.calls;
        nested(a.ctx, &(kdtest_rand){ seed }, 0);
        nested(a.ctx, &(kdtest_rand){ seed }, 0);
        CHECK_MSG(a.calls == calls, "seed %d: %zu allocations in later runs", (int)seed, a.calls - calls);
        CHECK_MSG(a.live - before <= 6, "%zu blocks kept for a nesting of 6", a.live - before);
        kd__scratch_put(a.ctx, NULL);
        kdtest_alloc_end(&a);
    }
}

/* Tasks of different appetites, not always putting back in reverse order. */
static void scratch_task(size_t i, void *arg)
{
    kd_context *ctx = arg;
    size_t n = 5000 + 3000 * (i % 5), m = 90000 - 2000 * (i % 7);
    unsigned char *first = kd__scratch_get(ctx, n), *second = kd__scratch_get(ctx, m), *third;
    CHECK(first && second && aligned(first) && aligned(second));
    memset(first, (int)i, n);
    memset(second, (int)i + 1, m);
    for (size_t k = 0; k < n; k += 7)
        if (!CHECK(first[k] == (unsigned char)i)) break;
    if (i % 3) {
        kd__scratch_put(ctx, second);
        kd__scratch_put(ctx, first);
        return;
    }
    kd__scratch_put(ctx, first);
    third = kd__scratch_get(ctx, n);
    memset(third, 9, n);
    for (size_t k = 0; k < m; k += 7)
        if (!CHECK(second[k] == (unsigned char)(i + 1))) break;
    kd__scratch_put(ctx, second);
    kd__scratch_put(ctx, third);
}

TEST(scratch_in_tasks)
{
    for (int round = 0; round < (kdtest_full() ? 300 : 20); round++) {
        kdtest_alloc a;
        kdtest_alloc_begin(&a, 4, KD_ISA_AUTO);
        void *outer = kd__scratch_get(a.ctx, 1000000);   /* a large block of the caller's must not mislead the tasks */
        kd__scratch_put(a.ctx, outer);
        kd__parallel(a.ctx, 64, scratch_task, a.ctx);
        size_t calls = a.calls;
        for (int again = 0; again < 20; again++) kd__parallel(a.ctx, 64, scratch_task, a.ctx);
        CHECK_MSG(a.calls == calls, "%zu allocations in later runs", a.calls - calls);
        kdtest_alloc_end(&a);
    }
}

/* First every task alone, one after the other; then as many as there are threads at the same moment. */
static pthread_barrier_t all_inside;
static int together;

static void overlapping_task(size_t i, void *arg)
{
    void *held[4];
    for (size_t k = 0; k < KD_COUNT(held); k++) held[k] = kd__scratch_get(arg, 1000 * (k + 1) + 5000 * i);
    if (together) pthread_barrier_wait(&all_inside);
    for (size_t k = 0; k < KD_COUNT(held); k++) kd__scratch_put(arg, held[k]);
}

typedef struct one_task {
    size_t i;
    void (*task)(size_t i, void *arg);
    void *arg;
} one_task;

static void *thread_of_task(void *arg)
{
    one_task *t = arg;
    t->task(t->i, t->arg);
    return NULL;
}

static void one_by_one_or_together(size_t n, void (*task)(size_t i, void *arg), void *arg, void *user)
{
    (void)user;
    pthread_t ids[4];
    one_task each[4];
    for (size_t i = 0; i < n; i++) {
        each[i] = (one_task){ i, task, arg };
        if (together) pthread_create(&ids[i], NULL, thread_of_task, &each[i]);
        else task(i, arg);
    }
    for (size_t i = 0; together && i < n; i++) pthread_join(ids[i], NULL);
}

TEST(scratch_in_tasks_that_all_overlap)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 4, KD_ISA_AUTO);
    a.ctx->parallel = one_by_one_or_together;
    pthread_barrier_init(&all_inside, NULL, 4);
    together = 0;
    kd__parallel(a.ctx, 4, overlapping_task, a.ctx);
    size_t calls = a.calls;
    together = 1;
    kd__parallel(a.ctx, 4, overlapping_task, a.ctx);
    CHECK_MSG(a.calls == calls, "%zu allocations in the overlapping run", a.calls - calls);
    pthread_barrier_destroy(&all_inside);
    kdtest_alloc_end(&a);
}

static void greedy_task(size_t i, void *arg)
{
    void *held[12];
    for (size_t k = 0; k < KD_COUNT(held); k++) {
        held[k] = kd__scratch_get(arg, 100 * k + i);
        if (held[k]) memset(held[k], 1, 100 * k + i);
    }
    for (size_t k = 0; k < KD_COUNT(held); k++) kd__scratch_put(arg, held[k]);
}

/* Deeper than there are levels, and with memory running out at every place. */
TEST(scratch_in_tasks_without_memory)
{
    for (int persistent = 0; persistent < 2; persistent++) {
        for (size_t fail = 1; fail < 60; fail++) {
            kdtest_alloc a;
            kdtest_alloc_begin(&a, 3, KD_ISA_AUTO);
            a.fail_at = a.calls + fail;
            a.persistent = persistent;
            kd__parallel(a.ctx, 8, greedy_task, a.ctx);
            a.fail_at = 0;
            kd__parallel(a.ctx, 8, scratch_task, a.ctx);
            kdtest_alloc_end(&a);
        }
    }
}

TEST(scratch_without_memory)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    void *kept = kd__scratch_get(a.ctx, 100);
    kd__scratch_put(a.ctx, kept);
    a.fail_at = a.calls + 1;
    CHECK(!kd__scratch_get(a.ctx, 100000));
    CHECK_ERROR_HAS("out of memory");
    void *p = kd__scratch_get(a.ctx, 100000);
    CHECK(p != NULL);
    kd__scratch_put(a.ctx, p);
    kdtest_alloc_end(&a);
}
