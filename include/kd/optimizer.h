/* kd/optimizer.h - kd_optimizer, learning-rate schedules, gradient clipping, averaged weights.
 * SPDX-License-Identifier: MIT */
#ifndef KD_OPTIMIZER_H
#define KD_OPTIMIZER_H
#include "model.h"
KD_BEGIN_DECLS

/* Updates the weights of its models.  One thread at a time. */
typedef struct kd_optimizer kd_optimizer;

/* PyTorch's formulas, g the gradient, w a weight, t the step from 1:
 *   SGD    g += weight_decay w;  v = t == 1 ? g : momentum v + (1 - dampening) g;  w -= lr (nesterov ? g + momentum v : v)
 *   ADAM   g += weight_decay w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
 *          w -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
 *   ADAMW  w -= lr weight_decay w, then as ADAM without decay (Loshchilov, Hutter 2019) */
#define KD_OPT_SGD   1u
#define KD_OPT_ADAM  2u
#define KD_OPT_ADAMW 3u

/* Which formula, with which numbers. */
typedef struct kd_optimizer_desc {
    size_t   struct_size;
    uint32_t method;         /* KD_OPT_*; default SGD                                         */
    float    lr;             /* >= 0; default 0.1 for SGD; set it                             */
    float    momentum;       /* SGD; [0, 1); default 0.9                                      */
    float    dampening;      /* SGD; default 0                                                */
    uint32_t nesterov;       /* SGD; needs momentum > 0 and dampening 0; default 0            */
    float    beta1, beta2;   /* default 0.9, 0.999                                            */
    float    eps;            /* > 0; default 1e-8                                             */
    float    weight_decay;   /* >= 0; default 0                                               */
    float    max_grad_norm;  /* > 0: scale all gradients by min(1, max / (norm + 1e-6)) before the step; 0: off */
} kd_optimizer_desc;
/* Fill `desc` with the defaults; struct_size is sizeof *desc. */
KD_API void kd_optimizer_desc_init(kd_optimizer_desc *desc, size_t struct_size);
/* Make an optimizer without models.  desc is copied; NULL: all defaults.  KD_ERR_ARG names the field; KD_ERR_NOMEM. */
KD_API KD_MUST_USE kd_status kd_optimizer_create(kd_optimizer **out, kd_context *ctx, const kd_optimizer_desc *desc);
/* Train `model` (finished; it must outlive the optimizer).  Several may be added, before the first step. */
KD_API KD_MUST_USE kd_status kd_optimizer_add(kd_optimizer *opt, kd_model *model);
/* Parameters whose name matches the glob get lr * lr_scale and this decay instead of the descriptor's.  Later groups win.
 * Applies to models added before and after; before the first step.  KD_ERR_ARG if nothing added so far matches. */
KD_API KD_MUST_USE kd_status kd_optimizer_group(kd_optimizer *opt, const char *pattern, float lr_scale, float weight_decay);

/* One update of every model that is not frozen, in one pass over each contiguous block, then the gradients are zero.
 * KD_ERR_STATE when no model was added; KD_ERR_NOMEM (first step only: the moments); KD_ERR_CANCELLED.  On error nothing
 * changed. */
KD_API KD_MUST_USE kd_status kd_optimizer_step(kd_optimizer *opt);
/* Free the optimizer, not its models.  NULL is fine. */
KD_API void kd_optimizer_free(kd_optimizer *opt);

/* Steps taken. */
KD_API uint64_t kd_optimizer_steps(const kd_optimizer *opt);
/* The global norm of the gradients at the last step; NaN before, or with clipping off. */
KD_API double kd_optimizer_grad_norm(const kd_optimizer *opt);
/* The learning rate of the next step, schedule included. */
KD_API double kd_optimizer_lr(const kd_optimizer *opt);
/* Change the descriptor's lr, a schedule's factor left alone.  lr >= 0, finite, else KD_ERR_ARG. */
KD_API KD_MUST_USE kd_status kd_optimizer_set_lr(kd_optimizer *opt, float lr);

/* ---- schedules: a factor on lr as a function of the step s = 0, 1, .. ------------------------------------------------------
 *   CONSTANT    1
 *   STEP        gamma^floor(s / period)
 *   MULTI_STEP  gamma^(milestones <= s)
 *   COSINE      final + (1 - final) (1 + cos(pi s / total)) / 2, `final` from s = total on
 *   LINEAR      1 - (1 - final) s / total, `final` from s = total on
 * In front of any: for s < warmup_steps the factor is warmup_start + (1 - warmup_start) s / warmup_steps, and the schedule
 * itself then counts from 0 after the warm-up. */
/* Kinds of schedules; their formulas are above. */
#define KD_SCHEDULE_CONSTANT   1u
#define KD_SCHEDULE_STEP       2u
#define KD_SCHEDULE_MULTI_STEP 3u
#define KD_SCHEDULE_COSINE     4u
#define KD_SCHEDULE_LINEAR     5u
/* A schedule. */
typedef struct kd_schedule_desc {
    size_t          struct_size;
    uint32_t        kind;              /* KD_SCHEDULE_*; default CONSTANT  */
    float           gamma;             /* STEP, MULTI_STEP; default 0.1    */
    uint64_t        period;            /* STEP; >= 1                       */
    uint64_t        total_steps;       /* COSINE, LINEAR: after the warm-up */
    float           final_factor;      /* default 0                        */
    float           warmup_start;      /* default 0                        */
    uint64_t        warmup_steps;      /* default 0                        */
    const uint64_t *milestones;        /* MULTI_STEP; ascending; copied    */
    size_t          milestone_count;   /* at most 64                       */
} kd_schedule_desc;
/* Fill `desc` with the defaults; struct_size is sizeof *desc. */
KD_API void kd_schedule_desc_init(kd_schedule_desc *desc, size_t struct_size);
/* Let `desc` (copied) set the learning rate from the next step on.  KD_ERR_ARG names the field. */
KD_API KD_MUST_USE kd_status kd_optimizer_set_schedule(kd_optimizer *opt, const kd_schedule_desc *desc);
/* The factor by itself; NaN for a bad descriptor. */
KD_API double kd_schedule_factor(const kd_schedule_desc *desc, uint64_t step);

/* sqrt of the sum of squares of all gradients of the models (accumulated in double); then every gradient is scaled by
 * min(1, max_norm / (norm + 1e-6)).  *norm (may be NULL) is the norm before. For loops of your own; kd_optimizer_step does it
 * when max_grad_norm is set. */
KD_API KD_MUST_USE kd_status kd_clip_grad_norm(kd_model *const *models, size_t count, double max_norm, double *norm);

/* ---- exponential moving average of a model's weights and buffers: e = decay e + (1 - decay) w --------------------------------- */
/* The averages of one model. */
typedef struct kd_ema kd_ema;
/* Starts at the model's present weights.  decay in [0, 1).  `model` must outlive it. */
KD_API KD_MUST_USE kd_status kd_ema_create(kd_ema **out, kd_model *model, double decay);
/* Move the average toward the model's present weights: after each step. */
KD_API KD_MUST_USE kd_status kd_ema_update(kd_ema *ema);
/* Exchange the average and the model's weights: swap, evaluate or save, swap back. */
KD_API KD_MUST_USE kd_status kd_ema_swap(kd_ema *ema);
/* Free the averages, not the model.  NULL is fine. */
KD_API void kd_ema_free(kd_ema *ema);

KD_END_DECLS
#endif
