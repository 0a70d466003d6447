/* distill_run.h - the distillation kernel over a whole batch.
 * SPDX-License-Identifier: MIT */
#ifndef KD__DISTILL_RUN_H
#define KD__DISTILL_RUN_H
#include "base/base.h"
#include "kernels/kernels.h"

/* args->rows rows through the context's kernel and threads; *masked: how many were -inf throughout.  Same bits for any number of
 * threads.  Fills in what args marks "from _run".  KD_ERR_OVERFLOW, KD_ERR_NOMEM, texts without a function's name: nothing was
 * written. */
kd_status kd__distill_run(kd_context *ctx, const kd__distill_args *args, size_t *masked);
#endif
