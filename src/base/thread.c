/* thread.c - threads, monitors, and knowing that the process was forked.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "base/platform.h"
#include "base/thread.h"
#include <pthread.h>
#include <signal.h>

enum { STACK_BYTES = 2 << 20 };   /* musl gives 128 KB */

/* ---- fork ---------------------------------------------------------------------------------------------- */

static _Atomic uint32_t fork_generation;
static pthread_once_t   fork_once = PTHREAD_ONCE_INIT;

static void in_child(void) { atomic_fetch_add_explicit(&fork_generation, 1, memory_order_relaxed); }

static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

void kd__fork_watch(void) { pthread_once(&fork_once, watch_forks); }

uint32_t kd__fork_generation(void) { return atomic_load_explicit(&fork_generation, memory_order_relaxed); }

/* ---- threads ------------------------------------------------------------------------------------------- */

struct kd__thread {
    kd_context *ctx;
    pthread_t   id;
    uint32_t    generation;
    void      (*fn)(void *arg);
    void       *arg;
};

int kd__thread_create(pthread_t *id, void *(*fn)(void *arg), void *arg)
{
    pthread_attr_t attr;
    int error = pthread_attr_init(&attr);
    if (error) return error;
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    /* The host's signals are the host's; those that a thread raises by its own fault must reach its handler. */
    static const int own_faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS };
    sigset_t all, old;
    sigfillset(&all);
    for (size_t i = 0; i < KD_COUNT(own_faults); i++) sigdelset(&all, own_faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    error = pthread_create(id, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return error;
}

static void *thread_main(void *arg)
{
    kd__thread *thread = arg;
    thread->fn(thread->arg);
    return NULL;
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
    if (thread->generation == kd__fork_generation()) pthread_join(thread->id, NULL);
    kd__free(thread->ctx, thread);
}

/* ---- monitors ------------------------------------------------------------------------------------------ */

struct kd__monitor {
    kd_context      *ctx;
    pthread_mutex_t  mutex;
    pthread_cond_t   changed;
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
            pthread_mutex_init(&monitor->mutex, NULL);
            pthread_cond_init(&monitor->changed, NULL);
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
    int error = pthread_mutex_init(&monitor->mutex, NULL);
    if (!error && (error = pthread_cond_init(&monitor->changed, NULL)) != 0) pthread_mutex_destroy(&monitor->mutex);
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
        pthread_cond_destroy(&monitor->changed);
        pthread_mutex_destroy(&monitor->mutex);
    }
    kd__free(monitor->ctx, monitor);
}

void kd__monitor_lock(kd__monitor *monitor)
{
    renew(monitor);
    pthread_mutex_lock(&monitor->mutex);
}

void kd__monitor_unlock(kd__monitor *monitor) { pthread_mutex_unlock(&monitor->mutex); }

void kd__monitor_wait(kd__monitor *monitor) { pthread_cond_wait(&monitor->changed, &monitor->mutex); }

void kd__monitor_signal(kd__monitor *monitor) { pthread_cond_broadcast(&monitor->changed); }
