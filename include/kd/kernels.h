/* kd/kernels.h - the kernels on plain pointers: softmax, log-softmax, KL divergence, cross-entropy and
 * the fused distillation loss.  No objects; bring your own arrays.
 * SPDX-License-Identifier: MIT
 *
 * Matrices are f32 [rows, classes], classes contiguous, rows `stride` floats apart (stride >= classes).
 * Pointers need the alignment of their element only.  Outputs may not overlap inputs unless it says so.
 * rows == 0 is fine and writes nothing; classes == 0 is KD_ERR_SHAPE.
 * A row that holds NaN or +inf gives NaN throughout its results; -inf is a mask (probability 0).
 * A row that is -inf throughout: softmax 0, log-softmax -inf, loss 0, gradient 0.
 * ctx gives threads and instruction set; NULL is the process default.  Same bits whatever they are.
 * All return KD_OK, KD_ERR_ARG (NULL, stride < classes, temperature not finite or not > 0, overlap),
 * KD_ERR_SHAPE, KD_ERR_OVERFLOW (rows * stride does not fit), KD_ERR_RANGE (a label; nothing is written),
 * KD_ERR_NOMEM.  Safe from any number of threads. */
#ifndef KD_KERNELS_H
#define KD_KERNELS_H
#include "base.h"
KD_BEGIN_DECLS

/* Softened probabilities (Hinton et al. 2015):
 *     out[r][c] = exp(logits[r][c] / T) / sum_k exp(logits[r][k] / T)
 * out == logits with equal strides is allowed. */
KD_API kd_status kd_softmax_rows(kd_context *ctx, size_t rows, size_t classes,
                                 const float *logits, size_t logits_stride, float temperature,
                                 float *out, size_t out_stride);

/* out[r][c] = logits[r][c] / T - log sum_k exp(logits[r][k] / T).  In place allowed as above. */
KD_API kd_status kd_log_softmax_rows(kd_context *ctx, size_t rows, size_t classes,
                                     const float *logits, size_t logits_stride, float temperature,
                                     float *out, size_t out_stride);

/* Kullback-Leibler divergence of each row between softened distributions, from logits:
 *     out[r] = sum_c p[c] (log p[c] - log q[c]),  p = softmax(p_logits[r] / T), q = softmax(q_logits[r] / T)
 * p = 0 contributes 0, whatever q is; p > 0 with q = 0 gives +inf.  No factor T^2.  Never negative.
 *     grad_q (may be NULL)  d out[r] / d q_logits[r][c] = (q - p) / T */
KD_API kd_status kd_kl_divergence_rows(kd_context *ctx, size_t rows, size_t classes,
                                       const float *p_logits, size_t p_stride,
                                       const float *q_logits, size_t q_stride, float temperature,
                                       float *out, float *grad_q, size_t grad_stride);

/* Cross-entropy of each row with its true class:
 *     out[r] = -log softmax(logits[r])[labels[r]]
 * labels[r] in [0, classes), or ignore_index: then out[r] = 0 and the gradient row is 0.
 *     grad (may be NULL)  softmax(logits[r]) - onehot(labels[r]); may be logits itself */
KD_API kd_status kd_cross_entropy_rows(kd_context *ctx, size_t rows, size_t classes,
                                       const float *logits, size_t logits_stride,
                                       const int32_t *labels, int32_t ignore_index,
                                       float *out, float *grad, size_t grad_stride);

/* The distillation loss of Hinton et al. (2015) and its gradient in one pass over the logits:
 *     loss = 1/N sum_r [ hard_weight * CE_r + soft_weight * T^2 * KL(p_r || q_r) ]
 *     p = softmax(teacher / T), q = softmax(student / T), CE at temperature 1, N = valid rows
 * with labels[r] == ignore_index rows left out of both terms and of N.  labels may be NULL if
 * hard_weight is 0 (then N = rows).  A common weighting calls alpha what here is hard_weight, with
 * soft_weight = 1 - alpha.
 *     grad    d loss / d student [rows, classes], rows grad_stride apart; rows left out get 0; may be NULL
 *     values  {loss, mean CE, mean KL (without T^2), N as a number}; N = 0 gives zeros
 * For every other option (directions, soft labels, weights per class and row) see
 * kd_loss_distill_eval() in kd/distill.h, which runs the same kernel. */
KD_API kd_status kd_distill_rows(kd_context *ctx, size_t rows, size_t classes,
                                 const float *student, size_t student_stride,
                                 const float *teacher, size_t teacher_stride,
                                 const int32_t *labels, int32_t ignore_index, float temperature,
                                 float hard_weight, float soft_weight,
                                 float *grad, size_t grad_stride, double values[4]);

KD_END_DECLS
#endif
