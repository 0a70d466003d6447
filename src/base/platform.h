/* platform.h - what differs between processors and matters to threads.
 * SPDX-License-Identifier: MIT */
#ifndef KD__PLATFORM_H
#define KD__PLATFORM_H
#include <stdint.h>

/* Tell the core that this is a waiting loop. */
static inline void kd__cpu_relax(void)
{
#if defined __x86_64__ || defined __i386__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile("yield");
#endif
}

/* The floating-point control word of this thread: rounding, flush to zero.  Workers take on the
 * caller's, so that a result does not depend on which thread computed it.  KD__FP_DEFAULT: to nearest,
 * no flushing, no traps. */
#if defined __SSE__
#define KD__FP_DEFAULT 0x1f80u
#else
#define KD__FP_DEFAULT 0u
#endif
static inline uint64_t kd__fp_control(void)
{
#if defined __SSE__
    return __builtin_ia32_stmxcsr() & ~0x3fu;   /* without the sticky exception flags */
#elif defined __aarch64__
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
#else
    return 0;
#endif
}

static inline void kd__fp_set_control(uint64_t control)
{
#if defined __SSE__
    __builtin_ia32_ldmxcsr((unsigned)control);
#elif defined __aarch64__
    __asm__ volatile("msr fpcr, %0" : : "r"(control));
#else
    (void)control;
#endif
}
#endif
