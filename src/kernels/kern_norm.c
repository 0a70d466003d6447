/* kern_norm.c - batch, layer, group and L2 normalisation.
 * SPDX-License-Identifier: MIT
 *
 * Columns: x is [rows, c], a statistic per column; the driver cuts long columns into chunks and joins the chunks
 * in double.  Inside one, rows are added four at a time, ((r0 + r1) + (r2 + r3)), groups in order, the last rows % 4
 * one by one, whatever the width of the block of columns in registers.
 * Rows: sums of blocks of 4096 elements in four vectors, blocks added in double. */
#include "simd/simd.h"
#include "kernels/kernels.h"
#include <math.h>

/* step(j, 16) for each full vector of a row of c, step(j, rest) for the end. */
#define FOR_ROW(step)                                     \
    do {                                                  \
        size_t j = 0;                                     \
        V_FAST(for (; j + 16 <= c; j += 16) step(j, 16);) \
        V_END(j, c) step(j, V_LEFT(j, c));   \
    } while (0)

/* ---- columns ------------------------------------------------------------------------------------- */

/* `width` vectors side by side, the last with n columns. */
#define EACH V_UNROLL(2) for (int v = 0; v < width; v++)
#define LOAD(p) load_part((p) + 16 * v, v == width - 1 ? n : 16)
#define STORE(p, a) store_part((p) + 16 * v, (a), v == width - 1 ? n : 16)

V_FN void stats_block(size_t rows, size_t c, const float *x, float *shift, float *s1, float *s2, int width, size_t n)
{
    kd_f32x16 sum[2] = { v_zero(), v_zero() }, mean[2] = { v_zero(), v_zero() }, dev[2], square[2];
    const float *row = x;
    size_t r = 0;
    for (; r + 4 <= rows; r += 4, row += 4 * c)
        EACH sum[v] = v_add(sum[v], v_add(v_add(LOAD(row), LOAD(row + c)), v_add(LOAD(row + 2 * c), LOAD(row + 3 * c))));
    for (; r < rows; r++, row += c)
        EACH sum[v] = v_add(sum[v], LOAD(row));
    EACH {
        mean[v] = v_mul(sum[v], v_set1(1.0f / (float)rows));
        dev[v] = square[v] = v_zero();
    }
    /* Again, from the cache: sums of the deviations from this mean, which is only nearly the true one. */
    for (r = 0, row = x; r + 4 <= rows; r += 4, row += 4 * c)
        EACH {
            kd_f32x16 d0 = v_sub(LOAD(row), mean[v]), d1 = v_sub(LOAD(row + c), mean[v]);
            kd_f32x16 d2 = v_sub(LOAD(row + 2 * c), mean[v]), d3 = v_sub(LOAD(row + 3 * c), mean[v]);
            dev[v] = v_add(dev[v], v_add(v_add(d0, d1), v_add(d2, d3)));
            square[v] = v_add(square[v], v_add(v_fma(d1, d1, v_mul(d0, d0)), v_fma(d3, d3, v_mul(d2, d2))));
        }
    for (; r < rows; r++, row += c)
        EACH {
            kd_f32x16 d = v_sub(LOAD(row), mean[v]);
            dev[v] = v_add(dev[v], d);
            square[v] = v_fma(d, d, square[v]);
        }
    EACH {
        STORE(shift, mean[v]);
        STORE(s1, dev[v]);
        STORE(s2, square[v]);
    }
}

void KD_K(norm_columns_stats_f32)(size_t rows, size_t c, const float *x, float *shift, float *s1, float *s2)
{
    size_t j = 0;
    V_FAST(for (; j + 32 <= c; j += 32) stats_block(rows, c, x + j, shift + j, s1 + j, s2 + j, 2, 16);)
    V_FAST(for (; j + 16 <= c; j += 16) stats_block(rows, c, x + j, shift + j, s1 + j, s2 + j, 1, 16);)
    V_END(j, c) stats_block(rows, c, x + j, shift + j, s1 + j, s2 + j, 1, V_LEFT(j, c));
}

/* What comes through a ReLU behind the norm: nothing does where y, as it was computed, is not above 0. */
enum { NO_RELU, RELU_AGAIN, RELU_FROM_Y };

V_FN void dots_block(size_t rows, size_t c, const float *dy, const float *x, const float *mean, float *s_dy, float *s_dyx,
                     const kd__norm_relu *relu, size_t j, const int how, int width, size_t n)
{
    kd_f32x16 sum[2] = { v_zero(), v_zero() }, dot[2] = { v_zero(), v_zero() };
    kd_f32x16 m[2] = { v_zero(), v_zero() }, scale[2], shift[2];
    const float *y = how == RELU_FROM_Y ? relu->y + j : NULL;
    float *g = how == RELU_FROM_Y ? relu->g + j : NULL;
    EACH {
        m[v] = LOAD(mean);
        scale[v] = how == RELU_AGAIN ? LOAD(relu->scale + j) : v_zero();
        shift[v] = how == RELU_AGAIN ? LOAD(relu->shift + j) : v_zero();
    }
    size_t r = 0;
#define ROW(k, gk, dk)                                                                                                      \
    kd_f32x16 gk = LOAD(dy + (k) * c), dk = v_sub(LOAD(x + (k) * c), m[v]);                                                 \
    if (how == RELU_AGAIN) gk = v_select(v_le(v_fma(dk, scale[v], shift[v]), v_zero()), v_zero(), gk);                      \
    if (how == RELU_FROM_Y) {                                                                                               \
        gk = v_select(v_le(LOAD(y + (k) * c), v_zero()), v_zero(), gk);                                                     \
        STORE(g + (k) * c, gk);                                                                                             \
    }
    for (; r + 4 <= rows; r += 4) {
        EACH {
            ROW(0, g0, d0) ROW(1, g1, d1) ROW(2, g2, d2) ROW(3, g3, d3)
            sum[v] = v_add(sum[v], v_add(v_add(g0, g1), v_add(g2, g3)));
            g0 = v_fma(g1, d1, v_mul(g0, d0));
            g2 = v_fma(g3, d3, v_mul(g2, d2));
            dot[v] = v_add(dot[v], v_add(g0, g2));
        }
        dy += 4 * c, x += 4 * c;
        if (how == RELU_FROM_Y) y += 4 * c, g += 4 * c;
    }
    for (; r < rows; r++) {
        EACH {
            ROW(0, g0, d0)
            sum[v] = v_add(sum[v], g0);
            dot[v] = v_fma(g0, d0, dot[v]);
        }
        dy += c, x += c;
        if (how == RELU_FROM_Y) y += c, g += c;
    }
#undef ROW
    EACH {
        STORE(s_dy, sum[v]);
        STORE(s_dyx, dot[v]);
    }
}

/* Pairs of whole vectors; how many columns they were. */
#ifndef KD_ISA_scalar
V_FN size_t dots_columns(size_t rows, size_t c, const float *dy, const float *x, const float *mean, float *s_dy, float *s_dyx,
                       const kd__norm_relu *relu, const int how)
{
    size_t j = 0;
    for (; j + 32 <= c; j += 32) dots_block(rows, c, dy + j, x + j, mean + j, s_dy + j, s_dyx + j, relu, j, how, 2, 16);
    return j;
}
#endif

void KD_K(norm_columns_dots_f32)(size_t rows, size_t c, const float *dy, const float *x, const float *mean, float *s_dy,
                             float *s_dyx, const kd__norm_relu *relu)
{
    const int how = !relu ? NO_RELU : relu->y ? RELU_FROM_Y : RELU_AGAIN;
    size_t j = 0;
    V_FAST(
        if (!relu) j = dots_columns(rows, c, dy, x, mean, s_dy, s_dyx, relu, NO_RELU);
        else if (relu->y) j = dots_columns(rows, c, dy, x, mean, s_dy, s_dyx, relu, RELU_FROM_Y);
        else j = dots_columns(rows, c, dy, x, mean, s_dy, s_dyx, relu, RELU_AGAIN);
    )
    /* what is left asks how at each row */
    V_FAST(for (; j + 16 <= c; j += 16) dots_block(rows, c, dy + j, x + j, mean + j, s_dy + j, s_dyx + j, relu, j, how, 1, 16);)
    V_END(j, c) dots_block(rows, c, dy + j, x + j, mean + j, s_dy + j, s_dyx + j, relu, j, how, 1, V_LEFT(j, c));
}
#undef EACH
#undef LOAD
#undef STORE

void KD_K(norm_columns_apply_f32)(size_t rows, size_t c, const float *x, const float *mean, const float *scale,
                              const float *shift, const float *residual, int relu, float *y)
{
    const kd_f32x16 zero = v_zero();
#define STEP(j, n, from)                                                                                         \
    do {                                                                                                         \
        kd_f32x16 a = v_fma(from, load_part(scale + j, n), load_part(shift + j, n));                                         \
        if (residual) a = v_add(a, load_part(residual + j, n));                                                        \
        store_part(y + j, relu ? v_max(zero, a) : a, n);                                                                \
    } while (0)
#define FROM_MEAN(j, n) STEP(j, n, v_sub(load_part(x + j, n), load_part(mean + j, n)))
#define FROM_ZERO(j, n) STEP(j, n, load_part(x + j, n))
    for (size_t r = 0; r < rows; r++, x += c, y += c) {
        if (mean) FOR_ROW(FROM_MEAN);
        else FOR_ROW(FROM_ZERO);
        if (residual) residual += c;
    }
#undef FROM_MEAN
#undef FROM_ZERO
#undef STEP
}

void KD_K(norm_columns_backward_f32)(size_t rows, size_t c, const float *dy, const float *x, const float *mean,
                                 const float *scale, const float *k, const float *m, const float *shift, float *dx,
                                 int accumulate)
{
#define ADD(j, n, g) store_part(dx + j, accumulate ? v_add(load_part(dx + j, n), g) : g, n)
#define WITH_X(j, n)                                                                                             \
    do {                                                                                                        \
        kd_f32x16 d = v_sub(load_part(x + j, n), load_part(mean + j, n)), w = load_part(scale + j, n), g = load_part(dy + j, n);        \
        if (shift) g = v_select(v_le(v_fma(d, w, load_part(shift + j, n)), v_zero()), v_zero(), g);                   \
        g = v_fms(w, g, v_fma(d, load_part(k + j, n), load_part(m + j, n)));                                                \
        ADD(j, n, g);                                                                                           \
    } while (0)
#define WITHOUT(j, n)                                                                                           \
    do {                                                                                                        \
        kd_f32x16 g = v_mul(load_part(scale + j, n), load_part(dy + j, n));                                                 \
        ADD(j, n, g);                                                                                           \
    } while (0)
    for (size_t r = 0; r < rows; r++, dy += c, dx += c) {
        if (x) {
            FOR_ROW(WITH_X);
            x += c;
        } else {
            FOR_ROW(WITHOUT);
        }
    }
#undef ADD
#undef WITH_X
#undef WITHOUT
}

/* ---- rows ---------------------------------------------------------------------------------------- */

#define BLOCK 4096u   /* floats summed in single precision: 64 steps of four vectors */
#define BLOCK_AT(i) (c - (i) < BLOCK ? c - (i) : BLOCK)

V_FN double block_sum(const float *x, size_t c)
{
    kd_f32x16 s[4] = { v_zero(), v_zero(), v_zero(), v_zero() };
    size_t i = 0;
    for (; i + 64 <= c; i += 64) {
        V_UNROLL(4)
        for (int v = 0; v < 4; v++) s[v] = v_add(s[v], v_load(x + i + 16 * v));
    }
    for (; i + 16 <= c; i += 16) s[0] = v_add(s[0], v_load(x + i));
    if (i < c) s[1] = v_add(s[1], v_load_n(x + i, c - i, 0.0f));
    return v_sum_f64(v_add(v_add(s[0], s[1]), v_add(s[2], s[3])));
}

/* Adds the sums of (x - m) and (x - m)^2. */
V_FN void block_moments(const float *x, size_t c, float m, double *s1, double *s2)
{
    kd_f32x16 s[2] = { v_zero(), v_zero() }, q[2] = { v_zero(), v_zero() }, mean = v_set1(m);
    size_t i = 0;
#define STEP(v, vector)                       \
    do {                                      \
        kd_f32x16 d = v_sub(vector, mean);    \
        s[v] = v_add(s[v], d);                \
        q[v] = v_fma(d, d, q[v]);             \
    } while (0)
    for (; i + 32 <= c; i += 32) {
        STEP(0, v_load(x + i));
        STEP(1, v_load(x + i + 16));
    }
    if (i + 16 <= c) {
        STEP(0, v_load(x + i));
        i += 16;
    }
    if (i < c) STEP(1, v_load_n(x + i, c - i, m));
#undef STEP
    *s1 += v_sum_f64(v_add(s[0], s[1]));
    *s2 += v_sum_f64(v_add(q[0], q[1]));
}

V_FN void row_moments(const float *x, size_t c, double *mean, double *var)
{
    double sum = 0.0, s1 = 0.0, s2 = 0.0, n = (double)c;
    for (size_t i = 0; i < c; i += BLOCK) sum += block_sum(x + i, BLOCK_AT(i));
    float near = (float)(sum / n);
    for (size_t i = 0; i < c; i += BLOCK) block_moments(x + i, BLOCK_AT(i), near, &s1, &s2);
    s1 /= n;
    s2 = s2 / n - s1 * s1;
    *mean = (double)near + s1;
    *var = s2 < 0.0 ? 0.0 : s2;   /* rounding may leave it below zero; NaN stays */
}

void KD_K(layer_norm_rows_f32)(size_t rows, size_t c, const float *x, const float *weight, const float *bias, float eps,
                           float *y, float *mean_out, float *rstd_out)
{
    kd_f32x16 one = v_set1(1.0f), zero = v_zero();
    for (size_t r = 0; r < rows; r++, x += c, y += c) {
        double mean, var;
        row_moments(x, c, &mean, &var);
        mean_out[r] = (float)mean;
        rstd_out[r] = (float)(1.0 / sqrt(var + (double)eps));
        kd_f32x16 m = v_set1(mean_out[r]), s = v_set1(rstd_out[r]);
#define STEP(j, n)                                                                              \
        store_part(y + j, v_fma(v_mul(v_sub(load_part(x + j, n), m), s), weight ? load_part(weight + j, n) : one,  \
                         bias ? load_part(bias + j, n) : zero), n)
        FOR_ROW(STEP);
#undef STEP
    }
}

/* n columns: g = dy weight and g hat go to the sums, dy hat to dweight, dy to dbias. */
V_FN void layer_step(const float *dy, const float *x, const float *weight, size_t n, kd_f32x16 m, kd_f32x16 s,
                     float *dweight, float *dbias, kd_f32x16 *sum, kd_f32x16 *dot)
{
    kd_f32x16 g = load_part(dy, n), hat = v_mul(v_sub(load_part(x, n), m), s);
    if (dweight) store_part(dweight, v_fma(g, hat, load_part(dweight, n)), n);
    if (dbias) store_part(dbias, v_add(load_part(dbias, n), g), n);
    if (weight) g = v_mul(g, load_part(weight, n));
    *sum = v_add(*sum, g);
    *dot = v_fma(g, hat, *dot);
}

V_FN void layer_block(const float *dy, const float *x, const float *weight, size_t c, kd_f32x16 m, kd_f32x16 s,
                      float *dweight, float *dbias, double *s_g, double *s_ghat)
{
    kd_f32x16 sum[2] = { v_zero(), v_zero() }, dot[2] = { v_zero(), v_zero() };
    size_t j = 0;
#define STEP(v, at, n)                                                                                              \
    layer_step(dy + (at), x + (at), weight ? weight + (at) : NULL, n, m, s, dweight ? dweight + (at) : NULL,        \
               dbias ? dbias + (at) : NULL, &sum[v], &dot[v])
    for (; j + 32 <= c; j += 32) {
        STEP(0, j, 16);
        STEP(1, j + 16, 16);
    }
    if (j + 16 <= c) {
        STEP(0, j, 16);
        j += 16;
    }
    if (j < c) STEP(1, j, c - j);
#undef STEP
    *s_g += v_sum_f64(v_add(sum[0], sum[1]));
    *s_ghat += v_sum_f64(v_add(dot[0], dot[1]));
}

void KD_K(layer_norm_backward_rows_f32)(size_t rows, size_t c, const float *dy, const float *x, const float *weight,
                                    const float *mean, const float *rstd, float *dx, int accumulate, float *dweight,
                                    float *dbias)
{
    for (size_t r = 0; r < rows; r++, dy += c, x += c) {
        kd_f32x16 m = v_set1(mean[r]), s = v_set1(rstd[r]);
        double s_g = 0.0, s_ghat = 0.0;
        for (size_t i = 0; i < c; i += BLOCK)
            layer_block(dy + i, x + i, weight ? weight + i : NULL, BLOCK_AT(i), m, s, dweight ? dweight + i : NULL,
                        dbias ? dbias + i : NULL, &s_g, &s_ghat);
        if (!dx) continue;
        /* rstd (g - mean g - hat mean(g hat)) */
        kd_f32x16 mean_g = v_set1((float)(s_g / (double)c)), mean_ghat = v_set1((float)(s_ghat / (double)c));
#define STEP(j, n)                                                                                \
        do {                                                                                      \
            kd_f32x16 g = load_part(dy + j, n), hat = v_mul(v_sub(load_part(x + j, n), m), s);                \
            if (weight) g = v_mul(g, load_part(weight + j, n));                                         \
            g = v_mul(s, v_fnma(hat, mean_ghat, v_sub(g, mean_g)));                               \
            store_part(dx + j, accumulate ? v_add(load_part(dx + j, n), g) : g, n);                            \
        } while (0)
        FOR_ROW(STEP);
#undef STEP
        dx += c;
    }
}

#ifndef KD_ISA_avx512   /* AVX2 serves: kernels.def */
/* Sum of a b, exact products added in double: no overflow, and none lost below the smallest float. */
V_FN double row_dot(const float *a, const float *b, size_t c)
{
    kd_f64x16 s = vd_set1(0.0);
#define STEP(j, n) s = vd_mac_f32(s, load_part(a + j, n), load_part(b + j, n))
    FOR_ROW(STEP);
#undef STEP
    return vd_sum(s);
}

void KD_K(l2_normalize_rows_f32)(size_t rows, size_t c, const float *x, float eps, float *y, float *norm)
{
    for (size_t r = 0; r < rows; r++, x += c, y += c) {
        norm[r] = (float)sqrt(row_dot(x, x, c));
        kd_f32x16 d = v_set1(norm[r] < eps ? eps : norm[r]);   /* a NaN stays one */
#define STEP(j, n) store_part(y + j, v_div(load_part(x + j, n), d), n)
        FOR_ROW(STEP);
#undef STEP
    }
}

void KD_K(l2_normalize_backward_rows_f32)(size_t rows, size_t c, const float *dy, const float *y, const float *norm, float eps,
                                      float *dx, int accumulate)
{
    for (size_t r = 0; r < rows; r++, dy += c, y += c, dx += c) {
        int below = norm[r] < eps;                             /* then the divisor is the constant eps */
        kd_f32x16 d = v_set1(below ? eps : norm[r]), dot = v_set1(below ? 0.0f : (float)row_dot(dy, y, c));
#define STEP(j, n)                                                                    \
        do {                                                                          \
            kd_f32x16 g = v_div(v_fnma(load_part(y + j, n), dot, load_part(dy + j, n)), d);       \
            store_part(dx + j, accumulate ? v_add(load_part(dx + j, n), g) : g, n);                \
        } while (0)
        FOR_ROW(STEP);
#undef STEP
    }
}

void KD_K(cosine_rows_f32)(size_t rows, size_t c, const float *a, const float *b, float eps, float *out, float *a_norm,
                           float *b_norm)
{
    for (size_t r = 0; r < rows; r++, a += c, b += c) {
        double aa = sqrt(row_dot(a, a, c)), bb = sqrt(row_dot(b, b, c)), d = aa * bb;
        out[r] = (float)(row_dot(a, b, c) / (d < (double)eps ? (double)eps : d));   /* a NaN stays one */
        a_norm[r] = (float)aa;
        b_norm[r] = (float)bb;
    }
}

void KD_K(cosine_backward_rows_f32)(size_t rows, size_t c, const float *dy, const float *a, const float *b, const float *y,
                                    const float *a_norm, const float *b_norm, float eps, float *da, int accumulate)
{
    for (size_t r = 0; r < rows; r++, a += c, b += c, da += c) {
        double aa = (double)a_norm[r], bb = (double)b_norm[r];
        int below = aa * bb < (double)eps;   /* then the divisor is the constant eps */
        /* dy (b / |b| - y a / |a|) / |a|, or dy b / eps */
        kd_f32x16 front = v_set1(below ? dy[r] / eps : (float)((double)dy[r] / aa));
        kd_f32x16 of_b = v_set1(below ? 1.0f : (float)(1.0 / bb)), of_a = v_set1(below ? 0.0f : (float)((double)y[r] / aa));
#define STEP(j, n)                                                                                    \
        do {                                                                                          \
            kd_f32x16 g = v_mul(front, v_fnma(of_a, load_part(a + j, n), v_mul(of_b, load_part(b + j, n))));      \
            store_part(da + j, accumulate ? v_add(load_part(da + j, n), g) : g, n);                                \
        } while (0)
        FOR_ROW(STEP);
#undef STEP
    }
}
#endif
