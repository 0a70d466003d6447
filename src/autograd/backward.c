/* backward.c - gradients: the tape walked in reverse.
 *
 * The gradient of an intermediate result is made when the first consumer writes it and its memory is used again once its
 * own op has been undone, unless kd_requires_grad asked to keep it.
 * SPDX-License-Identifier: MIT */
#include "autograd/after.h"

bool kd__wants_grad(const kd_tape *tape, const kd_tensor *x)
{
    return x && x->requires_grad && (x->owner != KD__OWNER_TAPE || x->tape == tape);
}

static float *leaf_grad(const kd_tape *tape, const kd_tensor *x)
{
    for (size_t i = 0; i < tape->leaf_count; i++)
        if (tape->leaves[i].x == x) return tape->leaves[i].grad;
    return NULL;
}

float *kd__grad_open(kd_tape *tape, kd_tensor *x, bool *accumulate)
{
    *accumulate = true;
    if (!kd__tape_ok(tape) || !kd__wants_grad(tape, x)) return NULL;
    if (x->is_parameter) return x->grad;
    float *grad = x->owner == KD__OWNER_TAPE ? x->grad : leaf_grad(tape, x);
    if (grad) return grad;

    *accumulate = false;
    const size_t bytes = x->count * sizeof *grad;
    if (x->owner == KD__OWNER_TAPE) {
        size_t block = kd__block_new(tape, bytes);
        if (block != KD__NO_BLOCK) {
            x->grad_block = block;
            return x->grad = (float *)(void *)tape->blocks[block].ptr;
        }
    } else if (kd__grow(tape->ctx, &tape->leaves, &tape->leaf_capacity, tape->leaf_count + 1, sizeof *tape->leaves) == KD_OK) {
        grad = kd__tape_alloc(tape, bytes);
        if (grad) tape->leaves[tape->leaf_count++] = (kd__leaf){ x, grad };
        return grad;
    }
    kd__tape_fail(tape, kd__fail(KD_ERR_NOMEM, "out of memory for the gradient of %S", (size_t)x->rank, x->shape));
    return NULL;
}

bool kd__grad_give(kd_tape *tape, kd_tensor *x, float *grad)
{
    if (!kd__tape_ok(tape) || !kd__wants_grad(tape, x) || x->owner != KD__OWNER_TAPE || x->grad) return false;
    x->grad = grad;
    x->grad_block = KD__NO_BLOCK;
    return true;
}

float *kd__grad_take(kd_tape *tape, kd_tensor *x, kd_tensor *y)
{
    if (y->retain_grad || !kd__grad_give(tape, x, y->grad)) return NULL;
    x->grad_block = y->grad_block;
    y->grad = NULL;
    y->grad_block = KD__NO_BLOCK;
    return x->grad;
}

float *kd__grad_own(kd_tape *tape, kd_tensor *y)
{
    if (!y->retain_grad) return y->grad;
    float *own = kd__tape_alloc(tape, y->count * sizeof *own);
    return own ? memcpy(own, y->grad, y->count * sizeof *own) : NULL;
}

const float *kd__grad_out(const kd_tape *tape, const kd_tensor *y)
{
    return y->owner == KD__OWNER_TAPE && y->tape == tape ? y->grad : NULL;
}

const float *kd_grad(const kd_tape *tape, const kd_tensor *x)
{
    if (!tape) {
        kd__fail(KD_ERR_ARG, "%s: tape is NULL", __func__);
        return NULL;
    }
    if (kd__tensor_check(x, __func__, "x") != KD_OK) return NULL;
    if (x->owner == KD__OWNER_TAPE) return x->tape == tape && x->retain_grad ? x->grad : NULL;
    return x->is_parameter ? NULL : leaf_grad(tape, x);
}

/* Constants from other tapes must still be there: their values may be needed. */
static kd_status check_constants(const kd_tape *tape)
{
    for (size_t n = 0; n < tape->node_count; n++) {
        const kd__node *node = &tape->nodes[n];
        for (size_t i = 0; i < node->in_count; i++) {
            const kd_tensor *x = node->in[i];
            if (x && x->tape && x->tape != tape && !kd__tensor_alive(x))
                return kd__fail(KD_ERR_STATE, "kd_backward: input %zu of %s (op %llu) was made before kd_tape_reset of its tape",
                                i + 1, kd__op_name(node->id), (unsigned long long)node->number);
        }
    }
    return KD_OK;
}

static void undo(kd_tape *tape, kd__node *node)
{
    bool reached = false;
    for (size_t i = 0; i < node->out_count; i++) reached |= node->out[i]->grad != NULL;
    if (!reached) {
        kd__node_drop(tape, node);
        return;
    }
    tape->op_name = kd__op_name(node->id);
    tape->op_number = node->number;
    if (kd_context_cancelled(tape->ctx)) {
        kd__tape_fail(tape, kd__fail(KD_ERR_CANCELLED, "cancelled"));
        return;
    }
    kd__node_ready(tape, node);
    if (kd__tape_ok(tape)) kd__op_backward(tape, node);
    for (size_t i = 0; i < node->out_count; i++) {
        kd_tensor *y = node->out[i];
        if (!y->grad || y->retain_grad) continue;
        y->grad = NULL;
        if (y->grad_block != KD__NO_BLOCK) kd__block_drop(tape, y->grad_block);
        y->grad_block = KD__NO_BLOCK;
    }
    kd__node_drop(tape, node);
}

kd_status kd_backward(kd_tape *tape, kd_tensor *loss)
{
    KD_NEED(tape);
    if (!kd__tape_ok(tape)) return kd__fail(tape->state.status, "%s", tape->state.text);
    KD_TRY(kd__tensor_check(loss, __func__, "loss"));
    if (loss->owner != KD__OWNER_TAPE || loss->tape != tape)
        return kd__fail(KD_ERR_ARG, "%s: loss was not made on this tape", __func__);
    if (loss->dtype != KD_F32 || loss->count != 1)
        return kd__fail(KD_ERR_ARG, "%s: loss is %s %S, not one f32", __func__, kd_dtype_name(loss->dtype), (size_t)loss->rank,
                        loss->shape);
    if (tape->mode == KD_TAPE_INFER) return kd__fail(KD_ERR_STATE, "%s: a KD_TAPE_INFER tape records nothing", __func__);
    if (tape->backward_done) return kd__fail(KD_ERR_STATE, "%s: called twice since kd_tape_reset", __func__);
    if (!loss->requires_grad)
        return kd__fail(KD_ERR_ARG, "%s: loss depends on nothing that asks for a gradient (kd_requires_grad, or a model that is "
                        "not frozen)", __func__);
    KD_TRY(check_constants(tape));

    KD__FP_SCOPE;
    tape->in_backward = tape->backward_done = true;
    tape->op_name = __func__;
    tape->op_number = 0;
    bool accumulate;
    float *one = kd__grad_open(tape, loss, &accumulate);
    if (one) *one = 1.0f;
    for (size_t n = tape->node_count; n-- > 0 && kd__tape_ok(tape);) undo(tape, &tape->nodes[n]);
    tape->in_backward = false;
    return kd__tape_ok(tape) ? KD_OK : kd__fail(tape->state.status, "%s", tape->state.text);
}
