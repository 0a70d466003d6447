/* eltwise.h - elementwise work in pieces on the threads, shared by the op files.
 * SPDX-License-Identifier: MIT */
#ifndef KD__ELTWISE_H
#define KD__ELTWISE_H
#include "autograd/tape_internal.h"

#define KD__GRAIN 32768u   /* elements one thread takes at a time; small work stays on the caller */

/* Rows of n elements that make a piece of about KD__GRAIN. */
static inline size_t kd__row_grain(size_t n) { return KD_MAX(KD__GRAIN / KD_MAX(n, 1u), 1u); }

/* The op `id` of one input: y = f(x), f a KD_UNARY_*. */
kd_tensor *kd__unary(kd_tape *tape, kd__op_id id, uint32_t f, kd_tensor *x);
/* The same inside an op that has begun, with parameters. */
kd_tensor *kd__unary_run(kd__op_scope *op, uint32_t f, float a, float b);
/* Its backward: dx (=, +=) dy f'. */
void kd__unary_backward(kd_tape *tape, kd__node *node, uint32_t f);

/* ---- broadcast.c ------------------------------------------------------------------------------------- */
/* How two contiguous operands meet: axes of size 1 dropped, neighbours that both operands step through evenly
 * merged.  Steps count elements; 0 repeats. */
typedef struct kd__broadcast {
    size_t rank, count;              /* rank >= 1; count of the result */
    size_t shape[KD_MAX_RANK];
    size_t step[2][KD_MAX_RANK];     /* of a, of b; the last is 0 or 1 */
} kd__broadcast;
/* Fill out_rank, out_shape (NumPy's rule) and the plan; false when the shapes do not go together. */
bool kd__broadcast_plan(kd__broadcast *plan, const kd_tensor *a, const kd_tensor *b, size_t *out_rank, size_t *out_shape);
/* out = a op b, op a KD_BINARY_*. */
void kd__binary(kd_context *ctx, const kd__broadcast *plan, uint32_t op, const float *a, const float *b, float *out);
/* grad (=, +=) d out / d operand `which`, times dy, summed over what that operand repeats: in pieces fixed by the
 * shape, joined in double in order. */
kd_status kd__binary_backward(kd_context *ctx, const kd__broadcast *plan, uint32_t op, int which, const float *dy, const float *a,
                              const float *b, float *grad, bool accumulate);

/* ---- reduce.c ------------------------------------------------------------------------------------------ */
/* out (=, +=) scale * sum of x over the axes whose bit is set; out has the other axes.  Along a row: in double,
 * pieces of 65536; down columns: blocks of 64 rows in single, 1024 rows joined in double.  Nothing depends on
 * the threads. */
kd_status kd__reduce_sum(kd_context *ctx, size_t rank, const size_t *shape, uint32_t axes, const float *x, double scale,
                         float *out, bool accumulate);
/* out[j] (=, +=) scale * sum over k of parts[k * stride + j], in double, k in order. */
void kd__join_parts(kd_context *ctx, const float *parts, size_t count, size_t stride, size_t n, double scale, float *out,
                    bool accumulate);
#endif
