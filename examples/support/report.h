/* report.h - what the examples share to show their work: progress, statistics, a table's figures, an SVG of curves.
 * Plain C, no libkd inside.
 * SPDX-License-Identifier: MIT */
#ifndef REPORT_H
#define REPORT_H
#include <stddef.h>

/* Progress on stderr: a bar with rate and time left on a terminal, a plain line every tenth in a pipe. */
typedef struct progress { const char *what; size_t done, total, shown, from; double start, last; int terminal; } progress;
void progress_begin(progress *p, const char *what, size_t total);
void progress_add(progress *p, size_t steps, const char *note);   /* note: "seed 2: student"; may be NULL */
void progress_skip(progress *p, size_t steps);                     /* done by an earlier run: not in the rate */
void progress_end(progress *p);

double seconds(void);                                             /* monotonic */

/* Of n values: mean, sample standard deviation (n - 1; 0 for n < 2). */
double mean(const double *x, size_t n);
double deviation(const double *x, size_t n);
double median(double *x, size_t n);                               /* sorts x */
/* Mean of x[i] - y[i] and its standard error, over the same seeds. */
double paired_difference(const double *x, const double *y, size_t n, double *standard_error);

/* Curves over a common x axis.  Each has `count` points, at x_step, 2 x_step, ..; values are percent. */
typedef struct curve { const char *name; const double *y; size_t count; } curve;
/* 0, or -1 and errno. */
int write_svg(const char *path, const char *title, const char *x_label, double x_step, const curve *curves, size_t count);

/* Make a directory and its parents; 0 or -1 and errno. */
int make_directory(const char *path);
/* Bytes of a file; -1 if there is none. */
long file_bytes(const char *path);
/* "2,410" into a buffer of 32; returns it. */
const char *thousands(size_t n, char text[32]);
#endif
