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
