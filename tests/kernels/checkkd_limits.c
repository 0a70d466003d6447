/* checkkd_limits.c - measuring what kern_limits.c does.
 * SPDX-License-Identifier: MIT */
#include "kern_limits.h"
#include "kdtest.h"
#include <stdlib.h>

void ck_measure(uint32_t isa, size_t bytes, ck_limits *limits)
{
    static volatile float sink;
    const kd__limit_loops *loops = kd__limit_loops_of(isa);
    const size_t n = bytes / sizeof(float) / 64 * 64, repeats = bytes < 4u << 20 ? 100 : 1,
                 rounds = isa == KD_ISA_SCALAR ? 20000 : 200000;
    float *x = aligned_alloc(64, n * sizeof *x);
    if (!x) abort();
    for (size_t i = 0; i < n; i++) x[i] = 1.0f;
    *limits = (ck_limits){ 0 };
    for (int i = 0; i < 9; i++) {   /* the best of nine */
        double t[4];
        t[0] = kdtest_seconds();
        sink = loops->fma(rounds);
        t[1] = kdtest_seconds();
        for (size_t k = 0; k < repeats; k++) sink = loops->read(x, n);
        t[2] = kdtest_seconds();
        for (size_t k = 0; k < repeats; k++) loops->write(x, n);
        t[3] = kdtest_seconds();
        const double moved = (double)(repeats * n * sizeof *x), amounts[] = { 2.0 * 12 * 16 * (double)rounds, moved, moved };
        double *const best[] = { &limits->flops, &limits->read, &limits->write };
        for (int k = 0; k < 3; k++)
            if (amounts[k] / (t[k + 1] - t[k]) > *best[k]) *best[k] = amounts[k] / (t[k + 1] - t[k]);
    }
    (void)sink;
    free(x);
}
