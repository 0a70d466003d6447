/* method_ofd.c - overhaul of feature distillation.
 * SPDX-License-Identifier: MIT */
#include "method_ref.h"

/* The mean of a normal number of mean m, deviation |g|, where it is negative. */
static double margin(double g, double m)
{
    double s = fabs(g), share = erfc(m / s / sqrt(2)) / 2;
    return share > .001 ? m - s * exp(-m / s * (m / s) / 2) / sqrt(2 * acos(-1)) / share : -3 * s;
}

static double loss(const method_in *x)
{
    double total = 0;
    for (size_t k = 0; k < x->taps; k++) {
        const method_tap *s = &x->s[k], *t = &x->t[k];
        const float *g = x->feature->teacher_bn_weight[k], *m = x->feature->teacher_bn_bias[k];
        char conv[16], norm[16];
        snprintf(conv, sizeof conv, "s%zu.0", k), snprintf(norm, sizeof norm, "s%zu.1", k);
        size_t h, w, c = t->size[2];
        double *y = mr_adapter_conv(x, conv, s->data, x->rows, s->size[0], s->size[1], 1, 0, &h, &w), sum = 0;
        mr_adapter_norm(x, norm, y, x->rows * h * w, 1e-5);
        const double *target = mr_adaptive_pool(t->data, x->rows, t->size[0], t->size[1], c, h, w);
        for (size_t i = 0; i < x->rows * h * w * c; i++) {
            double to = fmax(target[i], margin((double)g[i % c], (double)m[i % c]));
            if (y[i] > to || target[i] > 0) sum += (y[i] - to) * (y[i] - to);
        }
        total += sum / (double)x->rows * ldexp(1, (int)k - (int)x->taps + 1);
    }
    return total;
}

static double nothing(const method_in *x, const char *name) { return strcmp(name, "state") != 0 && x != NULL; }

const method_feature method_feature_OFD = {
    .loss = loss, .adapter = nothing,
    .kind = METHOD_MAPS, .taps_high = 2, .needs = METHOD_BN,
    .holds = METHOD_ROW_ORDER,
    .but = METHOD_KINKS | METHOD_NO_TEMPERATURE,
};
