/* feature_run.c - a batch through a kd_loss_feature, on a tape or on plain pointers.
 * SPDX-License-Identifier: MIT */
#include "distill/feature.h"

/* ---- what methods call ----------------------------------------------------------------------------------------------- */

kd_tensor *kd__adapter_forward(const kd_loss_feature *loss, kd_tape *tape, const char *path, kd_tensor *x)
{
    return kd_layer_forward(kd__layer_at(loss->adapters->root, path, strlen(path)), tape, x);
}

kd_tensor *kd__adapter_parameter(const kd_loss_feature *loss, const char *path, const char *name)
{
    return kd_layer_parameter(kd__layer_at(loss->adapters->root, path, strlen(path)), name);
}

kd_tensor *kd__core_run(kd_tape *tape, const char *name, kd_tensor *const *in, size_t count, kd__core_fn core, const void *user)
{
    kd__op_scope op;
    if (!kd__op_begin_as(&op, tape, KD__OP_fused, name, in, count, 0xffff, 0)) return kd__poison(tape);
    kd__core c = { .ctx = tape->ctx, .kernels = tape->ctx->kernels, .count = count, .in = op.in, .user = user };
    for (size_t i = 0; i < count; i++)
        if (op.in[i]) c.x[i] = op.in[i]->data, c.grad[i] = kd__fused_grad(&op, i);
    kd_tensor *y = kd__op_output(&op, 0, NULL);
    if (!kd__tape_ok(tape)) return kd__poison(tape);
    double value = 0;
    kd_status status = core(&c, &value);
    if (status != KD_OK) return kd__tape_fail(tape, status);
    *(float *)y->data = (float)value;
    return kd__op_end(&op);
}

kd_tensor *kd__core_pairs(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in, kd__core_fn core)
{
    kd_tensor *sum = NULL;
    for (size_t i = 0; i < loss->desc.student_count; i++) {
        kd_tensor *const inputs[] = { in->student[i], in->teacher[i], in->mask };
        sum = kd__feature_add(tape, sum, kd__core_run(tape, loss->name, inputs, 3, core, &loss->desc));
    }
    return sum;
}

kd_tensor *kd__feature_add(kd_tape *tape, kd_tensor *a, kd_tensor *b) { return a ? kd_add(tape, a, b) : b; }

/* ---- a batch is checked ---------------------------------------------------------------------------------------------- */

/* x is alive, f32 and [rows, shape..]; the first of all gives the rows. */
static kd_status check_tap(const kd_tensor *x, const char *side, size_t i, const kd_feature_shape *want, size_t *rows)
{
    char what[40];
    kd__format(what, sizeof what, "%s tap %zu", side, i);
    KD_TRY(kd__tensor_check(x, "kd_loss_feature_apply", what));
    if (x->dtype != KD_F32) return kd__fail(KD_ERR_DTYPE, "%s is %s, not f32", what, kd_dtype_name(x->dtype));
    if (*rows == SIZE_MAX && x->rank) *rows = x->shape[0];
    if (x->rank != want->rank + 1 || x->shape[0] != *rows || memcmp(x->shape + 1, want->size, want->rank * sizeof(size_t)) != 0) {
        size_t full[5] = { *rows };
        memcpy(full + 1, want->size, want->rank * sizeof(size_t));
        return kd__fail(KD_ERR_SHAPE, "%s is %S, the descriptor and the batch say %S", what, (size_t)x->rank, x->shape,
                        want->rank + 1, full);
    }
    return KD_OK;
}

/* A constant of this tape; poison when out of memory. */
static kd_tensor *constant(kd_tape *tape, kd_tensor *x) { return kd__wants_grad(tape, x) ? kd_detach(tape, x) : x; }

static kd_status check_taps(const kd_loss_feature *loss, kd_tape *tape, const kd_feature_inputs *b, kd__feature_in *in)
{
    const kd_loss_feature_desc *d = &loss->desc;
    if (b->student_count != d->student_count || b->teacher_count != d->teacher_count)
        return kd__fail(KD_ERR_ARG, "%zu student and %zu teacher taps, the descriptor has %zu and %zu", b->student_count,
                        b->teacher_count, d->student_count, d->teacher_count);
    if ((d->student_count && !b->student) || (d->teacher_count && !b->teacher))
        return kd__fail(KD_ERR_ARG, "%s is NULL", b->student || !d->student_count ? "teacher" : "student");
    for (size_t i = 0; i < d->student_count; i++) KD_TRY(check_tap(b->student[i], "student", i, &d->student[i], &in->rows));
    for (size_t i = 0; i < d->teacher_count; i++) KD_TRY(check_tap(b->teacher[i], "teacher", i, &d->teacher[i], &in->rows));
    kd_tensor **teacher = kd__tape_alloc(tape, d->teacher_count * sizeof *teacher);
    if (!teacher) return KD_ERR_NOMEM;
    for (size_t i = 0; i < d->teacher_count; i++) teacher[i] = constant(tape, b->teacher[i]);
    in->student = b->student;
    in->teacher = teacher;
    return kd__tape_ok(tape) ? KD_OK : KD_ERR_NOMEM;
}

static kd_status check_logits(const kd_loss_feature *loss, const kd_tensor *x, const char *what, size_t *classes, size_t rows)
{
    if (!x) return kd__fail(KD_ERR_ARG, "%s: the method needs it, and it is NULL", what);
    KD_TRY(kd__tensor_check(x, "kd_loss_feature_apply", what));
    if (x->dtype != KD_F32) return kd__fail(KD_ERR_DTYPE, "%s is %s, not f32", what, kd_dtype_name(x->dtype));
    if (!*classes) *classes = x->rank == 2 ? x->shape[1] : loss->desc.classes;
    if (x->rank != 2 || x->shape[0] != rows || x->shape[1] != *classes)
        return kd__fail(KD_ERR_SHAPE, "%s is %S, not [%zu, %zu]", what, (size_t)x->rank, x->shape, rows, *classes);
    return KD_OK;
}

/* Class or sample numbers as i64 on the tape, in [0, limit) where there is a limit. */
static kd_status check_numbers(kd_tape *tape, const kd_tensor *x, const char *what, size_t rows, size_t limit,
                               const int64_t **out)
{
    if (!x) return kd__fail(KD_ERR_ARG, "%s: the method needs them, and they are NULL", what);
    KD_TRY(kd__tensor_check(x, "kd_loss_feature_apply", what));
    if (x->dtype != KD_I32 && x->dtype != KD_I64)
        return kd__fail(KD_ERR_DTYPE, "%s are %s, not i32 or i64", what, kd_dtype_name(x->dtype));
    if (x->rank != 1 || x->shape[0] != rows)
        return kd__fail(KD_ERR_SHAPE, "%s are %S, not [%zu]", what, (size_t)x->rank, x->shape, rows);
    int64_t *numbers = kd__tape_alloc(tape, rows * sizeof *numbers);
    if (!numbers) return KD_ERR_NOMEM;
    for (size_t i = 0; i < rows; i++) {
        ptrdiff_t at = (ptrdiff_t)i * x->stride[0];
        numbers[i] = x->dtype == KD_I32 ? ((const int32_t *)x->data)[at] : ((const int64_t *)x->data)[at];
        if (numbers[i] < 0 || (limit && (uint64_t)numbers[i] >= limit))
            return kd__fail(KD_ERR_RANGE, "%s[%zu] is %lld, not in [0, %zu)", what, i, (long long)numbers[i],
                            limit ? limit : (size_t)INT64_MAX);
    }
    *out = numbers;
    return KD_OK;
}

/* Tokens of the first student tap: {tokens, width}, {heads, tokens, tokens}; 1 for {width}; or what the method says. */
static size_t tokens_of(const kd_loss_feature *loss)
{
    const kd_loss_feature_desc *d = &loss->desc;
    const kd_feature_shape *s = d->student;
    if (loss->method->mask_width) return loss->method->mask_width(d);
    return !d->student_count || s->rank == 1 ? 1 : s->size[s->rank - 2];
}

static kd_status check_rest(const kd_loss_feature *loss, kd_tape *tape, const kd_feature_inputs *b, kd__feature_in *in)
{
    const kd_loss_feature_desc *d = &loss->desc;
    const uint32_t needs = loss->method->needs;
    size_t classes = d->classes;
    if (in->rows == SIZE_MAX && b->student_logits && b->student_logits->rank) in->rows = b->student_logits->shape[0];
    if (needs & KD__NEEDS_STUDENT_LOGITS || (needs & KD__TAKES_LOGITS && b->student_logits)) {
        KD_TRY(check_logits(loss, b->student_logits, "student_logits", &classes, in->rows));
        in->student_logits = b->student_logits;
    }
    if (needs & KD__NEEDS_TEACHER_LOGITS || (needs & KD__TAKES_LOGITS && b->teacher_logits)) {
        KD_TRY(check_logits(loss, b->teacher_logits, "teacher_logits", &classes, in->rows));
        in->teacher_logits = constant(tape, b->teacher_logits);
    }
    if (needs & KD__NEEDS_LABELS) KD_TRY(check_numbers(tape, b->labels, "labels", in->rows, classes, &in->labels));
    if (needs & KD__NEEDS_INDICES) KD_TRY(check_numbers(tape, b->indices, "indices", in->rows, d->samples, &in->indices));
    if (b->mask) {
        const size_t tokens = tokens_of(loss);
        KD_TRY(kd__tensor_check(b->mask, "kd_loss_feature_apply", "mask"));
        if (b->mask->dtype != KD_F32) return kd__fail(KD_ERR_DTYPE, "mask is %s, not f32", kd_dtype_name(b->mask->dtype));
        if (b->mask->rank != 2 || b->mask->shape[0] != in->rows || b->mask->shape[1] != tokens)
            return kd__fail(KD_ERR_SHAPE, "mask is %S, not [%zu, %zu]", (size_t)b->mask->rank, b->mask->shape, in->rows,
                            tokens);
        in->mask = constant(tape, b->mask);
    }
    return kd__tape_ok(tape) ? KD_OK : KD_ERR_NOMEM;
}

/* A TRAIN tape would train the student against adapters that stay as they were drawn. */
static kd_status check_held(const kd_loss_feature *loss, const kd_tape *tape)
{
    const kd_model *m = loss->adapters;
    if (tape->mode != KD_TAPE_TRAIN || !m || !m->parameter_count || m->frozen || m->held || loss->desc.adapters_external)
        return KD_OK;
    return kd__fail(KD_ERR_STATE, "its adapters would never be trained: kd_optimizer_add(opt, kd_loss_feature_adapters(loss)), "
                    "or kd_model_freeze them, or set adapters_external");
}

static kd_status nothing(const kd__core *c, double *value)
{
    (void)c;
    *value = 0;
    return KD_OK;
}

static kd_tensor *run(const kd_loss_feature *loss, kd_tape *tape, const kd_feature_inputs *b)
{
    kd__feature_in in = { .rows = SIZE_MAX };
    kd_status status = check_held(loss, tape);
    if (status == KD_OK) status = check_taps(loss, tape, b, &in);
    if (status == KD_OK) status = check_rest(loss, tape, b, &in);
    if (!kd__tape_ok(tape)) return kd__poison(tape);   /* it has its text */
    if (status != KD_OK) {
        kd__fail_prefix(status, "%s: ", loss->name);
        return kd__tape_fail_in(tape, "kd_loss_feature_apply", status);
    }
    if (!in.rows || in.rows == SIZE_MAX)
        return kd__core_run(tape, loss->name, b->student, KD_MIN(b->student_count, 16u), nothing, NULL);
    kd_tensor *y = loss->method->apply(loss, tape, &in);
    double factor = kd__feature_factor(loss);
    return factor == 1 ? y : kd_scale(tape, y, (float)factor, 0);
}

kd_tensor *kd_loss_feature_apply(kd_loss_feature *loss, kd_tape *tape, const kd_feature_inputs *inputs)
{
    kd_feature_inputs own = { .struct_size = sizeof own };
    if (!tape) kd__fail(KD_ERR_ARG, "%s: tape is NULL", __func__);
    if (!kd__tape_ok(tape)) return kd__poison(tape);
    kd_status status = KD_OK;
    if (!loss || !inputs) status = kd__fail(KD_ERR_ARG, "%s is NULL", loss ? "inputs" : "loss");
    else status = kd__desc_read(&own, sizeof own, inputs, __func__);
    return status == KD_OK ? run(loss, tape, &own) : kd__tape_fail_in(tape, __func__, status);
}

/* ---- on plain pointers: the same on a tape of the loss's own ----------------------------------------------------------- */

/* The caller's memory as a leaf of the tape, without a copy; NULL (poisoned) when out of memory. */
static kd_tensor *leaf(kd_tape *tape, kd_dtype dtype, size_t rank, const size_t *shape, const void *data)
{
    if (!kd__tape_ok(tape)) return NULL;
    union { const void *in; void *out; } pointer = { data };   /* it is only read */
    kd_tensor header, *x = NULL;
    kd_status status = kd__tensor_init(&header, "kd_loss_feature_eval", dtype, rank, shape, pointer.out);
    if (status == KD_OK && !(x = kd__header_new(tape))) status = KD_ERR_NOMEM;
    if (status != KD_OK) {
        kd__tape_fail_in(tape, "kd_loss_feature_eval", status);
        return NULL;
    }
    *x = header;
    x->owner = KD__OWNER_TAPE;
    x->ctx = tape->ctx;
    x->tape = tape;
    x->generation = tape->state.generation;
    x->block = KD__NO_BLOCK;
    return x;
}

static kd_tensor **taps(kd_tape *tape, size_t rows, const kd_feature_shape *shapes, size_t count, const float *const *data,
                        float *const *grad)
{
    kd_tensor **x = kd__tape_alloc(tape, count * sizeof *x);
    for (size_t i = 0; x && i < count; i++) {
        size_t shape[5] = { rows };
        memcpy(shape + 1, shapes[i].size, shapes[i].rank * sizeof *shape);
        x[i] = data[i] ? leaf(tape, KD_F32, shapes[i].rank + 1, shape, data[i]) : NULL;
        if (x[i] && grad && grad[i]) kd_requires_grad(tape, x[i]);
    }
    return x;
}

static void give_grad(const kd_tape *tape, const kd_tensor *x, float *out)
{
    const float *grad = x ? kd_grad(tape, x) : NULL;
    if (grad) memcpy(out, grad, x->count * sizeof *out);
    else if (x) memset(out, 0, x->count * sizeof *out);
}

static kd_status eval(kd_loss_feature *loss, const kd_feature_batch *b, double *value)
{
    const kd_loss_feature_desc *d = &loss->desc;
    const kd_model *m = loss->adapters;
    kd_tape *tape = loss->tape;
    bool backward = b->grad_logits || (b->train && m && m->parameter_count && !m->frozen);
    for (size_t i = 0; b->grad && i < d->student_count; i++) backward |= b->grad[i] != NULL;
    const size_t n = b->rows, logits[2] = { n, d->classes }, mask[2] = { n, tokens_of(loss) };
    kd_feature_inputs in = { .struct_size = sizeof in, .student_count = d->student_count, .teacher_count = d->teacher_count };
    in.student = taps(tape, n, d->student, d->student_count, b->student, b->grad);
    in.teacher = taps(tape, n, d->teacher, d->teacher_count, b->teacher, NULL);
    if (b->labels) in.labels = leaf(tape, KD_I32, 1, &n, b->labels);
    if (b->indices) in.indices = leaf(tape, KD_I32, 1, &n, b->indices);
    if (b->mask) in.mask = leaf(tape, KD_F32, 2, mask, b->mask);
    if (b->student_logits) in.student_logits = leaf(tape, KD_F32, 2, logits, b->student_logits);
    if (b->teacher_logits) in.teacher_logits = leaf(tape, KD_F32, 2, logits, b->teacher_logits);
    if (in.student_logits && b->grad_logits) kd_requires_grad(tape, in.student_logits);
    kd_tensor *y = kd__tape_ok(tape) ? run(loss, tape, &in) : NULL;
    if (!kd__tape_ok(tape)) return kd__fail(tape->state.status, "%s", tape->state.text);
    if (backward && kd__wants_grad(tape, y)) KD_TRY(kd_backward(tape, y));
    *value = (double)*(const float *)y->data;
    for (size_t i = 0; b->grad && i < d->student_count; i++)
        if (b->grad[i]) give_grad(tape, in.student[i], b->grad[i]);
    if (b->grad_logits) give_grad(tape, in.student_logits, b->grad_logits);
    return KD_OK;
}

kd_status kd_loss_feature_eval(kd_loss_feature *loss, const kd_feature_batch *batch, double *value)
{
    kd_feature_batch b = { .struct_size = sizeof b };
    KD_NEED(loss);
    KD_NEED(batch);
    KD_NEED(value);
    KD_TRY(kd__desc_read(&b, sizeof b, batch, __func__));
    if ((loss->desc.student_count && !b.student) || (loss->desc.teacher_count && !b.teacher))
        return kd__fail(KD_ERR_ARG, "%s: %s is NULL", __func__, b.student || !loss->desc.student_count ? "teacher" : "student");
    kd__monitor_lock(loss->lock);
    kd_status status = loss->tape ? KD_OK : kd_tape_create(&loss->tape, loss->ctx, KD_TAPE_EVAL);
    if (status == KD_OK) {
        kd_model *hold = !b.train && loss->adapters && !loss->adapters->frozen ? loss->adapters : NULL;
        loss->tape->mode = b.train ? KD_TAPE_TRAIN : KD_TAPE_EVAL;
        if (hold) kd_model_freeze(hold, 1);   /* their gradients are not asked for */
        if (loss->method->draws) loss->tape->rng.index = loss->counter[0];
        status = eval(loss, &b, value);
        if (loss->method->draws && status == KD_OK) loss->counter[0] = loss->tape->rng.index;
        if (hold) kd_model_freeze(hold, 0);
        kd_tape_reset(loss->tape);
    }
    kd__monitor_unlock(loss->lock);
    return status;
}
