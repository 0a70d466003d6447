/* thread.c - threads and monitors.  Where there are none (KD_NO_THREADS), whoever asks for one is refused and works alone.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "base/platform.h"
#include "base/thread.h"

#ifndef KD_NO_THREADS
/* ---- threads ------------------------------------------------------------------------------------------- */

struct kd__thread {
    kd_context   *ctx;
    kd__thread_id id;
    uint32_t      generation;
    void        (*fn)(void *arg);
    void         *arg;
};

static KD__THREAD_MAIN(thread_main, arg)
{
    kd__thread *thread = arg;
    thread->fn(thread->arg);
    return KD__THREAD_END;
}

kd_status kd__thread_start(kd_context *ctx, kd__thread **out, void (*fn)(void *arg), void *arg)
{
    *out = NULL;
    kd__thread *thread = kd__alloc(ctx, sizeof *thread);
    if (!thread) return KD_ERR_NOMEM;
    *thread = (kd__thread){ .ctx = kd__context(ctx), .generation = kd__fork_generation(), .fn = fn, .arg = arg };
    int error = kd__thread_create(&thread->id, thread_main, thread);
    if (error) {
        kd__free(ctx, thread);
        return kd__fail(KD_ERR_NOMEM, "no more threads: %s (errno %d)", kd__os_text(error), error);
    }
    *out = thread;
    return KD_OK;
}

void kd__thread_join(kd__thread *thread)
{
    if (!thread) return;
    if (thread->generation == kd__fork_generation()) kd__thread_wait(thread->id);
    kd__free(thread->ctx, thread);
}

/* ---- monitors ------------------------------------------------------------------------------------------ */

struct kd__monitor {
    kd_context      *ctx;
    kd__mutex        mutex;
    kd__condition    changed;
    _Atomic uint32_t ready;   /* 2 x the generation of mutex and condition; + 1 while they are being made anew */
};

/* A forked child may find the mutex held, and the condition waited for, by threads that do not exist: its first caller makes
 * both anew.  Whoever uses monitors keeps what they guard sound at every store. */
static void renew(kd__monitor *monitor)
{
    uint32_t mine = kd__fork_generation() * 2, seen = atomic_load_explicit(&monitor->ready, memory_order_acquire);
    while (seen != mine) {
        if (seen != mine + 1 && atomic_compare_exchange_weak_explicit(&monitor->ready, &seen, mine + 1, memory_order_acquire,
                                                                      memory_order_relaxed)) {
            kd__mutex_init(&monitor->mutex);
            kd__condition_init(&monitor->changed);
            atomic_store_explicit(&monitor->ready, mine, memory_order_release);
            return;
        }
        kd__cpu_relax();
        seen = atomic_load_explicit(&monitor->ready, memory_order_acquire);
    }
}

kd_status kd__monitor_create(kd_context *ctx, kd__monitor **out)
{
    *out = NULL;
    kd__monitor *monitor = kd__alloc(ctx, sizeof *monitor);
    if (!monitor) return KD_ERR_NOMEM;
    monitor->ctx = kd__context(ctx);
    monitor->ready = kd__fork_generation() * 2;
    int error = kd__mutex_init(&monitor->mutex);
    if (!error && (error = kd__condition_init(&monitor->changed)) != 0) kd__mutex_destroy(&monitor->mutex);
    if (error) {
        kd__free(ctx, monitor);
        return kd__fail(KD_ERR_NOMEM, "no more mutexes: %s (errno %d)", kd__os_text(error), error);
    }
    *out = monitor;
    return KD_OK;
}

void kd__monitor_free(kd__monitor *monitor)
{
    if (!monitor) return;
    /* In a forked child it may be held, or waited for, by threads that do not exist: leave it be. */
    if (monitor->ready == kd__fork_generation() * 2) {
        kd__condition_destroy(&monitor->changed);
        kd__mutex_destroy(&monitor->mutex);
    }
    kd__free(monitor->ctx, monitor);
}

void kd__monitor_lock(kd__monitor *monitor)
{
    renew(monitor);
    kd__mutex_lock(&monitor->mutex);
}

void kd__monitor_unlock(kd__monitor *monitor) { kd__mutex_unlock(&monitor->mutex); }

void kd__monitor_wait(kd__monitor *monitor) { kd__condition_wait(&monitor->changed, &monitor->mutex); }

void kd__monitor_signal(kd__monitor *monitor) { kd__condition_broadcast(&monitor->changed); }
#else
kd_status kd__thread_start(kd_context *ctx, kd__thread **out, void (*fn)(void *arg), void *arg)
{
    (void)ctx, (void)fn, (void)arg;
    *out = NULL;
    return kd__fail(KD_ERR_UNSUPPORTED, "this libkd has no threads (KD_NO_THREADS)");
}

void kd__thread_join(kd__thread *thread) { (void)thread; }

/* One thread never waits for itself. */
struct kd__monitor { kd_context *ctx; };

kd_status kd__monitor_create(kd_context *ctx, kd__monitor **out)
{
    *out = kd__alloc(ctx, sizeof **out);
    if (!*out) return KD_ERR_NOMEM;
    (*out)->ctx = kd__context(ctx);
    return KD_OK;
}

void kd__monitor_free(kd__monitor *monitor)
{
    if (monitor) kd__free(monitor->ctx, monitor);
}

void kd__monitor_lock(kd__monitor *monitor) { (void)monitor; }
void kd__monitor_unlock(kd__monitor *monitor) { (void)monitor; }
void kd__monitor_wait(kd__monitor *monitor) { (void)monitor; }
void kd__monitor_signal(kd__monitor *monitor) { (void)monitor; }
uint32_t kd__fork_generation(void) { return 0; }
void kd__fork_watch(void) { }
#endif
