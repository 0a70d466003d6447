/* test_model.c - kd_model: names, sticky errors, parameters and blocks, freezing, copying, cloning.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "nn/nn.h"
#include <math.h>

/* conv1 - bn1 - body(residual with shortcut) - fc: a bit of everything that has parameters. */
static kd_model *small(kd_context *ctx, uint64_t seed)
{
    kd_model *m = NULL;
    CHECK_OK(kd_model_create(&m, ctx));
    kd_layer *root = kd_model_root(m);
    kd_layer *body = NULL;
    kd_layer_conv2d(root, "conv1", 3, 5, 3, 3, 0, NULL);
    kd_layer_batch_norm(root, "bn1", 5, 0.1f, 1e-5f);
    body = kd_layer_residual(root, "body", KD_ACT_RELU);
    kd_layer_linear(root, "fc", 7, 2, 1);
    /* added after fc, yet in front of it in the tree */
    kd_layer_linear(body, NULL, 5, 7, 1);
    kd_layer *down = kd_layer_shortcut(body, "downsample");
    kd_layer_linear(down, NULL, 5, 7, 0);
    CHECK_OK(kd_model_finish(m, seed));
    return m;
}

TEST(parameters_come_in_tree_order_then_buffers)
{
    static const struct { const char *name; uint32_t kind; size_t count; } want[] = {
        { "conv1.weight", KD_PARAM_CONV, 135 },        { "bn1.weight", KD_PARAM_PLAIN, 5 },
        { "bn1.bias", KD_PARAM_PLAIN, 5 },             { "body.0.weight", KD_PARAM_LINEAR, 35 },
        { "body.0.bias", KD_PARAM_PLAIN, 7 },          { "body.downsample.0.weight", KD_PARAM_LINEAR, 35 },
        { "fc.weight", KD_PARAM_LINEAR, 14 },          { "fc.bias", KD_PARAM_PLAIN, 2 },
        { "bn1.running_mean", KD_PARAM_BUFFER, 5 },    { "bn1.running_var", KD_PARAM_BUFFER, 5 },
    };
    kd_model *m = small(NULL, 1);
    size_t n = sizeof want / sizeof *want, trained = 0;
    CHECK(kd_model_parameter_count(m) == n);
    size_t at = 0, buffer_at = 0, block_count, grad_count, buffer_count;
    float *weights = kd_model_weights(m, &block_count), *grads = kd_model_grads(m, &grad_count);
    float *buffers = kd_model_buffers(m, &buffer_count);
    CHECK(weights && grads && buffers && (uintptr_t)weights % 64 == 0 && (uintptr_t)grads % 64 == 0);
    for (size_t i = 0; i < n; i++) {
        kd_param_info info = { .struct_size = sizeof info }, found = { .struct_size = sizeof found };
        CHECK_OK(kd_model_parameter_at(m, i, &info));
        CHECK_STR(info.name, want[i].name);
        CHECK(info.kind == want[i].kind);
        CHECK(kd_tensor_count(info.tensor) == want[i].count);
        size_t *offset = info.kind & KD_PARAM_BUFFER ? &buffer_at : &at;
        CHECK_MSG(info.offset == *offset && info.offset % 16 == 0, "%s at %zu, want %zu", info.name, info.offset, *offset);
        *offset += (want[i].count + 15) / 16 * 16;
        if (info.kind & KD_PARAM_BUFFER) {
            CHECK(!info.grad && kd_tensor_f32(info.tensor) == buffers + info.offset);
        } else {
            CHECK(kd_tensor_f32(info.tensor) == weights + info.offset && info.grad == grads + info.offset);
            CHECK(kd_model_grad(m, info.name) == info.grad);
            trained += want[i].count;
        }
        CHECK_OK(kd_model_find(m, want[i].name, &found));
        CHECK(found.tensor == info.tensor && found.offset == info.offset);
    }
    CHECK(block_count == at && grad_count == at && buffer_count == buffer_at);
    CHECK(kd_model_size(m) == trained);
    /* Gaps are zero. */
    for (size_t i = 0; i < n; i++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(m, i, &info));
        for (size_t j = want[i].count; j % 16; j++) CHECK(kd_tensor_f32(info.tensor)[j] == 0.0f);
    }
    kd_param_info info = { .struct_size = sizeof info };
    CHECK_STATUS(kd_model_parameter_at(m, n, &info), KD_ERR_ARG);
    CHECK_STATUS(kd_model_find(m, "bn1.wieght", &info), KD_ERR_ARG);
    CHECK_ERROR_HAS("the nearest is \"bn1.weight\"");
    info.struct_size = 0;
    CHECK_STATUS(kd_model_parameter_at(m, 0, &info), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_model_parameter_at: out->struct_size is 0");
    CHECK(!kd_model_grad(m, "bn1.running_mean"));
    CHECK(!kd_model_grad(m, "nope"));
    kd_model_free(m);
}

TEST(layers_are_found_by_path)
{
    kd_model *m = small(NULL, 1);
    kd_layer *root = kd_model_root(m), *down = kd_layer_child(root, "body.downsample.0");
    CHECK(down != NULL);
    CHECK_STR(kd_layer_path(down), "body.downsample.0");
    CHECK_STR(kd_layer_path(root), "");
    CHECK_STR(kd_layer_path(NULL), "");
    kd_layer *body = kd_layer_child(root, "body");
    CHECK(body && kd_layer_child(body, "downsample.0") == down);
    static const char *const bad[] = { "", ".", "body.", ".body", "body..0", "bod", "body.0.weight", "body.00", "body.1" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_MSG(!kd_layer_child(root, bad[i]), "\"%s\" was found", bad[i]);
    CHECK(!kd_layer_child(NULL, "body") && !kd_layer_child(root, NULL));
    CHECK(kd_tensor_count(kd_layer_parameter(down, "weight")) == 35);
    CHECK(!kd_layer_parameter(down, "bias"));
    CHECK_ERROR_HAS("\"body.downsample.0\" has no parameter \"bias\"");
    CHECK(!kd_layer_parameter(NULL, "weight") && !kd_layer_parameter(down, NULL));
    kd_model_free(m);
}

/* One builder call that must fail, in a model of its own. */
#define BUILD_FAILS(call, status, text)                                 \
    do {                                                                \
        kd_model *m = NULL;                                             \
        CHECK_OK(kd_model_create(&m, NULL));                            \
        kd_layer *root = kd_model_root(m);                              \
        kd_layer *made = (call);                                        \
        CHECK(made != NULL);                                            \
        /* all later calls do nothing and the first error stays */      \
        CHECK(kd_layer_linear(made, "later", 0, 0, 1) != NULL);         \
        CHECK(kd_layer_linear(root, "later", 0, 0, 1) != NULL);         \
        CHECK_STATUS(kd_model_finish(m, 1), status);                    \
        CHECK_ERROR_HAS(text);                                          \
        CHECK_STATUS(kd_model_finish(m, 1), status);                    \
        kd_model_free(m);                                               \
    } while (0)

TEST(builders_are_sticky)
{
    kd_conv_desc conv;
    BUILD_FAILS(kd_layer_linear(root, "fc", 0, 4, 1), KD_ERR_ARG, "fc: kd_layer_linear: in 0, out 4");
    BUILD_FAILS(kd_layer_linear(root, "a.b", 1, 1, 1), KD_ERR_ARG, "name \"a.b\"");
    BUILD_FAILS(kd_layer_linear(root, "", 1, 1, 1), KD_ERR_ARG, "name \"\"");
    BUILD_FAILS(kd_layer_linear(root, "a:b", 1, 1, 1), KD_ERR_ARG, "name \"a:b\"");
    BUILD_FAILS(kd_layer_linear(root, "a*", 1, 1, 1), KD_ERR_ARG, "name \"a*\"");
    BUILD_FAILS((kd_layer_flatten(root, "x"), kd_layer_flatten(root, "x")), KD_ERR_ARG, "name \"x\" is taken");
    BUILD_FAILS((kd_layer_flatten(root, "1"), kd_layer_flatten(root, NULL)), KD_ERR_ARG, "name \"1\" is taken");
    BUILD_FAILS(kd_layer_linear(kd_layer_flatten(root, "flat"), "fc", 1, 1, 1), KD_ERR_ARG,
                "flat: kd_layer_linear: parent: a flatten layer takes no children");
    BUILD_FAILS(kd_layer_linear(root, "fc", SIZE_MAX / 2, SIZE_MAX / 2, 1), KD_ERR_OVERFLOW, "fc: weight");
    BUILD_FAILS(kd_layer_conv2d(root, "c", 0, 4, 3, 3, 1, NULL), KD_ERR_ARG, "c: kd_layer_conv2d: in 0, out 4");
    BUILD_FAILS(kd_layer_conv2d(root, "c", 2, 4, 3, 0, 1, NULL), KD_ERR_ARG, "axis 1: kernel 0");
    kd_conv_desc_init(&conv, sizeof conv);
    conv.groups = 3;
    BUILD_FAILS(kd_layer_conv2d(root, "c", 4, 6, 3, 3, 1, &conv), KD_ERR_ARG, "groups 3 must divide in 4 and out 6");
    conv.groups = 1;
    conv.stride[1] = 0;
    BUILD_FAILS(kd_layer_conv2d(root, "c", 4, 6, 3, 3, 1, &conv), KD_ERR_ARG, "stride 0");
    conv.struct_size = 0;
    BUILD_FAILS(kd_layer_conv2d(root, "c", 4, 6, 3, 3, 1, &conv), KD_ERR_ARG, "kd_conv_desc: struct_size is 0");
    BUILD_FAILS(kd_layer_conv1d(root, "c", 4, 6, 0, 1, NULL), KD_ERR_ARG, "c: kd_layer_conv1d: axis 0: kernel 0");
    BUILD_FAILS(kd_layer_conv2d(root, "c", 4, 6, SIZE_MAX / 2, 3, 1, NULL), KD_ERR_OVERFLOW, "kernel too large");
    BUILD_FAILS(kd_layer_batch_norm(root, "bn", 4, 1.5f, 1e-5f), KD_ERR_ARG, "bn: kd_layer_batch_norm: momentum 1.5");
    BUILD_FAILS(kd_layer_batch_norm(root, "bn", 4, NAN, 1e-5f), KD_ERR_ARG, "momentum");
    BUILD_FAILS(kd_layer_batch_norm(root, "bn", 0, 0.1f, 1e-5f), KD_ERR_ARG, "0 channels");
    BUILD_FAILS(kd_layer_layer_norm(root, "ln", 4, 0.0f), KD_ERR_ARG, "eps 0");
    BUILD_FAILS(kd_layer_group_norm(root, "gn", 3, 4, 1e-5f), KD_ERR_ARG, "groups 3 must divide channels 4");
    BUILD_FAILS(kd_layer_group_norm(root, "gn", 0, 4, 1e-5f), KD_ERR_ARG, "groups 0");
    BUILD_FAILS(kd_layer_activation(root, "act", 99), KD_ERR_ARG, "activation 99 is no KD_ACT_*");
    BUILD_FAILS(kd_layer_max_pool2d(root, "pool", 2, 2, 2), KD_ERR_ARG, "window 2, stride 2, padding 2");
    BUILD_FAILS(kd_layer_avg_pool2d(root, "pool", 2, 0, 0), KD_ERR_ARG, "stride 0");
    BUILD_FAILS(kd_layer_dropout(root, "drop", 1.0f), KD_ERR_ARG, "p 1");
    BUILD_FAILS(kd_layer_embedding(root, "emb", 0, 3), KD_ERR_ARG, "count 0");
    BUILD_FAILS(kd_layer_residual(root, "res", 99), KD_ERR_ARG, "activation 99");
    BUILD_FAILS(kd_layer_shortcut(kd_layer_sequence(root, "seq"), "s"), KD_ERR_ARG, "seq: kd_layer_shortcut: a sequence layer");
    BUILD_FAILS(kd_layer_parallel(root, "par", 0), KD_ERR_ARG, "join 0");
    BUILD_FAILS(kd_layer_block(root, "blk", NULL), KD_ERR_ARG, "desc is NULL");
}

TEST(a_parallel_needs_children)
{
    kd_model *m = NULL;
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer *par = kd_layer_parallel(kd_model_root(m), "par", KD_JOIN_SUM);
    CHECK_STATUS(kd_model_finish(m, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("par: kd_layer_parallel: it has no children");
    kd_layer_flatten(par, NULL);
    CHECK_OK(kd_model_finish(m, 1));   /* nothing was lost */
    kd_model_free(m);
}

TEST(one_shortcut_takes_no_position)
{
    kd_model *m = NULL;
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer *res = kd_layer_residual(kd_model_root(m), "res", KD_ACT_NONE);
    CHECK_STR(kd_layer_path(kd_layer_shortcut(res, NULL)), "res.shortcut");
    CHECK_STR(kd_layer_path(kd_layer_flatten(res, NULL)), "res.0");
    kd_layer_shortcut(res, "again");
    CHECK_STATUS(kd_model_finish(m, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("res: kd_layer_shortcut: there is one already: \"shortcut\"");
    kd_model_free(m);
}

TEST(limits_of_the_tree)
{
    kd_model *m = NULL;
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer *at = kd_model_root(m);
    for (int i = 0; i < 32; i++) at = kd_layer_sequence(at, NULL);
    CHECK(strlen(kd_layer_path(at)) == 63);
    kd_layer_sequence(at, NULL);
    CHECK_STATUS(kd_model_finish(m, 1), KD_ERR_LIMIT);
    CHECK_ERROR_HAS("deeper than 32 levels");
    kd_model_free(m);

    CHECK_OK(kd_model_create(&m, NULL));
    at = kd_layer_parallel(kd_model_root(m), "par", KD_JOIN_SUM);
    for (int i = 0; i < 17; i++) kd_layer_flatten(at, NULL);
    CHECK_STATUS(kd_model_finish(m, 1), KD_ERR_LIMIT);
    CHECK_ERROR_HAS("par: kd_layer_flatten: parent: a parallel takes at most 16 children");
    kd_model_free(m);

    char name[102];
    memset(name, 'a', sizeof name);
    name[101] = 0;
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer_flatten(kd_model_root(m), name + 1);
    CHECK_OK(kd_model_finish(m, 1));
    kd_model_free(m);
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer_flatten(kd_model_root(m), name);
    CHECK_STATUS(kd_model_finish(m, 1), KD_ERR_ARG);
    kd_model_free(m);
}

TEST(null_and_finished)
{
    CHECK_STATUS(kd_model_create(NULL, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_model_finish(NULL, 1), KD_ERR_ARG);
    kd_layer *orphan = kd_model_root(NULL);
    CHECK(orphan != NULL);
    CHECK(kd_layer_linear(orphan, "fc", 1, 1, 1) == orphan);
    CHECK(kd_layer_linear(NULL, "fc", 1, 1, 1) == orphan);
    CHECK_ERROR_HAS("kd_layer_linear: parent is NULL");
    CHECK(kd_layer_shortcut(NULL, "s") == orphan && kd_layer_shortcut(orphan, "s") == orphan);
    kd_layer_add_parameter(NULL, "w", 1, (size_t[]){ 1 }, KD_INIT_ZEROS, 0, 0);
    CHECK_ERROR_HAS("kd_layer_add_parameter: layer is NULL");
    kd_layer_add_parameter(orphan, "w", 1, (size_t[]){ 1 }, KD_INIT_ZEROS, 0, 0);
    kd_model_free(NULL);
    kd_model_freeze(NULL, 1);
    kd_model_touch(NULL);
    kd_model_zero_grads(NULL);
    size_t count = 1;
    CHECK(!kd_model_weights(NULL, &count) && count == 0);
    CHECK(!kd_model_grads(NULL, NULL) && !kd_model_buffers(NULL, NULL));
    CHECK(kd_model_size(NULL) == 0 && kd_model_parameter_count(NULL) == 0 && kd_model_frozen(NULL) == 0);
    CHECK(!kd_model_grad(NULL, "x"));
    CHECK_STATUS(kd_model_tap(NULL, "x"), KD_ERR_ARG);
    CHECK_STATUS(kd_model_copy(NULL, NULL), KD_ERR_ARG);

    kd_model *m = NULL, *copy = (kd_model *)&count;
    kd_param_info info = { .struct_size = sizeof info };
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer *fc = kd_layer_linear(kd_model_root(m), "fc", 2, 2, 1);
    CHECK_STATUS(kd_model_parameter_at(m, 0, &info), KD_ERR_STATE);
    CHECK_STATUS(kd_model_find(m, "fc.weight", &info), KD_ERR_STATE);
    CHECK_STATUS(kd_model_clone(&copy, m), KD_ERR_STATE);
    CHECK(copy == NULL);
    CHECK(!kd_layer_parameter(fc, "weight"));
    CHECK_OK(kd_model_finish(m, 1));
    CHECK_STATUS(kd_model_finish(m, 1), KD_ERR_STATE);
    /* Building on a finished model fails alone. */
    kd_layer *late = kd_layer_linear(kd_model_root(m), "late", 2, 2, 1);
    CHECK(late != NULL);
    CHECK_ERROR_HAS("kd_layer_linear: the model is finished");
    kd_layer_linear(late, "later", 2, 2, 1);
    CHECK_OK(kd_model_find(m, "fc.weight", &info));
    CHECK(kd_model_parameter_count(m) == 2);
    CHECK_STATUS(kd_model_find(m, NULL, &info), KD_ERR_ARG);
    CHECK_STATUS(kd_model_find(m, "fc.weight", NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_model_clone(NULL, m), KD_ERR_ARG);
    CHECK_STATUS(kd_model_clone(&copy, NULL), KD_ERR_ARG);
    kd_model_free(m);
}

TEST(an_empty_model)
{
    kd_model *m = NULL, *copy = NULL;
    CHECK_OK(kd_model_create(&m, NULL));
    CHECK_OK(kd_model_finish(m, 1));
    size_t count = 1;
    kd_model_weights(m, &count);
    CHECK(count == 0 && kd_model_parameter_count(m) == 0);
    kd_param_info info = { .struct_size = sizeof info };
    CHECK_STATUS(kd_model_find(m, "x", &info), KD_ERR_ARG);
    CHECK_ERROR_HAS("the model has no parameters");
    CHECK_STATUS(kd_model_tap(m, "x"), KD_ERR_ARG);
    CHECK_ERROR_HAS("the model has none");
    CHECK_OK(kd_model_clone(&copy, m));
    CHECK_OK(kd_model_copy(copy, m));
    kd_model_free(copy);
    kd_model_free(m);
}

TEST(freezing)
{
    kd_model *m = small(NULL, 1);
    CHECK(kd_model_frozen(m) == 0 && kd_layer_parameter(kd_layer_child(kd_model_root(m), "fc"), "weight")->requires_grad);
    kd_model_freeze(m, 7);
    CHECK(kd_model_frozen(m) == 1 && !kd_layer_parameter(kd_layer_child(kd_model_root(m), "fc"), "weight")->requires_grad);
    kd_model_freeze(m, 0);
    CHECK(kd_model_frozen(m) == 0 && kd_layer_parameter(kd_layer_child(kd_model_root(m), "fc"), "weight")->requires_grad);
    CHECK(!kd_layer_parameter(kd_layer_child(kd_model_root(m), "bn1"), "running_mean")->requires_grad);
    kd_model_free(m);
}

static uint64_t state_hash(kd_model *m)
{
    size_t w, b;
    float *weights = kd_model_weights(m, &w), *buffers = kd_model_buffers(m, &b);
    return kdtest_hash(weights, w * sizeof *weights) * 31 + kdtest_hash(buffers, b * sizeof *buffers);
}

TEST(copying)
{
    kd_model *a = small(NULL, 1), *b = small(NULL, 2), *other = NULL;
    kd_param_info info = { .struct_size = sizeof info };
    CHECK_OK(kd_model_find(a, "bn1.running_var", &info));
    kd_tensor_f32(info.tensor)[2] = 5.0f;
    uint64_t version = b->version;
    CHECK(state_hash(a) != state_hash(b));
    CHECK_OK(kd_model_copy(b, a));
    CHECK(state_hash(a) == state_hash(b) && b->version > version);
    CHECK_OK(kd_model_copy(a, a));

    /* The same names and one other shape, last in order: nothing moves. */
    CHECK_OK(kd_model_create(&other, NULL));
    kd_layer *root = kd_model_root(other);
    kd_layer_conv2d(root, "conv1", 3, 5, 3, 3, 0, NULL);
    kd_layer_batch_norm(root, "bn1", 5, 0.1f, 1e-5f);
    kd_layer *body = kd_layer_residual(root, "body", KD_ACT_RELU);
    kd_layer_linear(body, NULL, 5, 7, 1);
    kd_layer_linear(kd_layer_shortcut(body, "downsample"), NULL, 5, 7, 0);
    kd_layer_linear(root, "fc", 7, 3, 1);
    CHECK_OK(kd_model_finish(other, 3));
    uint64_t before = state_hash(other);
    CHECK_STATUS(kd_model_copy(other, a), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("\"fc.weight\": dst [7, 3], src [7, 2]");
    CHECK(state_hash(other) == before);
    kd_model_free(other);

    /* The same names in another order are found by name; a missing one is named. */
    kd_model *p = NULL, *q = NULL;
    CHECK_OK(kd_model_create(&p, NULL));
    CHECK_OK(kd_model_create(&q, NULL));
    kd_layer_linear(kd_model_root(p), "a", 2, 3, 0);
    kd_layer_linear(kd_model_root(p), "b", 2, 3, 0);
    kd_layer_linear(kd_model_root(q), "b", 2, 3, 0);
    kd_layer_linear(kd_model_root(q), "a", 2, 3, 0);
    CHECK_OK(kd_model_finish(p, 1));
    CHECK_OK(kd_model_finish(q, 2));
    CHECK_OK(kd_model_copy(p, q));
    CHECK(memcmp(kd_model_weights(p, NULL), kd_model_weights(q, NULL) + 16, 6 * sizeof(float)) == 0);
    kd_model_free(q);
    CHECK_OK(kd_model_create(&q, NULL));
    kd_layer_linear(kd_model_root(q), "a", 2, 3, 0);
    kd_layer_linear(kd_model_root(q), "c", 2, 3, 0);
    CHECK_OK(kd_model_finish(q, 2));
    CHECK_STATUS(kd_model_copy(p, q), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("src has no \"b.weight\"");
    CHECK_STATUS(kd_model_copy(p, a), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("dst has 2 parameters and buffers, src has 10");
    kd_model_free(p);
    kd_model_free(q);
    kd_model_free(a);
    kd_model_free(b);
}

TEST(versions_grow)
{
    kd_model *m = small(NULL, 1);
    uint64_t v = m->version;
    kd_model_touch(m);
    CHECK(m->version == ++v);
    CHECK_OK(kd_model_initialize(m, "fc.*", KD_INIT_ZEROS, 0, 0, 1));
    CHECK(m->version == ++v);
    CHECK_STATUS(kd_model_initialize(m, "nothing*", KD_INIT_ZEROS, 0, 0, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("pattern \"nothing*\" matches no parameter");
    CHECK_STATUS(kd_model_initialize(m, "*running*", KD_INIT_ZEROS, 0, 0, 1), KD_ERR_ARG);   /* buffers are not initialised */
    CHECK_STATUS(kd_model_initialize(m, NULL, KD_INIT_ZEROS, 0, 0, 1), KD_ERR_ARG);
    CHECK_STATUS(kd_model_initialize(m, "*", 77, 0, 0, 1), KD_ERR_ARG);
    CHECK(m->version == v);
    kd_model_free(m);
}

TEST(gradients_are_zeroed)
{
    kd_model *m = small(NULL, 1);
    size_t n;
    float *g = kd_model_grads(m, &n);
    for (size_t i = 0; i < n; i++) {
        CHECK(g[i] == 0.0f);
        g[i] = 1.0f;
    }
    kd_model_zero_grads(m);
    for (size_t i = 0; i < n; i++) CHECK(g[i] == 0.0f);
    kd_model_free(m);
}

/* The documented sum, done again; and every number counts, buffers too. */
TEST(a_hash_of_the_present_bits)
{
    kd_model *m = small(NULL, 1), *same = small(NULL, 1), *other = small(NULL, 2), *unfinished;
    uint64_t want = 0xcbf29ce484222325u;
    for (size_t i = 0; i < kd_model_parameter_count(m); i++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(m, i, &info));
        for (size_t k = 0; k < kd_tensor_count(info.tensor); k++) {
            union { float f; uint32_t u; } bits = { .f = kd_tensor_f32(info.tensor)[k] };
            want = (want ^ bits.u) * 0x100000001b3u;
        }
    }
    CHECK(kd_model_hash(m) == want && kd_model_hash(same) == want && kd_model_hash(other) != want);
    for (size_t i = 0; i < kd_model_parameter_count(m); i++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(m, i, &info));
        float *x = kd_tensor_data(info.tensor);
        for (size_t k = 0; k < kd_tensor_count(info.tensor); k++) {
            float old = x[k];
            x[k] = nextafterf(old, 9.0f);
            CHECK_MSG(kd_model_hash(m) != want, "%s: number %zu does not count", info.name, k);
            x[k] = old;
        }
    }
    CHECK(kd_model_hash(m) == want && kd_model_hash(NULL) == 0);
    CHECK_OK(kd_model_create(&unfinished, NULL));
    CHECK(kd_model_hash(unfinished) == 0);
    kd_model_free(unfinished);
    kd_model_free(m);
    kd_model_free(same);
    kd_model_free(other);
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

static int freed;
static void count_free(void *user)
{
    CHECK(user == &freed);
    freed++;
}

static kd_tensor *pass(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)self;
    (void)tape;
    (void)user;
    return x;
}

static const kd_block_desc block_desc = { sizeof(kd_block_desc), "my-block", pass, count_free, &freed };

TEST(blocks_have_parameters_and_buffers)
{
    kd_model *m = NULL;
    freed = 0;
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer *b = kd_layer_block(kd_model_root(m), "mix", &block_desc);
    kd_layer_add_parameter(b, "scale", 1, (size_t[]){ 3 }, KD_INIT_CONSTANT, 0.25f, 0);
    kd_layer_add_parameter(b, "kernel", 3, (size_t[]){ 2, 3, 4 }, KD_INIT_FAN_IN_UNIFORM, 1, 0);
    kd_layer_add_buffer(b, "seen", 2, (size_t[]){ 1, 2 }, 7.0f);
    kd_layer_linear(b, "proj", 3, 3, 0);
    CHECK_OK(kd_model_finish(m, 1));
    CHECK(kd_model_parameter_count(m) == 4 && kd_model_size(m) == 3 + 24 + 9);
    CHECK(kd_tensor_f32(kd_layer_parameter(b, "scale"))[2] == 0.25f);
    CHECK(kd_tensor_f32(kd_layer_parameter(b, "seen"))[1] == 7.0f);
    kd_param_info info = { .struct_size = sizeof info };
    CHECK_OK(kd_model_find(m, "mix.kernel", &info));
    CHECK(kd_tensor_rank(info.tensor) == 3 && info.kind == KD_PARAM_PLAIN);
    double bound = 1.0 / sqrt(6.0);   /* fan in of [2, 3, 4] is 2 * 3 */
    for (size_t i = 0; i < 24; i++) CHECK(fabs((double)kd_tensor_f32(info.tensor)[i]) <= bound);
    CHECK(freed == 0);
    kd_model_free(m);
    CHECK(freed == 1);
}

static void bad_parameter(const char *name, size_t rank, const size_t *shape, uint32_t init, kd_status want, const char *text)
{
    kd_model *m = NULL;
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer *b = kd_layer_block(kd_model_root(m), "b", &block_desc);
    kd_layer_linear(b, "child", 1, 1, 0);
    kd_layer_add_parameter(b, name, rank, shape, init, 0, 0);
    CHECK_STATUS(kd_model_finish(m, 1), want);
    CHECK_ERROR_HAS(text);
    kd_model_free(m);
}

TEST(bad_block_parameters)
{
    const size_t two[] = { 2, 2 }, none[] = { 2, 0 }, huge[] = { SIZE_MAX / 2, 3 };
    bad_parameter(NULL, 2, two, KD_INIT_ZEROS, KD_ERR_ARG, "b: kd_layer_add_parameter: name \"(NULL)\"");
    bad_parameter("a.b", 2, two, KD_INIT_ZEROS, KD_ERR_ARG, "name \"a.b\"");
    bad_parameter("child", 2, two, KD_INIT_ZEROS, KD_ERR_ARG, "name \"child\" is taken");
    bad_parameter("w", 0, two, KD_INIT_ZEROS, KD_ERR_ARG, "rank 0");
    bad_parameter("w", 9, two, KD_INIT_ZEROS, KD_ERR_ARG, "rank 9");
    bad_parameter("w", 2, NULL, KD_INIT_ZEROS, KD_ERR_ARG, "rank 2 with a shape");
    bad_parameter("w", 2, none, KD_INIT_ZEROS, KD_ERR_ARG, "a size is 0");
    bad_parameter("w", 2, huge, KD_INIT_ZEROS, KD_ERR_OVERFLOW, "too large");
    bad_parameter("w", 2, two, 0, KD_ERR_ARG, "b: kd_layer_add_parameter: init 0 is no KD_INIT_*");
    kd_model *m = NULL;
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer_add_parameter(kd_layer_linear(kd_model_root(m), "fc", 1, 1, 0), "bias", 1, two, KD_INIT_ZEROS, 0, 0);
    CHECK_STATUS(kd_model_finish(m, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("fc: kd_layer_add_parameter: layer: a linear is not a block");
    kd_model_free(m);
}

TEST(a_block_that_cannot_be_made_gives_its_user_back)
{
    kd_model *m = NULL;
    freed = 0;
    CHECK(kd_layer_block(NULL, "b", &block_desc) != NULL);
    CHECK(freed == 1);
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer_block(kd_model_root(m), "b.b", &block_desc);
    CHECK(freed == 2);
    kd_layer_block(kd_model_root(m), "b", &block_desc);   /* the model is poisoned already */
    CHECK(freed == 3);
    CHECK_STATUS(kd_model_finish(m, 1), KD_ERR_ARG);
    kd_model_free(m);
    CHECK(freed == 3);
    kd_block_desc no_forward = block_desc;
    no_forward.forward = NULL;
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer_block(kd_model_root(m), "b", &no_forward);
    CHECK(freed == 4);
    CHECK_STATUS(kd_model_finish(m, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("b: kd_layer_block: desc->forward is NULL");
    kd_model_free(m);
    CHECK(freed == 4);
}

TEST(clones)
{
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    kd_model *m = NULL, *copy = NULL, *second = NULL;
    freed = 0;
    CHECK_OK(kd_model_create(&m, a.ctx));
    kd_layer *root = kd_model_root(m);
    kd_layer *b = kd_layer_block(root, "mix", &block_desc);
    kd_layer_add_parameter(b, "scale", 1, (size_t[]){ 3 }, KD_INIT_NORMAL, 0, 1);
    kd_layer_batch_norm(b, NULL, 3, 0.1f, 1e-5f);
    kd_layer *res = kd_layer_residual(root, NULL, KD_ACT_RELU);
    kd_layer_linear(kd_layer_shortcut(res, "down"), NULL, 3, 3, 0);
    kd_layer_linear(res, NULL, 3, 3, 1);
    CHECK_OK(kd_model_tap(m, "mix"));
    CHECK_OK(kd_model_tap(m, "1:pre"));
    CHECK_OK(kd_model_finish(m, 9));
    kd_model_freeze(m, 1);
    CHECK_OK(kd_model_set_input_norm(m, 3, (float[]){ 1, 2, 3 }, (float[]){ 4, 5, 6 }));
    kd_model_grads(m, NULL)[0] = 1.0f;
    kd_model_buffers(m, NULL)[0] = 0.5f;
    CHECK_OK(kd_model_clone(&copy, m));
    CHECK_OK(kd_model_clone(&second, copy));
    CHECK(state_hash(copy) == state_hash(m));
    CHECK(kd_model_frozen(copy) == 0 && kd_model_grads(copy, NULL)[0] == 0.0f);
    CHECK(kd_model_parameter_count(copy) == kd_model_parameter_count(m));
    for (size_t i = 0; i < kd_model_parameter_count(m); i++) {
        kd_param_info p = { .struct_size = sizeof p }, q = p;
        CHECK_OK(kd_model_parameter_at(m, i, &p));
        CHECK_OK(kd_model_parameter_at(copy, i, &q));
        CHECK_STR(q.name, p.name);
        CHECK(q.kind == p.kind && q.offset == p.offset && q.tensor != p.tensor && q.name != p.name);
    }
    size_t channels;
    const float *mean, *std;
    CHECK(kd__model_input_norm(second, &channels, &mean, &std));
    CHECK(channels == 3 && mean[2] == 3.0f && std[0] == 4.0f);
    CHECK(kd_layer_child(kd_model_root(copy), "mix")->tap_out && kd_layer_child(kd_model_root(copy), "1")->tap_pre);
    kd_model_free(m);
    CHECK(freed == 0);
    kd_model_free(second);
    CHECK(freed == 0);
    kd_model_free(copy);
    CHECK(freed == 1);
    kdtest_alloc_end(&a);
}

TEST(input_normalisation_is_checked)
{
    kd_model *m = small(NULL, 1);
    const float one[] = { 1, 1, 1 }, zero[] = { 1, 0, 1 }, nan[] = { 1, NAN, 1 };
    size_t channels;
    const float *mean, *std;
    CHECK(!kd__model_input_norm(m, &channels, &mean, &std));
    CHECK(channels == 0);
    CHECK_OK(kd_model_set_input_norm(m, 3, zero, one));
    CHECK_STATUS(kd_model_set_input_norm(m, 3, one, zero), KD_ERR_ARG);
    CHECK_ERROR_HAS("channel 1: mean 1, std 0");
    CHECK_STATUS(kd_model_set_input_norm(m, 3, nan, one), KD_ERR_ARG);
    CHECK_STATUS(kd_model_set_input_norm(m, 3, NULL, one), KD_ERR_ARG);
    CHECK_STATUS(kd_model_set_input_norm(m, 3, one, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_model_set_input_norm(NULL, 3, one, one), KD_ERR_ARG);
    CHECK(kd__model_input_norm(m, &channels, &mean, &std) && mean[1] == 0.0f);
    CHECK_OK(kd_model_set_input_norm(m, 0, NULL, NULL));
    CHECK(!kd__model_input_norm(m, &channels, &mean, &std));
    kd_model_free(m);
}

/* ---- memory that runs out ------------------------------------------------------------------------------------------- */

/* Build and clone; returns the status of the first call that failed. */
static kd_status build_and_clone(kd_context *ctx)
{
    kd_model *m = NULL, *copy = NULL;
    kd_status status = kd_model_create(&m, ctx);
    if (status == KD_OK) {
        kd_layer *root = kd_model_root(m);
        for (int i = 0; i < 40; i++) {   /* more than one chunk of the model's arena */
            kd_layer *b = kd_layer_block(root, NULL, &block_desc);
            kd_layer_add_parameter(b, "w", 2, (size_t[]){ 3, 3 }, KD_INIT_NORMAL, 0, 1);
            kd_layer_batch_norm(b, "bn", 3, 0.1f, 1e-5f);
        }
        status = kd_model_finish(m, 1);
    }
    if (status == KD_OK) status = kd_model_set_input_norm(m, 1, (float[]){ 0 }, (float[]){ 1 });
    if (status == KD_OK) status = kd_model_clone(&copy, m);
    kd_model_free(copy);
    kd_model_free(m);
    return status;
}

TEST(out_of_memory_at_every_allocation)
{
    for (int persistent = 0; persistent < 2; persistent++)
        for (size_t at = 1;; at++) {
            kdtest_alloc a;
            kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
            a.fail_at = a.calls + at;
            a.persistent = persistent;
            kd_status status = build_and_clone(a.ctx);
            int reached = a.calls >= a.fail_at;
            kdtest_alloc_end(&a);
            if (!reached) {
                CHECK_STATUS(status, KD_OK);
                CHECK(at > 40);
                break;
            }
            CHECK_STATUS(status, KD_ERR_NOMEM);
        }
}

TEST(glob_patterns)
{
    static const struct { const char *pattern, *text; int match; } cases[] = {
        { "*", "", 1 }, { "*", "abc", 1 }, { "", "", 1 }, { "", "a", 0 }, { "?", "", 0 }, { "?", "a", 1 }, { "a", "ab", 0 },
        { "*.weight", "fc.weight", 1 }, { "*.weight", "fc.weights", 0 }, { "layer?.*", "layer1.0.conv1.weight", 1 },
        { "layer?.*", "layer10.0", 0 }, { "*a*b*c", "xaybzc", 1 }, { "*a*b*c", "xaybz", 0 }, { "a**b", "ab", 1 },
        { "*ab", "aab", 1 }, { "*aab", "aaab", 1 }, { "a*?", "a", 0 }, { "[a]", "a", 0 }, { "**", "x", 1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK_MSG(kd__glob_match(cases[i].pattern, cases[i].text) == (cases[i].match != 0), "\"%s\" on \"%s\"", cases[i].pattern,
                  cases[i].text);
}
