/* test_loader.c - order, batches, the same bits whatever the timing, resuming, forks, memory, errors.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "data/data_internal.h"
#include <fenv.h>
#include <math.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNT = 23, H = 6, W = 5, C = 3 };

static uint8_t items[COUNT][H][W][C];
static int32_t labels[COUNT];

static kd_dataset *dataset(kd_context *ctx)
{
    for (size_t i = 0; i < sizeof items; i++) ((uint8_t *)items)[i] = (uint8_t)(i * 131 >> 3);
    for (int i = 0; i < COUNT; i++) labels[i] = i % 7;
    kd_dataset *data = NULL;
    CHECK_OK(kd_dataset_wrap(&data, ctx, KD_U8, COUNT, 3, (const size_t[]){ H, W, C }, items, labels));
    return data;
}

static kd_loader_desc settings(uint32_t ahead)
{
    kd_loader_desc d;
    kd_loader_desc_init(&d, sizeof d);
    d.batch = 5;
    d.ahead = ahead;
    d.seed = 42;
    return d;
}

/* Everything at once. */
static kd_loader_desc rich(uint32_t ahead)
{
    kd_loader_desc d = settings(ahead);
    d.shift = 1;
    d.crop_padding = 2;
    d.flip = 1;
    d.mixup_alpha = 0.4f;
    return d;
}

static kd_loader *make(kd_context *ctx, const kd_dataset *data, const kd_loader_desc *d)
{
    kd_loader *loader = NULL;
    CHECK_OK(kd_loader_create(&loader, ctx, data, d));
    return loader;
}

static uint64_t batch_hash(kd_loader *loader, kd_tensor *x, kd_tensor *y)
{
    return (kdtest_hash(kd_tensor_data(x), kd_tensor_count(x) * 4) * 31 +
            kdtest_hash(kd_tensor_data(y), kd_tensor_count(y) * 4)) *
               31 +
           kdtest_hash(kd_loader_indices(loader), kd_tensor_size(x, 0) * sizeof(uint32_t));
}

/* Hash of the next n calls, ends of epochs included. */
static uint64_t run(kd_loader *loader, size_t n)
{
    uint64_t hash = 7;
    while (n--) {
        kd_tensor *x, *y;
        kd_status status = kd_loader_next(loader, &x, &y);
        CHECK(status == KD_OK || status == KD_END);
        CHECK(status == KD_OK ? x && y : !x && !y && !kd_loader_indices(loader));
        hash = hash * 1000003 + (status == KD_OK ? batch_hash(loader, x, y) : 5);
    }
    return hash;
}

/* ---- what comes ------------------------------------------------------------------------------------------------- */

TEST(each_item_once_an_epoch)
{
    for (uint32_t drop = 0; drop < 2; drop++) for (uint32_t shuffle = 0; shuffle < 2; shuffle++) {
        kd_dataset *data = dataset(NULL);
        kd_loader_desc d = settings(2);
        d.drop_last = drop;
        d.shuffle = shuffle;
        kd_loader *loader = make(NULL, data, &d);
        CHECK(kd_loader_batches(loader) == (drop ? 4 : 5) && !kd_loader_indices(loader));
        uint32_t order[3][COUNT];
        for (uint64_t e = 0; e < 3; e++) {
            int seen[COUNT] = { 0 };
            size_t n = 0;
            kd_tensor *x, *y;
            CHECK(kd_loader_epoch(loader) == e);
            kd_status status;
            while ((status = kd_loader_next(loader, &x, &y)) == KD_OK) {
                size_t rows = kd_tensor_size(x, 0), want = n == 20 ? 3 : 5;
                CHECK(rows == want && kd_tensor_rank(x) == 4 && kd_tensor_dtype(x) == KD_F32 && kd_tensor_contiguous(x));
                CHECK(kd_tensor_size(x, 1) == H && kd_tensor_size(x, 2) == W && kd_tensor_size(x, 3) == C);
                CHECK(kd_tensor_count(x) == rows * H * W * C);
                CHECK(kd_tensor_rank(y) == 1 && kd_tensor_size(y, 0) == rows && kd_tensor_dtype(y) == KD_I32 &&
                      kd_tensor_count(y) == rows);
                for (size_t r = 0; r < rows; r++) {
                    uint32_t at = kd_loader_indices(loader)[r];
                    if (!CHECK(at < COUNT)) break;
                    seen[at]++;
                    order[e][n++] = at;
                    CHECK(((const int32_t *)kd_tensor_data(y))[r] == labels[at]);
                    for (int i = 0; i < H * W * C; i++)
                        CHECK_NEAR((double)kd_tensor_f32(x)[r * H * W * C + (size_t)i], ((const uint8_t *)items[at])[i] / 255.0,
                                   2e-7);
                }
            }
            CHECK(status == KD_END && n == (drop ? 20 : COUNT) && kd_loader_epoch(loader) == e + 1);
            for (int i = 0; i < COUNT; i++) CHECK(seen[i] <= 1);
            if (!shuffle) for (size_t i = 0; i < n; i++) CHECK(order[e][i] == i);
        }
        CHECK((memcmp(order[0], order[1], 20 * sizeof(uint32_t)) == 0) == !shuffle);
        CHECK((memcmp(order[1], order[2], 20 * sizeof(uint32_t)) == 0) == !shuffle);
        kd_loader_free(loader);
        kd_dataset_free(data);
    }
}

TEST(every_order_is_as_likely)   /* first places over many epochs */
{
    kd_dataset *data = dataset(NULL);
    kd_loader_desc d = settings(0);
    d.batch = COUNT;
    kd_loader *loader = make(NULL, data, &d);
    size_t first[COUNT] = { 0 };
    enum { EPOCHS = 2300 };
    for (int e = 0; e < EPOCHS; e++) {
        kd_tensor *x, *y;
        CHECK_OK(kd_loader_next(loader, &x, &y));
        first[kd_loader_indices(loader)[0]]++;
        CHECK_STATUS(kd_loader_next(loader, &x, &y), KD_END);
    }
    for (int i = 0; i < COUNT; i++) CHECK_NEAR((double)first[i], 100, 5 * sqrt(100));
    kd_loader_free(loader);
    kd_dataset_free(data);
}

TEST(subsets_and_small_sets)
{
    kd_dataset *data = dataset(NULL), *some, *none;
    CHECK_OK(kd_dataset_subset(&some, data, (const uint32_t[]){ 20, 3 }, 2));
    CHECK_OK(kd_dataset_subset(&none, data, NULL, 0));
    kd_dataset_free(data);
    kd_loader_desc d = settings(2);
    kd_loader *loader = make(NULL, some, &d);
    kd_tensor *x, *y;
    CHECK_OK(kd_loader_next(loader, &x, &y));
    CHECK(kd_tensor_size(x, 0) == 2);
    for (size_t r = 0; r < 2; r++) {
        uint32_t at = kd_loader_indices(loader)[r];   /* of the subset */
        CHECK(((const int32_t *)kd_tensor_data(y))[r] == (at ? 3 : 6));
        CHECK_NEAR((double)kd_tensor_f32(x)[r * H * W * C], (double)items[at ? 3 : 20][0][0][0] / 255, 1e-6);
    }
    kd_loader_free(loader);
    loader = make(NULL, none, &d);
    CHECK(kd_loader_batches(loader) == 0);
    for (uint64_t e = 0; e < 3; e++) {
        CHECK_STATUS(kd_loader_next(loader, &x, &y), KD_END);
        CHECK(kd_loader_epoch(loader) == e + 1);
    }
    kd_loader_free(loader);
    kd_dataset_free(some);
    kd_dataset_free(none);
}

/* ---- the same bits ------------------------------------------------------------------------------------------------ */

TEST(the_same_with_any_ahead_threads_and_instruction_set)
{
    kd_dataset *data = dataset(NULL);
    uint64_t want = 0;
    uint32_t isas[5];
    size_t count = kdtest_isas(isas);
    for (size_t i = 0; i < count; i++)
        for (uint32_t threads = 1; threads <= 3; threads += 2)
            for (uint32_t ahead = 0; ahead <= 8; ahead = ahead < 4 ? ahead + 1 : ahead + 4) {
                kd_context *ctx = kdtest_context(threads, isas[i]);
                kd_loader_desc d = rich(ahead);
                kd_loader *loader = make(ctx, data, &d);
                uint64_t hash = run(loader, 15);
                CHECK_MSG(!want || hash == want, "%s, %u threads, %u ahead: other bits", kdtest_isa_name(isas[i]), threads,
                          ahead);
                want = hash;
                kd_loader_free(loader);
                kd_context_free(ctx);
            }
    CHECK_MSG(want == 0x687fc8a698265d48ull, "0x%016llx", (unsigned long long)want);   /* on every machine */
    kd_dataset_free(data);
}

TEST(seeds_differ)
{
    kd_dataset *data = dataset(NULL);
    kd_loader_desc d = rich(0), e = d;
    e.seed++;
    kd_loader *one = make(NULL, data, &d), *two = make(NULL, data, &e);
    CHECK(run(one, 3) != run(two, 3));
    kd_loader_free(one);
    kd_loader_free(two);
    kd_dataset_free(data);
}

/* The order does not depend on what else is drawn. */
TEST(augmentation_leaves_the_order_alone)
{
    kd_dataset *data = dataset(NULL);
    kd_loader_desc d = settings(0), e = rich(0);
    kd_loader *one = make(NULL, data, &d), *two = make(NULL, data, &e);
    for (int i = 0; i < 4; i++) {
        kd_tensor *x, *y;
        CHECK_OK(kd_loader_next(one, &x, &y));
        CHECK_OK(kd_loader_next(two, &x, &y));
        CHECK(memcmp(kd_loader_indices(one), kd_loader_indices(two), 5 * sizeof(uint32_t)) == 0);
    }
    kd_loader_free(one);
    kd_loader_free(two);
    kd_dataset_free(data);
}

TEST(a_batch_stays_until_the_next_call)
{
    kd_dataset *data = dataset(NULL);
    kd_loader_desc d = rich(4);
    kd_loader *loader = make(NULL, data, &d);
    for (int i = 0; i < 12; i++) {
        kd_tensor *x, *y;
        if (kd_loader_next(loader, &x, &y) == KD_END) continue;
        uint64_t before = batch_hash(loader, x, y);
        usleep(500);   /* the thread runs on */
        CHECK(batch_hash(loader, x, y) == before);
    }
    kd_loader_free(loader);
    kd_dataset_free(data);
}

/* ---- places ---------------------------------------------------------------------------------------------------------- */

TEST(resumes_anywhere)
{
    kd_dataset *data = dataset(NULL);
    for (uint32_t ahead = 0; ahead <= 2; ahead += 2)
        for (size_t stop = 0; stop <= 13; stop++) {
            kd_loader_desc d = rich(ahead), e = rich(2 - ahead);
            kd_loader *loader = make(NULL, data, &d), *again = make(NULL, data, &e);
            run(loader, stop);
            size_t bytes = kd__loader_state_size(loader);
            uint8_t *state = kdtest_guard(bytes, 1);
            kd__loader_state_write(loader, state);
            uint64_t want = run(loader, 9);
            CHECK_OK(kd__loader_state_check(again, state, bytes));
            kd__loader_state_read(again, state);
            CHECK_MSG(run(again, 9) == want, "stopped after %zu calls", stop);
            kd__loader_state_read(loader, state);   /* back, while it runs ahead */
            CHECK(!kd_loader_indices(loader));
            CHECK(run(loader, 9) == want);
            kdtest_guard_free(state, bytes, 1);
            kd_loader_free(loader);
            kd_loader_free(again);
        }
    kd_dataset_free(data);
}

TEST(states_that_do_not_fit)
{
    kd_dataset *data = dataset(NULL), *part;
    CHECK_OK(kd_dataset_subset(&part, data, (const uint32_t[]){ 0, 1, 2, 3, 4, 5 }, 6));
    kd_loader_desc d = rich(0);
    kd_loader *loader = make(NULL, data, &d);
    run(loader, 3);
    uint8_t state[256];
    size_t bytes = kd__loader_state_size(loader);
    kd__loader_state_write(loader, state);
#define OTHER(set, change, part_of_text)                                           \
    do {                                                                            \
        kd_loader_desc o = rich(0);                                                \
        change;                                                                     \
        kd_loader *other = make(NULL, set, &o);                                    \
        CHECK_STATUS(kd__loader_state_check(other, state, bytes), KD_ERR_SHAPE);   \
        CHECK_ERROR_HAS(part_of_text);                                              \
        kd_loader_free(other);                                                      \
    } while (0)
    OTHER(part, (void)0, "items: 23 in the state, 6 here");
    OTHER(data, o.batch = 4, "batch: 5 in the state, 4 here");
    OTHER(data, o.seed = 1, "seed");
    OTHER(data, o.shuffle = 0, "shuffle");
    OTHER(data, o.drop_last = 1, "drop_last");
    OTHER(data, o.shift = 2, "shift");
    OTHER(data, o.crop_padding = 1, "crop_padding");
    OTHER(data, o.flip = 0, "flip");
    OTHER(data, o.mixup_alpha = 0.5f, "mixup_alpha");
#undef OTHER
    for (size_t n = 0; n < bytes; n++) CHECK_STATUS(kd__loader_state_check(loader, state, n), KD_ERR_TRUNCATED);
    CHECK_STATUS(kd__loader_state_check(loader, state, bytes + 1), KD_ERR_FORMAT);
    state[16] = 6;
    CHECK_STATUS(kd__loader_state_check(loader, state, bytes), KD_ERR_FORMAT);
    CHECK_ERROR_HAS("batch 6 of an epoch of 5");
    state[0] = 9;
    CHECK_STATUS(kd__loader_state_check(loader, state, bytes), KD_ERR_VERSION);
    state[0] = 0;
    CHECK_STATUS(kd__loader_state_check(loader, state, bytes), KD_ERR_FORMAT);
    kd_loader_free(loader);
    kd_dataset_free(part);
    kd_dataset_free(data);
}

/* ---- shards ---------------------------------------------------------------------------------------------------------- */

/* Of each of the next n calls the shards, laid end to end, are what `whole` hands out. */
static void check_shards(kd_loader *whole, kd_loader *const *shards, size_t m, size_t n)
{
    while (n--) {
        kd_tensor *x, *y, *sx, *sy;
        kd_status status = kd_loader_next(whole, &x, &y);
        size_t first = 0, rows = status == KD_OK ? kd_tensor_size(x, 0) : 0;
        for (size_t i = 0; i < m; i++) {
            if (!CHECK_STATUS(kd_loader_next(shards[i], &sx, &sy), status) || status != KD_OK) continue;
            size_t part = kd_tensor_size(sx, 0), items_n = kd_tensor_count(x) / rows, labels_n = kd_tensor_count(y) / rows;
            CHECK_MSG(part == rows / m + (i < rows % m), "shard %zu of %zu has %zu of %zu rows", i, m, part, rows);
            CHECK(kd_tensor_size(sy, 0) == part && kd_tensor_count(sx) == part * items_n && kd_tensor_count(sy) == part * labels_n);
            CHECK(!memcmp(kd_tensor_data(sx), (const float *)kd_tensor_data(x) + first * items_n, part * items_n * 4));
            CHECK(!memcmp(kd_tensor_data(sy), (const float *)kd_tensor_data(y) + first * labels_n, part * labels_n * 4));
            CHECK(!memcmp(kd_loader_indices(shards[i]), kd_loader_indices(whole) + first, part * sizeof(uint32_t)));
            first += part;
        }
        CHECK(first == rows);
    }
}

/* The last batch has 3 rows: of seven shards four get none of it. */
TEST(shards_laid_end_to_end_are_the_batch)
{
    kd_dataset *data = dataset(NULL);
    for (uint32_t m = 1; m <= 7; m++)
        for (int kind = 0; kind < 4; kind++) {
            kd_loader_desc d = kind & 1 ? rich(2) : settings(2);
            d.drop_last = (uint32_t)kind >> 1;
            kd_loader *whole = make(NULL, data, &d), *shards[7];
            for (uint32_t i = 0; i < m; i++) {
                d.shard_index = i;
                d.shard_count = m;
                d.ahead = i % 3;
                shards[i] = make(NULL, data, &d);
                CHECK(kd_loader_batches(shards[i]) == kd_loader_batches(whole));
            }
            check_shards(whole, shards, m, 14);
            for (uint32_t i = 0; i < m; i++) kd_loader_free(shards[i]);
            kd_loader_free(whole);
        }
    kd_loader_desc d = settings(0);
    d.batch = 100;   /* one batch of all 23, and more shards than items */
    kd_loader *whole = make(NULL, data, &d), *many[40];
    d.shard_count = 40;
    for (d.shard_index = 0; d.shard_index < 40; d.shard_index++) many[d.shard_index] = make(NULL, data, &d);
    check_shards(whole, many, 40, 4);
    for (size_t i = 0; i < 40; i++) kd_loader_free(many[i]);
    kd_loader_free(whole);
    kd_dataset_free(data);
}

/* A descriptor from before there were shards. */
TEST(descriptors_without_shards)
{
    kd_dataset *data = dataset(NULL);
    kd_loader_desc d = settings(0), old = settings(0);
    memset(&old.shard_index, 0xff, sizeof old - offsetof(kd_loader_desc, shard_index));   /* not the caller's to set, nor ours to read */
    old.struct_size = offsetof(kd_loader_desc, shard_index);
    kd_loader *whole = make(NULL, data, &d), *same = make(NULL, data, &old);
    CHECK(run(whole, 9) == run(same, 9));
    kd_loader_free(whole);
    kd_loader_free(same);
    kd_dataset_free(data);
}

/* A checkpoint of one shard is that of all, also for another number of them. */
TEST(shards_resume_from_one_state)
{
    kd_dataset *data = dataset(NULL);
    for (size_t stop = 0; stop <= 12; stop++) {
        kd_loader_desc d = rich(2);
        kd_loader *whole = make(NULL, data, &d), *again[3];
        d.shard_index = 1;
        d.shard_count = 2;
        kd_loader *half = make(NULL, data, &d);
        run(whole, stop);
        run(half, stop);
        uint8_t state[256];
        kd__loader_state_write(half, state);
        d.shard_count = 3;
        for (uint32_t i = 0; i < 3; i++) {
            d.shard_index = i;
            again[i] = make(NULL, data, &d);
            CHECK_OK(kd__loader_state_check(again[i], state, kd__loader_state_size(half)));
            kd__loader_state_read(again[i], state);
        }
        check_shards(whole, again, 3, 8);
        for (size_t i = 0; i < 3; i++) kd_loader_free(again[i]);
        kd_loader_free(half);
        kd_loader_free(whole);
    }
    kd_dataset_free(data);
}

/* ---- process ------------------------------------------------------------------------------------------------------------ */

TEST(freed_at_any_moment)
{
    kd_dataset *data = dataset(NULL);
    for (size_t n = 0; n < 60; n++) {
        kd_loader_desc d = rich((uint32_t)(n % 5));
        kd_loader *loader = make(NULL, data, &d);
        run(loader, n % 7);
        kd_loader_free(loader);
    }
    kd_loader_free(NULL);
    kd_dataset_free(data);
}

TEST(cancelled_and_resumed)
{
    kd_context *ctx = kdtest_context(1, KD_ISA_AUTO);
    kd_dataset *data = dataset(ctx);
    for (uint32_t ahead = 0; ahead <= 2; ahead += 2) {
        kd_loader_desc d = rich(ahead);
        kd_loader *loader = make(ctx, data, &d), *calm = make(ctx, data, &d);
        CHECK(run(loader, 2) == run(calm, 2));
        kd_context_cancel(ctx);
        kd_tensor *x, *y;
        CHECK_STATUS(kd_loader_next(loader, &x, &y), KD_ERR_CANCELLED);
        CHECK(!x && !y);
        kd_context_resume(ctx);
        CHECK(run(loader, 6) == run(calm, 6));
        kd_loader_free(loader);
        kd_loader_free(calm);
    }
    kd_dataset_free(data);
    kd_context_free(ctx);
}

TEST(a_forked_child_goes_on)
{
#ifdef __SANITIZE_THREAD__
    kdtest_skip("ThreadSanitizer ends a child that starts threads");
    return;
#endif
    const char *runner = getenv("KD_RUN");
    if (runner && strstr(runner, "qemu")) {
        kdtest_skip("qemu-user fails in a child that starts threads");
        return;
    }
    kd_dataset *data = dataset(NULL);
    kd_loader_desc d = rich(2);
    for (size_t before = 0; before < 8; before++) {
        kd_loader *calm = make(NULL, data, &d), *loader = make(NULL, data, &d), *unused = make(NULL, data, &d);
        run(calm, before);
        uint64_t want = run(calm, 9);
        run(loader, before);
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            uint64_t got = run(loader, 9);
            kd_loader_free(loader);
            kd_loader_free(unused);
            kd_loader_free(calm);   /* its thread is the parent's */
            _exit(got == want ? 0 : 1);
        }
        CHECK(run(loader, 9) == want);
        int code = -1;
        CHECK(waitpid(child, &code, 0) == child);
        CHECK_MSG(WIFEXITED(code) && WEXITSTATUS(code) == 0, "child after %zu calls: status 0x%x", before, code);
        kd_loader_free(calm);
        kd_loader_free(loader);
        kd_loader_free(unused);
    }
    kd_dataset_free(data);
}

static void set_fp(int rounding, int flush)
{
    fesetenv(FE_DFL_ENV);
    fesetround(rounding);
#ifdef __SSE__
    if (flush) __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 0x8040);
#else
    (void)flush;
#endif
}

/* Batches are the same in whatever FP state the caller is when it asks, or was when the thread began. */
TEST(the_same_in_any_fp_state)
{
    kd_dataset *data = dataset(NULL);
    kd_loader_desc d = rich(0);
    kd_loader *calm = make(NULL, data, &d);
    uint64_t want = run(calm, 20);
    kd_loader_free(calm);
    for (uint32_t ahead = 0; ahead <= 2; ahead++) {
        d = rich(ahead);
        kd_loader *loader = make(NULL, data, &d);
        uint64_t hash = 0;
        for (int rounding = 0; rounding < 2; rounding++) {
            set_fp(rounding ? FE_UPWARD : FE_DOWNWARD, 1);
            kd__loader_seek(loader, 0, 0);
            hash = run(loader, 20);
            CHECK(fegetround() == (rounding ? FE_UPWARD : FE_DOWNWARD));
            set_fp(FE_TONEAREST, 0);
            CHECK_MSG(hash == want, "%u ahead, rounding %s", ahead, rounding ? "up" : "down");
        }
        kd_loader_free(loader);
    }
    kd_dataset_free(data);
}

/* ---- memory ---------------------------------------------------------------------------------------------------------------- */

TEST(no_allocation_from_the_second_epoch_on)
{
    for (uint32_t ahead = 0; ahead <= 3; ahead++) {
        kdtest_alloc a;
        kdtest_alloc_begin(&a, 2, KD_ISA_AUTO);
        kd_dataset *data = dataset(a.ctx);
        kd_loader_desc d = rich(ahead);
        kd_loader *loader = make(a.ctx, data, &d);
        run(loader, 6);
        size_t calls = a.calls;
        run(loader, 20);
        CHECK_MSG(a.calls == calls, "%zu allocations with %u ahead", a.calls - calls, ahead);
        kd_loader_free(loader);
        kd_dataset_free(data);
        kdtest_alloc_end(&a);
    }
}

TEST(out_of_memory_is_a_status_or_slower)
{
    kd_dataset *data = dataset(NULL);
    kd_loader_desc d = rich(2);
    kd_loader *calm = make(NULL, data, &d);
    uint64_t want = run(calm, 8);
    kd_loader_free(calm);
    int serial = 0, failed = 0;
    for (int persistent = 0; persistent < 2; persistent++)
        for (size_t fail = 1; fail < 60; fail++) {
            kdtest_alloc a;
            kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
            a.fail_at = a.calls + fail;
            a.persistent = persistent;
            kd_loader *loader = (void *)1;
            kd_status status = kd_loader_create(&loader, a.ctx, data, &d);
            if (status == KD_OK) {
                CHECK(run(loader, 8) == want);   /* no memory for the thread: the caller makes the batches */
                serial += loader->serial;
            } else {
                CHECK_STATUS(status, KD_ERR_NOMEM);
                CHECK(!loader);
                failed++;
            }
            int reached = a.calls >= a.fail_at;
            a.fail_at = 0;
            kd_loader_free(loader);
            kdtest_alloc_end(&a);
            if (!reached) break;
        }
    CHECK(serial == 4 && failed > 10);   /* the monitor and the thread, once and from there on */
    kd_dataset_free(data);
}

/* ---- errors ------------------------------------------------------------------------------------------------------------------
 */

static void refuses(const kd_dataset *data, const kd_loader_desc *d, kd_status status, const char *part)
{
    kd_loader *loader = (void *)1;
    CHECK_STATUS(kd_loader_create(&loader, NULL, data, d), status);
    CHECK_ERROR_HAS(part);
    CHECK(!loader);
}

TEST(wrong_descriptors)
{
    static const float ones[300] = { 1, 1, 1 }, bad[3] = { 1, NAN, 1 };
    kd_dataset *data = dataset(NULL), *flat, *bare, *square;
    CHECK_OK(kd_dataset_wrap(&flat, NULL, KD_U8, COUNT, 1, (const size_t[]){ H * W * C }, items, labels));
    CHECK_OK(kd_dataset_wrap(&bare, NULL, KD_U8, COUNT, 3, (const size_t[]){ H, W, C }, items, NULL));
    CHECK_OK(kd_dataset_wrap(&square, NULL, KD_U8, COUNT, 2, (const size_t[]){ H, W * C }, items, labels));
    kd_loader_desc d;
#define BAD(set, change, status, part) (d = settings(0), change, refuses(set, &d, status, part))
    BAD(data, d.batch = 0, KD_ERR_ARG, "batch");
    BAD(data, (d.batch = 24, d.drop_last = 1), KD_ERR_ARG, "23 items are less than one batch of 24");
    BAD(data, d.ahead = 9, KD_ERR_ARG, "ahead");
    BAD(data, d.scale = NAN, KD_ERR_ARG, "scale");
    BAD(data, d.mixup_alpha = -1, KD_ERR_ARG, "mixup_alpha");
    BAD(data, d.mixup_alpha = NAN, KD_ERR_ARG, "mixup_alpha");
    BAD(data, d.shift = W, KD_ERR_ARG, "shift: 5");
    BAD(data, d.crop_padding = 4000000000u, KD_ERR_ARG, "crop_padding: 4000000000");
    BAD(flat, d.shift = 1, KD_ERR_ARG, "[90]");
    BAD(flat, d.crop_padding = 1, KD_ERR_ARG, "[height, width, channels]");
    BAD(flat, d.flip = 1, KD_ERR_ARG, "[height, width, channels]");
    BAD(data, (d.mean = ones, d.channels = 2), KD_ERR_ARG, "channels: 2");
    BAD(data, (d.std = ones, d.channels = 0), KD_ERR_ARG, "channels: 0");
    BAD(square, (d.std = ones, d.channels = W * C, d.flip = 1), KD_ERR_ARG, "channels: 15");
    BAD(data, (d.mean = bad, d.channels = 3), KD_ERR_ARG, "mean: number 1");
    BAD(data, (d.std = bad, d.channels = 3), KD_ERR_ARG, "std: number 1");
    BAD(data, (d.std = ones + 3, d.channels = 3), KD_ERR_ARG, "std: number 0 is 0");
    BAD(bare, d.mixup_alpha = 1, KD_ERR_ARG, "no labels");
    BAD(data, (d.mixup_alpha = 1, d.classes = 6), KD_ERR_RANGE, "item 6 has label 6, of 6 classes");
    BAD(data, d.classes = 6, KD_ERR_RANGE, "item 6 has label 6");
    BAD(data, d.struct_size = 2, KD_ERR_ARG, "struct_size");
    BAD(data, d.shard_count = 0, KD_ERR_ARG, "shard_count: 0");
    BAD(data, (d.shard_index = 3, d.shard_count = 3), KD_ERR_ARG, "shard_index: 3, of 3 shards");
#undef BAD
    kd_dataset_labels(data)[11] = -1;
    d = settings(0);
    d.mixup_alpha = 1;
    refuses(data, &d, KD_ERR_RANGE, "item 11 has label -1");
    refuses(NULL, &d, KD_ERR_ARG, "data");
    CHECK_STATUS(kd_loader_create(NULL, NULL, data, &d), KD_ERR_ARG);
    kd_tensor *x;
    CHECK_STATUS(kd_loader_next(NULL, &x, &x), KD_ERR_ARG);
    CHECK(kd_loader_epoch(NULL) == 0 && kd_loader_batches(NULL) == 0 && !kd_loader_indices(NULL));
    kd_dataset_free(data);
    kd_dataset_free(flat);
    kd_dataset_free(bare);
    kd_dataset_free(square);
}

/* A label that was changed behind the loader's back is an error of that batch alone. */
TEST(labels_that_went_wrong)
{
    for (uint32_t ahead = 0; ahead <= 2; ahead += 2) {
        kd_dataset *data = dataset(NULL);
        kd_loader_desc d = rich(ahead);
        kd_loader *loader = make(NULL, data, &d);
        kd_dataset_labels(data)[9] = 700;
        int wrong = 0, right = 0;
        kd_tensor *x, *y;
        for (kd_status status; (status = kd_loader_next(loader, &x, &y)) != KD_END;) {
            if (status == KD_OK) {
                right++;
                continue;
            }
            CHECK_STATUS(status, KD_ERR_RANGE);
            CHECK_ERROR_HAS("item 9 has label 700");
            CHECK(!x && !y && !kd_loader_indices(loader));
            wrong++;
        }
        CHECK(wrong == 1 && right == 4);
        kd_loader_free(loader);
        kd_dataset_free(data);
    }
}
