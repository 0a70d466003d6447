/* prepare.h - rows before a method sees them: teachers become one and plain logits, logits are standardised.
 * SPDX-License-Identifier: MIT */
#ifndef KD__PREPARE_H
#define KD__PREPARE_H
#include "distill/loss.h"

/* out = (in - mean) / (deviation + 1e-7) over the classes that are not -inf, deviation unbiased; one class alone gives 0.  keep[2]
 * is for the way back.  in == out is fine. */
void kd__standardize_row(const kd__kernels *kernels, float *out, const float *in, size_t n, float keep[2]);
/* grad += the gradient through it: g = d / d out, z = out. */
void kd__standardize_row_back(const kd__kernels *kernels, float *grad, const float *g, const float *z, size_t n, const float keep[2]);

/* `count` rows of teachers in the loss's teacher_form, as one row of logits at its temperature (from probabilities T log p);
 * standardised before they are combined.  label: of KD_TEACHERS_BEST.  work: 2 * n floats. */
void kd__teacher_row(const kd_loss_distill *loss, const kd__kernels *kernels, float *out, const float *const *teachers, size_t count,
                     size_t n, int32_t label, float *work);
#endif
