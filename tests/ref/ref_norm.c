/* ref_norm.c - see ref_norm.h.
 * SPDX-License-Identifier: MIT */
#include "ref_norm.h"
#include <math.h>
#include <stdlib.h>

/* Mean and biased variance of every set; size[] its number of elements. */
static void statistics(const ref_norm *n, double *mean, double *var, double *size)
{
    for (size_t s = 0; s < n->sets; s++) mean[s] = var[s] = size[s] = 0;
    for (size_t i = 0; i < n->count; i++) {
        mean[n->set[i]] += n->x[i];
        size[n->set[i]] += 1;
    }
    for (size_t s = 0; s < n->sets; s++) mean[s] /= size[s];
    for (size_t i = 0; i < n->count; i++) {
        double d = n->x[i] - mean[n->set[i]];
        var[n->set[i]] += d * d;
    }
    for (size_t s = 0; s < n->sets; s++) {
        var[s] /= size[s];
        if (n->mean) mean[s] = n->mean[s];
        if (n->var) var[s] = n->var[s];
    }
}

void ref_norm_forward(const ref_norm *n, double *y, double *mean_out, double *var_out)
{
    double *mean = malloc((3 * n->sets + 1) * sizeof *mean), *var = mean + n->sets, *size = var + n->sets;
    statistics(n, mean, var, size);
    for (size_t i = 0; i < n->count; i++) {
        size_t s = n->set[i], c = n->channel[i];
        double hat = (n->x[i] - mean[s]) / sqrt(var[s] + n->eps);
        y[i] = hat * (n->weight ? n->weight[c] : 1) + (n->bias ? n->bias[c] : 0);
    }
    for (size_t s = 0; s < n->sets; s++) {
        if (mean_out) mean_out[s] = mean[s];
        if (var_out) var_out[s] = var[s];
    }
    free(mean);
}

void ref_norm_backward(const ref_norm *n, const double *dy, double *dx, double *dweight, double *dbias)
{
    double *mean = malloc((5 * n->sets + 1) * sizeof *mean), *var = mean + n->sets, *size = var + n->sets;
    double *g_mean = size + n->sets, *ghat_mean = g_mean + n->sets;
    statistics(n, mean, var, size);
    for (size_t s = 0; s < n->sets; s++) g_mean[s] = ghat_mean[s] = 0;
    for (size_t c = 0; c < n->channels; c++) dweight[c] = dbias[c] = 0;
    for (size_t i = 0; i < n->count; i++) {
        size_t s = n->set[i], c = n->channel[i];
        double hat = (n->x[i] - mean[s]) / sqrt(var[s] + n->eps), g = dy[i] * (n->weight ? n->weight[c] : 1);
        dweight[c] += dy[i] * hat;
        dbias[c] += dy[i];
        g_mean[s] += g / size[s];
        ghat_mean[s] += g * hat / size[s];
    }
    for (size_t i = 0; i < n->count; i++) {
        size_t s = n->set[i], c = n->channel[i];
        double rstd = 1 / sqrt(var[s] + n->eps), hat = (n->x[i] - mean[s]) * rstd;
        double g = dy[i] * (n->weight ? n->weight[c] : 1);
        dx[i] = n->mean ? g * rstd : rstd * (g - g_mean[s] - hat * ghat_mean[s]);
    }
    free(mean);
}

void ref_l2_normalize(size_t rows, size_t n, const double *x, double eps, double *y, const double *dy, double *dx)
{
    for (size_t r = 0; r < rows; r++, x += n, y += n) {
        double square = 0, dot = 0;
        for (size_t i = 0; i < n; i++) square += x[i] * x[i];
        double norm = sqrt(square), d = norm > eps ? norm : eps;
        for (size_t i = 0; i < n; i++) y[i] = x[i] / d;
        if (!dy) continue;
        for (size_t i = 0; i < n; i++) dot += dy[r * n + i] * x[i];
        for (size_t i = 0; i < n; i++)
            dx[r * n + i] = dy[r * n + i] / d - (norm >= eps && norm > 0 ? dot * x[i] / (d * d * norm) : 0);
    }
}
