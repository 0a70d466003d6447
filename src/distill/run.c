/* run.c - a batch through a distillation loss: check, count, compute, add up.
 * SPDX-License-Identifier: MIT */
#include "base/platform.h"
#include "distill/loss.h"
#include "kd/kernels.h"
#include "kernels/distill_run.h"

/* A batch with strides filled in, and what each row gets. */
typedef struct job {
    const kd_loss_distill *loss;
    kd_context *ctx;
    const char *function;
    kd_distill_batch b;
    bool     hard_on, soft_on;      /* is the term wanted at all */
    bool     equal;                 /* every row in both terms, with weight 1 */
    const int32_t *label;           /* [rows]: the class; meaningful where hard_coef is not 0; NULL: none given */
    int32_t *narrow;                /* [rows] for them */
    float   *hard_coef, *soft_coef, *hard, *soft;   /* [rows] */
} job;

/* ---- arguments ----------------------------------------------------------------------------------------- */
/* *stride 0 becomes `classes`; the matrix must fit the address space. */
static kd_status check_matrix(const job *j, const char *name, const void *data, size_t *stride)
{
    size_t floats, bytes;
    if (!*stride) *stride = j->b.classes;
    if (*stride < j->b.classes)
        return kd__fail(KD_ERR_ARG, "%s: %s_stride %zu is less than classes %zu", j->function, name, *stride, j->b.classes);
    if (!kd__mul(j->b.rows, *stride, &floats) || !kd__mul(floats, sizeof(float), &bytes))
        return kd__fail(KD_ERR_OVERFLOW, "%s: %s [%zu, %zu] with stride %zu does not fit", j->function, name, j->b.rows, j->b.classes,
                        *stride);
    if ((uintptr_t)data % sizeof(float))
        return kd__fail(KD_ERR_ARG, "%s: %s is not aligned to a float", j->function, name);
    return KD_OK;
}

static bool overlap(const job *j, const float *x, size_t x_stride)
{
    if (!x || !j->b.rows) return false;
    uintptr_t x0 = (uintptr_t)x, x1 = (uintptr_t)(x + (j->b.rows - 1) * x_stride + j->b.classes);
    uintptr_t g0 = (uintptr_t)j->b.grad, g1 = (uintptr_t)(j->b.grad + (j->b.rows - 1) * j->b.grad_stride + j->b.classes);
    return x0 < g1 && g0 < x1;
}

static kd_status check_batch(job *j)
{
    kd_distill_batch *b = &j->b;
    const kd_loss_distill_desc *d = &j->loss->desc;
    int labels = (b->labels != NULL) + (b->labels64 != NULL) + (b->soft_labels != NULL);
    if (!b->classes) return kd__fail(KD_ERR_SHAPE, "%s: classes is 0", j->function);
    if (b->classes > INT32_MAX) return kd__fail(KD_ERR_LIMIT, "%s: %zu classes", j->function, b->classes);
    if (labels > 1) return kd__fail(KD_ERR_ARG, "%s: more than one of labels, labels64 and soft_labels", j->function);
    j->hard_on = d->hard_weight > 0;
    j->soft_on = d->soft_weight > 0;
    KD_TRY(check_matrix(j, "student", b->student, &b->student_stride));
    KD_TRY(check_matrix(j, "teacher", b->teacher, &b->teacher_stride));
    KD_TRY(check_matrix(j, "soft_label", b->soft_labels, &b->soft_label_stride));
    KD_TRY(check_matrix(j, "grad", b->grad, &b->grad_stride));
    if (b->rows && !b->student) return kd__fail(KD_ERR_ARG, "%s: student is NULL", j->function);
    if (b->rows && j->soft_on && !b->teacher)
        return kd__fail(KD_ERR_ARG, "%s: teacher is NULL and soft_weight %g is not 0", j->function, (double)d->soft_weight);
    if (b->rows && j->hard_on && !labels)
        return kd__fail(KD_ERR_ARG, "%s: labels is NULL and hard_weight %g is not 0", j->function, (double)d->hard_weight);
    if (d->class_weight_count && d->class_weight_count != b->classes)
        return kd__fail(KD_ERR_SHAPE, "%s: class_weight_count %zu, but the batch has %zu classes", j->function, d->class_weight_count,
                        b->classes);
    if (b->grad) {
        bool in_place = b->grad == b->student && b->grad_stride == b->student_stride;
        if (!in_place && overlap(j, b->student, b->student_stride))
            return kd__fail(KD_ERR_ARG, "%s: grad overlaps student without being it", j->function);
        if (overlap(j, b->teacher, b->teacher_stride)) return kd__fail(KD_ERR_ARG, "%s: grad overlaps teacher", j->function);
        if (overlap(j, b->soft_labels, b->soft_label_stride))
            return kd__fail(KD_ERR_ARG, "%s: grad overlaps soft_labels", j->function);
    }
    return KD_OK;
}

/* check_input: no NaN, no +inf, probabilities that are some. */
static kd_status check_values(const job *j, const char *name, const float *x, size_t stride, uint32_t form)
{
    for (size_t r = 0; x && r < j->b.rows; r++) {
        double sum = 0;
        for (size_t c = 0; c < j->b.classes; c++) {
            float v = x[r * stride + c];
            bool fine = v < __builtin_inff() && (form != KD_TEACHER_PROBS || v >= 0);
            if (!fine) return kd__fail(KD_ERR_NUMERIC, "%s: %s[%zu, %zu] is %g", j->function, name, r, c, (double)v);
            if (form == KD_TEACHER_PROBS) sum += (double)v;
        }
        if (form == KD_TEACHER_PROBS && !(sum > 1 - 1e-3 && sum < 1 + 1e-3))
            return kd__fail(KD_ERR_NUMERIC, "%s: the probabilities %s[%zu] sum to %g", j->function, name, r, sum);
    }
    return KD_OK;
}

/* ---- which rows are in which term -------------------------------------------------------------------------- */
/* hard[r] and soft[r]: 1 if the row's label puts it into that term, 0 if not; how many are in, how many labels are wrong. */
typedef struct counts { size_t hard, soft, wrong; } counts;
#define SORT_LABELS(name, type)                                                                                            \
    static counts name(const type *y, size_t n, uint64_t classes, const kd_loss_distill_desc *d, float *hard, float *soft) \
    {                                                                                                                      \
        counts count = { 0, 0, 0 };                                                                                        \
        const type off = (type)d->ignore_index, none = (type)d->unlabelled_index;                                          \
        const int can_off = (int64_t)off == d->ignore_index && d->ignore_index != KD_LABEL_OFF;                            \
        const int can_none = (int64_t)none == d->unlabelled_index && d->unlabelled_index != KD_LABEL_OFF;                  \
        while (n) {                                                                                                        \
            size_t some = n < 65536 ? n : 65536;   /* numbers of 32 bits: they go four at a time */                        \
            uint32_t out = 0, unlabelled = 0, good = 0;                                                                    \
            for (size_t r = 0; r < some; r++) {                                                                            \
                uint32_t ignored= (y[r] == off) & can_off, open = (y[r] == none) & can_none;                             \
                uint32_t fine = (y[r] >= 0) & (y[r] < (type)classes);                                                      \
                out += ignored;                                                                                            \
                unlabelled += open;                                                                                        \
                good += fine | ignored | open;                                                                             \
                hard[r] = ignored | open ? 0.0f : 1.0f;                                                                    \
                soft[r] = ignored ? 0.0f : 1.0f;                                                                           \
            }                                                                                                              \
            count.hard += some - out - unlabelled;                                                                         \
            count.soft += some - out;                                                                                      \
            count.wrong += some - good;                                                                                    \
            y += some, hard += some, soft += some, n -= some;                                                              \
        }                                                                                                                  \
        return count;                                                                                                      \
    }
SORT_LABELS(sort_labels32, int32_t)
SORT_LABELS(sort_labels64, int64_t)

/* Is every label a class?  Most often they are, and then there is nothing to sort. */
#define ALL_CLASSES(name, type)                                                        \
    static bool name(const type *y, size_t n, uint64_t classes)                        \
    {                                                                                  \
        uint32_t outside = 0;                                                          \
        for (size_t r = 0; r < n; r++) outside |= (uint64_t)(int64_t)y[r] >= classes;  \
        return !outside;                                                               \
    }
ALL_CLASSES(all_classes32, int32_t)
ALL_CLASSES(all_classes64, int64_t)

/* Is every row in both terms?  Not if labels leave some out, or a class is itself the sign to do so. */
static bool all_in(const job *j)
{
    const kd_loss_distill_desc *d = &j->loss->desc;
    const kd_distill_batch *b = &j->b;
    if (!b->labels && !b->labels64) return true;
    if ((uint64_t)d->ignore_index < b->classes || (uint64_t)d->unlabelled_index < b->classes) return false;
    return b->labels ? all_classes32(b->labels, b->rows, b->classes) : all_classes64(b->labels64, b->rows, b->classes);
}

static kd_status wrong_label(const job *j)
{
    const kd_loss_distill_desc *d = &j->loss->desc;
    for (size_t r = 0;; r++) {
        int64_t y = j->b.labels ? j->b.labels[r] : j->b.labels64[r];
        bool off = y != KD_LABEL_OFF && (y == d->ignore_index || y == d->unlabelled_index);
        if (!off && (y < 0 || (uint64_t)y >= j->b.classes))
            return kd__fail(KD_ERR_RANGE, "%s: labels[%zu] = %lld is not in [0, %zu)", j->function, r, (long long)y, j->b.classes);
    }
}

static void fill(float *x, size_t n, float value)
{
    for (size_t i = 0; i < n; i++) x[i] = value;
}

/* Sets label, hard_coef and soft_coef to the rows' own weights (1 and not written if `equal`), and the sums of these, without
 * reduction. */
static kd_status classify(job *j, kd_distill_terms *t, double *hard_total, double *soft_total)
{
    const kd_loss_distill_desc *d = &j->loss->desc;
    const kd_distill_batch *b = &j->b;
    size_t rows = b->rows;
    counts in = { rows, rows, 0 };
    bool all = all_in(j);
    j->equal = all && !b->row_weights && !(d->class_weights && (b->labels || b->labels64));
    if (all) {
        if (!j->equal) fill(j->hard_coef, rows, 1.0f), fill(j->soft_coef, rows, 1.0f);
    } else if (b->labels) {
        in = sort_labels32(b->labels, rows, b->classes, d, j->hard_coef, j->soft_coef);
    } else {
        in = sort_labels64(b->labels64, rows, b->classes, d, j->hard_coef, j->soft_coef);
    }
    if (in.wrong) return wrong_label(j);
    j->label = b->labels;
    if (b->labels64) {
        for (size_t r = 0; r < rows; r++) j->narrow[r] = (int32_t)b->labels64[r];
        j->label = j->narrow;
    }
    if (b->row_weights) {
        for (size_t r = 0; r < rows; r++) {
            float weight = b->row_weights[r];
            if (!(weight >= 0 && weight <= 0x1.fffffep127f))
                return kd__fail(KD_ERR_RANGE, "%s: row_weights[%zu] = %g is not a finite number >= 0", j->function, r,
                                (double)weight);
            j->hard_coef[r] *= weight;
            j->soft_coef[r] *= weight;
        }
    }
    t->hard_rows = j->hard_on ? in.hard : 0;
    t->soft_rows = j->soft_on ? in.soft : 0;
    *hard_total = (double)in.hard, *soft_total = (double)in.soft;
    if (b->row_weights) {
        j->ctx->kernels->sum_f32(hard_total, j->hard_coef, rows);
        j->ctx->kernels->sum_f32(soft_total, j->soft_coef, rows);
    }
    if (d->class_weights && j->label) {
        *hard_total = 0;
        for (size_t r = 0; r < rows; r++)
            if (j->hard_coef[r] != 0.0f) *hard_total += (double)j->hard_coef[r] * (double)d->class_weights[j->label[r]];
    }
    return KD_OK;
}

/* ---- the rows ------------------------------------------------------------------------------------------------ */
static kd_status run_rows(job *j, size_t *masked)
{
    const kd_loss_distill_desc *d = &j->loss->desc;
    const kd_distill_batch *b = &j->b;
    kd__distill_args a = {
        .rows = b->rows, .classes = b->classes,
        .student = b->student, .student_stride = b->student_stride,
        .teacher = j->soft_on ? b->teacher : NULL, .teacher_stride = b->teacher_stride,
        .labels = j->hard_on ? j->label : NULL,
        .soft_labels = j->hard_on ? b->soft_labels : NULL, .soft_label_stride = b->soft_label_stride,
        .class_weights = d->class_weights,
        .hard_coef = j->hard_coef, .soft_coef = j->soft_coef,
        .grad = b->grad, .grad_stride = b->grad_stride,
        .hard = j->hard, .soft = j->soft,
        .temperature = j->loss->method->hard_teacher ? 1 : d->temperature, .js_beta = d->js_beta,
        .smoothing = d->label_smoothing, .direction = d->direction,
        .teacher_form = d->teacher_form, .hard_teacher = j->loss->method->hard_teacher,
    };
    kd_status status = kd__distill_run(j->ctx, &a, masked);
    return status == KD_OK ? KD_OK : kd__fail_prefix(status, "%s: ", j->function);
}

static kd_status compute(job *j, kd_distill_terms *t)
{
    const kd_loss_distill_desc *d = &j->loss->desc;
    size_t rows = j->b.rows, floats, bytes;
    double hard_total, soft_total, hard_sum = 0, soft_sum = 0, scale = j->loss->method->scale(d);
    if (!kd__mul(rows, 5, &floats) || !kd__mul(floats, sizeof(float), &bytes))
        return kd__fail(KD_ERR_OVERFLOW, "%s: %zu rows do not fit in memory", j->function, rows);
    float *space = kd__scratch_get(j->ctx, bytes);
    if (!space) return kd__fail(KD_ERR_NOMEM, "%s: out of memory for %zu rows", j->function, rows);
    j->hard_coef = space;
    j->soft_coef = j->hard_coef + rows;
    j->hard = j->soft_coef + rows;
    j->soft = j->hard + rows;
    j->narrow = (int32_t *)(void *)(j->soft + rows);

    kd_status status = classify(j, t, &hard_total, &soft_total);
    if (status != KD_OK) goto done;
    double hard_div = hard_total, soft_div = soft_total;
    if (d->reduction == KD_REDUCE_SUM || d->reduction == KD_REDUCE_NONE) hard_div = soft_div = 1;
    if (d->reduction == KD_REDUCE_MEAN_ELEMENTS) hard_div *= (double)j->b.classes, soft_div *= (double)j->b.classes;
    double hard_unit = j->hard_on && hard_div > 0 ? (double)d->hard_weight / hard_div : 0;
    double soft_unit = j->soft_on && soft_div > 0 ? (double)d->soft_weight * scale / soft_div : 0;
    if (j->equal) fill(j->hard_coef, rows, (float)hard_unit), fill(j->soft_coef, rows, (float)soft_unit);
    for (size_t r = 0; !j->equal && r < rows; r++) {
        j->hard_coef[r] = (float)(hard_unit * (double)j->hard_coef[r]);
        j->soft_coef[r] = (float)(soft_unit * (double)j->soft_coef[r]);
    }
    status = run_rows(j, &t->masked_rows);
    if (status != KD_OK) goto done;

    /* A row outside a term has the value 0, so what its weight is does not matter. */
    const kd__kernels *kernels = j->ctx->kernels;
    if (j->b.row_weights) {
        kernels->dot_f32(&hard_sum, j->b.row_weights, j->hard, rows);
        kernels->dot_f32(&soft_sum, j->b.row_weights, j->soft, rows);
    } else {
        kernels->sum_f32(&hard_sum, j->hard, rows);
        kernels->sum_f32(&soft_sum, j->soft, rows);
    }
    soft_sum *= scale;
    for (size_t r = 0; j->b.row_loss && r < rows; r++) {
        double weight = j->b.row_weights ? (double)j->b.row_weights[r] : 1;
        double row = (j->hard_on ? (double)d->hard_weight * (double)j->hard[r] : 0) +
                     (j->soft_on ? (double)d->soft_weight * scale * (double)j->soft[r] : 0);
        j->b.row_loss[r] = (float)(weight * row);
    }
    t->hard = hard_div > 0 ? hard_sum / hard_div : 0;
    t->soft = soft_div > 0 ? soft_sum / soft_div : 0;
    t->loss = (j->hard_on ? (double)d->hard_weight * t->hard : 0) + (j->soft_on ? (double)d->soft_weight * t->soft : 0);
    bool nothing = (j->hard_on && !t->hard_rows) || (j->soft_on && !t->soft_rows);
    if (d->all_masked_nan && (t->masked_rows || (nothing && rows))) t->loss = (double)__builtin_nanf("");
done:
    kd__scratch_put(j->ctx, space);
    return status;
}

kd_status kd__loss_run(const kd_loss_distill *loss, kd_context *ctx, const char *function, const kd_distill_batch *batch,
                       kd_distill_terms *terms)
{
    KD__FP_SCOPE;
    job j = { .loss = loss, .ctx = ctx, .function = function, .b = *batch };
    kd_distill_terms t = { .struct_size = sizeof t };
    KD_TRY(check_batch(&j));
    if (loss->desc.check_input) {
        KD_TRY(check_values(&j, "student", j.b.student, j.b.student_stride, KD_TEACHER_LOGITS));
        if (j.soft_on) KD_TRY(check_values(&j, "teacher", j.b.teacher, j.b.teacher_stride, loss->desc.teacher_form));
        if (j.hard_on) KD_TRY(check_values(&j, "soft_labels", j.b.soft_labels, j.b.soft_label_stride, KD_TEACHER_PROBS));
    }
    if (j.b.rows) KD_TRY(compute(&j, &t));
    *terms = t;
    return KD_OK;
}

/* ---- the plain-pointer forms -------------------------------------------------------------------------------- */
kd_status kd_loss_distill_eval(const kd_loss_distill *loss, const kd_distill_batch *batch, kd_distill_terms *terms)
{
    kd_distill_batch b = { .struct_size = sizeof b };
    kd_distill_terms t;
    KD_NEED(loss);
    KD_NEED(batch);
    KD_NEED(terms);
    KD_TRY(kd__info_check(terms, sizeof *terms, "kd_loss_distill_eval: terms"));
    KD_TRY(kd__desc_read(&b, sizeof b, batch, __func__));
    KD_TRY(kd__loss_run(loss, loss->ctx, __func__, &b, &t));
    kd__info_write(terms, &t, sizeof t);
    return KD_OK;
}

kd_status kd_distill_rows(kd_context *ctx, size_t rows, size_t classes, const float *student, size_t student_stride,
                          const float *teacher, size_t teacher_stride, const int32_t *labels, int32_t ignore_index,
                          float temperature, float hard_weight, float soft_weight, float *grad, size_t grad_stride,
                          double out[4])
{
    kd_loss_distill loss = { 0 };
    kd_distill_terms t;
    KD_NEED(out);
    kd_loss_distill_desc_init(&loss.desc, sizeof loss.desc);
    loss.desc.temperature = temperature;
    loss.desc.hard_weight = hard_weight;
    loss.desc.soft_weight = soft_weight;
    loss.desc.ignore_index = ignore_index;
    KD_TRY(kd__loss_check(&loss.desc, __func__, &loss.method));
    kd_distill_batch b = { .struct_size = sizeof b, .rows = rows, .classes = classes, .student = student,
                           .student_stride = student_stride, .teacher = teacher, .teacher_stride = teacher_stride,
                           .labels = labels, .grad = grad, .grad_stride = grad_stride };
    KD_TRY(kd__loss_run(&loss, kd__context(ctx), __func__, &b, &t));
    out[0] = t.loss;
    out[1] = t.hard;
    out[2] = t.soft / ((double)temperature * (double)temperature);
    out[3] = (double)(soft_weight > 0 ? t.soft_rows : t.hard_rows);
    return KD_OK;
}
