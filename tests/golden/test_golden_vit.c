/* test_golden_vit.c - a small ViT, and a DeiT with a distillation token, against timm: names and order of the parameters,
 * logits (of both heads and their mean), every gradient.
 * SPDX-License-Identifier: MIT
 *
 * Tolerance: a value is behind the patches (48 terms), in each of DEPTH blocks two norms (WIDTH + 8), sums over WIDTH for q, proj
 * and fc1, over 4 WIDTH for fc2, over a head for the scores and over 11 tokens, and behind the last norm and head; backward goes
 * the same way back and sums over 33 tokens.  The norms of gradients are held to 1e-4 besides. */
#include "golden_vit.h"

enum { FORWARD = 48 + DEPTH * (2 * (WIDTH + 8) + 7 * WIDTH + WIDTH / HEADS + 11) + 2 * WIDTH + 8, BACKWARD = 2 * FORWARD + 33 };

enum { PARAMETERS = sizeof vit_grads / sizeof *vit_grads - 1, PLAIN = sizeof plain_grads / sizeof *plain_grads - 1 };
static const struct golden {
    uint32_t distilled, count;                    /* of parameters; behind their gradients is that of the images */
    const double *infer, *first, *second, *norms;
    const probe *grads;
} nets[] = {
    { 1, PARAMETERS, mean_logits, head_logits, dist_logits, vit_norms, vit_grads },
    { 0, PLAIN, plain_logits, plain_logits, NULL, plain_norms, plain_grads },
};

static int norm_weight(const char *name)
{
    return strstr(name, "norm") && strcmp(name + strlen(name) - strlen("weight"), "weight") == 0;
}

static kd_model *golden_model(kd_context *ctx, const struct golden *g)
{
    kd_model *m = NULL;
    kd_vit_desc d;
    kd_vit_desc_init(&d, sizeof d);
    d.image = IMAGE;
    d.patch = PATCH;
    d.width = WIDTH;
    d.depth = DEPTH;
    d.heads = HEADS;
    d.classes = CLASSES;
    d.distilled = g->distilled;
    CHECK_OK(kd_zoo_vit(&m, ctx, &d, 1));
    if (!CHECK(kd_model_parameter_count(m) == g->count)) return m;
    for (uint32_t s = 0; s < g->count; s++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(m, s, &info));
        CHECK_STR(info.name, g->grads[s].name);
        float *w = kd_tensor_f32(info.tensor);
        for (uint32_t i = 0; i < kd_tensor_count(info.tensor); i++) w[i] = (float)(number(s, i) * 0.5 + norm_weight(info.name));
    }
    kd_model_touch(m);
    return m;
}

static void check_logits(kd_tensor *y, const double *want)
{
    double largest = 0;
    const float *got = kd_tensor_f32(y);
    if (!CHECK(got && kd_tensor_count(y) == BATCH * CLASSES && kd_tensor_size(y, 1) == CLASSES)) return;
    for (size_t i = 0; i < BATCH * CLASSES; i++) largest = fmax(largest, fabs(want[i]));
    for (size_t i = 0; i < BATCH * CLASSES; i++) CHECK_NEAR((double)got[i], want[i], FORWARD * U * largest);
}

static void check_gradient(const struct golden *net, uint32_t i, const float *g, size_t n)
{
    double norm = 0;
    check_probe(&net->grads[i], g, n, i == net->count ? 3100 : 3000 + i, BACKWARD);
    for (size_t j = 0; g && j < n; j++) norm += (double)g[j] * (double)g[j];
    CHECK_NEAR(sqrt(norm), net->norms[i], 1e-4 * net->norms[i]);
}

static void check(kd_context *ctx, const struct golden *g)
{
    kd_model *m = golden_model(ctx, g), *copy = NULL;
    kd_tape *tape = NULL;
    float in[BATCH * IMAGE * IMAGE * 3], w[2][BATCH * CLASSES];
    for (uint32_t i = 0; i < sizeof in / sizeof *in; i++) in[i] = (float)(number(1000, i) * 4);
    for (uint32_t k = 0; k < 2; k++)
        for (uint32_t i = 0; i < BATCH * CLASSES; i++) w[k][i] = (float)number(1001 + k, i);
    const size_t shape[] = { BATCH, IMAGE, IMAGE, 3 }, out[] = { BATCH, CLASSES };

    CHECK_OK(kd_model_clone(&copy, m));
    for (uint32_t mode = KD_TAPE_INFER; mode <= KD_TAPE_EVAL; mode++) {
        CHECK_OK(kd_tape_create(&tape, ctx, mode));
        check_logits(kd_model_forward(mode == KD_TAPE_EVAL ? copy : m, tape, kd_tape_constant(tape, 4, shape, in)), g->infer);
        kd_tape_free(tape);
    }
    kd_model_free(copy);

    CHECK_OK(kd_tape_create(&tape, ctx, KD_TAPE_TRAIN));
    kd_tensor *x = kd_requires_grad(tape, kd_tape_constant(tape, 4, shape, in));
    kd_tensor *y = kd_model_forward(m, tape, x);
    check_logits(y, g->first);
    kd_tensor *loss = kd_sum(tape, kd_mul(tape, y, kd_tape_constant(tape, 2, out, w[0])), 0, 0);
    if (g->distilled) {
        kd_tensor *second = kd_model_tapped(m, tape, "head_dist");
        check_logits(second, g->second);
        loss = kd_add(tape, loss, kd_sum(tape, kd_mul(tape, second, kd_tape_constant(tape, 2, out, w[1])), 0, 0));
    }
    CHECK_OK(kd_backward(tape, loss));
    for (uint32_t i = 0; i < g->count; i++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(m, i, &info));
        check_gradient(g, i, info.grad, kd_tensor_count(info.tensor));
    }
    check_gradient(g, g->count, kd_grad(tape, x), BATCH * IMAGE * IMAGE * 3);
    kd_tape_free(tape);
    kd_model_free(m);
}

TEST(transformers_equal_timm)
{
    uint32_t isas[5];
    for (size_t i = 0, count = kdtest_isas(isas); i < count; i++) {
        kd_context *ctx = kdtest_context(1 + (uint32_t)i % 2, isas[i]);
        for (size_t k = 0; k < sizeof nets / sizeof *nets; k++) check(ctx, &nets[k]);
        kd_context_free(ctx);
    }
}
