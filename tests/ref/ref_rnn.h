/* ref_rnn.h - LSTM and GRU in double, gate by gate.
 * SPDX-License-Identifier: MIT */
#ifndef REF_RNN_H
#define REF_RNN_H
#include <stddef.h>

typedef struct ref_rnn {
    size_t n, t, in, hidden;
    int    reverse;
    const double *x, *h0, *c0;                 /* [n, t, in], [n, hidden]; h0, c0 NULL: zeros        */
    const double *weight_ih, *weight_hh;       /* [in, gates hidden], [hidden, gates hidden]         */
    const double *bias_ih, *bias_hh;           /* [gates hidden] or NULL                             */
    double       *y, *h_n, *c_n;               /* out: [n, t, hidden], [n, hidden]; c_n of LSTM only */
} ref_rnn;
void ref_lstm(const ref_rnn *r);
void ref_gru(const ref_rnn *r);

/* One cell: values of the gates in place of their arguments (4 of LSTM; of GRU r, z, n, with the product h W + b), and the state. */
void ref_lstm_cell(double gates[4], double c_before, double *c, double *h);
void ref_gru_cell(double gates[3], const double product[3], double h_before, double *h);
#endif
