/* test_oom.c - whole scenarios with the i-th allocation failing, for every i, once and from then on: KD_ERR_NOMEM (or the
 * same result as ever, where the library can do without), nothing left, and the next try works.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "scenario.h"
#include <stdlib.h>

enum { SAMPLES = 25 };   /* of the allocations of a scenario, in the short form */

static int no_sync(int fd)
{
    (void)fd;
    return 0;
}

static int no_sync_dir(const char *path)
{
    (void)path;
    return 0;
}

/* Allocations of a run that goes well, in a context of its own; its result. */
static size_t count(const scenario *s, uint64_t *hash)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, s->threads, KD_ISA_AUTO);
    size_t before = a.calls;
    *hash = 0;
    CHECK_MSG(s->run(a.ctx, hash) == KD_OK, "%s: %s", s->name, kd_last_error());
    size_t n = a.calls - before;
    kdtest_alloc_end(&a);
    return n;
}

static void fail_at(const scenario *s, size_t i, int persistent, uint64_t want)
{
    kdtest_alloc a;
    uint64_t hash = 0;
    size_t fds = kdtest_fds();
    kdtest_alloc_begin(&a, s->threads, KD_ISA_AUTO);
    a.persistent = persistent;
    a.fail_at = a.calls + i;
    kd_status st = s->run(a.ctx, &hash);
    const char *how = persistent ? "from there on" : "once";
    CHECK_MSG(st == KD_ERR_NOMEM || (st == KD_OK && hash == want), "%s: allocation %zu fails %s: %s (%s)", s->name, i,
              how, kd_status_name(st), st == KD_OK ? "another result" : kd_last_error());
    if (st == KD_ERR_NOMEM)
        CHECK_MSG(strstr(kd_last_error(), "out of memory"), "%s: allocation %zu: \"%s\"", s->name, i,
                  kd_last_error());
    CHECK_MSG(kdtest_count_files("kdtmp") == 0, "%s: allocation %zu fails %s: a temporary file is left", s->name, i,
              how);
    a.fail_at = 0;
    a.persistent = 0;
    hash = 0;
    st = s->run(a.ctx, &hash);
    CHECK_MSG(st == KD_OK && hash == want, "%s: after allocation %zu failed %s, the next try: %s", s->name, i, how,
              st == KD_OK ? "another result" : kd_last_error());
    kdtest_alloc_end(&a);   /* nothing is left */
    CHECK_MSG(kdtest_fds() == fds, "%s: allocation %zu fails %s: a file is left open", s->name, i, how);
}

TEST(every_allocation)
{
    size_t points = 0;
    kd__io real = kd__io_table;
    scenario_files();
    kd__io_table.sync = no_sync;   /* not what is tested here, and slow */
    kd__io_table.sync_dir = no_sync_dir;
    for (size_t k = 0; k < scenario_count; k++) {
        const scenario *s = &scenarios[k];
        uint64_t want;
        size_t n = count(s, &want), step = kdtest_full() ? 1 : n / SAMPLES + 1;
        CHECK_MSG(n > 0, "%s: allocates nothing", s->name);
        for (size_t i = 1; i <= n + 1; i += step)
            for (int persistent = 0; persistent < 2; persistent++, points++) fail_at(s, i, persistent, want);
    }
    kd__io_table = real;
    if (getenv("KD_TEST_VERBOSE")) printf("%zu scenarios, %zu failures\n", scenario_count, points);
}

/* The context itself, and what makes one without a scenario. */
TEST(contexts)
{
    for (size_t i = 1; i < 12; i++) {
        kdtest_alloc a = { .fail_at = 0 };
        kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
        kd_context_desc desc;
        kd_context_desc_init(&desc, sizeof desc);
        desc.allocator = a.ctx->allocator;
        kd_context *ctx = NULL;
        a.fail_at = a.calls + i;
        kd_status st = kd_context_create(&ctx, &desc);
        CHECK(st == KD_OK || (st == KD_ERR_NOMEM && !ctx));
        a.fail_at = 0;
        if (st == KD_OK) kd_context_free(ctx);
        kdtest_alloc_end(&a);
    }
}
