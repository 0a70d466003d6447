/* kern_winograd.c - the transforms of Winograd's F(2x2, 3x3) and F(4x4, 3x3), and of the gradient of the former's weights: channels
 * in lanes.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "kernels/epilogue_vector.h"

#ifndef KD_ISA_avx512   /* AVX2 serves: kernels.def */
/* One axis of a transform; out: 2 or 4 outputs, a constant where this is called. */
V_FN void weights_axis(const kd_f32x16 g[3], kd_f32x16 *u, const size_t out)
{
    if (out == 2) {
        const kd_f32x16 half = v_set1(0.5f), s = v_add(g[0], g[2]);
        u[0] = g[0];
        u[1] = v_mul(half, v_add(s, g[1]));
        u[2] = v_mul(half, v_sub(s, g[1]));
        u[3] = g[2];
        return;
    }
    const kd_f32x16 sixth = v_set1(1.0f / 6.0f), a = v_mul(v_neg(sixth), v_add(g[0], g[2])), b = v_mul(sixth, g[1]);
    const kd_f32x16 c = v_fma(g[0], v_set1(1.0f / 24.0f), v_mul(sixth, g[2])), d = v_mul(v_set1(1.0f / 12.0f), g[1]);
    u[0] = v_mul(v_set1(0.25f), g[0]);
    u[1] = v_sub(a, b);
    u[2] = v_add(a, b);
    u[3] = v_add(c, d);
    u[4] = v_sub(c, d);
    u[5] = g[2];
}
#endif

V_FN void input_axis(const kd_f32x16 *d, kd_f32x16 *v, const size_t out)
{
    if (out == 2) {
        v[0] = v_sub(d[0], d[2]);
        v[1] = v_add(d[1], d[2]);
        v[2] = v_sub(d[2], d[1]);
        v[3] = v_sub(d[1], d[3]);
        return;
    }
    const kd_f32x16 two = v_set1(2.0f), four = v_set1(4.0f), five = v_set1(-5.0f);
    const kd_f32x16 p = v_fnma(four, d[2], d[4]), q = v_fnma(four, d[1], d[3]), r = v_sub(d[4], d[2]), s = v_sub(d[3], d[1]);
    v[0] = v_fma(four, d[0], v_fma(five, d[2], d[4]));
    v[1] = v_add(p, q);
    v[2] = v_sub(p, q);
    v[3] = v_fma(two, s, r);
    v[4] = v_fnma(two, s, r);
    v[5] = v_fma(four, d[1], v_fma(five, d[3], d[5]));
}

V_FN void output_axis(const kd_f32x16 *m, kd_f32x16 *y, const size_t out)
{
    if (out == 2) {
        y[0] = v_add(v_add(m[0], m[1]), m[2]);
        y[1] = v_sub(v_sub(m[1], m[2]), m[3]);
        return;
    }
    const kd_f32x16 s = v_add(m[1], m[2]), d = v_sub(m[1], m[2]), t = v_add(m[3], m[4]), e = v_sub(m[3], m[4]);
    y[0] = v_add(v_add(m[0], s), t);
    y[1] = v_fma(v_set1(2.0f), e, d);
    y[2] = v_fma(v_set1(4.0f), t, s);
    y[3] = v_add(v_fma(v_set1(8.0f), e, d), m[5]);
}

enum { MOST = 6 };   /* pixels of a tile's side */

/* body for each i below n, 4 or 6: a small tile lives in registers, unrolled; the other one does not fit there anyway. */
#define EACH(i, n, body)                                  \
    do {                                                  \
        if ((n) == 4) {                                   \
            V_UNROLL(4)                                   \
            for (size_t i = 0; i < 4; i++) body           \
        } else {                                          \
            for (size_t i = 0; i < 6; i++) body           \
        }                                                 \
    } while (0)

#ifndef KD_ISA_avx512   /* AVX2 serves: kernels.def */
V_FN void weights(const float *taps, size_t tap_plane, float *u, size_t u_plane, size_t n, const size_t out)
{
    const size_t in = out + 2;
    for (size_t i = 0; i < n; i += 16) {
        const size_t lanes = n - i < 16 ? n - i : 16;
        kd_f32x16 t[3][MOST];   /* [column of g][row of G g] */
        V_UNROLL(3)
        for (size_t b = 0; b < 3; b++) {
            kd_f32x16 g[3];
            V_UNROLL(3)
            for (size_t a = 0; a < 3; a++) g[a] = load_part(taps + (a * 3 + b) * tap_plane + i, lanes);
            weights_axis(g, t[b], out);
        }
        EACH(a, in, {
            kd_f32x16 g[3];
            kd_f32x16 w[MOST];
            V_UNROLL(3)
            for (size_t b = 0; b < 3; b++) g[b] = t[b][a];
            weights_axis(g, w, out);
            V_UNROLL(6)
            for (size_t b = 0; b < in; b++) store_part(u + (a * in + b) * u_plane + i, w[b], lanes);
        });
    }
}

void KD_K(winograd_weights_f32)(size_t out, const float *taps, size_t tap_plane, float *u, size_t u_plane, size_t n)
{
    if (out == 2) weights(taps, tap_plane, u, u_plane, n, 2);
    else weights(taps, tap_plane, u, u_plane, n, 4);
}
#endif

/* Image, and row and column of a tile's first output. */
typedef struct place { size_t image, row, column; } place;

V_FN place place_of(const kd__winograd_args *p, size_t tile)
{
    const size_t in_image = tile % (p->tiles_h * p->tiles_w);
    return (place){ tile / (p->tiles_h * p->tiles_w), in_image / p->tiles_w * p->out, in_image % p->tiles_w * p->out };
}

V_FN void place_next(const kd__winograd_args *p, place *at)
{
    if ((at->column += p->out) < p->out * p->tiles_w) return;
    at->column = 0;
    if ((at->row += p->out) < p->out * p->tiles_h) return;
    at->row = 0;
    at->image++;
}

/* Channels [i, i + n) of a tile from its pixels, given one by one or, inside the image, by rows. */
V_FN void input_tile(const kd__winograd_args *p, const float *const *pixel, const float *const *row, size_t i, size_t n, float *v,
                     const size_t out)
{
    const size_t in = out + 2;
    kd_f32x16 s[MOST][MOST];   /* [column of d][row of B^T d] */
    EACH(b, in, {
        kd_f32x16 d[MOST];
        V_UNROLL(6)
        for (size_t a = 0; a < in; a++) d[a] = load_part((pixel ? pixel[in * a + b] : row[a] + b * p->pixel) + i, n);
        input_axis(d, s[b], out);
    });
    EACH(a, in, {
        kd_f32x16 d[MOST];
        kd_f32x16 w[MOST];
        V_UNROLL(6)
        for (size_t b = 0; b < in; b++) d[b] = s[b][a];
        input_axis(d, w, out);
        V_UNROLL(6)
        for (size_t b = 0; b < in; b++) store_part(v + (a * in + b) * p->plane + i, w[b], n);
    });
}

/* The same from pixels, for part of a vector too. */
V_FN void input_pixels(const kd__winograd_args *p, const float *const *pixel, float *v, size_t from, const size_t out)
{
    for (size_t i = from; i < p->c; i += 16) input_tile(p, pixel, NULL, i, p->c - i < 16 ? p->c - i : 16, v, out);
}

/* The pixels of a tile; outside the image they are zeros. */
static void find_pixels(const kd__winograd_args *p, const place *at, const float **pixel)
{
    const size_t in = p->out + 2;
    const float *x = p->x + at->image * p->h * p->w * p->pixel;
    for (size_t a = 0; a < in; a++)
        for (size_t b = 0; b < in; b++) {
            const size_t r = at->row + a, q = at->column + b;   /* plus the padding */
            const int inside = r >= p->pad_h && r - p->pad_h < p->h && q >= p->pad_w && q - p->pad_w < p->w;
            pixel[in * a + b] = inside ? x + ((r - p->pad_h) * p->w + q - p->pad_w) * p->pixel : p->zeros;
        }
}

V_FN void input(const kd__winograd_args *p, const size_t out)
{
    const size_t in = out + 2, step = p->w * p->pixel;
    place at = place_of(p, p->first);
    float *v = p->v;
    for (size_t t = 0; t < p->count; t++, v += p->row, place_next(p, &at)) {
        size_t i = 0;
        if (at.row >= p->pad_h && at.row + in <= p->h + p->pad_h && at.column >= p->pad_w && at.column + in <= p->w + p->pad_w) {
            const float *row[MOST];
            row[0] = p->x + ((at.image * p->h + at.row - p->pad_h) * p->w + at.column - p->pad_w) * p->pixel;
            for (size_t a = 1; a < in; a++) row[a] = row[a - 1] + step;
            for (; i + 16 <= p->c; i += 16) input_tile(p, NULL, row, i, 16, v, out);
            if (i == p->c) continue;
        }
        const float *pixel[MOST * MOST];
        find_pixels(p, &at, pixel);
        input_pixels(p, pixel, v, i, out);
    }
}

void KD_K(winograd_input_f32)(const kd__winograd_args *p)
{
    if (p->out == 2) input(p, 2);
    else input(p, 4);
}

/* Channels [i, i + n): rows x columns outputs, of which the first is pixel number `first` of y. */
V_FN void output_tile(const kd__winograd_args *p, const float *m, size_t first, size_t rows, size_t columns, size_t i, size_t n,
                      const size_t out)
{
    const size_t in = out + 2;
    const epilogue_columns after = epilogue_begin(&p->after, i, n);
    kd_f32x16 s[MOST][MOST - 2];   /* [column of m][row of A^T m] */
    EACH(b, in, {
        kd_f32x16 c[MOST];
        V_UNROLL(6)
        for (size_t a = 0; a < in; a++) c[a] = load_part(m + (a * in + b) * p->plane + i, n);
        output_axis(c, s[b], out);
    });
    for (size_t a = 0; a < rows; a++) {
        kd_f32x16 c[MOST], y[MOST - 2];
        V_UNROLL(6)
        for (size_t b = 0; b < in; b++) c[b] = s[b][a];
        output_axis(c, y, out);
        for (size_t b = 0; b < columns; b++) {
            const size_t pixel = first + a * p->ow + b;
            float *to = p->y + pixel * p->co + i;
            kd_f32x16 e = p->add ? v_add(load_part(to, n), y[b]) : y[b];
            const float *residual = p->after.residual ? p->after.residual + pixel * p->after.residual_row + i : NULL;
            store_part(to, epilogue_apply(&after, e, residual, n), n);
        }
    }
}

V_FN void output(const kd__winograd_args *p, const size_t out)
{
    place at = place_of(p, p->first);
    const float *m = p->m;
    for (size_t t = 0; t < p->count; t++, m += p->co, place_next(p, &at)) {
        const size_t rows = p->oh - at.row < out ? p->oh - at.row : out, columns = p->ow - at.column < out ? p->ow - at.column : out;
        const size_t first = (at.image * p->oh + at.row) * p->ow + at.column;
        size_t i = 0;
        if (rows == out && columns == out)
            for (; i + 16 <= p->co; i += 16) output_tile(p, m, first, out, out, i, 16, out);
        for (; i < p->co; i += 16) output_tile(p, m, first, rows, columns, i, p->co - i < 16 ? p->co - i : 16, out);
    }
}

void KD_K(winograd_output_f32)(const kd__winograd_args *p)
{
    if (p->out == 2) output(p, 2);
    else output(p, 4);
}

/* ---- the gradient of the weights, F(2x2, 3x3) ------------------------------------------------------------------ */

V_FN void dy_axis(kd_f32x16 y0, kd_f32x16 y1, kd_f32x16 w[4])
{
    w[0] = y0;
    w[1] = v_add(y0, y1);
    w[2] = v_sub(y0, y1);
    w[3] = v_neg(y1);
}

#ifndef KD_ISA_avx512   /* AVX2 serves: kernels.def */
V_FN void dw_axis(const kd_f32x16 m[4], kd_f32x16 g[3])
{
    const kd_f32x16 half = v_set1(0.5f), s = v_mul(half, v_add(m[1], m[2]));
    g[0] = v_add(m[0], s);
    g[1] = v_mul(half, v_sub(m[1], m[2]));
    g[2] = v_add(s, m[3]);
}
#endif

/* Channels [i, i + n) of a tile whose outputs are y[row of it][column]. */
V_FN void dy_tile(const kd__winograd_args *p, const float *const y[2][2], size_t i, size_t n, float *v)
{
    kd_f32x16 s[2][4];   /* [column of dY][row of A dY] */
    V_UNROLL(2)
    for (size_t b = 0; b < 2; b++) dy_axis(load_part(y[0][b] + i, n), load_part(y[1][b] + i, n), s[b]);
    V_UNROLL(4)
    for (size_t a = 0; a < 4; a++) {
        kd_f32x16 w[4];
        dy_axis(s[0][a], s[1][a], w);
        V_UNROLL(4)
        for (size_t b = 0; b < 4; b++) store_part(v + (a * 4 + b) * p->plane + i, w[b], n);
    }
}

void KD_K(winograd_dy_f32)(const kd__winograd_args *p)
{
    place at = place_of(p, p->first);
    float *v = p->v;
    for (size_t t = 0; t < p->count; t++, v += p->row, place_next(p, &at)) {
        const float *first = p->x + ((at.image * p->oh + at.row) * p->ow + at.column) * p->pixel;
        const int down = at.row + 1 < p->oh, right = at.column + 1 < p->ow;
        const float *const below = first + p->ow * p->pixel;
        const float *const y[2][2] = { { first, right ? first + p->pixel : p->zeros },
                                       { down ? below : p->zeros, down && right ? below + p->pixel : p->zeros } };
        size_t i = 0;
        V_FAST(for (; i + 16 <= p->co; i += 16) dy_tile(p, y, i, 16, v);)
        V_END(i, p->co) dy_tile(p, y, i, V_LEFT(i, p->co), v);
    }
}

#ifndef KD_ISA_avx512   /* AVX2 serves: kernels.def */
void KD_K(winograd_dw_f32)(const float *m, size_t m_plane, float *dw, size_t dw_plane, size_t n, int add)
{
    for (size_t i = 0; i < n; i += 16) {
        const size_t lanes = n - i < 16 ? n - i : 16;
        kd_f32x16 s[4][3];   /* [column of m][row of G^T m] */
        V_UNROLL(4)
        for (size_t b = 0; b < 4; b++) {
            kd_f32x16 c[4];
            V_UNROLL(4)
            for (size_t a = 0; a < 4; a++) c[a] = load_part(m + (a * 4 + b) * m_plane + i, lanes);
            dw_axis(c, s[b]);
        }
        V_UNROLL(3)
        for (size_t a = 0; a < 3; a++) {
            const kd_f32x16 c[4] = { s[0][a], s[1][a], s[2][a], s[3][a] };
            kd_f32x16 g[3];
            dw_axis(c, g);
            V_UNROLL(3)
            for (size_t b = 0; b < 3; b++) {
                float *to = dw + (a * 3 + b) * dw_plane + i;
                store_part(to, add ? v_add(load_part(to, lanes), g[b]) : g[b], lanes);
            }
        }
    }
}
#endif
