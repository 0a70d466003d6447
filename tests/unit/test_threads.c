/* test_threads.c - parallel loops: every task once, whatever the threads; nesting, forks, hosts, no threads to be had.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "base/platform.h"
#include "kdtest.h"
#include <dirent.h>
#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static const uint32_t thread_counts[] = { 1, 2, 3, 4, 7, 8, 16 };

typedef struct tally {
    _Atomic uint32_t *hits;
    size_t n;
} tally;

static void count(size_t i, void *arg)
{
    tally *t = arg;
    if (CHECK(i < t->n)) atomic_fetch_add(&t->hits[i], 1);
}

/* n tasks, each run once. */
static void check_loop(kd_context *ctx, size_t n)
{
    void *hits = calloc(n + 1, sizeof(uint32_t));
    tally t = { hits, n };
    kd__parallel(ctx, n, count, &t);
    for (size_t i = 0; i < n; i++)
        if (!CHECK_MSG(t.hits[i] == 1, "task %zu of %zu ran %u times", i, n, t.hits[i])) break;
    free(hits);
}

TEST(every_task_once)
{
    for (size_t k = 0; k < KD_COUNT(thread_counts); k++) {
        kd_context *ctx = kdtest_context(thread_counts[k], KD_ISA_AUTO);
        for (size_t n = 0; n < 40; n++) check_loop(ctx, n);
        check_loop(ctx, 1000);
        for (int i = 0; i < (kdtest_full() ? 20000 : 200); i++) check_loop(ctx, (size_t)(i % 9));
        kd_context_free(ctx);
    }
    check_loop(NULL, 100);
}

typedef struct pieces {
    size_t total, grain;
    _Atomic size_t covered, calls;
} pieces;

static void piece(size_t begin, size_t end, void *arg)
{
    pieces *p = arg;
    CHECK(begin < end && end <= p->total && begin % p->grain == 0 && (end - begin == p->grain || end == p->total));
    atomic_fetch_add(&p->covered, end - begin);
    atomic_fetch_add(&p->calls, 1);
}

TEST(ranges_do_not_depend_on_threads)
{
    for (size_t k = 0; k < KD_COUNT(thread_counts); k++) {
        kd_context *ctx = kdtest_context(thread_counts[k], KD_ISA_AUTO);
        for (size_t total = 0; total < 70; total++)
            for (size_t grain = 1; grain < 20; grain += 3) {
                pieces p = { total, grain, 0, 0 };
                kd__parallel_range(ctx, total, grain, piece, &p);
                CHECK(p.covered == total && p.calls == (total + grain - 1) / grain);
            }
        pieces p = { 100, 100, 0, 0 };
        kd__parallel_range(ctx, 100, 0, piece, &p);
        CHECK(p.calls == 1);
        pieces large = { SIZE_MAX, SIZE_MAX / 2, 0, 0 };
        kd__parallel_range(ctx, SIZE_MAX, SIZE_MAX / 2, piece, &large);
        CHECK(large.covered == SIZE_MAX && large.calls == 3);
        kd_context_free(ctx);
    }
}

/* Partial sums of fixed pieces, folded in order: the same bits for any thread count. */
typedef struct summing {
    const float *x;
    float part[100];
} summing;

static void sum_piece(size_t begin, size_t end, void *arg)
{
    summing *s = arg;
    float sum = 0;
    for (size_t i = begin; i < end; i++) sum += s->x[i];
    s->part[begin / 1000] = sum;
}

TEST(same_bits)
{
    float *x = malloc(100000 * sizeof *x), first = 0;
    kdtest_fill(&(kdtest_rand){ 4 }, x, 100000, 1);
    for (size_t k = 0; k < KD_COUNT(thread_counts); k++) {
        kd_context *ctx = kdtest_context(thread_counts[k], KD_ISA_AUTO);
        for (int repeat = 0; repeat < 50; repeat++) {
            summing s = { .x = x };
            kd__parallel_range(ctx, 100000, 1000, sum_piece, &s);
            float sum = 0;
            for (size_t i = 0; i < 100; i++) sum += s.part[i];
            if (k == 0 && repeat == 0) first = sum;
            CHECK(memcmp(&sum, &first, sizeof sum) == 0);
        }
        kd_context_free(ctx);
    }
    free(x);
}

typedef struct nest {
    kd_context *ctx;
    _Atomic size_t inner;
} nest;

static void inner_task(size_t i, void *arg)
{
    (void)i;
    CHECK(kd__in_parallel());
    atomic_fetch_add(&((nest *)arg)->inner, 1);
}

static void outer_task(size_t i, void *arg)
{
    (void)i;
    nest *n = arg;
    CHECK(kd__in_parallel());
    pthread_t before = pthread_self();
    kd__parallel(n->ctx, 10, inner_task, n);
    CHECK(kd__in_parallel() && pthread_equal(before, pthread_self()));
}

TEST(nested_loops)
{
    nest n = { kdtest_context(4, KD_ISA_AUTO), 0 };
    kd__parallel(n.ctx, 20, outer_task, &n);
    CHECK(n.inner == 200);
    CHECK(!kd__in_parallel());
    kd_context_free(n.ctx);
}

static void *loops_of_a_thread(void *arg)
{
    for (int i = 0; i < 300; i++) check_loop(arg, 17);
    return NULL;
}

TEST(several_callers_at_once)
{
    kd_context *ctx = kdtest_context(4, KD_ISA_AUTO);
    pthread_t ids[4];
    for (size_t i = 0; i < 4; i++) pthread_create(&ids[i], NULL, loops_of_a_thread, ctx);
    for (size_t i = 0; i < 4; i++) pthread_join(ids[i], NULL);
    kd_context_free(ctx);
}

/* ---- what workers inherit and what they leave alone --------------------------------------------------------- */

typedef struct state_seen {
    _Atomic int wrong;
    volatile double one, three;
    double want;
} state_seen;

static void rounding_task(size_t i, void *arg)
{
    (void)i;
    state_seen *s = arg;
    if (s->one / s->three != s->want) s->wrong++;
    usleep(1000);   /* so that the others get some */
}

TEST(fp_state_is_the_callers)
{
    kd_context *ctx = kdtest_context(4, KD_ISA_AUTO);
    static const int modes[] = { FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TONEAREST };
    for (size_t k = 0; k < KD_COUNT(modes); k++) {
        fesetround(modes[k]);
        state_seen s = { 0, 1, 3, 0 };
        s.want = s.one / s.three;
        uint64_t before = kd__fp_control();
        kd__parallel(ctx, 16, rounding_task, &s);
        CHECK(kd__fp_control() == before);
        fesetround(FE_TONEAREST);
        CHECK_MSG(s.wrong == 0, "%d tasks in another rounding mode", s.wrong);
    }
    kd_context_free(ctx);
}

static void signal_task(size_t i, void *arg)
{
    (void)i;
    sigset_t set;
    pthread_sigmask(SIG_SETMASK, NULL, &set);
    int blocked = sigismember(&set, SIGINT) && sigismember(&set, SIGTERM) && sigismember(&set, SIGALRM) && sigismember(&set, SIGUSR1);
    int faults = sigismember(&set, SIGSEGV) || sigismember(&set, SIGFPE);
    if (!pthread_equal(pthread_self(), *(pthread_t *)arg)) CHECK(blocked && !faults);
    else CHECK(!blocked);
    usleep(1000);
}

TEST(workers_block_signals)
{
    kd_context *ctx = kdtest_context(4, KD_ISA_AUTO);
    pthread_t self = pthread_self();
    kd__parallel(ctx, 32, signal_task, &self);
    kd_context_free(ctx);
}

static size_t threads_alive(void)
{
    size_t n = 0;
    DIR *dir = opendir("/proc/self/task");
    if (!dir) return 0;
    while (readdir(dir)) n++;
    closedir(dir);
    return n - 2;
}

/* A thread that was joined may be listed for a moment more. */
static int threads_become(size_t n)
{
    for (int i = 0; i < 2000 && threads_alive() != n; i++) usleep(1000);
    return threads_alive() == n;
}

TEST(threads_come_late_and_go)
{
    size_t before = kdtest_emulated() ? 0 : threads_alive();   /* an emulator's own threads come and go in /proc */
    if (!before) {
        kdtest_skip("no /proc of its own");
        return;
    }
    kd_context *ctx = kdtest_context(5, KD_ISA_AUTO);
    CHECK(threads_become(before));
    check_loop(ctx, 1);
    CHECK(threads_alive() == before);   /* small work needs none */
    check_loop(ctx, 2);
    CHECK(threads_become(before + 4));
    kd_context_free(ctx);
    CHECK(threads_become(before));
    for (int i = 0; i < 50; i++) {
        ctx = kdtest_context(3, KD_ISA_AUTO);
        check_loop(ctx, 10);
        kd_context_free(ctx);
    }
    CHECK(threads_become(before));
}

/* ---- a host's own loop -------------------------------------------------------------------------------------- */

typedef struct host {
    int calls;
    size_t n;
} host;

static void backwards(size_t n, void (*task)(size_t i, void *arg), void *arg, void *user)
{
    host *h = user;
    h->calls++;
    h->n = n;
    while (n--) task(n, arg);
}

TEST(host_loop)
{
    host h = { 0, 0 };
    kd_context_desc desc;
    kd_context_desc_init(&desc, sizeof desc);
    desc.threads = 4;
    desc.parallel = backwards;
    desc.parallel_user = &h;
    kd_context *ctx;
    CHECK_OK(kd_context_create(&ctx, &desc));
    check_loop(ctx, 1);
    CHECK(h.calls == 0);
    check_loop(ctx, 30);
    CHECK(h.calls == 1 && h.n == 30);
    nest n = { ctx, 0 };
    kd__parallel(ctx, 5, outer_task, &n);
    CHECK(n.inner == 50 && h.calls == 2 && !kd__in_parallel());
    CHECK(!ctx->pool);
    kd_context_free(ctx);
}

/* ---- when the system says no -------------------------------------------------------------------------------- */

TEST(no_memory_for_the_pool)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 4, KD_ISA_AUTO);
    a.fail_at = 1;
    a.persistent = 1;
    check_loop(a.ctx, 20);
    CHECK(!a.ctx->pool);
    a.fail_at = 0;
    check_loop(a.ctx, 20);
    CHECK(a.ctx->pool != NULL);
    size_t calls = a.calls;
    check_loop(a.ctx, 20);
    CHECK(a.calls == calls);
    kdtest_alloc_end(&a);
}

/* In a child whose address space is full, threads cannot be made: their stacks do not fit. */
TEST(no_threads_to_be_had)
{
#ifdef KDTEST_SANITIZED
    kdtest_skip("sanitizers need the address space");
#else
    if (kdtest_emulated()) {
        kdtest_skip("emulators need the address space");
        return;
    }
    kd_context *ctx = kdtest_context(64, KD_ISA_AUTO);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = { 24u << 20, 24u << 20 };
        setrlimit(RLIMIT_AS, &limit);
        check_loop(ctx, 100);
        check_loop(ctx, 100);
        size_t n = threads_alive();
        _exit(n < 32 ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child: %x", status);
    kd_context_free(ctx);
#endif
}

/* ---- fork --------------------------------------------------------------------------------------------------- */

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

/* Wait a few seconds at most: a child that hangs is the failure we look for. */
static int child_succeeds(pid_t child)
{
    int status = 0;
    for (int i = 0; i < 5000; i++) {
        if (waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) && WEXITSTATUS(status) == 0;
        usleep(1000);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return 0;
}

static int use(kd_context *ctx)
{
    _Atomic uint32_t hits[50] = { 0 };
    tally t = { hits, 50 };
    kd__parallel(ctx, 50, count, &t);
    for (size_t i = 0; i < 50; i++)
        if (hits[i] != 1) return 0;
    void *p = kd__scratch_get(ctx, 1000);
    kd__scratch_put(ctx, p);
    return p != NULL;
}

TEST(children_and_grandchildren)
{
    if (!can_fork()) return;
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 4, KD_ISA_AUTO);
    CHECK(use(a.ctx));
    uint32_t generation = kd__fork_generation();
    for (int i = 0; i < 10; i++) {
        pid_t child = fork();
        if (child == 0) {
            int good = use(a.ctx) && use(NULL) && kd__fork_generation() == generation + 1;
            size_t alive = threads_alive();
            good &= !alive || alive >= 4;   /* it has threads of its own */
            pid_t grandchild = fork();
            if (grandchild == 0) {
                good &= use(a.ctx) && kd__fork_generation() == generation + 2;
                kd_context_free(a.ctx);
                _exit(good && a.live == 0 ? 0 : 1);
            }
            good &= child_succeeds(grandchild);
            kd_context_free(a.ctx);
            _exit(good && a.live == 0 ? 0 : 1);
        }
        CHECK_MSG(child_succeeds(child), "child %d failed or hung", i);
        CHECK(use(a.ctx));
    }
    CHECK(kd__fork_generation() == generation);
    kdtest_alloc_end(&a);
}

static _Atomic int stop;

static void *busy_thread(void *arg)
{
    while (!stop) use(arg);
    return NULL;
}

/* Forked while another thread is in the middle of loops and holds locks. */
TEST(fork_amid_loops)
{
    if (!can_fork()) return;
    kd_context *ctx = kdtest_context(3, KD_ISA_AUTO);
    pthread_t id;
    stop = 0;
    pthread_create(&id, NULL, busy_thread, ctx);
    for (int i = 0; i < (kdtest_full() ? 1000 : 60); i++) {
        pid_t child = fork();
        if (child == 0) _exit(use(ctx) && use(ctx) ? 0 : 1);
        if (!CHECK_MSG(child_succeeds(child), "child %d failed or hung", i)) break;
    }
    stop = 1;
    pthread_join(id, NULL);
    kd_context_free(ctx);
}

static void fork_task(size_t i, void *arg)
{
    if (i != 3) return;
    pid_t child = fork();
    if (child == 0) _exit(use(arg) ? 0 : 1);
    CHECK(child_succeeds(child));
}

TEST(fork_inside_a_task)
{
    if (!can_fork()) return;
    kd_context *ctx = kdtest_context(3, KD_ISA_AUTO);
    for (int i = 0; i < 10; i++) kd__parallel(ctx, 8, fork_task, ctx);
    kd_context_free(ctx);
}

/* ---- threads and monitors ----------------------------------------------------------------------------------- */

typedef struct box {
    kd__monitor *monitor;
    int full, value;
    long sum;
} box;

static void consumer(void *arg)
{
    box *b = arg;
    for (;;) {
        kd__monitor_lock(b->monitor);
        while (!b->full) kd__monitor_wait(b->monitor);
        int v = b->value;
        b->full = 0;
        kd__monitor_signal(b->monitor);
        kd__monitor_unlock(b->monitor);
        if (v < 0) return;
        b->sum += v;
    }
}

TEST(threads_and_monitors)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    box b = { NULL, 0, 0, 0 };
    kd__thread *thread;
    CHECK_OK(kd__monitor_create(a.ctx, &b.monitor));
    CHECK_OK(kd__thread_start(a.ctx, &thread, consumer, &b));
    for (int i = 0; i <= 1000; i++) {
        kd__monitor_lock(b.monitor);
        while (b.full) kd__monitor_wait(b.monitor);
        b.value = i < 1000 ? i : -1;
        b.full = 1;
        kd__monitor_signal(b.monitor);
        kd__monitor_unlock(b.monitor);
    }
    kd__thread_join(thread);
    CHECK(b.sum == 499500);
    pid_t child = fork();
    if (child == 0) {
        kd__monitor_free(b.monitor);   /* of another generation: memory alone */
        _exit(0);
    }
    CHECK(child_succeeds(child));
    kd__monitor_free(b.monitor);
    kd__thread_join(NULL);
    kd__monitor_free(NULL);
    for (size_t fail = 1; fail <= 2; fail++) {
        a.fail_at = a.calls + 1;
        if (fail == 1) CHECK_STATUS(kd__monitor_create(a.ctx, &b.monitor), KD_ERR_NOMEM);
        else CHECK_STATUS(kd__thread_start(a.ctx, &thread, consumer, &b), KD_ERR_NOMEM);
    }
    kdtest_alloc_end(&a);
}

/* The parent's loader thread is in nobody's way in a child. */
TEST(a_childs_join_does_not_wait)
{
    if (!can_fork()) return;
    box b = { NULL, 0, 0, 0 };
    kd__thread *thread;
    CHECK_OK(kd__monitor_create(NULL, &b.monitor));
    CHECK_OK(kd__thread_start(NULL, &thread, consumer, &b));
    pid_t child = fork();
    if (child == 0) {
        kd__thread_join(thread);
        kd__monitor_free(b.monitor);
        _exit(0);
    }
    CHECK(child_succeeds(child));
    kd__monitor_lock(b.monitor);
    b.value = -1;
    b.full = 1;
    kd__monitor_signal(b.monitor);
    kd__monitor_unlock(b.monitor);
    kd__thread_join(thread);
    kd__monitor_free(b.monitor);
}
