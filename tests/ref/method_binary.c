/* method_binary.c - a sigmoid a class.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* T^2 sum KL(Bernoulli(sigmoid(t / T)) || Bernoulli(sigmoid(s / T))) */
static double row(const method_in *x, size_t r)
{
    size_t n = x->classes;
    double sum = 0;
    for (size_t c = 0; c < n; c++) {
        double s = x->student[r * n + c] / x->T, t = x->teacher[r * n + c] / x->T;
        double yes = exp(mr_log_sigmoid(t)), no = exp(mr_log_sigmoid(-t));
        if (yes > 0) sum += yes * (mr_log_sigmoid(t) - mr_log_sigmoid(s));
        if (no > 0) sum += no * (mr_log_sigmoid(-t) - mr_log_sigmoid(-s));
    }
    return (x->desc->temperature_squared ? x->T * x->T : 1) * sum;
}

/* every class counts by itself: their magnitudes add up */
static double size(const method_in *x)
{
    double most = 0;
    for (size_t i = 0; i < x->rows * x->classes; i++)
        if (isfinite(x->student[i]) && isfinite(x->teacher[i])) most = fmax(most, fabs(x->student[i]) + fabs(x->teacher[i]));
    return x->T * x->T * (double)x->classes * (1 + most / x->T);
}

const method_output method_output_BINARY = {
    .row = row, .size = size,
    .holds = METHOD_CLASS_ORDER | METHOD_ROW_ORDER | METHOD_ZERO_AT_TEACHER,
};
