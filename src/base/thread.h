/* thread.h - making a thread, for thread.c and pool.c.
 * SPDX-License-Identifier: MIT */
#ifndef KD__THREAD_H
#define KD__THREAD_H
#include <pthread.h>

/* pthread_create with our stack size and the host's signals blocked; 0 or an errno. */
int kd__thread_create(pthread_t *id, void *(*fn)(void *arg), void *arg);
#endif
