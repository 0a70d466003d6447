/* bench_limits.c - the limits of this machine.
 * SPDX-License-Identifier: MIT */
#include "bench.h"
#include "cpu/cpu.h"
#include "../kernels/kern_limits.h"
#include <stdio.h>
#include <stdlib.h>

static volatile float sink;

typedef enum what { FMA, EXP, READ, ADD, STREAM } what;
typedef struct work {
    const kd__limit_loops *loops;
    kd_context *ctx;
    what   what;
    size_t n;                  /* floats of an array, or rounds */
    float *a, *b, *y;
} work;

static void piece(size_t begin, size_t end, void *arg)
{
    const work *w = arg;
    const size_t n = end - begin;
    switch (w->what) {
    case FMA: sink = w->loops->fma(n); return;
    case EXP: sink = w->loops->exp(w->a + begin, n); return;
    case READ: sink = w->loops->read(w->a + begin, n); return;
    case ADD: w->loops->add(w->y + begin, w->a + begin, w->b + begin, n, 0); return;
    case STREAM: w->loops->add(w->y + begin, w->a + begin, w->b + begin, n, 1); return;
    }
}

static void all(void *arg)
{
    work *w = arg;
    const size_t pieces = w->ctx ? kd_context_threads(w->ctx) : 1;
    if (pieces > 1) kd__parallel_range(w->ctx, w->n, (w->n / pieces + 63) / 64 * 64, piece, w);
    else piece(0, w->n, w);
}

/* Items a second: rounds, or floats of one array. */
static double rate(what what, size_t n, uint32_t isa, kd_context *ctx)
{
    n = (n + 63) / 64 * 64;
    work w = { .loops = kd__limit_loops_of(isa), .ctx = ctx, .what = what, .n = n };
    if (what != FMA) {
        w.a = aligned_alloc(64, n * sizeof *w.a);
        w.b = aligned_alloc(64, n * sizeof *w.b);
        w.y = aligned_alloc(64, n * sizeof *w.y);
        if (!w.a || !w.b || !w.y) bench_die("no memory");
        for (size_t i = 0; i < n; i++) w.a[i] = w.b[i] = w.y[i] = 0.001f * (float)(i % 1000);
    }
    const double seconds = bench_median(all, &w, 0.08, 3);
    free(w.a), free(w.b), free(w.y);
    return (double)n / seconds;
}

static uint32_t isa_of(void)
{
    static uint32_t known;
    for (uint32_t i = KD_ISA_AVX512; !known && i > 0; i--)
        if (kd__kernels_for(i) && kd__context(NULL)->kernels == kd__kernels_for(i)) known = i;
    return known;
}

double bench_memory(double bytes)
{
    const size_t n = (size_t)(bytes / 12);
    const double plain = rate(ADD, n, isa_of(), NULL), stream = rate(STREAM, n, isa_of(), NULL);
    return 12 * (plain > stream ? plain : stream);
}

static kd_context *two_threads(void)
{
    kd_context_desc how;
    kd_context *ctx;
    kd_context_desc_init(&how, sizeof how);
    how.threads = 2;
    BENCH_NEED(kd_context_create(&ctx, &how));
    return ctx;
}

/* ---- waking the pool ------------------------------------------------------------------------------------------------------- */
static void nothing(size_t i, void *arg) { (void)i, (void)arg; }
static void empty_loop(void *arg) { kd__parallel(arg, 2, nothing, NULL); }

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of an empty loop after `pause` seconds without work. */
static double wake(kd_context *ctx, double pause)
{
    double times[101];
    for (size_t i = 0; i < KD_COUNT(times); i++) {
        for (double start = bench_now(); bench_now() - start < pause;) {}
        double start = bench_now();
        empty_loop(ctx);
        times[i] = bench_now() - start;
    }
    qsort(times, KD_COUNT(times), sizeof *times, ascending);
    return times[KD_COUNT(times) / 2];
}

bench_limits bench_show_limits(void)
{
    enum { ROUNDS = 40000, FLOPS = 2 * 12 * 16 };
    const size_t large = (size_t)32 << 20;   /* floats: 128 MB an array */
    kd_context *two = two_threads();
    bench_limits l;
    l.fma = FLOPS * rate(FMA, ROUNDS, isa_of(), NULL);
    l.exp = rate(EXP, 2048, isa_of(), NULL);
    printf("limits                               1 thread  2 threads\n");
    printf("  multiply-add, %-6s    GFLOP/s    %9.1f  %9.1f\n", kd_context_isa(NULL), l.fma * 1e-9,
           FLOPS * 1e-9 * rate(FMA, ROUNDS, isa_of(), two));
    if (isa_of() == KD_ISA_AVX512)
        printf("  multiply-add, avx2      GFLOP/s    %9.1f  %9.1f\n", FLOPS * 1e-9 * rate(FMA, ROUNDS, KD_ISA_AVX2, NULL),
               FLOPS * 1e-9 * rate(FMA, ROUNDS, KD_ISA_AVX2, two));
    printf("  exp, %-6s             G/s        %9.2f\n", kd_context_isa(NULL), l.exp * 1e-9);
    if (isa_of() == KD_ISA_AVX512) printf("  exp, avx2               G/s        %9.2f\n", rate(EXP, 2048, KD_ISA_AVX2, NULL) * 1e-9);
    static const struct { const char *name; what what; double bytes; } rows[] = {
        { "read", READ, 4 }, { "two reads, one write", ADD, 12 }, { "the same, streaming", STREAM, 12 } };
    for (size_t i = 0; i < KD_COUNT(rows); i++)
        printf("  %-22s  GB/s       %9.1f  %9.1f\n", rows[i].name, 1e-9 * rows[i].bytes * rate(rows[i].what, large, isa_of(), NULL),
               1e-9 * rows[i].bytes * rate(rows[i].what, large, isa_of(), two));
    printf("  empty loop on 2 threads us         %9.2f at once, %.2f after 1 ms, %.2f after 20 ms\n",
           1e6 * bench_median(empty_loop, two, 0.05, 3), 1e6 * wake(two, 1e-3), 1e6 * wake(two, 2e-2));
    kd_context_free(two);
    return l;
}
