/* ref_loss.h - losses per row or element and their gradients, in double.
 * SPDX-License-Identifier: MIT */
#ifndef REF_LOSS_H
#define REF_LOSS_H
#include <stddef.h>

double ref_smooth_l1(double d, double beta);
double ref_smooth_l1_slope(double d, double beta);

/* Cross-entropy of one row against target probabilities (any non-negative numbers); grad may be NULL. */
double ref_cross_entropy(size_t n, const double *logits, const double *target, double *grad);
/* The target (1 - s) onehot(label) + s / n. */
void ref_smooth_target(size_t n, size_t label, double s, double *target);

/* KL(softmax(p/t) || softmax(q/t)) and its gradient by q (may be NULL). */
double ref_kl(size_t n, const double *p, const double *q, double t, double *grad_q);

/* a . b / max(|a| |b|, eps); da, db may be NULL. */
double ref_cosine_similarity(size_t n, const double *a, const double *b, double eps, double *da, double *db);
#endif
