/* test_methods_outputs.c - every method of kd_loss_distill, from methods.def: value and gradient against its reference, hard
 * places, invariances, bits, memory.  tests/ref/method_ref.h says what is checked; `test_methods_outputs NAME` runs one method.
 * SPDX-License-Identifier: MIT */
#include "methods_check.h"
#include <stdlib.h>

typedef struct method { const char *name; uint32_t number; const method_output *ref; } method;
static const method methods[] = {
#define DISTILL(id, name, source) { name, KD_DISTILL_##id, &method_output_##id },
#define FEATURE(id, name, source)
#include "distill/methods.def"
#undef DISTILL
#undef FEATURE
};
enum { METHODS = sizeof methods / sizeof *methods };

/* ---- a problem: the numbers in float for the library, in double for the reference --------------------------------- */
enum { STUDENT, SECOND, TEACHER, TEACHER_SECOND, MORE0, MORE1, MATRICES };
static const char *const matrix_names[] = { "student", "student_second", "teacher", "teacher_second", "more_teachers[0]",
                                            "more_teachers[1]" };

typedef struct problem {
    const method *m;
    const char   *option;
    char          what[200];
    kd_loss_distill_desc desc;
    size_t   rows, classes, width;      /* all rows, those that labels leave out too */
    float   *f[MATRICES];
    int32_t *labels, *picked;
    size_t   ignored;                   /* the last rows are */
    method_in x;
    double   hard_weight, soft_weight;
} problem;

static size_t width_of(const problem *p, int k) { return k == TEACHER || k >= MORE0 ? p->width : p->classes; }
static int used(const problem *p, int k)
{
    uint32_t needs = p->m->ref->needs;
    return k == STUDENT || (k == TEACHER && !(needs & METHOD_NO_TEACHER)) || (k == SECOND && needs & METHOD_SECOND) ||
           (k == TEACHER_SECOND && needs & METHOD_TEACHER_SECOND) || (k >= MORE0 && needs & METHOD_MORE);
}
static double **mr_matrix(method_in *x, int k)
{
    double **const at[] = { &x->student, &x->second, &x->teacher, &x->teacher_second, &x->more[0], &x->more[1] };
    return at[k];
}

static void problem_free(problem *p)
{
    for (int k = 0; k < MATRICES; k++) free(p->f[k]), free(*mr_matrix(&p->x, k));
    for (size_t i = 0; i < p->x.params; i++) free(p->x.param[i].data);
    free(p->x.student_fixed), free(p->x.second_fixed);
    free(p->labels), free(p->picked), free(p->x.labels), free(p->x.teacher_classes);
    memset(p, 0, sizeof *p);
}

/* Probabilities where the descriptor says the teacher gives them. */
static void to_form(const problem *p, float *row)
{
    if (p->desc.teacher_form == KD_TEACHER_LOGITS || !p->desc.teacher_form) return;
    double *z = mr_new(p->width);
    for (size_t c = 0; c < p->width; c++) z[c] = (double)row[c];
    (p->desc.teacher_form == KD_TEACHER_PROBS ? mr_softmax : mr_log_softmax)(z, p->width, (double)p->desc.temperature, z);
    for (size_t c = 0; c < p->width; c++) row[c] = (float)z[c];
    mr_release();
}

/* What formulas take as constants, from where the student is now. */
static void fix(void *user)
{
    problem *p = user;
    memcpy(p->x.student_fixed, p->x.student, p->x.rows * p->classes * sizeof(double));
    memcpy(p->x.second_fixed, p->x.second, p->x.rows * p->classes * sizeof(double));
}

/* The reference's side from the floats: again after each change of them. */
static void to_double(problem *p)
{
    method_in *x = &p->x;
    x->rows = p->rows - p->ignored, x->classes = p->classes, x->teacher_width = p->width;
    x->desc = &p->desc;
    x->T = (double)p->desc.temperature, x->form = p->desc.form;
    x->alpha = (double)p->desc.alpha, x->beta = (double)p->desc.beta, x->gamma = (double)p->desc.gamma;
    x->more_count = used(p, MORE0) ? 2 : 0;
    for (int k = 0; k < MATRICES; k++)
        for (size_t i = 0; used(p, k) && i < x->rows * width_of(p, k); i++) (*mr_matrix(x, k))[i] = (double)p->f[k][i];
    memcpy(x->labels, p->labels, x->rows * sizeof *p->labels);
    memcpy(x->teacher_classes, p->picked, x->rows * p->width * sizeof *p->picked);
    fix(p);
}

static kd_loss_distill *make_loss(const problem *p, kd_context *ctx)
{
    kd_loss_distill *loss;
    return CHECK_OK(kd_loss_distill_create(&loss, ctx, &p->desc)) ? loss : NULL;
}

static void take_adapters(problem *p)
{
    kd_loss_distill *loss = make_loss(p, NULL);
    kd_model *model = loss ? kd_loss_distill_adapters(loss) : NULL;
    for (size_t i = 0; model && i < kd_model_parameter_count(model) && i < METHOD_PARAMS; i++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(model, i, &info));
        method_param *q = &p->x.param[p->x.params++];
        q->name = info.name;   /* only to be printed while the loss lives: own parameters go by their place */
        q->count = kd_tensor_count(info.tensor);
        q->data = malloc((q->count + 1) * sizeof(double));
        for (size_t j = 0; j < q->count; j++) q->data[j] = (double)kd_tensor_f32(info.tensor)[j];
        q->name = "own";
    }
    kd_loss_distill_free(loss);
}

static void problem_make(problem *p, const method *m, const method_output_option *option, float T, size_t rows, size_t classes,
                         size_t ignored, double scale, kdtest_rand *r)
{
    memset(p, 0, sizeof *p);
    p->m = m, p->option = option->name, p->rows = rows, p->classes = classes, p->ignored = ignored;
    CHECK_OK(kd_loss_distill_desc_for(&p->desc, sizeof p->desc, m->number));
    if (option->set) option->set(&p->desc);
    if (T > 0 && !(m->ref->but & METHOD_NO_TEMPERATURE)) p->desc.temperature = T;
    p->desc.hard_weight = 0, p->desc.soft_weight = 1, p->desc.warmup = 0;
    p->soft_weight = 1;
    p->width = classes;
    if (m->ref->needs & METHOD_WIDTH) p->width = kdtest_size(r, 1, classes + 5);
    if (m->ref->needs & METHOD_SPARSE) p->width = kdtest_size(r, 1, classes);
    for (int k = 0; k < MATRICES; k++) {
        size_t n = rows * width_of(p, k);
        p->f[k] = calloc(n + 1, sizeof(float));
        *mr_matrix(&p->x, k) = calloc(n + 1, sizeof(double));
        kdtest_fill(r, p->f[k], n, scale);
        for (size_t i = 0; (k == TEACHER || k >= MORE0) && i < rows; i++) to_form(p, p->f[k] + i * p->width);
    }
    p->x.student_fixed = calloc(rows * classes + 1, sizeof(double));
    p->x.second_fixed = calloc(rows * classes + 1, sizeof(double));
    p->labels = calloc(rows + 1, sizeof *p->labels), p->x.labels = calloc(rows + 1, sizeof *p->labels);
    p->picked = calloc(rows * p->width + 1, sizeof *p->picked);
    p->x.teacher_classes = calloc(rows * p->width + 1, sizeof *p->picked);
    for (size_t i = 0; i < rows; i++) p->labels[i] = i < rows - ignored ? (int32_t)kdtest_size(r, 0, classes - 1) : -100;
    int32_t *order = calloc(classes + 1, sizeof *order);
    for (size_t i = 0; m->ref->needs & METHOD_SPARSE && i < rows; i++) {
        for (size_t c = 0; c < classes; c++) order[c] = (int32_t)c;
        for (size_t c = 0; c < p->width; c++) {
            size_t j = kdtest_size(r, c, classes - 1);
            p->picked[i * p->width + c] = order[j];
            order[j] = order[c];
        }
    }
    free(order);
    take_adapters(p);
    to_double(p);
    snprintf(p->what, sizeof p->what, "%s (%s), T %g, [%zu, %zu]", m->name, p->option, (double)p->desc.temperature, rows,
             classes);
}

/* ---- the library -------------------------------------------------------------------------------------------------- */
typedef struct result {
    kd_status status;
    double    value;
    float    *grad, *second, own[16];   /* [rows, classes] */
    size_t    own_count;
} result;

static void result_make(result *o, const problem *p)
{
    memset(o, 0, sizeof *o);
    o->grad = calloc(p->rows * p->classes + 1, sizeof(float));
    o->second = calloc(p->rows * p->classes + 1, sizeof(float));
}
static void result_free(result *o) { free(o->grad), free(o->second); }

static int has_labels(const problem *p) { return p->m->ref->needs & METHOD_LABELS || p->ignored || p->desc.hard_weight > 0; }

static void run_pointers(const problem *p, const kd_loss_distill *loss, result *o)
{
    const float *const more[] = { p->f[MORE0], p->f[MORE1] };
    kd_distill_batch b;
    memset(&b, 0, sizeof b);
    b.struct_size = sizeof b, b.rows = p->rows, b.classes = p->classes;
    b.student = p->f[STUDENT], b.grad = o->grad;
    if (used(p, TEACHER)) b.teacher = p->f[TEACHER];
    if (used(p, SECOND)) b.student_second = p->f[SECOND], b.grad_second = o->second;
    if (used(p, TEACHER_SECOND)) b.teacher_second = p->f[TEACHER_SECOND];
    if (used(p, MORE0)) b.more_teachers = more, b.more_teacher_count = 2;
    if (p->width != p->classes) b.teacher_width = p->width;
    if (p->m->ref->needs & METHOD_SPARSE) b.teacher_classes = p->picked, b.teacher_width = p->width;
    if (has_labels(p)) b.labels = p->labels;
    kd_distill_terms terms = { .struct_size = sizeof terms };
    o->status = kd_loss_distill_eval(loss, &b, &terms);
    o->value = terms.loss;
}

/* One step on a tape; the adapters' gradients come to o->own. */
static void run_tape(const problem *p, kd_loss_distill *loss, kd_context *ctx, kd_tape *tape, result *o)
{
    kd_tensor *t[MATRICES] = { NULL }, *labels = NULL, *picked = NULL;
    for (int k = 0; k < MATRICES; k++)
        if (used(p, k)) {
            o->status = kd_tensor_wrap(&t[k], ctx, KD_F32, 2, (size_t[]){ p->rows, width_of(p, k) }, NULL, p->f[k]);
            if (o->status != KD_OK) goto done;
        }
    o->status = kd_tensor_wrap(&labels, ctx, KD_I32, 1, &p->rows, NULL, p->labels);
    if (o->status != KD_OK) goto done;
    o->status = kd_tensor_wrap(&picked, ctx, KD_I32, 2, (size_t[]){ p->rows, p->width }, NULL, p->picked);
    if (o->status != KD_OK) goto done;
    kd_requires_grad(tape, t[STUDENT]);
    if (t[SECOND]) kd_requires_grad(tape, t[SECOND]);
    kd_tensor *more[] = { t[MORE0], t[MORE1] };
    kd_distill_inputs in = { .struct_size = sizeof in, .student = t[STUDENT], .student_second = t[SECOND], .teacher = t[TEACHER],
                             .teacher_second = t[TEACHER_SECOND], .more_teachers = t[MORE0] ? more : NULL,
                             .more_teacher_count = t[MORE0] ? 2 : 0, .labels = has_labels(p) ? labels : NULL,
                             .teacher_classes = p->m->ref->needs & METHOD_SPARSE ? picked : NULL };
    kd_model *own = kd_loss_distill_adapters(loss);
    if (own) kd_model_zero_grads(own);
    kd_tensor *y = kd_loss_distill_apply_inputs(loss, tape, &in);
    o->status = kd_backward(tape, y);
    if (o->status != KD_OK) goto done;
    o->value = kd_tensor_item(y);
    const float *g = kd_grad(tape, t[STUDENT]);
    if (g) memcpy(o->grad, g, p->rows * p->classes * sizeof *g);
    if (t[SECOND] && (g = kd_grad(tape, t[SECOND])) != NULL) memcpy(o->second, g, p->rows * p->classes * sizeof *g);
    for (size_t i = 0; own && i < kd_model_parameter_count(own); i++) {
        kd_param_info info = { .struct_size = sizeof info };
        o->status = kd_model_parameter_at(own, i, &info);
        size_t count = info.grad ? kd_tensor_count(info.tensor) : 0;
        for (size_t j = 0; j < count && o->own_count < 16; j++) o->own[o->own_count++] = info.grad[j];
    }
done:
    for (int k = 0; k < MATRICES; k++) kd_tensor_free(t[k]);
    kd_tensor_free(labels), kd_tensor_free(picked);
}

/* An optimizer that holds what the loss trains, as a TRAIN tape wants. */
static kd_status hold(kd_loss_distill *loss, kd_context *ctx, kd_optimizer **opt)
{
    *opt = NULL;
    if (!kd_loss_distill_adapters(loss)) return KD_OK;
    kd_optimizer_desc desc;
    kd_optimizer_desc_init(&desc, sizeof desc);
    kd_status status = kd_optimizer_create(opt, ctx, &desc);
    return status == KD_OK ? kd_optimizer_add(*opt, kd_loss_distill_adapters(loss)) : status;
}

/* A loss made, one step, all freed. */
static void run_once(const problem *p, kd_context *ctx, int on_tape, result *o)
{
    kd_loss_distill *loss = NULL;
    kd_optimizer *opt = NULL;
    kd_tape *tape = NULL;
    o->status = kd_loss_distill_create(&loss, ctx, &p->desc);
    if (o->status == KD_OK && !on_tape) run_pointers(p, loss, o);
    else if (o->status == KD_OK) {
        o->status = hold(loss, ctx, &opt);
        if (o->status == KD_OK) o->status = kd_tape_create(&tape, ctx, KD_TAPE_TRAIN);
        if (o->status == KD_OK) run_tape(p, loss, ctx, tape, o);
    }
    kd_tape_free(tape);
    kd_optimizer_free(opt);
    kd_loss_distill_free(loss);
}

static uint64_t bits(const problem *p, const result *o)
{
    float value = (float)o->value;
    return kdtest_hash(&value, sizeof value) * 3 + kdtest_hash(o->grad, p->rows * p->classes * sizeof(float)) * 5 +
           kdtest_hash(o->second, p->rows * p->classes * sizeof(float));
}

/* ---- against the reference -------------------------------------------------------------------------------------------- */
/* The mean over rows of the soft term, and of the hard one, weighted. */
static double reference(void *user)
{
    problem *p = user;
    const method_in *x = &p->x;
    double soft = 0, hard = 0;
    if (!x->rows) return 0;
    if (p->m->ref->batch) soft = p->m->ref->batch(x);
    for (size_t r = 0; !p->m->ref->batch && r < x->rows; r++) soft += p->m->ref->row(x, r) / (double)x->rows;
    for (size_t r = 0; p->hard_weight > 0 && r < x->rows; r++)
        hard += (p->m->ref->hard ? p->m->ref->hard(x, r)
                                 : mr_cross_entropy_label(x->student + r * x->classes, x->classes, (size_t)x->labels[r])) /
                (double)x->rows;
    return p->soft_weight * soft + (p->hard_weight > 0 ? p->hard_weight * hard : 0);
}

/* How far apart a row's logits are: what a log-probability can come to, times T. */
static double reach(const problem *p)
{
    double most = 0;
    for (int k = 0; k < MATRICES; k++)
        for (size_t r = 0; used(p, k) && r < p->x.rows; r++) {
            double low = INFINITY, high = -INFINITY;
            for (size_t c = 0; c < width_of(p, k); c++) {
                double v = (*mr_matrix((method_in *)(uintptr_t)&p->x, k))[r * width_of(p, k) + c];
                if (isfinite(v)) low = fmin(low, v), high = fmax(high, v);
            }
            if (high - low > most) most = high - low;
        }
    return most;
}

static void point(problem *p, const result *o, mc_point *at)
{
    int hot = !(p->m->ref->but & METHOD_NO_TEMPERATURE);
    double T = hot ? p->x.T : 1, size;
    memset(at, 0, sizeof *at);
    at->what = p->what, at->value = reference, at->fix = fix, at->user = p;
    size = p->m->ref->size ? p->m->ref->size(&p->x)
                           : T * T * (1 + fabs(p->x.alpha) + fabs(p->x.beta) + fabs(p->x.gamma)) *
                             (reach(p) / T + log((double)p->classes + 1));
    mr_release();
    at->size = size + p->hard_weight * (reach(p) + 1);
    at->longest = p->classes > p->rows ? p->classes : p->rows;
    at->kinks = (p->m->ref->but & METHOD_KINKS) != 0;
    at->seed = p->rows * 1000 + p->classes;
    double step = T < 1 ? T : 1;
    at->grad_size = at->size / (double)(p->x.rows ? p->x.rows : 1) * step / T;   /* in units of step */
    for (int k = 0; k < MATRICES; k++)
        if (used(p, k)) at->array[at->arrays++] = (mc_array){ matrix_names[k], *mr_matrix(&p->x, k), p->x.rows * width_of(p, k),
                                                             !o ? NULL : k == STUDENT ? o->grad : k == SECOND ? o->second
                                                                 : NULL, 1, step, 0 };
    if (p->desc.teacher_form == KD_TEACHER_PROBS)   /* steps and roundings of a probability are another size */
        for (size_t k = 0; k < at->arrays; k++)
            if (!strcmp(at->array[k].name, "teacher") || !strncmp(at->array[k].name, "more", 4)) at->array[k].step = 1e-6;
    size_t own = 0;
    for (size_t i = 0; o && i < p->x.params && o->own_count; i++) {
        at->array[at->arrays++] = (mc_array){ "its own parameter", p->x.param[i].data, p->x.param[i].count, o->own + own,
                                              p->m->ref->own ? p->m->ref->own(&p->x) : 1, 1, at->size };
        own += p->x.param[i].count;
    }
    mr_release();
}

/* Pointer and tape form the same in bits; value and gradient as the reference's.  Returns the tolerance of the value. */
static double compare(problem *p, int values)
{
    result a, b;
    static mc_point at;   /* large */
    double tol = 0;
    result_make(&a, p), result_make(&b, p);
    run_once(p, NULL, 0, &a);
    run_once(p, NULL, 1, &b);
    MC_CHECK(a.status == KD_OK && b.status == KD_OK, "%s: %s, on a tape %s (%s)", p->what, kd_status_name(a.status),
             kd_status_name(b.status), kd_last_error());
    size_t n = p->rows * p->classes;
    MC_CHECK((float)a.value == (float)b.value && mc_equal(a.grad, b.grad, n) && mc_equal(a.second, b.second, n),
             "%s: pointers give %.9g, a tape %.9g, or their gradients differ", p->what, a.value, b.value);
    MC_CHECK(isfinite(a.value), "%s: value %g", p->what, a.value);
    MC_CHECK(mc_finite(a.grad, n) && mc_finite(a.second, n) && mc_finite(b.own, b.own_count),
             "%s: a gradient is not finite", p->what);
    for (size_t i = p->x.rows * p->classes; i < p->rows * p->classes; i++)
        MC_CHECK(a.grad[i] == 0.0f, "%s: a row that is ignored has a gradient, %g", p->what, (double)a.grad[i]);
    if (values && a.status == KD_OK && b.status == KD_OK && !(p->m->ref->but & METHOD_RANDOM)) {
        point(p, &b, &at);
        tol = mc_compare(&at, a.value);
    }
    result_free(&a), result_free(&b);
    return tol;
}

static const float temperatures[] = { .05f, 1, 4, 20 };

static void values(const method *m, const method_output_option *option)
{
    size_t count = kdtest_full() ? 200 : 8;
    kdtest_rand r = { 11 + m->number };
    for (size_t i = 0; i < count; i++) {
        float T = temperatures[i % 4];
        size_t rows = i == 5 ? 1 : kdtest_size(&r, 2, 7), classes = i == 6 ? 2 : i == 7 ? 67 : kdtest_size(&r, 3, 21);
        if (m->ref->but & METHOD_ROWS_1 && rows == 1) rows = 2;
        size_t ignored = i % 3 == 2 ? rows / 3 : 0;
        problem p;
        /* logits of some temperatures: below that the softmax is nearly one class and the test sees little */
        problem_make(&p, m, option, T, rows, classes, ignored, kdtest_uniform(&r, .3, 3) * (T < 1 ? .2 : 1), &r);
        if (i % 4 == 3) {   /* with the hard term beside it */
            p.hard_weight = .25, p.soft_weight = .5;
            p.desc.hard_weight = .25f, p.desc.soft_weight = .5f;
        }
        compare(&p, 1);
        problem_free(&p);
    }
}

/* ---- hard places ------------------------------------------------------------------------------------------------------- */
static void every(problem *p, int k, size_t c, float value)
{
    for (size_t r = 0; r < p->rows && c < width_of(p, k); r++) p->f[k][r * width_of(p, k) + c] = value;
}

static void hard_place(const method *m, const method_output_option *option, float T, int place)
{
    static const char *const names[] = { "one class masked", "the teacher's class masked", "a row masked", "all equal",
                                         "rows twice", "logits to 1e4", "zeros", "one class", "one row", "no rows",
                                         "all ignored", "two classes", "student is teacher", "a class far above", "subnormal" };
    kdtest_rand r = { 99 + m->number };
    uint32_t but = m->ref->but;
    size_t rows = place == 8 ? 1 : place == 9 ? 0 : 4, classes = place == 7 ? 1 : place == 11 ? 2 : 9, values = 0;
    if ((place == 7 && but & METHOD_CLASSES_1) || (place == 8 && but & METHOD_ROWS_1)) return;
    problem p;
    problem_make(&p, m, option, T, rows, classes, place == 10 ? rows : 0, 1, &r);
    size_t label = 3;
    int sparse = (m->ref->needs & (METHOD_SPARSE | METHOD_WIDTH)) != 0, logits = p.desc.teacher_form == KD_TEACHER_LOGITS;
    for (size_t i = 0; i < rows && place < 3; i++)
        if (p.labels[i] >= 0) p.labels[i] = (int32_t)label;
    for (int k = 0; k < MATRICES; k++) {
        size_t n = rows * width_of(&p, k);
        if (!logits && (k == TEACHER || k >= MORE0)) continue;
        if (place == 0 && !sparse) every(&p, k, 5, -INFINITY), values = !(but & METHOD_NO_MASKS);
        if (place == 1 && !sparse && (k == TEACHER || k >= MORE0)) every(&p, k, 5, -INFINITY);
        if (place == 2 && !sparse)
            for (size_t c = 0; c < classes; c++) p.f[k][c] = -INFINITY;
        for (size_t i = 0; i < n; i++) {
            if (place == 3) p.f[k][i] = 1.5f;
            if (place == 4) p.f[k][i] = p.f[k][i % width_of(&p, k)];
            if (place == 5) p.f[k][i] *= 5000;
            if (place == 6) p.f[k][i] = 0;
            if (place == 12 && width_of(&p, k) == classes) p.f[k][i] = p.f[STUDENT][i];
            if (place == 13) p.f[k][i] += i % 3 == 1 ? 300 : 0;
            if (place == 14) p.f[k][i] *= 1e-39f;
        }
    }
    if (place <= 2 && but & METHOD_NO_MASKS) {
        problem_free(&p);
        return;
    }
    to_double(&p);
    snprintf(p.what, sizeof p.what, "%s (%s), T %g, %s", m->name, p.option, (double)p.desc.temperature, names[place]);
    if (place == 5 && but & METHOD_NO_VALUE_1E4) {
        result o;
        result_make(&o, &p);
        run_once(&p, NULL, 0, &o);
        MC_CHECK(o.status == KD_OK && mc_finite(o.grad, rows * classes), "%s: gradient", p.what);
        result_free(&o);
    } else {
        if (place == 9 || place == 10) values = 1;
        double v = place == 1 && !(but & METHOD_RANDOM) ? reference(&p) : 0;
        mr_release();
        if (isfinite(v)) compare(&p, (int)values && !(but & METHOD_KINKS));   /* KL(q || p) with p = 0 is infinite */
    }
    if (place == 12 && m->ref->holds & METHOD_ZERO_AT_TEACHER && logits) {
        result o;
        static mc_point at;   /* large */
        result_make(&o, &p);
        run_once(&p, NULL, 0, &o);
        point(&p, NULL, &at);
        double tol = mc_tolerance(&at, NULL);
        MC_CHECK(fabs(o.value) <= tol, "%s: value %g, not 0 within %.2g", p.what, o.value, tol);
        result_free(&o);
    }
    problem_free(&p);
}

/* ---- invariances --------------------------------------------------------------------------------------------------------- */
static double value_of(problem *p)
{
    result o;
    result_make(&o, p);
    run_once(p, NULL, 0, &o);
    double v = o.status == KD_OK ? o.value : NAN;
    result_free(&o);
    return v;
}

static void invariances(const method *m, const method_output_option *option)
{
    static const char *const names[] = { "classes permuted", "rows permuted", "student shifted", "teacher shifted" };
    for (int k = 0; k < 4; k++) {
        if (!(m->ref->holds & (1u << k)) || m->ref->but & METHOD_RANDOM) continue;
        kdtest_rand r = { 5 + m->number };
        problem p;
        problem_make(&p, m, option, 2, 6, 13, 0, 1.5, &r);
        if (k == 3 && p.desc.teacher_form != KD_TEACHER_LOGITS) {
            problem_free(&p);
            continue;
        }
        static mc_point at;   /* large */
        double before = value_of(&p);
        int sparse = (m->ref->needs & METHOD_SPARSE) != 0;   /* its values stay where they are, their classes change */
        for (int t = 0; t < MATRICES; t++) {
            size_t w = width_of(&p, t);
            float *copy = malloc((p.rows * w + 1) * sizeof *copy);
            memcpy(copy, p.f[t], p.rows * w * sizeof *copy);
            for (size_t i = 0; i < p.rows; i++)
                for (size_t c = 0; c < w; c++) {
                    float *to = &p.f[t][i * w + c];
                    if (k == 0 && w == p.classes && !(sparse && t == TEACHER))
                        *to = copy[i * w + (c * 5 + 2) % w];   /* 5 and 13 have no factor in common */
                    if (k == 1) *to = copy[(i * 5 + 1) % p.rows * w + c];
                    if (k == 2 && (t == STUDENT || t == SECOND)) *to += (float)(i % 3) - .75f;
                    if (k == 3 && (t == TEACHER || t >= TEACHER_SECOND)) *to += (float)(i % 3) - .75f;
                }
            free(copy);
        }
        int32_t labels[6];
        memcpy(labels, p.labels, sizeof labels);
        for (size_t i = 0; i < 6; i++) {
            if (k == 1) p.labels[i] = labels[(i * 5 + 1) % 6];
            for (int32_t c = 0; k == 0 && c < 13; c++)
                if ((c * 5 + 2) % 13 == labels[i]) p.labels[i] = c;
        }
        if (m->ref->needs & METHOD_SPARSE) {
            int32_t *copy = malloc((6 * p.width + 1) * sizeof *copy);
            memcpy(copy, p.picked, 6 * p.width * sizeof *copy);
            for (size_t i = 0; i < 6 * p.width; i++) {
                if (k == 1) p.picked[i] = copy[(i / p.width * 5 + 1) % 6 * p.width + i % p.width];
                for (int32_t c = 0; k == 0 && c < 13; c++)
                    if ((c * 5 + 2) % 13 == copy[i]) p.picked[i] = c;
            }
            free(copy);
        }
        to_double(&p);
        point(&p, NULL, &at);
        double tol = 2 * mc_tolerance(&at, NULL), after = value_of(&p);
        MC_CHECK(fabs(after - before) <= tol, "%s, %s: %.9g became %.9g, more than %.2g apart", p.what, names[k], before,
                 after, tol);
        problem_free(&p);
    }
}

/* ---- the same bits, memory --------------------------------------------------------------------------------------------- */
static void same_bits(const method *m, const method_output_option *option)
{
    static const size_t shapes[][2] = { { 5, 19 }, { 67, 131 }, { 33, 1030 } };
    kd_context *ctx[MC_CONTEXTS];
    size_t contexts = mc_contexts(ctx);
    for (size_t s = 0; s < (kdtest_full() ? 3 : 2); s++) {
        kdtest_rand r = { 3 + m->number };
        problem p;
        problem_make(&p, m, option, 2, shapes[s][0], shapes[s][1], shapes[s][0] / 5, 2, &r);
        uint64_t want = 0;
        for (size_t i = 0; i < contexts; i++) {
            result o;
            result_make(&o, &p);
            run_once(&p, ctx[i], 0, &o);
            if (i == 0) want = bits(&p, &o);
            MC_CHECK(o.status == KD_OK && bits(&p, &o) == want, "%s: %s with %u threads gives other bits than %s with 1", p.what,
                     kd_context_isa(ctx[i]), (unsigned)kd_context_threads(ctx[i]), kd_context_isa(ctx[0]));
            result_free(&o);
        }
        problem_free(&p);
    }
}

static void memory(const method *m, const method_output_option *option)
{
    kdtest_rand r = { 21 + m->number };
    kdtest_alloc a;
    problem p;
    result o, first;
    problem_make(&p, m, option, 2, 5, 11, 1, 1, &r);
    result_make(&o, &p), result_make(&first, &p);
    kdtest_alloc_begin(&a, 2, KD_ISA_AUTO);
    for (int on_tape = 0; on_tape < 2; on_tape++) {
        run_once(&p, a.ctx, on_tape, &first);
        uint64_t want = bits(&p, &first);
        size_t before = a.calls;
        run_once(&p, a.ctx, on_tape, &o);
        size_t calls = a.calls - before;
        for (size_t i = 1; i <= calls; i++) {
            a.fail_at = a.calls + i;
            o.own_count = 0;
            run_once(&p, a.ctx, on_tape, &o);
            MC_CHECK(o.status == KD_ERR_NOMEM || (o.status == KD_OK && bits(&p, &o) == want),
                     "%s: allocation %zu of %zu fails: %s", p.what, i, calls,
                     kd_status_name(o.status));
            a.fail_at = 0;
        }
        run_once(&p, a.ctx, on_tape, &o);
        MC_CHECK(o.status == KD_OK && bits(&p, &o) == want, "%s: other bits after allocations failed", p.what);
    }
    kdtest_alloc_end(&a);
    result_free(&o), result_free(&first), problem_free(&p);

    /* steps: the third allocates nothing; and what a large batch takes */
    problem_make(&p, m, option, 2, 128, 512, 0, 1, &r);
    result_make(&o, &p);
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    kd_loss_distill *loss = make_loss(&p, a.ctx);
    kd_optimizer *opt = NULL;
    kd_tape *tape = NULL;
    if (loss && CHECK_OK(hold(loss, a.ctx, &opt)) && CHECK_OK(kd_tape_create(&tape, a.ctx, KD_TAPE_TRAIN))) {
        size_t before = a.live_bytes, third = 0;
        a.peak_bytes = a.live_bytes;
        for (int step = 0; step < 4; step++) {
            if (step == 2) third = a.calls;
            o.own_count = 0;
            run_tape(&p, loss, a.ctx, tape, &o);
            MC_CHECK(o.status == KD_OK, "%s: step %d: %s", p.what, step, kd_last_error());
            kd_tape_reset(tape);
            if (step == 2) third = a.calls - third;
        }
        /* the tensors over our memory are made by each step: two for labels and picked, and one a matrix */
        size_t wrapped = 2;
        for (int k = 0; k < MATRICES; k++) wrapped += used(&p, k) ? 1 : 0;
        MC_CHECK(third <= wrapped, "%s: the third step allocates %zu times", p.what, third - wrapped);
        size_t limit = (m->ref->memory ? m->ref->memory : 4) << 20, inputs = 0;
        for (int k = 0; k < MATRICES; k++) inputs += used(&p, k) ? p.rows * width_of(&p, k) * sizeof(float) : 0;
        MC_CHECK(a.peak_bytes - before <= limit + inputs, "%s: a step takes %zu bytes, more than %zu", p.what,
                 a.peak_bytes - before, limit + inputs);
    }
    kd_tape_free(tape);
    kd_optimizer_free(opt);
    kd_loss_distill_free(loss);
    kdtest_alloc_end(&a);
    result_free(&o), problem_free(&p);
}

/* ---- a test a method ----------------------------------------------------------------------------------------------- */
static void check_method(const method *m)
{
    static const method_output_option plain[] = { { "default", NULL }, { NULL, NULL } };
    const method_output_option *options = m->ref->options[0].name ? m->ref->options : plain;
    mc_checks();
    double start = kdtest_seconds();
    for (size_t i = 0; i < METHOD_OPTIONS && options[i].name; i++) {
        values(m, &options[i]);
        for (int place = 0; place < 15; place++)
            for (size_t t = 0; t < 4; t++)
                if (t == 2 || kdtest_full() || (t == 0 && place < 7) || (t == 3 && place > 6))
                    hard_place(m, &options[i], temperatures[t], place);
        invariances(m, &options[i]);
        if (i == 0 || kdtest_full()) same_bits(m, &options[i]), memory(m, &options[i]);
    }
    size_t checks = mc_checks();
    CHECK_MSG(checks > 100, "%s: only %zu checks", m->name, checks);
    if (kdtest_full() || getenv("KD_TEST_VERBOSE"))
        printf("%-20s %8zu checks %6.2f s\n", m->name, checks, kdtest_seconds() - start);
}

static void check_number(uint32_t number)
{
    for (size_t i = 0; i < METHODS; i++)
        if (methods[i].number == number) check_method(&methods[i]);
}
#define DISTILL(id, name, source) TEST(id) { check_number(KD_DISTILL_##id); }
#define FEATURE(id, name, source)
#include "distill/methods.def"
#undef DISTILL
#undef FEATURE

TEST(contexts_are_freed) { mc_contexts_free(); }
