/* conv_direct.c - convolution as it is defined, forward and for the data gradient: each output one fma chain over kh, kw,
 * ci, or kh, ci, kw for 3-wide kernels at stride 1, in the register tiles of kern_gemm.c.
 *
 * In NHWC the channels under neighbouring taps of one kernel row lie side by side, so a row of outputs is a matrix
 * product whose A is the image itself, read at a distance of stride * ci.  Only beside the image, where taps are missing,
 * are some pixels copied between zeros.
 *
 * The gradient of the data is such a convolution of dy with the kernel turned round and its channels exchanged.  With a
 * stride, the outputs fall into phases by their remainder, each a convolution with some of the taps.
 * SPDX-License-Identifier: MIT */
#include "tensor/conv_internal.h"

/* The usual kernel rows, which the kernel reads together. */
static bool three_wide(const kd__conv_shape *s) { return s->kw == 3 && s->stride_w == 1 && s->dil_w == 1; }

/* Floats of source, and of weights, that a task works on: an eighth and three eighths of the level-2 cache. */
static size_t patch_floats(const kd_context *ctx) { return ctx->caches.l2 / 8 / sizeof(float); }
static size_t panel_floats(const kd_context *ctx) { return 3 * patch_floats(ctx); }
#define PARALLEL_WORK 8e5     /* multiply-adds that are worth waking a thread for */

typedef struct pass {
    kd__window    w;
    const float  *b;          /* weights of group 0: [taps][c][n], rows b_k apart; or in panels */
    size_t        b_k, b_panel, b_group;
    size_t        patch;      /* floats of a task's patch */
} pass;

typedef struct direct_job {
    kd_context   *ctx;
    const float  *x;
    kd__epilogue  after;
    float        *y;
    size_t        groups, c, n;        /* channels of x and of y in a group */
    size_t        x_image, y_image;
    bool          accumulate;
    bool          shares;              /* kernel rows of 3 at stride 1: neighbouring outputs share what they read */
    pass         *passes;
    size_t        pass_count, patch;   /* the largest patch */
    kd__cut       cut;                 /* of the first pass, which has the most outputs */
    _Atomic int   status;
} direct_job;

/* Outputs [q0, q0 + m) of the region's rows, whose taps lie in `source` from the first one's on, rows of it `row` floats apart. */
typedef struct strip { const float *source; size_t row, q0, m; } strip;

/* Columns [j, j + n) of one group, a row of outputs after the other; what is one output wide, together. */
static void output_rows(const direct_job *job, const pass *p, const kd__region *region, const kd__patch *patch, const strip *at,
                        size_t image, size_t group, size_t j, size_t n)
{
    const kd__window *w = &p->w;
    const size_t column = group * job->n + j;
    const size_t taps = w->kw * job->c;                       /* rows of B for one row of the kernel */
    const float *a = at->source + group * job->c;
    const float *b = p->b + group * p->b_group + (p->b_panel ? j / KD__GEMM_PANEL * p->b_panel : j);
    float *c = job->y + image * job->y_image + w->y_first + (ptrdiff_t)(at->q0 * w->y_step + column);
    const bool finish = kd__epilogue_any(&job->after), together = at->m == 1 && !job->shares;
    kd__gemm_block block = { .m = at->m, .n = n, .a_row = together ? w->step_h * at->row : w->step_w * w->c, .a_k = 1,
                             .a_outer = (ptrdiff_t)(w->tap_h * at->row), .a_edge_outer = (ptrdiff_t)(w->tap_h * patch->edge),
                             .b_k = p->b_k, .b_panel = p->b_panel, .b_outer = (ptrdiff_t)(taps * p->b_k),
                             .add = job->accumulate, .c_row = together ? w->y_row : w->y_step };
    if (job->shares) {   /* kw inside ci: part of the bits */
        block.inner = job->c;
        block.a_inner = 1;
        block.b_inner = (ptrdiff_t)p->b_k;
        block.length = w->kw;
        block.a_k = w->c;
        block.b_k = job->c * p->b_k;
    } else if (job->groups == 1 && w->tap_w == 1) {
        block.inner = 1;
        block.length = taps;
    } else {
        block.inner = w->kw;
        block.length = job->c;
        block.a_inner = (ptrdiff_t)(w->tap_w * w->c);
        block.b_inner = (ptrdiff_t)(job->c * p->b_k);
    }
    for (size_t r = region->r0, next; r < region->r1; r = next) {
        const ptrdiff_t top = w->first_h + (ptrdiff_t)(r * w->step_h);
        const size_t i0 = kd__taps_below(top, w->tap_h, 0, w->kh), i1 = kd__taps_below(top, w->tap_h, w->h, w->kh);
        next = r + 1;
        block.outer = i1 - i0;
        const size_t down = i1 > i0 ? (size_t)(top + (ptrdiff_t)(i0 * w->tap_h) - (ptrdiff_t)patch->lo) : 0;
        block.a = a + down * at->row;
        if (job->shares && patch->first) block.a_first = patch->first + group * job->c + down * patch->edge;
        if (job->shares && patch->last) block.a_last = patch->last + group * job->c + down * patch->edge;
        block.b = b + i0 * taps * p->b_k;
        block.c = c + r * w->y_row;
        if (together) {   /* rows that have all taps, as this one */
            for (ptrdiff_t from = top; !i0 && next < region->r1; next++) {
                from += (ptrdiff_t)w->step_h;
                if (kd__taps_below(from, w->tap_h, w->h, w->kh) < w->kh) break;
            }
            block.m = next - r;
        }
        if (finish) {
            block.after = kd__epilogue_at(&job->after, (image * w->oh + r) * w->ow + at->q0, column);
            if (together) block.after.residual_row *= w->ow;
        }
        job->ctx->kernels->gemm_block_f32(&block);
    }
}

/* The region's outputs: all of a row at once, or what lies under copies by itself. */
static size_t strips_of(const direct_job *job, const kd__window *w, const kd__region *region, const kd__patch *patch, strip out[3])
{
    const size_t columns = region->c1 - region->c0;
    strip all = { patch->data, patch->row, region->c0, columns };
    size_t n = 0;
    if (!job->shares && patch->first) {
        out[n++] = (strip){ patch->first, patch->edge, region->c0, 1 };
        if (columns == 1) return n;
        all.source += w->step_w * w->c, all.q0++, all.m--;
    }
    if (!job->shares && patch->last) {
        out[n++] = (strip){ patch->last, patch->edge, region->c1 - 1, 1 };
        all.m--;
    }
    if (all.m) out[n++] = all;
    return n;
}

static void direct_task(size_t task, void *arg)
{
    direct_job *job = arg;
    float *buffer = NULL;
    if (job->patch && !(buffer = kd__scratch_get(job->ctx, job->patch * sizeof *buffer))) {
        atomic_store_explicit(&job->status, KD_ERR_NOMEM, memory_order_relaxed);
        return;
    }
    for (size_t i = 0; i < job->pass_count; i++) {
        const pass *p = &job->passes[i];
        kd__region region;
        const size_t image = kd__cut_region(&job->cut, &p->w, task, &region);
        if (region.r0 == region.r1 || region.c0 == region.c1) continue;
        const kd__patch patch = kd__patch_take(&p->w, &region, false, job->x + image * job->x_image, buffer);
        strip strips[3];
        const size_t count = strips_of(job, &p->w, &region, &patch, strips);
        size_t rows = KD_MAX(p->w.kh * p->w.kw * job->c, 1u);
        size_t step = KD_MAX(panel_floats(job->ctx) / rows / KD__GEMM_PANEL, 1u) * KD__GEMM_PANEL;
        for (size_t g = 0; g < job->groups; g++)
            for (size_t j = 0; j < job->n; j += step)
                for (size_t k = 0; k < count; k++)
                    output_rows(job, p, &region, &patch, &strips[k], image, g, j, KD_MIN(job->n - j, step));
    }
    kd__scratch_put(job->ctx, buffer);
}

/* Does any region of the window need a copy? */
static bool overhangs(const kd__window *w)
{
    if (!w->kw || !w->ow) return false;
    return w->first_w < 0 || w->first_w + (ptrdiff_t)((w->ow - 1) * w->step_w + (w->kw - 1) * w->tap_w) >= (ptrdiff_t)w->w;
}

static kd_status run(direct_job *job, size_t images, double work)
{
    const size_t threads = work < PARALLEL_WORK ? 1 : job->ctx->threads;
    job->cut = kd__cut_make(&job->passes[0].w, images, patch_floats(job->ctx), threads);
    for (size_t i = 0; i < job->pass_count; i++) {
        size_t floats;
        if (!overhangs(&job->passes[i].w)) continue;
        if (!kd__patch_size(&job->passes[i].w, job->cut.rows, job->cut.columns, &floats) || floats > SIZE_MAX / sizeof(float))
            return kd__fail(KD_ERR_OVERFLOW, "convolution: the rows under a kernel of %zu x %zu do not fit", job->passes[i].w.kh,
                            job->passes[i].w.kw);
        job->patch = KD_MAX(job->patch, floats);
    }
    if (threads > 1) kd__parallel(job->ctx, job->cut.count, direct_task, job);
    else
        for (size_t i = 0; i < job->cut.count; i++) direct_task(i, job);
    return atomic_load(&job->status) == KD_OK ? KD_OK : kd__fail(KD_ERR_NOMEM, "out of memory");
}

static double work_of(const kd__conv_shape *s)
{
    return (double)s->n * (double)s->oh * (double)s->ow * (double)s->co * (double)s->kh * (double)s->kw * (double)(s->ci / s->groups);
}

typedef struct taps_job { kd_context *ctx; const kd__conv_shape *s; const float *weight; } taps_job;

/* For each group panels of [kh kw ci / groups] rows. */
static bool pack_taps(void *arg, float *out)
{
    const taps_job *t = arg;
    const size_t n = t->s->co / t->s->groups, rows = t->s->kh * t->s->kw * (t->s->ci / t->s->groups);
    const size_t group = (n + KD__GEMM_PANEL - 1) / KD__GEMM_PANEL * KD__GEMM_PANEL * rows;
    for (size_t g = 0; g < t->s->groups; g++)
        t->ctx->kernels->pack_panels_f32(t->weight + g * n, t->s->co, 0, rows, n, out + g * group, rows * KD__GEMM_PANEL);
    return true;
}

kd_status kd__direct_forward(kd_context *ctx, const kd__conv_shape *s, const float *x, const float *weight, kd__packed *packed,
                             const kd__epilogue *after, float *y)
{
    const size_t c = s->ci / s->groups, n = s->co / s->groups, rows = s->kh * s->kw * c;
    pass p = { .w = kd__window_forward(s), .b = weight, .b_k = s->co, .b_group = n };
    direct_job job = { .ctx = ctx, .x = x, .after = *after, .y = y, .groups = s->groups, .c = c, .n = n, .passes = &p, .pass_count = 1,
                       .shares = three_wide(s), .x_image = s->h * s->w * s->ci, .y_image = s->oh * s->ow * s->co };
    float *own = NULL;
    /* Weights are read in place where panels would look the same, or would not pay. */
    const bool same = n == KD__GEMM_PANEL && s->groups == 1, tail = n % 16 && ctx->isa != KD_ISA_AVX512;
    const bool few = s->n * s->oh * s->ow < 512 && !packed;
    if (!same && (tail || (n > 16 && !few))) {
        size_t wide, floats;
        if (!kd__round_up(n, KD__GEMM_PANEL, &wide) || !kd__mul(wide, rows, &floats) || !kd__mul(floats, s->groups, &floats) ||
            floats > SIZE_MAX / sizeof *own)
            return kd__fail(KD_ERR_OVERFLOW, "convolution: %zu weights do not fit", rows);
        taps_job taps = { ctx, s, weight };
        const float *b = packed ? kd__packed_get(ctx, packed, KD__PACKED_TAPS, floats, pack_taps, &taps) : NULL;
        if (!b) {
            b = own = kd__scratch_get(ctx, floats * sizeof *own);
            if (!own) return KD_ERR_NOMEM;
            pack_taps(&taps, own);
        }
        p.b = b;
        p.b_k = KD__GEMM_PANEL;
        p.b_panel = rows * KD__GEMM_PANEL;
        p.b_group = wide * rows;
    }
    kd_status status = run(&job, s->n, work_of(s));
    kd__scratch_put(ctx, own);
    return status;
}

/* The taps of one phase, in panels: for each group [taps][co / groups] rows of ci / groups columns. */
static void pack_phase(kd_context *ctx, const kd__conv_shape *s, const pass *p, size_t kh0, size_t kw0, size_t kh_step, size_t kw_step,
                       const float *weight, float *out)
{
    const size_t c = s->ci / s->groups, n = s->co / s->groups;
    for (size_t g = 0; g < s->groups; g++)
        for (size_t i = 0; i < p->w.kh; i++)
            for (size_t j = 0; j < p->w.kw; j++) {
                const float *tap = weight + ((kh0 - i * kh_step) * s->kw + kw0 - j * kw_step) * c * s->co + g * n;
                ctx->kernels->pack_panels_f32(tap, s->co, 1, n, c, out + g * p->b_group + (i * p->w.kw + j) * n * KD__GEMM_PANEL,
                                              p->b_panel);
            }
}

kd_status kd__direct_backward_data(kd_context *ctx, const kd__conv_shape *s, const float *dy, const float *weight, float *dx,
                                   bool accumulate)
{
    const size_t c = s->ci / s->groups, n = s->co / s->groups;
    const size_t down = KD_MIN(s->stride_h, s->h), across = KD_MIN(s->stride_w, s->w);
    direct_job job = { .ctx = ctx, .x = dy, .y = dx, .groups = s->groups, .c = n, .n = c, .x_image = s->oh * s->ow * s->co,
                       .y_image = s->h * s->w * s->ci, .accumulate = accumulate, .shares = three_wide(s) };
    size_t wide, floats, bytes;
    if (!kd__round_up(c, KD__GEMM_PANEL, &wide) || !kd__mul(wide, s->kh * s->kw * n, &floats) || !kd__mul(floats, s->groups, &floats) ||
        !kd__mul(floats, sizeof(float), &bytes) || !kd__add(bytes, down * across * sizeof(pass), &bytes) ||
        !kd__add(bytes, KD_ALIGN, &bytes))
        return kd__fail(KD_ERR_OVERFLOW, "convolution: the weights do not fit");
    pass *passes = job.passes = kd__scratch_get(ctx, bytes);
    if (!passes) return KD_ERR_NOMEM;
    const size_t head = (down * across * sizeof *passes + KD_ALIGN - 1) / KD_ALIGN * KD_ALIGN;
    float *packed = (float *)(void *)((unsigned char *)passes + head);
    for (size_t a = 0; a < down; a++)
        for (size_t b = 0; b < across; b++) {
            size_t kh0, kw0, kh_step, kw_step;
            pass *p = &passes[job.pass_count];
            *p = (pass){ .w = kd__window_backward(s, a, b, &kh0, &kw0, &kh_step, &kw_step), .b = packed, .b_k = KD__GEMM_PANEL };
            const size_t rows = p->w.kh * p->w.kw * n;
            if (!rows && accumulate) continue;   /* no tap reaches these outputs: nothing to add */
            p->b_panel = rows * KD__GEMM_PANEL;
            p->b_group = wide * rows;
            pack_phase(ctx, s, p, kh0, kw0, kh_step, kw_step, weight, packed);
            packed += s->groups * p->b_group;
            job.pass_count++;
        }
    kd_status status = job.pass_count ? run(&job, s->n, work_of(s)) : KD_OK;
    kd__scratch_put(ctx, passes);
    return status;
}
