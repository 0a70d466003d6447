/* test_grad_rnn.c - LSTM and GRU, forward and backward, every output; what they refuse.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"
#include "ref_rnn.h"
#include <math.h>
#include <stdlib.h>

/* n: sizes, direction, and what of the op is the result: the states y, the last h or c alone, or y + h_n + c_n. */
enum { N, T, IN, HIDDEN, REVERSE, RESULT };
enum { STATES, LAST_H, LAST_C, ALL };

static kd_tensor *result(kd_tape *tape, kd_tensor *y, kd_tensor *h_n, kd_tensor *c_n, const grad_case *c)
{
    const size_t row[] = { c->n[N], 1, c->n[HIDDEN] };
    if (c->n[RESULT] == LAST_H) return h_n;
    if (c->n[RESULT] == LAST_C) return c_n;
    if (c->n[RESULT] == ALL) y = kd_add(tape, y, kd_reshape(tape, h_n, 3, row));
    return c->n[RESULT] == ALL && c_n ? kd_add(tape, y, kd_reshape(tape, c_n, 3, row)) : y;
}

static kd_tensor *build_lstm(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    kd_tensor *h_n, *c_n;
    kd_tensor *y = kd_lstm(tape, in[0], in[1], in[2], in[3], in[4], in[5], in[6], (int32_t)c->n[REVERSE], &h_n, &c_n);
    return result(tape, y, h_n, c_n, c);
}

static kd_tensor *build_gru(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    kd_tensor *h_n;
    kd_tensor *y = kd_gru(tape, in[0], in[1], in[2], in[3], in[4], in[5], (int32_t)c->n[REVERSE], &h_n);
    return result(tape, y, h_n, NULL, c);
}

static const double *given(const grad_case *c, const double *const *in, size_t i)
{
    return c->in[i].kind == GRAD_NULL ? NULL : in[i];
}

static void reference(const grad_case *c, const double *const *in, double *out, double *size, int lstm)
{
    const size_t states = c->n[N] * c->n[T] * c->n[HIDDEN], last = c->n[N] * c->n[HIDDEN], w = lstm ? 3 : 2;
    double *memory = calloc(states + 2 * last + 1, sizeof *memory);
    if (!memory) abort();
    ref_rnn r = { c->n[N], c->n[T], c->n[IN], c->n[HIDDEN], (int)c->n[REVERSE], in[0], given(c, in, 1),
                  lstm ? given(c, in, 2) : NULL, in[w], in[w + 1], given(c, in, w + 2), given(c, in, w + 3),
                  memory, memory + states, memory + states + last };
    (lstm ? ref_lstm : ref_gru)(&r);
    const double *from = c->n[RESULT] == LAST_H ? r.h_n : c->n[RESULT] == LAST_C ? r.c_n : r.y;
    for (size_t i = 0; i < grad_count(&c->out); i++) {
        out[i] = from[i];
        if (c->n[RESULT] == ALL) {
            const size_t unit = i / (c->n[T] * c->n[HIDDEN]) * c->n[HIDDEN] + i % c->n[HIDDEN];
            out[i] += r.h_n[unit] + r.c_n[unit];
        }
        if (size) size[i] = 1 + fabs(out[i]);   /* states are sums of terms near 1 */
    }
    free(memory);
}

static void ref_case_lstm(const grad_case *c, const double *const *in, double *out, double *size)
{
    reference(c, in, out, size, 1);
}

static void ref_case_gru(const grad_case *c, const double *const *in, double *out, double *size)
{
    reference(c, in, out, size, 0);
}

#define W(...) { GRAD_IN(__VA_ARGS__), .hi = 0.5 }
#define NONE { .kind = GRAD_NULL }
#define LSTM(label) GRAD_CASE(lstm, label), .build = build_lstm, .ref = ref_case_lstm, .in_count = 7
#define GRU(label) GRAD_CASE(gru, label), .build = build_gru, .ref = ref_case_gru, .in_count = 6

TEST(lstm)
{
    static const grad_case cases[] = {
        { GRAD_CASE(lstm, "every operand, every output"), build_lstm, ref_case_lstm, .units = 8, .n = { 3, 4, 5, 6, 0, ALL },
          .in = { W(3, 4, 5), W(3, 6), W(3, 6), W(5, 24), W(6, 24), W(24), W(24) }, .out = GRAD_SHAPE(3, 4, 6) },
        { LSTM("states, no first state"), .units = 8, .n = { 2, 5, 3, 17, 0, STATES },
          .in = { W(2, 5, 3), NONE, NONE, W(3, 68), W(17, 68), W(68), W(68) }, .out = GRAD_SHAPE(2, 5, 17) },
        { LSTM("reversed, every output"), .units = 8, .n = { 3, 4, 5, 6, 1, ALL },
          .in = { W(3, 4, 5), W(3, 6), W(3, 6), W(5, 24), W(6, 24), W(24), W(24) }, .out = GRAD_SHAPE(3, 4, 6) },
        { LSTM("last h alone, no biases"), .units = 8, .n = { 3, 4, 5, 6, 0, LAST_H },
          .in = { W(3, 4, 5), W(3, 6), W(3, 6), W(5, 24), W(6, 24), NONE, NONE }, .out = GRAD_SHAPE(3, 6) },
        { LSTM("last c alone, one bias, reversed"), .units = 8, .n = { 3, 4, 5, 6, 1, LAST_C },
          .in = { W(3, 4, 5), NONE, W(3, 6), W(5, 24), W(6, 24), NONE, W(24) }, .out = GRAD_SHAPE(3, 6) },
        { LSTM("the other bias, only h0"), .units = 8, .n = { 1, 3, 2, 4, 0, STATES },
          .in = { W(1, 3, 2), W(1, 4), NONE, W(2, 16), W(4, 16), W(16), NONE }, .out = GRAD_SHAPE(1, 3, 4) },
        { LSTM("one step"), .units = 8, .n = { 4, 1, 3, 5, 0, ALL },
          .in = { W(4, 1, 3), W(4, 5), W(4, 5), W(3, 20), W(5, 20), W(20), W(20) }, .out = GRAD_SHAPE(4, 1, 5) },
        { LSTM("saturated gates"), .units = 16, .n = { 2, 3, 3, 4, 0, ALL },
          .in = { { GRAD_IN(2, 3, 3), .hi = 4 }, W(2, 4), W(2, 4), { GRAD_IN(3, 16), .hi = 2 }, W(4, 16), W(16), W(16) },
          .out = GRAD_SHAPE(2, 3, 4) },
        { LSTM("large enough for threads"), .units = 24, .n = { 70, 2, 20, 130, 0, STATES },
          .in = { W(70, 2, 20), NONE, NONE, { GRAD_IN(20, 520), .hi = 0.2 }, { GRAD_IN(130, 520), .hi = 0.1 }, W(520), W(520) },
          .out = GRAD_SHAPE(70, 2, 130) },
        { LSTM("no steps: the first state is the last"), .units = 1, .n = { 2, 0, 3, 4, 0, LAST_H },
          .in = { W(2, 0, 3), W(2, 4), NONE, W(3, 16), W(4, 16), W(16), W(16) }, .out = GRAD_SHAPE(2, 4) },
        { LSTM("no samples"), .units = 1, .n = { 0, 3, 3, 4, 1, STATES },
          .in = { W(0, 3, 3), NONE, NONE, W(3, 16), W(4, 16), W(16), W(16) }, .out = GRAD_SHAPE(0, 3, 4) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

TEST(gru)
{
    static const grad_case cases[] = {
        { GRAD_CASE(gru, "every operand, every output"), build_gru, ref_case_gru, .units = 8, .n = { 3, 4, 5, 6, 0, ALL },
          .in = { W(3, 4, 5), W(3, 6), W(5, 18), W(6, 18), W(18), W(18) }, .out = GRAD_SHAPE(3, 4, 6) },
        { GRU("states, no first state"), .units = 8, .n = { 2, 5, 3, 17, 0, STATES },
          .in = { W(2, 5, 3), NONE, W(3, 51), W(17, 51), W(51), W(51) }, .out = GRAD_SHAPE(2, 5, 17) },
        { GRU("reversed, every output"), .units = 8, .n = { 3, 4, 5, 6, 1, ALL },
          .in = { W(3, 4, 5), W(3, 6), W(5, 18), W(6, 18), W(18), W(18) }, .out = GRAD_SHAPE(3, 4, 6) },
        { GRU("last h alone, no biases"), .units = 8, .n = { 3, 4, 5, 6, 0, LAST_H },
          .in = { W(3, 4, 5), W(3, 6), W(5, 18), W(6, 18), NONE, NONE }, .out = GRAD_SHAPE(3, 6) },
        { GRU("one bias, reversed"), .units = 8, .n = { 3, 4, 5, 6, 1, STATES },
          .in = { W(3, 4, 5), NONE, W(5, 18), W(6, 18), NONE, W(18) }, .out = GRAD_SHAPE(3, 4, 6) },
        { GRU("the other bias, one step"), .units = 8, .n = { 4, 1, 3, 5, 0, ALL },
          .in = { W(4, 1, 3), W(4, 5), W(3, 15), W(5, 15), W(15), NONE }, .out = GRAD_SHAPE(4, 1, 5) },
        { GRU("large enough for threads"), .units = 24, .n = { 70, 2, 20, 130, 0, STATES },
          .in = { W(70, 2, 20), NONE, { GRAD_IN(20, 390), .hi = 0.2 }, { GRAD_IN(130, 390), .hi = 0.1 }, W(390), W(390) },
          .out = GRAD_SHAPE(70, 2, 130) },
        { GRU("no steps: the first state is the last"), .units = 1, .n = { 2, 0, 3, 4, 0, LAST_H },
          .in = { W(2, 0, 3), W(2, 4), W(3, 12), W(4, 12), W(12), W(12) }, .out = GRAD_SHAPE(2, 4) },
        { GRU("no samples"), .units = 1, .n = { 0, 3, 3, 4, 1, STATES },
          .in = { W(0, 3, 3), NONE, W(3, 12), W(4, 12), W(12), W(12) }, .out = GRAD_SHAPE(0, 3, 4) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

static kd_tensor *zeros(kd_tape *tape, size_t rank, const size_t *shape)
{
    kd_tensor *x = kd_tape_tensor(tape, KD_F32, rank, shape);
    if (kd_tensor_fill(x, 0) != KD_OK) CHECK(0);
    return x;
}
#define ZEROS(...) zeros(tape, sizeof((size_t[]){ __VA_ARGS__ }) / sizeof(size_t), (size_t[]){ __VA_ARGS__ })
#define REFUSED(expr, status, text)                         \
    do {                                                    \
        (void)(expr);                                       \
        CHECK_STATUS(kd_tape_status(tape), status);         \
        CHECK_ERROR_HAS(text);                              \
        kd_tape_reset(tape);                                \
    } while (0)
#define LSTM_OF(x, h0, c0, ih, hh, b, b2) kd_lstm(tape, x, h0, c0, ih, hh, b, b2, 0, NULL, NULL)

TEST(refused)
{
    kd_tape *tape;
    kd_tensor *h_n = NULL, *c_n = NULL;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    REFUSED(LSTM_OF(ZEROS(4, 5), NULL, NULL, ZEROS(5, 24), ZEROS(6, 24), NULL, NULL), KD_ERR_SHAPE,
            "kd_lstm: x [4, 5] is not [n, t, in] (op 1)");
    REFUSED(LSTM_OF(ZEROS(3, 4, 5), NULL, NULL, ZEROS(5, 24), ZEROS(6, 23), NULL, NULL), KD_ERR_SHAPE,
            "kd_lstm: weight_hh [6, 23] is not [hidden, 4 hidden]");
    REFUSED(LSTM_OF(ZEROS(3, 4, 5), NULL, NULL, ZEROS(6, 24), ZEROS(6, 24), NULL, NULL), KD_ERR_SHAPE,
            "kd_lstm: weight_ih [6, 24] does not fit: want [5, 24]");
    REFUSED(LSTM_OF(ZEROS(3, 4, 5), NULL, NULL, ZEROS(5, 24), ZEROS(6, 24), ZEROS(6), NULL), KD_ERR_SHAPE,
            "kd_lstm: bias_ih [6] does not fit: want [24]");
    REFUSED(LSTM_OF(ZEROS(3, 4, 5), NULL, NULL, ZEROS(5, 24), ZEROS(6, 24), NULL, ZEROS(24, 1)), KD_ERR_SHAPE,
            "kd_lstm: bias_hh [24, 1] does not fit: want [24]");
    REFUSED(LSTM_OF(ZEROS(3, 4, 5), ZEROS(4, 6), NULL, ZEROS(5, 24), ZEROS(6, 24), NULL, NULL), KD_ERR_SHAPE,
            "kd_lstm: h0 [4, 6] does not fit: want [3, 6]");
    REFUSED(LSTM_OF(ZEROS(3, 4, 5), NULL, ZEROS(3, 5), ZEROS(5, 24), ZEROS(6, 24), NULL, NULL), KD_ERR_SHAPE,
            "kd_lstm: c0 [3, 5] does not fit: want [3, 6]");
    REFUSED(LSTM_OF(ZEROS(3, 4, 5), NULL, NULL, NULL, ZEROS(6, 24), NULL, NULL), KD_ERR_ARG, "kd_lstm: input 4");
    REFUSED(kd_gru(tape, ZEROS(3, 4, 5), NULL, ZEROS(5, 24), ZEROS(6, 24), NULL, NULL, 0, NULL), KD_ERR_SHAPE,
            "kd_gru: weight_hh [6, 24] is not [hidden, 3 hidden]");
    REFUSED(kd_gru(tape, ZEROS(3, 4, 5), ZEROS(3, 5), ZEROS(5, 18), ZEROS(6, 18), NULL, NULL, 0, NULL), KD_ERR_SHAPE,
            "kd_gru: h0 [3, 5] does not fit: want [3, 6]");
    /* the states are poison too, so what is made of them is */
    kd_lstm(tape, ZEROS(4, 5), NULL, NULL, ZEROS(5, 24), ZEROS(6, 24), NULL, NULL, 0, &h_n, &c_n);
    CHECK(h_n != NULL && c_n != NULL);
    kd_add(tape, h_n, c_n);
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_SHAPE);
    kd_tape_free(tape);
    kd_lstm(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, &h_n, &c_n);
    CHECK_ERROR_HAS("kd_lstm: tape is NULL");
}

TEST(multiply_adds)
{
    kd_tape *tape;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    LSTM_OF(ZEROS(3, 4, 5), NULL, NULL, ZEROS(5, 24), ZEROS(6, 24), NULL, NULL);
    CHECK(kd_tape_multiply_adds(tape) == 3 * 4 * 24 * (5 + 6));
    kd_gru(tape, ZEROS(3, 4, 5), NULL, ZEROS(5, 18), ZEROS(6, 18), NULL, NULL, 0, NULL);
    CHECK(kd_tape_multiply_adds(tape) == 3 * 4 * (24 + 18) * (5 + 6));
    kd_tape_free(tape);
}
