/* distill_args.h - what the distillation kernels are given: rows of logits in, values and gradient out.
 * SPDX-License-Identifier: MIT */
#ifndef KD__DISTILL_ARGS_H
#define KD__DISTILL_ARGS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* For each row r:
 *     hard[r] = CE_r, cross-entropy at temperature 1 with the row's target
 *     soft[r] = D_r, the divergence between teacher and student at the temperature; no factor T^2
 *     grad[r] = hard_coef[r] d CE_r / d student[r] + soft_coef[r] d D_r / d student[r]
 * A coefficient of 0 means the row is not in that term: its value is 0 and that side is not looked at.
 * A student row that is -inf throughout gives 0 everywhere; such a teacher row gives soft = 0 and no gradient from it. */
typedef struct kd__distill_args {
    size_t rows, classes;                                /* classes >= 1 */
    const float   *student;     size_t student_stride;
    const float   *teacher;     size_t teacher_stride;   /* NULL if every soft_coef is 0 */
    const int32_t *labels;                               /* [rows], in [0, classes) where hard_coef is not 0; NULL: soft_labels */
    const float   *soft_labels; size_t soft_label_stride;
    const float   *class_weights;                        /* [classes] or NULL: CE = -sum w target log q */
    const float   *hard_coef, *soft_coef;                /* [rows] */
    float         *grad;        size_t grad_stride;      /* NULL: values only; may be student itself */
    float         *hard, *soft;                          /* [rows] */
    float         *scratch;                              /* kd__distill_scratch(classes) floats, 64-byte aligned; from _run */
    uint32_t      *masked;                               /* += rows -inf throughout on a side that was looked at; from _run */
    float    temperature;
    float    js_beta, smoothing;
    uint32_t direction;                                  /* KD_DIRECTION_* */
    uint32_t teacher_form;                               /* KD_TEACHER_* */
    bool     hard_teacher;                               /* D = CE(student, argmax teacher) at temperature 1 */
    bool     stream;                                     /* the gradient is larger than the cache: write past it; from _run */
} kd__distill_args;

/* Up to TRANSPOSED classes sixteen rows are worked on at once, a row a lane; above BLOCK in blocks of that many.  Part of
 * the bits. */
#define KD_DISTILL_TRANSPOSED 32u
#define KD_DISTILL_BLOCK      4096u
#define KD_DISTILL_PANEL      160u   /* up to so many, sixteen rows wait together for their gradient; not part of the bits */
#define KD_DISTILL_PASS       4096u  /* floats of the kernel's own bookkeeping */
#define KD_DISTILL_KEPT       96u    /* floats kept of each block until the row ends */
#define KD_DISTILL_STEP(classes) (((classes) + 15) / 16 * 16 + 16)

/* The kernel's bookkeeping; three rows of exponentials, a row of targets and one of the teacher's logarithms for each row at
 * once; the targets all rows share; and the blocks kept, or sixteen rows' columns of three inputs and themselves. */
static inline size_t kd__distill_scratch(size_t classes)
{
    size_t step = KD_DISTILL_STEP(classes), at_once = classes <= KD_DISTILL_PANEL ? 16 : 1;
    size_t kept = KD_DISTILL_KEPT * (classes / KD_DISTILL_BLOCK + 1);
    return KD_DISTILL_PASS + (5 * at_once + 1) * step + 64 * KD_DISTILL_TRANSPOSED + kept;
}
#endif
