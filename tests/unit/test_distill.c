/* test_distill.c - kd_loss_distill: published values, every option against the double reference, edges, bits, bad input.
 * SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include "kdtest.h"
#include "ref_distill.h"

#define U (1.0 / 16777216)   /* 2^-24: half a unit in the last place at 1 */

/* One case: the descriptor, a batch in double for the reference and in float for the library. */
typedef struct problem {
    kd_loss_distill_desc desc;
    ref_distill ref;
    size_t   rows, classes, stride;
    double  *student, *teacher, *soft, *row_weights, *class_weights, *row_loss;
    float   *fs, *ft, *fsoft, *frow, *fclass, *grad, *frow_loss;
    int64_t *labels;
    int32_t *labels32;
} problem;

static void problem_make(problem *p, size_t rows, size_t classes, size_t stride)
{
    memset(p, 0, sizeof *p);
    kd_loss_distill_desc_init(&p->desc, sizeof p->desc);
    p->rows = rows, p->classes = classes, p->stride = stride;
    size_t n = rows * stride + 1;
    p->student = calloc(rows * classes + 1, sizeof(double)), p->teacher = calloc(rows * classes + 1, sizeof(double));
    p->soft = calloc(rows * classes + 1, sizeof(double)), p->row_weights = calloc(rows + 1, sizeof(double));
    p->class_weights = calloc(classes + 1, sizeof(double)), p->row_loss = calloc(rows + 1, sizeof(double));
    p->fs = calloc(n, sizeof(float)), p->ft = calloc(n, sizeof(float)), p->fsoft = calloc(n, sizeof(float));
    p->frow = calloc(rows + 1, sizeof(float)), p->fclass = calloc(classes + 1, sizeof(float));
    p->grad = calloc(n, sizeof(float)), p->frow_loss = calloc(rows + 1, sizeof(float));
    p->labels = calloc(rows + 1, sizeof(int64_t)), p->labels32 = calloc(rows + 1, sizeof(int32_t));
}

static void problem_free(problem *p)
{
    void *all[] = { p->student, p->teacher, p->soft, p->row_weights, p->class_weights, p->row_loss, p->fs, p->ft, p->fsoft,
                    p->frow, p->fclass, p->grad, p->frow_loss, p->labels, p->labels32 };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* Round the double side to floats, so that both sides start from the same numbers. */
static void problem_round(problem *p)
{
    for (size_t r = 0; r < p->rows; r++) {
        for (size_t c = 0; c < p->classes; c++) {
            size_t i = r * p->classes + c, k = r * p->stride + c;
            p->student[i] = p->fs[k] = (float)p->student[i];
            p->teacher[i] = p->ft[k] = (float)p->teacher[i];
            p->soft[i] = p->fsoft[k] = (float)p->soft[i];
        }
        p->row_weights[r] = p->frow[r] = (float)p->row_weights[r];
        p->labels32[r] = (int32_t)p->labels[r];
    }
    for (size_t c = 0; c < p->classes; c++) p->class_weights[c] = p->fclass[c] = (float)p->class_weights[c];
}

/* use: bit 0 labels, 1 soft labels, 2 row weights, 3 class weights, 4 labels as i64 */
static void problem_reference(problem *p, unsigned use)
{
    const kd_loss_distill_desc *d = &p->desc;
    p->ref = (ref_distill){
        .rows = p->rows, .classes = p->classes, .student = p->student, .teacher = p->teacher,
        .labels = use & 1 ? p->labels : NULL, .soft_labels = use & 2 ? p->soft : NULL,
        .row_weights = use & 4 ? p->row_weights : NULL, .class_weights = use & 8 ? p->class_weights : NULL,
        .temperature = d->temperature, .hard_weight = d->hard_weight, .soft_weight = d->soft_weight, .js_beta = d->js_beta,
        .smoothing = d->label_smoothing, .direction = (int)d->direction, .teacher_form = (int)d->teacher_form,
        .hard_teacher = d->method == KD_DISTILL_HARD, .squared = d->temperature_squared != 0,
        .reduction = (int)d->reduction, .ignore_index = d->ignore_index, .unlabelled_index = d->unlabelled_index,
    };
}

static kd_distill_batch problem_batch(problem *p, unsigned use)
{
    kd_distill_batch b;
    memset(&b, 0, sizeof b);
    b.struct_size = sizeof b;
    b.rows = p->rows, b.classes = p->classes;
    b.student = p->fs, b.student_stride = p->stride;
    b.teacher = p->ft, b.teacher_stride = p->stride;
    if (use & 1 && use & 16) b.labels64 = p->labels;
    else if (use & 1) b.labels = p->labels32;
    if (use & 2) b.soft_labels = p->fsoft, b.soft_label_stride = p->stride;
    if (use & 4) b.row_weights = p->frow;
    b.grad = p->grad, b.grad_stride = p->stride;
    b.row_loss = p->frow_loss;
    return b;
}

static kd_status problem_eval(problem *p, unsigned use, kd_context *ctx, kd_distill_terms *terms)
{
    kd_loss_distill *loss;
    if (use & 8) p->desc.class_weights = p->fclass, p->desc.class_weight_count = p->classes;
    kd_status st = kd_loss_distill_create(&loss, ctx, &p->desc);
    if (st != KD_OK) return st;
    kd_distill_batch b = problem_batch(p, use);
    memset(terms, 0, sizeof *terms);
    terms->struct_size = sizeof *terms;
    st = kd_loss_distill_eval(loss, &b, terms);
    kd_loss_distill_free(loss);
    return st;
}

static void random_logits(kdtest_rand *r, problem *p, double scale)
{
    for (size_t i = 0; i < p->rows * p->classes; i++) {
        p->student[i] = scale * kdtest_normal(r);
        p->teacher[i] = scale * kdtest_normal(r);
    }
}

/* The teacher's rows as log-probabilities or probabilities at the problem's temperature. */
static void teacher_to_form(problem *p, uint32_t form)
{
    double t = p->desc.temperature;
    for (size_t r = 0; r < p->rows; r++) {
        double *z = p->teacher + r * p->classes, top = -INFINITY, sum = 0;
        for (size_t c = 0; c < p->classes; c++) top = z[c] > top ? z[c] : top;
        for (size_t c = 0; c < p->classes; c++) sum += exp((z[c] - top) / t);
        for (size_t c = 0; c < p->classes; c++) {
            z[c] = (z[c] - top) / t - log(sum);
            if (form == KD_TEACHER_PROBS) z[c] = exp(z[c]);
        }
    }
    p->desc.teacher_form = form;
}

/* d ref loss / d student[i], fourth-order central difference.  NONE counts as the sum of rows. */
static double slope(problem *p, size_t i)
{
    static const double at[4] = { 1, -1, 2, -2 }, weight[4] = { 8.0 / 12, -8.0 / 12, -1.0 / 12, 1.0 / 12 };
    double h = 1e-3 * (p->desc.temperature < 1 ? p->desc.temperature : 1), keep = p->student[i], sum = 0;
    for (int k = 0; k < 4; k++) {
        p->student[i] = keep + at[k] * h;
        sum += weight[k] * ref_distill_eval(&p->ref, NULL).loss;
    }
    p->student[i] = keep;
    return sum / h;
}

/* The largest |log-probability| a row of either side can hold: what multiplies rounding in log space. */
static double spread(const problem *p)
{
    double most = 0;
    for (size_t r = 0; r < p->rows; r++)
        for (int side = 0; side < 2; side++) {
            const double *z = (side ? p->teacher : p->student) + r * p->classes;
            double low = INFINITY, high = -INFINITY;
            for (size_t c = 0; c < p->classes; c++)
                if (isfinite(z[c])) low = z[c] < low ? z[c] : low, high = z[c] > high ? z[c] : high;
            if (high - low > most) most = high - low;
        }
    return most;
}

static size_t samples = 97;   /* of the gradient, where it has many */
static double lane_terms;      /* numbers a lane adds one after the other: each rounds by 2^-24 */

/* Value and gradient of a problem against the reference. */
static void compare(problem *p, unsigned use, kd_context *ctx, const char *what)
{
    kd_distill_terms terms;
    problem_round(p);
    problem_reference(p, use);
    ref_distill_value want = ref_distill_eval(&p->ref, p->row_loss);
    if (!CHECK_OK(problem_eval(p, use, ctx, &terms))) return;

    /* Rounding of the argument z/T enters exp once: relative error (4 + spread / T) 2^-24 of each term; a log-space
     * difference is at most spread / T + log classes. */
    double t = p->desc.method == KD_DISTILL_HARD ? 1 : p->desc.temperature, t2 = p->ref.squared ? t * t : 1;
    double reach = spread(p) / (t < 1 ? t : 1) + log((double)p->classes) + 1, unit = (8 + 2 * reach + lane_terms) * U;
    double rw = 1, cw = 1;
    for (size_t r = 0; use & 4 && r < p->rows; r++) rw = p->row_weights[r] > rw ? p->row_weights[r] : rw;
    for (size_t c = 0; use & 8 && c < p->classes; c++) cw = p->class_weights[c] > cw ? p->class_weights[c] : cw;
    double rows = p->ref.reduction == KD_REDUCE_SUM || p->ref.reduction == KD_REDUCE_NONE ? (double)p->rows * rw * cw : cw * rw;
    double tol_hard = unit * reach * rows, tol_soft = unit * reach * t2 * rows;
    double tol = p->desc.hard_weight * tol_hard + p->desc.soft_weight * tol_soft;
    CHECK_MSG(fabs(terms.loss - want.loss) <= tol, "%s: loss %.9g, want %.9g within %.2g", what, terms.loss, want.loss, tol);
    CHECK_MSG(fabs(terms.hard - want.hard) <= tol_hard, "%s: hard %.9g, want %.9g", what, terms.hard, want.hard);
    CHECK_MSG(fabs(terms.soft - want.soft) <= tol_soft, "%s: soft %.9g, want %.9g", what, terms.soft, want.soft);
    CHECK_MSG(terms.hard_rows == want.hard_rows && terms.soft_rows == want.soft_rows, "%s: rows %zu %zu, want %zu %zu", what,
              terms.hard_rows, terms.soft_rows, want.hard_rows, want.soft_rows);
    for (size_t r = 0; r < p->rows; r++) {
        double row_tol = rw * cw * unit * reach * (p->desc.hard_weight + p->desc.soft_weight * t2);
        CHECK_MSG(fabs(p->frow_loss[r] - p->row_loss[r]) <= row_tol, "%s: row_loss[%zu] %.9g, want %.9g", what, r,
                  (double)p->frow_loss[r], p->row_loss[r]);
    }

    /* The gradient of a row: hard (q - y), soft T (q - p), or q (log ratio - mean) / T: each bounded by the reach. */
    double soft_scale = p->desc.soft_weight * t2 / t * (p->desc.direction == KD_DIRECTION_FORWARD ? 1 : reach);
    double g_scale = (p->desc.hard_weight + soft_scale) * rw * cw;
    size_t step = p->rows * p->classes > 300 ? p->rows * p->classes / samples + 1 : 1;
    for (size_t i = 0; i < p->rows * p->classes; i += step) {
        double g = p->grad[i / p->classes * p->stride + i % p->classes], d = slope(p, i);
        /* the difference quotient itself: h^4 / 30 times the fifth derivative, and 1e-16 |loss| / h */
        double quotient = 1e-9 * g_scale / (t < 1 ? t : 1) + 4e-13 * (fabs(want.loss) + 1) / (t < 1 ? t : 1);
        CHECK_MSG(fabs(g - d) <= unit * g_scale + quotient, "%s: grad[%zu] %.9g, want %.9g within %.2g", what, i, g, d,
                  unit * g_scale + quotient);
    }
}

/* ---- published values (reference/methods 2.13: formulas in double, three rows of four classes) -------- */
static const double golden_s[12] = { 1, 2, .5, -1, .2, -.3, 1.5, .7, -.5, .4, .1, 1.1 };
static const double golden_t[12] = { 2, 1, .1, -.5, -.4, .3, 2.2, .9, .3, -.2, .6, 1.4 };

static void golden(const char *what, double want, void (*set)(kd_loss_distill_desc *), int hard_term)
{
    problem p;
    kd_distill_terms terms;
    problem_make(&p, 3, 4, 4);
    memcpy(p.student, golden_s, sizeof golden_s);
    memcpy(p.teacher, golden_t, sizeof golden_t);
    for (int r = 0; r < 3; r++) p.labels[r] = 1 + r;
    p.desc.hard_weight = hard_term ? 1 : 0, p.desc.soft_weight = hard_term ? 0 : 1;
    set(&p.desc);
    problem_round(&p);
    if (CHECK_OK(problem_eval(&p, 1, NULL, &terms)))
        CHECK_MSG(fabs(terms.loss - want) <= 1e-6, "%s: %.10f, published %.10f", what, terms.loss, want);
    problem_free(&p);
}

static void as_is(kd_loss_distill_desc *d) { (void)d; }
static void t1(kd_loss_distill_desc *d) { d->temperature = 1; }
static void elements(kd_loss_distill_desc *d) { d->reduction = KD_REDUCE_MEAN_ELEMENTS; }
static void deit_soft(kd_loss_distill_desc *d) { d->temperature = 3, d->reduction = KD_REDUCE_MEAN_ELEMENTS; }
static void deit_hard(kd_loss_distill_desc *d) { d->method = KD_DISTILL_HARD; }
static void reverse(kd_loss_distill_desc *d) { d->temperature = 1, d->direction = KD_DIRECTION_REVERSE; }
static void js5(kd_loss_distill_desc *d) { d->temperature = 1, d->direction = KD_DIRECTION_JS; }
static void js1(kd_loss_distill_desc *d) { d->temperature = 1, d->direction = KD_DIRECTION_JS, d->js_beta = .1f; }
static void unscaled(kd_loss_distill_desc *d) { d->temperature_squared = 0; }

TEST(published_values)
{
    golden("CE mean", 0.6186813267, as_is, 1);
    golden("KD T=4, T^2, batchmean", 0.1933596254, as_is, 0);
    golden("KD T=4, T^2, element mean", 0.0483399063, elements, 0);
    golden("KD T=4 without T^2", 0.1933596254 / 16, unscaled, 0);
    golden("KD T=1 batchmean", 0.1845268917, t1, 0);
    golden("DeiT soft tau=3", 0.0485014493, deit_soft, 0);
    golden("DeiT hard", 0.9520146600, deit_hard, 0);
    golden("reverse KL", 0.1912418927, reverse, 0);
    golden("JSD beta=0.5", 0.0453046202, js5, 0);
    golden("JSD beta=0.1", 0.0164433409, js1, 0);
}

/* ---- methods of their own files ------------------------------------------------------------------------- */
static const uint32_t own_methods[] = { KD_DISTILL_KD, KD_DISTILL_HARD, KD_DISTILL_DEIT_SOFT, KD_DISTILL_DEIT_HARD,
                                       KD_DISTILL_DKD, KD_DISTILL_DIST,
                                        KD_DISTILL_MSE_LOGITS, KD_DISTILL_COSINE_LOGITS, KD_DISTILL_MULTI_TEACHER,
                                            KD_DISTILL_MUTUAL,
                                        KD_DISTILL_BORN_AGAIN, KD_DISTILL_LSKD };
enum { OWN_METHODS = sizeof own_methods / sizeof *own_methods };

static kd_loss_distill_desc defaults_of(uint32_t method)
{
    kd_loss_distill_desc d;
    CHECK_OK(kd_loss_distill_desc_for(&d, sizeof d, method));
    return d;
}

/* The loss of a batch by a descriptor; NAN on error. */
static double loss_of(const kd_loss_distill_desc *d, const kd_distill_batch *b)
{
    kd_loss_distill *loss;
    kd_distill_terms terms = { .struct_size = sizeof terms };
    if (!CHECK_OK(kd_loss_distill_create(&loss, NULL, d))) return NAN;
    int ok = CHECK_OK(kd_loss_distill_eval(loss, b, &terms));
    kd_loss_distill_free(loss);
    return ok ? terms.loss : NAN;
}

static void golden_of(const char *what, double want, kd_loss_distill_desc d)
{
    static const int32_t labels[3] = { 1, 2, 3 };
    static const float other[12] = { 9, -3, 2, 1, 0, 4, 1, 1, -2, 3, 5, 1 };
    float s[12], t[12], grad[12];
    int second = d.method == KD_DISTILL_DEIT_SOFT || d.method == KD_DISTILL_DEIT_HARD;
    for (int i = 0; i < 12; i++) s[i] = (float)golden_s[i], t[i] = (float)golden_t[i];
    kd_distill_batch b = { .struct_size = sizeof b, .rows = 3, .classes = 4, .student = second ? other : s, .teacher = t,
                          .labels = labels,
                           .student_second = second ? s : NULL, .grad = grad };
    d.hard_weight = 0, d.soft_weight = 1, d.warmup = 0;
    double got = loss_of(&d, &b);
    CHECK_MSG(fabs(got - want) <= 1e-6 * (want > 1 ? want : 1), "%s: %.10f, published %.10f", what, got, want);
}

TEST(published_values_of_methods)
{
    kd_loss_distill_desc d = defaults_of(KD_DISTILL_DEIT_SOFT);
    d.temperature = 3;
    golden_of("DeiT soft tau=3", 0.0485014493, d);
    golden_of("DeiT hard", 0.9520146600, defaults_of(KD_DISTILL_DEIT_HARD));
    d = defaults_of(KD_DISTILL_DKD);
    golden_of("DKD alpha=1 beta=8 T=4", 1.3346221022, d);
    d.beta = 0;
    golden_of("DKD TCKD T=4", 0.0841958306, d);
    d.alpha = 0, d.beta = 1;
    golden_of("DKD NCKD T=4", 0.1563032840, d);
    d = defaults_of(KD_DISTILL_DIST);
    golden_of("DIST tau=4 total", 6.1207024895, d);
    d.temperature = 1, d.gamma = 0;
    golden_of("DIST inter tau=1", 0.3166887978, d);
    d.beta = 0, d.gamma = 1;
    golden_of("DIST intra tau=1", 0.0554145521, d);
    d = defaults_of(KD_DISTILL_LSKD);
    golden_of("LSKD T=2", 0.1820906522, d);
    d.temperature = (float)(2 * sqrt(3. / 4)), d.temperature_squared = 0;   /* the other deviation is another temperature */
    golden_of("LSKD T=2, biased deviation", 0.2367552667 / 4, d);
    d = defaults_of(KD_DISTILL_BORN_AGAIN);
    golden_of("KD T=1 as born again", 0.1845268917, d);
    d = defaults_of(KD_DISTILL_MUTUAL);
    golden_of("KD T=1 as mutual", 0.1845268917, d);
    golden_of("KD T=4 as one of several teachers", 0.1933596254, defaults_of(KD_DISTILL_MULTI_TEACHER));
    kd_loss_distill_desc_init(&d, sizeof d);
    CHECK_STATUS(kd_loss_distill_desc_for(&d, sizeof d, 0), KD_ERR_ARG);
    CHECK(d.method == KD_DISTILL_KD);
}

/* Every method: a gradient written over its logits, strided rows, and rows weighted 0 are the same as without; labels as
 * classes, wide classes and one-hot rows; -0 and 0 are alike. */
TEST(methods_in_place_strided_and_weighted)
{
    enum { ROWS = 37, CLASSES = 19, WIDE = 23 };
    kdtest_rand r = { 77 };
    static float s[ROWS * WIDE], z[ROWS * WIDE], t[ROWS * WIDE], soft[ROWS * CLASSES], tight[3][ROWS * CLASSES],
        g[2][ROWS * CLASSES],
        wide[2][ROWS * WIDE], weights[ROWS];
    int32_t labels[ROWS];
    int64_t labels64[ROWS];
    for (size_t i = 0; i < ROWS * WIDE; i++) s[i] = (float)kdtest_normal(&r), z[i] = (float)kdtest_normal(&r),
        t[i] = (float)kdtest_normal(&r);
    for (size_t i = 0; i < ROWS; i++) {
        labels64[i] = labels[i] = (int32_t)kdtest_size(&r, 0, CLASSES - 1);
        soft[i * CLASSES + (size_t)labels[i]] = 1;
        weights[i] = i % 5 ? 1 : 0;
        for (size_t c = 0; c < CLASSES; c++)
            tight[0][i * CLASSES + c] = s[i * WIDE + c], tight[1][i * CLASSES + c] = z[i * WIDE + c],
                tight[2][i * CLASSES + c] = t[i * WIDE + c];
    }
    for (size_t m = 0; m < OWN_METHODS; m++) {
        kd_loss_distill_desc d = defaults_of(own_methods[m]);
        kd_distill_batch b = { .struct_size = sizeof b, .rows = ROWS, .classes = CLASSES, .student = tight[0],
                              .student_second = tight[1],
                               .teacher = tight[2], .labels = labels, .grad = g[0], .grad_second = g[1] }, c = b;
        memset(g, 0, sizeof g), memset(wide, 0, sizeof wide);
        double want = loss_of(&d, &b);
        CHECK(isfinite(want));
        memcpy(wide[0], s, sizeof s), memcpy(wide[1], z, sizeof z);
        c.student = c.grad = wide[0], c.student_second = c.grad_second = wide[1], c.teacher = t;
        c.student_stride = c.grad_stride = c.student_second_stride = c.grad_second_stride = c.teacher_stride = WIDE;
        c.labels = NULL, c.labels64 = labels64;
        CHECK_MSG(loss_of(&d, &c) == want, "method %u: another value in place", own_methods[m]);
        for (size_t i = 0; i < ROWS * CLASSES; i++) {
            size_t k = i / CLASSES * WIDE + i % CLASSES;
            int second = own_methods[m] == KD_DISTILL_DEIT_SOFT || own_methods[m] == KD_DISTILL_DEIT_HARD;
            CHECK_MSG(wide[0][k] == g[0][i] && (!second || wide[1][k] == g[1][i]), "method %u: gradient %zu in place %g, not %g",
                      own_methods[m],
                      i, (double)wide[0][k], (double)g[0][i]);
        }
        c = b, c.labels = NULL, c.soft_labels = soft;
        double one_hot = loss_of(&d, &c);
        CHECK_MSG(fabs(one_hot - want) <= 1e-5 * fabs(want), "method %u: %.9g with one-hot rows, %.9g with classes",
                  own_methods[m], one_hot,
                  want);
        /* rows of weight 0 are rows that are not there */
        b.row_weights = weights;
        double weighted = loss_of(&d, &b);
        size_t left = 0;
        for (size_t i = 0; i < ROWS; i++) {
            for (size_t k = 0; k < CLASSES; k++) {
                if (weights[i] == 0) CHECK_MSG(g[0][i * CLASSES + k] == 0 && g[1][i * CLASSES + k] == 0, "method %u: weight 0",
                                               own_methods[m]);
            }
            if (weights[i] == 0) continue;
            for (size_t k = 0; k < CLASSES; k++) {
                wide[0][left * CLASSES + k] = tight[0][i * CLASSES + k], wide[1][left * CLASSES + k] = tight[1][i * CLASSES + k];
                t[left * CLASSES + k] = tight[2][i * CLASSES + k];
            }
            labels64[left++] = labels[i];
        }
        c = (kd_distill_batch){ .struct_size = sizeof c, .rows = left, .classes = CLASSES, .student = wide[0],
                               .student_second = wide[1],
                                .teacher = t, .labels64 = labels64 };
        double packed = loss_of(&d, &c);
        CHECK_MSG(fabs(packed - weighted) <= 1e-5 * fabs(packed), "method %u: %.9g with weights of 0, %.9g without the rows",
                  own_methods[m],
                  weighted, packed);
        for (size_t i = 0; i < ROWS; i++) {
            labels64[i] = labels[i];
            for (size_t k = 0; k < CLASSES; k++) t[i * WIDE + k] = tight[2][i * CLASSES + k];
        }
    }
}

/* `standardize` with any method: the loss of standardised rows, and the gradient of that. */
TEST(standardized_methods)
{
    enum { ROWS = 5, CLASSES = 21 };
    kdtest_rand r = { 31 };
    for (size_t m = 0; m < OWN_METHODS; m++)
        for (int masks = 0; masks < 2; masks++) {
            kd_loss_distill_desc d = defaults_of(own_methods[m]);
            float x[3][ROWS * CLASSES], y[3][ROWS * CLASSES], g[2][ROWS * CLASSES], moved[2][ROWS * CLASSES];
            int32_t labels[ROWS] = { 3, 1, 20, 3, 0 };
            d.hard_weight = 0;
            kd_distill_batch b = { .struct_size = sizeof b, .rows = ROWS, .classes = CLASSES, .student = x[0],
                                  .student_second = x[1],
                                   .teacher = x[2], .labels = labels, .grad = g[0], .grad_second = g[1] };
            for (size_t i = 0; i < ROWS * CLASSES; i++)
                for (int k = 0; k < 3; k++) x[k][i] = masks && i % CLASSES == 7 ? -INFINITY : (float)(3 * kdtest_normal(&r) + 1);
            if (d.method == KD_DISTILL_MSE_LOGITS || d.method == KD_DISTILL_COSINE_LOGITS) {
                kd_loss_distill *loss;
                d.standardize = 1;
                CHECK_STATUS(kd_loss_distill_create(&loss, NULL, &d), KD_ERR_ARG);
                CHECK_ERROR_HAS("standardize");
                continue;
            }
            for (int k = 0; k < 3; k++)
                for (size_t row = 0; row < ROWS; row++) {
                    double sum = 0, squares = 0, n = masks ? CLASSES - 1 : CLASSES;
                    const float *from = x[k] + row * CLASSES;
                    for (size_t c = 0; c < CLASSES; c++) sum += isfinite(from[c]) ? (double)from[c] : 0;
                    for (size_t c = 0; c < CLASSES; c++) squares += isfinite(from[c]) ? pow((double)from[c] - sum / n, 2) : 0;
                    for (size_t c = 0; c < CLASSES; c++)
                        y[k][row * CLASSES + c] = (float)(((double)from[c] - sum / n) / (sqrt(squares / (n - 1)) + 1e-7));
                }
            kd_distill_batch plain = b;
            plain.student = y[0], plain.student_second = y[1], plain.teacher = y[2];
            d.standardize = d.method == KD_DISTILL_LSKD;   /* twice is once */
            double want = loss_of(&d, &plain);
            d.standardize = 1;
            memset(g, 0, sizeof g);
            double got = loss_of(&d, &b);
            CHECK_MSG(fabs(got - want) <= 1e-5 * fabs(want), "method %u: %.9g, of standardised rows %.9g", own_methods[m], got,
                      want);
            /* a step along the gradient, both ways */
            double slope_got = 0, h = 1e-2, largest = 0;
            for (int k = 0; k < 2; k++)
                for (size_t i = 0; i < ROWS * CLASSES; i++) {
                    slope_got += (double)g[k][i] * (double)g[k][i];
                    if (fabs((double)g[k][i]) > largest) largest = fabs((double)g[k][i]);
                }
            double at[2];
            for (int side = 0; side < 2; side++) {
                for (int k = 0; k < 2; k++)
                    for (size_t i = 0; i < ROWS * CLASSES; i++)
                        moved[k][i] = (float)((double)x[k][i] + (side ? -1 : 1) * h / largest * (double)g[k][i]);
                kd_distill_batch there = b;
                there.student = moved[0], there.student_second = moved[1], there.grad = there.grad_second = NULL;
                at[side] = loss_of(&d, &there);
            }
            double slope_want = (at[0] - at[1]) / 2 / (h / largest);
            CHECK_MSG(fabs(slope_got - slope_want) <= 2e-3 * slope_got, "method %u: slope %.7g, by differences %.7g",
                      own_methods[m], slope_got,
                      slope_want);
        }
}

/* The teacher as probabilities and their logarithms, and as several that are one. */
TEST(teachers_of_any_form)
{
    enum { ROWS = 9, CLASSES = 33 };
    kdtest_rand r = { 41 };
    float x[3][ROWS * CLASSES], logs[ROWS * CLASSES], probs[ROWS * CLASSES], g[2][ROWS * CLASSES];
    int32_t labels[ROWS];
    for (size_t i = 0; i < ROWS; i++) labels[i] = (int32_t)i;
    for (size_t i = 0; i < ROWS * CLASSES; i++)
        for (int k = 0; k < 3; k++) x[k][i] = (float)(2 * kdtest_normal(&r));
    for (size_t m = 0; m < OWN_METHODS; m++)
        for (uint32_t standardize = 0; standardize < 2; standardize++) {
            kd_loss_distill_desc d = defaults_of(own_methods[m]);
            if (d.method == KD_DISTILL_MSE_LOGITS || d.method == KD_DISTILL_COSINE_LOGITS) continue;
            if (d.method != KD_DISTILL_LSKD) d.standardize = standardize;
            const float *more[2] = { x[2], x[2] };
            kd_distill_batch b = { .struct_size = sizeof b, .rows = ROWS, .classes = CLASSES, .student = x[0],
                                  .student_second = x[1],
                                   .teacher = x[2], .labels = labels, .grad = g[0], .grad_second = g[1] };
            CHECK_OK(kd_log_softmax_rows(NULL, ROWS, CLASSES, x[2], CLASSES, d.temperature, logs, CLASSES));
            CHECK_OK(kd_softmax_rows(NULL, ROWS, CLASSES, x[2], CLASSES, d.temperature, probs, CLASSES));
            double want = loss_of(&d, &b);
            for (uint32_t way = 0; way < 6; way++) {
                kd_loss_distill_desc e = d;
                kd_distill_batch c = b;
                if (way == 0) e.teacher_form = KD_TEACHER_LOG_PROBS, c.teacher = logs;
                if (way == 1) e.teacher_form = KD_TEACHER_PROBS, c.teacher = probs;
                if (way >= 2 && way < 5) e.teachers = way - 1, c.more_teachers = more, c.more_teacher_count = 2;
                const float *more_probs[1] = { probs };
                if (way == 5) e.teacher_form = KD_TEACHER_PROBS, c.teacher = probs, c.more_teachers = more_probs,
                    c.more_teacher_count = 1;
                double got = loss_of(&e, &c);
                CHECK_MSG(fabs(got - want) <= 2e-5 * fabs(want), "method %u, standardize %u, way %u: %.9g, not %.9g", d.method,
                          standardize, way,
                          got, want);
            }
        }
}

/* Means of probabilities far below the smallest float: -200 and -220 are logarithms of the mean all the same. */
TEST(teachers_that_underflow)
{
    float s[2] = { 0, -.1f }, t[2] = { 0, -10 }, u[2] = { 0, -11 };
    const float *more[1] = { u };
    kd_distill_batch b = { .struct_size = sizeof b, .rows = 1, .classes = 2, .student = s, .teacher = t, .more_teachers = more,
                           .more_teacher_count = 1 };
    kd_loss_distill_desc d = defaults_of(KD_DISTILL_MULTI_TEACHER);
    d.temperature = .05f, d.direction = KD_DIRECTION_REVERSE, d.hard_weight = 0, d.soft_weight = 1, d.temperature_squared = 0;
    double T = (double)d.temperature, q = 1 / (1 + exp(-(double)s[1] / T)), log_p = log((exp(0.) + exp(-1 / T)) / 2) - 10 / T;
    double want = q * (log(q) - log_p) + (1 - q) * log(1 - q), got = loss_of(&d, &b);
    CHECK_MSG(fabs(got - want) <= 1e-5 * want, "%.9g, not %.9g", got, want);
}

TEST(curricula)
{
    float s[8] = { 1, 2, 3, 4, 0, 1, 0, 2 }, t[8] = { 4, 3, 2, 1, 1, 1, 5, 0 };
    int32_t labels[2] = { 0, 3 };
    kd_distill_batch b = { .struct_size = sizeof b, .rows = 2, .classes = 4, .student = s, .teacher = t, .labels = labels };
    kd_loss_distill *loss;
    kd_loss_distill_desc d = defaults_of(KD_DISTILL_DKD);
    kd_distill_terms terms = { .struct_size = sizeof terms };
    d.warmup = 4;
    CHECK_OK(kd_loss_distill_create(&loss, NULL, &d));
    for (int epoch = 1; epoch <= 6; epoch++) {
        CHECK_OK(kd_loss_distill_eval(loss, &b, &terms));
        double share = epoch < 4 ? epoch / 4. : 1;
        CHECK_MSG(fabs(terms.loss - (terms.hard + share * terms.soft)) <= 1e-12 * terms.loss, "epoch %d: %g of %g", epoch,
                  terms.loss, terms.soft);
        CHECK_OK(kd_loss_distill_advance(loss));
    }
    double before = terms.soft;
    CHECK_OK(kd_loss_distill_set_weights(loss, 0, 2));
    CHECK_OK(kd_loss_distill_set_temperature(loss, 2));
    CHECK_OK(kd_loss_distill_eval(loss, &b, &terms));
    CHECK(terms.loss == 2 * terms.soft && terms.soft != before);
    CHECK_STATUS(kd_loss_distill_set_weights(loss, -1, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_loss_distill_set_weights(loss, 0, NAN), KD_ERR_ARG);
    CHECK_STATUS(kd_loss_distill_set_temperature(loss, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_loss_distill_set_temperature(NULL, 1), KD_ERR_ARG);
    CHECK_STATUS(kd_loss_distill_advance(NULL), KD_ERR_ARG);
    CHECK(kd_loss_distill_adapters(loss) == NULL && kd_loss_distill_adapters(NULL) == NULL);
    double same = terms.loss;
    CHECK_OK(kd_loss_distill_eval(loss, &b, &terms));
    CHECK(terms.loss == same);
    kd_loss_distill_free(loss);
}

/* What a method needs and misses is named. */
TEST(missing_inputs)
{
    float s[8] = { 0 }, t[8] = { 0 }, g[8] = { 0 };
    int32_t labels[2] = { 0, -1 };
    kd_distill_batch b = { .struct_size = sizeof b, .rows = 2, .classes = 4, .student = s, .teacher = t }, c = b;
    kd_loss_distill *loss;
    kd_distill_terms terms = { .struct_size = sizeof terms };
    kd_loss_distill_desc d = defaults_of(KD_DISTILL_DKD);
    d.hard_weight = 0, d.unlabelled_index = -1;
    CHECK_OK(kd_loss_distill_create(&loss, NULL, &d));
    CHECK_STATUS(kd_loss_distill_eval(loss, &b, &terms), KD_ERR_ARG);
    CHECK_ERROR_HAS("labels");
    CHECK_ERROR_HAS("dkd");
    c.labels = labels;
    CHECK_OK(kd_loss_distill_eval(loss, &c, &terms));
    CHECK(terms.soft_rows == 1);   /* the row without a class leaves the soft term too */
    kd_loss_distill_free(loss);
    d = defaults_of(KD_DISTILL_DEIT_HARD);
    d.hard_weight = 0;
    CHECK_OK(kd_loss_distill_create(&loss, NULL, &d));
    CHECK_STATUS(kd_loss_distill_eval(loss, &b, &terms), KD_ERR_ARG);
    CHECK_ERROR_HAS("student_second");
    c = b, c.student_second = s, c.grad = c.grad_second = g;
    CHECK_STATUS(kd_loss_distill_eval(loss, &c, &terms), KD_ERR_ARG);
    CHECK_ERROR_HAS("grad_second");
    c.grad = NULL, c.grad_second = t;
    CHECK_STATUS(kd_loss_distill_eval(loss, &c, &terms), KD_ERR_ARG);
    kd_loss_distill_free(loss);
    d = defaults_of(KD_DISTILL_MULTI_TEACHER);
    d.hard_weight = 0, d.teachers = KD_TEACHERS_BEST;
    CHECK_OK(kd_loss_distill_create(&loss, NULL, &d));
    c = b, c.more_teacher_count = 1;
    CHECK_STATUS(kd_loss_distill_eval(loss, &c, &terms), KD_ERR_ARG);
    const float *more[1] = { t };
    c.more_teachers = more;
    CHECK_STATUS(kd_loss_distill_eval(loss, &c, &terms), KD_ERR_ARG);
    CHECK_ERROR_HAS("BEST");
    kd_loss_distill_free(loss);
    d = defaults_of(KD_DISTILL_MSE_LOGITS);
    d.hard_weight = 0;
    CHECK_OK(kd_loss_distill_create(&loss, NULL, &d));
    CHECK_STATUS(kd_loss_distill_eval(loss, &c, &terms), KD_ERR_ARG);
    CHECK_ERROR_HAS("one teacher");
    c = b, c.teacher_width = 3;
    CHECK_STATUS(kd_loss_distill_eval(loss, &c, &terms), KD_ERR_SHAPE);
    kd_loss_distill_free(loss);
}

/* ---- every option against the reference ----------------------------------------------------------------- */
TEST(options_against_the_reference)
{
    static const float temperatures[] = { .05f, .5f, 1, 2, 3, 4, 20 };
    kdtest_rand r = { 20151 };
    size_t cases = kdtest_full() ? 6000 : 500;
    for (size_t k = 0; k < cases; k++) {
        problem p;
        char what[200];
        size_t classes = k % 10 == 0 ? kdtest_size(&r, 1, 3) : k % 25 == 7 ? kdtest_size(&r, 100, 400) : kdtest_size(&r, 2, 40);
        size_t rows = kdtest_size(&r, 1, classes > 40 ? 2 : 20);
        problem_make(&p, rows, classes, classes + kdtest_size(&r, 0, 5));
        unsigned use = (unsigned)kdtest_size(&r, 0, 2);               /* none, labels, soft labels */
        use |= (unsigned)kdtest_size(&r, 0, 7) << 2;
        p.desc.temperature = temperatures[kdtest_size(&r, 0, 6)];
        p.desc.direction = (uint32_t)kdtest_size(&r, 1, 3);
        p.desc.js_beta = (float)kdtest_uniform(&r, .05, .95);
        p.desc.method = kdtest_size(&r, 0, 5) ? KD_DISTILL_KD : KD_DISTILL_HARD;
        p.desc.reduction = (uint32_t)kdtest_size(&r, 1, 4);
        p.desc.temperature_squared = (uint32_t)kdtest_size(&r, 0, 1);
        p.desc.label_smoothing = kdtest_size(&r, 0, 1) ? (float)kdtest_uniform(&r, 0, .5) : 0;
        p.desc.hard_weight = use & 3 ? (float)kdtest_uniform(&r, 0, 1) : 0;
        p.desc.soft_weight = kdtest_size(&r, 0, 5) ? (float)kdtest_uniform(&r, 0, 1) : 0;
        p.desc.unlabelled_index = kdtest_size(&r, 0, 1) ? -1 : KD_LABEL_OFF;
        random_logits(&r, &p, p.desc.temperature < 1 ? 3 * p.desc.temperature : 3);
        uint32_t form = p.desc.method == KD_DISTILL_KD ? (uint32_t)kdtest_size(&r, 1, 3) : KD_TEACHER_LOGITS;
        if (form != KD_TEACHER_LOGITS) teacher_to_form(&p, form);
        for (size_t i = 0; i < rows; i++) {
            p.labels[i] = (int64_t)kdtest_size(&r, 0, classes - 1);
            if (kdtest_size(&r, 0, 5) == 0) p.labels[i] = -100;
            else if (p.desc.unlabelled_index == -1 && kdtest_size(&r, 0, 3) == 0) p.labels[i] = -1;
            p.row_weights[i] = kdtest_uniform(&r, 0, 2);
            double sum = 0;
            for (size_t c = 0; c < classes; c++) sum += p.soft[i * classes + c] = kdtest_uniform(&r, 0, 1);
            for (size_t c = 0; c < classes; c++) p.soft[i * classes + c] /= sum;
        }
        for (size_t c = 0; c < classes; c++) p.class_weights[c] = kdtest_uniform(&r, .1, 2);
        snprintf(what, sizeof what, "case %zu [%zu, %zu] T %g method %u direction %u form %u reduction %u use %u smooth %g", k,
                 rows,
                 classes, (double)p.desc.temperature, p.desc.method, p.desc.direction, form, p.desc.reduction, use,
                 (double)p.desc.label_smoothing);
        compare(&p, use, NULL, what);
        problem_free(&p);
    }
}

/* Every option on both sides of every boundary between the kernel's structures; more than sixteen rows, some of them out. */
TEST(options_at_every_structure)
{
    static const size_t sizes[] = { 1, 2, 3, 10, 16, 17, 31, 32, 33, 100, 160, 161, 1000, 4096, 4097, 10000 };
    static const float temperatures[] = { .05f, 1, 2, 4, 20 };
    kdtest_rand r = { 20152 };
    samples = kdtest_full() ? 97 : 5;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (size_t option = 0; option < 9; option++) {
            problem p;
            char what[100];
            size_t classes = sizes[k], rows = classes <= 161 ? 19 : classes <= 1000 ? 3 : 1;
            problem_make(&p, rows, classes, classes + option % 3);
            p.desc.temperature = temperatures[(option + k) % 5];
            p.desc.direction = (uint32_t)(option % 3 + 1);
            p.desc.unlabelled_index = -1;
            unsigned use = option == 4 ? 2 : option == 5 ? 2 | 8 : option == 6 ? 1 | 4 | 8 : 1;
            if (option == 3 || option == 5) p.desc.label_smoothing = .2f;
            if (option == 7) p.desc.method = KD_DISTILL_HARD;
            random_logits(&r, &p, p.desc.temperature < 1 ? 3 * p.desc.temperature : 3);
            if (option == 6 || option == 8) teacher_to_form(&p, option == 6 ? KD_TEACHER_LOG_PROBS : KD_TEACHER_PROBS);
            for (size_t i = 0; i < rows; i++) {
                p.labels[i] = i % 7 == 3 ? -100 : i % 5 == 2 ? -1 : (int64_t)kdtest_size(&r, 0, classes - 1);
                p.row_weights[i] = kdtest_uniform(&r, .5, 2);
                for (size_t c = 0; c < classes; c++) p.soft[i * classes + c] = kdtest_uniform(&r, 0, 2) / (double)classes;
            }
            for (size_t c = 0; c < classes; c++) p.class_weights[c] = kdtest_uniform(&r, .1, 2);
            lane_terms = classes <= 32 ? (double)classes : (double)(classes < 4096 ? classes : 4096) / 16;
            snprintf(what, sizeof what, "%zu classes, option %zu, T %g", classes, option, (double)p.desc.temperature);
            compare(&p, use, NULL, what);
            problem_free(&p);
        }
    samples = 97, lane_terms = 0;
}

/* A gradient larger than the caches is written past them, on rows of any alignment: the same bits as each row by itself. */
TEST(streamed_rows)
{
    for (size_t classes = 10007; classes <= 10008; classes++) {
        problem p;
        kd_distill_terms terms;
        kdtest_rand r = { 43 };
        problem_make(&p, 110, classes, classes);
        p.desc.reduction = KD_REDUCE_SUM;
        for (size_t i = 0; i < 110 * classes; i++) p.fs[i] = (float)kdtest_uniform(&r, -9, 9), p.ft[i] = (float)kdtest_uniform(&r,
                -9, 9);
        for (size_t i = 0; i < 110; i++) p.labels32[i] = (int32_t)(i * 91 % classes);
        float *alone = calloc(classes, sizeof *alone), *grad = p.grad, *fs = p.fs, *ft = p.ft;
        int32_t *labels = p.labels32;
        if (CHECK_OK(problem_eval(&p, 1, NULL, &terms)))
            for (size_t i = 0; i < 110; i += 9) {
                p.rows = 1, p.fs = fs + i * classes, p.ft = ft + i * classes, p.labels32 = labels + i, p.grad = alone;
                CHECK_OK(problem_eval(&p, 1, NULL, &terms));
                CHECK_MSG(!memcmp(alone, grad + i * classes, classes * sizeof *alone), "row %zu of %zu classes: other bits", i,
                          classes);
            }
        p.fs = fs, p.ft = ft, p.labels32 = labels, p.grad = grad;
        free(alone);
        problem_free(&p);
    }
}

TEST(large_vocabulary)
{
    static const size_t sizes[] = { 1000, 4097, 50257 };
    kdtest_rand r = { 7 };
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (uint32_t direction = 1; direction <= 3; direction++) {
            problem p;
            problem_make(&p, 2, sizes[k], sizes[k]);
            p.desc.direction = direction;
            random_logits(&r, &p, 2);
            p.labels[0] = 5, p.labels[1] = (int64_t)sizes[k] - 1;
            problem_round(&p);
            problem_reference(&p, 1);
            kd_distill_terms terms;
            ref_distill_value want = ref_distill_eval(&p.ref, NULL);
            if (CHECK_OK(problem_eval(&p, 1, NULL, &terms)))
                CHECK_MSG(fabs(terms.loss / want.loss - 1) < 1e-6, "%zu classes, direction %u: %.9g, want %.9g", sizes[k],
                          direction,
                          terms.loss, want.loss);
            for (size_t row = 0; row < 2; row++) {   /* shift invariance: each row of the gradient sums to zero */
                double sum = 0;
                for (size_t c = 0; c < sizes[k]; c++) sum += p.grad[row * sizes[k] + c];
                CHECK_MSG(fabs(sum) < 1e-6, "gradient of a row sums to %g", sum);
            }
            problem_free(&p);
        }
}

/* ---- edges ------------------------------------------------------------------------------------------------- */
TEST(masked_logits)
{
    kdtest_rand r = { 3 };
    static const size_t sizes[] = { 2, 25, 32, 33, 48, 71, 94, 117, 160, 161, 1000, 5000 };
    for (uint32_t direction = 1; direction <= 3; direction++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            size_t classes = sizes[k];
            problem p;
            problem_make(&p, 5, classes, classes);
            p.desc.direction = direction;
            random_logits(&r, &p, 3);
            for (size_t i = 0; i < 5 * classes; i++)   /* the same classes are masked on both sides */
                if (i % classes && (i * 7) % 5 == 0) p.student[i] = p.teacher[i] = -INFINITY;
            for (size_t i = 0; i < 5; i++) p.labels[i] = 0;
            kd_distill_terms terms;
            problem_round(&p);
            problem_reference(&p, 1);
            ref_distill_value want = ref_distill_eval(&p.ref, NULL);
            if (CHECK_OK(problem_eval(&p, 1, NULL, &terms)))
                CHECK_MSG(fabs(terms.loss - want.loss) <= 2e-5 * fabs(want.loss) + 1e-6, "masked, %zu classes: %.9g, want %.9g",
                          classes,
                          terms.loss, want.loss);
            for (size_t i = 0; i < 5 * classes; i++) {
                CHECK(isfinite(p.grad[i]));
                if (isinf(p.student[i])) CHECK_MSG(p.grad[i] == 0, "gradient of a masked class is %g", (double)p.grad[i]);
            }
            problem_free(&p);
        }
}

TEST(fully_masked_rows)
{
    problem p;
    kd_distill_terms terms;
    problem_make(&p, 3, 5, 5);
    kdtest_rand r = { 5 };
    random_logits(&r, &p, 1);
    for (size_t c = 0; c < 5; c++) p.student[c] = -INFINITY, p.teacher[5 + c] = -INFINITY;
    problem_round(&p);
    CHECK_OK(problem_eval(&p, 1, NULL, &terms));
    CHECK(isfinite(terms.loss) && terms.masked_rows == 2);
    for (size_t c = 0; c < 5; c++) CHECK(p.grad[c] == 0);
    for (size_t c = 0; c < 15; c++) CHECK(isfinite(p.grad[c]));
    p.desc.all_masked_nan = 1;
    CHECK_OK(problem_eval(&p, 1, NULL, &terms));
    CHECK(isnan(terms.loss));
    problem_free(&p);
}

TEST(certain_teacher_and_impossible_student)
{
    problem p;
    kd_distill_terms terms;
    problem_make(&p, 2, 4, 4);
    double one_hot[8] = { 0, 1, 0, 0, .5, .5, 0, 0 };
    memcpy(p.teacher, one_hot, sizeof one_hot);
    kdtest_rand r = { 11 };
    for (size_t i = 0; i < 8; i++) p.student[i] = kdtest_normal(&r);
    p.desc.teacher_form = KD_TEACHER_PROBS, p.desc.hard_weight = 0, p.desc.soft_weight = 1, p.desc.temperature = 1;
    compare(&p, 0, NULL, "teacher with exact zeros");
    p.student[5] = -INFINITY;   /* p = 1/2 where q = 0: the true value is infinite, the gradient is not */
    problem_round(&p);
    CHECK_OK(problem_eval(&p, 0, NULL, &terms));
    CHECK(isinf(terms.loss) && terms.loss > 0);
    for (size_t i = 0; i < 8; i++) CHECK(isfinite(p.grad[i]));
    problem_free(&p);
}

TEST(extreme_logits)
{
    static const float temperature[] = { .05f, .5f, .7f, 1, 4, 20 };
    static const float values[] = { 3e38f, -3e38f, 2.5e38f, 1e38f, 1e4f, -1e4f, 88, -104, 1e-38f, 0 };
    kdtest_rand r = { 13 };
    for (size_t k = 0; k < 600; k++) {
        problem p;
        kd_distill_terms terms;
        size_t classes = kdtest_size(&r, 1, 40);
        problem_make(&p, 2, classes, classes);
        p.desc.temperature = temperature[k % 6];
        p.desc.direction = (uint32_t)(k % 3 + 1);
        for (size_t i = 0; i < 2 * classes; i++)
            p.student[i] = (double)values[kdtest_size(&r, 0, 9)], p.teacher[i] = (double)values[kdtest_size(&r, 0, 9)];
        problem_round(&p);
        CHECK_OK(problem_eval(&p, 1, NULL, &terms));
        for (size_t i = 0; i < 2 * classes; i++)
            CHECK_MSG(!isnan(p.grad[i]), "case %zu, T %g, direction %u: gradient NaN from finite logits", k,
                      (double)p.desc.temperature, p.desc.direction);
        CHECK_MSG(!isnan(terms.loss), "case %zu: loss NaN from finite logits", k);
        problem_free(&p);
    }
}

TEST(not_a_number_stays_in_its_row)
{
    problem p;
    kd_distill_terms terms;
    problem_make(&p, 3, 20, 20);
    kdtest_rand r = { 17 };
    random_logits(&r, &p, 1);
    p.teacher[27] = NAN;
    problem_round(&p);
    CHECK_OK(problem_eval(&p, 1, NULL, &terms));
    CHECK(isnan(terms.loss));
    for (size_t i = 0; i < 60; i++) CHECK_MSG(isnan(p.grad[i]) == (i / 20 == 1), "gradient %zu is %g", i, (double)p.grad[i]);
    p.desc.check_input = 1;
    CHECK_STATUS(problem_eval(&p, 1, NULL, &terms), KD_ERR_NUMERIC);
    CHECK_ERROR_HAS("teacher");
    CHECK_ERROR_HAS("[1, 7]");
    problem_free(&p);
}

TEST(ignored_and_unlabelled_rows)
{
    problem p;
    kd_distill_terms terms;
    problem_make(&p, 4, 6, 6);
    kdtest_rand r = { 19 };
    random_logits(&r, &p, 2);
    p.desc.unlabelled_index = -1;
    p.labels[0] = -100, p.labels[1] = -1, p.labels[2] = 3, p.labels[3] = -1;
    compare(&p, 1, NULL, "one ignored, two unlabelled");
    CHECK_OK(problem_eval(&p, 1, NULL, &terms));
    CHECK(terms.hard_rows == 1 && terms.soft_rows == 3);
    for (size_t c = 0; c < 6; c++) CHECK(p.grad[c] == 0);
    for (size_t i = 0; i < 4; i++) p.labels[i] = -100;
    problem_round(&p);
    CHECK_OK(problem_eval(&p, 1, NULL, &terms));
    CHECK(terms.loss == 0 && terms.hard_rows == 0 && terms.soft_rows == 0);
    for (size_t i = 0; i < 24; i++) CHECK(p.grad[i] == 0);
    p.desc.all_masked_nan = 1;
    CHECK_OK(problem_eval(&p, 1, NULL, &terms));
    CHECK(isnan(terms.loss));
    problem_free(&p);
}

/* ---- labels and arguments that are wrong --------------------------------------------------------------- */
TEST(bad_labels_write_nothing)
{
    static const int64_t bad[] = { 6, -1, INT64_MIN, INT64_MAX, (int64_t)1 << 40, -101 };
    problem p;
    problem_make(&p, 4, 6, 6);
    kdtest_rand r = { 23 };
    random_logits(&r, &p, 2);
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++)
        for (uint32_t reduction = 1; reduction <= 4; reduction++) {
            kd_distill_terms terms;
            p.desc.reduction = reduction;
            p.labels[2] = bad[k];
            problem_round(&p);
            for (size_t i = 0; i < 24; i++) p.grad[i] = 77;
            CHECK_STATUS(problem_eval(&p, 1 | 16, NULL, &terms), KD_ERR_RANGE);
            CHECK_ERROR_HAS("labels[2]");
            for (size_t i = 0; i < 24; i++) CHECK(p.grad[i] == 77);
        }
    problem_free(&p);
}

static void bad_desc(const char *field, void (*set)(kd_loss_distill_desc *))
{
    kd_loss_distill *loss;
    kd_loss_distill_desc d;
    kd_loss_distill_desc_init(&d, sizeof d);
    set(&d);
    CHECK_STATUS(kd_loss_distill_create(&loss, NULL, &d), KD_ERR_ARG);
    CHECK(loss == NULL);
    CHECK_ERROR_HAS(field);
}
static void bad_t0(kd_loss_distill_desc *d) { d->temperature = 0; }
static void bad_t1(kd_loss_distill_desc *d) { d->temperature = -1; }
static void bad_t2(kd_loss_distill_desc *d) { d->temperature = NAN; }
static void bad_t3(kd_loss_distill_desc *d) { d->temperature = INFINITY; }
static void bad_t4(kd_loss_distill_desc *d) { d->temperature = 1e-45f; }
static void bad_hard(kd_loss_distill_desc *d) { d->hard_weight = -1; }
static void bad_soft(kd_loss_distill_desc *d) { d->soft_weight = NAN; }
static void bad_direction(kd_loss_distill_desc *d) { d->direction = 4; }
static void bad_method(kd_loss_distill_desc *d) { d->method = 99; }
static void bad_reduction(kd_loss_distill_desc *d) { d->reduction = 0; }
static void bad_form(kd_loss_distill_desc *d) { d->teacher_form = 7; }
static void bad_smoothing(kd_loss_distill_desc *d) { d->label_smoothing = 1; }
static void bad_beta(kd_loss_distill_desc *d) { d->direction = KD_DIRECTION_JS, d->js_beta = 0; }
static void bad_same(kd_loss_distill_desc *d) { d->unlabelled_index = -100; }
static void bad_teachers(kd_loss_distill_desc *d) { d->teachers = 4; }
static void bad_variant(kd_loss_distill_desc *d) { d->form = KD_FORM_PAPER; }
static void bad_teacher_weights(kd_loss_distill_desc *d)
{
    static const float zero[2];
    d->teacher_weights = zero, d->teacher_weight_count = 2;
}
static void bad_dkd(kd_loss_distill_desc *d) { d->method = KD_DISTILL_DKD; }
static void bad_alpha(kd_loss_distill_desc *d) { d->method = KD_DISTILL_DKD, d->alpha = NAN; }
static void bad_dist(kd_loss_distill_desc *d) { d->method = KD_DISTILL_DIST, d->gamma = -1; }
static void bad_lskd(kd_loss_distill_desc *d) { d->method = KD_DISTILL_LSKD; }
static void bad_raw(kd_loss_distill_desc *d) { d->method = KD_DISTILL_MSE_LOGITS, d->teacher_form = KD_TEACHER_PROBS; }

TEST(bad_descriptors)
{
    bad_desc("temperature", bad_t0), bad_desc("temperature", bad_t1), bad_desc("temperature", bad_t2);
    bad_desc("temperature", bad_t3), bad_desc("temperature", bad_t4);
    bad_desc("hard_weight", bad_hard), bad_desc("soft_weight", bad_soft), bad_desc("direction", bad_direction);
    bad_desc("method", bad_method), bad_desc("reduction", bad_reduction), bad_desc("teacher_form", bad_form);
    bad_desc("label_smoothing", bad_smoothing), bad_desc("js_beta", bad_beta), bad_desc("unlabelled_index", bad_same);
    bad_desc("teachers", bad_teachers), bad_desc("form", bad_variant), bad_desc("teacher_weights", bad_teacher_weights);
    bad_desc("alpha and beta", bad_dkd), bad_desc("alpha", bad_alpha), bad_desc("gamma", bad_dist), bad_desc("standardize",
            bad_lskd);
    bad_desc("teacher_form", bad_raw);
    kd_loss_distill *loss;
    CHECK_STATUS(kd_loss_distill_create(NULL, NULL, NULL), KD_ERR_ARG);
    struct { kd_loss_distill_desc d; char newer[16]; } big;
    memset(&big, 0, sizeof big);
    kd_loss_distill_desc_init(&big.d, sizeof big);
    CHECK_OK(kd_loss_distill_create(&loss, NULL, &big.d));
    kd_loss_distill_free(loss);
    big.newer[3] = 1;
    CHECK_STATUS(kd_loss_distill_create(&loss, NULL, &big.d), KD_ERR_VERSION);
    kd_loss_distill_free(NULL);
}

TEST(bad_batches)
{
    problem p;
    kd_loss_distill *loss;
    kd_distill_terms terms = { sizeof terms, 0, 0, 0, 0, 0, 0 };
    problem_make(&p, 2, 4, 4);
    problem_round(&p);
    CHECK_OK(kd_loss_distill_create(&loss, NULL, NULL));
    kd_distill_batch good = problem_batch(&p, 1), b = good;
    CHECK_OK(kd_loss_distill_eval(loss, &b, &terms));
    CHECK_STATUS(kd_loss_distill_eval(NULL, &b, &terms), KD_ERR_ARG);
    CHECK_STATUS(kd_loss_distill_eval(loss, NULL, &terms), KD_ERR_ARG);
    b.student = NULL;
    CHECK_STATUS(kd_loss_distill_eval(loss, &b, &terms), KD_ERR_ARG);
    CHECK_ERROR_HAS("student");
    b = good, b.teacher = NULL;
    CHECK_STATUS(kd_loss_distill_eval(loss, &b, &terms), KD_ERR_ARG);
    CHECK_ERROR_HAS("teacher");
    b = good, b.labels = NULL;
    CHECK_STATUS(kd_loss_distill_eval(loss, &b, &terms), KD_ERR_ARG);
    CHECK_ERROR_HAS("labels");
    b = good, b.labels64 = p.labels;
    CHECK_STATUS(kd_loss_distill_eval(loss, &b, &terms), KD_ERR_ARG);
    b = good, b.student_stride = 3;
    CHECK_STATUS(kd_loss_distill_eval(loss, &b, &terms), KD_ERR_ARG);
    CHECK_ERROR_HAS("student_stride");
    b = good, b.classes = 0;
    CHECK_STATUS(kd_loss_distill_eval(loss, &b, &terms), KD_ERR_SHAPE);
    b = good, b.rows = SIZE_MAX / 8, b.student_stride = b.teacher_stride = b.grad_stride = 64;
    CHECK_STATUS(kd_loss_distill_eval(loss, &b, &terms), KD_ERR_OVERFLOW);
    b = good, b.rows = SIZE_MAX / 8, b.classes = b.student_stride = b.teacher_stride = 1, b.grad = b.row_loss = NULL;
    CHECK_STATUS(kd_loss_distill_eval(loss, &b, &terms), KD_ERR_OVERFLOW);   /* five floats a row would wrap */
    b = good, b.grad = p.ft;
    CHECK_STATUS(kd_loss_distill_eval(loss, &b, &terms), KD_ERR_ARG);
    b = good, b.grad = p.fs + 1;
    CHECK_STATUS(kd_loss_distill_eval(loss, &b, &terms), KD_ERR_ARG);
    b = good, b.rows = 0;
    CHECK_OK(kd_loss_distill_eval(loss, &b, &terms));
    CHECK(terms.loss == 0 && terms.soft_rows == 0);
    kd_loss_distill_free(loss);
    problem_free(&p);
}

/* ---- bits --------------------------------------------------------------------------------------------------- */
static uint64_t hash_problem(const problem *p, const kd_distill_terms *terms)
{
    uint64_t h = kdtest_hash(p->frow_loss, p->rows * sizeof(float));
    for (size_t r = 0; r < p->rows; r++) h = h * 31 + kdtest_hash(p->grad + r * p->stride, p->classes * sizeof(float));
    return h * 31 + kdtest_hash(&terms->loss, sizeof terms->loss);
}

TEST(same_bits_everywhere)
{
    static const size_t shapes[][2] = { { 37, 10 }, { 100, 3 }, { 33, 100 }, { 20, 257 }, { 9, 1000 }, { 3, 10007 } };
    uint32_t isas[5];
    size_t isa_count = kdtest_isas(isas);
    kdtest_rand r = { 29 };
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (uint32_t mode = 0; mode < 6; mode++) {
            problem p;
            kd_distill_terms terms;
            problem_make(&p, shapes[k][0], shapes[k][1], shapes[k][1] + k % 3);
            p.desc.direction = mode % 3 + 1;
            p.desc.temperature = mode < 3 ? 4 : .7f;
            p.desc.label_smoothing = mode == 4 ? .1f : 0;
            random_logits(&r, &p, 3);
            for (size_t i = 0; i < p.rows; i++) p.labels[i] = (int64_t)(i % p.classes);
            problem_round(&p);
            uint64_t first = 0;
            for (size_t i = 0; i < isa_count; i++)
                for (uint32_t threads = 1; threads <= 7; threads += threads == 4 ? 3 : 1) {
                    kd_context *ctx = kdtest_context(threads, isas[i]);
                    CHECK_OK(problem_eval(&p, 1, ctx, &terms));
                    kd_context_free(ctx);
                    uint64_t h = hash_problem(&p, &terms);
                    if (!first) first = h;
                    CHECK_MSG(h == first, "%s, %u threads, shape %zu x %zu, mode %u: other bits", kdtest_isa_name(isas[i]),
                              threads, p.rows,
                              p.classes, mode);
                }
            /* in place: the gradient over the student's logits */
            memcpy(p.grad, p.fs, p.rows * p.stride * sizeof(float));
            float *keep = p.fs;
            p.fs = p.grad;
            CHECK_OK(problem_eval(&p, 1, NULL, &terms));
            CHECK_MSG(hash_problem(&p, &terms) == first, "in place: other bits (shape %zu x %zu, mode %u)", p.rows, p.classes,
                      mode);
            p.fs = keep;
            problem_free(&p);
        }
}

/* kd_distill_rows is the same computation behind fewer options. */
TEST(rows_equal_eval)
{
    problem p;
    kd_distill_terms terms;
    double out[4];
    problem_make(&p, 21, 40, 43);
    kdtest_rand r = { 41 };
    random_logits(&r, &p, 3);
    for (size_t i = 0; i < 21; i++) p.labels[i] = i % 4 == 1 ? -100 : (int64_t)i;
    p.desc.temperature = 3, p.desc.hard_weight = .25f, p.desc.soft_weight = .75f;
    problem_round(&p);
    CHECK_OK(problem_eval(&p, 1, NULL, &terms));
    float *grad = calloc(21 * 43 + 1, sizeof *grad);
    CHECK_OK(kd_distill_rows(NULL, 21, 40, p.fs, 43, p.ft, 43, p.labels32, -100, 3, .25f, .75f, grad, 43, out));
    CHECK(memcmp(grad, p.grad, 21 * 43 * sizeof *grad) == 0);
    CHECK(out[0] == terms.loss && out[1] == terms.hard && out[3] == 16);
    CHECK_NEAR(out[2] * 9, terms.soft, 1e-15);
    CHECK_OK(kd_distill_rows(NULL, 21, 40, p.fs, 43, p.ft, 43, NULL, -100, 3, 0, 1, NULL, 0, out));
    CHECK(out[3] == 21 && out[1] == 0);
    CHECK_STATUS(kd_distill_rows(NULL, 21, 40, p.fs, 43, p.ft, 43, NULL, -100, 3, 1, 1, NULL, 0, out), KD_ERR_ARG);
    CHECK_STATUS(kd_distill_rows(NULL, 21, 40, p.fs, 39, p.ft, 43, p.labels32, -100, 3, 1, 1, NULL, 0, out), KD_ERR_ARG);
    CHECK_STATUS(kd_distill_rows(NULL, 21, 40, p.fs, 43, p.ft, 43, p.labels32, -100, 0, 1, 1, NULL, 0, out), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_distill_rows: temperature");
    p.labels32[5] = 40;
    CHECK_STATUS(kd_distill_rows(NULL, 21, 40, p.fs, 43, p.ft, 43, p.labels32, -100, 3, 1, 1, NULL, 0, out), KD_ERR_RANGE);
    free(grad);
    problem_free(&p);
}

/* ---- on a tape ------------------------------------------------------------------------------------------------ */
TEST(apply_equals_eval)
{
    for (uint32_t reduction = 1; reduction <= 4; reduction++) {
        problem p;
        kd_distill_terms terms, on_tape = { sizeof on_tape, 0, 0, 0, 0, 0, 0 };
        kd_tape *tape, *look;
        kd_loss_distill *loss;
        kd_tensor *s, *y;
        problem_make(&p, 6, 9, 9);
        kdtest_rand r = { 31 };
        random_logits(&r, &p, 2);
        p.desc.reduction = reduction;
        p.desc.unlabelled_index = -1;
        for (size_t i = 0; i < 6; i++) p.labels[i] = (int64_t)i - 1;
        problem_round(&p);
        CHECK_OK(problem_eval(&p, 1, NULL, &terms));
        CHECK_OK(kd_loss_distill_create(&loss, NULL, &p.desc));
        CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
        CHECK_OK(kd_tape_create(&look, NULL, KD_TAPE_INFER));
        CHECK_OK(kd_tensor_wrap(&s, NULL, KD_F32, 3, (size_t[]){ 2, 3, 9 }, NULL, p.fs));
        CHECK_OK(kd_tensor_wrap(&y, NULL, KD_I32, 2, (size_t[]){ 2, 3 }, NULL, p.labels32));
        for (float factor = 1; factor <= 3; factor += 2) {
            kd_tape_reset(tape);
            kd_tape_reset(look);
            kd_tensor *t = kd_scale(look, kd_tape_constant(look, 3, (size_t[]){ 2, 3, 9 }, p.ft), 1, 0);
            kd_requires_grad(tape, s);
            kd_tensor *l = kd_loss_distill_apply(loss, tape, s, t, y);
            CHECK_OK(kd_tape_status(tape));
            CHECK_OK(kd_loss_distill_terms(tape, l, &on_tape));
            CHECK(on_tape.loss == terms.loss && on_tape.hard == terms.hard && on_tape.soft == terms.soft);
            CHECK(on_tape.hard_rows == 5 && on_tape.soft_rows == 6);
            if (reduction == KD_REDUCE_NONE) {
                CHECK(kd_tensor_rank(l) == 1 && kd_tensor_size(l, 0) == 6);
                CHECK(memcmp(kd_tensor_f32(l), p.frow_loss, 6 * sizeof(float)) == 0);
                l = kd_sum(tape, l, 0, 0);
            } else {
                CHECK((float)terms.loss == (float)kd_tensor_item(l));
            }
            CHECK_OK(kd_backward(tape, factor == 1 ? l : kd_scale(tape, l, factor, 0)));
            const float *g = kd_grad(tape, s);
            if (!CHECK(g != NULL)) continue;
            for (size_t i = 0; i < 54; i++) CHECK(g[i] == factor * p.grad[i]);
        }
        kd_tape_reset(tape);
        kd_tensor *bad = kd_loss_distill_apply(loss, tape, s, y, y);
        CHECK(bad != NULL && kd_tape_status(tape) == KD_ERR_DTYPE);
        kd_tensor_free(s), kd_tensor_free(y);
        kd_tape_free(tape), kd_tape_free(look);
        kd_loss_distill_free(loss);
        problem_free(&p);
    }
}

TEST(apply_shape_errors)
{
    kd_tape *tape;
    kd_loss_distill *loss;
    kd_tensor *s, *t, *y, *fit;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    CHECK_OK(kd_loss_distill_create(&loss, NULL, NULL));
    CHECK_OK(kd_tensor_create(&s, NULL, KD_F32, 2, (size_t[]){ 4, 5 }));
    CHECK_OK(kd_tensor_create(&t, NULL, KD_F32, 2, (size_t[]){ 4, 6 }));
    CHECK_OK(kd_tensor_create(&y, NULL, KD_I64, 1, (size_t[]){ 3 }));
    CHECK_OK(kd_tensor_create(&fit, NULL, KD_I64, 1, (size_t[]){ 4 }));
    kd_loss_distill_apply(loss, tape, s, t, y);
    CHECK(kd_tape_status(tape) == KD_ERR_SHAPE);
    CHECK_ERROR_HAS("[4, 6]");
    kd_tape_reset(tape);
    kd_loss_distill_apply(loss, tape, s, s, y);
    CHECK(kd_tape_status(tape) == KD_ERR_SHAPE);
    CHECK_ERROR_HAS("labels [3]");
    kd_tape_reset(tape);
    kd_loss_distill_apply(loss, tape, s, NULL, fit);
    CHECK(kd_tape_status(tape) == KD_ERR_ARG);
    CHECK_ERROR_HAS("teacher");
    kd_tape_reset(tape);
    kd_loss_distill_apply(NULL, tape, s, s, fit);
    CHECK(kd_tape_status(tape) == KD_ERR_ARG);
    kd_tensor_free(s), kd_tensor_free(t), kd_tensor_free(y), kd_tensor_free(fit);
    kd_tape_free(tape);
    kd_loss_distill_free(loss);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */
TEST(memory)
{
    problem p;
    kd_distill_terms terms;
    kdtest_alloc a;
    problem_make(&p, 40, 3000, 3000);
    kdtest_rand r = { 37 };
    random_logits(&r, &p, 2);
    problem_round(&p);
    kd_distill_batch b = problem_batch(&p, 1);
    for (int persistent = 0; persistent < 2; persistent++)
        for (size_t fail = 1;; fail++) {
            memset(&a, 0, sizeof a);
            kdtest_alloc_begin(&a, 2, KD_ISA_AUTO);
            size_t before = a.calls;
            a.fail_at = before + fail, a.persistent = persistent;
            kd_loss_distill *loss = NULL;
            terms.struct_size = sizeof terms;
            kd_status st = kd_loss_distill_create(&loss, a.ctx, NULL);
            if (st == KD_OK) st = kd_loss_distill_eval(loss, &b, &terms);
            int done = a.calls < a.fail_at;
            CHECK_MSG(st == (done ? KD_OK : KD_ERR_NOMEM) || st == KD_OK, "allocation %zu fails: %s", fail, kd_status_name(st));
            a.fail_at = 0;
            if (!loss) CHECK_OK(kd_loss_distill_create(&loss, a.ctx, NULL));
            CHECK_OK(kd_loss_distill_eval(loss, &b, &terms));
            size_t calls = a.calls;
            CHECK_OK(kd_loss_distill_eval(loss, &b, &terms));
            CHECK_MSG(a.calls == calls, "a second evaluation allocated %zu times", a.calls - calls);
            kd_loss_distill_free(loss);
            kdtest_alloc_end(&a);
            if (done) break;
        }
    problem_free(&p);
}
