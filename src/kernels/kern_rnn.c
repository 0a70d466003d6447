/* kern_rnn.c - one step of LSTM and GRU behind their matrix products: gates and state, and their gradients.
 * SPDX-License-Identifier: MIT */
#include "kernels/kernels.h"
#include "simd/simd.h"

/* n is 16 but in the last column of a row.  To ask each time costs little beside what is computed, and a body for ends as much
 * room as the one for whole vectors. */
V_FN kd_f32x16 get(const float *p, size_t n) { return load_part(p, n); }
V_FN void put(float *p, kd_f32x16 a, size_t n) { store_part(p, a, n); }
/* Columns of one row. */
#define EACH_COLUMN(j, hidden, body)                                                            \
    do {                                                                                        \
        for (size_t j = 0; j < (hidden); j += 16) body(j, part_of((hidden) - j));               \
    } while (0)

/* g y (1 - y): through a sigmoid with result y. */
V_FN kd_f32x16 sigmoid_back(kd_f32x16 g, kd_f32x16 y) { return v_mul(v_mul(g, y), v_sub(v_set1(1.0f), y)); }
/* g (1 - y^2): through a tanh. */
V_FN kd_f32x16 tanh_back(kd_f32x16 g, kd_f32x16 y) { return v_mul(g, v_fnma(y, y, v_set1(1.0f))); }

/* ---- LSTM ------------------------------------------------------------------------------------------------ */
V_FN void lstm_cells(float *i_gate, size_t hidden, const float *c_before, float *c, float *h, size_t n)
{
    float *f_gate = i_gate + hidden, *g_gate = f_gate + hidden, *o_gate = g_gate + hidden;
    const kd_f32x16 i = v_sigmoid(get(i_gate, n)), f = v_sigmoid(get(f_gate, n));
    const kd_f32x16 g = v_tanh(get(g_gate, n)), o = v_sigmoid(get(o_gate, n));
    const kd_f32x16 state = v_fma(f, get(c_before, n), v_mul(i, g));
    put(i_gate, i, n);
    put(f_gate, f, n);
    put(g_gate, g, n);
    put(o_gate, o, n);
    put(c, state, n);
    put(h, v_mul(o, v_tanh(state)), n);
}

void KD_K(lstm_step_f32)(size_t rows, size_t hidden, float *gates, const float *c_before, float *c, float *h)
{
    for (size_t r = 0; r < rows; r++, gates += 4 * hidden, c_before += hidden, c += hidden, h += hidden) {
#define CELLS(j, n) lstm_cells(gates + (j), hidden, c_before + (j), c + (j), h + (j), n)
        EACH_COLUMN(j, hidden, CELLS);
#undef CELLS
    }
}

V_FN void lstm_cells_back(float *i_gate, size_t hidden, const float *c_before, const float *c, const float *dh, float *dc,
                          size_t n)
{
    float *f_gate = i_gate + hidden, *g_gate = f_gate + hidden, *o_gate = g_gate + hidden;
    const kd_f32x16 i = get(i_gate, n), f = get(f_gate, n), g = get(g_gate, n), o = get(o_gate, n);
    const kd_f32x16 t = v_tanh(get(c, n)), dy = get(dh, n);
    const kd_f32x16 d = v_add(get(dc, n), tanh_back(v_mul(dy, o), t));   /* of the state, from here and from the next step */
    put(i_gate, sigmoid_back(v_mul(d, g), i), n);
    put(f_gate, sigmoid_back(v_mul(d, get(c_before, n)), f), n);
    put(g_gate, tanh_back(v_mul(d, i), g), n);
    put(o_gate, sigmoid_back(v_mul(dy, t), o), n);
    put(dc, v_mul(d, f), n);
}

void KD_K(lstm_backward_step_f32)(size_t rows, size_t hidden, float *gates, const float *c_before, const float *c,
                                  const float *dh, float *dc)
{
    for (size_t r = 0; r < rows; r++, gates += 4 * hidden, c_before += hidden, c += hidden, dh += hidden, dc += hidden) {
#define CELLS(j, n) lstm_cells_back(gates + (j), hidden, c_before + (j), c + (j), dh + (j), dc + (j), n)
        EACH_COLUMN(j, hidden, CELLS);
#undef CELLS
    }
}

/* ---- GRU --------------------------------------------------------------------------------------------------- */
V_FN void gru_cells(float *r_gate, size_t hidden, const float *product, const float *h_before, float *h, size_t n)
{
    float *z_gate = r_gate + hidden, *n_gate = z_gate + hidden;
    const kd_f32x16 r = v_sigmoid(v_add(get(r_gate, n), get(product, n)));
    const kd_f32x16 z = v_sigmoid(v_add(get(z_gate, n), get(product + hidden, n)));
    const kd_f32x16 y = v_tanh(v_fma(r, get(product + 2 * hidden, n), get(n_gate, n)));
    put(r_gate, r, n);
    put(z_gate, z, n);
    put(n_gate, y, n);
    put(h, v_fma(z, v_sub(get(h_before, n), y), y), n);
}

void KD_K(gru_step_f32)(size_t rows, size_t hidden, float *gates, const float *product, const float *h_before, float *h)
{
    for (size_t r = 0; r < rows; r++, gates += 3 * hidden, product += 3 * hidden, h_before += hidden, h += hidden) {
#define CELLS(j, n) gru_cells(gates + (j), hidden, product + (j), h_before + (j), h + (j), n)
        EACH_COLUMN(j, hidden, CELLS);
#undef CELLS
    }
}

V_FN void gru_cells_back(float *r_gate, size_t hidden, float *product, const float *h_before, const float *dh, float *dh_before,
                         size_t n)
{
    float *z_gate = r_gate + hidden, *n_gate = z_gate + hidden;
    const kd_f32x16 r = get(r_gate, n), z = get(z_gate, n), y = get(n_gate, n), d = get(dh, n);
    const kd_f32x16 dn = tanh_back(v_mul(d, v_sub(v_set1(1.0f), z)), y);
    const kd_f32x16 dz = sigmoid_back(v_mul(d, v_sub(get(h_before, n), y)), z);
    const kd_f32x16 dr = sigmoid_back(v_mul(dn, get(product + 2 * hidden, n)), r);
    put(r_gate, dr, n);
    put(z_gate, dz, n);
    put(n_gate, dn, n);
    put(product, dr, n);
    put(product + hidden, dz, n);
    put(product + 2 * hidden, v_mul(dn, r), n);
    put(dh_before, v_fma(d, z, get(dh_before, n)), n);
}

void KD_K(gru_backward_step_f32)(size_t rows, size_t hidden, float *gates, float *product, const float *h_before, const float *dh,
                                 float *dh_before)
{
    for (size_t r = 0; r < rows; r++) {
#define CELLS(j, n) gru_cells_back(gates + (j), hidden, product + (j), h_before + (j), dh + (j), dh_before + (j), n)
        EACH_COLUMN(j, hidden, CELLS);
#undef CELLS
        gates += 3 * hidden;
        product += 3 * hidden;
        h_before += hidden;
        dh += hidden;
        dh_before += hidden;
    }
}
