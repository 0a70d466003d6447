/* check_winograd.c - the transforms of F(2x2, 3x3): the order of winograd_args.h to the bit.
 * SPDX-License-Identifier: MIT */
#include "check_epilogue.h"
#include "ref_winograd.h"

static void make_weights(ck_case *c)
{
    ck_floats(c, CK_OUT, "u", 16, c->n, 1);
    ck_strided(c);
    ck_floats(c, CK_IN, "taps", 9, c->n, 1);
    ck_strided(c);
}
static void run_weights(const ck_case *c, const kd__kernels *k) { k->winograd_weights_f32(2, F(1), ROW(1), F(0), ROW(0), c->n); }
static void oracle_weights(const ck_case *c)
{
    for (size_t i = 0; i < c->n; i++) {
        float t[3][4], u[4];
        for (size_t b = 0; b < 3; b++) {
            const float g[3] = { BEFORE(1)[b * c->n + i], BEFORE(1)[(3 + b) * c->n + i], BEFORE(1)[(6 + b) * c->n + i] };
            ref_winograd_weights_axis(g, t[b]);
        }
        for (size_t a = 0; a < 4; a++) {
            ref_winograd_weights_axis((float[]){ t[0][a], t[1][a], t[2][a] }, u);
            for (size_t b = 0; b < 4; b++) ck_same(c, 0, (a * 4 + b) * c->n + i, u[b]);
        }
    }
}
CK_KERNEL(winograd_weights_f32, .special = true, .make = make_weights, .run = run_weights, .oracle = oracle_weights,
          .bench_n = 256 << 10);

/* The case's columns are channels, its rows the tiles of a call. */
static kd__winograd_args shape;
static size_t images;
static void draw(ck_case *c)
{
    kdtest_rand *r = &c->rand;
    shape = (kd__winograd_args){ .out = 2, .h = kdtest_size(r, 3, 9), .w = kdtest_size(r, 3, 9), .c = c->n, .pad_h = kdtest_size(r, 0, 2),
                                 .pad_w = kdtest_size(r, 0, 2), .co = c->n, .count = c->rows };
    if (c->bench) shape.h = 16, shape.w = 14, shape.pad_h = shape.pad_w = 1;   /* 56 tiles */
    shape.oh = shape.h + 2 * shape.pad_h - 2;
    shape.ow = shape.w + 2 * shape.pad_w - 2;
    shape.tiles_h = (shape.oh + 1) / 2;
    shape.tiles_w = (shape.ow + 1) / 2;
    shape.first = c->bench ? 0 : kdtest_size(r, 0, 5);
    images = (shape.first + shape.count + shape.tiles_h * shape.tiles_w - 1) / (shape.tiles_h * shape.tiles_w);
}
static void place(size_t tile, size_t *image, size_t *row, size_t *column)
{
    const size_t each = shape.tiles_h * shape.tiles_w;
    *image = tile / each;
    *row = tile % each / shape.tiles_w * 2;
    *column = tile % each % shape.tiles_w * 2;
}

static void make_input(ck_case *c)
{
    draw(c);
    ck_floats(c, CK_OUT, "v", 16, c->rows * c->n, 1);
    ck_strided(c);
    ck_floats(c, CK_IN, "x", images * shape.h * shape.w, c->n, 1);
    ck_strided(c);
    ck_floats(c, CK_IN, "zeros", 1, c->n, 0);
    memset(c->a[2].before, 0, c->n * sizeof(float));
}
static void run_input(const ck_case *c, const kd__kernels *k)
{
    kd__winograd_args a = shape;
    a.v = F(0);
    a.plane = ROW(0);
    a.row = c->n;
    a.x = F(1);
    a.pixel = ROW(1);
    a.zeros = F(2);
    k->winograd_input_f32(&a);
}
static void oracle_input(const ck_case *c)
{
    for (size_t t = 0; t < c->rows; t++)
        for (size_t i = 0; i < c->n; i++) {
            size_t image, row, column;
            float s[4][4], v[4];
            place(shape.first + t, &image, &row, &column);
            for (size_t b = 0; b < 4; b++) {
                float d[4];
                for (size_t a = 0; a < 4; a++) {
                    const size_t r = row + a - shape.pad_h, q = column + b - shape.pad_w;   /* wraps where it is outside */
                    d[a] = r < shape.h && q < shape.w ? BEFORE(1)[((image * shape.h + r) * shape.w + q) * c->n + i] : 0.0f;
                }
                ref_winograd_input_axis(d, s[b]);
            }
            for (size_t a = 0; a < 4; a++) {
                ref_winograd_input_axis((float[]){ s[0][a], s[1][a], s[2][a], s[3][a] }, v);
                for (size_t b = 0; b < 4; b++)
                    if (!ck_same(c, 0, ((a * 4 + b) * c->rows + t) * c->n + i, v[b])) return;
            }
        }
}
CK_KERNEL(winograd_input_f32, .matrix = true, .special = true, .make = make_input, .run = run_input, .oracle = oracle_input,
          .bench_rows = 56, .bench_n = 64, .ops = 32);

/* What the tiles of the call do not reach stays as it was. */
static const char *const names[] = { ENDS(""), NULL };
static void make_output(ck_case *c)
{
    draw(c);
    ck_floats(c, CK_INOUT, "y", 1, images * shape.oh * shape.ow * c->n, 1);
    ck_floats(c, CK_IN, "m", 16, c->rows * c->n, 1);
    ck_strided(c);
    epilogue_make(c, ends_with(c), images * shape.oh * shape.ow, c->n);
}
static void run_output(const ck_case *c, const kd__kernels *k)
{
    kd__winograd_args a = shape;
    a.y = F(0);
    a.m = F(1);
    a.plane = ROW(1);
    a.after = epilogue_args(c, 2, ends_with(c));
    a.add = ends_by_adding(c);
    k->winograd_output_f32(&a);
}
static void oracle_output(const ck_case *c)
{
    const size_t count = c->a[0].n;
    float *want = malloc((count + 1) * sizeof *want);
    memcpy(want, BEFORE(0), count * sizeof *want);
    for (size_t t = 0; t < c->rows; t++)
        for (size_t i = 0; i < c->n; i++) {
            size_t image, row, column;
            float s[4][2], y[2];
            place(shape.first + t, &image, &row, &column);
            for (size_t b = 0; b < 4; b++) {
                float m[4];
                for (size_t a = 0; a < 4; a++) m[a] = BEFORE(1)[((a * 4 + b) * c->rows + t) * c->n + i];
                ref_winograd_output_axis(m, s[b]);
            }
            for (size_t a = 0; a < 2 && row + a < shape.oh; a++) {
                ref_winograd_output_axis((float[]){ s[0][a], s[1][a], s[2][a], s[3][a] }, y);
                for (size_t b = 0; b < 2 && column + b < shape.ow; b++) {
                    const size_t pixel = (image * shape.oh + row + a) * shape.ow + column + b;
                    float *to = want + pixel * c->n + i;
                    if (ends_by_adding(c)) y[b] = *to + y[b];
                    *to = epilogue_of(c, 2, ends_with(c), pixel, i, y[b]);
                }
            }
        }
    for (size_t i = 0; i < count; i++)
        if (!ck_same(c, 0, i, want[i])) break;
    free(want);
}
CK_KERNEL(winograd_output_f32, .ways = names, .matrix = true, .special = true, .make = make_output, .run = run_output,
          .oracle = oracle_output, .bench_rows = 56, .bench_n = 64, .ops = 24);

/* ---- the gradient of the weights -------------------------------------------------------------------------------- */

static void make_dy(ck_case *c)
{
    draw(c);
    ck_floats(c, CK_OUT, "v", 16, c->rows * c->n, 1);
    ck_strided(c);
    ck_floats(c, CK_IN, "dy", images * shape.oh * shape.ow, c->n, 1);
    ck_strided(c);
    ck_floats(c, CK_IN, "zeros", 1, c->n, 0);
    memset(c->a[2].before, 0, c->n * sizeof(float));
}
static void run_dy(const ck_case *c, const kd__kernels *k)
{
    kd__winograd_args a = shape;
    a.v = F(0);
    a.plane = ROW(0);
    a.row = c->n;
    a.x = F(1);
    a.pixel = ROW(1);
    a.zeros = F(2);
    k->winograd_dy_f32(&a);
}
static void oracle_dy(const ck_case *c)
{
    for (size_t t = 0; t < c->rows; t++)
        for (size_t i = 0; i < c->n; i++) {
            size_t image, row, column;
            float s[2][4], w[4];
            place(shape.first + t, &image, &row, &column);
            for (size_t b = 0; b < 2; b++) {
                float y[2];
                for (size_t a = 0; a < 2; a++) {
                    const size_t r = row + a, q = column + b;
                    y[a] = r < shape.oh && q < shape.ow ? BEFORE(1)[((image * shape.oh + r) * shape.ow + q) * c->n + i] : 0.0f;
                }
                ref_winograd_dy_axis(y, s[b]);
            }
            for (size_t a = 0; a < 4; a++) {
                ref_winograd_dy_axis((float[]){ s[0][a], s[1][a] }, w);
                for (size_t b = 0; b < 4; b++)
                    if (!ck_same(c, 0, ((a * 4 + b) * c->rows + t) * c->n + i, w[b])) return;
            }
        }
}
CK_KERNEL(winograd_dy_f32, .matrix = true, .special = true, .make = make_dy, .run = run_dy, .oracle = oracle_dy, .bench_rows = 56,
          .bench_n = 64, .ops = 12);

static const char *const dw_names[] = { "to", "add", NULL };
static void make_dw(ck_case *c)
{
    ck_floats(c, CK_IN, "m", 16, c->n, 1);
    ck_strided(c);
    ck_floats(c, c->way ? CK_INOUT : CK_OUT, "dw", 9, c->n, 1);
    ck_strided(c);
}
static void run_dw(const ck_case *c, const kd__kernels *k) { k->winograd_dw_f32(F(0), ROW(0), F(1), ROW(1), c->n, (int)c->way); }
static void oracle_dw(const ck_case *c)
{
    for (size_t i = 0; i < c->n; i++) {
        float s[4][3], g[3];
        for (size_t b = 0; b < 4; b++) {
            float m[4];
            for (size_t a = 0; a < 4; a++) m[a] = BEFORE(0)[(a * 4 + b) * c->n + i];
            ref_winograd_dw_axis(m, s[b]);
        }
        for (size_t a = 0; a < 3; a++) {
            ref_winograd_dw_axis((float[]){ s[0][a], s[1][a], s[2][a], s[3][a] }, g);
            for (size_t b = 0; b < 3; b++) {
                const size_t at = (a * 3 + b) * c->n + i;
                if (!ck_same(c, 1, at, c->way ? BEFORE(1)[at] + g[b] : g[b])) return;
            }
        }
    }
}
CK_KERNEL(winograd_dw_f32, .ways = dw_names, .special = true, .make = make_dw, .run = run_dw, .oracle = oracle_dw, .bench_n = 256 << 10);
