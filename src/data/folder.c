/* folder.c - data sets from folders of images: PPM and PGM, or what the caller's decoder reads; resized where asked.
 * SPDX-License-Identifier: MIT */
#include "data/data_internal.h"
#include "io/io_internal.h"
#include <math.h>

enum { LONGEST_SIDE = 65535, PATH_BYTES = 4096 };

static const kd_folder_desc folder_defaults = { .struct_size = sizeof(kd_folder_desc) };

void kd_folder_desc_init(kd_folder_desc *desc, size_t struct_size)
{
    kd__desc_write(desc, struct_size, &folder_defaults, sizeof folder_defaults);
}

/* What is used again from image to image. */
typedef struct reader {
    kd_context    *ctx;
    kd_folder_desc desc;
    size_t         file_room, pixel_room, half_room, bytes;
    uint8_t       *file, *pixels, *half;
    char           path[PATH_BYTES];
} reader;

/* ---- PPM and PGM ----------------------------------------------------------------------------------------- */

static bool is_blank(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* The next number of the header, after blanks and comments; *at is then behind its digits.  False: none, or it is too large. */
static bool header_number(const uint8_t *file, size_t bytes, size_t *at, size_t *value)
{
    size_t i = *at;
    for (; i < bytes && (is_blank(file[i]) || file[i] == '#'); i++)
        if (file[i] == '#')
            while (i + 1 < bytes && file[i] != '\n' && file[i] != '\r') i++;
    *at = i;
    size_t n = 0;
    for (; i < bytes && file[i] >= '0' && file[i] <= '9'; i++) {
        n = n * 10 + (size_t)(file[i] - '0');
        if (n > 999999) return false;
    }
    *value = n;
    bool some = i > *at;
    if (some) *at = i;
    return some;
}

/* Where the pixels begin and how many numbers one has: 3 or 1. */
static kd_status read_header(const char *path, const uint8_t *file, size_t bytes, size_t size[2], size_t *at, size_t *channels)
{
    static const char *const names[3] = { "width", "height", "largest value" };
    const char *foreign = kd__foreign_file(file, bytes);
    if (foreign) return kd__fail(KD_ERR_FORMAT, "%s: this is %s", path, foreign);
    if (bytes < 3 || file[0] != 'P' || (file[1] != '6' && file[1] != '5') || (!is_blank(file[2]) && file[2] != '#'))
        return kd__fail(KD_ERR_FORMAT, "%s: no image: neither P6 nor P5 at byte 0", path);
    size_t numbers[3];
    *at = 2;
    for (int i = 0; i < 3; i++)
        if (!header_number(file, bytes, at, &numbers[i]))
            return kd__fail(*at < bytes ? KD_ERR_FORMAT : KD_ERR_TRUNCATED, "%s: byte %zu: no %s below a million",
                            path, *at, names[i]);
    if (numbers[2] != 255)
        return kd__fail(KD_ERR_UNSUPPORTED, "%s: byte %zu: largest value %zu, only 255 is served", path,
                        *at, numbers[2]);
    if (*at < bytes && !is_blank(file[*at]))
        return kd__fail(KD_ERR_FORMAT, "%s: byte %zu: a blank ends the header", path, *at);
    ++*at;
    *channels = file[1] == '6' ? 3 : 1;
    size[0] = numbers[1];
    size[1] = numbers[0];
    return KD_OK;
}

/* The whole pixels, no more and no less, in file[at..]. */
static kd_status check_pixels(const char *path, size_t bytes, const size_t size[2], size_t at, size_t channels)
{
    uint64_t want = (uint64_t)size[0] * size[1] * channels, have = bytes > at ? bytes - at : 0;   /* sides were checked */
    if (have == want) return KD_OK;
    return kd__fail(have < want ? KD_ERR_TRUNCATED : KD_ERR_FORMAT, "%s: %llu bytes of pixels at byte %zu, "
                    "%zu x %zu pixels are %llu", path, (unsigned long long)have, at, size[0], size[1], (unsigned long long)want);
}

/* ---- resizing ------------------------------------------------------------------------------------------------ */

/* Along one axis: `n` numbers `step` apart in `in` become `count` in `out`; output i lies at (i + 0.5) scale + begin of the
 * input.  A triangle, as wide as a pixel of the coarser of the two on each side. */
static void stretch(const uint8_t *in, size_t n, size_t step, uint8_t *out, size_t count, double begin, double scale)
{
    double reach = scale > 1 ? scale : 1;
    for (size_t i = 0; i < count; i++) {
        double centre = ((double)i + 0.5) * scale + begin, sum = 0, weights = 0;
        double low = centre - reach + 0.5, high = centre + reach + 0.5;
        size_t from = low > 0 ? (size_t)low : 0, to = high < (double)n ? (size_t)high : n;
        for (size_t k = from; k < to; k++) {
            double w = 1 - fabs(((double)k + 0.5 - centre) / reach);
            w = w > 0 ? w : 0;
            sum += w * in[k * step];
            weights += w;
        }
        out[i * step] = (uint8_t)(sum / weights + 0.5);
    }
}

/* The smallest picture of `from`'s proportions that covers `to`, its middle. */
static kd_status fit(reader *r, const uint8_t *in, const size_t from[2], const size_t to[2], uint8_t *out)
{
    size_t whole[2] = { to[0], to[1] }, wide = to[1] * 3, bytes;
    if (from[0] * to[1] < from[1] * to[0]) whole[1] = KD_MAX(from[1] * to[0] / from[0], to[1]);   /* sides are below 2^16 */
    else whole[0] = KD_MAX(from[0] * to[1] / from[1], to[0]);
    if (!kd__mul(from[0], wide, &bytes)) return kd__fail(KD_ERR_OVERFLOW, "%s: too large", r->path);
    KD_TRY(kd__grow(r->ctx, &r->half, &r->half_room, bytes, 1));
    double scale[2], begin[2];
    for (int a = 0; a < 2; a++) {
        scale[a] = (double)from[a] / (double)whole[a];
        begin[a] = (double)((whole[a] - to[a]) / 2) * scale[a];
    }
    for (size_t y = 0; y < from[0]; y++)
        for (size_t c = 0; c < 3; c++)
            stretch(in + y * from[1] * 3 + c, from[1], 3, r->half + y * wide + c, to[1], begin[1], scale[1]);
    for (size_t x = 0; x < wide; x++) stretch(r->half + x, from[0], wide, out + x, to[0], begin[0], scale[0]);
    return KD_OK;
}

/* ---- one image ------------------------------------------------------------------------------------------------- */

static kd_status read_file(reader *r)
{
    kd__file file;
    KD_TRY(kd__file_open(&file, r->path));
    r->bytes = (size_t)file.size;
    kd_status status = file.size > SIZE_MAX / 2 ? kd__fail(KD_ERR_LIMIT, "%s: too large for this machine", file.path)
                                                : kd__grow(r->ctx, &r->file, &r->file_room, r->bytes + 1, 1);
    if (status == KD_OK) status = kd__file_read(&file, r->file, r->bytes, 0);
    kd__file_close(&file);
    return status;
}

/* The image r->path, its size in `size`; to `out` in size `want`, or nowhere if that is NULL. */
static kd_status read_image(reader *r, size_t size[2], const size_t want[2], uint8_t *out)
{
    const char *path = r->path;
    KD_TRY(read_file(r));
    size_t at = 0, channels = 0;
    size[0] = size[1] = 0;
    int32_t known = r->desc.decode ? r->desc.decode(r->desc.decode_user, path, r->file, r->bytes, &size[0], &size[1], NULL) : 0;
    if (known < 0) return kd__fail(KD_ERR_FORMAT, "%s: damaged, says the decoder", path);
    if (!known) KD_TRY(read_header(path, r->file, r->bytes, size, &at, &channels));
    if (!size[0] || !size[1]) return kd__fail(KD_ERR_FORMAT, "%s: an image of %zu x %zu pixels", path, size[0], size[1]);
    if (size[0] > LONGEST_SIDE || size[1] > LONGEST_SIDE)
        return kd__fail(KD_ERR_LIMIT, "%s: %zu x %zu pixels, at most %d a side", path, size[0], size[1], LONGEST_SIDE);
    if (!known) KD_TRY(check_pixels(path, r->bytes, size, at, channels));
    if (!out) return KD_OK;
    bool same = size[0] == want[0] && size[1] == want[1];
    if (!same && !r->desc.height)
        return kd__fail(KD_ERR_SHAPE, "%s: %zu x %zu pixels, the first image has %zu x %zu", path, size[0], size[1], want[0],
                        want[1]);
    size_t pixels;
    if (!kd__mul(size[0], size[1], &pixels) || !kd__mul(pixels, 3, &pixels))
        return kd__fail(KD_ERR_OVERFLOW, "%s: %zu x %zu pixels do not fit in memory", path, size[0], size[1]);
    uint8_t *rgb = out;
    if (!same) {
        KD_TRY(kd__grow(r->ctx, &r->pixels, &r->pixel_room, pixels, 1));
        rgb = r->pixels;
    }
    if (known) {
        size_t height = size[0], width = size[1];
        if (r->desc.decode(r->desc.decode_user, path, r->file, r->bytes, &height, &width, rgb) != 1)
            return kd__fail(KD_ERR_FORMAT, "%s: damaged, says the decoder", path);
    } else {
        for (size_t i = 0; i < pixels; i++) rgb[i] = r->file[at + (channels == 3 ? i : i / 3)];
    }
    return same ? KD_OK : fit(r, rgb, size, want, out);
}

/* ---- the folder ---------------------------------------------------------------------------------------------------- */

static kd_status set_path(reader *r, const char *root, const char *class_name, const char *image)
{
    size_t n = kd__format(r->path, sizeof r->path, "%s/%s%s%s", root, class_name, image ? "/" : "", image ? image : "");
    if (n >= sizeof r->path)
        return kd__fail(KD_ERR_LIMIT, "%s/%s: a path of more than %d bytes", root, class_name, PATH_BYTES - 1);
    return KD_OK;
}

/* The images of each class, by name. */
static kd_status list_images(reader *r, const char *root, const kd__names *classes, kd__names *images, size_t *total)
{
    if (!classes->count) return kd__fail(KD_ERR_FORMAT, "%s: no classes: no folder in it", root);
    for (size_t i = 0; i < classes->count; i++) {
        KD_TRY(set_path(r, root, classes->at[i], NULL));
        KD_TRY(kd__names_read(&images[i], r->ctx, r->path, false));
        if (!images[i].count) return kd__fail(KD_ERR_FORMAT, "%s: a class without images", r->path);
        *total += images[i].count;
    }
    return KD_OK;
}

static kd_status read_images(reader *r, const char *root, const kd__names *classes, const kd__names *images, size_t total,
                             kd_dataset **out)
{
    size_t shape[3] = { r->desc.height, r->desc.width, 3 }, size[2], bytes, n = 0;
    if (!shape[0]) {
        KD_TRY(set_path(r, root, classes->at[0], images[0].at[0]));
        KD_TRY(read_image(r, shape, NULL, NULL));
    }
    if (!kd__mul(shape[0] * shape[1], total, &bytes) || !kd__mul(bytes, 3, &bytes))   /* sides are below 2^16 */
        return kd__fail(KD_ERR_OVERFLOW, "%s: %zu images %S do not fit in memory", root, total, (size_t)3,
                        shape);
    uint8_t *items = kd__alloc_raw(r->ctx, bytes);
    if (!items) return KD_ERR_NOMEM;
    KD_TRY(kd__dataset_new(out, r->ctx, root, KD_U8, total, 3, shape, items, NULL, items));
    for (size_t c = 0; c < classes->count; c++)
        for (size_t i = 0; i < images[c].count; i++, n++) {
            KD_TRY(set_path(r, root, classes->at[c], images[c].at[i]));
            KD_TRY(read_image(r, size, shape, items + n * (*out)->item_bytes));
            (*out)->labels[n] = (int32_t)c;
        }
    return KD_OK;
}

kd_status kd_dataset_open_folder(kd_dataset **out, kd_context *ctx, const char *path, const kd_folder_desc *desc)
{
    KD_NEED(out);
    *out = NULL;
    KD_NEED(path);
    ctx = kd__context(ctx);
    kd_folder_desc d = folder_defaults;
    KD_TRY(kd__desc_read(&d, sizeof d, desc, "kd_folder_desc"));
    if (!d.height != !d.width || d.height > LONGEST_SIDE || d.width > LONGEST_SIDE)
        return kd__fail(KD_ERR_ARG, "%s: height, width: %zu x %zu, both 0 or both 1 to %d", __func__, d.height, d.width,
                        LONGEST_SIDE);
    reader *r = kd__alloc(ctx, sizeof *r);
    if (!r) return KD_ERR_NOMEM;
    r->ctx = ctx;
    r->desc = d;
    kd__names classes, *images = NULL;
    size_t total = 0;
    kd_status status = kd__names_read(&classes, ctx, path, true);
    if (status == KD_OK && !(images = kd__alloc_array(ctx, classes.count, sizeof *images))) status = KD_ERR_NOMEM;
    if (status == KD_OK) status = list_images(r, path, &classes, images, &total);
    if (status == KD_OK) status = read_images(r, path, &classes, images, total, out);
    for (size_t i = 0; images && i < classes.count; i++) kd__names_free(&images[i]);
    kd__free(ctx, images);
    kd__free(ctx, r->file);
    kd__free(ctx, r->pixels);
    kd__free(ctx, r->half);
    kd__free(ctx, r);
    if (status == KD_OK) {
        (*out)->items->classes = classes;
        return KD_OK;
    }
    kd__names_free(&classes);
    kd_dataset_free(*out);
    *out = NULL;
    return kd__fail_prefix(status, "%s: ", __func__);
}
