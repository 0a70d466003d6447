/* kdtest.c - running the tests of a program, checks, numbers.
 * SPDX-License-Identifier: MIT */
#define _GNU_SOURCE   /* nftw */
#include "kdtest.h"
#include <fnmatch.h>
#include <ftw.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { SHOWN = 20 };   /* failures printed per test */

static kdtest_case *cases, **last_case = &cases;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t case_failures;
static const char *case_skip, *case_name = "(none)", *program = "test";
static char tmp_dir[512];
static pid_t tmp_owner;

void kdtest_add(kdtest_case *c)
{
    *last_case = c;
    last_case = &c->next;
}

/* ---- checks -------------------------------------------------------------------------------------------- */

int kdtest_check(int ok, const char *file, int line, const char *format, ...)
{
    if (ok) return 1;
    va_list args;
    va_start(args, format);
    pthread_mutex_lock(&lock);
    if (++case_failures <= SHOWN) {
        printf("%s:%d: %s: ", file, line, case_name);
        vprintf(format, args);
        printf("\n");
        fflush(stdout);
    }
    pthread_mutex_unlock(&lock);
    va_end(args);
    return 0;
}

int kdtest_status(kd_status got, kd_status want, const char *file, int line, const char *expr)
{
    return kdtest_check(got == want, file, line, "%s: %s, wanted %s (last error: \"%s\")", expr, kd_status_name(got),
                        kd_status_name(want), kd_last_error());
}

int kdtest_near(double got, double want, double tolerance, const char *file, int line, const char *expr)
{
    int ok = got == want || fabs(got - want) <= tolerance;
    return kdtest_check(ok, file, line, "%s: %.17g, wanted %.17g within %.3g, off by %.3g", expr, got, want, tolerance,
                        fabs(got - want));
}

int kdtest_str(const char *got, const char *want, const char *file, int line, const char *expr)
{
    int ok = got && want ? strcmp(got, want) == 0 : got == want;
    return kdtest_check(ok, file, line, "%s: \"%s\", wanted \"%s\"", expr, got ? got : "(null)", want ? want : "(null)");
}

void kdtest_skip(const char *why) { case_skip = why; }

static int is_set(const char *variable)
{
    const char *text = getenv(variable);
    return text && *text && strcmp(text, "0") != 0;
}

int kdtest_full(void) { return is_set("KD_TEST_FULL"); }

int kdtest_emulated(void) { return is_set("KD_RUN"); }

/* ---- a temporary directory ------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    remove(path);
    return 0;
}

static void remove_tmp(void)
{
    if (tmp_dir[0] && tmp_owner == getpid()) nftw(tmp_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *kdtest_tmp(void)
{
    if (!tmp_dir[0]) {
        const char *base = getenv("TMPDIR");
        snprintf(tmp_dir, sizeof tmp_dir, "%s/kdtest-XXXXXX", base && *base ? base : "/tmp");
        if (!mkdtemp(tmp_dir)) {
            perror(tmp_dir);
            exit(1);
        }
        tmp_owner = getpid();
        atexit(remove_tmp);
    }
    return tmp_dir;
}

/* ---- numbers ------------------------------------------------------------------------------------------- */

uint64_t kdtest_bits(kdtest_rand *r)
{
    uint64_t s = r->s ? r->s : 0x9e3779b97f4a7c15u;
    s ^= s >> 12;
    s ^= s << 25;
    s ^= s >> 27;
    r->s = s;
    return s * 0x2545f4914f6cdd1du;
}

double kdtest_uniform(kdtest_rand *r, double lo, double hi)
{
    return lo + (hi - lo) * ((double)(kdtest_bits(r) >> 11) * 0x1p-53);
}

/* The sum of twelve uniform numbers: variance one, and the same on every libm. */
double kdtest_normal(kdtest_rand *r)
{
    double sum = -6;
    for (int i = 0; i < 6; i++) {
        uint64_t b = kdtest_bits(r);
        sum += (double)(b >> 32) * 0x1p-32 + (double)(b & 0xffffffffu) * 0x1p-32;
    }
    return sum;
}

size_t kdtest_size(kdtest_rand *r, size_t lo, size_t hi) { return lo + (size_t)(kdtest_bits(r) >> 16) % (hi - lo + 1); }

void kdtest_fill(kdtest_rand *r, float *out, size_t n, double scale)
{
    for (size_t i = 0; i < n; i++) out[i] = (float)(scale * kdtest_normal(r));
}

double kdtest_ulp(float got, double want)
{
    if (isnan(got) || isnan(want)) return isnan(got) && isnan(want) ? 0 : INFINITY;
    if ((double)got == want || (isinf(got) && (float)want == got)) return 0;
    if (isinf(got) || isinf(want)) return INFINITY;
    int e;
    frexp(want, &e);   /* want in [2^(e-1), 2^e) */
    return fabs((double)got - want) / ldexp(1, (want == 0 || e < -125 ? -125 : e) - 24);
}

uint64_t kdtest_hash(const void *data, size_t bytes)
{
    const unsigned char *p = data;
    uint64_t h = 0xcbf29ce484222325u;
    while (bytes--) h = (h ^ *p++) * 0x100000001b3u;
    return h;
}

/* ---- main ---------------------------------------------------------------------------------------------- */

static void died(int sig)
{
    const char *parts[] = { program, ": died in test ", case_name, "\n" };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) (void)!write(1, parts[i], strlen(parts[i]));
    signal(sig, SIG_DFL);
    raise(sig);
}

#ifdef KDTEST_SANITIZED
/* Out of memory is a status that tests ask for, not an error. */
#define SANITIZER_OPTIONS(name)                                       \
    __attribute__((visibility("default"))) const char *name(void); \
    const char *name(void) { return "allocator_may_return_null=1"; }
SANITIZER_OPTIONS(__asan_default_options)
SANITIZER_OPTIONS(__tsan_default_options)
SANITIZER_OPTIONS(__msan_default_options)
enum { PATIENCE = 1800 };
#else
enum { PATIENCE = 300 };
#endif

/* Programs end by themselves well before this; one that hangs must not hang the run.  An emulator takes longer. */
static void watch(void)
{
    alarm(kdtest_full() || kdtest_emulated() ? 3600 : PATIENCE);
    signal(SIGALRM, died);
    signal(SIGABRT, died);
#ifndef KDTEST_SANITIZED
    signal(SIGSEGV, died);
    signal(SIGBUS, died);
    signal(SIGFPE, died);
    signal(SIGILL, died);
#endif
}

double kdtest_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int kdtest_matches(const char *wanted, const char *name)
{
    return strpbrk(wanted, "*?") ? fnmatch(wanted, name, 0) == 0 : strstr(name, wanted) != NULL;
}

int kdtest_run_tests(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/');
    program = slash ? slash + 1 : argv[0];
    size_t passed = 0, failed = 0, skipped = 0;
    int verbose = is_set("KD_TEST_VERBOSE"), list = 0, only = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-v") == 0) verbose = 1;
        else if (strcmp(argv[i], "-l") == 0) list = 1;
        else only = 1;
    }
    watch();
    for (kdtest_case *c = cases; c; c = c->next) {
        int chosen = !only;
        for (int i = 1; i < argc; i++) chosen |= argv[i][0] != '-' && kdtest_matches(argv[i], c->name);
        if (!chosen) continue;
        if (list) {
            printf("%s\n", c->name);
            continue;
        }
        case_failures = 0;
        case_skip = NULL;
        case_name = c->name;
        double start = kdtest_seconds();
        c->run();
        if (case_failures > SHOWN) printf("%s: %s: %zu checks failed in all\n", program, c->name, case_failures);
        const char *end = case_failures ? "FAILED" : case_skip ? "skipped" : "ok";
        if (case_failures) failed++;
        else if (case_skip) skipped++;
        else passed++;
        if (verbose) printf("%-8s %-40s %6.3f s %s\n", end, c->name, kdtest_seconds() - start, case_skip ? case_skip : "");
        else if (case_failures) printf("%s: %s FAILED\n", program, c->name);
        else if (case_skip) printf("%s: %s skipped: %s\n", program, c->name, case_skip);
        fflush(stdout);
    }
    if (!list) printf("%s: %zu passed, %zu failed, %zu skipped\n", program, passed, failed, skipped);
    return failed ? 1 : 0;
}

__attribute__((weak)) int main(int argc, char **argv) { return kdtest_run_tests(argc, argv); }
