/* test_golden_rnn.c - LSTM and GRU, two layers in both directions, against PyTorch: names and order of the parameters, states, every
 * gradient.
 * SPDX-License-Identifier: MIT
 *
 * Tolerance: a state is behind 2 layers of STEPS steps, each a sum of up to 3 HIDDEN products and a few dozen roundings of gates that
 * shrink what enters them; the gradients go the same way back. */
#include "golden_rnn.h"

enum { CHAIN = 2 * STEPS * (3 * HIDDEN + 24) };

static void check(kd_context *ctx, int lstm)
{
    const double *states = lstm ? lstm_states : gru_states;
    const probe *grads = lstm ? lstm_grads : gru_grads;
    const size_t count = sizeof lstm_grads / sizeof *lstm_grads - 1;
    kd_model *m = NULL;
    kd_tape *tape = NULL;
    kd_rnn_desc desc;
    float in[BATCH * STEPS * IN], w[BATCH * STEPS * 2 * HIDDEN];
    const size_t shape[] = { BATCH, STEPS, IN }, out[] = { BATCH, STEPS, 2 * HIDDEN };
    kd_rnn_desc_init(&desc, sizeof desc);
    desc.layers = 2;
    desc.bidirectional = 1;
    CHECK_OK(kd_model_create(&m, ctx));
    (lstm ? kd_layer_lstm : kd_layer_gru)(kd_model_root(m), "rnn", IN, HIDDEN, &desc);
    CHECK_OK(kd_model_finish(m, 1));
    if (!CHECK(kd_model_parameter_count(m) == count)) return;
    for (uint32_t s = 0; s < count; s++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(m, s, &info));
        CHECK_STR(info.name + strlen("rnn."), grads[s].name);
        for (uint32_t i = 0; i < kd_tensor_count(info.tensor); i++) kd_tensor_f32(info.tensor)[i] = (float)(number(s, i) * 1.5);
    }
    kd_model_touch(m);
    for (uint32_t i = 0; i < sizeof in / sizeof *in; i++) in[i] = (float)(number(1000, i) * 4);
    for (uint32_t i = 0; i < sizeof w / sizeof *w; i++) w[i] = (float)number(1001, i);

    CHECK_OK(kd_tape_create(&tape, ctx, KD_TAPE_TRAIN));
    kd_tensor *x = kd_requires_grad(tape, kd_tape_constant(tape, 3, shape, in));
    kd_tensor *y = kd_model_forward(m, tape, x);
    CHECK(kd_tensor_count(y) == BATCH * STEPS * 2 * HIDDEN && kd_tensor_size(y, 2) == 2 * HIDDEN);
    for (size_t i = 0; i < kd_tensor_count(y); i++) CHECK_NEAR((double)kd_tensor_f32(y)[i], states[i], CHAIN * U);
    y = kd_mul(tape, y, kd_tape_constant(tape, 3, out, w));
    CHECK_OK(kd_backward(tape, kd_sum(tape, y, 0, 0)));
    for (uint32_t i = 0; i < count; i++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(m, i, &info));
        check_probe(&grads[i], info.grad, kd_tensor_count(info.tensor), 3000 + i, 2 * CHAIN);
    }
    check_probe(&grads[count], kd_grad(tape, x), BATCH * STEPS * IN, 3100, 2 * CHAIN);
    kd_tape_free(tape);
    kd_model_free(m);
}

static void every_isa(int lstm)
{
    uint32_t isas[5];
    for (size_t i = 0, count = kdtest_isas(isas); i < count; i++) {
        kd_context *ctx = kdtest_context(1 + (uint32_t)i % 2, isas[i]);
        check(ctx, lstm);
        kd_context_free(ctx);
    }
}
TEST(lstm) { every_isa(1); }
TEST(gru) { every_isa(0); }
