/* norm.h - what batch norm shares with fused layers.
 * SPDX-License-Identifier: MIT */
#ifndef KD__NORM_H
#define KD__NORM_H
#include "autograd/after.h"
#include <stdbool.h>

/* Batch norm by running statistics as one fma per element, y = fma(x, scale[j], shift[j]): scale = weight / sqrt(var + eps),
 * shift = bias - mean scale, computed in double and rounded once.  A convolution whose epilogue uses these has the bits
 * of convolution then kd_batch_norm.  weight, bias may be NULL. */
void kd__batch_norm_fold(size_t c, const float *weight, const float *bias, const float *mean, const float *var, float eps,
                         float *scale, float *shift);
/* kd_batch_norm; use_running: as on an INFER tape, whatever this tape is (a frozen model's layer).  after (may be NULL): a
 * residual and ReLU in the same pass; where running statistics are used and something is recorded, without them. */
kd_tensor *kd__batch_norm(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, kd_tensor *running_mean,
                          kd_tensor *running_var, float momentum, float eps, bool use_running, const kd__after *after);
#endif
