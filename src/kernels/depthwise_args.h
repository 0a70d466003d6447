/* depthwise_args.h - what the depthwise kernels are asked to do: each channel by itself, channels in lanes.
 *
 * depthwise_f32          a row of outputs: y(q, c) = the chain from zero over i < kh, j < kw of x(q, i, j, c) * w(i, j, c), added to
 *                        the old y when `add`; then the epilogue, its rows the outputs.
 * depthwise_weight_f32   one row of taps: dw(j, c) = the chain from zero over images m, rows r, columns q of x(m, q, r, j, c) *
 *                        dy(m, r, q, c), added to the old dw when `add`.
 * SPDX-License-Identifier: MIT */
#ifndef KD__DEPTHWISE_ARGS_H
#define KD__DEPTHWISE_ARGS_H
#include <stddef.h>
#include "kernels/epilogue.h"

typedef struct kd__depthwise_args {
    size_t channels, kh, kw, columns;
    const float *x;                  /* x(q, i, j, c) = x[q * x_step + i * x_row + j * x_tap + c] */
    size_t x_step, x_row, x_tap;
    const float *w;                  /* w(i, j, c) = w[i * w_row + j * w_tap + c] */
    ptrdiff_t w_row, w_tap;
    float *y;                        /* y(q, c) = y[q * y_step + c] */
    size_t y_step;
    kd__epilogue after;
    int add;
    /* depthwise_weight_f32: r < rows for i; x_image apart; dy(m, r, q, c) = dy[m * dy_image + r * dy_row + q * channels + c] */
    const float *dy;
    size_t images, rows, dy_image, dy_row;
    ptrdiff_t x_image;
    float *dw;                       /* dw(j, c) = dw[j * channels + c] */
} kd__depthwise_args;
#endif
