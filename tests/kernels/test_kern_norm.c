/* test_kern_norm.c - the kernels of normalisation, cosine similarity and losses of a difference: the documented order to the
 * bit, or near the exact value and the same on every instruction set; nothing touched outside the arrays.
 * SPDX-License-Identifier: MIT */
#include "kern_test.h"
#include "ref_loss.h"
#include "ref_norm.h"
#include <stdlib.h>

#define U 0x1p-24
enum { ARRAYS = 8, MOST = 9100 };

/* Arrays that end (tail) or begin at a page that faults; filled from a seed by `refill`. */
typedef struct arrays { size_t n[ARRAYS]; float *p[ARRAYS]; int tail; } arrays;

static arrays take(const size_t n[ARRAYS], int tail)
{
    arrays a = { .tail = tail };
    for (int i = 0; i < ARRAYS; i++) {
        a.n[i] = n[i];
        a.p[i] = kdtest_guard(n[i] * sizeof(float), tail);
    }
    return a;
}
static void refill(arrays *a, uint64_t seed)
{
    kdtest_rand r = { seed * 2 + 1 };
    for (int i = 0; i < ARRAYS; i++) kdtest_fill(&r, a->p[i], a->n[i], 1);
}
static void give(arrays *a)
{
    for (int i = 0; i < ARRAYS; i++) kdtest_guard_free(a->p[i], a->n[i] * sizeof(float), a->tail);
}
static uint64_t hash_of(const arrays *a)
{
    uint64_t h = 0;
    for (int i = 0; i < ARRAYS; i++) h = h * 31 + kdtest_hash(a->p[i], a->n[i] * sizeof(float));
    return h;
}

static const size_t shapes[][2] = { { 1, 1 }, { 2, 3 }, { 3, 15 }, { 4, 16 }, { 5, 17 }, { 6, 31 }, { 7, 32 }, { 9, 33 },
                                    { 8, 47 }, { 12, 48 }, { 255, 5 }, { 256, 16 }, { 64, 70 }, { 3, 257 } };
#define EACH_SHAPE(rows, c, tail)                                                                         \
    for (size_t si = 0; si < sizeof shapes / sizeof *shapes; si++)                                        \
        for (size_t rows = shapes[si][0], c = shapes[si][1], once = 1; once; once = 0)                    \
            for (int tail = 0; tail < 2; tail++)

/* ---- columns: kernels.h's order, written out ----------------------------------------------------------------- */

/* Terms of a column in fours, ((0 + 1) + (2 + 3)), then the rest. */
static float in_fours(const float *term, size_t rows)
{
    float sum = 0;
    size_t r = 0;
    for (; r + 4 <= rows; r += 4) sum += (term[r] + term[r + 1]) + (term[r + 2] + term[r + 3]);
    for (; r < rows; r++) sum += term[r];
    return sum;
}
/* The same of products a b, each pair and each single one by fma. */
static float products_in_fours(const float *a, const float *b, size_t rows)
{
    float sum = 0;
    size_t r = 0;
    for (; r + 4 <= rows; r += 4)
        sum += fmaf(a[r + 1], b[r + 1], a[r] * b[r]) + fmaf(a[r + 3], b[r + 3], a[r + 2] * b[r + 2]);
    for (; r < rows; r++) sum = fmaf(a[r], b[r], sum);
    return sum;
}

TEST(columns_stats)
{
    EACH_SHAPE(rows, c, tail) {
        arrays a = take((size_t[ARRAYS]){ rows * c, c, c, c }, tail);
        EACH_ISA(k) {
            refill(&a, rows);
            const float *x = a.p[0];
            k->norm_columns_stats_f32(rows, c, x, a.p[1], a.p[2], a.p[3]);
            for (size_t j = 0; j < c; j++) {
                float column[256], d[256];
                for (size_t r = 0; r < rows; r++) column[r] = x[r * c + j];
                float mean = in_fours(column, rows) * (1.0f / (float)rows);
                for (size_t r = 0; r < rows; r++) d[r] = column[r] - mean;
                CHECK(same_float(a.p[1][j], mean));
                CHECK(same_float(a.p[2][j], in_fours(d, rows)));
                CHECK(same_float(a.p[3][j], products_in_fours(d, d, rows)));
            }
        }
        give(&a);
    }
}

TEST(columns_dots)
{
    EACH_SHAPE(rows, c, tail) {
        arrays a = take((size_t[ARRAYS]){ rows * c, rows * c, c, c, c }, tail);
        EACH_ISA(k) {
            refill(&a, rows);
            k->norm_columns_dots_f32(rows, c, a.p[0], a.p[1], a.p[2], a.p[3], a.p[4], NULL);
            for (size_t j = 0; j < c; j++) {
                float dy[256], d[256];
                for (size_t r = 0; r < rows; r++) {
                    dy[r] = a.p[0][r * c + j];
                    d[r] = a.p[1][r * c + j] - a.p[2][j];
                }
                CHECK(same_float(a.p[3][j], in_fours(dy, rows)));
                CHECK(same_float(a.p[4][j], products_in_fours(dy, d, rows)));
            }
        }
        give(&a);
    }
}

TEST(columns_apply)
{
    EACH_SHAPE(rows, c, tail) {
        arrays a = take((size_t[ARRAYS]){ rows * c, c, c, c, rows * c }, tail);
        EACH_ISA(k)
            for (int centred = 0; centred < 2; centred++) {
                refill(&a, rows);
                k->norm_columns_apply_f32(rows, c, a.p[0], centred ? a.p[1] : NULL, a.p[2], a.p[3], NULL, 0, a.p[4]);
                for (size_t i = 0; i < rows * c; i++) {
                    float x = centred ? a.p[0][i] - a.p[1][i % c] : a.p[0][i];
                    CHECK(same_float(a.p[4][i], fmaf(x, a.p[2][i % c], a.p[3][i % c])));
                }
                k->norm_columns_apply_f32(rows, c, a.p[0], centred ? a.p[1] : NULL, a.p[2], a.p[3], NULL, 0, a.p[0]);
                check_same(a.p[0], a.p[4], rows * c, "in place");
            }
        give(&a);
    }
}

TEST(columns_backward)
{
    EACH_SHAPE(rows, c, tail) {
        arrays a = take((size_t[ARRAYS]){ rows * c, rows * c, c, c, c, c, rows * c }, tail);
        EACH_ISA(k)
            for (int how = 0; how < 4; how++) {
                int with_x = how & 1, accumulate = how >> 1;
                refill(&a, rows);
                float *before = malloc(rows * c * sizeof *before);
                memcpy(before, a.p[6], rows * c * sizeof *before);
                k->norm_columns_backward_f32(rows, c, a.p[0], with_x ? a.p[1] : NULL, a.p[2], a.p[3], a.p[4], a.p[5], NULL, a.p[6],
                                             accumulate);
                for (size_t i = 0; i < rows * c; i++) {
                    size_t j = i % c;
                    float line = fmaf(a.p[1][i] - a.p[2][j], a.p[4][j], a.p[5][j]);
                    float g = with_x ? fmaf(a.p[3][j], a.p[0][i], -line) : a.p[3][j] * a.p[0][i];
                    CHECK(same_float(a.p[6][i], accumulate ? before[i] + g : g));
                }
                free(before);
            }
        give(&a);
    }
}

/* ---- rows: near the exact value, one result for all ------------------------------------------------------------ */

static const size_t widths[] = { 1, 2, 3, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 257, 1000, 4095, 4096, 4097, 9001 };
#define EACH_WIDTH(c, tail)                                            \
    for (size_t wi = 0; wi < sizeof widths / sizeof *widths; wi++)     \
        for (size_t c = widths[wi], once = 1; once; once = 0)          \
            for (int tail = 0; tail < 2; tail++)

static double d_in[4][3 * MOST], d_out[3][3 * MOST];
static size_t set_of[3 * MOST], channel_of[3 * MOST];

static void widen(double *to, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i++) to[i] = (double)from[i];
}

static ref_norm rows_of(size_t rows, size_t c, const arrays *a)
{
    for (size_t i = 0; i < rows * c; i++) {
        set_of[i] = i / c;
        channel_of[i] = i % c;
    }
    widen(d_in[0], a->p[0], rows * c);
    widen(d_in[1], a->p[1], c);
    widen(d_in[2], a->p[2], c);
    return (ref_norm){ .count = rows * c, .sets = rows, .channels = c, .set = set_of, .channel = channel_of, .x = d_in[0],
                       .weight = d_in[1], .bias = d_in[2], .eps = (double)1e-5f };
}

TEST(layer_norm)
{
    const size_t rows = 2;
    EACH_WIDTH(c, tail) {
        arrays a = take((size_t[ARRAYS]){ rows * c, c, c, rows * c, rows, rows }, tail);
        uint64_t first = 0;
        EACH_ISA(k) {
            refill(&a, c);
            k->layer_norm_rows_f32(rows, c, a.p[0], a.p[1], a.p[2], 1e-5f, a.p[3], a.p[4], a.p[5]);
            if (isa == KD_ISA_SCALAR) {
                ref_norm n = rows_of(rows, c, &a);
                double mean[2], var[2];
                ref_norm_forward(&n, d_out[0], mean, var);
                for (size_t r = 0; r < rows; r++) {
                    /* chains of 4096 / 32 in the sum of squares, the fold, and the rounding of the result */
                    double units = (double)(c < 4096 ? c : 4096) / 32 + 6, rstd = 1 / sqrt(var[r] + n.eps);
                    CHECK_NEAR(a.p[4][r], mean[r], 2 * U * fabs(mean[r]) + 2 * U);
                    CHECK_NEAR(a.p[5][r], rstd, (units / 2 + 2) * U * rstd);
                    for (size_t i = r * c; i < (r + 1) * c; i++) {
                        double hat = fabs(d_in[0][i] - mean[r]) * rstd, w = fabs(d_in[1][i % c]);
                        double bound = (units / 2 + 6) * U * hat * w + (2 * fabs(mean[r]) + 2) * U * rstd * w;
                        bound += U * fabs(d_out[0][i]);
                        if (!CHECK_NEAR(a.p[3][i], d_out[0][i], bound)) break;
                    }
                }
                first = hash_of(&a);
            }
            CHECK_MSG(hash_of(&a) == first, "%s: other bits at width %zu", k->isa, c);
        }
        give(&a);
    }
}

TEST(layer_norm_backward)
{
    const size_t rows = 3;
    EACH_WIDTH(c, tail) {
        if (c < 3) continue;   /* one or two numbers normalised are 0 or +-1: nothing but rounding is left */
        /* x, weight, bias, dy, dx, dweight, dbias, mean and rstd */
        arrays a = take((size_t[ARRAYS]){ rows * c, c, c, rows * c, rows * c, c, c, 2 * rows }, tail);
        uint64_t first = 0;
        EACH_ISA(k) {
            refill(&a, c + 1);
            memset(a.p[5], 0, c * sizeof(float));
            memset(a.p[6], 0, c * sizeof(float));
            float *y = malloc(rows * c * sizeof *y);
            k->layer_norm_rows_f32(rows, c, a.p[0], a.p[1], a.p[2], 1e-5f, y, a.p[7], a.p[7] + rows);
            k->layer_norm_backward_rows_f32(rows, c, a.p[3], a.p[0], a.p[1], a.p[7], a.p[7] + rows, a.p[4], 0, a.p[5], a.p[6]);
            if (isa == KD_ISA_SCALAR) {
                ref_norm n = rows_of(rows, c, &a);
                widen(d_in[3], a.p[3], rows * c);
                ref_norm_backward(&n, d_in[3], d_out[0], d_out[1], d_out[2]);
                double largest = 0;
                for (size_t i = 0; i < rows * c; i++) largest = fmax(largest, fabs(d_out[0][i]));
                for (size_t i = 0; i < rows * c; i++)
                    if (!CHECK_NEAR(a.p[4][i], d_out[0][i], 2e-6 * (1 + largest))) break;
                for (size_t j = 0; j < c; j++) {
                    CHECK_NEAR(a.p[5][j], d_out[1][j], 2e-5);
                    CHECK_NEAR(a.p[6][j], d_out[2][j], 2e-6);
                }
                first = hash_of(&a);
            }
            CHECK_MSG(hash_of(&a) == first, "%s: other bits at width %zu", k->isa, c);
            /* with everything left out that may be */
            k->layer_norm_backward_rows_f32(rows, c, a.p[3], a.p[0], NULL, a.p[7], a.p[7] + rows, NULL, 0, NULL, NULL);
            CHECK(hash_of(&a) == first);
            memcpy(y, a.p[4], rows * c * sizeof *y);
            k->layer_norm_backward_rows_f32(rows, c, a.p[3], a.p[0], a.p[1], a.p[7], a.p[7] + rows, a.p[4], 1, NULL, NULL);
            for (size_t i = 0; i < rows * c; i++) CHECK(a.p[4][i] == y[i] + y[i]);
            free(y);
        }
        give(&a);
    }
}

TEST(l2_normalize)
{
    const size_t rows = 2;
    EACH_WIDTH(c, tail) {
        arrays a = take((size_t[ARRAYS]){ rows * c, rows * c, rows, rows * c, rows * c }, tail);   /* x, y, norm, dy, dx */
        for (int below = 0; below < 2; below++) {
            uint64_t first = 0;
            float eps = below ? 1000.0f : 1e-12f;
            EACH_ISA(k) {
                refill(&a, c);
                k->l2_normalize_rows_f32(rows, c, a.p[0], eps, a.p[1], a.p[2]);
                k->l2_normalize_backward_rows_f32(rows, c, a.p[3], a.p[1], a.p[2], eps, a.p[4], 0);
                if (isa == KD_ISA_SCALAR) {
                    widen(d_in[0], a.p[0], rows * c);
                    widen(d_in[3], a.p[3], rows * c);
                    ref_l2_normalize(rows, c, d_in[0], (double)eps, d_out[0], d_in[3], d_out[1]);
                    for (size_t i = 0; i < rows * c; i++) {
                        double norm = fmax(a.p[2][i / c], eps), dot = 0;
                        for (size_t j = i / c * c; j < i / c * c + c; j++) dot += fabs(d_in[3][j] * d_out[0][j]);
                        CHECK_NEAR(a.p[1][i], d_out[0][i], 3 * U * fabs(d_out[0][i]));
                        CHECK_NEAR(a.p[4][i], d_out[1][i], 8 * U * (fabs(d_in[3][i]) + fabs(d_out[0][i]) * dot) / norm);
                    }
                    first = hash_of(&a);
                }
                CHECK_MSG(hash_of(&a) == first, "%s: other bits at width %zu", k->isa, c);
            }
        }
        give(&a);
    }
}

TEST(cosine)
{
    const size_t rows = 2;
    EACH_WIDTH(c, tail) {
        /* a, b, y, |a|, |b|, dy, da */
        arrays a = take((size_t[ARRAYS]){ rows * c, rows * c, rows, rows, rows, rows, rows * c }, tail);
        for (int below = 0; below < 2; below++) {
            uint64_t first = 0;
            float eps = below ? 1e6f : 1e-8f;
            EACH_ISA(k) {
                refill(&a, c);
                k->cosine_rows_f32(rows, c, a.p[0], a.p[1], eps, a.p[2], a.p[3], a.p[4]);
                k->cosine_backward_rows_f32(rows, c, a.p[5], a.p[0], a.p[1], a.p[2], a.p[3], a.p[4], eps, a.p[6], 0);
                if (isa == KD_ISA_SCALAR) {
                    widen(d_in[0], a.p[0], rows * c);
                    widen(d_in[1], a.p[1], rows * c);
                    for (size_t r = 0; r < rows; r++) {
                        double y = ref_cosine_similarity(c, d_in[0] + r * c, d_in[1] + r * c, (double)eps, d_out[0], NULL);
                        CHECK_NEAR(a.p[2][r], y, 1.01 * U * fabs(y));
                        for (size_t i = 0; i < c; i++) {
                            double na = a.p[3][r], nb = a.p[4][r], dy = a.p[5][r];
                            double size = below ? fabs(d_in[1][r * c + i]) / (double)eps
                                                : (fabs(d_in[1][r * c + i]) / nb + fabs(y * d_in[0][r * c + i]) / na) / na;
                            CHECK_NEAR(a.p[6][r * c + i], dy * d_out[0][i], 8 * U * fabs(dy) * size);
                        }
                    }
                    first = hash_of(&a);
                }
                CHECK_MSG(hash_of(&a) == first, "%s: other bits at width %zu", k->isa, c);
            }
        }
        give(&a);
    }
}

/* ---- losses of a difference -------------------------------------------------------------------------------------- */

TEST(differences)
{
    static const float betas[] = { 0, 0.5f, 2 };
    EACH_WIDTH(n, tail) {
        arrays a = take((size_t[ARRAYS]){ n, n, n, n, n }, tail);   /* a, b, out, dy, da */
        for (int b = 0; b < 3; b++) {
            uint64_t first = 0;
            double sum = 0;
            EACH_ISA(k) {
                double got, want = 0, beta = (double)betas[b];
                refill(&a, n);
                k->difference_f32(betas[b], a.p[0], a.p[1], n, a.p[2]);
                k->difference_sum_f32(betas[b], a.p[0], a.p[1], n, &got);
                k->difference_backward_f32(betas[b], 0.75f, a.p[3], a.p[0], a.p[1], n, a.p[4], 0);
                if (isa == KD_ISA_SCALAR) {
                    double size = 0;
                    for (size_t i = 0; i < n; i++) {
                        double d = (double)a.p[0][i] - (double)a.p[1][i], v = b ? ref_smooth_l1(d, beta) : d * d;
                        double s = b ? ref_smooth_l1_slope(d, beta) : 2 * d;
                        CHECK_NEAR(a.p[2][i], v, 5 * U * (v + (b ? fabs(d) : 0)));
                        CHECK_NEAR(a.p[4][i], 0.75 * s * (double)a.p[3][i], 5 * U * fabs(0.75 * s * (double)a.p[3][i]));
                        want += v;
                        size += v + (b ? fabs(d) : 0);
                    }
                    CHECK_NEAR(got, want, (5 + (double)(n < 4096 ? n : 4096) / 32 + 6) * U * size);
                    first = hash_of(&a);
                    sum = got;
                }
                CHECK_MSG(hash_of(&a) == first && got == sum, "%s: other bits at %zu", k->isa, n);
                float *before = malloc(n * sizeof *before);
                k->difference_backward_f32(betas[b], 0.75f, NULL, a.p[0], a.p[1], n, before, 0);
                memcpy(a.p[4], before, n * sizeof *before);
                k->difference_backward_f32(betas[b], 0.75f, NULL, a.p[0], a.p[1], n, a.p[4], 1);
                for (size_t i = 0; i < n; i++) CHECK(a.p[4][i] == before[i] + before[i]);
                free(before);
            }
        }
        give(&a);
    }
}

/* NaN and infinities are data, and the FP state stays as it was. */
TEST(special_values)
{
    float x[32], y[32], out[32], mean, rstd, norm;
    double sum;
    uint64_t control = fp_control();
    EACH_ISA(k) {
        for (size_t at = 0; at < 32; at += 31) {
            for (size_t i = 0; i < 32; i++) {
                x[i] = (float)i;
                y[i] = 0;
            }
            x[at] = NAN;
            k->layer_norm_rows_f32(1, 32, x, NULL, NULL, 1e-5f, out, &mean, &rstd);
            CHECK(isnan(mean) && isnan(rstd) && isnan(out[0]) && isnan(out[31]));
            k->l2_normalize_rows_f32(1, 32, x, 1e-8f, out, &norm);
            CHECK(isnan(norm) && isnan(out[0]) && isnan(out[31]));
            for (int beta = 0; beta < 2; beta++) {
                k->difference_f32((float)beta, x, y, 32, out);
                CHECK(isnan(out[at]) && !isnan(out[5]));
                k->difference_backward_f32((float)beta, 1, NULL, x, y, 32, out, 0);
                CHECK(isnan(out[at]) && !isnan(out[5]));
                k->difference_sum_f32((float)beta, x, y, 32, &sum);
                CHECK(isnan(sum));
            }
            x[at] = INFINITY;
            k->difference_backward_f32(1, 1, NULL, x, y, 32, out, 0);
            CHECK(out[at] == 1);
        }
        CHECK(fp_control() == control);
    }
}
