/* op_shape.c - the same numbers in another shape: contiguous, reshape, flatten, permute, slice, concat, pad, embedding, detach.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"

/* dx (=|+=) dy, n floats. */
static void pass(kd_tape *tape, kd_tensor *x, const float *dy, size_t n)
{
    bool accumulate;
    float *dx = kd__grad_open(tape, x, &accumulate);
    const ptrdiff_t one = 1;
    if (!dx) return;
    if (accumulate) kd__strided_add(tape->ctx, 1, &n, dx, &one, dy, &one);
    else kd__strided_copy(tape->ctx, sizeof *dx, 1, &n, dx, &one, dy, &one);
}

/* ---- contiguous: y[i] = x[i], any strides of x ----------------------------------------------------------- */
kd_tensor *kd__contiguous(kd_tape *tape, kd_tensor *x)
{
    if (kd__tensor_contiguous(x)) return x;
    /* Not a call of the user's: it takes its number from the op it works for. */
    kd__op_scope op = { .tape = tape, .id = KD__OP_contiguous, .name = tape->op_name, .number = tape->op_number,
                        .in = { x }, .in_count = 1 };
    op.recording = tape->mode != KD_TAPE_INFER && kd__wants_grad(tape, x);
    kd_tensor *y = kd__tape_new(tape, x->dtype, x->rank, x->shape);
    if (!y) return kd__poison(tape);
    kd__tensor_gather(x, y->data);
    op.out[op.out_count++] = y;
    return kd__op_end(&op);
}

void kd__backward_contiguous(kd_tape *tape, kd__node *node)
{
    pass(tape, node->in[0], kd__grad_out(tape, node->out[0]), node->out[0]->count);
}

/* ---- reshape, flatten: y shares x's memory ----------------------------------------------------------------- */
kd_tensor *kd_reshape(kd_tape *tape, kd_tensor *x, size_t rank, const size_t *shape)
{
    kd__op_scope op;
    size_t sizes[KD_MAX_RANK];
    if (!kd__op_begin(&op, tape, KD__OP_reshape, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    kd_status status = kd__shape_infer(__func__, op.in[0]->count, rank, shape, sizes);
    if (status != KD_OK) return kd__tape_fail(tape, status);
    kd__op_output_view(&op, op.in[0], rank, sizes);
    return kd__op_end(&op);
}

kd_tensor *kd_flatten(kd_tape *tape, kd_tensor *x)
{
    kd__op_scope op;
    if (!kd__op_begin_as(&op, tape, KD__OP_reshape, __func__, (kd_tensor *[]){ x }, 1, 0, 0)) return kd__poison(tape);
    x = op.in[0];
    if (x->rank == 0) return kd__op_fail(&op, KD_ERR_SHAPE, "x [] has no axis to keep");
    size_t sizes[2] = { x->shape[0] };
    if (!kd__shape_count(x->rank - 1u, x->shape + 1, &sizes[1]))
        return kd__op_fail(&op, KD_ERR_OVERFLOW, "x %S: the sizes of a row do not fit", (size_t)x->rank, x->shape);
    kd__op_output_view(&op, x, 2, sizes);
    return kd__op_end(&op);
}

void kd__backward_reshape(kd_tape *tape, kd__node *node)
{
    pass(tape, node->in[0], kd__grad_out(tape, node->out[0]), node->out[0]->count);
}
