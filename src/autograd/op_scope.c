/* op_scope.c - the frame of every op: inputs checked, results made, the node recorded.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"
#include <stdarg.h>

enum { MAX_OPERANDS = 16 };

bool kd__op_begin(kd__op_scope *op, kd_tape *tape, kd__op_id id, kd_tensor *const *inputs, size_t count)
{
    return kd__op_begin_as(op, tape, id, kd__op_name(id), inputs, count, 0, 0);
}

bool kd__op_begin_masks(kd__op_scope *op, kd_tape *tape, kd__op_id id, kd_tensor *const *inputs, size_t count,
                        uint32_t optional_mask, uint32_t any_dtype_mask)
{
    return kd__op_begin_as(op, tape, id, kd__op_name(id), inputs, count, optional_mask, any_dtype_mask);
}

bool kd__op_begin_as(kd__op_scope *op, kd_tape *tape, kd__op_id id, const char *name, kd_tensor *const *inputs, size_t count,
                     uint32_t optional_mask, uint32_t any_dtype_mask)
{
    *op = (kd__op_scope){ .tape = tape, .id = id, .name = name };
    if (!tape) {
        kd__fail(KD_ERR_ARG, "%s: tape is NULL", name);
        return false;
    }
    if (!kd__tape_ok(tape)) return false;
    if (KD_UNLIKELY(kd__fp_control() != KD__FP_DEFAULT)) {
        tape->fp_host = kd__fp_enter();
        op->fp_changed = tape->fp_changed = true;
    }
    op->outer_name = tape->op_name;
    op->outer_number = tape->op_number;
    tape->op_name = name;
    tape->op_number = op->number = ++tape->op_count;
    if (kd_context_cancelled(tape->ctx)) {
        kd__tape_fail(tape, kd__fail(KD_ERR_CANCELLED, "%s: cancelled", name));
        return false;
    }
    if (count > MAX_OPERANDS || (count && !inputs)) {
        kd__op_fail(op, KD_ERR_ARG, "%zu inputs; it takes at most %d", count, MAX_OPERANDS);
        return false;
    }
    op->in_count = count;
    for (size_t i = 0; i < count; i++) {
        kd_tensor *x = op->in[i] = inputs[i];
        if (!x && optional_mask >> i & 1) continue;
        if (!kd__tensor_alive(x)) {
            char what[24];
            kd__format(what, sizeof what, "input %zu", i + 1);
            kd__input_fail(tape, x, name, what);
            return false;
        }
        if (x->dtype != KD_F32 && !(any_dtype_mask >> i & 1)) {
            kd__op_fail(op, KD_ERR_DTYPE, "input %zu is %s, not f32", i + 1, kd_dtype_name(x->dtype));
            return false;
        }
        if (!kd__tensor_contiguous(x)) {
            size_t same = 0;
            while (inputs[same] != x) same++;
            op->in[i] = same < i ? op->in[same] : kd__contiguous(tape, x);
            if (!kd__tape_ok(tape)) return false;
            op->copied |= (same == i ? 1u : 0u) << i;
        }
        op->recording |= kd__wants_grad(tape, op->in[i]);
    }
    op->recording &= tape->mode != KD_TAPE_INFER && !tape->backward_done;
    return true;
}

static kd_tensor *add_output(kd__op_scope *op, kd_tensor *y)
{
    if (y) op->out[op->out_count++] = y;
    return y;
}

kd_tensor *kd__op_output(kd__op_scope *op, size_t rank, const size_t *shape)
{
    return add_output(op, kd__tape_new(op->tape, KD_F32, rank, shape));
}

kd_tensor *kd__op_output_view(kd__op_scope *op, kd_tensor *x, size_t offset, size_t rank, const size_t *shape)
{
    kd_tape *tape = op->tape;
    if (!kd__tape_ok(tape)) return NULL;
    unsigned char *data = (unsigned char *)x->data + offset * kd_dtype_size(x->dtype);
    if (x->tape && x->tape != tape) {   /* its memory may go before ours does */
        kd_tensor *copy = kd__tape_new(tape, x->dtype, rank, shape);
        if (copy) memcpy(copy->data, data, copy->count * kd_dtype_size(x->dtype));
        return add_output(op, copy);
    }
    kd_tensor header;
    kd_status status = kd__tensor_init(&header, op->name, x->dtype, rank, shape, data);
    kd_tensor *y = status == KD_OK ? kd__header_new(tape) : NULL;
    if (!y) {
        kd__tape_fail(tape, status == KD_OK ? kd__fail(KD_ERR_NOMEM, "%s: out of memory", op->name) : status);
        return NULL;
    }
    *y = header;
    y->owner = KD__OWNER_TAPE;
    y->ctx = tape->ctx;
    y->tape = tape;
    y->generation = tape->state.generation;
    if (x->owner == KD__OWNER_TAPE && x->block != KD__NO_BLOCK) {
        y->block = x->block;
        tape->blocks[x->block].references++;
    }
    return add_output(op, y);
}

void *kd__op_save(kd__op_scope *op, size_t bytes)
{
    op->saved = kd__tape_alloc(op->tape, bytes);
    return op->saved ? memset(op->saved, 0, bytes) : NULL;
}

kd_tensor *kd__op_fail(kd__op_scope *op, kd_status status, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    kd__vformat(text, sizeof text, format, args);
    va_end(args);
    if (!op->tape) return kd__poison(NULL);
    op->tape->op_name = op->name;   /* ops called inside this one left theirs */
    op->tape->op_number = op->number;
    return kd__tape_fail(op->tape, kd__fail(status, "%s: %s", op->name, text));
}

/* KD_TAPE_CHECK_FINITE: name the first element that is not. */
static void check_finite(kd__op_scope *op)
{
    for (size_t o = 0; o < op->out_count; o++) {
        const kd_tensor *y = op->out[o];
        if (y->dtype != KD_F32) continue;
        size_t first, index[KD_MAX_RANK];
        op->tape->ctx->kernels->first_nonfinite_f32(&first, y->data, y->count);
        if (first == y->count) continue;
        kd__index_of(y->rank, y->shape, first, index);
        kd__op_fail(op, KD_ERR_NUMERIC, "element %S of the result %S is %g", (size_t)y->rank, index, (size_t)y->rank, y->shape,
                    (double)((const float *)y->data)[first]);
        return;
    }
}

static void record(kd__op_scope *op)
{
    kd_tape *tape = op->tape;
    const size_t slots = op->in_count + op->out_count;
    kd_tensor **operands = kd__tape_alloc(tape, slots * sizeof *operands);
    if (!operands) return;
    if (kd__grow(tape->ctx, &tape->nodes, &tape->node_capacity, tape->node_count + 1, sizeof *tape->nodes) != KD_OK) {
        kd__op_fail(op, KD_ERR_NOMEM, "out of memory");
        return;
    }
    memcpy(operands, op->in, op->in_count * sizeof *operands);
    memcpy(operands + op->in_count, op->out, op->out_count * sizeof *operands);
    for (size_t i = 0; i < op->out_count; i++) op->out[i]->requires_grad = true;
    tape->nodes[tape->node_count++] = (kd__node){
        .id = op->id, .in_count = (uint16_t)op->in_count, .out_count = (uint16_t)op->out_count, .number = op->number,
        .unread_in = op->unread_in, .unread_out = op->unread_out, .in = operands, .out = operands + op->in_count, .saved = op->saved
    };
    kd__node_hold(tape, &tape->nodes[tape->node_count - 1]);
    if (op->again && !op->in[0]->maker) op->out[0]->maker = tape->node_count;
}

kd_tensor *kd__op_end(kd__op_scope *op)
{
    kd_tape *tape = op->tape;
    if (kd__tape_ok(tape) && tape->check_finite) check_finite(op);
    if (kd__tape_ok(tape) && op->recording) record(op);
    const bool shown = op->recording && op->id == KD__OP_custom;   /* its backward is the caller's, and sees its inputs */
    for (size_t i = 0; i < op->in_count; i++)
        if (op->copied >> i & 1 && !shown) kd__tape_release(tape, op->in[i]);
    tape->op_name = op->outer_name;
    tape->op_number = op->outer_number;
    if (op->fp_changed) kd__tape_fp_back(tape);
    return kd__tape_ok(tape) && op->out_count ? op->out[0] : kd__poison(tape);
}
