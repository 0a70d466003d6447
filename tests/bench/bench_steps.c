/* bench_steps.c - training steps and inference in samples a second, on one and two threads.
 * SPDX-License-Identifier: MIT */
#include "bench.h"
#include <stdio.h>

void bench_show_steps(void)
{
    printf("\n%-44s %7s samples/s   2 threads  scaling\n", "training steps and inference", "ms");
    for (size_t i = 0; i < bench_case_count; i++) {
        const bench_case *c = &bench_cases[i];
        if (c->kind != BENCH_STEP && c->kind != BENCH_INFER) continue;
        const double one = bench_seconds(c, 1, 0.25), two = bench_seconds(c, 2, 0.25), samples = bench_work(c);
        printf("  %-38s %10.3f %9.0f %11.0f %7.2fx\n", c->name, one * 1e3, samples / one, samples / two, one / two);
    }
}
