/* test_grad_attention.c - multi-head attention: values, gradients, masks, shapes, what it refuses.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"
#include "ref_attention.h"
#include <math.h>

/* n: samples, tq, tk, heads, head width, causal, q = k = v in one tensor (1: side by side, 2: the same); p: scale (0: default) */
enum { SAMPLES, TQ, TK, HEADS, WIDTH, CAUSAL, JOINED };

static kd_tensor *build(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    kd_tensor *k = c->n[JOINED] == 1 ? NULL : c->n[JOINED] ? in[0] : in[1];
    kd_tensor *v = c->n[JOINED] == 1 ? NULL : c->n[JOINED] ? in[0] : in[2], *mask = c->n[JOINED] ? NULL : in[3];
    return kd_attention(tape, in[0], k, v, c->n[HEADS], (float)c->p[0], (int32_t)c->n[CAUSAL], mask);
}

static void ref(const grad_case *c, const double *const *in, double *out, double *size)
{
    const size_t d = c->n[HEADS] * c->n[WIDTH], row = c->n[JOINED] == 1 ? 3 * d : d, tq = c->n[TQ], tk = c->n[TK];
    const double *q = in[0], *k = c->n[JOINED] == 1 ? q + d : c->n[JOINED] ? q : in[1];
    const double *v = c->n[JOINED] == 1 ? q + 2 * d : c->n[JOINED] ? q : in[2];
    const double *mask = c->n[JOINED] || c->in[3].kind == GRAD_NULL ? NULL : in[3];
    const double scale = c->p[0] > 0 ? c->p[0] : 1 / sqrt((double)c->n[WIDTH]);
    for (size_t b = 0; b < c->n[SAMPLES]; b++)
        for (size_t h = 0; h < c->n[HEADS]; h++) {
            const size_t at = h * c->n[WIDTH], o = b * tq * d + at;
            ref_attention(tq, tk, c->n[WIDTH], q + b * tq * row + at, row, k + b * tk * row + at, v + b * tk * row + at, row, scale,
                          (int)c->n[CAUSAL], mask ? mask + b * tk : NULL, out + o, size ? size + o : NULL, d);
        }
}

/* Units, of sum p |v| times the size of a score: the score's own roundings (width + 2) twice, once in p and once in the sum that p is
 * divided by; the softmax's 9 (test_grad_softmax.c); a rounding for each key of the product with v. */
#define UNITS(width, keys) (2 * ((width) + 2) + 9 + (keys))
#define QKV(n_, tq, tk, d) { GRAD_IN(n_, tq, d) }, { GRAD_IN(n_, tk, d) }, { GRAD_IN(n_, tk, d) }
#define NO_MASK { .kind = GRAD_NULL }

TEST(attention)
{
    static const double masks[] = { 0, 0, -INFINITY, 0, -INFINITY, -INFINITY, 0, 0, 0, 0 };
    static const double biases[] = { 0.5, -1, 2, 0, 1 };
    static const grad_case cases[] = {
        { GRAD_CASE(attention, "heads"), build, ref, .units = UNITS(4, 5), .n = { 2, 3, 5, 3, 4 },
          .in = { QKV(2, 3, 5, 12), NO_MASK }, .in_count = 4, .out = GRAD_SHAPE(2, 3, 12) },
        { GRAD_CASE(attention, "one head, scale"), build, ref, .p = { 0.25 }, .units = UNITS(6, 4), .n = { 1, 7, 4, 1, 6 },
          .in = { QKV(1, 7, 4, 6), NO_MASK }, .in_count = 4, .out = GRAD_SHAPE(1, 7, 6) },
        { GRAD_CASE(attention, "padding"), build, ref, .units = UNITS(3, 5), .n = { 2, 4, 5, 2, 3 },
          .in = { QKV(2, 4, 5, 6), { GRAD_IN(2, 5), .values = masks, .constant = 1 } }, .out = GRAD_SHAPE(2, 4, 6) },
        { GRAD_CASE(attention, "added to the scores"), build, ref, .units = UNITS(3, 5) + 4, .n = { 1, 4, 5, 2, 3 },
          .in = { QKV(1, 4, 5, 6), { GRAD_IN(1, 5), .values = biases, .constant = 1 } }, .out = GRAD_SHAPE(1, 4, 6) },
        { GRAD_CASE(attention, "causal"), build, ref, .units = UNITS(3, 6), .n = { 2, 6, 6, 2, 3, 1 },
          .in = { QKV(2, 6, 6, 6), NO_MASK }, .in_count = 4, .out = GRAD_SHAPE(2, 6, 6) },
        { GRAD_CASE(attention, "causal, more queries than keys"), build, ref, .units = UNITS(2, 4), .n = { 1, 7, 4, 2, 2, 1 },
          .in = { QKV(1, 7, 4, 4), NO_MASK }, .in_count = 4, .out = GRAD_SHAPE(1, 7, 4) },
        { GRAD_CASE(attention, "side by side"), build, ref, .units = UNITS(4, 5), .n = { 2, 5, 5, 3, 4, 0, 1 },
          .in = { { GRAD_IN(2, 5, 36) } }, .out = GRAD_SHAPE(2, 5, 12) },
        { GRAD_CASE(attention, "one tensor three times"), build, ref, .units = UNITS(4, 5), .n = { 2, 5, 5, 2, 4, 0, 2 },
          .in = { { GRAD_IN(2, 5, 8) } }, .out = GRAD_SHAPE(2, 5, 8), .not_strided = 1 },
        { GRAD_CASE(attention, "one key, one of each"), build, ref, .units = UNITS(1, 1), .n = { 1, 1, 1, 1, 1 },
          .in = { QKV(1, 1, 1, 1), NO_MASK }, .in_count = 4, .out = GRAD_SHAPE(1, 1, 1) },
        { GRAD_CASE(attention, "blocks of queries"), build, ref, .units = UNITS(2, 700), .n = { 1, 60, 700, 1, 2 },
          .in = { QKV(1, 60, 700, 2), NO_MASK }, .in_count = 4, .out = GRAD_SHAPE(1, 60, 2) },
        { GRAD_CASE(attention, "blocks, side by side, causal"), build, ref, .units = UNITS(3, 200), .n = { 1, 200, 200, 2, 3, 1, 1 },
          .in = { { GRAD_IN(1, 200, 18) } }, .out = GRAD_SHAPE(1, 200, 6) },
        { GRAD_CASE(attention, "no samples"), build, ref, .units = 9, .n = { 0, 3, 5, 3, 4 },
          .in = { QKV(0, 3, 5, 12), NO_MASK }, .in_count = 4, .out = GRAD_SHAPE(0, 3, 12) },
        { GRAD_CASE(attention, "no keys"), build, ref, .n = { 2, 3, 0, 2, 2 },
          .in = { QKV(2, 3, 0, 4), NO_MASK }, .in_count = 4, .out = GRAD_SHAPE(2, 3, 4) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* Scores far apart, and a sample whose keys are all padding: finite, and 0. */
TEST(extremes)
{
    enum { T = 6, D = 4 };
    float x[2 * T * 3 * D], mask[2 * T];
    kdtest_rand r = { 3 };
    kdtest_fill(&r, x, 2 * T * 3 * D, 100.0);
    for (size_t i = 0; i < 2 * T; i++) mask[i] = i < T ? 0 : -INFINITY;
    kd_tape *tape = NULL;
    if (!CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN))) return;
    kd_tensor *qkv = kd_requires_grad(tape, kd_tape_constant(tape, 3, (size_t[]){ 2, T, 3 * D }, x));
    kd_tensor *y = kd_attention(tape, qkv, NULL, NULL, 2, 1, 0, kd_tape_constant(tape, 2, (size_t[]){ 2, T }, mask));
    CHECK_OK(kd_backward(tape, kd_sum(tape, kd_square(tape, y), 0, 0)));
    const float *g = kd_grad(tape, qkv);
    for (size_t i = 0; g && i < 2 * T * 3 * D; i++) CHECK(isfinite(g[i]) && (i < T * 3 * D || g[i] == 0));
    for (size_t i = 0; i < 2 * T * D; i++) CHECK(isfinite(kd_tensor_f32(y)[i]) && (i < T * D || kd_tensor_f32(y)[i] == 0));
    kd_tape_free(tape);
}

/* Scores of a long sequence are never there together: all memory of forward and backward is below half of theirs. */
TEST(long_sequence)
{
    enum { T = 2048, D = 16 };
    kdtest_alloc memory = { 0 };
    kd_tape *tape;
    kdtest_alloc_begin(&memory, 1, KD_ISA_AUTO);
    if (!CHECK_OK(kd_tape_create(&tape, memory.ctx, KD_TAPE_TRAIN))) return;
    kd_tensor *qkv = kd_requires_grad(tape, kd_tape_tensor(tape, KD_F32, 3, (size_t[]){ 1, T, 3 * D }));
    CHECK_OK(kd_tensor_fill(qkv, 0.5f));
    CHECK_OK(kd_backward(tape, kd_mean(tape, kd_square(tape, kd_attention(tape, qkv, NULL, NULL, 1, 0, 0, NULL)), 0, 0)));
    kd_tape_free(tape);
    CHECK_MSG(memory.peak_bytes > T * 3 * D * sizeof(float) && memory.peak_bytes < (size_t)T * T * sizeof(float) / 2, "%zu bytes",
              memory.peak_bytes);
    kdtest_alloc_end(&memory);
}

#define REFUSED(q, k, v, heads, scale, mask, status, text)              \
    do {                                                                \
        kd_attention(tape, q, k, v, heads, scale, 0, mask);             \
        CHECK(kd_tape_status(tape) == status);                          \
        CHECK_ERROR_HAS(text);                                          \
        kd_tape_reset(tape);                                            \
    } while (0)
#define OF(...) kd_tape_tensor(tape, KD_F32, sizeof((size_t[]){ __VA_ARGS__ }) / sizeof(size_t), (size_t[]){ __VA_ARGS__ })

TEST(bad_input)
{
    kd_tape *tape = NULL;
    if (!CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN))) return;
    REFUSED(OF(3, 4), OF(3, 4), OF(3, 4), 1, 0, NULL, KD_ERR_SHAPE, "kd_attention: q [3, 4] is not [n, t, d]");
    REFUSED(OF(1, 3, 4), OF(1, 2, 4), NULL, 1, 0, NULL, KD_ERR_ARG, "v is NULL and k is not");
    REFUSED(OF(1, 3, 4), OF(1, 2, 4), OF(1, 3, 4), 1, 0, NULL, KD_ERR_SHAPE, "k [1, 2, 4], v [1, 3, 4]: want");
    REFUSED(OF(1, 3, 4), OF(2, 2, 4), OF(2, 2, 4), 1, 0, NULL, KD_ERR_SHAPE, "k [2, 2, 4]");
    REFUSED(OF(1, 3, 4), OF(1, 2, 4), OF(1, 2, 4), 3, 0, NULL, KD_ERR_SHAPE, "q [1, 3, 4]: 3 heads do not divide its width");
    REFUSED(OF(1, 3, 4), OF(1, 2, 4), OF(1, 2, 4), 0, 0, NULL, KD_ERR_SHAPE, "0 heads");
    REFUSED(OF(1, 3, 8), NULL, NULL, 2, 0, NULL, KD_ERR_SHAPE, "2 heads do not divide its three parts");
    REFUSED(OF(1, 3, 4), OF(1, 2, 4), OF(1, 2, 4), 2, -1, NULL, KD_ERR_ARG, "scale -1");
    REFUSED(OF(1, 3, 4), OF(1, 2, 4), OF(1, 2, 4), 2, NAN, NULL, KD_ERR_ARG, "scale nan");
    REFUSED(OF(1, 3, 4), OF(1, 2, 4), OF(1, 2, 4), 2, 0, OF(1, 3), KD_ERR_SHAPE, "mask [1, 3]: want [1, 2]");
    kd_tape_free(tape);
}
