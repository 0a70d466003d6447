/* test_grad_custom.c - gradients of an op from two functions of the caller's: y = a b, z = a - b, one of them used.
 * SPDX-License-Identifier: MIT */
#include "gradcheck.h"

static kd_status forward(const kd_tensor *const *in, size_t ins, kd_tensor *const *out, size_t outs, void *user)
{
    const float *a = kd_tensor_f32(in[0]), *b = kd_tensor_f32(in[1]);
    (void)ins, (void)outs, (void)user;
    for (size_t i = 0; i < kd_tensor_count(in[0]); i++) {
        kd_tensor_f32(out[0])[i] = a[i] * b[i];
        kd_tensor_f32(out[1])[i] = a[i] - b[i];
    }
    return KD_OK;
}

static kd_status backward(const kd_tensor *const *in, size_t ins, const kd_tensor *const *out, size_t outs,
                          const float *const *dy, float *const *dx, void *user)
{
    (void)ins, (void)out, (void)outs, (void)user;
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; dx[k] && i < kd_tensor_count(in[k]); i++) {
            if (dy[0]) dx[k][i] += dy[0][i] * kd_tensor_f32(in[1 - k])[i];
            if (dy[1]) dx[k][i] += k ? -dy[1][i] : dy[1][i];
        }
    return KD_OK;
}

static kd_tensor *build(kd_tape *tape, kd_tensor *const *in, const grad_case *c)
{
    static const kd_custom_op op = { sizeof op, "product and difference", forward, backward };
    kd_tensor *out[2];
    for (size_t k = 0; k < 2; k++) out[k] = kd_tape_tensor(tape, KD_F32, c->out.rank, c->out.shape);
    kd_custom(tape, &op, in, 2, out, 2, NULL);
    return out[c->n[0]];
}

static void ref(const grad_case *c, const double *const *in, double *out, double *size)
{
    (void)size;
    for (size_t i = 0; i < grad_count(&c->out); i++) out[i] = c->n[0] ? in[0][i] - in[1][i] : in[0][i] * in[1][i];
}

TEST(custom)
{
    static const grad_case cases[] = {
        { GRAD_CASE(custom, "the first result"), build, ref, .n = { 0 }, .units = 1,
          .in = { { GRAD_IN(3, 4) }, { GRAD_IN(3, 4) } }, .out = GRAD_SHAPE(3, 4) },
        { GRAD_CASE(custom, "the second result"), build, ref, .n = { 1 }, .units = 1, .in = { { GRAD_IN(7) }, { GRAD_IN(7) } },
          .out = GRAD_SHAPE(7) },
    };
    grad_run(cases, sizeof cases / sizeof *cases);
}
