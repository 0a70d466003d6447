/* kern_conv.c - the weight gradient of three neighbouring taps of a kernel row, at stride 1 and with one column of padding.
 *
 * Pixel k of the source meets output k + 1 under tap 0, k under tap 1 and k - 1 under tap 2, so that one element of the source,
 * broadcast, serves three taps.  Each sum runs over the pixels in the same order as tap by tap in gemm_block_f32: equal bits.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "simd/simd.h"

#ifdef KD_ISA_avx512   /* registers for 3 x 8 sums */
enum { ROWS = 8 };

/* Channels i to i + rows and columns j to j + width. */
V_FN void tile(const kd__gemm_block *g, size_t tap, size_t i, size_t j, const size_t rows, size_t width)
{
    kd_f32x16 acc[3][ROWS];
    V_UNROLL(3)
    for (size_t t = 0; t < 3; t++)
        V_UNROLL(8)
        for (size_t r = 0; r < rows; r++) acc[t][r] = v_zero();

    for (size_t o = 0; o < g->outer; o++)
        for (size_t p = 0; p < g->inner; p++) {
            const float *x = g->a + i + (ptrdiff_t)o * g->a_outer + (ptrdiff_t)p * g->a_inner;
            const float *dy = g->b + j + (ptrdiff_t)o * g->b_outer + (ptrdiff_t)p * g->b_inner;
            kd_f32x16 before, here = v_load_n(dy, width, 0.0f), next = v_load_n(dy + g->b_k, width, 0.0f);
            V_UNROLL(8)
            for (size_t r = 0; r < rows; r++) {
                const kd_f32x16 y = v_set1(x[r]);
                acc[0][r] = v_fma(y, next, acc[0][r]);
                acc[1][r] = v_fma(y, here, acc[1][r]);
            }
            dy += 2 * g->b_k;
            for (size_t k = 2; k < g->length; k++, dy += g->b_k) {
                x += g->a_k;
                before = here;
                here = next;
                next = v_load_n(dy, width, 0.0f);
                V_UNROLL(8)
                for (size_t r = 0; r < rows; r++) {
                    const kd_f32x16 y = v_set1(x[r]);
                    acc[0][r] = v_fma(y, next, acc[0][r]);
                    acc[1][r] = v_fma(y, here, acc[1][r]);
                    acc[2][r] = v_fma(y, before, acc[2][r]);
                }
            }
            x += g->a_k;
            V_UNROLL(8)
            for (size_t r = 0; r < rows; r++) {
                const kd_f32x16 y = v_set1(x[r]);
                acc[1][r] = v_fma(y, next, acc[1][r]);
                acc[2][r] = v_fma(y, here, acc[2][r]);
            }
        }

    V_UNROLL(3)
    for (size_t t = 0; t < 3; t++) {
        float *c = g->c + t * tap + i * g->c_row + j;
        V_UNROLL(8)
        for (size_t r = 0; r < rows; r++, c += g->c_row)
            v_store_n(c, g->add ? v_add(v_load_n(c, width, 0.0f), acc[t][r]) : acc[t][r], width);
    }
}

void KD_K(weight_taps_f32)(const kd__gemm_block *g, size_t tap)
{
    for (size_t j = 0; j < g->n; j += 16) {
        const size_t width = g->n - j < 16 ? g->n - j : 16;
        for (size_t i = 0, rows; i < g->m; i += rows) {   /* of few channels, four or what is left of four */
            rows = g->m - i >= ROWS ? (size_t)ROWS : g->m - i > 4 ? 4 : g->m - i;
            switch (rows) {
            case 1: tile(g, tap, i, j, 1, width); break;
            case 2: tile(g, tap, i, j, 2, width); break;
            case 3: tile(g, tap, i, j, 3, width); break;
            case 4: tile(g, tap, i, j, 4, width); break;
            default: tile(g, tap, i, j, 8, width);
            }
        }
    }
}

#else
void KD_K(gemm_block_f32)(const kd__gemm_block *g);

void KD_K(weight_taps_f32)(const kd__gemm_block *g, size_t tap)
{
    for (size_t t = 0; t < 3; t++) {
        kd__gemm_block one = *g;
        if (t == 0) one.b += g->b_k;
        if (t == 2) one.a += g->a_k;
        if (t != 1) one.length--;
        one.c += t * tap;
        KD_K(gemm_block_f32)(&one);
    }
}
#endif
