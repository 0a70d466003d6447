/* bench_limits.c - the limits of this machine.
 * SPDX-License-Identifier: MIT */
#include "bench.h"
#include "cpu/cpu.h"
#include "../kernels/kern_limits.h"
#include <stdio.h>

static volatile float sink;

typedef enum loop { FMA, EXP, READ, IN_PLACE, COPY, ADD, STREAM } loop;
typedef struct work {
    const kd__limit_loops *loops;
    kd_context *ctx;
    loop   loop;
    size_t n;                  /* floats of an array, or rounds */
    float *a, *b, *y;
} work;

static void piece(size_t begin, size_t end, void *arg)
{
    const work *w = arg;
    const size_t n = end - begin;
    switch (w->loop) {
    case FMA: sink = w->loops->fma(n); return;
    case EXP: sink = w->loops->exp(w->a + begin, n); return;
    case READ: sink = w->loops->read(w->a + begin, n); return;
    case IN_PLACE: w->loops->update(w->y + begin, w->y + begin, n); return;   /* 0 += 0 */
    case COPY: w->loops->copy(w->y + begin, w->a + begin, n); return;
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
static double rate(loop which, size_t n, uint32_t isa, kd_context *ctx)
{
    n = (n + 63) / 64 * 64;
    work w = { .loops = kd__limit_loops_of(isa), .ctx = ctx, .loop = which, .n = n };
    if (which != FMA) {   /* from the library's allocator: large blocks lie on huge pages */
        w.a = kd__alloc_array(NULL, n, sizeof *w.a);
        w.b = kd__alloc_array(NULL, n, sizeof *w.b);
        w.y = kd__alloc_array(NULL, n, sizeof *w.y);
        if (!w.a || !w.b || !w.y) bench_die(kd_last_error());
        for (size_t i = 0; i < n; i++) w.a[i] = w.b[i] = 0.001f * (float)(i % 1000);
    }
    const double seconds = bench_median(all, &w, 0.08, 3);
    kd__free(NULL, w.a), kd__free(NULL, w.b), kd__free(NULL, w.y);
    return (double)n / seconds;
}

static uint32_t isa_of(void)
{
    static uint32_t known;
    for (uint32_t i = KD_ISA_AVX512; !known && i > 0; i--)
        if (kd__kernels_for(i) && kd__context(NULL)->kernels == kd__kernels_for(i)) known = i;
    return known;
}

double bench_memory(double bytes, bool in_place)
{
    const uint32_t isa = isa_of();
    if (in_place) return 8 * rate(IN_PLACE, (size_t)(bytes / 4), isa, NULL);
    const double copy = 8 * rate(COPY, (size_t)(bytes / 8), isa, NULL), add = 12 * rate(ADD, (size_t)(bytes / 12), isa, NULL);
    return KD_MAX(copy, KD_MAX(add, 12 * rate(STREAM, (size_t)(bytes / 12), isa, NULL)));
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
    return bench_middle(times, KD_COUNT(times));
}

static void row(const char *name, const char *isa, const char *unit, double one, double both)
{
    printf("  %-27s %-7s %-7s %8.1f %10.1f\n", name, isa, unit, one * 1e-9, both * 1e-9);
}

bench_limits bench_show_limits(void)
{
    enum { ROUNDS = 40000, FLOPS = 2 * 12 * 16, CACHED = 65536, LARGE = 32 << 20 };   /* floats: 128 MB an array */
    kd_context *two = two_threads();
    bench_limits l;
    l.fma = FLOPS * rate(FMA, ROUNDS, isa_of(), NULL);
    l.exp = rate(EXP, CACHED, isa_of(), NULL);
    printf("%-42s  1 thread  2 threads\n", "limits");
    row("multiply-add", kd_context_isa(NULL), "GFLOP/s", l.fma, FLOPS * rate(FMA, ROUNDS, isa_of(), two));
    if (isa_of() == KD_ISA_AVX512)
        row("multiply-add", "avx2", "GFLOP/s", FLOPS * rate(FMA, ROUNDS, KD_ISA_AVX2, NULL),
            FLOPS * rate(FMA, ROUNDS, KD_ISA_AVX2, two));
    row("exp", kd_context_isa(NULL), "G/s", l.exp, rate(EXP, CACHED, isa_of(), two));
    if (isa_of() == KD_ISA_AVX512)
        row("exp", "avx2", "G/s", rate(EXP, CACHED, KD_ISA_AVX2, NULL), rate(EXP, CACHED, KD_ISA_AVX2, two));
    static const struct { const char *name; loop loop; double bytes; } loops[] = {
        { "read", READ, 4 }, { "read and write in place", IN_PLACE, 8 }, { "copy", COPY, 8 }, { "read two, write a third", ADD, 12 },
        { "the same, streaming stores", STREAM, 12 } };
    for (size_t i = 0; i < KD_COUNT(loops); i++)
        row(loops[i].name, "", "GB/s", loops[i].bytes * rate(loops[i].loop, LARGE, isa_of(), NULL),
            loops[i].bytes * rate(loops[i].loop, LARGE, isa_of(), two));
    printf("  empty loop on 2 threads: %.2f us, after a pause of 1 ms %.1f us, of 20 ms %.1f us\n",
           1e6 * bench_median(empty_loop, two, 0.05, 3), 1e6 * wake(two, 1e-3), 1e6 * wake(two, 2e-2));
    kd_context_free(two);
    return l;
}
