/* winograd_args.h - Winograd's F(2x2, 3x3) and F(4x4, 3x3): what their transforms are asked to do (Winograd 1980; Lavin and Gray,
 * "Fast Algorithms for Convolutional Neural Networks", CVPR 2016).
 * SPDX-License-Identifier: MIT
 *
 * Tile t makes out x out outputs from (out a, out b) of an image on, from the (out + 2) x (out + 2) pixels d at
 * (out a - pad_h, out b - pad_w); out is 2 or 4:
 *     Y = A^T [ (G g G^T) . (B^T d B) ] A      summed over channels inside the brackets, . element by element
 *     dg = G^T [ (A dY A^T) . (B^T d B) ] G    summed over tiles inside the brackets
 *     B^T = 1  0 -1  0     G =  1   0   0     A^T = 1 1  1  0
 *           0  1  1  0         1/2 1/2 1/2           0 1 -1 -1
 *           0 -1  1  0         1/2 -1/2 1/2
 *           0  1  0 -1          0   0   1
 * and for out = 4
 *     B^T = 4  0 -5  0  1  0     G =  1/4    0     0       A^T = 1  1  1  1  1  0
 *           0 -4 -4  1  1  0         -1/6  -1/6  -1/6            0  1 -1  2 -2  0
 *           0  4 -4 -1  1  0         -1/6   1/6  -1/6            0  1  1  4  4  0
 *           0 -2 -1  2  1  0          1/24  1/12  1/6            0  1 -1  8 -8  1
 *           0  2 -1 -2  1  0          1/24 -1/12  1/6
 *           0  4  0 -5  0  1           0     0     1
 * Each matrix acts on the rows first, then on the columns; the order of the operations is that of kern_winograd.c: for out = 2 B^T as
 * (d0 - d2, d1 + d2, d2 - d1, d1 - d3), G as (g0, ((g0 + g2) + g1) / 2, ((g0 + g2) - g1) / 2, g2), A^T as ((m0 + m1) + m2,
 * (m1 - m2) - m3), and for the gradient A as (y0, y0 + y1, y0 - y1, -y1), G^T as (m0 + (m1 + m2) / 2, (m1 - m2) / 2, (m1 + m2) / 2 + m3).
 *
 * winograd_weights_f32    u[q * u_plane + i] = element q of G g G^T, g = taps[0 .. 8][i], i < n; tap_plane apart.
 * winograd_input_f32      v[q * plane + t * row + i] = element q of B^T d B for tiles first + t, t < count; pixels
 *                         outside the image are `zeros` (c of them).
 * winograd_output_f32     y (=|+=) A^T m A, then the epilogue, its rows the pixels of y; m in v's place with co for c; outputs outside
 *                         are left out.
 * winograd_dy_f32         v[q * plane + t * row + i] = element q of A dY A^T, i < co, dY in x's place; outputs outside count as 0.
 *                         Out 2, as the next.
 * winograd_dw_f32         dw[t * dw_plane + i] (=|+=) tap t of G^T m G, i < n; m's planes m_plane apart.
 * Tiles are numbered image by image, row by row. */
#ifndef KD__WINOGRAD_ARGS_H
#define KD__WINOGRAD_ARGS_H
#include <stddef.h>
#include "kernels/epilogue.h"

typedef struct kd__winograd_args {
    size_t h, w, c, pad_h, pad_w;          /* of x */
    size_t pixel;                          /* floats from pixel to pixel of x: c (co of dY), or more */
    size_t oh, ow, co;                     /* of y */
    size_t out;                            /* outputs of a tile's side, 2 or 4 */
    size_t tiles_h, tiles_w;               /* in an image */
    size_t first, count, plane, row;       /* row: of v */
    const float *x, *zeros;
    float       *v;
    const float *m;
    float       *y;
    kd__epilogue after;
    int          add;
} kd__winograd_args;
#endif
