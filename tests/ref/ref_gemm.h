/* ref_gemm.h - matrix products from the formula.
 * SPDX-License-Identifier: MIT */
#ifndef REF_GEMM_H
#define REF_GEMM_H
#include <stddef.h>

/* C [m, n] = op(A) op(B) (+ C0) (+ bias) (max 0), everything row-major with strides; c0, bias may be NULL. */
typedef struct ref_gemm {
    size_t m, n, k;
    const float *a; size_t a_stride; int a_transposed;
    const float *b; size_t b_stride; int b_transposed;
    const float *c0; size_t c0_stride;
    const float *bias;
    int relu;
} ref_gemm;

/* Element (i, j) in double; *size, if not NULL: the sum of the magnitudes of its terms. */
double ref_gemm_element(const ref_gemm *g, size_t i, size_t j, double *size);
/* The same element as docs/design/numerics.md orders its float operations, one by one. */
float ref_gemm_chain(const ref_gemm *g, size_t i, size_t j);
#endif
