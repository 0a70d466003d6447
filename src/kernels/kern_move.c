/* kern_move.c - filling, copying with strides, adding multiples.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "simd/simd.h"

void KD_K(axpy_f32)(float *y, const float *x, size_t n, float a)
{
    kd_f32x16 va = v_set1(a);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_fma(va, v_load(x + i), v_load(y + i)));
    if (i < n) v_store_n(y + i, v_fma(va, v_load_n(x + i, n - i, 0.0f), v_load_n(y + i, n - i, 0.0f)), n - i);
}

void KD_K(fill_f32)(float *out, size_t n, float value)
{
    kd_f32x16 v = v_set1(value);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(out + i, v);
    if (i < n) v_store_n(out + i, v, n - i);
}

V_FN void copy_row(float *out, const float *in, size_t n, int accumulate)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(out + i, accumulate ? v_add(v_load(out + i), v_load(in + i)) : v_load(in + i));
    if (i < n) {
        kd_f32x16 x = v_load_n(in + i, n - i, 0.0f);
        v_store_n(out + i, accumulate ? v_add(v_load_n(out + i, n - i, 0.0f), x) : x, n - i);
    }
}

/* out[r][i] = in[i][r] for 16 x 16 elements; in's rows are in_step apart. */
V_FN void transpose_block(float *out, ptrdiff_t out_row, const float *in, ptrdiff_t in_step, int accumulate)
{
    kd_f32x16 t[16];
    V_UNROLL(16)
    for (int k = 0; k < 16; k++) t[k] = v_load(in + k * in_step);
    v_transpose16(t);
    V_UNROLL(16)
    for (int k = 0; k < 16; k++) {
        float *o = out + k * out_row;
        v_store(o, accumulate ? v_add(v_load(o), t[k]) : t[k]);
    }
}

V_FN void copy_elements(float *out, ptrdiff_t out_row, ptrdiff_t out_step, const float *in, ptrdiff_t in_row,
                        ptrdiff_t in_step, size_t rows, size_t n, int accumulate)
{
    for (size_t r = 0; r < rows; r++) {
        float *o = out + (ptrdiff_t)r * out_row;
        const float *x = in + (ptrdiff_t)r * in_row;
        for (size_t i = 0; i < n; i++, o += out_step, x += in_step) *o = accumulate ? *o + *x : *x;
    }
}

void KD_K(copy2d_f32)(float *out, ptrdiff_t out_row, ptrdiff_t out_step, const float *in, ptrdiff_t in_row,
                      ptrdiff_t in_step, size_t rows, size_t n, int accumulate)
{
    if (out_step == 1 && in_step == 1) {
        for (size_t r = 0; r < rows; r++) copy_row(out + (ptrdiff_t)r * out_row, in + (ptrdiff_t)r * in_row, n, accumulate);
        return;
    }
    if (out_step == 1 && in_row == 1) {   /* a transposition: whole blocks in registers, the edges one by one */
        size_t r = 0;
        for (; r + 16 <= rows; r += 16) {
            float *o = out + (ptrdiff_t)r * out_row;
            const float *x = in + r;
            size_t i = 0;
            for (; i + 16 <= n; i += 16) transpose_block(o + i, out_row, x + (ptrdiff_t)i * in_step, in_step, accumulate);
            copy_elements(o + i, out_row, 1, x + (ptrdiff_t)i * in_step, 1, in_step, 16, n - i, accumulate);
        }
        copy_elements(out + (ptrdiff_t)r * out_row, out_row, 1, in + r, 1, in_step, rows - r, n, accumulate);
        return;
    }
    copy_elements(out, out_row, out_step, in, in_row, in_step, rows, n, accumulate);
}
