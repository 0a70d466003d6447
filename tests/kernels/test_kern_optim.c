/* test_kern_optim.c - optimizer steps and averages against the double reference, on every instruction set.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "cpu/cpu.h"
#include "kernels/kernels.h"
#include "ref_optim.h"
#include <math.h>
#include <stdlib.h>

enum { MAX_N = 1000 };
static const size_t sizes[] = { 0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 100, 257, 1000 };
#define EACH_SIZE for (size_t si = 0; si < sizeof sizes / sizeof *sizes; si++)

/* w, g and two moments, each in memory that ends at a page that faults. */
typedef struct arrays { size_t n; float *p[4]; } arrays;
static arrays take(size_t n, uint64_t seed)
{
    arrays a = { .n = n };
    kdtest_rand r = { seed * 2 + 1 };
    for (int i = 0; i < 4; i++) {
        a.p[i] = kdtest_guard(n * sizeof(float), 1);
        kdtest_fill(&r, a.p[i], n, i == 1 ? 2.0 : 1.0);
    }
    for (size_t i = 0; i < n; i++) a.p[3][i] = a.p[3][i] * a.p[3][i];   /* a second moment is not negative */
    return a;
}
static void give(arrays *a)
{
    for (int i = 0; i < 4; i++) kdtest_guard_free(a->p[i], a->n * sizeof(float), 1);
}

static uint64_t sgd_case(const kd__kernels *k, size_t n, int with_momentum, uint32_t flags, double dampening, int check)
{
    arrays a = take(n, n + 7);
    kd__sgd_step step = { .grad_scale = 0.37f, .weight_decay = 0.05f, .lr = 0.1f, .momentum = 0.9f, .flags = flags,
                          .grad_share = (float)(1 - dampening) };
    ref_sgd ref = { .lr = (double)0.1f, .momentum = (double)0.9f, .dampening = 1 - (double)step.grad_share,
                    .weight_decay = (double)0.05f, .grad_scale = (double)0.37f, .use_momentum = with_momentum,
                    .nesterov = flags & KD_SGD_NESTEROV, .first = flags & KD_SGD_FIRST };
    static double w[MAX_N], v[MAX_N], bound[MAX_N][2];
    for (size_t i = 0; i < n; i++) {
        w[i] = (double)a.p[0][i];
        v[i] = (double)a.p[2][i];
        ref_sgd_step(&w[i], (double)a.p[1][i], &v[i], &ref, bound[i]);
    }
    k->sgd_step_f32(a.p[0], a.p[1], with_momentum ? a.p[2] : NULL, n, &step);
    for (size_t i = 0; check && i < n; i++) {
        CHECK_NEAR((double)a.p[0][i], w[i], bound[i][0]);
        if (with_momentum) CHECK_NEAR((double)a.p[2][i], v[i], bound[i][1]);
        CHECK(a.p[1][i] == 0.0f);
    }
    uint64_t hash = 0;
    for (int i = 0; i < 3; i++) hash = hash * 31 + kdtest_hash(a.p[i], n * sizeof(float));
    give(&a);
    return hash;
}

static uint64_t adam_case(const kd__kernels *k, size_t n, int decoupled, double t, int check)
{
    arrays a = take(n, n + 11);
    float b1 = 0.9f, b2 = 0.999f;
    ref_adam ref = { .lr = 0.01, .beta1 = (double)b1, .beta2 = (double)b2, .eps = (double)1e-8f, .weight_decay = (double)0.125f,
                     .grad_scale = 0.5, .decoupled = decoupled, .t = t };
    kd__adam_step step = { .grad_scale = 0.5f, .weight_decay = decoupled ? 0.0f : 0.125f,
                           .keep = decoupled ? (float)(1 - 0.01 * 0.125) : 1.0f, .grad_share1 = (float)(1 - (double)b1),
                           .beta2 = b2, .grad_share2 = (float)(1 - (double)b2),
                           .step_size = (float)(0.01 / (1 - pow((double)b1, t))),
                           .root_correction = (float)sqrt(1 - pow((double)b2, t)), .eps = 1e-8f };
    static double w[MAX_N], m[MAX_N], v[MAX_N], bound[MAX_N][3];
    for (size_t i = 0; i < n; i++) {
        w[i] = (double)a.p[0][i];
        m[i] = (double)a.p[2][i];
        v[i] = (double)a.p[3][i];
        ref_adam_step(&w[i], (double)a.p[1][i], &m[i], &v[i], &ref, bound[i]);
    }
    k->adam_step_f32(a.p[0], a.p[1], a.p[2], a.p[3], n, &step);
    for (size_t i = 0; check && i < n; i++) {
        CHECK_NEAR((double)a.p[0][i], w[i], bound[i][0]);
        CHECK_NEAR((double)a.p[2][i], m[i], bound[i][1]);
        CHECK_NEAR((double)a.p[3][i], v[i], bound[i][2]);
        CHECK(a.p[1][i] == 0.0f);
    }
    uint64_t hash = 0;
    for (int i = 0; i < 4; i++) hash = hash * 31 + kdtest_hash(a.p[i], n * sizeof(float));
    give(&a);
    return hash;
}

static const kd__kernels *first_kernels(void)
{
    const kd__kernels *k = NULL;
    for (uint32_t isa = KD_ISA_AVX512; !k && isa >= KD_ISA_SCALAR; isa--) k = kd__kernels_for(isa);
    return k;
}
#define EACH_KERNELS(k)                                                    \
    for (uint32_t isa = KD_ISA_SCALAR; isa <= KD_ISA_AVX512; isa++)       \
        for (const kd__kernels *k = kd__kernels_for(isa); k; k = NULL)

TEST(sgd_matches_the_reference_and_bits_agree)
{
    static const struct { int momentum; uint32_t flags; double dampening; } ways[] = {
        { 0, 0, 0 }, { 1, 0, 0 }, { 1, 0, 0.25 }, { 1, KD_SGD_FIRST, 0.25 }, { 1, KD_SGD_NESTEROV, 0 },
        { 1, KD_SGD_FIRST | KD_SGD_NESTEROV, 0 },
    };
    EACH_SIZE for (size_t way = 0; way < sizeof ways / sizeof *ways; way++) {
        uint64_t want = sgd_case(first_kernels(), sizes[si], ways[way].momentum, ways[way].flags, ways[way].dampening, 0);
        EACH_KERNELS(k) {
            uint64_t got = sgd_case(k, sizes[si], ways[way].momentum, ways[way].flags, ways[way].dampening, 1);
            CHECK_MSG(got == want, "%s: other bits, n = %zu, way %zu", k->isa, sizes[si], way);
        }
    }
}

TEST(adam_matches_the_reference_and_bits_agree)
{
    EACH_SIZE for (int decoupled = 0; decoupled < 2; decoupled++) for (int late = 0; late < 2; late++) {
        double t = late ? 1000 : 1;
        uint64_t want = adam_case(first_kernels(), sizes[si], decoupled, t, 0);
        EACH_KERNELS(k) {
            uint64_t got = adam_case(k, sizes[si], decoupled, t, 1);
            CHECK_MSG(got == want, "%s: other bits, n = %zu, t = %g", k->isa, sizes[si], t);
        }
    }
}

/* A weight, its gradient and its moments at any offset give the same bits: no lane is special. */
TEST(place_does_not_matter)
{
    float base[4][80], moved[4][80];
    kdtest_rand r = { 5 };
    for (int i = 0; i < 4; i++) kdtest_fill(&r, base[i], 80, 1);
    for (int i = 0; i < 80; i++) base[3][i] = fabsf(base[3][i]);
    kd__adam_step adam = { 1, 0.01f, 1, 0.1f, 0.999f, 0.001f, 0.003f, 0.3f, 1e-8f };
    kd__sgd_step sgd = { 0.7f, 0.01f, 0.1f, 0.9f, 1, KD_SGD_NESTEROV };
    EACH_KERNELS(k) {
        float a[4][80], b[4][80];
        memcpy(a, base, sizeof a);
        memcpy(b, base, sizeof b);
        k->adam_step_f32(a[0], a[1], a[2], a[3], 60, &adam);
        k->sgd_step_f32(b[0], b[1], b[2], 60, &sgd);
        for (size_t shift = 1; shift < 17; shift++) {
            for (int i = 0; i < 4; i++) memcpy(moved[i] + shift, base[i], 60 * sizeof(float));
            k->adam_step_f32(moved[0] + shift, moved[1] + shift, moved[2] + shift, moved[3] + shift, 60, &adam);
            for (int i = 0; i < 4; i++) CHECK(memcmp(moved[i] + shift, a[i], 60 * sizeof(float)) == 0);
            for (int i = 0; i < 4; i++) memcpy(moved[i] + shift, base[i], 60 * sizeof(float));
            k->sgd_step_f32(moved[0] + shift, moved[1] + shift, moved[2] + shift, 60, &sgd);
            for (int i = 0; i < 3; i++) CHECK(memcmp(moved[i] + shift, b[i], 60 * sizeof(float)) == 0);
        }
    }
}

TEST(padding_of_zeros_stays_zero)
{
    kd__adam_step adam = { 1, 0.01f, 0.99f, 0.1f, 0.999f, 0.001f, 0.003f, 0.3f, 1e-8f };
    kd__sgd_step sgd = { 0.7f, 0.01f, 0.1f, 0.9f, 1, KD_SGD_NESTEROV };
    EACH_KERNELS(k) {
        float z[4][32] = { { 0 } };
        k->adam_step_f32(z[0], z[1], z[2], z[3], 32, &adam);
        k->sgd_step_f32(z[0], z[1], z[2], 32, &sgd);
        for (int i = 0; i < 4; i++) for (int j = 0; j < 32; j++) CHECK(z[i][j] == 0.0f);
    }
}

TEST(moving_average)
{
    EACH_SIZE {
        size_t n = sizes[si];
        float *average = kdtest_guard(n * sizeof(float), 1), *x = kdtest_guard(n * sizeof(float), 1);
        float *start = malloc(n * sizeof(float) + 1);
        uint64_t bits = 0;
        EACH_KERNELS(k) {
            kdtest_rand r = { n + 3 };
            kdtest_fill(&r, average, n, 1);
            kdtest_fill(&r, x, n, 1);
            memcpy(start, average, n * sizeof(float));
            k->approach_f32(average, x, n, 0.01f);
            for (size_t i = 0; i < n; i++) {
                double e = (double)start[i], share = (double)0.01f, want = e + share * ((double)x[i] - e);
                CHECK_NEAR((double)average[i], want, 0x1p-24 * (share * fabs((double)x[i] - e) + fabs(want)));
            }
            uint64_t hash = kdtest_hash(average, n * sizeof(float));
            CHECK(!bits || hash == bits);
            bits = hash;
        }
        free(start);
        kdtest_guard_free(average, n * sizeof(float), 1);
        kdtest_guard_free(x, n * sizeof(float), 1);
    }
}
