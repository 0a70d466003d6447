/* methods_check.h - what the checks of outputs and of features share: a function of some arrays, its value and gradient by the
 * library against the reference in double.
 * SPDX-License-Identifier: MIT */
#ifndef METHODS_CHECK_H
#define METHODS_CHECK_H
#include "kdtest.h"
#include "method_ref.h"

typedef struct mc_array {
    const char  *name;
    double      *x;        /* [n]: what the reference reads, numbers that are floats */
    size_t       n;
    const float *grad;     /* [n], the library's; NULL: not compared, but it enters the condition */
    double       factor;   /* grad is this times the derivative */
    double       step;     /* a length on which the function is smooth: T for logits, the spread of a feature */
    double       more;     /* of an adapter, whose gradient sums over rows: numbers that may cancel in it, in units of step */
} mc_array;

enum { MC_ARRAYS = 120 };
typedef struct mc_point {
    const char *what;
    double (*value)(void *user);
    void   (*fix)(void *user);   /* take what the formula holds constant from where the inputs are now; may be NULL */
    void    *user;
    mc_array array[MC_ARRAYS];
    size_t   arrays;
    size_t   longest;     /* the longest sum */
    double   size;        /* of the numbers the value is made of */
    double   grad_size;   /* of those a gradient's element is made of */
    int      kinks;
    uint64_t seed;
} mc_point;

/* How far rounding may move the value of `p`; *grad (may be NULL) the same for an element of the gradient.
 *
 * A float computation whose every step rounds by at most u = 2^-24 gives the exact result of inputs moved by some u (|x| +
 * step): softmax, norms and products all take their inputs in proportion.  So the inputs are moved by 64 u of that, with
 * random signs, four times for the value and twice for the gradient; a 64th of the largest change is the condition, and 16 of
 * it (32 for a gradient, which is computed forth and back) what a chain of so many roundings may do.  To that comes the
 * rounding of the result and of its sums (lanes of 16: longest / 16 additions one after the other), and, as the condition
 * vanishes where the value is stationary, 16 u of the numbers it is made of. */
double mc_tolerance(mc_point *p, double *grad);
/* Compare; returns the tolerance of the value. */
double mc_compare(mc_point *p, double value);

/* The contexts to try: every instruction set, and the best with 2, 3, 7 threads too; with KD_TEST_FULL=1 every one with all. */
enum { MC_CONTEXTS = 24 };
size_t mc_contexts(kd_context *out[MC_CONTEXTS]);
void   mc_contexts_free(void);
int    mc_finite(const float *x, size_t n);
int    mc_equal(const float *a, const float *b, size_t n);   /* number for number; -0 is 0: a tape adds to 0 what it gets */
/* Checks done since the last call. */
size_t mc_checks(void);
#define MC_CHECK(...) (mc_count++, CHECK_MSG(__VA_ARGS__))
extern size_t mc_count;
#endif
