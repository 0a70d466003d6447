/* checkpoint.h - the state of one object as bytes, for each kind of object that a checkpoint holds.
 * SPDX-License-Identifier: MIT */
#ifndef KD__CHECKPOINT_H
#define KD__CHECKPOINT_H
#include "io/io_internal.h"

/* As kd__optimizer_state_* in optim/optim.h: size and write give the state as it is now, little-endian; check says
 * whether a state may be read and allocates what that needs; read, after it, cannot fail. */
size_t    kd__model_state_size(const kd_model *model);
void      kd__model_state_write(const kd_model *model, void *out);
kd_status kd__model_state_check(kd_model *model, const void *in, size_t bytes);
void      kd__model_state_read(kd_model *model, const void *in);
#endif
