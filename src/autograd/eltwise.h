/* eltwise.h - elementwise work in pieces on the threads, shared by the op files.
 * SPDX-License-Identifier: MIT */
#ifndef KD__ELTWISE_H
#define KD__ELTWISE_H
#include "autograd/tape_internal.h"

#define KD__GRAIN 32768u   /* elements one thread takes at a time; small work stays on the caller */

/* The op `id` of one input: y = f(x), f a KD_UNARY_*. */
kd_tensor *kd__unary(kd_tape *tape, kd__op_id id, uint32_t f, kd_tensor *x);
/* The same inside an op that has begun, with parameters. */
kd_tensor *kd__unary_run(kd__op_scope *op, uint32_t f, float a, float b);
/* Its backward: dx (=, +=) dy f'. */
void kd__unary_backward(kd_tape *tape, kd__node *node, uint32_t f);
#endif
