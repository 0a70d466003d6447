/* check_rnn.c - steps of LSTM and GRU against the double reference.  Bounds: a sigmoid is good to 5 U of its value, a tanh to
 * 2.7 U (simd_math.h), each operation to U of its result; first-order, and a hundredth for the rest.
 * SPDX-License-Identifier: MIT */
#include "checkkd.h"
#include "ref_rnn.h"

#define SIGMOID (5 * U)
#define TANH    (2.7 * U)
static int near(const ck_case *c, int array, size_t i, double want, double error)
{
    return ck_near(c, array, i, want, 1.01 * error + 0x1p-146);
}

/* ---- LSTM: i, f, g, o ------------------------------------------------------------------------------------ */
static void make_lstm(ck_case *c)
{
    ck_floats(c, CK_INOUT, "gates", c->rows, 4 * c->n, 2);
    ck_floats(c, CK_IN, "c_before", c->rows, c->n, 1);
    ck_floats(c, CK_OUT, "c", c->rows, c->n, 1);
    ck_floats(c, CK_OUT, "h", c->rows, c->n, 1);
}
static void run_lstm(const ck_case *c, const kd__kernels *k) { k->lstm_step_f32(c->rows, c->n, F(0), F(1), F(2), F(3)); }
static void oracle_lstm(const ck_case *c)
{
    for (size_t at = 0; at < c->rows * c->n; at++) {
        const size_t first = at / c->n * 4 * c->n + at % c->n;
        const double before = (double)BEFORE(1)[at];
        double v[4], state, h;
        for (size_t g = 0; g < 4; g++) v[g] = (double)BEFORE(0)[first + g * c->n];
        ref_lstm_cell(v, before, &state, &h);
        for (size_t g = 0; g < 4; g++) near(c, 0, first + g * c->n, v[g], (g == 2 ? TANH : SIGMOID) * fabs(v[g]));
        const double t = tanh(state), product = fabs(v[0] * v[2]);
        const double error = SIGMOID * fabs(v[1] * before) + (SIGMOID + TANH + U) * product + U * fabs(state);
        near(c, 2, at, state, error);
        near(c, 3, at, h, v[3] * ((1 - t * t) * error + TANH * fabs(t)) + (SIGMOID + U) * fabs(h));
    }
}
CK_KERNEL(lstm_step_f32, .matrix = true, .independent = true, .make = make_lstm, .run = run_lstm, .oracle = oracle_lstm,
          .bench_rows = 32, .bench_n = 256, .ops = 155);

static void make_lstm_back(ck_case *c)
{
    ck_floats(c, CK_INOUT, "gates", c->rows, 4 * c->n, 0.5);
    ck_floats(c, CK_IN, "c_before", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "c", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "dh", c->rows, c->n, 1);
    ck_floats(c, CK_INOUT, "dc", c->rows, c->n, 1);
}
static void run_lstm_back(const ck_case *c, const kd__kernels *k)
{
    k->lstm_backward_step_f32(c->rows, c->n, F(0), F(1), F(2), F(3), F(4));
}
static void oracle_lstm_back(const ck_case *c)
{
    for (size_t at = 0; at < c->rows * c->n; at++) {
        const size_t n = c->n, first = at / n * 4 * n + at % n;
        const double i = (double)BEFORE(0)[first], f = (double)BEFORE(0)[first + n], g = (double)BEFORE(0)[first + 2 * n];
        const double o = (double)BEFORE(0)[first + 3 * n], dh = (double)BEFORE(3)[at];
        const double t = tanh((double)BEFORE(2)[at]), through = dh * o * (1 - t * t);
        const double d = (double)BEFORE(4)[at] + through, before = (double)BEFORE(1)[at];
        const double error = fabs(dh * o) * 2 * TANH * t * t + 3 * U * fabs(through) + U * fabs(d);
        const double part[4] = { g * i * (1 - i), before * f * (1 - f), i * (1 - g * g), t * o * (1 - o) };
        for (size_t k = 0; k < 3; k++) near(c, 0, first + k * n, d * part[k], error * fabs(part[k]) + 4 * U * fabs(d * part[k]));
        near(c, 0, first + 3 * n, dh * part[3], (4 * U + TANH) * fabs(dh * part[3]));
        near(c, 4, at, d * f, error * fabs(f) + U * fabs(d * f));
    }
}
CK_KERNEL(lstm_backward_step_f32, .matrix = true, .independent = true, .make = make_lstm_back, .run = run_lstm_back,
          .oracle = oracle_lstm_back, .bench_rows = 32, .bench_n = 256, .ops = 60);

/* ---- GRU: r, z, n ------------------------------------------------------------------------------------------ */
static void make_gru(ck_case *c)
{
    ck_floats(c, CK_INOUT, "gates", c->rows, 3 * c->n, 2);
    ck_floats(c, CK_IN, "product", c->rows, 3 * c->n, 2);
    ck_floats(c, CK_IN, "h_before", c->rows, c->n, 1);
    ck_floats(c, CK_OUT, "h", c->rows, c->n, 1);
}
static void run_gru(const ck_case *c, const kd__kernels *k) { k->gru_step_f32(c->rows, c->n, F(0), F(1), F(2), F(3)); }
static void oracle_gru(const ck_case *c)
{
    for (size_t at = 0; at < c->rows * c->n; at++) {
        const size_t first = at / c->n * 3 * c->n + at % c->n;
        const double before = (double)BEFORE(2)[at];
        double v[3], p[3], arg[3], error[3], h;
        for (size_t g = 0; g < 3; g++) {
            arg[g] = v[g] = (double)BEFORE(0)[first + g * c->n];
            p[g] = (double)BEFORE(1)[first + g * c->n];
        }
        ref_gru_cell(v, p, before, &h);
        for (size_t g = 0; g < 2; g++) error[g] = SIGMOID * v[g] + v[g] * (1 - v[g]) * U * fabs(arg[g] + p[g]);
        error[2] = TANH * fabs(v[2]) + (1 - v[2] * v[2]) * (fabs(p[2]) * error[0] + U * fabs(arg[2] + v[0] * p[2]));
        for (size_t g = 0; g < 3; g++) near(c, 0, first + g * c->n, v[g], error[g]);
        const double gap = fabs(before - v[2]);
        near(c, 3, at, h, (1 - v[1]) * error[2] + gap * error[1] + v[1] * U * gap + U * fabs(h));
    }
}
CK_KERNEL(gru_step_f32, .matrix = true, .independent = true, .make = make_gru, .run = run_gru, .oracle = oracle_gru,
          .bench_rows = 32, .bench_n = 256, .ops = 94);

static void make_gru_back(ck_case *c)
{
    ck_floats(c, CK_INOUT, "gates", c->rows, 3 * c->n, 0.5);
    ck_floats(c, CK_INOUT, "product", c->rows, 3 * c->n, 1);
    ck_floats(c, CK_IN, "h_before", c->rows, c->n, 1);
    ck_floats(c, CK_IN, "dh", c->rows, c->n, 1);
    ck_floats(c, CK_INOUT, "dh_before", c->rows, c->n, 1);
}
static void run_gru_back(const ck_case *c, const kd__kernels *k)
{
    k->gru_backward_step_f32(c->rows, c->n, F(0), F(1), F(2), F(3), F(4));
}
static void oracle_gru_back(const ck_case *c)
{
    for (size_t at = 0; at < c->rows * c->n; at++) {
        const size_t n = c->n, first = at / n * 3 * n + at % n;
        const double r = (double)BEFORE(0)[first], z = (double)BEFORE(0)[first + n], y = (double)BEFORE(0)[first + 2 * n];
        const double d = (double)BEFORE(3)[at];
        const double dn = d * (1 - z) * (1 - y * y), dz = d * ((double)BEFORE(2)[at] - y) * z * (1 - z);
        const double dr = dn * (double)BEFORE(1)[first + 2 * n] * r * (1 - r);
        const double x_side[3] = { dr, dz, dn }, h_side[3] = { dr, dz, dn * r };
        for (size_t g = 0; g < 3; g++) {
            near(c, 0, first + g * n, x_side[g], 8 * U * fabs(x_side[g]));
            near(c, 1, first + g * n, h_side[g], 8 * U * fabs(h_side[g]));
        }
        const double sum = d * z + (double)BEFORE(4)[at];
        near(c, 4, at, sum, U * fabs(sum));
    }
}
CK_KERNEL(gru_backward_step_f32, .matrix = true, .independent = true, .make = make_gru_back, .run = run_gru_back,
          .oracle = oracle_gru_back, .bench_rows = 32, .bench_n = 256);
