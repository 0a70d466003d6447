/* test_kernels_public.c - the kernels on plain pointers: values and gradients against double, the same bits whatever the threads
 * and the instruction set, edge rows, and what is refused.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "ref_loss.h"
#include "ref_softmax.h"
#include <math.h>
#include <stdlib.h>

#define U 0x1p-24

/* One relative error bound for a sum of n exponentials as the loss kernels form it: terms within (8 + 1.5 |y|) U, of which
 * |y| averages at most ln n + 1 under the softmax; lane sums and the tree. */
static double sum_error(size_t n) { return (8 + 1.5 * (log((double)n) + 1) + (double)((n + 15) / 16) + 5) * U; }

static kd_context *contexts[8];
static size_t context_count;

static void make_contexts(void)
{
    uint32_t isas[5];
    size_t n = kdtest_isas(isas);
    context_count = 0;
    for (size_t i = 0; i < n; i++) contexts[context_count++] = kdtest_context(1, isas[i]);
    contexts[context_count++] = kdtest_context(3, KD_ISA_AUTO);
}
static void free_contexts(void)
{
    while (context_count) kd_context_free(contexts[--context_count]);
}
#define EACH_CONTEXT(ctx) \
    for (size_t c_ = 0; c_ < context_count; c_++) for (kd_context *ctx = contexts[c_]; ctx; ctx = NULL)

static const struct { size_t rows, n, pad; } shapes[] = {
    { 1, 1, 0 }, { 5, 2, 3 }, { 16, 10, 0 }, { 35, 31, 1 }, { 20, 33, 0 }, { 17, 100, 4 }, { 9, 1000, 0 }, { 3, 5000, 2 }, { 40, 1200, 0 },
};
#define SHAPES (sizeof shapes / sizeof *shapes)

static float *floats(size_t n) { return malloc((n + 1) * sizeof(float)); }
static double *doubles(size_t n) { return malloc((n + 1) * sizeof(double)); }
static double *widen(const float *x, size_t n)
{
    double *out = doubles(n);
    for (size_t i = 0; i < n; i++) out[i] = (double)x[i];
    return out;
}

TEST(softmax_rows)
{
    kdtest_rand r = { 61 };
    make_contexts();
    for (size_t si = 0; si < SHAPES; si++) {
        size_t rows = shapes[si].rows, n = shapes[si].n, stride = n + shapes[si].pad, span = rows * stride;
        float *x = floats(span), *y = floats(span), *first = floats(span), *l = floats(span), t = si % 2 ? 0.7f : 4.0f;
        double *want = doubles(n), *logs = doubles(n);
        kdtest_fill(&r, x, span, 5);
        int began = 0;
        EACH_CONTEXT(ctx) {
            memset(y, 0, span * 4);
            memset(l, 0, span * 4);
            CHECK_OK(kd_softmax_rows(ctx, rows, n, x, stride, t, y, stride));
            CHECK_OK(kd_log_softmax_rows(ctx, rows, n, x, stride, t, l, stride));
            for (size_t k = 0; !began && k < rows; k++) {
                double *wide = widen(x + k * stride, n);
                ref_softmax(n, wide, (double)t, want);
                ref_log_softmax(n, wide, (double)t, logs);
                for (size_t i = 0; i < n; i++) {
                    CHECK_NEAR((double)y[k * stride + i], want[i], want[i] * (8 + 2 * fabs(logs[i])) * U);
                    CHECK_NEAR((double)l[k * stride + i], logs[i], (3 + 4 * fabs(logs[i])) * U);
                }
                free(wide);
            }
            if (!began++) memcpy(first, y, span * 4);
            CHECK(memcmp(first, y, span * 4) == 0);
            memcpy(y, x, span * 4);
            CHECK_OK(kd_softmax_rows(ctx, rows, n, y, stride, t, y, stride));
            for (size_t i = 0; i < span; i++) CHECK(y[i] == (i % stride < n ? first[i] : x[i]));
        }
        free(x), free(y), free(first), free(l), free(want), free(logs);
    }
    free_contexts();
}

TEST(kl_divergence_rows)
{
    kdtest_rand r = { 62 };
    make_contexts();
    for (size_t si = 0; si < SHAPES; si++) {
        size_t rows = shapes[si].rows, n = shapes[si].n, stride = n + shapes[si].pad, span = rows * stride;
        float *p = floats(span), *q = floats(span), *g = floats(span), *first = floats(span), *out = floats(rows), *values = floats(rows);
        float t = (float[]){ 1, 2, 4, 3 }[si % 4];
        double *grad = doubles(n), *lp = doubles(n), *lq = doubles(n);
        kdtest_fill(&r, p, span, 3);
        kdtest_fill(&r, q, span, 3);
        int began = 0;
        EACH_CONTEXT(ctx) {
            memset(g, 0, span * 4);
            CHECK_OK(kd_kl_divergence_rows(ctx, rows, n, p, stride, q, stride, t, out, g, stride));
            for (size_t k = 0; !began && k < rows; k++) {
                double *wp = widen(p + k * stride, n), *wq = widen(q + k * stride, n), mass = 0, want = ref_kl(n, wp, wq, (double)t, grad);
                ref_log_softmax(n, wp, (double)t, lp);
                ref_log_softmax(n, wq, (double)t, lq);
                for (size_t i = 0; i < n; i++) mass += exp(lp[i]) * fabs(lp[i] - lq[i]);
                CHECK_NEAR((double)out[k], want, 4 * sum_error(n) * (1 + mass));
                CHECK(out[k] >= 0);
                for (size_t i = 0; i < n; i++) {
                    double near = exp(lp[i]) * (2 * sum_error(n) + 2 * U * fabs(lp[i])) +
                                  exp(lq[i]) * (2 * sum_error(n) + 2 * U * fabs(lq[i]));
                    CHECK_NEAR((double)g[k * stride + i], grad[i], near / (double)t);
                }
                free(wp), free(wq);
            }
            if (!began++) memcpy(first, g, span * 4), memcpy(values, out, rows * 4);
            CHECK(memcmp(first, g, span * 4) == 0 && memcmp(values, out, rows * 4) == 0);
            CHECK_OK(kd_kl_divergence_rows(ctx, rows, n, p, stride, q, stride, t, out, NULL, 0));
            CHECK(memcmp(values, out, rows * 4) == 0);
        }
        free(p), free(q), free(g), free(first), free(out), free(values), free(grad), free(lp), free(lq);
    }
    free_contexts();
}

TEST(cross_entropy_rows)
{
    kdtest_rand r = { 63 };
    make_contexts();
    for (size_t si = 0; si < SHAPES; si++) {
        size_t rows = shapes[si].rows, n = shapes[si].n, stride = n + shapes[si].pad, span = rows * stride;
        float *x = floats(span), *g = floats(span), *first = floats(span), *out = floats(rows), *values = floats(rows);
        int32_t *labels = malloc((rows + 1) * sizeof *labels);
        double *grad = doubles(n), *target = doubles(n), *logs = doubles(n);
        kdtest_fill(&r, x, span, 3);
        for (size_t k = 0; k < rows; k++) labels[k] = k % 5 == 3 ? -100 : (int32_t)(kdtest_bits(&r) % n);
        int began = 0;
        EACH_CONTEXT(ctx) {
            memset(g, 0x33, span * 4);
            CHECK_OK(kd_cross_entropy_rows(ctx, rows, n, x, stride, labels, -100, out, g, stride));
            for (size_t k = 0; !began && k < rows; k++) {
                double *wide = widen(x + k * stride, n), want = 0;
                if (labels[k] >= 0) {
                    ref_smooth_target(n, (size_t)labels[k], 0, target);
                    want = ref_cross_entropy(n, wide, target, grad);
                }
                ref_log_softmax(n, wide, 1, logs);
                CHECK_NEAR((double)out[k], want, 2 * sum_error(n) + 4 * U * want);
                for (size_t i = 0; i < n; i++) {
                    double one = labels[k] >= 0 && i == (size_t)labels[k] ? 1 : 0, q = exp(logs[i]);
                    if (labels[k] < 0) CHECK(g[k * stride + i] == 0);
                    else CHECK_NEAR((double)g[k * stride + i], grad[i], q * (2 * sum_error(n) + 2 * U * fabs(logs[i])) + one * U);
                }
                if (labels[k] < 0) CHECK(out[k] == 0);
                free(wide);
            }
            if (!began++) memcpy(first, g, span * 4), memcpy(values, out, rows * 4);
            CHECK(memcmp(first, g, span * 4) == 0 && memcmp(values, out, rows * 4) == 0);
            memcpy(g, x, span * 4);   /* the gradient over the logits */
            CHECK_OK(kd_cross_entropy_rows(ctx, rows, n, g, stride, labels, -100, out, g, stride));
            for (size_t i = 0; i < span; i++) CHECK(g[i] == (i % stride < n ? first[i] : x[i]));
        }
        free(x), free(g), free(first), free(out), free(values), free(labels), free(grad), free(target), free(logs);
    }
    free_contexts();
}

/* 200,000 classes lose nothing that shows: values to 1e-6 of themselves, gradients that add up to 0. */
TEST(large_vocabulary)
{
    enum { N = 200000 };
    float *p = floats(N), *q = floats(N), *g = floats(N), out;
    double *grad = doubles(N), *target = doubles(N);
    int32_t label = 77;
    kdtest_rand r = { 64 };
    for (int wide = 0; wide < 2; wide++)
        for (float t = 1; t <= 4; t *= 4) {
            kdtest_fill(&r, p, N, wide ? 3 : 1);
            for (size_t i = 0; i < N; i++) q[i] = wide ? 0.3f : (float)kdtest_normal(&r);
            double *wp = widen(p, N), *wq = widen(q, N), sum = 0, want = ref_kl(N, wp, wq, (double)t, grad);
            CHECK_OK(kd_kl_divergence_rows(NULL, 1, N, p, N, q, N, t, &out, g, N));
            CHECK_NEAR((double)out, want, 1e-6 * want);
            for (size_t i = 0; i < N; i++) sum += (double)g[i];
            CHECK_NEAR(sum, 0, 1e-6);
            ref_smooth_target(N, (size_t)label, 0, target);
            want = ref_cross_entropy(N, wq, target, NULL);
            CHECK_OK(kd_cross_entropy_rows(NULL, 1, N, q, N, &label, -100, &out, NULL, 0));
            CHECK_NEAR((double)out, want, 1e-6 * want);
            free(wp), free(wq);
        }
    free(p), free(q), free(g), free(grad), free(target);
}

/* The promises of the header about rows with masks, NaN and infinities, in rows of few, many and very many classes. */
TEST(edge_rows)
{
    static const size_t sizes[] = { 4, 40, 5000 };
    make_contexts();
    for (size_t si = 0; si < 3; si++) EACH_CONTEXT(ctx) {
        size_t n = sizes[si];
        float *x = floats(n), *z = floats(n), *g = floats(n), out;
        int32_t label = 1;
        for (size_t i = 0; i < n; i++) x[i] = (float)(i % 7), z[i] = -INFINITY;

        CHECK_OK(kd_softmax_rows(ctx, 1, n, z, n, 2, g, n));
        for (size_t i = 0; i < n; i++) CHECK(g[i] == 0);
        CHECK_OK(kd_log_softmax_rows(ctx, 1, n, z, n, 2, g, n));
        for (size_t i = 0; i < n; i++) CHECK(g[i] == -INFINITY);
        CHECK_OK(kd_kl_divergence_rows(ctx, 1, n, z, n, x, n, 2, &out, g, n));
        for (size_t i = 0; i < n; i++) CHECK(g[i] == 0 && out == 0);
        CHECK_OK(kd_kl_divergence_rows(ctx, 1, n, x, n, z, n, 2, &out, g, n));
        for (size_t i = 0; i < n; i++) CHECK(g[i] == 0 && out == 0);
        CHECK_OK(kd_cross_entropy_rows(ctx, 1, n, z, n, &label, -100, &out, g, n));
        for (size_t i = 0; i < n; i++) CHECK(g[i] == 0 && out == 0);

        memcpy(z, x, n * 4);
        z[n / 2] = -INFINITY;   /* p > 0 where q = 0: infinite, with a finite gradient; the other way about: finite */
        CHECK_OK(kd_kl_divergence_rows(ctx, 1, n, x, n, z, n, 2, &out, g, n));
        CHECK(out == INFINITY);
        for (size_t i = 0; i < n; i++) CHECK(isfinite(g[i]));
        CHECK_OK(kd_kl_divergence_rows(ctx, 1, n, z, n, x, n, 2, &out, g, n));
        CHECK(isfinite(out) && out > 0);
        label = (int32_t)(n / 2);
        CHECK_OK(kd_cross_entropy_rows(ctx, 1, n, z, n, &label, -100, &out, g, n));
        CHECK(out == INFINITY && g[n / 2] == -1);
        for (size_t i = 0; i < n; i++) CHECK(isfinite(g[i]));

        for (int kind = 0; kind < 2; kind++) {
            z[n / 2] = kind ? NAN : INFINITY;
            CHECK_OK(kd_softmax_rows(ctx, 1, n, z, n, 2, g, n));
            for (size_t i = 0; i < n; i++) CHECK(isnan(g[i]));
            CHECK_OK(kd_log_softmax_rows(ctx, 1, n, z, n, 2, g, n));
            for (size_t i = 0; i < n; i++) CHECK(isnan(g[i]));
            CHECK_OK(kd_kl_divergence_rows(ctx, 1, n, z, n, x, n, 2, &out, g, n));
            for (size_t i = 0; i < n; i++) CHECK(isnan(g[i]) && isnan(out));
            CHECK_OK(kd_kl_divergence_rows(ctx, 1, n, x, n, z, n, 2, &out, g, n));
            for (size_t i = 0; i < n; i++) CHECK(isnan(g[i]) && isnan(out));
            CHECK_OK(kd_cross_entropy_rows(ctx, 1, n, z, n, &label, -100, &out, g, n));
            for (size_t i = 0; i < n; i++) CHECK(isnan(g[i]) && isnan(out));
        }
        free(x), free(z), free(g);
    }
    free_contexts();
}

TEST(refusals)
{
    float x[20] = { 0 }, y[20], v[4];
    int32_t labels[2] = { 1, 10 };
    CHECK_OK(kd_softmax_rows(NULL, 0, 10, NULL, 0, 1, NULL, 0));   /* no rows: nothing is looked at */
    CHECK_STATUS(kd_softmax_rows(NULL, 2, 0, x, 10, 1, y, 10), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("kd_softmax_rows: classes is 0");
    CHECK_STATUS(kd_softmax_rows(NULL, 2, 10, NULL, 10, 1, y, 10), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_softmax_rows: logits is NULL");
    CHECK_STATUS(kd_log_softmax_rows(NULL, 2, 10, x, 10, 1, NULL, 10), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_log_softmax_rows: out is NULL");
    CHECK_STATUS(kd_softmax_rows(NULL, 2, 10, x, 9, 1, y, 10), KD_ERR_ARG);
    CHECK_ERROR_HAS("stride 9 is less than 10 classes");
    static const float bad[] = { 0, -1, INFINITY, NAN };
    for (size_t i = 0; i < 4; i++) {
        CHECK_STATUS(kd_softmax_rows(NULL, 2, 10, x, 10, bad[i], y, 10), KD_ERR_ARG);
        CHECK_ERROR_HAS("temperature");
        CHECK_STATUS(kd_kl_divergence_rows(NULL, 2, 10, x, 10, x, 10, bad[i], v, NULL, 0), KD_ERR_ARG);
    }
    CHECK_STATUS(kd_softmax_rows(NULL, 2, 10, x, 10, 1, x + 1, 10), KD_ERR_ARG);
    CHECK_ERROR_HAS("out and logits overlap");
    CHECK_STATUS(kd_softmax_rows(NULL, 2, 5, x, 5, 1, x, 6), KD_ERR_ARG);   /* in place needs equal strides */
    CHECK_STATUS(kd_softmax_rows(NULL, SIZE_MAX / 16, 10, x, SIZE_MAX / 16, 1, y, 10), KD_ERR_OVERFLOW);
    CHECK_STATUS(kd_softmax_rows(NULL, 3, 10, x, SIZE_MAX / 2, 1, y, 10), KD_ERR_OVERFLOW);
    CHECK_STATUS(kd_softmax_rows(NULL, 2, 4, (const float *)(const void *)((const char *)x + 1), 4, 1, y, 4), KD_ERR_ARG);
    CHECK_ERROR_HAS("not aligned");
    CHECK_STATUS(kd_kl_divergence_rows(NULL, 2, 10, x, 10, x, 10, 1, NULL, NULL, 0), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_kl_divergence_rows: out is NULL");
    CHECK_STATUS(kd_kl_divergence_rows(NULL, 2, 10, x, 10, x, 10, 1, v, x, 10), KD_ERR_ARG);
    CHECK_ERROR_HAS("grad_q and p_logits overlap");
    CHECK_STATUS(kd_kl_divergence_rows(NULL, 2, 10, x, 10, x, 10, 1, x + 3, NULL, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_kl_divergence_rows(NULL, 2, 10, x, 10, x, 10, 1, v, y, 9), KD_ERR_ARG);
    for (int i = 0; i < 20; i++) y[i] = 7;
    v[0] = v[1] = 7;
    CHECK_STATUS(kd_cross_entropy_rows(NULL, 2, 10, x, 10, labels, -100, v, y, 10), KD_ERR_RANGE);
    CHECK_ERROR_HAS("kd_cross_entropy_rows: labels[1] = 10 is not in [0, 10)");
    for (int i = 0; i < 20; i++) CHECK(y[i] == 7 && v[i / 10] == 7);   /* nothing is written */
    labels[1] = -1;
    CHECK_STATUS(kd_cross_entropy_rows(NULL, 2, 10, x, 10, labels, -100, v, y, 10), KD_ERR_RANGE);
    CHECK_OK(kd_cross_entropy_rows(NULL, 2, 10, x, 10, labels, -1, v, y, 10));
    CHECK_STATUS(kd_cross_entropy_rows(NULL, 2, 10, x, 10, NULL, -1, v, y, 10), KD_ERR_ARG);
    CHECK_ERROR_HAS("labels is NULL");
    CHECK_STATUS(kd_cross_entropy_rows(NULL, 2, 10, x, 10, labels, -1, (float *)(void *)labels, NULL, 0), KD_ERR_ARG);
}

/* Out of memory is a status, and the next call works. */
TEST(out_of_memory)
{
    enum { ROWS = 40, N = 50 };
    static float x[ROWS * N], y[ROWS * N], g[ROWS * N], v[ROWS];
    for (size_t at = 1; at < 4; at++) {
        kdtest_alloc a = { 0 };
        kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
        a.fail_at = a.calls + at;
        kd_status status = kd_kl_divergence_rows(a.ctx, ROWS, N, x, N, y, N, 1, v, g, N);
        CHECK(status == KD_OK || status == KD_ERR_NOMEM);
        if (at == 1) CHECK(status == KD_ERR_NOMEM);
        CHECK_OK(kd_kl_divergence_rows(a.ctx, ROWS, N, x, N, y, N, 1, v, g, N));
        kdtest_alloc_end(&a);
    }
}
