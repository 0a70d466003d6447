/* check_distill.c - the distillation kernels, through distill_args.h: values and gradients of every row against double.
 * SPDX-License-Identifier: MIT */
#include "checkkd.h"
#include "ref_distill.h"

/* The options of a loss, a way each. */
typedef struct way {
    float    temperature;
    uint32_t direction, form;
    bool     hard, soft, no_grad, stream, soft_labels, smooth, weights, argmax;
} way;
#define FORWARD .direction = KD_DIRECTION_FORWARD, .form = KD_TEACHER_LOGITS
static const way ways[] = {
    { 4, FORWARD, .hard = true, .soft = true },
    { 1, FORWARD, .hard = true, .soft = true },
    { 2, FORWARD, .hard = true, .soft = true },
    { 2.5f, FORWARD, .hard = true, .soft = true },
    { 0.5f, FORWARD, .hard = true, .soft = true },
    { 4, FORWARD, .hard = true },
    { 4, FORWARD, .soft = true },
    { 4, FORWARD, .hard = true, .soft = true, .no_grad = true },
    { 4, FORWARD, .hard = true, .soft = true, .stream = true },
    { 2, FORWARD, .hard = true, .soft = true, .soft_labels = true },
    { 2, FORWARD, .hard = true, .soft = true, .soft_labels = true, .smooth = true, .weights = true },
    { 2, FORWARD, .hard = true, .smooth = true, .weights = true },
    { 1, .direction = KD_DIRECTION_REVERSE, .form = KD_TEACHER_LOGITS, .soft = true },
    { 3, .direction = KD_DIRECTION_JS, .form = KD_TEACHER_LOGITS, .hard = true, .soft = true },
    { 2, .direction = KD_DIRECTION_FORWARD, .form = KD_TEACHER_PROBS, .soft = true },
    { 2, .direction = KD_DIRECTION_REVERSE, .form = KD_TEACHER_LOG_PROBS, .hard = true, .soft = true },
    { 2, .direction = KD_DIRECTION_JS, .form = KD_TEACHER_PROBS, .soft = true },
    { 1, FORWARD, .hard = true, .soft = true, .argmax = true },
};
static const char *const names[] = { "T 4", "T 1", "T 2", "T 2.5", "T 0.5", "hard", "soft", "no grad", "stream", "soft labels",
                                     "soft labels, weights", "smoothing, weights", "reverse", "JS", "probs", "reverse log-probs",
                                     "JS probs", "argmax", NULL };
static const way *way_of(const ck_case *c) { return ways + c->way; }

enum { GRAD, STUDENT, TEACHER, SOFT_LABELS, LABELS, WEIGHTS, HARD_COEF, SOFT_COEF, HARD, SOFT, MASKED };
static float js_beta, smoothing;
static float *scratch;   /* beside a page that faults, as far as its alignment allows */
static size_t scratch_bytes;

/* The teacher's log-probabilities or probabilities at the temperature. */
static void to_form(float *row, size_t n, const way *w)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp((double)row[i] / (double)w->temperature);
    for (size_t i = 0; i < n; i++) {
        const double log_p = (double)row[i] / (double)w->temperature - log(sum);
        row[i] = (float)(w->form == KD_TEACHER_PROBS ? exp(log_p) : log_p);
    }
}

static void make_distill(ck_case *c)
{
    const way *w = way_of(c);
    const size_t n = c->n, soft_rows = w->soft ? c->rows : 0;
    const double scale = w->temperature < 1 ? 1.5 : 3;
    ck_floats(c, CK_OUT, "grad", w->no_grad ? 0 : c->rows, n, 1);
    ck_strided(c);
    ck_floats(c, CK_IN, "student", c->rows, n, scale);
    ck_strided(c);
    float *teacher = ck_floats(c, CK_IN, "teacher", soft_rows, n, scale);
    ck_strided(c);
    for (size_t r = 0; r < soft_rows && w->form != KD_TEACHER_LOGITS && !c->special; r++) to_form(teacher + r * n, n, w);
    float *soft = ck_floats(c, CK_IN, "soft_labels", w->soft_labels ? c->rows : 0, n, 1);
    ck_strided(c);
    for (size_t r = 0; r < c->a[SOFT_LABELS].rows; r++) {
        float sum = 0;
        for (size_t i = 0; i < n; i++) sum += soft[r * n + i] = fabsf(soft[r * n + i]);
        for (size_t i = 0; i < n; i++) soft[r * n + i] /= sum;
    }
    int32_t *labels = ck_other(c, CK_IN, CK_I32, "labels", w->soft_labels ? 0 : c->rows, 1);
    for (size_t r = 0; r < c->a[LABELS].rows && n; r++) labels[r] = (int32_t)kdtest_size(&c->rand, 0, n - 1);
    float *weights = ck_floats(c, CK_IN, "class_weights", 1, w->weights ? n : 0, 1);
    ck_shared(c);
    for (size_t i = 0; i < c->a[WEIGHTS].n; i++) weights[i] = fabsf(weights[i]) + 0.1f;
    float *hard_coef = ck_floats(c, CK_IN, "hard_coef", c->rows, 1, 0),
          *soft_coef = ck_floats(c, CK_IN, "soft_coef", c->rows, 1, 0);
    for (size_t r = 0; r < c->rows; r++) {   /* now and then a row is not in a term */
        hard_coef[r] = w->hard && (c->bench || kdtest_size(&c->rand, 0, 6)) ? (float)kdtest_uniform(&c->rand, 0.05, 1) : 0;
        soft_coef[r] = w->soft && (c->bench || kdtest_size(&c->rand, 0, 6)) ? (float)kdtest_uniform(&c->rand, 0.05, 10) : 0;
    }
    ck_floats(c, CK_OUT, "hard", n ? c->rows : 0, 1, 1);   /* the kernels want one class at least */
    ck_floats(c, CK_OUT, "soft", n ? c->rows : 0, 1, 1);
    *(int32_t *)ck_other(c, CK_INOUT, CK_I32, "masked", 1, 1) = 5;
    ck_shared(c);
    js_beta = 0.3f;
    smoothing = w->smooth ? 0.1f : 0;
    if (scratch) kdtest_guard_free(scratch, scratch_bytes, 1);
    scratch_bytes = (kd__distill_scratch(n) * sizeof(float) + 63) / 64 * 64;
    scratch = kdtest_guard(scratch_bytes, 1);
    if (!w->no_grad) ck_in_place(c, GRAD, STUDENT);
    c->whole = c->special;   /* `masked` counts over the rows: it is compared where no row is masked */
}

static kd__distill_args args_of(const ck_case *c)
{
    const way *w = way_of(c);
    return (kd__distill_args){
        .rows = c->rows,
        .classes = c->n,
        .student = F(STUDENT),
        .student_stride = ROW(STUDENT),
        .teacher = w->soft ? F(TEACHER) : NULL,
        .teacher_stride = ROW(TEACHER),
        .labels = w->soft_labels ? NULL : c->a[LABELS].at,
        .soft_labels = w->soft_labels ? F(SOFT_LABELS) : NULL,
        .soft_label_stride = ROW(SOFT_LABELS),
        .class_weights = w->weights ? F(WEIGHTS) : NULL,
        .hard_coef = F(HARD_COEF),
        .soft_coef = F(SOFT_COEF),
        .grad = w->no_grad ? NULL : F(GRAD),
        .grad_stride = ROW(GRAD),
        .hard = F(HARD),
        .soft = F(SOFT),
        .scratch = scratch,
        .masked = c->a[MASKED].at,
        .temperature = w->temperature,
        .js_beta = js_beta,
        .smoothing = smoothing,
        .direction = w->direction,
        .teacher_form = w->form,
        .hard_teacher = w->argmax,
        .stream = w->stream,
    };
}
static void run(const ck_case *c, const kd__kernels *k)
{
    const kd__distill_args a = args_of(c);
    if (c->n) k->distill_f32(&a);
}

/* log softmax(x / t) */
static void log_softmax(const double *x, size_t n, double t, double *out)
{
    double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) top = fmax(top, x[i]);
    for (size_t i = 0; i < n; i++) sum += exp((x[i] - top) / t);
    for (size_t i = 0; i < n; i++) out[i] = (x[i] - top) / t - log(sum);
}

/* The gradient of hard * CE + soft * D in double.  log_q, log_p: at the temperature; q1: of the student at temperature 1. */
static void gradient(const way *w, size_t n, double hard, double soft, const double *log_q, const double *log_p,
                     const double *log_q1, const double *target, double *grad)
{
    const double t = (double)w->temperature, beta = (double)js_beta;
    double mass = 0, p_mass = 0, mean = 0;
    size_t best = 0;
    for (size_t i = 0; i < n; i++) {
        mass += target[i];
        p_mass += exp(log_p[i]);
        best = log_p[i] > log_p[best] ? i : best;
        const double m = w->direction == KD_DIRECTION_JS ? log(beta * exp(log_p[i]) + (1 - beta) * exp(log_q[i])) : log_p[i];
        mean += exp(log_q[i]) * (log_q[i] - m);
    }
    for (size_t i = 0; i < n; i++) {
        const double q = exp(log_q[i]), p = exp(log_p[i]);
        double d;
        if (w->argmax) d = exp(log_q1[i]) - (i == best);
        else if (w->direction == KD_DIRECTION_FORWARD) d = (q * p_mass - p) / t;
        else if (w->direction == KD_DIRECTION_REVERSE) d = q * ((log_q[i] - log_p[i]) - mean) / t;
        else d = (1 - beta) * q * ((log_q[i] - log(beta * p + (1 - beta) * q)) - mean) / t;
        grad[i] = hard * (exp(log_q1[i]) * mass - target[i]) + (soft != 0 ? soft * d : 0);
    }
}

/* Rounding of an argument z / T enters exp once: relative error (4 + spread / T) 2^-24 of each term; a difference of
 * logarithms is at most spread / T + log classes: that is `reach`. */
static void oracle(const ck_case *c)
{
    const way *w = way_of(c);
    const size_t n = c->n;
    const double t = w->argmax ? 1 : (double)w->temperature;
    if (!n) return;
    double *work = malloc(6 * n * sizeof *work), *log_q = work, *log_p = work + n, *log_q1 = work + 2 * n, *target = work + 3 * n;
    double *grad = work + 4 * n;
    for (size_t r = 0; r < c->rows; r++) {
        const double hard = (double)BEFORE(HARD_COEF)[r], soft = (double)BEFORE(SOFT_COEF)[r];
        double *s = ck_wide(BEFORE(STUDENT) + r * n, n), *p = w->soft ? ck_wide(BEFORE(TEACHER) + r * n, n) : NULL;
        double *soft_labels = w->soft_labels ? ck_wide(BEFORE(SOFT_LABELS) + r * n, n) : NULL;
        double *weights = w->weights ? ck_wide(BEFORE(WEIGHTS), n) : NULL, cw = 1, low = 0, high = 0;
        const int64_t label = w->soft_labels ? 0 : ((const int32_t *)c->a[LABELS].before)[r];
        ref_distill ref = {.rows = 1,
                           .classes = n,
                           .student = s,
                           .teacher = p,
                           .labels = soft_labels ? NULL : &label,
                           .soft_labels = soft_labels,
                           .class_weights = weights,
                           .temperature = t,
                           .hard_weight = 1,
                           .soft_weight = 1,
                           .js_beta = (double)js_beta,
                           .smoothing = (double)smoothing,
                           .direction = (int)w->direction,
                           .teacher_form = (int)w->form,
                           .hard_teacher = w->argmax,
                           .reduction = 2,
                           .ignore_index = -1,
                           .unlabelled_index = -1};
        const ref_distill_value want = ref_distill_eval(&ref, NULL);
        for (size_t i = 0; i < n; i++) {
            low = fmin(low, fmin(s[i], p && w->form == KD_TEACHER_LOGITS ? p[i] : 0));
            high = fmax(high, fmax(s[i], p && w->form == KD_TEACHER_LOGITS ? p[i] : 0));
            if (weights) cw = fmax(cw, weights[i]);
        }
        const double reach = (high - low) / (t < 1 ? t : 1) + log((double)n) + 1, unit = (8 + 2 * reach) * U;
        ck_near(c, HARD, r, hard != 0 ? want.hard : 0, unit * reach * cw);
        ck_near(c, SOFT, r, soft != 0 ? want.soft : 0, unit * reach);

        log_softmax(s, n, t, log_q);
        log_softmax(s, n, 1, log_q1);
        if (p && w->form == KD_TEACHER_LOGITS) log_softmax(p, n, t, log_p);
        for (size_t i = 0; i < n; i++) {
            if (!p) log_p[i] = 0;
            else if (w->form != KD_TEACHER_LOGITS) log_p[i] = w->form == KD_TEACHER_PROBS ? log(p[i]) : p[i];
            const double one = soft_labels ? soft_labels[i] : (int64_t)i == label;
            target[i] = (weights ? weights[i] : 1) * ((1 - (double)smoothing) * one + (double)smoothing / (double)n);
        }
        gradient(w, n, hard, soft, log_q, log_p, log_q1, target, grad);
        const double scale = hard * cw + soft / t * (w->direction == KD_DIRECTION_FORWARD ? 1 : reach);
        for (size_t i = 0; i < n && !w->no_grad; i++)
            if (!ck_near(c, GRAD, r * n + i, grad[i], unit * scale)) break;
        free(s);
        free(p);
        free(soft_labels);
        free(weights);
    }
    if (*(const int32_t *)c->a[MASKED].after != 5)
        ck_fail(c, "masked rows were counted: %d", *(const int32_t *)c->a[MASKED].after - 5);
    free(work);
}
CK_KERNEL(distill_f32, .ways = names, .matrix = true, .independent = true, .make = make_distill, .run = run, .oracle = oracle,
          .bench_rows = 256, .bench_n = 1000, .ops = 34);
