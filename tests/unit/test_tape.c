/* test_tape.c - the tape: sticky errors, staleness, gradients of leaves and results, memory.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "autograd/tape_internal.h"
#include <math.h>
#include <stdlib.h>

#define SHAPE(...) sizeof((size_t[]){ __VA_ARGS__ }) / sizeof(size_t), (const size_t[]){ __VA_ARGS__ }

static kd_tape *tape_of(uint32_t mode)
{
    kd_tape *tape = NULL;
    CHECK_OK(kd_tape_create(&tape, NULL, mode));
    return tape;
}

/* y = k x elementwise and loss = sum of x, so that nothing here rests on other ops. */
static kd_status times_forward(const kd_tensor *const *in, size_t ins, kd_tensor *const *out, size_t outs, void *user)
{
    (void)ins;
    (void)outs;
    for (size_t i = 0; i < kd_tensor_count(in[0]); i++) kd_tensor_f32(out[0])[i] = *(float *)user * kd_tensor_f32(in[0])[i];
    return KD_OK;
}

static kd_status times_backward(const kd_tensor *const *in, size_t ins, const kd_tensor *const *out, size_t outs,
                                const float *const *dy, float *const *dx, void *user)
{
    (void)ins;
    (void)out;
    (void)outs;
    for (size_t i = 0; dx[0] && i < kd_tensor_count(in[0]); i++) dx[0][i] += *(float *)user * dy[0][i];
    return KD_OK;
}

static const kd_custom_op times_op = { sizeof times_op, "times", times_forward, times_backward };

static kd_tensor *times(kd_tape *tape, kd_tensor *x, float *k)
{
    kd_tensor *y = kd_tape_tensor(tape, KD_F32, kd_tensor_rank(x), (size_t[]){ kd_tensor_size(x, 0), kd_tensor_size(x, 1) });
    return kd_custom(tape, &times_op, &x, 1, &y, 1, k);
}

static kd_status total_forward(const kd_tensor *const *in, size_t ins, kd_tensor *const *out, size_t outs, void *user)
{
    double sum = 0;
    (void)outs;
    (void)user;
    for (size_t k = 0; k < ins; k++)
        for (size_t i = 0; i < kd_tensor_count(in[k]); i++) sum += (double)kd_tensor_f32(in[k])[i];
    kd_tensor_f32(out[0])[0] = (float)sum;
    return KD_OK;
}

static kd_status total_backward(const kd_tensor *const *in, size_t ins, const kd_tensor *const *out, size_t outs,
                                const float *const *dy, float *const *dx, void *user)
{
    (void)out;
    (void)outs;
    (void)user;
    for (size_t k = 0; k < ins; k++)
        for (size_t i = 0; dx[k] && i < kd_tensor_count(in[k]); i++) dx[k][i] += dy[0][0];
    return KD_OK;
}

static const kd_custom_op total_op = { sizeof total_op, "total", total_forward, total_backward };

static kd_tensor *total(kd_tape *tape, kd_tensor *const *x, size_t count)
{
    kd_tensor *y = kd_tape_tensor(tape, KD_F32, 0, NULL);
    return kd_custom(tape, &total_op, x, count, &y, 1, NULL);
}

static const float six[6] = { 1, 2, 3, 4, 5, 6 };
static float two = 2, three = 3;

/* ---- life --------------------------------------------------------------------------------------------------- */
TEST(create)
{
    kd_tape *tape = (kd_tape *)&tape;
    CHECK_STATUS(kd_tape_create(NULL, NULL, KD_TAPE_TRAIN), KD_ERR_ARG);
    CHECK_STATUS(kd_tape_create(&tape, NULL, 0), KD_ERR_ARG);
    CHECK(tape == NULL);
    CHECK_STATUS(kd_tape_create(&tape, NULL, 4), KD_ERR_ARG);
    CHECK_STATUS(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN | 32), KD_ERR_ARG);
    CHECK_ERROR_HAS("mode 33");
    tape = tape_of(KD_TAPE_EVAL | KD_TAPE_CHECK_FINITE);
    CHECK(kd_tape_mode(tape) == KD_TAPE_EVAL && kd_tape_status(tape) == KD_OK);
    CHECK(kd_tape_bytes(tape) > 0 && kd_tape_peak_bytes(tape) == 0 && kd_tape_multiply_adds(tape) == 0);
    kd_tape_free(tape);
    kd_tape_free(NULL);
}

TEST(no_tape)
{
    kd_tensor *x = kd_reshape(NULL, NULL, 0, NULL);
    CHECK(x != NULL);
    CHECK_ERROR_HAS("kd_reshape: tape is NULL");
    CHECK(isnan(kd_tensor_item(x)) && kd_tensor_f32(x) == NULL && kd_tensor_count(x) == 0);
    CHECK_ERROR_HAS("whose tape is NULL");
    CHECK(kd_tape_tensor(NULL, KD_F32, 0, NULL) && kd_tape_constant(NULL, 0, NULL, six) && kd_requires_grad(NULL, x));
    CHECK_STATUS(kd_backward(NULL, x), KD_ERR_ARG);
    CHECK(kd_grad(NULL, x) == NULL);
    CHECK_STATUS(kd_tape_status(NULL), KD_ERR_ARG);
    CHECK(kd_tape_mode(NULL) == 0 && kd_tape_bytes(NULL) == 0 && kd_tape_peak_bytes(NULL) == 0 &&
          kd_tape_multiply_adds(NULL) == 0);
    kd_tape_reset(NULL);
    kd_tape_seed(NULL, 1);
    kd_tape_set_rng(NULL, kd_tape_rng(NULL));
    /* its poison brings the reason along */
    kd_tape *tape = tape_of(KD_TAPE_TRAIN);
    kd_flatten(tape, x);
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_flatten: input 1 came from an op whose tape is NULL (op 1)");
    kd_tape_free(tape);
}

/* ---- the sticky error ------------------------------------------------------------------------------------------ */
TEST(sticky)
{
    kd_tape *tape = tape_of(KD_TAPE_TRAIN);
    kd_tensor *x = kd_requires_grad(tape, kd_tape_constant(tape, SHAPE(2, 3), six));
    kd_tensor *y = kd_flatten(tape, x);
    kd_tensor *bad = kd_reshape(tape, y, SHAPE(4));
    const char *text = "kd_reshape: 6 elements do not fill [4] (op 2)";
    CHECK_STR(kd_last_error(), text);
    CHECK(bad != NULL && kd_reshape(tape, x, SHAPE(5)) == bad && kd_flatten(tape, NULL) == bad &&
          kd_concat(tape, NULL, 40, 0) == bad);
    CHECK(kd_tape_tensor(tape, KD_F32, 0, NULL) == bad && kd_requires_grad(tape, x) == bad && times(tape, x, &two) == bad);
    CHECK_STR(kd_last_error(), text);   /* the first error wins */
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_SHAPE);
    CHECK(isnan(kd_tensor_item(bad)) && kd_tensor_count(bad) == 0 && kd_tensor_f32(bad) == NULL);
    CHECK_STR(kd_last_error(), text);   /* reading it says why */
    CHECK_STATUS(kd_tensor_fill(bad, 1), KD_ERR_SHAPE);
    CHECK(kd_tensor_rank(NULL) == 0);
    kd_tensor_get(NULL, NULL, NULL);    /* another error in between */
    CHECK_STATUS(kd_backward(tape, bad), KD_ERR_SHAPE);
    CHECK_STR(kd_last_error(), text);
    CHECK(kd_grad(tape, x) == NULL);
    kd_tape_reset(tape);
    CHECK_STATUS(kd_tape_status(tape), KD_OK);
    CHECK(kd_flatten(tape, kd_tape_constant(tape, SHAPE(2, 3), six)) != bad);
    /* poison of an earlier generation */
    kd_flatten(tape, bad);
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_STATE);
    CHECK_ERROR_HAS("kd_flatten: input 1 was made before kd_tape_reset (op 2)");
    kd_tape_free(tape);
}

TEST(poison_of_another_tape)
{
    kd_tape *look = tape_of(KD_TAPE_INFER), *learn = tape_of(KD_TAPE_TRAIN);
    kd_tensor *t = kd_reshape(look, kd_tape_constant(look, SHAPE(6), six), SHAPE(7));
    kd_tensor *s = kd_tape_constant(learn, SHAPE(6), six);
    kd_concat(learn, (kd_tensor *[]){ s, t }, 2, 0);
    CHECK_STATUS(kd_tape_status(learn), KD_ERR_SHAPE);
    CHECK_STATUS(kd_backward(learn, s), KD_ERR_SHAPE);
    CHECK_STR(kd_last_error(), "kd_reshape: 6 elements do not fill [7] (op 1)");
    kd_tape_reset(learn);
    CHECK(kd_backward(learn, t) == KD_ERR_SHAPE);
    CHECK_STATUS(kd_tape_status(learn), KD_OK);   /* a bad argument of kd_backward does not poison */
    kd_tape_free(look);
    kd_tape_free(learn);
}

TEST(inputs_refused)
{
    kd_tape *tape = tape_of(KD_TAPE_TRAIN);
    kd_tensor *labels = NULL, *parts[17], *y = kd_tape_tensor(tape, KD_F32, 0, NULL);
    CHECK_OK(kd_tensor_create(&labels, NULL, KD_I32, SHAPE(2, 2)));
    for (size_t i = 0; i < 17; i++) parts[i] = y;
#define REFUSED(call, status, text)                 \
    do {                                            \
        (void)(call);                               \
        CHECK_STATUS(kd_tape_status(tape), status); \
        CHECK_ERROR_HAS(text);                      \
        kd_tape_reset(tape);                        \
        y = kd_tape_tensor(tape, KD_F32, 0, NULL);  \
    } while (0)
    REFUSED(kd_flatten(tape, NULL), KD_ERR_ARG, "kd_flatten: input 1 is NULL (op 1)");
    REFUSED(kd_reshape(tape, labels, SHAPE(4)), KD_ERR_DTYPE, "kd_reshape: input 1 is i32, not f32 (op 1)");
    REFUSED(kd_reshape(tape, y, 9, NULL), KD_ERR_LIMIT, "kd_reshape: rank 9 is above 8 (op 1)");
    REFUSED(kd_flatten(tape, y), KD_ERR_SHAPE, "kd_flatten: x [] has no axis to keep (op 1)");
    REFUSED(kd_permute(tape, kd_tape_tensor(tape, KD_F32, SHAPE(2, 2)), NULL), KD_ERR_ARG, "kd_permute: perm is NULL (op 1)");
    REFUSED(kd_permute(tape, kd_tape_tensor(tape, KD_F32, SHAPE(2, 2)), (size_t[]){ 1, 1 }), KD_ERR_ARG,
            "[1, 1] is not an order");
    REFUSED(kd_slice(tape, y, 0, 0, 0), KD_ERR_ARG, "axis 0 of x []");
    REFUSED(kd_slice(tape, kd_tape_tensor(tape, KD_F32, SHAPE(3)), 0, 1, 4), KD_ERR_ARG, "[1, 4) of axis 0 of x [3]");
    REFUSED(kd_slice(tape, kd_tape_tensor(tape, KD_F32, SHAPE(3)), 0, 2, 1), KD_ERR_ARG, "[2, 1)");
    REFUSED(kd_concat(tape, NULL, 2, 0), KD_ERR_ARG, "kd_concat: 2 inputs");
    REFUSED(kd_concat(tape, parts, 0, 0), KD_ERR_ARG, "no parts");
    REFUSED(kd_concat(tape, (kd_tensor *[]){ y, y }, 2, 0), KD_ERR_ARG, "axis 0 of part 1 []");
    REFUSED(kd_concat(tape,
                      (kd_tensor *[]){ kd_tape_tensor(tape, KD_F32, SHAPE(2, 3)), kd_tape_tensor(tape, KD_F32, SHAPE(3, 3)) }, 2,
                      1),
            KD_ERR_SHAPE, "part 2 [3, 3] does not follow part 1 [2, 3] along axis 1");
    parts[16] = NULL;
    REFUSED(kd_concat(tape, parts, 17, 0), KD_ERR_ARG, "axis 0 of part 1 []");
    REFUSED(kd_pad(tape, kd_tape_tensor(tape, KD_F32, SHAPE(2)), (size_t[]){ SIZE_MAX }, NULL, 0), KD_ERR_OVERFLOW,
            "axis 0 of x [2]");
    REFUSED(kd_pad(tape, kd_tape_tensor(tape, KD_F32, SHAPE(2)), (size_t[]){ SIZE_MAX / 2 }, NULL, 0), KD_ERR_OVERFLOW,
            "kd_pad: shape");
    REFUSED(kd_dropout(tape, y, 1), KD_ERR_ARG, "kd_dropout: p 1 is outside [0, 1)");
    REFUSED(kd_dropout(tape, y, NAN), KD_ERR_ARG, "p nan");
    REFUSED(kd_embedding(tape, y, labels), KD_ERR_SHAPE, "table [] is not [n, d]");
    REFUSED(kd_embedding(tape, kd_tape_tensor(tape, KD_F32, SHAPE(2, 2)), y), KD_ERR_DTYPE, "ids are f32, not i32 or i64");
    CHECK_OK(kd_tensor_set(labels, (size_t[]){ 1, 0 }, 2));
    REFUSED(kd_embedding(tape, kd_tape_tensor(tape, KD_F32, SHAPE(2, 2)), labels), KD_ERR_RANGE,
            "kd_embedding: ids[1, 0] is 2, outside the table [2, 2] (op 1)");
    CHECK_OK(kd_tensor_set(labels, (size_t[]){ 1, 0 }, -1));
    REFUSED(kd_embedding(tape, kd_tape_tensor(tape, KD_F32, SHAPE(2, 2)), labels), KD_ERR_RANGE, "ids[1, 0] is -1");
    REFUSED(kd_tape_tensor(tape, (kd_dtype)9, 0, NULL), KD_ERR_DTYPE, "kd_tape_tensor: dtype 9 is unknown");
    REFUSED(kd_tape_tensor(tape, KD_F32, SHAPE(SIZE_MAX, 9)), KD_ERR_OVERFLOW, "kd_tape_tensor: shape");
    REFUSED(kd_tape_tensor(tape, KD_F32, SHAPE((size_t)1 << 60)), KD_ERR_NOMEM,
            "kd_tape_tensor: out of memory for f32 [1152921504606846976]");
    REFUSED(kd_tape_constant(tape, SHAPE(2), NULL), KD_ERR_ARG, "kd_tape_constant: data is NULL for [2]");
    REFUSED(kd_requires_grad(tape, NULL), KD_ERR_ARG, "kd_requires_grad: x is NULL");
    REFUSED(kd_requires_grad(tape, labels), KD_ERR_DTYPE, "kd_requires_grad: x is i32, not f32");
    kd_tensor_free(labels);
    kd_tape_free(tape);
}

/* ---- staleness --------------------------------------------------------------------------------------------------- */
TEST(stale)
{
    kd_tape *tape = tape_of(KD_TAPE_TRAIN), *other = tape_of(KD_TAPE_TRAIN);
    kd_tensor *x = kd_tape_constant(tape, SHAPE(2, 3), six), *view = NULL;
    CHECK_OK(kd_tensor_transpose(&view, x, NULL));
    CHECK(kd_tensor_count(view) == 6);
    kd_tape_reset(tape);
    CHECK(kd_tensor_rank(x) == 0 && kd_tensor_f32(x) == NULL && isnan(kd_tensor_item(x)));
    CHECK_ERROR_HAS("kd_tensor_item: x was made before kd_tape_reset");
    CHECK(kd_tensor_data(view) == NULL);
    kd_flatten(other, x);
    CHECK_STATUS(kd_tape_status(other), KD_ERR_STATE);
    CHECK_ERROR_HAS("kd_flatten: input 1 was made before kd_tape_reset (op 1)");
    kd_tape_reset(other);
    kd_flatten(other, view);
    CHECK_STATUS(kd_tape_status(other), KD_ERR_STATE);
    CHECK(kd_grad(tape, x) == NULL);
    kd_tensor *header = kd_tape_constant(tape, SHAPE(1), six);
    CHECK(header == x && kd_tensor_item(x) == 1);   /* the header, only ever a header, serves again */
    kd_tensor_free(header);                         /* the tape's: left alone */
    CHECK(kd_tensor_item(x) == 1);
    kd_tensor_free(view);
    kd_tape_free(tape);
    kd_tape_free(other);
}

TEST(constants_of_another_tape)
{
    kd_tape *look = tape_of(KD_TAPE_INFER), *learn = tape_of(KD_TAPE_TRAIN);
    for (int round = 0; round < 2; round++) {
        kd_tensor *t = times(look, kd_requires_grad(look, kd_tape_constant(look, SHAPE(2, 3), six)), &two);
        kd_tensor *s = kd_requires_grad(learn, kd_tape_constant(learn, SHAPE(2, 3), six));
        kd_tensor *f = kd_flatten(learn, t), *loss = total(learn, (kd_tensor *[]){ s, round ? t : f }, 2);
        CHECK(kd_tensor_item(loss) == 63);
        if (round == 0) {
            kd_tape_reset(look);   /* a view of another tape's tensor holds a copy */
            CHECK(kd_tensor_f32(f)[5] == 12);
            CHECK_OK(kd_backward(learn, loss));
            CHECK(kd_grad(learn, s)[5] == 1 && kd_grad(learn, f) == NULL && kd_grad(look, s) == NULL);
        } else {   /* the teacher's tape was reset too early */
            kd_tape_reset(look);
            CHECK_STATUS(kd_backward(learn, loss), KD_ERR_STATE);
            CHECK_STR(kd_last_error(), "kd_backward: input 2 of kd_custom (op 2) was made before kd_tape_reset of its tape");
        }
        kd_tape_reset(look);
        kd_tape_reset(learn);
    }
    /* a constant, even where it asks for a gradient on its own tape */
    kd_tensor *t = kd_requires_grad(learn, kd_tape_constant(learn, SHAPE(2, 3), six));
    kd_tape *third = tape_of(KD_TAPE_TRAIN);
    CHECK_STATUS(kd_backward(third, total(third, &t, 1)), KD_ERR_ARG);
    CHECK_ERROR_HAS("asks for a gradient");
    kd_requires_grad(third, t);
    CHECK_STATUS(kd_tape_status(third), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_requires_grad: x was made on another tape and is a constant here");
    kd_tape_free(third);
    kd_tape_free(look);
    kd_tape_free(learn);
}

/* ---- gradients -------------------------------------------------------------------------------------------------------- */
TEST(gradients)
{
    kd_tape *tape = tape_of(KD_TAPE_TRAIN);
    kd_tensor *leaf = NULL, *free_leaf = NULL;
    CHECK_OK(kd_tensor_create(&leaf, NULL, KD_F32, SHAPE(2, 3)));
    CHECK_OK(kd_tensor_create(&free_leaf, NULL, KD_F32, SHAPE(2, 3)));
    for (int round = 0; round < 3; round++) {
        /* a = 2 leaf, b = 3 a, c = 2 a, loss = sum(b + c + leaf): d leaf = 2 (3 + 2) + 1 = 11, d a = 5 */
        kd_requires_grad(tape, leaf);
        kd_tensor *a = times(tape, leaf, &two), *b = times(tape, a, &three), *c = times(tape, a, &two),
                  *unused = times(tape, a, &two);
        kd_requires_grad(tape, a);
        kd_tensor *loss = total(tape, (kd_tensor *[]){ b, c, leaf, free_leaf }, 4);
        CHECK(kd_grad(tape, leaf) == NULL);
        CHECK_OK(kd_backward(tape, loss));
        CHECK(kd_grad(tape, leaf) && kd_grad(tape, leaf)[0] == 11 && kd_grad(tape, leaf)[5] == 11);
        CHECK(kd_grad(tape, a) && kd_grad(tape, a)[3] == 5);
        size_t nodes = tape->node_count;
        times(tape, a, &two);
        CHECK(tape->node_count == nodes);   /* nobody will go back over what follows */
        CHECK(kd_grad(tape, b) == NULL && kd_grad(tape, unused) == NULL && kd_grad(tape, free_leaf) == NULL);
        CHECK(kd_grad(tape, NULL) == NULL);
        CHECK_STATUS(kd_backward(tape, loss), KD_ERR_STATE);
        CHECK_STR(kd_last_error(), "kd_backward: called twice since kd_tape_reset");
        CHECK_STATUS(kd_tape_status(tape), KD_OK);
        kd_tape_reset(tape);
        CHECK(kd_grad(tape, leaf) == NULL);   /* gradients of a caller's leaf belong to the tape */
    }
    /* a second tape has gradients of its own for the same leaf */
    kd_tape *twin = tape_of(KD_TAPE_EVAL);
    CHECK_OK(kd_backward(tape, total(tape, &leaf, 1)));
    CHECK_OK(kd_backward(twin, total(twin, (kd_tensor *[]){ leaf, leaf }, 2)));
    CHECK(kd_grad(tape, leaf)[0] == 1 && kd_grad(twin, leaf)[0] == 2);
    kd_tape_free(twin);
    kd_tape_free(tape);
    kd_tensor_free(leaf);
    kd_tensor_free(free_leaf);
}

TEST(strided_leaf)
{
    kd_tape *tape = tape_of(KD_TAPE_TRAIN);
    kd_tensor *x = NULL, *t = NULL;
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, SHAPE(2, 3)));
    memcpy(kd_tensor_f32(x), six, sizeof six);
    CHECK_OK(kd_tensor_transpose(&t, x, NULL));
    kd_requires_grad(tape, t);
    kd_tensor *part = kd_slice(tape, t, 0, 1, 3);   /* [[2, 5], [3, 6]] */
    CHECK(kd_tensor_f32(part)[1] == 5);
    CHECK_OK(kd_backward(tape, total(tape, &part, 1)));
    const float want[6] = { 0, 0, 1, 1, 1, 1 };
    CHECK(memcmp(kd_grad(tape, t), want, sizeof want) == 0);
    CHECK(kd_grad(tape, x) == NULL);
    kd_tape_reset(tape);
    kd_concat(tape, (kd_tensor *[]){ t, t }, 2, 0);
    CHECK(tape->node_count == 2);   /* one copy serves both */
    kd_tape_free(tape);
    kd_tensor_free(t);
    kd_tensor_free(x);
}

TEST(backward_refuses)
{
    kd_tape *tape = tape_of(KD_TAPE_TRAIN), *infer = tape_of(KD_TAPE_INFER);
    kd_tensor *own = NULL, *x = kd_requires_grad(tape, kd_tape_constant(tape, SHAPE(6), six));
    CHECK_OK(kd_tensor_create(&own, NULL, KD_F32, 0, NULL));
    CHECK_STATUS(kd_backward(tape, NULL), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_backward: loss is NULL");
    CHECK_STATUS(kd_backward(tape, own), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_backward: loss was not made on this tape");
    CHECK_STATUS(kd_backward(tape, x), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_backward: loss is f32 [6], not one f32");
    CHECK_STATUS(kd_backward(tape, kd_tape_tensor(tape, KD_F32, 0, NULL)), KD_ERR_ARG);
    CHECK_ERROR_HAS("depends on nothing that asks for a gradient");
    CHECK_STATUS(kd_backward(infer, kd_requires_grad(infer, kd_tape_tensor(infer, KD_F32, 0, NULL))), KD_ERR_STATE);
    CHECK_ERROR_HAS("INFER tape records nothing");
    CHECK_STATUS(kd_tape_status(tape), KD_OK);
    CHECK_OK(kd_backward(tape, total(tape, &x, 1)));   /* none of that used up the one backward */
    kd_tensor_free(own);
    kd_tape_free(tape);
    kd_tape_free(infer);
}

/* What a model's parameters are to the tape. */
TEST(parameters)
{
    kd_tape *tape = tape_of(KD_TAPE_TRAIN);
    float weight[3] = { 1, 2, 3 }, grad[3] = { 100, 200, 300 };
    kd_tensor p;
    CHECK_OK(kd__tensor_init(&p, "test", KD_F32, SHAPE(3), weight));
    p.owner = KD__OWNER_MODEL;
    p.requires_grad = p.is_parameter = true;
    p.grad = grad;
    for (int round = 1; round <= 2; round++) {
        kd_tensor *y = times(tape, kd_reshape(tape, &p, SHAPE(1, 3)), &three);
        CHECK_OK(kd_backward(tape, total(tape, &y, 1)));
        CHECK(grad[0] == 100 + 3.0f * (float)round && grad[2] == 300 + 3.0f * (float)round);   /* they accumulate */
        CHECK(kd_grad(tape, &p) == NULL && kd_requires_grad(tape, &p) == &p);
        kd_tape_reset(tape);
    }
    p.requires_grad = false;   /* frozen */
    kd_tensor *x = kd_requires_grad(tape, kd_tape_constant(tape, SHAPE(3), six));
    CHECK_OK(kd_backward(tape, total(tape, (kd_tensor *[]){ x, &p }, 2)));
    CHECK(grad[0] == 106 && kd_grad(tape, x)[0] == 1);
    kd_tape_reset(tape);
    kd_requires_grad(tape, &p);
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_STATE);
    kd_tensor_free(&p);   /* the model's: left alone */
    CHECK(kd_tensor_item(&p) != 0 && kd_tensor_count(&p) == 3);
    kd_tape_free(tape);
}

TEST(detach_and_eval)
{
    kd_tape *tape = tape_of(KD_TAPE_EVAL);
    kd_tensor *x = kd_requires_grad(tape, kd_tape_constant(tape, SHAPE(2, 3), six));
    kd_tensor *d = kd_detach(tape, x), *y = times(tape, x, &two);
    CHECK(kd_tensor_data(d) == kd_tensor_data(x) && kd_tensor_size(d, 1) == 3 && kd_dropout(tape, y, 0.5f) == y);
    CHECK_OK(kd_backward(tape, total(tape, (kd_tensor *[]){ y, d }, 2)));
    CHECK(kd_grad(tape, x)[0] == 2 && kd_grad(tape, d) == NULL);
    kd_tape_free(tape);
}

TEST(empty_tensors)
{
    kd_tape *tape = tape_of(KD_TAPE_TRAIN);
    kd_tensor *x = kd_requires_grad(tape, kd_tape_constant(tape, SHAPE(0, 3), NULL)),
              *s = kd_tape_constant(tape, SHAPE(2, 3), six);
    kd_tensor *y = kd_concat(tape, (kd_tensor *[]){ x, kd_requires_grad(tape, s), x }, 3, 0);
    CHECK(kd_tensor_size(kd_flatten(tape, x), 1) == 3);
    kd_tensor *z = kd_pad(tape, kd_permute(tape, kd_slice(tape, y, 0, 2, 2), (size_t[]){ 1, 0 }), NULL, (size_t[]){ 0, 1 }, 5);
    CHECK(kd_tensor_count(z) == 3 && kd_tensor_f32(z)[2] == 5);
    CHECK_OK(kd_backward(tape, total(tape, (kd_tensor *[]){ y, z, kd_dropout(tape, x, 0.5f) }, 3)));
    CHECK(kd_grad(tape, s)[5] == 1 && kd_grad(tape, x) != NULL);
    kd_tape_free(tape);
}

/* ---- cancel, finite, the stream ------------------------------------------------------------------------------------------ */
static kd_status cancelling_backward(const kd_tensor *const *in, size_t ins, const kd_tensor *const *out, size_t outs,
                                     const float *const *dy, float *const *dx, void *user)
{
    (void)in, (void)ins, (void)out, (void)outs, (void)dy, (void)dx;
    kd_context_cancel(user);
    return KD_OK;
}

static kd_status zero_forward(const kd_tensor *const *in, size_t ins, kd_tensor *const *out, size_t outs, void *user)
{
    (void)in, (void)ins, (void)outs, (void)user;
    return kd_tensor_fill(out[0], 0);
}

TEST(cancel)
{
    kd_context *ctx = kdtest_context(1, KD_ISA_AUTO);
    kd_tape *tape = NULL;
    const kd_custom_op op = { sizeof op, "cancelling", zero_forward, cancelling_backward };
    CHECK_OK(kd_tape_create(&tape, ctx, KD_TAPE_TRAIN));
    kd_tensor *x = kd_requires_grad(tape, kd_tape_constant(tape, SHAPE(6), six)), *f = kd_flatten(tape, x);
    kd_tensor *y = kd_tape_tensor(tape, KD_F32, 0, NULL);
    kd_tensor *loss = kd_custom(tape, &op, &f, 1, &y, 1, ctx);
    CHECK_STATUS(kd_backward(tape, loss), KD_ERR_CANCELLED);   /* between two nodes */
    CHECK_STR(kd_last_error(), "kd_backward: kd_reshape: cancelled (op 1)");
    kd_tape_reset(tape);
    kd_flatten(tape, kd_tape_constant(tape, SHAPE(6), six));
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_CANCELLED);
    kd_context_resume(ctx);
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_CANCELLED);
    kd_tape_reset(tape);
    x = kd_requires_grad(tape, kd_tape_constant(tape, SHAPE(6), six));
    CHECK_OK(kd_backward(tape, total(tape, &x, 1)));
    kd_tape_free(tape);
    kd_context_free(ctx);
}

TEST(check_finite)
{
    const float bad[6] = { 1, 2, 3, 4, -INFINITY, NAN };
    kd_tape *tape = tape_of(KD_TAPE_INFER | KD_TAPE_CHECK_FINITE), *lax = tape_of(KD_TAPE_INFER);
    kd_tensor *x = kd_tape_constant(tape, SHAPE(2, 3), bad);
    CHECK_STATUS(kd_tape_status(tape), KD_OK);   /* inputs are the caller's business */
    kd_permute(tape, kd_slice(tape, x, 0, 0, 1), (size_t[]){ 1, 0 });
    CHECK_STATUS(kd_tape_status(tape), KD_OK);
    kd_permute(tape, x, (size_t[]){ 1, 0 });
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_NUMERIC);
    CHECK_ERROR_HAS("kd_permute: element [1, 1] of the result [3, 2] is -inf (op 3)");
    kd_tensor *y = kd_permute(lax, kd_tape_constant(lax, SHAPE(2, 3), bad), (size_t[]){ 1, 0 });
    CHECK_STATUS(kd_tape_status(lax), KD_OK);
    CHECK(isnan(kd_tensor_f32(y)[5]));
    kd_tape_free(tape);
    kd_tape_free(lax);
}

TEST(dropout_stream)
{
    kd_tape *tape = tape_of(KD_TAPE_TRAIN);
    static float ones[1000];
    float first[1000], second[1000];
    for (size_t i = 0; i < 1000; i++) ones[i] = 1;
    kd_tape_seed(tape, 9);
    CHECK(kd_tape_rng(tape).index == 0);
    memcpy(first, kd_tensor_f32(kd_dropout(tape, kd_tape_constant(tape, SHAPE(1000), ones), 0.25f)), sizeof first);
    kd_tape_reset(tape);
    CHECK(kd_tape_rng(tape).index == 1);   /* the position survives */
    kd_rng saved = kd_tape_rng(tape);
    memcpy(second, kd_tensor_f32(kd_dropout(tape, kd_tape_constant(tape, SHAPE(1000), ones), 0.25f)), sizeof second);
    CHECK(memcmp(first, second, sizeof first) != 0);
    size_t kept = 0;
    for (size_t i = 0; i < 1000; i++) kept += first[i] != 0;
    CHECK_NEAR((double)kept, 750, 5 * sqrt(1000 * 0.25 * 0.75));   /* five standard deviations of a fixed draw */
    CHECK(first[0] == 0 || first[0] == 1 / 0.75f);
    kd_tape_seed(tape, 9);
    CHECK(memcmp(first, kd_tensor_f32(kd_dropout(tape, kd_tape_constant(tape, SHAPE(1000), ones), 0.25f)), sizeof first) == 0);
    kd_tape_set_rng(tape, saved);
    CHECK(memcmp(second, kd_tensor_f32(kd_dropout(tape, kd_tape_constant(tape, SHAPE(1000), ones), 0.25f)), sizeof second) == 0);
    kd_tape_free(tape);
}

/* ---- kd_custom -------------------------------------------------------------------------------------------------- */
static kd_status failing_forward(const kd_tensor *const *in, size_t ins, kd_tensor *const *out, size_t outs, void *user)
{
    (void)in, (void)ins, (void)out, (void)outs;
    return *(kd_status *)user;
}

static kd_status failing_backward(const kd_tensor *const *in, size_t ins, const kd_tensor *const *out, size_t outs,
                                  const float *const *dy, float *const *dx, void *user)
{
    (void)in, (void)ins, (void)out, (void)outs, (void)dy, (void)dx, (void)user;
    return KD_ERR_UNSUPPORTED;
}

/* Calls ops of its own before it fails. */
static kd_status nesting_forward(const kd_tensor *const *in, size_t ins, kd_tensor *const *out, size_t outs, void *user)
{
    (void)in, (void)ins, (void)out, (void)outs;
    kd_flatten(user, kd_tape_constant(user, SHAPE(2, 3), six));
    return KD_END;
}

TEST(custom_calling_ops)
{
    kd_tape *tape = tape_of(KD_TAPE_TRAIN);
    const kd_custom_op op = { sizeof op, "nesting", nesting_forward, NULL };
    kd_tensor *x = kd_tape_constant(tape, SHAPE(2, 3), six), *y = kd_tape_tensor(tape, KD_F32, 0, NULL);
    kd_flatten(tape, x);
    kd_custom(tape, &op, &x, 1, &y, 1, tape);
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_ARG);
    CHECK_STR(kd_last_error(), "kd_custom: nesting: forward returned KD_END (op 2)");
    kd_tape_free(tape);
}

TEST(custom)
{
    kd_tape *tape = tape_of(KD_TAPE_TRAIN);
    kd_status status = KD_ERR_IO;
    kd_custom_op op = { sizeof op, "mine", failing_forward, failing_backward };
    kd_tensor *x, *y, *both[2];
#define FRESH()                                                                          \
    do {                                                                                 \
        kd_tape_reset(tape);                                                             \
        x = kd_requires_grad(tape, kd_tape_constant(tape, SHAPE(1), six));               \
        y = kd_tape_tensor(tape, KD_F32, 0, NULL);                                       \
    } while (0)
#define CUSTOM_FAILS(call, want, text)              \
    do {                                            \
        FRESH();                                    \
        (void)(call);                               \
        CHECK_STATUS(kd_tape_status(tape), want);   \
        CHECK_ERROR_HAS(text);                      \
    } while (0)
    CUSTOM_FAILS(kd_custom(tape, NULL, &x, 1, &y, 1, NULL), KD_ERR_ARG, "kd_custom: op is NULL (op 1)");
    CUSTOM_FAILS(kd_custom(tape, &op, &x, 1, &y, 1, &status), KD_ERR_IO, "kd_custom: mine: forward returned KD_ERR_IO (op 1)");
    CUSTOM_FAILS(kd_custom(tape, &op, &x, 1, NULL, 1, &status), KD_ERR_ARG, "mine: 0 outputs");
    CUSTOM_FAILS(kd_custom(tape, &op, &x, 1, &y, 17, &status), KD_ERR_ARG, "mine: 17 outputs");
    CUSTOM_FAILS(kd_custom(tape, &op, &x, 17, &y, 1, &status), KD_ERR_ARG, "17 inputs; it takes at most 16");
    CUSTOM_FAILS(kd_custom(tape, &op, &x, 1, (kd_tensor *[]){ NULL }, 1, &status), KD_ERR_ARG,
                 "mine: output 1 did not come from");
    CUSTOM_FAILS(kd_custom(tape, &op, &x, 1, &x, 1, &status), KD_ERR_ARG, "mine: output 1 is already a result or a leaf");
    CUSTOM_FAILS(kd_custom(tape, &op, &y, 1, &y, 1, &status), KD_ERR_ARG, "mine: output 1 is also an input");
    CUSTOM_FAILS(kd_custom(tape, &op, &x, 1, (both[0] = both[1] = y, both), 2, &status), KD_ERR_ARG,
                 "mine: output 2 is given twice");
    CUSTOM_FAILS(kd_custom(tape, &op, &x, 1, (both[0] = kd_tape_tensor(tape, KD_I32, 0, NULL), both), 1, &status), KD_ERR_ARG,
                 "mine: output 1 is not f32");
    op.name = NULL;
    CUSTOM_FAILS(kd_custom(tape, &op, &x, 1, &y, 1, &status), KD_ERR_IO, "kd_custom: custom op: forward returned KD_ERR_IO");
    op.forward = NULL;
    CUSTOM_FAILS(kd_custom(tape, &op, &x, 1, &y, 1, &status), KD_ERR_ARG, "custom op: forward is NULL");
    op.forward = failing_forward;
    op.name = "mine";
    status = KD_OK;
    FRESH();
    CHECK_STATUS(kd_backward(tape, kd_custom(tape, &op, &x, 1, &y, 1, &status)), KD_ERR_UNSUPPORTED);
    CHECK_STR(kd_last_error(), "kd_backward: kd_custom: mine: backward returned KD_ERR_UNSUPPORTED (op 1)");
    op.backward = NULL;   /* passes no gradient */
    FRESH();
    CHECK_STATUS(kd_backward(tape, kd_custom(tape, &op, &x, 1, &y, 1, &status)), KD_ERR_ARG);
    CHECK_ERROR_HAS("depends on nothing");
    op.struct_size = sizeof op - sizeof op.backward;   /* a caller from before `backward` */
    op.backward = failing_backward;
    FRESH();
    CHECK(kd_custom(tape, &op, NULL, 0, &y, 1, &status) == y);
    kd_tape_free(tape);
}

static kd_status split_forward(const kd_tensor *const *in, size_t ins, kd_tensor *const *out, size_t outs, void *user)
{
    (void)ins, (void)outs, (void)user;
    for (size_t i = 0; i < 6; i++) kd_tensor_f32(out[i % 2])[i / 2] = kd_tensor_f32(in[0])[i];
    return KD_OK;
}

static kd_status split_backward(const kd_tensor *const *in, size_t ins, const kd_tensor *const *out, size_t outs,
                                const float *const *dy, float *const *dx, void *user)
{
    (void)in, (void)ins, (void)out, (void)outs, (void)user;
    CHECK(dy[0] == NULL && dy[1] != NULL);
    for (size_t i = 0; i < 6; i++) dx[0][i] += dy[i % 2] ? dy[i % 2][i / 2] : 0;
    return KD_OK;
}

TEST(custom_with_two_results)
{
    kd_tape *tape = tape_of(KD_TAPE_TRAIN);
    const kd_custom_op op = { sizeof op, "split", split_forward, split_backward };
    kd_tensor *x = kd_requires_grad(tape, kd_tape_constant(tape, SHAPE(6), six));
    kd_tensor *y[2] = { kd_tape_tensor(tape, KD_F32, SHAPE(3)), kd_tape_tensor(tape, KD_F32, SHAPE(3)) };
    CHECK(kd_custom(tape, &op, &x, 1, y, 2, NULL) == y[0]);
    CHECK_OK(kd_backward(tape, total(tape, &y[1], 1)));
    CHECK(kd_grad(tape, x)[0] == 0 && kd_grad(tape, x)[1] == 1 && kd_grad(tape, x)[5] == 1);
    kd_tape_free(tape);
}

/* ---- memory ------------------------------------------------------------------------------------------------------- */
/* One training step over more ops than a chunk of headers holds. */
static kd_status long_step(kd_tape *tape, kd_tensor *leaf)
{
    kd_tensor *x = times(tape, kd_requires_grad(tape, leaf), &two);
    for (int i = 0; i < 60; i++) {
        x = kd_permute(tape, x, (size_t[]){ 1, 0 });
        x = kd_concat(tape, (kd_tensor *[]){ kd_slice(tape, x, 1, 1, 2), kd_slice(tape, x, 1, 0, 1) }, 2, 1);
        x = kd_permute(tape, kd_dropout(tape, x, 0.01f), (size_t[]){ 1, 0 });
    }
    return kd_backward(tape, total(tape, &x, 1));
}

TEST(second_step_allocates_nothing)
{
    static const uint32_t threads[] = { 1, 3 };
    for (size_t t = 0; t < 2; t++) {
        kdtest_alloc a;
        kdtest_alloc_begin(&a, threads[t], KD_ISA_AUTO);
        kd_tape *tape = NULL;
        kd_tensor *leaf = NULL;
        CHECK_OK(kd_tape_create(&tape, a.ctx, KD_TAPE_TRAIN));
        CHECK_OK(kd_tensor_create(&leaf, a.ctx, KD_F32, SHAPE(2, 40000)));
        CHECK_OK(long_step(tape, leaf));
        kd_tape_reset(tape);
        size_t calls = a.calls, bytes = kd_tape_bytes(tape), peak = kd_tape_peak_bytes(tape);
        for (int i = 0; i < 3; i++) {
            CHECK_OK(long_step(tape, leaf));
            kd_tape_reset(tape);
        }
        CHECK_MSG(a.calls == calls, "steps after the first allocate %zu times", a.calls - calls);
        CHECK(kd_tape_bytes(tape) == bytes && kd_tape_peak_bytes(tape) == peak);
        CHECK(bytes >= peak && bytes <= a.live_bytes);
        kd_tensor_free(leaf);
        kd_tape_free(tape);
        kdtest_alloc_end(&a);
    }
}

/* 320 kB a tensor: results stay, but gradients of results give their memory back. */
TEST(gradients_are_recycled)
{
    kd_tape *tape = tape_of(KD_TAPE_TRAIN);
    kd_tensor *leaf = NULL;
    const size_t size = 2 * 40000 * sizeof(float);
    CHECK_OK(kd_tensor_create(&leaf, NULL, KD_F32, SHAPE(2, 40000)));
    kd_tensor *x = kd_requires_grad(tape, leaf);
    for (int i = 0; i < 20; i++) x = times(tape, x, &two);
    kd_tensor *loss = total(tape, &x, 1);
    size_t before = kd_tape_peak_bytes(tape);
    CHECK(before >= 20 * size && before < 20 * size + 65536);
    CHECK_OK(kd_backward(tape, loss));
    /* two at a time, and the leaf's own */
    CHECK_MSG(kd_tape_peak_bytes(tape) <= before + 3 * size + 4096, "%zu bytes for gradients", kd_tape_peak_bytes(tape) - before);
    CHECK(kd_grad(tape, leaf)[79999] == 0x1p20f);
    kd_tape_free(tape);
    kd_tensor_free(leaf);
}

/* Ops that pass dy on, or write dx over it, make no gradient of their own; a result whose gradient is kept is left alone. */
TEST(gradients_are_passed_on)
{
    kd_tape *tape = tape_of(KD_TAPE_TRAIN);
    kd_tensor *leaf = NULL;
    const size_t size = 2 * 40000 * sizeof(float);
    CHECK_OK(kd_tensor_create(&leaf, NULL, KD_F32, SHAPE(2, 40000)));
    CHECK_OK(kd_tensor_fill(leaf, 1));
    kd_tensor *x = times(tape, kd_requires_grad(tape, leaf), &two), *kept = NULL;
    for (int i = 0; i < 10; i++) {
        x = kd_reshape(tape, kd_scale(tape, kd_flatten(tape, kd_relu(tape, x)), 2, 0), SHAPE(2, 40000));
        x = kd_add(tape, x, kd_tape_constant(tape, SHAPE(1, 1), six));
        if (i == 5) kept = kd_requires_grad(tape, x);
    }
    kd_tensor *loss = total(tape, &x, 1);
    size_t before = kd_tape_peak_bytes(tape);
    CHECK_OK(kd_backward(tape, loss));
    CHECK_MSG(kd_tape_peak_bytes(tape) <= before + 3 * size + 4096, "%zu bytes for gradients", kd_tape_peak_bytes(tape) - before);
    CHECK(kd_grad(tape, leaf)[79999] == 0x1p11f && kd_grad(tape, kept)[0] == 0x1p4f);
    kd_tape_free(tape);
    kd_tensor_free(leaf);
}

/* A chain of layers the way kd_model_forward runs them. */
static kd_tensor *infer_chain(kd_tape *tape, kd_tensor *x, const size_t *widths, size_t count, kd_tensor **tapped)
{
    kd_tensor *h = x;
    for (size_t i = 0; i < count; i++) {
        size_t mark = kd__tape_block_mark(tape);
        kd_tensor *y = kd_pad(tape, kd_slice(tape, h, 1, 0, 1), NULL, (size_t[]){ 0, widths[i] - 1 }, (float)i);
        y = kd_reshape(tape, kd_reshape(tape, y, SHAPE(SIZE_MAX)), 2, (size_t[]){ kd_tensor_size(h, 0), widths[i] });
        kd__tape_release_since(tape, mark, y);
        if (i > 0) kd__tape_release(tape, h);
        if (tapped && i == 1) kd__tape_keep(tape, *tapped = y);
        h = y;
    }
    return h;
}

TEST(infer_peaks_at_two_activations)
{
    static const size_t widths[] = { 1000, 400, 1000, 50, 700, 1000, 10, 900, 3 };
    kdtest_alloc a;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    kd_tape *tape = NULL;
    kd_tensor *x = NULL, *tapped = NULL, *first = NULL;
    float column[16];
    CHECK_OK(kd_tape_create(&tape, a.ctx, KD_TAPE_INFER));
    CHECK_OK(kd_tensor_create(&x, a.ctx, KD_F32, SHAPE(16, 1)));
    for (size_t i = 0; i < 16; i++) CHECK_OK(kd_tensor_set(x, (size_t[]){ i, 0 }, column[i] = (float)i));
    first = infer_chain(tape, x, widths, 9, NULL);
    for (size_t i = 0; i < 16; i++) CHECK(kd_tensor_f32(first)[3 * i] == column[i] && kd_tensor_f32(first)[3 * i + 2] == 8);
    const size_t row = 16 * sizeof(float), peak = kd_tape_peak_bytes(tape);
    CHECK_MSG(peak <= (1000 + 1000) * row + 4096, "%zu bytes at the peak", peak);
    size_t calls = a.calls;
    for (int k = 0; k < 3; k++) {
        kd_tape_reset(tape);
        infer_chain(tape, x, widths, 9, NULL);
    }
    CHECK_MSG(a.calls == calls, "later forwards allocate %zu times", a.calls - calls);
    CHECK(kd_tape_peak_bytes(tape) == peak);

    kd_tape_reset(tape);
    infer_chain(tape, x, widths, 9, &tapped);
    CHECK(kd_tensor_count(tapped) == 6400 && kd_tensor_f32(tapped)[399] == 1 && kd_tensor_f32(tapped)[400] == 1);

    /* what was given back says so */
    kd_tape_reset(tape);
    size_t mark = kd__tape_block_mark(tape);
    kd_tensor *gone = kd_pad(tape, x, NULL, (size_t[]){ 0, 5 }, 0), *kept = kd_reshape(tape, gone, SHAPE(6, 16));
    kd__tape_release_since(tape, mark, kept);
    CHECK(kd_tensor_f32(gone) == NULL && kd_tensor_f32(kept) != NULL);
    kd_flatten(tape, gone);
    CHECK_STATUS(kd_tape_status(tape), KD_ERR_STATE);
    CHECK_ERROR_HAS("kd_flatten: input 1 was made inside kd_model_forward, which gave its memory back");
    kd_tensor_free(x);
    kd_tape_free(tape);
    kdtest_alloc_end(&a);
}

TEST(release_leaves_others_alone)
{
    kd_tape *train = tape_of(KD_TAPE_TRAIN), *infer = tape_of(KD_TAPE_INFER), *other = tape_of(KD_TAPE_INFER);
    kd_tensor *own = NULL;
    CHECK_OK(kd_tensor_create(&own, NULL, KD_F32, SHAPE(2)));
    kd_tensor *a = kd_tape_constant(train, SHAPE(2), six), *b = kd_tape_constant(other, SHAPE(2), six);
    kd_requires_grad(train, a);   /* somebody will ask */
    kd__tape_release(train, a);
    kd__tape_release_since(train, 0, NULL);
    kd__tape_release(infer, b);
    kd__tape_release(infer, own);
    kd__tape_release(infer, NULL);
    kd__tape_release(NULL, b);
    kd__tape_keep(infer, b);
    kd__tape_keep(infer, own);
    kd__tape_keep(infer, NULL);
    kd__tape_release_since(infer, 0, NULL);
    CHECK(kd_tensor_f32(a) && kd_tensor_f32(b) && kd_tensor_f32(own));
    kd_tensor *view = kd_reshape(infer, own, SHAPE(1, 2));   /* of the caller's memory */
    kd__tape_release(infer, view);
    CHECK(kd_tensor_data(view) == kd_tensor_data(own));
    kd__tape_release(other, b);
    kd__tape_release(other, b);   /* twice is once */
    CHECK(kd_tensor_f32(b) == NULL);
    kd_tensor_free(own);
    kd_tape_free(train);
    kd_tape_free(infer);
    kd_tape_free(other);
}

TEST(blocks_at_the_end_join)
{
    kd_tape *tape = tape_of(KD_TAPE_INFER);
    size_t a = kd__block_new(tape, 1000), b = kd__block_new(tape, 1000);
    kd__block_drop(tape, b);
    b = kd__block_new(tape, 64);   /* the front of what was free; its rest is followed by the next */
    size_t c = kd__block_new(tape, 2000), blocks = 0;
    CHECK(tape->used == 1024 + 64 + 2048);
    kd__block_drop(tape, a);
    kd__block_drop(tape, c);
    kd__block_drop(tape, b);
    for (size_t i = 0; i < tape->block_count; i++) blocks += tape->blocks[i].bytes != 0;
    CHECK(blocks == 1 && tape->used == 0);
    kd_tape_free(tape);
}

/* Blocks never overlap, hold what was written, and free neighbours join: random requests against a shadow. */
TEST(blocks)
{
    kd_tape *tape = tape_of(KD_TAPE_INFER);
    kdtest_rand r = { 3 };
    enum { LIVE = 40 };
    struct { size_t block, bytes; unsigned char mark; } live[LIVE];
    size_t count = 0, used = 0;
    for (int i = 0; i < (kdtest_full() ? 200000 : 20000); i++) {
        if (count < LIVE && (count == 0 || kdtest_size(&r, 0, 99) < 52)) {
            size_t bytes = kdtest_size(&r, 0, i % 20 ? 3000 : 100000);
            size_t block = kd__block_new(tape, bytes);
            if (!CHECK(block != KD__NO_BLOCK && tape->blocks[block].bytes >= bytes)) return;
            live[count].block = block;
            live[count].bytes = bytes;
            live[count].mark = (unsigned char)i;
            memset(tape->blocks[block].ptr, live[count++].mark, bytes);
            used += tape->blocks[block].bytes;
        } else {
            size_t k = kdtest_size(&r, 0, count - 1);
            const unsigned char *p = tape->blocks[live[k].block].ptr;
            for (size_t j = 0; j < live[k].bytes; j++)
                if (!CHECK(p[j] == live[k].mark)) return;
            used -= tape->blocks[live[k].block].bytes;
            kd__block_drop(tape, live[k].block);
            live[k] = live[--count];
        }
        if (!CHECK(tape->used == used)) return;
    }
    while (count) kd__block_drop(tape, live[--count].block);
    CHECK(tape->used == 0 && tape->block_free != KD__NO_BLOCK);
    for (size_t i = 0; i < tape->block_count; i++) {   /* no two free neighbours are left */
        const kd__block *b = &tape->blocks[i];
        if (b->bytes) CHECK(b->next == KD__NO_BLOCK && b->prev == KD__NO_BLOCK);
        for (size_t k = 0; b->bytes && k < tape->block_count; k++) CHECK(b->ptr + b->bytes != tape->blocks[k].ptr);
    }
    CHECK_MSG(kd_tape_bytes(tape) < 8 * kd_tape_peak_bytes(tape), "%zu bytes held for a peak of %zu", kd_tape_bytes(tape),
              kd_tape_peak_bytes(tape));
    kd_tape_free(tape);
}

/* Every allocation of a long step fails, once or from then on; nothing leaks, and the tape goes on after a reset. */
TEST(out_of_memory)
{
    for (int persistent = 0; persistent < 2; persistent++) {
        for (size_t fail = 1;; fail++) {
            kdtest_alloc a;
            kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
            kd_tape *tape = NULL;
            kd_tensor *leaf = NULL;
            CHECK_OK(kd_tensor_create(&leaf, a.ctx, KD_F32, SHAPE(2, 500)));
            a.persistent = persistent;
            a.fail_at = a.calls + fail;
            kd_status status = kd_tape_create(&tape, a.ctx, KD_TAPE_TRAIN);
            if (status == KD_OK) status = long_step(tape, leaf);
            int reached = a.calls >= a.fail_at;
            a.fail_at = 0;
            CHECK_STATUS(status, reached ? KD_ERR_NOMEM : KD_OK);
            if (reached) CHECK_ERROR_HAS("out of memory");
            if (tape) {
                kd_tape_reset(tape);
                CHECK_OK(long_step(tape, leaf));
                CHECK(kd_grad(tape, leaf) != NULL);
            }
            kd_tensor_free(leaf);
            kd_tape_free(tape);
            kdtest_alloc_end(&a);
            if (!reached) break;
        }
    }
}

TEST(names)
{
    CHECK_STR(kd__op_name(KD__OP_add), "kd_add");
    CHECK_STR(kd__op_name(KD__OP_custom), "kd_custom");
}
