/* norm.h - what batch norm shares with fused layers.
 * SPDX-License-Identifier: MIT */
#ifndef KD__NORM_H
#define KD__NORM_H
#include <stddef.h>

/* Batch norm by running statistics as one fma per element, y = fma(x, scale[j], shift[j]): scale = weight / sqrt(var + eps),
 * shift = bias - mean scale, computed in double and rounded once.  A convolution whose epilogue uses these has the bits
 * of convolution then kd_batch_norm.  weight, bias may be NULL. */
void kd__batch_norm_fold(size_t c, const float *weight, const float *bias, const float *mean, const float *var, float eps,
                         float *scale, float *shift);
#endif
