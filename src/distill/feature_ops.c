/* feature_ops.c - pieces of several feature methods: the regressor of FitNet's code, maps of other sizes, Gram matrices.
 * SPDX-License-Identifier: MIT */
#include "distill/feature.h"
#include <math.h>

/* ---- maps of other sizes: a matrix along each axis ------------------------------------------------------------------- */

/* y[n, i, j, c] = sum_hw rows[i, h] columns[j, w] x[n, h, w, c]; `fill` writes a matrix [out, in] into zeros. */
static kd_tensor *resample(kd_tape *tape, kd_tensor *x, size_t oh, size_t ow, void (*fill)(float *m, size_t out, size_t in))
{
    if (!kd__tape_ok(tape)) return kd__poison(tape);
    const size_t n = x->shape[0], h = x->shape[1], w = x->shape[2], c = x->shape[3];
    if (oh == h && ow == w) return x;
    kd_tensor *rows = kd__tape_new(tape, KD_F32, 2, (size_t[]){ oh, h });
    kd_tensor *columns = kd__tape_new(tape, KD_F32, 2, (size_t[]){ ow, w });
    if (!rows || !columns) return kd__poison(tape);
    memset(rows->data, 0, rows->count * sizeof(float));
    memset(columns->data, 0, columns->count * sizeof(float));
    fill(rows->data, oh, h);
    fill(columns->data, ow, w);
    kd_tensor *y = kd_matmul(tape, rows, kd_reshape(tape, x, 3, (size_t[]){ n, h, w * c }), 0);
    y = kd_matmul(tape, columns, kd_reshape(tape, y, 3, (size_t[]){ n * oh, w, c }), 0);
    return kd_reshape(tape, y, 4, (size_t[]){ n, oh, ow, c });
}

static void fill_mean(float *m, size_t out, size_t in)
{
    for (size_t i = 0; i < out; i++) {
        size_t begin = i * in / out, end = ((i + 1) * in + out - 1) / out;
        for (size_t k = begin; k < end; k++) m[i * in + k] = 1.0f / (float)(end - begin);
    }
}

static void fill_nearest(float *m, size_t out, size_t in)
{
    for (size_t i = 0; i < out; i++) m[i * in + i * in / out] = 1;
}

static void fill_spread(float *m, size_t out, size_t in)
{
    size_t step = in > 1 ? (out - 1) / (in - 1) : 1;
    for (size_t i = 0; i < in; i++) m[i * step * in + i] = 1;
}

kd_tensor *kd__adaptive_avg_pool(kd_tape *tape, kd_tensor *x, size_t oh, size_t ow)
{
    return resample(tape, x, oh, ow, fill_mean);
}

kd_tensor *kd__upsample_nearest(kd_tape *tape, kd_tensor *x, size_t oh, size_t ow)
{
    return resample(tape, x, oh, ow, fill_nearest);
}

kd_tensor *kd__spread(kd_tape *tape, kd_tensor *x, size_t step)
{
    if (!kd__tape_ok(tape)) return kd__poison(tape);
    return resample(tape, x, (x->shape[1] - 1) * step + 1, (x->shape[2] - 1) * step + 1, fill_spread);
}

/* ---- ConvReg ------------------------------------------------------------------------------------------------------------ */

enum { REG_NONE, REG_HALF, REG_DOUBLE, REG_WINDOW, REG_LINEAR };

static uint32_t reg_kind(const kd_feature_shape *s, const kd_feature_shape *t)
{
    if (s->rank != t->rank) return REG_NONE;
    if (s->rank < 3) return s->rank == 1 || s->size[0] == t->size[0] ? REG_LINEAR : REG_NONE;
    if (s->rank != 3) return REG_NONE;
    const size_t *a = s->size, *b = t->size;
    if (a[0] == 2 * b[0] && a[1] == 2 * b[1]) return REG_HALF;
    if (2 * a[0] == b[0] && 2 * a[1] == b[1]) return REG_DOUBLE;
    return a[0] >= b[0] && a[1] >= b[1] ? REG_WINDOW : REG_NONE;
}

bool kd__conv_reg_fits(const kd_feature_shape *student, const kd_feature_shape *teacher)
{
    return reg_kind(student, teacher) != REG_NONE;
}

void kd__conv_reg(kd_layer *root, const char *name, const kd_feature_shape *s, const kd_feature_shape *t, bool relu)
{
    kd_layer *reg = kd_layer_sequence(root, name), *conv = NULL;
    size_t in = s->size[s->rank - 1], out = t->size[t->rank - 1];
    kd_conv_desc d;
    kd_conv_desc_init(&d, sizeof d);
    switch (reg_kind(s, t)) {
    case REG_HALF:
        d.stride[0] = d.stride[1] = 2, d.padding[0] = d.padding[1] = 1;
        kd_layer_conv2d(reg, "conv", in, out, 3, 3, 1, &d);
        break;
    case REG_DOUBLE: {   /* transposed, 4x4, stride 2, padding 1: a convolution of the spread map */
        d.padding[0] = d.padding[1] = 2;
        conv = kd_layer_conv2d(reg, "conv", in, out, 4, 4, 1, &d);
        const float bound = (float)(1 / sqrt(16.0 * (double)out));   /* PyTorch takes a transposed one's fan-in from `out` */
        kd__layer_set_init(conv, "weight", KD_INIT_UNIFORM, -bound, bound);
        kd__layer_set_init(conv, "bias", KD_INIT_UNIFORM, -bound, bound);
        break;
    }
    case REG_WINDOW:
        kd_layer_conv2d(reg, "conv", in, out, 1 + s->size[0] - t->size[0], 1 + s->size[1] - t->size[1], 1, &d);
        break;
    default: kd_layer_linear(reg, "linear", in, out, 1);
    }
    kd_layer_batch_norm(reg, "bn", out, 0.1f, 1e-5f);
    if (relu) kd_layer_activation(reg, "relu", KD_ACT_RELU);
}

kd_tensor *kd__conv_reg_forward(const kd_loss_feature *loss, kd_tape *tape, const char *name, kd_tensor *x, size_t tap)
{
    if (reg_kind(&loss->desc.student[tap], &loss->desc.teacher[tap]) == REG_DOUBLE) x = kd__spread(tape, x, 2);
    return kd__adapter_forward(loss, tape, name, x);
}

/* ---- Gram matrices -------------------------------------------------------------------------------------------------------- */

kd_status kd__gram(kd_context *ctx, const float *x, size_t n, size_t d, float *out)
{
    return kd__gemm(ctx, &(kd__gemm_args){ .m = n, .n = n, .k = d, .a = x, .a_stride = d, .b = x, .b_stride = d,
                                           .b_transposed = true, .c = out, .c_stride = n });
}

kd_status kd__gram_backward(kd_context *ctx, float *g, const float *x, size_t n, size_t d, float *dx)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) g[i * n + j] = g[j * n + i] = g[i * n + j] + g[j * n + i];
    return kd__gemm(ctx, &(kd__gemm_args){ .m = n, .n = d, .k = n, .a = g, .a_stride = n, .b = x, .b_stride = d,
                                           .c = dx, .c_stride = d });
}

void kd__centre(const kd__kernels *k, const float *x, size_t n, size_t d, float *mean, float *out)
{
    k->column_sums_f32(mean, x, n, d, d, 0);
    k->unary_f32(KD_UNARY_SCALE_ADD, mean, mean, d, 1.0f / (float)n, 0);
    k->binary_f32(KD_BINARY_SUB, out, d, (kd__operand){ x, d, 1 }, (kd__operand){ mean, 0, 1 }, n, d);
}

typedef struct gram_job { const kd__kernels *kernels; const float *x; size_t n, d; double *out; size_t stride; } gram_job;

/* Row i and row n - 1 - i, from the diagonal on: together as much work as any other pair. */
static void gram_rows(size_t task, void *arg)
{
    const gram_job *job = arg;
    const size_t n = job->n, rows[2] = { task, n - 1 - task };
    for (size_t r = 0; r < (rows[0] == rows[1] ? 1u : 2u); r++)
        for (size_t i = rows[r], j = i; j < n; j++) {
            double *at = &job->out[i * job->stride + j];
            job->kernels->dot_f32(at, job->x + i * job->d, job->x + j * job->d, job->d);
            job->out[j * job->stride + i] = *at;
        }
}

void kd__gram_f64(kd_context *ctx, const float *x, size_t n, size_t d, double *out, size_t stride)
{
    gram_job job = { ctx->kernels, x, n, d, out, stride };
    kd__parallel(ctx, (n + 1) / 2, gram_rows, &job);
}

double kd__gram_distance(const double *gram, size_t stride, size_t i, size_t j)
{
    double a = gram[i * stride + i], b = gram[j * stride + j], d = a + b - 2 * gram[i * stride + j];
    return d > 0x1p-47 * (a + b) ? d : 0;   /* below, it is the rounding of equal rows */
}
