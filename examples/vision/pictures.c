/* pictures.c - PNG through libpng and JPEG through libjpeg-turbo: -DKD_IMAGES=1, -lpng -ljpeg.
 * SPDX-License-Identifier: MIT */
#include "pictures.h"
#include "vision.h"
#include <string.h>

static int starts(const uint8_t *file, size_t bytes, const char *with, size_t n) { return bytes >= n && !memcmp(file, with, n); }
static int is_png(const uint8_t *file, size_t bytes) { return starts(file, bytes, "\x89PNG\r\n\x1a\n", 8); }
static int is_jpeg(const uint8_t *file, size_t bytes) { return starts(file, bytes, "\xff\xd8\xff", 3); }

#if defined KD_IMAGES && KD_IMAGES
#include <setjmp.h>
#include <stdio.h>
#include <jpeglib.h>
#include <jerror.h>
#include <png.h>

enum { MOST_PIXELS = 1 << 26, MOST_SIDE = 65535, MOST_SCANS = 500, MOST_CHUNK = 1 << 23 };

/* Both libraries report an error by a call that may not return: back to `back`, with a text and how much was read. */
typedef struct picture {
    const uint8_t *file;
    size_t         bytes, at;
    size_t         height, width;
    jmp_buf        back;
    char           why[JMSG_LENGTH_MAX];
} picture;

/* ---- PNG ------------------------------------------------------------------------------------------------------------------- */
static void png_failed(png_structp png, png_const_charp text)
{
    picture *p = png_get_error_ptr(png);
    snprintf(p->why, sizeof p->why, "%s", text);
    longjmp(p->back, 1);
}
static void png_warned(png_structp png, png_const_charp text) { (void)png, (void)text; }
static void png_more(png_structp png, png_bytep out, size_t n)
{
    picture *p = png_get_io_ptr(png);
    if (n > p->bytes - p->at) png_error(png, "the file ends too early");
    memcpy(out, p->file + p->at, n);
    p->at += n;
}

static void png_work(picture *p, png_structp png, png_infop info, uint8_t *rgb)
{
    png_set_read_fn(png, p, png_more);
    png_set_user_limits(png, MOST_SIDE, MOST_SIDE);
    png_set_chunk_malloc_max(png, MOST_CHUNK);
    png_read_info(png, info);
    p->height = png_get_image_height(png, info), p->width = png_get_image_width(png, info);
    if (p->height > MOST_PIXELS / p->width) png_error(png, "more than 67108864 pixels");
    if (!rgb) return;
    png_set_expand(png);         /* palettes and few bits; the transparent colour becomes alpha */
    png_set_scale_16(png);
    png_set_gray_to_rgb(png);
    png_set_strip_alpha(png);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    if (png_get_rowbytes(png, info) != 3 * p->width) png_error(png, "pixels that do not become RGB");
    for (int pass = 0; pass < passes; pass++)
        for (size_t y = 0; y < p->height; y++) png_read_row(png, rgb + 3 * p->width * y, NULL);
    png_read_end(png, NULL);
}

static int read_png(picture *p, uint8_t *rgb)
{
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, p, png_failed, png_warned);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    png_infop *whole = info ? &info : NULL;
    int good = 0;
    if (!whole) snprintf(p->why, sizeof p->why, "no memory");
    else if (!setjmp(p->back)) {
        png_work(p, png, info, rgb);
        good = 1;
    }
    if (png) png_destroy_read_struct(&png, whole, NULL);
    return good;
}

/* ---- JPEG ------------------------------------------------------------------------------------------------------------------ */
static void jpeg_failed(j_common_ptr jpeg)
{
    picture *p = jpeg->client_data;
    jpeg->err->format_message(jpeg, p->why);
    longjmp(p->back, 1);
}
/* A warning is damage, pixels made up, but for those of writers that are merely sloppy. */
static void jpeg_warned(j_common_ptr jpeg, int level)
{
    int code = jpeg->err->msg_code;
    if (level < 0 && code != JWRN_EXTRANEOUS_DATA && code != JWRN_ADOBE_XFORM && code != JWRN_JFIF_MAJOR) jpeg_failed(jpeg);
}
static void jpeg_refuse(j_decompress_ptr jpeg, const char *why)
{
    picture *p = jpeg->client_data;
    snprintf(p->why, sizeof p->why, "%s", why);
    longjmp(p->back, 1);
}
/* A small file may hold thousands of scans, each of which goes over the whole picture. */
static void jpeg_goes_on(j_common_ptr jpeg)
{
    j_decompress_ptr d = (j_decompress_ptr)(void *)jpeg;
    if (d->input_scan_number > MOST_SCANS) jpeg_refuse(d, "more than 500 scans");
}

static void jpeg_work(picture *p, j_decompress_ptr jpeg, uint8_t *rgb)
{
    jpeg_mem_src(jpeg, p->file, (unsigned long)p->bytes);
    (void)jpeg_read_header(jpeg, TRUE);
    if (jpeg->jpeg_color_space == JCS_CMYK || jpeg->jpeg_color_space == JCS_YCCK) jpeg_refuse(jpeg, "CMYK colours, not RGB or grey");
    p->height = jpeg->image_height, p->width = jpeg->image_width;
    if (p->height > MOST_PIXELS / p->width) jpeg_refuse(jpeg, "more than 67108864 pixels");
    if (!rgb) return;
    jpeg->out_color_space = JCS_RGB;
    jpeg->dct_method = JDCT_ISLOW;
    (void)jpeg_start_decompress(jpeg);
    if (jpeg->output_height != p->height || jpeg->output_width != p->width || jpeg->output_components != 3)
        jpeg_refuse(jpeg, "pixels that do not become RGB");
    while (jpeg->output_scanline < jpeg->output_height) {
        JSAMPROW row = rgb + 3 * p->width * jpeg->output_scanline;
        (void)jpeg_read_scanlines(jpeg, &row, 1);
    }
    (void)jpeg_finish_decompress(jpeg);
}

static int read_jpeg(picture *p, uint8_t *rgb)
{
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr watch;
    memset(&jpeg, 0, sizeof jpeg);
    memset(&watch, 0, sizeof watch);
    jpeg.err = jpeg_std_error(&errors);
    errors.error_exit = jpeg_failed, errors.emit_message = jpeg_warned;
    jpeg.client_data = p;
    int good = 0;
    if (!setjmp(p->back)) {
        jpeg_create_decompress(&jpeg);
        watch.progress_monitor = jpeg_goes_on;
        jpeg.progress = &watch;
        jpeg_work(p, &jpeg, rgb);
        good = 1;
    }
    p->at = jpeg.src ? p->bytes - jpeg.src->bytes_in_buffer : 0;
    jpeg_destroy_decompress(&jpeg);
    return good;
}

int32_t pictures_decode(void *user, const char *path, const uint8_t *file, size_t bytes, size_t *height, size_t *width, uint8_t *rgb)
{
    (void)user;
    int png = is_png(file, bytes);
    if (!png && !is_jpeg(file, bytes)) return 0;
    static picture p;
    p = (picture){ .file = file, .bytes = bytes };
    if (!(png ? read_png(&p, rgb) : read_jpeg(&p, rgb))) {
        (void)complain(KD_ERR_FORMAT, "%s: %s, byte %zu: %s", path, png ? "PNG" : "JPEG", p.at, p.why);
        return -1;
    }
    *height = p.height, *width = p.width;
    return 1;
}
#else
int32_t pictures_decode(void *user, const char *path, const uint8_t *file, size_t bytes, size_t *height, size_t *width, uint8_t *rgb)
{
    (void)user, (void)height, (void)width, (void)rgb;
    int png = is_png(file, bytes);
    if (!png && !is_jpeg(file, bytes)) return 0;
    (void)complain(KD_ERR_UNSUPPORTED, "%s is a %s, which this program was built without: make examples IMAGES=1 (Debian: libpng-dev, "
                   "libjpeg62-turbo-dev)", path, png ? "PNG" : "JPEG");
    return -1;
}
#endif
