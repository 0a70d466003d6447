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
/* Bytes read and written a second by loops over arrays that take `bytes` together: the best of y = a, y = a + b and the same with
 * streaming stores; or y changed in place, which spares the reading of what is overwritten. */
double bench_memory(double bytes, bool in_place);

void bench_show_kernels(const bench_limits *limits);   /* products, convolutions, losses */
void bench_show_ops(void);                              /* what memory limits              */
void bench_show_steps(void);
void bench_show_loader(void);
#endif
