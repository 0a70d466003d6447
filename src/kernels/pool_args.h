/* pool_args.h - what the pooling kernels are asked to do: windows over one image, NHWC.
 *
 * max_pool_f32            outputs of rows [r0, r1): the maximum of the window's pixels that lie in the image; the first NaN wins.
 *                         With arg, the place of the first such pixel in the window, i * kw + j, as arg_bytes (1 or 4) bytes.
 * max_pool_backward_f32   dx rows [r0, r1) (=|+=) the sum over outputs, in order, whose place this pixel is, of dy.
 * avg_pool_f32            the sum of the window's pixels in the image, rows then columns, divided by how many these are.
 * avg_pool_backward_f32   dx rows [r0, r1) (=|+=) the sum over outputs, in order, whose window covers this pixel, of dy / count.
 * Padding is less than the window, so that no window is empty.
 * SPDX-License-Identifier: MIT */
#ifndef KD__POOL_ARGS_H
#define KD__POOL_ARGS_H
#include <stddef.h>

typedef struct kd__pool_args {
    size_t h, w, c, oh, ow;
    size_t kh, kw, stride_h, stride_w, pad_h, pad_w;
    const float *in;      /* x, or dy */
    float       *out;     /* y, or dx */
    void        *arg;     /* written forward, read backward */
    size_t       arg_bytes;
    int          accumulate;
} kd__pool_args;
#endif
