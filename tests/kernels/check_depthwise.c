/* check_depthwise.c - depthwise convolutions: the chains of depthwise_args.h to the bit, and near the sums in double.
 * SPDX-License-Identifier: MIT */
#include "check_epilogue.h"

/* The case's columns are channels, its rows the columns of an image's row; the window is drawn. */
static size_t kh, kw, stride, dilation, images, height, width;
static bool turned;   /* taps from the last to the first, as for a gradient */
enum { OUT, X, W, END };

static void draw(ck_case *c)
{
    kdtest_rand *r = &c->rand;
    kh = c->bench ? 3 : kdtest_size(r, 1, 4);
    kw = c->bench ? 3 : kdtest_size(r, 1, 6);
    stride = c->bench ? 1 : kdtest_size(r, 1, 2);
    dilation = c->bench ? 1 : kdtest_size(r, 1, 2);
    turned = !c->bench && kdtest_size(r, 0, 1);
    images = c->bench ? 1 : kdtest_size(r, 1, 2);
    height = c->bench ? 32 : kdtest_size(r, 1, 3);
    width = (c->rows ? c->rows - 1 : 0) * stride + (kw - 1) * dilation + 1;
}

static const char *const names[] = { ENDS(""), NULL };
static void make_forward(ck_case *c)
{
    draw(c);
    ck_floats(c, ends_by_adding(c) ? CK_INOUT : CK_OUT, "y", c->rows, c->n, 1);
    ck_strided(c);
    ck_floats(c, CK_IN, "x", kh, width * c->n, 1);
    ck_strided(c);
    ck_floats(c, CK_IN, "w", kh * kw, c->n, 1);
    ck_strided(c);
    epilogue_make(c, ends_with(c), c->rows, c->n);
}
static void run_forward(const ck_case *c, const kd__kernels *k)
{
    const ptrdiff_t tap = (ptrdiff_t)ROW(W);
    kd__depthwise_args a = {.channels = c->n,
                            .kh = kh,
                            .kw = kw,
                            .columns = c->rows,
                            .x = F(X),
                            .x_step = stride * c->n,
                            .x_row = ROW(X),
                            .x_tap = dilation * c->n,
                            .w = F(W),
                            .w_row = (ptrdiff_t)kw * tap,
                            .w_tap = tap,
                            .y = F(OUT),
                            .y_step = ROW(OUT),
                            .add = ends_by_adding(c), .after = epilogue_args(c, END, ends_with(c)) };
    if (turned) {
        a.w += (ptrdiff_t)(kh * kw - 1) * tap;
        a.w_row = -a.w_row;
        a.w_tap = -a.w_tap;
    }
    k->depthwise_f32(&a);
}
static void oracle_forward(const ck_case *c)
{
    for (size_t at = 0; at < c->rows * c->n; at++) {
        const size_t q = at / c->n, i = at % c->n;
        const double old = ends_by_adding(c) ? (double)BEFORE(OUT)[at] : 0;
        double exact = old, size = fabs(old);
        float s = 0;
        for (size_t t = 0; t < kh * kw; t++) {
            const float x = BEFORE(X)[t / kw * width * c->n + (q * stride + t % kw * dilation) * c->n + i];
            const float w = BEFORE(W)[(turned ? kh * kw - 1 - t : t) * c->n + i];
            s = fmaf(x, w, s);
            exact += (double)x * (double)w;
            size += fabs((double)x * (double)w);
        }
        if (ends_by_adding(c)) s = BEFORE(OUT)[at] + s;
        s = epilogue_of(c, END, ends_with(c), q, i, s);
        exact = epilogue_exact(c, END, ends_with(c), q, i, exact, &size);
        if (!ck_same(c, OUT, at, s)) return;
        if (!c->special && !ck_near(c, OUT, at, exact, (double)(kh * kw + 4) * U * size)) return;
    }
}
static double forward_flops(const ck_case *c) { return 2.0 * (double)(kh * kw) * (double)c->rows * (double)c->n; }
CK_KERNEL(depthwise_f32, .ways = names, .matrix = true, .special = true, .make = make_forward, .run = run_forward,
          .oracle = oracle_forward, .bench_rows = 32, .bench_n = 64, .bench_every = 3, .flops = forward_flops);

/* dw of one row of taps, from images of `height` rows. */
static void make_weight(ck_case *c)
{
    draw(c);
    ck_floats(c, ck_result(c), "dw", 1, kw * c->n, 1);
    ck_floats(c, CK_IN, "x", images * height, width * c->n, 1);
    ck_strided(c);
    ck_floats(c, CK_IN, "dy", images * height, c->rows * c->n, 1);
    ck_strided(c);
}
static void run_weight(const ck_case *c, const kd__kernels *k)
{
    kd__depthwise_args a = {.channels = c->n,
                            .kh = 1,
                            .kw = kw,
                            .columns = c->rows,
                            .x = F(X),
                            .x_step = stride * c->n,
                            .x_row = ROW(X),
                            .x_tap = dilation * c->n,
                            .add = c->add,
                            .dy = F(2),
                            .images = images,
                            .rows = height,
                            .dy_image = height * ROW(2),
                            .dy_row = ROW(2),
                            .x_image = (ptrdiff_t)(height * ROW(X)),
                            .dw = F(OUT)};
    k->depthwise_weight_f32(&a);
}
static void oracle_weight(const ck_case *c)
{
    for (size_t at = 0; at < kw * c->n; at++) {
        const size_t j = at / c->n, i = at % c->n;
        double exact = 0, size = 0;
        float s = 0;
        for (size_t r = 0; r < images * height; r++)
            for (size_t q = 0; q < c->rows; q++) {
                const float x = BEFORE(X)[r * width * c->n + (q * stride + j * dilation) * c->n + i];
                const float dy = BEFORE(2)[(r * c->rows + q) * c->n + i];
                s = fmaf(x, dy, s);
                exact += (double)x * (double)dy;
                size += fabs((double)x * (double)dy);
            }
        if (!ck_same(c, OUT, at, s)) return;
        if (!c->special && !ck_near(c, OUT, at, exact, (double)(images * height * c->rows + 1) * U * size)) return;
    }
}
static double weight_flops(const ck_case *c) { return 2.0 * (double)(kw * images * height) * (double)c->rows * (double)c->n; }
CK_KERNEL(depthwise_weight_f32, .matrix = true, .adds = true, .special = true, .make = make_weight, .run = run_weight,
          .oracle = oracle_weight, .bench_rows = 32, .bench_n = 64, .flops = weight_flops);
