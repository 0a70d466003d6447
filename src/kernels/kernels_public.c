/* kernels_public.c - include/kd/kernels.h: checks, and rows shared out among threads.  kd_distill_rows is in the loss's room.
 * SPDX-License-Identifier: MIT */
#include "kd/kernels.h"
#include "base/base.h"
#include "base/platform.h"
#include "kernels/distill_run.h"
#include <math.h>

/* ---- checks ---------------------------------------------------------------------------------------------------- */

/* One argument: `rows` rows of `width` elements of 4 bytes, `stride` apart. */
typedef struct matrix {
    const char *name;
    const void *data;
    size_t stride, width;
} matrix;

static kd_status check_sizes(const char *function, size_t rows, size_t classes, float temperature)
{
    if (classes == 0) return kd__fail(KD_ERR_SHAPE, "%s: classes is 0", function);
    if (!(temperature > 0 && temperature < INFINITY))
        return kd__fail(KD_ERR_ARG, "%s: temperature %g is not a finite number above 0", function, (double)temperature);
    size_t bytes;
    if (!kd__mul(classes, 32, &bytes) || !kd__mul(rows, 32, &bytes))   /* room for scratch rows and for values of rows */
        return kd__fail(KD_ERR_OVERFLOW, "%s: %zu rows of %zu classes do not fit in memory", function, rows, classes);
    return KD_OK;
}

static kd_status check_matrix(const char *function, size_t rows, const matrix *m)
{
    size_t elements;
    if (!m->data) return kd__fail(KD_ERR_ARG, "%s: %s is NULL", function, m->name);
    if ((uintptr_t)m->data % 4) return kd__fail(KD_ERR_ARG, "%s: %s is not aligned to its elements", function, m->name);
    if (m->stride < m->width)
        return kd__fail(KD_ERR_ARG, "%s: %s: stride %zu is less than %zu classes", function, m->name, m->stride, m->width);
    if (!kd__mul(rows, m->stride, &elements) || elements > SIZE_MAX / 8)
        return kd__fail(KD_ERR_OVERFLOW, "%s: %s: %zu rows %zu apart do not fit in memory", function, m->name, rows, m->stride);
    return KD_OK;
}

static bool overlap(size_t rows, const matrix *a, const matrix *b)
{
    uintptr_t a0 = (uintptr_t)a->data, b0 = (uintptr_t)b->data;
    uintptr_t a1 = a0 + 4 * ((rows - 1) * a->stride + a->width), b1 = b0 + 4 * ((rows - 1) * b->stride + b->width);
    return a0 < b1 && b0 < a1;
}

/* The outputs first, then the inputs; output 0 may be input `same` itself, with its stride (-1: none). */
static kd_status check_matrices(const char *function, size_t rows, const matrix *m, size_t outputs, size_t count, int same)
{
    for (size_t i = 0; i < count; i++) KD_TRY(check_matrix(function, rows, &m[i]));
    for (size_t i = 0; i < outputs; i++)
        for (size_t k = i + 1; k < count; k++) {
            if (i == 0 && (int)k == same && m[0].data == m[k].data && m[0].stride == m[k].stride) continue;
            if (overlap(rows, &m[i], &m[k]))
                return kd__fail(KD_ERR_ARG, "%s: %s and %s overlap", function, m[i].name, m[k].name);
        }
    return KD_OK;
}

/* ---- softmax ----------------------------------------------------------------------------------------------------- */

typedef struct softmax_job {
    const kd__kernels *kernels;
    const float *in;
    float *out;
    size_t in_stride, out_stride, classes;
    float temperature;
    int logarithm;
} softmax_job;

static void softmax_task(size_t begin, size_t end, void *arg)
{
    const softmax_job *j = arg;
    j->kernels->softmax_f32(j->out + begin * j->out_stride, j->out_stride, j->in + begin * j->in_stride, j->in_stride, end - begin,
                            j->classes, j->temperature, j->logarithm);
}

static kd_status softmax_rows(const char *function, kd_context *ctx, size_t rows, size_t classes, const float *logits,
                              size_t logits_stride, float temperature, float *out, size_t out_stride, int logarithm)
{
    KD__FP_SCOPE;
    KD_TRY(check_sizes(function, rows, classes, temperature));
    if (rows == 0) return KD_OK;
    const matrix m[] = { { "out", out, out_stride, classes }, { "logits", logits, logits_stride, classes } };
    KD_TRY(check_matrices(function, rows, m, 1, 2, 1));
    ctx = kd__context(ctx);
    softmax_job j = { ctx->kernels, logits, out, logits_stride, out_stride, classes, temperature, logarithm };
    kd__parallel_range(ctx, rows, 16384 / classes + 1, softmax_task, &j);
    return KD_OK;
}

kd_status kd_softmax_rows(kd_context *ctx, size_t rows, size_t classes, const float *logits, size_t logits_stride,
                          float temperature, float *out, size_t out_stride)
{
    return softmax_rows(__func__, ctx, rows, classes, logits, logits_stride, temperature, out, out_stride, 0);
}

kd_status kd_log_softmax_rows(kd_context *ctx, size_t rows, size_t classes, const float *logits, size_t logits_stride,
                              float temperature, float *out, size_t out_stride)
{
    return softmax_rows(__func__, ctx, rows, classes, logits, logits_stride, temperature, out, out_stride, 1);
}

/* ---- the losses: the distillation kernel with one of its terms ------------------------------------------------------ */

/* Each row counts 1 in its term, but ignored ones. */
static kd_status loss_rows(const char *function, kd_context *ctx, kd__distill_args args, int32_t ignore_index, float *out)
{
    KD__FP_SCOPE;
    ctx = kd__context(ctx);
    size_t rows = args.rows, floats, bytes, masked;
    if (!kd__mul(rows, 3, &floats) || !kd__mul(floats, sizeof(float), &bytes))
        return kd__fail(KD_ERR_OVERFLOW, "%s: %zu rows do not fit in memory", function, rows);
    float *in = kd__scratch_get(ctx, bytes), *off = in ? in + rows : NULL, *unused = in ? off + rows : NULL;
    if (!in) return kd__fail(KD_ERR_NOMEM, "%s: out of memory for %zu rows", function, rows);
    for (size_t r = 0; r < rows; r++) {
        in[r] = !args.labels || args.labels[r] != ignore_index ? 1.0f : 0.0f;
        off[r] = 0;
    }
    args.hard_coef = args.labels ? in : off;
    args.soft_coef = args.labels ? off : in;
    args.hard = args.labels ? out : unused;
    args.soft = args.labels ? unused : out;
    kd_status status = kd__distill_run(ctx, &args, &masked);
    kd__scratch_put(ctx, in);
    return status == KD_OK ? KD_OK : kd__fail_prefix(status, "%s: ", function);
}

kd_status kd_kl_divergence_rows(kd_context *ctx, size_t rows, size_t classes, const float *p_logits, size_t p_stride,
                                const float *q_logits, size_t q_stride, float temperature, float *out, float *grad_q,
                                size_t grad_stride)
{
    KD_TRY(check_sizes(__func__, rows, classes, temperature));
    if (rows == 0) return KD_OK;
    const matrix m[] = { { "grad_q", grad_q, grad_stride, classes }, { "out", out, 1, 1 },
                         { "p_logits", p_logits, p_stride, classes }, { "q_logits", q_logits, q_stride, classes } };
    size_t skip = grad_q ? 0 : 1;
    KD_TRY(check_matrices(__func__, rows, m + skip, 2 - skip, 4 - skip, -1));
    return loss_rows(__func__, ctx, (kd__distill_args){ .rows = rows, .classes = classes, .student = q_logits,
                                                        .student_stride = q_stride, .teacher = p_logits,
                                                        .teacher_stride = p_stride, .grad = grad_q, .grad_stride = grad_stride,
                                                        .temperature = temperature }, 0, out);
}

kd_status kd_cross_entropy_rows(kd_context *ctx, size_t rows, size_t classes, const float *logits, size_t logits_stride,
                                const int32_t *labels, int32_t ignore_index, float *out, float *grad, size_t grad_stride)
{
    KD_TRY(check_sizes(__func__, rows, classes, 1.0f));
    if (rows == 0) return KD_OK;
    const matrix m[] = { { "grad", grad, grad_stride, classes }, { "out", out, 1, 1 },
                         { "logits", logits, logits_stride, classes }, { "labels", labels, 1, 1 } };
    size_t skip = grad ? 0 : 1;
    KD_TRY(check_matrices(__func__, rows, m + skip, 2 - skip, 4 - skip, grad ? 2 : -1));
    for (size_t r = 0; r < rows; r++)
        if (labels[r] != ignore_index && (labels[r] < 0 || (size_t)labels[r] >= classes))
            return kd__fail(KD_ERR_RANGE, "%s: labels[%zu] = %d is not in [0, %zu)", __func__, r, labels[r], classes);
    return loss_rows(__func__, ctx, (kd__distill_args){ .rows = rows, .classes = classes, .student = logits,
                                                        .student_stride = logits_stride, .labels = labels, .grad = grad,
                                                        .grad_stride = grad_stride, .temperature = 1.0f }, ignore_index, out);
}
