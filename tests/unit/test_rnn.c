/* test_rnn.c - the layers lstm, gru and last_step: parameters, the ops they stand for, errors, files.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "kdtest_tools.h"
#include <math.h>

enum { BATCH = 3, STEPS = 5, IN = 4, HIDDEN = 6 };

static kd_model *make(int lstm, uint32_t layers, uint32_t bidirectional, uint32_t bias, float dropout)
{
    kd_model *m = NULL;
    kd_rnn_desc desc;
    kd_rnn_desc_init(&desc, sizeof desc);
    CHECK(desc.layers == 1 && desc.bidirectional == 0 && desc.bias == 1 && desc.dropout == 0.0f);
    desc.layers = layers;
    desc.bidirectional = bidirectional;
    desc.bias = bias;
    desc.dropout = dropout;
    CHECK_OK(kd_model_create(&m, NULL));
    (lstm ? kd_layer_lstm : kd_layer_gru)(kd_model_root(m), "rnn", IN, HIDDEN, &desc);
    CHECK_OK(kd_model_finish(m, 5));
    return m;
}

static kd_tensor *input(void)
{
    kd_tensor *x = NULL;
    kdtest_rand r = { 17 };
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, 3, (size_t[]){ BATCH, STEPS, IN }));
    kdtest_fill(&r, kd_tensor_f32(x), BATCH * STEPS * IN, 1);
    return x;
}

static kd_tensor *param(const kd_model *m, const char *name)
{
    kd_param_info info = { .struct_size = sizeof info };
    char path[64];
    snprintf(path, sizeof path, "rnn.%s", name);
    return kd_model_find(m, path, &info) == KD_OK ? info.tensor : NULL;
}

static void check_same(const kd_tensor *got, const kd_tensor *want, const char *what)
{
    const size_t n = kd_tensor_count(want);
    CHECK_MSG(kd_tensor_data(got) && kd_tensor_data(want) && kd_tensor_count(got) == n && n &&
                  memcmp(kd_tensor_data(got), kd_tensor_data(want), n * sizeof(float)) == 0, "%s: %s", what, kd_last_error());
}

TEST(parameters_are_named_ordered_and_started_as_in_pytorch)
{
    static const char *const names[] = { "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_ih_l0_reverse",
                                         "weight_hh_l0_reverse", "bias_ih_l0_reverse", "bias_hh_l0_reverse", "weight_ih_l1" };
    kd_model *m = make(1, 2, 1, 1, 0);
    const double bound = 1 / sqrt(HIDDEN);
    CHECK(kd_model_parameter_count(m) == 16);
    for (size_t i = 0; i < 16; i++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(m, i, &info));
        if (i < sizeof names / sizeof *names) CHECK_STR(info.name + strlen("rnn."), names[i]);
        CHECK(info.kind == (i % 4 < 2 ? KD_PARAM_LINEAR : KD_PARAM_PLAIN));
        const size_t rank = kd_tensor_rank(info.tensor), rows = i % 4 == 1 ? HIDDEN : i < 8 ? IN : 2 * HIDDEN;
        CHECK(rank == (i % 4 < 2 ? 2 : 1) && kd_tensor_size(info.tensor, rank - 1) == 4 * HIDDEN);
        if (rank == 2) CHECK(kd_tensor_size(info.tensor, 0) == rows);
        double largest = 0;
        for (size_t j = 0; j < kd_tensor_count(info.tensor); j++) largest = fmax(largest, fabs((double)kd_tensor_f32(info.tensor)[j]));
        CHECK(largest <= bound * (1 + 1e-6) && largest > 0.8 * bound);
    }
    kd_model_free(m);
    m = make(0, 1, 0, 0, 0);
    CHECK(kd_model_parameter_count(m) == 2 && param(m, "weight_hh_l0") && !param(m, "bias_ih_l0"));
    CHECK(kd_model_size(m) == (IN + HIDDEN) * 3 * HIDDEN);
    kd_model_free(m);
}

/* One run by the op, with the parameters that end in `suffix`. */
static kd_tensor *by_op(kd_tape *t, const kd_model *m, kd_tensor *x, int lstm, const char *suffix)
{
    static const char *const what[] = { "weight_ih", "weight_hh", "bias_ih", "bias_hh" };
    kd_tensor *p[4];
    for (size_t i = 0; i < 4; i++) {
        char name[48];
        snprintf(name, sizeof name, "%s_%s", what[i], suffix);
        p[i] = param(m, name);
    }
    const int32_t reverse = strstr(suffix, "_reverse") != NULL;
    if (lstm) return kd_lstm(t, x, NULL, NULL, p[0], p[1], p[2], p[3], reverse, NULL, NULL);
    return kd_gru(t, x, NULL, p[0], p[1], p[2], p[3], reverse, NULL);
}

TEST(a_stack_is_its_ops)
{
    for (uint32_t lstm = 0; lstm < 2; lstm++)
        for (uint32_t bias = 0; bias < 2; bias++)
            for (uint32_t both = 0; both < 2; both++)
                for (uint32_t mode = KD_TAPE_TRAIN; mode <= KD_TAPE_EVAL; mode++) {
                    kd_model *m = make((int)lstm, 2, both, bias, 0.25f);
                    kd_tensor *x = input(), *y = x;
                    kd_tape *t, *again;
                    CHECK_OK(kd_tape_create(&t, NULL, mode));
                    CHECK_OK(kd_tape_create(&again, NULL, mode));
                    kd_tape_seed(t, 9);
                    kd_tape_seed(again, 9);
                    for (int layer = 0; layer < 2; layer++) {
                        if (layer) y = kd_dropout(again, y, 0.25f);
                        kd_tensor *in = y;
                        y = by_op(again, m, in, (int)lstm, layer ? "l1" : "l0");
                        if (both) {
                            kd_tensor *back = by_op(again, m, in, (int)lstm, layer ? "l1_reverse" : "l0_reverse");
                            y = kd_concat(again, (kd_tensor *[]){ y, back }, 2, 2);
                        }
                    }
                    for (int k = 0; k < 2; k++) {   /* a second forward finds the same memory */
                        kd_tape_reset(t);
                        kd_tape_seed(t, 9);
                        check_same(kd_model_forward(m, t, x), y, lstm ? "lstm" : "gru");
                        CHECK_OK(kd_tape_status(t));
                    }
                    kd_tape_free(t);
                    kd_tape_free(again);
                    kd_tensor_free(x);
                    kd_model_free(m);
                }
}

TEST(a_sequence_classifier)
{
    kd_model *m = NULL;
    kd_tape *t = NULL;
    kd_tensor *x = input();
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer *root = kd_model_root(m);
    kd_layer_gru(root, "rnn", IN, HIDDEN, NULL);
    kd_layer_last_step(root, "last");
    kd_layer_linear(root, "fc", HIDDEN, 2, 1);
    CHECK_OK(kd_model_finish(m, 1));
    CHECK_OK(kd_model_tap(m, "rnn"));
    CHECK_OK(kd_model_tap(m, "last"));
    for (uint32_t mode = KD_TAPE_TRAIN; mode <= KD_TAPE_EVAL; mode++) {
        CHECK_OK(kd_tape_create(&t, NULL, mode));
        kd_tensor *y = kd_model_forward(m, t, x), *states = kd_model_tapped(m, t, "rnn"), *last = kd_model_tapped(m, t, "last");
        CHECK(kd_tensor_rank(y) == 2 && kd_tensor_size(y, 0) == BATCH && kd_tensor_size(y, 1) == 2);
        CHECK(kd_tensor_rank(last) == 2 && kd_tensor_size(last, 1) == HIDDEN);
        for (size_t i = 0; i < BATCH * HIDDEN && kd_tensor_f32(last) && kd_tensor_f32(states); i++)
            CHECK(kd_tensor_f32(last)[i] == kd_tensor_f32(states)[(i / HIDDEN * STEPS + STEPS - 1) * HIDDEN + i % HIDDEN]);
        CHECK_OK(kd_tape_status(t));
        kd_tape_free(t);
    }
    char text[4096];
    CHECK(kd_model_summary(m, 3, (size_t[]){ BATCH, STEPS, IN }, text, sizeof text) > 0);
    CHECK(strstr(text, "gru") && strstr(text, "last_step"));
    kd_tensor_free(x);
    kd_model_free(m);
}

TEST(saved_and_loaded)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/rnn.safetensors", kdtest_tmp());
    kd_model *a = make(1, 2, 1, 1, 0), *b = make(1, 2, 1, 1, 0);
    size_t n;
    float *w = kd_model_weights(b, &n);
    CHECK_OK(kd_model_initialize(b, "*", KD_INIT_ZEROS, 0, 0, 1));
    CHECK_OK(kd_model_save(a, path));
    CHECK_OK(kd_model_load(b, path, KD_LOAD_STRICT));
    CHECK(memcmp(w, kd_model_weights(a, &n), n * sizeof *w) == 0);
    kd_model_free(b);
    b = make(1, 1, 1, 1, 0);
    CHECK_STATUS(kd_model_load(b, path, KD_LOAD_STRICT), KD_ERR_FORMAT);
    CHECK_ERROR_HAS("unexpected: rnn.bias_hh_l1, rnn.bias_hh_l1_reverse");
    CHECK_OK(kd_model_load(b, path, KD_LOAD_EXTRA_OK));
    kd_model_free(a);
    kd_model_free(b);
}

#define REFUSED(build, text)                                              \
    do {                                                                  \
        kd_model *m = NULL;                                               \
        CHECK_OK(kd_model_create(&m, NULL));                              \
        kd_layer *root = kd_model_root(m);                                \
        (void)(build);                                                    \
        CHECK_STATUS(kd_model_finish(m, 1), KD_ERR_ARG);                  \
        CHECK_ERROR_HAS(text);                                            \
        kd_model_free(m);                                                 \
    } while (0)

TEST(refused)
{
    kd_rnn_desc desc;
    REFUSED(kd_layer_lstm(root, "rnn", 0, 6, NULL), "rnn: kd_layer_lstm: in 0, hidden 6: both must be at least 1");
    REFUSED(kd_layer_gru(root, "rnn", 4, 0, NULL), "rnn: kd_layer_gru: in 4, hidden 0: both must be at least 1");
    kd_rnn_desc_init(&desc, sizeof desc);
    desc.layers = 0;
    REFUSED(kd_layer_gru(root, "rnn", 4, 6, &desc), "rnn: kd_layer_gru: layers is 0");
    desc.layers = 2;
    desc.dropout = 1;
    REFUSED(kd_layer_lstm(root, "rnn", 4, 6, &desc), "rnn: kd_layer_lstm: dropout 1: must be in [0, 1)");
    desc.struct_size = 3;
    REFUSED(kd_layer_lstm(root, "rnn", 4, 6, &desc), "struct_size");

    kd_model *m = make(1, 1, 0, 1, 0);
    kd_tape *t = NULL;
    CHECK_OK(kd_tape_create(&t, NULL, KD_TAPE_INFER));
    kd_model_forward(m, t, kd_tape_constant(t, 2, (size_t[]){ 1, IN }, (float[IN]){ 0 }));
    CHECK_STATUS(kd_tape_status(t), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("rnn: kd_lstm: x [1, 4] is not [n, t, in]");
    kd_model_free(m);
    m = NULL;
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer_last_step(kd_model_root(m), "last");
    CHECK_OK(kd_model_finish(m, 1));
    kd_tape_reset(t);
    kd_model_forward(m, t, kd_tape_constant(t, 2, (size_t[]){ 1, IN }, (float[IN]){ 0 }));
    CHECK_STATUS(kd_tape_status(t), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("last: kd_layer_last_step: x [1, 4] is not [n, t, c] with a step");
    kd_tape_free(t);
    kd_model_free(m);
}
