/* zoo.c - what the named architectures share.
 * SPDX-License-Identifier: MIT */
#include "zoo/zoo.h"

kd_status kd__zoo_finish(kd_model **out, kd_model *model, uint64_t seed)
{
    kd_status status = kd_model_finish(model, seed);
    if (status == KD_OK) *out = model;
    else kd_model_free(model);
    return status;
}
