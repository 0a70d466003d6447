/* apply.c - a distillation loss on a tape: value, gradient and terms in one pass; backward scales the gradient.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"
#include "distill/loss.h"

/* Labels of any integer type or soft; shapes against the student's. */
static kd_tensor *take_labels(kd__op_scope *op, kd_distill_batch *b, const kd_tensor *student, const kd_tensor *labels)
{
    size_t rank = labels->rank;
    if (labels->dtype == KD_F32 ? !kd__shape_equal(labels, student)
                                : rank + 1 != student->rank || memcmp(labels->shape, student->shape, rank * sizeof(size_t)) != 0)
        return kd__op_fail(op, KD_ERR_SHAPE, "student %S and labels %S (%s) do not fit: class indices have the student's leading "
                           "sizes, soft labels its whole shape", (size_t)student->rank, student->shape, rank, labels->shape,
                           kd_dtype_name(labels->dtype));
    if (labels->dtype == KD_F32) b->soft_labels = labels->data;
    else if (labels->dtype == KD_I32) b->labels = labels->data;
    else if (labels->dtype == KD_I64) b->labels64 = labels->data;
    else return kd__op_fail(op, KD_ERR_DTYPE, "labels are %s, not i32, i64 or f32", kd_dtype_name(labels->dtype));
    return NULL;
}

kd_tensor *kd_loss_distill_apply_weighted(const kd_loss_distill *loss, kd_tape *tape, kd_tensor *student, kd_tensor *teacher,
                                          kd_tensor *labels, kd_tensor *row_weights)
{
    kd__op_scope op;
    kd_tensor *const inputs[] = { student, teacher, labels, row_weights };
    if (!kd__op_begin_as(&op, tape, KD__OP_fused, "kd_loss_distill_apply", inputs, 4, 2 | 4 | 8, 4)) return kd__poison(tape);
    student = op.in[0], teacher = op.in[1], labels = op.in[2], row_weights = op.in[3];
    if (!loss) return kd__op_fail(&op, KD_ERR_ARG, "loss is NULL");
    if (!student->rank) return kd__op_fail(&op, KD_ERR_SHAPE, "student is a scalar, not [.., classes]");
    size_t classes = student->shape[student->rank - 1], rows = classes ? student->count / classes : 0;
    kd_distill_batch b = { .struct_size = sizeof b, .rows = rows, .classes = classes, .student = student->data };
    if (teacher && !kd__shape_equal(student, teacher))
        return kd__op_fail(&op, KD_ERR_SHAPE, "student %S and teacher %S differ", (size_t)student->rank, student->shape,
                           (size_t)teacher->rank, teacher->shape);
    if (teacher) b.teacher = teacher->data;
    if (labels) {
        kd_tensor *failed = take_labels(&op, &b, student, labels);
        if (failed) return failed;
    }
    if (row_weights) {
        if (row_weights->count != rows)
            return kd__op_fail(&op, KD_ERR_SHAPE, "row_weights %S for %zu rows", (size_t)row_weights->rank, row_weights->shape, rows);
        b.row_weights = row_weights->data;
    }

    bool per_row = loss->desc.reduction == KD_REDUCE_NONE;
    kd_tensor *y = kd__op_output(&op, per_row, &rows);
    kd_tensor *note = kd__tape_new(tape, KD_U8, 1, &(size_t){ sizeof(kd_distill_terms) });
    kd_distill_terms terms;
    b.grad = kd__fused_grad(&op, 0);
    if (!kd__tape_ok(tape)) return kd__poison(tape);
    if (per_row) b.row_loss = y->data;
    kd_status status = kd__loss_run(loss, tape->ctx, "kd_loss_distill_apply", &b, &terms, NULL);
    if (status != KD_OK) return kd__tape_fail(tape, status);
    if (!per_row) *(float *)y->data = (float)terms.loss;
    memcpy(note->data, &terms, sizeof terms);
    kd__tape_set_tag(tape, y, note);
    op.in_count = 1;   /* the others are constants */
    return kd__op_end(&op);
}

kd_tensor *kd_loss_distill_apply(const kd_loss_distill *loss, kd_tape *tape, kd_tensor *student, kd_tensor *teacher,
                                 kd_tensor *labels)
{
    return kd_loss_distill_apply_weighted(loss, tape, student, teacher, labels, NULL);
}

kd_status kd_loss_distill_terms(kd_tape *tape, const kd_tensor *loss, kd_distill_terms *out)
{
    KD_NEED(tape);
    KD_NEED(loss);
    KD_NEED(out);
    KD_TRY(kd__info_check(out, sizeof *out, "kd_loss_distill_terms: out"));
    if (tape->state.status != KD_OK) return kd__fail(tape->state.status, "%s", tape->state.text);
    const kd_tensor *note = kd__tape_tag(tape, loss);
    if (!note) return kd__fail(KD_ERR_ARG, "%s: loss was not made by kd_loss_distill_apply on this tape", __func__);
    kd__info_write(out, note->data, sizeof *out);
    return KD_OK;
}
