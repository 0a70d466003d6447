/* test_optimizer.c - the optimizers against PyTorch's trajectories, groups, clipping, same bits everywhere, errors,
 * out of memory, states.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "optim/optim.h"
#include "../golden/optim_golden.h"
#include <math.h>
#include <stdlib.h>

/* ---- a model and gradients by formula, as in tests/tools/gen_optim.py ------------------------------------------ */

static kd_tensor *pass(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user)
{
    (void)self;
    (void)tape;
    (void)user;
    return x;
}

/* fc1.weight, fc1.bias, fc2.weight, fc2.bias. */
static kd_model *make_model(kd_context *ctx, size_t in, size_t hidden, size_t out)
{
    kd_model *model;
    if (!CHECK_OK(kd_model_create(&model, ctx))) return NULL;
    kd_block_desc block = { .struct_size = sizeof block, .type = "test", .forward = pass };
    for (int i = 0; i < 2; i++) {
        size_t shape[2] = { i ? hidden : in, i ? out : hidden };
        kd_layer *layer = kd_layer_block(kd_model_root(model), i ? "fc2" : "fc1", &block);
        kd_layer_add_parameter(layer, "weight", 2, shape, KD_INIT_UNIFORM, -1, 1);
        kd_layer_add_parameter(layer, "bias", 1, &shape[1], KD_INIT_ZEROS, 0, 0);
    }
    CHECK_OK(kd_model_finish(model, 1));
    return model;
}

static kd_param_info info(kd_model *model, size_t i)
{
    kd_param_info p = { .struct_size = sizeof p };
    CHECK_OK(kd_model_parameter_at(model, i, &p));
    return p;
}

static void set_start(kd_model *model)
{
    for (size_t p = 0; p < 4; p++) {
        kd_param_info at = info(model, p);
        float *w = kd_tensor_f32(at.tensor);
        for (size_t i = 0; i < kd_tensor_count(at.tensor); i++) w[i] = (float)((int)((p * 37 + i * 11) % 23) - 11) / 16;
    }
}

static void set_gradients(kd_model *model, uint64_t t)
{
    for (size_t p = 0; p < 4; p++) {
        kd_param_info at = info(model, p);
        const float *w = kd_tensor_f32(at.tensor);
        for (size_t i = 0; i < kd_tensor_count(at.tensor); i++) {
            float curvature = (float)((p * 5 + i * 7) % 13 + 1) / 8, centre = (float)((int)((p * 3 + i * 5) % 17) - 8) / 8;
            float noise = (float)((int)((t * 7919 + p * 613 + i * 104729) % 1009) - 504) / 1024;
            at.grad[i] = curvature * (w[i] - centre) + noise;
        }
    }
}

static kd_optimizer *make_optimizer(kd_context *ctx, const struct golden_run *run, kd_model *model)
{
    kd_optimizer_desc desc;
    kd_optimizer_desc_init(&desc, sizeof desc);
    desc.method = run->method;
    desc.lr = run->lr;
    desc.momentum = run->momentum;
    desc.dampening = run->dampening;
    desc.nesterov = run->nesterov;
    desc.beta1 = run->beta1;
    desc.beta2 = run->beta2;
    desc.eps = run->eps;
    desc.weight_decay = run->weight_decay;
    desc.max_grad_norm = run->max_grad_norm;
    kd_optimizer *opt;
    if (!CHECK_OK(kd_optimizer_create(&opt, ctx, &desc))) return NULL;
    CHECK_OK(kd_optimizer_add(opt, model));
    if (run->groups) {
        CHECK_OK(kd_optimizer_group(opt, "fc2.*", 0.5f, 0.02f));
        CHECK_OK(kd_optimizer_group(opt, "*.bias", 1, 0));   /* later groups win */
    }
    return opt;
}

static void run_steps(kd_optimizer *opt, kd_model *model, uint64_t from, uint64_t to)
{
    for (uint64_t t = from; t <= to; t++) {
        set_gradients(model, t);
        CHECK_OK(kd_optimizer_step(opt));
    }
}

static uint64_t weights_hash(kd_model *model)
{
    size_t n;
    const float *w = kd_model_weights(model, &n);
    return kdtest_hash(w, n * sizeof *w);
}

#define RUNS (sizeof golden_runs / sizeof *golden_runs)

TEST(trajectories_of_pytorch)
{
    for (size_t r = 0; r < RUNS; r++) {
        const struct golden_run *run = &golden_runs[r];
        kd_model *model = make_model(NULL, 5, 6, 3);
        kd_optimizer *opt = make_optimizer(NULL, run, model);
        set_start(model);
        uint64_t t = 0;
        for (size_t s = 0; s < GOLDEN_STEPS; s++) {
            run_steps(opt, model, t + 1, golden_steps[s]);
            t = golden_steps[s];
            for (size_t k = 0; k < GOLDEN_SHOWN; k++) {
                const float *w = kd_tensor_f32(info(model, (size_t)golden_shown[k].param).tensor);
                double got = (double)w[golden_shown[k].element], want = (double)run->w[s][k];
                CHECK_MSG(fabs(got - want) <= 1e-5 * fabs(want) + 1e-7, "%s: step %llu, value %zu: %.9g, PyTorch has %.9g",
                          run->name, (unsigned long long)t, k, got, want);
            }
        }
        CHECK(kd_optimizer_steps(opt) == 100);
        kd_optimizer_free(opt);
        kd_model_free(model);
    }
}

TEST(same_bits_on_every_instruction_set_and_any_threads)
{
    for (size_t r = 0; r < RUNS; r++) {
        uint64_t want = 0;
        uint32_t isas[5];
        size_t count = kdtest_isas(isas);
        for (size_t i = 0; i < count; i++)
            for (uint32_t threads = 1; threads <= 3; threads++) {
                kd_context *ctx = kdtest_context(threads, isas[i]);
                kd_model *model = make_model(ctx, 173, 211, 37);   /* more than two chunks */
                kd_optimizer *opt = make_optimizer(ctx, &golden_runs[r], model);
                set_start(model);
                run_steps(opt, model, 1, 4);
                uint64_t hash = weights_hash(model);
                CHECK_MSG(!want || hash == want, "%s: %s with %u threads: other bits", golden_runs[r].name,
                          kdtest_isa_name(isas[i]), threads);
                want = hash;
                kd_optimizer_free(opt);
                kd_model_free(model);
                kd_context_free(ctx);
            }
    }
}

TEST(gradients_and_gaps_are_zero_after_a_step)
{
    for (size_t r = 0; r < RUNS; r++) {
        kd_model *model = make_model(NULL, 5, 6, 3);
        kd_optimizer *opt = make_optimizer(NULL, &golden_runs[r], model);
        set_start(model);
        run_steps(opt, model, 1, 3);
        size_t n;
        const float *g = kd_model_grads(model, &n), *w = kd_model_weights(model, &n);
        for (size_t i = 0; i < n; i++) CHECK(g[i] == 0.0f);
        size_t used = 0;
        for (size_t p = 0; p < 4; p++) {
            kd_param_info at = info(model, p);
            for (; used < at.offset; used++) CHECK(w[used] == 0.0f);
            used = at.offset + kd_tensor_count(at.tensor);
        }
        for (; used < n; used++) CHECK(w[used] == 0.0f);
        kd_optimizer_free(opt);
        kd_model_free(model);
    }
}

TEST(neighbours_treated_alike_are_one_segment)
{
    kd_model *model = make_model(NULL, 5, 6, 3);
    kd_optimizer *opt = make_optimizer(NULL, &golden_runs[0], model);
    CHECK_OK(kd__optimizer_prepare(opt));
    CHECK(opt->members[0].segment_count == 1);
    CHECK_OK(kd_optimizer_group(opt, "*.bias", 1, 0));   /* the same decay as the rest: 0 */
    CHECK_OK(kd__optimizer_prepare(opt));
    CHECK(opt->members[0].segment_count == 1);
    CHECK_OK(kd_optimizer_group(opt, "fc?.bias", 2, 0));
    CHECK_OK(kd__optimizer_prepare(opt));
    CHECK(opt->members[0].segment_count == 4);
    CHECK(opt->members[0].segments[1].lr_scale == 2 && opt->members[0].segments[2].lr_scale == 1);
    CHECK_OK(kd_optimizer_group(opt, "*", 3, 0));
    CHECK_OK(kd__optimizer_prepare(opt));
    CHECK(opt->members[0].segment_count == 1 && opt->members[0].segments[0].lr_scale == 3);
    size_t n;
    kd_model_weights(model, &n);
    CHECK(opt->members[0].segments[0].begin == 0 && opt->members[0].segments[0].end == n);
    kd_optimizer_free(opt);
    kd_model_free(model);
}

/* ---- clipping ------------------------------------------------------------------------------------------------- */

static void check_clip(kd_model *model, double max_norm, const double *golden)
{
    set_start(model);
    set_gradients(model, 3);
    double norm = 0;
    CHECK_OK(kd_clip_grad_norm(&model, 1, max_norm, &norm));
    CHECK_NEAR(norm, golden[0], 1e-6 * golden[0]);
    for (size_t k = 0; k < GOLDEN_SHOWN; k++)
        CHECK_NEAR((double)info(model, (size_t)golden_shown[k].param).grad[golden_shown[k].element], golden[k + 1],
                   1e-6 * fabs(golden[k + 1]));
}

TEST(clipping_as_pytorch)
{
    kd_model *model = make_model(NULL, 5, 6, 3);
    check_clip(model, 2.5, golden_clip_tight);
    check_clip(model, 1e4, golden_clip_loose);
    kd_model_free(model);
}

TEST(norm_over_models_and_threads)
{
    double want = 0, sum = 0;
    for (uint32_t threads = 1; threads <= 4; threads++) {
        kd_context *ctx = kdtest_context(threads, KD_ISA_AUTO);
        kd_model *models[2] = { make_model(ctx, 300, 200, 10), make_model(ctx, 5, 6, 3) };
        for (int m = 0; m < 2; m++) {
            set_start(models[m]);
            set_gradients(models[m], 7);
        }
        if (threads == 1)
            for (int m = 0; m < 2; m++) {
                size_t n;
                const float *g = kd_model_grads(models[m], &n);
                for (size_t i = 0; i < n; i++) sum += (double)g[i] * (double)g[i];
            }
        double norm;
        CHECK_OK(kd_clip_grad_norm(models, 2, INFINITY, &norm));
        CHECK_NEAR(norm, sqrt(sum), 1e-11 * sqrt(sum));
        CHECK(threads == 1 || norm == want);
        want = norm;
        CHECK_OK(kd_clip_grad_norm(models, 2, 1.0, NULL));
        CHECK_OK(kd_clip_grad_norm(models, 2, 1.0, &norm));
        CHECK_NEAR(norm, 1, 2e-6);
        for (int m = 0; m < 2; m++) kd_model_free(models[m]);
        kd_context_free(ctx);
    }
}

TEST(norm_of_the_last_step)
{
    kd_model *model = make_model(NULL, 5, 6, 3);
    struct golden_run run = golden_runs[0];
    run.max_grad_norm = 0.5f;
    kd_optimizer *opt = make_optimizer(NULL, &run, model);
    CHECK(isnan(kd_optimizer_grad_norm(opt)));
    set_start(model);
    set_gradients(model, 3);
    CHECK_OK(kd_optimizer_step(opt));
    CHECK_NEAR(kd_optimizer_grad_norm(opt), golden_clip_tight[0], 1e-6 * golden_clip_tight[0]);
    kd_optimizer_free(opt);
    kd_model_free(model);
}

TEST(clip_errors)
{
    kd_model *model = make_model(NULL, 2, 2, 2), *raw;
    CHECK_OK(kd_model_create(&raw, NULL));
    CHECK_STATUS(kd_clip_grad_norm(NULL, 0, 1, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_clip_grad_norm(&model, 1, 0, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_clip_grad_norm(&model, 1, NAN, NULL), KD_ERR_ARG);
    CHECK_ERROR_HAS("max_norm");
    CHECK_STATUS(kd_clip_grad_norm((kd_model *[]){ model, NULL }, 2, 1, NULL), KD_ERR_ARG);
    CHECK_ERROR_HAS("number 1 is NULL");
    CHECK_STATUS(kd_clip_grad_norm((kd_model *[]){ model, model }, 2, 1, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_clip_grad_norm((kd_model *[]){ raw }, 1, 1, NULL), KD_ERR_STATE);
    double norm = 5;
    CHECK_OK(kd_clip_grad_norm(&model, 0, 1, &norm));
    CHECK(norm == 0);
    kd_model_free(model);
    kd_model_free(raw);
}

/* ---- several models, frozen ones ----------------------------------------------------------------------------------- */

TEST(frozen_models_wait)
{
    kd_model *model = make_model(NULL, 5, 6, 3), *other = make_model(NULL, 5, 6, 3), *alone = make_model(NULL, 5, 6, 3);
    const struct golden_run *run = &golden_runs[7];   /* Adam: its first step shows */
    kd_optimizer *both = make_optimizer(NULL, run, model), *single = make_optimizer(NULL, run, alone);
    CHECK_OK(kd_optimizer_add(both, other));
    set_start(model);
    set_start(other);
    set_start(alone);
    kd_model_freeze(other, 1);
    uint64_t before = weights_hash(other);
    run_steps(both, model, 1, 5);
    CHECK(weights_hash(other) == before);
    kd_model_freeze(other, 0);
    kd_model_freeze(model, 1);
    before = weights_hash(model);
    run_steps(both, other, 1, 5);
    run_steps(single, alone, 1, 5);
    CHECK(weights_hash(model) == before);
    CHECK(weights_hash(other) == weights_hash(alone));   /* its own count of steps */
    CHECK(kd_optimizer_steps(both) == 10);
    kd_optimizer_free(both);
    kd_optimizer_free(single);
    kd_model_free(model);
    kd_model_free(other);
    kd_model_free(alone);
}

/* ---- errors -------------------------------------------------------------------------------------------------------- */

static void refuses(kd_optimizer_desc desc, const char *part)
{
    kd_optimizer *opt = (void *)1;
    CHECK_STATUS(kd_optimizer_create(&opt, NULL, &desc), KD_ERR_ARG);
    CHECK_ERROR_HAS(part);
    CHECK(!opt);
}

TEST(descriptors_out_of_range)
{
    kd_optimizer_desc d, ok;
    kd_optimizer_desc_init(&ok, sizeof ok);
    CHECK(ok.struct_size == sizeof ok && ok.method == KD_OPT_SGD && ok.momentum == 0.9f && ok.eps == 1e-8f);
#define BAD(change, part) (d = ok, change, refuses(d, part))
    BAD(d.method = 0, "method");
    BAD(d.method = 9, "method");
    BAD(d.lr = -1, "lr");
    BAD(d.lr = NAN, "lr");
    BAD(d.momentum = 1, "momentum");
    BAD(d.dampening = 2, "dampening");
    BAD((d.nesterov = 1, d.momentum = 0), "nesterov");
    BAD((d.nesterov = 1, d.dampening = 0.5f), "nesterov");
    BAD(d.weight_decay = -0.1f, "weight_decay");
    BAD(d.max_grad_norm = -1, "max_grad_norm");
    ok.method = KD_OPT_ADAM;
    BAD(d.beta1 = 1, "beta1");
    BAD(d.beta2 = -1, "beta2");
    BAD(d.eps = 0, "eps");
    BAD(d.eps = INFINITY, "eps");
#undef BAD
    CHECK_STATUS(kd_optimizer_create(NULL, NULL, NULL), KD_ERR_ARG);
    kd_optimizer *opt;
    CHECK_OK(kd_optimizer_create(&opt, NULL, NULL));
    kd_optimizer_free(opt);
    kd_optimizer_free(NULL);
}

TEST(wrong_moments)
{
    kd_model *model = make_model(NULL, 5, 6, 3), *raw;
    CHECK_OK(kd_model_create(&raw, NULL));
    kd_optimizer *opt;
    CHECK_OK(kd_optimizer_create(&opt, NULL, NULL));
    CHECK_STATUS(kd_optimizer_step(opt), KD_ERR_STATE);
    CHECK_ERROR_HAS("kd_optimizer_add");
    CHECK_STATUS(kd_optimizer_group(opt, "*", 1, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_optimizer_add(opt, raw), KD_ERR_STATE);
    CHECK_OK(kd_optimizer_add(opt, model));
    CHECK_STATUS(kd_optimizer_add(opt, model), KD_ERR_ARG);
    CHECK_STATUS(kd_optimizer_group(opt, "fc3.*", 1, 0), KD_ERR_ARG);
    CHECK_ERROR_HAS("fc3.*");
    CHECK_STATUS(kd_optimizer_group(opt, "*", NAN, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_optimizer_group(opt, "*", 1, -1), KD_ERR_ARG);
    CHECK_STATUS(kd_optimizer_set_lr(opt, -1), KD_ERR_ARG);
    run_steps(opt, model, 1, 1);
    CHECK_STATUS(kd_optimizer_add(opt, raw), KD_ERR_STATE);
    CHECK_STATUS(kd_optimizer_group(opt, "*", 1, 0), KD_ERR_STATE);
    CHECK_STATUS(kd_optimizer_step(NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_optimizer_add(NULL, model), KD_ERR_ARG);
    CHECK_STATUS(kd_optimizer_add(opt, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_optimizer_group(opt, NULL, 1, 0), KD_ERR_ARG);
    CHECK_STATUS(kd_optimizer_set_lr(NULL, 1), KD_ERR_ARG);
    CHECK(isnan(kd_optimizer_lr(NULL)) && kd_optimizer_steps(NULL) == 0);
    kd_optimizer_free(opt);
    kd_model_free(model);
    kd_model_free(raw);
}

TEST(cancelled_changes_nothing)
{
    kd_context *ctx = kdtest_context(1, KD_ISA_AUTO);
    kd_model *model = make_model(ctx, 5, 6, 3);
    kd_optimizer *opt = make_optimizer(ctx, &golden_runs[7], model);
    set_start(model);
    set_gradients(model, 1);
    uint64_t before = weights_hash(model);
    kd_context_cancel(ctx);
    CHECK_STATUS(kd_optimizer_step(opt), KD_ERR_CANCELLED);
    CHECK(weights_hash(model) == before && kd_optimizer_steps(opt) == 0);
    kd_context_resume(ctx);
    CHECK_OK(kd_optimizer_step(opt));
    CHECK(weights_hash(model) != before);
    kd_optimizer_free(opt);
    kd_model_free(model);
    kd_context_free(ctx);
}

TEST(a_step_marks_the_weights_as_written)
{
    kd_model *model = make_model(NULL, 5, 6, 3);
    kd_optimizer *opt = make_optimizer(NULL, &golden_runs[0], model);
    uint64_t version = model->version;
    run_steps(opt, model, 1, 1);
    CHECK(model->version != version);
    kd_optimizer_free(opt);
    kd_model_free(model);
}

/* ---- learning rate -------------------------------------------------------------------------------------------------- */

TEST(schedule_drives_the_rate)
{
    kd_model *model = make_model(NULL, 5, 6, 3);
    kd_optimizer *opt = make_optimizer(NULL, &golden_runs[0], model);
    kd_schedule_desc s;
    kd_schedule_desc_init(&s, sizeof s);
    s.kind = KD_SCHEDULE_MULTI_STEP;
    s.gamma = 0.5f;
    uint64_t milestones[] = { 2, 3 };
    s.milestones = milestones;
    s.milestone_count = 2;
    CHECK_OK(kd_optimizer_set_lr(opt, 0.25f));
    CHECK_OK(kd_optimizer_set_schedule(opt, &s));
    milestones[0] = 100;   /* it was copied */
    static const double want[] = { 0.25, 0.25, 0.125, 0.0625, 0.0625 };
    for (uint64_t t = 0; t < 5; t++) {
        CHECK(kd_optimizer_lr(opt) == want[t]);
        for (size_t p = 0; p < 4; p++) {
            kd_param_info at = info(model, p);
            for (size_t i = 0; i < kd_tensor_count(at.tensor); i++) {
                kd_tensor_f32(at.tensor)[i] = 1;
                at.grad[i] = 1;
            }
        }
        CHECK_OK(kd_optimizer_step(opt));
        CHECK(kd_tensor_f32(info(model, 0).tensor)[3] == (float)(1 - want[t]));
    }
    s.kind = 77;
    CHECK_STATUS(kd_optimizer_set_schedule(opt, &s), KD_ERR_ARG);
    CHECK(kd_optimizer_lr(opt) == 0.0625);
    CHECK_OK(kd_optimizer_set_schedule(opt, NULL));
    CHECK(kd_optimizer_lr(opt) == 0.25);
    kd_optimizer_free(opt);
    kd_model_free(model);
}

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

TEST(out_of_memory_and_no_allocation_later)
{
    for (int persistent = 0; persistent < 2; persistent++)
        for (size_t fail = 1; fail < 40; fail++) {
            kdtest_alloc a;
            kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
            kd_model *model = make_model(a.ctx, 5, 6, 3);
            kd_optimizer_desc desc;
            kd_optimizer_desc_init(&desc, sizeof desc);
            desc.method = KD_OPT_ADAMW;
            desc.max_grad_norm = 1;
            kd_optimizer *opt;
            set_start(model);
            set_gradients(model, 1);
            uint64_t before = weights_hash(model);
            size_t start = a.calls;
            a.fail_at = start + fail;
            a.persistent = persistent;
            kd_status status = kd_optimizer_create(&opt, a.ctx, &desc);
            if (status == KD_OK) status = kd_optimizer_add(opt, model);
            if (status == KD_OK) status = kd_optimizer_group(opt, "*.bias", 1, 0.5f);
            if (status == KD_OK) status = kd_optimizer_step(opt);
            int all = status == KD_OK;
            if (!all) {
                CHECK_STATUS(status, KD_ERR_NOMEM);
                CHECK(weights_hash(model) == before);
            }
            a.fail_at = 0;
            if (opt && opt->member_count) {   /* memory is back: it works */
                CHECK_OK(kd_optimizer_step(opt));
                size_t calls = a.calls;
                run_steps(opt, model, 2, 4);
                CHECK(a.calls == calls);
            }
            kd_optimizer_free(opt);
            kd_model_free(model);
            kdtest_alloc_end(&a);
            if (all) break;
            CHECK(fail < 39);
        }
}

/* ---- states --------------------------------------------------------------------------------------------------------------- */

static void *save(kd_optimizer *opt, size_t *bytes)
{
    *bytes = kd__optimizer_state_size(opt);
    uint8_t *out = kdtest_guard(*bytes, 1);
    kd__optimizer_state_write(opt, out);
    return out;
}

TEST(a_run_that_resumes_ends_in_the_same_bits)
{
    for (size_t r = 0; r < RUNS; r++)
        for (uint64_t stop = 0; stop <= 6; stop += 3) {
            kd_model *model = make_model(NULL, 5, 6, 3), *again = make_model(NULL, 5, 6, 3);
            kd_optimizer *opt = make_optimizer(NULL, &golden_runs[r], model), *second;
            set_start(model);
            CHECK_OK(kd_optimizer_set_lr(opt, 0.03f));
            run_steps(opt, model, 1, stop);
            size_t bytes;
            void *state = save(opt, &bytes);
            CHECK_OK(kd_model_copy(again, model));
            run_steps(opt, model, stop + 1, 10);
            second = make_optimizer(NULL, &golden_runs[r], again);
            CHECK_OK(kd__optimizer_state_check(second, state, bytes));
            CHECK(kd_optimizer_steps(second) == 0);   /* nothing shows yet */
            kd__optimizer_state_read(second, state);
            CHECK(kd_optimizer_steps(second) == stop && kd_optimizer_lr(second) == (double)0.03f);
            run_steps(second, again, stop + 1, 10);
            CHECK_MSG(weights_hash(again) == weights_hash(model), "%s, stopped at %llu", golden_runs[r].name,
                      (unsigned long long)stop);
            /* and into one that has run on */
            kd__optimizer_state_read(opt, state);
            CHECK(kd_optimizer_steps(opt) == stop);
            kdtest_guard_free(state, bytes, 1);
            kd_optimizer_free(opt);
            kd_optimizer_free(second);
            kd_model_free(model);
            kd_model_free(again);
        }
}

TEST(states_that_do_not_fit)
{
    kd_model *model = make_model(NULL, 5, 6, 3), *wider = make_model(NULL, 5, 7, 3), *more = make_model(NULL, 5, 6, 3);
    kd_optimizer *opt = make_optimizer(NULL, &golden_runs[1], model);
    run_steps(opt, model, 1, 2);
    size_t bytes;
    uint8_t *state = save(opt, &bytes);
    for (size_t n = 0; n < bytes; n++) {   /* every prefix, each at the end of a page */
        uint8_t *part = kdtest_guard(n, 1);
        memcpy(part, state, n);
        kd_status status = kd__optimizer_state_check(opt, part, n);
        CHECK_MSG(status == KD_ERR_TRUNCATED, "%zu of %zu bytes: %s", n, bytes, kd_status_name(status));
        kdtest_guard_free(part, n, 1);
    }
    struct { kd_optimizer *opt; kd_status status; const char *part; } other[] = {
        { make_optimizer(NULL, &golden_runs[7], model), KD_ERR_SHAPE, "method SGD in the state, ADAM here" },
        { make_optimizer(NULL, &golden_runs[0], model), KD_ERR_SHAPE, "1 moments a weight in the state, 0 here" },
        { make_optimizer(NULL, &golden_runs[1], wider), KD_ERR_SHAPE, "fc1.weight: 30 numbers" },
        { make_optimizer(NULL, &golden_runs[1], model), KD_ERR_SHAPE, "1 models in the state, 2 here" },
    };
    CHECK_OK(kd_optimizer_add(other[3].opt, more));
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        CHECK_STATUS(kd__optimizer_state_check(other[i].opt, state, bytes), other[i].status);
        CHECK_ERROR_HAS(other[i].part);
        kd_optimizer_free(other[i].opt);
    }
    uint64_t before = weights_hash(model);
    static const struct { size_t at; uint8_t value; kd_status status;
    } flips[] = {
        {0, 2, KD_ERR_VERSION}, {0, 0, KD_ERR_FORMAT},  {24, 1, KD_ERR_FORMAT}, {24, 0, KD_ERR_FORMAT}, {39, 0x80, KD_ERR_FORMAT},
        {48, 0, KD_ERR_FORMAT}, {48, 2, KD_ERR_FORMAT}, {64, 9, KD_ERR_FORMAT}, {72, 9, KD_ERR_SHAPE},  {80, 9, KD_ERR_SHAPE},
    };
    for (size_t i = 0; i < sizeof flips / sizeof *flips; i++) {
        uint8_t kept = state[flips[i].at];
        state[flips[i].at] = flips[i].value;

        CHECK_STATUS(kd__optimizer_state_check(opt, state, bytes), flips[i].status);
        state[flips[i].at] = kept;
    }
    CHECK_OK(kd__optimizer_state_check(opt, state, bytes));
    CHECK(weights_hash(model) == before && kd_optimizer_steps(opt) == 2);
    kdtest_guard_free(state, bytes, 1);
    kd_optimizer_free(opt);
    kd_model_free(model);
    kd_model_free(wider);
    kd_model_free(more);
}
