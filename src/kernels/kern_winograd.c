/* kern_winograd.c - the transforms of Winograd's F(2x2, 3x3): channels in lanes.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "simd/simd.h"

V_FN kd_f32x16 load(const float *p, size_t n) { return n == 16 ? v_load(p) : v_load_n(p, n, 0.0f); }
V_FN void store(float *p, kd_f32x16 a, size_t n)
{
    if (n == 16) v_store(p, a);
    else v_store_n(p, a, n);
}

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
            for (size_t a = 0; a < 3; a++) g[a] = load(taps + (a * 3 + b) * tap_plane + i, lanes);
            weights_axis(g, t[b]);
        }
        V_UNROLL(4)
        for (size_t a = 0; a < 4; a++) {
            kd_f32x16 g[3], w[4];
            V_UNROLL(3)
            for (size_t b = 0; b < 3; b++) g[b] = t[b][a];
            weights_axis(g, w);
            V_UNROLL(4)
            for (size_t b = 0; b < 4; b++) store(u + (a * 4 + b) * u_plane + i, w[b], lanes);
        }
    }
}

/* Image, and row and column of a tile's first output. */
V_FN void place(const kd__winograd_args *p, size_t tile, size_t *image, size_t *row, size_t *column)
{
    *image = tile / (p->tiles_h * p->tiles_w);
    tile %= p->tiles_h * p->tiles_w;
    *row = tile / p->tiles_w * 2;
    *column = tile % p->tiles_w * 2;
}

void KD_K(winograd_input_f32)(const kd__winograd_args *p)
{
    for (size_t t = 0; t < p->count; t++) {
        const float *pixel[4][4];
        size_t image, row, column;
        place(p, p->first + t, &image, &row, &column);
        const float *x = p->x + image * p->h * p->w * p->c;
        for (size_t a = 0; a < 4; a++)
            for (size_t b = 0; b < 4; b++) {
                const size_t r = row + a, q = column + b;   /* plus the padding */
                const int inside = r >= p->pad_h && r - p->pad_h < p->h && q >= p->pad_w && q - p->pad_w < p->w;
                pixel[a][b] = inside ? x + ((r - p->pad_h) * p->w + q - p->pad_w) * p->c : p->zeros;
            }
        float *v = p->v + t * p->c;
        for (size_t i = 0; i < p->c; i += 16) {
            const size_t lanes = p->c - i < 16 ? p->c - i : 16;
            kd_f32x16 s[4][4];   /* [column of d][row of B^T d] */
            V_UNROLL(4)
            for (size_t b = 0; b < 4; b++) {
                kd_f32x16 d[4];
                V_UNROLL(4)
                for (size_t a = 0; a < 4; a++) d[a] = load(pixel[a][b] + i, lanes);
                input_axis(d, s[b]);
            }
            V_UNROLL(4)
            for (size_t a = 0; a < 4; a++) {
                kd_f32x16 d[4], w[4];
                V_UNROLL(4)
                for (size_t b = 0; b < 4; b++) d[b] = s[b][a];
                input_axis(d, w);
                V_UNROLL(4)
                for (size_t b = 0; b < 4; b++) store(v + (a * 4 + b) * p->plane + i, w[b], lanes);
            }
        }
    }
}

void KD_K(winograd_output_f32)(const kd__winograd_args *p)
{
    const kd_f32x16 zero = v_zero();
    for (size_t t = 0; t < p->count; t++) {
        size_t image, row, column;
        place(p, p->first + t, &image, &row, &column);
        const size_t rows = p->oh - row < 2 ? 1 : 2, columns = p->ow - column < 2 ? 1 : 2;
        const float *m = p->m + t * p->co;
        float *y = p->y + ((image * p->oh + row) * p->ow + column) * p->co;
        for (size_t i = 0; i < p->co; i += 16) {
            const size_t lanes = p->co - i < 16 ? p->co - i : 16;
            const kd_f32x16 bias = p->bias ? load(p->bias + i, lanes) : zero;
            kd_f32x16 s[4][2];   /* [column of m][row of A^T m] */
            V_UNROLL(4)
            for (size_t b = 0; b < 4; b++) {
                kd_f32x16 c[4];
                V_UNROLL(4)
                for (size_t a = 0; a < 4; a++) c[a] = load(m + (a * 4 + b) * p->plane + i, lanes);
                output_axis(c, s[b]);
            }
            for (size_t a = 0; a < rows; a++) {
                kd_f32x16 c[4], out[2];
                V_UNROLL(4)
                for (size_t b = 0; b < 4; b++) c[b] = s[b][a];
                output_axis(c, out);
                for (size_t b = 0; b < columns; b++) {
                    float *at = y + (a * p->ow + b) * p->co + i;
                    kd_f32x16 e = out[b];
                    if (p->add) e = v_add(load(at, lanes), e);
                    if (p->bias) e = v_add(e, bias);
                    if (p->relu) e = v_max(zero, e);
                    store(at, e, lanes);
                }
            }
        }
    }
}
