/* test_conv.c - convolutions of every shape: the formula in double, the exact order of the direct ones, equal bits on every
 * instruction set and number of threads.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "ref_conv.h"
#include "ref_winograd.h"
#include "tensor/conv_internal.h"
#include <math.h>
#include <stdlib.h>

enum { MAX_CONTEXTS = 12 };
static kd_context *contexts[MAX_CONTEXTS];
static size_t context_count, isa_count;

static void make_contexts(void)
{
    uint32_t isas[5];
    if (context_count) return;
    isa_count = kdtest_isas(isas);
    for (size_t i = 0; i < isa_count; i++) contexts[context_count++] = kdtest_context(1, isas[i]);
    static const uint32_t threads[] = { 2, 3, 4, 7 };
    for (size_t t = 0; t < 4; t++) contexts[context_count++] = kdtest_context(threads[t], KD_ISA_AUTO);
}

static kd__conv_shape shape_of(size_t n, size_t h, size_t w, size_t ci, size_t co, size_t kh, size_t kw, size_t sh, size_t sw, size_t ph,
                               size_t pw, size_t dh, size_t dw, size_t groups)
{
    kd__conv_shape s = { n, h, w, ci, kh, kw, co, 0, 0, sh, sw, ph, pw, dh, dw, groups, false };
    s.oh = (h + 2 * ph - dh * (kh - 1) - 1) / sh + 1;
    s.ow = (w + 2 * pw - dw * (kw - 1) - 1) / sw + 1;
    return s;
}

typedef struct numbers { size_t n; float *f; double *d; } numbers;
static numbers make(size_t n, kdtest_rand *r, double scale)
{
    numbers a = { n, kdtest_guard(n * sizeof(float), 1), malloc((n + 1) * sizeof(double)) };
    kdtest_fill(r, a.f, n, scale);
    for (size_t i = 0; i < n; i++) a.d[i] = (double)a.f[i];
    return a;
}
static void drop(numbers *a)
{
    kdtest_guard_free(a->f, a->n * sizeof(float), 1);
    free(a->d);
}

static const char *describe(const kd__conv_shape *s)
{
    static char text[200];
    snprintf(text, sizeof text, "[%zu, %zu, %zu, %zu] -> %zu kernel %zux%zu stride %zu,%zu pad %zu,%zu dilation %zu,%zu groups %zu", s->n,
             s->h, s->w, s->ci, s->co, s->kh, s->kw, s->stride_h, s->stride_w, s->pad_h, s->pad_w, s->dil_h, s->dil_w, s->groups);
    return text;
}

/* out, made by every context in turn (call fills it), against want within terms * 2^-24 * size. */
typedef kd_status (*pass_fn)(kd_context *ctx, const kd__conv_shape *s, const float *a, const float *b, const float *bias, float *out,
                             int option);
static void compare(const char *what, const kd__conv_shape *s, pass_fn call, const float *a, const float *b, const float *bias,
                    const float *start, size_t n, const double *want, const double *size, double terms, int option, float *out,
                    size_t first, size_t last)
{
    uint64_t hash = 0;
    float *mine = kdtest_guard(n * sizeof *mine, 1);
    for (size_t x = first; x < last; x++) {
        if (!contexts[x]) continue;
        if (n) memcpy(mine, start, n * sizeof *mine);
        CHECK_OK(call(contexts[x], s, a, b, bias, mine, option));
        uint64_t h = kdtest_hash(mine, n * sizeof *mine);
        if (x == first) {
            hash = h;
            if (n) memcpy(out, mine, n * sizeof *mine);
            for (size_t i = 0; i < n; i++)
                if (!(fabs((double)mine[i] - want[i]) <= terms * 0x1p-24 * size[i])) {
                    CHECK_MSG(0, "%s %s option %d: [%zu] is %.9g, wanted %.9g within %.3g", what, describe(s), option, i, (double)mine[i],
                              want[i], terms * 0x1p-24 * size[i]);
                    break;
                }
        }
        CHECK_MSG(h == hash, "%s %s option %d: %s on %u threads differs", what, describe(s), option, kd_context_isa(contexts[x]),
                  kd_context_threads(contexts[x]));
    }
    kdtest_guard_free(mine, n * sizeof *mine, 1);
}

static kd_status forward(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *w, const float *bias, float *y, int relu)
{
    return kd__conv_forward(ctx, s, x, w, NULL, &(kd__epilogue){ .bias = bias, .relu = relu }, y);
}
/* every step behind the sum; option: the residual's row, in floats */
static const float *added;
static kd_status forward_all(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *w, const float *bias, float *y, int row)
{
    const kd__epilogue after = { .bias = bias, .scale = bias, .shift = bias, .residual = added, .residual_row = (size_t)row, .relu = 1 };
    return kd__conv_forward(ctx, s, x, w, NULL, &after, y);
}
static kd_status backward_data(kd_context *ctx, const kd__conv_shape *s, const float *dy, const float *w, const float *bias, float *dx,
                               int accumulate)
{
    (void)bias;
    return kd__conv_backward_data(ctx, s, dy, w, dx, accumulate != 0);
}
static kd_status backward_weight(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *dy, const float *bias, float *dw,
                                 int accumulate)
{
    (void)bias;
    return kd__conv_backward_weight(ctx, s, x, dy, dw, accumulate != 0);
}

static void same_float(const char *what, const kd__conv_shape *s, float got, float want)
{
    CHECK_MSG(got == want || memcmp(&got, &want, sizeof got) == 0, "%s %s: %a, the chain gives %a", what, describe(s), (double)got,
              (double)want);
}

/* Winograd's own magnitudes, and some of its outputs exactly: images [h, w, c] to [oh, ow, co].  Adds to `size` what was there
 * (bias, the old gradient). */
static void winograd_sizes(const char *what, const kd__conv_shape *s, ref_winograd w, size_t n, size_t oh, size_t ow, const float *out,
                           const double *extra, double *size)
{
    const float *x = w.x;
    for (size_t i = 0; i < n * oh * ow * w.co; i++) {
        const size_t o = i % w.co, q = i / w.co % ow, r = i / w.co / ow % oh;
        w.x = x + i / w.co / ow / oh * w.h * w.w * w.c;
        float want = ref_winograd_element(&w, r, q, o, &size[i]);
        if (extra) size[i] += fabs(extra[i]);
        if (out) same_float(what, s, out[i], want);
    }
}

static void winograd_gradient_sizes(const char *what, const kd__conv_shape *s, const ref_winograd *w, const float *dy, const float *out,
                                    double *size)
{
    const size_t count = 9 * s->ci * s->co, step = s->n * s->h * s->w > 300 ? 7 : 1;   /* some, of larger ones */
    for (size_t i = 0; i < count; i++) {
        const size_t o = i % s->co, c = i / s->co % s->ci, tap = i / s->co / s->ci;
        if (out && i % step) continue;
        const float want = ref_winograd_gradient(w, w->x, dy, s->n, tap / 3, tap % 3, c, o, &size[i]);
        if (out) same_float(what, s, out[i], want);
    }
}

/* The weights of the data gradient's convolution: turned round, channels exchanged. */
static float *turned(const kd__conv_shape *s, const float *weight)
{
    float *to = malloc(9 * s->ci * s->co * sizeof *to);
    for (size_t t = 0; t < 9; t++)
        for (size_t c = 0; c < s->ci; c++)
            for (size_t o = 0; o < s->co; o++) to[((8 - t) * s->co + o) * s->ci + c] = weight[(t * s->ci + c) * s->co + o];
    return to;
}

/* All three passes. */
static void check_shape(const kd__conv_shape *s, uint64_t seed, size_t first, size_t last)
{
    kdtest_rand r = { seed * 2 + 1 };
    ref_conv ref;
    memcpy(&ref, s, sizeof ref);
    const size_t cg = s->ci / s->groups;
    numbers x = make(s->n * s->h * s->w * s->ci, &r, 1), w = make(s->kh * s->kw * cg * s->co, &r, 1), bias = make(s->co, &r, 1);
    numbers dy = make(s->n * s->oh * s->ow * s->co, &r, 1);
    double *want = malloc((x.n + dy.n + w.n + 1) * sizeof *want), *size = malloc((x.n + dy.n + w.n + 1) * sizeof *size);
    float *out = malloc((x.n + dy.n + w.n + 1) * sizeof *out);
    double chain = (double)(s->kh * s->kw * cg) + 3, back = (double)(s->kh * s->kw * (s->co / s->groups)) + 3;
    const int direct = kd__conv_choose(s) == KD__CONV_DIRECT || kd__conv_choose(s) == KD__CONV_DEPTHWISE;
    const int winograd = kd__conv_choose(s) == KD__CONV_WINOGRAD;
    float *round = winograd ? turned(s, w.f) : NULL;
    const ref_winograd there = { s->h, s->w, s->ci, s->pad_h, s->pad_w, s->co, x.f, w.f };
    const ref_winograd again = { s->oh, s->ow, s->co, 2 - s->pad_h, 2 - s->pad_w, s->ci, dy.f, round };
    if (winograd) {
        chain = ref_winograd_roundings(&there) + 2;
        back = ref_winograd_roundings(&again) + 2;
    }

    ref_conv_forward(&ref, x.d, w.d, NULL, want, size);
    if (winograd) winograd_sizes("forward", s, there, s->n, s->oh, s->ow, NULL, NULL, size);
    compare("forward", s, forward, x.f, w.f, NULL, dy.f, dy.n, want, size, chain, 0, out, first, last);
    if (winograd) winograd_sizes("forward", s, there, s->n, s->oh, s->ow, out, NULL, size);
    for (size_t e = 0; direct && e < 10 && dy.n; e++) {
        size_t at = kdtest_size(&r, 0, dy.n - 1), o = at % s->co, q = at / s->co % s->ow, p = at / s->co / s->ow % s->oh;
        same_float("forward", s, out[at], ref_conv_chain_forward(&ref, x.f, w.f, at / s->co / s->ow / s->oh, p, q, o));
    }
    for (size_t i = 0; i < dy.n; i++) {   /* bit for bit the steps one by one */
        float y = fmaf(out[i] + bias.f[i % s->co], bias.f[i % s->co], bias.f[i % s->co]) + dy.f[i];
        want[i] = y > 0 ? (double)y : 0;
    }
    added = dy.f;
    compare("forward, all steps", s, forward_all, x.f, w.f, bias.f, dy.f, dy.n, want, size, 0, (int)s->co, out, first, last);
    ref_conv_forward(&ref, x.d, w.d, bias.d, want, size);
    for (size_t i = 0; i < dy.n; i++) want[i] = want[i] > 0 ? want[i] : 0;
    if (winograd) {
        winograd_sizes("forward", s, there, s->n, s->oh, s->ow, NULL, NULL, size);
        for (size_t i = 0; i < dy.n; i++) size[i] += fabs(bias.d[i % s->co]);
    }
    compare("forward, bias, relu", s, forward, x.f, w.f, bias.f, dy.f, dy.n, want, size, chain, 1, out, first, last);

    ref_conv_backward_data(&ref, dy.d, w.d, want, size);
    if (winograd) winograd_sizes("data", s, again, s->n, s->h, s->w, NULL, NULL, size);
    compare("data", s, backward_data, dy.f, w.f, NULL, x.f, x.n, want, size, back, 0, out, first, last);
    if (winograd) winograd_sizes("data", s, again, s->n, s->h, s->w, out, NULL, size);
    for (size_t e = 0; direct && e < 10 && x.n; e++) {
        size_t at = kdtest_size(&r, 0, x.n - 1), c = at % s->ci, q = at / s->ci % s->w, p = at / s->ci / s->w % s->h;
        same_float("data", s, out[at], ref_conv_chain_data(&ref, dy.f, w.f, at / s->ci / s->w / s->h, p, q, c));
    }
    for (size_t i = 0; i < x.n; i++) {
        want[i] += x.d[i];
        size[i] += fabs(x.d[i]);
    }
    compare("data, accumulated", s, backward_data, dy.f, w.f, NULL, x.f, x.n, want, size, back, 1, out, first, last);

    const double pixels = winograd ? ref_winograd_gradient_roundings(&there, s->n) + 2 : (double)(s->n * s->oh * s->ow) + 3;
    ref_conv_backward_weight(&ref, x.d, dy.d, want, size);
    if (winograd) winograd_gradient_sizes("weight", s, &there, dy.f, NULL, size);
    compare("weight", s, backward_weight, x.f, dy.f, NULL, w.f, w.n, want, size, pixels, 0, out, first, last);
    if (winograd) winograd_gradient_sizes("weight", s, &there, dy.f, out, size);
    for (size_t e = 0; direct && e < 10 && w.n && s->n; e++) {
        size_t at = kdtest_size(&r, 0, w.n - 1), o = at % s->co, c = at / s->co % cg, tap = at / s->co / cg;
        same_float("weight", s, out[at], ref_conv_chain_weight(&ref, x.f, dy.f, tap / s->kw, tap % s->kw, c, o));
    }
    for (size_t i = 0; i < w.n; i++) {
        want[i] += w.d[i];
        size[i] += fabs(w.d[i]);
    }
    compare("weight, accumulated", s, backward_weight, x.f, dy.f, NULL, w.f, w.n, want, size, pixels, 1, out, first, last);
    drop(&x);
    drop(&w);
    drop(&bias);
    drop(&dy);
    free(want);
    free(size);
    free(out);
    free(round);
}

/* The layers that networks are made of, at small sizes. */
TEST(common)
{
    static const size_t cases[][14] = {
        /* n  h   w   ci  co  kh kw sh sw ph pw dh dw groups */
        { 2, 8, 8, 3, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1 },      /* first layer */
        { 2, 8, 8, 16, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1 },
        { 2, 8, 8, 16, 32, 3, 3, 2, 2, 1, 1, 1, 1, 1 },     /* down */
        { 2, 8, 8, 16, 32, 1, 1, 2, 2, 0, 0, 1, 1, 1 },     /* its shortcut */
        { 2, 7, 9, 5, 7, 3, 3, 1, 1, 1, 1, 1, 1, 1 },       /* odd everything */
        { 1, 18, 18, 3, 20, 7, 7, 2, 2, 3, 3, 1, 1, 1 },    /* stem */
        { 2, 12, 12, 1, 6, 5, 5, 1, 1, 0, 0, 1, 1, 1 },     /* LeNet */
        { 2, 8, 8, 24, 24, 1, 1, 1, 1, 0, 0, 1, 1, 1 },     /* pointwise */
        { 2, 8, 8, 3, 40, 4, 4, 4, 4, 0, 0, 1, 1, 1 },      /* patches */
        { 1, 1, 40, 6, 9, 1, 5, 1, 2, 0, 2, 1, 1, 1 },      /* one axis */
        { 2, 6, 6, 8, 12, 3, 3, 1, 1, 1, 1, 1, 1, 4 },      /* groups */
        { 2, 9, 9, 8, 8, 3, 3, 1, 1, 2, 2, 2, 2, 1 },       /* dilation */
        { 2, 6, 6, 18, 18, 3, 3, 1, 1, 1, 1, 1, 1, 18 },    /* depthwise */
        { 2, 7, 7, 18, 18, 3, 3, 2, 2, 1, 1, 1, 1, 18 },
        { 2, 6, 6, 6, 18, 3, 3, 1, 1, 1, 1, 1, 1, 6 },      /* with a multiplier */
        { 2, 6, 6, 20, 20, 5, 5, 1, 1, 2, 2, 1, 1, 20 },
    };
    make_contexts();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const size_t *c = cases[i];
        kd__conv_shape s = shape_of(c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11], c[12], c[13]);
        check_shape(&s, i + 1, 0, context_count);
    }
}

/* Anything: sizes, strides, paddings beyond the kernel, dilations, groups. */
TEST(random_shapes)
{
    kdtest_rand r = { 2024 };
    make_contexts();
    for (int i = 0; i < (kdtest_full() ? 10000 : 150); i++) {
        size_t groups = kdtest_size(&r, 0, 3) ? 1 : kdtest_size(&r, 1, 4), kh = kdtest_size(&r, 1, 4), kw = kdtest_size(&r, 1, 4);
        size_t dh = kdtest_size(&r, 1, 3), dw = kdtest_size(&r, 1, 3), ph = kdtest_size(&r, 0, 4), pw = kdtest_size(&r, 0, 4);
        size_t h = kdtest_size(&r, 1, 9), w = kdtest_size(&r, 1, 9), n = kdtest_size(&r, 0, 12) ? kdtest_size(&r, 1, 3) : 0;
        while (h + 2 * ph < dh * (kh - 1) + 1) h++;
        while (w + 2 * pw < dw * (kw - 1) + 1) w++;
        kd__conv_shape s = shape_of(n, h, w, groups * kdtest_size(&r, 1, 5), groups * kdtest_size(&r, 1, 20), kh, kw,
                                    kdtest_size(&r, 1, 4), kdtest_size(&r, 1, 4), ph, pw, dh, dw, groups);
        check_shape(&s, (uint64_t)i + 500, isa_count > 1 && i % 4 ? 1 : 0, isa_count);
    }
}

/* Cut into regions and tasks, chunks of large images, more channels than a panel. */
TEST(large)
{
    make_contexts();
    const size_t first = isa_count > 1 && !kdtest_full() ? 1 : 0;   /* plain C would take long */
    kd__conv_shape shapes[] = {
        shape_of(4, 20, 20, 16, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1),
        shape_of(1, 9, 200, 4, 33, 3, 3, 1, 1, 1, 1, 1, 1, 1),      /* rows cut in pieces; dy rows of 200: chunks of 5 */
        shape_of(1, 40, 40, 3, 70, 3, 3, 1, 1, 1, 1, 1, 1, 1),      /* two chunks an image */
        shape_of(9, 10, 10, 40, 24, 3, 3, 2, 2, 1, 1, 1, 1, 1),
        shape_of(12, 8, 8, 17, 65, 3, 3, 2, 1, 1, 1, 1, 1, 1),
        shape_of(3, 12, 12, 24, 48, 3, 3, 1, 1, 1, 1, 1, 1, 2),
        shape_of(6, 16, 16, 32, 32, 3, 3, 1, 1, 1, 1, 1, 1, 32),
        shape_of(3, 21, 50, 50, 50, 7, 7, 2, 1, 3, 3, 1, 1, 50),
        shape_of(1, 1, 1200, 3, 8, 1, 3, 1, 1, 0, 1, 1, 1, 1),      /* a row longer than a chunk */
        shape_of(70, 4, 4, 20, 24, 3, 3, 1, 1, 1, 1, 1, 1, 1),      /* chunks of 64 images */
        shape_of(70, 4, 4, 5, 24, 3, 3, 1, 1, 1, 1, 1, 1, 1),
        shape_of(70, 4, 4, 24, 24, 3, 3, 1, 1, 1, 1, 1, 1, 24),
        shape_of(70, 6, 6, 5, 9, 3, 3, 1, 1, 0, 0, 1, 1, 1),        /* nothing beside the image */
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_shape(&shapes[i], i + 300, first, context_count);
}

/* The rule of docs/design/numerics.md. */
TEST(ways)
{
    kd__conv_shape s = shape_of(2, 8, 8, 32, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1), t;
    CHECK(kd__conv_choose(&s) == KD__CONV_WINOGRAD);
    t = s, t.ci = 31;
    CHECK(kd__conv_choose(&t) == KD__CONV_DIRECT);
    t = s, t.co = 31;
    CHECK(kd__conv_choose(&t) == KD__CONV_DIRECT);
    t = s, t.stride_w = 2;
    CHECK(kd__conv_choose(&t) == KD__CONV_DIRECT);
    t = s, t.dil_h = 2;
    CHECK(kd__conv_choose(&t) == KD__CONV_DIRECT);
    t = s, t.groups = 2;
    CHECK(kd__conv_choose(&t) == KD__CONV_DIRECT);
    t = s, t.kw = 5;
    CHECK(kd__conv_choose(&t) == KD__CONV_DIRECT);
    t = shape_of(2, 8, 8, 32, 32, 3, 3, 1, 1, 3, 1, 1, 1, 1);
    CHECK(kd__conv_choose(&t) == KD__CONV_DIRECT);
    t = shape_of(2, 8, 3, 32, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1);
    CHECK(kd__conv_choose(&t) == KD__CONV_DIRECT);
    t = shape_of(2, 8, 8, 32, 32, 1, 1, 1, 1, 0, 0, 1, 1, 1);
    CHECK(kd__conv_choose(&t) == KD__CONV_POINTWISE);
    t = shape_of(2, 8, 8, 32, 32, 1, 1, 1, 1, 1, 0, 1, 1, 1);
    CHECK(kd__conv_choose(&t) == KD__CONV_DIRECT);
    t = shape_of(2, 8, 8, 32, 32, 3, 3, 1, 1, 1, 1, 1, 1, 32);
    CHECK(kd__conv_choose(&t) == KD__CONV_DEPTHWISE);
    t = shape_of(2, 8, 8, 32, 64, 3, 3, 1, 1, 1, 1, 1, 1, 32);
    CHECK(kd__conv_choose(&t) == KD__CONV_DIRECT);
}

TEST(winograd)
{
    make_contexts();
    kd__conv_shape shapes[] = {
        shape_of(2, 4, 4, 32, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1),
        shape_of(1, 5, 7, 33, 50, 3, 3, 1, 1, 1, 1, 1, 1, 1),       /* tiles and vectors cut */
        shape_of(1, 6, 6, 40, 32, 3, 3, 1, 1, 0, 0, 1, 1, 1),
        shape_of(1, 5, 6, 131, 145, 3, 3, 1, 1, 1, 1, 1, 1, 1),     /* weight gradients in slices of channels */
        shape_of(1, 5, 4, 32, 40, 3, 3, 1, 1, 2, 2, 1, 1, 1),
        shape_of(1, 7, 6, 32, 32, 3, 3, 1, 1, 0, 2, 1, 1, 1),
        shape_of(1, 4, 5, 300, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1),      /* two blocks of channels */
        shape_of(9, 8, 8, 32, 36, 3, 3, 1, 1, 1, 1, 1, 1, 1),       /* several blocks of tiles */
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_shape(&shapes[i], i + 700, i < 2 || isa_count < 2 || kdtest_full() ? 0 : 1, context_count);
}

TEST(memory)
{
    kd__conv_shape s = shape_of(2, 8, 8, 3, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1);
    float *x = calloc(2 * 64 * 3, sizeof *x), *w = calloc(9 * 3 * 40, sizeof *w), *y = calloc(2 * 64 * 40, sizeof *y);
    for (size_t fail = 1; fail < 8; fail++) {
        kdtest_alloc alloc = { 0 };
        kdtest_alloc_begin(&alloc, 1, KD_ISA_AUTO);
        alloc.fail_at = alloc.calls + fail;
        kd_status a = kd__conv_forward(alloc.ctx, &s, x, w, NULL, NULL, y), b = kd__conv_backward_data(alloc.ctx, &s, y, w, x, false);
        kd_status c = kd__conv_backward_weight(alloc.ctx, &s, x, y, w, false);
        CHECK((a == KD_OK || a == KD_ERR_NOMEM) && (b == KD_OK || b == KD_ERR_NOMEM) && (c == KD_OK || c == KD_ERR_NOMEM));
        if (fail == 1) CHECK(a == KD_ERR_NOMEM);
        kdtest_alloc_end(&alloc);
    }
    kdtest_alloc alloc = { 0 };
    size_t calls = 0;
    kdtest_alloc_begin(&alloc, 1, KD_ISA_AUTO);
    for (int step = 0; step < 3; step++) {
        CHECK_OK(kd__conv_forward(alloc.ctx, &s, x, w, NULL, NULL, y));
        CHECK_OK(kd__conv_backward_data(alloc.ctx, &s, y, w, x, false));
        CHECK_OK(kd__conv_backward_weight(alloc.ctx, &s, x, y, w, false));
        if (step == 1) calls = alloc.calls;
    }
    CHECK(alloc.calls == calls);
    kdtest_alloc_end(&alloc);
    free(x);
    free(w);
    free(y);
}
