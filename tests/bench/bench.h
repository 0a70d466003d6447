/* bench.h - the parts of `make bench`.
 * SPDX-License-Identifier: MIT */
#ifndef KD_BENCH_H
#define KD_BENCH_H
#include "bench_cases.h"

/* What this machine can do, measured by loops over the library's own vector alphabet.  One thread. */
typedef struct bench_limits {
    double fma;    /* operations a second, two for a multiply-add */
    double exp;    /* exponentials a second                       */
} bench_limits;
/* Measures and prints. */
bench_limits bench_show_limits(void);
/* Bytes a second of y = a + b where the three take `bytes` together, the better of usual and streaming stores. */
double bench_memory(double bytes);

void bench_show_kernels(const bench_limits *limits);   /* products, convolutions, losses */
void bench_show_ops(void);                              /* what memory limits              */
void bench_show_steps(void);
#endif
