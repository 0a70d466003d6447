/* ref_gemm.c - matrix products from the formula.
 * SPDX-License-Identifier: MIT */
#include "ref_gemm.h"
#include <math.h>

static float a_at(const ref_gemm *g, size_t i, size_t k)
{
    return g->a_transposed ? g->a[k * g->a_stride + i] : g->a[i * g->a_stride + k];
}
static float b_at(const ref_gemm *g, size_t k, size_t j)
{
    return g->b_transposed ? g->b[j * g->b_stride + k] : g->b[k * g->b_stride + j];
}

double ref_gemm_element(const ref_gemm *g, size_t i, size_t j, double *size)
{
    double sum = g->c0 ? (double)g->c0[i * g->c0_stride + j] : 0, all = fabs(sum);
    for (size_t k = 0; k < g->k; k++) {
        double product = (double)a_at(g, i, k) * (double)b_at(g, k, j);
        sum += product;
        all += fabs(product);
    }
    if (g->bias) {
        sum += (double)g->bias[j];
        all += fabs((double)g->bias[j]);
    }
    if (size) *size = all;
    return g->relu && sum < 0 ? 0 : sum;
}

float ref_gemm_chain(const ref_gemm *g, size_t i, size_t j)
{
    float sum = g->c0 ? g->c0[i * g->c0_stride + j] : 0.0f;
    for (size_t k = 0; k < g->k || k == 0; k += 256) {
        float block = 0.0f;
        for (size_t q = k; q < g->k && q < k + 256; q++) block = fmaf(a_at(g, i, q), b_at(g, q, j), block);
        sum = k || g->c0 ? sum + block : block;
    }
    if (g->bias) sum = sum + g->bias[j];
    return g->relu && sum < 0.0f ? 0.0f : sum;
}
