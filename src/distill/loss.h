/* loss.h - the inside of kd_loss_distill, and what a method is.
 * SPDX-License-Identifier: MIT
 *
 * Labels, weights, counting, reductions, several teachers, standardised logits, the hard term, threads and the tape are the same for
 * all methods.  A method is a file NAME.c with its page (the comment at its head) and a kd__method_NAME, and a line in methods.def.
 * The shortest is hard.c; dkd.c has rows of its own, dist.c couples the rows of a batch. */
#ifndef KD__LOSS_H
#define KD__LOSS_H
#include "base/base.h"
#include "kd/distill.h"
#include "kernels/kernels.h"

/* What a method's function is given: some rows of a batch (or all), ready to be compared.  Rows are `stride` floats apart.
 * For each row r with coef[r] != 0:  soft[r] = D_r, without scale;  grad[r] += coef[r] dD_r / d student[r], grad_second likewise.
 * Leave the gradient of a row with coef 0 alone: it may hold anything.  Its soft[r] does not matter.
 * Logits may be -inf (classes under a mask), but no row that counts is so throughout; NaN and +inf may spoil their own row only.
 * A coupled value V of the whole batch: soft[r] += V for every row that counts, and its gradient is (sum of coef) dV. */
typedef struct kd__soft {
    const kd_loss_distill      *loss;
    const kd_loss_distill_desc *desc;      /* loss->desc */
    kd_context                 *ctx;
    const kd__kernels          *kernels;
    size_t rows, classes, teacher_width;   /* teacher_width: classes, unless KD__OTHER_CLASSES or KD__SPARSE */
    const float   *student;         size_t student_stride;
    const float   *second;          size_t second_stride;            /* KD__SECOND, else NULL             */
    const float   *teacher;         size_t teacher_stride;           /* logits, whatever the caller gave; NULL: KD__NO_TEACHER */
    const float   *teacher_second;  size_t teacher_second_stride;    /* KD__TEACHER_SECOND, else NULL     */
    const int32_t *labels;                                           /* KD__LABELS: each row's class where coef is not 0 */
    const float   *soft_labels;     size_t soft_label_stride;        /* NULL: the batch has none          */
    const int32_t *teacher_classes; size_t teacher_classes_stride;   /* KD__SPARSE: in [0, classes)       */
    const float   *coef;                                             /* [rows] */
    float         *soft;                                             /* [rows] */
    float         *grad;            size_t grad_stride;              /* NULL: not wanted */
    float         *grad_second;     size_t grad_second_stride;       /* NULL: not wanted */
    double        *own;                    /* += sum of coef dD / d(the one number of loss->adapters); begins at 0 */
    float         *scratch;                /* what method->scratch asked for, 64-byte aligned, not cleared */
} kd__soft;

enum {   /* kd__method.needs */
    KD__LABELS         = 1u,     /* classes, even with hard_weight 0; soft labels: their largest; a row without leaves both terms */
    KD__SECOND         = 2u,     /* student_second; of a fused method the soft term is on it alone */
    KD__TEACHER_SECOND = 4u,     /* teacher_second; then there is one teacher */
    KD__NO_TEACHER     = 8u,     /* `teacher` is ignored */
    KD__OTHER_CLASSES  = 16u,    /* teacher_width may differ from classes */
    KD__SPARSE         = 32u,    /* the teacher's row is values of teacher_classes */
    KD__RAW            = 64u,    /* the size of logits matters: not standardised, not combined, no probabilities */
    KD__DIRECTIONS     = 128u,   /* uses direction and js_beta */
    KD__HARD_TEACHER   = 256u,   /* fused: soft = CE with the teacher's argmax, at temperature 1 */
    KD__SCHEDULED      = 512u    /* uses loss->advances, which a checkpoint then holds */
};

/* A method.  Without `rows` and `batch` it is fused: the kernel of kern_distill.c at the descriptor's direction, one pass for both
 * terms.  What is NULL or 0 is not there, or as the comment says. */
typedef struct kd__method {
    const char *formula;   /* one line: "T^2 / B sum_b KL(p || q)" */
    uint32_t    needs;     /* KD__LABELS | .. */
    uint32_t    forms;     /* how many KD_FORM_* it has; 0: one */
    size_t      state;     /* doubles that outlive a batch, in loss->state, zero at first; in checkpoints */
    /* Its paper's numbers, over the general ones. */
    void      (*defaults)(kd_loss_distill_desc *desc);
    /* Refuse a descriptor this method cannot serve: its own fields, text led by kd__method_fail. */
    kd_status (*check)(const kd_loss_distill_desc *desc);
    /* The factor on the soft term; NULL: kd__squared, T^2 unless temperature_squared is 0. */
    double    (*scale)(const kd_loss_distill *loss, size_t classes);
    /* Floats of kd__soft.scratch for s->rows rows; SIZE_MAX: too many to count. */
    size_t    (*scratch)(const kd__soft *s);
    /* Rows are independent: called for blocks of them, in parallel, small enough for the inner caches. */
    void      (*rows)(const kd__soft *s);
    /* Rows are coupled: called once with all of them; cuts its work by kd__parallel. */
    kd_status (*batch)(const kd__soft *s);
    /* State and adapters (loss->adapters: a finished kd_model, one number in all, or none) of a new loss. */
    kd_status (*begin)(kd_loss_distill *loss);
    void      (*advance)(kd_loss_distill *loss);                     /* loss->advances has grown by one */
    void      (*observe)(const kd_loss_distill *loss, double soft);   /* after a training batch: its soft term, scale included; may
                                                                          write loss->state[] */
} kd__method;
#define DISTILL(id, name, source) extern const kd__method kd__method_##id;
#define FEATURE(id, name, source)
#include "distill/methods.def"
#undef DISTILL
#undef FEATURE

struct kd_loss_distill {
    kd_context          *ctx;
    kd_loss_distill_desc desc;      /* its arrays are our copies */
    float               *arrays;    /* they */
    const kd__method    *method;
    uint64_t             advances;
    double              *state;     /* [method->state] */
    kd_model            *adapters;  /* ours; NULL: none */
};

/* ---- for methods -------------------------------------------------------------------------------------------------- */
double    kd__squared(const kd_loss_distill *loss, size_t classes);
double    kd__unscaled(const kd_loss_distill *loss, size_t classes);   /* 1 */
/* KD_ERR_ARG unless x is finite and >= low: "kd_loss_distill: NAME x is not ..". */
kd_status kd__number_check(const char *name, float x, float low);
/* Clear of overflow: a * b, SIZE_MAX if it does not fit. */
static inline size_t kd__times(size_t a, size_t b)
{
    size_t product;
    return kd__mul(a, b, &product) ? product : SIZE_MAX;
}

/* ---- for the driver and the rooms beside it ------------------------------------------------------------------------ */
/* Check `desc` for `function` and choose its method. */
kd_status kd__loss_check(const kd_loss_distill_desc *desc, const char *function, const kd__method **method);
/* The method of KD_DISTILL_*; NULL: there is none. */
const kd__method *kd__distill_method(uint32_t id, const char **name);
/* What warm-up leaves of the soft weight now: (0, 1]. */
double    kd__loss_ramp(const kd_loss_distill *loss);

/* A batch through a loss: arguments checked, rows counted, gradient and values computed.  ctx gives threads and scratch.  `terms` is
 * a whole kd_distill_terms, not written on error.  *own: d loss / d(adapters' number); may be NULL. */
kd_status kd__loss_run(const kd_loss_distill *loss, kd_context *ctx, const char *function, const kd_distill_batch *batch,
                       kd_distill_terms *terms, double *own);

/* Bytes of what a checkpoint holds of it: advances, then state, each in 8; 0 if neither means anything. */
size_t    kd__loss_state_size(const kd_loss_distill *loss);
#endif
