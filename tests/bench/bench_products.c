/* bench_products.c - matrix products and convolutions in GFLOP/s: bench_products [threads [isa]], isa as KD_ISA_*.
 * Nominal operations: two for each multiply-add of the definition, whatever the way.  The median of the calls.
 * SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "tensor/tensor.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of call(arg), over about a fifth of a second. */
static double measure(kd_status (*call)(void *arg), void *arg)
{
    double times[400];
    size_t n = 0, inner = 1;
    for (int warm = 0; warm < 2; warm++) {
        double start = now();
        if (call(arg) != KD_OK) return 0;
        double once = now() - start;
        inner = once < 2e-4 ? (size_t)(2e-4 / (once + 1e-8)) + 1 : 1;
    }
    for (double begin = now(); n < 7 || (n < 400 && now() - begin < 0.2); n++) {
        double start = now();
        for (size_t i = 0; i < inner; i++)
            if (call(arg) != KD_OK) return 0;
        times[n] = (now() - start) / (double)inner;
    }
    qsort(times, n, sizeof *times, by_value);
    return times[n / 2];
}

static float *numbers(size_t n, kd_rng *rng)
{
    float *p = aligned_alloc(64, (n * sizeof *p + 127) / 64 * 64);
    for (size_t i = 0; p && i < n; i++) p[i] = 2 * kd_rng_uniform(rng) - 1;
    return p;
}

static void row(const char *what, double work, double seconds)
{
    printf("  %s %8.1f us %6.1f", what, seconds * 1e6, 2e-9 * work / seconds);
}

typedef struct product { kd_context *ctx; kd__gemm_args g; } product;
static kd_status multiply(void *arg)
{
    const product *p = arg;
    return kd__gemm(p->ctx, &p->g);
}

static void products(kd_context *ctx, kd_rng *rng)
{
    static const size_t sizes[][3] = { { 128, 256, 784 }, { 128, 1200, 1200 }, { 512, 512, 512 }, { 1024, 1024, 1024 },
                                       { 1024, 3072, 768 }, { 1024, 768, 3072 }, { 65536, 16, 144 }, { 144, 16, 65536 },
                                       { 128, 10, 256 }, { 64, 64, 64 }, { 32, 32, 32 }, { 64, 10, 32 }, { 1, 512, 512 } };
    printf("matrix products m x n x k: a b, a b^T, a^T b, a b + bias, relu\n");
    for (size_t i = 0; i < KD_COUNT(sizes); i++) {
        const size_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
        float *a = numbers(m * k, rng), *b = numbers(k * n, rng), *c = numbers(m * n, rng), *bias = numbers(n, rng);
        printf("%6zu x %5zu x %5zu", m, n, k);
        static const char *const names[] = { "NN", "NT", "TN", "NN+" };
        for (int v = 0; v < 4; v++) {
            product p = { ctx, { .m = m, .n = n, .k = k, .a = a, .a_stride = v == 2 ? m : k, .a_transposed = v == 2, .b = b,
                                 .b_stride = v == 1 ? k : n, .b_transposed = v == 1, .c = c, .c_stride = n,
                                 .after = { .bias = v == 3 ? bias : NULL, .relu = v == 3 } } };
            row(names[v], (double)m * (double)n * (double)k, measure(multiply, &p));
        }
        printf("\n");
        free(a);
        free(b);
        free(c);
        free(bias);
    }
}

typedef struct layer { kd_context *ctx; kd__conv_shape s; float *x, *w, *y, *dx, *dw; } layer;
static kd_status forward(void *arg)
{
    const layer *l = arg;
    return kd__conv_forward(l->ctx, &l->s, l->x, l->w, NULL, NULL, l->dx);
}
static kd_status data(void *arg)
{
    const layer *l = arg;
    return kd__conv_backward_data(l->ctx, &l->s, l->y, l->w, l->dx, false);
}
static kd_status weight(void *arg)
{
    const layer *l = arg;
    return kd__conv_backward_weight(l->ctx, &l->s, l->x, l->y, l->dw, false);
}

static void convolutions(kd_context *ctx, kd_rng *rng)
{
    /* images, side, channels in, out, kernel, stride, padding, groups */
    static const size_t layers[][8] = { { 64, 32, 3, 16, 3, 1, 1, 1 }, { 64, 32, 16, 16, 3, 1, 1, 1 }, { 64, 16, 32, 32, 3, 1, 1, 1 },
                                        { 64, 8, 64, 64, 3, 1, 1, 1 }, { 64, 32, 16, 32, 3, 2, 1, 1 }, { 64, 16, 32, 64, 3, 2, 1, 1 },
                                        { 64, 32, 64, 64, 3, 1, 1, 1 }, { 64, 16, 128, 128, 3, 1, 1, 1 }, { 64, 8, 256, 256, 3, 1, 1, 1 },
                                        { 64, 4, 512, 512, 3, 1, 1, 1 }, { 8, 224, 3, 64, 7, 2, 3, 1 }, { 64, 8, 64, 128, 1, 1, 0, 1 },
                                        { 64, 32, 32, 32, 3, 1, 1, 32 }, { 64, 16, 256, 256, 3, 1, 1, 256 },
                                        { 64, 16, 128, 128, 3, 1, 1, 32 } };
    printf("convolutions: forward, gradient of the data, of the weights\n");
    for (size_t i = 0; i < KD_COUNT(layers); i++) {
        const size_t *v = layers[i], out = (v[1] + 2 * v[6] - v[4]) / v[5] + 1;
        layer l = { .ctx = ctx, .s = { v[0], v[1], v[1], v[2], v[4], v[4], v[3], out, out, v[5], v[5], v[6], v[6], 1, 1, v[7] } };
        const size_t nx = v[0] * v[1] * v[1] * v[2], ny = v[0] * out * out * v[3], nw = v[4] * v[4] * v[2] / v[7] * v[3];
        const double work = (double)ny * (double)(v[4] * v[4] * v[2] / v[7]);
        l.x = numbers(nx, rng);
        l.y = numbers(ny, rng);
        l.w = numbers(nw, rng);
        l.dx = numbers(KD_MAX(nx, ny), rng);
        l.dw = numbers(nw, rng);
        printf("%3zu -> %3zu @ %3zu, %zux%zu", v[2], v[3], v[1], v[4], v[4]);
        if (v[5] > 1) printf(" /%zu", v[5]);
        if (v[7] > 1) printf(" %zu groups", v[7]);
        row("forward", work, measure(forward, &l));
        row("data", work, measure(data, &l));
        row("weight", work, measure(weight, &l));
        printf("\n");
        free(l.x);
        free(l.y);
        free(l.w);
        free(l.dx);
        free(l.dw);
    }
}

int main(int argc, char **argv)
{
    kd_context_desc desc;
    kd_context *ctx;
    kd_rng rng = kd_rng_make(1);
    kd_context_desc_init(&desc, sizeof desc);
    desc.threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1;
    desc.isa = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : KD_ISA_AUTO;
    if (kd_context_create(&ctx, &desc) != KD_OK) return fprintf(stderr, "bench_products: %s\n", kd_last_error()), 1;
    printf("%s, %s, %u threads\n", kd_build_info(), kd_context_isa(ctx), kd_context_threads(ctx));
    products(ctx, &rng);
    convolutions(ctx, &rng);
    kd_context_free(ctx);
    return 0;
}
