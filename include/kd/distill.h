/* kd/distill.h - losses that teach a student to imitate a teacher.
 * SPDX-License-Identifier: MIT
 *
 *     loss = hard_weight * hard + soft_weight * soft
 *     hard = mean over labelled rows of CE(student, label), temperature 1
 *     soft = T^2 * mean over taught rows of D(p, q),  p = softmax(teacher / T), q = softmax(student / T)
 *
 * D is KL(p || q) unless `direction` says otherwise; T^2 unless `temperature_squared` is 0.  The field's alpha (weight of the
 * true-label term) is hard_weight = alpha, soft_weight = 1 - alpha.
 * Labels: a row whose label is `ignore_index` leaves both terms (padding); one whose label is `unlabelled_index`
 * leaves the hard term only: the teacher still teaches it.  Each term divides by its own count of valid rows.
 * Everything is computed in log space; edge rows as in kd/kernels.h; gradients are finite wherever logits are. */
#ifndef KD_DISTILL_H
#define KD_DISTILL_H
#include "tape.h"
KD_BEGIN_DECLS

/* Made from a descriptor; immutable, any number of threads may share it (a method with state of its own says so). */
typedef struct kd_loss_distill kd_loss_distill;

/* Methods: what the soft term is. */
#define KD_DISTILL_KD   1u   /* Hinton, Vinyals, Dean 2015 (arXiv 1503.02531): soft labels at a temperature     */
#define KD_DISTILL_HARD 2u   /* hard-label distillation (Touvron et al. 2021, DeiT): soft = CE(student, argmax teacher) at
                                temperature 1, no T^2; ties go to the first maximum                                */

/* Which divergence D is. */
#define KD_DIRECTION_FORWARD 1u   /* KL(p || q), the teacher's mass is covered                              */
#define KD_DIRECTION_REVERSE 2u   /* KL(q || p), the student seeks a mode                                   */
#define KD_DIRECTION_JS      3u   /* beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q (GKD)  */

/* What the teacher's numbers are. */
#define KD_TEACHER_LOGITS    1u   /* logits: p = softmax(teacher / T)                                        */
#define KD_TEACHER_LOG_PROBS 2u   /* log p at temperature T already: used as it is, not renormalised        */
#define KD_TEACHER_PROBS     3u   /* p at temperature T already; 0 is allowed, used as it is                */

#define KD_LABEL_OFF INT64_MIN   /* an index that marks nothing */

/* Which loss. */
typedef struct kd_loss_distill_desc {
    size_t       struct_size;
    uint32_t     method;                /* KD_DISTILL_*; default KD_DISTILL_KD                                          */
    float        temperature;           /* T > 0, finite; default 4                                                     */
    float        hard_weight;           /* >= 0, finite; default 0.1                                                    */
    float        soft_weight;           /* >= 0, finite; default 0.9                                                    */
    uint32_t     direction;             /* KD_DIRECTION_*; default FORWARD                                              */
    float        js_beta;               /* (0, 1); default 0.5                                                          */
    uint32_t     temperature_squared;   /* 1: multiply soft by T^2 (default); 0: do not                                 */
    uint32_t     reduction;             /* KD_REDUCE_*; default MEAN_ROWS.  SUM: sums; NONE: a value per row;
                                           MEAN_ELEMENTS: both terms divide by valid rows * classes (DeiT's numel)      */
    uint32_t     teacher_form;          /* KD_TEACHER_*; default LOGITS                                                 */
    float        label_smoothing;       /* [0, 1); default 0: hard target (1 - s) onehot + s / classes                  */
    int64_t      ignore_index;          /* default -100; KD_LABEL_OFF: none                                             */
    int64_t      unlabelled_index;      /* default KD_LABEL_OFF; -1 by convention                                       */
    const float *class_weights;         /* [class_weight_count] or NULL; copied.  The hard term becomes, as in PyTorch,
                                           sum w[y] CE / sum w[y] under MEAN_ROWS                                       */
    size_t       class_weight_count;    /* must equal the batch's classes                                               */
    uint32_t     check_input;           /* 1: NaN, +inf, negative or non-normalised (1e-3) probabilities are KD_ERR_NUMERIC
                                           naming row and class; 0 (default): IEEE results                              */
    uint32_t     all_masked_nan;        /* 1: PyTorch's NaN where no row is valid or a row is -inf throughout; default 0 */
} kd_loss_distill_desc;

/* Defaults: Hinton KD, T = 4, 0.1 / 0.9 (the weights of the CIFAR-100 literature). */
KD_API void kd_loss_distill_desc_init(kd_loss_distill_desc *desc, size_t struct_size);

/* Make a loss.  desc is copied; NULL means all defaults.  KD_ERR_ARG names the field; KD_ERR_VERSION, KD_ERR_NOMEM. */
KD_API KD_MUST_USE kd_status kd_loss_distill_create(kd_loss_distill **out, kd_context *ctx, const kd_loss_distill_desc *desc);
/* Free the loss; NULL is fine. */
KD_API void kd_loss_distill_free(kd_loss_distill *loss);

/* What a batch came to. */
typedef struct kd_distill_terms {
    size_t struct_size;
    double loss;          /* hard_weight * hard + soft_weight * soft; under NONE the sum over rows          */
    double hard;          /* the hard term before its weight; 0 if no row is labelled                       */
    double soft;          /* the soft term before its weight, T^2 included if on; 0 if no row is taught     */
    size_t hard_rows;     /* rows in the hard term                                                          */
    size_t soft_rows;     /* rows in the soft term                                                          */
    size_t masked_rows;   /* rows whose student or teacher was -inf throughout: they contribute 0           */
} kd_distill_terms;

/* The loss of a batch, recorded on `tape`.
 *   student  f32 [.., classes]; gradients flow here
 *   teacher  f32, same shape; a constant, whichever tape made it; NULL if soft_weight is 0
 *   labels   i32 or i64 [..], or f32 [.., classes] (soft labels: mix-up); NULL if hard_weight is 0
 * Returns a scalar (reduction NONE: [rows]) of the tape, never NULL; poison on error: KD_ERR_SHAPE, KD_ERR_DTYPE, KD_ERR_RANGE
 * (row and value of a label), KD_ERR_NUMERIC, KD_ERR_NOMEM. */
KD_API kd_tensor *kd_loss_distill_apply(const kd_loss_distill *loss, kd_tape *tape, kd_tensor *student, kd_tensor *teacher,
                                        kd_tensor *labels);
/* The same with a weight for each row, f32 [..] >= 0: both terms become sum w D / sum w under MEAN_ROWS. */
KD_API kd_tensor *kd_loss_distill_apply_weighted(const kd_loss_distill *loss, kd_tape *tape, kd_tensor *student,
                                                 kd_tensor *teacher, kd_tensor *labels, kd_tensor *row_weights);
/* The terms of a loss that _apply returned, for logging CE and KD apart.  `out->struct_size` must be set. */
KD_API KD_MUST_USE kd_status kd_loss_distill_terms(kd_tape *tape, const kd_tensor *loss, kd_distill_terms *out);

/* A batch on plain pointers, for callers with their own networks.  Zero it, set struct_size, fill what you have. */
typedef struct kd_distill_batch {
    size_t         struct_size;
    size_t         rows, classes; /* sizes of every matrix here                      */
    const float   *student;       size_t student_stride;      /* logits; floats between rows; 0: classes */
    const float   *teacher;       size_t teacher_stride;      /* in the loss's teacher_form; NULL if soft_weight is 0 */
    const int32_t *labels;        /* [rows]; or labels64 or soft_labels, or none if hard_weight is 0 */
    const int64_t *labels64;      /* [rows]                                          */
    const float   *soft_labels;   size_t soft_label_stride;   /* probabilities [rows, classes] */
    const float   *row_weights;   /* [rows] or NULL                                  */
    float         *grad;          size_t grad_stride;          /* d loss / d student; may be NULL; may be student itself.
                                                                  Under NONE: of the sum over rows */
    float         *row_loss;      /* [rows] or NULL: each row's weighted loss before any division */
} kd_distill_batch;
/* Value, gradient and counts in one pass, no tensors and no copies: the same kernel and the same bits as _apply.
 * Nothing is written on error. */
KD_API KD_MUST_USE kd_status kd_loss_distill_eval(const kd_loss_distill *loss, const kd_distill_batch *batch,
                                                  kd_distill_terms *terms);

KD_END_DECLS
#endif
