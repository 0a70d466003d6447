/* distill_row.h - what both distillation kernels know of a row before they work on it.
 * SPDX-License-Identifier: MIT */
#ifndef KD__DISTILL_ROW_H
#define KD__DISTILL_ROW_H
#include "kernels/distill_args.h"
#include "simd/simd.h"

#define INF __builtin_inff()

/* A row to work on.  A side outside its term has the coefficient 0. */
typedef struct row {
    const float *s, *t;
    float       *g, *ea, *eb;
    float        hc, sc;
    int32_t      label;   /* -1: none */
} row;

V_FN int is_blank(const float *x, size_t n)
{
    if (x[0] != -INF) return 0;
    for (size_t i = 0; i < n; i += 16)
        if (!vm_all(v_eq(v_load_n(x + i, n - i < 16 ? n - i : 16, -INF), v_set1(-INF)))) return 0;
    return 1;
}

V_FN row row_begin(const kd__distill_args *a, size_t r)
{
    row w = { a->student + r * a->student_stride, a->teacher ? a->teacher + r * a->teacher_stride : NULL,
              a->grad ? a->grad + r * a->grad_stride : NULL, a->scratch, a->scratch + (a->classes + 15) / 16 * 16,
              a->hard_coef[r], a->soft_coef[r], -1 };
    int blank_t = w.sc != 0.0f && is_blank(w.t, a->classes), blank_s = 0;
    if (w.hc != 0.0f || w.sc != 0.0f) blank_s = is_blank(w.s, a->classes);
    *a->masked += blank_s || blank_t;
    if (blank_s) w.hc = 0.0f;
    if (blank_s || blank_t) w.sc = 0.0f;
    if (a->labels && w.hc != 0.0f) w.label = a->labels[r];
    return w;
}

/* The largest of n numbers, and in *low the smallest.  A NaN may hide from both. */
V_FN float row_extremes(const float *x, size_t n, float *low)
{
    kd_f32x16 m0 = v_set1(-INF), m1 = m0, l0 = v_set1(INF), l1 = l0;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        kd_f32x16 a = v_load(x + i), b = v_load(x + i + 16);
        m0 = v_max(m0, a), l0 = v_min(l0, a);
        m1 = v_max(m1, b), l1 = v_min(l1, b);
    }
    for (; i < n; i += 16) {
        size_t k = n - i < 16 ? n - i : 16;
        m0 = v_max(m0, v_load_n(x + i, k, -INF)), l0 = v_min(l0, v_load_n(x + i, k, INF));
    }
    *low = v_hmin(v_min(l0, l1));
    return v_hmax(v_max(m0, m1));
}
#endif
