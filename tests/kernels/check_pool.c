/* check_pool.c - the pooling kernels: windows of all kinds over a row of columns, against the formulas.
 * SPDX-License-Identifier: MIT */
#include "checkkd.h"
#include "ref_pool.h"

/* The case's columns are channels; its rows bound the image's height.  Everything else is drawn. */
static kd__pool_args shape;
static size_t cut;   /* rows [0, cut) and [cut, end) in two calls */

static void draw(ck_case *c)
{
    kdtest_rand *r = &c->rand;
    if (c->bench) {
        shape = (kd__pool_args){ 64, 64, c->n, 32, 32, 3, 3, 2, 2, 1, 1, NULL, NULL, NULL, 1, 0 };
        shape.h = c->rows;
        shape.oh = (shape.h - 1) / 2 + 1;
        cut = 0;
        return;
    }
    shape = (kd__pool_args){ .h = kdtest_size(r, 1, c->rows < 9 ? c->rows + 1 : 9), .w = kdtest_size(r, 1, 9), .c = c->n,
                             .kh = kdtest_size(r, 1, 4), .kw = kdtest_size(r, 1, 4), .stride_h = kdtest_size(r, 1, 5),
                             .stride_w = kdtest_size(r, 1, 5), .arg_bytes = c->n % 3 ? 1 : 4 };
    if (c->n == 17) {   /* more places than a byte counts */
        shape.kh = 17, shape.kw = 18, shape.h += 13, shape.w += 13, shape.arg_bytes = 4;
    }
    shape.pad_h = kdtest_size(r, 0, shape.kh - 1);
    shape.pad_w = kdtest_size(r, 0, shape.kw - 1);
    while (shape.h + 2 * shape.pad_h < shape.kh) shape.h++;
    while (shape.w + 2 * shape.pad_w < shape.kw) shape.w++;
    shape.oh = (shape.h + 2 * shape.pad_h - shape.kh) / shape.stride_h + 1;
    shape.ow = (shape.w + 2 * shape.pad_w - shape.kw) / shape.stride_w + 1;
    cut = kdtest_size(r, 0, shape.oh < shape.h ? shape.oh : shape.h);
}
static ref_pool reference(void)
{
    return (ref_pool){1,        shape.h,  shape.w,        shape.c,        shape.oh,    shape.ow,
                      shape.kh, shape.kw, shape.stride_h, shape.stride_w, shape.pad_h, shape.pad_w};
}
static size_t inputs(void) { return shape.h * shape.w * shape.c; }
static size_t outputs(void) { return shape.oh * shape.ow * shape.c; }

/* The first maximum, the first NaN: equal values must meet. */
static float *make_x(ck_case *c)
{
    float *x = ck_floats(c, CK_IN, "x", 1, inputs(), 1);
    for (size_t i = 0; c->special && i < inputs(); i++) {
        static const float odd[] = { NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1.0f, 1.0f, 2.0f };
        x[i] = odd[kdtest_size(&c->rand, 0, 7)];
    }
    return x;
}
static kd__pool_args args_of(const ck_case *c, int out, int in, void *arg)
{
    kd__pool_args a = shape;
    a.in = F(in);
    a.out = F(out);
    a.arg = arg;
    a.accumulate = c->add;
    return a;
}
static ck_type arg_type(void) { return shape.arg_bytes == 1 ? CK_U8 : CK_I32; }

/* Ways: the places wanted or not. */
static const char *const max_names[] = { "arg", "", NULL };
static void make_max(ck_case *c)
{
    draw(c);
    ck_floats(c, CK_OUT, "y", 1, outputs(), 1);
    make_x(c);
    ck_other(c, CK_OUT, arg_type(), "arg", 1, c->way ? 0 : outputs());
}
static void run_max(const ck_case *c, const kd__kernels *k)
{
    const kd__pool_args a = args_of(c, 0, 1, c->way ? NULL : c->a[2].at);
    k->max_pool_f32(&a, 0, cut);
    k->max_pool_f32(&a, cut, shape.oh);
}
static void oracle_max(const ck_case *c)
{
    const ref_pool s = reference();
    double *x = ck_wide(BEFORE(1), inputs()), *want = malloc((outputs() + 1) * sizeof *want);
    size_t *from = malloc((outputs() + 1) * sizeof *from);
    ref_max_pool(&s, x, want, from);
    for (size_t i = 0; i < outputs(); i++) {
        ck_near(c, 0, i, want[i], 0);
        if (c->way) continue;
        /* the place in the window of the pixel it came from */
        const size_t pixel = from[i] / s.c, r = i / s.c / s.ow, q = i / s.c % s.ow;
        const size_t place = (pixel / s.w + s.pad_h - r * s.stride_h) * s.kw + pixel % s.w + s.pad_w - q * s.stride_w;
        const size_t got =
            shape.arg_bytes == 1 ? ((const uint8_t *)c->a[2].after)[i] : (size_t)((const int32_t *)c->a[2].after)[i];
        if (got != place) ck_fail(c, "arg[%zu] is %zu, want %zu", i, got, place);
    }
    free(x);
    free(want);
    free(from);
}
CK_KERNEL(max_pool_f32, .ways = max_names, .matrix = true, .special = true, .make = make_max, .run = run_max,
          .oracle = oracle_max, .bench_rows = 64, .bench_n = 1024);

/* The places are the oracle's own. */
static size_t *places_from;
static void make_max_backward(ck_case *c)
{
    draw(c);
    const ref_pool s = reference();
    kdtest_rand r = c->rand;
    double *x = malloc((inputs() + 1) * sizeof *x), *y = malloc((outputs() + 1) * sizeof *y);
    for (size_t i = 0; i < inputs(); i++) x[i] = (double)(kdtest_bits(&r) >> 60);   /* many equal ones */
    free(places_from);
    places_from = malloc((outputs() + 1) * sizeof *places_from);
    ref_max_pool(&s, x, y, places_from);
    ck_floats(c, ck_result(c), "dx", 1, inputs(), 1);
    ck_floats(c, CK_IN, "dy", 1, outputs(), 1);
    void *arg = ck_other(c, CK_IN, arg_type(), "arg", 1, outputs());
    for (size_t i = 0; i < outputs(); i++) {
        const size_t pixel = places_from[i] / s.c, row = i / s.c / s.ow, q = i / s.c % s.ow;
        const size_t place = (pixel / s.w + s.pad_h - row * s.stride_h) * s.kw + pixel % s.w + s.pad_w - q * s.stride_w;
        if (shape.arg_bytes == 1) ((uint8_t *)arg)[i] = (uint8_t)place;
        else ((int32_t *)arg)[i] = (int32_t)place;
    }
    free(x);
    free(y);
}
static void run_max_backward(const ck_case *c, const kd__kernels *k)
{
    const kd__pool_args a = args_of(c, 0, 1, c->a[2].at);
    k->max_pool_backward_f32(&a, 0, cut);
    k->max_pool_backward_f32(&a, cut, shape.h);
}
/* want[to(i)] += dy[i] in the order of outputs is the documented order: to the bit. */
static void oracle_max_backward(const ck_case *c)
{
    float *want = calloc(inputs() + 1, sizeof *want);
    for (size_t i = 0; i < outputs(); i++) want[places_from[i]] += BEFORE(1)[i];
    for (size_t i = 0; i < inputs(); i++) ck_same(c, 0, i, want[i]);
    free(want);
}
CK_KERNEL(max_pool_backward_f32, .matrix = true, .adds = true, .make = make_max_backward, .run = run_max_backward,
          .oracle = oracle_max_backward, .bench_rows = 64, .bench_n = 1024);

static void make_avg(ck_case *c)
{
    draw(c);
    ck_floats(c, CK_OUT, "y", 1, outputs(), 1);
    make_x(c);
}
static void run_avg(const ck_case *c, const kd__kernels *k)
{
    const kd__pool_args a = args_of(c, 0, 1, NULL);
    k->avg_pool_f32(&a, 0, cut);
    k->avg_pool_f32(&a, cut, shape.oh);
}
static void oracle_avg(const ck_case *c)
{
    const ref_pool s = reference();
    double *x = ck_wide(BEFORE(1), inputs()), *want = malloc((outputs() + 1) * sizeof *want),
           *size = malloc((outputs() + 1) * sizeof *size);
    ref_avg_pool(&s, x, want, size);
    for (size_t i = 0; i < outputs(); i++) ck_near(c, 0, i, want[i], (double)(s.kh * s.kw + 1) * U * size[i]);
    free(x);
    free(want);
    free(size);
}
CK_KERNEL(avg_pool_f32, .matrix = true, .make = make_avg, .run = run_avg, .oracle = oracle_avg, .bench_rows = 64,
          .bench_n = 1024);

static void make_avg_backward(ck_case *c)
{
    draw(c);
    ck_floats(c, ck_result(c), "dx", 1, inputs(), 1);
    ck_floats(c, CK_IN, "dy", 1, outputs(), 1);
}
static void run_avg_backward(const ck_case *c, const kd__kernels *k)
{
    const kd__pool_args a = args_of(c, 0, 1, NULL);
    k->avg_pool_backward_f32(&a, 0, cut);
    k->avg_pool_backward_f32(&a, cut, shape.h);
}
/* A pixel takes from as many windows as cover it, each divided and added: two roundings a term of at most |dy|. */
static void oracle_avg_backward(const ck_case *c)
{
    const ref_pool s = reference();
    double *dy = ck_wide(BEFORE(1), outputs()), *want = malloc((inputs() + 1) * sizeof *want),
           *size = malloc((inputs() + 1) * sizeof *size);
    ref_avg_pool_backward(&s, dy, want);
    for (size_t i = 0; i < outputs(); i++) dy[i] = fabs(dy[i]);
    ref_avg_pool_backward(&s, dy, size);
    for (size_t i = 0; i < inputs(); i++) ck_near(c, 0, i, want[i], (double)(s.kh * s.kw + 1) * U * size[i]);
    free(dy);
    free(want);
    free(size);
}
CK_KERNEL(avg_pool_backward_f32, .matrix = true, .adds = true, .make = make_avg_backward, .run = run_avg_backward,
          .oracle = oracle_avg_backward, .bench_rows = 64, .bench_n = 1024);
