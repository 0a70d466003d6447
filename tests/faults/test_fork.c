/* test_fork.c - a process that forks while its threads are inside the library: the child goes on with the same contexts and
 * models, the parent does not notice.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "scenario.h"
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* The sanitizers' own locks do not survive a fork while other threads run. */
static int can_fork(void)
{
#ifdef KDTEST_SANITIZED
    kdtest_skip("sanitizers do not survive a fork with threads");
    return 0;
#else
    if (!kdtest_emulated()) return 1;
    kdtest_skip("emulators do not survive a fork with threads");
    return 0;
#endif
}

static uint64_t wanted[64];

static void prepare(void)
{
    if (wanted[0]) return;
    scenario_files();
    if (!CHECK(scenario_count <= KD_COUNT(wanted))) abort();
    for (size_t k = 0; k < scenario_count; k++) CHECK_OK(scenarios[k].run(NULL, &wanted[k]));
    kd_shutdown();
}

/* Every scenario without a file of its own, in these contexts; the number of those that fail. */
static int use(kd_context *ctx)
{
    int bad = 0;
    for (size_t k = 0; k < scenario_count; k++) {
        uint64_t hash = 0;
        if (scenarios[k].files & SCENARIO_WRITES) continue;
        bad += scenarios[k].run(ctx, &hash) != KD_OK || hash != wanted[k];
    }
    return bad;
}

/* It exits with 0 within five seconds: a child that hangs is the failure we look for. */
static int child_succeeds(pid_t child)
{
    int status = 0;
    for (int i = 0; i < 25000; i++) {
        if (waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) && WEXITSTATUS(status) == 0;
        usleep(200);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return 0;
}

/* ---- by chance ------------------------------------------------------------------------------------------------- */

static _Atomic int stop, parent_failures;

static void *busy(void *arg)
{
    while (!stop)
        for (size_t k = 0; k < scenario_count && !stop; k++) {
            uint64_t hash = 0;
            if (scenarios[k].files) continue;
            if (scenarios[k].run(arg, &hash) != KD_OK || hash != wanted[k]) parent_failures++;
        }
    return NULL;
}

TEST(at_any_moment_of_two_other_threads)
{
    if (!can_fork()) return;
    prepare();
    kd_context *shared = kdtest_context(3, KD_ISA_AUTO), *other = kdtest_context(2, KD_ISA_AUTO);
    pthread_t ids[2];
    stop = parent_failures = 0;
    CHECK(pthread_create(&ids[0], NULL, busy, shared) == 0);
    CHECK(pthread_create(&ids[1], NULL, busy, other) == 0);
    for (int i = 0; i < (kdtest_full() ? 300 : 30); i++) {
        pid_t child = fork();
        if (child == 0) {
            int bad = use(shared) + use(i % 2 ? other : NULL);
            kd_context_free(shared);
            kd_context_free(other);
            kd_shutdown();
            _exit(bad);
        }
        if (!CHECK_MSG(child_succeeds(child), "child %d failed or hung", i)) break;
        CHECK(use(i % 2 ? NULL : shared) == 0);
    }
    stop = 1;
    for (int i = 0; i < 2; i++) pthread_join(ids[i], NULL);
    CHECK_MSG(parent_failures == 0, "%d results of the parent were wrong", parent_failures);
    kd_context_free(shared);
    kd_context_free(other);
}

/* ---- by design: another thread stands still inside its i-th allocation, with whatever locks it holds ----------------- */

typedef struct halting {
    pthread_mutex_t lock;
    size_t calls, halt_at;
    int    standing;
    sem_t  halted_or_done, go_on;
} halting;

static void *halting_alloc(size_t bytes, size_t align, void *user)
{
    halting *h = user;
    void *p = NULL;
    pthread_mutex_lock(&h->lock);
    int halt = ++h->calls == h->halt_at;
    pthread_mutex_unlock(&h->lock);
    if (halt) {
        h->standing = 1;
        sem_post(&h->halted_or_done);
        while (sem_wait(&h->go_on) != 0) {}
    }
    return posix_memalign(&p, align, bytes) == 0 ? p : NULL;
}

static void halting_free(void *p, size_t bytes, void *user)
{
    (void)bytes;
    (void)user;
    free(p);
}

typedef struct work {
    halting    *h;
    kd_context *ctx;
    kd_model   *teacher;     /* look at it; NULL: run scenario k */
    size_t      k;
    uint64_t    hash;
    kd_status   status;
} work;

static kd_status look_at(kd_model *teacher, kd_context *ctx, uint64_t *hash)
{
    static float x[64 * 16];
    kd_tape *tape = NULL;
    KD_TRY(kd_tape_create(&tape, ctx, KD_TAPE_INFER));
    for (size_t i = 0; i < KD_COUNT(x); i++) x[i] = (float)(i % 37) - 18;
    kd_tensor *y = kd_model_forward(teacher, tape, kd_tape_constant(tape, 2, (size_t[]){ 64, 16 }, x));
    kd_status st = kd_tape_status(tape);
    if (st == KD_OK) *hash = kdtest_hash(kd_tensor_data(y), kd_tensor_count(y) * sizeof(float));
    kd_tape_free(tape);
    return st;
}

static void *do_work(void *arg)
{
    work *w = arg;
    w->status = w->teacher ? look_at(w->teacher, w->ctx, &w->hash) : scenarios[w->k].run(w->ctx, &w->hash);
    sem_post(&w->h->halted_or_done);
    return NULL;
}

/* The i-th allocation of `w`, in a thread; the child does the same there.  False when there is no i-th one. */
static int fork_at(halting *h, size_t i, work w, uint64_t want, const char *name)
{
    pthread_t id;
    h->calls = 0;
    h->halt_at = i;
    CHECK(pthread_create(&id, NULL, do_work, &w) == 0);
    while (sem_wait(&h->halted_or_done) != 0) {}
    int halted = h->standing;
    if (halted) {
        pid_t child = fork();
        if (child == 0) {
            pthread_mutex_init(&h->lock, NULL);
            h->halt_at = 0;
            work mine = w;
            mine.hash = 0;
            do_work(&mine);
            _exit(mine.status == KD_OK && mine.hash == want ? 0 : 1);
        }
        CHECK_MSG(child_succeeds(child), "%s, forked in allocation %zu: the child failed or hung", name, i);
        sem_post(&h->go_on);
    }
    pthread_join(id, NULL);
    CHECK_MSG(w.status == KD_OK && w.hash == want, "%s, forked in allocation %zu: the parent has %s", name, i,
              kd_status_name(w.status));
    return halted;
}

static void begin(halting *h, kd_context **ctx, uint32_t threads)
{
    kd_context_desc desc;
    *h = (halting){ .halt_at = 0 };
    pthread_mutex_init(&h->lock, NULL);
    sem_init(&h->halted_or_done, 0, 0);
    sem_init(&h->go_on, 0, 0);
    kd_context_desc_init(&desc, sizeof desc);
    desc.threads = threads;
    desc.allocator = (kd_allocator){ halting_alloc, halting_free, h };
    CHECK_OK(kd_context_create(ctx, &desc));
}

/* One thread: the library has none of its own, the host's are enough to be forked amid. */
TEST(inside_allocations_of_scenarios)
{
    if (!can_fork()) return;
    prepare();
    for (uint32_t threads = 1; threads <= 2; threads++)
        for (size_t k = 0; k < scenario_count; k++) {
            if (scenarios[k].files) continue;
            halting h;
            kd_context *ctx = NULL;
            begin(&h, &ctx, threads);
            uint64_t hash = 0;
            h.calls = 0;
            CHECK_OK(scenarios[k].run(ctx, &hash));
            size_t n = h.calls, step = kdtest_full() ? 1 : n / 3 + 1;
            for (size_t i = 1; i <= n; i += step) {
                kd_context_free(ctx);
                begin(&h, &ctx, threads);   /* with no cached blocks: what is allocated under locks is again */
                fork_at(&h, i, (work){ &h, ctx, NULL, k, 0, KD_ERR_STATE }, wanted[k], scenarios[k].name);
            }
            kd_context_free(ctx);
        }
}

/* A frozen teacher, looked at for the first time: its weights are being packed, under a lock. */
TEST(while_a_shared_teacher_is_being_packed)
{
    if (!can_fork()) return;
    size_t forks = 0;
    for (uint32_t threads = 1; threads <= 2; threads++) {
        uint64_t want = 0;
        for (size_t i = 1; i < 40; i++) {
            halting h;
            kd_context *ctx = NULL;
            kd_model *teacher = NULL;
            begin(&h, &ctx, threads);
            CHECK_OK(kd_zoo_mlp(&teacher, ctx, (size_t[]){ 16, 256, 256, 10 }, 4, KD_ACT_RELU, 1));
            if (i == 1) CHECK_OK(look_at(teacher, ctx, &want));
            kd_model_freeze(teacher, 1);
            int more = fork_at(&h, i, (work){ &h, ctx, teacher, 0, 0, KD_ERR_STATE }, want, "teacher");
            kd_model_free(teacher);
            kd_context_free(ctx);
            if (!more) break;
            forks++;
        }
    }
    CHECK_MSG(forks > 6, "%zu forks", forks);
}
