/* ref_attention.c - see ref_attention.h.
 * SPDX-License-Identifier: MIT */
#include "ref_attention.h"
#include <math.h>
#include <stdlib.h>

void ref_attention(size_t tq, size_t tk, size_t width, const double *q, size_t q_row, const double *k, const double *v,
                   size_t kv_row, double scale, int causal, const double *mask, double *y, double *size, size_t y_row)
{
    double *s = malloc((tk + 1) * sizeof *s);
    for (size_t i = 0; i < tq; i++) {
        double top = -INFINITY, sum = 0, off = 1;   /* off: the error of a score, in roundings */
        for (size_t j = 0; j < tk; j++) {
            double dot = 0, all = 0;
            for (size_t c = 0; c < width; c++) {
                dot += q[i * q_row + c] * k[j * kv_row + c];
                all += fabs(q[i * q_row + c] * k[j * kv_row + c]);
            }
            s[j] = scale * dot + (mask ? mask[j] : 0);
            if (causal && j > i) s[j] = -INFINITY;
            if (s[j] > top) top = s[j];
            if (scale * all > off) off = scale * all;
        }
        for (size_t j = 0; j < tk; j++) sum += s[j] = top == -INFINITY ? 0 : exp(s[j] - top);
        for (size_t c = 0; c < width; c++) {
            double out = 0, all = 0;
            for (size_t j = 0; j < tk; j++) {
                const double p = sum > 0 ? s[j] / sum : 0;
                out += p * v[j * kv_row + c];
                all += p * fabs(v[j * kv_row + c]);
            }
            y[i * y_row + c] = out;
            if (size) size[i * y_row + c] = all * off;
        }
    }
    free(s);
}
