/* test_pool.c - the pooling kernels at all kinds of sizes on every instruction set.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "cpu/cpu.h"
#include "kernels/kernels.h"
#include "ref_pool.h"
#include <math.h>
#include <stdlib.h>

static float *floats(size_t n) { return kdtest_guard(n * sizeof(float), 1); }
static double *widened(const float *from, size_t n)
{
    double *to = malloc((n + 1) * sizeof *to);
    for (size_t i = 0; i < n; i++) to[i] = (double)from[i];
    return to;
}

static void check(const ref_pool *s, size_t arg_bytes, int special, const uint32_t *isas, size_t isa_count)
{
    kdtest_rand r = { s->h * 131 + s->w * 17 + s->c };
    const size_t nx = s->h * s->w * s->c, ny = s->oh * s->ow * s->c;
    float *x = floats(nx), *y = floats(ny), *dy = floats(ny), *dx = floats(nx), *old = floats(nx);
    unsigned char *arg = kdtest_guard(ny * arg_bytes, 1);
    kdtest_fill(&r, x, nx, 1);
    kdtest_fill(&r, dy, ny, 1);
    kdtest_fill(&r, old, nx, 1);
    for (size_t i = 0; special && i < nx; i++) {
        static const float odd[] = { NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1.0f, 1.0f, 2.0f };
        x[i] = odd[kdtest_size(&r, 0, 7)];
    }
    double *xd = widened(x, nx), *dyd = widened(dy, ny), *want = malloc((nx + ny) * sizeof *want), *size = malloc((ny + 1) * sizeof *size);
    size_t *from = malloc((ny + 1) * sizeof *from);
    const double taps = (double)(s->kh * s->kw);
    uint64_t hashes[6] = { 0 };
    for (size_t k = 0; k < isa_count; k++) {
        const kd__kernels *kernels = kd__kernels_for(isas[k]);
        kd__pool_args a = { s->h, s->w, s->c, s->oh, s->ow, s->kh, s->kw, s->stride_h, s->stride_w, s->pad_h, s->pad_w, x, y, arg,
                            arg_bytes, 0 };
        uint64_t h[6];
        ref_max_pool(s, xd, want, from);
        kernels->max_pool_f32(&a, 0, s->oh);
        for (size_t i = 0; i < ny; i++) CHECK((double)y[i] == want[i] || (isnan(want[i]) && isnan(y[i])));
        h[0] = special ? 0 : kdtest_hash(y, ny * sizeof *y);
        h[1] = kdtest_hash(arg, ny * arg_bytes);

        for (size_t i = 0; i < nx; i++) want[i] = 0;
        for (size_t i = 0; i < ny; i++) want[from[i]] += dyd[i];
        a.in = dy;
        a.out = dx;
        kernels->max_pool_backward_f32(&a, 0, s->h / 2);
        kernels->max_pool_backward_f32(&a, s->h / 2, s->h);
        for (size_t i = 0; i < nx; i++) CHECK_NEAR((double)dx[i], want[i], 1e-5);
        h[2] = kdtest_hash(dx, nx * sizeof *dx);
        if (nx) memcpy(dx, old, nx * sizeof *dx);
        a.accumulate = 1;
        kernels->max_pool_backward_f32(&a, 0, s->h);
        for (size_t i = 0; i < nx; i++) CHECK_NEAR((double)dx[i], (double)old[i] + want[i], 1e-5);
        h[3] = kdtest_hash(dx, nx * sizeof *dx);

        a.in = x;
        a.out = y;
        if (!special) {
            ref_avg_pool(s, xd, want, size);
            kernels->avg_pool_f32(&a, 0, s->oh);
            for (size_t i = 0; i < ny; i++) CHECK_NEAR((double)y[i], want[i], (taps + 1) * 0x1p-24 * size[i]);
        }
        h[4] = special ? 0 : kdtest_hash(y, ny * sizeof *y);
        ref_avg_pool_backward(s, dyd, want);
        a.in = dy;
        a.out = dx;
        a.accumulate = 0;
        kernels->avg_pool_backward_f32(&a, 0, s->h);
        for (size_t i = 0; i < nx; i++) CHECK_NEAR((double)dx[i], want[i], 1e-5);
        h[5] = kdtest_hash(dx, nx * sizeof *dx);
        for (size_t i = 0; i < 6; i++) {
            if (k == 0) hashes[i] = h[i];
            CHECK_MSG(h[i] == hashes[i], "result %zu of [%zu, %zu, %zu] window %zux%zu: %s differs", i, s->h, s->w, s->c, s->kh, s->kw,
                      kernels->isa);
        }
    }
    kdtest_guard_free(x, nx * sizeof *x, 1);
    kdtest_guard_free(y, ny * sizeof *y, 1);
    kdtest_guard_free(dy, ny * sizeof *dy, 1);
    kdtest_guard_free(dx, nx * sizeof *dx, 1);
    kdtest_guard_free(old, nx * sizeof *old, 1);
    kdtest_guard_free(arg, ny * arg_bytes, 1);
    free(xd);
    free(dyd);
    free(want);
    free(size);
    free(from);
}

static ref_pool random_shape(kdtest_rand *r)
{
    ref_pool s = { .n = 1, .h = kdtest_size(r, 1, 9), .w = kdtest_size(r, 1, 9), .c = kdtest_size(r, 1, 40), .kh = kdtest_size(r, 1, 4),
                   .kw = kdtest_size(r, 1, 4), .stride_h = kdtest_size(r, 1, 5), .stride_w = kdtest_size(r, 1, 5) };
    s.pad_h = kdtest_size(r, 0, s.kh - 1);
    s.pad_w = kdtest_size(r, 0, s.kw - 1);
    while (s.h + 2 * s.pad_h < s.kh) s.h++;
    while (s.w + 2 * s.pad_w < s.kw) s.w++;
    s.oh = (s.h + 2 * s.pad_h - s.kh) / s.stride_h + 1;
    s.ow = (s.w + 2 * s.pad_w - s.kw) / s.stride_w + 1;
    return s;
}

TEST(random_shapes)
{
    uint32_t isas[5];
    size_t n = kdtest_isas(isas);
    kdtest_rand r = { 31 };
    for (int i = 0; i < (kdtest_full() ? 3000 : 300); i++) {
        ref_pool s = random_shape(&r);
        check(&s, i % 3 ? 1 : 4, 0, isas, n);
    }
}

/* NaN, infinities, zeros of both signs, equal values: the first maximum, the first NaN. */
TEST(special_values)
{
    uint32_t isas[5];
    size_t n = kdtest_isas(isas);
    kdtest_rand r = { 37 };
    for (int i = 0; i < 100; i++) {
        ref_pool s = random_shape(&r);
        check(&s, 1, 1, isas, n);
    }
}

/* More places than a byte counts. */
TEST(large_window)
{
    uint32_t isas[5];
    size_t n = kdtest_isas(isas);
    ref_pool s = { .n = 1, .h = 20, .w = 19, .c = 17, .kh = 17, .kw = 18, .stride_h = 2, .stride_w = 1, .pad_h = 3, .pad_w = 2 };
    s.oh = (s.h + 2 * s.pad_h - s.kh) / s.stride_h + 1;
    s.ow = (s.w + 2 * s.pad_w - s.kw) / s.stride_w + 1;
    check(&s, 4, 0, isas, n);
}
