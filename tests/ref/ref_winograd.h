/* ref_winograd.h - one output of Winograd's F(2x2, 3x3), as docs/design/numerics.md orders its float operations.
 * SPDX-License-Identifier: MIT */
#ifndef REF_WINOGRAD_H
#define REF_WINOGRAD_H
#include <stddef.h>

typedef struct ref_winograd {
    size_t h, w, c, pad_h, pad_w, co;
    const float *x;        /* one image [h, w, c] */
    const float *weight;   /* [3, 3, c, co] */
} ref_winograd;

/* Output (r, q, o).  *size, if not NULL: the sum of magnitudes that the rounding errors of transforms and sums are relative to,
 * |A|^T [(|G| |g| |G|^T) . (|B|^T |d| |B|)] |A|. */
float ref_winograd_element(const ref_winograd *s, size_t r, size_t q, size_t o, double *size);
/* How many roundings an output has at most, of values bounded by size. */
double ref_winograd_roundings(const ref_winograd *s);

/* One axis of the three transforms, in the order of src/kernels/winograd_args.h. */
void ref_winograd_weights_axis(const float g[3], float u[4]);
void ref_winograd_input_axis(const float d[4], float v[4]);
void ref_winograd_output_axis(const float m[4], float y[2]);
#endif
