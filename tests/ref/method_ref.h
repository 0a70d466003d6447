/* method_ref.h - the references of the distillation methods: each method once more, in double, from its formula.
 * SPDX-License-Identifier: MIT
 *
 * One file a method, method_NAME.c, named after its line in src/distill/methods.def; it shares nothing with the library.  A
 * method on outputs defines `method_output_NAME`, one on features `method_feature_NAME`: the formula as a function, and what the
 * harness in tests/methods/ may do with it.  What is not said there is checked:
 *
 *   value, gradient   on random shapes, every option, T .05, 1, 4, 20; the tolerance follows from the formula's own condition
 *   hard places       the same class masked by -inf on both sides, ties, one class, two, one row, none, all ignored, rows twice,
 *                     zeros, logits to 1e4: finite (masks: the value too)
 *   same bits         on every instruction set, on 1, 2, 3, 7 threads, on a tape and on pointers, from one step to the next
 *   memory            every allocation failing in turn; the third step allocates nothing; no B^3, no B C^2 HW
 *
 * Methods between features have also: EVAL tapes, gradients of adapters.  A method's state (loss->state) is a parameter, "state".
 * Break the method once and see its test fail. */
#ifndef METHOD_REF_H
#define METHOD_REF_H
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kd.h"

enum { METHOD_TAPS = 8, METHOD_PARAMS = 96, METHOD_OPTIONS = 16 };

/* A tap, [rows, size..]: maps are {height, width, channels}. */
typedef struct method_tap {
    size_t  rank, size[4];
    size_t  each;    /* numbers of a row: the product of size */
    double *data;
} method_tap;

/* A parameter or buffer of the adapters, as kd_param_info. */
typedef struct method_param {
    const char *name;
    size_t  rank, size[4], count;
    double *data, *fixed;   /* fixed: as s_fixed */
} method_param;

/* What a reference gets.  Rows that labels leave out are not in it: every row counts, every label is a class. */
typedef struct method_in {
    const kd_loss_distill_desc *desc;      /* outputs */
    const kd_loss_feature_desc *feature;   /* features */
    size_t   rows, classes;
    double   T;                            /* the descriptor's temperature */
    double   alpha, beta, gamma;           /* and its own numbers */
    uint32_t form;
    double  *student, *second;             /* [rows, classes] */
    double  *teacher, *teacher_second;     /* [rows, teacher_width], [rows, classes]; in the descriptor's teacher_form */
    double  *student_fixed, *second_fixed; /* the numbers of student and second, but differences do not move them: what a
                                              formula takes as a constant ("detached") is computed from these */
    size_t   teacher_width;                /* classes but for METHOD_WIDTH and METHOD_SPARSE */
    int32_t *teacher_classes;              /* METHOD_SPARSE: [rows, teacher_width], each class once in a row */
    double  *more[2]; size_t more_count;   /* METHOD_MORE */
    int32_t *labels, *indices;             /* [rows] */
    size_t   taps, teacher_taps;
    method_tap s[METHOD_TAPS], t[METHOD_TAPS], s_fixed[METHOD_TAPS];   /* s_fixed: as student_fixed */
    double  *mask;                         /* [rows, tokens] of 0 and 1; NULL: none */
    double  *student_logits, *teacher_logits;   /* [rows, classes] */
    int      train;                        /* on a TRAIN tape: batch norm uses the batch */
    size_t   params;                       /* of outputs: "own" */
    method_param param[METHOD_PARAMS];
} method_in;

/* What a method needs beside student and teacher, .needs. */
#define METHOD_LABELS         0x1u    /* labels, even when hard_weight is 0 */
#define METHOD_SECOND         0x2u    /* student_second */
#define METHOD_TEACHER_SECOND 0x4u
#define METHOD_WIDTH          0x8u    /* the teacher may have another number of classes */
#define METHOD_SPARSE        0x10u    /* teacher_classes, k < classes */
#define METHOD_MORE          0x20u    /* more teachers */
#define METHOD_NO_TEACHER    0x40u    /* needs none */
#define METHOD_INDICES       0x80u    /* features: indices of samples */
#define METHOD_MASK         0x100u    /* features: takes a mask of tokens: tried with and without */
#define METHOD_LOGITS       0x200u    /* features: student_logits, teacher_logits */
#define METHOD_CLASSIFIER   0x400u    /* features: the descriptor's teacher_weight, teacher_bias, classes */
#define METHOD_BN           0x800u    /* features: the descriptor's teacher_bn_weight, teacher_bn_bias */
#define METHOD_BATCH       0x1000u    /* features: the descriptor's samples is the number of rows */
/* What holds, .holds: checked exactly as far as rounding goes. */
#define METHOD_CLASS_ORDER    0x1u    /* classes permuted alike everywhere: the same value */
#define METHOD_ROW_ORDER      0x2u    /* rows permuted alike everywhere: the same value */
#define METHOD_SHIFT_STUDENT  0x4u    /* a number added to a student's row: the same value */
#define METHOD_SHIFT_TEACHER  0x8u
#define METHOD_ZERO_AT_TEACHER 0x10u  /* student = teacher gives 0 (second student as well) */
/* What does not, .but; the method's page says it too. */
#define METHOD_NO_MASKS       0x1u    /* -inf gives what IEEE gives */
#define METHOD_NO_TEMPERATURE 0x2u    /* T does nothing: only the default is tried */
#define METHOD_KINKS          0x4u    /* has points without a derivative: differences across one are left out, at most half */
#define METHOD_RANDOM         0x8u    /* draws: value and gradients are not compared, all else is */
#define METHOD_ROWS_1         0x10u   /* one row is an error (KD_ERR_SHAPE or KD_ERR_ARG) */
#define METHOD_CLASSES_1      0x20u   /* one class is */
#define METHOD_NO_VALUE_1E4   0x40u   /* logits of 1e4: the value may overflow (gradients may not) */

/* A set of options: set changes the descriptor that kd_loss_distill_desc_for gave. */
typedef struct method_output_option {
    const char *name;
    void (*set)(kd_loss_distill_desc *desc);
} method_output_option;
typedef struct method_feature_option {
    const char *name;
    void (*set)(kd_loss_feature_desc *desc);
} method_feature_option;

typedef struct method_output {
    /* The soft term before soft_weight, its scale (T^2) included: of row r, where rows are independent and the term is their
     * mean; or of the batch, where they are not.  One of the two. */
    double (*row)(const method_in *x, size_t r);
    double (*batch)(const method_in *x);
    /* The hard term of row r; NULL: the cross-entropy of student and label. */
    double (*hard)(const method_in *x, size_t r);
    /* How large the numbers are that the value is made of; NULL: (T^2, or 1 under METHOD_NO_TEMPERATURE) (1 + |alpha| + |beta| +
     * |gamma|) times the reach of the log-probabilities.  Rounding in proportion to it is allowed. */
    double (*size)(const method_in *x);
    /* The method's own parameter (kd_loss_distill_adapters): its gradient is this times the derivative; NULL: 1. */
    double (*own)(const method_in *x);
    uint32_t needs, holds, but;
    size_t   memory;   /* MiB that a batch of 128 rows, 512 classes may take beyond its inputs; 0: 4 */
    method_output_option options[METHOD_OPTIONS];   /* none: the defaults only; else put { "default", NULL } in */
} method_output;

/* Taps of a feature method, .kind.  Sizes are drawn; .same says what is equal on both sides. */
enum { METHOD_VECTORS = 1, METHOD_MAPS, METHOD_TOKENS, METHOD_ATTENTION };
#define METHOD_SAME_SIZE    1u   /* height and width, or tokens, heads */
#define METHOD_SAME_WIDTH   2u   /* channels, width of vectors */
#define METHOD_TEACHER_WIDER 4u  /* the teacher's width is at least the student's */
#define METHOD_ONE_SHAPE    8u   /* all taps of a side have one shape (at least one width) */
#define METHOD_HALVING     16u   /* each further map has half the height and width; without: all of a side as large */

typedef struct method_feature {
    double (*loss)(const method_in *x);   /* before weight */
    double (*size)(const method_in *x);   /* as above; NULL: |loss| + alpha, beta, gamma each where not 0 */
    /* The gradient of an adapter's parameter is this times the derivative; NULL: 1.  0: it has none of this loss. */
    double (*adapter)(const method_in *x, const char *name);
    uint32_t kind, same, needs, holds, but;
    size_t   taps_low, taps_high;         /* of each side; 0: 1 */
    size_t   teacher_taps;                /* 0: as many as the student's */
    size_t   rows_low;                    /* 0: 1 */
    size_t   width_low;                   /* the least width or channels; 0: 1 */
    size_t   memory;                      /* MiB beyond the inputs at 128 rows; 0: 4 */
    /* Shapes by hand instead of the above: fill rank and size of x->s and x->t, set x->taps and x->teacher_taps; `draw` gives a
     * number in [low, high]. */
    void (*shapes)(method_in *x, size_t (*draw)(void *rand, size_t low, size_t high), void *rand);
    method_feature_option options[METHOD_OPTIONS];
} method_feature;

#define DISTILL(id, name, source) extern const method_output method_output_##id;
#define FEATURE(id, name, source) extern const method_feature method_feature_##id;
#include "distill/methods.def"
#undef DISTILL
#undef FEATURE

/* ---- helpers ------------------------------------------------------------------------------------------------------ */
/* n doubles, 0; they go when the reference has returned. */
double *mr_new(size_t n);
void    mr_release(void);   /* the harness's */

double mr_dot(const double *a, const double *b, size_t n);
double mr_sum(const double *a, size_t n);
double mr_mean(const double *a, size_t n);
double mr_norm2(const double *a, size_t n);                               /* sqrt(sum a^2) */
double mr_distance2(const double *a, const double *b, size_t n);          /* sum (a - b)^2 */
double mr_mean_square(const double *a, const double *b, size_t n);        /* mean (a - b)^2 */
void   mr_unit(const double *a, size_t n, double eps, double *out);       /* a / max(|a|, eps) */
double mr_huber(double d);                                                /* smooth-L1, beta 1 */
size_t mr_argmax(const double *a, size_t n);                              /* the first */
void   mr_sort(double *a, size_t n);                                      /* falling */
double mr_sigmoid(double x);
double mr_log_sigmoid(double x);

double mr_log_sum_exp(const double *z, size_t n);                         /* -inf for all -inf */
void   mr_log_softmax(const double *z, size_t n, double T, double *out);  /* of z / T */
void   mr_softmax(const double *z, size_t n, double T, double *out);
double mr_kl_logs(const double *log_p, const double *log_q, size_t n);    /* sum p (log p - log q); p = 0 gives 0 */
double mr_kl_logits(const double *t, const double *s, size_t n, double T);/* KL(softmax(t / T) || softmax(s / T)) */
double mr_cross_entropy_label(const double *z, size_t n, size_t label);

/* A parameter or buffer of the adapters by its name; exits if there is none. */
const method_param *mr_param(const method_in *x, const char *name);
const double *mr_data(const method_in *x, const char *name);
int mr_has(const method_in *x, const char *name);

/* y[rows, out] = x[rows, in] w[in, out] + b; b may be NULL.  The second: adapter "name.weight", "name.bias" if there is one. */
double *mr_affine(const double *x, size_t rows, size_t in, const double *w, const double *b, size_t out);
double *mr_adapter_linear(const method_in *x, const char *name, const double *in, size_t rows);
/* Maps are [n, h, w, c].  A convolution with w [kh, kw, c, out]; *oh, *ow its size. */
double *mr_conv(const double *x, size_t n, size_t h, size_t w, size_t c, const double *weight, const double *bias, size_t kh,
                size_t kw, size_t out, size_t stride, size_t padding, size_t *oh, size_t *ow);
double *mr_adapter_conv(const method_in *x, const char *name, const double *in, size_t n, size_t h, size_t w, size_t stride,
                         size_t padding, size_t *oh, size_t *ow);
/* In place over [n, c]: batch statistics if train (biased variance), else running ones; adapter "name.weight", .. */
void mr_adapter_norm(const method_in *x, const char *name, double *data, size_t n, double eps);
void mr_relu(double *x, size_t n);
/* The ConvReg "NAME.conv", "NAME.bn" from tap s to tap t (no ReLU): 3x3 stride 2; transposed 4x4 stride 2; 1 + difference. */
double *mr_conv_reg(const method_in *x, const char *name, const method_tap *s, const method_tap *t, size_t rows);
/* Average over adaptive windows, as PyTorch's adaptive_avg_pool2d. */
double *mr_adaptive_pool(const double *x, size_t n, size_t h, size_t w, size_t c, size_t oh, size_t ow);
double *mr_nearest(const double *x, size_t n, size_t h, size_t w, size_t c, size_t oh, size_t ow);
#endif
