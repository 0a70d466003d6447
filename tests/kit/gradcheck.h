/* gradcheck.h - an op and its gradients against a double-precision reference.
 * SPDX-License-Identifier: MIT
 *
 * A case is one row of a table: how to build the op, the same formula in double, the inputs.
 *
 *     static kd_tensor *build_scale(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
 *     {
 *         return kd_scale(tape, in[0], (float)c->p[0], (float)c->p[1]);
 *     }
 *     static void ref_scale(const grad_case *c, const double *const *in, double *out, double *size)
 *     {
 *         for (size_t i = 0; i < grad_count(&c->out); i++) out[i] = c->p[0] * in[0][i] + c->p[1];
 *     }
 *     static const grad_case cases[] = {
 *         { GRAD_CASE(scale, "2x + 1"), build_scale, ref_scale, .p = { 2, 1 }, .units = 1,
 *           .in = { GRAD_IN(5, 7) }, .out = GRAD_SHAPE(5, 7) },
 *     };
 *     TEST(scale) { grad_run(cases, sizeof cases / sizeof *cases); }
 *
 * GRAD_CASE's first word is the op's line in ops.def; tests/grad/test_grad_listed.c fails while a line has no case.
 *
 * What grad_run checks, for each case:
 *   forward      shape of the result; |y - ref| <= units 2^-24 size[i], size[i] = |ref[i]| unless the reference fills it
 *                (sum |a b| for a sum of products); units 0: exactly (float)ref
 *   backward     every input, against 4th-order central differences of the double reference, for the loss sum w y with random
 *                w: each element up to 200 of them (2000 with KD_TEST_FULL=1), and along random directions.  Tolerance 1e-5
 *                (or grad_tol) of the largest gradient of that input: f32 rounds to 6e-8, so 1e-5 leaves room for sums of some
 *                hundred terms, and a formula that is wrong in its fifth digit fails.  Differences in double with a step
 *                of 1e-3 are good to about 1e-10.
 *   accumulate   the same when every input already has a gradient from elsewhere
 *   wants        an input that asks for no gradient gets none, and the others' bits do not change
 *   strided      inputs wrapped with the last two axes swapped in memory give the same bits
 *   same bits    on every instruction set present, on 1, 2, 3, 4 and 7 threads
 *   memory       the third step allocates nothing; each allocation of a step failing in turn gives KD_ERR_NOMEM, leaks
 *                nothing, and after kd_tape_reset the same tape gives the same bits (the first case of a table, or all with
 *                KD_TEST_FULL=1)
 *
 * Keep inputs away from kinks: differences reach 2e-3 times a normal number, so 0.02 is far enough (GRAD_SPACED keeps 0.05). */
#ifndef GRADCHECK_H
#define GRADCHECK_H
#include "kdtest.h"

enum { GRAD_INPUTS = 16 };

enum {
    GRAD_NORMAL = 0,   /* standard normal; times `hi` if that is not 0                                   */
    GRAD_UNIFORM,      /* in [lo, hi)                                                                    */
    GRAD_SPACED,       /* distinct: a shuffle of .., -0.15, -0.05, 0.05, 0.15, ..; away from multiples of 0.1 */
    GRAD_I32,          /* integers in [lo, hi): labels, ids; no gradient                                 */
    GRAD_I64,
    GRAD_NULL          /* an optional input left out: build gets NULL                                    */
};

typedef struct grad_shape { size_t rank, shape[KD_MAX_RANK]; } grad_shape;

typedef struct grad_input {
    grad_shape size;
    int    kind;
    double lo, hi;
    const double *values;   /* these instead */
    int    constant;        /* f32, but the op gives it no gradient: the teacher's side */
    int    buffer;          /* f32 that the op writes (running statistics): always contiguous, refilled for each run */
} grad_input;

typedef struct grad_case grad_case;
struct grad_case {
    const char *op, *label;
    kd_tensor *(*build)(kd_tape *tape, kd_tensor *const *in, const grad_case *c);
    /* out[i] from in[k][j], all as doubles, row-major; size[i] as above, or NULL when only values are wanted. */
    void (*ref)(const grad_case *c, const double *const *in, double *out, double *size);
    grad_input in[GRAD_INPUTS];
    size_t     in_count;     /* 0: up to the first input that is all zero bytes after in[0] */
    grad_shape out;
    double     p[8];         /* numbers for build and ref */
    size_t     n[8];
    double     units;        /* of 2^-24, forward */
    double     grad_tol;     /* 0: 1e-5 */
    uint32_t   mode;         /* 0: KD_TAPE_TRAIN */
    int        not_strided;  /* build gives an input to several ops: strided, each adds through a copy, in another order */
};

#define GRAD_CASE(op_, label_) .op = #op_, .label = (label_)
/* A shape from its sizes; GRAD_SCALAR has none. */
#define GRAD_SHAPE(...) { sizeof((size_t[]){ __VA_ARGS__ }) / sizeof(size_t), { __VA_ARGS__ } }
#define GRAD_SCALAR { 0, { 0 } }
/* Inputs: { GRAD_IN(5, 7) }, { GRAD_IN(3), .kind = GRAD_I32, .hi = 10 }; without braces a normal one. */
#define GRAD_IN(...) .size = GRAD_SHAPE(__VA_ARGS__)

size_t grad_count(const grad_shape *s);
void grad_run(const grad_case *cases, size_t count);
#endif
