/* explain_loss.c - which number does this loss compute: one batch through it, told in words, with the usual mistakes.
 * SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include "distill/feature.h"
#include "distill/loss.h"
#include "distill/prepare.h"
#include "distill/row_ops.h"

/* ---- text and memory ------------------------------------------------------------------------------------------------- */
typedef struct explain_text { char *out; size_t cap, len; } explain_text;

static void say(explain_text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const size_t at = KD_MIN(t->len, t->cap);
    t->len += kd__vformat(t->out ? t->out + at : NULL, t->out ? t->cap - at : 0, format, args);
    va_end(args);
}

/* Scratch laid out twice: without memory, to count; then in it. */
typedef struct explain_room { unsigned char *base; size_t used; } explain_room;

static void *room_take(explain_room *room, size_t count, size_t bytes_each)
{
    size_t bytes, at = room->used;
    if (!kd__mul(count, bytes_each, &bytes) || !kd__round_up(bytes, KD_ALIGN, &bytes) || !kd__add(at, bytes, &room->used))
        room->used = SIZE_MAX / 2;
    return room->base ? room->base + at : NULL;
}

/* x's elements in a row: where they lie, or copied. */
static const void *room_read(explain_room *room, const kd_tensor *x)
{
    if (!x || kd__tensor_contiguous(x)) return x ? x->data : NULL;
    void *copy = room_take(room, x->count, kd_dtype_size(x->dtype));
    if (copy) kd__tensor_gather(x, copy);
    return copy;
}

/* Class or sample numbers as i32; what does not fit is INT32_MIN. */
static int32_t *room_numbers(explain_room *room, const kd_tensor *x)
{
    if (!x) return NULL;
    const void *in = room_read(room, x);
    int32_t *out = room_take(room, x->count, sizeof *out);
    for (size_t i = 0; out && i < x->count; i++) {
        int64_t value = x->dtype == KD_I32 ? ((const int32_t *)in)[i] : ((const int64_t *)in)[i];
        out[i] = value < INT32_MIN || value > INT32_MAX ? INT32_MIN : (int32_t)value;
    }
    return out;
}

/* ---- what both kinds of loss have --------------------------------------------------------------------------------------- */
static double norm_of(const kd__kernels *k, const float *x, size_t n)
{
    double squares = 0;
    if (x) k->dot_f32(&squares, x, x, n);
    return __builtin_sqrt(squares);
}

static void say_source(explain_text *t, uint32_t kind, uint32_t method)
{
    kd_method_info info = { .struct_size = sizeof info };
    for (size_t i = 0; i < kd_method_count(); i++)
        if (kd_method_at(i, &info) == KD_OK && info.kind == kind && info.method == method) break;
    say(t, "%s: %s\n  %s\n", info.name, info.formula, info.source);
}

static const char *form_name(uint32_t form) { return form == KD_FORM_CODE ? "CODE" : form == KD_FORM_PAPER ? "PAPER" : "THIRD"; }

static void say_adapters(explain_text *t, const kd_model *m, bool external, const char *function)
{
    if (!m || !m->parameter_count) return;
    say(t, "adapters: %zu parameter%s, %s\n", m->size, m->size == 1 ? "" : "s", m->frozen ? "frozen" : m->held ? "held by an optimizer" :
        external ? "updated by other means (adapters_external)" : "held by no optimizer");
    if (!m->frozen && !m->held && !external)
        say(t, "warning: no optimizer holds the adapters: a TRAIN tape refuses this loss; kd_optimizer_add(optimizer, "
               "%s(loss))\n", function);
}

/* NaN, and infinities where there should be none; -inf is a mask. */
static void warn_numbers(explain_text *t, const char *name, const float *x, size_t rows, size_t width, bool mask)
{
    size_t bad = 0, first = 0;
    for (size_t i = 0; x && i < rows * width; i++)
        if (!(x[i] < __builtin_inff() && (mask || x[i] > -__builtin_inff())) && !bad++) first = i;
    if (bad)
        say(t, "warning: %s[%zu, %zu] is %g%s: %zu such number%s\n", name, first / width, first % width, (double)x[first],
            bad > 1 ? ", and more" : "", bad, bad > 1 ? "s" : "");
}

static void warn_tapes(explain_text *t, const kd_tape *student_tape, const kd_tensor *student, const kd_tape *teacher_tape,
                       const kd_tensor *teacher)
{
    if (student_tape && student_tape->mode == KD_TAPE_TRAIN && student && !kd__wants_grad(student_tape, student))
        say(t, "warning: the student wants no gradient on its TRAIN tape: nothing of it will learn from this loss\n");
    if (teacher_tape && teacher_tape->mode == KD_TAPE_TRAIN)
        say(t, "warning: the teacher ran on a TRAIN tape: dropout draws and batch norm uses, and moves on by, this batch; give it an "
               "INFER tape\n");
    else if (teacher && teacher->tape && teacher->owner == KD__OWNER_TAPE && kd__wants_grad(teacher->tape, teacher))
        say(t, "warning: the teacher would learn on its tape: no gradient of this loss reaches it, freeze it (kd_model_freeze)\n");
}

/* ---- outputs ------------------------------------------------------------------------------------------------------------- */
enum { EXPLAIN_MORE = 63 };

typedef struct output_audit {
    const kd_loss_distill *loss;
    const kd__kernels *kernels;
    const char        *name;
    const kd_distill_inputs *in;
    kd_distill_batch   b;                       /* contiguous */
    const float       *more[EXPLAIN_MORE];
    size_t             width, sequence;         /* of a teacher's row; rows of a sequence, 0: there are none */
    float             *grad, *grad_second, *row, *before, *work, *log_row;
    bool               hard_on, soft_on;

    kd_distill_terms   terms;
    double norm, hard_norm, soft_norm, second_norm, own, scale;
    bool   squared;                             /* temperature_squared is something to this method */
    size_t labelled, taught, ignored;           /* rows */
    double hard_sum, soft_sum;                  /* of their weights */
    size_t compared, agree, after, ahead, student_agree;   /* rows with label and teacher; the teacher fits it; the next; the last */
    size_t constant, repeated, same;            /* taught rows: one number throughout; as the row before; as the student's */
    double teacher_entropy, student_entropy;
} output_audit;

static kd_status fits_student(const char *name, const kd_tensor *x, const kd_tensor *student, bool any_width)
{
    if (!x) return KD_OK;
    KD_TRY(kd__tensor_check(x, "kd_loss_explain", name));
    if (x->dtype != KD_F32) return kd__fail(KD_ERR_DTYPE, "kd_loss_explain: %s is %s, not f32", name, kd_dtype_name(x->dtype));
    if (kd__shape_equal(x, student)) return KD_OK;
    if (any_width && x->rank == student->rank && x->shape[x->rank - 1] &&
        memcmp(x->shape, student->shape, (student->rank - 1u) * sizeof *x->shape) == 0)
        return KD_OK;
    return kd__fail(KD_ERR_SHAPE, "kd_loss_explain: student %S and %s %S differ", (size_t)student->rank, student->shape, name,
                    (size_t)x->rank, x->shape);
}

static kd_status check_outputs(const output_audit *a)
{
    const kd_distill_inputs *in = a->in;
    const kd_tensor *s = in->student, *y = in->labels;
    const bool any = a->loss->method->needs & (KD__OTHER_CLASSES | KD__SPARSE);
    KD_TRY(kd__tensor_check(s, "kd_loss_explain", "student"));
    if (!s->rank || !s->shape[s->rank - 1])
        return kd__fail(KD_ERR_SHAPE, "kd_loss_explain: student %S is not [.., classes]", (size_t)s->rank, s->shape);
    KD_TRY(fits_student("student", s, s, false));
    KD_TRY(fits_student("student_second", in->student_second, s, false));
    KD_TRY(fits_student("teacher", in->teacher, s, any));
    KD_TRY(fits_student("teacher_second", in->teacher_second, s, false));
    if (in->more_teacher_count > EXPLAIN_MORE || (in->more_teacher_count && !in->more_teachers))
        return kd__fail(KD_ERR_ARG, "kd_loss_explain: more_teachers is NULL, or more_teacher_count %zu is beyond %d",
                        in->more_teacher_count, EXPLAIN_MORE);
    for (size_t i = 0; i < in->more_teacher_count; i++) {
        if (!in->more_teachers[i]) return kd__fail(KD_ERR_ARG, "kd_loss_explain: more_teachers[%zu] is NULL", i);
        KD_TRY(fits_student("a row of more_teachers", in->more_teachers[i], s, any));
        if (in->teacher && !kd__shape_equal(in->teacher, in->more_teachers[i]))
            return kd__fail(KD_ERR_SHAPE, "kd_loss_explain: teacher and more_teachers[%zu] differ", i);
    }
    if (y) {
        KD_TRY(kd__tensor_check(y, "kd_loss_explain", "labels"));
        bool whole = y->dtype == KD_F32;
        if (!whole && y->dtype != KD_I32 && y->dtype != KD_I64)
            return kd__fail(KD_ERR_DTYPE, "kd_loss_explain: labels are %s, not i32, i64 or f32", kd_dtype_name(y->dtype));
        if (whole ? !kd__shape_equal(y, s)
                  : y->rank + 1 != s->rank || memcmp(y->shape, s->shape, y->rank * sizeof *y->shape) != 0)
            return kd__fail(KD_ERR_SHAPE, "kd_loss_explain: student %S and labels %S do not fit", (size_t)s->rank, s->shape,
                            (size_t)y->rank, y->shape);
    }
    if (in->teacher_classes) {
        KD_TRY(kd__tensor_check(in->teacher_classes, "kd_loss_explain", "teacher_classes"));
        if (!in->teacher || !kd__shape_equal(in->teacher_classes, in->teacher))
            return kd__fail(KD_ERR_SHAPE, "kd_loss_explain: teacher_classes %S are not of the teacher's shape",
                            (size_t)in->teacher_classes->rank, in->teacher_classes->shape);
        if (in->teacher_classes->dtype != KD_I32 && in->teacher_classes->dtype != KD_I64)
            return kd__fail(KD_ERR_DTYPE, "kd_loss_explain: teacher_classes are not i32 or i64");
    }
    if (in->row_weights) {
        KD_TRY(kd__tensor_check(in->row_weights, "kd_loss_explain", "row_weights"));
        if (in->row_weights->dtype != KD_F32 || in->row_weights->count != s->count / s->shape[s->rank - 1])
            return kd__fail(KD_ERR_SHAPE, "kd_loss_explain: row_weights %S are not a f32 for each row",
                            (size_t)in->row_weights->rank, in->row_weights->shape);
    }
    return KD_OK;
}

/* Everything into `room`, in the same order each time. */
static void lay_out(output_audit *a, explain_room *room)
{
    const kd_distill_inputs *in = a->in;
    const kd_tensor *s = in->student;
    const uint32_t needs = a->loss->method->needs;
    const size_t classes = s->shape[s->rank - 1];
    kd_distill_batch *b = &a->b;
    *b = (kd_distill_batch){ .struct_size = sizeof *b, .rows = s->count / classes, .classes = classes };
    b->student = room_read(room, s);
    if (needs & KD__SECOND) b->student_second = room_read(room, in->student_second);
    if (!(needs & KD__NO_TEACHER)) b->teacher = room_read(room, in->teacher);
    if (needs & KD__TEACHER_SECOND) b->teacher_second = room_read(room, in->teacher_second);
    if (in->teacher) b->teacher_width = in->teacher->shape[in->teacher->rank - 1];
    a->width = b->teacher_width ? b->teacher_width : classes;
    for (size_t i = 0; i < in->more_teacher_count; i++) a->more[i] = room_read(room, in->more_teachers[i]);
    b->more_teachers = a->more, b->more_teacher_count = in->more_teacher_count;
    if (needs & KD__SPARSE) b->teacher_classes = room_numbers(room, in->teacher_classes);
    if (in->labels) {
        const void *labels = room_read(room, in->labels);
        if (in->labels->dtype == KD_F32) b->soft_labels = labels;
        else if (in->labels->dtype == KD_I32) b->labels = labels;
        else b->labels64 = labels;
    }
    b->row_weights = room_read(room, in->row_weights);
    a->sequence = s->rank == 3 ? s->shape[1] : 0;
    const size_t wide = KD_MAX(classes, a->width);
    a->grad = room_take(room, s->count, sizeof(float));
    a->grad_second = needs & KD__SECOND ? room_take(room, s->count, sizeof(float)) : NULL;
    a->row = room_take(room, wide, sizeof(float));
    a->before = room_take(room, wide, sizeof(float));
    a->log_row = room_take(room, wide, sizeof(float));
    a->work = room_take(room, 2 * wide, sizeof(float));
}

/* The batch through the loss with other weights; *terms, and the norm of the gradient if it is asked for. */
static kd_status run_with(output_audit *a, float hard_weight, float soft_weight, uint32_t squared, kd_distill_terms *terms,
                          double *norm)
{
    kd_loss_distill loss = *a->loss;
    kd_distill_batch b = a->b;
    double own = 0;
    loss.desc.hard_weight = hard_weight, loss.desc.soft_weight = soft_weight, loss.desc.temperature_squared = squared;
    loss.desc.check_input = 0;   /* what is wrong is told below */
    b.grad = norm ? a->grad : NULL;
    b.grad_second = norm ? a->grad_second : NULL;
    KD_TRY(kd__loss_run(&loss, loss.ctx, "kd_loss_explain", &b, terms, &own));
    if (!norm) return KD_OK;
    *norm = norm_of(a->kernels, a->grad, b.rows * b.classes);
    a->second_norm = norm_of(a->kernels, a->grad_second, b.rows * b.classes);
    a->own = own;
    return KD_OK;
}

static kd_status run_terms(output_audit *a)
{
    const kd_loss_distill_desc *d = &a->loss->desc;
    kd_distill_terms part, other;
    if (a->hard_on) KD_TRY(run_with(a, d->hard_weight, 0, d->temperature_squared, &part, &a->hard_norm));
    if (a->soft_on) {
        KD_TRY(run_with(a, 0, d->soft_weight, d->temperature_squared, &part, &a->soft_norm));
        KD_TRY(run_with(a, 0, d->soft_weight, !d->temperature_squared, &other, NULL));
        kd_loss_distill flipped = *a->loss;
        double (*scale)(const kd_loss_distill *, size_t) = a->loss->method->scale ? a->loss->method->scale : kd__squared;
        flipped.desc.temperature_squared = !d->temperature_squared;
        a->scale = scale(a->loss, a->b.classes);
        a->squared = scale(&flipped, a->b.classes) != a->scale || other.soft != part.soft;
    }
    return run_with(a, d->hard_weight, d->soft_weight, d->temperature_squared, &a->terms, &a->norm);
}

enum { ROW_IGNORED = -2, ROW_OPEN = -1 };

/* The row's class, ROW_OPEN (unlabelled) or ROW_IGNORED. */
static int64_t class_of(const output_audit *a, size_t r)
{
    const kd_distill_batch *b = &a->b;
    const kd_loss_distill_desc *d = &a->loss->desc;
    if (b->soft_labels) {
        const float *row = b->soft_labels + r * b->classes;
        size_t best = 0;
        for (size_t c = 1; c < b->classes; c++)
            if (row[c] > row[best]) best = c;
        return (int64_t)best;
    }
    if (!b->labels && !b->labels64) return ROW_OPEN;
    int64_t y = b->labels ? b->labels[r] : b->labels64[r];
    if (y == d->ignore_index && y != KD_LABEL_OFF) return ROW_IGNORED;
    return y == d->unlabelled_index && y != KD_LABEL_OFF ? ROW_OPEN : y;
}

static size_t largest(const float *x, size_t n)
{
    size_t best = 0;
    for (size_t c = 1; c < n; c++)
        if (x[c] > x[best]) best = c;
    return best;
}

static bool ordinary(const float *x, size_t n)
{
    bool some = false;
    for (size_t c = 0; c < n; c++) {
        if (!(x[c] < __builtin_inff())) return false;
        some |= x[c] > -__builtin_inff();
    }
    return some;
}

/* -sum p log p of the softened row. */
static double entropy(const output_audit *a, const float *row, size_t n)
{
    const float t = a->loss->desc.temperature;
    a->kernels->softmax_f32(a->work, n, row, n, 1, n, t, 0);
    a->kernels->softmax_f32(a->log_row, n, row, n, 1, n, t, 1);
    return -kd__dot_masked(a->kernels, a->work, a->log_row, n);
}

static void count_rows(output_audit *a)
{
    const kd_distill_batch *b = &a->b;
    const kd_loss_distill_desc *d = &a->loss->desc;
    const uint32_t needs = a->loss->method->needs;
    const bool comparable = a->width == b->classes && !(needs & KD__SPARSE);
    const float *teachers[1 + EXPLAIN_MORE];
    bool had = false;
    size_t entropies = 0, students = 0;
    for (size_t r = 0; r < b->rows; r++) {
        const int64_t y = class_of(a, r);
        const float *student = b->student + r * b->classes;
        const double weight = b->row_weights ? (double)b->row_weights[r] : 1;
        const bool labelled = y >= 0 && y < (int64_t)b->classes;
        const bool taught = y != ROW_IGNORED && (labelled || !(needs & KD__LABELS));
        a->ignored += y == ROW_IGNORED;
        a->labelled += labelled;
        a->taught += taught;
        if (labelled) a->hard_sum += d->class_weights && !b->soft_labels ? weight * (double)d->class_weights[y] : weight;
        if (taught) a->soft_sum += weight;
        if (taught && ordinary(student, b->classes)) a->student_entropy += entropy(a, student, b->classes), students++;
        if (labelled) a->student_agree += (int64_t)largest(student, b->classes) == y;
        if (!b->teacher || !a->soft_on || !taught) {
            had = false;
            continue;
        }
        teachers[0] = b->teacher + r * a->width;
        for (size_t i = 0; i < b->more_teacher_count; i++) teachers[1 + i] = a->more[i] + r * a->width;
        kd__teacher_row(a->loss, a->kernels, a->row, teachers, 1 + b->more_teacher_count, a->width,
                        labelled ? (int32_t)y : 0, a->work);
        if (!ordinary(a->row, a->width)) {
            had = false;
            continue;
        }
        bool flat = a->width > 1;
        for (size_t c = 1; flat && c < a->width; c++) flat = teachers[0][c] == teachers[0][0];
        a->constant += flat;
        a->same += comparable && !memcmp(teachers[0], student, b->classes * sizeof *student);
        a->repeated += had && !memcmp(a->before, a->row, a->width * sizeof *a->row) && class_of(a, r - 1) == y && !b->teacher_classes;
        memcpy(a->before, a->row, a->width * sizeof *a->row);
        had = true;
        a->teacher_entropy += entropy(a, a->row, a->width);
        entropies++;
        if (!labelled || !comparable) continue;
        const int64_t said = (int64_t)largest(a->row, a->width);
        a->compared++;
        a->agree += said == y;
        a->after += r + 1 < b->rows && class_of(a, r + 1) == said;
        a->ahead += r > 0 && class_of(a, r - 1) == said;
    }
    if (entropies) a->teacher_entropy /= (double)entropies;
    if (students) a->student_entropy /= (double)students;
}

/* ---- the text of outputs */
static void say_divisor(explain_text *t, const output_audit *a, bool hard)
{
    const kd_loss_distill_desc *d = &a->loss->desc;
    const bool weights = a->b.row_weights || (hard && d->class_weights && !a->b.soft_labels);
    if (d->reduction == KD_REDUCE_SUM || d->reduction == KD_REDUCE_NONE) say(t, "divided by nothing (%s)",
                                                                             d->reduction == KD_REDUCE_SUM ? "SUM" : "NONE");
    else if (weights) say(t, "divided by %.9g (the sum of weights)", hard ? a->hard_sum : a->soft_sum);
    else say(t, "divided by %zu (rows)", hard ? a->labelled : a->taught);
    if (d->reduction == KD_REDUCE_MEAN_ELEMENTS) say(t, " x %zu (classes)", a->b.classes);
}

static void say_terms(explain_text *t, const output_audit *a)
{
    const kd_loss_distill_desc *d = &a->loss->desc;
    const double ramp = kd__loss_ramp(a->loss), temperature = (double)d->temperature;
    say(t, "loss %.9g = %.6g x hard + %.6g x soft\n", a->terms.loss, (double)d->hard_weight, (double)d->soft_weight * ramp);
    if (a->hard_on) {
        say(t, "  hard %.9g: cross-entropy with the labels%s; ", a->terms.hard, d->label_smoothing > 0 ? ", smoothed" : "");
        say_divisor(t, a, true);
        say(t, "; weight %.6g, gradient %.6g\n", (double)d->hard_weight, a->hard_norm);
    } else {
        say(t, "  hard off (hard_weight 0)\n");
    }
    if (a->soft_on) {
        say(t, "  soft %.9g: ", a->terms.soft);
        say_divisor(t, a, false);
        if (a->squared) say(t, ", T^2 %s", d->temperature_squared ? "on" : "off");
        else say(t, ", no T^2 in it");
        if (a->scale != 1) say(t, ", multiplied by %.6g", a->scale);
        say(t, "; weight %.6g", (double)d->soft_weight);
        if (ramp < 1) say(t, " x %.6g (warm-up)", ramp);
        say(t, ", gradient %.6g\n", a->soft_norm);
    } else {
        say(t, "  soft off (soft_weight 0)\n");
    }
    say(t, "  gradient at the logits %.6g", a->norm);
    if (a->b.student_second) say(t, ", at student_second %.6g", a->second_norm);
    say(t, "\nrows: %zu; %zu in the hard term, %zu in the soft one, %zu ignored, %zu masked\n", a->b.rows, a->terms.hard_rows,
        a->terms.soft_rows, a->ignored, a->terms.masked_rows);
    if (a->compared) say(t, "teacher and label agree in %zu of %zu rows (%.1f %%)\n", a->agree, a->compared,
                         100 * (double)a->agree / (double)a->compared);
    if (a->labelled) say(t, "student and label agree in %zu of %zu rows (%.1f %%)\n", a->student_agree, a->labelled,
                         100 * (double)a->student_agree / (double)a->labelled);
    if (a->b.teacher && a->soft_on) say(t, "entropy at temperature %.6g: teacher %.4f, student %.4f\n", temperature,
                                        a->teacher_entropy, a->student_entropy);
    if (a->loss->adapters) say(t, "gradient of the loss's own parameter %.6g\n", a->own);
}

/* Rows that are all probabilities: in [0, 1] with sum 1, or (sigmoids) in [0, 1]. */
static bool look_probable(const float *x, size_t rows, size_t n, bool sigmoids)
{
    if (!x || !rows || (sigmoids ? rows * n < 16 : n < 2)) return false;
    for (size_t r = 0; r < rows; r++, x += n) {
        double sum = 0;
        for (size_t c = 0; c < n; c++) {
            if (!(x[c] >= 0 && x[c] <= 1)) return false;
            sum += (double)x[c];
        }
        if (!sigmoids && !(sum > 1 - 1e-3 && sum < 1 + 1e-3)) return false;
    }
    return true;
}

/* The first row that is not what teacher_form says; SIZE_MAX: none. */
static size_t improbable(const output_audit *a, const float *x)
{
    const bool logs = a->loss->desc.teacher_form == KD_TEACHER_LOG_PROBS, part = a->loss->method->needs & KD__SPARSE;
    for (size_t r = 0; x && r < a->b.rows; r++) {
        const float *row = x + r * a->width;
        float total = 0;
        double sum = 0;
        bool fine = true;
        if (class_of(a, r) == ROW_IGNORED || (logs && !ordinary(row, a->width))) continue;
        for (size_t c = 0; !logs && c < a->width; c++) fine = fine && !(row[c] < 0), sum += (double)row[c];
        if (logs) a->kernels->logsumexp_f32(&total, row, a->width, 1, a->width, 1), sum = 1 + (double)total;
        if (!fine || sum > 1 + 1e-2 || (!part && sum < 1 - 1e-2)) return r;
    }
    return SIZE_MAX;
}

static void warn_teacher_form(explain_text *t, const output_audit *a)
{
    const kd_distill_batch *b = &a->b;
    const kd_loss_distill_desc *d = &a->loss->desc;
    const bool sigmoids = d->method == KD_DISTILL_BINARY;
    if (look_probable(b->student, b->rows, b->classes, sigmoids) ||
        look_probable(b->student_second, b->rows, b->classes, sigmoids))
        say(t, "warning: the student's numbers are probabilities; logits are expected: leave its softmax out\n");
    if (!b->teacher || !a->soft_on) return;
    if (d->teacher_form == KD_TEACHER_LOGITS) {
        bool probable = look_probable(b->teacher, b->rows, a->width, sigmoids) ||
                        look_probable(b->teacher_second, b->rows, b->classes, sigmoids);
        for (size_t i = 0; i < b->more_teacher_count; i++)
            probable |= look_probable(a->more[i], b->rows, a->width, sigmoids);
        if (probable)
            say(t, "warning: the teacher's numbers are probabilities, and teacher_form is LOGITS: give its logits, or set "
                   "KD_TEACHER_PROBS\n");
        return;
    }
    size_t row = improbable(a, b->teacher);
    for (size_t i = 0; row == SIZE_MAX && i < b->more_teacher_count; i++) row = improbable(a, a->more[i]);
    if (row != SIZE_MAX)
        say(t, "warning: teacher_form is %s, and row %zu of the teacher does not come to 1: these look like logits\n",
            d->teacher_form == KD_TEACHER_PROBS ? "PROBS" : "LOG_PROBS", row);
}

static void warn_weights(explain_text *t, const output_audit *a)
{
    const kd_loss_distill_desc *d = &a->loss->desc;
    kd_loss_distill_desc usual;
    if (a->soft_on && a->squared && !d->temperature_squared && d->temperature > 2)
        say(t, "warning: T^2 is off at temperature %.6g: the soft gradient is %.6g times smaller than at the same weight with it\n",
            (double)d->temperature, (double)d->temperature * (double)d->temperature);
    if (kd_loss_distill_desc_for(&usual, sizeof usual, d->method) != KD_OK) return;
    const bool soft_usual = a->soft_on && d->soft_weight == usual.soft_weight;
    if (d->reduction == KD_REDUCE_MEAN_ELEMENTS && usual.reduction == KD_REDUCE_MEAN_ROWS && a->b.classes > 1 &&
        (soft_usual || (a->hard_on && d->hard_weight == usual.hard_weight)))
        say(t, "warning: these weights belong to MEAN_ROWS: under MEAN_ELEMENTS both terms are %zu times smaller\n", a->b.classes);
    if (a->soft_on && d->form != usual.form && a->loss->method->scale) {
        kd_loss_distill other = *a->loss;
        other.desc.form = usual.form;
        const double there = a->loss->method->scale(&other, a->b.classes), ratio = there > 0 ? a->scale / there : 1;
        if (soft_usual && (ratio > 4 || ratio < 0.25))
            say(t, "warning: soft_weight %.6g belongs to form %s: in form %s the term is %.6g times larger\n",
                (double)d->soft_weight, form_name(usual.form), form_name(d->form), ratio);
    }
    const double big = KD_MAX(a->hard_norm, a->soft_norm), small = KD_MIN(a->hard_norm, a->soft_norm);
    if (a->hard_on && a->soft_on && small > 0 && big > 100 * small && !(a->same && a->same == a->taught))
        say(t, "warning: the %s gradient is %.3g times the %s one: %s_weight hardly matters\n",
            a->hard_norm > a->soft_norm ? "hard" : "soft", big / small, a->hard_norm > a->soft_norm ? "soft" : "hard",
            a->hard_norm > a->soft_norm ? "soft" : "hard");
}

/* How many labels at the end of the sequence are equal. */
static size_t trailing(const output_audit *a, size_t first)
{
    const size_t end = first + a->sequence - 1;
    size_t run = 1;
    while (run < a->sequence && class_of(a, end - run) == class_of(a, end)) run++;
    return run;
}

/* Several sequences end in two or more labels of one value, which is nowhere else. */
static void warn_trailing(explain_text *t, const output_audit *a)
{
    const size_t step = a->sequence, rows = a->b.rows;
    size_t ends = 0, sequences = 0, everywhere = 0;
    int64_t value = ROW_IGNORED;
    if (step < 3 || (!a->b.labels && !a->b.labels64)) return;
    for (size_t first = 0; value < 0 && first < rows; first += step)
        if (trailing(a, first) >= 2) value = class_of(a, first + step - 1);
    for (size_t first = 0; value >= 0 && first < rows; first += step)
        if (class_of(a, first + step - 1) == value) ends += trailing(a, first), sequences++;
    for (size_t r = 0; r < rows; r++) everywhere += class_of(a, r) == value;
    if (sequences >= 2 && ends < rows && ends == everywhere)
        say(t, "warning: %zu sequences end in label %lld, %zu rows of it: if that is padding, it belongs to ignore_index\n", sequences,
            (long long)value, ends);
}

static void warn_rows(explain_text *t, const output_audit *a)
{
    const double compared = (double)a->compared, classes = (double)a->b.classes;
    if (a->b.rows && (a->hard_on || a->soft_on)) {
        if (!a->terms.hard_rows && !a->terms.soft_rows)
            say(t, "warning: no row is in any term: all %zu are ignored or unlabelled\n", a->b.rows);
        else if (a->terms.masked_rows == a->b.rows)
            say(t, "warning: every row is -inf throughout\n");
        else if (a->b.row_weights && a->hard_sum == 0 && a->soft_sum == 0)
            say(t, "warning: row_weights are 0 in every row that counts\n");
    }
    if (a->constant && a->constant < a->taught)
        say(t, "warning: in %zu of %zu taught rows the teacher says the same for every class: padding that ignore_index should take "
               "out?\n", a->constant, a->taught);
    else if (a->repeated >= 2 && a->repeated + 1 < a->taught)
        say(t, "warning: %zu taught rows repeat the row before them, teacher and label: padding that ignore_index should take out?\n",
            a->repeated);
    else if (a->taught >= 4 && a->repeated + 1 == a->taught)
        say(t, "warning: the teacher says the same in all %zu taught rows\n", a->taught);
    warn_trailing(t, a);
    if (a->compared < 16 || a->same == a->taught) return;
    const size_t shifted = KD_MAX(a->after, a->ahead);
    if (2 * shifted > a->compared && 2 * a->agree < shifted)
        say(t, "warning: the teacher agrees with the label of the row %s in %zu of %zu rows: labels are shifted by one\n",
            a->after > a->ahead ? "behind" : "before", shifted, a->compared);
    else if ((double)a->agree * classes < compared - 2 * __builtin_sqrt(compared) || (!a->agree && classes > 1))
        say(t, "warning: teacher and label agree less often than by chance (1 in %zu): another order of classes, shifted labels, or a "
               "teacher that is not trained\n", a->b.classes);
}

static void warn_outputs(explain_text *t, const output_audit *a, const kd_tape *student_tape, const kd_tape *teacher_tape)
{
    const kd_distill_batch *b = &a->b;
    const uint32_t method = a->loss->desc.method;
    const bool peer = method == KD_DISTILL_MUTUAL, itself = method == KD_DISTILL_PSKD;   /* on purpose */
    const bool teacher = b->teacher && a->soft_on;
    const bool one = teacher && b->teacher == b->student, looked_at = teacher && !peer && !one;
    warn_tapes(t, student_tape, a->in->student, looked_at ? teacher_tape : NULL, looked_at ? a->in->teacher : NULL);
    if (one && !itself)
        say(t, "warning: student and teacher are the same tensor\n");
    else if (teacher && !itself && a->same && a->same == a->taught && b->classes > 1)
        say(t, "warning: student and teacher hold the same numbers in every row\n");
    warn_numbers(t, "student", b->student, b->rows, b->classes, true);
    warn_numbers(t, "student_second", b->student_second, b->rows, b->classes, true);
    if (teacher) {
        warn_numbers(t, "teacher", b->teacher, b->rows, a->width, true);
        warn_numbers(t, "teacher_second", b->teacher_second, b->rows, b->classes, true);
        for (size_t i = 0; i < b->more_teacher_count; i++) warn_numbers(t, "more_teachers", a->more[i], b->rows, a->width, true);
    }
    warn_teacher_form(t, a);
    warn_weights(t, a);
    warn_rows(t, a);
}

static void say_outputs(explain_text *t, const output_audit *a, const kd_tape *student_tape, const kd_tape *teacher_tape)
{
    static const char *const reductions[] = { [KD_REDUCE_MEAN_ROWS] = "MEAN_ROWS", [KD_REDUCE_SUM] = "SUM",
                                              [KD_REDUCE_NONE] = "NONE", [KD_REDUCE_MEAN_ELEMENTS] = "MEAN_ELEMENTS" };
    static const char *const forms[] = { [KD_TEACHER_LOGITS] = "logits", [KD_TEACHER_LOG_PROBS] = "log-probabilities",
                                         [KD_TEACHER_PROBS] = "probabilities" };
    const kd_loss_distill_desc *d = &a->loss->desc;
    say_source(t, KD_METHOD_DISTILL, d->method);
    say(t, "  form %s, temperature %.6g, reduction %s, student %S", form_name(d->form), (double)d->temperature,
        reductions[d->reduction], (size_t)a->in->student->rank, a->in->student->shape);
    if (a->b.teacher) say(t, ", teacher %s", forms[d->teacher_form]);
    if (a->b.more_teacher_count) say(t, " of %zu teachers", a->b.more_teacher_count + 1);
    if (d->standardize || d->method == KD_DISTILL_LSKD) say(t, ", standardised");
    say(t, "\n");
    say_terms(t, a);
    say_adapters(t, a->loss->adapters, false, "kd_loss_distill_adapters");
    warn_outputs(t, a, student_tape, teacher_tape);
}

static kd_status explain_outputs(output_audit *a, const kd_distill_inputs *in, const kd_tape *student_tape,
                                 const kd_tape *teacher_tape, explain_text *t)
{
    const kd_loss_distill_desc *d = &a->loss->desc;
    explain_room room = { NULL, 0 };
    a->in = in;
    a->kernels = a->loss->ctx->kernels;
    a->hard_on = d->hard_weight > 0, a->soft_on = d->soft_weight > 0;
    KD_TRY(check_outputs(a));
    lay_out(a, &room);
    void *space = kd__scratch_get(a->loss->ctx, room.used);
    if (!space) return kd__fail(KD_ERR_NOMEM, "kd_loss_explain: out of memory for %zu rows of %zu classes", a->b.rows, a->b.classes);
    room = (explain_room){ space, 0 };
    lay_out(a, &room);
    kd_status status = run_terms(a);
    if (status == KD_OK) {
        count_rows(a);
        say_outputs(t, a, student_tape, teacher_tape);
    }
    kd__scratch_put(a->loss->ctx, space);
    return status;
}

size_t kd_loss_explain(const kd_loss_distill *loss, const kd_distill_inputs *inputs, const kd_tape *student_tape,
                       const kd_tape *teacher_tape, char *out, size_t cap)
{
    KD__FP_SCOPE;
    explain_text t = { out, out ? cap : 0, 0 };
    kd_distill_inputs in = { .struct_size = sizeof in };
    if (t.cap) out[0] = 0;
    kd_status status = KD_OK;
    if (!loss || !inputs) status = kd__fail(KD_ERR_ARG, "%s: %s is NULL", __func__, loss ? "inputs" : "loss");
    if (status == KD_OK) status = kd__desc_read(&in, sizeof in, inputs, __func__);
    output_audit a = { .loss = loss };
    if (status == KD_OK) status = explain_outputs(&a, &in, student_tape, teacher_tape, &t);
    return status == KD_OK ? t.len : 0;
}

/* ---- features ------------------------------------------------------------------------------------------------------------ */
typedef struct feature_audit {
    kd_loss_feature *loss;
    const kd_feature_inputs *in;
    kd_feature_batch b;
    const float    **student, **teacher;
    float          **grad;
    bool            *wants;                  /* of the adapters' parameters, before */
    float           *buffers, *state;        /* as they were */
    size_t           classes;
    double           value;
} feature_audit;

static kd_status check_side(const char *side, kd_tensor *const *x, size_t count, const kd_feature_shape *shapes, size_t wanted,
                            size_t *rows)
{
    char what[40];
    if (count != wanted || (count && !x))
        return kd__fail(KD_ERR_ARG, "%zu %s taps, or they are NULL: the descriptor has %zu", count, side, wanted);
    for (size_t i = 0; i < count; i++) {
        kd__format(what, sizeof what, "%s tap %zu", side, i);
        KD_TRY(kd__tensor_check(x[i], "kd_loss_feature_explain", what));
        if (*rows == SIZE_MAX && x[i]->rank) *rows = x[i]->shape[0];
        if (x[i]->dtype != KD_F32 || x[i]->rank != shapes[i].rank + 1 || x[i]->shape[0] != *rows ||
            memcmp(x[i]->shape + 1, shapes[i].size, shapes[i].rank * sizeof(size_t)) != 0)
            return kd__fail(KD_ERR_SHAPE, "%s is %s %S: not f32 [%zu rows] of %S", what, kd_dtype_name(x[i]->dtype),
                            (size_t)x[i]->rank, x[i]->shape, *rows, shapes[i].rank, shapes[i].size);
    }
    return KD_OK;
}

static kd_status check_other(const char *what, const kd_tensor *x, bool numbers, size_t rank, size_t rows, size_t *second)
{
    if (!x) return KD_OK;
    KD_TRY(kd__tensor_check(x, "kd_loss_feature_explain", what));
    if (numbers ? x->dtype != KD_I32 && x->dtype != KD_I64 : x->dtype != KD_F32)
        return kd__fail(KD_ERR_DTYPE, "%s: %s will not do", what, kd_dtype_name(x->dtype));
    if (x->rank == rank && x->shape[0] == rows && (rank < 2 || !*second || x->shape[1] == *second)) {
        if (rank > 1) *second = x->shape[1];
        return KD_OK;
    }
    return kd__fail(KD_ERR_SHAPE, "%s %S do not fit %zu rows", what, (size_t)x->rank, x->shape, rows);
}

static kd_status check_features(feature_audit *a)
{
    const kd_loss_feature_desc *d = &a->loss->desc;
    const kd_feature_inputs *in = a->in;
    size_t rows = SIZE_MAX, tokens = 1;
    KD_TRY(check_side("student", in->student, in->student_count, d->student, d->student_count, &rows));
    KD_TRY(check_side("teacher", in->teacher, in->teacher_count, d->teacher, d->teacher_count, &rows));
    if (rows == SIZE_MAX && in->student_logits && in->student_logits->rank) rows = in->student_logits->shape[0];
    if (rows == SIZE_MAX) rows = 0;
    a->b.rows = rows;
    a->classes = d->classes;
    KD_TRY(check_other("student_logits", in->student_logits, false, 2, rows, &a->classes));
    KD_TRY(check_other("teacher_logits", in->teacher_logits, false, 2, rows, &a->classes));
    KD_TRY(check_other("labels", in->labels, true, 1, rows, NULL));
    KD_TRY(check_other("indices", in->indices, true, 1, rows, NULL));
    if (d->student_count && d->student[0].rank > 1) tokens = d->student[0].size[d->student[0].rank - 2];
    return check_other("mask", in->mask, false, 2, rows, &tokens);
}

static void lay_out_features(feature_audit *a, explain_room *room)
{
    const kd_loss_feature *loss = a->loss;
    const kd_model *m = loss->adapters;
    const kd_feature_inputs *in = a->in;
    a->student = room_take(room, in->student_count, sizeof *a->student);
    a->teacher = room_take(room, in->teacher_count, sizeof *a->teacher);
    a->grad = room_take(room, in->student_count, sizeof *a->grad);
    a->wants = room_take(room, m ? m->parameter_count : 0, sizeof *a->wants);
    a->buffers = room_take(room, m ? m->buffer_floats : 0, sizeof(float));
    a->state = room_take(room, loss->state_floats, sizeof(float));
    for (size_t i = 0; i < in->student_count; i++) {
        const float *x = room_read(room, in->student[i]);
        float *grad = room_take(room, in->student[i]->count, sizeof(float));
        if (room->base) a->student[i] = x, a->grad[i] = grad;
    }
    for (size_t i = 0; i < in->teacher_count; i++) {
        const float *x = room_read(room, in->teacher[i]);
        if (room->base) a->teacher[i] = x;
    }
    a->b.struct_size = sizeof a->b;
    a->b.student = a->student, a->b.teacher = a->teacher, a->b.grad = a->grad;
    a->b.labels = room_numbers(room, in->labels);
    a->b.indices = room_numbers(room, in->indices);
    a->b.mask = room_read(room, in->mask);
    a->b.student_logits = room_read(room, in->student_logits);
    a->b.teacher_logits = room_read(room, in->teacher_logits);
    if (in->student_logits && loss->method->needs & KD__NEEDS_STUDENT_LOGITS)
        a->b.grad_logits = room_take(room, in->student_logits->count, sizeof(float));
}

/* As on the student's tape; everything that a TRAIN tape moves is put back. */
static kd_status run_features(feature_audit *a, const kd_tape *student_tape)
{
    kd_loss_feature *loss = a->loss;
    kd_model *m = loss->adapters;
    const kd_loss_feature_desc desc = loss->desc;
    uint64_t counter[4];
    if (!loss->tape) KD_TRY(kd_tape_create(&loss->tape, loss->ctx, KD_TAPE_EVAL));
    const kd_rng rng = loss->tape->rng;
    memcpy(counter, loss->counter, sizeof counter);
    memcpy(a->state, loss->state, loss->state_floats * sizeof(float));
    if (m && m->buffer_floats) memcpy(a->buffers, m->buffers, m->buffer_floats * sizeof(float));
    for (size_t i = 0; m && i < m->parameter_count; i++) {
        a->wants[i] = m->entries[i]->tensor.requires_grad;
        m->entries[i]->tensor.requires_grad = false;
    }
    loss->desc.adapters_external = 1;
    loss->desc.classes = a->classes;
    if (student_tape) loss->tape->rng = student_tape->rng;
    a->b.train = student_tape && student_tape->mode == KD_TAPE_TRAIN;
    kd_status status = kd_loss_feature_eval(loss, &a->b, &a->value);
    loss->desc = desc;
    loss->tape->rng = rng;
    memcpy(loss->counter, counter, sizeof counter);
    memcpy(loss->state, a->state, loss->state_floats * sizeof(float));
    if (m && m->buffer_floats) memcpy(m->buffers, a->buffers, m->buffer_floats * sizeof(float));
    for (size_t i = 0; m && i < m->parameter_count; i++) m->entries[i]->tensor.requires_grad = a->wants[i];
    return status;
}

static void warn_features(explain_text *t, const feature_audit *a, const kd_tape *student_tape, const kd_tape *teacher_tape)
{
    const kd_feature_inputs *in = a->in;
    char what[40];
    double squares = 0;
    const bool one = in->student_count && in->teacher_count && a->student[0] == a->teacher[0];
    warn_tapes(t, student_tape, in->student_count ? in->student[0] : in->student_logits, teacher_tape,
               one ? NULL : in->teacher_count ? in->teacher[0] : in->teacher_logits);
    for (size_t i = 0; i < in->student_count; i++) {
        const size_t n = in->student[i]->count;
        for (size_t j = 0; j < in->teacher_count; j++)
            if (a->student[i] == a->teacher[j]) say(t, "warning: student tap %zu and teacher tap %zu are the same tensor\n", i, j);
        kd__format(what, sizeof what, "student tap %zu", i);
        if (n) warn_numbers(t, what, a->student[i], a->b.rows, n / a->b.rows, false);
        squares += norm_of(a->loss->ctx->kernels, a->grad[i], n);
    }
    for (size_t i = 0; i < in->teacher_count; i++) {
        kd__format(what, sizeof what, "teacher tap %zu", i);
        if (in->teacher[i]->count) warn_numbers(t, what, a->teacher[i], a->b.rows, in->teacher[i]->count / a->b.rows, false);
    }
    if (a->b.mask && in->mask->count) {
        size_t kept = 0;
        for (size_t i = 0; i < in->mask->count; i++) kept += a->b.mask[i] != 0.0f;
        if (!kept) say(t, "warning: the mask keeps no token\n");
    }
    if (a->b.rows == 1 && a->value == 0)
        say(t, "warning: one row, and the value is 0: a method that compares rows needs more of them\n");
    else if (a->value != 0 && squares == 0 && in->student_count && !a->b.grad_logits)
        say(t, "warning: the value is not 0 and no gradient reaches a student tap\n");
    if (a->loss->desc.weight == 0.0f) say(t, "warning: weight is 0: this loss does nothing\n");
}

static void say_features(explain_text *t, const feature_audit *a, const kd_tape *student_tape, const kd_tape *teacher_tape)
{
    const kd_loss_feature *loss = a->loss;
    const kd_loss_feature_desc *d = &loss->desc;
    const kd__kernels *k = loss->ctx->kernels;
    const double factor = kd__feature_factor(loss), weight = (double)d->weight;
    say_source(t, KD_METHOD_FEATURE, d->method);
    say(t, "  form %s, %zu rows, as on %s tape\n", form_name(d->form), a->b.rows, a->b.train ? "a TRAIN" : "an EVAL");
    say(t, "loss %.9g; weight %.6g", a->value, weight);
    if (factor != weight) say(t, " x %.6g (warm-up)", factor / weight);
    if (factor > 0) say(t, ", without it %.9g", a->value / factor);
    say(t, "\n");
    for (size_t i = 0; i < d->student_count; i++)
        say(t, "  student tap %zu %S: norm %.6g, gradient %.6g\n", i, d->student[i].rank, d->student[i].size,
            norm_of(k, a->student[i], a->in->student[i]->count), norm_of(k, a->grad[i], a->in->student[i]->count));
    for (size_t i = 0; i < d->teacher_count; i++)
        say(t, "  teacher tap %zu %S: norm %.6g\n", i, d->teacher[i].rank, d->teacher[i].size,
            norm_of(k, a->teacher[i], a->in->teacher[i]->count));
    if (a->b.grad_logits)
        say(t, "  student logits: gradient %.6g\n", norm_of(k, a->b.grad_logits, a->in->student_logits->count));
    say_adapters(t, loss->adapters, d->adapters_external, "kd_loss_feature_adapters");
    warn_features(t, a, student_tape, teacher_tape);
}

static kd_status explain_features(feature_audit *a, const kd_tape *student_tape, const kd_tape *teacher_tape, explain_text *t)
{
    explain_room room = { NULL, 0 };
    kd_context *ctx = a->loss->ctx;
    KD_TRY(check_features(a));
    lay_out_features(a, &room);
    void *space = kd__scratch_get(ctx, room.used);
    if (!space) return kd__fail(KD_ERR_NOMEM, "out of memory for %zu rows", a->b.rows);
    room = (explain_room){ space, 0 };
    lay_out_features(a, &room);
    kd_status status = run_features(a, student_tape);
    if (status == KD_OK) say_features(t, a, student_tape, teacher_tape);
    kd__scratch_put(ctx, space);
    return status;
}

size_t kd_loss_feature_explain(kd_loss_feature *loss, const kd_feature_inputs *inputs, const kd_tape *student_tape,
                               const kd_tape *teacher_tape, char *out, size_t cap)
{
    KD__FP_SCOPE;
    explain_text t = { out, out ? cap : 0, 0 };
    kd_feature_inputs in = { .struct_size = sizeof in };
    if (t.cap) out[0] = 0;
    kd_status status = KD_OK;
    if (!loss || !inputs) status = kd__fail(KD_ERR_ARG, "%s: %s is NULL", __func__, loss ? "inputs" : "loss");
    if (status == KD_OK) status = kd__desc_read(&in, sizeof in, inputs, __func__);
    feature_audit a = { .loss = loss, .in = &in };
    if (status == KD_OK) {
        status = explain_features(&a, student_tape, teacher_tape, &t);
        if (status != KD_OK) kd__fail_prefix(status, "%s: %s: ", __func__, loss->name);
    }
    return status == KD_OK ? t.len : 0;
}
