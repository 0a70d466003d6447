/* randaugment.c - RandAugment's ops on u8 [height, width, 3], as timm chooses their strength and Pillow computes them.
 * SPDX-License-Identifier: MIT */
#include "data/data_internal.h"

/* In the order of timm's list. */
enum {
    OP_AUTO_CONTRAST, OP_EQUALIZE, OP_INVERT, OP_ROTATE, OP_POSTERIZE, OP_SOLARIZE, OP_SOLARIZE_ADD, OP_COLOR, OP_CONTRAST,
    OP_BRIGHTNESS, OP_SHARPNESS, OP_SHEAR_X, OP_SHEAR_Y, OP_TRANSLATE_X, OP_TRANSLATE_Y, OP_COUNT
};
_Static_assert(OP_COUNT == KD__RANDAUGMENT_OPS, "how many there are");

/* From what is left of an image without the property to the image, and past it; in float, cut off, as Pillow does. */
static uint8_t blend(int without, int with, float factor)
{
    float v = (float)without + factor * (float)(with - without);
    return v <= 0 ? 0 : v >= 255 ? 255 : (uint8_t)v;
}

static int grey(const uint8_t *p) { return (int)((p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 0x8000u) >> 16); }

/* ---- value by value ------------------------------------------------------------------------------------------ */

/* New values of one channel, from how often each value is there. */
static void stretch_contrast(uint8_t table[256], const size_t histogram[256])
{
    int low = 0, high = 255;
    while (low < 255 && !histogram[low]) low++;
    while (high > 0 && !histogram[high]) high--;
    if (high <= low) return;
    double scale = 255.0 / (high - low), offset = -low * scale;
    for (int i = 0; i < 256; i++) {
        double v = i * scale + offset;
        table[i] = v <= 0 ? 0 : v >= 255 ? 255 : (uint8_t)v;
    }
}

static void equalize(uint8_t table[256], const size_t histogram[256], size_t pixels)
{
    int last = 255;
    while (last > 0 && !histogram[last]) last--;
    size_t step = (pixels - histogram[last]) / 255, n = step / 2;
    for (int i = 0; step && i < 256; i++) {
        table[i] = (uint8_t)KD_MIN(n / step, 255);
        n += histogram[i];
    }
}

static void by_table(uint32_t op, double level, float factor, uint8_t *image, size_t pixels)
{
    uint8_t table[3][256];
    double sum = 0;
    int bits = 4 - (int)(level / 10 * 4), from = 256 - (int)(level / 10 * 256), more = (int)(level / 10 * 110), mean;
    for (size_t i = 0; op == OP_CONTRAST && i < pixels; i++) sum += grey(image + 3 * i);
    mean = (int)(sum / (double)pixels + 0.5);
    for (size_t c = 0; c < 3; c++) {
        size_t histogram[256] = { 0 };
        for (int i = 0; i < 256; i++) {
            int v = i;
            switch (op) {
            case OP_INVERT: v = 255 - i; break;
            case OP_POSTERIZE: v = i & ~(255 >> bits); break;   /* 0 bits: black */
            case OP_SOLARIZE: v = i < from ? i : 255 - i; break;
            case OP_SOLARIZE_ADD: v = i < 128 ? KD_MIN(i + more, 255) : i; break;
            case OP_CONTRAST: v = blend(mean, i, factor); break;
            case OP_BRIGHTNESS: v = blend(0, i, factor); break;
            default: break;
            }
            table[c][i] = (uint8_t)v;
        }
        if (op > OP_EQUALIZE) continue;
        for (size_t i = 0; i < pixels; i++) histogram[image[3 * i + c]]++;
        if (op == OP_EQUALIZE) equalize(table[c], histogram, pixels);
        else stretch_contrast(table[c], histogram);
    }
    for (size_t i = 0; i < pixels; i++, image += 3)
        for (size_t c = 0; c < 3; c++) image[c] = table[c][image[c]];
}

static void colour(float factor, uint8_t *image, size_t pixels)
{
    for (size_t i = 0; i < pixels; i++, image += 3) {
        int l = grey(image);
        for (size_t c = 0; c < 3; c++) image[c] = blend(l, image[c], factor);
    }
}

/* ---- with neighbours: from `in`, a copy ------------------------------------------------------------------------------ */

/* Without sharpness: the mean of 3 x 3 pixels, the middle five times.  The edge stays. */
static void sharpness(float factor, const uint8_t *in, uint8_t *out, size_t height, size_t width)
{
    size_t row = 3 * width;
    for (size_t y = 1; y + 1 < height; y++)
        for (size_t i = y * row + 3; i < (y + 1) * row - 3; i++) {
            const uint8_t *p = in + i;
            int sum = 4 * p[0];
            for (int k = -3; k <= 3; k += 3) sum += (p - row)[k] + p[k] + (p + row)[k];
            out[i] = blend((2 * sum + 13) / 26, p[0], factor);
        }
}

static double cubic(double a, double b, double c, double d, double t)
{
    double p2 = -a + c, p3 = 2 * (a - b) + c - d, p4 = -a + b - c + d;
    return b + t * (p2 + t * (p3 + t * p4));
}

static ptrdiff_t held(ptrdiff_t i, ptrdiff_t size) { return i < 0 ? 0 : i < size ? i : size - 1; }

/* The middle of output pixel (x, y) lies at (m[0] x + m[1] y + m[2], m[3] x + m[4] y + m[5]) of the input. */
static void affine(const double m[6], const uint8_t *in, uint8_t *out, ptrdiff_t height, ptrdiff_t width, const uint8_t fill[3])
{
    for (ptrdiff_t oy = 0; oy < height; oy++)
        for (ptrdiff_t ox = 0; ox < width; ox++, out += 3) {
            double px = (double)ox + 0.5, py = (double)oy + 0.5;
            double x = m[0] * px + m[1] * py + m[2], y = m[3] * px + m[4] * py + m[5];
            if (!(x >= 0 && x < (double)width && y >= 0 && y < (double)height)) {
                memcpy(out, fill, 3);
                continue;
            }
            x -= 0.5;
            y -= 0.5;
            ptrdiff_t left = x < 0 ? -1 : (ptrdiff_t)x, top = y < 0 ? -1 : (ptrdiff_t)y, at[4];
            double tx = x - (double)left, ty = y - (double)top, v[4];
            for (int k = 0; k < 4; k++) at[k] = 3 * held(left - 1 + k, width);
            for (int c = 0; c < 3; c++) {
                for (int k = 0; k < 4; k++) {
                    const uint8_t *row = in + 3 * width * held(top - 1 + k, height) + c;
                    v[k] = cubic(row[at[0]], row[at[1]], row[at[2]], row[at[3]], tx);
                }
                double value = cubic(v[0], v[1], v[2], v[3], ty);
                out[c] = value <= 0 ? 0 : value >= 255 ? 255 : (uint8_t)value;
            }
        }
}

/* ---- one op, and some ---------------------------------------------------------------------------------------------------- */

void kd__randaugment_op(uint32_t op, double level, bool negative, uint8_t *image, uint8_t *spare, size_t height, size_t width,
                        const uint8_t fill[3])
{
    double sign = negative ? -1 : 1, part = level / 10, centre_x = (double)width / 2, centre_y = (double)height / 2;
    double m[6] = { 1, 0, 0, 0, 1, 0 }, strength = 1 + sign * (part * 0.9);
    float factor = (float)KD_MAX(strength, 0.1);
    switch (op) {
    case OP_COLOR: colour(factor, image, height * width); return;
    case OP_ROTATE:   /* around the middle */
        m[0] = m[4] = kd__fixed_cos_pi(part * 30 / 180);
        m[3] = sign * kd__fixed_cos_pi(0.5 - part * 30 / 180);
        m[1] = -m[3];
        m[2] = m[0] * -centre_x + m[1] * -centre_y + centre_x;
        m[5] = m[3] * -centre_x + m[4] * -centre_y + centre_y;
        break;
    case OP_SHEAR_X: m[1] = sign * (part * 0.3); break;
    case OP_SHEAR_Y: m[3] = sign * (part * 0.3); break;
    case OP_TRANSLATE_X: m[2] = sign * (part * 0.45) * (double)width; break;
    case OP_TRANSLATE_Y: m[5] = sign * (part * 0.45) * (double)height; break;
    case OP_SHARPNESS: break;
    default: by_table(op, level, factor, image, height * width); return;
    }
    memcpy(spare, image, height * width * 3);
    if (op == OP_SHARPNESS) sharpness(factor, spare, image, height, width);
    else affine(m, spare, image, (ptrdiff_t)height, (ptrdiff_t)width, fill);
}

void kd__randaugment(const kd__convert *how, uint8_t *image, uint8_t *spare, kd_rng rng)
{
    for (uint32_t i = 0; i < how->ops; i++) {
        uint32_t op = (uint32_t)kd_rng_below(&rng, OP_COUNT);
        bool done = kd_rng_u32(&rng) & 1;
        double level = (double)how->magnitude + (double)how->noise * (double)kd_rng_normal(&rng);
        bool negative = kd_rng_u32(&rng) & 1;
        level = level < 0 ? 0 : level > 10 ? 10 : level;
        if (done) kd__randaugment_op(op, level, negative, image, spare, how->height, how->width, how->fill);
    }
}
