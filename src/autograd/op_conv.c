/* op_conv.c - conv2d, conv1d: convolutions by kd__conv_*.
 * SPDX-License-Identifier: MIT */
#include "autograd/after.h"
#include "autograd/eltwise.h"

static const kd_conv_desc defaults = { .struct_size = sizeof(kd_conv_desc), .stride = { 1, 1 }, .dilation = { 1, 1 }, .groups = 1 };

void kd_conv_desc_init(kd_conv_desc *desc, size_t struct_size) { kd__desc_write(desc, struct_size, &defaults, sizeof defaults); }

/* Outputs along one axis; false: the op has failed. */
static bool output_size(kd__op_scope *op, const char *axis, size_t size, size_t taps, size_t stride, size_t pad, size_t dilation,
                        size_t *out)
{
    size_t padded, span;
    if (!kd__mul(pad, 2, &padded) || !kd__add(size, padded, &padded) || !kd__mul(dilation, taps - 1, &span) ||
        !kd__add(span, 1, &span) || padded > PTRDIFF_MAX / 2) {
        kd__op_fail(op, KD_ERR_OVERFLOW, "%s: size %zu, kernel %zu, padding %zu, dilation %zu do not fit", axis, size, taps, pad, dilation);
        return false;
    }
    if (span > padded) {
        kd__op_fail(op, KD_ERR_SHAPE, "%s: a kernel of %zu with dilation %zu spans %zu, the padded image only %zu", axis, taps, dilation,
                    span, padded);
        return false;
    }
    *out = (padded - span) / stride + 1;
    return true;
}

/* Check everything and fill *s; false: the op has failed.  x is [n, h, w, ci], weight [kh, kw, ci / groups, co]; with `one` axis
 * [n, w, ci] and [kw, ci / groups, co], and the height entries of desc are the width's. */
static bool conv_shape(kd__op_scope *op, const kd_conv_desc *desc, bool one, kd__conv_shape *s)
{
    const kd_tensor *x = op->in[0], *weight = op->in[1], *bias = op->in[2];
    kd_conv_desc d = defaults;
    kd_status status = kd__desc_read(&d, sizeof d, desc, "kd_conv_desc");
    if (status != KD_OK) {
        kd__tape_fail(op->tape, status);
        return false;
    }
    const size_t rx = x->rank, rw = weight->rank, want = one ? 3 : 4;
    if (rx != want || rw != want) {
        kd__op_fail(op, KD_ERR_SHAPE, one ? "x %S must be [n, t, channels] and weight %S [k, channels / groups, out]"
                                          : "x %S must be [n, h, w, channels] and weight %S [kh, kw, channels / groups, out]",
                    rx, x->shape, rw, weight->shape);
        return false;
    }
    if (one) {
        d.stride[1] = d.stride[0];
        d.padding[1] = d.padding[0];
        d.dilation[1] = d.dilation[0];
        d.stride[0] = d.dilation[0] = 1;
        d.padding[0] = 0;
    }
    if (d.algorithm > KD_CONV_WINOGRAD4) {
        kd__op_fail(op, KD_ERR_ARG, "algorithm %u is no KD_CONV_*", d.algorithm);
        return false;
    }
    if (!d.stride[0] || !d.stride[1] || !d.dilation[0] || !d.dilation[1] || !d.groups) {
        kd__op_fail(op, KD_ERR_ARG, "stride %u, %u, dilation %u, %u, groups %u: each must be at least 1", d.stride[0], d.stride[1],
                    d.dilation[0], d.dilation[1], d.groups);
        return false;
    }
    const size_t *ws = weight->shape;
    *s = (kd__conv_shape){
        .n = x->shape[0], .h = one ? 1 : x->shape[1], .w = x->shape[rx - 2], .ci = x->shape[rx - 1],
        .kh = one ? 1 : ws[0], .kw = ws[rw - 3], .co = ws[rw - 1], .stride_h = d.stride[0], .stride_w = d.stride[1],
        .pad_h = d.padding[0], .pad_w = d.padding[1], .dil_h = d.dilation[0], .dil_w = d.dilation[1], .groups = d.groups,
        .winograd4 = d.algorithm == KD_CONV_WINOGRAD4 && op->tape->mode == KD_TAPE_INFER,
    };
    if (!s->kh || !s->kw || !s->ci || !s->co) {
        kd__op_fail(op, KD_ERR_SHAPE, "x %S, weight %S: a kernel or channels of size 0", rx, x->shape, rw, ws);
        return false;
    }
    if (s->ci % s->groups || s->co % s->groups || ws[rw - 2] != s->ci / s->groups) {
        kd__op_fail(op, KD_ERR_SHAPE, "x %S, weight %S, groups %u: weight must be [.., %zu / groups, a multiple of groups]", rx, x->shape,
                    rw, ws, d.groups, s->ci);
        return false;
    }
    if (bias && (bias->rank != 1 || bias->shape[0] != s->co)) {
        kd__op_fail(op, KD_ERR_SHAPE, "bias %S does not fit weight %S: it must be [%zu]", (size_t)bias->rank, bias->shape, rw, ws, s->co);
        return false;
    }
    return output_size(op, "height", s->h, s->kh, s->stride_h, s->pad_h, s->dil_h, &s->oh) &&
           output_size(op, one ? "time" : "width", s->w, s->kw, s->stride_w, s->pad_w, s->dil_w, &s->ow);
}

typedef struct conv_saved {
    kd__conv_shape shape;
    bool           relu;
} conv_saved;

static kd_tensor *conv(kd_tape *tape, kd__op_id id, bool one, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, const kd_conv_desc *desc,
                       const kd__after *after, kd__packed *packed)
{
    kd__op_scope op;
    kd__conv_shape s;
    if (!kd__op_begin_masks(&op, tape, id, (kd_tensor *[]){ x, weight, bias }, 3, 1u << 2, 0)) return kd__poison(tape);
    if (!conv_shape(&op, desc, one, &s)) return kd__poison(tape);
    x = op.in[0];
    weight = op.in[1];
    bias = op.in[2];
    kd_tensor *y = one ? kd__op_output(&op, 3, (size_t[]){ s.n, s.ow, s.co }) : kd__op_output(&op, 4, (size_t[]){ s.n, s.oh, s.ow, s.co });
    if (!y) return kd__op_end(&op);
    const kd__epilogue e = kd__after_epilogue(after, bias, s.co);
    kd_status status = kd__conv_forward(tape->ctx, &s, x->data, weight->data, packed, &e, y->data);
    if (status != KD_OK) return kd__tape_fail(tape, status);
    tape->multiply_adds += (uint64_t)y->count * (weight->count / s.co);
    if (op.recording) {
        conv_saved *saved = kd__op_save(&op, sizeof *saved);
        if (saved) *saved = (conv_saved){ s, after && after->relu };
        op.unread_out = !(after && after->relu);
    }
    return kd__op_end(&op);
}

/* y = conv(x, weight) + bias: each gradient is a sum of the same products. */
static void conv_backward(kd_tape *tape, kd__node *node)
{
    const conv_saved *saved = node->saved;
    const kd__conv_shape *s = &saved->shape;
    kd_tensor *x = node->in[0], *weight = node->in[1], *bias = node->in[2];
    const float *dy = saved->relu ? kd__relu_undo(tape, node->out[0]) : kd__grad_out(tape, node->out[0]);
    if (!dy) return;
    kd_status status = KD_OK;
    bool accumulate;
    float *dx = kd__grad_open(tape, x, &accumulate);
    if (dx) status = kd__conv_backward_data(tape->ctx, s, dy, weight->data, dx, accumulate);
    float *dw = status == KD_OK ? kd__grad_open(tape, weight, &accumulate) : NULL;
    if (dw) status = kd__conv_backward_weight(tape->ctx, s, x->data, dy, dw, accumulate);
    float *db = status == KD_OK ? kd__grad_open(tape, bias, &accumulate) : NULL;
    if (db) status = kd__reduce_sum(tape->ctx, 2, (size_t[]){ s->n * s->oh * s->ow, s->co }, 1u, dy, 1.0, db, accumulate);
    if (status != KD_OK) kd__tape_fail(tape, status);
}

kd_tensor *kd__conv2d(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, const kd_conv_desc *desc,
                      const kd__after *after, kd__packed *packed)
{
    return conv(tape, KD__OP_conv2d, false, x, weight, bias, desc, after, packed);
}

kd_tensor *kd_conv2d(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, const kd_conv_desc *desc)
{
    return kd__conv2d(tape, x, weight, bias, desc, NULL, NULL);
}

kd_tensor *kd__conv1d(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, const kd_conv_desc *desc,
                      const kd__after *after, kd__packed *packed)
{
    return conv(tape, KD__OP_conv1d, true, x, weight, bias, desc, after, packed);
}

kd_tensor *kd_conv1d(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, const kd_conv_desc *desc)
{
    return kd__conv1d(tape, x, weight, bias, desc, NULL, NULL);
}

void kd__backward_conv2d(kd_tape *tape, kd__node *node) { conv_backward(tape, node); }
void kd__backward_conv1d(kd_tape *tape, kd__node *node) { conv_backward(tape, node); }
