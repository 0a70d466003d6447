/* op_custom.c - an op from two functions of the caller's.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"

enum { MAX_OPERANDS = 16 };

typedef struct saved {
    kd_custom_op op;
    void        *user;
} saved;

static const char *name_of(const kd_custom_op *op) { return op->name ? op->name : "custom op"; }

/* What is wrong with outputs[i], or NULL. */
static const char *output_fault(const kd_tape *tape, const kd__op_scope *scope, kd_tensor *const *outputs, size_t i)
{
    const kd_tensor *y = outputs[i];
    if (!kd__tensor_alive(y) || y->owner != KD__OWNER_TAPE || y->tape != tape)
        return "did not come from kd_tape_tensor on this tape";
    if (y->dtype != KD_F32) return "is not f32";
    if (y->requires_grad) return "is already a result or a leaf that asks for its gradient";
    for (size_t k = 0; k < scope->in_count; k++)
        if (scope->in[k] == y) return "is also an input";
    for (size_t k = 0; k < i; k++)
        if (outputs[k] == y) return "is given twice";
    return NULL;
}

/* KD_END is not an error, nor is it KD_OK. */
static kd_status error_of(kd_status status) { return status > 0 ? KD_ERR_ARG : status; }

kd_tensor *kd_custom(kd_tape *tape, const kd_custom_op *op, kd_tensor *const *inputs, size_t input_count,
                     kd_tensor *const *outputs, size_t output_count, void *user)
{
    kd__op_scope scope;
    kd_custom_op own = { .struct_size = sizeof own };
    if (!kd__op_begin(&scope, tape, KD__OP_custom, inputs, input_count)) return kd__poison(tape);
    if (!op) return kd__op_fail(&scope, KD_ERR_ARG, "op is NULL");
    kd_status status = kd__desc_read(&own, sizeof own, op, __func__);
    if (status != KD_OK) return kd__tape_fail(tape, status);
    if (!own.forward) return kd__op_fail(&scope, KD_ERR_ARG, "%s: forward is NULL", name_of(&own));
    if (!outputs || output_count == 0 || output_count > MAX_OPERANDS)
        return kd__op_fail(&scope, KD_ERR_ARG, "%s: %zu outputs; it takes 1 to %d", name_of(&own), outputs ? output_count : 0,
                           MAX_OPERANDS);
    for (size_t i = 0; i < output_count; i++) {
        const char *fault = output_fault(tape, &scope, outputs, i);
        if (fault) return kd__op_fail(&scope, KD_ERR_ARG, "%s: output %zu %s", name_of(&own), i + 1, fault);
        scope.out[scope.out_count++] = outputs[i];
    }
    status = own.forward((const kd_tensor *const *)scope.in, input_count, outputs, output_count, user);
    if (status != KD_OK)
        return kd__op_fail(&scope, error_of(status), "%s: forward returned %s", name_of(&own), kd_status_name(status));
    if (!own.backward) scope.recording = false;
    if (scope.recording) {
        saved *s = kd__op_save(&scope, sizeof *s);
        if (s) *s = (saved){ own, user };
    }
    return kd__op_end(&scope);
}

void kd__backward_custom(kd_tape *tape, kd__node *node)
{
    const saved *s = node->saved;
    float *input_grads[MAX_OPERANDS];
    const float *output_grads[MAX_OPERANDS];
    for (size_t i = 0; i < node->out_count; i++) output_grads[i] = kd__grad_out(tape, node->out[i]);
    for (size_t i = 0; i < node->in_count; i++) {
        bool accumulate;
        input_grads[i] = kd__grad_open(tape, node->in[i], &accumulate);
        if (input_grads[i] && !accumulate) memset(input_grads[i], 0, node->in[i]->count * sizeof(float));
    }
    if (!kd__tape_ok(tape)) return;
    kd_status status = s->op.backward((const kd_tensor *const *)node->in, node->in_count, (const kd_tensor *const *)node->out,
                                      node->out_count, output_grads, input_grads, s->user);
    if (status != KD_OK)
        kd__tape_fail(tape, kd__fail(error_of(status), "%s: backward returned %s", name_of(&s->op), kd_status_name(status)));
}
