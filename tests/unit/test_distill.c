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
        snprintf(what, sizeof what, "case %zu [%zu, %zu] T %g method %u direction %u form %u reduction %u use %u smooth %g", k, rows,
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
        for (size_t i = 0; i < 110 * classes; i++) p.fs[i] = (float)kdtest_uniform(&r, -9, 9), p.ft[i] = (float)kdtest_uniform(&r, -9, 9);
        for (size_t i = 0; i < 110; i++) p.labels32[i] = (int32_t)(i * 91 % classes);
        float *alone = calloc(classes, sizeof *alone), *grad = p.grad, *fs = p.fs, *ft = p.ft;
        int32_t *labels = p.labels32;
        if (CHECK_OK(problem_eval(&p, 1, NULL, &terms)))
            for (size_t i = 0; i < 110; i += 9) {
                p.rows = 1, p.fs = fs + i * classes, p.ft = ft + i * classes, p.labels32 = labels + i, p.grad = alone;
                CHECK_OK(problem_eval(&p, 1, NULL, &terms));
                CHECK_MSG(!memcmp(alone, grad + i * classes, classes * sizeof *alone), "row %zu of %zu classes: other bits", i, classes);
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
                CHECK_MSG(fabs(terms.loss / want.loss - 1) < 1e-6, "%zu classes, direction %u: %.9g, want %.9g", sizes[k], direction,
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
                CHECK_MSG(fabs(terms.loss - want.loss) <= 2e-5 * fabs(want.loss) + 1e-6, "masked, %zu classes: %.9g, want %.9g", classes,
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

TEST(bad_descriptors)
{
    bad_desc("temperature", bad_t0), bad_desc("temperature", bad_t1), bad_desc("temperature", bad_t2);
    bad_desc("temperature", bad_t3), bad_desc("temperature", bad_t4);
    bad_desc("hard_weight", bad_hard), bad_desc("soft_weight", bad_soft), bad_desc("direction", bad_direction);
    bad_desc("method", bad_method), bad_desc("reduction", bad_reduction), bad_desc("teacher_form", bad_form);
    bad_desc("label_smoothing", bad_smoothing), bad_desc("js_beta", bad_beta), bad_desc("unlabelled_index", bad_same);
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
                    CHECK_MSG(h == first, "%s, %u threads, shape %zu x %zu, mode %u: other bits", kdtest_isa_name(isas[i]), threads, p.rows,
                              p.classes, mode);
                }
            /* in place: the gradient over the student's logits */
            memcpy(p.grad, p.fs, p.rows * p.stride * sizeof(float));
            float *keep = p.fs;
            p.fs = p.grad;
            CHECK_OK(problem_eval(&p, 1, NULL, &terms));
            CHECK_MSG(hash_problem(&p, &terms) == first, "in place: other bits (shape %zu x %zu, mode %u)", p.rows, p.classes, mode);
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
