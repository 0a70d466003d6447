/* test_ema.c - averaged weights: the formula, swapping, states, errors.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "optim/optim.h"
#include <math.h>
#include <stdlib.h>

static kd_tensor *pass(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)self;
    (void)tape;
    (void)user;
    return x;
}

static kd_model *make_model(kd_context *ctx, size_t width)
{
    kd_model *model;
    if (!CHECK_OK(kd_model_create(&model, ctx))) return NULL;
    kd_block_desc block = { .struct_size = sizeof block, .type = "test", .forward = pass };
    kd_layer *layer = kd_layer_block(kd_model_root(model), "fc", &block);
    kd_layer_add_parameter(layer, "weight", 2, (const size_t[]){ 7, width }, KD_INIT_UNIFORM, -1, 1);
    kd_layer_add_parameter(layer, "bias", 1, &width, KD_INIT_ZEROS, 0, 0);
    kd_layer_add_buffer(layer, "running_mean", 1, &width, 0);
    CHECK_OK(kd_model_finish(model, 1));
    return model;
}

static void fill(kd_model *model, uint64_t seed)
{
    kdtest_rand r = { seed };
    size_t n;
    float *w = kd_model_weights(model, &n);
    kdtest_fill(&r, w, n, 1);
    w = kd_model_buffers(model, &n);
    kdtest_fill(&r, w, n, 2);
}

static uint64_t hash(kd_model *model)
{
    size_t n, m;
    const float *w = kd_model_weights(model, &n), *b = kd_model_buffers(model, &m);
    return kdtest_hash(w, n * sizeof *w) * 31 + kdtest_hash(b, m * sizeof *b);
}

TEST(formula)
{
    kd_model *model = make_model(NULL, 3000);
    fill(model, 1);
    kd_ema *ema;
    CHECK_OK(kd_ema_create(&ema, model, 0.99));
    size_t n, m;
    float *w = kd_model_weights(model, &n), *b = kd_model_buffers(model, &m);
    double *want = malloc((n + m) * sizeof *want);
    for (size_t i = 0; i < n + m; i++) want[i] = (double)(i < n ? w[i] : b[i - n]);
    for (uint64_t t = 0; t < 20; t++) {
        fill(model, t + 2);
        CHECK_OK(kd_ema_update(ema));
        for (size_t i = 0; i < n + m; i++) want[i] = 0.99 * want[i] + 0.01 * (double)(i < n ? w[i] : b[i - n]);
    }
    uint64_t trained = hash(model), version = model->version;
    CHECK_OK(kd_ema_swap(ema));
    CHECK(model->version != version);
    /* each update rounds the value once and the small part once more; 0.01 as a float is off by 2^-25 of itself */
    for (size_t i = 0; i < n + m; i++)
        CHECK_NEAR((double)(i < n ? w[i] : b[i - n]), want[i], 20 * 2 * 0x1p-24 * (fabs(want[i]) + 1));
    CHECK_STATUS(kd_ema_update(ema), KD_ERR_STATE);
    CHECK_OK(kd_ema_swap(ema));
    CHECK(hash(model) == trained);
    free(want);
    kd_ema_free(ema);
    kd_model_free(model);
}

TEST(an_unchanged_model_is_its_own_average)
{
    kd_model *model = make_model(NULL, 50);
    fill(model, 4);
    uint64_t before = hash(model);
    kd_ema *ema;
    CHECK_OK(kd_ema_create(&ema, model, 0.9));
    for (int t = 0; t < 5; t++) CHECK_OK(kd_ema_update(ema));
    CHECK_OK(kd_ema_swap(ema));
    CHECK(hash(model) == before);
    kd_ema_free(ema);
    kd_model_free(model);
}

static uint64_t run(kd_context *ctx)
{
    kd_model *model = make_model(ctx, 5000);
    kd_ema *ema;
    fill(model, 1);
    CHECK_OK(kd_ema_create(&ema, model, 0.995));
    for (uint64_t t = 2; t < 6; t++) {
        fill(model, t);
        CHECK_OK(kd_ema_update(ema));
    }
    CHECK_OK(kd_ema_swap(ema));
    uint64_t h = hash(model);
    kd_ema_free(ema);
    kd_model_free(model);
    return h;
}

TEST(same_bits)
{
    uint32_t isas[5];
    size_t count = kdtest_isas(isas);
    uint64_t want = run(NULL);
    for (size_t i = 0; i < count; i++)
        for (uint32_t threads = 1; threads < 4; threads++) {
            kd_context *ctx = kdtest_context(threads, isas[i]);
            CHECK_MSG(run(ctx) == want, "%s, %u threads", kdtest_isa_name(isas[i]), threads);
            kd_context_free(ctx);
        }
}

TEST(state)
{
    for (int swapped = 0; swapped < 2; swapped++) {
        kd_model *model = make_model(NULL, 20), *other = make_model(NULL, 21), *again;
        kd_ema *ema, *second, *wrong;
        fill(model, 1);
        CHECK_OK(kd_ema_create(&ema, model, 0.9));
        fill(model, 2);
        CHECK_OK(kd_ema_update(ema));
        if (swapped) CHECK_OK(kd_ema_swap(ema));
        size_t bytes = kd__ema_state_size(ema);
        uint8_t *state = kdtest_guard(bytes, 1);
        kd__ema_state_write(ema, state);
        CHECK_OK(kd_model_clone(&again, model));
        CHECK_OK(kd_ema_create(&second, again, 0.9));
        CHECK_OK(kd_ema_create(&wrong, other, 0.9));
        CHECK_OK(kd__ema_state_check(second, state, bytes));
        kd__ema_state_read(second, state);
        for (int k = 0; k < 2; k++) {   /* both go on alike */
            kd_ema *e = k ? second : ema;
            if (swapped) CHECK_OK(kd_ema_swap(e));
            fill(k ? again : model, 3);
            CHECK_OK(kd_ema_update(e));
            CHECK_OK(kd_ema_swap(e));
        }
        CHECK(hash(model) == hash(again));
        for (size_t n = 0; n < bytes; n++) {
            uint8_t *part = kdtest_guard(n, 1);
            memcpy(part, state, n);
            CHECK_STATUS(kd__ema_state_check(ema, part, n), KD_ERR_TRUNCATED);
            kdtest_guard_free(part, n, 1);
        }
        CHECK_STATUS(kd__ema_state_check(wrong, state, bytes), KD_ERR_SHAPE);
        state[8] = 2;
        CHECK_STATUS(kd__ema_state_check(ema, state, bytes), KD_ERR_FORMAT);
        state[0] = 2;
        CHECK_STATUS(kd__ema_state_check(ema, state, bytes), KD_ERR_VERSION);
        kdtest_guard_free(state, bytes, 1);
        kd_ema_free(ema);
        kd_ema_free(second);
        kd_ema_free(wrong);
        kd_model_free(model);
        kd_model_free(other);
        kd_model_free(again);
    }
}

TEST(errors_and_memory)
{
    kd_model *raw, *model = make_model(NULL, 3);
    kd_ema *ema = (void *)1;
    CHECK_OK(kd_model_create(&raw, NULL));
    CHECK_STATUS(kd_ema_create(NULL, model, 0.9), KD_ERR_ARG);
    CHECK_STATUS(kd_ema_create(&ema, NULL, 0.9), KD_ERR_ARG);
    CHECK(!ema);
    CHECK_STATUS(kd_ema_create(&ema, model, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("decay");
    CHECK_STATUS(kd_ema_create(&ema, model, NAN), KD_ERR_ARG);
    CHECK_STATUS(kd_ema_create(&ema, raw, 0.9), KD_ERR_STATE);
    CHECK_STATUS(kd_ema_update(NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_ema_swap(NULL), KD_ERR_ARG);
    kd_ema_free(NULL);
    kd_model_free(raw);
    kd_model_free(model);
    for (size_t fail = 1; fail <= 4; fail++) {
        kdtest_alloc a;
        kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
        model = make_model(a.ctx, 3);
        a.fail_at = a.calls + fail;
        CHECK_STATUS(kd_ema_create(&ema, model, 0.9), fail <= 3 ? KD_ERR_NOMEM : KD_OK);
        size_t calls = a.calls;
        if (ema) {
            CHECK_OK(kd_ema_update(ema));
            CHECK_OK(kd_ema_swap(ema));
        }
        CHECK(a.calls == calls);
        kd_ema_free(ema);
        kd_model_free(model);
        kdtest_alloc_end(&a);
    }
}
