/* op_norm.c - batch and group normalisation: statistics down columns.
 * SPDX-License-Identifier: MIT
 *
 * x is [samples, rows, c], one sample for batch norm.  A set is what shares a mean: `width` neighbouring columns of
 * one sample.  Each chunk of 256 rows gives sums per column in single precision, while it is in the cache; the chunks
 * join in double, in order (Chan, Golub and LeVeque 1979), so the result knows nothing of threads. */
#include "autograd/after.h"
#include "autograd/eltwise.h"
#include "autograd/norm.h"
#include <math.h>

#define CHUNK 256u

typedef struct columns {
    kd_context *ctx;
    size_t samples, rows, c, width;      /* width: columns per set */
    size_t chunks;                       /* per sample */
    const float *x, *dy;
    const float *mean, *scale, *shift;   /* [samples, c]; mean NULL: zeros */
    const float *k, *m;
    const float *residual, *y;           /* of a fused sum and ReLU: added to y; backward, y itself */
    float *g;                            /* backward: the gradient before the ReLU, where it is kept */
    bool relu;
    float *out, *partial;
    double *set_mean, *set_m2;
    bool accumulate;
} columns;

static size_t column_chunks(size_t rows) { return rows / CHUNK + (rows % CHUNK != 0); }
static size_t column_sets(const columns *g) { return g->samples * (g->c / g->width); }
static double set_size(const columns *g) { return (double)g->rows * (double)g->width; }
static size_t chunk_rows(const columns *g, size_t task) { return KD_MIN(CHUNK, g->rows - task % g->chunks * CHUNK); }

/* Where the chunk `task` starts in x. */
static size_t chunk_start(const columns *g, size_t task)
{
    return (task / g->chunks * g->rows + task % g->chunks * CHUNK) * g->c;
}

static void run_chunks(columns *g, void (*fn)(size_t begin, size_t end, void *arg))
{
    size_t each = KD_MIN(g->rows, CHUNK) * g->c;
    kd__parallel_range(g->ctx, g->samples * g->chunks, kd__row_grain(each), fn, g);
}

static void stats_task(size_t begin, size_t end, void *arg)
{
    const columns *g = arg;
    for (size_t t = begin; t < end; t++) {
        float *p = g->partial + 3 * t * g->c;
        g->ctx->kernels->norm_columns_stats_f32(chunk_rows(g, t), g->c, g->x + chunk_start(g, t), p, p + g->c, p + 2 * g->c);
    }
}

static void apply_task(size_t begin, size_t end, void *arg)
{
    const columns *g = arg;
    for (size_t t = begin; t < end; t++) {
        size_t s = t / g->chunks * g->c, at = chunk_start(g, t);
        g->ctx->kernels->norm_columns_apply_f32(chunk_rows(g, t), g->c, g->x + at, g->mean ? g->mean + s : NULL, g->scale + s,
                                            g->shift + s, g->residual ? g->residual + at : NULL, g->relu, g->out + at);
    }
}

static void dots_task(size_t begin, size_t end, void *arg)
{
    const columns *g = arg;
    for (size_t t = begin; t < end; t++) {
        float *p = g->partial + 2 * t * g->c;
        size_t at = chunk_start(g, t);
        kd__norm_relu relu = { .scale = g->scale, .shift = g->shift };
        if (g->y) relu.y = g->y + at, relu.g = g->g + at;
        g->ctx->kernels->norm_columns_dots_f32(chunk_rows(g, t), g->c, g->dy + at, g->x + at, g->mean + t / g->chunks * g->c, p,
                                           p + g->c, g->relu ? &relu : NULL);
    }
}

static void backward_task(size_t begin, size_t end, void *arg)
{
    const columns *g = arg;
    for (size_t t = begin; t < end; t++) {
        size_t s = t / g->chunks * g->c, at = chunk_start(g, t);
        g->ctx->kernels->norm_columns_backward_f32(chunk_rows(g, t), g->c, g->dy + at, g->x ? g->x + at : NULL, g->mean + s,
                                               g->scale + s, g->k + s, g->m + s, g->relu && !g->y ? g->shift : NULL, g->out + at,
                                               g->accumulate);
    }
}

/* Column i of all samples' columns in a row belongs to set i / width: for (set) for (its columns). */
#define EACH_COLUMN(i, set, sets, width)              \
    for (size_t i = 0, set = 0; set < (sets); set++)  \
        for (size_t set##_end = i + (width); i < set##_end; i++)

/* The chunks of one sample joined: means, then sums of squared deviations. */
static void join_task(size_t begin, size_t end, void *arg)
{
    const columns *g = arg;
    size_t c = g->c, per = c / g->width;
    for (size_t s = begin; s < end; s++) {
        double *mean = g->set_mean + s * per, *m2 = g->set_m2 + s * per;
        for (size_t k = 0; k < per; k++) mean[k] = m2[k] = 0.0;
        for (size_t t = s * g->chunks; t < (s + 1) * g->chunks; t++) {
            const float *shift = g->partial + 3 * t * c, *s1 = shift + c;
            double n = (double)chunk_rows(g, t);
            EACH_COLUMN(j, k, per, g->width) mean[k] += n * (double)shift[j] + (double)s1[j];
        }
        for (size_t k = 0; k < per; k++) mean[k] /= set_size(g);
        for (size_t t = s * g->chunks; t < (s + 1) * g->chunks; t++) {
            const float *shift = g->partial + 3 * t * c, *s1 = shift + c, *s2 = s1 + c;
            double n = (double)chunk_rows(g, t), share = 1.0 / n;
            EACH_COLUMN(j, k, per, g->width) {
                double d = (double)s1[j] * share, far = (double)shift[j] + d - mean[k];
                m2[k] += (double)s2[j] + n * (far * far - d * d);
            }
        }
        for (size_t k = 0; k < per; k++)
            if (m2[k] < 0.0) m2[k] = 0.0;   /* rounding; NaN stays */
    }
}

/* Mean and sum of squared deviations of every set.  False: out of memory. */
static bool column_statistics(columns *g, double *mean, double *m2)
{
    g->partial = kd__scratch_get(g->ctx, g->samples * g->chunks * 3 * g->c * sizeof(float));
    if (!g->partial) return false;
    g->set_mean = mean;
    g->set_m2 = m2;
    run_chunks(g, stats_task);
    kd__parallel_range(g->ctx, g->samples, kd__row_grain(g->chunks * g->c), join_task, g);
    kd__scratch_put(g->ctx, g->partial);
    return true;
}

/* n numbers rounded, behind them. */
static const float *to_single(double *x, size_t n)
{
    float *single = (float *)(void *)(x + n);
    for (size_t i = 0; i < n; i++) single[i] = (float)x[i];
    return single;
}

/* Saved for backward; mean and rstd follow, one per set each. */
typedef struct norm_saved {
    size_t samples, rows, width;
    bool   constant;                     /* statistics that were given, not computed from x */
    bool   relu;                         /* behind it; with node->in[3], what is added before the ReLU */
} norm_saved;
static float *saved_mean(norm_saved *s) { return (float *)(void *)(s + 1); }

static bool save_statistics(kd__op_scope *op, const columns *g, bool constant, const float *mean, const float *rstd)
{
    size_t sets = column_sets(g);
    norm_saved *saved = kd__op_save(op, sizeof *saved + 2 * sets * sizeof(float));
    if (!saved) return false;
    *saved = (norm_saved){ g->samples, g->rows, g->width, constant, g->relu };
    op->unread_in = 1u << 3;
    op->unread_out = !g->residual;
    memcpy(saved_mean(saved), mean, sets * sizeof *mean);
    memcpy(saved_mean(saved) + sets, rstd, sets * sizeof *rstd);
    return true;
}

/* y = (x - mean) rstd weight + bias with a mean and rstd per set. */
static bool column_apply(columns *g, const float *mean, const float *rstd, const kd_tensor *weight, const kd_tensor *bias,
                         float *y)
{
    size_t n = g->samples * g->c, j = 0;
    float *space = kd__scratch_get(g->ctx, 3 * n * sizeof *space);
    if (!space) return false;
    EACH_COLUMN(i, set, column_sets(g), g->width) {
        float w = weight ? ((const float *)weight->data)[j] : 1.0f;
        space[i] = mean[set];
        space[n + i] = rstd[set] * w;
        space[2 * n + i] = bias ? ((const float *)bias->data)[j] : 0.0f;
        if (++j == g->c) j = 0;
    }
    g->mean = space;
    g->scale = space + n;
    g->shift = space + 2 * n;
    g->out = y;
    run_chunks(g, apply_task);
    kd__scratch_put(g->ctx, space);
    return true;
}

/* weight and bias, where present, are [c]. */
static bool affine_fits(kd__op_scope *op, size_t c, const kd_tensor *x)
{
    static const char *const names[] = { "weight", "bias" };
    for (size_t i = 1; i <= 2; i++) {
        const kd_tensor *p = op->in[i];
        if (!p || (p->rank == 1 && p->shape[0] == c)) continue;
        kd__op_fail(op, KD_ERR_SHAPE, "%s %S does not fit x %S: want [%zu]", names[i - 1], (size_t)p->rank, p->shape,
                    (size_t)x->rank, x->shape, c);
        return false;
    }
    return true;
}

/* Gradients of y = hat weight + bias, hat = (x - mean) rstd. */
static void column_backward(kd_tape *tape, kd__node *node)
{
    kd_tensor *x = node->in[0], *weight = node->in[1], *bias = node->in[2];
    norm_saved *saved = node->saved;
    columns g = { .ctx = tape->ctx, .samples = saved->samples, .rows = saved->rows, .width = saved->width,
                  .c = x->shape[x->rank - 1], .chunks = column_chunks(saved->rows), .x = x->data,
                  .dy = kd__grad_out(tape, node->out[0]) };
    size_t c = g.c, n = g.samples * c, sets = column_sets(&g), per = c / g.width, tasks = g.samples * g.chunks;
    const float *mean = saved_mean(saved), *rstd = mean + sets;
    bool want_weight = kd__wants_grad(tape, weight), want_bias = kd__wants_grad(tape, bias);
    bool sums = want_weight || want_bias || !saved->constant;

    kd_tensor *residual = node->in_count > 3 ? node->in[3] : NULL;
    size_t floats = 5 * n + (sums ? 2 * tasks * c : 0), doubles = 2 * n + 2 * sets;
    double *s_dy = kd__scratch_get(g.ctx, doubles * sizeof(double) + floats * sizeof(float));
    if (!s_dy) {
        kd__tape_fail(tape, KD_ERR_NOMEM);
        return;
    }
    double *s_dyx = s_dy + n, *set_g = s_dyx + n, *set_ghat = set_g + sets;
    float *space = (float *)(void *)(set_ghat + sets), *scale = space + n, *k = scale + n, *m = k + n, *shift = m + n;
    memset(s_dy, 0, doubles * sizeof(double));
    EACH_COLUMN(i, set, sets, g.width) space[i] = mean[set];
    g.mean = space;
    if (saved->relu) {
        g.relu = true;
        g.scale = scale;
        g.shift = shift;
        EACH_COLUMN(i, set, sets, g.width) {   /* as they were in the forward pass */
            scale[i] = rstd[set] * (weight ? ((const float *)weight->data)[i % c] : 1.0f);
            shift[i] = bias ? ((const float *)bias->data)[i % c] : 0.0f;
        }
    }
    if (residual) {   /* its gradient is what is before the ReLU */
        g.y = node->out[0]->data;
        g.g = kd__grad_own(tape, node->out[0]);
        if (!g.g) {
            kd__scratch_put(g.ctx, s_dy);
            return;
        }
    }
    if (sums) {   /* sum dy and sum dy (x - mean), per sample and column */
        g.partial = shift + n;
        run_chunks(&g, dots_task);
        for (size_t t = 0; t < tasks; t++) {
            const float *p = g.partial + 2 * t * c;
            size_t at = t / g.chunks * c;
            for (size_t j = 0; j < c; j++) {
                s_dy[at + j] += (double)p[j];
                s_dyx[at + j] += (double)p[c + j];
            }
        }
    }
    if (residual) {
        g.dy = g.g;
        if (!kd__grad_take(tape, residual, node->out[0])) kd__add_into(tape, residual, g.g);
    }
    size_t channel = 0;
    EACH_COLUMN(i, set, sets, g.width) {
        double w = weight ? (double)((const float *)weight->data)[channel] : 1.0, r = (double)rstd[set];
        scale[i] = (float)(w * r);
        set_g[set] += w * s_dy[i];                   /* sum of g = dy weight */
        set_ghat[set] += w * s_dyx[i] * r;           /* sum of g hat         */
        if (++channel == c) channel = 0;
    }
    EACH_COLUMN(i, set, sets, g.width) {   /* dx = rstd (g - mean g - hat mean(g hat)) */
        double r = saved->constant ? 0.0 : (double)rstd[set] / set_size(&g);
        k[i] = (float)(r * set_ghat[set] * (double)rstd[set]);
        m[i] = (float)(r * set_g[set]);
    }
    /* y = hat weight + bias */
    bool accumulate;
    float *d;
    if (want_weight && (d = kd__grad_open(tape, weight, &accumulate)) != NULL)
        for (size_t j = 0; j < c; j++) {
            double sum = 0.0;
            for (size_t s = 0; s < g.samples; s++) sum += s_dyx[s * c + j] * (double)rstd[s * per + j / g.width];
            d[j] = (accumulate ? d[j] : 0.0f) + (float)sum;
        }
    if (want_bias && (d = kd__grad_open(tape, bias, &accumulate)) != NULL)
        for (size_t j = 0; j < c; j++) {
            double sum = 0.0;
            for (size_t s = 0; s < g.samples; s++) sum += s_dy[s * c + j];
            d[j] = (accumulate ? d[j] : 0.0f) + (float)sum;
        }
    if (kd__wants_grad(tape, x) && (g.out = kd__grad_open(tape, x, &g.accumulate)) != NULL) {
        g.scale = scale;
        g.k = k;
        g.m = m;
        if (saved->constant) g.x = NULL;
        run_chunks(&g, backward_task);
    }
    kd__scratch_put(g.ctx, s_dy);
}

/* ---- batch norm ------------------------------------------------------------------------------------- */

void kd__batch_norm_fold(size_t c, const float *weight, const float *bias, const float *mean, const float *var, float eps,
                         float *scale, float *shift)
{
    for (size_t j = 0; j < c; j++) {
        double s = (weight ? (double)weight[j] : 1.0) / sqrt((double)var[j] + (double)eps);
        scale[j] = (float)s;
        shift[j] = (float)((bias ? (double)bias[j] : 0.0) - (double)mean[j] * s);
    }
}

/* A running statistic is read and written in place: f32 [c], contiguous. */
static bool running_fits(kd__op_scope *op, const kd_tensor *t, size_t c, const char *what)
{
    if (!kd__tensor_alive(t)) {
        kd__input_fail(op->tape, t, op->name, what);
    } else if (t->dtype != KD_F32) {
        kd__op_fail(op, KD_ERR_DTYPE, "%s is %s, not f32", what, kd_dtype_name(t->dtype));
    } else if (t->rank != 1 || t->shape[0] != c) {
        kd__op_fail(op, KD_ERR_SHAPE, "%s is %S: want [%zu]", what, (size_t)t->rank, t->shape, c);
    } else if (!kd__tensor_contiguous(t)) {
        kd__op_fail(op, KD_ERR_ARG, "%s is not contiguous", what);
    }
    return kd__tape_ok(op->tape);
}

/* PyTorch's rule: running = (1 - momentum) running + momentum batch, the variance unbiased. */
static void move_running(float *running_mean, float *running_var, size_t c, const double *mean, const double *m2, double rows,
                         double momentum)
{
    for (size_t j = 0; j < c; j++) {
        running_mean[j] = (float)((1.0 - momentum) * (double)running_mean[j] + momentum * mean[j]);
        running_var[j] = (float)((1.0 - momentum) * (double)running_var[j] + momentum * m2[j] / (rows - 1.0));
    }
}

/* With the running statistics, which are constants: y = fma(x, scale, shift), as in a convolution's epilogue. */
static bool batch_norm_running(kd__op_scope *op, columns *g, const float *mean, const float *var, float eps, float *y)
{
    size_t c = g->c;
    const kd_tensor *weight = op->in[1], *bias = op->in[2];
    float *space = kd__scratch_get(g->ctx, 2 * c * sizeof *space);
    if (!space) return false;
    kd__batch_norm_fold(c, weight ? weight->data : NULL, bias ? bias->data : NULL, mean, var, eps, space, space + c);
    g->scale = space;
    g->shift = space + c;
    g->out = y;
    run_chunks(g, apply_task);
    kd__scratch_put(g->ctx, space);
    if (!op->recording) return true;
    norm_saved *saved = kd__op_save(op, sizeof *saved + 2 * c * sizeof(float));
    if (!saved) return false;
    *saved = (norm_saved){ 1, g->rows, 1, true, false };
    op->unread_in = 1u << 3;
    op->unread_out = 1;
    for (size_t j = 0; j < c; j++) {
        saved_mean(saved)[j] = mean[j];
        saved_mean(saved)[c + j] = (float)(1.0 / sqrt((double)var[j] + (double)eps));
    }
    return true;
}

kd_tensor *kd__batch_norm(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, kd_tensor *running_mean,
                          kd_tensor *running_var, float momentum, float eps, bool use_running, const kd__after *after)
{
    kd__op_scope op;
    kd_tensor *residual = after ? after->residual : NULL;
    if (!kd__op_begin_masks(&op, tape, KD__OP_batch_norm, (kd_tensor *[]){ x, weight, bias, residual }, residual ? 4 : 3, 6u, 0))
        return kd__poison(tape);
    x = op.in[0];
    residual = residual ? op.in[3] : NULL;
    if (x->rank == 0) return kd__op_fail(&op, KD_ERR_SHAPE, "x is a scalar: want [.., channels]");
    size_t c = x->shape[x->rank - 1];
    if (!affine_fits(&op, c, x)) return kd__poison(tape);
    if (!running_mean != !running_var)
        return kd__op_fail(&op, KD_ERR_ARG, "%s is NULL: give both running statistics or neither",
                           running_mean ? "running_var" : "running_mean");
    if (running_mean && !running_fits(&op, running_mean, c, "running_mean")) return kd__poison(tape);
    if (running_var && !running_fits(&op, running_var, c, "running_var")) return kd__poison(tape);
    if (!(momentum >= 0.0f && momentum <= 1.0f))
        return kd__op_fail(&op, KD_ERR_ARG, "momentum %g is not in [0, 1]", (double)momentum);
    if (!(eps >= 0.0f && eps <= 3e38f)) return kd__op_fail(&op, KD_ERR_ARG, "eps %g is not a number >= 0", (double)eps);

    bool use_batch = (tape->mode == KD_TAPE_TRAIN && !use_running) || !running_mean;
    size_t rows = c ? x->count / c : 0;
    if (use_batch && c && rows < 2)
        return kd__op_fail(&op, KD_ERR_SHAPE, "x %S has %zu value per channel: batch statistics need 2 or more",
                           (size_t)x->rank, x->shape, rows);
    kd_tensor *y = kd__op_output(&op, x->rank, x->shape);
    if (!y) return kd__poison(tape);
    columns g = { .ctx = tape->ctx, .samples = 1, .rows = rows, .c = c, .width = 1, .chunks = column_chunks(rows), .x = x->data,
                  .residual = residual ? residual->data : NULL, .relu = after && after->relu };
    if (!use_batch) {
        if (!batch_norm_running(&op, &g, running_mean->data, running_var->data, eps, y->data))
            return kd__tape_fail(tape, KD_ERR_NOMEM);
        return kd__op_end(&op);
    }
    double *mean = kd__scratch_get(g.ctx, 2 * c * (sizeof *mean + sizeof(float))), *m2 = mean ? mean + c : NULL;
    bool ok = mean && column_statistics(&g, mean, m2);
    if (ok) {
        if (tape->mode == KD_TAPE_TRAIN && running_mean)
            move_running(running_mean->data, running_var->data, c, mean, m2, (double)rows, (double)momentum);
        for (size_t j = 0; j < c; j++) m2[j] = 1.0 / sqrt(m2[j] / (double)rows + (double)eps);   /* now rstd */
        const float *single = to_single(mean, 2 * c);
        ok = column_apply(&g, single, single + c, op.in[1], op.in[2], y->data) &&
             (!op.recording || save_statistics(&op, &g, false, single, single + c));
        op.again = !residual;
    }
    kd__scratch_put(g.ctx, mean);
    return ok ? kd__op_end(&op) : kd__tape_fail(tape, KD_ERR_NOMEM);
}

kd_tensor *kd_batch_norm(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, kd_tensor *running_mean,
                         kd_tensor *running_var, float momentum, float eps)
{
    return kd__batch_norm(tape, x, weight, bias, running_mean, running_var, momentum, eps, false, NULL);
}

/* y = (x - mean) rstd weight + bias over the rows of each column */
void kd__backward_batch_norm(kd_tape *tape, kd__node *node) { column_backward(tape, node); }

/* y as kd__batch_norm made it, by the same pass. */
void kd__make_again(kd_tape *tape, const kd__node *node)
{
    const kd_tensor *x = node->in[0], *weight = node->in[1], *bias = node->in[2];
    norm_saved *saved = node->saved;
    const size_t c = x->shape[x->rank - 1];
    columns g = { .ctx = tape->ctx, .samples = 1, .rows = saved->rows, .c = c, .width = 1, .chunks = column_chunks(saved->rows),
                  .x = x->data, .relu = saved->relu };
    if (!column_apply(&g, saved_mean(saved), saved_mean(saved) + c, weight, bias, node->out[0]->data)) kd__tape_fail(tape, KD_ERR_NOMEM);
}

/* ---- group norm ------------------------------------------------------------------------------------- */

kd_tensor *kd_group_norm(kd_tape *tape, kd_tensor *x, kd_tensor *weight, kd_tensor *bias, uint32_t groups, float eps)
{
    kd__op_scope op;
    if (!kd__op_begin_masks(&op, tape, KD__OP_group_norm, (kd_tensor *[]){ x, weight, bias }, 3, 6u, 0)) return kd__poison(tape);
    x = op.in[0];
    if (x->rank < 2) return kd__op_fail(&op, KD_ERR_SHAPE, "x %S: want [n, .., channels]", (size_t)x->rank, x->shape);
    size_t n = x->shape[0], c = x->shape[x->rank - 1];
    if (!affine_fits(&op, c, x)) return kd__poison(tape);
    if (groups == 0 || c % groups)
        return kd__op_fail(&op, KD_ERR_ARG, "%zu channels do not divide into %u groups", c, groups);
    if (!(eps >= 0.0f && eps <= 3e38f)) return kd__op_fail(&op, KD_ERR_ARG, "eps %g is not a number >= 0", (double)eps);
    kd_tensor *y = kd__op_output(&op, x->rank, x->shape);
    if (!y) return kd__poison(tape);
    size_t rows = n && c ? x->count / n / c : 0;
    columns g = { .ctx = tape->ctx, .samples = n, .rows = rows, .c = c, .width = c ? c / groups : 1,
                  .chunks = column_chunks(rows), .x = x->data };
    size_t sets = column_sets(&g);
    double *mean = kd__scratch_get(g.ctx, 2 * sets * (sizeof *mean + sizeof(float))), *m2 = mean ? mean + sets : NULL;
    bool ok = mean && column_statistics(&g, mean, m2);
    if (ok) {
        for (size_t s = 0; s < sets; s++) m2[s] = 1.0 / sqrt(m2[s] / set_size(&g) + (double)eps);   /* now rstd */
        const float *single = to_single(mean, 2 * sets);
        ok = column_apply(&g, single, single + sets, op.in[1], op.in[2], y->data) &&
             (!op.recording || save_statistics(&op, &g, false, single, single + sets));
    }
    kd__scratch_put(g.ctx, mean);
    return ok ? kd__op_end(&op) : kd__tape_fail(tape, KD_ERR_NOMEM);
}

/* y = (x - mean) rstd weight + bias over the rows and neighbouring columns of each group */
void kd__backward_group_norm(kd_tape *tape, kd__node *node) { column_backward(tape, node); }
