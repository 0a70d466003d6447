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
#include "model.h"
KD_BEGIN_DECLS

/* Made from a descriptor; immutable, any number of threads may share it (a method with state of its own says so). */
typedef struct kd_loss_distill kd_loss_distill;

/* Methods: what the soft term is.  Formula, gradient, what it divides by, defaults, and where paper and public code differ: one
 * page each in docs/methods/. */
#define KD_DISTILL_KD               1u   /* Hinton, Vinyals, Dean 2015 (arXiv 1503.02531): soft labels at a temperature     */
#define KD_DISTILL_HARD             2u   /* hard labels: soft = CE(student, argmax teacher) at temperature 1, no T^2; ties go
                                            to the first maximum                                                           */
#define KD_DISTILL_DEIT_SOFT        3u   /* Touvron et al. 2021: two heads, soft labels on the distillation head            */
#define KD_DISTILL_DEIT_HARD        4u   /* Touvron et al. 2021: two heads, the teacher's class on the distillation head    */
#define KD_DISTILL_DKD              5u   /* Zhao et al. 2022: target and non-target class apart                             */
#define KD_DISTILL_DIST             6u   /* Huang et al. 2022: correlation of rows and of columns                           */
#define KD_DISTILL_NKD              7u   /* Yang et al. 2023: normalised non-target classes                                 */
#define KD_DISTILL_USKD             8u   /* Yang et al. 2023: the same without a teacher                                    */
#define KD_DISTILL_WSLD             9u   /* Zhou et al. 2021: rows weighted by how hard they are for each side              */
#define KD_DISTILL_MLKD            10u   /* Jin, Wang, Lin 2023: multi-level logits                                         */
#define KD_DISTILL_CTKD            11u   /* Li et al. 2023: a learned, adversarial temperature                              */
#define KD_DISTILL_TFKD            12u   /* Yuan et al. 2020: a virtual teacher                                             */
#define KD_DISTILL_PSKD            13u   /* Kim et al. 2021: the previous epoch's student as teacher of the hard target     */
#define KD_DISTILL_LABEL_SMOOTHING 14u   /* Szegedy et al. 2016, as distillation from a uniform teacher                     */
#define KD_DISTILL_REVERSE_KL      15u   /* KL(q || p)                                                                      */
#define KD_DISTILL_JS              16u   /* Agarwal et al. 2024 (GKD): generalised Jensen-Shannon                           */
#define KD_DISTILL_SKEW_KL         17u   /* Ko et al. 2024 (DistiLLM): KL(p || lambda p + (1 - lambda) q)                   */
#define KD_DISTILL_SKEW_REVERSE_KL 18u   /* Ko et al. 2024: KL(q || (1 - lambda) p + lambda q)                              */
#define KD_DISTILL_TAID            19u   /* Shing et al. 2025: a teacher that moves away from the student                   */
#define KD_DISTILL_TVD             20u   /* total variation: 1/2 sum |p - q|                                                */
#define KD_DISTILL_AKL             21u   /* Wu et al. 2024: forward and reverse KL weighted by head and tail gaps           */
#define KD_DISTILL_ULD             22u   /* Boizard et al. 2024: sorted probabilities; the vocabularies may differ          */
#define KD_DISTILL_BINARY          23u   /* one sigmoid a class: multi-label                                                */
#define KD_DISTILL_MSE_LOGITS      24u   /* Ba, Caruana 2014; Kim et al. 2021: squared difference of logits                 */
#define KD_DISTILL_COSINE_LOGITS   25u   /* 1 - cosine of the logits                                                        */
#define KD_DISTILL_TOP_K           26u   /* sparse teachers: the k largest classes of each row                              */
#define KD_DISTILL_MULTI_TEACHER   27u   /* several teachers, combined before the divergence                                */
#define KD_DISTILL_MUTUAL          28u   /* Zhang et al. 2018: peers teach each other                                       */
#define KD_DISTILL_BORN_AGAIN      29u   /* Furlanello et al. 2018: the previous generation teaches                         */
#define KD_DISTILL_LSKD            30u   /* Sun et al. 2024: standardised logits, then soft labels                          */

/* Which divergence D is. */
#define KD_DIRECTION_FORWARD 1u   /* KL(p || q), the teacher's mass is covered                              */
#define KD_DIRECTION_REVERSE 2u   /* KL(q || p), the student seeks a mode                                   */
#define KD_DIRECTION_JS      3u   /* beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q (GKD)  */

/* What the teacher's numbers are. */
#define KD_TEACHER_LOGITS    1u   /* logits: p = softmax(teacher / T)                                        */
#define KD_TEACHER_LOG_PROBS 2u   /* log p at temperature T already: used as it is, not renormalised        */
#define KD_TEACHER_PROBS     3u   /* p at temperature T already; 0 is allowed, used as it is                */

/* How several teachers become one, row by row; w are `teacher_weights` divided by their sum, equal if NULL. */
#define KD_TEACHERS_MEAN_LOGITS 1u   /* logits = sum w t_j: the geometric mean of the softened probabilities   */
#define KD_TEACHERS_MEAN_PROBS  2u   /* p = sum w softmax(t_j / T): Hinton's arithmetic mean                    */
#define KD_TEACHERS_BEST        3u   /* the teacher whose cross-entropy with the row's label is least; ties: the first */

/* Which of a method's forms.  A method's page says what its forms are; those that have one only take KD_FORM_CODE. */
#define KD_FORM_CODE   0u   /* as the paper's public code computes it: what its published weights belong to       */
#define KD_FORM_PAPER  1u   /* as the paper writes it                                                             */
#define KD_FORM_THIRD  2u   /* a third one, named on the page                                                     */

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
    float        alpha, beta, gamma;    /* the method's own numbers, as its page says; 0 where it has none              */
    uint32_t     form;                  /* KD_FORM_*; default CODE                                                       */
    uint32_t     standardize;           /* 1: Sun et al. 2024 on any method over logits: both sides' rows minus their mean,
                                           over (unbiased standard deviation + 1e-7), before the soft term; default 0    */
    uint32_t     teachers;              /* KD_TEACHERS_*; default MEAN_PROBS; matters when a batch has several           */
    uint32_t     reserved;
    uint64_t     warmup;                /* calls of _advance until the soft term has its whole weight: it is multiplied by
                                           min((advances + 1) / warmup, 1); 0: at once (default)                         */
    const float *teacher_weights;       /* [teacher_weight_count] or NULL; copied; finite, >= 0, not all 0               */
    size_t       teacher_weight_count;  /* of `teacher` and more_teachers, in this order                                 */
    uint64_t     seed;                  /* of what the method draws or initialises; default 0                            */
} kd_loss_distill_desc;

/* Defaults: Hinton KD, T = 4, 0.1 / 0.9 (the weights of the CIFAR-100 literature). */
KD_API void kd_loss_distill_desc_init(kd_loss_distill_desc *desc, size_t struct_size);
/* The defaults of a method, KD_DISTILL_*: the weights, temperature and numbers of its paper, as on its page.  KD_ERR_ARG: there is
 * no such method; *desc is then as _init leaves it. */
KD_API KD_MUST_USE kd_status kd_loss_distill_desc_for(kd_loss_distill_desc *desc, size_t struct_size, uint32_t method);

/* Make a loss.  desc is copied; NULL means all defaults.  KD_ERR_ARG names the field; KD_ERR_VERSION, KD_ERR_NOMEM. */
KD_API KD_MUST_USE kd_status kd_loss_distill_create(kd_loss_distill **out, kd_context *ctx, const kd_loss_distill_desc *desc);
/* Free the loss; NULL is fine. */
KD_API void kd_loss_distill_free(kd_loss_distill *loss);

/* ---- curricula: not while another thread uses the loss -------------------------------------------------------------- */
/* Other weights or another temperature from the next batch on, with the ranges of the descriptor.  KD_ERR_ARG changes nothing. */
KD_API KD_MUST_USE kd_status kd_loss_distill_set_weights(kd_loss_distill *loss, float hard_weight, float soft_weight);
KD_API KD_MUST_USE kd_status kd_loss_distill_set_temperature(kd_loss_distill *loss, float temperature);
/* One epoch (or step: what the numbers are counted in is the caller's choice) has passed: warm-up and a method's own schedule move
 * on.  Part of a checkpoint (kd_checkpoint_add_loss). */
KD_API KD_MUST_USE kd_status kd_loss_distill_advance(kd_loss_distill *loss);
/* What the method trains beside the student (CTKD's temperature): a model the loss owns, to be added to an
 * optimizer; NULL if it has none.  A TRAIN tape refuses the loss (KD_ERR_STATE) until an optimizer holds it or it is frozen. */
KD_API kd_model *kd_loss_distill_adapters(kd_loss_distill *loss);

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
/* Everything a method may ask for.  Zero it, set struct_size, fill what you have; what the method does not use is ignored, what it
 * needs and misses is KD_ERR_ARG naming it. */
typedef struct kd_distill_inputs {
    size_t struct_size;
    kd_tensor *student;              /* f32 [.., classes]; gradients flow here                                            */
    kd_tensor *student_second;       /* f32 [.., classes], gradients flow here too: the distillation head (DeiT); the same
                                        images in a stronger augmentation (MLKD); the weak head's logits (USKD)            */
    kd_tensor *teacher;              /* f32 [.., classes] (ULD: any number of classes); TOP_K: the values of the k classes */
    kd_tensor *teacher_second;       /* MLKD: the teacher's logits of student_second's images                              */
    kd_tensor *const *more_teachers; /* [more_teacher_count]: beside `teacher`, each of its shape                          */
    size_t     more_teacher_count;   /* how many; 0: only `teacher`                                                        */
    kd_tensor *teacher_classes;      /* TOP_K: i32 or i64 [.., k], which classes they are, each once in a row              */
    kd_tensor *labels;               /* as in _apply */
    kd_tensor *row_weights;          /* as in _apply_weighted */
} kd_distill_inputs;
/* The loss of a batch with all a method may ask for; otherwise as _apply. */
KD_API kd_tensor *kd_loss_distill_apply_inputs(const kd_loss_distill *loss, kd_tape *tape, const kd_distill_inputs *inputs);
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
    float         *row_loss;      /* [rows] or NULL: each row's weighted loss before any division.  Methods that couple the
                                     rows of a batch (their pages say so) spread it evenly: each row then has 1 / rows of it */
    const float   *student_second;   size_t student_second_stride;   /* [rows, classes], as in kd_distill_inputs */
    float         *grad_second;      size_t grad_second_stride;   /* d loss / d student_second; may be NULL */
    const float   *teacher_second;   size_t teacher_second_stride;   /* MLKD: [rows, classes] */
    const float *const *more_teachers; size_t more_teacher_count;  /* each with teacher's stride */
    size_t         teacher_width;    /* floats of a teacher's row where it is not `classes` (ULD; TOP_K: k); 0: classes */
    const int32_t *teacher_classes;  size_t teacher_classes_stride;   /* TOP_K: [rows, k]; 0: k */
} kd_distill_batch;
/* Value, gradient and counts in one pass, no tensors and no copies: the same kernel and the same bits as _apply.
 * With grad given the batch counts as training: the gradient of adapters that are not frozen is added to their block, and a method
 * that adapts to its loss takes note.  Nothing is written on error, but gradients may be when memory is out. */
KD_API KD_MUST_USE kd_status kd_loss_distill_eval(const kd_loss_distill *loss, const kd_distill_batch *batch,
                                                  kd_distill_terms *terms);

/* ---- features and relations --------------------------------------------------------------------------------------------- */
/* A loss between inner outputs (taps) of student and teacher, with the adapters it trains.  Its methods keep nothing between batches
 * unless their page says so.  Threads: as a kd_model: any number of EVAL and INFER tapes at once, or one TRAIN tape;
 * kd_loss_feature_eval runs on a tape of the loss's own, one call at a time (others wait), and not beside another use of the loss. */
typedef struct kd_loss_feature kd_loss_feature;

/* Methods; a page each in docs/methods/. */
#define KD_FEATURE_FITNET    1u   /* Romero et al. 2015: regression of a hint layer                             */
#define KD_FEATURE_AT        2u   /* Zagoruyko, Komodakis 2017: attention transfer                              */
#define KD_FEATURE_SP        3u   /* Tung, Mori 2019: similarity-preserving                                     */
#define KD_FEATURE_CC        4u   /* Peng et al. 2019: correlation congruence                                   */
#define KD_FEATURE_VID       5u   /* Ahn et al. 2019: variational information distillation                      */
#define KD_FEATURE_RKD       6u   /* Park et al. 2019: distances and angles between samples                     */
#define KD_FEATURE_PKT       7u   /* Passalis, Tefas 2018: probabilistic knowledge transfer                     */
#define KD_FEATURE_AB        8u   /* Heo et al. 2019: activation boundaries                                     */
#define KD_FEATURE_FT        9u   /* Kim et al. 2018: factor transfer                                           */
#define KD_FEATURE_FSP      10u   /* Yim et al. 2017: flow of solution procedure                                */
#define KD_FEATURE_NST      11u   /* Huang, Wang 2017: neuron selectivity transfer                              */
#define KD_FEATURE_KDSVD    12u   /* Lee et al. 2018: singular vectors                                          */
#define KD_FEATURE_CRD      13u   /* Tian et al. 2020: contrastive representation distillation                  */
#define KD_FEATURE_IRG      14u   /* Liu et al. 2019: instance relationship graph                               */
#define KD_FEATURE_OFD      15u   /* Heo et al. 2019: overhaul of feature distillation                          */
#define KD_FEATURE_REVIEWKD 16u   /* Chen et al. 2021: knowledge review                                         */
#define KD_FEATURE_SIMKD    17u   /* Chen et al. 2022: the teacher's classifier reused                          */
#define KD_FEATURE_CATKD    18u   /* Guo et al. 2023: class attention transfer                                  */
#define KD_FEATURE_MGD      19u   /* Yang et al. 2022: masked generative distillation                           */
#define KD_FEATURE_CWD      20u   /* Shu et al. 2021: channel-wise distillation                                 */
#define KD_FEATURE_PKD      21u   /* Cao et al. 2022: Pearson correlation of feature maps                       */
#define KD_FEATURE_SRRL     22u   /* Yang et al. 2021: softmax regression representation                        */
#define KD_FEATURE_ICKD     23u   /* Liu et al. 2021: inter-channel correlation                                 */
#define KD_FEATURE_SRD      24u   /* Miles, Mikolajczyk 2024: a linear projection and a log-sum distance         */
#define KD_FEATURE_VITKD    25u   /* Yang et al. 2022: features of vision transformers                          */
#define KD_FEATURE_SEMCKD   26u   /* Chen et al. 2021: layers matched by attention                              */
#define KD_FEATURE_TINYBERT 27u   /* Jiao et al. 2020: attention scores, hidden states, embeddings              */
#define KD_FEATURE_MINILM   28u   /* Wang et al. 2020: attention and value relations of the last layer          */
#define KD_FEATURE_MINILM2  29u   /* Wang et al. 2021: query, key and value relations                           */
#define KD_FEATURE_COSINE   30u   /* Sanh et al. 2019 (DistilBERT): cosine of hidden states                     */
#define KD_FEATURE_LD       31u   /* Zheng et al. 2022: localisation distributions of a detector                */
#define KD_FEATURE_FBKD     32u   /* Zhang, Ma 2021: attention-guided and non-local, the parts without a detector */

/* The shape of a tap without its batch: {height, width, channels}, {tokens, width}, {heads, tokens, tokens} or {width}. */
typedef struct kd_feature_shape {
    size_t rank;      /* 1 to 4 */
    size_t size[4];   /* the first `rank` of them count */
} kd_feature_shape;

/* Which loss.  The defaults of a method come from kd_loss_feature_desc_for; `alpha`, `beta`, `gamma` are its own numbers, as its
 * page says. */
typedef struct kd_loss_feature_desc {
    size_t      struct_size;
    uint32_t    method;             /* KD_FEATURE_*                                                                  */
    uint32_t    form;               /* KD_FORM_*; default CODE                                                        */
    float       weight;             /* on the whole loss; finite, >= 0                                                */
    float       alpha, beta, gamma; /* the method's own numbers, as its page says                                    */
    float       temperature;        /* > 0; where the method has one                                                  */
    uint32_t    adapters_external;  /* 1: the caller updates the adapters' block by other means than a kd_optimizer   */
    const kd_feature_shape *student; size_t student_count;   /* the taps, in the order they will be given; copied     */
    const kd_feature_shape *teacher; size_t teacher_count;   /* the same of the teacher                       */
    size_t      width;              /* of embeddings and inner layers, where the method has one; 0: its paper's       */
    size_t      classes;            /* where the method needs to know                                                 */
    size_t      samples;            /* of the data set: CRD's bank                                                    */
    size_t      negatives;          /* CRD; 0: its paper's, at most samples                                           */
    uint64_t    seed;               /* of adapters and of what is drawn; default 0                                    */
    uint64_t    warmup;             /* as in kd_loss_distill_desc                                                     */
    const float *teacher_weight, *teacher_bias;   /* the teacher's classifier [width of its last tap, classes], [classes], where
                                       the method uses it (SimKD, SRRL, CAT-KD); copied                               */
    const float *const *teacher_bn_weight;   /* OFD: for each teacher tap its batch norm's weight [channels]; copied   */
    const float *const *teacher_bn_bias;     /* OFD: and its bias [channels]; copied                                   */
} kd_loss_feature_desc;
/* The defaults of a method: its paper's numbers; no shapes.  KD_ERR_ARG: there is no such method; *desc is then zero. */
KD_API KD_MUST_USE kd_status kd_loss_feature_desc_for(kd_loss_feature_desc *desc, size_t struct_size, uint32_t method);

/* Make a loss and its adapters.  KD_ERR_ARG, KD_ERR_SHAPE name the method, the tap and both shapes; KD_ERR_VERSION, KD_ERR_NOMEM. */
KD_API KD_MUST_USE kd_status kd_loss_feature_create(kd_loss_feature **out, kd_context *ctx, const kd_loss_feature_desc *desc);
/* Free the loss and its adapters; NULL is fine. */
KD_API void kd_loss_feature_free(kd_loss_feature *loss);
/* The adapters (projections, paraphrasers, embeddings, generators): a model the loss owns, to be added to an optimizer; NULL if the
 * method has none.  A TRAIN tape refuses the loss (KD_ERR_STATE) until an optimizer holds it or it is frozen. */
KD_API kd_model *kd_loss_feature_adapters(kd_loss_feature *loss);
/* Another weight from the next batch on; one epoch has passed: as the functions of kd_loss_distill. */
KD_API KD_MUST_USE kd_status kd_loss_feature_set_weight(kd_loss_feature *loss, float weight);
KD_API KD_MUST_USE kd_status kd_loss_feature_advance(kd_loss_feature *loss);

/* A batch of taps.  Zero it, set struct_size, fill what you have; what the method does not use is ignored, what it needs and misses
 * is KD_ERR_ARG naming it. */
typedef struct kd_feature_inputs {
    size_t struct_size;
    kd_tensor *const *student;  size_t student_count;   /* f32 [n, shape..] each, as in the descriptor; gradients flow here */
    kd_tensor *const *teacher;  size_t teacher_count;   /* the same; constants */
    kd_tensor *labels;          /* i32 or i64 [n]                                       */
    kd_tensor *indices;         /* CRD: i32 or i64 [n], which samples of the data set    */
    kd_tensor *mask;            /* f32 [n, tokens of the first student tap]: 1 a token, 0 padding; NULL: no padding.  Some methods give
                                   it another meaning and width: their pages */
    kd_tensor *student_logits, *teacher_logits;   /* f32 [n, classes]: gradients flow to the student's */
} kd_feature_inputs;
/* The weighted loss of a batch, a scalar recorded on `tape`; never NULL; poison on error: KD_ERR_ARG, KD_ERR_SHAPE, KD_ERR_DTYPE,
 * KD_ERR_RANGE (an index), KD_ERR_STATE (adapters without an optimizer), KD_ERR_NOMEM, naming the method and the tap. */
KD_API kd_tensor *kd_loss_feature_apply(kd_loss_feature *loss, kd_tape *tape, const kd_feature_inputs *inputs);

/* The same on plain pointers, contiguous, with the descriptor's shapes.  Zero it, set struct_size, fill what you have. */
typedef struct kd_feature_batch {
    size_t              struct_size;
    size_t              rows;             /* n                                                                     */
    const float *const *student;          /* [student_count] of the descriptor: [n, shape..] each                  */
    const float *const *teacher;          /* [teacher_count]                                                       */
    float *const       *grad;             /* [student_count] or NULL; entries may be NULL: d loss / d student[i]   */
    const int32_t      *labels, *indices; /* [n] */
    const float        *mask;             /* [n, tokens] */
    const float        *student_logits, *teacher_logits;   /* [n, classes] of the descriptor */
    float              *grad_logits;      /* d loss / d student_logits; may be NULL */
    uint32_t            train;            /* 1: as on a TRAIN tape, gradients of adapters are added to their block; 0: as on an EVAL
                                             tape with the adapters frozen */
    uint32_t            reserved;
} kd_feature_batch;
/* Value and gradients of a batch: the bits of _apply and kd_backward.  *value and the gradients are written on success only. */
KD_API KD_MUST_USE kd_status kd_loss_feature_eval(kd_loss_feature *loss, const kd_feature_batch *batch, double *value);

/* ---- the list of methods --------------------------------------------------------------------------------------------------- */
#define KD_METHOD_DISTILL 1u   /* for kd_loss_distill */
#define KD_METHOD_FEATURE 2u   /* for kd_loss_feature */
/* A method. */
typedef struct kd_method_info {
    size_t      struct_size;
    const char *name;      /* "dkd"; static, as are the others   */
    uint32_t    kind;      /* KD_METHOD_*                         */
    uint32_t    method;    /* KD_DISTILL_* or KD_FEATURE_*        */
    const char *source;    /* authors, year, paper                */
    const char *formula;   /* what it computes, in one line       */
} kd_method_info;
/* How many methods there are; the i-th of them, and one by its name (KD_ERR_ARG names the nearest).  out->struct_size must be set. */
KD_API size_t kd_method_count(void);
KD_API KD_MUST_USE kd_status kd_method_at(size_t i, kd_method_info *out);
KD_API KD_MUST_USE kd_status kd_method_find(const char *name, kd_method_info *out);

/* ---- which number does this loss compute ------------------------------------------------------------------------------------ */
/* What a loss comes to on one batch, as text: each term's formula, value, weight, what it was divided by, rows, the norm of its gradient,
 * how often teacher and label agree; and a line "warning: .." for each of the usual mistakes.  `student_tape` and `teacher_tape`
 * (may be NULL) are the tapes the logits were made on: a teacher on a TRAIN tape is one of the mistakes.  Writes at most cap bytes with the
 * final 0 and returns the length of the whole text (as kd_tensor_format); 0 on error.  Changes no state. */
KD_API size_t kd_loss_explain(const kd_loss_distill *loss, const kd_distill_inputs *inputs, const kd_tape *student_tape,
                              const kd_tape *teacher_tape, char *out, size_t cap);
KD_API size_t kd_loss_feature_explain(kd_loss_feature *loss, const kd_feature_inputs *inputs, const kd_tape *student_tape,
                                      const kd_tape *teacher_tape, char *out, size_t cap);

KD_END_DECLS
#endif
