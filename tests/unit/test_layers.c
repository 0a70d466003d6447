/* test_layers.c - every layer and container against the ops it stands for, to the bit.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "nn/nn.h"

/* A model with one thing in it, its input, and tapes. */
typedef struct rig {
    kd_model  *model;
    kd_layer  *root;
    kd_tape   *tape;
    kd_tensor *x;
    kdtest_rand rand;
} rig;

static rig rig_make(size_t rank, const size_t *shape, uint32_t mode)
{
    rig r = { .rand = { 99 } };
    CHECK_OK(kd_model_create(&r.model, NULL));
    r.root = kd_model_root(r.model);
    CHECK_OK(kd_tape_create(&r.tape, NULL, mode));
    CHECK_OK(kd_tensor_create(&r.x, NULL, KD_F32, rank, shape));
    kdtest_fill(&r.rand, kd_tensor_f32(r.x), kd_tensor_count(r.x), 1.0);
    return r;
}

/* Finish, with parameters and buffers that are no 0 and no 1. */
static void rig_finish(rig *r)
{
    CHECK_OK(kd_model_finish(r->model, 3));
    for (size_t i = 0; i < kd_model_parameter_count(r->model); i++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(r->model, i, &info));
        float *w = kd_tensor_f32(info.tensor);
        for (size_t j = 0; j < kd_tensor_count(info.tensor); j++) w[j] = (float)kdtest_uniform(&r->rand, 0.25, 1.5);
    }
    kd_model_touch(r->model);
}

static kd_tensor *param(rig *r, const char *name)
{
    kd_param_info info = { .struct_size = sizeof info };
    CHECK_OK(kd_model_find(r->model, name, &info));
    return info.tensor;
}

static void rig_free(rig *r)
{
    kd_tape_free(r->tape);
    kd_tensor_free(r->x);
    kd_model_free(r->model);
}

static void check_same(const kd_tensor *got, const kd_tensor *want, const char *what)
{
    if (!CHECK_MSG(kd_tensor_data(got) && kd_tensor_data(want), "%s: %s", what, kd_last_error())) return;
    CHECK_MSG(kd_tensor_rank(got) == kd_tensor_rank(want) && kd_tensor_count(got) == kd_tensor_count(want), "%s: shapes differ", what);
    for (size_t i = 0; i < kd_tensor_rank(got); i++) CHECK(kd_tensor_size(got, i) == kd_tensor_size(want, i));
    CHECK_MSG(memcmp(kd_tensor_data(got), kd_tensor_data(want), kd_tensor_count(got) * sizeof(float)) == 0, "%s: values differ", what);
}

/* The layer was built on rig r; `op` is what it should compute. */
#define CHECK_LAYER(r, op)                                                \
    do {                                                                  \
        kd_tensor *got = kd_model_forward((r).model, (r).tape, (r).x);    \
        check_same(got, (op), #op);                                       \
        CHECK_OK(kd_tape_status((r).tape));                               \
        rig_free(&(r));                                                   \
    } while (0)

static const size_t rows[] = { 6, 10 }, image[] = { 2, 9, 8, 12 }, steps[] = { 2, 11, 12 };

TEST(linear)
{
    rig r = rig_make(2, rows, KD_TAPE_TRAIN);
    kd_layer_linear(r.root, "fc", 10, 7, 1);
    rig_finish(&r);
    CHECK_LAYER(r, kd_linear(r.tape, r.x, param(&r, "fc.weight"), param(&r, "fc.bias")));
    r = rig_make(2, rows, KD_TAPE_INFER);
    kd_layer_linear(r.root, "fc", 10, 7, 0);
    rig_finish(&r);
    CHECK_LAYER(r, kd_linear(r.tape, r.x, param(&r, "fc.weight"), NULL));
}

TEST(convolutions)
{
    kd_conv_desc d;
    kd_conv_desc_init(&d, sizeof d);
    d.stride[0] = d.padding[1] = d.dilation[0] = 2;
    d.groups = 3;
    rig r = rig_make(4, image, KD_TAPE_TRAIN);
    kd_layer_conv2d(r.root, "c", 12, 6, 3, 2, 1, &d);
    rig_finish(&r);
    CHECK_LAYER(r, kd_conv2d(r.tape, r.x, param(&r, "c.weight"), param(&r, "c.bias"), &d));
    r = rig_make(4, image, KD_TAPE_TRAIN);
    kd_layer_conv2d(r.root, "c", 12, 6, 3, 2, 0, NULL);
    rig_finish(&r);
    CHECK_LAYER(r, kd_conv2d(r.tape, r.x, param(&r, "c.weight"), NULL, NULL));
    r = rig_make(3, steps, KD_TAPE_TRAIN);
    kd_layer_conv1d(r.root, "c", 12, 6, 3, 1, &d);
    rig_finish(&r);
    CHECK_LAYER(r, kd_conv1d(r.tape, r.x, param(&r, "c.weight"), param(&r, "c.bias"), &d));
}

TEST(batch_norm_follows_the_tape)
{
    static const uint32_t modes[] = { KD_TAPE_TRAIN, KD_TAPE_EVAL, KD_TAPE_INFER };
    for (size_t i = 0; i < 3; i++) {
        float mean[12], var[12];
        rig r = rig_make(4, image, modes[i]);
        kd_layer_batch_norm(r.root, "bn", 12, 0.3f, 1e-4f);
        rig_finish(&r);
        memcpy(mean, kd_tensor_f32(param(&r, "bn.running_mean")), sizeof mean);
        memcpy(var, kd_tensor_f32(param(&r, "bn.running_var")), sizeof var);
        kd_tensor *m = kd_tape_constant(r.tape, 1, (size_t[]){ 12 }, mean), *v = kd_tape_constant(r.tape, 1, (size_t[]){ 12 }, var);
        kd_tensor *want = kd_batch_norm(r.tape, r.x, param(&r, "bn.weight"), param(&r, "bn.bias"), m, v, 0.3f, 1e-4f);
        check_same(kd_model_forward(r.model, r.tape, r.x), want, "batch norm");
        check_same(param(&r, "bn.running_mean"), m, "running mean");
        check_same(param(&r, "bn.running_var"), v, "running var");
        CHECK((memcmp(mean, kd_tensor_f32(m), sizeof mean) != 0) == (modes[i] == KD_TAPE_TRAIN));
        CHECK_OK(kd_tape_status(r.tape));
        rig_free(&r);
    }
}

TEST(a_frozen_batch_norm_keeps_its_statistics)
{
    rig r = rig_make(4, image, KD_TAPE_TRAIN);
    kd_layer_batch_norm(r.root, "bn", 12, 0.3f, 1e-4f);
    rig_finish(&r);
    kd_model_freeze(r.model, 1);
    float before[12];
    memcpy(before, kd_tensor_f32(param(&r, "bn.running_var")), sizeof before);
    kd_tape *look;
    CHECK_OK(kd_tape_create(&look, NULL, KD_TAPE_INFER));
    kd_requires_grad(r.tape, r.x);
    kd_tensor *y = kd_model_forward(r.model, r.tape, r.x);
    check_same(y, kd_batch_norm(look, r.x, param(&r, "bn.weight"), param(&r, "bn.bias"), param(&r, "bn.running_mean"),
                                param(&r, "bn.running_var"), 0.3f, 1e-4f), "frozen batch norm");
    CHECK(memcmp(before, kd_tensor_f32(param(&r, "bn.running_var")), sizeof before) == 0);
    /* Gradients pass through it, and none stays: d sum(y) / dx = weight / sqrt(var + eps), up to three roundings. */
    CHECK_OK(kd_backward(r.tape, kd_sum(r.tape, y, 0, 0)));
    const float *g = kd_grad(r.tape, r.x), *w = kd_tensor_f32(param(&r, "bn.weight"));
    for (size_t i = 0; g && i < 24; i++) {
        double want = (double)w[i % 12] / __builtin_sqrt((double)before[i % 12] + 1e-4);
        CHECK_NEAR((double)g[i], want, 4 * 0x1p-24 * want);
    }
    CHECK(g != NULL);
    for (size_t i = 0; i < 12; i++) CHECK(kd_model_grad(r.model, "bn.weight")[i] == 0.0f);
    kd_tape_free(look);
    rig_free(&r);
}

TEST(other_norms)
{
    rig r = rig_make(4, image, KD_TAPE_TRAIN);
    kd_layer_layer_norm(r.root, "n", 12, 1e-3f);
    rig_finish(&r);
    CHECK_LAYER(r, kd_layer_norm(r.tape, r.x, param(&r, "n.weight"), param(&r, "n.bias"), 1e-3f));
    r = rig_make(4, image, KD_TAPE_TRAIN);
    kd_layer_group_norm(r.root, "n", 4, 12, 1e-3f);
    rig_finish(&r);
    CHECK_LAYER(r, kd_group_norm(r.tape, r.x, param(&r, "n.weight"), param(&r, "n.bias"), 4, 1e-3f));
}

static kd_tensor *leaky(kd_tape *tape, kd_tensor *x) { return kd_leaky_relu(tape, x, 0.01f); }

TEST(activations)
{
    static kd_tensor *(*const ops[])(kd_tape *, kd_tensor *) = { NULL,    kd_relu,    leaky,   kd_gelu,    kd_gelu_tanh,
                                                                 kd_silu, kd_sigmoid, kd_tanh, kd_softplus };
    for (uint32_t a = KD_ACT_NONE; a <= KD_ACT_SOFTPLUS; a++) {
        rig r = rig_make(2, rows, KD_TAPE_TRAIN);
        kd_layer_activation(r.root, NULL, a);
        rig_finish(&r);
        CHECK_LAYER(r, ops[a] ? ops[a](r.tape, r.x) : r.x);
    }
}

TEST(pools_and_shapes)
{
    const uint32_t w[2] = { 3, 3 }, s[2] = { 2, 2 }, p[2] = { 1, 1 };
    rig r = rig_make(4, image, KD_TAPE_TRAIN);
    kd_layer_max_pool2d(r.root, NULL, 3, 2, 1);
    rig_finish(&r);
    CHECK_LAYER(r, kd_max_pool2d(r.tape, r.x, w, s, p));
    r = rig_make(4, image, KD_TAPE_TRAIN);
    kd_layer_avg_pool2d(r.root, NULL, 3, 2, 1);
    rig_finish(&r);
    CHECK_LAYER(r, kd_avg_pool2d(r.tape, r.x, w, s, p));
    r = rig_make(4, image, KD_TAPE_TRAIN);
    kd_layer_global_avg_pool(r.root, NULL);
    rig_finish(&r);
    CHECK_LAYER(r, kd_global_avg_pool(r.tape, r.x));
    r = rig_make(4, image, KD_TAPE_TRAIN);
    kd_layer_flatten(r.root, NULL);
    rig_finish(&r);
    CHECK_LAYER(r, kd_flatten(r.tape, r.x));
}

TEST(dropout_follows_the_tape)
{
    rig r = rig_make(2, rows, KD_TAPE_TRAIN);
    kd_layer_dropout(r.root, NULL, 0.5f);
    rig_finish(&r);
    kd_tape *again;
    CHECK_OK(kd_tape_create(&again, NULL, KD_TAPE_TRAIN));
    CHECK_LAYER(r, kd_dropout(again, r.x, 0.5f));   /* a new tape draws the same first mask */
    kd_tape_free(again);
    r = rig_make(2, rows, KD_TAPE_INFER);
    kd_layer_dropout(r.root, NULL, 0.5f);
    rig_finish(&r);
    CHECK_LAYER(r, r.x);
}

TEST(embedding)
{
    rig r = rig_make(2, rows, KD_TAPE_TRAIN);
    kd_layer_embedding(r.root, "e", 20, 5);
    rig_finish(&r);
    kd_tensor_free(r.x);
    CHECK_OK(kd_tensor_create(&r.x, NULL, KD_I32, 2, rows));
    for (size_t i = 0; i < kd_tensor_count(r.x); i++) ((int32_t *)kd_tensor_data(r.x))[i] = (int32_t)(i * 7 % 20);
    CHECK_LAYER(r, kd_embedding(r.tape, param(&r, "e.weight"), r.x));
}

/* ---- containers -------------------------------------------------------------------------------------------------- */

TEST(sequence)
{
    rig r = rig_make(2, rows, KD_TAPE_INFER);
    kd_layer *seq = kd_layer_sequence(r.root, "s");
    kd_layer_linear(seq, NULL, 10, 4, 1);
    kd_layer_activation(seq, NULL, KD_ACT_TANH);
    kd_layer_linear(seq, NULL, 4, 3, 0);
    rig_finish(&r);
    CHECK_LAYER(r, kd_linear(r.tape, kd_tanh(r.tape, kd_linear(r.tape, r.x, param(&r, "s.0.weight"), param(&r, "s.0.bias"))),
                             param(&r, "s.2.weight"), NULL));
}

TEST(residual)
{
    static const uint32_t modes[] = { KD_TAPE_TRAIN, KD_TAPE_INFER };
    for (size_t i = 0; i < 2; i++) {
        rig r = rig_make(2, rows, modes[i]);
        kd_layer *res = kd_layer_residual(r.root, "r", KD_ACT_SILU);
        kd_layer_linear(res, NULL, 10, 10, 1);
        kd_layer_activation(res, NULL, KD_ACT_RELU);
        rig_finish(&r);
        CHECK_LAYER(r, kd_silu(r.tape, kd_add(r.tape, kd_relu(r.tape, kd_linear(r.tape, r.x, param(&r, "r.0.weight"),
                                                                              param(&r, "r.0.bias"))), r.x)));
        r = rig_make(2, rows, modes[i]);
        res = kd_layer_residual(r.root, "r", KD_ACT_NONE);
        kd_layer *down = kd_layer_shortcut(res, "down");
        kd_layer_linear(down, NULL, 10, 4, 0);
        kd_layer_linear(res, NULL, 10, 4, 1);
        rig_finish(&r);
        CHECK_LAYER(r, kd_add(r.tape, kd_linear(r.tape, r.x, param(&r, "r.0.weight"), param(&r, "r.0.bias")),
                              kd_linear(r.tape, r.x, param(&r, "r.down.0.weight"), NULL)));
        r = rig_make(2, rows, modes[i]);
        kd_layer_residual(r.root, "empty", KD_ACT_NONE);
        rig_finish(&r);
        CHECK_LAYER(r, kd_add(r.tape, r.x, r.x));
    }
}

TEST(parallel)
{
    static const uint32_t modes[] = { KD_TAPE_TRAIN, KD_TAPE_INFER };
    for (size_t i = 0; i < 2; i++)
        for (uint32_t join = KD_JOIN_SUM; join <= KD_JOIN_CONCAT; join++) {
            rig r = rig_make(2, rows, modes[i]);
            kd_layer *par = kd_layer_parallel(r.root, "p", join);
            kd_layer_linear(par, "a", 10, 10, 0);
            kd_layer_sequence(par, "identity");
            kd_layer_linear(par, "b", 10, 10, 0);
            rig_finish(&r);
            kd_tensor *parts[] = { kd_linear(r.tape, r.x, param(&r, "p.a.weight"), NULL), r.x,
                                   kd_linear(r.tape, r.x, param(&r, "p.b.weight"), NULL) };
            CHECK_LAYER(r, join == KD_JOIN_SUM ? kd_add(r.tape, kd_add(r.tape, parts[0], parts[1]), parts[2])
                                               : kd_concat(r.tape, parts, 3, 1));
            r = rig_make(2, rows, modes[i]);
            par = kd_layer_parallel(r.root, "p", join);
            kd_layer_flatten(par, NULL);
            rig_finish(&r);
            CHECK_LAYER(r, r.x);
        }
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

/* Gated: proj(x) * sigmoid(x gate + shift), with a child, two parameters and user data. */
static kd_tensor *gate(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    ++*(int *)user;
    kd_tensor *open = kd_sigmoid(tape, kd_add(tape, kd_mul(tape, x, kd_layer_parameter(self, "gate")), kd_layer_parameter(self, "shift")));
    return kd_mul(tape, kd_layer_forward(kd_layer_child(self, "proj"), tape, x), open);
}

TEST(block)
{
    static const uint32_t modes[] = { KD_TAPE_TRAIN, KD_TAPE_INFER };
    for (size_t i = 0; i < 2; i++) {
        int calls = 0;
        const kd_block_desc desc = { sizeof desc, "gate", gate, NULL, &calls };
        rig r = rig_make(2, rows, modes[i]);
        kd_layer *b = kd_layer_block(r.root, "g", &desc);
        kd_layer_add_parameter(b, "gate", 1, (size_t[]){ 10 }, KD_INIT_NORMAL, 0, 1);
        kd_layer_add_parameter(b, "shift", 1, (size_t[]){ 10 }, KD_INIT_ZEROS, 0, 0);
        kd_layer_linear(b, "proj", 10, 10, 1);
        rig_finish(&r);
        kd_tensor *y = kd_model_forward(r.model, r.tape, r.x);
        CHECK(calls == 1);
        kd_tensor *open = kd_sigmoid(r.tape, kd_add(r.tape, kd_mul(r.tape, r.x, param(&r, "g.gate")), param(&r, "g.shift")));
        check_same(y, kd_mul(r.tape, kd_linear(r.tape, r.x, param(&r, "g.proj.weight"), param(&r, "g.proj.bias")), open), "gate");
        if (modes[i] == KD_TAPE_TRAIN) {
            CHECK_OK(kd_backward(r.tape, kd_sum(r.tape, y, 0, 0)));
            const float *g = kd_model_grad(r.model, "g.gate");
            CHECK(g[0] != 0.0f && kd_model_grad(r.model, "g.proj.bias")[9] != 0.0f);
        }
        CHECK_OK(kd_tape_status(r.tape));
        rig_free(&r);
    }
}

static kd_tensor *returns_null(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)self;
    (void)tape;
    (void)x;
    (void)user;
    return NULL;
}

static kd_tensor *inner;
static kd_tensor *returns_given_back(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)self;
    (void)user;
    if (inner) return inner;
    inner = kd_relu(tape, x);
    return kd_neg(tape, inner);
}

TEST(blocks_that_break_the_rules)
{
    kd_block_desc desc = { sizeof desc, "thing", returns_null, NULL, NULL };
    rig r = rig_make(2, rows, KD_TAPE_INFER);
    kd_layer_block(kd_layer_sequence(r.root, "seq"), "b", &desc);
    rig_finish(&r);
    CHECK(kd_tensor_data(kd_model_forward(r.model, r.tape, r.x)) == NULL);
    CHECK_STATUS(kd_tape_status(r.tape), KD_ERR_ARG);
    CHECK_ERROR_HAS("seq.b: thing: the result is NULL");
    rig_free(&r);

    desc.forward = returns_given_back;
    r = rig_make(2, rows, KD_TAPE_INFER);
    kd_layer_block(r.root, "b", &desc);
    rig_finish(&r);
    inner = NULL;
    kd_model_forward(r.model, r.tape, r.x);
    CHECK_OK(kd_tape_status(r.tape));
    kd_model_forward(r.model, r.tape, r.x);   /* now returns what the first call's layer gave back */
    CHECK_STATUS(kd_tape_status(r.tape), KD_ERR_STATE);
    CHECK_ERROR_HAS("b: thing: the result was made inside kd_model_forward");
    rig_free(&r);
}

TEST(input_normalisation)
{
    static const uint32_t modes[] = { KD_TAPE_TRAIN, KD_TAPE_INFER };
    const float mean[] = { 0.5f, -1.25f, 0.1f, 0, 1, 2, 3, 4, 5, 6 }, std[] = { 0.25f, 3.0f, 0.7f, 1, 2, 3, 4, 5, 6, 7 };
    for (size_t i = 0; i < 2; i++) {
        rig r = rig_make(2, rows, modes[i]);
        kd_layer_linear(r.root, "fc", 10, 4, 0);
        rig_finish(&r);
        CHECK_OK(kd_model_set_input_norm(r.model, 10, mean, std));
        float seen[60];
        const float *x = kd_tensor_f32(r.x);
        for (size_t j = 0; j < 60; j++) seen[j] = (x[j] - mean[j % 10]) / std[j % 10];
        CHECK_LAYER(r, kd_linear(r.tape, kd_tape_constant(r.tape, 2, rows, seen), param(&r, "fc.weight"), NULL));
    }
    rig r = rig_make(2, rows, KD_TAPE_INFER);
    rig_finish(&r);
    CHECK_OK(kd_model_set_input_norm(r.model, 3, mean, std));
    kd_model_forward(r.model, r.tape, r.x);
    CHECK_STATUS(kd_tape_status(r.tape), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("kd_model_forward: x [6, 10]: the input normalisation has 3 channels");
    rig_free(&r);
}
