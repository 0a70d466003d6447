/* kern_distill.c - the distillation loss of rows: which path.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "kd/distill.h"
#include "simd/simd.h"

void KD_K(distill_general_f32)(const kd__distill_args *args);

void KD_K(distill_f32)(const kd__distill_args *args)
{
    KD_K(distill_general_f32)(args);
}
