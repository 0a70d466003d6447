/* test_gemm.c - matrix products: the formula in double, the exact order of operations, equal bits on every instruction set and
 * number of threads, nothing touched outside C.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "cpu/cpu.h"
#include "ref_gemm.h"
#include "tensor/tensor.h"
#include <math.h>
#include <stdlib.h>

enum { MAX_CONTEXTS = 12 };
static kd_context *contexts[MAX_CONTEXTS];
static size_t context_count;

/* Every instruction set on one thread; the best one on more. */
static void make_contexts(void)
{
    uint32_t isas[5];
    size_t n = kdtest_isas(isas);
    if (context_count) return;
    for (size_t i = 0; i < n; i++) contexts[context_count++] = kdtest_context(1, isas[i]);
    static const uint32_t threads[] = { 2, 3, 4, 7 };
    for (size_t t = 0; t < 4; t++) contexts[context_count++] = kdtest_context(threads[t], KD_ISA_AUTO);
}

#ifdef KD_BLIS
enum { SAME_BITS = 0 };   /* large products have BLIS's bits: within the bound, which holds for sums in any order */
#else
enum { SAME_BITS = 1 };
#endif

typedef struct problem {
    size_t m, n, k;
    int ta, tb, accumulate, bias, relu;
    size_t gap_a, gap_b, gap_c;   /* added to the strides */
} problem;

static const float canary = -12345.678f;

/* Runs the product in every context given and checks it; `exact` elements also against the chain. */
static void check(const problem *p, uint64_t seed, size_t first, size_t last, size_t exact)
{
    kdtest_rand r = { seed * 2 + 1 };
    const size_t sa = (p->ta ? p->m : p->k) + p->gap_a, sb = (p->tb ? p->k : p->n) + p->gap_b, sc = p->n + p->gap_c;
    const size_t na = ((p->ta ? p->k : p->m) * sa + 1), nb = ((p->tb ? p->n : p->k) * sb + 1), nc = p->m * sc + 1;
    float *a = kdtest_guard(na * sizeof *a, 1), *b = kdtest_guard(nb * sizeof *b, 1), *bias = kdtest_guard(p->n * sizeof *bias, 1);
    float *c0 = malloc(nc * sizeof *c0), *c = malloc(nc * sizeof *c);
    kdtest_fill(&r, a, na, 1.0);
    kdtest_fill(&r, b, nb, 1.0);
    kdtest_fill(&r, bias, p->n, 2.0);
    for (size_t i = 0; i < nc; i++) c0[i] = canary;
    for (size_t i = 0; i < p->m; i++) kdtest_fill(&r, c0 + i * sc, p->n, 3.0);
    ref_gemm ref = { .m = p->m, .n = p->n, .k = p->k, .a = a, .a_stride = sa, .a_transposed = p->ta, .b = b, .b_stride = sb,
                     .b_transposed = p->tb, .c0 = p->accumulate ? c0 : NULL, .c0_stride = sc, .bias = p->bias ? bias : NULL,
                     .relu = p->relu };
    kd__gemm_args g = { .m = p->m, .n = p->n, .k = p->k, .a = a, .a_stride = sa, .a_transposed = p->ta != 0, .b = b,
                        .b_stride = sb, .b_transposed = p->tb != 0, .c = c, .c_stride = sc, .accumulate = p->accumulate != 0,
                        .after = { .bias = p->bias ? bias : NULL, .relu = p->relu } };
    uint64_t hash = 0;
    for (size_t x = first; x < last; x++) {
        if (!contexts[x]) continue;
        memcpy(c, c0, nc * sizeof *c);
        if (!p->accumulate)
            for (size_t i = 0; i < p->m; i++)
                for (size_t j = 0; j < p->n; j++) c[i * sc + j] = NAN;   /* must be overwritten, not read */
        CHECK_OK(kd__gemm(contexts[x], &g));
        uint64_t h = kdtest_hash(c, nc * sizeof *c);
        if (x == first) hash = h;
        CHECK_MSG(h == hash || !SAME_BITS, "%zux%zux%zu ta %d tb %d acc %d: %s on %u threads differs", p->m, p->n, p->k, p->ta, p->tb,
                  p->accumulate, kd_context_isa(contexts[x]), kd_context_threads(contexts[x]));
        if (x != first && SAME_BITS) continue;
        for (size_t i = 0; i < p->m; i++)
            for (size_t j = 0; j < p->n; j++) {
                double size, want = ref_gemm_element(&ref, i, j, &size);
                double bound = (double)(p->k + 3) * 0x1p-24 * size;
                if (!(fabs((double)c[i * sc + j] - want) <= bound))
                    CHECK_MSG(0, "%zux%zux%zu ta %d tb %d acc %d bias %d relu %d: (%zu, %zu) is %.9g, wanted %.9g within %.3g", p->m,
                              p->n, p->k, p->ta, p->tb, p->accumulate, p->bias, p->relu, i, j, (double)c[i * sc + j], want, bound);
            }
        for (size_t e = 0; SAME_BITS && e < exact && p->m && p->n; e++) {
            size_t i = kdtest_size(&r, 0, p->m - 1), j = kdtest_size(&r, 0, p->n - 1);
            float want = ref_gemm_chain(&ref, i, j);
            CHECK_MSG(memcmp(&want, c + i * sc + j, sizeof want) == 0, "%zux%zux%zu ta %d tb %d: (%zu, %zu) is %a, the chain gives %a",
                      p->m, p->n, p->k, p->ta, p->tb, i, j, (double)c[i * sc + j], (double)want);
        }
        for (size_t i = 0; i < p->m; i++)
            for (size_t j = p->n; j < sc; j++) CHECK(c[i * sc + j] == canary);
        CHECK(c[nc - 1] == canary);
    }
    kdtest_guard_free(a, na * sizeof *a, 1);
    kdtest_guard_free(b, nb * sizeof *b, 1);
    kdtest_guard_free(bias, p->n * sizeof *bias, 1);
    free(c0);
    free(c);
}

static size_t isa_count(void)
{
    uint32_t isas[5];
    make_contexts();
    return kdtest_isas(isas);
}

/* Every pair of sizes up to 33 as (m, n), k and the options drawn at random. */
TEST(small_sizes)
{
    const size_t isas = isa_count();
    kdtest_rand r = { 5 };
    for (size_t m = 0; m <= 33; m++)
        for (size_t n = 0; n <= 33; n++) {
            if (!kdtest_full() && (m * 34 + n) % 3) continue;
            uint64_t bits = kdtest_bits(&r);
            problem p = { .m = m, .n = n, .k = kdtest_size(&r, 0, 33), .ta = (int)(bits & 1), .tb = (int)(bits >> 1 & 1),
                          .accumulate = (int)(bits >> 2 & 1), .bias = (int)(bits >> 3 & 1), .relu = (int)(bits >> 4 & 1),
                          .gap_a = bits >> 5 & 3, .gap_b = bits >> 7 & 3, .gap_c = bits >> 9 & 3 };
            check(&p, bits, 0, isas, 2);
        }
}

/* Every option with every other, at sizes that leave part of a tile on each side. */
TEST(options)
{
    const size_t isas = isa_count();
    for (int o = 0; o < 32; o++) {
        problem p = { .m = 17, .n = 43, .k = 21, .ta = o & 1, .tb = o >> 1 & 1, .accumulate = o >> 2 & 1, .bias = o >> 3 & 1,
                      .relu = o >> 4 & 1, .gap_a = 2, .gap_b = 1, .gap_c = 3 };
        check(&p, (uint64_t)o + 100, 0, isas, 20);
    }
}

/* Blocks along k: before, at and after multiples of 256. */
TEST(long_sums)
{
    static const size_t depths[] = { 255, 256, 257, 511, 512, 513, 1030 };
    const size_t isas = isa_count();
    for (size_t d = 0; d < sizeof depths / sizeof *depths; d++)
        for (int o = 0; o < 4; o++) {
            problem p = { .m = 5 + d, .n = 18, .k = depths[d], .ta = o & 1, .tb = o >> 1, .accumulate = d & 1,
                          .bias = o == 2, .relu = o == 1 };
            check(&p, d * 4 + (uint64_t)o, 0, isas, 20);
        }
}

/* What the driver decides by size: packing, copying A, several blocks of rows, tasks for threads. */
TEST(blocking)
{
    static const problem problems[] = {
        { .m = 130, .n = 70, .k = 60 },                                   /* the smallest cut for threads */
        { .m = 130, .n = 70, .k = 60, .tb = 1, .accumulate = 1, .bias = 1, .relu = 1 },
        { .m = 400, .n = 48, .k = 40, .ta = 1 },                          /* three blocks of rows */
        { .m = 560, .n = 130, .k = 520, .bias = 1, .relu = 1, .gap_c = 1 },   /* packed because of its size */
        { .m = 50, .n = 100, .k = 40, .gap_b = 924 },                     /* rows 1024 apart */
        { .m = 90, .n = 100, .k = 300, .ta = 1, .gap_a = 934 },           /* A copied */
        { .m = 20, .n = 2100, .k = 530, .accumulate = 1 },                /* two chunks of columns */
        { .m = 1, .n = 900, .k = 700, .relu = 1 },
        { .m = 3, .n = 1, .k = 3000, .bias = 1 },
        { .m = 14, .n = 4000, .k = 40 },                                  /* B fetched ahead */
        { .m = 4000, .n = 16, .k = 80 },                                  /* A fetched ahead, by rows */
        { .m = 150, .n = 16, .k = 2000, .ta = 1 },                        /* and by columns */
    };
    make_contexts();
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        size_t scalar = contexts[0] && strcmp(kd_context_isa(contexts[0]), "scalar") == 0;
        double work = (double)problems[i].m * (double)problems[i].n * (double)problems[i].k;
        check(&problems[i], i + 900, scalar && work > 2e6 && !kdtest_full() ? 1 : 0, context_count, 50);
    }
}

/* Sizes of all magnitudes with everything drawn at random, on every instruction set and number of threads. */
TEST(random_sizes)
{
    make_contexts();
    kdtest_rand r = { 99 };
    for (int i = 0; i < (kdtest_full() ? 2000 : 40); i++) {
        size_t sizes[3];
        for (int k = 0; k < 3; k++) sizes[k] = (size_t)exp(kdtest_uniform(&r, 0, 6.2));
        uint64_t bits = kdtest_bits(&r);
        problem p = { .m = sizes[0], .n = sizes[1], .k = sizes[2], .ta = (int)(bits & 1), .tb = (int)(bits >> 1 & 1),
                      .accumulate = (int)(bits >> 2 & 1), .bias = (int)(bits >> 3 & 1), .relu = (int)(bits >> 4 & 1),
                      .gap_a = bits >> 5 & 3, .gap_b = bits >> 7 & 3, .gap_c = bits >> 9 & 3 };
        const double work = (double)p.m * (double)p.n * (double)p.k;
        if (work < 3e6) check(&p, bits, strcmp(kd_context_isa(contexts[0]), "scalar") == 0 && work > 1e5 ? 1 : 0, context_count, 10);
    }
}

/* NaN and infinities go where arithmetic takes them, and nowhere else. */
TEST(not_finite)
{
    const size_t isas = isa_count();
    float a[4 * 5], b[5 * 20], c[4 * 20];
    for (size_t i = 0; i < 20; i++) a[i] = 1.0f;
    for (size_t i = 0; i < 100; i++) b[i] = 2.0f;
    a[1 * 5 + 2] = NAN;
    b[3 * 20 + 17] = INFINITY;
    kd__gemm_args g = { .m = 4, .n = 20, .k = 5, .a = a, .a_stride = 5, .b = b, .b_stride = 20, .c = c, .c_stride = 20,
                        .after = { .relu = 1 } };
    for (size_t x = 0; x < isas; x++) {
        CHECK_OK(kd__gemm(contexts[x], &g));
        for (size_t i = 0; i < 4; i++)
            for (size_t j = 0; j < 20; j++) {
                float got = c[i * 20 + j];
                if (i == 1) CHECK(got != got);
                else CHECK(j == 17 ? got == INFINITY : got == 10.0f);
            }
    }
}

static void batch_case(size_t m, size_t n, size_t k, size_t batch, int share_a, int share_b, int sum, int ta)
{
    kdtest_rand r = { 77 };
    float *a = malloc(batch * m * k * sizeof *a), *b = malloc(batch * k * n * sizeof *b);
    float *c = malloc(batch * m * n * sizeof *c), *want = calloc(batch * m * n, sizeof *want);
    kdtest_fill(&r, a, batch * m * k, 1);
    kdtest_fill(&r, b, batch * k * n, 1);
    kd__gemm_args g = { .m = m, .n = n, .k = k, .a = a, .a_stride = ta ? m : k, .a_transposed = ta != 0, .b = b, .b_stride = n,
                        .c = want, .c_stride = n };
    for (size_t i = 0; i < batch; i++) {   /* one after the other */
        g.a = a + (share_a ? 0 : i * m * k);
        g.b = b + (share_b ? 0 : i * k * n);
        g.c = want + (sum ? 0 : i * m * n);
        g.accumulate = sum && i > 0;
        CHECK_OK(kd__gemm(contexts[0], &g));
    }
    g.a = a;
    g.b = b;
    g.c = c;
    g.accumulate = false;
    for (size_t x = 0; x < context_count; x++) {
        if (!contexts[x]) continue;
        memset(c, 0xff, batch * m * n * sizeof *c);
        CHECK_OK(kd__gemm_batch(contexts[x], &g, batch, share_a ? 0 : m * k, share_b ? 0 : k * n, sum ? 0 : m * n));
        CHECK_MSG(memcmp(c, want, (sum ? 1 : batch) * m * n * sizeof *c) == 0, "%zu of %zux%zux%zu share %d %d sum %d: %s on %u", batch, m,
                  n, k, share_a, share_b, sum, kd_context_isa(contexts[x]), kd_context_threads(contexts[x]));
    }
    free(a);
    free(b);
    free(c);
    free(want);
}

TEST(batches)
{
    make_contexts();
    for (int o = 0; o < 16; o++) {
        batch_case(7, 9, 11, 5, o & 1, o >> 1 & 1, o >> 2 & 1, o >> 3 & 1);
        batch_case(33, 40, 30, 12, o & 1, o >> 1 & 1, o >> 2 & 1, o >> 3 & 1);
    }
    batch_case(60, 60, 100, 2, 0, 0, 0, 0);
}

/* An empty sum of products is zero. */
TEST(empty)
{
    make_contexts();
    float c[6] = { 1, 2, 3, 4, 5, 6 }, bias[3] = { 1, -1, 2 };
    kd__gemm_args g = { .m = 2, .n = 3, .k = 0, .a_stride = 1, .b_stride = 3, .c = c, .c_stride = 3, .after = { .bias = bias, .relu = 1 } };
    CHECK_OK(kd__gemm(contexts[0], &g));
    for (size_t i = 0; i < 6; i++) CHECK(c[i] == (i % 3 == 1 ? 0.0f : bias[i % 3]));
    g.after = (kd__epilogue){ 0 };
    CHECK_OK(kd__gemm_batch(contexts[0], &g, 0, 0, 0, 0));
    for (size_t i = 0; i < 6; i++) CHECK(c[i] == 0.0f);
}

/* No memory: a status, and nothing leaks. */
TEST(memory)
{
    kdtest_alloc alloc = { 0 };
    kdtest_alloc_begin(&alloc, 1, KD_ISA_AUTO);
    float *a = calloc(100 * 100, sizeof *a), *c = calloc(100 * 100, sizeof *c);
    kd__gemm_args g = { .m = 100, .n = 100, .k = 100, .a = a, .a_stride = 100, .b = a, .b_stride = 100, .b_transposed = true,
                        .c = c, .c_stride = 100 };
    alloc.fail_at = alloc.calls + 1;
    CHECK_STATUS(kd__gemm(alloc.ctx, &g), KD_ERR_NOMEM);
    CHECK_OK(kd__gemm(alloc.ctx, &g));
    size_t calls = alloc.calls;
    CHECK_OK(kd__gemm(alloc.ctx, &g));
    CHECK(alloc.calls == calls);   /* the second one allocates nothing */
    kdtest_alloc_end(&alloc);
    free(a);
    free(c);
}
