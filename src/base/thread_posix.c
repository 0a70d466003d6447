/* thread_posix.c - threads by pthreads, and knowing that the process was forked.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "base/thread.h"
#if !defined KD_NO_THREADS && !defined _WIN32
#include <sched.h>
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

void kd__call_once(kd__once *once, void (*fn)(void)) { pthread_once(once, fn); }

void kd__yield(void) { sched_yield(); }

int kd__thread_create(kd__thread_id *id, kd__thread_main *fn, void *arg)
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

void kd__thread_wait(kd__thread_id id) { pthread_join(id, NULL); }

/* ---- locks --------------------------------------------------------------------------------------------- */

int kd__mutex_init(kd__mutex *mutex) { return pthread_mutex_init(mutex, NULL); }
void kd__mutex_destroy(kd__mutex *mutex) { pthread_mutex_destroy(mutex); }
void kd__mutex_lock(kd__mutex *mutex) { pthread_mutex_lock(mutex); }
void kd__mutex_unlock(kd__mutex *mutex) { pthread_mutex_unlock(mutex); }

int kd__condition_init(kd__condition *condition) { return pthread_cond_init(condition, NULL); }
void kd__condition_destroy(kd__condition *condition) { pthread_cond_destroy(condition); }
void kd__condition_wait(kd__condition *condition, kd__mutex *mutex) { pthread_cond_wait(condition, mutex); }
void kd__condition_signal(kd__condition *condition) { pthread_cond_signal(condition); }
void kd__condition_broadcast(kd__condition *condition) { pthread_cond_broadcast(condition); }
#endif
