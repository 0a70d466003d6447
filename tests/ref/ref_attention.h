/* ref_attention.h - multi-head attention in double.
 * SPDX-License-Identifier: MIT */
#ifndef REF_ATTENTION_H
#define REF_ATTENTION_H
#include <stddef.h>

/* One sample and head: query i begins at q + i q_row, and so on; `width` columns each.  y [tq] rows of y_row; mask [tk] or NULL.
 * size, if not NULL, like y: what the roundings of y are in proportion to. */
void ref_attention(size_t tq, size_t tk, size_t width, const double *q, size_t q_row, const double *k, const double *v,
                   size_t kv_row, double scale, int causal, const double *mask, double *y, double *size, size_t y_row);
#endif
