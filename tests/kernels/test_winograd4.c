/* test_winograd4.c - F(2x2, 3x3) and F(4x4, 3x3) against the convolution in double: each within the bound of docs/design/numerics.md,
 * the smaller one no less accurate than the plain chain.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "kd.h"
#include "tensor/tensor.h"
#include <math.h>
#include <stdlib.h>

/* The matrices of Lavin and Gray, by magnitude: A^T, G, B^T. */
static const double at2[2][4] = { { 1, 1, 1, 0 }, { 0, 1, 1, 1 } };
static const double g2[4][3] = { { 1, 0, 0 }, { .5, .5, .5 }, { .5, .5, .5 }, { 0, 0, 1 } };
static const double bt2[4][4] = { { 1, 0, 1, 0 }, { 0, 1, 1, 0 }, { 0, 1, 1, 0 }, { 0, 1, 0, 1 } };
static const double at4[4][6] = { { 1, 1, 1, 1, 1, 0 }, { 0, 1, 1, 2, 2, 0 }, { 0, 1, 1, 4, 4, 0 }, { 0, 1, 1, 8, 8, 1 } };
static const double g4[6][3] = { { 1 / 4., 0, 0 },          { 1 / 6., 1 / 6., 1 / 6. },  { 1 / 6., 1 / 6., 1 / 6. },
                                 { 1 / 24., 1 / 12., 1 / 6. }, { 1 / 24., 1 / 12., 1 / 6. }, { 0, 0, 1 } };
static const double bt4[6][6] = { { 4, 0, 5, 0, 1, 0 }, { 0, 4, 4, 1, 1, 0 }, { 0, 4, 4, 1, 1, 0 },
                                  { 0, 2, 1, 2, 1, 0 }, { 0, 2, 1, 2, 1, 0 }, { 0, 4, 0, 5, 0, 1 } };
/* Roundings of one axis of each transform, at most: A^T, G (its constants too), B^T. */
enum { ROUNDINGS2 = 2 + 2 + 1, ROUNDINGS4 = 3 + 4 + 2 };

/* |A^T| (|G| |g| |G^T| . |B^T| |d| |B|) |A| of one output, summed over channels. */
static double magnitude(const kd__conv_shape *s, const float *x, const float *w, size_t r, size_t q, size_t o, size_t out)
{
    const size_t in = out + 2;
    const double *at = out == 2 ? &at2[0][0] : &at4[0][0], *g = out == 2 ? &g2[0][0] : &g4[0][0], *bt = out == 2 ? &bt2[0][0] : &bt4[0][0];
    double m[6][6] = { { 0 } }, y = 0;
    for (size_t c = 0; c < s->ci; c++) {
        double d[6][6], k[3][3], t[6][6], u[6][6];
        for (size_t a = 0; a < in; a++)
            for (size_t b = 0; b < in; b++) {
                const size_t i = r / out * out + a, j = q / out * out + b;
                const bool inside = i >= s->pad_h && i - s->pad_h < s->h && j >= s->pad_w && j - s->pad_w < s->w;
                d[a][b] = inside ? fabs((double)x[((i - s->pad_h) * s->w + j - s->pad_w) * s->ci + c]) : 0;
            }
        for (size_t a = 0; a < 9; a++) k[a / 3][a % 3] = fabs((double)w[(a * s->ci + c) * s->co + o]);
        for (size_t a = 0; a < in; a++)
            for (size_t b = 0; b < in; b++) {
                t[a][b] = u[a][b] = 0;
                for (size_t e = 0; e < in; e++)
                    for (size_t f = 0; f < in; f++) t[a][b] += bt[a * in + e] * d[e][f] * bt[b * in + f];
                for (size_t e = 0; e < 3; e++)
                    for (size_t f = 0; f < 3; f++) u[a][b] += g[a * 3 + e] * k[e][f] * g[b * 3 + f];
                m[a][b] += t[a][b] * u[a][b];
            }
    }
    for (size_t e = 0; e < in; e++)
        for (size_t f = 0; f < in; f++) y += at[r % out * in + e] * m[e][f] * at[q % out * in + f];
    return y;
}

static double direct(const kd__conv_shape *s, const float *x, const float *w, size_t r, size_t q, size_t o, float *chain)
{
    double sum = 0;
    *chain = 0;
    for (size_t a = 0; a < 3; a++)
        for (size_t b = 0; b < 3; b++) {
            const size_t i = r + a, j = q + b;
            if (i < s->pad_h || i - s->pad_h >= s->h || j < s->pad_w || j - s->pad_w >= s->w) continue;
            for (size_t c = 0; c < s->ci; c++) {
                const float d = x[((i - s->pad_h) * s->w + j - s->pad_w) * s->ci + c], k = w[((a * 3 + b) * s->ci + c) * s->co + o];
                sum += (double)d * (double)k;
                *chain = fmaf(d, k, *chain);
            }
        }
    return sum;
}

static float *numbers(size_t n, kdtest_rand *r, int kind)
{
    float *p = malloc(n * sizeof *p);
    for (size_t i = 0; i < n; i++) {
        p[i] = (float)kdtest_uniform(r, -1, 1);
        if (kind == 1) p[i] = fabsf(p[i]);                                        /* as behind a ReLU; sums grow */
        if (kind == 2) p[i] *= (float)exp2(kdtest_uniform(r, -12, 12));          /* of very different size */
        if (kind == 3) p[i] = i & 1 ? 1.0f : -1.0f;                               /* cancels */
    }
    return p;
}

static void check(kd__conv_shape s, int kind, double rms[3])
{
    kdtest_rand r = { 7 };
    s.oh = s.h + 2 * s.pad_h - 2, s.ow = s.w + 2 * s.pad_w - 2;
    s.kh = s.kw = 3, s.stride_h = s.stride_w = s.dil_h = s.dil_w = s.groups = 1;
    const size_t count = s.n * s.oh * s.ow * s.co;
    float *x = numbers(s.n * s.h * s.w * s.ci, &r, kind), *w = numbers(9 * s.ci * s.co, &r, kind == 3 ? 0 : kind);
    float *y = malloc(count * sizeof *y), *again = malloc(count * sizeof *again);
    double error[3] = { 0 }, size = 0;
    for (size_t way = 0; way < 2; way++) {
        const size_t out = way ? 4 : 2;
        s.winograd4 = way;
        bool first = true;
        for (uint32_t isa = KD_ISA_SCALAR; isa <= KD_ISA_AVX512; isa++) {   /* the same bits on every instruction set, on two threads */
            kd_context *ctx;
            kd_context_desc how;
            kd_context_desc_init(&how, sizeof how);
            how.isa = isa, how.threads = isa % 2 + 1;
            CHECK_OK(kd_context_create(&ctx, &how));
            CHECK_OK(kd__conv_forward(ctx, &s, x, w, NULL, NULL, first ? y : again));
            if (!first) CHECK(!memcmp(y, again, count * sizeof *y));
            first = false;
            kd_context_free(ctx);
        }
        for (size_t e = 0; e < 300; e++) {
            const size_t at = kdtest_size(&r, 0, count - 1), o = at % s.co, q = at / s.co % s.ow, p = at / s.co / s.ow % s.oh;
            float chain;
            const double want = direct(&s, x + at / s.co / s.ow / s.oh * s.h * s.w * s.ci, w, p, q, o, &chain);
            const double bound = ((double)s.ci + 2 + 2 * (way ? ROUNDINGS4 : ROUNDINGS2)) * 0x1p-24 *
                                 magnitude(&s, x + at / s.co / s.ow / s.oh * s.h * s.w * s.ci, w, p, q, o, out);
            CHECK_MSG(fabs((double)y[at] - want) <= bound, "F(%zu), kind %d, %zu channels: off by %.3g, bound %.3g", out, kind, s.ci,
                      fabs((double)y[at] - want), bound);
            error[1 + way] += ((double)y[at] - want) * ((double)y[at] - want);
            if (!way) error[0] += ((double)chain - want) * ((double)chain - want), size += want * want;
        }
    }
    for (size_t i = 0; i < 3; i++) rms[i] = sqrt(error[i] / size);
    free(x), free(w), free(y), free(again);
}

TEST(within_the_bound)
{
    double rms[3];
    const size_t sides = kdtest_full() ? 4 : 2;
    for (int kind = 0; kind < 4; kind++)
        for (size_t i = 0; i < sides; i++)   /* sizes that are no multiple of a tile, with every padding */
            check((kd__conv_shape){ .n = 2, .h = 5 + 3 * i, .w = 7 + 2 * i, .ci = 33, .co = 35, .pad_h = i % 3, .pad_w = (i + 1) % 3 },
                  kind, rms);
}

TEST(accuracy_as_documented)
{
    const size_t channels[] = { 64, 256 };
    for (size_t i = 0; i < 2; i++) {
        double rms[3];
        check((kd__conv_shape){ .n = 1, .h = 8, .w = 8, .ci = channels[i], .co = 32, .pad_h = 1, .pad_w = 1 }, 0, rms);
        if (kdtest_full()) printf("  %zu channels: chain %.2g, F(2x2) %.2g, F(4x4) %.2g\n", channels[i], rms[0], rms[1], rms[2]);
        CHECK(rms[1] < rms[0]);
        CHECK(rms[2] < 12 * rms[0]);
    }
}

/* A model asked for F(4x4): its INFER forwards change within the error, nothing else does, and it can be taken back. */
TEST(a_model_on_request)
{
    kd_model *m;
    float *out[4];
    size_t count = 0;
    CHECK_OK(kd_zoo_resnet_cifar(&m, NULL, 8, 4, 10, 3));
    kd_tensor *x;
    kdtest_rand r = { 5 };
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, 4, (size_t[]){ 2, 16, 16, 3 }));
    kdtest_fill(&r, kd_tensor_f32(x), kd_tensor_count(x), 1.0);
    CHECK_STATUS(kd_model_set_convolution(m, 2), KD_ERR_ARG);
    for (size_t i = 0; i < 4; i++) {   /* by the rule, on request, on request but on a tape that records, by the rule again */
        kd_tape *tape;
        kd_model_freeze(m, 1);
        CHECK_OK(kd_model_set_convolution(m, i == 1 || i == 2 ? KD_CONV_WINOGRAD4 : KD_CONV_DEFAULT));
        CHECK_OK(kd_tape_create(&tape, NULL, i == 2 ? KD_TAPE_EVAL : KD_TAPE_INFER));
        kd_tensor *y = kd_model_forward(m, tape, x);
        CHECK_OK(kd_tape_status(tape));
        count = kd_tensor_count(y);
        out[i] = malloc(count * sizeof **out);
        memcpy(out[i], kd_tensor_f32(y), count * sizeof **out);
        kd_tape_free(tape);
    }
    double difference = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        difference += pow((double)out[1][i] - (double)out[0][i], 2);
        size += pow((double)out[0][i], 2);
    }
    CHECK(difference > 0 && sqrt(difference / size) < 1e-4);
    CHECK(!memcmp(out[0], out[2], count * sizeof **out));
    CHECK(!memcmp(out[0], out[3], count * sizeof **out));
    for (size_t i = 0; i < 4; i++) free(out[i]);
    kd_tensor_free(x), kd_model_free(m);
}
