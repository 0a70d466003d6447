/* bench_cases.h - the cases that are measured: losses, products, convolutions, training steps, inference.
 * `make bench` sets them against the limits of the machine, `make bench-peers` beside other libraries.
 * SPDX-License-Identifier: MIT */
#ifndef KD_BENCH_CASES_H
#define KD_BENCH_CASES_H
#include "kd.h"
#include "tensor/tensor.h"

typedef enum bench_kind {
    BENCH_LOSS,                         /* logits and gradient on plain pointers: n = rows, classes           */
    BENCH_METHOD,                       /* the same by a method of kd_loss_distill, everything it can take given */
    BENCH_FEATURE,                      /* a method of kd_loss_feature: n = rows (bench_features.c)            */
    BENCH_GEMM,                         /* n = m, n, k, BENCH_NN ..                                           */
    BENCH_CONV_FORWARD,                 /* n = images, side, channels in, out, stride, kernel, groups         */
    BENCH_CONV_DATA,
    BENCH_CONV_WEIGHT,
    BENCH_CONV_BACKWARD,                /* both gradients                                                     */
    BENCH_STEP,                         /* forward, backward and optimizer: n = shape of the input, rows first */
    BENCH_INFER                         /* the student's logits                                               */
} bench_kind;

enum { BENCH_NN, BENCH_NT, BENCH_TN, BENCH_BIAS_RELU };   /* a b, a b^T, a^T b, max(0, a b + bias) */

typedef struct bench_case {
    const char *name;
    bench_kind  kind;
    size_t      n[7];                   /* as the kind says; 0 behind the last                    */
    size_t      classes;
    const char *student, *teacher;      /* "mlp 784 256 10", "cnn 28", "resnet 20 1" (depth, width), "lstm 64 256 2",
                                           "vit 224 16 192 12 3", "deit .." with a second head */
    float       temperature;            /* 0: from the labels alone                               */
    uint32_t    method;                 /* KD_OPT_*                                               */
    uint32_t    distill;                /* BENCH_METHOD: KD_DISTILL_*; BENCH_FEATURE: KD_FEATURE_*;
                                           BENCH_STEP: of logits that are given, in place of a teacher; 0: none */
} bench_case;

extern const bench_case bench_cases[];
extern const size_t     bench_case_count;
const bench_case *bench_find(const char *name);   /* NULL if there is none */

enum { BENCH_TAPS = 3 };

/* A case made ready to run.  What its kind does not use stays NULL. */
typedef struct bench {
    const bench_case *what;
    kd_context      *ctx;
    kd_model        *teacher, *student;
    kd_loss_distill *loss;
    kd_optimizer    *opt;
    kd_tape         *look, *learn;
    kd_tensor       *x, *y;             /* input and labels                                       */
    kd_tensor       *a, *b, *c, *d;     /* loss: student, teacher, gradient; product: a, b, c;
                                           convolution: x, weight, output or its gradient, gradient of x or y */
    kd_tensor       *dw, *bias;
    kd_tensor       *second, *teacher_second, *grad_second, *classes, *more[2];   /* method: what it takes beside a, b, c, y */
    kd_loss_feature *feature;
    kd_tensor       *taps[3][BENCH_TAPS];   /* feature: student's, teacher's, gradients; y: indices, second: mask */
    kd_tensor       *logits[3], *head[2];   /* student's, teacher's, gradient; the teacher's classifier or batch norm */
    kd_tensor       *adapters[4];           /* weights, gradients (of a dump), CRD's memories         */
    kd__conv_shape   conv;
} bench;

/* Everything fails by a line on stderr and exit(1). */
void   bench_open(bench *b, const bench_case *what, uint32_t threads);
void   bench_close(bench *b);
void   bench_run(void *b);                              /* once, for bench_median                             */
double bench_gradients(bench *b);                       /* of a step, without its optimizer; returns the loss */
kd_distill_terms bench_loss(bench *b);
void   bench_feature_open(bench *b, kd_rng *rng);
double bench_feature(bench *b);                         /* value and gradients; returns the value             */
double bench_feature_dump(bench *b);                    /* the same, gradients of the adapters kept           */
void   bench_feature_close(bench *b);
double bench_feature_work(const bench_case *what);
void   bench_infer(bench *b, float *out);               /* out NULL: nowhere                                  */
double bench_work(const bench_case *what);              /* of one run: operations, logits or samples          */
double bench_seconds(const bench_case *what, uint32_t threads, double budget);   /* open, bench_median, close */

double bench_now(void);
/* Median seconds of call(arg): calls for `budget` seconds, at least `least` of them; short ones are timed in groups. */
double bench_median(void (*call)(void *arg), void *arg, double budget, size_t least);
double bench_middle(double *times, size_t n);           /* their median; sorts them                           */

#define BENCH_NEED(call)                                                                            \
    do {                                                                                            \
        if ((call) != KD_OK) bench_die(kd_last_error());                                            \
    } while (0)
_Noreturn void bench_die(const char *text);
#endif
