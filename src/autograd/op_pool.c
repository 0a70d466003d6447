/* op_pool.c - max_pool2d, avg_pool2d, global_avg_pool.
 * SPDX-License-Identifier: MIT */
#include "autograd/eltwise.h"

typedef void (*pool_kernel)(const kd__pool_args *args, size_t r0, size_t r1);

typedef struct pool_job {
    kd__pool_args args;
    pool_kernel   kernel;
    size_t        rows, in_image, out_image;   /* rows of one image's result; floats of an image */
    size_t        arg_image;                   /* bytes */
} pool_job;

static void pool_rows(size_t begin, size_t end, void *arg)
{
    const pool_job *job = arg;
    for (size_t r = begin; r < end;) {
        const size_t image = r / job->rows, r0 = r % job->rows, r1 = KD_MIN(job->rows, r0 + (end - r));
        kd__pool_args args = job->args;
        args.in += image * job->in_image;
        args.out += image * job->out_image;
        if (args.arg) args.arg = (unsigned char *)args.arg + image * job->arg_image;
        job->kernel(&args, r0, r1);
        r += r1 - r0;
    }
}

static void run(kd_context *ctx, pool_job *job, size_t images, size_t width)
{
    const kd__pool_args *p = &job->args;
    if (!p->c || !width) return;
    size_t taps = KD_MAX(p->kh * p->kw / KD_MAX(KD_MIN(p->stride_h, p->kh) * KD_MIN(p->stride_w, p->kw), 1u), 1u);
    kd__parallel_range(ctx, images * job->rows, kd__row_grain(width * p->c * taps), pool_rows, job);
}

/* ---- windows ----------------------------------------------------------------------------------------------- */
typedef struct pool_saved {
    size_t n;
    kd__pool_args args;   /* sizes; arg */
} pool_saved;

static bool pool_axis(kd__op_scope *op, const char *axis, size_t size, uint32_t window, uint32_t stride, uint32_t padding, size_t *out)
{
    if (window == 0 || stride == 0 || padding >= window) {
        kd__op_fail(op, KD_ERR_ARG,
                    "%s: window %u, stride %u, padding %u: window and stride are at least 1, padding is less than the window",
                    axis, window, stride, padding);
        return false;
    }
    size_t padded;
    if (!kd__add(size, 2 * (size_t)padding, &padded) || padded > PTRDIFF_MAX) {
        kd__op_fail(op, KD_ERR_OVERFLOW, "%s: size %zu and padding %u do not fit", axis, size, padding);
        return false;
    }
    if (size == 0 || padded < window) {   /* so, with padding < window, every window has a pixel */
        kd__op_fail(op, KD_ERR_SHAPE, "%s: a window of %u does not fit size %zu with padding %u", axis, window, size, padding);
        return false;
    }
    *out = (padded - window) / stride + 1;
    return true;
}

static kd_tensor *pool(kd_tape *tape, kd__op_id id, kd_tensor *x, const uint32_t window[2], const uint32_t stride[2],
                       const uint32_t padding[2])
{
    kd__op_scope op;
    pool_saved s = { 0 };
    if (!kd__op_begin(&op, tape, id, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    x = op.in[0];
    if (!window || !stride || !padding)
        return kd__op_fail(&op, KD_ERR_ARG, "%s is NULL", !window ? "window" : !stride ? "stride" : "padding");
    if (x->rank != 4) return kd__op_fail(&op, KD_ERR_SHAPE, "x %S must be [n, h, w, channels]", (size_t)x->rank, x->shape);
    s.n = x->shape[0];
    s.args = (kd__pool_args){ .h = x->shape[1], .w = x->shape[2], .c = x->shape[3], .kh = window[0], .kw = window[1],
                              .stride_h = stride[0], .stride_w = stride[1], .pad_h = padding[0], .pad_w = padding[1] };
    if (!pool_axis(&op, "height", s.args.h, window[0], stride[0], padding[0], &s.args.oh) ||
        !pool_axis(&op, "width", s.args.w, window[1], stride[1], padding[1], &s.args.ow))
        return kd__poison(tape);
    kd_tensor *y = kd__op_output(&op, 4, (size_t[]){ s.n, s.args.oh, s.args.ow, s.args.c });
    if (!y) return kd__op_end(&op);

    const bool maximum = id == KD__OP_max_pool2d;
    if (maximum && op.recording) {   /* where each maximum is: one byte will do for windows up to 256 */
        size_t taps;
        if (!kd__mul(window[0], window[1], &taps) || taps > INT32_MAX)
            return kd__op_fail(&op, KD_ERR_LIMIT, "a window of %u x %u has more than 2^31 places", window[0], window[1]);
        s.args.arg_bytes = taps <= 256 ? 1 : 4;
        s.args.arg = kd__tape_alloc(tape, y->count * s.args.arg_bytes);
        if (!s.args.arg) return kd__op_end(&op);
    }
    pool_job job = { .args = s.args, .kernel = maximum ? tape->ctx->kernels->max_pool_f32 : tape->ctx->kernels->avg_pool_f32,
                     .rows = s.args.oh, .in_image = s.args.h * s.args.w * s.args.c, .out_image = s.args.oh * s.args.ow * s.args.c };
    job.arg_image = job.out_image * s.args.arg_bytes;
    job.args.in = x->data;
    job.args.out = y->data;
    run(tape->ctx, &job, s.n, s.args.ow);
    op.unread_in = op.unread_out = 1;
    if (op.recording) {
        pool_saved *saved = kd__op_save(&op, sizeof *saved);
        if (saved) *saved = s;
    }
    return kd__op_end(&op);
}

static void pool_backward(kd_tape *tape, kd__node *node, pool_kernel kernel)
{
    const pool_saved *s = node->saved;
    bool accumulate;
    float *dx = kd__grad_open(tape, node->in[0], &accumulate);
    if (!dx) return;
    pool_job job = { .args = s->args, .kernel = kernel, .rows = s->args.h, .in_image = s->args.oh * s->args.ow * s->args.c,
                     .out_image = s->args.h * s->args.w * s->args.c };
    job.arg_image = job.in_image * s->args.arg_bytes;
    job.args.in = kd__grad_out(tape, node->out[0]);
    job.args.out = dx;
    job.args.accumulate = accumulate;
    run(tape->ctx, &job, s->n, s->args.w);
}

/* y = the largest of the window, so x' = y' where x was chosen. */
kd_tensor *kd_max_pool2d(kd_tape *tape, kd_tensor *x, const uint32_t window[2], const uint32_t stride[2], const uint32_t padding[2])
{
    return pool(tape, KD__OP_max_pool2d, x, window, stride, padding);
}

void kd__backward_max_pool2d(kd_tape *tape, kd__node *node) { pool_backward(tape, node, tape->ctx->kernels->max_pool_backward_f32); }

/* y = sum of the window / count, so x' = y' / count of each window over x. */
kd_tensor *kd_avg_pool2d(kd_tape *tape, kd_tensor *x, const uint32_t window[2], const uint32_t stride[2], const uint32_t padding[2])
{
    return pool(tape, KD__OP_avg_pool2d, x, window, stride, padding);
}

void kd__backward_avg_pool2d(kd_tape *tape, kd__node *node) { pool_backward(tape, node, tape->ctx->kernels->avg_pool_backward_f32); }

/* ---- the whole image: y[n][c] = mean over h and w -------------------------------------------------------------- */
kd_tensor *kd_global_avg_pool(kd_tape *tape, kd_tensor *x)
{
    kd__op_scope op;
    if (!kd__op_begin(&op, tape, KD__OP_global_avg_pool, (kd_tensor *[]){ x }, 1)) return kd__poison(tape);
    x = op.in[0];
    if (x->rank != 4) return kd__op_fail(&op, KD_ERR_SHAPE, "x %S must be [n, h, w, channels]", (size_t)x->rank, x->shape);
    if (!x->shape[1] || !x->shape[2])
        return kd__op_fail(&op, KD_ERR_SHAPE, "x %S: the mean of no pixels", (size_t)x->rank, x->shape);
    kd_tensor *y = kd__op_output(&op, 2, (size_t[]){ x->shape[0], x->shape[3] });
    if (!y) return kd__op_end(&op);
    const double area = (double)x->shape[1] * (double)x->shape[2];
    kd_status status = kd__reduce_sum(tape->ctx, 4, x->shape, 1u << 1 | 1u << 2, x->data, 1.0 / area, y->data, false);
    op.unread_in = op.unread_out = 1;
    return status == KD_OK ? kd__op_end(&op) : kd__tape_fail(tape, status);
}

typedef struct spread_job {
    kd_context *ctx;
    const float *dy;
    float *dx;
    size_t area, c;
    float scale;
    bool accumulate;
} spread_job;

static void spread_images(size_t begin, size_t end, void *arg)
{
    const spread_job *job = arg;
    const kd__kernels *k = job->ctx->kernels;
    enum { STRIP = 256 };
    float each[STRIP];
    for (size_t i = begin; i < end; i++)
        for (size_t c = 0; c < job->c; c += STRIP) {
            const size_t n = KD_MIN(job->c - c, (size_t)STRIP);
            k->unary_f32(KD_UNARY_SCALE_ADD, each, job->dy + i * job->c + c, n, job->scale, 0.0f);
            k->copy2d_f32(job->dx + i * job->area * job->c + c, (ptrdiff_t)job->c, 1, each, 0, 1, job->area, n, job->accumulate);
        }
}

/* x' = y' / (h w) at every pixel. */
void kd__backward_global_avg_pool(kd_tape *tape, kd__node *node)
{
    kd_tensor *x = node->in[0];
    spread_job job = { .ctx = tape->ctx, .dy = kd__grad_out(tape, node->out[0]), .area = x->shape[1] * x->shape[2], .c = x->shape[3] };
    job.dx = kd__grad_open(tape, x, &job.accumulate);
    if (!job.dx) return;
    job.scale = (float)(1.0 / (double)job.area);
    kd__parallel_range(tape->ctx, x->shape[0], kd__row_grain(job.area * job.c), spread_images, &job);
}
