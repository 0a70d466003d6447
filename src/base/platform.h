/* platform.h - what differs between processors: waiting, and the floating-point state.
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

/* The floating-point state of this thread: rounding, flush to zero, traps; on x86 with the sticky exception flags. */
#if defined __SSE__
#define KD__FP_DEFAULT 0x1f80u   /* to nearest, subnormals kept, no traps */
#define KD__FP_FLAGS   0x3fu
#else
#define KD__FP_DEFAULT 0u
#define KD__FP_FLAGS   0u
#endif

static inline uint64_t kd__fp_state(void)
{
#if defined __SSE__
    return __builtin_ia32_stmxcsr();
#elif defined __aarch64__
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
#else
    return KD__FP_DEFAULT;
#endif
}

static inline void kd__fp_set_state(uint64_t state)
{
#if defined __SSE__
    __builtin_ia32_ldmxcsr((unsigned)state);
#elif defined __aarch64__
    __asm__ volatile("msr fpcr, %0" : : "r"(state));
#else
    (void)state;
#endif
}

static inline uint64_t kd__fp_control(void) { return kd__fp_state() & ~(uint64_t)KD__FP_FLAGS; }

/* Numbers must not depend on the state a host happens to be in.  What computes begins with KD__FP_SCOPE: from there to the end of
 * the function the state is the default, then the host's again, its flags included. */
static inline uint64_t kd__fp_enter(void)
{
    uint64_t host = kd__fp_state();
    if ((host & ~(uint64_t)KD__FP_FLAGS) != KD__FP_DEFAULT) kd__fp_set_state(KD__FP_DEFAULT);
    return host;
}
static inline void kd__fp_leave(const uint64_t *host)
{
    if ((*host & ~(uint64_t)KD__FP_FLAGS) != KD__FP_DEFAULT) kd__fp_set_state(*host);
}
#define KD__FP_SCOPE __attribute__((cleanup(kd__fp_leave), unused)) const uint64_t fp_host = kd__fp_enter()
#endif
