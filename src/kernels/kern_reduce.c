/* kern_reduce.c - sums, products, maxima, in one order whatever the machine.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "simd/simd.h"

/* Sum of a[i] (b NULL) or of a[i] b[i]: four registers in turn, in double. */
V_FN double sum_of(const float *a, const float *b, size_t n)
{
    kd_f64x16 s0 = vd_set1(0), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
#define TAKE(sum, x, y) sum = b ? vd_mac_f32(sum, x, y) : vd_add(sum, vd_from_f32(x))
    for (; i + 64 <= n; i += 64) {
        TAKE(s0, v_load(a + i), v_load(b + i));
        TAKE(s1, v_load(a + i + 16), v_load(b + i + 16));
        TAKE(s2, v_load(a + i + 32), v_load(b + i + 32));
        TAKE(s3, v_load(a + i + 48), v_load(b + i + 48));
    }
    for (int k = 0; i < n; i += 16, k++) {
        size_t left = n - i < 16 ? n - i : 16;
        kd_f32x16 x = v_load_n(a + i, left, 0.0f), y = b ? v_load_n(b + i, left, 0.0f) : x;
        if (k == 0) TAKE(s0, x, y);
        else if (k == 1) TAKE(s1, x, y);
        else if (k == 2) TAKE(s2, x, y);
        else TAKE(s3, x, y);
    }
#undef TAKE
    return vd_sum(vd_add(vd_add(s0, s1), vd_add(s2, s3)));
}

void KD_K(sum_f32)(double *out, const float *in, size_t n) { *out = sum_of(in, NULL, n); }
void KD_K(dot_f32)(double *out, const float *a, const float *b, size_t n) { *out = sum_of(a, b, n); }

void KD_K(row_sums_f32)(float *out, const float *in, size_t rows, size_t n, size_t row, float scale, int accumulate)
{
    for (size_t r = 0; r < rows; r++) {
        float sum = (float)(sum_of(in + r * row, NULL, n) * (double)scale);
        out[r] = accumulate ? out[r] + sum : sum;
    }
}

/* One strip of 16 * width columns: blocks of 64 rows from zero, added in order. */
V_FN void column_strip(float *out, const float *in, size_t rows, size_t row, int accumulate, int width)
{
    kd_f32x16 sum[4], block[4];
    for (int j = 0; j < width; j++) sum[j] = accumulate ? v_load(out + 16 * j) : v_zero();
    for (size_t r = 0; r < rows; r += 64) {
        size_t end = rows - r < 64 ? rows : r + 64;
        for (int j = 0; j < width; j++) block[j] = v_zero();
        for (size_t k = r; k < end; k++)
            for (int j = 0; j < width; j++) block[j] = v_add(block[j], v_load(in + k * row + 16 * (size_t)j));
        for (int j = 0; j < width; j++) sum[j] = v_add(sum[j], block[j]);
    }
    for (int j = 0; j < width; j++) v_store(out + 16 * j, sum[j]);
}

void KD_K(column_sums_f32)(float *out, const float *in, size_t rows, size_t n, size_t row, int accumulate)
{
    size_t i = 0;
    for (; i + 64 <= n; i += 64) column_strip(out + i, in + i, rows, row, accumulate, 4);
    for (; i + 16 <= n; i += 16) column_strip(out + i, in + i, rows, row, accumulate, 1);
    if (i == n) return;
    kd_f32x16 sum = accumulate ? v_load_n(out + i, n - i, 0.0f) : v_zero();
    for (size_t r = 0; r < rows; r += 64) {
        size_t end = rows - r < 64 ? rows : r + 64;
        kd_f32x16 block = v_zero();
        for (size_t k = r; k < end; k++) block = v_add(block, v_load_n(in + k * row + i, n - i, 0.0f));
        sum = v_add(sum, block);
    }
    v_store_n(out + i, sum, n - i);
}

/* The first index where x[i] == value, or is NaN when value is. */
V_FN size_t first_index(const float *x, size_t n, float value)
{
    kd_f32x16 v = v_set1(value);
    const int nan = value != value;
    size_t i = 0;
    for (; i < n; i += 16) {
        size_t left = n - i < 16 ? n - i : 16;
        kd_f32x16 a = v_load_n(x + i, left, 0.0f);
        if (vm_any(vm_and(nan ? v_isnan(a) : v_eq(a, v), vm_first(left)))) break;
    }
    while (nan ? x[i] == x[i] : x[i] != value) i++;
    return i;
}

void KD_K(row_max_f32)(float *out, int32_t *arg, const float *in, size_t rows, size_t n, size_t row)
{
    for (size_t r = 0; r < rows; r++) {
        const float *x = in + r * row;
        kd_f32x16 top = v_set1(-__builtin_inff());
        kd_m16 nan = v_gt(top, top);
        size_t i = 0;
        for (; i < n; i += 16) {
            size_t left = n - i < 16 ? n - i : 16;
            kd_f32x16 a = v_load_n(x + i, left, -__builtin_inff());
            nan = vm_or(nan, v_isnan(a));
            top = v_max(top, a);
        }
        float value = vm_any(nan) ? __builtin_nanf("") : v_hmax(top);
        size_t first = n ? first_index(x, n, value) : 0;
        out[r] = n ? x[first] : value;
        if (arg) arg[r] = (int32_t)first;
    }
}

void KD_K(first_nonfinite_f32)(size_t *out, const float *in, size_t n)
{
    size_t i = 0;
    kd_f32x16 zero = v_zero();
    for (; i + 16 <= n; i += 16) {   /* x - x is 0 unless x is NaN or an infinity */
        kd_f32x16 x = v_load(in + i);
        if (!vm_all(v_eq(v_sub(x, x), zero))) break;
    }
    while (i < n && in[i] - in[i] == 0.0f) i++;
    *out = i;
}
