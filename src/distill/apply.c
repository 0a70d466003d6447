/* apply.c - a distillation loss on a tape: value, gradient and terms in one pass; backward scales the gradient.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"
#include "distill/loss.h"
#include "nn/nn.h"

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

/* Which input is which; the first three may want gradients. */
enum { STUDENT, SECOND, OWN, DIFFERENTIABLE, TEACHER = DIFFERENTIABLE, TEACHER_SECOND, LABELS, ROW_WEIGHTS, CLASSES, MORE, INPUTS = 16 };

/* A matrix beside the student's: its whole shape, or with `any_width` its leading sizes. */
static bool fits(kd__op_scope *op, const char *name, const kd_tensor *x, bool any_width)
{
    const kd_tensor *student = op->in[STUDENT];
    if (!x || kd__shape_equal(student, x)) return true;
    if (any_width && x->rank == student->rank && x->shape[x->rank - 1] &&
        memcmp(x->shape, student->shape, (student->rank - 1) * sizeof *x->shape) == 0)
        return true;
    kd__op_fail(op, KD_ERR_SHAPE, "student %S and %s %S differ", (size_t)student->rank, student->shape, name, (size_t)x->rank, x->shape);
    return false;
}

/* teacher_classes as i32, wherever they come from. */
static bool take_classes(kd__op_scope *op, kd_distill_batch *b)
{
    const kd_tensor *x = op->in[CLASSES], *teacher = op->in[TEACHER];
    if (!x) return true;
    if (!teacher || !kd__shape_equal(x, teacher)) {
        kd__op_fail(op, KD_ERR_SHAPE, "teacher_classes %S are not of the teacher's shape", (size_t)x->rank, x->shape);
        return false;
    }
    b->teacher_classes = x->data;
    if (x->dtype == KD_I32) return true;
    if (x->dtype != KD_I64) {
        kd__op_fail(op, KD_ERR_DTYPE, "teacher_classes are %s, not i32 or i64", kd_dtype_name(x->dtype));
        return false;
    }
    const int64_t *wide = x->data;
    kd_tensor *narrow = kd__tape_new(op->tape, KD_I32, x->rank, x->shape);
    if (!narrow) return false;
    for (size_t i = 0; i < x->count; i++)   /* what does not fit stays outside the range */
        ((int32_t *)narrow->data)[i] = wide[i] < 0 || wide[i] > INT32_MAX ? -1 : (int32_t)wide[i];
    b->teacher_classes = narrow->data;
    return true;
}

/* May this tape train the loss's own number? */
static bool check_held(kd__op_scope *op, const kd_loss_distill *loss)
{
    const kd_model *m = loss->adapters;
    if (!m || m->held || m->frozen || op->tape->mode != KD_TAPE_TRAIN) return true;
    kd__op_fail(op, KD_ERR_STATE, "the loss trains something of its own that no optimizer holds: kd_optimizer_add(optimizer, "
                "kd_loss_distill_adapters(loss)), or freeze it");
    return false;
}

static kd_tensor *apply(const kd_loss_distill *loss, kd_tape *tape, const char *function, const kd_distill_inputs *in)
{
    kd__op_scope op;
    const bool adapters = loss && loss->adapters;
    const uint32_t needs = loss ? loss->method->needs : 0;
    kd_tensor *inputs[INPUTS] = { in->student, in->student_second, adapters ? &loss->adapters->entries[0]->tensor : NULL,
                                  in->teacher, in->teacher_second, in->labels, in->row_weights, in->teacher_classes };
    const size_t more = in->more_teachers ? KD_MIN(in->more_teacher_count, (size_t)(INPUTS - MORE)) : 0;
    for (size_t i = 0; i < more; i++) inputs[MORE + i] = in->more_teachers[i];
    if (!(needs & KD__SECOND)) inputs[SECOND] = NULL;
    if (!(needs & KD__TEACHER_SECOND)) inputs[TEACHER_SECOND] = NULL;
    if (!(needs & KD__SPARSE)) inputs[CLASSES] = NULL;
    if (!kd__op_begin_as(&op, tape, KD__OP_fused, function, inputs, MORE + more, ~1u, 1u << LABELS | 1u << CLASSES))
        return kd__poison(tape);
    if (!loss) return kd__op_fail(&op, KD_ERR_ARG, "loss is NULL");
    if (more != in->more_teacher_count)
        return kd__op_fail(&op, KD_ERR_ARG, "more_teachers is NULL, or more_teacher_count %zu is beyond %d", in->more_teacher_count,
                           INPUTS - MORE);
    const kd_tensor *student = op.in[STUDENT], *teacher = op.in[TEACHER], *row_weights = op.in[ROW_WEIGHTS];
    if (!student->rank) return kd__op_fail(&op, KD_ERR_SHAPE, "student is a scalar, not [.., classes]");
    size_t classes = student->shape[student->rank - 1], rows = classes ? student->count / classes : 0;
    kd_distill_batch b = { .struct_size = sizeof b, .rows = rows, .classes = classes, .student = student->data };
    const float *others[INPUTS - MORE];
    const bool any_width = needs & (KD__OTHER_CLASSES | KD__SPARSE);
    if (!check_held(&op, loss) || !fits(&op, "student_second", op.in[SECOND], false) || !fits(&op, "teacher", teacher, any_width) ||
        !fits(&op, "teacher_second", op.in[TEACHER_SECOND], false) || !take_classes(&op, &b))
        return kd__poison(tape);
    for (size_t i = 0; i < more; i++) {
        if (!op.in[MORE + i]) return kd__op_fail(&op, KD_ERR_ARG, "more_teachers[%zu] is NULL", i);
        if (!fits(&op, "a row of more_teachers", op.in[MORE + i], any_width)) return kd__poison(tape);
        if (teacher && !kd__shape_equal(teacher, op.in[MORE + i]))
            return kd__op_fail(&op, KD_ERR_SHAPE, "teacher and more_teachers[%zu] differ", i);
        others[i] = op.in[MORE + i]->data;
    }
    if (op.in[SECOND]) b.student_second = op.in[SECOND]->data;
    if (teacher) b.teacher = teacher->data, b.teacher_width = teacher->shape[teacher->rank - 1];
    if (op.in[TEACHER_SECOND]) b.teacher_second = op.in[TEACHER_SECOND]->data;
    b.more_teachers = others, b.more_teacher_count = more;
    if (op.in[LABELS]) {
        kd_tensor *failed = take_labels(&op, &b, student, op.in[LABELS]);
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
    double own = 0;
    b.grad = kd__fused_grad(&op, STUDENT);
    b.grad_second = op.in[SECOND] ? kd__fused_grad(&op, SECOND) : NULL;
    float *grad_own = adapters ? kd__fused_grad(&op, OWN) : NULL;
    if (!kd__tape_ok(tape)) return kd__poison(tape);
    if (per_row) b.row_loss = y->data;
    kd_status status = kd__loss_run(loss, tape->ctx, function, &b, &terms, &own);
    if (status != KD_OK) return kd__tape_fail(tape, status);
    if (grad_own) *grad_own = (float)own;
    if (loss->method->observe && tape->mode == KD_TAPE_TRAIN) loss->method->observe(loss, terms.soft);
    if (!per_row) *(float *)y->data = (float)terms.loss;
    memcpy(note->data, &terms, sizeof terms);
    kd__tape_set_tag(tape, y, note);
    op.in_count = DIFFERENTIABLE;   /* the others are constants */
    return kd__op_end(&op);
}

kd_tensor *kd_loss_distill_apply_inputs(const kd_loss_distill *loss, kd_tape *tape, const kd_distill_inputs *inputs)
{
    kd_distill_inputs in = { .struct_size = sizeof in };
    if (!tape) return kd__poison(tape);
    if (!inputs) return kd__tape_fail_in(tape, __func__, kd__fail(KD_ERR_ARG, "inputs is NULL"));
    kd_status status = kd__desc_read(&in, sizeof in, inputs, __func__);
    return status == KD_OK ? apply(loss, tape, __func__, &in) : kd__tape_fail_in(tape, __func__, status);
}

kd_tensor *kd_loss_distill_apply_weighted(const kd_loss_distill *loss, kd_tape *tape, kd_tensor *student, kd_tensor *teacher,
                                          kd_tensor *labels, kd_tensor *row_weights)
{
    return apply(loss, tape, "kd_loss_distill_apply",
                 &(kd_distill_inputs){ .student = student, .teacher = teacher, .labels = labels, .row_weights = row_weights });
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
