/* conv.c - convolutions: which way each goes, and the geometry that the ways share.
 * SPDX-License-Identifier: MIT */
#include "tensor/conv_internal.h"

/* ---- the rule ------------------------------------------------------------------------------------------- */
kd__conv_way kd__conv_choose(const kd__conv_shape *s)
{
    const bool one_step = s->stride_h == 1 && s->stride_w == 1;
    if (s->groups == 1 && s->kh == 1 && s->kw == 1 && one_step && s->pad_h == 0 && s->pad_w == 0) return KD__CONV_POINTWISE;
    /* Fewer channels, or an image of a tile or two, are faster without the transforms. */
    if (s->groups == 1 && s->kh == 3 && s->kw == 3 && one_step && s->dil_h == 1 && s->dil_w == 1 && s->pad_h <= 2 && s->pad_w <= 2 &&
        s->ci >= 32 && s->co >= 32 && KD_MIN(KD_MIN(s->h, s->w), KD_MIN(s->oh, s->ow)) >= 4)
        return KD__CONV_WINOGRAD;
    return s->groups == s->ci && s->ci == s->co && s->ci > 1 ? KD__CONV_DEPTHWISE : KD__CONV_DIRECT;
}

/* ---- windows --------------------------------------------------------------------------------------------- */
kd__window kd__window_forward(const kd__conv_shape *s)
{
    return (kd__window){
        .h = s->h, .w = s->w, .c = s->ci, .kh = s->kh, .kw = s->kw, .tap_h = s->dil_h, .tap_w = s->dil_w, .step_h = s->stride_h,
        .step_w = s->stride_w, .first_h = -(ptrdiff_t)s->pad_h, .first_w = -(ptrdiff_t)s->pad_w, .oh = s->oh, .ow = s->ow,
        .y_row = s->ow * s->co, .y_step = s->co,
    };
}

static size_t gcd(size_t a, size_t b)
{
    while (b) {
        size_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* Taps k of an axis with (at + pad - k dilation) divisible by the stride: the last one, how many, how far apart, and the dy
 * index of the last one for the output of this phase that lies at `at`. */
static size_t phase_taps(size_t at, size_t pad, size_t taps, size_t dilation, size_t stride, size_t *last, size_t *apart, ptrdiff_t *index)
{
    *apart = stride / gcd(stride, dilation);
    *last = 0;
    *index = 0;
    size_t first = 0;   /* the remainders repeat after `apart` taps */
    while (first < *apart && ((ptrdiff_t)(at + pad) - (ptrdiff_t)(first * dilation)) % (ptrdiff_t)stride != 0) first++;
    if (first == *apart || first >= taps) return 0;
    size_t count = (taps - first + *apart - 1) / *apart;
    *last = first + (count - 1) * *apart;
    *index = ((ptrdiff_t)(at + pad) - (ptrdiff_t)(*last * dilation)) / (ptrdiff_t)stride;
    return count;
}

kd__window kd__window_backward(const kd__conv_shape *s, size_t a, size_t b, size_t *kh0, size_t *kw0, size_t *kh_step, size_t *kw_step)
{
    kd__window w = { .h = s->oh, .w = s->ow, .c = s->co, .step_h = 1, .step_w = 1 };
    w.kh = phase_taps(a, s->pad_h, s->kh, s->dil_h, s->stride_h, kh0, kh_step, &w.first_h);
    w.kw = phase_taps(b, s->pad_w, s->kw, s->dil_w, s->stride_w, kw0, kw_step, &w.first_w);
    w.tap_h = *kh_step * s->dil_h / s->stride_h;
    w.tap_w = *kw_step * s->dil_w / s->stride_w;
    w.oh = a < s->h ? (s->h - a - 1) / s->stride_h + 1 : 0;
    w.ow = b < s->w ? (s->w - b - 1) / s->stride_w + 1 : 0;
    w.y_first = (ptrdiff_t)((a * s->w + b) * s->ci);
    w.y_row = s->stride_h * s->w * s->ci;
    w.y_step = s->stride_w * s->ci;
    return w;
}

/* ---- patches ----------------------------------------------------------------------------------------------- */
/* Source rows or columns under `outputs` neighbours. */
static size_t extent(size_t outputs, size_t step, size_t taps, size_t tap)
{
    return outputs && taps ? (outputs - 1) * step + (taps - 1) * tap + 1 : 0;
}

bool kd__patch_size(const kd__window *w, size_t rows, size_t columns, size_t *floats)
{
    const size_t high = KD_MIN(extent(rows, w->step_h, w->kh, w->tap_h), w->h), one = extent(1, w->step_w, w->kw, w->tap_w);
    const size_t wide = KD_MAX(extent(columns, w->step_w, w->kw, w->tap_w), KD_MIN(columns, 2u) * one);
    return kd__mul(wide, w->c, floats) && kd__mul(*floats, high, floats);
}

/* Columns [left, left + wide) of `rows` rows of the image, with zeros beside it. */
static void copy_columns(const kd__window *w, ptrdiff_t left, size_t wide, const float *x, size_t rows, float *out, size_t out_row)
{
    const ptrdiff_t right = left + (ptrdiff_t)wide, width = (ptrdiff_t)w->w;
    const size_t from = (size_t)KD_MIN(KD_MAX(left, 0), width), to = (size_t)KD_MIN(KD_MAX(right, 0), width);
    const size_t count = to > from ? (to - from) * w->c : 0;
    const size_t before = count ? (size_t)((ptrdiff_t)from - left) * w->c : wide * w->c, after = wide * w->c - before - count;
    for (size_t r = 0; r < rows; r++, out += out_row, x += w->w * w->c) {
        memset(out, 0, before * sizeof *out);
        if (count) memcpy(out + before, x + from * w->c, count * sizeof *out);
        memset(out + before + count, 0, after * sizeof *out);
    }
}

kd__patch kd__patch_take(const kd__window *w, const kd__region *region, bool whole, const float *x, float *buffer)
{
    const size_t columns = region->c1 - region->c0;
    const size_t wide = extent(columns, w->step_w, w->kw, w->tap_w), one = extent(1, w->step_w, w->kw, w->tap_w);
    const ptrdiff_t left = w->first_w + (ptrdiff_t)(region->c0 * w->step_w), right = left + (ptrdiff_t)wide;
    const ptrdiff_t top = w->first_h + (ptrdiff_t)(region->r0 * w->step_h), step = (ptrdiff_t)w->step_w;
    const ptrdiff_t bottom = top + (ptrdiff_t)extent(region->r1 - region->r0, w->step_h, w->kh, w->tap_h);
    const ptrdiff_t h = (ptrdiff_t)w->h, width = (ptrdiff_t)w->w;
    kd__patch p = { .data = x, .lo = (size_t)KD_MIN(KD_MAX(top, 0), h), .hi = (size_t)KD_MAX(KD_MIN(bottom, h), 0), .row = w->w * w->c };
    if (wide == 0 || p.hi <= p.lo) return p;
    const size_t rows = p.hi - p.lo;
    x += p.lo * p.row;
    if (whole ? left < 0 || right > width : left + step < 0 || right - step > width) {
        copy_columns(w, left, wide, x, rows, buffer, wide * w->c);
        p.data = buffer;
        p.row = wide * w->c;
        return p;
    }
    p.data = x + left * (ptrdiff_t)w->c;   /* outside where the first output has a copy: used from the second on */
    p.edge = KD_MIN(columns, 2u) * one * w->c;
    if (left < 0) {
        copy_columns(w, left, one, x, rows, buffer, p.edge);
        p.first = buffer;
    }
    if (right > width) {
        float *last = buffer + (columns > 1 ? one * w->c : 0);
        copy_columns(w, right - (ptrdiff_t)one, one, x, rows, last, p.edge);
        p.last = last;
        if (columns == 1) p.first = last;
    }
    return p;
}

kd__cut kd__cut_make(const kd__window *w, size_t n, size_t patch, size_t threads)
{
    enum { WIDE = 84 };   /* outputs: longer rows are cut, in pieces of whole tiles */
    kd__cut cut = { .rows = KD_MAX(w->oh, 1u), .columns = w->ow > 2 * WIDE ? WIDE : KD_MAX(w->ow, 1u) };
    size_t floats;
    while (cut.rows > 1 && (!kd__patch_size(w, cut.rows, cut.columns, &floats) || floats > patch)) cut.rows = (cut.rows + 1) / 2;
    for (;;) {
        cut.down = (w->oh + cut.rows - 1) / cut.rows;
        cut.across = (w->ow + cut.columns - 1) / cut.columns;
        cut.count = n * cut.down * cut.across;
        if (threads == 1 || cut.count >= 3 * threads || cut.rows == 1) return cut;
        cut.rows = (cut.rows + 1) / 2;
    }
}

/* ---- chunks of a weight gradient ------------------------------------------------------------------------------ */
kd__chunks kd__chunks_of(const kd__conv_shape *s)
{
    const size_t pixels = KD_MAX(s->oh * s->ow, 1u);
    if (!s->n || !s->oh || !s->ow) return (kd__chunks){ 1, 1, 1, 0 };
    if (pixels <= KD__CHUNK) {
        const size_t images = KD_MIN(KD__CHUNK / pixels, s->n);
        return (kd__chunks){ images, s->oh, 1, (s->n + images - 1) / images };
    }
    const size_t rows = KD_MAX(KD__CHUNK / s->ow, 1u), down = (s->oh + rows - 1) / rows;
    return (kd__chunks){ 1, rows, down, s->n * down };
}

void kd__chunk_at(const kd__conv_shape *s, const kd__chunks *chunks, size_t i, size_t *first, size_t *images, kd__region *region)
{
    const size_t r0 = i % chunks->down * chunks->rows;
    *first = i / chunks->down * chunks->images;
    *images = KD_MIN(chunks->images, s->n - *first);
    *region = (kd__region){ r0, KD_MIN(r0 + chunks->rows, s->oh), 0, s->ow };
}

/* ---- the three passes -------------------------------------------------------------------------------------- */
static size_t pixels(const kd__conv_shape *s) { return s->n * s->oh * s->ow; }

kd_status kd__conv_forward(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *weight, kd__packed *packed,
                           const kd__epilogue *after, float *y)
{
    static const kd__epilogue nothing;
    ctx = kd__context(ctx);
    if (!after) after = &nothing;
    switch (kd__conv_choose(s)) {
    case KD__CONV_POINTWISE:   /* pixels are the rows of a matrix */
        return kd__gemm_kept(ctx, &(kd__gemm_args){ .m = pixels(s), .n = s->co, .k = s->ci, .a = x, .a_stride = s->ci, .b = weight,
                                                    .b_stride = s->co, .c = y, .c_stride = s->co, .after = *after }, packed);
    case KD__CONV_DEPTHWISE:
        kd__depthwise_forward(ctx, s, x, weight, after, y);
        return KD_OK;
    case KD__CONV_WINOGRAD: return kd__winograd_forward(ctx, s, x, weight, packed, after, y);
    default: return kd__direct_forward(ctx, s, x, weight, packed, after, y);
    }
}

kd_status kd__conv_backward_data(kd_context *ctx, const kd__conv_shape *s, const float *dy, const float *weight, float *dx,
                                 bool accumulate)
{
    ctx = kd__context(ctx);
    switch (kd__conv_choose(s)) {
    case KD__CONV_POINTWISE:
        return kd__gemm(ctx, &(kd__gemm_args){ .m = pixels(s), .n = s->ci, .k = s->co, .a = dy, .a_stride = s->co, .b = weight,
                                               .b_stride = s->co, .b_transposed = true, .c = dx, .c_stride = s->ci,
                                               .accumulate = accumulate });
    case KD__CONV_DEPTHWISE:
        kd__depthwise_backward_data(ctx, s, dy, weight, dx, accumulate);
        return KD_OK;
    case KD__CONV_WINOGRAD: return kd__winograd_backward_data(ctx, s, dy, weight, dx, accumulate);
    default: return kd__direct_backward_data(ctx, s, dy, weight, dx, accumulate);
    }
}

kd_status kd__conv_backward_weight(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *dy, float *dw,
                                   bool accumulate)
{
    ctx = kd__context(ctx);
    switch (kd__conv_choose(s)) {
    case KD__CONV_POINTWISE:
        return kd__gemm(ctx, &(kd__gemm_args){ .m = s->ci, .n = s->co, .k = pixels(s), .a = x, .a_stride = s->ci,
                                               .a_transposed = true, .b = dy, .b_stride = s->co, .c = dw, .c_stride = s->co,
                                               .accumulate = accumulate });
    case KD__CONV_DEPTHWISE: return kd__depthwise_backward_weight(ctx, s, x, dy, dw, accumulate);
    case KD__CONV_WINOGRAD: return kd__winograd_backward_weight(ctx, s, x, dy, dw, accumulate);
    default: return kd__direct_backward_weight(ctx, s, x, dy, dw, accumulate);
    }
}
