/* ref_optim.h - optimizers written from their formulas, in double, plain loops.
 * Each also gives a bound on the error of the same step in float: a count of its roundings times what they act on.
 * SPDX-License-Identifier: MIT */
#ifndef REF_OPTIM_H
#define REF_OPTIM_H
#include <stddef.h>

typedef struct ref_sgd {
    double lr, momentum, dampening, weight_decay, grad_scale;
    int use_momentum, nesterov, first;
} ref_sgd;
/* One weight; *v is its velocity.  bound[0] for w, bound[1] for v. */
void ref_sgd_step(double *w, double g, double *v, const ref_sgd *s, double bound[2]);

typedef struct ref_adam {
    double lr, beta1, beta2, eps, weight_decay, grad_scale;
    int decoupled;
    double t;   /* this step, from 1 */
} ref_adam;
/* One weight; bound[0] for w, bound[1] for m, bound[2] for v. */
void ref_adam_step(double *w, double g, double *m, double *v, const ref_adam *s, double bound[3]);

/* The learning-rate factors, from libm. */
double ref_cosine_factor(double s, double total, double final);
#endif
