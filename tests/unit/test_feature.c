/* test_feature.c - kd_loss_feature: the driver (checks, state, two forms, memory), and its first methods against published
 * formulas. SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include "kdtest.h"

#define U (1.0 / 16777216)   /* 2^-24: half a unit in the last place at 1 */

/* ---- the formulas again, in double ------------------------------------------------------------------------------------ */

typedef double reference(size_t n, size_t d, const double *s, size_t dt, const double *t);

static double dot(const double *a, const double *b, size_t d)
{
    double sum = 0;
    for (size_t i = 0; i < d; i++) sum += a[i] * b[i];
    return sum;
}

static void sp_rows(size_t n, size_t d, const double *x, double *out)
{
    for (size_t i = 0; i < n; i++) {
        double length = 0;
        for (size_t j = 0; j < n; j++) out[i * n + j] = dot(x + i * d, x + j * d, d), length += out[i * n + j] * out[i * n + j];
        length = fmax(sqrt(length), 1e-12);
        for (size_t j = 0; j < n; j++) out[i * n + j] /= length;
    }
}

static double ref_sp(size_t n, size_t d, const double *s, size_t dt, const double *t)
{
    double *a = calloc(n * n, sizeof *a), *b = calloc(n * n, sizeof *b), sum = 0;
    sp_rows(n, d, s, a), sp_rows(n, dt, t, b);
    for (size_t i = 0; i < n * n; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    free(a), free(b);
    return sum / (double)(n * n);
}

static void pkt_rows(size_t n, size_t d, const double *x, double *out)
{
    for (size_t i = 0; i < n; i++) {
        double sum = 0, li = sqrt(dot(x + i * d, x + i * d, d)) + 1e-7;
        for (size_t j = 0; j < n; j++) {
            double lj = sqrt(dot(x + j * d, x + j * d, d)) + 1e-7;
            sum += out[i * n + j] = (dot(x + i * d, x + j * d, d) / (li * lj) + 1) / 2;
        }
        for (size_t j = 0; j < n; j++) out[i * n + j] /= sum;
    }
}

static double ref_pkt(size_t n, size_t d, const double *s, size_t dt, const double *t)
{
    double *q = calloc(n * n, sizeof *q), *p = calloc(n * n, sizeof *p), sum = 0;
    pkt_rows(n, d, s, q), pkt_rows(n, dt, t, p);
    for (size_t i = 0; i < n * n; i++) sum += p[i] * log((p[i] + 1e-7) / (q[i] + 1e-7));
    free(q), free(p);
    return sum / (double)(n * n);
}

static double smooth(double x) { return fabs(x) < 1 ? 0.5 * x * x : fabs(x) - 0.5; }

static double apart(const double *x, size_t d, size_t i, size_t j)
{
    double sum = 0;
    for (size_t k = 0; k < d; k++) sum += (x[i * d + k] - x[j * d + k]) * (x[i * d + k] - x[j * d + k]);
    return i == j ? 0 : sqrt(fmax(sum, 1e-12));
}

static double mean_apart(const double *x, size_t n, size_t d)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) sum += apart(x, d, i, j);
    return n > 1 ? sum / (double)(n * (n - 1)) : 1;
}

static double ref_rkd_distance(size_t n, size_t d, const double *s, size_t dt, const double *t)
{
    double ms = mean_apart(s, n, d), mt = mean_apart(t, n, dt), sum = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) sum += smooth(apart(s, d, i, j) / ms - apart(t, dt, i, j) / mt);
    return sum / (double)(n * n);
}

static double angle(const double *x, size_t d, size_t i, size_t j, size_t k)
{
    double sum = 0, a = 0, b = 0;
    for (size_t l = 0; l < d; l++) {
        double u = x[j * d + l] - x[i * d + l], v = x[k * d + l] - x[i * d + l];
        sum += u * v, a += u * u, b += v * v;
    }
    return sum / (fmax(sqrt(a), 1e-12) * fmax(sqrt(b), 1e-12));
}

static double ref_rkd_angle(size_t n, size_t d, const double *s, size_t dt, const double *t)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            for (size_t k = 0; k < n; k++) sum += smooth(angle(s, d, i, j, k) - angle(t, dt, i, j, k));
    return sum / (double)(n * n * n);
}

static double ref_rkd(size_t n, size_t d, const double *s, size_t dt, const double *t)
{
    return 25 * ref_rkd_distance(n, d, s, dt, t) + 50 * ref_rkd_angle(n, d, s, dt, t);
}

static double ref_cosine(size_t n, size_t d, const double *s, size_t dt, const double *t)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const double *a = s + i * d, *b = t + i * dt;
        sum += 1 - dot(a, b, d) / sqrt((dot(a, a, d) + 1e-12) * (dot(b, b, d) + 1e-12));
    }
    return sum / (double)n;
}

/* ---- one pair of {width} taps ------------------------------------------------------------------------------------------- */

typedef struct pair { kd_feature_shape s, t; kd_loss_feature_desc desc; } pair;

static void pair_make(pair *p, uint32_t method, size_t d, size_t dt)
{
    p->s = (kd_feature_shape){ 1, { d } }, p->t = (kd_feature_shape){ 1, { dt } };
    CHECK_OK(kd_loss_feature_desc_for(&p->desc, sizeof p->desc, method));
    p->desc.weight = 1;
    p->desc.student = &p->s, p->desc.student_count = 1, p->desc.teacher = &p->t, p->desc.teacher_count = 1;
}

static double eval(kd_loss_feature *loss, size_t n, const float *s, const float *t, float *grad, const float *mask)
{
    double value = NAN;
    kd_feature_batch b = { .struct_size = sizeof b, .rows = n, .student = &s, .teacher = &t, .grad = &grad, .mask = mask };
    CHECK_OK(kd_loss_feature_eval(loss, &b, &value));
    return value;
}

static kd_loss_feature *make(kd_context *ctx, const kd_loss_feature_desc *desc)
{
    kd_loss_feature *loss = NULL;
    CHECK_OK(kd_loss_feature_create(&loss, ctx, desc));
    return loss;
}

/* ---- published numbers ------------------------------------------------------------------------------------------------------
 * */

static const float golden_s[] = { 1.0f, 0.5f, -0.5f, 0.2f, 1.0f, 0.3f, -0.7f, 0.1f, 0.9f };
static const float golden_t[] = { 0.9f, -0.2f, 0.1f, 0.8f, -1.0f, 0.4f };

static void check_golden(uint32_t method, float alpha, float beta, double want)
{
    pair p;
    pair_make(&p, method, 3, 2);
    p.desc.alpha = alpha, p.desc.beta = beta;
    kd_loss_feature *loss = make(NULL, &p.desc);
    CHECK_NEAR(eval(loss, 3, golden_s, golden_t, NULL, NULL), want, 1e-6);
    kd_loss_feature_free(loss);
}

TEST(golden_values)
{
    check_golden(KD_FEATURE_SP, 0, 0, 0.0520933985);
    check_golden(KD_FEATURE_PKT, 0, 0, 0.0154157696);
    check_golden(KD_FEATURE_RKD, 1, 0, 0.0019304871);
    check_golden(KD_FEATURE_RKD, 0, 1, 0.0006558955);
}

/* ---- values and gradients
 * ------------------------------------------------------------------------------------------------------- */

static const struct { uint32_t method; const char *name; reference *value; int same_width; } methods[] = {
    { KD_FEATURE_SP, "sp", ref_sp, 0 }, { KD_FEATURE_PKT, "pkt", ref_pkt, 0 }, { KD_FEATURE_RKD, "rkd", ref_rkd, 0 },
    { KD_FEATURE_COSINE, "cosine", ref_cosine, 1 },
};

/* The value within 64 roundings of the largest term, gradients by central differences of the double formula. */
static void check_method(size_t m, size_t n, size_t d, size_t dt, double scale, int duplicate)
{
    kdtest_rand r = { 77 + n * 31 + d };
    if (methods[m].same_width) dt = d;
    float *s = calloc(n * d, sizeof *s), *t = calloc(n * dt, sizeof *t), *g = calloc(n * d, sizeof *g);
    double *ds = calloc(n * d, sizeof *ds), *dtt = calloc(n * dt, sizeof *dtt), largest = 0;
    kdtest_fill(&r, s, n * d, scale), kdtest_fill(&r, t, n * dt, scale);
    if (duplicate && n > 1) memcpy(s + d, s, d * sizeof *s);
    for (size_t i = 0; i < n * d; i++) ds[i] = (double)s[i];
    for (size_t i = 0; i < n * dt; i++) dtt[i] = (double)t[i];
    pair p;
    pair_make(&p, methods[m].method, d, dt);
    kd_loss_feature *loss = make(NULL, &p.desc);
    double got = eval(loss, n, s, t, g, NULL), want = methods[m].value(n, d, ds, dt, dtt);
    CHECK_MSG(fabs(got - want) <= 64 * U * (1 + fabs(want)), "%s n %zu d %zu: %.9g, not %.9g", methods[m].name, n, d, got, want);
    for (size_t i = 0; i < n * d; i++) largest = fmax(largest, fabs((double)g[i]));
    for (size_t i = duplicate ? 2 * d : 0; i < n * d; i++) {
        double h = 1e-5 * scale, x = ds[i];
        ds[i] = x + h;
        double up = methods[m].value(n, d, ds, dt, dtt);
        ds[i] = x - h;
        double slope = (up - methods[m].value(n, d, ds, dt, dtt)) / (2 * h);
        ds[i] = x;
        if (!CHECK_MSG(fabs((double)g[i] - slope) <= 1e-5 * largest + 16 * U / scale, "%s n %zu d %zu: gradient %zu is %.9g, not "
                       "%.9g", methods[m].name, n, d, i, (double)g[i], slope)) break;
    }
    for (size_t i = 0; i < n * d; i++) CHECK(isfinite(g[i]));
    kd_loss_feature_free(loss);
    free(s), free(t), free(g), free(ds), free(dtt);
}

TEST(values_and_gradients)
{
    for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
        check_method(m, 3, 3, 2, 1, 0);
        check_method(m, 9, 17, 5, 1, 0);
        check_method(m, 16, 40, 40, 3, 0);
        check_method(m, 6, 4, 7, 1, 1);
        check_method(m, 1, 5, 5, 1, 0);
        check_method(m, 2, 1, 1, 100, 0);
    }
}

TEST(edges_are_finite)
{
    float x[24] = { 0 }, t[24] = { 0 }, g[24];
    for (size_t m = 0; m < sizeof methods / sizeof *methods; m++)
        for (int kind = 0; kind < 4; kind++) {   /* zeros, equal rows, large ones, one row apart from equal ones */
            for (size_t i = 0; i < 24; i++) {
                x[i] = kind == 0 ? 0 : kind == 1 ? 3.0f : kind == 2 ? (float)(i % 5) * 1e4f - 2e4f : i < 6 ? 1.0f : -2.0f;
                t[i] = kind == 2 ? (float)(i % 7) * 1e4f : (float)(i % 3);
            }
            pair p;
            pair_make(&p, methods[m].method, 6, 6);
            kd_loss_feature *loss = make(NULL, &p.desc);
            CHECK(isfinite(eval(loss, 4, x, t, g, NULL)));
            for (size_t i = 0; i < 24; i++)
                CHECK_MSG(fabs((double)g[i]) < 1e8, "%s kind %d: %g", methods[m].name, kind, (double)g[i]);
            CHECK(eval(loss, 0, x, t, g, NULL) == 0);
            kd_loss_feature_free(loss);
        }
}

TEST(bits_do_not_depend_on_threads_or_isa)
{
    enum { N = 37, D = 70 };
    static float s[N * D], t[N * D], g[N * D];
    kdtest_rand r = { 5 };
    kdtest_fill(&r, s, N * D, 1), kdtest_fill(&r, t, N * D, 1);
    for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
        uint32_t isas[5];
        uint64_t first = 0;
        for (size_t i = 0, count = kdtest_isas(isas); i < count; i++)
            for (uint32_t threads = 1; threads <= 3; threads += 2) {
                kd_context *ctx = kdtest_context(threads, isas[i]);
                pair p;
                pair_make(&p, methods[m].method, D, D);
                kd_loss_feature *loss = make(ctx, &p.desc);
                double value = eval(loss, N, s, t, g, NULL);
                uint64_t hash = kdtest_hash(g, sizeof g) ^ kdtest_hash(&value, sizeof value);
                if (!first) first = hash;
                CHECK_MSG(hash == first, "%s on %s, %u threads", methods[m].name, kdtest_isa_name(isas[i]), threads);
                kd_loss_feature_free(loss);
                kd_context_free(ctx);
            }
    }
}

TEST(cosine_mask)
{
    enum { N = 2, TOKENS = 3, D = 5 };
    float s[N * TOKENS * D], t[N * TOKENS * D], g[N * TOKENS * D];
    double ds[2 * D], dt[2 * D];
    const float mask[N * TOKENS] = { 1, 0, 0, 0, 1, 0 }, none[N * TOKENS] = { 0 };
    kdtest_rand r = { 9 };
    kdtest_fill(&r, s, N * TOKENS * D, 1), kdtest_fill(&r, t, N * TOKENS * D, 1);
    for (size_t i = 0; i < D; i++) {
        ds[i] = (double)s[i], dt[i] = (double)t[i];
        ds[D + i] = (double)s[4 * D + i], dt[D + i] = (double)t[4 * D + i];
    }
    s[D] = NAN;   /* in padding */
    pair p;
    pair_make(&p, KD_FEATURE_COSINE, D, D);
    p.s = p.t = (kd_feature_shape){ 2, { TOKENS, D } };
    kd_loss_feature *loss = make(NULL, &p.desc);
    CHECK_NEAR(eval(loss, N, s, t, g, mask), ref_cosine(2, D, ds, D, dt), 8 * U);
    CHECK(g[D] == 0 && g[5 * D] == 0 && g[0] != 0);
    CHECK(eval(loss, N, s, t, g, none) == 0);
    kd_loss_feature_free(loss);
}

/* ---- FitNet: the adapters ------------------------------------------------------------------------------------------------ */

static float *numbers(kdtest_rand *r, size_t n)
{
    float *x = calloc(n, sizeof *x);
    kdtest_fill(r, x, n, 1);
    return x;
}

/* With running statistics and without ReLU the loss is a square of the student: central differences are exact but for rounding.
 * */
TEST(fitnet_shapes_and_gradients)
{
    static const struct { kd_feature_shape s, t; } cases[] = {
        { { 3, { 8, 8, 3 } }, { 3, { 4, 4, 5 } } },
        { { 3, { 4, 4, 3 } }, { 3, { 8, 8, 2 } } },
        { { 3, { 5, 6, 3 } }, { 3, { 4, 3, 2 } } },
        { { 3, { 4, 4, 3 } }, { 3, { 4, 4, 4 } } },
        { { 1, { 7 } }, { 1, { 5 } } },
        { { 2, { 3, 7 } }, { 2, { 3, 5 } } },
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        pair p;
        kdtest_rand r = { 3 + c };
        pair_make(&p, KD_FEATURE_FITNET, 1, 1);
        p.s = cases[c].s, p.t = cases[c].t;
        p.desc.form = KD_FORM_PAPER;
        size_t ns = 2, nt = 2;
        for (size_t a = 0; a < p.s.rank; a++) ns *= p.s.size[a], nt *= p.t.size[a];
        float *s = numbers(&r, ns), *t = numbers(&r, nt), *g = calloc(ns, sizeof *g);
        kd_loss_feature *loss = make(NULL, &p.desc);
        double value = eval(loss, 2, s, t, g, NULL);
        for (size_t i = 0; i < ns; i += 5) {
            float x = s[i], h = 0.5f;
            s[i] = x + h;
            double up = eval(loss, 2, s, t, NULL, NULL);
            s[i] = x - h;
            double down = eval(loss, 2, s, t, NULL, NULL), slope = (up - down) / (2 * (double)h);
            s[i] = x;
            CHECK_MSG(fabs(slope - (double)g[i]) <= 64 * U * (1 + value), "case %zu: gradient %zu is %.9g, not %.9g", c, i,
                      (double)g[i], slope);
        }
        kd_loss_feature_free(loss);
        free(s), free(t), free(g);
    }
}

/* Two taps with adapters, as tensors. */
typedef struct run {
    kd_feature_shape s[2], t[2];
    kd_loss_feature_desc desc;
    kd_loss_feature *loss;
    kd_tape *tape;
    kd_tensor *xs[2], *xt[2];
    float *s_data[2], *t_data[2];
} run;

static void run_make(run *r, kd_context *ctx, uint32_t mode)
{
    kdtest_rand rand = { 11 };
    memset(r, 0, sizeof *r);
    r->s[0] = (kd_feature_shape){ 3, { 4, 4, 3 } }, r->t[0] = (kd_feature_shape){ 3, { 2, 2, 5 } };
    r->s[1] = (kd_feature_shape){ 3, { 2, 2, 6 } }, r->t[1] = (kd_feature_shape){ 3, { 2, 2, 4 } };
    CHECK_OK(kd_loss_feature_desc_for(&r->desc, sizeof r->desc, KD_FEATURE_FITNET));
    CHECK(r->desc.weight == 100);
    r->desc.weight = 2;
    r->desc.student = r->s, r->desc.student_count = 2, r->desc.teacher = r->t, r->desc.teacher_count = 2;
    r->loss = make(ctx, &r->desc);
    CHECK_OK(kd_tape_create(&r->tape, ctx, mode));
    for (size_t i = 0; i < 2; i++) {
        const size_t *a = r->s[i].size, *b = r->t[i].size;
        r->s_data[i] = numbers(&rand, 3 * a[0] * a[1] * a[2]), r->t_data[i] = numbers(&rand, 3 * b[0] * b[1] * b[2]);
        CHECK_OK(kd_tensor_wrap(&r->xs[i], ctx, KD_F32, 4, (size_t[]){ 3, a[0], a[1], a[2] }, NULL, r->s_data[i]));
        CHECK_OK(kd_tensor_wrap(&r->xt[i], ctx, KD_F32, 4, (size_t[]){ 3, b[0], b[1], b[2] }, NULL, r->t_data[i]));
    }
}

static kd_feature_inputs run_inputs(const run *r)
{
    return (kd_feature_inputs){ .struct_size = sizeof(kd_feature_inputs), .student = r->xs, .student_count = 2, .teacher = r->xt,
                                .teacher_count = 2 };
}

static void run_free(run *r)
{
    kd_tape_free(r->tape);
    kd_loss_feature_free(r->loss);
    for (size_t i = 0; i < 2; i++) kd_tensor_free(r->xs[i]), kd_tensor_free(r->xt[i]), free(r->s_data[i]), free(r->t_data[i]);
}

TEST(adapters_need_an_optimizer)
{
    run r;
    run_make(&r, NULL, KD_TAPE_TRAIN);
    kd_feature_inputs in = run_inputs(&r);
    kd_loss_feature_apply(r.loss, r.tape, &in);
    CHECK_STATUS(kd_tape_status(r.tape), KD_ERR_STATE);
    CHECK_ERROR_HAS("fitnet");
    CHECK_ERROR_HAS("kd_optimizer_add(opt, kd_loss_feature_adapters(loss))");
    kd_tape_reset(r.tape);
    kd_model_freeze(kd_loss_feature_adapters(r.loss), 1);
    kd_loss_feature_apply(r.loss, r.tape, &in);
    CHECK_OK(kd_tape_status(r.tape));
    kd_tape_reset(r.tape);
    kd_model_freeze(kd_loss_feature_adapters(r.loss), 0);
    kd_loss_feature_apply(r.loss, r.tape, &in);
    CHECK_STATUS(kd_tape_status(r.tape), KD_ERR_STATE);
    kd_tape_reset(r.tape);

    kd_optimizer *opt;
    CHECK_OK(kd_optimizer_create(&opt, NULL, NULL));
    CHECK_OK(kd_optimizer_add(opt, kd_loss_feature_adapters(r.loss)));
    double first = 0, last = 0;
    for (int step = 0; step < 30; step++) {
        kd_tensor *y = kd_loss_feature_apply(r.loss, r.tape, &in);
        last = kd_tensor_item(y);
        if (!step) first = last;
        CHECK_OK(kd_backward(r.tape, y));
        CHECK_OK(kd_optimizer_step(opt));
        kd_tape_reset(r.tape);
    }
    CHECK_MSG(last < 0.8 * first, "%g after %g", last, first);
    kd_optimizer_free(opt);
    run_free(&r);

    run_make(&r, NULL, KD_TAPE_TRAIN);
    kd_loss_feature_free(r.loss);
    r.desc.adapters_external = 1;
    r.loss = make(NULL, &r.desc);
    in = run_inputs(&r);
    kd_loss_feature_apply(r.loss, r.tape, &in);
    CHECK_OK(kd_tape_status(r.tape));
    run_free(&r);
}

TEST(tape_and_pointers_give_the_same_bits)
{
    for (uint32_t train = 0; train < 2; train++) {
        run a, b;
        run_make(&a, NULL, train ? KD_TAPE_TRAIN : KD_TAPE_EVAL), run_make(&b, NULL, KD_TAPE_TRAIN);
        kd_loss_feature_free(a.loss), kd_loss_feature_free(b.loss);
        a.desc.adapters_external = b.desc.adapters_external = 1;
        a.loss = make(NULL, &a.desc), b.loss = make(NULL, &b.desc);
        kd_feature_inputs in = run_inputs(&a);
        for (size_t i = 0; i < 2; i++) kd_requires_grad(a.tape, a.xs[i]);
        kd_tensor *y = kd_loss_feature_apply(a.loss, a.tape, &in);
        CHECK_OK(kd_backward(a.tape, y));
        static float g0[3 * 4 * 4 * 3], g1[3 * 2 * 2 * 6];
        float *grad[2] = { g0, g1 };
        kd_feature_batch batch = { .struct_size = sizeof batch, .rows = 3, .student = (const float *const *)b.s_data,
                                   .teacher = (const float *const *)b.t_data, .grad = grad, .train = train };
        double value;
        CHECK_OK(kd_loss_feature_eval(b.loss, &batch, &value));
        CHECK(value == kd_tensor_item(y));
        CHECK(memcmp(g0, kd_grad(a.tape, a.xs[0]), sizeof g0) == 0);
        CHECK(memcmp(g1, kd_grad(a.tape, a.xs[1]), sizeof g1) == 0);
        size_t floats;
        const float *ga = kd_model_grads(kd_loss_feature_adapters(a.loss), &floats);
        const float *gb = kd_model_grads(kd_loss_feature_adapters(b.loss), NULL);
        double sum = 0;
        for (size_t i = 0; i < floats; i++) sum += fabs((double)gb[i]);
        if (train) CHECK(memcmp(ga, gb, floats * sizeof *ga) == 0 && sum > 0);
        else CHECK(sum == 0);
        CHECK(!kd_model_frozen(kd_loss_feature_adapters(b.loss)));
        run_free(&a), run_free(&b);
    }
}

TEST(the_second_call_allocates_nothing)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 2, KD_ISA_AUTO);
    run r;
    run_make(&r, a.ctx, KD_TAPE_EVAL);
    static float g0[3 * 4 * 4 * 3], g1[3 * 2 * 2 * 6];
    float *grad[2] = { g0, g1 };
    kd_feature_batch batch = { .struct_size = sizeof batch, .rows = 3, .student = (const float *const *)r.s_data,
                               .teacher = (const float *const *)r.t_data, .grad = grad };
    double value;
    size_t calls = 0;
    for (int step = 0; step < 4; step++) {
        CHECK_OK(kd_loss_feature_eval(r.loss, &batch, &value));
        if (step == 1) calls = a.calls;
        if (step > 1) CHECK(a.calls == calls);
    }
    run_free(&r);
    for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
        float s[40], t[40], g[40];
        kdtest_rand rand = { 1 };
        kdtest_fill(&rand, s, 40, 1), kdtest_fill(&rand, t, 40, 1);
        pair p;
        pair_make(&p, methods[m].method, 4, 4);
        kd_loss_feature *loss = make(a.ctx, &p.desc);
        for (int step = 0; step < 4; step++) {
            eval(loss, 10, s, t, g, NULL);
            if (step == 1) calls = a.calls;
            if (step > 1) CHECK(a.calls == calls);
        }
        kd_loss_feature_free(loss);
    }
    kdtest_alloc_end(&a);
}

TEST(out_of_memory)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    float s[40], t[40], g[40], *grad = g;
    const float *ps = s, *pt = t;
    kdtest_rand rand = { 1 };
    kdtest_fill(&rand, s, 40, 1), kdtest_fill(&rand, t, 40, 1);
    for (size_t m = 0; m < 5; m++) {
        pair p;
        pair_make(&p, m < 4 ? methods[m].method : KD_FEATURE_FITNET, 4, 4);
        kd_status status = KD_ERR_NOMEM;
        for (size_t fail = 1; status != KD_OK && fail < 200; fail++) {
            kd_loss_feature *loss = NULL;
            double value = 7;
            kd_feature_batch b = { .struct_size = sizeof b, .rows = 10, .student = &ps, .teacher = &pt, .grad = &grad };
            a.fail_at = a.calls + fail;
            status = kd_loss_feature_create(&loss, a.ctx, &p.desc);
            if (status == KD_OK) status = kd_loss_feature_eval(loss, &b, &value);
            if (status != KD_OK) CHECK(status == KD_ERR_NOMEM && value == 7);
            a.fail_at = 0;
            if (status != KD_OK && loss) CHECK_OK(kd_loss_feature_eval(loss, &b, &value));
            kd_loss_feature_free(loss);
        }
        CHECK_OK(status);
    }
    kdtest_alloc_end(&a);
}

/* ---- the driver ---------------------------------------------------------------------------------------------------------- */

TEST(weight_and_warm_up)
{
    pair p;
    pair_make(&p, KD_FEATURE_SP, 3, 2);
    p.desc.weight = 8, p.desc.warmup = 4;
    kd_loss_feature *loss = make(NULL, &p.desc);
    for (int epoch = 0; epoch < 6; epoch++) {
        CHECK_NEAR(eval(loss, 3, golden_s, golden_t, NULL, NULL), 0.0520933985 * 2 * (epoch < 4 ? epoch + 1 : 4), 1e-6);
        CHECK_OK(kd_loss_feature_advance(loss));
    }
    CHECK_OK(kd_loss_feature_set_weight(loss, 0));
    CHECK(eval(loss, 3, golden_s, golden_t, NULL, NULL) == 0);
    CHECK_STATUS(kd_loss_feature_set_weight(loss, NAN), KD_ERR_ARG);
    CHECK(kd_loss_feature_adapters(loss) == NULL);
    kd_loss_feature_free(loss);
}

static void refused(const kd_loss_feature_desc *desc, kd_status status, const char *part)
{
    kd_loss_feature *loss = (kd_loss_feature *)&loss;
    CHECK_STATUS(kd_loss_feature_create(&loss, NULL, desc), status);
    CHECK(!loss);
    CHECK_ERROR_HAS(part);
}

TEST(bad_descriptors)
{
    kd_loss_feature_desc none;
    CHECK_STATUS(kd_loss_feature_desc_for(&none, sizeof none, 9999), KD_ERR_ARG);
    CHECK(none.method == 0 && none.weight == 0 && none.struct_size == sizeof none);
    refused(&none, KD_ERR_ARG, "method 0 is not");
    pair p;
    pair_make(&p, KD_FEATURE_FITNET, 3, 2);
    p.s = (kd_feature_shape){ 3, { 8, 8, 64 } }, p.t = (kd_feature_shape){ 3, { 10, 4, 128 } };
    refused(&p.desc, KD_ERR_SHAPE, "kd_loss_feature_create: fitnet: student tap 0 [8, 8, 64] and teacher tap 0 [10, 4, 128]: ");
    p.t = (kd_feature_shape){ 3, { 4, 4, 0 } };
    refused(&p.desc, KD_ERR_SHAPE, "teacher tap 0 [4, 4, 0]");
    p.t = (kd_feature_shape){ 5, { 4, 4, 1 } };
    refused(&p.desc, KD_ERR_ARG, "rank 5");
    p.t.rank = 3, p.t.size[2] = 8;
    p.desc.form = KD_FORM_THIRD;
    refused(&p.desc, KD_ERR_ARG, "form 2");
    p.desc.form = 0, p.desc.weight = -1;
    refused(&p.desc, KD_ERR_ARG, "weight -1");
    p.desc.weight = 1, p.desc.temperature = 0;
    refused(&p.desc, KD_ERR_ARG, "temperature");
    p.desc.temperature = 1, p.desc.teacher_count = 0;
    refused(&p.desc, KD_ERR_ARG, "1 student and 0 teacher taps");
    pair_make(&p, KD_FEATURE_RKD, 3, 2);
    p.desc.alpha = -1;
    refused(&p.desc, KD_ERR_ARG, "rkd: alpha -1");
    pair_make(&p, KD_FEATURE_COSINE, 3, 2);
    refused(&p.desc, KD_ERR_SHAPE, "cosine: student tap 0 [3] and teacher tap 0 [2]: ");
    kd_loss_feature *loss = NULL;
    CHECK_STATUS(kd_loss_feature_create(NULL, NULL, &p.desc), KD_ERR_ARG);
    CHECK_STATUS(kd_loss_feature_create(&loss, NULL, NULL), KD_ERR_ARG);
    kd_loss_feature_free(NULL);
}

static void poisons(run *r, const kd_feature_inputs *in, kd_status status, const char *part)
{
    kd_loss_feature_apply(r->loss, r->tape, in);
    CHECK_STATUS(kd_tape_status(r->tape), status);
    CHECK_ERROR_HAS(part);
    kd_tape_reset(r->tape);
}

TEST(bad_batches)
{
    run r;
    run_make(&r, NULL, KD_TAPE_EVAL);
    kd_feature_inputs in = run_inputs(&r);
    kd_tensor *swapped[2] = { r.xs[1], r.xs[0] };
    in.student = swapped;
    poisons(&r, &in, KD_ERR_SHAPE, "kd_loss_feature_apply: fitnet: student tap 0 is [3, 2, 2, 6], the descriptor "
            "and the batch say [3, 4, 4, 3]");
    in = run_inputs(&r), in.teacher_count = 1;
    poisons(&r, &in, KD_ERR_ARG, "2 student and 1 teacher taps");
    in = run_inputs(&r), in.teacher = NULL;
    poisons(&r, &in, KD_ERR_ARG, "teacher is NULL");
    kd_tensor *gone[2] = { r.xs[0], NULL };
    in = run_inputs(&r), in.student = gone;
    poisons(&r, &in, KD_ERR_ARG, "student tap 1");
    in = run_inputs(&r), in.mask = r.xs[0];
    poisons(&r, &in, KD_ERR_SHAPE, "mask is [3, 4, 4, 3], not [3, 4]");
    poisons(&r, NULL, KD_ERR_ARG, "inputs is NULL");
    CHECK(kd_loss_feature_apply(r.loss, NULL, &in) != NULL);
    kd_feature_batch batch = { .struct_size = sizeof batch, .rows = 3 };
    double value = 7;
    CHECK_STATUS(kd_loss_feature_eval(r.loss, &batch, &value), KD_ERR_ARG);
    CHECK(value == 7);
    run_free(&r);
}

/* A teacher that wants gradients, and one of another tape, are constants. */
TEST(the_teacher_is_constant)
{
    pair p;
    pair_make(&p, KD_FEATURE_SP, 3, 2);
    kd_loss_feature *loss = make(NULL, &p.desc);
    kd_tape *tape;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    kd_tensor *s = kd_requires_grad(tape, kd_tape_constant(tape, 2, (size_t[]){ 3, 3 }, golden_s));
    kd_tensor *t = kd_requires_grad(tape, kd_tape_constant(tape, 2, (size_t[]){ 3, 2 }, golden_t));
    kd_feature_inputs in = { .struct_size = sizeof in, .student = &s, .student_count = 1, .teacher = &t, .teacher_count = 1 };
    kd_tensor *y = kd_loss_feature_apply(loss, tape, &in);
    CHECK_OK(kd_backward(tape, y));
    CHECK(kd_grad(tape, s) != NULL);
    CHECK(kd_grad(tape, t) == NULL);
    kd_tape_free(tape);
    kd_loss_feature_free(loss);
}

TEST(checkpoint)
{
    char path[512];
    snprintf(path, sizeof path, "%s/feature.kdcp", kdtest_tmp());
    uint64_t hash[2];
    kd_checkpoint *cp;
    for (int i = 0; i < 2; i++) {
        run r;
        run_make(&r, NULL, KD_TAPE_EVAL);
        kd_model *m = kd_loss_feature_adapters(r.loss);
        if (i == 0) {
            size_t floats;
            kd_model_buffers(m, &floats)[0] = 5;
            kd_model_weights(m, &floats)[1] = 3;
            CHECK_OK(kd_loss_feature_advance(r.loss));
        }
        CHECK_OK(kd_checkpoint_create(&cp, NULL));
        CHECK_OK(kd_checkpoint_add_feature_loss(cp, "hint", r.loss));
        if (i == 0) CHECK_OK(kd_checkpoint_save(cp, path));
        else CHECK_OK(kd_checkpoint_load(cp, path));
        hash[i] = kdtest_hash(kd_model_weights(m, NULL), 8) ^ kdtest_hash(kd_model_buffers(m, NULL), 8);
        kd_checkpoint_free(cp);
        run_free(&r);
    }
    CHECK(hash[0] == hash[1]);
    pair p;
    pair_make(&p, KD_FEATURE_SP, 3, 2);
    kd_loss_feature *loss = make(NULL, &p.desc);
    CHECK_OK(kd_checkpoint_create(&cp, NULL));
    CHECK_OK(kd_checkpoint_add_feature_loss(cp, "hint", loss));
    CHECK_STATUS(kd_checkpoint_load(cp, path), KD_ERR_SHAPE);
    CHECK_OK(kd_checkpoint_save(cp, path));
    kd_checkpoint_free(cp);
    kd_loss_feature_free(loss);
    pair_make(&p, KD_FEATURE_RKD, 3, 2);
    loss = make(NULL, &p.desc);
    CHECK_OK(kd_checkpoint_create(&cp, NULL));
    CHECK_OK(kd_checkpoint_add_feature_loss(cp, "hint", loss));
    CHECK_STATUS(kd_checkpoint_load(cp, path), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("sp");
    kd_checkpoint_free(cp);
    kd_loss_feature_free(loss);
}
