/* test_grad_shape.c - gradients of the ops that move numbers.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"
#include "ref_shape.h"
#include "autograd/tape_internal.h"

/* ---- reshape, flatten, contiguous ------------------------------------------------------------------------ */
static void ref_same(const grad_case *c, const double *const *in, double *out, double *size)
{
    (void)size;
    for (size_t i = 0; i < grad_count(&c->out); i++) out[i] = in[0][i];
}

static kd_tensor *build_reshape(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return kd_reshape(tape, in[0], c->n[0], c->n + 1);
}

static kd_tensor *build_flatten(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    (void)c;
    return kd_flatten(tape, in[0]);
}

TEST(reshape)
{
    static const grad_case cases[] = {
        { GRAD_CASE(reshape, "to two axes"), build_reshape, ref_same, .n = { 2, 6, 4 }, .in = { { GRAD_IN(2, 3, 4) } },
          .out = GRAD_SHAPE(6, 4) },
        { GRAD_CASE(reshape, "a size inferred"), build_reshape, ref_same, .n = { 3, 4, SIZE_MAX, 2 },
          .in = { { GRAD_IN(2, 3, 4) } }, .out = GRAD_SHAPE(4, 3, 2) },
        { GRAD_CASE(reshape, "to a scalar"), build_reshape, ref_same, .n = { 0 }, .in = { { GRAD_IN(1, 1) } },
          .out = GRAD_SCALAR },
        { GRAD_CASE(reshape, "flatten"), build_flatten, ref_same, .in = { { GRAD_IN(3, 4, 5) } }, .out = GRAD_SHAPE(3, 20) },
        { GRAD_CASE(reshape, "large"), build_reshape, ref_same, .n = { 1, SIZE_MAX }, .in = { { GRAD_IN(300, 400) } },
          .out = GRAD_SHAPE(120000) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

static kd_tensor *build_contiguous(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    (void)c;
    return kd__contiguous(tape, in[0]);
}

TEST(contiguous)
{
    static const grad_case cases[] = {
        { GRAD_CASE(contiguous, "vector"), build_contiguous, ref_same, .in = { { GRAD_IN(33) } }, .out = GRAD_SHAPE(33) },
        { GRAD_CASE(contiguous, "matrix"), build_contiguous, ref_same, .in = { { GRAD_IN(7, 18) } }, .out = GRAD_SHAPE(7, 18) },
        { GRAD_CASE(contiguous, "large"), build_contiguous, ref_same, .in = { { GRAD_IN(2, 150, 300) } },
          .out = GRAD_SHAPE(2, 150, 300) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* ---- permute --------------------------------------------------------------------------------------------- */
static kd_tensor *build_permute(kd_tape *tape, kd_tensor *const *in, const grad_case *c) { return kd_permute(tape, in[0], c->n); }

static void ref_permute_case(const grad_case *c, const double *const *in, double *out, double *size)
{
    (void)size;
    ref_permute(in[0], c->in[0].size.rank, c->in[0].size.shape, c->n, out);
}

TEST(permute)
{
    static const grad_case cases[] = {
        { GRAD_CASE(permute, "transposed"), build_permute, ref_permute_case, .n = { 1, 0 }, .in = { { GRAD_IN(5, 9) } },
          .out = GRAD_SHAPE(9, 5) },
        { GRAD_CASE(permute, "a rotation"), build_permute, ref_permute_case, .n = { 2, 0, 1 }, .in = { { GRAD_IN(3, 4, 5) } },
          .out = GRAD_SHAPE(5, 3, 4) },
        { GRAD_CASE(permute, "heads"), build_permute, ref_permute_case, .n = { 0, 2, 1, 3 }, .in = { { GRAD_IN(2, 3, 4, 5) } },
          .out = GRAD_SHAPE(2, 4, 3, 5) },
        { GRAD_CASE(permute, "nothing moves"), build_permute, ref_permute_case, .n = { 0, 1 }, .in = { { GRAD_IN(4, 6) } },
          .out = GRAD_SHAPE(4, 6) },
        { GRAD_CASE(permute, "an axis of one"), build_permute, ref_permute_case, .n = { 1, 0, 2 }, .in = { { GRAD_IN(4, 1, 6) } },
          .out = GRAD_SHAPE(1, 4, 6) },
        { GRAD_CASE(permute, "large, to channels last"), build_permute, ref_permute_case, .n = { 0, 2, 3, 1 },
          .in = { { GRAD_IN(2, 65, 31, 33) } }, .out = GRAD_SHAPE(2, 31, 33, 65) },
        { GRAD_CASE(permute, "large, reversed"), build_permute, ref_permute_case, .n = { 2, 1, 0 },
          .in = { { GRAD_IN(41, 47, 43) } }, .out = GRAD_SHAPE(43, 47, 41) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* ---- slice ------------------------------------------------------------------------------------------------- */
static kd_tensor *build_slice(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return kd_slice(tape, in[0], c->n[0], c->n[1], c->n[2]);
}

static void ref_slice_case(const grad_case *c, const double *const *in, double *out, double *size)
{
    (void)size;
    ref_slice(in[0], c->in[0].size.rank, c->in[0].size.shape, c->n[0], c->n[1], c->n[2], out);
}

TEST(slice)
{
    static const grad_case cases[] = {
        { GRAD_CASE(slice, "rows"), build_slice, ref_slice_case, .n = { 0, 1, 4 }, .in = { { GRAD_IN(6, 5) } },
          .out = GRAD_SHAPE(3, 5) },
        { GRAD_CASE(slice, "columns"), build_slice, ref_slice_case, .n = { 1, 2, 5 }, .in = { { GRAD_IN(6, 5) } },
          .out = GRAD_SHAPE(6, 3) },
        { GRAD_CASE(slice, "the middle axis"), build_slice, ref_slice_case, .n = { 1, 1, 3 }, .in = { { GRAD_IN(2, 4, 3) } },
          .out = GRAD_SHAPE(2, 2, 3) },
        { GRAD_CASE(slice, "all"), build_slice, ref_slice_case, .n = { 1, 0, 4 }, .in = { { GRAD_IN(2, 4) } },
          .out = GRAD_SHAPE(2, 4) },
        { GRAD_CASE(slice, "one axis of one"), build_slice, ref_slice_case, .n = { 1, 1, 4 }, .in = { { GRAD_IN(1, 4, 3) } },
          .out = GRAD_SHAPE(1, 3, 3) },
        { GRAD_CASE(slice, "large"), build_slice, ref_slice_case, .n = { 1, 5, 290 }, .in = { { GRAD_IN(251, 300) } },
          .out = GRAD_SHAPE(251, 285) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* ---- concat -------------------------------------------------------------------------------------------------- */
static kd_tensor *build_concat(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return kd_concat(tape, in, c->n[1], c->n[0]);
}

static void ref_concat(const grad_case *c, const double *const *in, double *out, double *size)
{
    size_t at = 0;
    (void)size;
    for (size_t k = 0; k < c->n[1]; k++) {
        const grad_shape *part = &c->in[k].size;
        ref_place(in[k], part->rank, part->shape, c->n[0], at, c->out.shape, out);
        at += part->shape[c->n[0]];
    }
}

/* in[0] twenty times and in[1] once: more parts than an op has inputs. */
static kd_tensor *build_concat_many(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    kd_tensor *parts[21];
    for (size_t k = 0; k < 21; k++) parts[k] = in[k == 20];
    return kd_concat(tape, parts, 21, c->n[0]);
}

static void ref_concat_many(const grad_case *c, const double *const *in, double *out, double *size)
{
    size_t axis = c->n[0];
    (void)size;
    for (size_t k = 0; k < 21; k++)
        ref_place(in[k == 20], 2, c->in[k == 20].size.shape, axis, k * c->in[0].size.shape[axis], c->out.shape, out);
}

static kd_tensor *build_concat_twice(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    (void)c;
    return kd_concat(tape, (kd_tensor *[]){ in[0], in[0] }, 2, 0);
}

static void ref_concat_twice(const grad_case *c, const double *const *in, double *out, double *size)
{
    (void)size;
    for (size_t i = 0; i < grad_count(&c->out); i++) out[i] = in[0][i % grad_count(&c->in[0].size)];
}

TEST(concat)
{
    static const grad_case cases[] = {
        { GRAD_CASE(concat, "rows"), build_concat, ref_concat, .n = { 0, 2 }, .in = { { GRAD_IN(2, 5) }, { GRAD_IN(3, 5) } },
          .out = GRAD_SHAPE(5, 5) },
        { GRAD_CASE(concat, "columns"), build_concat, ref_concat, .n = { 1, 3 },
          .in = { { GRAD_IN(4, 2) }, { GRAD_IN(4, 1) }, { GRAD_IN(4, 3) } }, .out = GRAD_SHAPE(4, 6) },
        { GRAD_CASE(concat, "one part"), build_concat, ref_concat, .n = { 0, 1 }, .in = { { GRAD_IN(4, 2) } },
          .out = GRAD_SHAPE(4, 2) },
        { GRAD_CASE(concat, "the middle axis"), build_concat, ref_concat, .n = { 1, 2 },
          .in = { { GRAD_IN(2, 3, 4) }, { GRAD_IN(2, 1, 4) } }, .out = GRAD_SHAPE(2, 4, 4) },
        { GRAD_CASE(concat, "many, one of them twenty times"), build_concat_many, ref_concat_many, .n = { 1 },
          .in = { { GRAD_IN(3, 2) }, { GRAD_IN(3, 4) } }, .out = GRAD_SHAPE(3, 44), .not_strided = 1 },
        { GRAD_CASE(concat, "one part twice"), build_concat_twice, ref_concat_twice, .in = { { GRAD_IN(3, 2) } },
          .out = GRAD_SHAPE(6, 2) },
        { GRAD_CASE(concat, "large"), build_concat, ref_concat, .n = { 2, 2 },
          .in = { { GRAD_IN(4, 120, 70) }, { GRAD_IN(4, 120, 131) } }, .out = GRAD_SHAPE(4, 120, 201) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* ---- pad ---------------------------------------------------------------------------------------------------------- */
static kd_tensor *build_pad(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return kd_pad(tape, in[0], c->n, c->n + 4, (float)c->p[0]);
}

static void ref_pad_case(const grad_case *c, const double *const *in, double *out, double *size)
{
    (void)size;
    ref_pad(in[0], c->in[0].size.rank, c->in[0].size.shape, c->n, c->n + 4, c->p[0], out);
}

static kd_tensor *build_pad_after(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return kd_pad(tape, in[0], NULL, c->n + 4, (float)c->p[0]);
}

TEST(pad)
{
    static const grad_case cases[] = {
        { GRAD_CASE(pad, "an image"), build_pad, ref_pad_case, .n = { 0, 1, 2, 0, 0, 2, 1, 0 }, .p = { 0 },
          .in = { { GRAD_IN(2, 3, 4, 2) } }, .out = GRAD_SHAPE(2, 6, 7, 2) },
        { GRAD_CASE(pad, "with a value"), build_pad, ref_pad_case, .n = { 1, 2, 0, 0, 0, 3 }, .p = { -1.5 },
          .in = { { GRAD_IN(3, 4) } }, .out = GRAD_SHAPE(4, 9) },
        { GRAD_CASE(pad, "nothing"), build_pad, ref_pad_case, .in = { { GRAD_IN(3, 4) } }, .out = GRAD_SHAPE(3, 4) },
        { GRAD_CASE(pad, "no `before`"), build_pad_after, ref_pad_case, .n = { 0, 0, 0, 0, 2, 1 }, .p = { 0.5 },
          .in = { { GRAD_IN(3, 4) } }, .out = GRAD_SHAPE(5, 5) },
        { GRAD_CASE(pad, "large"), build_pad, ref_pad_case, .n = { 0, 1, 1, 0, 0, 1, 1, 0 }, .in = { { GRAD_IN(4, 40, 40, 17) } },
          .out = GRAD_SHAPE(4, 42, 42, 17) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* ---- embedding ------------------------------------------------------------------------------------------------------- */
static kd_tensor *build_embedding(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    (void)c;
    return kd_embedding(tape, in[0], in[1]);
}

static void ref_embedding_case(const grad_case *c, const double *const *in, double *out, double *size)
{
    (void)size;
    ref_embedding(in[0], c->in[0].size.shape[1], in[1], grad_count(&c->in[1].size), out);
}

TEST(embedding)
{
    static const grad_case cases[] = {
        { GRAD_CASE(embedding, "i32, rows several times"), build_embedding, ref_embedding_case,
          .in = { { GRAD_IN(4, 3) }, { GRAD_IN(2, 5), .kind = GRAD_I32, .hi = 4 } }, .out = GRAD_SHAPE(2, 5, 3) },
        { GRAD_CASE(embedding, "i64"), build_embedding, ref_embedding_case,
          .in = { { GRAD_IN(6, 5) }, { GRAD_IN(3), .kind = GRAD_I64, .hi = 6 } }, .out = GRAD_SHAPE(3, 5) },
        { GRAD_CASE(embedding, "large"), build_embedding, ref_embedding_case,
          .in = { { GRAD_IN(50, 130) }, { GRAD_IN(4, 100), .kind = GRAD_I64, .hi = 50 } }, .out = GRAD_SHAPE(4, 100, 130) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* ---- dropout: the mask is the reference's own, from the published stream ------------------------------------------------ */
static kd_tensor *build_dropout(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    kd_rng rng = kd_rng_make(41);
    rng.index = 3;   /* the fourth random op of this seed */
    kd_tape_set_rng(tape, rng);
    return kd_dropout(tape, in[0], (float)c->p[0]);
}

static void ref_dropout(const grad_case *c, const double *const *in, double *out, double *size)
{
    kd_rng seed = kd_rng_make(41), stream = kd_rng_split(&seed, 3);
    const double p = c->mode == KD_TAPE_EVAL ? 0 : (double)(float)c->p[0];
    (void)size;
    for (size_t i = 0; i < grad_count(&c->out); i++) out[i] = (double)kd_rng_uniform(&stream) < p ? 0 : in[0][i] / (1 - p);
}

TEST(dropout)
{
    /* 1 - p, its reciprocal and the product each round once: 3 units. */
    static const grad_case cases[] = {
        { GRAD_CASE(dropout, "p 0.3"), build_dropout, ref_dropout, .p = { 0.3 }, .units = 3, .in = { { GRAD_IN(9, 13) } },
          .out = GRAD_SHAPE(9, 13) },
        { GRAD_CASE(dropout, "p 0"), build_dropout, ref_dropout, .p = { 0 }, .in = { { GRAD_IN(9, 13) } },
          .out = GRAD_SHAPE(9, 13) },
        { GRAD_CASE(dropout, "EVAL"), build_dropout, ref_dropout, .p = { 0.5 }, .mode = KD_TAPE_EVAL, .in = { { GRAD_IN(40) } },
          .out = GRAD_SHAPE(40) },
        { GRAD_CASE(dropout, "large"), build_dropout, ref_dropout, .p = { 0.9 }, .units = 3, .in = { { GRAD_IN(3, 33, 313) } },
          .out = GRAD_SHAPE(3, 33, 313) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}
