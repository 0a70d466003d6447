/* test_io_faults.c - every system call of every reader and writer fails in every way, once and from then on: KD_ERR_IO (or
 * all goes well, where waiting or asking again is the answer), the old file whole, nothing left behind, the next try works.
 * SPDX-License-Identifier: MIT */
#include "fault_io.h"
#include "scenario.h"
#include <errno.h>
#include <stdlib.h>

static const struct { const char *name; fault_kind kind; int error; int persistent; } ways[] = {
    { "EIO", FAULT_ERROR, EIO, 0 },       { "EIO for good", FAULT_ERROR, EIO, 1 },
    { "ENOSPC", FAULT_ERROR, ENOSPC, 0 }, { "ENOSPC for good", FAULT_ERROR, ENOSPC, 1 },
    { "EDQUOT", FAULT_ERROR, EDQUOT, 0 }, { "EXDEV", FAULT_ERROR, EXDEV, 0 },
    { "EACCES", FAULT_ERROR, EACCES, 0 }, { "EINTR", FAULT_ERROR, EINTR, 0 },
    { "short", FAULT_SHORT, 0, 0 },       { "short for good", FAULT_SHORT, 0, 1 },
    { "end", FAULT_END, 0, 0 },           { "end for good", FAULT_END, 0, 1 },
};

/* The files a scenario writes; what they hold before it runs. */
static const char *const outputs[] = { "out.safetensors", "out.model", "out.kdcp" };
static const char old_text[] = "what was there before";

static void put_old(void)
{
    for (size_t i = 0; i < KD_COUNT(outputs); i++) kdtest_write(outputs[i], old_text, sizeof old_text);
}

/* Each output is as it was, or new and whole; which, is *replaced. */
static int whole(int *replaced, unsigned char *const *fresh, const size_t *fresh_size)
{
    *replaced = 0;
    for (size_t i = 0; i < KD_COUNT(outputs); i++) {
        size_t n;
        unsigned char *data = kdtest_slurp(kdtest_path(outputs[i]), &n);
        int old = data && n == sizeof old_text && memcmp(data, old_text, n) == 0;
        int new = data && fresh[i] && n == fresh_size[i] && memcmp(data, fresh[i], n) == 0;
        free(data);
        if (!old && !new) return 0;
        *replaced |= new && !old;
    }
    return 1;
}

/* Directories are synced after the rename; a real sync is slow and not what is tested. */
static int quick_sync(int fd)
{
    (void)fd;
    return 0;
}

static int quick_sync_dir(const char *path)
{
    (void)path;
    return 0;
}

typedef struct fresh { unsigned char *data[KD_COUNT(outputs)]; size_t size[KD_COUNT(outputs)]; } fresh;

static void one(const scenario *s, size_t at, size_t way, uint64_t want, const fresh *f)
{
    const fault plan = {
        .at = at, .persistent = ways[way].persistent, .kind = ways[way].kind, .error = ways[way].error, .most = 300
    };
    kdtest_alloc a;
    uint64_t hash = 0;
    size_t fds = kdtest_fds();
    int replaced;
    put_old();
    kdtest_alloc_begin(&a, s->threads, KD_ISA_AUTO);
    errno = 0;
    fault_begin(&plan);
    kd_status st = s->run(a.ctx, &hash);
    fault seen = fault_end();
    if (seen.hit) {
        int may_go_well = ways[way].kind == FAULT_SHORT || ways[way].error == EINTR || seen.hit == seen.hit_close;
        int fits = st == KD_OK ? may_go_well && hash == want
                               : st == (ways[way].kind == FAULT_END ? KD_ERR_TRUNCATED : KD_ERR_IO);
        CHECK_MSG(fits, "%s: call %zu, %s: %s (%s)", s->name, at, ways[way].name, kd_status_name(st),
                  kd_last_error());
    } else {
        CHECK_MSG(st == KD_OK && hash == want, "%s: call %zu, %s: not reached, and %s", s->name, at, ways[way].name,
                  kd_last_error());
    }
    if (s->files == SCENARIO_WRITES) {
        CHECK_MSG(whole(&replaced, f->data, f->size), "%s: call %zu, %s: a broken file", s->name, at, ways[way].name);
        CHECK_MSG(replaced == seen.renamed && (st != KD_OK || replaced), "%s: call %zu, %s: %s, and the file is %s",
                  s->name, at, ways[way].name, kd_status_name(st), replaced ? "new" : "old");
        CHECK_MSG(seen.unlink_hit || kdtest_count_files("kdtmp") == 0, "%s: call %zu, %s: a temporary file is left",
                  s->name, at, ways[way].name);
    }
    CHECK_MSG(kdtest_fds() == fds, "%s: call %zu, %s: a file is left open", s->name, at, ways[way].name);
    hash = 0;
    st = s->run(a.ctx, &hash);
    CHECK_MSG(st == KD_OK && hash == want, "%s: call %zu, %s: the next try: %s", s->name, at, ways[way].name,
              kd_last_error());
    CHECK_MSG(kdtest_count_files("kdtmp") == 0, "%s: call %zu, %s: the next try leaves a temporary file", s->name, at,
              ways[way].name);
    kdtest_alloc_end(&a);
}

TEST(every_call_in_every_way)
{
    kd__io real = kd__io_table;
    size_t points = 0, used = 0;
    scenario_files();
    kd__io_table.sync = quick_sync;
    kd__io_table.sync_dir = quick_sync_dir;
    for (size_t k = 0; k < scenario_count; k++) {
        const scenario *s = &scenarios[k];
        if (!s->files) continue;
        used++;
        uint64_t want = 0;
        fresh f = { { NULL }, { 0 } };
        const fault none = { .kind = FAULT_NONE, .most = 300 };
        fault_begin(&none);
        CHECK_MSG(s->run(NULL, &want) == KD_OK, "%s: %s", s->name, kd_last_error());
        fault seen = fault_end();
        for (size_t i = 0; s->files == SCENARIO_WRITES && i < KD_COUNT(outputs); i++)
            f.data[i] = kdtest_slurp(kdtest_path(outputs[i]), &f.size[i]);
        put_old();
        CHECK_MSG(seen.calls > 1, "%s: %zu calls", s->name, seen.calls);
        size_t step = kdtest_full() ? 1 : seen.calls / 10 + 1;
        for (size_t at = 1; at <= seen.calls;
             at = at + step <= seen.calls || at == seen.calls ? at + step : seen.calls)
            for (size_t way = kdtest_full() ? 0 : at % 2; way < KD_COUNT(ways);
                 way += kdtest_full() ? 1 : 2, points++)
                one(s, at, way, want, &f);
        for (size_t i = 0; i < KD_COUNT(outputs); i++) free(f.data[i]);
    }
    kd__io_table = real;
    CHECK(used >= 8);
    if (getenv("KD_TEST_VERBOSE")) printf("%zu scenarios, %zu failures\n", used, points);
}
