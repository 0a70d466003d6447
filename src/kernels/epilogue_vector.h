/* epilogue_vector.h - the epilogue of kern_*.c files, a vector at a time.
 * SPDX-License-Identifier: MIT */
#ifndef KD__EPILOGUE_VECTOR_H
#define KD__EPILOGUE_VECTOR_H
#include "kernels/epilogue.h"
#include "simd/simd.h"

/* What is the same for all rows of sixteen columns. */
typedef struct epilogue_columns {
    kd_f32x16 bias, scale, shift;
    int has_bias, has_scale, relu;
} epilogue_columns;


/* Columns [j, j + n), n <= 16. */
V_FN epilogue_columns epilogue_begin(const kd__epilogue *e, size_t j, size_t n)
{
    epilogue_columns c = { v_zero(), v_zero(), v_zero(), e->bias != NULL, e->scale != NULL, e->relu };
    if (e->bias) c.bias = load_part(e->bias + j, n);
    if (e->scale) c.scale = load_part(e->scale + j, n), c.shift = load_part(e->shift + j, n);
    return c;
}

/* residual: these columns of the row's, or NULL. */
V_FN kd_f32x16 epilogue_apply(const epilogue_columns *c, kd_f32x16 s, const float *residual, size_t n)
{
    if (c->has_bias) s = v_add(s, c->bias);
    if (c->has_scale) s = v_fma(s, c->scale, c->shift);
    if (residual) s = v_add(s, load_part(residual, n));
    return c->relu ? v_max(v_zero(), s) : s;
}
#endif
