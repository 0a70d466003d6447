/* gemm_block.h - what the matrix kernel is asked to do.
 *
 * gemm_block_f32       one sum of products for each element of a block of C, below.
 * epilogue_f32         the epilogue alone, in place, on c [rows, n], rows c_row apart.
 * pack_panels_f32      B [k, n] (transposed: stored [n, k]) to panels of KD__GEMM_PANEL columns, each [k][32] and
 *                      filled up with zeros, `panel` floats apart in `out`.
 * weight_taps_f32      a weight gradient's three taps at a time, A being the source by columns (a_row = 1, no edges) and B the
 *                      gradient of the outputs, both whole rows of `length` pixels, two or more; no epilogue:
 *                      C(t, i, j), `tap` floats from t to t, sums a(i, o, p, k) b(o, p, k + 1 - t, j) over k in [0, length)
 *                      with k + 1 - t there too.
 *
 *     s = the chain   s = 0;  for o < outer, p < inner, k < length:  s = fma(a(i, o, p, k), b(o, p, k, j), s)
 *     C(i, j) = s, or C(i, j) + s when `add`;  then the epilogue
 *
 * One chain for each element, in this order, whatever the tile: this is the contract of every product and
 * convolution.  The two loops around k let a convolution name its taps, and a weight gradient its rows of
 * pixels, without copying them together.
 * SPDX-License-Identifier: MIT */
#ifndef KD__GEMM_BLOCK_H
#define KD__GEMM_BLOCK_H
#include <stddef.h>
#include "kernels/epilogue.h"

#define KD__GEMM_K     256u   /* a matrix product is cut along k into blocks of this many: part of its bits */
#define KD__GEMM_PANEL 32u    /* columns of a packed panel of B, on every instruction set */

/* A by rows: the rows of the next tile; A by columns: the block that follows along k. */
#define KD__GEMM_FETCH_A 1
/* The columns of B right of this tile's. */
#define KD__GEMM_FETCH_B 2
/* The tile's own part of C. */
#define KD__GEMM_FETCH_C 4

typedef struct kd__gemm_block {
    size_t m, n;
    size_t outer, inner, length;
    /* a(i, o, p, k) = a[i * a_row + o * a_outer + p * a_inner + k * a_k]; one of a_row, a_k, a_inner is 1.  Where length is 3 and
     * a_k = a_row, rows 0 and m - 1 may lie elsewhere, at a_first and a_last (else NULL), with a_edge_outer for a_outer */
    const float *a, *a_first, *a_last;
    size_t       a_row, a_k;
    ptrdiff_t    a_outer, a_inner, a_edge_outer;
    /* b(o, p, k, j) = b[o * b_outer + p * b_inner + k * b_k + j], or, packed (b_panel > 0), column j lies in
     * panel j / 32 at b + (j / 32) * b_panel, as column j % 32; panels are filled up with zeros */
    const float *b;
    size_t       b_k, b_panel;
    ptrdiff_t    b_outer, b_inner;
    float       *c;
    size_t       c_row;
    kd__epilogue after;
    int          add;
    int          prefetch;        /* KD__GEMM_FETCH_*: what comes from memory and will be wanted soon */
} kd__gemm_block;
#endif
