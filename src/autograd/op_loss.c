/* op_loss.c - losses over rows of logits: cross-entropy, Kullback-Leibler divergence.  One pass gives value and gradient, by the
 * kernels of the distillation loss.
 * SPDX-License-Identifier: MIT */
#include "autograd/eltwise.h"
#include "kd/distill.h"
#include "kernels/distill_run.h"
#include <math.h>

/* What every row of either loss shares; the terms are the caller's to fill in. */
static kd__distill_args rows_begin(size_t rows, size_t classes, const float *student, float *grad)
{
    return (kd__distill_args){ .rows = rows, .classes = classes, .student = student, .student_stride = classes, .grad = grad,
                               .grad_stride = classes, .temperature = 1.0f, .direction = KD_DIRECTION_FORWARD,
                               .teacher_form = KD_TEACHER_LOGITS };
}

/* Put `x`, the input that takes a gradient, first. */
static void order_inputs(kd__op_scope *op, kd_tensor *x, kd_tensor *constant)
{
    if (op->in[0] != x) op->copied = (op->copied & 1u) << 1 | op->copied >> 1;
    op->in[0] = x;
    op->in[1] = constant;
    op->recording = op->recording && kd__wants_grad(op->tape, x);
}

/* The gradient is made, so the node does without the constant, which may be gone by then. */
static kd_tensor *rows_end(kd__op_scope *op)
{
    if (op->copied & 2u) kd__tape_release(op->tape, op->in[1]);
    op->in_count = 1;
    return kd__op_end(op);
}

/* What a sum over `valid` rows is divided by; 0: not a reduction. */
static double divisor(uint32_t reduction, size_t valid, size_t classes)
{
    switch (reduction) {
    case KD_REDUCE_MEAN_ROWS: return (double)KD_MAX(valid, 1u);
    case KD_REDUCE_SUM: return 1.0;
    case KD_REDUCE_NONE: return 1.0;
    case KD_REDUCE_MEAN_ELEMENTS: return (double)KD_MAX(valid, 1u) * (double)classes;
    default: return 0.0;
    }
}

/* [.., classes]: sizes that a row loss takes.  False: the tape is poisoned. */
static bool logits_fit(kd__op_scope *op, const kd_tensor *x, const char *name)
{
    if (x->rank == 0) kd__op_fail(op, KD_ERR_SHAPE, "%s is a scalar: want [.., classes]", name);
    else if (x->shape[x->rank - 1] == 0) kd__op_fail(op, KD_ERR_SHAPE, "%s %S has no classes", name, (size_t)x->rank, x->shape);
    else if (x->shape[x->rank - 1] > INT32_MAX) kd__op_fail(op, KD_ERR_LIMIT, "%s %S has more than 2^31 - 1 classes", name,
                                                            (size_t)x->rank, x->shape);
    return kd__tape_ok(op->tape);
}

/* The output: one number, or one a row.  values[r] are the rows' losses. */
static void reduce_rows(kd_tensor *y, uint32_t reduction, const float *values, size_t rows, double by)
{
    double sum = 0.0;
    if (reduction == KD_REDUCE_NONE) {
        if (rows) memcpy(y->data, values, rows * sizeof *values);
        return;
    }
    for (size_t r = 0; r < rows; r++) sum += (double)values[r];
    *(float *)y->data = (float)(sum / by);
}

/* ---- cross-entropy ------------------------------------------------------------------------------------------ */

/* Labels of the logits' rows as i32; weight[r] is 1 for a row that counts, 0 for one that does not; *valid their number. */
static kd_status read_labels(kd__op_scope *op, int64_t ignore_index, int32_t *out, float *weight, size_t *valid)
{
    const kd_tensor *logits = op->in[0], *labels = op->in[1];
    size_t classes = logits->shape[logits->rank - 1];
    *valid = 0;
    for (size_t r = 0; r < labels->count; r++) {
        int64_t y = labels->dtype == KD_I32 ? ((const int32_t *)labels->data)[r] : ((const int64_t *)labels->data)[r];
        bool counts = y != ignore_index;
        if (counts && (y < 0 || (uint64_t)y >= classes)) {
            kd__op_fail(op, KD_ERR_RANGE, "labels[%zu] = %lld is not in [0, %zu)", r, (long long)y, classes);
            return KD_ERR_RANGE;
        }
        out[r] = counts ? (int32_t)y : 0;
        weight[r] = counts ? 1.0f : 0.0f;
        *valid += counts;
    }
    return KD_OK;
}

static kd_tensor *cross_entropy(kd__op_scope *op, int64_t ignore_index, float smoothing, uint32_t reduction, float *space)
{
    kd_context *ctx = op->tape->ctx;
    const kd_tensor *logits = op->in[0], *labels = op->in[1];
    size_t classes = logits->shape[logits->rank - 1], rows = logits->count / classes, valid = rows;
    bool soft = labels->dtype == KD_F32;
    float *coef = space, *zero = space + rows, *values = space + 2 * rows, *unused = space + 3 * rows;
    int32_t *index = (int32_t *)(void *)(space + 4 * rows);
    for (size_t r = 0; r < rows; r++) coef[r] = 1.0f;
    if (!soft && read_labels(op, ignore_index, index, coef, &valid) != KD_OK) return kd__poison(op->tape);
    double by = divisor(reduction, valid, classes);
    kd_tensor *y = kd__op_output(op, reduction == KD_REDUCE_NONE ? (size_t)logits->rank - 1 : 0, logits->shape);
    float *grad = kd__fused_grad(op, 0);
    if (!kd__tape_ok(op->tape)) return kd__poison(op->tape);
    for (size_t r = 0; r < rows; r++) {
        coef[r] *= (float)(1.0 / by);
        zero[r] = 0.0f;
    }
    kd__distill_args args = rows_begin(rows, classes, logits->data, grad);
    args.labels = soft ? NULL : index;
    args.soft_labels = soft ? labels->data : NULL;
    args.soft_label_stride = classes;
    args.smoothing = smoothing;
    args.hard_coef = coef;
    args.soft_coef = zero;
    args.hard = values;
    args.soft = unused;
    size_t masked;
    kd_status status = kd__distill_run(ctx, &args, &masked);
    if (status != KD_OK) return kd__tape_fail(op->tape, status);
    reduce_rows(y, reduction, values, rows, by);
    return rows_end(op);
}

kd_tensor *kd_cross_entropy(kd_tape *tape, kd_tensor *logits, kd_tensor *labels, int64_t ignore_index, float label_smoothing,
                            uint32_t reduction)
{
    kd__op_scope op;
    kd_tensor *const inputs[] = { logits, labels };
    if (!kd__op_begin_masks(&op, tape, KD__OP_cross_entropy, inputs, 2, 0, 2u)) return kd__poison(tape);
    logits = op.in[0];
    labels = op.in[1];
    order_inputs(&op, logits, labels);
    if (!logits_fit(&op, logits, "logits")) return kd__poison(tape);
    if (labels->dtype != KD_I32 && labels->dtype != KD_I64 && labels->dtype != KD_F32)
        return kd__op_fail(&op, KD_ERR_DTYPE, "labels are %s: want i32, i64 or f32", kd_dtype_name(labels->dtype));
    size_t rank = logits->rank;
    bool fits = labels->rank == (labels->dtype == KD_F32 ? rank : rank - 1) &&
                memcmp(labels->shape, logits->shape, labels->rank * sizeof(size_t)) == 0;
    if (!fits)
        return kd__op_fail(&op, KD_ERR_SHAPE, "logits %S and %s labels %S: class indices have the leading sizes, soft labels all",
                           rank, logits->shape, kd_dtype_name(labels->dtype), (size_t)labels->rank, labels->shape);
    if (!(label_smoothing >= 0.0f && label_smoothing < 1.0f))
        return kd__op_fail(&op, KD_ERR_ARG, "label_smoothing %g is not in [0, 1)", (double)label_smoothing);
    if (divisor(reduction, 1, 1) == 0.0) return kd__op_fail(&op, KD_ERR_ARG, "reduction %u is not a KD_REDUCE_*", reduction);
    size_t rows = logits->count / logits->shape[rank - 1];
    float *space = kd__scratch_get(tape->ctx, 5 * rows * sizeof *space);
    if (!space) return kd__tape_fail(tape, KD_ERR_NOMEM);
    kd_tensor *y = cross_entropy(&op, ignore_index, label_smoothing, reduction, space);
    kd__scratch_put(tape->ctx, space);
    return y;
}

/* y = -sum target log softmax(x) / by: dx = (softmax(x) sum target - target) / by, made with y; times dy */
void kd__backward_cross_entropy(kd_tape *tape, kd__node *node) { kd__backward_fused(tape, node); }

/* ---- Kullback-Leibler ------------------------------------------------------------------------------------------ */

kd_tensor *kd_kl_div(kd_tape *tape, kd_tensor *p_logits, kd_tensor *q_logits, float temperature, uint32_t reduction)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, KD__OP_kl_div, (kd_tensor *[]){ p_logits, q_logits }, 2)) return kd__poison(tape);
    kd_tensor *p = op.in[0], *q = op.in[1];
    order_inputs(&op, q, p);
    if (!logits_fit(&op, q, "q_logits")) return kd__poison(tape);
    if (!kd__shape_equal(p, q))
        return kd__op_fail(&op, KD_ERR_SHAPE, "p_logits %S and q_logits %S differ", (size_t)p->rank, p->shape, (size_t)q->rank,
                           q->shape);
    if (!(temperature > 0.0f && isfinite(temperature)))
        return kd__op_fail(&op, KD_ERR_ARG, "temperature %g is not a number > 0", (double)temperature);
    size_t classes = q->shape[q->rank - 1], rows = q->count / classes;
    double by = divisor(reduction, rows, classes);
    if (by == 0.0) return kd__op_fail(&op, KD_ERR_ARG, "reduction %u is not a KD_REDUCE_*", reduction);
    kd_tensor *y = kd__op_output(&op, reduction == KD_REDUCE_NONE ? (size_t)q->rank - 1 : 0, q->shape);
    float *grad = kd__fused_grad(&op, 0), *space = kd__scratch_get(tape->ctx, 4 * rows * sizeof *space);
    if (!space) return kd__tape_fail(tape, KD_ERR_NOMEM);
    kd_status status = KD_OK;
    if (kd__tape_ok(tape)) {
        for (size_t r = 0; r < rows; r++) {
            space[r] = (float)(1.0 / by);
            space[rows + r] = 0.0f;
        }
        kd__distill_args args = rows_begin(rows, classes, q->data, grad);
        args.teacher = p->data;
        args.teacher_stride = classes;
        args.temperature = temperature;
        args.soft_coef = space;
        args.hard_coef = space + rows;
        args.soft = space + 2 * rows;
        args.hard = space + 3 * rows;
        size_t masked;
        status = kd__distill_run(tape->ctx, &args, &masked);
        if (status == KD_OK) reduce_rows(y, reduction, args.soft, rows, by);
    }
    kd__scratch_put(tape->ctx, space);
    if (status != KD_OK) return kd__tape_fail(tape, status);
    return rows_end(&op);
}

/* y = sum p (log p - log q) / by: dq_logits = (q - p) / (T by), made with y; times dy */
void kd__backward_kl_div(kd_tape *tape, kd__node *node) { kd__backward_fused(tape, node); }
