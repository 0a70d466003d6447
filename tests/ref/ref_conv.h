/* ref_conv.h - convolutions from the formula: NHWC, weight [kh, kw, ci / groups, co].
 * SPDX-License-Identifier: MIT */
#ifndef REF_CONV_H
#define REF_CONV_H
#include <stddef.h>

typedef struct ref_conv {
    size_t n, h, w, ci, kh, kw, co, oh, ow;
    size_t stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, groups;
} ref_conv;

/* y[n][r][q][o] = sum x[n][r stride - pad + i dil][..][c] weight[i][j][c][o] (+ bias[o]) in double; size (may be NULL): the
 * sums of the terms' magnitudes. */
void ref_conv_forward(const ref_conv *s, const double *x, const double *weight, const double *bias, double *y, double *size);
/* The gradients of sum dy y. */
void ref_conv_backward_data(const ref_conv *s, const double *dy, const double *weight, double *dx, double *size);
void ref_conv_backward_weight(const ref_conv *s, const double *x, const double *dy, double *dw, double *size);

/* Single elements as docs/design/numerics.md orders a direct convolution's float operations. */
float ref_conv_chain_forward(const ref_conv *s, const float *x, const float *weight, size_t n, size_t r, size_t q, size_t o);
float ref_conv_chain_data(const ref_conv *s, const float *dy, const float *weight, size_t n, size_t r, size_t q, size_t c);
float ref_conv_chain_weight(const ref_conv *s, const float *x, const float *dy, size_t i, size_t j, size_t c, size_t o);
#endif
