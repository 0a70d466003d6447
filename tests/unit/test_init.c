/* test_init.c - initial values: moments and bounds of every distribution, and that they depend on seed and name alone.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "nn/nn.h"
#include <math.h>

typedef struct moments { double mean, variance, lowest, highest; size_t n; } moments;

static moments measure(const float *x, size_t n)
{
    moments m = { 0, 0, INFINITY, -INFINITY, n };
    for (size_t i = 0; i < n; i++) {
        m.mean += (double)x[i] / (double)n;
        if ((double)x[i] < m.lowest) m.lowest = (double)x[i];
        if ((double)x[i] > m.highest) m.highest = (double)x[i];
    }
    for (size_t i = 0; i < n; i++) m.variance += ((double)x[i] - m.mean) * ((double)x[i] - m.mean) / (double)(n - 1);
    return m;
}

static moments measure_named(kd_model *m, const char *name)
{
    kd_param_info info = { .struct_size = sizeof info };
    CHECK_OK(kd_model_find(m, name, &info));
    return measure(kd_tensor_f32(info.tensor), kd_tensor_count(info.tensor));
}

/* Uniform in [lo, hi): six standard errors of mean and variance (fourth central moment of the uniform: w^4 / 80); the extremes lie
 * within 20 / n of the ends but for a chance of e^-20. */
static void check_uniform(const char *what, moments m, double lo, double hi)
{
    double width = hi - lo, n = (double)m.n;
    CHECK_MSG(m.lowest >= lo * (1 + 1e-6) && m.highest <= hi * (1 + 1e-6), "%s: [%g, %g] outside [%g, %g]", what, m.lowest, m.highest,
              lo, hi);
    CHECK_MSG(m.lowest < lo + 20 * width / n && m.highest > hi - 20 * width / n, "%s: [%g, %g] does not fill [%g, %g]", what, m.lowest,
              m.highest, lo, hi);
    CHECK_NEAR(m.mean, (lo + hi) / 2, 6 * width / sqrt(12 * n));
    CHECK_NEAR(m.variance, width * width / 12, 6 * width * width * sqrt((1.0 / 80 - 1.0 / 144) / n));
}

static void check_normal(const char *what, moments m, double mean, double std)
{
    double n = (double)m.n;
    CHECK_MSG(m.lowest > mean - 6.5 * std && m.highest < mean + 6.5 * std && m.highest > mean + 2 * std && m.lowest < mean - 2 * std,
              "%s: [%g, %g] for mean %g, std %g", what, m.lowest, m.highest, mean, std);
    CHECK_NEAR(m.mean, mean, 6 * std / sqrt(n));
    CHECK_NEAR(m.variance, std * std, 6 * std * std * sqrt(2 / n));
}

/* Builds what each layer's default initialisation is tested on. */
static kd_model *defaults(kd_context *ctx, uint64_t seed)
{
    kd_model *m = NULL;
    kd_conv_desc grouped;
    kd_conv_desc_init(&grouped, sizeof grouped);
    grouped.groups = 4;
    CHECK_OK(kd_model_create(&m, ctx));
    kd_layer *root = kd_model_root(m);
    kd_layer_linear(root, "linear", 40, 500, 1);
    kd_layer_conv2d(root, "conv", 10, 90, 3, 5, 1, NULL);
    kd_layer_conv2d(root, "grouped", 40, 80, 3, 3, 1, &grouped);
    kd_layer_conv1d(root, "conv1d", 20, 100, 7, 1, NULL);
    kd_layer_embedding(root, "embedding", 300, 40);
    kd_layer_batch_norm(root, "bn", 30, 0.1f, 1e-5f);
    kd_layer_layer_norm(root, "ln", 30, 1e-5f);
    kd_layer_group_norm(root, "gn", 3, 30, 1e-5f);
    CHECK_OK(kd_model_finish(m, seed));
    return m;
}

TEST(layers_begin_as_in_pytorch)
{
    kd_model *m = defaults(NULL, 5);
    const struct { const char *name; double fan_in; } uniform[] = {
        { "linear.weight", 40 },        { "linear.bias", 40 },        { "conv.weight", 150 },   { "conv.bias", 150 },
        { "grouped.weight", 9.0 * 10 }, { "grouped.bias", 9.0 * 10 }, { "conv1d.weight", 140 }, { "conv1d.bias", 140 },
    };
    for (size_t i = 0; i < sizeof uniform / sizeof *uniform; i++) {
        double bound = 1 / sqrt(uniform[i].fan_in);
        check_uniform(uniform[i].name, measure_named(m, uniform[i].name), -bound, bound);
    }
    check_normal("embedding", measure_named(m, "embedding.weight"), 0, 1);
    const struct { const char *name; double value; } constant[] = {
        { "bn.weight", 1 }, { "bn.bias", 0 }, { "bn.running_mean", 0 }, { "bn.running_var", 1 },
        { "ln.weight", 1 }, { "ln.bias", 0 }, { "gn.weight", 1 },       { "gn.bias", 0 },
    };
    for (size_t i = 0; i < sizeof constant / sizeof *constant; i++) {
        moments got = measure_named(m, constant[i].name);
        CHECK_MSG(got.lowest == constant[i].value && got.highest == constant[i].value && got.n == 30, "%s", constant[i].name);
    }
    kd_model_free(m);
}

TEST(every_initialiser)
{
    kd_model *m = NULL;
    kd_conv_desc grouped;
    kd_conv_desc_init(&grouped, sizeof grouped);
    grouped.groups = 2;
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer_conv2d(kd_model_root(m), "c", 40, 60, 3, 3, 0, &grouped);
    kd_layer_linear(kd_model_root(m), "fc", 40, 500, 0);
    CHECK_OK(kd_model_finish(m, 1));
    const double in = 9 * 20, out = 9 * 30;   /* the fans of c.weight, 10800 numbers */
    const char *name = "c.weight";
#define INIT(kind, a, b) (kd_model_initialize(m, name, kind, a, b, 77) == KD_OK ? measure_named(m, name) : (moments){ 0, 0, 0, 0, 1 })
    moments got = INIT(KD_INIT_ZEROS, 0, 0);
    CHECK(got.lowest == 0 && got.highest == 0);
    got = INIT(KD_INIT_ONES, 0, 0);
    CHECK(got.lowest == 1 && got.highest == 1);
    got = INIT(KD_INIT_CONSTANT, -0.75f, 0);
    CHECK(got.lowest == -0.75 && got.highest == -0.75);
    check_uniform("uniform", INIT(KD_INIT_UNIFORM, -1, 3), -1, 3);
    check_normal("normal", INIT(KD_INIT_NORMAL, 2, 0.5f), 2, 0.5);
    check_uniform("kaiming uniform", INIT(KD_INIT_KAIMING_UNIFORM, 0, 0), -sqrt(6 / in), sqrt(6 / in));
    /* a = sqrt(5) is how PyTorch writes 1 / sqrt(fan in) */
    check_uniform("kaiming uniform, sqrt 5", INIT(KD_INIT_KAIMING_UNIFORM, sqrtf(5), 0), -1 / sqrt(in), 1 / sqrt(in));
    check_normal("kaiming normal, in", INIT(KD_INIT_KAIMING_NORMAL, 0, 0), 0, sqrt(2 / in));
    check_normal("kaiming normal, out", INIT(KD_INIT_KAIMING_NORMAL, 0, 1), 0, sqrt(2 / out));
    check_normal("kaiming normal, leaky", INIT(KD_INIT_KAIMING_NORMAL, 2, 0), 0, sqrt(2 / 5.0 / in));
    check_uniform("xavier uniform", INIT(KD_INIT_XAVIER_UNIFORM, 1.5f, 0), -1.5 * sqrt(6 / (in + out)), 1.5 * sqrt(6 / (in + out)));
    check_normal("xavier normal", INIT(KD_INIT_XAVIER_NORMAL, 1.5f, 0), 0, 1.5 * sqrt(2 / (in + out)));
    check_uniform("fan in", INIT(KD_INIT_FAN_IN_UNIFORM, 2, 0), -2 / sqrt(in), 2 / sqrt(in));
    got = INIT(KD_INIT_UNIFORM, 0.5f, 0.5f);
    CHECK(got.lowest == 0.5 && got.highest == 0.5);

    /* Truncated at two standard deviations the variance is 1 - 4 phi(2) / (2 Phi(2) - 1) = 0.773741 of the whole. */
    got = INIT(KD_INIT_TRUNC_NORMAL, 1, 0.02f);
    CHECK(got.lowest >= 0.96 - 1e-7 && got.highest <= 1.04 + 1e-7 && got.lowest < 0.9605 && got.highest > 1.0395);
    CHECK_NEAR(got.mean, 1, 6 * 0.02 / sqrt((double)got.n));
    CHECK_NEAR(got.variance, 0.773741 * 0.0004, 6 * 0.0004 * sqrt(1 / (double)got.n));
#undef INIT
    kd_model_free(m);
}

TEST(bad_initialisers)
{
    kd_model *m = defaults(NULL, 5);
    const struct { uint32_t init; float a, b; const char *text; } bad[] = {
        { 0, 0, 0, "init 0 is no KD_INIT_*" },
        { 12, 0, 0, "init 12 is no KD_INIT_*" },
        { KD_INIT_CONSTANT, NAN, 0, "must be finite" },
        { KD_INIT_NORMAL, 0, INFINITY, "must be finite" },
        { KD_INIT_UNIFORM, 1, 0, "uniform from 1 to 0" },
        { KD_INIT_NORMAL, 0, -1, "standard deviation -1 is negative" },
        { KD_INIT_TRUNC_NORMAL, 0, -1, "standard deviation -1 is negative" },
        { KD_INIT_KAIMING_NORMAL, 0, 2, "b 2: 0 (fan in) or 1 (fan out)" },
        { KD_INIT_XAVIER_UNIFORM, -1, 0, "gain -1 is negative" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_STATUS(kd_model_initialize(m, "*", bad[i].init, bad[i].a, bad[i].b, 1), KD_ERR_ARG);
        CHECK_ERROR_HAS(bad[i].text);
    }
    kd_model_free(m);
}

static uint64_t hash_named(kd_model *m, const char *name)
{
    kd_param_info info = { .struct_size = sizeof info };
    CHECK_OK(kd_model_find(m, name, &info));
    return kdtest_hash(kd_tensor_f32(info.tensor), kd_tensor_count(info.tensor) * sizeof(float));
}

TEST(streams_belong_to_names)
{
    kd_model *a = defaults(NULL, 5), *b = defaults(NULL, 5), *c = defaults(NULL, 6), *d = NULL;
    CHECK(hash_named(a, "conv.weight") == hash_named(b, "conv.weight"));
    CHECK(hash_named(a, "conv.weight") != hash_named(c, "conv.weight"));
    /* A model with other layers around it gives the same layer the same values; equal shapes differ. */
    CHECK_OK(kd_model_create(&d, NULL));
    kd_layer_linear(kd_model_root(d), "before", 40, 500, 1);
    kd_layer_linear(kd_model_root(d), "linear", 40, 500, 1);
    kd_layer_linear(kd_model_root(d), "after", 40, 500, 1);
    CHECK_OK(kd_model_finish(d, 5));
    CHECK(hash_named(d, "linear.weight") == hash_named(a, "linear.weight"));
    CHECK(hash_named(d, "linear.bias") == hash_named(a, "linear.bias"));
    CHECK(hash_named(d, "before.weight") != hash_named(d, "after.weight"));
    /* Initialising again what finish did gives the same. */
    CHECK_OK(kd_model_initialize(c, "linear.*", KD_INIT_FAN_IN_UNIFORM, 1, 0, 5));
    CHECK(hash_named(c, "linear.weight") == hash_named(a, "linear.weight"));
    CHECK(hash_named(c, "linear.bias") == hash_named(a, "linear.bias"));
    CHECK(hash_named(c, "conv.weight") != hash_named(a, "conv.weight"));
    kd_model_free(a);
    kd_model_free(b);
    kd_model_free(c);
    kd_model_free(d);
}

TEST(the_same_bits_on_any_threads_and_machine)
{
    for (uint32_t threads = 1; threads <= 4; threads++) {
        kd_context *ctx = kdtest_context(threads, KD_ISA_AUTO);
        kd_model *m = defaults(ctx, 2024);
        CHECK_MSG(hash_named(m, "conv.weight") == UINT64_C(0xd31efd748e6f309b), "uniform: 0x%llx",
                  (unsigned long long)hash_named(m, "conv.weight"));
        CHECK_MSG(hash_named(m, "embedding.weight") == UINT64_C(0x46badebd06bac52c), "normal: 0x%llx",
                  (unsigned long long)hash_named(m, "embedding.weight"));
        CHECK_OK(kd_model_initialize(m, "linear.weight", KD_INIT_TRUNC_NORMAL, 0, 1, 2024));
        CHECK_MSG(hash_named(m, "linear.weight") == UINT64_C(0xb838522cd66f418d), "truncated: 0x%llx",
                  (unsigned long long)hash_named(m, "linear.weight"));
        kd_model_free(m);
        kd_context_free(ctx);
    }
}
