/* ref_rnn.c - LSTM and GRU in double, one sample, one step, one unit at a time.
 * SPDX-License-Identifier: MIT */
#include "ref_rnn.h"
#include <math.h>
#include <stdlib.h>

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

void ref_lstm_cell(double gates[4], double c_before, double *c, double *h)
{
    for (int i = 0; i < 4; i++) gates[i] = i == 2 ? tanh(gates[i]) : sigmoid(gates[i]);
    *c = gates[1] * c_before + gates[0] * gates[2];
    *h = gates[3] * tanh(*c);
}

void ref_gru_cell(double gates[3], const double product[3], double h_before, double *h)
{
    gates[0] = sigmoid(gates[0] + product[0]);
    gates[1] = sigmoid(gates[1] + product[1]);
    gates[2] = tanh(gates[2] + gates[0] * product[2]);
    *h = (1 - gates[1]) * gates[2] + gates[1] * h_before;
}

/* v W + b, column j of `columns` */
static double product(const double *v, size_t length, const double *w, const double *bias, size_t columns, size_t j)
{
    double sum = bias ? bias[j] : 0;
    for (size_t i = 0; i < length; i++) sum += v[i] * w[i * columns + j];
    return sum;
}

static void sample(const ref_rnn *r, size_t s, size_t gates)
{
    const size_t hidden = r->hidden, columns = gates * hidden;
    double *h = calloc(3 * hidden + 1, sizeof *h), *c = h + hidden, *next = c + hidden;
    if (!h) abort();
    for (size_t j = 0; j < hidden; j++) {
        if (r->h0) h[j] = r->h0[s * hidden + j];
        if (r->c0) c[j] = r->c0[s * hidden + j];
    }
    for (size_t k = 0; k < r->t; k++) {
        const size_t time = s * r->t + (r->reverse ? r->t - 1 - k : k);
        for (size_t j = 0; j < hidden; j++) {
            double a[4], b[4];
            for (size_t g = 0; g < gates; g++) {
                a[g] = product(r->x + time * r->in, r->in, r->weight_ih, r->bias_ih, columns, g * hidden + j);
                b[g] = product(h, hidden, r->weight_hh, r->bias_hh, columns, g * hidden + j);
                if (gates == 4) a[g] += b[g];
            }
            if (gates == 4) ref_lstm_cell(a, c[j], &c[j], &next[j]);
            else ref_gru_cell(a, b, h[j], &next[j]);
        }
        for (size_t j = 0; j < hidden; j++) r->y[time * hidden + j] = h[j] = next[j];
    }
    for (size_t j = 0; j < hidden; j++) {
        r->h_n[s * hidden + j] = h[j];
        if (gates == 4) r->c_n[s * hidden + j] = c[j];
    }
    free(h);
}

void ref_lstm(const ref_rnn *r)
{
    for (size_t s = 0; s < r->n; s++) sample(r, s, 4);
}

void ref_gru(const ref_rnn *r)
{
    for (size_t s = 0; s < r->n; s++) sample(r, s, 3);
}
