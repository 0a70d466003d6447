/* kdtest.h - the test harness: named tests, checks that print what they saw, one closing line.
 * SPDX-License-Identifier: MIT */
#ifndef KDTEST_H
#define KDTEST_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "kd.h"

typedef void (*kdtest_fn)(void);
typedef struct kdtest_case { const char *name; kdtest_fn run; struct kdtest_case *next; } kdtest_case;
void kdtest_add(kdtest_case *c);

/* TEST(name) { ... } registers itself; tests run in the order of the file. */
#define TEST(name)                                                                   \
    static void test_##name(void);                                                   \
    static kdtest_case case_##name = { #name, test_##name, NULL };                   \
    __attribute__((constructor)) static void add_##name(void) { kdtest_add(&case_##name); } \
    static void test_##name(void)

/* What a test program's main does: main [-l] [-v] [part of a name, or a pattern with * or ?]...  A program with a command line of
 * its own has its own main and calls this. */
int kdtest_run_tests(int argc, char **argv);
/* Is `name` chosen by this part of a name or pattern? */
int kdtest_matches(const char *wanted, const char *name);

/* Each records one failure with place and text, and goes on.  They return whether the check held. */
int kdtest_check(int ok, const char *file, int line, const char *format, ...) __attribute__((format(printf, 4, 5)));
#define CHECK(cond)          kdtest_check((cond) ? 1 : 0, __FILE__, __LINE__, "%s", #cond)
#define CHECK_MSG(cond, ...) kdtest_check((cond) ? 1 : 0, __FILE__, __LINE__, __VA_ARGS__)
#define CHECK_STATUS(expr, want) kdtest_status((expr), (want), __FILE__, __LINE__, #expr)
#define CHECK_OK(expr)       CHECK_STATUS(expr, KD_OK)
/* |got - want| <= tolerance; NaN never holds. */
#define CHECK_NEAR(got, want, tolerance) kdtest_near((got), (want), (tolerance), __FILE__, __LINE__, #got)
#define CHECK_STR(got, want) kdtest_str((got), (want), __FILE__, __LINE__, #got)
/* The last error text contains `part`. */
#define CHECK_ERROR_HAS(part) kdtest_check(strstr(kd_last_error(), (part)) != NULL, __FILE__, __LINE__, \
                                           "kd_last_error() \"%s\" lacks \"%s\"", kd_last_error(), (part))
int kdtest_status(kd_status got, kd_status want, const char *file, int line, const char *expr);
int kdtest_near(double got, double want, double tolerance, const char *file, int line, const char *expr);
int kdtest_str(const char *got, const char *want, const char *file, int line, const char *expr);

/* This test cannot run here (an ISA the CPU lacks): counted as skipped, never as passed. */
void kdtest_skip(const char *why);
/* True when the long form was asked for (KD_TEST_FULL=1: check-all). */
int kdtest_full(void);
/* True under an emulator or valgrind (KD_RUN): no fork while threads run, no true /proc. */
int kdtest_emulated(void);
/* A clock that only goes forward. */
double kdtest_seconds(void);
/* A temporary directory for this program, removed at exit. */
const char *kdtest_tmp(void);

/* ---- numbers for tests ------------------------------------------------------------------------- */
/* A fixed pseudo-random sequence, independent of the library's generator (xorshift64*). */
typedef struct kdtest_rand { uint64_t s; } kdtest_rand;
uint64_t kdtest_bits(kdtest_rand *r);
double   kdtest_uniform(kdtest_rand *r, double lo, double hi);
double   kdtest_normal(kdtest_rand *r);
size_t   kdtest_size(kdtest_rand *r, size_t lo, size_t hi);       /* inclusive */
void     kdtest_fill(kdtest_rand *r, float *out, size_t n, double scale);   /* scale * normal */
/* Distance in units in the last place of a float; 0 for equal (also NaN to NaN, inf to same inf). */
double   kdtest_ulp(float got, double want);
uint64_t kdtest_hash(const void *data, size_t bytes);             /* FNV-1a */

/* Built with AddressSanitizer, ThreadSanitizer or MemorySanitizer: no small address spaces, no fork while threads run. */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define KDTEST_SANITIZED 1
#elif defined __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define KDTEST_SANITIZED 1
#endif
#endif

/* ---- memory for tests ---------------------------------------------------------------------------- */
/* n bytes ending (tail = 1) or beginning (tail = 0) at a page that faults on any access. */
void *kdtest_guard(size_t bytes, int tail);
void  kdtest_guard_free(void *ptr, size_t bytes, int tail);

/* A context whose allocator counts, and fails the `fail_at`-th allocation (1-based; 0: never), only that
 * one or every one from there on. */
typedef struct kdtest_alloc {
    kd_context *ctx;
    size_t calls, live, live_bytes, peak_bytes, fail_at;
    int persistent;
    uint32_t lock;
} kdtest_alloc;
void kdtest_alloc_begin(kdtest_alloc *a, uint32_t threads, uint32_t isa);   /* makes a->ctx */
void kdtest_alloc_end(kdtest_alloc *a);       /* frees a->ctx and checks that nothing is left */

/* A context with this many threads and this cap; NULL when the CPU lacks the ISA. */
kd_context *kdtest_context(uint32_t threads, uint32_t isa);
/* The ISAs compiled in and present: fills up to 5, returns the count. */
size_t kdtest_isas(uint32_t out[5]);

/* Instruction-set name of a KD_ISA_*. */
const char *kdtest_isa_name(uint32_t isa);
#endif
