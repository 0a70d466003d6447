/* ref_softmax.h - softmax and log-softmax of rows at a temperature, in double.
 * SPDX-License-Identifier: MIT */
#ifndef REF_SOFTMAX_H
#define REF_SOFTMAX_H
#include <stddef.h>

/* log softmax(x / t) of one row; a row of -inf gives -inf, a NaN or +inf gives NaN throughout. */
void ref_log_softmax(size_t n, const double *x, double t, double *out);
void ref_softmax(size_t n, const double *x, double t, double *out);
/* Gradients for given dy. */
void ref_softmax_grad(size_t n, const double *x, double t, const double *dy, double *dx);
void ref_log_softmax_grad(size_t n, const double *x, double t, const double *dy, double *dx);
#endif
