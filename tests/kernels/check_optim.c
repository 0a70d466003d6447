/* check_optim.c - optimizer steps and averages against the double reference.
 * SPDX-License-Identifier: MIT */
#include "checkkd.h"
#include "ref_optim.h"

static const struct { int momentum; uint32_t flags; float dampening; } sgd_ways[] = {
    { 0, 0, 0 }, { 1, 0, 0 }, { 1, 0, 0.25f }, { 1, KD_SGD_FIRST, 0.25f }, { 1, KD_SGD_NESTEROV, 0 },
    { 1, KD_SGD_FIRST | KD_SGD_NESTEROV, 0 },
};
static const char *const sgd_names[] = { "plain", "momentum", "dampened", "first", "nesterov", "first nesterov", NULL };

/* w, g and the moments; afterwards g is zero. */
static void make_sgd(ck_case *c)
{
    ck_floats(c, CK_INOUT, "w", 1, c->n, 1);
    ck_floats(c, CK_INOUT, "g", 1, c->n, 2);
    ck_floats(c, sgd_ways[c->way].flags & KD_SGD_FIRST ? CK_OUT : CK_INOUT, "v", 1, sgd_ways[c->way].momentum ? c->n : 0, 1);
}
static void run_sgd(const ck_case *c, const kd__kernels *k)
{
    const kd__sgd_step step = { .grad_scale = 0.37f, .weight_decay = 0.05f, .lr = 0.1f, .momentum = 0.9f,
                                .grad_share = 1 - sgd_ways[c->way].dampening, .flags = sgd_ways[c->way].flags };
    k->sgd_step_f32(F(0), F(1), sgd_ways[c->way].momentum ? F(2) : NULL, c->n, &step);
}
static void oracle_sgd(const ck_case *c)
{
    const uint32_t flags = sgd_ways[c->way].flags;
    const ref_sgd ref = { .lr = (double)0.1f, .momentum = (double)0.9f, .dampening = (double)sgd_ways[c->way].dampening,
                          .weight_decay = (double)0.05f, .grad_scale = (double)0.37f, .use_momentum = sgd_ways[c->way].momentum,
                          .nesterov = flags & KD_SGD_NESTEROV, .first = flags & KD_SGD_FIRST };
    for (size_t i = 0; i < c->n; i++) {
        double w = (double)BEFORE(0)[i], v = ref.use_momentum ? (double)BEFORE(2)[i] : 0, bound[2];
        ref_sgd_step(&w, (double)BEFORE(1)[i], &v, &ref, bound);
        ck_near(c, 0, i, w, bound[0]);
        ck_same(c, 1, i, 0.0f);
        if (ref.use_momentum) ck_near(c, 2, i, v, bound[1]);
    }
}
CK_KERNEL(sgd_step_f32, .ways = sgd_names, .make = make_sgd, .run = run_sgd, .oracle = oracle_sgd, .bench_n = 4 << 20);

/* Ways: decay added to the gradient or decoupled; the first step or a late one. */
static const char *const adam_names[] = { "first", "late", "decoupled first", "decoupled late", NULL };
static double adam_time(const ck_case *c) { return c->way % 2 ? 1000 : 1; }
static const float b1 = 0.9f, b2 = 0.999f;

static void make_adam(ck_case *c)
{
    ck_floats(c, CK_INOUT, "w", 1, c->n, 1);
    ck_floats(c, CK_INOUT, "g", 1, c->n, 2);
    ck_floats(c, CK_INOUT, "m", 1, c->n, 1);
    float *v = ck_floats(c, CK_INOUT, "v", 1, c->n, 1);
    for (size_t i = 0; i < c->n; i++) v[i] *= v[i];   /* a second moment is not negative */
}
static void run_adam(const ck_case *c, const kd__kernels *k)
{
    const bool decoupled = c->way >= 2;
    const double t = adam_time(c);
    const kd__adam_step step = { .grad_scale = 0.5f, .weight_decay = decoupled ? 0.0f : 0.125f,
                                 .keep = decoupled ? (float)(1 - 0.01 * 0.125) : 1.0f, .grad_share1 = (float)(1 - (double)b1),
                                 .beta2 = b2, .grad_share2 = (float)(1 - (double)b2),
                                 .step_size = (float)(0.01 / (1 - pow((double)b1, t))),
                                 .root_correction = (float)sqrt(1 - pow((double)b2, t)), .eps = 1e-8f };
    k->adam_step_f32(F(0), F(1), F(2), F(3), c->n, &step);
}
static void oracle_adam(const ck_case *c)
{
    const ref_adam ref = {.lr = 0.01,
                          .beta1 = (double)b1,
                          .beta2 = (double)b2,
                          .eps = (double)1e-8f,
                          .weight_decay = (double)0.125f,
                          .grad_scale = 0.5,
                          .decoupled = c->way >= 2,
                          .t = adam_time(c)};
    for (size_t i = 0; i < c->n; i++) {
        double w = (double)BEFORE(0)[i], m = (double)BEFORE(2)[i], v = (double)BEFORE(3)[i], bound[3];
        ref_adam_step(&w, (double)BEFORE(1)[i], &m, &v, &ref, bound);
        ck_near(c, 0, i, w, bound[0]);
        ck_same(c, 1, i, 0.0f);
        ck_near(c, 2, i, m, bound[1]);
        ck_near(c, 3, i, v, bound[2]);
    }
}
CK_KERNEL(adam_step_f32, .ways = adam_names, .make = make_adam, .run = run_adam, .oracle = oracle_adam, .bench_n = 4 << 20);

TEST(padding_of_zeros_stays_zero)
{
    kd__adam_step adam = { 1, 0.01f, 0.99f, 0.1f, 0.999f, 0.001f, 0.003f, 0.3f, 1e-8f };
    kd__sgd_step sgd = { 0.7f, 0.01f, 0.1f, 0.9f, 1, KD_SGD_NESTEROV };
    EACH_ISA(k) {
        float z[4][32] = { { 0 } };
        k->adam_step_f32(z[0], z[1], z[2], z[3], 32, &adam);
        k->sgd_step_f32(z[0], z[1], z[2], 32, &sgd);
        for (int i = 0; i < 4; i++) for (int j = 0; j < 32; j++) CHECK(z[i][j] == 0.0f);
    }
}

static void make_approach(ck_case *c)
{
    ck_floats(c, CK_INOUT, "average", 1, c->n, 1);
    ck_floats(c, CK_IN, "x", 1, c->n, 1);
}
static void run_approach(const ck_case *c, const kd__kernels *k) { k->approach_f32(F(0), F(1), c->n, 0.01f); }
static void oracle_approach(const ck_case *c)
{
    for (size_t i = 0; i < c->n; i++) {
        const double e = (double)BEFORE(0)[i], x = (double)BEFORE(1)[i], share = (double)0.01f, want = e + share * (x - e);
        ck_near(c, 0, i, want, U * (share * fabs(x - e) + fabs(want)));
    }
}
CK_KERNEL(approach_f32, .make = make_approach, .run = run_approach, .oracle = oracle_approach, .bench_n = 4 << 20);
