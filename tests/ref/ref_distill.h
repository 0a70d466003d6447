/* ref_distill.h - the distillation loss again, in double, from the formulas: plain loops, nothing shared with the library.
 * SPDX-License-Identifier: MIT */
#ifndef REF_DISTILL_H
#define REF_DISTILL_H
#include <stddef.h>
#include <stdint.h>

typedef struct ref_distill {
    size_t rows, classes;
    const double  *student;       /* [rows, classes] */
    const double  *teacher;       /* [rows, classes] or NULL */
    const int64_t *labels;        /* [rows] or NULL */
    const double  *soft_labels;   /* [rows, classes] or NULL */
    const double  *row_weights;   /* [rows] or NULL */
    const double  *class_weights; /* [classes] or NULL */
    double   temperature, hard_weight, soft_weight, js_beta, smoothing;
    int      direction;           /* 1 KL(p||q), 2 KL(q||p), 3 Jensen-Shannon */
    int      teacher_form;        /* 1 logits, 2 log-probabilities, 3 probabilities */
    int      hard_teacher;        /* soft term = CE(student, argmax teacher) at temperature 1 */
    int      squared;             /* times T^2 */
    int      reduction;           /* 1 mean over rows, 2 sum, 3 none, 4 mean over elements */
    int64_t  ignore_index, unlabelled_index;
} ref_distill;

typedef struct ref_distill_value { double loss, hard, soft; size_t hard_rows, soft_rows; } ref_distill_value;

/* Value; row_loss [rows] (may be NULL) each row's weighted loss before division. */
ref_distill_value ref_distill_eval(const ref_distill *d, double *row_loss);
#endif
