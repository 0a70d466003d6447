/* conv_internal.h - what the convolution drivers share.
 * SPDX-License-Identifier: MIT */
#ifndef KD__CONV_INTERNAL_H
#define KD__CONV_INTERNAL_H
#include "tensor/tensor.h"

/* One pass of a window over an image: a forward convolution, or one phase of a data gradient, which for output
 * pixels of equal remainder by the stride is a convolution too.  Tap (i, j) of output (r, q) is source pixel
 * (first_h + r step_h + i tap_h, first_w + q step_w + j tap_w). */
typedef struct kd__window {
    size_t    h, w, c;             /* the source image; c channels in a pixel */
    size_t    kh, kw;              /* taps */
    size_t    tap_h, tap_w, step_h, step_w;
    ptrdiff_t first_h, first_w;
    size_t    oh, ow;              /* outputs */
    ptrdiff_t y_first;             /* floats from the image's result to output (0, 0) */
    size_t    y_row, y_step;       /* floats from row to row, from pixel to pixel */
} kd__window;

/* Output rows [r0, r1) and columns [c0, c1). */
typedef struct kd__region { size_t r0, r1, c0, c1; } kd__region;

/* Source pixels of a region: rows [lo, hi) of the image, from the column of the region's first tap on.  What lies under the
 * first and the last output of a row may be a copy, with zeros beside the image. */
typedef struct kd__patch {
    const float *data, *first, *last;   /* first, last: NULL where `data` will do */
    size_t lo, hi, row, edge;           /* floats from row to row of data; of first and last */
} kd__patch;

/* How many of the taps from + i step, i < count, are below limit. */
static inline size_t kd__taps_below(ptrdiff_t from, size_t step, size_t limit, size_t count)
{
    if (from >= (ptrdiff_t)limit) return 0;
    if (step == 1) return KD_MIN((size_t)((ptrdiff_t)limit - from), count);   /* a division takes as long as a tile's row */
    size_t n = ((size_t)((ptrdiff_t)limit - from) + step - 1) / step;
    return KD_MIN(n, count);
}

kd__window kd__window_forward(const kd__conv_shape *s);
/* Phase (a, b) of the data gradient, a < stride_h, b < stride_w: dx rows a, a + stride_h, .. from dy.  Taps run backwards
 * through the kernel, from *kh0, *kw0 down by *kh_step, *kw_step, so that the source pixels ascend. */
kd__window kd__window_backward(const kd__conv_shape *s, size_t a, size_t b, size_t *kh0, size_t *kw0, size_t *kh_step, size_t *kw_step);

/* Floats that the patch of any region of rows x columns outputs needs; false if that wraps. */
bool      kd__patch_size(const kd__window *w, size_t rows, size_t columns, size_t *floats);
/* The patch of a region of image x: in place where the region's taps lie between the image's sides.  Else what lies under the
 * outputs at the sides is copied to `buffer`, with zeros beside the image; all of it if that is more than one output, or the
 * patch is to be `whole`.  Rows above and below are left out. */
kd__patch kd__patch_take(const kd__window *w, const kd__region *region, bool whole, const float *x, float *buffer);

/* Cut the outputs of n images into regions: about `patch` floats of source each, enough of them for the threads. */
typedef struct kd__cut { size_t rows, columns, down, across, count; } kd__cut;   /* count = n * down * across */
kd__cut   kd__cut_make(const kd__window *w, size_t n, size_t patch, size_t threads);
static inline size_t kd__cut_region(const kd__cut *cut, const kd__window *w, size_t i, kd__region *region)   /* returns the image */
{
    size_t a = i % cut->across, d = i / cut->across % cut->down;
    region->r0 = KD_MIN(d * cut->rows, w->oh);
    region->r1 = KD_MIN(region->r0 + cut->rows, w->oh);
    region->c0 = KD_MIN(a * cut->columns, w->ow);
    region->c1 = KD_MIN(region->c0 + cut->columns, w->ow);
    return i / cut->across / cut->down;
}

/* Which way a convolution goes: part of the promised bits, docs/design/numerics.md. */
typedef enum kd__conv_way { KD__CONV_POINTWISE, KD__CONV_DEPTHWISE, KD__CONV_WINOGRAD, KD__CONV_DIRECT } kd__conv_way;
kd__conv_way kd__conv_choose(const kd__conv_shape *s);

/* Weight gradients sum chunks of pixels from zero and add them in order: as many whole images as have KD__CHUNK pixels or fewer;
 * of a larger image as many whole rows, at least one.  Part of the promised bits. */
#define KD__CHUNK 1024u
typedef struct kd__chunks { size_t images, rows, down, count; } kd__chunks;   /* of a chunk; chunks of an image; all */
kd__chunks kd__chunks_of(const kd__conv_shape *s);
/* Chunk i: output rows [region->r0, r1) of `*images` images from *first on. */
void       kd__chunk_at(const kd__conv_shape *s, const kd__chunks *chunks, size_t i, size_t *first, size_t *images, kd__region *region);

kd_status kd__direct_forward(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *weight, kd__packed *packed,
                             const kd__epilogue *after, float *y);
kd_status kd__direct_backward_data(kd_context *ctx, const kd__conv_shape *s, const float *dy, const float *weight, float *dx,
                                   bool accumulate);
kd_status kd__direct_backward_weight(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *dy, float *dw,
                                     bool accumulate);
kd_status kd__winograd_forward(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *weight, kd__packed *packed,
                               const kd__epilogue *after, float *y);
kd_status kd__winograd_backward_data(kd_context *ctx, const kd__conv_shape *s, const float *dy, const float *weight, float *dx,
                                     bool accumulate);
kd_status kd__winograd_backward_weight(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *dy, float *dw,
                                       bool accumulate);
void      kd__depthwise_forward(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *weight, const kd__epilogue *after,
                                float *y);
void      kd__depthwise_backward_data(kd_context *ctx, const kd__conv_shape *s, const float *dy, const float *weight, float *dx,
                                      bool accumulate);
kd_status kd__depthwise_backward_weight(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *dy, float *dw,
                                        bool accumulate);
#endif
