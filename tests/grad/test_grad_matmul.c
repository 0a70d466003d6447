/* test_grad_matmul.c - matmul and linear, forward and backward; what they refuse.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"
#include <math.h>
#include <string.h>

/* n: batch, m, n, k, flags, a shared, b shared */
enum { BATCH, M, N, K, FLAGS, A_SHARED, B_SHARED };

static kd_tensor *build_matmul(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    return kd_matmul(tape, in[0], in[1], (uint32_t)c->n[FLAGS]);
}

static void ref_matmul(const grad_case *c, const double *const *in, double *out, double *size)
{
    const size_t m = c->n[M], n = c->n[N], k = c->n[K], ta = c->n[FLAGS] & KD_TRANSPOSE_A, tb = c->n[FLAGS] & KD_TRANSPOSE_B;
    for (size_t b = 0; b < c->n[BATCH]; b++) {
        const double *x = in[0] + (c->n[A_SHARED] ? 0 : b * m * k), *y = in[1] + (c->n[B_SHARED] ? 0 : b * k * n);
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) {
                double sum = 0, all = 0;
                for (size_t p = 0; p < k; p++) {
                    double product = (ta ? x[p * m + i] : x[i * k + p]) * (tb ? y[j * k + p] : y[p * n + j]);
                    sum += product;
                    all += fabs(product);
                }
                out[(b * m + i) * n + j] = sum;
                if (size) size[(b * m + i) * n + j] = all;
            }
    }
}

static kd_tensor *build_linear(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    (void)c;
    return kd_linear(tape, in[0], in[1], in[2]);
}

/* n: rows, in, out */
static void ref_linear(const grad_case *c, const double *const *in, double *out, double *size)
{
    for (size_t i = 0; i < c->n[0]; i++)
        for (size_t j = 0; j < c->n[2]; j++) {
            double sum = c->in[2].kind == GRAD_NULL ? 0 : in[2][j], all = fabs(sum);
            for (size_t p = 0; p < c->n[1]; p++) {
                double product = in[0][i * c->n[1] + p] * in[1][p * c->n[2] + j];
                sum += product;
                all += fabs(product);
            }
            out[i * c->n[2] + j] = sum;
            if (size) size[i * c->n[2] + j] = all;
        }
}

TEST(matmul)
{
    static const grad_case cases[] = {
        { GRAD_CASE(matmul, "plain"), build_matmul, ref_matmul, .units = 12, .n = { 1, 5, 7, 9, 0, 0, 0 },
          .in = { { GRAD_IN(5, 9) }, { GRAD_IN(9, 7) } }, .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(matmul, "a transposed"), build_matmul, ref_matmul, .units = 12, .n = { 1, 5, 7, 9, 1, 0, 0 },
          .in = { { GRAD_IN(9, 5) }, { GRAD_IN(9, 7) } }, .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(matmul, "b transposed"), build_matmul, ref_matmul, .units = 12, .n = { 1, 5, 7, 9, 2, 0, 0 },
          .in = { { GRAD_IN(5, 9) }, { GRAD_IN(7, 9) } }, .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(matmul, "both transposed"), build_matmul, ref_matmul, .units = 12, .n = { 1, 5, 7, 9, 3, 0, 0 },
          .in = { { GRAD_IN(9, 5) }, { GRAD_IN(7, 9) } }, .out = GRAD_SHAPE(5, 7) },
        { GRAD_CASE(matmul, "batch"), build_matmul, ref_matmul, .units = 12, .n = { 6, 4, 3, 5, 0, 0, 0 },
          .in = { { GRAD_IN(2, 3, 4, 5) }, { GRAD_IN(2, 3, 5, 3) } }, .out = GRAD_SHAPE(2, 3, 4, 3) },
        { GRAD_CASE(matmul, "batch, b transposed: scores of attention"), build_matmul, ref_matmul, .units = 12,
          .n = { 3, 6, 6, 8, 2, 0, 0 }, .in = { { GRAD_IN(3, 6, 8) }, { GRAD_IN(3, 6, 8) } }, .out = GRAD_SHAPE(3, 6, 6) },
        { GRAD_CASE(matmul, "batch, both transposed"), build_matmul, ref_matmul, .units = 12, .n = { 3, 4, 5, 6, 3, 0, 0 },
          .in = { { GRAD_IN(3, 6, 4) }, { GRAD_IN(3, 5, 6) } }, .out = GRAD_SHAPE(3, 4, 5) },
        { GRAD_CASE(matmul, "one b for all"), build_matmul, ref_matmul, .units = 12, .n = { 3, 4, 5, 6, 0, 0, 1 },
          .in = { { GRAD_IN(3, 4, 6) }, { GRAD_IN(6, 5) } }, .out = GRAD_SHAPE(3, 4, 5) },
        { GRAD_CASE(matmul, "one b for all, both transposed"), build_matmul, ref_matmul, .units = 12, .n = { 3, 4, 5, 6, 3, 0, 1 },
          .in = { { GRAD_IN(3, 6, 4) }, { GRAD_IN(5, 6) } }, .out = GRAD_SHAPE(3, 4, 5) },
        { GRAD_CASE(matmul, "one a for all"), build_matmul, ref_matmul, .units = 12, .n = { 3, 4, 5, 6, 0, 1, 0 },
          .in = { { GRAD_IN(4, 6) }, { GRAD_IN(3, 6, 5) } }, .out = GRAD_SHAPE(3, 4, 5) },
        { GRAD_CASE(matmul, "one a for all, both transposed"), build_matmul, ref_matmul, .units = 12, .n = { 3, 4, 5, 6, 3, 1, 0 },
          .in = { { GRAD_IN(6, 4) }, { GRAD_IN(3, 5, 6) } }, .out = GRAD_SHAPE(3, 4, 5) },
        { GRAD_CASE(matmul, "one of each"), build_matmul, ref_matmul, .units = 4, .n = { 1, 1, 1, 1, 0, 0, 0 },
          .in = { { GRAD_IN(1, 1) }, { GRAD_IN(1, 1) } }, .out = GRAD_SHAPE(1, 1) },
        { GRAD_CASE(matmul, "large enough for threads, k over 256"), build_matmul, ref_matmul, .units = 320,
          .n = { 1, 40, 50, 300, 0, 0, 0 }, .in = { { GRAD_IN(40, 300) }, { GRAD_IN(300, 50) } }, .out = GRAD_SHAPE(40, 50) },
        { GRAD_CASE(matmul, "nothing to sum"), build_matmul, ref_matmul, .n = { 1, 3, 4, 0, 0, 0, 0 },
          .in = { { GRAD_IN(3, 0) }, { GRAD_IN(0, 4) } }, .out = GRAD_SHAPE(3, 4) },
        { GRAD_CASE(matmul, "no batch"), build_matmul, ref_matmul, .n = { 0, 3, 4, 5, 0, 0, 1 },
          .in = { { GRAD_IN(0, 3, 5) }, { GRAD_IN(5, 4) } }, .out = GRAD_SHAPE(0, 3, 4) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

TEST(linear)
{
    static const grad_case cases[] = {
        { GRAD_CASE(linear, "with bias"), build_linear, ref_linear, .units = 14, .n = { 6, 9, 5 },
          .in = { { GRAD_IN(6, 9) }, { GRAD_IN(9, 5) }, { GRAD_IN(5) } }, .out = GRAD_SHAPE(6, 5) },
        { GRAD_CASE(linear, "no bias"), build_linear, ref_linear, .units = 14, .n = { 6, 9, 5 },
          .in = { { GRAD_IN(6, 9) }, { GRAD_IN(9, 5) }, { .kind = GRAD_NULL } }, .in_count = 3, .out = GRAD_SHAPE(6, 5) },
        { GRAD_CASE(linear, "many axes"), build_linear, ref_linear, .units = 14, .n = { 12, 8, 17 },
          .in = { { GRAD_IN(2, 2, 3, 8) }, { GRAD_IN(8, 17) }, { GRAD_IN(17) } }, .out = GRAD_SHAPE(2, 2, 3, 17) },
        { GRAD_CASE(linear, "one row"), build_linear, ref_linear, .units = 14, .n = { 1, 8, 3 },
          .in = { { GRAD_IN(8) }, { GRAD_IN(8, 3) }, { GRAD_IN(3) } }, .out = GRAD_SHAPE(3) },
        { GRAD_CASE(linear, "large enough for threads"), build_linear, ref_linear, .units = 120, .n = { 100, 100, 40 },
          .in = { { GRAD_IN(100, 100) }, { GRAD_IN(100, 40) }, { GRAD_IN(40) } }, .out = GRAD_SHAPE(100, 40) },
        { GRAD_CASE(linear, "no rows"), build_linear, ref_linear, .units = 14, .n = { 0, 8, 3 },
          .in = { { GRAD_IN(0, 8) }, { GRAD_IN(8, 3) }, { GRAD_IN(3) } }, .out = GRAD_SHAPE(0, 3) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}

/* Backward in blocks of rows has the bits of the whole products, and of sums of 1024 rows joined in double. */
TEST(linear_in_blocks)
{
    enum { ROWS = 1100, IN = 45, OUT = 71 };
    kd_rng rng = kd_rng_make(8);
    kd_tensor *in[3], *more;
    const size_t shapes[][2] = { { ROWS, IN }, { IN, OUT }, { OUT, 1 } };
    for (size_t i = 0; i < 3; i++) {
        CHECK_OK(kd_tensor_create(&in[i], NULL, KD_F32, i == 2 ? 1 : 2, shapes[i]));
        for (size_t j = 0; j < kd_tensor_count(in[i]); j++) kd_tensor_f32(in[i])[j] = kd_rng_normal(&rng);
    }
    CHECK_OK(kd_tensor_create(&more, NULL, KD_F32, 2, (size_t[]){ ROWS, OUT }));
    for (size_t j = 0; j < kd_tensor_count(more); j++) kd_tensor_f32(more)[j] = kd_rng_normal(&rng);
    kd_tape *tape[2];
    for (size_t t = 0; t < 2; t++) {   /* the sum of y more: its gradient is `more`; twice, so that the second adds */
        CHECK_OK(kd_tape_create(&tape[t], NULL, KD_TAPE_TRAIN));
        kd_tensor *sum = NULL;
        for (size_t i = 0; i < 3; i++) kd_requires_grad(tape[t], in[i]);
        for (size_t n = 0; n < 2; n++) {
            kd_tensor *y = t ? kd_add(tape[t], kd_matmul(tape[t], in[0], in[1], 0), in[2]) : kd_linear(tape[t], in[0], in[1], in[2]);
            y = kd_sum(tape[t], kd_mul(tape[t], y, more), 0, 0);
            sum = n ? kd_add(tape[t], sum, y) : y;
        }
        CHECK_OK(kd_backward(tape[t], sum));
    }
    for (size_t i = 0; i < 2; i++)
        CHECK(!memcmp(kd_grad(tape[0], in[i]), kd_grad(tape[1], in[i]), kd_tensor_count(in[i]) * sizeof(float)));
    for (size_t j = 0; j < OUT; j++) {
        double all = 0;
        float parts[2] = { 0, 0 };
        for (size_t r = 0; r < ROWS; r += 64) {   /* chains of 64 rows */
            float chain = 0;
            for (size_t k = r; k < r + 64 && k < ROWS; k++) chain += kd_tensor_f32(more)[k * OUT + j];
            parts[r / 1024] += chain;
        }
        all = (double)parts[0] + (double)parts[1];
        const float once = (float)all;
        CHECK(kd_grad(tape[0], in[2])[j] == once + once);
    }
    for (size_t t = 0; t < 2; t++) kd_tape_free(tape[t]);
    for (size_t i = 0; i < 3; i++) kd_tensor_free(in[i]);
    kd_tensor_free(more);
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

TEST(refused)
{
    kd_tape *tape;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    REFUSED(kd_matmul(tape, ZEROS(64, 512), ZEROS(256, 10), 0), KD_ERR_SHAPE,
            "kd_matmul: a [64, 512] x b [256, 10]: inner sizes 512 and 256 differ (op 1)");
    REFUSED(kd_matmul(tape, ZEROS(4, 5), ZEROS(4, 6), KD_TRANSPOSE_B), KD_ERR_SHAPE, "b [4, 6] transposed: inner sizes 5 and 6 differ");
    REFUSED(kd_matmul(tape, ZEROS(5), ZEROS(5, 6), 0), KD_ERR_SHAPE, "a [5] x b [5, 6]: both need two axes or more");
    REFUSED(kd_matmul(tape, ZEROS(2, 3, 4), ZEROS(3, 4, 5), 0), KD_ERR_SHAPE, "the leading sizes differ");
    REFUSED(kd_matmul(tape, ZEROS(2, 3, 4), ZEROS(1, 2, 4, 5), 0), KD_ERR_SHAPE, "the leading sizes differ");
    REFUSED(kd_matmul(tape, ZEROS(3, 4), ZEROS(4, 5), 4), KD_ERR_ARG, "flags: 4");
    REFUSED(kd_matmul(tape, NULL, ZEROS(4, 5), 0), KD_ERR_ARG, "kd_matmul");
    REFUSED(kd_matmul(tape, kd_tape_tensor(tape, KD_I32, 2, (size_t[]){ 3, 4 }), ZEROS(4, 5), 0), KD_ERR_DTYPE, "i32");
    REFUSED(kd_linear(tape, ZEROS(32, 64), ZEROS(60, 10), NULL), KD_ERR_SHAPE,
            "kd_linear: x [32, 64] x weight [60, 10]: inner sizes 64 and 60 differ");
    REFUSED(kd_linear(tape, ZEROS(32, 64), ZEROS(64, 10), ZEROS(9)), KD_ERR_SHAPE, "bias [9] does not fit weight [64, 10]");
    REFUSED(kd_linear(tape, ZEROS(32, 64), ZEROS(64), NULL), KD_ERR_SHAPE, "weight [64] is not [in, out]");
    kd_tape_free(tape);
}

TEST(multiply_adds)
{
    kd_tape *tape;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    kd_matmul(tape, ZEROS(2, 3, 4), ZEROS(2, 4, 5), 0);
    CHECK(kd_tape_multiply_adds(tape) == 2 * 3 * 4 * 5);
    kd_linear(tape, ZEROS(2, 3, 4), ZEROS(4, 7), NULL);
    CHECK(kd_tape_multiply_adds(tape) == 2 * 3 * 4 * 5 + 6 * 4 * 7);
    kd_tape_free(tape);
}
