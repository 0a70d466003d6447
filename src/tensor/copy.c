/* copy.c - elements from one layout to another: strided copy and add, gather, clone.
 *
 * A move over any number of axes becomes planes of two: `run`, along which the destination is densest, and `row`: where
 * the source is dense along another axis that one, and the plane is a transposition, which goes in tiles of 16 x 16 so that
 * every cache line is read and written once.
 * SPDX-License-Identifier: MIT */
#include "tensor/tensor.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

enum { TILE = 16, LONG_RUN = 256, ITEM = 16384, PIECE = 65536 };   /* elements: PIECE is a thread's share at least */

typedef struct axis { size_t n; ptrdiff_t dst, src; } axis;

typedef struct move {
    unsigned char *dst;
    const unsigned char *src;
    size_t bytes;                  /* of an element; 0: add floats */
    const kd__kernels *kernels;
    size_t outer_count;
    axis   outer[KD_MAX_RANK], row, run;
    size_t item_rows, item_runs;   /* the part of a plane that one work item takes */
    size_t row_items, run_items;
} move;

static size_t magnitude(ptrdiff_t stride) { return stride < 0 ? 0 - (size_t)stride : (size_t)stride; }

/* Axes of more than one element, sorted so that the destination is walked in memory order, merged where two are one. */
static size_t simplify(size_t rank, const size_t *shape, const ptrdiff_t *dst, const ptrdiff_t *src, axis *axes)
{
    size_t count = 0, merged = 0;
    for (size_t i = 0; i < rank; i++) {
        if (shape[i] == 1) continue;
        size_t at = count++;
        for (; at > 0 && magnitude(axes[at - 1].dst) < magnitude(dst[i]); at--) axes[at] = axes[at - 1];
        axes[at] = (axis){ shape[i], dst[i], src[i] };
    }
    for (size_t i = 1; i < count; i++) {
        axis *out = &axes[merged], in = axes[i];
        if (out->dst == in.dst * (ptrdiff_t)in.n && out->src == in.src * (ptrdiff_t)in.n)
            *out = (axis){ out->n * in.n, in.dst, in.src };
        else
            axes[++merged] = in;
    }
    return count ? merged + 1 : 0;
}

/* Elements of four bytes go through the kernel for floats, which moves bits and transposes 16 x 16 of them in registers. */
static void plane_f32(const move *m, float *dst, const float *src, size_t rows, size_t runs)
{
    const bool dense = m->run.dst == 1 && m->run.src == 1, add = m->bytes == 0;
    if (dense && !add && runs >= LONG_RUN)
        for (size_t r = 0; r < rows; r++)
            memcpy(dst + (ptrdiff_t)r * m->row.dst, src + (ptrdiff_t)r * m->row.src, runs * sizeof *dst);
    else m->kernels->copy2d_f32(dst, m->row.dst, m->run.dst, src, m->row.src, m->run.src, rows, runs, add);
}

/* `size`, of an element, is a constant where this is inlined. */
static ALWAYS_INLINE void plane(const move *m, size_t size, unsigned char *dst, const unsigned char *src, size_t rows,
                                size_t runs)
{
    const ptrdiff_t step = (ptrdiff_t)size;
    for (size_t r0 = 0; r0 < rows; r0 += TILE) {
        for (size_t j0 = 0; j0 < runs; j0 += TILE) {
            size_t r1 = KD_MIN(r0 + TILE, rows), j1 = KD_MIN(j0 + TILE, runs);
            for (size_t r = r0; r < r1; r++) {
                unsigned char *d = dst + ((ptrdiff_t)r * m->row.dst + (ptrdiff_t)j0 * m->run.dst) * step;
                const unsigned char *s = src + ((ptrdiff_t)r * m->row.src + (ptrdiff_t)j0 * m->run.src) * step;
                for (size_t j = j0; j < j1; j++, d += m->run.dst * step, s += m->run.src * step) memcpy(d, s, size);
            }
        }
    }
}

static void move_items(size_t begin, size_t end, void *arg)
{
    const move *m = arg;
    const ptrdiff_t size = m->bytes ? (ptrdiff_t)m->bytes : (ptrdiff_t)sizeof(float);
    for (size_t i = begin; i < end; i++) {
        size_t rest = i, run = rest % m->run_items * m->item_runs;
        rest /= m->run_items;
        size_t row = rest % m->row_items * m->item_rows;
        rest /= m->row_items;
        ptrdiff_t d = (ptrdiff_t)run * m->run.dst + (ptrdiff_t)row * m->row.dst;
        ptrdiff_t s = (ptrdiff_t)run * m->run.src + (ptrdiff_t)row * m->row.src;
        for (size_t a = m->outer_count; a-- > 0; rest /= m->outer[a].n) {
            d += (ptrdiff_t)(rest % m->outer[a].n) * m->outer[a].dst;
            s += (ptrdiff_t)(rest % m->outer[a].n) * m->outer[a].src;
        }
        unsigned char *dst = m->dst + d * size;
        const unsigned char *src = m->src + s * size;
        size_t rows = KD_MIN(m->item_rows, m->row.n - row), runs = KD_MIN(m->item_runs, m->run.n - run);
        if (m->bytes == 8) plane(m, 8, dst, src, rows, runs);
        else if (m->bytes == 1) plane(m, 1, dst, src, rows, runs);
        else plane_f32(m, (float *)(void *)dst, (const float *)(const void *)src, rows, runs);
    }
}

static void run_move(kd_context *ctx, move *m, size_t rank, const size_t *shape, const ptrdiff_t *dst_stride,
                     const ptrdiff_t *src_stride)
{
    size_t count;
    if (!kd__shape_count(rank, shape, &count) || count == 0) return;
    m->kernels = kd__context(ctx)->kernels;
    m->outer_count = simplify(rank, shape, dst_stride, src_stride, m->outer);
    m->row = m->run = (axis){ 1, 0, 0 };
    if (m->outer_count) m->run = m->outer[--m->outer_count];
    if (m->outer_count) {
        size_t at = m->outer_count - 1;
        if (m->run.src != 1)
            for (size_t a = at; a-- > 0;)
                if (magnitude(m->outer[a].src) < magnitude(m->outer[at].src)) at = a;
        m->row = m->outer[at];
        m->outer_count--;
        memmove(m->outer + at, m->outer + at + 1, (m->outer_count - at) * sizeof *m->outer);
    }
    bool transposed = m->run.dst != 1 || m->run.src != 1;
    m->item_runs = KD_MIN(m->run.n, transposed ? (size_t)ITEM / 64 : (size_t)ITEM);
    m->item_rows = KD_MIN(m->row.n, KD_MAX((size_t)ITEM / m->item_runs, 1));
    m->run_items = (m->run.n + m->item_runs - 1) / m->item_runs;
    m->row_items = (m->row.n + m->item_rows - 1) / m->item_rows;
    size_t items = m->run_items * m->row_items;
    for (size_t a = 0; a < m->outer_count; a++) items *= m->outer[a].n;
    kd__parallel_range(ctx, items, KD_MAX(PIECE / (m->item_runs * m->item_rows), 1), move_items, m);
}

void kd__strided_copy(kd_context *ctx, size_t bytes, size_t rank, const size_t *shape, void *dst,
                      const ptrdiff_t *dst_stride, const void *src, const ptrdiff_t *src_stride)
{
    move m = { .dst = dst, .src = src, .bytes = bytes };
    run_move(ctx, &m, rank, shape, dst_stride, src_stride);
}

void kd__strided_add(kd_context *ctx, size_t rank, const size_t *shape, float *dst, const ptrdiff_t *dst_stride,
                     const float *src, const ptrdiff_t *src_stride)
{
    move m = { .dst = (unsigned char *)dst, .src = (const unsigned char *)src };
    run_move(ctx, &m, rank, shape, dst_stride, src_stride);
}

void kd__tensor_gather(const kd_tensor *x, void *out)
{
    ptrdiff_t stride[KD_MAX_RANK] = { 0 };
    if (x->count == 0) return;
    kd__strides_contiguous(x->rank, x->shape, stride);
    kd__strided_copy(x->ctx, kd_dtype_size(x->dtype), x->rank, x->shape, out, stride, x->data, x->stride);
}

kd_status kd_tensor_clone(kd_tensor **out, const kd_tensor *x)
{
    KD_NEED(out);
    *out = NULL;
    KD_TRY(kd__tensor_check(x, __func__, "x"));
    kd_tensor *copy;
    KD_TRY(kd_tensor_create(&copy, x->ctx, x->dtype, x->rank, x->shape));
    kd__tensor_gather(x, copy->data);
    *out = copy;
    return KD_OK;
}
