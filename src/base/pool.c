/* pool.c - one pool of threads per context, made on first use.
 *
 * A job is published by one store to `state`: its number, the mark OPEN, and a count of the workers in it.
 * A worker joins by adding one while the job is open, so the job's fields are only read by those who are
 * counted; the caller works too, closes the job when no task is left, and waits for the count to reach zero.
 * Idle workers watch `state` for some microseconds, then sleep.
 *
 * A child of fork() has none of these threads: a pool of another generation is dropped and made anew.
 * With KD_NO_THREADS loops run on the caller, and nothing of this is there.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "base/platform.h"
#include "base/thread.h"

#ifndef KD_NO_THREADS
static _Thread_local bool in_task;

bool kd__in_parallel(void) { return in_task; }

#define SPIN_NANOSECONDS 20000u
#define COUNT_MASK 0xffffu
#define OPEN 0x10000u
#define NEXT_JOB 0x20000u

typedef struct job {
    size_t   n;
    void   (*task)(size_t i, void *arg);
    void    *arg;
    uint64_t fp_control;
} job;

struct kd__pool {
    /* written by the caller for each job */
    _Alignas(KD_ALIGN) _Atomic uint64_t state;   /* job number | OPEN | workers inside */
    job              job;
    /* written by everybody */
    _Alignas(KD_ALIGN) _Atomic size_t next;      /* the next task to run */
    /* rarely written */
    _Alignas(KD_ALIGN) _Atomic uint32_t busy;    /* a caller owns the pool */
    _Atomic uint32_t sleepers, caller_sleeps, quit;
    uint32_t         generation;
    kd__pool        *dropped;                    /* the parent's, after a fork */
    size_t           wanted, count;              /* workers */
    bool             started;
    kd__mutex        mutex;
    kd__condition    work, done;
    kd__thread_id    threads[];
};

static void run_tasks(kd__pool *pool, const job *j)
{
    in_task = true;
    size_t i;
    while ((i = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed)) < j->n) j->task(i, j->arg);
    in_task = false;
}

/* ---- workers ------------------------------------------------------------------------------------------- */

/* Wait until the state shows another job than `seen`, or quit: watch, then sleep. */
static uint64_t wait_for_job(kd__pool *pool, uint64_t seen)
{
    uint64_t deadline = 0;
    for (unsigned spins = 1;; spins++) {
        uint64_t state = atomic_load_explicit(&pool->state, memory_order_acquire);
        if (state / NEXT_JOB != seen) return state;
        kd__cpu_relax();
        if (spins % 32) continue;
        uint64_t now = kd__nanoseconds();
        if (deadline == 0) deadline = now + SPIN_NANOSECONDS;
        if (now > deadline) break;
    }
    /* Counted as a sleeper before the last look; a caller publishes before it counts: one sees the other. */
    kd__mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    uint64_t state;
    while ((state = atomic_load(&pool->state)) / NEXT_JOB == seen) kd__condition_wait(&pool->work, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    kd__mutex_unlock(&pool->mutex);
    return state;
}

static void leave(kd__pool *pool)
{
    uint64_t before = atomic_fetch_sub(&pool->state, 1);
    if ((before & COUNT_MASK) == 1 && !(before & OPEN) && atomic_load(&pool->caller_sleeps)) {
        kd__mutex_lock(&pool->mutex);
        kd__condition_signal(&pool->done);
        kd__mutex_unlock(&pool->mutex);
    }
}

static KD__THREAD_MAIN(worker_main, arg)
{
    kd__pool *pool = arg;
    uint64_t own_fp = kd__fp_control(), seen = 0;
    while (!atomic_load_explicit(&pool->quit, memory_order_acquire)) {
        uint64_t state = wait_for_job(pool, seen);
        seen = state / NEXT_JOB;
        while ((state & OPEN) && state / NEXT_JOB == seen) {
            if (!atomic_compare_exchange_weak_explicit(&pool->state, &state, state + 1, memory_order_acq_rel,
                                                       memory_order_acquire))
                continue;
            if (pool->job.fp_control != own_fp) kd__fp_set_state(own_fp = pool->job.fp_control);
            run_tasks(pool, &pool->job);
            leave(pool);
            break;
        }
    }
    return KD__THREAD_END;
}

/* ---- the caller ---------------------------------------------------------------------------------------- */

static void wait_for_workers(kd__pool *pool)
{
    uint64_t deadline = 0;
    for (unsigned spins = 1;; spins++) {
        if ((atomic_load_explicit(&pool->state, memory_order_acquire) & COUNT_MASK) == 0) return;
        kd__cpu_relax();
        if (spins % 32) continue;
        uint64_t now = kd__nanoseconds();
        if (deadline == 0) deadline = now + SPIN_NANOSECONDS;
        if (now > deadline) break;
    }
    kd__mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_sleeps, 1);
    while (atomic_load(&pool->state) & COUNT_MASK) kd__condition_wait(&pool->done, &pool->mutex);
    atomic_store(&pool->caller_sleeps, 0);
    kd__mutex_unlock(&pool->mutex);
}

static void wake(kd__pool *pool, size_t workers)
{
    uint32_t sleepers = atomic_load(&pool->sleepers);
    if (!sleepers) return;
    kd__mutex_lock(&pool->mutex);
    if (workers >= sleepers) kd__condition_broadcast(&pool->work);
    else
        while (workers--) kd__condition_signal(&pool->work);
    kd__mutex_unlock(&pool->mutex);
}

static void publish(kd__pool *pool, uint64_t mark)
{
    uint64_t state = atomic_load_explicit(&pool->state, memory_order_relaxed);
    atomic_store(&pool->state, (state / NEXT_JOB + 1) * NEXT_JOB + mark);
}

static void run_job(kd__pool *pool, size_t n, void (*task)(size_t i, void *arg), void *arg)
{
    pool->job = (job){ n, task, arg, kd__fp_control() };
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    publish(pool, OPEN);
    wake(pool, n - 1);
    run_tasks(pool, &pool->job);
    atomic_fetch_and(&pool->state, ~(uint64_t)OPEN);
    wait_for_workers(pool);
}

/* ---- life ---------------------------------------------------------------------------------------------- */

static void free_pool(kd_context *ctx, kd__pool *pool)
{
    if (pool->dropped) free_pool(ctx, pool->dropped);
    /* Of another generation: its threads are in the parent, its locks in an unknown state. */
    if (pool->generation == kd__fork_generation()) {
        atomic_store_explicit(&pool->quit, 1, memory_order_release);
        publish(pool, 0);
        wake(pool, pool->count);
        for (size_t i = 0; i < pool->count; i++) kd__thread_wait(pool->threads[i]);
        kd__condition_destroy(&pool->work);
        kd__condition_destroy(&pool->done);
        kd__mutex_destroy(&pool->mutex);
    }
    kd__free(ctx, pool);
}

static kd__pool *make_pool(kd_context *ctx)
{
    size_t workers = ctx->threads - 1;
    kd__pool *pool = kd__alloc(ctx, sizeof *pool + workers * sizeof *pool->threads);
    if (!pool) return NULL;
    pool->wanted = workers;
    pool->generation = kd__fork_generation();
    if (kd__mutex_init(&pool->mutex) == 0) {
        if (kd__condition_init(&pool->work) == 0) {
            if (kd__condition_init(&pool->done) == 0) return pool;
            kd__condition_destroy(&pool->work);
        }
        kd__mutex_destroy(&pool->mutex);
    }
    kd__free(ctx, pool);
    return NULL;
}

/* The context's pool, ours until `busy` is cleared; NULL: another caller has it, or there is none to be had. */
static kd__pool *claim_pool(kd_context *ctx)
{
    kd__pool *pool = atomic_load_explicit(&ctx->pool, memory_order_acquire);
    if (!pool || pool->generation != kd__fork_generation()) {
        kd__pool *fresh = make_pool(ctx);
        if (!fresh) return NULL;
        fresh->dropped = pool;   /* kept until the end: another thread may be looking at it */
        if (atomic_compare_exchange_strong_explicit(&ctx->pool, &pool, fresh, memory_order_acq_rel, memory_order_acquire)) {
            pool = fresh;
        } else {
            fresh->dropped = NULL;
            free_pool(ctx, fresh);
        }
    }
    uint32_t idle = 0;
    if (!atomic_compare_exchange_strong_explicit(&pool->busy, &idle, 1, memory_order_acquire, memory_order_relaxed))
        return NULL;
    if (!pool->started) {   /* as many as the system gives; none is a pool of one, the caller */
        pool->started = true;
        while (pool->count < pool->wanted && kd__thread_create(&pool->threads[pool->count], worker_main, pool) == 0)
            pool->count++;
        if (pool->count < pool->wanted)
            kd__log(ctx, KD_LOG_WARN, "only %zu of %zu threads could be started", pool->count + 1, pool->wanted + 1);
    }
    return pool;
}

void kd__pool_free(kd_context *ctx)
{
    kd__pool *pool = atomic_exchange_explicit(&ctx->pool, NULL, memory_order_acq_rel);
    if (pool) free_pool(ctx, pool);
}

/* ---- loops --------------------------------------------------------------------------------------------- */

/* A host's threads must know, too, that they are inside a task, and compute as the caller does; then they are the host's again. */
static void hosted_task(size_t i, void *arg)
{
    const job *j = arg;
    bool outer = in_task;
    uint64_t fp = kd__fp_state();
    if ((fp & ~(uint64_t)KD__FP_FLAGS) != j->fp_control) kd__fp_set_state(j->fp_control);
    in_task = true;
    j->task(i, j->arg);
    in_task = outer;
    if ((fp & ~(uint64_t)KD__FP_FLAGS) != j->fp_control) kd__fp_set_state(fp);
}

void kd__parallel(kd_context *ctx, size_t n, void (*task)(size_t i, void *arg), void *arg)
{
    ctx = kd__context(ctx);
    if (n > 1 && ctx->threads > 1 && !in_task) {
        if (ctx->parallel) {
            job hosted = { n, task, arg, kd__fp_control() };
            ctx->parallel(n, hosted_task, &hosted, ctx->parallel_user);
            return;
        }
        kd__pool *pool = claim_pool(ctx);
        if (pool) {
            run_job(pool, n, task, arg);
            atomic_store_explicit(&pool->busy, 0, memory_order_release);
            return;
        }
    }
    for (size_t i = 0; i < n; i++) task(i, arg);
}
#else
bool kd__in_parallel(void) { return false; }

void kd__pool_free(kd_context *ctx) { (void)ctx; }

void kd__parallel(kd_context *ctx, size_t n, void (*task)(size_t i, void *arg), void *arg)
{
    (void)ctx;
    for (size_t i = 0; i < n; i++) task(i, arg);
}
#endif

typedef struct range {
    size_t total, grain;
    void (*fn)(size_t begin, size_t end, void *arg);
    void *arg;
} range;

static void range_task(size_t i, void *arg)
{
    const range *r = arg;
    size_t begin = i * r->grain;
    r->fn(begin, r->total - begin < r->grain ? r->total : begin + r->grain, r->arg);
}

void kd__parallel_range(kd_context *ctx, size_t total, size_t grain,
                        void (*fn)(size_t begin, size_t end, void *arg), void *arg)
{
    if (!total) return;
    range r = { total, grain ? grain : total, fn, arg };
    kd__parallel(ctx, total / r.grain + (total % r.grain != 0), range_task, &r);
}
