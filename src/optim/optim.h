/* optim.h - the inside of optimizers, schedules and averages; their states for checkpoints.
 * SPDX-License-Identifier: MIT */
#ifndef KD__OPTIM_H
#define KD__OPTIM_H
#include "base/base.h"
#include "nn/nn.h"
#include "kd/optimizer.h"

/* ---- schedule.c -------------------------------------------------------------------------------- */
#define KD__MAX_MILESTONES 64u
typedef struct kd__schedule {
    kd_schedule_desc desc;   /* its milestones are here: */
    uint64_t         milestones[KD__MAX_MILESTONES];
} kd__schedule;
/* A checked copy of desc (NULL: constant); on error *out is as before. */
kd_status kd__schedule_read(kd__schedule *out, const kd_schedule_desc *desc, const char *function);
double    kd__schedule_factor(const kd__schedule *schedule, uint64_t step);

/* ---- clip.c -------------------------------------------------------------------------------------- */
/* Sums of squares are taken over chunks of this many floats, and the chunks added in order. */
#define KD__NORM_CHUNK 16384u
/* *sum += the sum of the squares of x.  `partial` has room for kd__norm_chunks(n) doubles. */
size_t kd__norm_chunks(size_t n);
void   kd__sum_squares(kd_context *ctx, const float *x, size_t n, double *partial, double *sum);
/* min(1, max_norm / (norm + 1e-6)); NaN for a NaN. */
float  kd__clip_scale(double norm, double max_norm);

/* ---- optimizer.c ----------------------------------------------------------------------------------- */
/* Neighbouring parameters that are treated alike: floats [begin, end) of a model's block, up to the next one's begin. */
typedef struct kd__segment {
    size_t begin, end;
    float  lr_scale, weight_decay;
} kd__segment;

typedef struct kd__member {
    kd_model    *model;
    uint64_t     steps;                /* updates of this model: fewer than the optimizer's if it was frozen */
    kd__segment *segments;
    size_t       segment_count;
    float       *moments[2];           /* SGD: velocity; Adam: first and second; each like the parameter block */
} kd__member;

typedef struct kd__group {
    char *pattern;
    float lr_scale, weight_decay;
} kd__group;

struct kd_optimizer {
    kd_context       *ctx;
    kd_optimizer_desc desc;
    kd__schedule      schedule;
    float             lr;
    uint64_t          steps;
    double            grad_norm;
    kd__member       *members;
    size_t            member_count, member_capacity;
    kd__group        *groups;
    size_t            group_count, group_capacity;
    bool              prepared;        /* segments and moments are there */
    double           *partial;         /* of the norm */
};

/* Moments a method keeps for each weight: 0, 1 or 2. */
size_t kd__optimizer_moments(const kd_optimizer *opt);
/* Allocate what steps need.  KD_ERR_NOMEM changes nothing. */
kd_status kd__optimizer_prepare(kd_optimizer *opt);

/* ---- ema.c -------------------------------------------------------------------------------------------- */
struct kd_ema {
    kd_context *ctx;
    kd_model   *model;
    double      decay;
    float      *weights, *buffers;     /* the average; the model's own while swapped */
    size_t      weight_floats, buffer_floats;
    bool        swapped;
};

/* ---- states for checkpoints (optimizer_state.c, ema.c) ----------------------------------------------------
 * size and write: the state as it is now, little-endian.  check: may this state be read here?  It allocates what reading needs,
 * changes nothing that shows; the text names what differs.  read, after a check that passed, cannot fail. */
size_t    kd__optimizer_state_size(const kd_optimizer *opt);
void      kd__optimizer_state_write(const kd_optimizer *opt, void *out);
kd_status kd__optimizer_state_check(kd_optimizer *opt, const void *in, size_t bytes);
void      kd__optimizer_state_read(kd_optimizer *opt, const void *in);
size_t    kd__ema_state_size(const kd_ema *ema);
void      kd__ema_state_write(const kd_ema *ema, void *out);
kd_status kd__ema_state_check(kd_ema *ema, const void *in, size_t bytes);
void      kd__ema_state_read(kd_ema *ema, const void *in);
#endif
