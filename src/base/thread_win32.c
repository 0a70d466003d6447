/* thread_win32.c - threads by Win32.  Nobody forks there.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"
#include "base/thread.h"
#if !defined KD_NO_THREADS && defined _WIN32
#include <windows.h>
#include <errno.h>

enum { STACK_BYTES = 2 << 20 };

_Static_assert(sizeof(kd__mutex) == sizeof(SRWLOCK) && sizeof(kd__condition) == sizeof(CONDITION_VARIABLE) &&
               sizeof(kd__once) == sizeof(INIT_ONCE) && sizeof(kd__thread_id) == sizeof(HANDLE), "thread.h knows them as pointers");

static SRWLOCK *lock_of(kd__mutex *mutex) { return (SRWLOCK *)(void *)mutex; }
static CONDITION_VARIABLE *variable_of(kd__condition *condition) { return (CONDITION_VARIABLE *)(void *)condition; }

uint32_t kd__fork_generation(void) { return 0; }

void kd__fork_watch(void) { }

void kd__call_once(kd__once *once, void (*fn)(void))
{
    BOOL first;
    INIT_ONCE *state = (INIT_ONCE *)(void *)once;
    InitOnceBeginInitialize(state, 0, &first, NULL);
    if (!first) return;
    fn();
    InitOnceComplete(state, 0, NULL);
}

void kd__yield(void) { SwitchToThread(); }

int kd__thread_create(kd__thread_id *id, kd__thread_main *fn, void *arg)
{
    *id = CreateThread(NULL, STACK_BYTES, fn, arg, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    return *id ? 0 : EAGAIN;
}

void kd__thread_wait(kd__thread_id id)
{
    WaitForSingleObject(id, INFINITE);
    CloseHandle(id);
}

int kd__mutex_init(kd__mutex *mutex)
{
    InitializeSRWLock(lock_of(mutex));
    return 0;
}
void kd__mutex_destroy(kd__mutex *mutex) { (void)mutex; }
void kd__mutex_lock(kd__mutex *mutex) { AcquireSRWLockExclusive(lock_of(mutex)); }
void kd__mutex_unlock(kd__mutex *mutex) { ReleaseSRWLockExclusive(lock_of(mutex)); }

int kd__condition_init(kd__condition *condition)
{
    InitializeConditionVariable(variable_of(condition));
    return 0;
}
void kd__condition_destroy(kd__condition *condition) { (void)condition; }
void kd__condition_wait(kd__condition *condition, kd__mutex *mutex)
{
    SleepConditionVariableSRW(variable_of(condition), lock_of(mutex), INFINITE, 0);
}
void kd__condition_signal(kd__condition *condition) { WakeConditionVariable(variable_of(condition)); }
void kd__condition_broadcast(kd__condition *condition) { WakeAllConditionVariable(variable_of(condition)); }
#endif
