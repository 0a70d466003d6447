/* kern_winograd.c - the transforms of Winograd's F(2x2, 3x3): channels in lanes.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "kernels/epilogue_vector.h"

V_FN void weights_axis(const kd_f32x16 g[3], kd_f32x16 u[4])
{
    const kd_f32x16 half = v_set1(0.5f), s = v_add(g[0], g[2]);
    u[0] = g[0];
    u[1] = v_mul(half, v_add(s, g[1]));
    u[2] = v_mul(half, v_sub(s, g[1]));
    u[3] = g[2];
}

V_FN void input_axis(const kd_f32x16 d[4], kd_f32x16 v[4])
{
    v[0] = v_sub(d[0], d[2]);
    v[1] = v_add(d[1], d[2]);
    v[2] = v_sub(d[2], d[1]);
    v[3] = v_sub(d[1], d[3]);
}

V_FN void output_axis(const kd_f32x16 m[4], kd_f32x16 y[2])
{
    y[0] = v_add(v_add(m[0], m[1]), m[2]);
    y[1] = v_sub(v_sub(m[1], m[2]), m[3]);
}

void KD_K(winograd_weights_f32)(const float *taps, size_t tap_plane, float *u, size_t u_plane, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        const size_t lanes = n - i < 16 ? n - i : 16;
        kd_f32x16 t[3][4];   /* [column of g][row of G g] */
        V_UNROLL(3)
        for (size_t b = 0; b < 3; b++) {
            kd_f32x16 g[3];
            V_UNROLL(3)
            for (size_t a = 0; a < 3; a++) g[a] = load_part(taps + (a * 3 + b) * tap_plane + i, lanes);
            weights_axis(g, t[b]);
        }
        V_UNROLL(4)
        for (size_t a = 0; a < 4; a++) {
            kd_f32x16 g[3], w[4];
            V_UNROLL(3)
            for (size_t b = 0; b < 3; b++) g[b] = t[b][a];
            weights_axis(g, w);
            V_UNROLL(4)
            for (size_t b = 0; b < 4; b++) store_part(u + (a * 4 + b) * u_plane + i, w[b], lanes);
        }
    }
}

/* Image, and row and column of a tile's first output. */
typedef struct place { size_t image, row, column; } place;

V_FN place place_of(const kd__winograd_args *p, size_t tile)
{
    const size_t in_image = tile % (p->tiles_h * p->tiles_w);
    return (place){ tile / (p->tiles_h * p->tiles_w), in_image / p->tiles_w * 2, in_image % p->tiles_w * 2 };
}

V_FN void place_next(const kd__winograd_args *p, place *at)
{
    if ((at->column += 2) < 2 * p->tiles_w) return;
    at->column = 0;
    if ((at->row += 2) < 2 * p->tiles_h) return;
    at->row = 0;
    at->image++;
}

/* Channels [i, i + n) of a tile from its pixels, given one by one or, inside the image, by rows. */
V_FN void input_tile(const kd__winograd_args *p, const float *const *pixel, const float *const *row, size_t i, size_t n,
                     float *v)
{
    kd_f32x16 s[4][4];   /* [column of d][row of B^T d] */
    V_UNROLL(4)
    for (size_t b = 0; b < 4; b++) {
        kd_f32x16 d[4];
        V_UNROLL(4)
        for (size_t a = 0; a < 4; a++) d[a] = load_part((pixel ? pixel[4 * a + b] : row[a] + b * p->c) + i, n);
        input_axis(d, s[b]);
    }
    V_UNROLL(4)
    for (size_t a = 0; a < 4; a++) {
        kd_f32x16 d[4], w[4];
        V_UNROLL(4)
        for (size_t b = 0; b < 4; b++) d[b] = s[b][a];
        input_axis(d, w);
        V_UNROLL(4)
        for (size_t b = 0; b < 4; b++) store_part(v + (a * 4 + b) * p->plane + i, w[b], n);
    }
}

/* A tile that reaches over a side of the image: pixels outside are zeros. */
static void input_border(const kd__winograd_args *p, const place *at, float *v)
{
    const float *pixel[16], *x = p->x + at->image * p->h * p->w * p->c;
    for (size_t a = 0; a < 4; a++)
        for (size_t b = 0; b < 4; b++) {
            const size_t r = at->row + a, q = at->column + b;   /* plus the padding */
            const int inside = r >= p->pad_h && r - p->pad_h < p->h && q >= p->pad_w && q - p->pad_w < p->w;
            pixel[4 * a + b] = inside ? x + ((r - p->pad_h) * p->w + q - p->pad_w) * p->c : p->zeros;
        }
    for (size_t i = 0; i < p->c; i += 16) input_tile(p, pixel, NULL, i, p->c - i < 16 ? p->c - i : 16, v);
}

void KD_K(winograd_input_f32)(const kd__winograd_args *p)
{
    place at = place_of(p, p->first);
    float *v = p->v;
    for (size_t t = 0; t < p->count; t++, v += p->c, place_next(p, &at)) {
        if (at.row < p->pad_h || at.row + 4 > p->h + p->pad_h || at.column < p->pad_w || at.column + 4 > p->w + p->pad_w) {
            input_border(p, &at, v);
            continue;
        }
        const size_t step = p->w * p->c;
        const float *x = p->x + ((at.image * p->h + at.row - p->pad_h) * p->w + at.column - p->pad_w) * p->c;
        const float *const row[4] = { x, x + step, x + 2 * step, x + 3 * step };
        size_t i = 0;
        for (; i + 16 <= p->c; i += 16) input_tile(p, NULL, row, i, 16, v);
        if (i < p->c) input_tile(p, NULL, row, i, p->c - i, v);
    }
}

/* Channels [i, i + n): rows x columns outputs, of which the first is pixel number `first` of y. */
V_FN void output_tile(const kd__winograd_args *p, const float *m, size_t first, size_t rows, size_t columns, size_t i, size_t n)
{
    const epilogue_columns after = epilogue_begin(&p->after, i, n);
    kd_f32x16 s[4][2];   /* [column of m][row of A^T m] */
    V_UNROLL(4)
    for (size_t b = 0; b < 4; b++) {
        kd_f32x16 c[4];
        V_UNROLL(4)
        for (size_t a = 0; a < 4; a++) c[a] = load_part(m + (a * 4 + b) * p->plane + i, n);
        output_axis(c, s[b]);
    }
    for (size_t a = 0; a < rows; a++) {
        kd_f32x16 c[4], out[2];
        V_UNROLL(4)
        for (size_t b = 0; b < 4; b++) c[b] = s[b][a];
        output_axis(c, out);
        for (size_t b = 0; b < columns; b++) {
            const size_t pixel = first + a * p->ow + b;
            float *to = p->y + pixel * p->co + i;
            kd_f32x16 e = p->add ? v_add(load_part(to, n), out[b]) : out[b];
            const float *residual = p->after.residual ? p->after.residual + pixel * p->after.residual_row + i : NULL;
            store_part(to, epilogue_apply(&after, e, residual, n), n);
        }
    }
}

void KD_K(winograd_output_f32)(const kd__winograd_args *p)
{
    place at = place_of(p, p->first);
    const float *m = p->m;
    for (size_t t = 0; t < p->count; t++, m += p->co, place_next(p, &at)) {
        const size_t rows = p->oh - at.row < 2 ? 1 : 2, columns = p->ow - at.column < 2 ? 1 : 2;
        const size_t first = (at.image * p->oh + at.row) * p->ow + at.column;
        size_t i = 0;
        if (rows == 2 && columns == 2)
            for (; i + 16 <= p->co; i += 16) output_tile(p, m, first, 2, 2, i, 16);
        for (; i < p->co; i += 16) output_tile(p, m, first, rows, columns, i, p->co - i < 16 ? p->co - i : 16);
    }
}
