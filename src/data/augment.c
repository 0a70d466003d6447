/* augment.c - one item on its way into a batch: cropped, shifted, mirrored, changed by ops, to floats, normalised, erased.
 *
 * Pixels that come in from outside are zeros of the item, before normalisation.  Draws, in this order: shift down, shift
 * right, crop down, crop right, flip; each only if it is asked for.  The resized crop, ops and erasing have streams of their own.
 * SPDX-License-Identifier: MIT */
#include "data/data_internal.h"
#include <math.h>

/* n numbers of whole pixels. */
static void convert(const kd__convert *how, float *out, const uint8_t *in, size_t n)
{
    if (how->dtype == KD_U8) how->kernels->affine_u8(out, in, n, how->scale, how->offset, how->period);
    else how->kernels->affine_f32(out, (const float *)(const void *)in, n, how->scale, how->offset, how->period);
}

static void outside(const kd__convert *how, float *out, size_t pixels)
{
    size_t c = how->channels;
    for (size_t i = 0; i < pixels; i++, out += c)
        for (size_t k = 0; k < c; k++) out[k] = how->offset[k % how->period];
}

static void mirror(float *row, size_t width, size_t channels)
{
    for (float *left = row, *right = row + (width - 1) * channels; left < right; left += channels, right -= channels)
        for (size_t k = 0; k < channels; k++) {
            float t = left[k];
            left[k] = right[k];
            right[k] = t;
        }
}

/* Along one axis: output i is the item's i + from for i in [begin, end), outside elsewhere. */
typedef struct window {
    ptrdiff_t from, begin, end;
} window;

/* Output i is now what was output i + by, if there was one. */
static void move(window *w, ptrdiff_t by, ptrdiff_t size)
{
    w->begin = KD_MAX(w->begin - by, 0);
    w->end = KD_MAX(KD_MIN(w->end - by, size), w->begin);
    w->from += by;
}

static ptrdiff_t draw(kd_rng *rng, uint32_t reach)
{
    return (ptrdiff_t)kd_rng_below(rng, 2 * (uint64_t)reach + 1) - (ptrdiff_t)reach;
}

/* A rectangle of `least` to `most` of the area of `whole`, the logarithm of height / width within +- log_aspect, each side at least
 * `spare` less than that one's.  False: ten did not fit. */
static bool draw_box(const size_t whole[2], kd_rng *rng, double least, double most, double log_aspect, size_t spare,
                     size_t from[2], size_t size[2])
{
    double area = (double)whole[0] * (double)whole[1];
    for (int attempt = 0; attempt < 10; attempt++) {
        double part = (least + (most - least) * (double)kd_rng_uniform(rng)) * area;
        double aspect = kd__fixed_exp((2 * (double)kd_rng_uniform(rng) - 1) * log_aspect);
        size[0] = (size_t)(sqrt(part * aspect) + 0.5);
        size[1] = (size_t)(sqrt(part / aspect) + 0.5);
        if (size[0] + spare > whole[0] || size[1] + spare > whole[1] || !size[0] || !size[1]) continue;
        for (int i = 0; i < 2; i++) from[i] = (size_t)kd_rng_below(rng, whole[i] - size[i] + 1);
        return true;
    }
    return false;
}

/* A rectangle of 2 to 33 % of the area, its height 0.3 to 1 / 0.3 times its width; not at all if ten do not fit. */
static void erase(const kd__convert *how, float *out, kd_rng rng)
{
    const size_t whole[2] = { how->height, how->width };
    size_t from[2], size[2], c = how->channels;
    if (kd_rng_uniform(&rng) >= how->erase || !draw_box(whole, &rng, 0.02, 1.0 / 3, 1.2039728043259361, 1, from, size)) return;
    for (size_t y = from[0]; y < from[0] + size[0]; y++)
        for (size_t i = 0; i < size[1] * c; i++)
            out[(y * how->width + from[1]) * c + i] = how->erase_zeros ? 0 : kd_rng_normal(&rng);
}

/* A rectangle of the item as large as the image, its height 3/4 to 4/3 times its width: in the third quarter of `out`, the first two are
 * for half of the work.  If ten do not fit, the largest in the middle of such proportions. */
static const uint8_t *resized_crop(const kd__convert *how, const uint8_t *in, float *out, kd_rng rng)
{
    const size_t whole[2] = { how->item_height, how->item_width }, to[2] = { how->height, how->width };
    size_t from[2], size[2];
    uint8_t *half = (uint8_t *)out, *image = half + 2 * how->item_count;
    if (!draw_box(whole, &rng, (double)how->crop_area, 1, 0.28768207245178090, 0, from, size))   /* log(4/3) */
        for (int i = 0; i < 2; i++) {
            size[i] = KD_MIN(whole[i], (8 * whole[!i] + 3) / 6);
            from[i] = (whole[i] - size[i]) / 2;
        }
    kd__resize(in + (from[0] * whole[1] + from[1]) * 3, whole[1] * 3, size, to, to, true, half, image);
    return image;
}

/* With a resized crop or ops: the image is made as bytes in the last quarter of `out`, where the conversion from the front does not reach a
 * byte before it was read; the quarter before is their spare. */
static void convert_changed(const kd__convert *how, const uint8_t *in, size_t in_row, float *out, const window *down,
                            const window *right, bool flip, kd_rng rng)
{
    uint8_t *image = (uint8_t *)out + 3 * how->item_count, piece[960];   /* a multiple of any period of three channels */
    memset(image, 0, how->item_count);
    for (ptrdiff_t y = down->begin; y < down->end; y++)
        for (ptrdiff_t x = right->begin; x < right->end; x++) {
            ptrdiff_t width = (ptrdiff_t)how->width, to = flip ? width - 1 - x : x;
            memcpy(image + (y * width + to) * 3, in + ((y + down->from) * (ptrdiff_t)in_row + x + right->from) * 3, 3);
        }
    kd__randaugment(how, image, image - how->item_count, rng);
    for (size_t i = 0, n; i < how->item_count; i += n) {
        n = KD_MIN(how->item_count - i, sizeof piece);
        memcpy(piece, image + i, n);
        convert(how, out + i, piece, n);
    }
}

static void convert_moved(const kd__convert *how, const uint8_t *in, size_t in_row, float *out, const window *down,
                          const window *right, bool flip)
{
    size_t row = how->width * how->channels, pixel_bytes = how->channels * kd_dtype_size(how->dtype);
    size_t before = (size_t)right->begin, inside = (size_t)(right->end - right->begin), after = how->width - before - inside;
    for (ptrdiff_t y = 0; y < (ptrdiff_t)how->height; y++, out += row) {
        if (y < down->begin || y >= down->end || !inside) {
            outside(how, out, how->width);
            continue;
        }
        size_t first = (size_t)((y + down->from) * (ptrdiff_t)in_row + right->begin + right->from);
        outside(how, out, before);
        convert(how, out + before * how->channels, in + first * pixel_bytes, inside * how->channels);
        outside(how, out + (before + inside) * how->channels, after);
        if (flip) mirror(out, how->width, how->channels);
    }
}

void kd__convert_item(const kd__convert *how, const void *in, float *out, kd_rng rng)
{
    if (!how->height) {
        convert(how, out, in, how->item_count);
        return;
    }
    ptrdiff_t height = (ptrdiff_t)how->height, width = (ptrdiff_t)how->width;
    window down = { 0, 0, height }, right = { 0, 0, width };
    const uint32_t reach[2] = { how->shift, how->crop };
    for (int i = 0; i < 2; i++)
        if (reach[i]) {
            move(&down, draw(&rng, reach[i]), height);
            move(&right, draw(&rng, reach[i]), width);
        }
    bool flip = how->flip && (kd_rng_u32(&rng) & 1);
    const uint8_t *from = in;
    size_t row = how->item_width;   /* pixels, from row to row of `from` */
    if (how->crop_area > 0) from = resized_crop(how, in, out, kd_rng_split(&rng, 2)), row = how->width;
    else from += ((how->item_height - how->height) / 2 * row + (row - how->width) / 2) * how->channels * kd_dtype_size(how->dtype);
    if (how->ops || how->crop_area > 0) convert_changed(how, from, row, out, &down, &right, flip, kd_rng_split(&rng, 0));
    else convert_moved(how, from, row, out, &down, &right, flip);
    if (how->erase > 0) erase(how, out, kd_rng_split(&rng, 1));
}

/* ---- mix-up's share ------------------------------------------------------------------------------------------ */

static double uniform_open(kd_rng *rng) { return ((double)kd_rng_u32(rng) + 0.5) * 0x1p-32; }

/* The logarithm of a gamma variate of shape alpha: that of shape alpha + 1, times U^(1 / alpha). */
static double log_gamma_variate(kd_rng *rng, double alpha)
{
    double d = alpha + 1 - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = (double)kd_rng_normal(rng), v = 1 + c * x, u = uniform_open(rng);
        if (v <= 0) continue;
        v = v * v * v;
        double log_v = kd__fixed_log(v);
        if (kd__fixed_log(u) < x * x / 2 + d * (1 - v + log_v))
            return kd__fixed_log(d) + log_v + kd__fixed_log(uniform_open(rng)) / alpha;
    }
}

double kd__rng_beta(kd_rng *rng, double alpha)
{
    double a = log_gamma_variate(rng, alpha), b = log_gamma_variate(rng, alpha);
    return 1 / (1 + kd__fixed_exp(b - a));
}
