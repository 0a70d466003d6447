/* bench_steps.c - training steps and inference in samples a second, on one and two threads.
 * SPDX-License-Identifier: MIT */
#include "bench.h"
#include <stdio.h>

static void call(void *arg) { bench_run(arg); }

void bench_show_steps(void)
{
    printf("\n%-44s %7s samples/s   2 threads  scaling\n", "training steps and inference", "ms");
    for (size_t i = 0; i < bench_case_count; i++) {
        const bench_case *c = &bench_cases[i];
        if (c->kind != BENCH_STEP && c->kind != BENCH_INFER) continue;
        double t[2];
        for (uint32_t threads = 1; threads <= 2; threads++) {
            bench b;
            bench_open(&b, c, threads);
            t[threads - 1] = bench_median(call, &b, 0.25, 3);
            bench_close(&b);
        }
        printf("  %-38s %10.3f %9.0f %11.0f %7.2fx\n", c->name, t[0] * 1e3, bench_work(c) / t[0], bench_work(c) / t[1], t[0] / t[1]);
    }
}
