/* ref_winograd.c - one output of Winograd's F(2x2, 3x3).
 * SPDX-License-Identifier: MIT */
#include "ref_winograd.h"
#include <math.h>

void ref_winograd_weights_axis(const float g[3], float u[4])
{
    const float s = g[0] + g[2];
    u[0] = g[0];
    u[1] = 0.5f * (s + g[1]);
    u[2] = 0.5f * (s - g[1]);
    u[3] = g[2];
}
void ref_winograd_input_axis(const float d[4], float v[4])
{
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[1] - d[3];
}
void ref_winograd_output_axis(const float m[4], float y[2])
{
    y[0] = (m[0] + m[1]) + m[2];
    y[1] = (m[1] - m[2]) - m[3];
}

void ref_winograd_dy_axis(const float y[2], float w[4])
{
    w[0] = y[0];
    w[1] = y[0] + y[1];
    w[2] = y[0] - y[1];
    w[3] = -y[1];
}
void ref_winograd_dw_axis(const float m[4], float g[3])
{
    const float s = 0.5f * (m[1] + m[2]);
    g[0] = m[0] + s;
    g[1] = 0.5f * (m[1] - m[2]);
    g[2] = s + m[3];
}

/* The same with magnitudes. */
static void g_size(const double g[3], double u[4])
{
    u[0] = g[0];
    u[1] = u[2] = 0.5 * (g[0] + g[1] + g[2]);
    u[3] = g[2];
}
static void b_size(const double d[4], double v[4])
{
    v[0] = d[0] + d[2];
    v[1] = v[2] = d[1] + d[2];
    v[3] = d[1] + d[3];
}
static void a_size(const double m[4], double y[2])
{
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] + m[2] + m[3];
}

static void dy_size(const double y[2], double w[4])
{
    w[0] = y[0];
    w[1] = w[2] = y[0] + y[1];
    w[3] = y[1];
}
static void dw_size(const double m[4], double g[3])
{
    g[0] = m[0] + 0.5 * (m[1] + m[2]);
    g[1] = 0.5 * (m[1] + m[2]);
    g[2] = 0.5 * (m[1] + m[2]) + m[3];
}

double ref_winograd_roundings(const ref_winograd *s) { return (double)s->c + 2 + 4 + 4 + 6; }   /* chain, input, weights, output */

float ref_winograd_element(const ref_winograd *s, size_t r, size_t q, size_t o, double *size)
{
    float m[4][4] = { { 0 } }, block[4][4] = { { 0 } }, rows[4][2], y[2];
    double ms[4][4] = { { 0 } }, rs[4][2], ys[2];
    for (size_t c = 0; c < s->c; c++) {
        float d[4][4], g[3][3], t[4][4], u[4][4], v[4][4];
        double ds[4][4], gs[3][3], ts[4][4], us[4][4], vs[4][4];
        for (size_t a = 0; a < 4; a++)
            for (size_t b = 0; b < 4; b++) {
                const size_t i = r / 2 * 2 + a, j = q / 2 * 2 + b;
                const int inside = i >= s->pad_h && i - s->pad_h < s->h && j >= s->pad_w && j - s->pad_w < s->w;
                d[b][a] = inside ? s->x[((i - s->pad_h) * s->w + j - s->pad_w) * s->c + c] : 0.0f;   /* [column][row] */
                ds[b][a] = fabs((double)d[b][a]);
            }
        for (size_t a = 0; a < 3; a++)
            for (size_t b = 0; b < 3; b++) {
                g[b][a] = s->weight[((a * 3 + b) * s->c + c) * s->co + o];
                gs[b][a] = fabs((double)g[b][a]);
            }
        for (size_t b = 0; b < 3; b++) {
            ref_winograd_weights_axis(g[b], t[b]);
            g_size(gs[b], ts[b]);
        }
        for (size_t a = 0; a < 4; a++) {
            const float line[3] = { t[0][a], t[1][a], t[2][a] };
            const double lines[3] = { ts[0][a], ts[1][a], ts[2][a] };
            ref_winograd_weights_axis(line, u[a]);
            g_size(lines, us[a]);
        }
        for (size_t b = 0; b < 4; b++) {
            ref_winograd_input_axis(d[b], t[b]);
            b_size(ds[b], ts[b]);
        }
        for (size_t a = 0; a < 4; a++) {
            const float line[4] = { t[0][a], t[1][a], t[2][a], t[3][a] };
            const double lines[4] = { ts[0][a], ts[1][a], ts[2][a], ts[3][a] };
            ref_winograd_input_axis(line, v[a]);
            b_size(lines, vs[a]);
        }
        for (size_t a = 0; a < 4; a++)
            for (size_t b = 0; b < 4; b++) {
                block[a][b] = fmaf(v[a][b], u[a][b], block[a][b]);
                ms[a][b] += vs[a][b] * us[a][b];
                if ((c + 1) % 256 == 0 || c + 1 == s->c) {
                    m[a][b] = c < 256 ? block[a][b] : m[a][b] + block[a][b];
                    block[a][b] = 0.0f;
                }
            }
    }
    for (size_t b = 0; b < 4; b++) {
        const float line[4] = { m[0][b], m[1][b], m[2][b], m[3][b] };
        const double lines[4] = { ms[0][b], ms[1][b], ms[2][b], ms[3][b] };
        ref_winograd_output_axis(line, rows[b]);
        a_size(lines, rs[b]);
    }
    const float line[4] = { rows[0][r % 2], rows[1][r % 2], rows[2][r % 2], rows[3][r % 2] };
    const double lines[4] = { rs[0][r % 2], rs[1][r % 2], rs[2][r % 2], rs[3][r % 2] };
    ref_winograd_output_axis(line, y);
    a_size(lines, ys);
    if (size) *size = ys[q % 2];
    return y[q % 2];
}

enum { TILES = 64 };   /* of a chain */

double ref_winograd_gradient_roundings(const ref_winograd *s, size_t n)
{
    const size_t tiles = n * ((s->h + 2 * s->pad_h - 1) / 2) * ((s->w + 2 * s->pad_w - 1) / 2);
    return TILES + (double)((tiles + TILES - 1) / TILES) + 4 + 2 + 4;   /* chain, blocks, input, dy, taps */
}

float ref_winograd_gradient(const ref_winograd *s, const float *x, const float *dy, size_t n, size_t ta, size_t tb, size_t c, size_t o,
                            double *size)
{
    const size_t oh = s->h + 2 * s->pad_h - 2, ow = s->w + 2 * s->pad_w - 2, down = (oh + 1) / 2, across = (ow + 1) / 2;
    float m[4][4] = { { 0 } }, block[4][4] = { { 0 } }, rows[4][3], g[3];
    double ms[4][4] = { { 0 } }, rs[4][3], gs[3];
    for (size_t t = 0; t < n * down * across; t++) {
        const size_t image = t / across / down, r = t / across % down * 2, q = t % across * 2;
        float d[4][4], v[4][4], half[4][4], y[2][2], w[4][4];
        double ds[4][4], vs[4][4], halfs[4][4], ys[2][2], ws[4][4];
        for (size_t a = 0; a < 4; a++)
            for (size_t b = 0; b < 4; b++) {
                const size_t i = r + a - s->pad_h, j = q + b - s->pad_w;   /* wraps where it is outside */
                d[b][a] = i < s->h && j < s->w ? x[((image * s->h + i) * s->w + j) * s->c + c] : 0.0f;   /* [column][row] */
                ds[b][a] = fabs((double)d[b][a]);
            }
        for (size_t a = 0; a < 2; a++)
            for (size_t b = 0; b < 2; b++) {
                y[b][a] = r + a < oh && q + b < ow ? dy[((image * oh + r + a) * ow + q + b) * s->co + o] : 0.0f;
                ys[b][a] = fabs((double)y[b][a]);
            }
        for (size_t b = 0; b < 4; b++) ref_winograd_input_axis(d[b], half[b]), b_size(ds[b], halfs[b]);
        for (size_t a = 0; a < 4; a++) {
            ref_winograd_input_axis((float[]){ half[0][a], half[1][a], half[2][a], half[3][a] }, v[a]);
            b_size((double[]){ halfs[0][a], halfs[1][a], halfs[2][a], halfs[3][a] }, vs[a]);
        }
        for (size_t b = 0; b < 2; b++) ref_winograd_dy_axis(y[b], half[b]), dy_size(ys[b], halfs[b]);
        for (size_t a = 0; a < 4; a++) {
            ref_winograd_dy_axis((float[]){ half[0][a], half[1][a] }, w[a]);
            dy_size((double[]){ halfs[0][a], halfs[1][a] }, ws[a]);
        }
        for (size_t a = 0; a < 4; a++)
            for (size_t b = 0; b < 4; b++) {
                block[a][b] = fmaf(v[a][b], w[a][b], block[a][b]);
                ms[a][b] += vs[a][b] * ws[a][b];
                if ((t + 1) % TILES == 0 || t + 1 == n * down * across) {
                    m[a][b] = t < TILES ? block[a][b] : m[a][b] + block[a][b];
                    block[a][b] = 0.0f;
                }
            }
    }
    for (size_t b = 0; b < 4; b++) {
        ref_winograd_dw_axis((float[]){ m[0][b], m[1][b], m[2][b], m[3][b] }, rows[b]);
        dw_size((double[]){ ms[0][b], ms[1][b], ms[2][b], ms[3][b] }, rs[b]);
    }
    ref_winograd_dw_axis((float[]){ rows[0][ta], rows[1][ta], rows[2][ta], rows[3][ta] }, g);
    dw_size((double[]){ rs[0][ta], rs[1][ta], rs[2][ta], rs[3][ta] }, gs);
    if (size) *size = gs[tb];
    return g[tb];
}
