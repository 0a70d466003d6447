/* thread.h - what a system gives for threads, under the names that thread.c, pool.c and context.c use.
 * thread_posix.c and thread_win32.c hold it; of builds with KD_NO_THREADS only the once and the yield.
 * SPDX-License-Identifier: MIT */
#ifndef KD__THREAD_H
#define KD__THREAD_H
#include <stdbool.h>
#include <stddef.h>

#if defined KD_NO_THREADS
typedef bool kd__once;
#define KD__ONCE_INIT false
static inline void kd__call_once(kd__once *once, void (*fn)(void))
{
    if (*once) return;
    *once = true;
    fn();
}
static inline void kd__yield(void) { }
#else
#ifdef _WIN32
typedef struct kd__mutex { void *srw; } kd__mutex;             /* SRWLOCK */
typedef struct kd__condition { void *variable; } kd__condition; /* CONDITION_VARIABLE */
typedef void *kd__thread_id;                                    /* HANDLE */
typedef struct kd__once { void *once; } kd__once;               /* INIT_ONCE */
#define KD__ONCE_INIT { 0 }
#define KD__THREAD_MAIN(name, arg) unsigned long __stdcall name(void *arg)
#define KD__THREAD_END 0
#else
#include <pthread.h>
typedef pthread_mutex_t kd__mutex;
typedef pthread_cond_t  kd__condition;
typedef pthread_t       kd__thread_id;
typedef pthread_once_t  kd__once;
#define KD__ONCE_INIT PTHREAD_ONCE_INIT
#define KD__THREAD_MAIN(name, arg) void *name(void *arg)   /* returns KD__THREAD_END */
#define KD__THREAD_END NULL
#endif
typedef KD__THREAD_MAIN(kd__thread_main, arg);

void kd__call_once(kd__once *once, void (*fn)(void));
void kd__yield(void);

/* With our stack size and, where there are signals, the host's blocked; 0 or an errno. */
int  kd__thread_create(kd__thread_id *id, kd__thread_main *fn, void *arg);
void kd__thread_wait(kd__thread_id id);   /* until it has ended */

/* 0 or an errno. */
int  kd__mutex_init(kd__mutex *mutex);
void kd__mutex_destroy(kd__mutex *mutex);
void kd__mutex_lock(kd__mutex *mutex);
void kd__mutex_unlock(kd__mutex *mutex);
int  kd__condition_init(kd__condition *condition);
void kd__condition_destroy(kd__condition *condition);
void kd__condition_wait(kd__condition *condition, kd__mutex *mutex);
void kd__condition_signal(kd__condition *condition);      /* wakes one */
void kd__condition_broadcast(kd__condition *condition);   /* wakes all */
#endif
#endif
