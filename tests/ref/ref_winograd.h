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

/* Tap (a, b) of the gradient of the weights from channel c to o, of n images: x [n, h, w, c], dy [n, oh, ow, co]; s->x and s->weight are
 * not looked at.  *size and the roundings as above. */
float ref_winograd_gradient(const ref_winograd *s, const float *x, const float *dy, size_t n, size_t a, size_t b, size_t c, size_t o,
                            double *size);
double ref_winograd_gradient_roundings(const ref_winograd *s, size_t n);

/* One axis of the transforms, in the order of src/kernels/winograd_args.h. */
void ref_winograd_weights_axis(const float g[3], float u[4]);
void ref_winograd_input_axis(const float d[4], float v[4]);
void ref_winograd_output_axis(const float m[4], float y[2]);
void ref_winograd_dy_axis(const float y[2], float w[4]);
void ref_winograd_dw_axis(const float m[4], float g[3]);
#endif
