/* loss.h - the inside of kd_loss_distill, and what a method is.
 * SPDX-License-Identifier: MIT */
#ifndef KD__LOSS_H
#define KD__LOSS_H
#include "base/base.h"
#include "kd/distill.h"
#include "kernels/kernels.h"

/* A method: how the soft term of a row is computed.  Labels, weights, counting and reduction are the same for all. */
typedef struct kd__method {
    /* Refuse a descriptor this method cannot serve; its own fields only. */
    kd_status (*check)(const kd_loss_distill_desc *desc);
    /* The factor on the soft term: T^2 for softened outputs. */
    double (*scale)(const kd_loss_distill_desc *desc);
    bool hard_teacher;   /* soft = CE with the teacher's argmax, at temperature 1 */
} kd__method;
#define FEATURE(id, name, source)
#define METHOD(id, name, source) extern const kd__method kd__method_##id;
#include "distill/methods.def"
#undef METHOD
#undef FEATURE

struct kd_loss_distill {
    kd_context          *ctx;
    kd_loss_distill_desc desc;           /* class_weights points to our copy */
    float               *class_weights;
    const kd__method    *method;
};

/* Check `desc` for `function` and choose its method. */
kd_status kd__loss_check(const kd_loss_distill_desc *desc, const char *function, const kd__method **method);

/* A batch through a loss: arguments checked, rows counted, gradient and values computed.  ctx gives threads and scratch.  `terms` is
 * a whole kd_distill_terms; nothing is written on error. */
kd_status kd__loss_run(const kd_loss_distill *loss, kd_context *ctx, const char *function, const kd_distill_batch *batch,
                       kd_distill_terms *terms);
#endif
