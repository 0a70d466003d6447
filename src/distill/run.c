/* run.c - a batch through a distillation loss: check, count, compute, add up.
 * SPDX-License-Identifier: MIT */
#include "base/platform.h"
#include "distill/loss.h"
#include "distill/prepare.h"
#include "kd/kernels.h"
#include "kernels/distill_run.h"
#include "nn/nn.h"

enum { MAX_MORE = 63 };   /* teachers beside the first */

/* What a block of rows adds to what is not a row's. */
typedef struct result { double own; size_t masked; } result;

/* A batch with strides filled in, and what each row gets. */
typedef struct job {
    const kd_loss_distill *loss;
    const kd__method *method;
    kd_context *ctx;
    const char *function, *name;    /* of the call and of the method */
    kd_distill_batch b;
    uint32_t needs;                 /* the method's, and what combining needs */
    bool     hard_on, soft_on;      /* is the term wanted at all */
    bool     equal;                 /* every row in both terms, with weight 1 */
    const int32_t *label;           /* [rows]: the class; meaningful where hard_coef is not 0; NULL: none given */
    int32_t *narrow;                /* [rows] for them */
    float   *hard_coef, *soft_coef, *hard, *soft;   /* [rows] */

    /* rows that are prepared or that a method of its own serves */
    bool     fused, standardize, copy_student, copy_second, make_teacher;
    size_t   block, blocks, per_lane, lane_floats;   /* rows of a block; blocks a lane serves, one after the other */
    float   *lanes, *whole;         /* scratch of each lane; a coupled method's prepared rows */
    result  *results;               /* [blocks] */
} job;

/* ---- arguments ----------------------------------------------------------------------------------------- */
/* *stride 0 becomes `width`; the matrix must fit the address space. */
static kd_status check_matrix(const job *j, const char *name, const void *data, size_t *stride, size_t width)
{
    size_t floats, bytes;
    if (!*stride) *stride = width;
    if (*stride < width)
        return kd__fail(KD_ERR_ARG, "%s: %s_stride %zu is less than %s %zu", j->function, name, *stride,
                        width == j->b.classes ? "classes" : "teacher_width", width);
    if (!kd__mul(j->b.rows, *stride, &floats) || !kd__mul(floats, sizeof(float), &bytes))
        return kd__fail(KD_ERR_OVERFLOW, "%s: %s [%zu, %zu] with stride %zu does not fit", j->function, name, j->b.rows, width,
                        *stride);
    if ((uintptr_t)data % sizeof(float))
        return kd__fail(KD_ERR_ARG, "%s: %s is not aligned to a float", j->function, name);
    return KD_OK;
}

static bool overlap(const job *j, const float *x, size_t x_stride, size_t x_width, const float *grad, size_t grad_stride)
{
    if (!x || !grad || !j->b.rows) return false;
    uintptr_t x0 = (uintptr_t)x, x1 = (uintptr_t)(x + (j->b.rows - 1) * x_stride + x_width);
    uintptr_t g0 = (uintptr_t)grad, g1 = (uintptr_t)(grad + (j->b.rows - 1) * grad_stride + j->b.classes);
    return x0 < g1 && g0 < x1;
}

/* A gradient may be its own logits, and overlap nothing else. */
static kd_status check_grad(const job *j, const char *name, const float *grad, size_t stride, const float *same)
{
    const kd_distill_batch *b = &j->b;
    const struct { const char *name; const float *data; size_t stride, width; } in[] = {
        { "student", b->student, b->student_stride, b->classes },
        { "teacher", b->teacher, b->teacher_stride, b->teacher_width },
        { "soft_labels", b->soft_labels, b->soft_label_stride, b->classes },
        { "student_second", b->student_second, b->student_second_stride, b->classes },
        { "teacher_second", b->teacher_second, b->teacher_second_stride, b->classes },
    };
    for (size_t i = 0; i < KD_COUNT(in); i++) {
        bool own = in[i].data == same;
        if (own && grad == same && in[i].stride == stride) continue;
        if (overlap(j, in[i].data, in[i].stride, in[i].width, grad, stride))
            return kd__fail(KD_ERR_ARG, own ? "%s: %s overlaps %s without being it" : "%s: %s overlaps %s", j->function, name,
                            in[i].name);
    }
    for (size_t i = 0; i < b->more_teacher_count; i++)
        if (overlap(j, b->more_teachers[i], b->teacher_stride, b->teacher_width, grad, stride))
            return kd__fail(KD_ERR_ARG, "%s: %s overlaps more_teachers[%zu]", j->function, name, i);
    return KD_OK;
}

/* What the soft term reads beside student and labels; all of it is forgotten when there is none. */
static kd_status check_teachers(job *j)
{
    kd_distill_batch *b = &j->b;
    const kd_loss_distill_desc *d = &j->loss->desc;
    const bool on = j->soft_on && b->rows;
    if (!j->soft_on || j->needs & KD__NO_TEACHER) b->teacher = NULL, b->more_teacher_count = 0;
    if (!j->soft_on || !(j->needs & KD__TEACHER_SECOND)) b->teacher_second = NULL;
    if (!(j->needs & KD__SECOND)) b->student_second = NULL, b->grad_second = NULL;
    if (!j->soft_on || !(j->needs & KD__SPARSE)) b->teacher_classes = NULL;
    if (!b->teacher_width || !b->teacher) b->teacher_width = b->classes;
    if (b->teacher_width != b->classes && !(j->needs & (KD__OTHER_CLASSES | KD__SPARSE)))
        return kd__fail(KD_ERR_SHAPE, "%s: teacher_width %zu, but the student has %zu classes", j->function, b->teacher_width,
                        b->classes);
    KD_TRY(check_matrix(j, "teacher", b->teacher, &b->teacher_stride, b->teacher_width));
    KD_TRY(check_matrix(j, "student_second", b->student_second, &b->student_second_stride, b->classes));
    KD_TRY(check_matrix(j, "grad_second", b->grad_second, &b->grad_second_stride, b->classes));
    KD_TRY(check_matrix(j, "teacher_second", b->teacher_second, &b->teacher_second_stride, b->classes));
    KD_TRY(check_matrix(j, "teacher_classes", b->teacher_classes, &b->teacher_classes_stride, b->teacher_width));
    const char *missing = NULL;
    if (on && !(j->needs & KD__NO_TEACHER) && !b->teacher)
        return kd__fail(KD_ERR_ARG, "%s: teacher is NULL and soft_weight %g is not 0", j->function, (double)d->soft_weight);
    if (j->needs & KD__SECOND && !b->student_second) missing = "student_second";
    if (j->needs & KD__TEACHER_SECOND && !b->teacher_second) missing = "teacher_second";
    if (j->needs & KD__SPARSE && !b->teacher_classes) missing = "teacher_classes";
    if (on && missing) return kd__fail(KD_ERR_ARG, "%s: method %s needs %s, which is NULL", j->function, j->name, missing);
    for (size_t i = 0; on && i < b->more_teacher_count; i++) {
        if (!b->more_teachers || !b->more_teachers[i])
            return kd__fail(KD_ERR_ARG, "%s: more_teachers[%zu] is NULL", j->function, i);
        KD_TRY(check_matrix(j, "more_teachers", b->more_teachers[i], &b->teacher_stride, b->teacher_width));
    }
    if (b->more_teacher_count && j->needs & (KD__RAW | KD__SPARSE | KD__TEACHER_SECOND))
        return kd__fail(KD_ERR_ARG, "%s: method %s takes one teacher, not %zu", j->function, j->name, b->more_teacher_count + 1);
    if (b->more_teacher_count > MAX_MORE)
        return kd__fail(KD_ERR_LIMIT, "%s: %zu more_teachers: at most %d", j->function, b->more_teacher_count,
                        MAX_MORE);
    if (b->more_teacher_count && d->teacher_weight_count && d->teacher_weight_count != b->more_teacher_count + 1)
        return kd__fail(KD_ERR_ARG, "%s: teacher_weight_count %zu, but the batch has %zu teachers", j->function,
                        d->teacher_weight_count, b->more_teacher_count + 1);
    for (size_t r = 0; b->teacher_classes && r < b->rows; r++)
        for (size_t c = 0; c < b->teacher_width; c++) {
            int32_t class = b->teacher_classes[r * b->teacher_classes_stride + c];
            if (class < 0 || (uint32_t)class >= b->classes)
                return kd__fail(KD_ERR_RANGE, "%s: teacher_classes[%zu, %zu] = %d is not in [0, %zu)", j->function, r, c,
                                (int)class,
                                b->classes);
        }
    return KD_OK;
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
    if (!j->soft_on) j->needs &= ~(uint32_t)KD__LABELS;
    KD_TRY(check_matrix(j, "student", b->student, &b->student_stride, b->classes));
    KD_TRY(check_matrix(j, "soft_label", b->soft_labels, &b->soft_label_stride, b->classes));
    KD_TRY(check_matrix(j, "grad", b->grad, &b->grad_stride, b->classes));
    KD_TRY(check_teachers(j));
    if (b->rows && !b->student) return kd__fail(KD_ERR_ARG, "%s: student is NULL", j->function);
    if (b->more_teacher_count && d->teachers == KD_TEACHERS_BEST) j->needs |= KD__LABELS;
    if (b->rows && j->hard_on && !labels)
        return kd__fail(KD_ERR_ARG, "%s: labels is NULL and hard_weight %g is not 0", j->function, (double)d->hard_weight);
    if (b->rows && j->needs & KD__LABELS && !labels)
        return kd__fail(KD_ERR_ARG, "%s: labels is NULL, and %s needs each row's class", j->function,
                        j->method->needs & KD__LABELS ? j->name : "KD_TEACHERS_BEST");
    if (d->class_weight_count && d->class_weight_count != b->classes)
        return kd__fail(KD_ERR_SHAPE, "%s: class_weight_count %zu, but the batch has %zu classes", j->function,
                        d->class_weight_count,
                        b->classes);
    KD_TRY(check_grad(j, "grad", b->grad, b->grad_stride, b->student));
    KD_TRY(check_grad(j, "grad_second", b->grad_second, b->grad_second_stride, b->student_second));
    if (overlap(j, b->grad, b->grad_stride, b->classes, b->grad_second, b->grad_second_stride))
        return kd__fail(KD_ERR_ARG, "%s: grad overlaps grad_second", j->function);
    return KD_OK;
}

/* check_input: no NaN, no +inf, probabilities that are some. */
static kd_status check_values(const job *j, const char *name, const float *x, size_t stride, size_t width, uint32_t form)
{
    for (size_t r = 0; x && r < j->b.rows; r++) {
        double sum = 0;
        for (size_t c = 0; c < width; c++) {
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

/* Is every label a class?  Most often they are, and then there is nothing to sort: no sign bit in y or classes - 1 - y.  Called, since
 * inlined the loop lacks registers. */
#define ALL_CLASSES(name, type, bits)                                                            \
    static __attribute__((noinline)) bool name(const type *y, size_t n, size_t classes)          \
    {                                                                                            \
        const bits last = (bits)(classes - 1), sign = (bits)1 << (8 * sizeof(bits) - 1);         \
        bits outside = 0;                                                                        \
        for (const type *end = y + n; y < end; y++) outside |= (bits)*y | (last - (bits)*y);     \
        return !(outside & sign);                                                                \
    }
ALL_CLASSES(all_classes32, int32_t, uint32_t)
ALL_CLASSES(all_classes64, int64_t, uint64_t)

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
            return kd__fail(KD_ERR_RANGE, "%s: labels[%zu] = %lld is not in [0, %zu)", j->function, r, (long long)y,
                            j->b.classes);
    }
}

static void fill_coefs(const job *j, float hard, float soft)
{
    j->ctx->kernels->fill_f32(j->hard_coef, j->b.rows, hard);
    j->ctx->kernels->fill_f32(j->soft_coef, j->b.rows, soft);
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
        if (!j->equal) fill_coefs(j, 1.0f, 1.0f);
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
    if (j->needs & KD__LABELS && !all) {   /* rows without a class leave the soft term too */
        in.soft = in.hard;
        memcpy(j->soft_coef, j->hard_coef, rows * sizeof *j->soft_coef);
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
/* The kernel's arguments for rows from `first` on: the hard term, and the soft one of a fused method. */
static kd__distill_args kernel_args(const job *j, size_t first, size_t rows)
{
    const kd_loss_distill_desc *d = &j->loss->desc;
    const kd_distill_batch *b = &j->b;
    const bool argmax = j->needs & KD__HARD_TEACHER;
    return (kd__distill_args){
        .rows = rows, .classes = b->classes,
        .student = b->student + first * b->student_stride, .student_stride = b->student_stride,
        .teacher = j->soft_on ? b->teacher + first * b->teacher_stride : NULL, .teacher_stride = b->teacher_stride,
        .labels = j->hard_on && j->label ? j->label + first : NULL,
        .soft_labels = j->hard_on && b->soft_labels ? b->soft_labels + first * b->soft_label_stride : NULL,
        .soft_label_stride = b->soft_label_stride,
        .class_weights = d->class_weights,
        .hard_coef = j->hard_coef + first, .soft_coef = j->soft_coef + first,
        .grad = b->grad ? b->grad + first * b->grad_stride : NULL, .grad_stride = b->grad_stride,
        .hard = j->hard + first, .soft = j->soft + first,
        .temperature = argmax ? 1 : d->temperature, .js_beta = d->js_beta,
        .smoothing = d->label_smoothing, .direction = j->method->needs & KD__DIRECTIONS ? d->direction : KD_DIRECTION_FORWARD,
        .teacher_form = d->teacher_form, .hard_teacher = argmax,
    };
}

/* A fused method on its batch as it is, or the hard term alone: one pass. */
static kd_status run_fused(job *j, size_t *masked)
{
    kd__distill_args a = kernel_args(j, 0, j->b.rows);
    for (size_t r = 0; j->b.grad_second && r < j->b.rows; r++)   /* there is no soft term */
        memset(j->b.grad_second + r * j->b.grad_second_stride, 0, j->b.classes * sizeof(float));
    kd_status status = kd__distill_run(j->ctx, &a, masked);
    return status == KD_OK ? KD_OK : kd__fail_prefix(status, "%s: ", j->function);
}

/* Memory for prepared rows; what is not needed is NULL.  keep: two numbers a row for each student matrix. */
typedef struct ready { float *student, *second, *teacher, *teacher_second, *grad, *grad_second, *keep, *keep_second; } ready;

static void take(float **out, size_t *used, float *space, bool wanted, size_t floats)
{
    *out = wanted && space ? space + *used : NULL;
    if (wanted && (floats > SIZE_MAX / 8 || !kd__add(*used, (floats + 15) / 16 * 16, used))) *used = SIZE_MAX / 4;
}

static size_t carve(const job *j, ready *x, float *space, size_t rows)
{
    const kd_distill_batch *b = &j->b;
    size_t used = 0, floats = kd__times(rows, b->classes);
    const bool first = j->standardize && j->copy_student, second = j->standardize && j->copy_second;
    take(&x->student, &used, space, j->copy_student, floats);
    take(&x->second, &used, space, j->copy_second, floats);
    take(&x->teacher, &used, space, j->make_teacher && b->teacher, kd__times(rows, b->teacher_width));
    take(&x->teacher_second, &used, space, j->make_teacher && b->teacher_second, floats);
    take(&x->grad, &used, space, first && b->grad, floats);
    take(&x->grad_second, &used, space, second && b->grad_second, floats);
    take(&x->keep, &used, space, first, kd__times(rows, 2));
    take(&x->keep_second, &used, space, second, kd__times(rows, 2));
    return used;
}

/* What a method sees of the rows from `first` on, nothing prepared. */
static kd__soft view(const job *j, size_t first, size_t rows)
{
    const kd_distill_batch *b = &j->b;
#define AT(p, stride) ((p) ? (p) + first * (stride) : NULL)
    return (kd__soft){
        .loss = j->loss, .desc = &j->loss->desc, .ctx = j->ctx, .kernels = j->ctx->kernels,
        .rows = rows, .classes = b->classes, .teacher_width = b->teacher_width,
        .student = AT(b->student, b->student_stride), .student_stride = b->student_stride,
        .second = AT(b->student_second, b->student_second_stride), .second_stride = b->student_second_stride,
        .teacher = AT(b->teacher, b->teacher_stride), .teacher_stride = b->teacher_stride,
        .teacher_second = AT(b->teacher_second, b->teacher_second_stride), .teacher_second_stride = b->teacher_second_stride,
        .labels = b->soft_labels ? j->narrow + first : AT(j->label, 1),
        .soft_labels = AT(b->soft_labels, b->soft_label_stride), .soft_label_stride = b->soft_label_stride,
        .teacher_classes = AT(b->teacher_classes, b->teacher_classes_stride), .teacher_classes_stride = b->teacher_classes_stride,
        .coef = j->soft_coef + first, .soft = j->soft + first,
        .grad = AT(b->grad, b->grad_stride), .grad_stride = b->grad_stride,
        .grad_second = AT(b->grad_second, b->grad_second_stride), .grad_second_stride = b->grad_second_stride,
    };
#undef AT
}

static bool blank(const float *row, size_t n)
{
    size_t c = 0;
    while (c < n && row[c] == -__builtin_inff()) c++;
    return c == n;
}

/* A row that is -inf throughout on a side that is looked at leaves the soft term, but not what that divides by. */
static size_t screen(const job *j, const kd__soft *s, size_t first)
{
    size_t masked = 0;
    for (size_t r = 0; r < s->rows; r++) {
        bool soft = s->coef[r] != 0.0f, hard = j->hard_coef[first + r] != 0.0f;
        bool student = blank(s->student + r * s->student_stride, s->classes), any = student && hard;
        if (soft) {
            bool out = student || (s->second && blank(s->second + r * s->second_stride, s->classes)) ||
                       (s->teacher && blank(s->teacher + r * s->teacher_stride, s->teacher_width)) ||
                       (s->teacher_second && blank(s->teacher_second + r * s->teacher_second_stride, s->classes));
            for (size_t i = 0; i < j->b.more_teacher_count; i++)
                out |= blank(j->b.more_teachers[i] + (first + r) * s->teacher_stride, s->teacher_width);
            if (out) j->soft_coef[first + r] = 0.0f;
            any |= out;
        }
        masked += any;
    }
    return masked;
}

/* A student's rows: copied where the gradient will be written over them, or standardised with a gradient of their own. */
static void prepare_student(const kd__soft *s, const float **x, size_t *stride, float **grad, size_t *grad_stride, float *copy,
                            float *own, float *keep)
{
    for (size_t r = 0; copy && r < s->rows; r++) {
        const float *row = *x + r * *stride;
        if (keep && s->coef[r] != 0.0f) kd__standardize_row(s->kernels, copy + r * s->classes, row, s->classes, keep + 2 * r);
        else memcpy(copy + r * s->classes, row, s->classes * sizeof *row);
    }
    if (copy) *x = copy, *stride = s->classes;
    if (!own) return;
    memset(own, 0, s->rows * s->classes * sizeof *own);
    *grad = own, *grad_stride = s->classes;
}

static void prepare_teacher(const job *j, const kd__soft *s, const float **x, size_t *stride, size_t width, float *made,
                            size_t more,
                            size_t first, float *work)
{
    const float *rows[1 + MAX_MORE];
    for (size_t r = 0; made && r < s->rows; r++) {
        if (s->coef[r] == 0.0f) {
            memset(made + r * width, 0, width * sizeof *made);
            continue;
        }
        rows[0] = *x + r * *stride;
        for (size_t i = 0; i < more; i++) rows[i + 1] = j->b.more_teachers[i] + (first + r) * *stride;
        kd__teacher_row(j->loss, s->kernels, made + r * width, rows, more + 1, width, s->labels ? s->labels[r] : 0, work);
    }
    if (made) *x = made, *stride = width;
}

/* The gradient of standardised rows back to the logits. */
static void finish(const job *j, const ready *x, size_t first, size_t rows)
{
    const kd_distill_batch *b = &j->b;
    const size_t n = b->classes;
    for (size_t r = 0; r < rows; r++) {
        size_t row = first + r;
        if (j->soft_coef[row] == 0.0f) {
            j->soft[row] = 0.0f;
            continue;
        }
        if (x->grad)
            kd__standardize_row_back(j->ctx->kernels, b->grad + row * b->grad_stride, x->grad + r * n, x->student + r * n, n,
                                     x->keep + 2 * r);
        if (x->grad_second)
            kd__standardize_row_back(j->ctx->kernels, b->grad_second + row * b->grad_second_stride, x->grad_second + r * n,
                                     x->second + r * n, n, x->keep_second + 2 * r);
    }
}

/* ready + rows: the part of it for these rows */
static ready part_of(const job *j, const ready *x, size_t r)
{
    ready y = *x;
    size_t n = r * j->b.classes;
    if (y.student) y.student += n;
    if (y.second) y.second += n;
    if (y.teacher) y.teacher += r * j->b.teacher_width;
    if (y.teacher_second) y.teacher_second += n;
    if (y.grad) y.grad += n;
    if (y.grad_second) y.grad_second += n;
    if (y.keep) y.keep += 2 * r;
    if (y.keep_second) y.keep_second += 2 * r;
    return y;
}

/* The soft term of a fused method on prepared rows.  Alone in its gradient it writes there; else the hard term comes with it. */
static void fused_rows(const job *j, const kd__soft *s, kd__distill_args *a, float *none)
{
    const bool second = j->needs & KD__SECOND, alone = second || j->standardize;
    a->teacher = s->teacher, a->teacher_stride = s->teacher_stride;
    if (j->make_teacher) a->teacher_form = KD_TEACHER_LOGITS;
    if (alone) {
        a->student = second ? s->second : s->student, a->student_stride = second ? s->second_stride : s->student_stride;
        a->grad = second ? s->grad_second : s->grad, a->grad_stride = second ? s->grad_second_stride : s->grad_stride;
        a->labels = NULL, a->soft_labels = NULL;
        memset(none, 0, s->rows * sizeof *none);
        a->hard_coef = none, a->hard = none + s->rows;
    }
    s->kernels->distill_f32(a);
}

/* Rows [first, first + rows): the hard term, and the soft one but for a coupled method, whose rows are prepared in `whole`. */
static void run_block(job *j, size_t i, float *lane)
{
    const kd__method *m = j->method;
    const kd__kernels *kernels = j->ctx->kernels;
    size_t first = i * j->block, rows = KD_MIN(j->block, j->b.rows - first);
    float *kernel = lane, *none = kernel + (kd__distill_scratch(j->b.classes) + 15) / 16 * 16;
    float *work = none + (2 * j->block + 15) / 16 * 16;
    float *rest = work + (2 * j->b.teacher_width + 15) / 16 * 16;
    uint32_t ignored = 0;
    kd__soft s = view(j, first, rows);
    if (j->needs & KD__LABELS && s.soft_labels)
        kernels->row_max_f32(none, j->narrow + first, s.soft_labels, rows, s.classes, s.soft_label_stride);
    j->results[i].masked = screen(j, &s, first);
    j->results[i].own = 0;

    ready x;
    size_t used = 0;
    if (m->batch) carve(j, &x, j->whole, j->b.rows), x = part_of(j, &x, first);
    else used = carve(j, &x, rest, j->block);
    prepare_student(&s, &s.student, &s.student_stride, &s.grad, &s.grad_stride, x.student, x.grad, x.keep);
    prepare_student(&s, &s.second, &s.second_stride, &s.grad_second, &s.grad_second_stride, x.second, x.grad_second,
                    x.keep_second);
    prepare_teacher(j, &s, &s.teacher, &s.teacher_stride, s.teacher_width, x.teacher, j->b.more_teacher_count, first, work);
    prepare_teacher(j, &s, &s.teacher_second, &s.teacher_second_stride, s.classes, x.teacher_second, 0, first, work);

    kd__distill_args a = kernel_args(j, first, rows);
    a.scratch = kernel, a.masked = &ignored;
    kd__distill_args hard = a;
    hard.teacher = NULL, hard.soft_coef = none, hard.soft = none + rows;
    memset(none, 0, rows * sizeof *none);
    if (!j->fused || j->needs & KD__SECOND || j->standardize) kernels->distill_f32(&hard);
    if (j->b.grad_second && (!j->fused || j->standardize))
        for (size_t r = 0; r < rows; r++)
            memset(j->b.grad_second + (first + r) * j->b.grad_second_stride, 0, s.classes * sizeof(float));
    if (j->fused) fused_rows(j, &s, &a, none);
    s.own = &j->results[i].own;
    s.scratch = rest + used;
    if (m->rows) m->rows(&s);
    if (!m->batch) finish(j, &x, first, rows);
}

static void run_lane(size_t lane, void *arg)
{
    job *j = arg;
    size_t end = KD_MIN((lane + 1) * j->per_lane, j->blocks);
    for (size_t i = lane * j->per_lane; i < end; i++) run_block(j, i, j->lanes + lane * j->lane_floats);
}

static void finish_block(size_t i, void *arg)
{
    const job *j = arg;
    ready x;
    carve(j, &x, j->whole, j->b.rows);
    x = part_of(j, &x, i * j->block);
    finish(j, &x, i * j->block, KD_MIN(j->block, j->b.rows - i * j->block));
}

static kd_status run_coupled(job *j, float *scratch)
{
    kd__soft s = view(j, 0, j->b.rows);
    ready x;
    carve(j, &x, j->whole, j->b.rows);
    if (x.student) s.student = x.student, s.student_stride = s.classes;
    if (x.second) s.second = x.second, s.second_stride = s.classes;
    if (x.teacher) s.teacher = x.teacher, s.teacher_stride = s.teacher_width;
    if (x.teacher_second) s.teacher_second = x.teacher_second, s.teacher_second_stride = s.classes;
    if (x.grad) s.grad = x.grad, s.grad_stride = s.classes;
    if (x.grad_second) s.grad_second = x.grad_second, s.grad_second_stride = s.classes;
    s.own = &j->results[0].own;
    s.scratch = scratch;
    KD_TRY(j->method->batch(&s));
    kd__parallel(j->ctx, j->blocks, finish_block, j);
    return KD_OK;
}

/* Floats of a block that stay in the inner caches, with the matrices beside it; logits that are worth another thread. */
enum { BLOCK_FLOATS = 16384, LANE_FLOATS = 32768 };

/* Rows in blocks cut by the problem's size alone, each prepared, computed and finished while it is in the cache; each thread
 * takes neighbouring blocks.  A coupled method comes between. */
static kd_status run_blocks(job *j, size_t *masked, double *own)
{
    const kd_distill_batch *b = &j->b;
    const kd__method *m = j->method;
    size_t width = KD_MAX(b->classes, b->teacher_width), fits = BLOCK_FLOATS / width;
    j->block = fits >= 16 ? KD_MIN(fits / 16 * 16, (size_t)256) : KD_MAX(fits, (size_t)1);
    j->blocks = b->rows / j->block + (b->rows % j->block != 0);
    size_t lanes = KD_MIN(KD_MIN(b->rows * b->classes / LANE_FLOATS + 1, (size_t)j->ctx->threads), j->blocks);
    j->per_lane = (j->blocks + lanes - 1) / lanes;
    lanes = (j->blocks + j->per_lane - 1) / j->per_lane;

    kd__soft sizes = view(j, 0, m->batch ? b->rows : KD_MIN(j->block, b->rows));
    ready x;
    size_t prepared = carve(j, &x, NULL, m->batch ? b->rows : j->block), scratch = m->scratch ? m->scratch(&sizes) : 0, floats,
        bytes;
    size_t results = (j->blocks * sizeof *j->results / sizeof(float) + 15) / 16 * 16;
    size_t lane = (kd__distill_scratch(b->classes) + 15) / 16 * 16 + (2 * j->block + 15) / 16 * 16 +
                  (2 * b->teacher_width + 15) / 16 * 16;
    bool fits_in = kd__add(prepared, scratch, &floats) && kd__add(floats, 31, &floats);
    if (fits_in && !m->batch) fits_in = kd__add(lane, floats, &lane), floats = 0;
    lane = (lane + 15) / 16 * 16;
    j->lane_floats = lane;
    fits_in = fits_in && kd__mul(lane, lanes, &lane) && kd__add(floats, lane, &floats) && kd__add(floats, results, &floats) &&
              kd__mul(floats, sizeof(float), &bytes);
    if (!fits_in) return kd__fail(KD_ERR_OVERFLOW, "%s: %zu rows of %zu classes do not fit in memory", j->function, b->rows,
                                  b->classes);
    float *space = kd__scratch_get(j->ctx, bytes);
    if (!space) return kd__fail(KD_ERR_NOMEM, "%s: out of memory for %zu rows of %zu classes", j->function, b->rows, b->classes);
    j->results = (result *)(void *)space;
    j->lanes = space + results;
    j->whole = j->lanes + lane;
    kd__parallel(j->ctx, lanes, run_lane, j);
    kd_status status = m->batch ? run_coupled(j, j->whole + prepared) : KD_OK;
    *masked = 0, *own = 0;
    for (size_t i = 0; i < j->blocks; i++) *masked += j->results[i].masked, *own += j->results[i].own;
    kd__scratch_put(j->ctx, space);
    return status == KD_OK ? KD_OK : kd__fail_prefix(status, "%s: ", j->function);
}

static kd_status run_rows(job *j, size_t *masked, double *own)
{
    const kd_loss_distill_desc *d = &j->loss->desc;
    const kd_distill_batch *b = &j->b;
    const bool second = j->needs & KD__SECOND;
    j->fused = !j->method->rows && !j->method->batch;
    j->standardize = d->standardize != 0;
    *own = 0;
    if (!j->soft_on || (j->fused && !second && !j->standardize && !b->more_teacher_count)) return run_fused(j, masked);
    j->copy_student = !(j->fused && second) && (j->standardize || (!j->fused && b->grad == b->student));
    j->copy_second = second && (j->standardize || (!j->fused && b->grad_second == b->student_second));
    j->make_teacher = j->standardize || b->more_teacher_count || (!j->fused && d->teacher_form != KD_TEACHER_LOGITS);
    return run_blocks(j, masked, own);
}

static kd_status compute(job *j, kd_distill_terms *t, double *own)
{
    const kd_loss_distill_desc *d = &j->loss->desc;
    size_t rows = j->b.rows, floats, bytes;
    double hard_total, soft_total, hard_sum = 0, soft_sum = 0;
    double scale = (j->method->scale ? j->method->scale : kd__squared)(j->loss, j->b.classes);
    double soft_weight = (double)d->soft_weight * kd__loss_ramp(j->loss);
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
    double soft_unit = j->soft_on && soft_div > 0 ? soft_weight * scale / soft_div : 0;
    if (j->equal) fill_coefs(j, (float)hard_unit, (float)soft_unit);
    for (size_t r = 0; !j->equal && r < rows; r++) {
        j->hard_coef[r] = (float)(hard_unit * (double)j->hard_coef[r]);
        j->soft_coef[r] = (float)(soft_unit * (double)j->soft_coef[r]);
    }
    status = run_rows(j, &t->masked_rows, own);
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
                     (j->soft_on ? soft_weight * scale * (double)j->soft[r] : 0);
        j->b.row_loss[r] = (float)(weight * row);
    }
    t->hard = hard_div > 0 ? hard_sum / hard_div : 0;
    t->soft = soft_div > 0 ? soft_sum / soft_div : 0;
    t->loss = (j->hard_on ? (double)d->hard_weight * t->hard : 0) + (j->soft_on ? soft_weight * t->soft : 0);
    bool nothing = (j->hard_on && !t->hard_rows) || (j->soft_on && !t->soft_rows);
    if (d->all_masked_nan && (t->masked_rows || (nothing && rows))) t->loss = (double)__builtin_nanf("");
done:
    kd__scratch_put(j->ctx, space);
    return status;
}

kd_status kd__loss_run(const kd_loss_distill *loss, kd_context *ctx, const char *function, const kd_distill_batch *batch,
                       kd_distill_terms *terms, double *own)
{
    KD__FP_SCOPE;
    job j = { .loss = loss, .method = loss->method, .ctx = ctx, .function = function, .b = *batch, .needs = loss->method->needs };
    kd_distill_terms t = { .struct_size = sizeof t };
    double ours = 0;
    kd__distill_method(loss->desc.method, &j.name);
    KD_TRY(check_batch(&j));
    if (loss->desc.check_input) {
        const kd_distill_batch *b = &j.b;
        const uint32_t form = loss->desc.teacher_form;
        KD_TRY(check_values(&j, "student", b->student, b->student_stride, b->classes, KD_TEACHER_LOGITS));
        KD_TRY(check_values(&j, "student_second", b->student_second, b->student_second_stride, b->classes, KD_TEACHER_LOGITS));
        KD_TRY(check_values(&j, "teacher", b->teacher, b->teacher_stride, b->teacher_width, form));
        for (size_t i = 0; i < b->more_teacher_count; i++)
            KD_TRY(check_values(&j, "a row of more_teachers", b->more_teachers[i], b->teacher_stride, b->teacher_width, form));
        KD_TRY(check_values(&j, "teacher_second", b->teacher_second, b->teacher_second_stride, b->classes, form));
        if (j.hard_on) KD_TRY(check_values(&j, "soft_labels", b->soft_labels, b->soft_label_stride, b->classes,
                                           KD_TEACHER_PROBS));
    }
    if (j.b.rows) KD_TRY(compute(&j, &t, &ours));
    *terms = t;
    if (own) *own = ours;
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
    double own = 0;
    KD_TRY(kd__loss_run(loss, loss->ctx, __func__, &b, &t, &own));
    const kd_model *adapters = loss->adapters;
    if (b.grad && adapters && !adapters->frozen) adapters->grads[adapters->entries[0]->offset] += (float)own;
    if (b.grad && loss->method->observe) loss->method->observe(loss, t.soft);
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
    KD_TRY(kd__loss_run(&loss, kd__context(ctx), __func__, &b, &t, NULL));
    out[0] = t.loss;
    out[1] = t.hard;
    out[2] = t.soft / ((double)temperature * (double)temperature);
    out[3] = (double)(soft_weight > 0 ? t.soft_rows : t.hard_rows);
    return KD_OK;
}
