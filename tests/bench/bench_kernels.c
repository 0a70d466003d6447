/* bench_kernels.c - products, convolutions and losses against the machine's limits, on one and two threads.
 * SPDX-License-Identifier: MIT */
#include "bench.h"
#include <stdio.h>

#define FORM(m, n_, k, end, form) { .name = "sgemm_" #m "x" #n_ "x" #k end, .kind = BENCH_GEMM, .n = { m, n_, k, form } }
#define FORMS(m, n, k) FORM(m, n, k, "_nt", BENCH_NT), FORM(m, n, k, "_tn", BENCH_TN), FORM(m, n, k, "_relu", BENCH_BIAS_RELU)
#define CONV3(name_, ...)                                                                           \
    { .name = name_ "_forward", .kind = BENCH_CONV_FORWARD, .n = { __VA_ARGS__ } },                 \
    { .name = name_ "_data", .kind = BENCH_CONV_DATA, .n = { __VA_ARGS__ } },                       \
    { .name = name_ "_weight", .kind = BENCH_CONV_WEIGHT, .n = { __VA_ARGS__ } }

/* What networks need beside the shapes that are compared with other libraries. */
static const bench_case more[] = {
    FORMS(128, 1200, 1200), FORMS(512, 512, 512), FORM(16, 144, 65536, "_tn", BENCH_TN), FORM(128, 10, 256, "", BENCH_NN),
    FORM(64, 10, 32, "", BENCH_NN), FORM(1, 512, 512, "", BENCH_NN), FORM(1, 512, 512, "_nt", BENCH_NT),
    CONV3("conv1x1_64_128_at8", 64, 8, 64, 128, 1, 1, 1), CONV3("conv1x1_64_64_at32", 64, 32, 64, 64, 1, 1, 1),
    CONV3("conv7x7_3_64_at224_stride2", 8, 224, 3, 64, 2, 7, 1), CONV3("depthwise3x3_32_at32", 64, 32, 32, 32, 1, 3, 32),
    CONV3("depthwise3x3_256_at16", 64, 16, 256, 256, 1, 3, 256), CONV3("conv3x3_128_128_at16_groups32", 64, 16, 128, 128, 1, 3, 32),
};

static double seconds(const bench_case *c, uint32_t threads) { return bench_seconds(c, threads, 0.08); }

static void product_row(const bench_case *c, const bench_limits *l)
{
    if (c->kind < BENCH_GEMM || c->kind > BENCH_CONV_BACKWARD) return;
    const double work = bench_work(c), one = seconds(c, 1), two = seconds(c, 2);
    printf("  %-38s %10.1f %8.1f %6.1f%% %10.1f %6.2fx\n", c->name, one * 1e6, work / one * 1e-9, 100 * work / one / l->fma,
           work / two * 1e-9, one / two);
}

/* Each logit takes at least three exponentials (teacher and student at T, student at 1); two logits are read, one gradient is
 * written.  The limit counts v_exp, which serves all floats: the loss, whose arguments are never above 0, can be somewhat faster. */
static void loss_row(const bench_case *c, const bench_limits *l)
{
    if (c->kind != BENCH_LOSS) return;
    const double work = bench_work(c), memory = bench_memory(12 * work, false) / 12, ops = l->exp / 3, limit = memory < ops ? memory : ops;
    const double one = seconds(c, 1), two = seconds(c, 2);
    printf("  %-38s %10.1f %8.3f %6.1f%% of %-8s %6.3f %6.2fx\n", c->name, one * 1e6, work / one * 1e-9, 100 * work / one / limit,
           memory < ops ? "memory" : "exp", work / two * 1e-9, one / two);
}

void bench_show_kernels(const bench_limits *l)
{
    printf("\n%-44s %7s  GFLOP/s  of FMA  2 threads  scaling\n", "products and convolutions (nominal operations)", "us");
    for (size_t i = 0; i < bench_case_count; i++) product_row(&bench_cases[i], l);
    for (size_t i = 0; i < KD_COUNT(more); i++) product_row(&more[i], l);
    printf("\n%-44s %7s  Glogit/s  of the limit  2 threads scaling\n", "distillation loss and gradient", "us");
    for (size_t i = 0; i < bench_case_count; i++) loss_row(&bench_cases[i], l);
}
